//! The writer: a synchronous state machine without thread, clock or randomness.
//!
//! `append` gives an entry its sequence number and buffers it; `write_out` writes what is buffered; `commit` also makes it durable. Readers see
//! an entry once it is written. Order on disk: blobs and their names are durable first, then frames; a full segment is durable before the
//! next one exists. After the first failure nothing more is written: what is on disk is not known until it is opened again.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::sync::Arc;

use crate::id::{EpochId, NodeId};
use crate::limits::{MAX_OUTPUT_FILES, MAX_RECORD};
use crate::message::LogItem;
use crate::proof::{Hash, Tree, leaf_hash};
use crate::record::Record;

use super::blobs::{self, Blob};
use super::entry::{Entry, Parent};
use super::error::{LedgerError, OpenError, Recovery};
use super::frame::{self, ALIGN, FORMAT, HEADER, Header, Parts, Salt};
use super::limits::{BUFFER_BYTES, INLINE_PAYLOAD, INLINE_TOTAL, MAX_BODY, MAX_PAYLOADS, SEGMENT_BYTES};
use super::reader::{LedgerReader, Stored};
use super::recovery::recover;
use super::state::{Epoch, SEGMENTS, Segment, Shared, Slot, log_item, segment_path};
use super::storage::{Storage, StorageFile};

/// What an opening for writing needs to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Opening {
    /// Whose ledger it is.
    pub node: NodeId,
    /// The name of the new epoch: 128 fresh random bits.
    pub epoch: EpochId,
    /// The time, in microseconds since 1970.
    pub now: u64,
    /// When a segment is full; see [`SEGMENT_BYTES`].
    pub segment_bytes: u64,
}

impl Opening {
    /// An opening with the usual segment size.
    #[must_use]
    pub fn new(node: NodeId, epoch: EpochId, now: u64) -> Self {
        Self { node, epoch, now, segment_bytes: SEGMENT_BYTES }
    }
}

/// The one writer of a ledger.
pub struct Ledger {
    shared: Arc<Shared>,
    segment_bytes: u64,
    /// The file that is written to; `None` before the first segment exists.
    active: Option<Arc<dyn StorageFile>>,
    /// Where the next frame goes, buffered ones counted in.
    tip: Option<Tip>,
    /// The sequence number of the next entry.
    next: u64,
    pending: Pending,
    /// Whether something was written since the last sync.
    unsynced: bool,
    poisoned: Option<String>,
}

#[derive(Debug, Clone, Copy)]
struct Tip {
    /// The position of the segment among all segments.
    segment: u32,
    first: u64,
    offset: u64,
}

/// What is appended but not written.
#[derive(Default)]
struct Pending {
    chunks: Vec<Chunk>,
    entries: Vec<Waiting>,
    blobs: Vec<Blob>,
    bytes: usize,
}

/// Bytes that go into one segment.
struct Chunk {
    first: u64,
    /// Whether the segment is still to be made.
    fresh: bool,
    offset: u64,
    bytes: Vec<u8>,
}

struct Waiting {
    slot: Slot,
    leaf: Hash,
    opens: Option<EpochId>,
}

impl fmt::Debug for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ledger")
            .field("node", &self.shared.node)
            .field("next", &self.next)
            .field("durable", &self.shared.durable())
            .field("poisoned", &self.poisoned)
            .finish_non_exhaustive()
    }
}

impl Ledger {
    /// Opens a ledger for writing, made if there is none: recovers it and starts a new epoch, which is durable when this returns.
    pub fn open(storage: Arc<dyn Storage>, opening: &Opening) -> Result<(Self, Recovery), OpenError> {
        Self::open_visiting(storage, opening, &mut |_| {})
    }

    /// As [`Self::open`], and hands every earlier entry that is whole to `visit`, in order.
    pub fn open_visiting(
        storage: Arc<dyn Storage>,
        opening: &Opening,
        visit: &mut dyn FnMut(&Stored),
    ) -> Result<(Self, Recovery), OpenError> {
        let recovered = recover(&*storage, opening.node, visit)?;
        let state = recovered.state;
        if state.epochs.iter().any(|epoch| epoch.id == opening.epoch) {
            return Err(OpenError::EpochReused(opening.epoch));
        }
        let parent = state.epochs.last().map(|epoch| Parent {
            epoch: epoch.id,
            start: epoch.start,
            length: epoch.tree.len(),
            root: epoch.tree.root(epoch.tree.len()).expect("its own length"),
        });
        let tip = state.segments.last().map(|segment| Tip {
            segment: u32::try_from(state.segments.len() - 1).expect("a file each"),
            first: segment.first,
            // Behind the remains of a frame that was kept without its payloads nothing is aligned: begin a new segment.
            offset: if recovered.end % ALIGN as u64 == 0 { recovered.end } else { u64::MAX },
        });
        let mut ledger = Self {
            segment_bytes: opening.segment_bytes.min(u64::from(u32::MAX / 2)),
            active: state.segments.last().map(|segment| segment.file.clone()),
            tip,
            next: state.length(),
            pending: Pending::default(),
            unsynced: true,
            poisoned: None,
            shared: Arc::new(Shared::new(storage, opening.node, state)),
        };
        let Opening { node, epoch, now: opened_at, .. } = *opening;
        let entry = Entry::Epoch { epoch, start: ledger.next, parent, node, opened_at };
        ledger.push(&entry, &entry.body(), &[], false);
        ledger.try_commit().map_err(|(path, source)| OpenError::io(ledger.shared.storage.locate(&path), source))?;
        Ok((ledger, recovered.report))
    }

    /// A handle for reading. Only for use by others; it sees what is written.
    #[must_use]
    pub fn reader(&self) -> LedgerReader {
        LedgerReader { shared: self.shared.clone() }
    }

    /// The sequence number of the next entry.
    #[must_use]
    pub fn next_seq(&self) -> u64 {
        self.next
    }

    /// Appends an entry with its payloads and returns its sequence number. It is buffered; `write_out` and `commit` say when it is more.
    /// An entry that is not `announce`d counts as skipped in the announcement log.
    pub fn append(&mut self, entry: &Entry, payloads: &[Blob], announce: bool) -> Result<u64, LedgerError> {
        self.check()?;
        check_payloads(entry, payloads)?;
        let body = entry.body();
        let longest = if matches!(entry, Entry::Observed(_)) { MAX_RECORD } else { MAX_BODY };
        let bounds = [
            ("an entry's length", body.len(), longest),
            ("an entry's number of payloads", payloads.len(), MAX_PAYLOADS),
        ];
        if let Some((what, found, bound)) = bounds.into_iter().find(|(_, found, bound)| found > bound) {
            return Err(LedgerError::TooLarge { what, found: found as u64, bound: bound as u64 });
        }
        if self.pending.bytes > BUFFER_BYTES {
            self.write_out()?;
        }
        Ok(self.push(entry, &body, payloads, announce))
    }

    /// Writes everything that is buffered; returns how many entries are written now. They survive a crash of the process, not of the machine.
    pub fn write_out(&mut self) -> Result<u64, LedgerError> {
        self.check()?;
        self.try_write().map_err(|failure| self.poison(failure))?;
        Ok(self.next)
    }

    /// Writes everything that is buffered and makes it durable; returns how many entries are durable now.
    pub fn commit(&mut self) -> Result<u64, LedgerError> {
        self.check()?;
        self.try_commit().map_err(|failure| self.poison(failure))?;
        Ok(self.next)
    }

    #[cfg(test)]
    pub(super) fn shared_for_test(&self) -> &Shared {
        &self.shared
    }

    fn check(&self) -> Result<(), LedgerError> {
        self.poisoned.as_ref().map_or(Ok(()), |cause| Err(LedgerError::Poisoned { cause: cause.clone() }))
    }

    fn poison(&mut self, (path, source): Failure) -> LedgerError {
        let error = LedgerError::Io { path: self.shared.storage.locate(&path), source: Arc::new(source) };
        self.poisoned = Some(error.to_string());
        self.pending = Pending::default();
        error
    }

    /// Buffers an entry that was checked.
    fn push(&mut self, entry: &Entry, body: &[u8], payloads: &[Blob], announce: bool) -> u64 {
        let seq = self.next;
        let tip = self.place(seq);
        let chunk = self.pending.chunks.last_mut().expect("placing makes one");
        let (inline, filed) = split(payloads);
        self.pending.bytes += filed.iter().map(|blob| blob.bytes().len()).sum::<usize>();
        self.pending.blobs.extend(filed.into_iter().cloned());
        let kind = entry.kind();
        let parts = Parts { seq, kind, announced: announce, body, payloads: &inline };
        let len = frame::encode(&mut chunk.bytes, Salt::new(self.shared.node, tip.first), tip.offset, &parts);
        self.pending.bytes += len;
        let item = match entry {
            Entry::Observed(_) | Entry::Adopted(_) => log_item(entry.record().as_deref(), announce),
            Entry::Epoch { .. } | Entry::Retracted { .. } | Entry::Unknown { .. } => LogItem::Skip(1),
        };
        let narrow = |n: u64| u32::try_from(n).expect("a segment is shorter than 4 GiB");
        let slot = Slot { segment: tip.segment, offset: narrow(tip.offset), len: narrow(len as u64), item };
        let opens = match entry {
            Entry::Epoch { epoch, .. } => Some(*epoch),
            _ => None,
        };
        self.pending.entries.push(Waiting { slot, leaf: leaf_hash(kind, body), opens });
        self.tip = Some(Tip { offset: tip.offset + len as u64, ..tip });
        self.next += 1;
        seq
    }

    /// Where the next frame goes: in the newest segment, or in a new one if that is full.
    fn place(&mut self, seq: u64) -> Tip {
        let (tip, fresh) = match self.tip {
            Some(tip) if tip.offset < self.segment_bytes => (tip, false),
            Some(tip) => (Tip { segment: tip.segment + 1, first: seq, offset: HEADER as u64 }, true),
            None => (Tip { segment: 0, first: seq, offset: HEADER as u64 }, true),
        };
        if fresh || self.pending.chunks.is_empty() {
            self.pending.chunks.push(Chunk { first: tip.first, fresh, offset: tip.offset, bytes: Vec::new() });
        }
        tip
    }

    fn try_commit(&mut self) -> Result<(), Failure> {
        self.try_write()?;
        if self.unsynced
            && let (Some(active), Some(tip)) = (&self.active, self.tip)
        {
            active.sync().map_err(|source| (segment_path(tip.first), source))?;
            self.unsynced = false;
        }
        self.shared.set_durable(self.next);
        Ok(())
    }

    fn try_write(&mut self) -> Result<(), Failure> {
        let Pending { chunks, entries, blobs, .. } = std::mem::take(&mut self.pending);
        for blob in &blobs {
            let stored = blobs::store(&*self.shared.storage, blob);
            stored.map_err(|source| (blobs::path(&blob.name().digest), source))?;
        }
        let mut made = Vec::new();
        for chunk in &chunks {
            let path = segment_path(chunk.first);
            if chunk.fresh {
                let file = self.roll(chunk.first, &path).map_err(|source| (path.clone(), source))?;
                made.push(Segment { first: chunk.first, file: file.clone() });
                self.active = Some(file);
            }
            let active = self.active.as_ref().expect("the first chunk of a ledger makes a segment");
            self.unsynced = true;
            active.write_at(&chunk.bytes, chunk.offset).map_err(|source| (path, source))?;
        }
        self.publish(made, entries);
        Ok(())
    }

    /// Makes a new segment. The one before it is durable first, so that only the newest one ever has a torn tail.
    fn roll(&self, first: u64, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        if let Some(full) = &self.active {
            full.sync()?;
        }
        let storage = &self.shared.storage;
        let file = storage.create_new(path)?;
        file.write_at(&Header { format: FORMAT, node: self.shared.node, first }.encode(), 0)?;
        file.sync()?;
        storage.sync_dir(SEGMENTS)?;
        Ok(file)
    }

    /// Shows what was written to the readers.
    fn publish(&self, made: Vec<Segment>, entries: Vec<Waiting>) {
        if entries.is_empty() {
            return;
        }
        let mut state = self.shared.write();
        state.segments.extend(made);
        for Waiting { slot, leaf, opens } in entries {
            let seq = state.length();
            if let Some(id) = opens {
                state.epochs.push(Epoch { id, start: seq, tree: Tree::default() });
            }
            state.push_leaf(seq, leaf);
            state.slots.push(slot);
        }
    }
}

/// What failed, and where.
type Failure = (String, io::Error);

/// A record is only taken with all of its payloads: a node announces only what it can serve.
fn check_payloads(entry: &Entry, payloads: &[Blob]) -> Result<(), LedgerError> {
    let given = |record: &Record| {
        let given: BTreeSet<_> = payloads.iter().map(Blob::name).collect();
        match record.blobs().position(|blob| !given.contains(&blob)) {
            Some(position) => Err(LedgerError::Payload { position }),
            None => Ok(()),
        }
    };
    match entry {
        Entry::Epoch { .. } => Err(LedgerError::EpochEntry),
        Entry::Observed(record) if !has_form(record) => Err(LedgerError::Files),
        Entry::Observed(record) => given(record),
        Entry::Adopted(_) => given(&*entry.record().ok_or(LedgerError::Evidence)?),
        Entry::Retracted { .. } | Entry::Unknown { .. } => Ok(()),
    }
}

/// Whether `Record::decode` would take this record's bytes again.
fn has_form(record: &Record) -> bool {
    record.files.len() <= MAX_OUTPUT_FILES && record.files.windows(2).all(|pair| pair[0].path < pair[1].path)
}

/// Which payloads go into the frame and which get files; equal ones are kept once.
fn split(payloads: &[Blob]) -> (Vec<&Blob>, Vec<&Blob>) {
    let (mut inline, mut filed) = (Vec::new(), Vec::new());
    let mut seen = BTreeSet::new();
    let mut total = 0;
    for blob in payloads.iter().filter(|blob| seen.insert(blob.name())) {
        let len = blob.bytes().len();
        if len <= INLINE_PAYLOAD && total + len <= INLINE_TOTAL {
            total += len;
            inline.push(blob);
        } else {
            filed.push(blob);
        }
    }
    (inline, filed)
}
