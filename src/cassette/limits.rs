//! Bounds of the cassette, each with its reason.

use std::time::Duration;

/// Bytes of replies kept in memory, unless told otherwise.
pub const RAM_BYTES: usize = 64 * 1024 * 1024;
/// Counted for every reply in memory beside its payloads: record, names and table rows.
pub const RAM_OVERHEAD: usize = 512;
/// A reply that would take more than this part of the memory tier is not kept there: one reply must not push out all others.
pub const RAM_SHARE: usize = 4;
/// How long a batched record may wait for its sync.
pub const BATCHED: Duration = Duration::from_millis(5);
/// Operations that may wait for the recorder; the next one is refused as busy.
pub const RECORDER_QUEUE: usize = 16 * 1024;
/// Bytes of payloads that may wait for the recorder. One operation alone may be larger, as large as a reply may be.
pub const RECORDER_BYTES: u64 = 256 * 1024 * 1024;
/// Operations that one write and one sync serve, so that the first of them does not wait for ever.
pub const RECORDER_GROUP: usize = 4096;
/// Questions about which everything is kept exactly, because one entry does not tell; beyond it they are read again when needed.
pub const EXACT_QUESTIONS: usize = 64 * 1024;
/// Payloads remembered as served lately, for the choice of what to drop.
pub const SERVED: usize = 64 * 1024;
/// Bytes written after which the disk budget is looked at again.
pub const BUDGET_EVERY: u64 = 64 * 1024 * 1024;
/// So many must have waited for the last sync before the next one waits for them to come back.
pub const COMPANY: usize = 4;
/// A sync that waits for company begins when nobody has come for so long.
pub const COMPANY_SILENCE: Duration = Duration::from_micros(60);
/// A disk on which a sync takes longer than this does not make anybody wait longer for company.
pub const COMPANY_WAIT: Duration = Duration::from_millis(2);
