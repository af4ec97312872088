//! Reading: entries, payloads, heads, evidence and announcement batches. Any number of readers, beside the writer.
//!
//! Invariant: nothing leaves this file without its checksum, digest or proof having been made from the very bytes returned.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Digest, EpochId, NodeId};
use crate::identity::Signer;
use crate::message::{Batch, EpochStart, LogItem};
use crate::proof::{Evidence, SignedHead};
use crate::reply::BlobRef;

use super::blobs::{self, Found};
use super::entry::Entry;
use super::error::ReadError;
use super::frame::{Frame, Salt};
use super::state::{Shared, Slot, State, segment_path};
use super::storage::read_exact;

/// A handle for reading a ledger. Cheap to clone.
#[derive(Clone)]
pub struct LedgerReader {
    pub(super) shared: Arc<Shared>,
}

/// An entry as it is stored.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Its position in the ledger.
    pub seq: u64,
    /// Whether it is announced.
    pub announced: bool,
    /// The entry.
    pub entry: Entry,
    /// Not verified yet; only [`LedgerReader::payload_of`] gives them out.
    payloads: Vec<(BlobRef, Bytes)>,
}

impl Stored {
    pub(super) fn new(frame: &Frame, bytes: &Bytes) -> Self {
        let entry = Entry::read(frame.kind, &frame.body(bytes));
        Self { seq: frame.seq, announced: frame.announced, entry, payloads: frame.payloads(bytes) }
    }

    /// The names of the payloads that are stored with the entry; all others have files of their own.
    pub fn inline(&self) -> impl Iterator<Item = BlobRef> + '_ {
        self.payloads.iter().map(|(name, _)| *name)
    }
}

impl fmt::Debug for LedgerReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LedgerReader").field("node", &self.shared.node).field("durable", &self.durable()).finish()
    }
}

impl LedgerReader {
    /// Whose ledger this is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.shared.node
    }

    /// Entries before this position survive any crash; only they are ever proven or announced.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.shared.durable()
    }

    /// Entries that are written, durable or not.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.shared.read().length()
    }

    /// Segment files in use.
    #[must_use]
    pub fn segments(&self) -> u64 {
        self.shared.read().segments.len() as u64
    }

    /// The epochs of this ledger, oldest first.
    #[must_use]
    pub fn lineage(&self) -> Vec<EpochStart> {
        let durable = self.durable();
        let state = self.shared.read();
        let epochs = state.epochs.iter().filter(|epoch| epoch.start < durable);
        epochs.map(|epoch| EpochStart { epoch: epoch.id, start: epoch.start }).collect()
    }

    /// The epoch of this opening.
    #[must_use]
    pub fn epoch(&self) -> EpochId {
        self.shared.read().epochs.last().expect("opening starts an epoch").id
    }

    /// The entry at a position; `None` beyond the end.
    pub fn read(&self, seq: u64) -> Result<Option<Stored>, ReadError> {
        let (slot, first, file) = {
            let state = self.shared.read();
            let Some(&slot) = state.slot(seq) else { return Ok(None) };
            if slot.len == 0 {
                return Err(ReadError::Quarantined { seq });
            }
            let segment = &state.segments[slot.segment as usize];
            (slot, segment.first, segment.file.clone())
        };
        let Slot { offset, len, .. } = slot;
        let bytes = match read_exact(&*file, u64::from(offset), len as usize) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(ReadError::Damaged { seq }),
            Err(error) => return Err(self.shared.read_error(&segment_path(first), error)),
        };
        match Frame::parse(&bytes, Salt::new(self.shared.node, first), u64::from(offset)) {
            Some(frame) if frame.seq == seq => Ok(Some(Stored::new(&frame, &bytes))),
            _ => Err(ReadError::Damaged { seq }),
        }
    }

    /// A payload that this entry names, verified against its digest.
    pub fn payload_of(&self, stored: &Stored, blob: BlobRef) -> Result<Bytes, ReadError> {
        let seq = stored.seq;
        if let Some((_, bytes)) = stored.payloads.iter().find(|(name, _)| *name == blob) {
            let whole = Digest::of(bytes) == blob.digest;
            return if whole { Ok(bytes.clone()) } else { Err(ReadError::PayloadDamaged { seq, blob }) };
        }
        match blobs::load(&*self.shared.storage, blob.digest) {
            Ok(Found::Whole(bytes)) if bytes.len() as u64 == blob.len => Ok(bytes),
            Ok(Found::Missing) => Err(ReadError::PayloadGone { seq, blob }),
            Ok(Found::Whole(_) | Found::Damaged) => Err(ReadError::PayloadDamaged { seq, blob }),
            Err(error) => Err(self.shared.read_error(&blobs::path(&blob.digest), error)),
        }
    }

    /// A payload of the entry at a position, verified against its digest.
    pub fn payload(&self, seq: u64, blob: BlobRef) -> Result<Bytes, ReadError> {
        match self.read(seq)? {
            Some(stored) => self.payload_of(&stored, blob),
            None => Err(ReadError::PayloadGone { seq, blob }),
        }
    }

    /// Some bytes of a payload, fewer at its end. The whole payload is verified first.
    pub fn payload_range(&self, seq: u64, blob: BlobRef, offset: u64, len: u32) -> Result<Bytes, ReadError> {
        Ok(range(&self.payload(seq, blob)?, offset, len))
    }

    /// The bytes of a digest, if a file of their own holds them.
    pub fn blob(&self, digest: Digest) -> Result<Option<Bytes>, ReadError> {
        match blobs::load(&*self.shared.storage, digest) {
            Ok(Found::Whole(bytes)) => Ok(Some(bytes)),
            Ok(Found::Missing | Found::Damaged) => Ok(None),
            Err(error) => Err(self.shared.read_error(&blobs::path(&digest), error)),
        }
    }

    /// The head of the current epoch over everything durable.
    pub fn head(&self, signer: &dyn Signer) -> SignedHead {
        let (position, length) = {
            let state = self.shared.read();
            let position = state.epochs.len() - 1;
            (position, provable_end(&state, position, self.durable()) - state.epochs[position].start)
        };
        self.head_over(position, length, signer).expect("the current epoch has no lost entry")
    }

    /// A head of an epoch that covers at least its first `length` entries: the newest one made, or a new one over all that is durable.
    fn head_over(&self, position: usize, length: u64, signer: &dyn Signer) -> Option<SignedHead> {
        debug_assert_eq!(signer.node(), self.shared.node, "a ledger is signed by the node that owns it");
        let state = self.shared.read();
        let epoch = state.epochs.get(position)?;
        let heads = || self.shared.heads.lock().expect("no code panics while it holds the heads");
        if let Some(head) = heads().get(&epoch.start).filter(|head| head.length >= length) {
            return Some(head.clone());
        }
        let provable = provable_end(&state, position, self.durable()).checked_sub(epoch.start)?;
        if provable < length {
            return None;
        }
        let head = SignedHead::sign(signer, epoch.id, &epoch.tree, provable)?;
        let mut heads = heads();
        let newest = heads.entry(epoch.start).or_insert_with(|| head.clone());
        if newest.length < head.length {
            *newest = head.clone();
        }
        Some(head)
    }

    /// The evidence for the record at a position: for an observed one, made here; for an adopted one, as its producer made it.
    /// `None` if there is no record or it is not durable yet.
    pub fn evidence(&self, seq: u64, signer: &dyn Signer) -> Result<Option<Evidence>, ReadError> {
        match self.read(seq)? {
            Some(stored) => self.evidence_of(&stored, signer),
            None => Ok(None),
        }
    }

    /// As [`Self::evidence`], for an entry that was read already.
    pub fn evidence_of(&self, stored: &Stored, signer: &dyn Signer) -> Result<Option<Evidence>, ReadError> {
        let seq = stored.seq;
        if seq >= self.durable() {
            return Ok(None);
        }
        match &stored.entry {
            Entry::Adopted(evidence) => return Ok(Some(evidence.clone())),
            Entry::Observed(_) => {}
            Entry::Epoch { .. } | Entry::Retracted { .. } | Entry::Unknown { .. } => return Ok(None),
        }
        let unprovable = ReadError::Unprovable { seq };
        let (position, index) = {
            let state = self.shared.read();
            let position = state.epoch_of(seq).ok_or_else(|| unprovable.clone())?;
            (position, seq - state.epochs[position].start)
        };
        let head = self.head_over(position, index + 1, signer).ok_or_else(|| unprovable.clone())?;
        let path = self.shared.read().epochs[position].tree.path(index, head.length).ok_or(unprovable)?;
        Ok(Some(Evidence { record: stored.entry.body(), index, path, head }))
    }

    /// The announcement log from a position on, at most `max` items, up to the end of the epoch or of what is durable. `None` if there is nothing.
    ///
    /// Entries that cannot be proven because an earlier one of their epoch is lost are skipped, with the next epoch's head.
    pub fn batch(&self, from: u64, max: usize, signer: &dyn Signer) -> Option<Batch> {
        let durable = self.durable();
        let (items, end, position, start) = {
            let state = self.shared.read();
            let (position, provable) = (state.epoch_of(from).unwrap_or(0)..state.epochs.len())
                .map(|position| (position, provable_end(&state, position, durable)))
                .find(|(position, provable)| *provable > from.max(state.epochs[*position].start))?;
            let start = state.epochs[position].start;
            let (items, end) = log_items(&state, from, from.max(start), provable, max);
            (items, end, position, start)
        };
        if items.is_empty() {
            return None;
        }
        // A batch may end before its epoch's first entry; any head of that epoch vouches for it.
        let head = self.head_over(position, end.saturating_sub(start), signer)?;
        Some(Batch { first: from, items, head })
    }
}

/// The position after the last entry of an epoch that is durable and can be proven.
fn provable_end(state: &State, position: usize, durable: u64) -> u64 {
    let epoch = &state.epochs[position];
    (epoch.start + epoch.tree.len()).min(durable).min(state.epoch_end(position))
}

/// The items for `from..end`, of which those before `begin` are skipped; at most `max`. Also says where they end.
fn log_items(state: &State, from: u64, begin: u64, end: u64, max: usize) -> (Vec<LogItem>, u64) {
    let mut items: Vec<LogItem> = Vec::new();
    let mut at = from;
    while at < end {
        let item = if at < begin {
            LogItem::Skip(u32::try_from(begin - at).unwrap_or(u32::MAX))
        } else {
            state.slot(at).map_or(LogItem::Skip(1), |slot| slot.item)
        };
        at += item.positions();
        if let (Some(LogItem::Skip(run)), LogItem::Skip(more)) = (items.last_mut(), item)
            && let Some(sum) = run.checked_add(more)
        {
            *run = sum;
        } else if items.len() == max {
            at -= item.positions();
            break;
        } else {
            items.push(item);
        }
    }
    (items, at)
}

/// The part of `bytes` that begins at `offset`, at most `len` long.
pub(crate) fn range(bytes: &Bytes, offset: u64, len: u32) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(len as usize).min(bytes.len());
    bytes.slice(start..end)
}
