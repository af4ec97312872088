//! Ends a worker that takes too long, or for which nobody waits any more.
//!
//! A worker that is ended costs its successor's start, and whatever else it had under way. So an order goes on while anybody waits for any part of it, and
//! where nobody does it has a moment to end by itself, as most do; another worker would not be ready sooner.
//! The thread that waits for a worker's answer cannot look at anything else, so this one does. Between two orders that follow each other closely it
//! stays awake, as waking it would cost more than what it watches.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::evaluator::Cancel;
use crate::evaluator::worker::Killed;

/// How often it looks whether anybody still waits.
const TICK: Duration = Duration::from_millis(20);
/// How long an order may go on for which nobody waits any more.
const MOMENT: Duration = Duration::from_millis(100);
/// Looks without anything to watch after which it sleeps until it is woken.
const PATIENCE: u32 = 25;

/// What an order is held against.
#[derive(Debug)]
pub(in crate::evaluator::gpu) struct Guard {
    deadline: Instant,
    /// The order is for nobody once all of these are raised.
    cancels: Vec<Cancel>,
    /// Until when it may go on all the same, once that was seen.
    moment: Option<Instant>,
    /// Everything ends once this is raised.
    stop: Option<Cancel>,
}

impl Guard {
    #[expect(clippy::disallowed_methods, reason = "an evaluator is an edge: deadlines are measured here")]
    pub(in crate::evaluator::gpu) fn within(time: Duration) -> Self {
        // A deadline that no clock can name is as good as one in a year.
        let far = Duration::from_hours(24 * 365);
        Self { deadline: Instant::now() + time.min(far), cancels: Vec::new(), moment: None, stop: None }
    }

    pub(in crate::evaluator::gpu) fn unless(mut self, cancels: Vec<Cancel>, stop: &Cancel) -> Self {
        self.cancels = cancels;
        self.stop = Some(stop.clone());
        self
    }

    #[expect(clippy::disallowed_methods, reason = "an evaluator is an edge: deadlines are measured here")]
    fn look(&mut self) -> Result<Duration, Why> {
        let now = Instant::now();
        let nobody_waits = !self.cancels.is_empty() && self.cancels.iter().all(Cancel::is_cancelled);
        let moment_over = nobody_waits && *self.moment.get_or_insert(now + MOMENT) <= now;
        if moment_over || self.stop.as_ref().is_some_and(Cancel::is_cancelled) {
            return Err(Why::Cancelled);
        }
        let left = self.deadline.saturating_duration_since(now);
        if left.is_zero() { Err(Why::Deadline) } else { Ok(left) }
    }
}

/// Why a worker was ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::evaluator::gpu) enum Why {
    Deadline,
    Cancelled,
}

/// Watches one worker.
#[derive(Debug)]
pub(super) struct Watchdog(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    armed: Option<(Arc<Mutex<Killed>>, Guard)>,
    killed: Option<Why>,
    asleep: bool,
    closed: bool,
}

impl Watchdog {
    pub(super) fn start() -> std::io::Result<Self> {
        let shared = Arc::new((Mutex::new(State::default()), Condvar::new()));
        let watching = Arc::clone(&shared);
        thread::Builder::new()
            .name("evalmesh-watchdog".to_owned())
            .stack_size(64 << 10)
            .spawn(move || watch(&watching))?;
        Ok(Self(shared))
    }

    pub(super) fn arm(&self, child: Arc<Mutex<Killed>>, guard: Guard) {
        let mut state = self.state();
        state.armed = Some((child, guard));
        state.killed = None;
        if state.asleep {
            self.0.1.notify_one();
        }
    }

    /// Stops watching; says why the worker was ended, if it was.
    pub(super) fn disarm(&self) -> Option<Why> {
        let mut state = self.state();
        state.armed = None;
        state.killed.take()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.0.0)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state().closed = true;
        self.0.1.notify_one();
    }
}

fn watch(shared: &(Mutex<State>, Condvar)) {
    let (mut state, mut idle) = (lock(&shared.0), 0);
    while !state.closed {
        let looked = state.armed.as_mut().map(|(_, guard)| guard.look());
        let wait = match looked {
            Some(Ok(left)) => {
                idle = 0;
                left.min(TICK)
            }
            Some(Err(why)) => {
                state.killed = Some(why);
                if let Some((child, _)) = state.armed.take() {
                    // Whoever waits for an answer now hears that the pipe is closed.
                    drop(lock(&child).end());
                }
                continue;
            }
            None if idle < PATIENCE => {
                idle += 1;
                TICK
            }
            None => {
                state.asleep = true;
                state = shared.1.wait(state).unwrap_or_else(PoisonError::into_inner);
                state.asleep = false;
                idle = 0;
                continue;
            }
        };
        state = shared.1.wait_timeout(state, wait).unwrap_or_else(PoisonError::into_inner).0;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing here panics half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_order_goes_on_while_anybody_waits_and_a_moment_longer() {
        let (cancels, stop) = ([Cancel::default(), Cancel::default()], Cancel::default());
        let mut guard = Guard::within(Duration::from_mins(1)).unless(cancels.to_vec(), &stop);
        cancels[0].cancel();
        assert!(guard.look().is_ok() && guard.moment.is_none(), "the other one still waits");
        cancels[1].cancel();
        assert!(guard.look().is_ok(), "it may be about to end");
        guard.moment = guard.moment.and_then(|until| until.checked_sub(MOMENT));
        assert_eq!(guard.look(), Err(Why::Cancelled));
        let mut guard = Guard::within(Duration::from_mins(1)).unless(Vec::new(), &stop);
        assert!(guard.look().is_ok());
        stop.cancel();
        assert_eq!(guard.look(), Err(Why::Cancelled), "what stops for good stops at once");
        assert_eq!(Guard::within(Duration::ZERO).look(), Err(Why::Deadline));
    }
}
