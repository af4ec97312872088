//! Time as the core sees it: a number that the driver hands in, and timers that say when to be called again.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::time::Duration;

/// A moment: time since the driver started. Virtual in the simulator, monotonic in a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Time(pub Duration);

impl Add<Duration> for Time {
    type Output = Self;

    fn add(self, after: Duration) -> Self {
        Self(self.0.saturating_add(after))
    }
}

impl Sub for Time {
    type Output = Duration;

    fn sub(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// Names a set timer, so that it can be cleared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TimerKey(Time, u64);

/// Timers in order of time, then of setting: the same inputs fire them in the same order.
#[derive(Debug)]
pub(super) struct Timers<T> {
    set: BTreeMap<TimerKey, T>,
    next: u64,
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self { set: BTreeMap::new(), next: 0 }
    }
}

impl<T> Timers<T> {
    pub(super) fn set(&mut self, at: Time, what: T) -> TimerKey {
        let key = TimerKey(at, self.next);
        self.next += 1;
        self.set.insert(key, what);
        key
    }

    /// Clears a timer; one that already fired is fine.
    pub(super) fn clear(&mut self, key: TimerKey) {
        self.set.remove(&key);
    }

    /// Takes the first timer that is due.
    pub(super) fn pop_due(&mut self, now: Time) -> Option<T> {
        let first = self.set.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }

    /// When the first timer is due.
    pub(super) fn next_at(&self) -> Option<Time> {
        self.set.first_key_value().map(|(key, _)| key.0)
    }
}
