//! A GPU program as a value: a WGSL text, the buffers it works on, and what is dispatched in which order.
//!
//! Its canonical bytes are the code of a [`Request`]; inputs are the request's own, so they may be bytes, digests or the outputs of other
//! requests, and the same program with other inputs is compiled once. Invariant: what [`GpuProgram::decode`] accepts is within every bound of
//! `limits` and refers to nothing that is not there. Knows nothing of devices, and of WGSL only that it is text.

use serde::{Deserialize, Serialize};

use super::limits;
use crate::error::{EvalError, Refusal};
use crate::request::{Program, RelPath, Request};

/// Version byte of the canonical form.
const PROGRAM_V1: u8 = 1;

/// A WGSL compute program. The canonical form is append-only: fields are never reordered, removed or inserted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GpuProgram {
    /// The WGSL text.
    pub shader: String,
    /// Its buffers: one for every resource variable of the shader.
    pub bindings: Vec<Binding>,
    /// What runs, in this order. Each dispatch sees all that earlier ones wrote.
    pub stages: Vec<Stage>,
}

/// One buffer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Binding {
    /// The shader's `@group`.
    pub group: u32,
    /// The shader's `@binding`.
    pub binding: u32,
    /// What inputs and outputs call it: an input is the request's file of this name, an output the reply's. `stdin` and `stdout` mean those.
    pub name: RelPath,
    /// Where its bytes come from and go to.
    pub kind: Kind,
}

/// Where the bytes of a buffer come from and go to. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Filled from an input, padded with zeros to a multiple of four bytes.
    Input,
    /// Zeros at first; an output of the reply.
    Output(Size),
    /// Filled from an input as `Input` is; an output of the reply.
    InOut,
    /// Zeros at first; seen by nobody else.
    Scratch(Size),
}

/// How large a buffer is. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Size {
    /// So many bytes.
    Bytes(u64),
    /// As many as another buffer has, times `times`, divided by `over`, rounded up to a multiple of four.
    Of {
        /// The place of the other buffer in the list; it is an input or of fixed size.
        binding: u32,
        /// The factor.
        times: u32,
        /// The divisor.
        over: u32,
    },
}

/// Dispatches that are repeated together.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stage {
    /// How often; at least once.
    pub repeat: u32,
    /// What, in this order.
    pub dispatches: Vec<Dispatch>,
}

/// One dispatch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispatch {
    /// The shader's entry point.
    pub entry: String,
    /// How many workgroups.
    pub groups: Groups,
}

/// How many workgroups run. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Groups {
    /// So many in x, y and z.
    Fixed([u32; 3]),
    /// As many in x as give every `stride` bytes of a buffer an invocation.
    Cover {
        /// The place of the buffer in the list.
        binding: u32,
        /// Bytes of one element.
        stride: u32,
    },
}

impl GpuProgram {
    /// A request for this program's outputs, without inputs yet. It asks for `Portable` until its class says otherwise.
    pub fn request(&self) -> Result<Request, EvalError> {
        Ok(Request::new(Program::gpu(self.encode()?)))
    }

    /// The canonical bytes: a version byte, then the postcard form.
    pub fn encode(&self) -> Result<Vec<u8>, EvalError> {
        self.check()?;
        // Room for what most programs have beside their shader: to grow a buffer step by step costs more than to fill it.
        let mut bytes = Vec::with_capacity(self.shader.len() + 256);
        bytes.push(PROGRAM_V1);
        postcard::to_extend(self, bytes).map_err(|error| EvalError::Failed(error.to_string()))
    }

    /// The program that these bytes are the canonical form of.
    pub fn decode(bytes: &[u8]) -> Result<Self, EvalError> {
        let malformed = |why: &str| Refusal::Shader(format!("not a GPU program: {why}"));
        bound("bytes of the program", bytes.len(), limits::PROGRAM_BYTES)?;
        let (&version, body) = bytes.split_first().ok_or_else(|| malformed("it is empty"))?;
        if version != PROGRAM_V1 {
            return Err(malformed(&format!("version {version} of its form is not known here")).into());
        }
        let (program, rest) = postcard::take_from_bytes::<Self>(body).map_err(|error| malformed(&error.to_string()))?;
        if !rest.is_empty() {
            return Err(malformed("bytes follow its end").into());
        }
        program.check()?;
        // One program must not have two forms: lengths may be written in more bytes than they need.
        if program.encode()? != bytes {
            return Err(malformed("not its shortest form").into());
        }
        Ok(program)
    }

    /// The bytes of every buffer, given those of the inputs by name.
    pub fn sizes(&self, input: impl Fn(&str) -> Option<u64>) -> Result<Vec<u64>, EvalError> {
        let refuse = |binding: &Binding, why: &str| Refusal::Binding {
            name: binding.name.as_str().to_owned(),
            why: why.to_owned(),
        };
        let own = |binding: &Binding| match &binding.kind {
            Kind::Input | Kind::InOut => {
                let len =
                    input(binding.name.as_str()).ok_or_else(|| refuse(binding, "the request has no such input"))?;
                let padded = len.checked_next_multiple_of(4).filter(|len| *len > 0);
                padded.map(Some).ok_or_else(|| refuse(binding, "an input may not be empty"))
            }
            Kind::Output(Size::Bytes(bytes)) | Kind::Scratch(Size::Bytes(bytes)) => Ok(Some(*bytes)),
            Kind::Output(Size::Of { .. }) | Kind::Scratch(Size::Of { .. }) => Ok(None),
        };
        let known = self.bindings.iter().map(own).collect::<Result<Vec<_>, Refusal>>()?;
        let size = |(binding, own): (&Binding, &Option<u64>)| match (own, &binding.kind) {
            (Some(bytes), _) => Ok(*bytes),
            (
                None,
                Kind::Output(Size::Of { binding: other, times, over })
                | Kind::Scratch(Size::Of { binding: other, times, over }),
            ) => {
                let other = known.get(*other as usize).copied().flatten().unwrap_or(0);
                let bytes = other.checked_mul(u64::from(*times)).map(|bytes| bytes.div_ceil(u64::from((*over).max(1))));
                let bytes = bytes.and_then(|bytes| bytes.checked_next_multiple_of(4)).filter(|bytes| *bytes > 0);
                bytes.ok_or_else(|| refuse(binding, "its size is zero or too large"))
            }
            (None, Kind::Input | Kind::InOut | Kind::Output(_) | Kind::Scratch(_)) => {
                Err(refuse(binding, "it has no size"))
            }
        };
        Ok(self.bindings.iter().zip(&known).map(size).collect::<Result<_, Refusal>>()?)
    }

    /// The entry points that are dispatched, each once.
    pub fn entries(&self) -> impl Iterator<Item = &str> {
        let dispatches =
            || self.stages.iter().flat_map(|stage| &stage.dispatches).map(|dispatch| dispatch.entry.as_str());
        dispatches()
            .enumerate()
            .filter(move |(at, entry)| !dispatches().take(*at).any(|earlier| earlier == *entry))
            .map(|(_, entry)| entry)
    }

    fn check(&self) -> Result<(), EvalError> {
        bound("bytes of the shader", self.shader.len(), limits::SHADER_BYTES)?;
        bound("bindings", self.bindings.len(), limits::BINDINGS)?;
        let written = self.stages.iter().map(|stage| stage.dispatches.len() + 1).sum::<usize>();
        bound("stages and dispatches", written, limits::STAGES)?;
        for (at, binding) in self.bindings.iter().enumerate() {
            self.check_binding(binding, &self.bindings[..at])?;
        }
        if !self.bindings.iter().any(Binding::is_output) {
            return Err(Refusal::Shader("it has no output".to_owned()).into());
        }
        if self.stages.iter().all(|stage| stage.dispatches.is_empty()) {
            return Err(Refusal::Shader("it dispatches nothing".to_owned()).into());
        }
        let mut dispatches = 0;
        for stage in &self.stages {
            if stage.repeat == 0 {
                return Err(Refusal::Shader("a stage is repeated no time".to_owned()).into());
            }
            dispatches += u64::from(stage.repeat) * stage.dispatches.len() as u64;
            stage.dispatches.iter().try_for_each(|dispatch| self.check_dispatch(dispatch))?;
        }
        bound("dispatches", dispatches, limits::DISPATCHES)
    }

    fn check_binding(&self, binding: &Binding, earlier: &[Binding]) -> Result<(), EvalError> {
        let name = binding.name.as_str();
        let refuse = |why: &str| Err(Refusal::Binding { name: name.to_owned(), why: why.to_owned() }.into());
        if binding.group >= limits::GROUPS || binding.binding >= limits::BINDING_NUMBER {
            return refuse(&format!(
                "groups go up to {}, bindings to {}",
                limits::GROUPS - 1,
                limits::BINDING_NUMBER - 1
            ));
        }
        if earlier.iter().any(|other| (other.group, other.binding) == (binding.group, binding.binding)) {
            return refuse("another one has its group and number");
        }
        if earlier.iter().any(|other| other.name == binding.name) {
            return refuse("another one has its name");
        }
        if (name == "stdin" && binding.is_output()) || (name == "stdout" && binding.is_input()) {
            return refuse("`stdin` is an input, `stdout` an output");
        }
        match &binding.kind {
            Kind::Input | Kind::InOut => Ok(()),
            Kind::Output(Size::Bytes(bytes)) | Kind::Scratch(Size::Bytes(bytes)) => {
                if *bytes == 0 || !bytes.is_multiple_of(4) {
                    refuse("its size is no positive multiple of four")
                } else {
                    Ok(())
                }
            }
            Kind::Output(Size::Of { binding: other, over, .. })
            | Kind::Scratch(Size::Of { binding: other, over, .. }) => {
                let sized = |other: &Binding| {
                    matches!(
                        other.kind,
                        Kind::Input | Kind::InOut | Kind::Output(Size::Bytes(_)) | Kind::Scratch(Size::Bytes(_))
                    )
                };
                let found = self.bindings.get(*other as usize).is_some_and(sized);
                if found && *over > 0 {
                    Ok(())
                } else {
                    refuse("its size is that of no input and no buffer of fixed size")
                }
            }
        }
    }

    fn check_dispatch(&self, dispatch: &Dispatch) -> Result<(), EvalError> {
        let refuse = |why: &str| Err(Refusal::Entry { entry: dispatch.entry.clone(), why: why.to_owned() }.into());
        match dispatch.groups {
            Groups::Fixed(groups) if groups.iter().any(|count| *count == 0 || *count > limits::WORKGROUPS) => {
                refuse(&format!("workgroups go from 1 to {} in each direction", limits::WORKGROUPS))
            }
            Groups::Cover { stride: 0, .. } => refuse("it covers elements of no size"),
            Groups::Cover { binding, .. } if binding as usize >= self.bindings.len() => {
                refuse("it covers a buffer that is not there")
            }
            Groups::Fixed(_) | Groups::Cover { .. } => Ok(()),
        }
    }
}

impl Binding {
    /// Whether the request fills it.
    #[must_use]
    pub fn is_input(&self) -> bool {
        matches!(self.kind, Kind::Input | Kind::InOut)
    }

    /// Whether the reply shows it.
    #[must_use]
    pub fn is_output(&self) -> bool {
        matches!(self.kind, Kind::Output(_) | Kind::InOut)
    }
}

fn bound(rule: &str, found: impl TryInto<u64>, bound: impl TryInto<u64>) -> Result<(), EvalError> {
    let (found, bound) = (found.try_into().unwrap_or(u64::MAX), bound.try_into().unwrap_or(u64::MAX));
    if found > bound { Err(Refusal::TooLarge { rule: rule.to_owned(), found, bound }.into()) } else { Ok(()) }
}
