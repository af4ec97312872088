//! The proof that a shader answers alike on every sound device: integers only, nothing that depends on how invocations are grouped or ordered.
//!
//! What cannot be proven from the IR is a race between plain loads and stores; the evaluator runs a portable program twice when it admits it, and
//! goes on comparing (`super::super::proofs`). Out-of-bounds indices, shifts by too much and endless loops are taken care of by `rewrite`, for
//! every shader. Integer division by zero and overflow have a meaning in WGSL that naga gives them on every device.

use std::collections::{BTreeMap, BTreeSet};

use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    AtomicFunction, Barrier, Binding, BuiltIn, Expression, Function, GlobalVariable, Handle, Literal, MathFunction,
    Module, RelationalFunction, ScalarKind, Statement, TypeInner,
};

use super::operands;

/// Why a shader is not portable, in words for its author.
type No = String;

/// Proves a shader portable.
pub(super) fn prove(module: &Module, info: &ModuleInfo) -> Result<(), No> {
    for (_, ty) in module.types.iter() {
        if is_float(&ty.inner) {
            return Err("it uses floating-point numbers".to_owned());
        }
        if let TypeInner::Struct { members, .. } = &ty.inner {
            members.iter().try_for_each(|member| builtin(member.binding.as_ref()))?;
        }
    }
    for (_, expression) in module.global_expressions.iter() {
        integer(expression)?;
    }
    let mut uses = BTreeMap::new();
    for (handle, function) in module.functions.iter() {
        let own = judge(function, module, &info[handle], &uses)?;
        uses.insert(handle.index(), own);
    }
    for (index, entry) in module.entry_points.iter().enumerate() {
        let own = judge(&entry.function, module, info.get_entry_point(index), &uses)?;
        own.settle(&entry.name, module)?;
    }
    Ok(())
}

/// How atomic variables are used by one function and all that it calls.
#[derive(Default, Clone)]
struct Atomics(BTreeMap<usize, (Handle<GlobalVariable>, BTreeSet<Op>)>);

/// What is done to an atomic variable. Any number of one of the first six commute; nothing else does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Op {
    Add,
    And,
    Or,
    Xor,
    Min,
    Max,
    Load,
    Store,
}

impl Atomics {
    fn add(&mut self, variable: Handle<GlobalVariable>, op: Op) {
        self.0.entry(variable.index()).or_insert_with(|| (variable, BTreeSet::new())).1.insert(op);
    }

    /// Whether the order in which invocations come cannot be seen.
    fn settle(&self, entry: &str, module: &Module) -> Result<(), No> {
        for (variable, ops) in self.0.values() {
            if ops.len() > 1 {
                let name = module.global_variables[*variable].name.as_deref().unwrap_or("?");
                return Err(format!(
                    "`{entry}` does different things to the atomic `{name}`, so their order can be seen"
                ));
            }
        }
        Ok(())
    }
}

fn judge(
    function: &Function,
    module: &Module,
    info: &FunctionInfo,
    called: &BTreeMap<usize, Atomics>,
) -> Result<Atomics, No> {
    function.arguments.iter().try_for_each(|argument| builtin(argument.binding.as_ref()))?;
    let mut atomics = Atomics::default();
    let mut used = BTreeSet::new();
    for (_, expression) in function.expressions.iter() {
        integer(expression)?;
        let mut copy = expression.clone();
        let seen = operands::expression(&mut copy, &mut |at| {
            used.insert(at.index());
            at
        });
        seen.map_err(|refusal| refusal.to_string())?;
        if let Expression::Load { pointer } = expression
            && let TypeInner::Pointer { base, .. } = info[*pointer].ty.inner_with(&module.types)
            && matches!(module.types[*base].inner, TypeInner::Atomic(_))
        {
            atomics.add(root(function, *pointer)?, Op::Load);
        }
    }
    let mut verdict = Ok(());
    operands::walk(&function.body, &mut |statement| {
        if verdict.is_ok() {
            verdict = judge_statement(statement, function, module, info, &mut used, &mut atomics);
        }
    });
    verdict?;
    // Only now is it known which results are used.
    let mut verdict = Ok(());
    operands::walk(&function.body, &mut |statement| match statement {
        Statement::Atomic { result: Some(result), .. } if used.contains(&result.index()) => {
            verdict =
                Err("it uses the result of an atomic operation, which depends on the order of invocations".to_owned());
        }
        Statement::Call { function, .. } => {
            for (variable, ops) in called.get(&function.index()).iter().flat_map(|callee| callee.0.values()) {
                for op in ops {
                    atomics.add(*variable, *op);
                }
            }
        }
        _ => {}
    });
    verdict.map(|()| atomics)
}

fn judge_statement(
    statement: &Statement,
    function: &Function,
    module: &Module,
    info: &FunctionInfo,
    used: &mut BTreeSet<usize>,
    atomics: &mut Atomics,
) -> Result<(), No> {
    match statement {
        Statement::Atomic { pointer, fun, value, .. } => {
            used.insert(value.index());
            let op = match fun {
                AtomicFunction::Add | AtomicFunction::Subtract => Op::Add,
                AtomicFunction::And => Op::And,
                AtomicFunction::InclusiveOr => Op::Or,
                AtomicFunction::ExclusiveOr => Op::Xor,
                AtomicFunction::Min => Op::Min,
                AtomicFunction::Max => Op::Max,
                AtomicFunction::Exchange { .. } => {
                    return Err("it exchanges atomic values, which depends on the order of invocations".to_owned());
                }
            };
            atomics.add(root(function, *pointer)?, op);
            return Ok(());
        }
        Statement::Store { pointer, .. } => {
            if let TypeInner::Pointer { base, .. } = info[*pointer].ty.inner_with(&module.types)
                && matches!(module.types[*base].inner, TypeInner::Atomic(_))
            {
                atomics.add(root(function, *pointer)?, Op::Store);
            }
        }
        Statement::ControlBarrier(barrier) | Statement::MemoryBarrier(barrier)
            if barrier.contains(Barrier::SUB_GROUP) =>
        {
            return Err(SUBGROUPS.to_owned());
        }
        Statement::SubgroupBallot { .. }
        | Statement::SubgroupGather { .. }
        | Statement::SubgroupCollectiveOperation { .. } => {
            return Err(SUBGROUPS.to_owned());
        }
        _ => {}
    }
    let mut copy = statement.clone();
    let seen = operands::statement(&mut copy, &mut |at| {
        used.insert(at.index());
        at
    });
    seen.map_err(|refusal| refusal.to_string())
}

const SUBGROUPS: &str = "it uses subgroups, whose size differs between devices";

/// The variable that a pointer to an atomic leads into.
fn root(function: &Function, mut pointer: Handle<Expression>) -> Result<Handle<GlobalVariable>, No> {
    loop {
        pointer = match &function.expressions[pointer] {
            Expression::GlobalVariable(variable) => return Ok(*variable),
            Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => *base,
            _ => return Err("it passes an atomic variable to a function".to_owned()),
        };
    }
}

fn builtin(binding: Option<&Binding>) -> Result<(), No> {
    use BuiltIn as B;

    match binding {
        Some(Binding::BuiltIn(B::NumSubgroups | B::SubgroupId | B::SubgroupSize | B::SubgroupInvocationId)) => {
            Err(SUBGROUPS.to_owned())
        }
        _ => Ok(()),
    }
}

/// Whether an expression computes with integers and truth values alone.
fn integer(expression: &Expression) -> Result<(), No> {
    use MathFunction as M;

    let floats = || Err("it computes with floating-point numbers".to_owned());
    match expression {
        Expression::Literal(Literal::F16(_) | Literal::F32(_) | Literal::F64(_) | Literal::AbstractFloat(_))
        | Expression::As { kind: ScalarKind::Float | ScalarKind::AbstractFloat, .. }
        | Expression::Relational { fun: RelationalFunction::IsNan | RelationalFunction::IsInf, .. } => floats(),
        Expression::SubgroupBallotResult | Expression::SubgroupOperationResult { .. } => Err(SUBGROUPS.to_owned()),
        Expression::Math { fun, .. } => match fun {
            M::Abs
            | M::Min
            | M::Max
            | M::Clamp
            | M::Dot
            | M::Dot4I8Packed
            | M::Dot4U8Packed
            | M::Sign
            | M::CountTrailingZeros
            | M::CountLeadingZeros
            | M::CountOneBits
            | M::ReverseBits
            | M::ExtractBits
            | M::InsertBits
            | M::FirstTrailingBit
            | M::FirstLeadingBit
            | M::Pack4xI8
            | M::Pack4xU8
            | M::Pack4xI8Clamp
            | M::Pack4xU8Clamp
            | M::Unpack4xI8
            | M::Unpack4xU8 => Ok(()),
            other => Err(format!("it calls {other:?}, which is no function of integers alone")),
        },
        _ => Ok(()),
    }
}

fn is_float(inner: &TypeInner) -> bool {
    match inner {
        TypeInner::Scalar(scalar)
        | TypeInner::Vector { scalar, .. }
        | TypeInner::Matrix { scalar, .. }
        | TypeInner::Atomic(scalar)
        | TypeInner::ValuePointer { scalar, .. } => {
            matches!(scalar.kind, ScalarKind::Float | ScalarKind::AbstractFloat)
        }
        _ => false,
    }
}
