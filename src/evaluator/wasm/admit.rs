//! The pre-scan: decides from the bytes alone whether a module may be compiled here.
//!
//! Compilation cannot be cancelled inside a process and can be made to cost a thousand times its input, so each shape that does is bounded
//! before the compiler sees it. The scan itself is linear in the module's size. Invariant: a module that passes is valid, has at most one
//! memory, and imports only functions of preview 1. Knows nothing of requests, entries or the compiler.

use std::mem;

use wasmparser::{
    BinaryReaderError, Encoding, FuncValidatorAllocations, Parser, Payload, TypeRef, ValidPayload, Validator,
};

use super::engine::features;
use super::limits::{
    CODE_BYTES, EXPORTS, FUNCTIONS, GLOBALS, IMPORTS, MODULE_BYTES, MODULE_WEIGHT, SEGMENTS, TABLES, TYPE_VALUES,
    TYPES, WasmLimits,
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
        shape: Shape { memory_maximum: 65_536 * PAGE, imports: false },
        validator: Validator::new_with_features(features()),
        allocations: FuncValidatorAllocations::default(),
        weight: 0,
    };
    let mut parser = Parser::new(0);
    parser.set_features(features());
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
            Payload::Version { encoding: Encoding::Component, .. } => {
                return Err(Refusal::Malformed("it is a component; core modules are run here".to_owned()));
            }
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
                self.shape.imports = imports.count() > 0;
                for import in imports.clone().into_imports() {
                    let import = import.map_err(malformed)?;
                    let known = import.module == wasi::MODULE
                        && wasi::is_offered(import.name)
                        && matches!(import.ty, TypeRef::Func(_));
                    if !known {
                        let (module, name) = (import.module.to_owned(), import.name.to_owned());
                        return Err(Refusal::Import { module, name });
                    }
                }
            }
            Payload::FunctionSection(functions) => {
                bounded("number of functions", functions.count().into(), FUNCTIONS)?;
            }
            Payload::TableSection(tables) => {
                bounded("number of tables", tables.count().into(), TABLES.into())?;
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
            _ => {}
        }
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
