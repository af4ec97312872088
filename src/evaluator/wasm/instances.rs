//! Seats: how many evaluations may have an instance at one time, and how full the pool is.
//!
//! Saturation is back-pressure first (a bounded number of evaluations wait for a seat, each for as long as its own deadline allows) and an error
//! of its own after that. Invariant: a seat is given back whatever happens to its holder. The gauges are for people; nothing decides by them.

use std::sync::{Condvar, Mutex, PoisonError};

use wasmtime::Engine;

use super::limits::{TICK, WAITING};
use crate::error::EvalError;

/// What the pool of instances holds.
#[derive(Debug)]
pub(super) struct Seats {
    state: Mutex<State>,
    freed: Condvar,
    bound: u32,
}

#[derive(Debug, Default)]
struct State {
    taken: u32,
    waiting: usize,
}

/// The right to have one instance.
#[derive(Debug)]
pub(super) struct Seat<'a>(&'a Seats);

impl Seats {
    pub(super) fn new(bound: u32) -> Self {
        Self { state: Mutex::default(), freed: Condvar::new(), bound }
    }

    /// Takes a seat, waiting for one while `go_on` holds.
    pub(super) fn take(&self, go_on: impl Fn() -> Result<(), EvalError>) -> Result<Seat<'_>, EvalError> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.taken >= self.bound {
            if state.waiting >= WAITING {
                return Err(self.full());
            }
            state.waiting += 1;
            while state.taken >= self.bound {
                if let Err(error) = go_on() {
                    state.waiting -= 1;
                    return Err(error);
                }
                state = self.freed.wait_timeout(state, TICK).unwrap_or_else(PoisonError::into_inner).0;
            }
            state.waiting -= 1;
        }
        state.taken += 1;
        Ok(Seat(self))
    }

    /// The pool is full and so is the queue in front of it.
    pub(super) fn full(&self) -> EvalError {
        EvalError::Busy { what: "wasm instance pool".to_owned(), bound: self.bound.into() }
    }

    fn taken(&self) -> u32 {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).taken
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.taken -= 1;
        // Telling nobody is a system call all the same.
        if state.waiting > 0 {
            self.0.freed.notify_one();
        }
    }
}

/// How full the pool of instances is; both go from 0 to 1.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PoolGauges {
    /// Instances that run or are being made, of those that there may be.
    pub instances: f64,
    /// Linear memories in use, of those that there may be.
    pub memories: f64,
}

impl PoolGauges {
    pub(super) fn read(seats: &Seats, engine: &Engine) -> Self {
        let share = |used: f64, bound: u32| (used / f64::from(bound.max(1))).clamp(0.0, 1.0);
        let instances = share(f64::from(seats.taken()), seats.bound);
        let memories = engine.pooling_allocator_metrics().map_or(instances, |metrics| {
            share(f64::from(u32::try_from(metrics.memories()).unwrap_or(u32::MAX)), seats.bound)
        });
        Self { instances, memories }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn one_waits_for_a_seat_and_gets_it() {
        let seats = Seats::new(1);
        let seat = seats.take(|| Ok(())).unwrap();
        thread::scope(|scope| {
            let waiting = scope.spawn(|| seats.take(|| Ok(())).map(drop));
            while seats.state.lock().unwrap().waiting == 0 {
                thread::yield_now();
            }
            drop(seat);
            assert_eq!(waiting.join().unwrap(), Ok(()));
        });
        assert_eq!(seats.taken(), 0);
    }

    #[test]
    fn waiting_ends_with_the_deadline_and_the_queue_has_a_bound() {
        let seats = Seats::new(1);
        let _seat = seats.take(|| Ok(())).unwrap();
        assert_eq!(seats.take(|| Err(EvalError::Cancelled)).map(drop), Err(EvalError::Cancelled));
        assert_eq!(seats.state.lock().unwrap().waiting, 0, "who gave up does not wait any more");
        seats.state.lock().unwrap().waiting = WAITING;
        let full = EvalError::Busy { what: "wasm instance pool".to_owned(), bound: 1 };
        assert_eq!(seats.take(|| Ok(())).map(drop), Err(full));
    }
}
