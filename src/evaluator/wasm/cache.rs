//! Compiled programs by the digest of their bytes: in memory, bounded, each compiled once however many ask.
//!
//! Refusals are remembered like programs, since the same bytes are refused again. Failures of the evaluator itself are not. A store of
//! artifacts on disk slots in where [`Programs::get`] calls `make`. Knows nothing of requests or of how a program is made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use super::limits::CACHED_MODULES;
use super::program::Program;
use crate::error::EvalError;
use crate::id::Digest;

type Outcome = Result<Arc<Program>, EvalError>;
type Slot = Arc<OnceLock<Outcome>>;

/// The cache.
pub(super) struct Programs {
    entries: Mutex<Entries>,
    bytes_bound: u64,
}

#[derive(Default)]
struct Entries {
    slots: BTreeMap<Digest, Entry>,
    /// Rises with every use; the smallest `used` is the least recently used entry.
    clock: u64,
}

struct Entry {
    slot: Slot,
    used: u64,
}

impl Programs {
    /// An empty cache that keeps at most this much machine code.
    pub(super) fn new(bytes_bound: u64) -> Self {
        Self { entries: Mutex::default(), bytes_bound }
    }

    /// The program of this digest. The first caller makes it on its own thread, others wait for that.
    pub(super) fn get(&self, digest: Digest, make: impl FnOnce() -> Result<Program, EvalError>) -> Outcome {
        let slot = self.with(|entries| entries.touch(digest));
        if let Some(outcome) = slot.get() {
            return outcome.clone();
        }
        let outcome = slot.get_or_init(|| make().map(Arc::new)).clone();
        self.with(|entries| {
            if !matches!(outcome, Ok(_) | Err(EvalError::Refused(_))) {
                entries.slots.remove(&digest);
            }
            entries.shrink(self.bytes_bound);
        });
        outcome
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.with(|entries| entries.slots.len())
    }

    fn with<R>(&self, work: impl FnOnce(&mut Entries) -> R) -> R {
        // Nothing below panics half-way through a change, so a poisoned lock still guards a whole map.
        work(&mut self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Entries {
    fn touch(&mut self, digest: Digest) -> Slot {
        self.clock += 1;
        let entry = self.slots.entry(digest).or_insert_with(|| Entry { slot: Slot::default(), used: 0 });
        entry.used = self.clock;
        Arc::clone(&entry.slot)
    }

    /// Forgets the least recently used entries until both bounds hold. What still runs keeps its program alive by itself.
    fn shrink(&mut self, bytes_bound: u64) {
        let size = |entry: &Entry| match entry.slot.get() {
            Some(Ok(program)) => program.compiled_bytes(),
            _ => 0,
        };
        let mut bytes: u64 = self.slots.values().map(size).sum();
        while self.slots.len() > CACHED_MODULES || (bytes > bytes_bound && self.slots.len() > 1) {
            let Some(oldest) = self.slots.iter().min_by_key(|(_, entry)| entry.used).map(|(digest, _)| *digest) else {
                break;
            };
            bytes -= self.slots.remove(&oldest).as_ref().map_or(0, size);
        }
    }
}
