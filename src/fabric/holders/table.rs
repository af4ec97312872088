//! The one merged table: from a key to the runs that have it, about 4.5 bytes a fact.
//!
//! Linear hashing over pages: a key's low bits choose its page, the page stores the rest. The table grows by splitting one page at a time,
//! so no insertion ever pays for the whole table. Invariant: `entries` and `bytes` are the sums over all pages.

use super::page::{Entry, Page};
use crate::fabric::segment::KEY_BITS;

/// Entries per page, on average, before the next page is split.
const PAGE_ENTRIES: usize = 256;

#[derive(Debug)]
pub(super) struct Table {
    pages: Vec<Page>,
    /// There are `1 << level` pages and `split` more: that many were split already on the way to the next level.
    level: u32,
    split: usize,
    entries: usize,
    bytes: usize,
}

impl Default for Table {
    fn default() -> Self {
        let page = Page::default();
        let bytes = page.bytes();
        Self { pages: vec![page], level: 0, split: 0, entries: 0, bytes }
    }
}

impl Table {
    pub(super) fn len(&self) -> usize {
        self.entries
    }

    /// Memory, the allocator's part and the spare room of the list of pages included.
    pub(super) fn bytes(&self) -> usize {
        self.bytes + (self.pages.capacity() - self.pages.len()) * size_of::<Page>()
    }

    /// How many bytes one insertion adds at most.
    pub(super) fn growth(&self) -> usize {
        let is_full = self.pages.len() == self.pages.capacity();
        let list = if is_full { self.more_pages() * size_of::<Page>() } else { 0 };
        // One page is rebuilt, and one is split in two.
        list + 3 * Page::growth(KEY_BITS)
    }

    pub(super) fn pages(&self) -> usize {
        self.pages.len()
    }

    pub(super) fn runs(&self, key: u64) -> impl Iterator<Item = u32> {
        let (page, rem, rem_bits) = self.place(key);
        self.pages[page].find(rem, rem_bits)
    }

    /// Adds an entry, whether or not there are equal ones.
    pub(super) fn insert(&mut self, key: u64, run: u32) {
        let (page, rem, rem_bits) = self.place(key);
        if self.pages[page].append((rem, run), rem_bits) {
            self.entries += 1;
        } else {
            let mut entries: Vec<_> = self.pages[page].entries(rem_bits).collect();
            entries.push((rem, run));
            self.replace(page, entries, rem_bits);
        }
        if self.entries > self.pages.len() * PAGE_ENTRIES {
            self.split_next();
        }
    }

    /// Removes the entries of a key whose run `goes`; says how many.
    pub(super) fn remove(&mut self, key: u64, goes: impl Fn(u32) -> bool) -> usize {
        let (page, rem, rem_bits) = self.place(key);
        self.retain(page, rem_bits, |(found, run)| found != rem || !goes(run))
    }

    /// Removes what `goes` from one page; says how many entries.
    pub(super) fn purge(&mut self, page: usize, goes: impl Fn(u32) -> bool) -> usize {
        let rem_bits = self.rem_bits(page);
        self.retain(page, rem_bits, |(_, run)| !goes(run))
    }

    /// All keys with their runs, page by page.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, u32)> {
        self.pages.iter().enumerate().flat_map(|(at, page)| {
            let rem_bits = self.rem_bits(at);
            page.entries(rem_bits).map(move |(rem, run)| ((rem << (KEY_BITS - rem_bits)) | at as u64, run))
        })
    }

    fn retain(&mut self, page: usize, rem_bits: u32, stays: impl Fn(Entry) -> bool) -> usize {
        let before = self.pages[page].len();
        if self.pages[page].entries(rem_bits).all(&stays) {
            return 0;
        }
        let entries: Vec<_> = self.pages[page].entries(rem_bits).filter(|entry| stays(*entry)).collect();
        let gone = before - entries.len();
        self.replace(page, entries, rem_bits);
        gone
    }

    fn replace(&mut self, page: usize, entries: Vec<Entry>, rem_bits: u32) {
        let old = &self.pages[page];
        self.bytes -= old.bytes();
        self.entries = self.entries - old.len() + entries.len();
        let new = Page::new(entries, rem_bits);
        self.bytes += new.bytes();
        self.pages[page] = new;
    }

    fn split_next(&mut self) {
        let page = self.split;
        let rem_bits = self.rem_bits(page);
        if rem_bits == 1 {
            return;
        }
        let entries: Vec<_> = self.pages[page].entries(rem_bits).collect();
        let half = |bit: u64| {
            let mine = entries.iter().filter(move |(rem, _)| rem & 1 == bit);
            mine.map(|(rem, run)| (rem >> 1, *run)).collect::<Vec<_>>()
        };
        let (stay, go) = (half(0), half(1));
        if self.pages.len() == self.pages.capacity() {
            self.pages.reserve_exact(self.more_pages());
        }
        self.pages.push(Page::default());
        self.bytes += Page::default().bytes();
        self.split += 1;
        if self.split == 1 << self.level {
            self.level += 1;
            self.split = 0;
        }
        let other = self.pages.len() - 1;
        self.replace(page, stay, rem_bits - 1);
        self.replace(other, go, rem_bits - 1);
    }

    /// How many places the list of pages gets at a time: doubling it would need much of the budget at once.
    fn more_pages(&self) -> usize {
        self.pages.len() / 16 + 16
    }

    /// The page of a key, what the page stores of it, and in how many bits.
    fn place(&self, key: u64) -> (usize, u64, u32) {
        let low = |bits: u32| usize::try_from(key & ((1 << bits) - 1)).expect("fewer pages than addresses");
        let coarse = low(self.level);
        let page = if coarse < self.split { low(self.level + 1) } else { coarse };
        let rem_bits = self.rem_bits(page);
        (page, key >> (KEY_BITS - rem_bits), rem_bits)
    }

    fn rem_bits(&self, page: usize) -> u32 {
        let is_fine = page < self.split || page >= 1 << self.level;
        KEY_BITS - self.level - u32::from(is_fine)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn check(table: &Table, model: &BTreeSet<(u64, u32)>) -> Result<(), TestCaseError> {
        prop_assert_eq!(table.iter().collect::<BTreeSet<_>>(), model.clone());
        prop_assert_eq!(table.len(), model.len());
        prop_assert_eq!(table.bytes, table.pages.iter().map(Page::bytes).sum::<usize>());
        for (key, _) in model {
            let found: BTreeSet<_> = table.runs(*key).collect();
            let wanted: BTreeSet<_> = model.range((*key, 0)..=(*key, u32::MAX)).map(|(_, run)| *run).collect();
            prop_assert_eq!(found, wanted);
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_table_is_a_set_of_pairs(
            pairs in proptest::collection::btree_set((0..1_u64 << KEY_BITS, 0..5_u32), 0..3000),
            wide in 0..200_000_u32,
        ) {
            let mut table = Table::default();
            let mut model = BTreeSet::new();
            for (at, (key, run)) in pairs.into_iter().enumerate() {
                // Some runs need far more bits than others, and some keys are crowded.
                let pair = (if at % 7 == 0 { key % 9 } else { key }, if at % 50 == 0 { run + wide } else { run });
                if model.insert(pair) {
                    table.insert(pair.0, pair.1);
                }
            }
            check(&table, &model)?;
            for key in 0..9 {
                table.remove(key, |run| run == 1);
            }
            model.retain(|(key, run)| *key >= 9 || *run != 1);
            check(&table, &model)?;
            for page in 0..table.pages() {
                table.purge(page, |run| run == 2);
            }
            model.retain(|(_, run)| *run != 2);
            check(&table, &model)?;
        }
    }

    #[test]
    fn an_insertion_adds_no_more_than_its_bound() {
        let mut table = Table::default();
        for n in 0..20_000_u64 {
            let (before, growth) = (table.bytes(), table.growth());
            table.insert(crate::fabric::segment::key(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)), (n % 3000) as u32);
            assert!(table.bytes() <= before + growth, "at {n}: {before} + {growth} < {}", table.bytes());
        }
    }
}
