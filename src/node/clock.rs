//! The node's clocks and its randomness: the only places that read them, so that everything below takes them as arguments.

#![expect(clippy::disallowed_methods, reason = "this is the edge where time and randomness enter the process")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use crate::fabric::Time;

/// Monotonic time since the node started.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    start: Instant,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { start: Instant::now() }
    }

    pub(crate) fn now(&self) -> Time {
        Time(self.start.elapsed())
    }

    /// The instant of a moment, for the runtime's timers.
    pub(crate) fn instant(&self, at: Time) -> Instant {
        self.start + at.0
    }
}

/// Wall clock: microseconds since 1970; 0 for a clock before that.
#[must_use]
pub fn unix_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

/// Random bytes from the operating system.
pub fn random<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| std::io::Error::other(error.to_string()))?;
    Ok(bytes)
}
