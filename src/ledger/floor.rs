//! The floor: whole segments below it are dropped, and it only rises.
//!
//! The file `floor` says where the ledger begins and holds what the epoch that crosses the floor needs of its dropped entries: the hashes of
//! its full tree pages, and the leaves after them. So every entry above stays provable. Invariant: a checkpoint that names the floor is
//! durable before the file is, and the file before the first segment goes; a crash in between is finished at the next opening.

use std::io;

use serde::{Deserialize, Serialize};

use crate::id::{EpochId, NodeId};
use crate::identity::Signer;
use crate::proof::Hash;

use super::blobs;
use super::compact::Freed;
use super::entry::Entry;
use super::error::{LedgerError, OpenError};
use super::run::{Run, Segment};
use super::state::{INDEX, SEGMENTS, State, index_path, leaves, segment_path};
use super::storage::{Storage, read_all, remove_if_there};
use super::tree::{PAGE, PagedTree};
use super::writer::Ledger;

/// The file's name.
pub(super) const FILE: &str = "floor";
/// The file while it is written.
const TEMP: &str = "floor.tmp";
const VERSION: u8 = 1;

/// Where a ledger begins, and what of the time before is still needed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Floor {
    pub(super) node: NodeId,
    /// The first entry that is kept.
    pub(super) first: u64,
    /// The epoch that entry is in, unless it is an epoch's first.
    pub(super) epoch: Option<Crossing>,
}

/// The part of an epoch's tree that lies below the floor.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Crossing {
    pub(super) id: EpochId,
    pub(super) start: u64,
    pub(super) pages: Vec<Hash>,
    pub(super) tail: Vec<Hash>,
}

impl Floor {
    fn encode(&self) -> Vec<u8> {
        let bytes = postcard::to_extend(self, vec![VERSION]).expect("plain values into memory always encode");
        let checksum = crc32c::crc32c(&bytes);
        [bytes, checksum.to_le_bytes().to_vec()].concat()
    }

    /// The version of a whole file and what follows it; version and checksum keep their places in every version.
    fn whole(bytes: &[u8]) -> Option<(u8, &[u8])> {
        let (body, checksum) = bytes.split_last_chunk::<4>()?;
        let (version, rest) = body.split_first()?;
        (u32::from_le_bytes(*checksum) == crc32c::crc32c(body)).then_some((*version, rest))
    }

    /// The floor of a ledger; `None` if nothing was ever dropped, or if the file is damaged: then what is missing is lost.
    pub(super) fn load(storage: &dyn Storage) -> Result<Option<Self>, OpenError> {
        let io = |source| OpenError::io(storage.locate(FILE), source);
        let bytes = match storage.open(FILE) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.and_then(|file| read_all(&*file)).map_err(io)?,
        };
        let Some((version, rest)) = Self::whole(&bytes) else { return Ok(None) };
        if version > VERSION {
            let path = storage.locate(FILE);
            return Err(OpenError::Newer { path, found: version.into(), known: VERSION.into() });
        }
        let floor = postcard::take_from_bytes(rest).ok().filter(|(_, left)| version == VERSION && left.is_empty());
        Ok(floor.map(|(floor, _)| floor))
    }

    fn store(&self, storage: &dyn Storage) -> io::Result<()> {
        let file = blobs::fresh(storage, TEMP)?;
        file.write_at(&self.encode(), 0)?;
        file.sync()?;
        storage.rename(TEMP, FILE)?;
        storage.sync_dir("")
    }
}

impl Crossing {
    /// The tree of the epoch up to the floor.
    pub(super) fn tree(&self, floor: u64) -> PagedTree {
        let mut tree = PagedTree::default();
        tree.extend(&self.pages, self.tail.clone());
        if self.start + tree.len() < floor {
            tree.break_off();
        }
        tree
    }
}

/// Removes a segment that is below the floor, and its index.
pub(super) fn forget(storage: &dyn Storage, first: u64) -> io::Result<()> {
    remove_if_there(storage, &index_path(first))?;
    remove_if_there(storage, &segment_path(first))
}

impl State {
    /// What has to be kept of the entries below `floor`. `None` if the leaves cannot be read.
    fn crossing(&self, floor: u64) -> io::Result<Option<Crossing>> {
        let Some(epoch) = self.epoch_of(floor).map(|position| &self.epochs[position]) else { return Ok(None) };
        if epoch.start == floor {
            return Ok(None);
        }
        let known = epoch.tree.len().min(floor - epoch.start);
        let pages = epoch.tree.pages_between(0, known).collect();
        let tail = epoch.start + known / PAGE * PAGE..epoch.start + known;
        let tail = leaves(self, tail, true).map_err(|(_, error)| error)?;
        Ok(Some(Crossing { id: epoch.id, start: epoch.start, pages, tail }))
    }

    /// From here on nothing below the floor is there.
    pub(super) fn raise(&mut self, floor: Floor) {
        let covered = self.runs.partition_point(|run| run.first < floor.first);
        let segment = Segment::new(floor.node, 0, None);
        self.runs.splice(..covered, [Run::lost(segment, &(0..floor.first)).into()]);
        self.segments.retain(|segment| segment.first >= floor.first);
        self.floor = floor.first;
        self.below = floor.epoch.map(|epoch| epoch.tail).unwrap_or_default();
    }
}

impl Ledger {
    /// Drops the full segments that lie wholly below position `below`, and says so in a checkpoint, which holds a signed head if there is a
    /// `signer`. What the dropped entries said is forgotten: retractions that still matter are to be appended again first. Everything above
    /// stays provable. `at` is in microseconds since 1970.
    pub fn drop_below(&mut self, below: u64, signer: Option<&dyn Signer>, at: u64) -> Result<Freed, LedgerError> {
        let dropped: Vec<_> = self.full_segments().into_iter().take_while(|segment| segment.end <= below).collect();
        let Some(floor) = dropped.last().map(|segment| segment.end) else { return Ok(Freed::default()) };
        self.commit()?;
        let head = signer.map(|signer| self.reader().head(signer)).transpose()?;
        self.append(&Entry::Checkpoint { floor, head, at }, &[], false)?;
        self.commit()?;
        let storage = self.shared.storage.clone();
        let epoch = self.shared.read().crossing(floor).map_err(|error| self.io_error(INDEX, error))?;
        let floor = Floor { node: self.shared.node, first: floor, epoch };
        floor.store(&*storage).map_err(|error| self.io_error(FILE, error))?;
        self.shared.write().raise(floor);
        let mut freed = Freed::default();
        for segment in &dropped {
            let path = segment_path(segment.start);
            let gone = storage.open(&path).and_then(|file| file.len()).and_then(|len| {
                forget(&*storage, segment.start)?;
                Ok(len)
            });
            freed.bytes += gone.map_err(|error| self.io_error(&path, error))?;
            freed.dropped += 1;
        }
        storage.sync_dir(SEGMENTS).map_err(|error| self.io_error(SEGMENTS, error))?;
        Ok(freed)
    }
}
