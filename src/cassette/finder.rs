//! From a fingerprint to the positions of the entries that have it, in about ten bytes an entry.
//!
//! A table of 256 shards. What was in the ledger before this opening is read from the index files, a shard at its first use; what is
//! recorded since is put in. Invariant: a position found is a *candidate*; only the entry itself says what it is about.

use std::collections::BTreeMap;
use std::sync::{OnceLock, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::ledger::{LedgerReader, ReadError, Table};

const SHARDS: usize = 256;
/// Bits of a slot that are the position; the others are part of the fingerprint.
const POSITION_BITS: u32 = 36;
const POSITION: u64 = (1 << POSITION_BITS) - 1;
const TAG_BITS: u32 = 28;
const EMPTY: u64 = u64::MAX;
/// Why no shard is ever poisoned.
const SOUND: &str = "no code panics while it holds a shard";
/// A shard's smallest table.
const SMALLEST: usize = 8;
/// So many entries with one tag are in the table; the others are kept beside it, or they would make every search near them long.
const CROWD: usize = 16;

/// The entries that may have a fingerprint, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Candidates {
    None,
    One(u64),
    Many(Vec<u64>),
}

impl Candidates {
    pub(super) fn as_slice(&self) -> &[u64] {
        match self {
            Self::None => &[],
            Self::One(seq) => std::slice::from_ref(seq),
            Self::Many(all) => all,
        }
    }
}

#[derive(Default)]
struct Shard {
    /// Whether it has what was there before this opening.
    loaded: bool,
    len: usize,
    /// Open addressing: tag and position, or [`EMPTY`].
    slots: Vec<u64>,
    crowded: BTreeMap<u64, Vec<u64>>,
}

/// The table.
pub(super) struct Finder {
    ledger: LedgerReader,
    table: Table,
    /// Made at the first use: a node of which nobody asks anything does without the twenty kilobytes.
    shards: OnceLock<Vec<RwLock<Shard>>>,
}

fn tag(fingerprint: u64) -> u64 {
    (fingerprint >> TAG_BITS) & ((1 << TAG_BITS) - 1)
}

impl Shard {
    fn home(&self, tag: u64) -> usize {
        // Tags are evenly spread, so their upper part names a place.
        usize::try_from((tag * self.slots.len() as u64) >> TAG_BITS).expect("inside the table")
    }

    /// Up to three quarters full; grows by a quarter. Fuller, a search would touch several cache lines.
    fn reserve(&mut self, more: usize) {
        let wanted = self.len + more;
        if wanted * 4 <= self.slots.len() * 3 {
            return;
        }
        let capacity = (wanted * 7 / 5).max(self.slots.len() * 5 / 4).max(SMALLEST);
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; capacity]);
        old.into_iter().filter(|slot| *slot != EMPTY).for_each(|slot| self.put(slot));
    }

    fn put(&mut self, slot: u64) {
        let mut at = self.home(slot >> POSITION_BITS);
        while self.slots[at] != EMPTY {
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        self.slots[at] = slot;
    }

    /// Puts an entry in; returns how many with this tag were there, at most [`CROWD`].
    fn insert(&mut self, tag: u64, seq: u64) -> usize {
        self.reserve(1);
        let (mut at, mut others) = (self.home(tag), 0);
        while self.slots[at] != EMPTY {
            others += usize::from(self.slots[at] >> POSITION_BITS == tag);
            if others == CROWD {
                self.crowded.entry(tag).or_default().push(seq);
                return others;
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        self.slots[at] = tag << POSITION_BITS | seq;
        self.len += 1;
        others
    }

    fn find(&self, tag: u64) -> Candidates {
        let mut found = Candidates::None;
        if self.slots.is_empty() {
            return found;
        }
        let mut at = self.home(tag);
        while self.slots[at] != EMPTY {
            if self.slots[at] >> POSITION_BITS == tag {
                let seq = self.slots[at] & POSITION;
                match &mut found {
                    Candidates::None => found = Candidates::One(seq),
                    Candidates::One(first) => found = Candidates::Many(vec![*first, seq]),
                    Candidates::Many(all) => all.push(seq),
                }
            }
            at = if at + 1 == self.slots.len() { 0 } else { at + 1 };
        }
        if let Candidates::Many(all) = &mut found {
            if all.len() == CROWD {
                all.extend(self.crowded.get(&tag).into_iter().flatten());
            }
            all.sort_unstable();
            all.dedup();
        }
        found
    }
}

impl Finder {
    pub(super) fn new(ledger: LedgerReader, table: Table) -> Self {
        Self { ledger, table, shards: OnceLock::new() }
    }

    fn shard(&self, number: u8) -> &RwLock<Shard> {
        let all = self.shards.get_or_init(|| {
            let loaded = self.ledger.opened() == 0;
            (0..SHARDS).map(|_| RwLock::new(Shard { loaded, ..Shard::default() })).collect()
        });
        &all[usize::from(number)]
    }

    /// The entries that may have this fingerprint.
    pub(super) fn find(&self, fingerprint: u64) -> Result<Candidates, ReadError> {
        let number = LedgerReader::shard_of(fingerprint);
        let shard = self.read(number);
        if shard.loaded {
            return Ok(shard.find(tag(fingerprint)));
        }
        drop(shard);
        let mut shard = self.write(number);
        self.load(number, &mut shard)?;
        Ok(shard.find(tag(fingerprint)))
    }

    /// Puts an entry in; whether it is the only one with this fingerprint.
    pub(super) fn insert(&self, fingerprint: u64, seq: u64) -> Result<bool, ReadError> {
        let number = LedgerReader::shard_of(fingerprint);
        let mut shard = self.write(number);
        let loaded = self.load(number, &mut shard);
        let others = shard.insert(tag(fingerprint), seq);
        loaded.map(|()| others == 0)
    }

    /// Bytes of all tables.
    pub(super) fn bytes(&self) -> usize {
        let all = self.shards.get().into_iter().flatten();
        all.map(|shard| shard.read().expect(SOUND).slots.len() * size_of::<u64>()).sum()
    }

    fn load(&self, number: u8, shard: &mut Shard) -> Result<(), ReadError> {
        if shard.loaded {
            return Ok(());
        }
        let mut rows = Vec::new();
        self.ledger.shard(self.table, number, &mut |fingerprint, seq| rows.push((tag(fingerprint), seq)))?;
        shard.reserve(rows.len());
        for (tag, seq) in rows {
            shard.insert(tag, seq);
        }
        shard.loaded = true;
        Ok(())
    }

    fn read(&self, number: u8) -> RwLockReadGuard<'_, Shard> {
        self.shard(number).read().expect(SOUND)
    }

    fn write(&self, number: u8) -> RwLockWriteGuard<'_, Shard> {
        self.shard(number).write().expect(SOUND)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shard_finds_all_positions_of_a_tag_and_no_others() {
        let mut shard = Shard::default();
        let mut model: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        // A weak generator with a fixed seed; some tags come again, some lie at the very end.
        let mut state = 7u64;
        for seq in 0..5000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let tag = match seq % 7 {
                0 => (1 << TAG_BITS) - 1,
                1 => state >> 60,
                _ => state >> (64 - TAG_BITS),
            };
            shard.insert(tag, seq);
            model.entry(tag).or_default().push(seq);
        }
        for (tag, seqs) in &model {
            assert_eq!(shard.find(*tag).as_slice(), seqs);
        }
        assert_eq!(shard.find(12_345_678), model.get(&12_345_678).map_or(Candidates::None, |_| unreachable!()));
        assert!(shard.slots.len() * 8 <= 5000 * 12, "{} slots for 5000 entries", shard.slots.len());
    }
}
