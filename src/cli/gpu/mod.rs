//! GPU programs on the command line: from a `.wgsl` file with `--bind`, or from a manifest, to a request; and `evalmesh devices`.

mod bind;
pub(super) mod devices;
mod manifest;

use std::path::Path;
use std::str::FromStr;

use super::{Failure, exit};
use crate::error::{EvalError, Refusal};
use crate::evaluator::gpu::{Binding, Devices, Dispatch, GpuProgram, Groups, Kind, Size, Stage};
use crate::request::{Class, Name, RelPath, Request};

/// The heading of its options in the help; given to each, or whatever follows them on a command would be under it too.
const GPU: &str = "GPU programs";

/// How a GPU program is asked.
#[derive(Debug, clap::Args)]
pub(super) struct GpuArgs {
    /// A buffer of a `.wgsl` program: `[GROUP.]BINDING[:NAME]=KIND:VALUE` where KIND is `in` or `inout` with a file, `out` or `scratch` with a
    /// size or the name of a buffer of the same size, or `u32`, `i32` or `f32` with numbers. May be repeated.
    #[arg(help_heading = GPU, long = "bind", value_name = "BINDING")]
    binds: Vec<String>,
    /// Workgroups in x, y and z, as in `16,16` [default: an invocation for every four bytes of the first output].
    #[arg(help_heading = GPU, long, value_name = "X[,Y[,Z]]")]
    groups: Option<String>,
    /// How reproducible the answer must be: `portable`, `device` for the best device of the node that is asked, or the name of a class as
    /// `evalmesh devices` shows it [default: what the manifest says, else portable].
    #[arg(help_heading = GPU, long, value_name = "CLASS")]
    class: Option<WantedClass>,
    /// Where the answer of this device class is not held, take a held one of another class that is known here.
    #[arg(help_heading = GPU, long)]
    pub(super) approximate: bool,
}

/// A class as people ask for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum WantedClass {
    Portable,
    /// That of the best device of whoever is asked.
    BestDevice,
    Device(Name),
}

impl FromStr for WantedClass {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "portable" => Ok(Self::Portable),
            "device" => Ok(Self::BestDevice),
            name if name.starts_with("gpu:") => name.parse().map(Self::Device).map_err(|error| format!("{error}")),
            _ => Err("say `portable`, `device`, or the name of a class, which begins with `gpu:`".to_owned()),
        }
    }
}

/// Whether a file is asked as a GPU program.
pub(super) fn is_gpu(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "wgsl" || ending == "toml")
}

/// A buffer as it was written down, with its bytes if it is an input.
struct Bound {
    binding: Binding,
    bytes: Option<Vec<u8>>,
    /// The name of the buffer that it is as large as.
    like: Option<String>,
}

/// The request of a program file, and the class that it is asked for in; inputs that it does not name come later.
pub(super) fn request(path: &Path, entry: &str, args: &GpuArgs) -> Result<(Request, WantedClass), Failure> {
    let (program, inputs, class) = if path.extension().is_some_and(|ending| ending == "toml") {
        if !args.binds.is_empty() || args.groups.is_some() || !entry.is_empty() {
            return Err(usage("a manifest says all of --bind, --groups and --entry itself"));
        }
        manifest::read(path)?
    } else {
        let bound = args.binds.iter().map(|text| bind::parse(text)).collect::<Result<Vec<_>, Failure>>()?;
        let (bindings, inputs) = bindings(bound)?;
        let groups = match &args.groups {
            Some(text) => Groups::Fixed(bind::groups(text)?),
            None => cover_output(&bindings)?,
        };
        let entry = if entry.is_empty() { "main" } else { entry }.to_owned();
        let stages = vec![Stage { repeat: 1, dispatches: vec![Dispatch { entry, groups }] }];
        (GpuProgram { shader: text(path)?, bindings, stages }, inputs, WantedClass::Portable)
    };
    let mut request = program.request()?;
    for (name, bytes) in inputs {
        request = fill(request, name.as_str(), bytes)?;
    }
    let class = args.class.clone().unwrap_or(class);
    match &class {
        WantedClass::Portable | WantedClass::BestDevice => {}
        WantedClass::Device(name) => request.class = Class::Device(name.clone()),
    }
    request.options.approximate = args.approximate;
    Ok((request, class))
}

/// Asks in the class of the best of these devices.
pub(super) fn on_best(request: Request, devices: &Devices) -> Result<Request, Failure> {
    let none = || EvalError::from(Refusal::NoDevice { wanted: "any device".to_owned(), why: devices.summary() });
    let class = devices.best_class().cloned().ok_or_else(none)?;
    Ok(request.class(Class::Device(class)))
}

/// Gives a request an input.
fn fill(request: Request, name: &str, bytes: Vec<u8>) -> Result<Request, Failure> {
    if name == "stdin" {
        return Ok(request.stdin(bytes));
    }
    request.file(name, bytes).map_err(|error| EvalError::from(error).into())
}

type Inputs = Vec<(RelPath, Vec<u8>)>;

/// Puts sizes that were named in place, and tells inputs from the rest.
fn bindings(bound: Vec<Bound>) -> Result<(Vec<Binding>, Inputs), Failure> {
    let names: Vec<_> = bound.iter().map(|one| one.binding.name.clone()).collect();
    let (mut bindings, mut inputs) = (Vec::new(), Vec::new());
    for Bound { mut binding, bytes, like } in bound {
        if let Some(like) = like {
            let other = names.iter().position(|name| name.as_str() == like);
            let place = other.and_then(|place| u32::try_from(place).ok());
            let place = place.ok_or_else(|| {
                usage(&format!("there is no buffer `{like}`, whose size `{}` has", binding.name.as_str()))
            })?;
            match &mut binding.kind {
                Kind::Output(Size::Of { binding, .. }) | Kind::Scratch(Size::Of { binding, .. }) => *binding = place,
                Kind::Output(_) | Kind::Scratch(_) | Kind::Input | Kind::InOut => {}
            }
        }
        inputs.extend(bytes.map(|bytes| (binding.name.clone(), bytes)));
        bindings.push(binding);
    }
    Ok((bindings, inputs))
}

fn cover_output(bindings: &[Binding]) -> Result<Groups, Failure> {
    let output = bindings.iter().position(Binding::is_output).and_then(|place| u32::try_from(place).ok());
    let binding = output.ok_or_else(|| usage("no buffer is an output: --bind 1=out:4096 makes one"))?;
    Ok(Groups::Cover { binding, stride: 4 })
}

fn text(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::unreadable(path, &error))
}

fn usage(message: &str) -> Failure {
    Failure::new(exit::USAGE, message, "docs/gpu.md has examples")
}
