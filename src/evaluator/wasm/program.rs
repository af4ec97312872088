//! A compiled program and its entry points.
//!
//! Guests are told apart by what they export: a command (`_start`), a function of bytes (`memory`, `alloc`, and one that takes a place and a
//! length), and any function of numbers, called by its name. Knows nothing of how a guest is run.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use wasmtime::{FuncType, InstancePre, Module, ModuleExport, ValType};

use super::admit::Shape;
#[cfg(feature = "component")]
use super::component;
use super::limits::NAMED_EXPORTS;
use super::store::State;
use super::wasi;
use crate::error::Refusal;

/// A program that is ready to be instantiated.
pub(super) struct Program {
    pub(super) pre: Ready,
    pub(super) shape: Shape,
    /// Entries that were found to be right: looking at types costs as much as making an instance. At most one for each export.
    entries: RwLock<BTreeMap<String, Arc<Entry>>>,
}

/// What was linked.
pub(super) enum Ready {
    /// A core module.
    Module(InstancePre<State>),
    /// A component.
    #[cfg(feature = "component")]
    Component(component::Ready),
}

/// Where a program is entered.
pub(super) enum Entry {
    /// The one export of our world.
    #[cfg(feature = "component")]
    Component,
    /// `_start` of a WASI preview 1 command.
    Command,
    /// A function of the alloc/run ABI.
    Bytes(BytesCall),
    /// One call of an export with these numbers.
    Call(String, FuncType),
}

/// A function that is given bytes, with the exports that a call of it takes: found once, since looking for them by name is a part of what a call costs.
pub(super) struct BytesCall {
    pub(super) entry: BytesEntry,
    pub(super) memory: ModuleExport,
    pub(super) alloc: ModuleExport,
    pub(super) function: ModuleExport,
}

/// A function that is given bytes. Which one a request means is part of its entry, and so of its id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BytesEntry {
    /// `run(ptr, len) -> i64`: bytes in, bytes out.
    Run,
    /// `filter(ptr, len) -> i32`: bytes in, a verdict out.
    Filter,
    /// `observe(ptr, len)`: bytes in, nothing out.
    Observe,
}

impl BytesEntry {
    /// The export, and its result.
    pub(super) fn export(self) -> (&'static str, Option<ValType>) {
        match self {
            Self::Run => ("run", Some(ValType::I64)),
            Self::Filter => ("filter", Some(ValType::I32)),
            Self::Observe => ("observe", None),
        }
    }

    /// What a request's entry names, where it names one of these.
    fn named(entry: &str) -> Option<Self> {
        match entry {
            SHAPE => Some(Self::Run),
            FILTER => Some(Self::Filter),
            OBSERVE => Some(Self::Observe),
            _ => None,
        }
    }
}

/// Entries of programs in slots; no linker makes exports of such names.
pub(in crate::evaluator) const SHAPE: &str = "slot:shape";
/// See [`SHAPE`].
pub(in crate::evaluator) const FILTER: &str = "slot:filter";
/// See [`SHAPE`].
pub(in crate::evaluator) const OBSERVE: &str = "slot:observe";

impl Program {
    pub(super) fn new(pre: Ready, shape: Shape) -> Self {
        Self { pre, shape, entries: RwLock::default() }
    }

    /// How much machine code it holds on to.
    pub(super) fn compiled_bytes(&self) -> u64 {
        match &self.pre {
            Ready::Module(pre) => {
                let image = pre.module().image_range();
                (image.end as usize).saturating_sub(image.start as usize) as u64
            }
            #[cfg(feature = "component")]
            Ready::Component(ready) => ready.compiled_bytes(),
        }
    }

    /// The entry that a request names; an empty name means the program's own.
    pub(super) fn entry(&self, name: &str) -> Result<Arc<Entry>, Refusal> {
        if let Some(entry) = self.entries.read().unwrap_or_else(PoisonError::into_inner).get(name) {
            return Ok(Arc::clone(entry));
        }
        let entry = Arc::new(self.find(name)?);
        self.entries.write().unwrap_or_else(PoisonError::into_inner).insert(name.to_owned(), Arc::clone(&entry));
        Ok(entry)
    }

    fn find(&self, name: &str) -> Result<Entry, Refusal> {
        let refuse = |why: String| Refusal::Entry { entry: name.to_owned(), why };
        let module = match &self.pre {
            Ready::Module(pre) => pre.module(),
            #[cfg(feature = "component")]
            Ready::Component(_) if name.is_empty() || name == component::EVALUATE => return Ok(Entry::Component),
            #[cfg(feature = "component")]
            Ready::Component(_) => return Err(refuse(format!("a component is entered at `{}`", component::EVALUATE))),
        };
        let function = |name: &str| module.get_export(name).and_then(|export| export.func().cloned());
        if let Some(entry) = BytesEntry::named(name) {
            return self.takes_bytes(module, entry).map(Entry::Bytes).map_err(refuse);
        }
        let is_command = module.get_export(wasi::START).is_some();
        if name.is_empty()
            && !is_command
            && let Ok(call) = self.takes_bytes(module, BytesEntry::Run)
        {
            return Ok(Entry::Bytes(call));
        }
        let name = if name.is_empty() { wasi::START } else { name };
        let Some(ty) = function(name) else { return Err(refuse(exported(module))) };
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

    /// Whether it has what a function of bytes needs, and if not, what is missing.
    fn takes_bytes(&self, module: &Module, entry: BytesEntry) -> Result<BytesCall, String> {
        let is = |name: &str, parameters: usize, result: Option<&ValType>| {
            let ty = module.get_export(name).and_then(|export| export.func().cloned());
            ty.is_some_and(|ty| {
                ty.params().len() == parameters
                    && ty.params().all(|ty| ty.is_i32())
                    && ty.results().len() == usize::from(result.is_some())
                    && ty.results().zip(result).all(|(ty, wanted)| ValType::eq(&ty, wanted))
            })
        };
        let (name, result) = entry.export();
        if self.shape.imports {
            return Err("a function of bytes is in a module without imports".to_owned());
        }
        if module.get_export("memory").is_none_or(|export| export.memory().is_none()) {
            return Err("it exports no memory as `memory`".to_owned());
        }
        if !is("alloc", 1, Some(&ValType::I32)) {
            return Err("it exports no `alloc: func (i32) -> i32`".to_owned());
        }
        if !is(name, 2, result.as_ref()) {
            let result = result.map_or_else(String::new, |ty| format!(" -> {ty}"));
            return Err(format!("it exports no `{name}: func (i32 i32){result}`"));
        }
        let export = |name: &str| module.get_export_index(name).ok_or_else(|| format!("it exports no `{name}`"));
        Ok(BytesCall { entry, memory: export("memory")?, alloc: export("alloc")?, function: export(name)? })
    }
}

/// Names what a module exports.
fn exported(module: &Module) -> String {
    let functions = module.exports().filter(|export| export.ty().func().is_some());
    let mut names: Vec<_> = functions.map(|export| format!("`{}`", clip(export.name()))).collect();
    let more = names.len().saturating_sub(NAMED_EXPORTS);
    names.truncate(NAMED_EXPORTS);
    match (names.is_empty(), more) {
        (true, _) => "the module exports no function".to_owned(),
        (false, 0) => format!("the module exports {}", names.join(", ")),
        (false, more) => format!("the module exports {} and {more} more", names.join(", ")),
    }
}

fn is_number(ty: &ValType) -> bool {
    matches!(ty, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64)
}

/// The beginning of a name that may be of any length.
fn clip(name: &str) -> &str {
    &name[..name.floor_char_boundary(64)]
}
