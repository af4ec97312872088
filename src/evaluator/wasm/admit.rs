//! The pre-scan: decides from the bytes alone whether a module may be compiled here.
//!
//! Compilation cannot be cancelled inside a process and can be made to cost a thousand times its input, so each shape that does is bounded
//! before the compiler sees it. The scan itself is linear in the module's size. Invariant: a module that passes is valid, has at most one
//! memory, and imports only functions of preview 1 and those that ask. Knows nothing of requests, entries or the compiler.

use std::mem;

use wasmparser::{
    BinaryReaderError, Encoding, FuncValidatorAllocations, Parser, Payload, TypeRef, ValidPayload, Validator,
    WasmFeatures,
};

use super::asking;
#[cfg(feature = "component")]
use super::component;
use super::engine::features;
use super::limits::{
    CODE_BYTES, COMPONENT_ITEMS, COMPONENT_TYPES, CORE_MODULES, EXPORTS, FUNCTIONS, GLOBALS, IMPORTS, INNER_COMPONENTS,
    MODULE_BYTES, MODULE_WEIGHT, SEGMENTS, TABLES, TYPE_VALUES, TYPES, WasmLimits,
};
use super::wasi;
use super::weigh::weigh;
use crate::error::Refusal;

/// Bytes of a page of linear memory.
pub(super) const PAGE: u64 = 65_536;

/// What the scan found out, for those that run the module.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Shape {
    /// How large the module itself lets its memory grow, in bytes.
    pub(super) memory_maximum: u64,
    /// Whether it imports anything.
    pub(super) imports: bool,
    /// Whether it can ask for other replies.
    pub(super) asks: bool,
    /// Whether it is a component.
    pub(super) component: bool,
}

impl Shape {
    /// What it is, as bits that are kept with compiled code.
    pub(super) fn bits(self) -> u8 {
        u8::from(self.imports) | u8::from(self.asks) << 1 | u8::from(self.component) << 2
    }

    /// The opposite of [`Self::bits`]; none for bits that mean nothing.
    pub(super) fn of(memory_maximum: u64, bits: u8) -> Option<Self> {
        let bit = |at: u8| bits >> at & 1 != 0;
        let is_known = bits < 8 && (cfg!(feature = "component") || !bit(2));
        is_known.then(|| Self { memory_maximum, imports: bit(0), asks: bit(1), component: bit(2) })
    }
}

/// Scans and validates a module.
pub(super) fn scan(bytes: &[u8], limits: &WasmLimits) -> Result<Shape, Refusal> {
    bounded("module size in bytes", bytes.len() as u64, MODULE_BYTES)?;
    if !bytes.starts_with(b"\0asm") {
        return Err(Refusal::Malformed("it does not begin with the wasm magic number".to_owned()));
    }
    let mut scan = Scan {
        limits,
        // Without a declared maximum a 32-bit memory ends at 4 GiB.
        shape: Shape { memory_maximum: 65_536 * PAGE, imports: false, asks: false, component: false },
        validator: Validator::new_with_features(features() | component_features(bytes)),
        allocations: FuncValidatorAllocations::default(),
        weight: 0,
        open: Vec::new(),
        parts: Parts::default(),
    };
    let mut parser = Parser::new(0);
    parser.set_features(features() | component_features(bytes));
    for payload in parser.parse_all(bytes) {
        scan.payload(&payload.map_err(malformed)?)?;
    }
    Ok(scan.shape)
}

struct Scan<'a> {
    limits: &'a WasmLimits,
    shape: Shape,
    validator: Validator,
    /// Reused from one function to the next.
    allocations: FuncValidatorAllocations,
    /// Of all functions so far.
    weight: u64,
    /// The modules and components that are being read, outermost first.
    open: Vec<Encoding>,
    parts: Parts,
}

/// What a component consists of, counted over all of it.
#[derive(Default)]
struct Parts {
    modules: u64,
    components: u64,
    types: u64,
    functions: u64,
    tables: u64,
    items: u64,
}

/// Whether these bytes begin like a component.
pub(super) fn is_component(bytes: &[u8]) -> bool {
    bytes.get(4..8) == Some(&[0x0d, 0, 1, 0])
}

/// What components need beyond the proposals of modules.
fn component_features(bytes: &[u8]) -> WasmFeatures {
    let wanted = cfg!(feature = "component") && is_component(bytes);
    if wanted { WasmFeatures::COMPONENT_MODEL } else { WasmFeatures::empty() }
}

impl Scan<'_> {
    fn payload(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        self.sizes(payload)?;
        if let ValidPayload::Func(function, body) = self.validator.payload(payload).map_err(malformed)? {
            let validator = function.into_validator(mem::take(&mut self.allocations));
            let (weight, allocations) = weigh(validator, &body)?;
            self.allocations = allocations;
            self.weight += weight;
            bounded("blocks of all functions times their values", self.weight, MODULE_WEIGHT)?;
        }
        Ok(())
    }

    /// What can be refused before the validator spends time or memory on a section.
    fn sizes(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        match payload {
            Payload::Version { encoding, .. } => {
                self.open.push(*encoding);
                self.begin(*encoding)?;
            }
            Payload::End(_) => drop(self.open.pop()),
            Payload::TypeSection(types) => {
                bounded("number of types", types.count().into(), TYPES)?;
                for ty in types.clone().into_iter_err_on_gc_types() {
                    let ty = ty.map_err(malformed)?;
                    bounded("parameters of a function type", ty.params().len() as u64, TYPE_VALUES)?;
                    bounded("results of a function type", ty.results().len() as u64, TYPE_VALUES)?;
                }
            }
            Payload::ImportSection(imports) => {
                bounded("number of imports", imports.count().into(), IMPORTS)?;
                if self.shape.component {
                    // Given by the component around it, whose own imports are looked at.
                    return Ok(());
                }
                self.shape.imports = imports.count() > 0;
                for import in imports.clone().into_imports() {
                    let import = import.map_err(malformed)?;
                    let asks = import.module == asking::MODULE && asking::is_offered(import.name);
                    self.shape.asks |= asks;
                    let known = asks || import.module == wasi::MODULE && wasi::is_offered(import.name);
                    if !known || !matches!(import.ty, TypeRef::Func(_)) {
                        let (module, name) = (import.module.to_owned(), import.name.to_owned());
                        return Err(Refusal::Import { module, name });
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                self.parts.functions += u64::from(functions.count());
                bounded("number of functions", self.parts.functions, FUNCTIONS)?;
            }
            Payload::TableSection(tables) => {
                self.parts.tables += u64::from(tables.count());
                bounded("number of tables", self.parts.tables, TABLES.into())?;
                let sizes = tables.clone().into_iter().map(|table| Ok(table?.ty.initial));
                let elements = sizes.sum::<Result<u64, BinaryReaderError>>().map_err(malformed)?;
                bounded("initial table elements", elements, self.limits.table_elements)?;
            }
            Payload::MemorySection(memories) => {
                for memory in memories.clone() {
                    let memory = memory.map_err(malformed)?;
                    bounded("initial memory in bytes", memory.initial.saturating_mul(PAGE), self.limits.memory)?;
                    if let Some(maximum) = memory.maximum {
                        self.shape.memory_maximum = maximum.saturating_mul(PAGE);
                    }
                }
            }
            Payload::GlobalSection(globals) => bounded("number of globals", globals.count().into(), GLOBALS)?,
            Payload::ExportSection(exports) => bounded("number of exports", exports.count().into(), EXPORTS)?,
            Payload::ElementSection(elements) => {
                bounded("number of element segments", elements.count().into(), SEGMENTS)?;
            }
            Payload::DataSection(data) => bounded("number of data segments", data.count().into(), SEGMENTS)?,
            Payload::CodeSectionStart { size, .. } => bounded("code size in bytes", (*size).into(), CODE_BYTES)?,
            _ => self.component_sizes(payload)?,
        }
        Ok(())
    }

    fn begin(&mut self, encoding: Encoding) -> Result<(), Refusal> {
        match (encoding, self.open.len()) {
            (Encoding::Component, _) if cfg!(not(feature = "component")) => {
                let why = "it is a component; this build runs core modules (it lacks the feature `component`)";
                return Err(Refusal::Malformed(why.to_owned()));
            }
            (Encoding::Component, 1) => self.shape = Shape { imports: true, component: true, ..self.shape },
            (Encoding::Component, _) => self.parts.components += 1,
            (Encoding::Module, _) => self.parts.modules += 1,
        }
        bounded("modules of a component", self.parts.modules, CORE_MODULES)?;
        bounded("components within a component", self.parts.components, INNER_COMPONENTS)
    }

    /// The sections that only components have.
    fn component_sizes(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        let items = match payload {
            Payload::ComponentImportSection(imports) => {
                if self.open.len() == 1 {
                    for import in imports.clone() {
                        self.component_import(&import.map_err(malformed)?)?;
                    }
                }
                imports.count()
            }
            Payload::ComponentTypeSection(types) => {
                self.parts.types += u64::from(types.count());
                bounded("number of types", self.parts.types, COMPONENT_TYPES)?;
                types.count()
            }
            Payload::CoreTypeSection(types) => types.count(),
            Payload::InstanceSection(instances) => instances.count(),
            Payload::ComponentInstanceSection(instances) => instances.count(),
            Payload::ComponentAliasSection(aliases) => aliases.count(),
            Payload::ComponentCanonicalSection(functions) => functions.count(),
            Payload::ComponentExportSection(exports) => exports.count(),
            _ => 0,
        };
        self.parts.items += u64::from(items);
        bounded("items of a component", self.parts.items, COMPONENT_ITEMS)
    }

    #[cfg(feature = "component")]
    fn component_import(&mut self, import: &wasmparser::ComponentImport<'_>) -> Result<(), Refusal> {
        let name = import.name.name;
        if matches!(import.ty, wasmparser::ComponentTypeRef::Type(_)) {
            // A name for a type; nothing is wanted of the host.
            return Ok(());
        }
        if !component::is_offered(name) {
            let (module, name) = name.split_once('/').unwrap_or(("", name));
            return Err(Refusal::Import { module: module.to_owned(), name: name.to_owned() });
        }
        self.shape.asks |= name == component::FABRIC;
        Ok(())
    }

    #[cfg(not(feature = "component"))]
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "one signature for both builds")]
    fn component_import(&mut self, _: &wasmparser::ComponentImport<'_>) -> Result<(), Refusal> {
        Ok(())
    }
}

pub(super) fn bounded(rule: &str, found: u64, bound: u64) -> Result<(), Refusal> {
    if found > bound { Err(Refusal::TooLarge { rule: rule.to_owned(), found, bound }) } else { Ok(()) }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
pub(super) fn malformed(error: BinaryReaderError) -> Refusal {
    Refusal::Malformed(error.to_string())
}
