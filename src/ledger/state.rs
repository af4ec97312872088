//! What writer and readers share: the sealed runs, the open one, and the tree of every epoch.
//!
//! Only written entries are in here; what still waits in the writer's buffer is not. Invariant: the runs follow each other without gaps from
//! position 0, and the open run follows the last of them.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::id::{EpochId, NodeId};
use crate::message::LogItem;
use crate::proof::{Hash, SignedHead, Tree};

use super::blobs::Guards;
use super::block::{Table, Totals};
use super::error::ReadError;
use super::limits::PAGES_KEPT;
use super::row::{Row, Sort, log_item};
use super::run::{Place, Run, Segment};
use super::storage::Storage;
use super::tree::{Edge, PAGE, PagedTree};

pub(super) struct Epoch {
    pub(super) id: EpochId,
    pub(super) start: u64,
    /// The leaves up to the first lost entry. Invariant: leaf `i` is the entry `start + i`.
    pub(super) tree: PagedTree,
}

/// Entries that are written and not sealed yet; all in the newest segment.
#[derive(Default)]
pub(super) struct Open {
    pub(super) first: u64,
    pub(super) rows: Vec<Row>,
    /// Fingerprints of inline payloads, each with the position of its entry.
    pub(super) names: Vec<(u64, u64)>,
    /// Where the last frame ends.
    pub(super) end: u32,
    /// Whether something among them is lost or damaged.
    pub(super) damaged: bool,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) segments: Vec<Arc<Segment>>,
    pub(super) runs: Vec<Arc<Run>>,
    pub(super) open: Open,
    /// In order of their starts.
    pub(super) epochs: Vec<Epoch>,
    /// The first entry that is kept: whole segments before it were dropped.
    pub(super) floor: u64,
    /// The leaves before the floor that share a tree page with entries above it.
    pub(super) below: Vec<Hash>,
}

/// Where an entry is.
pub(super) enum Located {
    /// Not written yet.
    Beyond,
    Lost,
    /// Below the floor.
    Dropped,
    At(Arc<Segment>, Place),
}

impl State {
    pub(super) fn length(&self) -> u64 {
        self.open.first + self.open.rows.len() as u64
    }

    /// The run that covers an entry; `None` if it is in the open one or beyond.
    pub(super) fn run_of(&self, seq: u64) -> Option<&Arc<Run>> {
        let after = self.runs.partition_point(|run| run.first <= seq);
        self.runs.get(after.checked_sub(1)?).filter(|run| run.range().contains(&seq))
    }

    fn open_row(&self, seq: u64) -> Option<&Row> {
        self.open.rows.get(usize::try_from(seq.checked_sub(self.open.first)?).ok()?)
    }

    /// Where an entry of the open run is.
    fn locate_open(&self, seq: u64) -> Option<Located> {
        let row = self.open_row(seq)?;
        if row.is_lost() {
            return Some(Located::Lost);
        }
        let next = (seq + 1..self.length()).find_map(|seq| self.open_row(seq).filter(|row| !row.is_lost()));
        let len = next.map_or(self.open.end, |next| next.offset).saturating_sub(row.offset);
        Some(Located::At(self.segments.last()?.clone(), Place { offset: row.offset, len }))
    }

    /// The position of the epoch that an entry belongs to; `None` if the beginning of the ledger is lost.
    pub(super) fn epoch_of(&self, seq: u64) -> Option<usize> {
        self.epochs.partition_point(|epoch| epoch.start <= seq).checked_sub(1)
    }

    /// The sequence number after the last entry of an epoch.
    pub(super) fn epoch_end(&self, position: usize) -> u64 {
        self.epochs.get(position + 1).map_or(self.length(), |next| next.start)
    }

    /// Appends an entry to the open run; `opens` if it starts an epoch.
    pub(super) fn push(&mut self, row: Row, end: u32, opens: Option<EpochId>) {
        let seq = self.length();
        if let Some(id) = opens {
            self.epochs.push(Epoch { id, start: seq, tree: PagedTree::default() });
        }
        if let Some(epoch) = self.epochs.last_mut() {
            if row.is_lost() {
                epoch.tree.break_off();
            } else {
                epoch.tree.push(row.leaf);
            }
        }
        self.open.rows.push(row);
        self.open.end = end;
    }

    /// A run takes the place of the first open entries.
    pub(super) fn install(&mut self, run: Run) {
        let covered = run.range().end;
        let count = usize::try_from(run.count).expect("a run in memory");
        self.runs.push(Arc::new(run));
        self.open.rows.drain(..count);
        self.open.names.retain(|(_, seq)| *seq >= covered);
        self.open.first = covered;
        self.open.damaged &= !self.open.rows.is_empty();
    }

    /// Bytes of all this in memory.
    pub(super) fn bytes(&self) -> usize {
        let runs: usize = self.runs.iter().map(|run| run.bytes()).sum();
        let trees: usize = self.epochs.iter().map(|epoch| epoch.tree.bytes()).sum();
        let open = self.open.rows.capacity() * size_of::<Row>() + self.open.names.capacity() * size_of::<(u64, u64)>();
        runs + trees + open
    }

    /// Sums over everything.
    pub(super) fn totals(&self) -> Sums {
        let mut sums = Sums::default();
        for run in &self.runs {
            match (run.header(), run.rows()) {
                (Some(header), _) => sums.add(&header.totals),
                (None, rows) => sums.add(&Totals::of(rows.unwrap_or_default())),
            }
        }
        sums.add(&Totals::of(&self.open.rows));
        sums
    }
}

/// Sums over a whole ledger.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Entries with a record, observed and adopted.
    pub records: u64,
    /// Those of them that answer their question again later.
    pub answers: u64,
    /// Retractions.
    pub retractions: u64,
    /// Entries of a kind or version that is not known here.
    pub unknown: u64,
    /// Bytes of all payloads that the records name.
    pub payload: u64,
}

impl Sums {
    fn add(&mut self, totals: &Totals) {
        self.records += u64::from(totals.records);
        self.answers += u64::from(totals.answers);
        self.retractions += u64::from(totals.retractions);
        self.unknown += u64::from(totals.unknown);
        self.payload += totals.payload;
    }
}

/// A run's entries as they appear in the announcement log, under the positions that it covered when it was listed.
type Listed = (Range<u64>, Arc<Vec<LogItem>>);

pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) node: NodeId,
    /// Entries before this opening.
    pub(super) opened: u64,
    state: RwLock<State>,
    /// Entries before this one survive any crash. Invariant: never above `state.length()`, never falls.
    durable: AtomicU64,
    /// The newest head of each epoch that was asked for, by the epoch's start.
    pub(super) heads: Mutex<BTreeMap<u64, SignedHead>>,
    /// Full pages of the trees that were asked for lately, by the position of their first entry. They are checked by whoever uses them.
    pages: Mutex<BTreeMap<u64, Arc<Tree>>>,
    /// The right edge of each epoch's tree at the length that was asked for last, by the epoch's start.
    edges: Mutex<BTreeMap<u64, Arc<Edge>>>,
    /// The log items of the run that was listed last: peers read a log from one end to the other.
    /// Runs are put together, so a run is named by its whole range.
    listed: Mutex<Option<Listed>>,
    /// Payloads that streamed in and that no entry names yet.
    pub(super) guards: Guards,
    intakes: AtomicU64,
}

impl Shared {
    pub(super) fn new(storage: Arc<dyn Storage>, node: NodeId, state: State) -> Self {
        let (durable, opened) = (AtomicU64::new(0), state.length());
        Self {
            storage,
            node,
            opened,
            state: RwLock::new(state),
            durable,
            heads: Mutex::default(),
            pages: Mutex::default(),
            edges: Mutex::default(),
            listed: Mutex::default(),
            guards: Guards::default(),
            intakes: AtomicU64::new(0),
        }
    }

    pub(super) fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().expect("no code panics while it changes the ledger's state")
    }

    pub(super) fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().expect("no code panics while it changes the ledger's state")
    }

    pub(super) fn durable(&self) -> u64 {
        self.durable.load(Ordering::Acquire)
    }

    pub(super) fn set_durable(&self, length: u64) {
        self.durable.store(length, Ordering::Release);
    }

    /// A number that no other payload streaming in has.
    pub(super) fn next_intake(&self) -> u64 {
        self.intakes.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn read_error(&self, path: &str, source: io::Error) -> ReadError {
        ReadError::Io { path: self.storage.locate(path), source: Arc::new(source) }
    }

    /// Where an entry is. Reads the index file the first time that a run is asked about.
    pub(super) fn locate(&self, seq: u64) -> Result<Located, ReadError> {
        let run = {
            let state = self.read();
            if let Some(located) = state.locate_open(seq) {
                return Ok(located);
            }
            if seq < state.floor {
                return Ok(Located::Dropped);
            }
            let Some(run) = state.run_of(seq) else { return Ok(Located::Beyond) };
            if let Some(place) = run.known_place(seq) {
                return Ok(place.map_or(Located::Lost, |place| Located::At(run.segment.clone(), place)));
            }
            run.clone()
        };
        // Not under the lock: it reads the disk.
        let place = run.place(seq).map_err(|error| self.read_error(&index_path(run.segment.first), error))?;
        Ok(place.map_or(Located::Lost, |place| Located::At(run.segment.clone(), place)))
    }

    /// The leaves of these entries, fewer if one is lost; see [`Run::leaves`].
    pub(super) fn leaves(&self, state: &State, range: Range<u64>, careful: bool) -> Result<Vec<Hash>, ReadError> {
        leaves(state, range, careful).map_err(|(first, error)| self.read_error(&index_path(first), error))
    }

    /// As [`Self::read`], if nobody writes.
    pub(super) fn try_read(&self) -> Option<RwLockReadGuard<'_, State>> {
        self.state.try_read().ok()
    }

    /// The root over the first `length` leaves of an epoch.
    pub(super) fn root(&self, state: &State, position: usize, length: u64) -> Result<Option<Hash>, ReadError> {
        let Some(epoch) = state.epochs.get(position) else { return Ok(None) };
        Ok(self.edge(state, epoch, length)?.map(|edge| edge.root()))
    }

    /// The audit path of a leaf of an epoch.
    pub(super) fn path(
        &self,
        state: &State,
        position: usize,
        index: u64,
        length: u64,
    ) -> Result<Option<Vec<Hash>>, ReadError> {
        let Some(epoch) = state.epochs.get(position) else { return Ok(None) };
        let Some(edge) = self.edge(state, epoch, length)? else { return Ok(None) };
        if let Some(path) = epoch.tree.path(index, &edge, &mut |page| self.page(state, epoch, page, false))? {
            return Ok(Some(path));
        }
        epoch.tree.path(index, &edge, &mut |page| self.page(state, epoch, page, true))
    }

    /// As [`Self::path`], if all of it is in memory.
    pub(super) fn path_at_hand(&self, state: &State, position: usize, index: u64, length: u64) -> Option<Vec<Hash>> {
        let epoch = state.epochs.get(position)?;
        let edge = self.edges.try_lock().ok()?.get(&epoch.start).filter(|edge| edge.length() == length)?.clone();
        let known = |page| self.pages.try_lock().ok()?.get(&page_range(epoch, page).start).cloned();
        epoch.tree.path(index, &edge, &mut |page| known(page).ok_or(())).ok()?
    }

    /// The right edge of an epoch's tree of so many leaves; it is the same for every path under one head.
    fn edge(&self, state: &State, epoch: &Epoch, length: u64) -> Result<Option<Arc<Edge>>, ReadError> {
        let edges = || self.edges.lock().expect("no code panics while it holds the edges");
        if let Some(known) = edges().get(&epoch.start).filter(|edge| edge.length() == length) {
            return Ok(Some(Arc::clone(known)));
        }
        let mut made = epoch.tree.edge(length, &mut |page| self.page(state, epoch, page, false))?;
        if made.is_none() {
            made = epoch.tree.edge(length, &mut |page| self.page(state, epoch, page, true))?;
        }
        let made = made.map(Arc::new);
        if let Some(edge) = &made {
            edges().insert(epoch.start, Arc::clone(edge));
        }
        Ok(made)
    }

    /// A full page of an epoch's tree. Pages that were asked for lately are kept: to read and hash one takes longer than all else about a proof.
    fn page(&self, state: &State, epoch: &Epoch, page: u64, careful: bool) -> Result<Arc<Tree>, ReadError> {
        let first = page_range(epoch, page).start;
        if !careful && let Some(known) = self.pages().get(&first) {
            return Ok(Arc::clone(known));
        }
        let read: Arc<Tree> = Arc::new(self.leaves(state, page_range(epoch, page), careful)?.into_iter().collect());
        let mut pages = self.pages();
        if pages.len() >= PAGES_KEPT {
            pages.clear();
        }
        pages.insert(first, Arc::clone(&read));
        Ok(read)
    }

    fn pages(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Tree>>> {
        self.pages.lock().expect("no code panics while it holds the pages")
    }

    /// Adds how the entries `range` appear in the announcement log, as long as there are at most `max` items.
    pub(super) fn log_items(
        &self,
        state: &State,
        range: Range<u64>,
        max: usize,
        items: &mut Vec<LogItem>,
    ) -> Result<(), ReadError> {
        let mut at = range.start;
        while at < range.end {
            let item = if at < state.floor {
                LogItem::Skip(1)
            } else if let Some(row) = state.open_row(at) {
                log_item(row.announced, row.fact)
            } else if let Some(run) = state.run_of(at) {
                let listed = self.listed(run)?;
                usize::try_from(at - run.first)
                    .ok()
                    .and_then(|local| listed.get(local))
                    .copied()
                    .unwrap_or(LogItem::Skip(1))
            } else {
                LogItem::Skip(1)
            };
            if !push_item(items, item, max) {
                break;
            }
            at += 1;
        }
        Ok(())
    }

    fn listed(&self, run: &Run) -> Result<Arc<Vec<LogItem>>, ReadError> {
        let mut listed = self.listed.lock().expect("no code panics while it holds the list");
        if let Some((range, items)) = &*listed
            && *range == run.range()
        {
            return Ok(items.clone());
        }
        let facts = run.facts().map_err(|error| self.read_error(&index_path(run.segment.first), error))?;
        let items: Arc<Vec<_>> =
            Arc::new(facts.into_iter().map(|(announced, fact)| log_item(announced, fact)).collect());
        *listed = Some((run.range(), items.clone()));
        Ok(items)
    }

    /// Hands every fingerprint of a table in a shard, and the position of its entry, to `visit`: of all entries before this opening.
    pub(super) fn shard(&self, table: Table, shard: u8, visit: &mut dyn FnMut(u64, u64)) -> Result<(), ReadError> {
        // Runs that were sealed since cover later entries; they are told apart by their position.
        let runs: Vec<_> = {
            let state = self.read();
            state.runs.iter().take_while(|run| run.first < self.opened).cloned().collect()
        };
        for run in runs {
            run.shard(table, shard, &mut |fingerprint, seq| {
                if seq < self.opened {
                    visit(fingerprint, seq);
                }
            })
            .map_err(|error| self.read_error(&index_path(run.segment.first), error))?;
        }
        Ok(())
    }
}

/// Adds an item to a list of at most `max`; runs of skips become one. Whether there was room.
pub(super) fn push_item(items: &mut Vec<LogItem>, item: LogItem, max: usize) -> bool {
    if let (Some(LogItem::Skip(run)), LogItem::Skip(more)) = (items.last_mut(), item)
        && let Some(sum) = run.checked_add(more)
    {
        *run = sum;
    } else if items.len() < max {
        items.push(item);
    } else {
        return false;
    }
    true
}

fn page_range(epoch: &Epoch, page: u64) -> Range<u64> {
    epoch.start + page * PAGE..epoch.start + (page + 1) * PAGE
}

/// The leaves of these entries, fewer if one is lost. A failure names the segment.
pub(super) fn leaves(state: &State, range: Range<u64>, careful: bool) -> Result<Vec<Hash>, (u64, io::Error)> {
    let mut all = Vec::new();
    let mut at = range.start;
    while at < range.end {
        if let Some(behind) = state.floor.checked_sub(at).filter(|behind| *behind > 0) {
            let from = usize::try_from(behind).ok().and_then(|behind| state.below.len().checked_sub(behind));
            let Some(kept) = from.and_then(|from| state.below.get(from..)) else { break };
            let count = kept.len().min(usize::try_from(range.end - at).unwrap_or(usize::MAX));
            all.extend_from_slice(&kept[..count]);
            at += count as u64;
            continue;
        }
        if let Some(row) = state.open_row(at) {
            if row.sort == Sort::Lost {
                break;
            }
            all.push(row.leaf);
            at += 1;
            continue;
        }
        let Some(run) = state.run_of(at) else { break };
        let part = at..range.end.min(run.range().end);
        let found = run.leaves(part.clone(), careful).map_err(|error| (run.segment.first, error))?;
        let whole = found.len() as u64 == part.end - part.start;
        all.extend(found);
        at = part.end;
        if !whole {
            break;
        }
    }
    Ok(all)
}

/// The path of a segment.
pub(super) fn segment_path(first: u64) -> String {
    format!("{SEGMENTS}/{first:020}.seg")
}

/// The path of a segment's index.
pub(super) fn index_path(first: u64) -> String {
    format!("{INDEX}/{first:020}.idx")
}

/// The folder of all segments.
pub(super) const SEGMENTS: &str = "segments";
/// The folder of all segments' indexes.
pub(super) const INDEX: &str = "index";
/// Where files go that do not belong where they were found.
pub(super) const QUARANTINE: &str = "quarantine";
