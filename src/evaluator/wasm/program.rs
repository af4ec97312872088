//! A compiled program and its entry points.
//!
//! Three kinds of guests, told apart by what they export: a command (`_start`), a filter (`memory`, `alloc`, `run`), and any function of
//! numbers, called by its name. Knows nothing of how a guest is run.

use wasmtime::{ExternType, FuncType, InstancePre, ValType};

use super::admit::Shape;
use super::limits::NAMED_EXPORTS;
use super::store::State;
use super::wasi;
use crate::error::Refusal;

/// A program that is ready to be instantiated.
pub(super) struct Program {
    pub(super) pre: InstancePre<State>,
    pub(super) shape: Shape,
}

/// Where a program is entered.
#[derive(Debug)]
pub(super) enum Entry {
    /// `_start` of a WASI preview 1 command.
    Command,
    /// `run` of the alloc/run ABI.
    Filter,
    /// One call of an export with these numbers.
    Call(String, FuncType),
}

impl Program {
    /// How much machine code it holds on to.
    pub(super) fn compiled_bytes(&self) -> u64 {
        let image = self.pre.module().image_range();
        (image.end as usize).saturating_sub(image.start as usize) as u64
    }

    /// The entry that a request names; an empty name means the program's own.
    pub(super) fn entry(&self, name: &str) -> Result<Entry, Refusal> {
        let module = self.pre.module();
        let refuse = |why: String| Refusal::Entry { entry: name.to_owned(), why };
        let function = |name: &str| module.get_export(name).and_then(|export| export.func().cloned());
        if name.is_empty() && self.is_filter() {
            return Ok(Entry::Filter);
        }
        let name = if name.is_empty() { wasi::START } else { name };
        let Some(ty) = function(name) else { return Err(refuse(self.exported())) };
        if name == wasi::START {
            let nothing = ty.params().len() == 0 && ty.results().len() == 0;
            return if nothing { Ok(Entry::Command) } else { Err(refuse(format!("it is {ty}, not (func)"))) };
        }
        if self.shape.imports {
            return Err(refuse(format!("a module with imports is a command and starts at `{}`", wasi::START)));
        }
        if !ty.params().chain(ty.results()).all(|value| is_number(&value)) {
            return Err(refuse(format!("it is {ty}, not a function of numbers")));
        }
        Ok(Entry::Call(name.to_owned(), ty))
    }

    /// Whether it follows the alloc/run ABI and is no command.
    fn is_filter(&self) -> bool {
        let module = self.pre.module();
        let is = |name: &str, parameters: usize, result: &ValType| {
            module.get_export(name).is_some_and(|export| match export {
                ExternType::Func(ty) => {
                    ty.params().len() == parameters
                        && ty.params().all(|ty| ty.is_i32())
                        && ty.results().len() == 1
                        && ty.results().all(|ty| ValType::eq(&ty, result))
                }
                _ => false,
            })
        };
        let memory = module.get_export("memory").is_some_and(|export| export.memory().is_some());
        !self.shape.imports
            && module.get_export(wasi::START).is_none()
            && memory
            && is("alloc", 1, &ValType::I32)
            && is("run", 2, &ValType::I64)
    }

    fn exported(&self) -> String {
        let functions = self.pre.module().exports().filter(|export| export.ty().func().is_some());
        let mut names: Vec<_> = functions.map(|export| format!("`{}`", clip(export.name()))).collect();
        let more = names.len().saturating_sub(NAMED_EXPORTS);
        names.truncate(NAMED_EXPORTS);
        match (names.is_empty(), more) {
            (true, _) => "the module exports no function".to_owned(),
            (false, 0) => format!("the module exports {}", names.join(", ")),
            (false, more) => format!("the module exports {} and {more} more", names.join(", ")),
        }
    }
}

fn is_number(ty: &ValType) -> bool {
    matches!(ty, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64)
}

/// The beginning of a name that may be of any length.
fn clip(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
}
