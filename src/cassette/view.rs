//! Looking up: question in, reply out.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use smallvec::SmallVec;

use crate::bao::{self, ChunkProof};
use crate::error::NotHeld;
use crate::id::{ContentId, Digest};
use crate::identity::Signer;
use crate::ledger::limits::{INLINE_PAYLOAD, OUTBOARD_FROM};
use crate::ledger::{Entry, LedgerReader, PayloadReader, ReadError, Recovery, payload_window};
use crate::limits::MAX_PAYLOAD;
use crate::proof::Evidence;
use crate::record::Record;
use crate::reply::{BlobRef, Payload, Reply};

use super::index::{Hot, Index, Known, Standing};
use super::limits::SERVED;

/// The local view over a ledger. Cheap to clone; all clones are one view.
#[derive(Clone)]
pub struct Cassette {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    pub(super) ledger: LedgerReader,
    pub(super) index: Index,
    pub(super) counts: Counts,
    pub(super) recovery: Recovery,
    /// Payloads with files of their own that were served lately.
    pub(super) served: Served,
}

/// What was served since it was last asked about.
#[derive(Default)]
pub(super) struct Served(Mutex<BTreeSet<Digest>>);

impl Served {
    fn note(&self, digest: Digest) {
        let mut served = self.0.lock().expect("no code panics while it holds what was served");
        if served.len() >= SERVED {
            served.clear();
        }
        served.insert(digest);
    }

    /// Whether it was served; from now on it was not.
    pub(super) fn take(&self, digest: &Digest) -> bool {
        self.0.lock().expect("no code panics while it holds what was served").remove(digest)
    }
}

#[derive(Default)]
pub(super) struct Counts {
    pub(super) records: AtomicU64,
    pub(super) bytes: AtomicU64,
    pub(super) retracted: AtomicU64,
    ram_hits: AtomicU64,
    disk_hits: AtomicU64,
    misses: AtomicU64,
    damaged: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, more: u64) {
    counter.fetch_add(more, Ordering::Relaxed);
}

/// Where a held reply was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In memory.
    Ram,
    /// On disk.
    Disk,
}

/// A reply that is held here, with every payload inline unless it is longer than [`MAX_PAYLOAD`]; see [`Cassette::payload_reader`]. Cheap to clone: it is shared with the memory tier.
#[derive(Debug, Clone)]
pub struct Held {
    hot: Arc<Hot>,
    /// Where it was.
    pub tier: Tier,
}

impl Held {
    /// The record that names it.
    #[must_use]
    pub fn record(&self) -> &Record {
        self.hot.record()
    }

    /// The reply.
    #[must_use]
    pub fn reply(&self) -> &Reply {
        &self.hot.reply
    }

    /// The reply, to keep.
    #[must_use]
    pub fn into_reply(self) -> Reply {
        Arc::try_unwrap(self.hot).map_or_else(|shared| shared.reply.clone(), |own| own.reply)
    }

    /// The position of its entry in the ledger.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.hot.seq
    }
}

/// What a lookup gives. A miss is a value.
#[derive(Debug, Clone)]
pub enum Lookup {
    /// It is held.
    Hit(Held),
    /// It is not, and why.
    Miss(NotHeld),
}

/// A held reply with its evidence, for a peer.
#[derive(Debug, Clone)]
pub struct Proven {
    /// The reply.
    pub held: Held,
    /// What makes it believable.
    pub evidence: Evidence,
}

impl Proven {
    /// What a peer gets: the evidence, and all payloads if they are at most so many bytes, which were read then; none otherwise.
    #[must_use]
    pub fn for_peer(self, most: u64) -> (Evidence, Vec<Bytes>) {
        let reply = self.held.reply();
        let few = reply.len() <= most;
        let payloads = reply.payloads().filter(|_| few).filter_map(Payload::bytes).cloned().collect();
        (self.evidence, payloads)
    }
}

/// Why a lookup has no answer, not even "not held": the disk failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the cassette cannot be read: {0}")]
pub struct CassetteError(#[from] ReadError);

impl CassetteError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        self.0.hint()
    }
}

/// How a cassette is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stats {
    /// Questions that were answered here; one that was answered again after a restart may count twice.
    pub questions: u64,
    /// Records, observed and adopted.
    pub records: u64,
    /// Bytes of their payloads.
    pub bytes: u64,
    /// Bytes of replies in memory.
    pub ram_bytes: u64,
    /// Bytes of the index in memory.
    pub index_bytes: u64,
    /// Lookups answered from memory.
    pub ram_hits: u64,
    /// Lookups answered from disk.
    pub disk_hits: u64,
    /// Lookups not answered.
    pub misses: u64,
    /// Retractions.
    pub retracted: u64,
    /// Records whose bytes turned out to be damaged or gone since opening.
    pub damaged: u64,
    /// Ledger entries that survive any crash.
    pub durable: u64,
    /// Ledger entries.
    pub length: u64,
    /// Ledger segments.
    pub segments: u64,
    /// What opening found.
    pub recovery: Recovery,
}

impl fmt::Debug for Cassette {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cassette").field("ledger", &self.inner.ledger).finish_non_exhaustive()
    }
}

impl Cassette {
    pub(super) fn new(ledger: LedgerReader, index: Index, counts: Counts, recovery: Recovery) -> Self {
        let inner = Inner { ledger, index, counts, recovery, served: Served::default() };
        Self { inner: Arc::new(inner) }
    }

    /// The ledger that this is a view of.
    #[must_use]
    pub fn ledger(&self) -> &LedgerReader {
        &self.inner.ledger
    }

    /// The held reply to a question. The first record that is whole wins.
    pub fn lookup(&self, id: ContentId) -> Result<Lookup, CassetteError> {
        self.look_up(id, u64::MAX)
    }

    /// The same, without the payloads of a reply that has more bytes than that and is not in memory; whether they are there is looked at.
    fn look_up(&self, id: ContentId, most: u64) -> Result<Lookup, CassetteError> {
        let Inner { index, counts, .. } = &*self.inner;
        let miss = |why| {
            count(&counts.misses, 1);
            Ok(Lookup::Miss(why))
        };
        loop {
            let version = index.version(&id);
            let seq = match index.known(&id)? {
                Known::Not(why) => return miss(why),
                Known::Hot(hot) => {
                    count(&counts.ram_hits, 1);
                    return Ok(Lookup::Hit(Held { hot, tier: Tier::Ram }));
                }
                Known::Cold(seq) => seq,
            };
            match self.load(id, seq, most) {
                Ok(Ok(hot)) => {
                    count(&counts.disk_hits, 1);
                    if hot.reply.len() <= most {
                        index.warm(id, &hot, version);
                    }
                    return Ok(Lookup::Hit(Held { hot, tier: Tier::Disk }));
                }
                Ok(Err(why)) => return miss(why),
                // Each turn takes one entry out of the live ones, so this ends.
                Err(error) if error.is_loss() => self.lose(id, seq, &error)?,
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The held reply to a question with its evidence. `None` if it is not held, not durable yet, or cannot be proven any more. The payloads of a
    /// reply that has more than `most` bytes are not read: whoever gets the evidence fetches them chunk by chunk.
    pub fn evidence(&self, id: ContentId, most: u64, signer: &dyn Signer) -> Result<Option<Proven>, CassetteError> {
        let Lookup::Hit(held) = self.look_up(id, most)? else { return Ok(None) };
        match self.inner.ledger.evidence(held.seq(), signer) {
            Ok(evidence) => Ok(evidence.map(|evidence| Proven { held, evidence })),
            Err(ReadError::Unprovable { .. }) => Ok(None),
            Err(error) if error.is_loss() => {
                self.lose(id, held.seq(), &error)?;
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The reply to a question if it is in memory: for a thread that others wait for. `None` says nothing about whether it is held.
    #[must_use]
    pub fn at_hand(&self, id: ContentId) -> Option<Held> {
        let hot = self.inner.index.hot(&id)?;
        count(&self.inner.counts.ram_hits, 1);
        Some(Held { hot, tier: Tier::Ram })
    }

    /// As [`Self::evidence`], from memory alone and without waiting for anybody: for a thread that others wait for. `None` says nothing about
    /// whether it is held.
    #[must_use]
    pub fn evidence_at_hand(&self, id: ContentId) -> Option<Proven> {
        let Inner { index, counts, ledger, .. } = &*self.inner;
        let hot = index.hot(&id)?;
        let evidence = ledger.evidence_at_hand(hot.seq, || hot.own_record())?;
        count(&counts.ram_hits, 1);
        Some(Proven { held: Held { hot, tier: Tier::Ram }, evidence })
    }

    /// Some bytes of a payload that a held record of this question names, fewer at the payload's end. `None` if it is not held.
    pub fn payload_range(
        &self,
        id: ContentId,
        digest: Digest,
        offset: u64,
        len: u32,
    ) -> Result<Option<Bytes>, CassetteError> {
        let window = |bytes: &Bytes| Some(payload_window(bytes, offset, len));
        if let Known::Hot(hot) = self.inner.index.known(&id)?
            && let Some(position) = hot.record().blobs().position(|blob| blob.digest == digest)
            && let Some(bytes) = hot.reply.payloads().nth(position).and_then(Payload::bytes)
        {
            return Ok(window(bytes));
        }
        self.live_payload(id, digest, |ledger, seq, blob| ledger.payload_range(seq, blob, offset, len))
    }

    /// A chunk of a payload that a held record of this question names, fewer bytes at the payload's end, and what proves it to others.
    /// `None` if it is not held, or if that is no chunk: not whole leaves.
    pub fn payload_chunk(
        &self,
        id: ContentId,
        digest: Digest,
        offset: u64,
        len: u32,
    ) -> Result<Option<(Bytes, ChunkProof)>, CassetteError> {
        let chunk_of = |blob: BlobRef| {
            let range = offset..offset.saturating_add(u64::from(len)).min(blob.len);
            bao::is_whole_leaves(&range, blob.len).then_some(range)
        };
        if let Known::Hot(hot) = self.inner.index.known(&id)?
            && let Some((position, blob)) = hot.record().blobs().enumerate().find(|(_, blob)| blob.digest == digest)
            && let Some(bytes) = hot.reply.payloads().nth(position).and_then(Payload::bytes)
        {
            let Some(range) = chunk_of(blob) else { return Ok(None) };
            let proof = if blob.len < OUTBOARD_FROM {
                Some(bao::proof_of(bytes, &range))
            } else {
                self.inner.ledger.payload_proof(blob, &range)?
            };
            if let Some(proof) = proof {
                return Ok(Some((payload_window(bytes, offset, len), proof)));
            }
        }
        let chunk = self.live_payload(id, digest, |ledger, seq, blob| {
            chunk_of(blob).map(|range| ledger.payload_chunk(seq, blob, &range)).transpose()
        })?;
        Ok(chunk.flatten())
    }

    /// Reads a payload that a held record of this question names piece by piece, however long it is. `None` if it is not held.
    pub fn payload_reader(&self, id: ContentId, digest: Digest) -> Result<Option<PayloadReader>, CassetteError> {
        // Its first bytes tell whether it is there at all.
        self.live_payload(id, digest, |ledger, seq, blob| {
            ledger.payload_range(seq, blob, 0, 1).map(|_| ledger.payload_reader(seq, blob))
        })
    }

    /// What `read` makes of the first live record of a question that names this payload and still has it.
    fn live_payload<T>(
        &self,
        id: ContentId,
        digest: Digest,
        read: impl Fn(&LedgerReader, u64, BlobRef) -> Result<T, ReadError>,
    ) -> Result<Option<T>, CassetteError> {
        for seq in self.inner.index.live(&id)? {
            let payload = self
                .named_by(seq, digest)
                .and_then(|blob| blob.map(|blob| read(&self.inner.ledger, seq, blob)).transpose());
            match payload {
                Ok(Some(payload)) => return Ok(Some(payload)),
                Ok(None) => {}
                Err(error) if error.is_loss() => self.lose(id, seq, &error)?,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// The bytes of any payload that is held, for an input that was given by digest.
    pub fn blob(&self, digest: Digest) -> Result<Option<Bytes>, CassetteError> {
        let Inner { ledger, index, .. } = &*self.inner;
        for &seq in index.inline(&digest)?.as_slice() {
            let payload = self.named_by(seq, digest);
            match payload.and_then(|blob| blob.map(|blob| ledger.payload(seq, blob)).transpose()) {
                Ok(Some(bytes)) => return Ok(Some(bytes)),
                Ok(None) => {}
                Err(error) if error.is_loss() => tracing::warn!(seq, %error, "a payload is lost"),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(ledger.blob(digest)?)
    }

    /// Whether this answer was retracted here and has not been recorded again since.
    #[must_use]
    pub fn is_retracted(&self, id: ContentId, answer: Digest) -> bool {
        self.inner.index.standing(&id, &answer).map_or_else(
            |error| {
                // "Never serve this again" holds also while the disk does not tell.
                tracing::warn!(id = %id.short(), %error, "it cannot be told whether an answer was retracted");
                true
            },
            |standing| standing == Standing::Retracted,
        )
    }

    /// How this cassette is doing.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let Inner { ledger, index, counts, recovery, .. } = &*self.inner;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Stats {
            questions: index.questions(),
            records: read(&counts.records),
            bytes: read(&counts.bytes),
            ram_bytes: index.ram() as u64,
            index_bytes: (index.bytes() + ledger.index_bytes()) as u64,
            ram_hits: read(&counts.ram_hits),
            disk_hits: read(&counts.disk_hits),
            misses: read(&counts.misses),
            retracted: read(&counts.retracted),
            damaged: read(&counts.damaged),
            durable: ledger.durable(),
            length: ledger.length(),
            segments: ledger.segments(),
            recovery: recovery.clone(),
        }
    }

    /// Reads the reply of an entry, or says why it is none to this question. If it has more than `most` bytes, these stay where they are.
    fn load(&self, id: ContentId, seq: u64, most: u64) -> Result<Result<Arc<Hot>, NotHeld>, ReadError> {
        let ledger = &self.inner.ledger;
        let stored = ledger.read(seq)?.ok_or(ReadError::Quarantined { seq })?;
        if matches!(stored.entry, Entry::Retracted { request, .. } if request == id) {
            return Ok(Err(NotHeld::Retracted));
        }
        let payloads = {
            let record = stored.entry.record().filter(|record| record.request == id);
            // Another question may have the same fingerprint.
            let Some(record) = record else { return Ok(Err(NotHeld::NeverSeen)) };
            let apart = record.blobs().map(|blob| blob.len).fold(0, u64::saturating_add) > most;
            let load = |blob: BlobRef| {
                if blob.len > INLINE_PAYLOAD as u64 {
                    self.inner.served.note(blob.digest);
                }
                if apart && blob.len >= OUTBOARD_FROM {
                    // Its first bytes tell whether it is there at all.
                    return ledger.payload_range(seq, blob, 0, 1).map(|_| Payload::Stored(blob));
                }
                if blob.len > MAX_PAYLOAD {
                    return Ok(Payload::Stored(blob));
                }
                ledger.payload_of(&stored, blob).map(Payload::Inline)
            };
            record.blobs().map(load).collect::<Result<SmallVec<[Payload; 2]>, _>>()?
        };
        Ok(Hot::read(stored, payloads).ok_or(NotHeld::NeverSeen))
    }

    /// A payload of an entry, by its whole name, if the entry names it.
    fn named_by(&self, seq: u64, digest: Digest) -> Result<Option<BlobRef>, ReadError> {
        let Some(stored) = self.inner.ledger.read(seq)? else { return Ok(None) };
        let named = stored.entry.record().and_then(|record| record.blobs().find(|blob| blob.digest == digest));
        if named.is_some_and(|blob| blob.len > INLINE_PAYLOAD as u64) {
            self.inner.served.note(digest);
        }
        Ok(named.or_else(|| stored.inline().find(|blob: &BlobRef| blob.digest == digest)))
    }

    fn lose(&self, id: ContentId, seq: u64, error: &ReadError) -> Result<(), ReadError> {
        if self.inner.index.lose(&id, seq)?
            && !matches!(error, ReadError::PayloadGone { .. } | ReadError::Dropped { .. })
        {
            count(&self.inner.counts.damaged, 1);
            tracing::warn!(seq, id = %id.short(), %error, "a held reply is lost");
        }
        Ok(())
    }
}

/// The reply that a record names, with these payloads in the order of `Record::blobs`.
pub(super) fn inline_reply(record: &Record, payloads: &[&Bytes]) -> Reply {
    let mut reply = record.reply();
    let slots =
        reply.stdout.iter_mut().chain(&mut reply.stderr).chain(reply.files.iter_mut().map(|file| &mut file.data));
    for (slot, bytes) in slots.zip(payloads) {
        *slot = Payload::Inline((*bytes).clone());
    }
    reply
}
