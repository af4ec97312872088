//! What the recorder's thread reads of time: how long a batch has waited, and when payloads were dropped.

use std::time::{Instant, SystemTime};

#[expect(clippy::disallowed_methods, reason = "the recorder is a driver: a batch's delay is bounded by real time")]
pub(super) fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "the recorder is a driver: an eviction says when it happened")]
pub(super) fn micros() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}
