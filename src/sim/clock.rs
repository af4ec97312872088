//! A node's clocks: a monotonic one that may run fast or slow, and a wall clock that may be wrong and jump.
//!
//! Only the monotonic one reaches decisions; the wall clock is written into records and believed by nobody. Invariant: the monotonic clock
//! never goes back.

use std::time::Duration;

use super::rng::Rng;
use super::scenario;
use crate::fabric::Time;

/// When a simulation begins, in microseconds since 1970.
const BEGIN: i64 = 1_795_000_000_000_000;
const MILLION: u128 = 1_000_000;

#[derive(Debug, Clone)]
pub(super) struct Clock {
    /// Local nanoseconds in a million real ones.
    rate: u128,
    /// What the wall clock shows too much, in microseconds.
    pub(super) wrong: i64,
}

impl Clock {
    pub(super) fn new(how: scenario::Clock, rng: &mut Rng) -> Self {
        let around = |rng: &mut Rng, width: u32| {
            i64::try_from(rng.below(2 * u64::from(width) + 1)).unwrap_or(0) - i64::from(width)
        };
        let rate = u128::try_from(1_000_000 + around(rng, how.drift)).unwrap_or(MILLION);
        Self { rate, wrong: around(rng, how.skew) * 1_000_000 }
    }

    /// What its monotonic clock shows after this long.
    pub(super) fn local(&self, elapsed: Duration) -> Duration {
        nanos(elapsed.as_nanos() * self.rate / MILLION)
    }

    /// After how long its monotonic clock shows at least this.
    pub(super) fn real(&self, local: Duration) -> Duration {
        nanos((local.as_nanos() * MILLION).div_ceil(self.rate))
    }

    /// Its wall clock, in microseconds since 1970.
    pub(super) fn unix(&self, now: Time) -> u64 {
        let real = i64::try_from(now.0.as_micros()).unwrap_or(i64::MAX);
        u64::try_from(BEGIN.saturating_add(real).saturating_add(self.wrong)).unwrap_or_default()
    }
}

fn nanos(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waiting_until_a_local_time_is_long_enough() {
        for seed in 0..200 {
            let clock = Clock::new(scenario::Clock { drift: 50_000, skew: 60 }, &mut Rng::new(seed));
            for local in [0, 1, 999, 1_000_000_007, 3_600_000_000_001].map(Duration::from_nanos) {
                assert!(clock.local(clock.real(local)) >= local);
            }
            assert!(clock.wrong.abs() <= 60_000_000);
        }
        let exact = Clock::new(scenario::Clock::default(), &mut Rng::new(1));
        assert_eq!(exact.local(Duration::from_secs(9)), Duration::from_secs(9));
        assert_eq!(exact.unix(Time::default()), 1_795_000_000_000_000);
    }
}
