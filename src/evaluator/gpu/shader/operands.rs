//! What an expression or statement of naga's IR refers to, for every kind that a compute shader may have here. Other kinds are refused, so that
//! a new version of naga cannot bring in something that nobody judged.

use naga::{AtomicFunction, Expression, GatherMode, Handle, Statement};

use crate::error::Refusal;

type At = Handle<Expression>;

/// Puts another handle in the place of every operand of an expression.
pub(super) fn expression(expression: &mut Expression, change: &mut impl FnMut(At) -> At) -> Result<(), Refusal> {
    use Expression as E;

    let mut at = |operand: &mut At| *operand = change(*operand);
    match expression {
        E::Literal(_)
        | E::Constant(_)
        | E::ZeroValue(_)
        | E::FunctionArgument(_)
        | E::GlobalVariable(_)
        | E::LocalVariable(_)
        | E::CallResult(_)
        | E::AtomicResult { .. }
        | E::WorkGroupUniformLoadResult { .. }
        | E::SubgroupBallotResult
        | E::SubgroupOperationResult { .. } => {}
        E::Compose { components, .. } => components.iter_mut().for_each(at),
        E::Access { base, index } => {
            at(base);
            at(index);
        }
        E::AccessIndex { base: one, .. }
        | E::Splat { value: one, .. }
        | E::Swizzle { vector: one, .. }
        | E::Load { pointer: one }
        | E::Unary { expr: one, .. }
        | E::Relational { argument: one, .. }
        | E::As { expr: one, .. }
        | E::ArrayLength(one) => at(one),
        E::Binary { left, right, .. } => {
            at(left);
            at(right);
        }
        E::Select { condition, accept, reject } => {
            at(condition);
            at(accept);
            at(reject);
        }
        E::Math { arg, arg1, arg2, arg3, .. } => {
            at(arg);
            [arg1, arg2, arg3].into_iter().flatten().for_each(at);
        }
        _ => {
            return Err(Refusal::Shader(format!(
                "it has an expression that compute programs may not have: {}",
                kind(expression)
            )));
        }
    }
    Ok(())
}

/// Puts another handle in the place of every operand of a statement, `Emit` and the blocks within it left out.
pub(super) fn statement(statement: &mut Statement, change: &mut impl FnMut(At) -> At) -> Result<(), Refusal> {
    use Statement as S;

    let mut at = |operand: &mut At| *operand = change(*operand);
    match statement {
        S::Emit(_) | S::Block(_) | S::Break | S::Continue | S::ControlBarrier(_) | S::MemoryBarrier(_) => {}
        S::If { condition: one, .. } | S::Switch { selector: one, .. } => at(one),
        S::Loop { break_if: maybe, .. } | S::Return { value: maybe } => maybe.iter_mut().for_each(at),
        S::Store { pointer, value } => {
            at(pointer);
            at(value);
        }
        S::Atomic { pointer, fun, value, result } => {
            at(pointer);
            at(value);
            if let AtomicFunction::Exchange { compare: Some(compare) } = fun {
                at(compare);
            }
            result.iter_mut().for_each(at);
        }
        S::WorkGroupUniformLoad { pointer, result } => {
            at(pointer);
            at(result);
        }
        S::Call { arguments, result, .. } => arguments.iter_mut().chain(result).for_each(at),
        S::SubgroupBallot { result, predicate } => {
            at(result);
            predicate.iter_mut().for_each(at);
        }
        S::SubgroupGather { mode, argument, result } => {
            use GatherMode as G;
            match mode {
                G::BroadcastFirst | G::QuadSwap(_) => {}
                G::Broadcast(one)
                | G::Shuffle(one)
                | G::ShuffleDown(one)
                | G::ShuffleUp(one)
                | G::ShuffleXor(one)
                | G::QuadBroadcast(one) => {
                    at(one);
                }
            }
            at(argument);
            at(result);
        }
        S::SubgroupCollectiveOperation { argument, result, .. } => {
            at(argument);
            at(result);
        }
        _ => {
            return Err(Refusal::Shader(format!(
                "it has a statement that compute programs may not have: {}",
                kind(statement)
            )));
        }
    }
    Ok(())
}

/// Every statement of a block and of the blocks within, each before what is within it.
pub(super) fn walk(block: &naga::Block, see: &mut impl FnMut(&Statement)) {
    for statement in block {
        see(statement);
        match statement {
            Statement::Block(block) => walk(block, see),
            Statement::If { accept, reject, .. } => {
                walk(accept, see);
                walk(reject, see);
            }
            Statement::Switch { cases, .. } => cases.iter().for_each(|case| walk(&case.body, see)),
            Statement::Loop { body, continuing, .. } => {
                walk(body, see);
                walk(continuing, see);
            }
            _ => {}
        }
    }
}

/// The name of a variant.
fn kind(value: &impl std::fmt::Debug) -> String {
    let text = format!("{value:?}");
    text.split([' ', '(', '{']).next().unwrap_or_default().to_owned()
}
