//! What one running instance carries: its limits, its host, and the reason it was stopped for.
//!
//! Invariant: a limit of this node never becomes visible to the guest. A growth that the module's own maximum forbids answers -1, as anywhere;
//! one that only this node forbids ends the evaluation. So whatever a guest returns, any node would have returned.

use std::time::Duration;

use wasmtime::{Engine, Error, Memory, ResourceLimiter, Result, Store, Trap, UpdateDeadline};

use super::engine::Stopwatch;
use super::limits::{TABLES, TRAP_TEXT};
use super::wasi::Wasi;
use crate::error::{EvalError, LimitHit};
use crate::evaluator::Cancel;
use crate::reply::{Status, TrapCode};

/// Bytes that one table element takes.
const ELEMENT: u64 = size_of::<usize>() as u64;

/// The bounds of one evaluation, after request and node were both heard.
#[derive(Debug, Clone)]
pub(super) struct Bounds {
    pub(super) fuel: u64,
    pub(super) memory: u64,
    pub(super) table_elements: u64,
    pub(super) output: u64,
    pub(super) time: Duration,
}

/// Why the host ended an evaluation. Travels through wasmtime as an error.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Stop {
    #[error("exit {0}")]
    Exit(i32),
    #[error("{0}: {1}")]
    Trap(TrapCode, &'static str),
    #[error(transparent)]
    Limit(#[from] LimitHit),
    #[error("cancelled")]
    Cancelled,
}

/// The data of a store.
pub(super) struct State {
    /// Present for commands.
    pub(super) wasi: Option<Box<Wasi>>,
    /// The guest's memory, once a host function asked for it.
    pub(super) memory: Option<Memory>,
    limiter: Limiter,
}

impl State {
    pub(super) fn new(wasi: Option<Box<Wasi>>, bounds: &Bounds, memory_maximum: u64) -> Self {
        let limiter =
            Limiter { memory: bounds.memory, memory_maximum, table_elements: bounds.table_elements, elements: 0 };
        Self { wasi, memory: None, limiter }
    }
}

/// A store under these bounds, watched for its deadline and for cancellation.
pub(super) fn store(
    engine: &Engine,
    state: State,
    bounds: &Bounds,
    watch: Stopwatch,
    cancel: Cancel,
) -> Result<Store<State>> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_fuel(bounds.fuel)?;
    let time = bounds.time;
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        go_on(time, watch, &cancel).map_err(Error::new)?;
        Ok(UpdateDeadline::Continue(1))
    });
    Ok(store)
}

/// Whether the evaluation may go on, and if not, why.
pub(super) fn go_on(time: Duration, watch: Stopwatch, cancel: &Cancel) -> Result<(), Stop> {
    if cancel.is_cancelled() {
        return Err(Stop::Cancelled);
    }
    if watch.elapsed() >= time {
        let ms = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        return Err(LimitHit::Deadline { ms }.into());
    }
    Ok(())
}

/// How a call ended, with the text that a trap leaves in the log.
pub(super) fn ending(error: &Error, bounds: &Bounds) -> Result<(Status, Option<String>), EvalError> {
    let trapped = |code: TrapCode| {
        let mut text = format!("trap: {code}: {error:#}");
        text.truncate(text.floor_char_boundary(TRAP_TEXT));
        Ok((Status::Trap(code), Some(text)))
    };
    match error.downcast_ref::<Stop>() {
        Some(Stop::Exit(code)) => return Ok((Status::Exit(*code), None)),
        Some(Stop::Trap(code, _)) => return trapped(*code),
        Some(Stop::Limit(limit)) => return Err(limit.clone().into()),
        Some(Stop::Cancelled) => return Err(EvalError::Cancelled),
        None => {}
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => Err(LimitHit::Stack.into()),
        Some(Trap::OutOfFuel) => Err(LimitHit::Fuel { bound: bounds.fuel }.into()),
        Some(trap) => match trap_code(*trap) {
            Some(code) => trapped(code),
            None => Err(EvalError::Failed(format!("unexpected {error:#}"))),
        },
        None => Err(EvalError::Failed(format!("{error:#}"))),
    }
}

fn trap_code(trap: Trap) -> Option<TrapCode> {
    Some(match trap {
        Trap::UnreachableCodeReached => TrapCode::Unreachable,
        Trap::MemoryOutOfBounds => TrapCode::MemoryOutOfBounds,
        Trap::TableOutOfBounds => TrapCode::TableOutOfBounds,
        Trap::IndirectCallToNull => TrapCode::IndirectCallToNull,
        Trap::BadSignature => TrapCode::BadSignature,
        Trap::IntegerOverflow => TrapCode::IntegerOverflow,
        Trap::IntegerDivisionByZero => TrapCode::IntegerDivisionByZero,
        Trap::BadConversionToInteger => TrapCode::BadConversionToInteger,
        Trap::ArrayOutOfBounds => TrapCode::ArrayOutOfBounds,
        Trap::NullReference => TrapCode::NullReference,
        Trap::CastFailure => TrapCode::CastFailure,
        Trap::HeapMisaligned => TrapCode::Misaligned,
        _ => return None,
    })
}

struct Limiter {
    memory: u64,
    /// What the module itself allows its one memory.
    memory_maximum: u64,
    table_elements: u64,
    /// Elements of all tables so far.
    elements: u64,
}

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> Result<bool> {
        let desired = desired as u64;
        if desired > self.memory_maximum {
            Ok(false)
        } else if desired > self.memory {
            Err(Error::new(Stop::from(LimitHit::Memory { bound: self.memory })))
        } else {
            Ok(true)
        }
    }

    fn memory_grow_failed(&mut self, _: Error) -> Result<()> {
        // It was allowed and the machine could not: no other node need fail here, so the guest must not see it.
        Err(Error::new(Stop::from(LimitHit::Memory { bound: self.memory })))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> Result<bool> {
        // A maximum beyond the node's limit is the pool's or never reached: both are the node's affair.
        if maximum.is_some_and(|maximum| desired > maximum && maximum as u64 <= self.table_elements) {
            return Ok(false);
        }
        let elements = self.elements.saturating_add(desired.saturating_sub(current) as u64);
        if elements > self.table_elements {
            return self.table_refused();
        }
        self.elements = elements;
        Ok(true)
    }

    fn table_grow_failed(&mut self, _: Error) -> Result<()> {
        self.table_refused().map(drop)
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        1
    }
}

impl Limiter {
    fn table_refused(&self) -> Result<bool> {
        Err(Error::new(Stop::from(LimitHit::Memory { bound: self.table_elements.saturating_mul(ELEMENT) })))
    }
}

impl From<Stop> for EvalError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Limit(limit) => limit.into(),
            Stop::Cancelled => Self::Cancelled,
            Stop::Exit(_) | Stop::Trap(..) => Self::Failed(stop.to_string()),
        }
    }
}
