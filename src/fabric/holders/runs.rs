//! Runs: what the table's entries belong to, each the part of one log in one segment.
//!
//! Killing a run masks all its entries at once; a sweep over the table removes them later, page by page, and only then is its number used
//! again. Invariant: no entry of the table names a run that is free.

use super::table::Table;

#[derive(Debug, Clone, Copy)]
struct Run {
    /// The log that it belongs to; `DEAD` once it is masked.
    log: u32,
    /// Entries in the table.
    facts: u32,
    /// The log position after its last fact.
    end: u64,
}

const DEAD: u32 = u32::MAX;

#[derive(Debug, Default)]
pub(super) struct Runs {
    all: Vec<Run>,
    /// Numbers that no entry names.
    free: Vec<u32>,
    /// Masked since the current sweep began.
    waiting: Vec<u32>,
    /// Masked before the current sweep began.
    swept: Vec<u32>,
    /// The next page of the current sweep.
    cursor: usize,
}

impl Runs {
    pub(super) fn start(&mut self, log: usize) -> u32 {
        let run = Run { log: u32::try_from(log).expect("fewer logs than MAX_LOGS"), facts: 0, end: 0 };
        if let Some(number) = self.free.pop() {
            self.all[number as usize] = run;
            return number;
        }
        self.all.push(run);
        u32::try_from(self.all.len() - 1).expect("a run has a fact, and there are not so many")
    }

    /// The log of a run that is not masked.
    pub(super) fn log(&self, run: u32) -> Option<usize> {
        let log = self.all[run as usize].log;
        (log != DEAD).then_some(log as usize)
    }

    pub(super) fn facts(&self, run: u32) -> u32 {
        self.all[run as usize].facts
    }

    pub(super) fn end(&self, run: u32) -> u64 {
        self.all[run as usize].end
    }

    pub(super) fn extend(&mut self, run: u32, end: u64) {
        let run = &mut self.all[run as usize];
        run.end = run.end.max(end);
    }

    pub(super) fn count(&mut self, run: u32, more: bool) {
        let facts = &mut self.all[run as usize].facts;
        *facts = if more { *facts + 1 } else { *facts - 1 };
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }

    pub(super) fn bytes(&self) -> usize {
        let numbers = self.free.capacity() + self.waiting.capacity() + self.swept.capacity();
        self.all.capacity() * size_of::<Run>() + numbers * size_of::<u32>()
    }

    /// How many bytes one more run adds at most.
    pub(super) fn growth(&self) -> usize {
        if self.all.len() == self.all.capacity() { (self.all.len() + 4) * size_of::<Run>() + 18 } else { 18 }
    }

    pub(super) fn kill(&mut self, run: u32) {
        self.all[run as usize].log = DEAD;
        self.waiting.push(run);
    }

    pub(super) fn is_sweeping(&self) -> bool {
        !self.waiting.is_empty() || !self.swept.is_empty()
    }

    /// Sweeps one page; `false` if there is nothing to do.
    pub(super) fn sweep(&mut self, table: &mut Table) -> bool {
        if self.swept.is_empty() {
            std::mem::swap(&mut self.swept, &mut self.waiting);
            self.cursor = 0;
        }
        if self.swept.is_empty() {
            return false;
        }
        table.purge(self.cursor, |run| self.all[run as usize].log == DEAD);
        self.cursor += 1;
        // A page that is split meanwhile leaves its other half at the end, where the cursor still comes by.
        if self.cursor >= table.pages() {
            self.free.append(&mut self.swept);
        }
        true
    }
}
