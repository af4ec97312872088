//! Sealing: the open run becomes a sealed one, and its index goes to the index file.
//!
//! Only durable entries are sealed, so an index never speaks of what a crash takes back. The index file itself is never synced: what a crash
//! takes of it is made anew from the frames.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::proof::Hash;

use super::block::{MAX_ENTRIES, Sealing};
use super::frame::{FIXED, u32_at};
use super::limits::SMALL_RUN;
use super::run::{Held, Run, Segment};
use super::state::{State, index_path};
use super::storage::{Storage, StorageFile};

/// The index file of the newest segment.
#[derive(Default)]
pub(super) struct IndexFile {
    file: Option<Arc<dyn StorageFile>>,
    /// Where the next block goes.
    end: u64,
}

impl IndexFile {
    /// An index file whose first blocks hold; whatever follows them is cut off.
    pub(super) fn resume(file: Arc<dyn StorageFile>, end: u64) -> io::Result<Self> {
        if file.len()? > end {
            file.set_len(end)?;
        }
        Ok(Self { file: Some(file), end })
    }

    fn file(&mut self, storage: &dyn Storage, first: u64) -> io::Result<Arc<dyn StorageFile>> {
        if let Some(file) = &self.file {
            return Ok(file.clone());
        }
        let path = index_path(first);
        match storage.create_new(&path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => storage.open(&path)?.set_len(0)?,
            other => drop(other?),
        }
        let file = storage.open_lasting(&path)?;
        self.file = Some(file.clone());
        Ok(file)
    }

    /// Makes sealed runs of all open entries, which lie in `segment` and are durable.
    pub(super) fn seal(&mut self, storage: &dyn Storage, state: &mut State, segment: &Arc<Segment>) -> io::Result<()> {
        while !state.open.rows.is_empty() {
            let run = self.next_run(storage, state, segment)?;
            state.install(run);
        }
        Ok(())
    }

    /// Takes small runs before the open one back into it, so that many short openings do not leave many short runs: one is taken back if it
    /// is no longer than what follows it, as in a binary counter.
    pub(super) fn absorb(&mut self, state: &mut State, segment: &Arc<Segment>) -> io::Result<()> {
        while let Some(run) = state.runs.last()
            && Arc::ptr_eq(&run.segment, segment)
            && run.range().end == state.open.first
            && !state.open.damaged
            && run.count <= state.open.rows.len() as u64
        {
            let first = run.first;
            let Some((at, held)) = run.reread(SMALL_RUN)? else { break };
            state.runs.pop();
            self.end = at;
            let names = held.names.iter().map(|(name, local)| (*name, first + u64::from(*local)));
            state.open.names.splice(0..0, names);
            state.open.rows.splice(0..0, held.rows);
            state.open.first = first;
        }
        Ok(())
    }

    /// The first open entries as a sealed run: as many as fit in one.
    pub(super) fn next_run(&mut self, storage: &dyn Storage, state: &State, segment: &Arc<Segment>) -> io::Result<Run> {
        let open = &state.open;
        if open.damaged {
            // What is damaged stays in memory, and is read again and reported at the next opening.
            return Ok(held(state, segment));
        }
        let count = open.rows.len().min(MAX_ENTRIES);
        let file = self.file(storage, segment.first)?;
        let rows = &open.rows[..count];
        let end = open.rows.get(count).map_or(open.end, |next| next.offset);
        let last = rows[count - 1].offset;
        let fixed = segment.file()?.read_exact(u64::from(last), FIXED)?;
        let checksum = u32_at(&fixed, 4).unwrap_or(0);
        let covered = open.first + count as u64;
        let local = |(name, seq): &(u64, u64)| Some((*name, u16::try_from(seq.checked_sub(open.first)?).ok()?));
        let inside = open.names.iter().filter(|(_, seq)| *seq < covered);
        let names: Vec<_> = inside.filter_map(local).collect();
        let pages = pages_of(state, open.first..covered);
        let sealing = Sealing { first: open.first, rows, names: &names, end, checksum, pages: &pages };
        let (run, file_end) = Run::seal(segment.clone(), file, self.end, &sealing)?;
        self.end = file_end;
        Ok(run)
    }
}

/// All open entries as a run in memory.
fn held(state: &State, segment: &Arc<Segment>) -> Run {
    let open = &state.open;
    let names = open.names.iter().filter_map(|(name, seq)| Some((*name, u32::try_from(seq - open.first).ok()?)));
    let held = Held { rows: open.rows.clone(), names: names.collect() };
    Run::held(segment.clone(), open.first, open.end, held)
}

/// The hashes of the tree pages that these entries complete.
pub(super) fn pages_of(state: &State, range: Range<u64>) -> Vec<Hash> {
    let mut pages = Vec::new();
    for position in state.epoch_of(range.start).unwrap_or(0)..state.epochs.len() {
        let (epoch, end) = (&state.epochs[position], state.epoch_end(position).min(range.end));
        let from = range.start.max(epoch.start);
        if from < end {
            pages.extend(epoch.tree.pages_between(from - epoch.start, end - epoch.start));
        }
    }
    pages
}
