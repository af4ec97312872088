//! The manifest of a GPU program: a small TOML file beside the shader. `docs/gpu.md` describes it.

use std::path::Path;

use serde::Deserialize;

use super::{Bound, Inputs, WantedClass, bindings, text, usage};
use crate::cli::{Failure, ask, exit};
use crate::evaluator::gpu::{Binding, Dispatch, GpuProgram, Groups, Kind, Size, Stage};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Manifest {
    shader: String,
    class: Option<String>,
    #[serde(rename = "binding")]
    bindings: Vec<Buffer>,
    #[serde(rename = "stage")]
    stages: Vec<Part>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Buffer {
    #[serde(default)]
    group: u32,
    binding: u32,
    name: String,
    kind: What,
    bytes: Option<u64>,
    like: Option<String>,
    times: Option<u32>,
    over: Option<u32>,
    file: Option<String>,
    u32: Option<Vec<u32>>,
    i32: Option<Vec<i32>>,
    f32: Option<Vec<f32>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
enum What {
    Input,
    Output,
    InOut,
    Scratch,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Part {
    repeat: Option<u32>,
    #[serde(rename = "dispatch")]
    dispatches: Vec<Step>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Step {
    entry: String,
    groups: Option<Vec<u32>>,
    cover: Option<String>,
    stride: Option<u32>,
}

/// Reads a manifest, its shader, and the inputs that it names.
pub(super) fn read(path: &Path) -> Result<(GpuProgram, Inputs, WantedClass), Failure> {
    let malformed = |why: String| {
        Failure::new(exit::INPUT, format!("{}: {why}", path.display()), "docs/gpu.md describes the manifest")
    };
    let manifest: Manifest = toml::from_str(&text(path)?).map_err(|error| malformed(error.message().to_owned()))?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let class = match manifest.class.as_deref() {
        None => WantedClass::Portable,
        Some(class) => class.parse().map_err(malformed)?,
    };
    let bound =
        manifest.bindings.into_iter().map(|buffer| buffer.bound(folder)).collect::<Result<Vec<_>, Failure>>()?;
    let (bindings, inputs) = bindings(bound)?;
    let stage = |part: Part| {
        let dispatches =
            part.dispatches.into_iter().map(|step| step.dispatch(&bindings)).collect::<Result<Vec<_>, Failure>>()?;
        Ok(Stage { repeat: part.repeat.unwrap_or(1), dispatches })
    };
    let stages = manifest.stages.into_iter().map(stage).collect::<Result<Vec<_>, Failure>>()?;
    let program = GpuProgram { shader: text(&folder.join(&manifest.shader))?, bindings: bindings.clone(), stages };
    Ok((program, inputs, class))
}

impl Buffer {
    fn bound(self, folder: &Path) -> Result<Bound, Failure> {
        let wrong = |why: &str| usage(&format!("binding `{}`: {why}", self.name));
        let mut bytes = Vec::new();
        if let Some(file) = &self.file {
            bytes.push(ask::read(&folder.join(file))?);
        }
        bytes.extend(
            self.u32.iter().map(|numbers| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()),
        );
        bytes.extend(
            self.i32.iter().map(|numbers| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()),
        );
        bytes.extend(
            self.f32.iter().map(|numbers| numbers.iter().flat_map(|number| number.to_le_bytes()).collect::<Vec<u8>>()),
        );
        let is_input = matches!(self.kind, What::Input | What::InOut);
        if bytes.len() > usize::from(is_input) {
            return Err(wrong("an input has one of file, u32, i32 and f32, and nothing else has any"));
        }
        let size = match (self.bytes, &self.like) {
            _ if is_input => Size::Bytes(0),
            (Some(bytes), None) => Size::Bytes(bytes),
            (None, Some(_)) => Size::Of { binding: 0, times: self.times.unwrap_or(1), over: self.over.unwrap_or(1) },
            _ => return Err(wrong("it has either `bytes` or `like`")),
        };
        let kind = match self.kind {
            What::Input => Kind::Input,
            What::InOut => Kind::InOut,
            What::Output => Kind::Output(size),
            What::Scratch => Kind::Scratch(size),
        };
        let name = self.name.parse().map_err(crate::error::EvalError::from)?;
        let binding = Binding { group: self.group, binding: self.binding, name, kind };
        Ok(Bound { binding, bytes: bytes.pop(), like: self.like.filter(|_| !is_input) })
    }
}

impl Step {
    fn dispatch(self, bindings: &[Binding]) -> Result<Dispatch, Failure> {
        let wrong = |why: &str| usage(&format!("dispatch of `{}`: {why}", self.entry));
        let groups = match (&self.groups, &self.cover) {
            (Some(counts), None) if (1..=3).contains(&counts.len()) => {
                let mut groups = [1; 3];
                groups[..counts.len()].copy_from_slice(counts);
                Groups::Fixed(groups)
            }
            (None, Some(name)) => {
                let place = bindings
                    .iter()
                    .position(|binding| binding.name.as_str() == name)
                    .and_then(|place| u32::try_from(place).ok());
                Groups::Cover {
                    binding: place.ok_or_else(|| wrong("it covers a buffer that is not there"))?,
                    stride: self.stride.unwrap_or(4),
                }
            }
            _ => return Err(wrong("it has either `groups`, one to three numbers, or `cover`")),
        };
        Ok(Dispatch { entry: self.entry, groups })
    }
}
