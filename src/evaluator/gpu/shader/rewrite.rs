//! The changes that every admitted shader gets: indices stay within what they index, shifts within the width of what they shift, and every loop
//! counts the steps of its invocation.
//!
//! The counter is a private variable that begins at what the evaluator's own buffer says; a loop that finds it at zero marks the overrun there
//! and ends, and so does every loop after it. Whoever reads the mark throws the outputs away. Invariants: (1) the order of expressions is
//! kept, and what is put in stands right before the expression that needs it, so every range that was emitted still is one range; (2) a
//! literal or a variable is never inside such a range.

use std::collections::BTreeMap;

use naga::valid::{FunctionInfo, ModuleInfo};
use naga::{
    AddressSpace, Arena, ArraySize, BinaryOperator, Block, Expression, Function, GlobalVariable, Handle, Literal,
    MathFunction, Module, Range, ResourceBinding, Scalar, ScalarKind, Span, Statement, StorageAccess, Type, TypeInner,
    UniqueArena,
};

use super::{CONTROL_GROUP, operands};
use crate::error::Refusal;

type At = Handle<Expression>;

/// Rewrites all functions of a validated module.
pub(super) fn rewrite(module: &mut Module, info: &ModuleInfo) -> Result<(), Refusal> {
    let own = Own::add_to(module)?;
    let handles: Vec<_> = module.functions.iter().map(|(handle, _)| handle).collect();
    for handle in handles {
        let rewritten = Rewriter::rewrite(&module.functions[handle], module, &info[handle], own, false)?;
        *module.functions.get_mut(handle) = rewritten;
    }
    for index in 0..module.entry_points.len() {
        let rewritten =
            Rewriter::rewrite(&module.entry_points[index].function, module, info.get_entry_point(index), own, true)?;
        module.entry_points[index].function = rewritten;
    }
    Ok(())
}

/// The evaluator's own variables in a shader.
#[derive(Clone, Copy)]
struct Own {
    /// The storage buffer: steps allowed, and the mark of an overrun.
    control: Handle<GlobalVariable>,
    /// Steps left to this invocation.
    steps: Handle<GlobalVariable>,
}

impl Own {
    fn add_to(module: &mut Module) -> Result<Self, Refusal> {
        let word = module.types.insert(Type { name: None, inner: TypeInner::Scalar(Scalar::U32) }, Span::UNDEFINED);
        let two = std::num::NonZeroU32::new(2).ok_or_else(|| Refusal::Shader("two is zero".to_owned()))?;
        let pair = TypeInner::Array { base: word, size: ArraySize::Constant(two), stride: 4 };
        let pair = module.types.insert(Type { name: None, inner: pair }, Span::UNDEFINED);
        let variable = |name: &str, space, binding, ty| GlobalVariable {
            name: Some(name.to_owned()),
            space,
            binding,
            ty,
            init: None,
            memory_decorations: naga::MemoryDecorations::empty(),
        };
        let space = AddressSpace::Storage { access: StorageAccess::LOAD | StorageAccess::STORE };
        let binding = ResourceBinding { group: CONTROL_GROUP, binding: 0 };
        let control = variable("evalmesh_control", space, Some(binding), pair);
        let steps = variable("evalmesh_steps", AddressSpace::Private, None, word);
        Ok(Self {
            control: module.global_variables.append(control, Span::UNDEFINED),
            steps: module.global_variables.append(steps, Span::UNDEFINED),
        })
    }
}

struct Rewriter<'a> {
    old: &'a Arena<Expression>,
    types: &'a UniqueArena<Type>,
    info: &'a FunctionInfo,
    new: Arena<Expression>,
    /// For every old expression the first one that was put in for it, and the expression itself.
    places: Vec<(At, At)>,
    literals: BTreeMap<u32, At>,
    /// The first expression that was put in for the present one.
    first: Option<At>,
    control: At,
    steps: At,
}

/// How many elements something has.
enum Length {
    Known(u32),
    Dynamic,
    None,
}

impl<'a> Rewriter<'a> {
    fn rewrite(
        function: &'a Function,
        module: &'a Module,
        info: &'a FunctionInfo,
        own: Own,
        entry: bool,
    ) -> Result<Function, Refusal> {
        let mut new = Arena::new();
        let control = new.append(Expression::GlobalVariable(own.control), Span::UNDEFINED);
        let steps = new.append(Expression::GlobalVariable(own.steps), Span::UNDEFINED);
        let (old, types) = (&function.expressions, &module.types);
        let mut this =
            Self { old, types, info, new, places: Vec::new(), literals: BTreeMap::new(), first: None, control, steps };
        this.add_literals();
        for (at, expression) in old.iter() {
            let (first, own) = this.expression(at, expression)?;
            this.places.push((first, own));
        }
        let mut changed = function.clone();
        // Names of expressions are for people who read generated code.
        changed.named_expressions.clear();
        for (_, variable) in changed.local_variables.iter_mut() {
            variable.init = variable.init.map(|init| this.place(init));
        }
        this.block(&mut changed.body)?;
        if entry {
            let start = this.fill_steps();
            changed.body.splice(0..0, start);
        }
        changed.expressions = this.new;
        Ok(changed)
    }

    /// Literals stand before everything, as they may not stand inside a range that is emitted.
    fn add_literals(&mut self) {
        let mut wanted = vec![0, 1];
        for (_, expression) in self.old.iter() {
            match expression {
                Expression::Access { base, .. } => match self.length(*base) {
                    Length::Known(length) => wanted.push(length.saturating_sub(1)),
                    Length::Dynamic | Length::None => {}
                },
                Expression::AccessIndex { base, index } if matches!(self.length(*base), Length::Dynamic) => {
                    wanted.push(*index);
                }
                Expression::Binary { op: BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight, left, .. } => {
                    wanted.extend(self.shape(*left).map(|(_, bits)| bits - 1));
                }
                _ => {}
            }
        }
        for value in wanted {
            let new = &mut self.new;
            let literal = Expression::Literal(Literal::U32(value));
            self.literals.entry(value).or_insert_with(|| new.append(literal, Span::UNDEFINED));
        }
    }

    fn expression(&mut self, at: At, expression: &Expression) -> Result<(At, At), Refusal> {
        let mut copy = expression.clone();
        let places = &self.places;
        operands::expression(&mut copy, &mut |operand| places[operand.index()].1)?;
        self.first = None;
        match &mut copy {
            Expression::Access { base, index } => {
                let Expression::Access { base: old_base, index: old_index } = expression else { return Err(odd()) };
                if let Some(clamped) = self.clamped(*old_base, *base, Some(*old_index), *index)? {
                    *index = clamped;
                }
            }
            Expression::AccessIndex { base, index } => {
                let Expression::AccessIndex { base: old_base, .. } = expression else { return Err(odd()) };
                let (base, old_base) = (*base, *old_base);
                if matches!(self.length(old_base), Length::Dynamic) {
                    let index = self.literal(*index)?;
                    let clamped = self.clamped(old_base, base, None, index)?.ok_or_else(odd)?;
                    copy = Expression::Access { base, index: clamped };
                }
            }
            Expression::Binary { op: BinaryOperator::ShiftLeft | BinaryOperator::ShiftRight, left: _, right } => {
                let Expression::Binary { left, .. } = expression else { return Err(odd()) };
                if let Some((size, bits)) = self.shape(*left) {
                    let mut mask = self.literal(bits - 1)?;
                    if let Some(size) = size {
                        mask = self.append(Expression::Splat { size, value: mask });
                    }
                    *right = self.append(Expression::Binary { op: BinaryOperator::And, left: *right, right: mask });
                }
            }
            _ => {}
        }
        let own = self.new.append(copy, self.old.get_span(at));
        Ok((self.first.unwrap_or(own), own))
    }

    /// An index that stays within what it indexes, unless it can do nothing else.
    fn clamped(&mut self, old_base: At, base: At, old_index: Option<At>, index: At) -> Result<Option<At>, Refusal> {
        let last = match self.length(old_base) {
            Length::Known(length) => {
                let fits = |literal: &Literal| match literal {
                    Literal::U32(value) => *value < length,
                    Literal::I32(value) => u32::try_from(*value).is_ok_and(|value| value < length),
                    _ => false,
                };
                if old_index.is_some_and(|at| matches!(&self.old[at], Expression::Literal(literal) if fits(literal))) {
                    return Ok(None);
                }
                self.literal(length.saturating_sub(1))?
            }
            Length::Dynamic => {
                if !self.is_whole_variable(old_base) {
                    return Err(Refusal::Shader("it passes an array of unknown length to a function".to_owned()));
                }
                let length = self.append(Expression::ArrayLength(base));
                let one = self.literal(1)?;
                self.append(Expression::Binary { op: BinaryOperator::Subtract, left: length, right: one })
            }
            Length::None => return Ok(None),
        };
        let signed = old_index.is_some_and(|at| {
            matches!(self.info[at].ty.inner_with(self.types), TypeInner::Scalar(Scalar { kind: ScalarKind::Sint, .. }))
        });
        let index = if signed {
            self.append(Expression::As { expr: index, kind: ScalarKind::Uint, convert: None })
        } else {
            index
        };
        Ok(Some(self.append(Expression::Math {
            fun: MathFunction::Min,
            arg: index,
            arg1: Some(last),
            arg2: None,
            arg3: None,
        })))
    }

    /// Whether the length of the array behind this pointer can be asked for: it is a variable, or the last member of one.
    fn is_whole_variable(&self, at: At) -> bool {
        match &self.old[at] {
            Expression::GlobalVariable(_) => true,
            Expression::AccessIndex { base, .. } => matches!(self.old[*base], Expression::GlobalVariable(_)),
            _ => false,
        }
    }

    fn length(&self, at: At) -> Length {
        let mut inner = self.info[at].ty.inner_with(self.types);
        if let TypeInner::Pointer { base, .. } = inner {
            inner = &self.types[*base].inner;
        }
        match inner {
            TypeInner::Vector { size, .. } | TypeInner::ValuePointer { size: Some(size), .. } => {
                Length::Known(*size as u32)
            }
            TypeInner::Matrix { columns, .. } => Length::Known(*columns as u32),
            TypeInner::Array { size: ArraySize::Constant(size), .. } => Length::Known(size.get()),
            TypeInner::Array { size: ArraySize::Dynamic, .. } => Length::Dynamic,
            _ => Length::None,
        }
    }

    /// The vector size, if it is one, and the bits of each number.
    fn shape(&self, at: At) -> Option<(Option<naga::VectorSize>, u32)> {
        match self.info[at].ty.inner_with(self.types) {
            TypeInner::Scalar(scalar) => Some((None, u32::from(scalar.width) * 8)),
            TypeInner::Vector { size, scalar } => Some((Some(*size), u32::from(scalar.width) * 8)),
            _ => None,
        }
    }

    fn block(&mut self, block: &mut Block) -> Result<(), Refusal> {
        for statement in block.iter_mut() {
            let places = &self.places;
            operands::statement(statement, &mut |at| places[at.index()].1)?;
            match statement {
                Statement::Emit(range) => {
                    let Some((first, last)) = range.first_and_last() else { continue };
                    *range = Range::new_from_bounds(self.places[first.index()].0, self.places[last.index()].1);
                }
                Statement::Block(block) => self.block(block)?,
                Statement::If { accept, reject, .. } => {
                    self.block(accept)?;
                    self.block(reject)?;
                }
                Statement::Switch { cases, .. } => cases.iter_mut().try_for_each(|case| self.block(&mut case.body))?,
                Statement::Loop { body, continuing, .. } => {
                    self.block(body)?;
                    self.block(continuing)?;
                    let count = self.count()?;
                    body.splice(0..0, count);
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The first statements of every entry point: as many steps are left as the buffer says.
    fn fill_steps(&mut self) -> Block {
        let allowed = self.append(Expression::AccessIndex { base: self.control, index: 0 });
        let value = self.append(Expression::Load { pointer: allowed });
        Block::from_vec(vec![
            Statement::Emit(Range::new_from_bounds(allowed, value)),
            Statement::Store { pointer: self.steps, value },
        ])
    }

    /// The first statements of every loop: one step less is left, or the loop ends with a mark.
    fn count(&mut self) -> Result<Block, Refusal> {
        let (zero, one) = (self.literal(0)?, self.literal(1)?);
        let left = self.append(Expression::Load { pointer: self.steps });
        let over = self.append(Expression::Binary { op: BinaryOperator::Equal, left, right: zero });
        let mark = self.append(Expression::AccessIndex { base: self.control, index: 1 });
        let rest = self.append(Expression::Binary { op: BinaryOperator::Subtract, left, right: one });
        let end = vec![
            Statement::Emit(Range::new_from_bounds(mark, mark)),
            Statement::Store { pointer: mark, value: one },
            Statement::Break,
        ];
        Ok(Block::from_vec(vec![
            Statement::Emit(Range::new_from_bounds(left, over)),
            Statement::If { condition: over, accept: Block::from_vec(end), reject: Block::new() },
            Statement::Emit(Range::new_from_bounds(rest, rest)),
            Statement::Store { pointer: self.steps, value: rest },
        ]))
    }

    fn append(&mut self, expression: Expression) -> At {
        let at = self.new.append(expression, Span::UNDEFINED);
        self.first.get_or_insert(at);
        at
    }

    fn literal(&self, value: u32) -> Result<At, Refusal> {
        self.literals.get(&value).copied().ok_or_else(odd)
    }

    fn place(&self, at: At) -> At {
        self.places[at.index()].1
    }
}

/// A way through this module that does not exist.
fn odd() -> Refusal {
    Refusal::Shader("its IR is not what it was a moment ago".to_owned())
}
