//! The dry run of admission: what a file is, what it wants and offers, what it would need, and whether it would be admitted.
//!
//! Nothing is compiled, registered or run. Invariant: the verdict is the scan's own, so what is admitted here is admitted by a node with the
//! same limits. What is gathered before a module turns out to be malformed is still shown.

use std::fmt;

use serde::Serialize;
use wasmparser::{
    BinaryReaderError, ComponentTypeRef, CompositeInnerType, Encoding, ExternalKind, FuncType, KnownCustom, Name,
    Parser, Payload, TypeRef, ValType,
};

use super::admit;
use super::limits::{SHOWN, WasmLimits};
use super::wasi;
use crate::error::Refusal;
use crate::id::Digest;

/// What is known about a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Inspection {
    /// Names the bytes.
    #[serde(serialize_with = "as_text")]
    pub digest: Digest,
    /// How many there are.
    pub bytes: u64,
    /// What it is.
    pub kind: GuestKind,
    /// What it wants from its host, as `module::name` and type.
    pub imports: Vec<Item>,
    /// What it offers.
    pub exports: Vec<Item>,
    /// What its makers wrote into it: the module's name, the tools that made it.
    pub metadata: Vec<Item>,
    /// What running it would need.
    pub needs: Needs,
    /// Why it is not admitted, if it is not.
    pub refused: Option<Refusal>,
}

/// What a guest is, told from its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestKind {
    /// A WASI preview 1 program with `_start`.
    Command,
    /// A module with `memory`, `alloc` and `run`.
    Filter,
    /// A module without imports whose exports are called with numbers.
    PlainExports,
    /// A module with nothing that could be called.
    Library,
    /// A component.
    Component,
    /// No WebAssembly at all.
    Unknown,
}

impl fmt::Display for GuestKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Command => "WASI preview 1 command",
            Self::Filter => "alloc/run filter",
            Self::PlainExports => "module with plain exports",
            Self::Library => "module without an entry",
            Self::Component => "component",
            Self::Unknown => "not WebAssembly",
        })
    }
}

/// A name, and what is behind it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Item {
    /// The name.
    pub name: String,
    /// Its type or value.
    pub what: String,
}

/// What running a module needs, as far as its bytes tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// Bytes of memory at its start.
    pub memory: u64,
    /// Bytes that it lets its memory grow to; absent means no bound of its own.
    pub memory_maximum: Option<u64>,
    /// Table elements at its start.
    pub table_elements: u64,
    /// Functions of its own.
    pub functions: u64,
    /// Bytes of code.
    pub code: u64,
    /// Bytes of data segments.
    pub data: u64,
}

/// Inspects a file as a node with these limits would.
#[must_use]
pub fn inspect(bytes: &[u8], limits: &WasmLimits) -> Inspection {
    let mut gathered = Gathered::default();
    // What is malformed is the verdict's to say.
    let _ = gathered.module(bytes);
    let refused = admit::scan(bytes, limits).err();
    let kind = gathered.kind(bytes);
    let Gathered { imports, exports, metadata, needs, .. } = gathered;
    Inspection {
        digest: Digest::of(bytes),
        bytes: bytes.len() as u64,
        kind,
        imports,
        exports,
        metadata,
        needs,
        refused,
    }
}

#[derive(Default)]
struct Gathered {
    component: bool,
    /// How many modules and components are open.
    depth: usize,
    types: Vec<Option<FuncType>>,
    /// The types of all functions, imported ones first.
    functions: Vec<u32>,
    imports: Vec<Item>,
    exports: Vec<Item>,
    metadata: Vec<Item>,
    needs: Needs,
    /// Exported functions of numbers alone.
    callable: usize,
}

impl Gathered {
    fn module(&mut self, bytes: &[u8]) -> Result<(), BinaryReaderError> {
        for payload in Parser::new(0).parse_all(bytes) {
            let payload = payload?;
            match &payload {
                Payload::Version { encoding, .. } => {
                    self.component |= *encoding == Encoding::Component;
                    self.depth += 1;
                }
                Payload::End(_) => {
                    self.depth -= 1;
                    // What follows, if anything, is a part of the component around it.
                    self.types.clear();
                    self.functions.clear();
                }
                _ => {}
            }
            if !self.component {
                self.payload(&payload)?;
            } else if self.depth == 1 {
                self.of_component(&payload)?;
            } else {
                self.needs(&payload)?;
            }
        }
        Ok(())
    }

    fn payload(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::TypeSection(types) => {
                for group in types.clone() {
                    for ty in group?.types() {
                        self.types.push(match &ty.composite_type.inner {
                            CompositeInnerType::Func(ty) => Some(ty.clone()),
                            _ => None,
                        });
                    }
                }
            }
            Payload::ImportSection(imports) => {
                for import in imports.clone().into_imports() {
                    let import = import?;
                    if let TypeRef::Func(ty) = import.ty {
                        self.functions.push(ty);
                    }
                    let what = match import.ty {
                        TypeRef::Func(ty) => self.signature(ty),
                        other => format!("{other:?}"),
                    };
                    push(&mut self.imports, format!("{}::{}", import.module, import.name), what);
                }
            }
            Payload::FunctionSection(functions) => {
                for ty in functions.clone() {
                    self.functions.push(ty?);
                }
            }
            Payload::ExportSection(exports) => {
                for export in exports.clone() {
                    let export = export?;
                    let what = match export.kind {
                        ExternalKind::Func => self.exported(export.index),
                        other => format!("{other:?}").to_lowercase(),
                    };
                    push(&mut self.exports, export.name.to_owned(), what);
                }
            }
            Payload::CustomSection(section) => self.custom(section.as_known())?,
            _ => {}
        }
        self.needs(payload)
    }

    /// What the host of a component sees of it.
    fn of_component(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::ComponentImportSection(imports) => {
                for import in imports.clone() {
                    let import = import?;
                    push(&mut self.imports, import.name.name.to_owned(), kind_of(&import.ty).to_owned());
                }
            }
            Payload::ComponentExportSection(exports) => {
                for export in exports.clone() {
                    let export = export?;
                    push(&mut self.exports, export.name.name.to_owned(), format!("{:?}", export.kind).to_lowercase());
                }
            }
            Payload::CustomSection(section) => self.custom(section.as_known())?,
            _ => {}
        }
        Ok(())
    }

    /// Adds up what running it needs; a component needs what its modules need together.
    fn needs(&mut self, payload: &Payload<'_>) -> Result<(), BinaryReaderError> {
        match payload {
            Payload::FunctionSection(functions) => self.needs.functions += u64::from(functions.count()),
            Payload::TableSection(tables) => {
                for table in tables.clone() {
                    self.needs.table_elements = self.needs.table_elements.saturating_add(table?.ty.initial);
                }
            }
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory?;
                    let initial = memory.initial.saturating_mul(admit::PAGE);
                    self.needs.memory = self.needs.memory.saturating_add(initial);
                    self.needs.memory_maximum = memory.maximum.map(|pages| pages.saturating_mul(admit::PAGE));
                }
            }
            Payload::CodeSectionStart { size, .. } => self.needs.code += u64::from(*size),
            Payload::DataSection(data) => self.needs.data += data.range().len() as u64,
            _ => {}
        }
        Ok(())
    }

    fn custom(&mut self, section: KnownCustom<'_>) -> Result<(), BinaryReaderError> {
        match section {
            KnownCustom::Name(names) => {
                for name in names {
                    if let Name::Module { name, .. } = name? {
                        push(&mut self.metadata, "name".to_owned(), name.to_owned());
                    }
                }
            }
            KnownCustom::Producers(fields) => {
                for field in fields {
                    let field = field?;
                    for value in field.values {
                        let value = value?;
                        push(&mut self.metadata, field.name.to_owned(), format!("{} {}", value.name, value.version));
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn exported(&mut self, function: u32) -> String {
        let ty = self.functions.get(function as usize).copied();
        let numbers = |ty: &FuncType| {
            ty.params()
                .iter()
                .chain(ty.results())
                .all(|value| matches!(value, ValType::I32 | ValType::I64 | ValType::F32 | ValType::F64))
        };
        let is_callable = ty.and_then(|ty| self.types.get(ty as usize)?.as_ref()).is_some_and(numbers);
        self.callable += usize::from(is_callable);
        ty.map_or_else(|| "func".to_owned(), |ty| self.signature(ty))
    }

    fn signature(&self, ty: u32) -> String {
        let Some(Some(ty)) = self.types.get(ty as usize) else { return "func".to_owned() };
        let list = |values: &[ValType]| values.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        match (ty.params(), ty.results()) {
            ([], []) => "func".to_owned(),
            (params, []) => format!("func ({})", list(params)),
            (params, results) => format!("func ({}) -> {}", list(params), list(results)),
        }
    }

    fn kind(&self, bytes: &[u8]) -> GuestKind {
        let exports = |name: &str, what: &str| self.exports.iter().any(|item| item.name == name && item.what == what);
        if !bytes.starts_with(b"\0asm") {
            GuestKind::Unknown
        } else if self.component {
            GuestKind::Component
        } else if exports(wasi::START, "func") {
            GuestKind::Command
        } else if !self.imports.is_empty() || self.callable == 0 {
            GuestKind::Library
        } else if exports("memory", "memory")
            && exports("alloc", "func (i32) -> i32")
            && exports("run", "func (i32 i32) -> i64")
        {
            GuestKind::Filter
        } else {
            GuestKind::PlainExports
        }
    }
}

/// What a component wants under a name.
fn kind_of(ty: &ComponentTypeRef) -> &'static str {
    match ty {
        ComponentTypeRef::Module(_) => "module",
        ComponentTypeRef::Func(_) => "func",
        ComponentTypeRef::Value(_) => "value",
        ComponentTypeRef::Type(_) => "type",
        ComponentTypeRef::Instance(_) => "interface",
        ComponentTypeRef::Component(_) => "component",
    }
}

/// Adds an item; names are clipped and the list has an end, since both are a stranger's to choose.
fn push(items: &mut Vec<Item>, mut name: String, mut what: String) {
    if items.len() < SHOWN {
        for text in [&mut name, &mut what] {
            text.truncate(text.floor_char_boundary(SHOWN));
        }
        items.push(Item { name, what });
    }
}

fn as_text<S: serde::Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(digest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(text: &str) -> Inspection {
        inspect(&wat::parse_str(text).unwrap(), &WasmLimits::default())
    }

    #[test]
    fn each_kind_is_recognised() {
        let filter = r#"(memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const 0))
            (func (export "run") (param i32 i32) (result i64) (i64.const 0))"#;
        let kinds = [
            (format!("(module {filter})"), GuestKind::Filter),
            (format!("(module {filter} (func (export \"_start\")))"), GuestKind::Command),
            ("(module (func (export \"f\") (param i32)))".to_owned(), GuestKind::PlainExports),
            ("(module (func (export \"f\") (param externref)))".to_owned(), GuestKind::Library),
            ("(module)".to_owned(), GuestKind::Library),
            ("(component)".to_owned(), GuestKind::Component),
        ];
        for (text, kind) in kinds {
            assert_eq!(look(&text).kind, kind, "{text}");
        }
        let text = inspect(b"#!/bin/sh", &WasmLimits::default());
        assert_eq!(text.kind, GuestKind::Unknown);
        assert!(matches!(text.refused, Some(Refusal::Malformed(_))));
    }

    #[test]
    fn it_says_what_a_guest_needs_and_why_it_is_refused() {
        let found = look(
            "(module $m (import \"env\" \"socket\" (func (param i32))) (memory 2 9) (table 7 funcref)
                (data (i32.const 0) \"abc\") (func (export \"f\") (param i64 f32) (result i32) (i32.const 1)))",
        );
        let item = |name: &str, what: &str| Item { name: name.to_owned(), what: what.to_owned() };
        assert_eq!(found.imports, [item("env::socket", "func (i32)")]);
        assert_eq!(found.exports, [item("f", "func (i64 f32) -> i32")]);
        assert_eq!(found.metadata, [item("name", "m")]);
        let Needs { memory, memory_maximum, table_elements, functions, .. } = found.needs;
        assert_eq!((memory, memory_maximum, table_elements, functions), (131_072, Some(9 << 16), 7, 1));
        let refusal = Refusal::Import { module: "env".to_owned(), name: "socket".to_owned() };
        assert_eq!(found.refused, Some(refusal));
        assert!(look("(module (memory 65536))").refused.is_some_and(|why| why.to_string().contains("memory")));
        assert_eq!(look("(module (func (export \"f\")))").refused, None);
    }

    #[test]
    fn damaged_files_are_shown_as_far_as_they_go() {
        let guest = include_bytes!("../../../examples/guests/wordfreq.wasm");
        let look = |len: usize| inspect(&guest[..len], &WasmLimits::default());
        for len in 0..600 {
            assert_eq!(look(len).bytes, len as u64, "whatever it is cut to, there is a report");
        }
        // From here on it is cut within its code or its data.
        for len in (guest.len() / 2..guest.len()).step_by(97) {
            assert!(look(len).refused.is_some(), "{len} bytes are no module");
            assert_eq!(look(len).kind, GuestKind::Command);
        }
        assert_eq!(inspect(guest, &WasmLimits::default()).refused, None);
    }
}
