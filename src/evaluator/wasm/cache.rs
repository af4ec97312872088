//! The first layer of compiled programs: in memory, bounded, each made once however many ask.
//!
//! Whoever asks first begins the making, on another thread; all wait for it with their own deadline, and one that gives up disturbs nobody.
//! Refusals are remembered like programs, since the same bytes are refused again, and so is what was too costly to compile; what only this
//! moment refused is not. Invariant: every slot is filled exactly once, also when its making panics. Knows nothing of requests or of how a
//! program is made. Its locks come from the module above, so that `tests/interleavings` runs this very file under many orders of its threads.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use bytes::Bytes;

use super::engine::Flavour;
use super::limits::{CACHED_MODULES, KNOWN_BYTES, KNOWN_PROGRAMS, TICK};
use super::program::Program;
use super::sync::{Arc, Condvar, Mutex, PoisonError};
use crate::error::{EvalError, LimitHit, Refusal};
use crate::evaluator::artifacts::{Counters, Layer, Miss};
use crate::id::Digest;

/// What came of making a program.
pub(super) type Outcome = Result<Arc<Program>, EvalError>;

/// What names compiled code within one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) digest: Digest,
    pub(super) flavour: Flavour,
}

/// The cache.
pub(super) struct Programs {
    entries: Mutex<Entries>,
    known: Mutex<Known>,
    bytes_bound: u64,
}

#[derive(Default)]
struct Entries {
    slots: BTreeMap<Key, Entry>,
    /// Rises with every use; the smallest `used` is the least recently used entry.
    clock: u64,
}

struct Entry {
    slot: Arc<Slot>,
    used: u64,
}

/// A place that is filled once.
#[derive(Default)]
struct Slot {
    outcome: OnceLock<Outcome>,
    filling: Mutex<()>,
    filled: Condvar,
}

/// The duty to fill a slot. Dropped without an outcome, for example because no thread took it, it says that the compilers are busy.
pub(super) struct Making {
    programs: Arc<Programs>,
    key: Key,
    slot: Arc<Slot>,
    bound: u64,
}

impl Programs {
    /// An empty cache that keeps at most this much machine code.
    pub(super) fn new(bytes_bound: u64) -> Arc<Self> {
        Arc::new(Self { entries: Mutex::default(), known: Mutex::default(), bytes_bound })
    }

    /// The program of this key. The first caller's `begin` sees to it that it is made; everybody waits until then, or until `go_on` fails.
    pub(super) fn get(
        self: &Arc<Self>,
        key: Key,
        queue: u64,
        counters: &Counters,
        go_on: impl Fn() -> Result<(), EvalError>,
        begin: impl FnOnce(Making),
    ) -> Outcome {
        let (slot, first) = self.with(|entries| entries.touch(key));
        if let Some(outcome) = slot.outcome.get() {
            counters.ram_hit();
            return outcome.clone();
        }
        if first {
            counters.missed(Layer::Ram, Miss::Absent);
            begin(Making { programs: Arc::clone(self), key, slot: Arc::clone(&slot), bound: queue });
        }
        slot.wait(go_on)
    }

    /// The digest of a program's bytes. They cannot change, so where they lie names them for as long as they are held.
    pub(super) fn digest(&self, code: &Bytes) -> Digest {
        let place = (code.as_ptr() as usize, code.len());
        let known = || self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, digest)) = known().programs.get(&place) {
            return *digest;
        }
        let digest = Digest::of(code);
        known().remember(place, code, digest);
        digest
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

/// Programs by the place of their bytes, which are held so that nothing else can come to lie there.
#[derive(Default)]
struct Known {
    programs: BTreeMap<(usize, usize), (Bytes, Digest)>,
    bytes: usize,
}

impl Known {
    fn remember(&mut self, place: (usize, usize), code: &Bytes, digest: Digest) {
        if self.programs.len() >= KNOWN_PROGRAMS || self.bytes + code.len() > KNOWN_BYTES {
            // Refilling costs one hash each, which is what remembering saved on every call before.
            *self = Self::default();
        }
        if self.programs.insert(place, (code.clone(), digest)).is_none() {
            self.bytes += code.len();
        }
    }
}

impl Making {
    /// Fills the slot.
    pub(super) fn finish(self, outcome: Result<Program, EvalError>) {
        self.fill(outcome.map(Arc::new));
    }

    fn fill(&self, outcome: Outcome) {
        let too_costly =
            matches!(outcome, Err(EvalError::Limit(LimitHit::CompileTime { .. } | LimitHit::CompileMemory { .. })));
        let unavailable = matches!(outcome, Err(EvalError::Refused(Refusal::WorkerUnavailable(_))));
        let keep = too_costly || !unavailable && matches!(outcome, Ok(_) | Err(EvalError::Refused(_)));
        {
            let _filling = self.slot.filling.lock().unwrap_or_else(PoisonError::into_inner);
            if self.slot.outcome.set(outcome).is_err() {
                return;
            }
            self.slot.filled.notify_all();
        }
        self.programs.with(|entries| {
            let own = entries.slots.get(&self.key).is_some_and(|entry| Arc::ptr_eq(&entry.slot, &self.slot));
            if !keep && own {
                entries.slots.remove(&self.key);
            }
            entries.shrink(self.programs.bytes_bound);
        });
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.slot.outcome.get().is_none() {
            self.fill(Err(EvalError::Busy { what: "compile queue".to_owned(), bound: self.bound }));
        }
    }
}

impl Slot {
    fn wait(&self, go_on: impl Fn() -> Result<(), EvalError>) -> Outcome {
        let mut filling = self.filling.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(outcome) = self.outcome.get() {
                return outcome.clone();
            }
            go_on()?;
            filling = self.filled.wait_timeout(filling, TICK).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Entries {
    /// The slot of a key, and whether nobody had it yet.
    fn touch(&mut self, key: Key) -> (Arc<Slot>, bool) {
        self.clock += 1;
        let mut first = false;
        let entry = self.slots.entry(key).or_insert_with(|| {
            first = true;
            Entry { slot: Arc::default(), used: 0 }
        });
        entry.used = self.clock;
        (Arc::clone(&entry.slot), first)
    }

    /// Forgets the least recently used entries until both bounds hold. What still runs keeps its program alive by itself.
    fn shrink(&mut self, bytes_bound: u64) {
        let size = |entry: &Entry| match entry.slot.outcome.get() {
            Some(Ok(program)) => program.compiled_bytes(),
            _ => 0,
        };
        let mut bytes: u64 = self.slots.values().map(size).sum();
        while self.slots.len() > CACHED_MODULES || (bytes > bytes_bound && self.slots.len() > 1) {
            let Some(oldest) = self.slots.iter().min_by_key(|(_, entry)| entry.used).map(|(key, _)| *key) else {
                break;
            };
            bytes -= self.slots.remove(&oldest).as_ref().map_or(0, size);
        }
    }
}
