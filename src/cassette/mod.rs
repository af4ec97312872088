//! The cassette: the local view over the ledger, from a question to its reply.
//!
//! Replies are found in a bounded RAM tier first, then in the ledger. Among several live answers to one question the first recorded wins.
//! Invariants: nothing is shown before the ledger has written it; a payload that does not match its digest is never given out; a retracted
//! answer is not served until it is recorded here again, and never adopted back. The cassette does not know peers or evaluators.

mod hot;
mod memo;
mod recorder;
#[cfg(test)]
mod tests;
mod writer;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use dashmap::DashMap;

use self::hot::Hot;
pub use self::memo::Memo;
pub use self::recorder::{Completion, Durability, Recorder, RecorderHandle, RecorderOptions};
pub use self::writer::{CassetteWriter, Ticket};
use crate::error::NotHeld;
use crate::id::{ContentId, Digest};
use crate::identity::Signer;
use crate::ledger::{LedgerReader, ReadError};
use crate::proof::Evidence;
use crate::record::Record;
use crate::reply::{BlobRef, Payload, Reply};

/// Where a held reply was found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tier {
    /// In memory.
    Ram,
    /// In the ledger.
    Disk,
}

/// A reply that is held here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The record.
    pub record: Record,
    /// The reply, every payload inline.
    pub reply: Reply,
    /// Where it was found.
    pub tier: Tier,
    /// Its position in the ledger.
    pub seq: u64,
}

/// What a look-up found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lookup {
    /// A reply.
    Hit(Box<Held>),
    /// None, and why.
    Miss(NotHeld),
}

/// The cassette in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Questions with a live answer.
    pub answers: u64,
    /// Bytes in the RAM tier.
    pub ram_bytes: u64,
    /// Answers that were found damaged since the start.
    pub damaged: u64,
}

/// One live answer to a question.
#[derive(Debug, Clone, Copy)]
struct Live {
    seq: u64,
    answer: Digest,
}

#[derive(Debug, Default)]
struct Known {
    /// In the order of recording.
    live: Vec<Live>,
    retracted: Vec<Digest>,
}

#[derive(Debug)]
struct Inner {
    ledger: LedgerReader,
    index: DashMap<ContentId, Known>,
    /// Where payloads without a file of their own lie, by digest.
    inline: DashMap<Digest, (u64, u64)>,
    hot: Hot,
    damaged: AtomicU64,
}

/// The view over one ledger; clones share it.
#[derive(Debug, Clone)]
pub struct Cassette {
    inner: Arc<Inner>,
}

impl Cassette {
    fn new(ledger: LedgerReader) -> Self {
        let inner = Inner {
            ledger,
            index: DashMap::new(),
            inline: DashMap::new(),
            hot: Hot::default(),
            damaged: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// The ledger underneath.
    #[must_use]
    pub fn ledger(&self) -> &LedgerReader {
        &self.inner.ledger
    }

    /// The reply to a question, if it is held here. A failing disk is an error; a damaged or evicted payload is a miss that says so.
    pub fn lookup(&self, id: ContentId) -> Result<Lookup, ReadError> {
        if let Some(held) = self.inner.hot.get(id) {
            return Ok(Lookup::Hit(Box::new(held)));
        }
        let live = {
            let Some(known) = self.inner.index.get(&id) else { return Ok(Lookup::Miss(NotHeld::NeverSeen)) };
            known.live.clone()
        };
        if live.is_empty() {
            return Ok(Lookup::Miss(NotHeld::Retracted));
        }
        for Live { seq, .. } in live {
            match self.read(seq) {
                Ok(Some(held)) => {
                    self.inner.hot.put(id, &held);
                    return Ok(Lookup::Hit(Box::new(held)));
                }
                Ok(None) => {}
                Err(error) if error.is_loss() => {
                    self.inner.damaged.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(seq, %error, "an answer is damaged or gone");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Lookup::Miss(NotHeld::PayloadGone))
    }

    fn read(&self, seq: u64) -> Result<Option<Held>, ReadError> {
        let Some(stored) = self.inner.ledger.read(seq)? else { return Ok(None) };
        let Some(record) = stored.entry.record() else { return Ok(None) };
        let mut reply = record.reply();
        let outputs = reply.stdout.iter_mut().chain(&mut reply.stderr);
        for payload in outputs.chain(reply.files.iter_mut().map(|file| &mut file.data)) {
            if let Payload::Stored(blob) = payload {
                *payload = Payload::Inline(self.inner.ledger.payload_of(&stored, *blob)?);
            }
        }
        Ok(Some(Held { record, reply, tier: Tier::Disk, seq }))
    }

    /// The reply to a question with what makes it believable to others; `None` if it is not held, not durable yet, or cannot be proven.
    pub fn evidence(&self, id: ContentId, signer: &dyn Signer) -> Result<Option<(Held, Evidence)>, ReadError> {
        let Lookup::Hit(held) = self.lookup(id)? else { return Ok(None) };
        Ok(self.inner.ledger.evidence(held.seq, signer)?.map(|evidence| (*held, evidence)))
    }

    /// Some bytes of a payload that the reply to a question names; `None` if it names no such payload.
    pub fn payload_range(
        &self,
        id: ContentId,
        digest: Digest,
        offset: u64,
        len: u32,
    ) -> Result<Option<Bytes>, ReadError> {
        let Lookup::Hit(held) = self.lookup(id)? else { return Ok(None) };
        let named = held.record.blobs().zip(held.reply.payloads()).find(|(blob, _)| blob.digest == digest);
        let Some((_, Payload::Inline(bytes))) = named else { return Ok(None) };
        let start = usize::try_from(offset).unwrap_or(usize::MAX).min(bytes.len());
        let end = start.saturating_add(len as usize).min(bytes.len());
        Ok(Some(bytes.slice(start..end)))
    }

    /// The bytes of any payload that is held here, by digest.
    pub fn blob(&self, digest: Digest) -> Result<Option<Bytes>, ReadError> {
        let place = self.inner.inline.get(&digest).map(|place| *place);
        match place {
            Some((seq, len)) => self.inner.ledger.payload(seq, BlobRef { digest, len }).map(Some),
            None => self.inner.ledger.blob(digest),
        }
    }

    /// Whether this answer was retracted here.
    #[must_use]
    pub fn is_retracted(&self, id: ContentId, answer: Digest) -> bool {
        self.inner.index.get(&id).is_some_and(|known| known.retracted.contains(&answer))
    }

    /// Whether this answer can be served from here.
    fn holds(&self, id: ContentId, answer: Digest) -> bool {
        self.inner.index.get(&id).is_some_and(|known| known.live.iter().any(|live| live.answer == answer))
    }

    /// The cassette in numbers.
    #[must_use]
    pub fn stats(&self) -> Stats {
        Stats {
            answers: self.inner.index.iter().filter(|known| !known.live.is_empty()).count() as u64,
            ram_bytes: self.inner.hot.bytes(),
            damaged: self.inner.damaged.load(Ordering::Relaxed),
        }
    }

    /// Shows a record that the ledger has written.
    fn show(&self, seq: u64, record: &Record, inline: impl Iterator<Item = BlobRef>) {
        for blob in inline {
            self.inner.inline.entry(blob.digest).or_insert((seq, blob.len));
        }
        if record.class.is_memoised() {
            self.inner.index.entry(record.request).or_default().live.push(Live { seq, answer: record.answer() });
        }
    }

    /// Never serves this answer again, until it is recorded again.
    fn hide(&self, id: ContentId, answer: Digest) {
        let mut known = self.inner.index.entry(id).or_default();
        known.live.retain(|live| live.answer != answer);
        if !known.retracted.contains(&answer) {
            known.retracted.push(answer);
        }
        self.inner.hot.remove(id);
    }
}
