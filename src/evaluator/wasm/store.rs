//! What one running instance carries: its limits, its host, and the reason it was stopped for.
//!
//! Invariant: a limit of this node never becomes visible to the guest. A growth that the module's own maximum forbids answers -1, as anywhere;
//! one that only this node forbids ends the evaluation. So whatever a guest returns, any node would have returned.

use std::time::Duration;

use wasmtime::{Engine, Error, Memory, ResourceLimiter, Store, Trap, UpdateDeadline};

use super::asking::Asking;
use super::engine::{CpuWatch, Stopwatch};
use super::limits::{CORE_INSTANCES, TABLES, TRAP_TEXT};
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
    pub(super) files: u64,
    pub(super) time: Duration,
    pub(super) cpu: Option<Duration>,
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
    #[error(transparent)]
    Error(Box<EvalError>),
}

/// The data of a store.
pub(super) struct State {
    /// Present for commands.
    pub(super) wasi: Option<Box<Wasi>>,
    /// Present where the program may ask for other replies.
    pub(super) asking: Option<Box<Asking>>,
    /// The guest's memory, once a host function asked for it.
    pub(super) memory: Option<Memory>,
    limiter: Limiter,
}

impl State {
    pub(super) fn new(
        wasi: Option<Box<Wasi>>,
        asking: Option<Box<Asking>>,
        bounds: &Bounds,
        memory_maximum: u64,
    ) -> Self {
        let limiter =
            Limiter { memory: bounds.memory, memory_maximum, table_elements: bounds.table_elements, elements: 0 };
        Self { wasi, asking, memory: None, limiter }
    }
}

/// What an evaluation's time is held against.
#[derive(Debug, Clone)]
pub(super) struct Watch {
    wall: Stopwatch,
    time: Duration,
    /// Processor time of the evaluation's thread, where it is bounded.
    cpu: Option<(CpuWatch, Duration)>,
    cancel: Cancel,
}

impl Watch {
    /// Begins now, on the thread that evaluates.
    pub(super) fn start(bounds: &Bounds, cancel: &Cancel) -> Self {
        let cpu = bounds.cpu.map(|bound| (CpuWatch::start(), bound));
        Self { wall: Stopwatch::start(), time: bounds.time, cpu, cancel: cancel.clone() }
    }

    /// How much of the time is left.
    pub(super) fn left(&self) -> Duration {
        self.time.saturating_sub(self.wall.elapsed())
    }

    /// Whether the evaluation may go on, and if not, why. Asked on the thread that evaluates.
    pub(super) fn go_on(&self) -> Result<(), Stop> {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        if self.cancel.is_cancelled() {
            return Err(Stop::Cancelled);
        }
        if self.wall.elapsed() >= self.time {
            return Err(LimitHit::Deadline { ms: ms(self.time) }.into());
        }
        match &self.cpu {
            Some((watch, bound)) if watch.elapsed() >= *bound => Err(LimitHit::CpuTime { ms: ms(*bound) }.into()),
            _ => Ok(()),
        }
    }
}

/// A store under these bounds, watched for its deadline and for cancellation.
pub(super) fn store(engine: &Engine, state: State, bounds: &Bounds, watch: &Watch) -> wasmtime::Result<Store<State>> {
    let mut store = Store::new(engine, state);
    store.limiter(|state| &mut state.limiter);
    store.set_fuel(bounds.fuel)?;
    let watch = watch.clone();
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |_| {
        watch.go_on().map_err(Error::new)?;
        Ok(UpdateDeadline::Continue(1))
    });
    Ok(store)
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
        Some(stop) => return Err(stop.clone().into()),
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

/// Whether a trap has a meaning of its own here.
#[cfg(feature = "component")]
pub(super) fn is_known(trap: Trap) -> bool {
    matches!(trap, Trap::StackOverflow | Trap::OutOfFuel) || trap_code(trap).is_some()
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
    fn memory_growing(&mut self, _: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let desired = desired as u64;
        if desired > self.memory_maximum {
            Ok(false)
        } else if desired > self.memory {
            Err(Error::new(Stop::from(LimitHit::Memory { bound: self.memory })))
        } else {
            Ok(true)
        }
    }

    fn memory_grow_failed(&mut self, _: Error) -> wasmtime::Result<()> {
        // It was allowed and the machine could not: no other node need fail here, so the guest must not see it.
        Err(Error::new(Stop::from(LimitHit::Memory { bound: self.memory })))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
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

    fn table_grow_failed(&mut self, _: Error) -> wasmtime::Result<()> {
        self.table_refused().map(drop)
    }

    fn instances(&self) -> usize {
        // A component consists of several; that there are no more than this is checked before it is compiled.
        CORE_INSTANCES as usize
    }

    fn tables(&self) -> usize {
        TABLES as usize
    }

    fn memories(&self) -> usize {
        1
    }
}

impl Limiter {
    fn table_refused(&self) -> wasmtime::Result<bool> {
        Err(Error::new(Stop::from(LimitHit::Memory { bound: self.table_elements.saturating_mul(ELEMENT) })))
    }
}

impl From<Stop> for EvalError {
    fn from(stop: Stop) -> Self {
        match stop {
            Stop::Limit(limit) => limit.into(),
            Stop::Cancelled => Self::Cancelled,
            Stop::Error(error) => *error,
            Stop::Exit(_) | Stop::Trap(..) => Self::Failed(stop.to_string()),
        }
    }
}
