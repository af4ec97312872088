//! What a function costs to compile, estimated while it is validated.
//!
//! The compiler's time and memory grow with the number of pairs (basic block, value that may be alive there), and with the square of the number
//! of loops. A validated prefix tells all three: each branching instruction begins a block, and a value is a local or an operand on the
//! stack. What slips through is ended by the compile worker's own limits. Knows nothing of whole modules.

use wasmparser::{
    BlockType, FuncValidator, FuncValidatorAllocations, FunctionBody, Operator, OperatorsReader, ValidatorResources,
    WasmModuleResources,
};

use super::admit::{bounded, malformed};
use super::limits::{BODY_BYTES, FUNCTION_WEIGHT, LOCALS, LOOP_NESTING, LOOPS, NESTING};
use crate::error::Refusal;

/// Validates a function and returns its weight, with the allocations for the next one.
pub(super) fn weigh(
    mut validator: FuncValidator<ValidatorResources>,
    body: &FunctionBody<'_>,
) -> Result<(u64, FuncValidatorAllocations), Refusal> {
    bounded("size of a function in bytes", body.range().len() as u64, BODY_BYTES)?;
    let mut reader = body.get_binary_reader();
    for _ in 0..reader.read_var_u32().map_err(malformed)? {
        let at = reader.original_position();
        let (count, ty) = (reader.read().map_err(malformed)?, reader.read().map_err(malformed)?);
        validator.define_locals(at, count, ty).map_err(malformed)?;
        bounded("locals of a function", validator.len_locals().into(), LOCALS)?;
    }
    let mut operators = OperatorsReader::new(reader);
    let mut function = Function { weight: 0, open: Vec::new(), loops: 0, depth: 0 };
    while !operators.eof() {
        let (operator, at) = operators.read_with_offset().map_err(malformed)?;
        validator.op(at, &operator).map_err(malformed)?;
        function.step(&operator, &validator)?;
    }
    operators.finish().map_err(malformed)?;
    Ok((function.weight, validator.into_allocations()))
}

struct Function {
    weight: u64,
    /// Which of the open blocks are loops.
    open: Vec<bool>,
    /// How many of them are.
    depth: u64,
    /// Loops so far.
    loops: u64,
}

impl Function {
    fn step(&mut self, operator: &Operator<'_>, validator: &FuncValidator<ValidatorResources>) -> Result<(), Refusal> {
        let alive = u64::from(validator.len_locals()) + u64::from(validator.operand_stack_height());
        let weight = match operator {
            Operator::Loop { .. } => {
                self.open.push(true);
                self.depth += 1;
                self.loops += 1;
                alive
            }
            Operator::Block { .. } | Operator::If { .. } => {
                self.open.push(false);
                alive
            }
            Operator::End => {
                self.depth -= u64::from(self.open.pop().unwrap_or(false));
                return Ok(());
            }
            Operator::Else | Operator::BrIf { .. } => alive,
            Operator::BrTable { targets } => {
                alive + u64::from(targets.len()) * (1 + arity(validator, targets.default()))
            }
            Operator::Call { function_index } => {
                let resources = validator.resources();
                resources.type_index_of_function(*function_index).map_or(0, |ty| values(validator, ty))
            }
            Operator::CallIndirect { type_index, .. } => values(validator, *type_index),
            _ => return Ok(()),
        };
        self.weight = self.weight.saturating_add(weight);
        bounded("depth of nested blocks", self.open.len() as u64, NESTING)?;
        bounded("depth of nested loops", self.depth, LOOP_NESTING)?;
        bounded("loops of a function", self.loops, LOOPS)?;
        bounded("blocks of a function times its values", self.weight, FUNCTION_WEIGHT)
    }
}

/// Parameters and results of a function type.
fn values(validator: &FuncValidator<ValidatorResources>, ty: u32) -> u64 {
    let ty = validator.resources().sub_type_at(ty).and_then(|ty| match &ty.composite_type.inner {
        wasmparser::CompositeInnerType::Func(ty) => Some(ty),
        _ => None,
    });
    ty.map_or(0, |ty| (ty.params().len() + ty.results().len()) as u64)
}

/// An upper bound of the values that a branch to this label carries.
fn arity(validator: &FuncValidator<ValidatorResources>, label: u32) -> u64 {
    match validator.get_control_frame(label as usize).map(|frame| frame.block_type) {
        Some(BlockType::FuncType(ty)) => values(validator, ty),
        Some(BlockType::Type(_)) => 1,
        Some(BlockType::Empty) | None => 0,
    }
}
