//! Whether all invocations of a workgroup reach every barrier together, which WGSL demands of a program.
//!
//! naga parses and validates shaders that have barriers where only some come: on one device such a workgroup waits for ever, on another it goes on with
//! half-written memory. After the standard's own analysis, but coarser: a variable is as uniform as everything that is ever put into it. Values that
//! are the same for a whole workgroup are constants, uniform and read-only buffers, the workgroup's own number, `workgroupUniformLoad`, and
//! what is made of these alone. Invariant: what is not known to be uniform is not. This module changes nothing.

use std::collections::{BTreeMap, BTreeSet};

use naga::{
    AddressSpace, Binding, Block, BuiltIn, Expression, Function, Handle, Module, Statement, StorageAccess, TypeInner,
};

use super::clip;
use crate::error::Refusal;

/// Refuses a shader with a barrier that not all invocations of a workgroup may reach together.
pub(super) fn check(module: &Module) -> Result<(), Refusal> {
    let mut calls = Calls { module, known: BTreeMap::new() };
    for entry in &module.entry_points {
        let arguments: Vec<_> =
            entry.function.arguments.iter().map(|argument| is_uniform_builtin(argument.binding.as_ref())).collect();
        let outcome = calls.run(&entry.function, &arguments, true);
        if let Some(why) = outcome.apart {
            let name = clip(&entry.name);
            return Err(Refusal::Shader(format!(
                "`{name}` has a barrier that not all invocations of a workgroup reach together: it stands {why}"
            )));
        }
    }
    Ok(())
}

fn is_uniform_builtin(binding: Option<&Binding>) -> bool {
    matches!(binding, Some(Binding::BuiltIn(BuiltIn::WorkGroupId | BuiltIn::WorkGroupSize | BuiltIn::NumWorkGroups)))
}

/// Where a barrier is not reached by all.
type Why = &'static str;

const BRANCH: Why = "where a value decides that differs between them";
const LEFT: Why = "after a `return` that only some of them take";
const ROUND: Why = "in a loop that some of them leave earlier";

/// What a function does, called in one way.
#[derive(Clone, Copy)]
struct Outcome {
    /// Whether the value that it returns is uniform.
    uniform: bool,
    apart: Option<Why>,
}

/// Functions by the ways in which they are called: which arguments are uniform, and whether all invocations call.
struct Calls<'a> {
    module: &'a Module,
    known: BTreeMap<(usize, Vec<bool>, bool), Outcome>,
}

impl Calls<'_> {
    fn of(&mut self, handle: Handle<Function>, mut arguments: Vec<bool>, together: bool) -> Outcome {
        // Nor what it puts there and reads again.
        for (argument, uniform) in self.module.functions[handle].arguments.iter().zip(&mut arguments) {
            *uniform &= !matches!(
                self.module.types[argument.ty].inner,
                TypeInner::Pointer { .. } | TypeInner::ValuePointer { .. }
            );
        }
        let key = (handle.index(), arguments, together);
        if let Some(known) = self.known.get(&key) {
            return *known;
        }
        let module = self.module;
        let outcome = self.run(&module.functions[handle], &key.1, together);
        self.known.insert(key, outcome);
        outcome
    }

    fn run(&mut self, function: &Function, arguments: &[bool], together: bool) -> Outcome {
        // What is put into a variable later may be read earlier, in a loop; so all is taken for uniform at first, until nothing new is found
        // that is not, at most once for each variable and call.
        let (mut apart, mut results) = (BTreeSet::new(), BTreeSet::new());
        loop {
            let values = values(self.module, function, arguments, &apart, &results);
            let (found, outcome) = (apart.len() + results.len(), Outcome { uniform: true, apart: None });
            let mut walk = Walk { calls: self, function, values, apart, results, outcome };
            walk.block(&function.body, (!together).then_some(BRANCH));
            let Walk { apart: now_apart, results: now_results, outcome, .. } = walk;
            if now_apart.len() + now_results.len() == found {
                return outcome;
            }
            (apart, results) = (now_apart, now_results);
        }
    }
}

/// Whether each expression is uniform, where these local variables and results of calls are not.
fn values(
    module: &Module,
    function: &Function,
    arguments: &[bool],
    apart: &BTreeSet<usize>,
    results: &BTreeSet<usize>,
) -> Vec<bool> {
    let mut values: Vec<bool> = Vec::with_capacity(function.expressions.len());
    for (at, expression) in function.expressions.iter() {
        // Expressions refer to earlier ones only.
        let is = |operand: &Handle<Expression>| values.get(operand.index()).copied().unwrap_or(false);
        let uniform = match expression {
            Expression::Literal(_)
            | Expression::Constant(_)
            | Expression::ZeroValue(_)
            | Expression::ArrayLength(_)
            | Expression::WorkGroupUniformLoadResult { .. } => true,
            Expression::FunctionArgument(index) => arguments.get(*index as usize).copied().unwrap_or(false),
            Expression::LocalVariable(variable) => !apart.contains(&variable.index()),
            Expression::GlobalVariable(variable) => match module.global_variables[*variable].space {
                AddressSpace::Uniform => true,
                AddressSpace::Storage { access } => access == StorageAccess::LOAD,
                _ => false,
            },
            Expression::CallResult(_) => !results.contains(&at.index()),
            Expression::Compose { components, .. } => components.iter().all(is),
            Expression::Access { base, index } => is(base) && is(index),
            Expression::AccessIndex { base, index } => is(base) || is_uniform_member(module, function, *base, *index),
            Expression::Splat { value: one, .. }
            | Expression::Swizzle { vector: one, .. }
            | Expression::Load { pointer: one }
            | Expression::Unary { expr: one, .. }
            | Expression::Relational { argument: one, .. }
            | Expression::As { expr: one, .. } => is(one),
            Expression::Binary { left, right, .. } => is(left) && is(right),
            Expression::Select { condition, accept, reject } => is(condition) && is(accept) && is(reject),
            Expression::Math { arg, arg1, arg2, arg3, .. } => {
                is(arg) && [arg1, arg2, arg3].into_iter().flatten().all(is)
            }
            // Results of atomic operations and of subgroups, and what nobody judged yet.
            _ => false,
        };
        values.push(uniform);
    }
    values
}

/// Whether a member of an entry point's structure of arguments is uniform, though others are not.
fn is_uniform_member(module: &Module, function: &Function, base: Handle<Expression>, member: u32) -> bool {
    let Expression::FunctionArgument(index) = function.expressions[base] else { return false };
    let Some(argument) = function.arguments.get(index as usize) else { return false };
    let TypeInner::Struct { members, .. } = &module.types[argument.ty].inner else { return false };
    members.get(member as usize).is_some_and(|member| is_uniform_builtin(member.binding.as_ref()))
}

/// One pass over a function.
struct Walk<'a, 'b> {
    calls: &'b mut Calls<'a>,
    function: &'b Function,
    /// Whether each expression is uniform, as far as is known.
    values: Vec<bool>,
    /// Local variables that may differ between invocations.
    apart: BTreeSet<usize>,
    /// Results of calls that may.
    results: BTreeSet<usize>,
    outcome: Outcome,
}

/// Which ways out of a block only some invocations take.
#[derive(Default, Clone, Copy)]
struct Ways {
    ends: bool,
    breaks: bool,
    continues: bool,
}

impl Ways {
    fn or(self, other: Self) -> Self {
        Self {
            ends: self.ends || other.ends,
            breaks: self.breaks || other.breaks,
            continues: self.continues || other.continues,
        }
    }

    /// What that means for what follows in the block.
    fn why(self) -> Option<Why> {
        match self {
            Self { ends: true, .. } => Some(LEFT),
            Self { breaks: false, continues: false, .. } => None,
            _ => Some(ROUND),
        }
    }
}

impl Walk<'_, '_> {
    /// Goes through statements that are reached by all (`None`) or for a reason not.
    fn block(&mut self, block: &Block, at_first: Option<Why>) -> Ways {
        let (mut why, mut ways) = (at_first, Ways::default());
        for statement in block {
            let found = self.statement(statement, why);
            ways = ways.or(found);
            why = why.or(found.why());
        }
        ways
    }

    fn statement(&mut self, statement: &Statement, why: Option<Why>) -> Ways {
        let apart = why.is_some();
        match statement {
            Statement::ControlBarrier(_) | Statement::MemoryBarrier(_) | Statement::WorkGroupUniformLoad { .. } => {
                self.outcome.apart = self.outcome.apart.or(why);
            }
            Statement::Block(block) => return self.block(block, why),
            Statement::If { condition, accept, reject } => {
                let inside = why.or((!self.uniform(*condition)).then_some(BRANCH));
                return self.block(accept, inside).or(self.block(reject, inside));
            }
            Statement::Switch { selector, cases } => {
                let inside = why.or((!self.uniform(*selector)).then_some(BRANCH));
                let (mut ways, mut falls) = (Ways::default(), None);
                for case in cases {
                    let of_case = self.block(&case.body, inside.or(falls));
                    falls = if case.fall_through { of_case.why() } else { None };
                    ways = ways.or(of_case);
                }
                // It is the switch that is left.
                return Ways { breaks: false, ..ways };
            }
            Statement::Loop { body, continuing, break_if } => return self.round(body, continuing, *break_if, why),
            Statement::Break => return Ways { breaks: apart, ..Ways::default() },
            Statement::Continue => return Ways { continues: apart, ..Ways::default() },
            Statement::Return { value } => {
                let uniform = value.is_none_or(|value| self.uniform(value));
                self.outcome.uniform &= uniform && !apart;
                return Ways { ends: apart, ..Ways::default() };
            }
            Statement::Kill => return Ways { ends: true, ..Ways::default() },
            Statement::Store { pointer, value } if apart || !self.uniform(*value) || !self.uniform_place(*pointer) => {
                self.differs(*pointer);
            }
            Statement::Call { function, arguments, result } => {
                let uniform: Vec<bool> = arguments.iter().map(|argument| self.uniform(*argument)).collect();
                let outcome = self.calls.of(*function, uniform, !apart);
                // What a function puts into a variable of its caller is not followed.
                for argument in arguments {
                    self.differs(*argument);
                }
                self.outcome.apart = self.outcome.apart.or(outcome.apart.map(|inside| why.unwrap_or(inside)));
                if let Some(result) = result.filter(|_| apart || !outcome.uniform) {
                    self.results.insert(result.index());
                }
            }
            _ => {}
        }
        Ways::default()
    }

    fn round(
        &mut self,
        body: &Block,
        continuing: &Block,
        break_if: Option<Handle<Expression>>,
        why: Option<Why>,
    ) -> Ways {
        let mut go = |why: Option<Why>| {
            let of_body = self.block(body, why);
            // Whoever takes the next round comes together again, unless some have left.
            let left = Ways { continues: false, ..of_body };
            let of_continuing = self.block(continuing, why.or(left.why()));
            let differs = break_if.is_some_and(|condition| !self.uniform(condition));
            left.or(of_continuing).or(Ways { breaks: differs, ..Ways::default() })
        };
        let ways = go(why);
        // If some have left when the next round begins, all of it is apart.
        let ways = ways.why().filter(|_| why.is_none()).map_or(ways, |left| go(Some(left)));
        // Behind the loop those that left it are together again; those that returned are not there.
        Ways { ends: ways.ends, ..Ways::default() }
    }

    /// A variable into which something was put that differs between invocations.
    fn differs(&mut self, pointer: Handle<Expression>) {
        if let Some(variable) = self.local(pointer) {
            self.apart.insert(variable);
        }
    }

    /// The local variable that a pointer leads into.
    fn local(&self, mut at: Handle<Expression>) -> Option<usize> {
        loop {
            at = match &self.function.expressions[at] {
                Expression::LocalVariable(variable) => return Some(variable.index()),
                Expression::Access { base, .. } | Expression::AccessIndex { base, .. } => *base,
                _ => return None,
            };
        }
    }

    /// Whether all invocations mean the same place in a variable.
    fn uniform_place(&mut self, pointer: Handle<Expression>) -> bool {
        match self.function.expressions[pointer] {
            Expression::Access { base, index } => self.uniform(index) && self.uniform_place(base),
            Expression::AccessIndex { base, .. } => self.uniform_place(base),
            _ => true,
        }
    }

    fn uniform(&self, at: Handle<Expression>) -> bool {
        self.values.get(at.index()).copied().unwrap_or(false)
    }
}
