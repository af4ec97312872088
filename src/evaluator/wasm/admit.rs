//! The pre-scan: decides from the bytes alone whether a module may be compiled here.
//!
//! Compilation cannot be cancelled inside a process and can be made to cost a thousand times its input, so each shape that does is bounded
//! before the compiler sees it. The scan itself is linear in the module's size. Invariant: a module that passes is valid, has at most one
//! memory, and imports only functions of preview 1. Knows nothing of requests, entries or the compiler.

use wasmparser::{
    BinaryReaderError, Encoding, FuncValidatorAllocations, FunctionBody, Operator, Parser, Payload, TypeRef,
    ValidPayload, Validator,
};

use super::engine::features;
use super::limits::{
    BODY_BYTES, CODE_BYTES, EXPORTS, FUNCTIONS, GLOBALS, IMPORTS, LOCALS, LOOP_NESTING, LOOPS_BY_LOCALS, MODULE_BYTES,
    NESTING, SEGMENTS, TABLES, TYPE_VALUES, TYPES, WasmLimits,
};
use super::wasi;
use crate::error::Refusal;

/// Bytes of a page of linear memory.
const PAGE: u64 = 65_536;

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
        parameters: Vec::new(),
        functions: Vec::new(),
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
    /// How many parameters each function type has.
    parameters: Vec<u64>,
    /// The types of the module's own functions that were not scanned yet, in reverse.
    functions: Vec<u32>,
}

impl Scan<'_> {
    fn payload(&mut self, payload: &Payload<'_>) -> Result<(), Refusal> {
        self.sizes(payload)?;
        if let ValidPayload::Func(function, body) = self.validator.payload(payload).map_err(malformed)? {
            let parameters = self.functions.pop().and_then(|ty| self.parameters.get(ty as usize).copied());
            check_body(&body, parameters.unwrap_or(0))?;
            function.into_validator(FuncValidatorAllocations::default()).validate(&body).map_err(malformed)?;
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
                    let (parameters, results) = (ty.params().len() as u64, ty.results().len() as u64);
                    bounded("parameters of a function type", parameters, TYPE_VALUES)?;
                    bounded("results of a function type", results, TYPE_VALUES)?;
                    self.parameters.push(parameters);
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
                self.functions = functions.clone().into_iter().collect::<Result<_, _>>().map_err(malformed)?;
                self.functions.reverse();
            }
            Payload::TableSection(tables) => {
                bounded("number of tables", tables.count().into(), TABLES)?;
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

/// Bounds what makes one function expensive to compile: its size, its locals, and how deep its blocks and loops nest.
fn check_body(body: &FunctionBody<'_>, parameters: u64) -> Result<(), Refusal> {
    bounded("size of a function in bytes", body.range().len() as u64, BODY_BYTES)?;
    let mut locals = parameters;
    for group in body.get_locals_reader().map_err(malformed)? {
        locals = locals.saturating_add(group.map_err(malformed)?.0.into());
        bounded("locals of a function", locals, LOCALS)?;
    }
    let mut operators = body.get_operators_reader().map_err(malformed)?;
    // Which of the open blocks are loops.
    let mut open: Vec<bool> = Vec::new();
    let (mut depth, mut loops) = (0_u64, 0_u64);
    while !operators.eof() {
        match operators.read().map_err(malformed)? {
            Operator::Loop { .. } => {
                open.push(true);
                depth += 1;
                loops += 1;
                bounded("depth of nested loops", depth, LOOP_NESTING)?;
                bounded("loops of a function times its locals", loops.saturating_mul(locals), LOOPS_BY_LOCALS)?;
            }
            Operator::Block { .. } | Operator::If { .. } => open.push(false),
            Operator::End => depth -= u64::from(open.pop().unwrap_or(false)),
            _ => continue,
        }
        bounded("depth of nested blocks", open.len() as u64, NESTING)?;
    }
    Ok(())
}

fn bounded(rule: &str, found: u64, bound: u64) -> Result<(), Refusal> {
    if found > bound { Err(Refusal::TooLarge { rule: rule.to_owned(), found, bound }) } else { Ok(()) }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn malformed(error: BinaryReaderError) -> Refusal {
    Refusal::Malformed(error.to_string())
}
