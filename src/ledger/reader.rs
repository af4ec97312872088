//! Reading: entries, payloads, heads, evidence and announcement batches. Any number of readers, beside the writer.
//!
//! Invariant: nothing leaves this file without its checksum, digest or proof having been made from the very bytes returned.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::bao::{self, ChunkProof};
use crate::id::{Digest, EpochId, NodeId};
use crate::identity::Signer;
use crate::message::{Batch, EpochStart, LogItem};
use crate::proof::{self, Evidence, Hash, Head, SignedHead};
use crate::record::Record;
use crate::reply::BlobRef;

use super::blobs::{self, Found};
use super::block::{self, Table};
use super::entry::Entry;
use super::error::ReadError;
use super::frame::{Frame, Inline};
use super::intake::{Intake, PayloadReader};
use super::limits::OUTBOARD_FROM;
use super::run::{Place, Segment};
use super::state::{Located, Shared, State, Sums, push_item, segment_path};

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
    kind: u8,
    /// The frame, and where in it body and payloads lie.
    frame: Bytes,
    body: Range<usize>,
    payloads: Inline,
    /// Whether the payloads match their checksum; only [`LedgerReader::payload_of`] gives them out.
    whole: bool,
}

impl Stored {
    pub(super) fn new(frame: Frame, bytes: &Bytes) -> Self {
        let entry = Entry::read(frame.kind, &frame.body(bytes));
        let Frame { seq, kind, announced, body, payloads, payloads_whole: whole, .. } = frame;
        Self { seq, announced, entry, kind, frame: bytes.clone(), body, payloads, whole }
    }

    /// The kind of the entry, and its body as it is stored.
    #[must_use]
    pub fn source(&self) -> (u8, Bytes) {
        (self.kind, self.frame.slice(self.body.clone()))
    }

    /// The leaf of the entry in its epoch's tree.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        proof::leaf_hash(self.kind, &self.frame[self.body.clone()])
    }

    /// The record that the entry is about, without a copy.
    #[must_use]
    pub fn into_record(self) -> Option<Record> {
        match self.entry {
            Entry::Observed(record) => Some(record),
            other => other.record().map(Cow::into_owned),
        }
    }

    /// The names of the payloads that are stored with the entry; all others have files of their own.
    pub fn inline(&self) -> impl Iterator<Item = BlobRef> + '_ {
        self.payloads.iter().filter(|(_, range)| range.end <= self.frame.len()).map(|(name, _)| *name)
    }

    /// The payloads that belong to the entry's frame, and their bytes where the frame has them.
    pub(super) fn payloads(&self) -> impl Iterator<Item = (BlobRef, Option<Bytes>)> + '_ {
        let there = |range: &Range<usize>| (range.end <= self.frame.len()).then(|| self.frame.slice(range.clone()));
        self.payloads.iter().map(move |(name, range)| (*name, there(range)))
    }

    /// The bytes of a payload that is stored with the entry, if they match checksum or digest.
    fn inline_payload(&self, blob: BlobRef) -> Option<Result<Bytes, ReadError>> {
        let (_, range) = self.payloads.iter().find(|(name, range)| *name == blob && range.end <= self.frame.len())?;
        let bytes = self.frame.slice(range.clone());
        // One checksum covers all payloads of a frame; where it fails, those that are whole are told by their digests.
        let holds = self.whole || Digest::of(&bytes) == blob.digest;
        Some(if holds { Ok(bytes) } else { Err(ReadError::PayloadDamaged { seq: self.seq, blob }) })
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

    /// The first entry that is kept; see [`super::Ledger::drop_below`].
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.shared.read().floor
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
        let mut found = self.locate(seq)?;
        while let Some((segment, place)) = found {
            match self.read_at(seq, &segment, place) {
                Ok(stored) => return Ok(Some(stored)),
                Err(error) => {
                    // The segment may have been rewritten or dropped just now.
                    found = self.locate(seq)?.filter(|(other, _)| !Arc::ptr_eq(other, &segment));
                    if found.is_none() {
                        return Err(error);
                    }
                }
            }
        }
        Ok(None)
    }

    fn locate(&self, seq: u64) -> Result<Option<(Arc<Segment>, Place)>, ReadError> {
        match self.shared.locate(seq)? {
            Located::Beyond => Ok(None),
            Located::Lost => Err(ReadError::Quarantined { seq }),
            Located::Dropped => Err(ReadError::Dropped { seq }),
            Located::At(segment, place) => Ok(Some((segment, place))),
        }
    }

    fn read_at(&self, seq: u64, segment: &Segment, place: Place) -> Result<Stored, ReadError> {
        let offset = u64::from(place.offset);
        let failed = |error| self.shared.read_error(&segment_path(segment.first), error);
        let bytes = match segment.file().map_err(failed)?.read_exact(offset, place.len as usize) {
            Ok(bytes) => Bytes::from(bytes),
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Err(ReadError::Damaged { seq }),
            Err(error) => return Err(failed(error)),
        };
        match Frame::parse(&bytes, segment.salt, offset) {
            Some(frame) if frame.seq == seq => Ok(Stored::new(frame, &bytes)),
            _ => Err(ReadError::Damaged { seq }),
        }
    }

    /// Entries that were there before this opening.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.shared.opened
    }

    /// Hands the upper 48 bits of every fingerprint in a table whose upper 8 bits are `shard` to `visit`, with the position of the entry
    /// that has it, for all entries before this opening.
    pub fn shard(&self, table: Table, shard: u8, visit: &mut dyn FnMut(u64, u64)) -> Result<(), ReadError> {
        self.shared.shard(table, shard, visit)
    }

    /// Which shard of a [`Table`] a fingerprint belongs to.
    #[must_use]
    pub fn shard_of(fingerprint: u64) -> u8 {
        block::shard_of(fingerprint)
    }

    /// Bytes of the index in memory: where entries lie, and the trees.
    #[must_use]
    pub fn index_bytes(&self) -> usize {
        self.shared.read().bytes()
    }

    /// Sums over all entries that are written.
    #[must_use]
    pub fn sums(&self) -> Sums {
        self.shared.read().totals()
    }

    /// A payload that this entry names: one that lies in the frame matches its checksum, one in a file its digest.
    pub fn payload_of(&self, stored: &Stored, blob: BlobRef) -> Result<Bytes, ReadError> {
        let seq = stored.seq;
        if let Some(payload) = stored.inline_payload(blob) {
            return payload;
        }
        let bytes = self.found(seq, blob, blobs::load(&*self.shared.storage, blob.digest))?;
        if bytes.len() as u64 == blob.len { Ok(bytes) } else { Err(ReadError::PayloadDamaged { seq, blob }) }
    }

    /// A payload of the entry at a position, verified against its digest.
    pub fn payload(&self, seq: u64, blob: BlobRef) -> Result<Bytes, ReadError> {
        match self.read(seq)? {
            Some(stored) => self.payload_of(&stored, blob),
            None => Err(ReadError::PayloadGone { seq, blob }),
        }
    }

    /// Some bytes of a payload that the entry at a position names, fewer at the payload's end. Of a large one only what is wanted is read
    /// and verified.
    pub fn payload_range(&self, seq: u64, blob: BlobRef, offset: u64, len: u32) -> Result<Bytes, ReadError> {
        if blob.len >= OUTBOARD_FROM {
            return self.found(seq, blob, blobs::load_range(&*self.shared.storage, blob, offset, len));
        }
        Ok(range(&self.payload(seq, blob)?, offset, len))
    }

    /// Whole leaves of a payload that the entry at a position names, and what proves them to others. Only these leaves of a large one are
    /// read and verified.
    pub fn payload_chunk(
        &self,
        seq: u64,
        blob: BlobRef,
        leaves: &Range<u64>,
    ) -> Result<(Bytes, ChunkProof), ReadError> {
        if blob.len < OUTBOARD_FROM {
            let payload = self.payload(seq, blob)?;
            let place = |at: u64| usize::try_from(at).map_or(payload.len(), |at| at.min(payload.len()));
            return Ok((payload.slice(place(leaves.start)..place(leaves.end)), bao::proof_of(&payload, leaves)));
        }
        let (found, proof) = match blobs::load_leaves(&*self.shared.storage, blob, leaves) {
            Ok((found, proof)) => (Ok(found), proof),
            Err(error) => (Err(error), ChunkProof::default()),
        };
        Ok((self.found(seq, blob, found)?, proof))
    }

    /// What proves whole leaves of a large payload to others, without reading these leaves; `None` if it is not in its file, whole.
    pub fn payload_proof(&self, blob: BlobRef, leaves: &Range<u64>) -> Result<Option<ChunkProof>, ReadError> {
        let proof = blobs::proof(&*self.shared.storage, blob, leaves);
        proof.map_err(|error| self.shared.read_error(&blobs::path(&blob.digest), error))
    }

    /// Reads a payload that the entry at a position names piece by piece, however long it is.
    #[must_use]
    pub fn payload_reader(&self, seq: u64, blob: BlobRef) -> PayloadReader {
        PayloadReader::new(self.clone(), seq, blob)
    }

    /// Takes in a payload piece by piece, for an entry that is appended later.
    #[must_use]
    pub fn intake(&self) -> Intake {
        Intake::new(self.shared.clone())
    }

    fn found(&self, seq: u64, blob: BlobRef, found: std::io::Result<Found>) -> Result<Bytes, ReadError> {
        match found {
            Ok(Found::Whole(bytes)) => Ok(bytes),
            Ok(Found::Missing) => Err(ReadError::PayloadGone { seq, blob }),
            Ok(Found::Damaged) => Err(ReadError::PayloadDamaged { seq, blob }),
            Err(error) => Err(self.shared.read_error(&blobs::path(&blob.digest), error)),
        }
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
    pub fn head(&self, signer: &dyn Signer) -> Result<SignedHead, ReadError> {
        let (position, length, start) = {
            let state = self.shared.read();
            let position = state.epochs.len() - 1;
            let start = state.epochs[position].start;
            (position, provable_end(&state, position, self.durable()) - start, start)
        };
        self.head_over(position, length, signer)?.ok_or(ReadError::Unprovable { seq: start })
    }

    /// A signed head of an epoch that covers at least its first `length` entries: the newest one made, or a new one over all that is durable.
    fn head_over(&self, position: usize, length: u64, signer: &dyn Signer) -> Result<Option<SignedHead>, ReadError> {
        debug_assert_eq!(signer.node(), self.shared.node, "a ledger is signed by the node that owns it");
        let state = self.shared.read();
        let Some(start) = state.epochs.get(position).map(|epoch| epoch.start) else { return Ok(None) };
        let heads = || self.shared.heads.lock().expect("no code panics while it holds the heads");
        if let Some(head) = heads().get(&start).filter(|head| head.length >= length) {
            return Ok(Some(head.clone()));
        }
        let Some(Head { epoch, length, root, .. }) = self.newest_head(&state, position, length)? else {
            return Ok(None);
        };
        let head = SignedHead::over(signer, epoch, length, root);
        let mut heads = heads();
        let newest = heads.entry(start).or_insert_with(|| head.clone());
        if newest.length < head.length {
            *newest = head.clone();
        }
        Ok(Some(head))
    }

    /// The head of an epoch over all that is durable, unless that is fewer than `length` entries.
    fn newest_head(&self, state: &State, position: usize, length: u64) -> Result<Option<Head>, ReadError> {
        let Some(epoch) = state.epochs.get(position) else { return Ok(None) };
        let provable = provable_end(state, position, self.durable()).saturating_sub(epoch.start);
        if provable < length {
            return Ok(None);
        }
        let head = |root| Head { node: self.shared.node, epoch: epoch.id, length: provable, root };
        Ok(self.shared.root(state, position, provable)?.map(head))
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
            _ => return Ok(None),
        }
        let unprovable = ReadError::Unprovable { seq };
        let (position, index) = {
            let state = self.shared.read();
            let position = state.epoch_of(seq).ok_or_else(|| unprovable.clone())?;
            (position, seq - state.epochs[position].start)
        };
        let head = self.head_over(position, index + 1, signer)?.ok_or_else(|| unprovable.clone())?;
        let path = self.shared.path(&self.shared.read(), position, index, head.length)?.ok_or(unprovable)?;
        Ok(Some(Evidence { record: stored.entry.body(), index, path, head }))
    }

    /// As [`Self::evidence`], of a record of this node's own whose bytes the caller has: under a head that was signed before, with hashes that are
    /// in memory, and without waiting for the writer. `None` if any of that is missing.
    #[must_use]
    pub fn evidence_at_hand(&self, seq: u64, record: impl FnOnce() -> Option<Bytes>) -> Option<Evidence> {
        if seq >= self.durable() {
            return None;
        }
        let state = self.shared.try_read()?;
        let position = state.epoch_of(seq)?;
        let start = state.epochs[position].start;
        let head = self.shared.heads.try_lock().ok()?.get(&start).filter(|head| head.length > seq - start)?.clone();
        let path = self.shared.path_at_hand(&state, position, seq - start, head.length)?;
        Some(Evidence { record: record()?, index: seq - start, path, head })
    }

    /// The announcement log from a position on, at most `max` items, up to the end of the epoch or of what is durable. `None` if there is nothing.
    ///
    /// Entries that cannot be proven because an earlier one of their epoch is lost are skipped, with the next epoch's head. Nothing is signed yet; see `Announcement::sign`.
    #[must_use]
    pub fn batch(&self, from: u64, max: usize) -> Option<Batch> {
        self.try_batch(from, max).unwrap_or_else(|error| {
            tracing::warn!(from, %error, "a batch cannot be made");
            None
        })
    }

    fn try_batch(&self, from: u64, max: usize) -> Result<Option<Batch>, ReadError> {
        let durable = self.durable();
        let found = {
            let state = self.shared.read();
            (state.epoch_of(from).unwrap_or(0)..state.epochs.len())
                .map(|position| (position, provable_end(&state, position, durable), state.epochs[position].start))
                .find(|(_, provable, start)| *provable > from.max(*start))
        };
        let Some((position, provable, start)) = found else { return Ok(None) };
        let mut items = Vec::new();
        let mut at = from;
        while at < start {
            let skip = LogItem::Skip(u32::try_from(start - at).unwrap_or(u32::MAX));
            if !push_item(&mut items, skip, max) {
                break;
            }
            at += skip.positions();
        }
        if at >= start {
            self.shared.log_items(&self.shared.read(), at..provable, max, &mut items)?;
        }
        if items.is_empty() {
            return Ok(None);
        }
        // A batch may end before its epoch's first entry; any head of that epoch vouches for it.
        let end = from + items.iter().map(LogItem::positions).sum::<u64>();
        let head = self.newest_head(&self.shared.read(), position, end.saturating_sub(start))?;
        Ok(head.map(|head| Batch { first: from, items, head }))
    }
}

/// The position after the last entry of an epoch that is durable and can be proven.
fn provable_end(state: &State, position: usize, durable: u64) -> u64 {
    let epoch = &state.epochs[position];
    (epoch.start + epoch.tree.len()).min(durable).min(state.epoch_end(position))
}

/// The part of `bytes` that begins at `offset`, at most `len` long.
pub(crate) fn range(bytes: &Bytes, offset: u64, len: u32) -> Bytes {
    let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
    let end = start.saturating_add(len as usize).min(bytes.len());
    bytes.slice(start..end)
}
