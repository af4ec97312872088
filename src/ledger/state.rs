//! What writer and readers share: where every entry lies, and the tree of every epoch.
//!
//! Only written entries are in here; what still waits in the writer's buffer is not.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::id::{EpochId, NodeId};
use crate::message::LogItem;
use crate::proof::{Hash, SignedHead, Tree};
use crate::record::Record;

use super::error::ReadError;
use super::storage::{Storage, StorageFile};

pub(super) struct Segment {
    /// Sequence number of its first entry, also its name.
    pub(super) first: u64,
    pub(super) file: Arc<dyn StorageFile>,
}

/// Where one entry lies and how it is announced.
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    pub(super) segment: u32,
    pub(super) offset: u32,
    /// Length of the frame; 0 if the entry is lost.
    pub(super) len: u32,
    pub(super) item: LogItem,
}

impl Slot {
    pub(super) const LOST: Self = Self { segment: 0, offset: 0, len: 0, item: LogItem::Skip(1) };
}

/// How an entry appears in the announcement log.
pub(super) fn log_item(record: Option<&Record>, announced: bool) -> LogItem {
    match record {
        Some(record) if announced => LogItem::Fact {
            question: record.request.fingerprint().to_le_bytes(),
            answer: record.answer().fingerprint().to_le_bytes(),
        },
        _ => LogItem::Skip(1),
    }
}

pub(super) struct Epoch {
    pub(super) id: EpochId,
    pub(super) start: u64,
    /// The leaves up to the first lost entry. Invariant: leaf `i` is the entry `start + i`.
    pub(super) tree: Tree,
}

#[derive(Default)]
pub(super) struct State {
    pub(super) segments: Vec<Segment>,
    /// Indexed by sequence number.
    pub(super) slots: Vec<Slot>,
    /// In order of their starts.
    pub(super) epochs: Vec<Epoch>,
}

impl State {
    pub(super) fn length(&self) -> u64 {
        self.slots.len() as u64
    }

    pub(super) fn slot(&self, seq: u64) -> Option<&Slot> {
        self.slots.get(usize::try_from(seq).ok()?)
    }

    /// The position of the epoch that an entry belongs to; `None` if the beginning of the ledger is lost.
    pub(super) fn epoch_of(&self, seq: u64) -> Option<usize> {
        self.epochs.partition_point(|epoch| epoch.start <= seq).checked_sub(1)
    }

    /// The sequence number after the last entry of an epoch.
    pub(super) fn epoch_end(&self, position: usize) -> u64 {
        self.epochs.get(position + 1).map_or(self.length(), |next| next.start)
    }

    /// Appends the leaf of entry `seq` to its epoch, unless an earlier entry of it is lost.
    pub(super) fn push_leaf(&mut self, seq: u64, leaf: Hash) {
        if let Some(epoch) = self.epochs.last_mut()
            && epoch.start + epoch.tree.len() == seq
        {
            epoch.tree.push(leaf);
        }
    }
}

pub(super) struct Shared {
    pub(super) storage: Arc<dyn Storage>,
    pub(super) node: NodeId,
    state: RwLock<State>,
    /// Entries before this one survive any crash. Invariant: never above `state.length()`, never falls.
    durable: AtomicU64,
    /// The newest head of each epoch that was asked for, by the epoch's start.
    pub(super) heads: Mutex<BTreeMap<u64, SignedHead>>,
}

impl Shared {
    pub(super) fn new(storage: Arc<dyn Storage>, node: NodeId, state: State) -> Self {
        let durable = AtomicU64::new(0);
        Self { storage, node, state: RwLock::new(state), durable, heads: Mutex::default() }
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

    pub(super) fn read_error(&self, path: &str, source: io::Error) -> ReadError {
        ReadError::Io { path: self.storage.locate(path), source: Arc::new(source) }
    }
}

/// The path of a segment.
pub(super) fn segment_path(first: u64) -> String {
    format!("{SEGMENTS}/{first:020}.seg")
}

/// The folder of all segments.
pub(super) const SEGMENTS: &str = "segments";
/// Where files go that do not belong where they were found.
pub(super) const QUARANTINE: &str = "quarantine";
