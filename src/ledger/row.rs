//! What the index keeps of an entry: where it lies, what it says about which question, and its leaf.

use crate::id::Digest;
use crate::message::LogItem;
use crate::proof::{self, Hash};
use crate::record::Record;

use super::entry::Entry;

/// What an entry means to whoever looks for the answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// Nothing.
    Plain,
    /// It answers its question.
    Answer,
    /// It retracts an answer to its question.
    Retraction,
}

/// What kind of thing an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Its frame is lost.
    Lost,
    /// Of a kind or version that is not known here, or malformed.
    Unknown,
    /// It opens an epoch of this ledger.
    Epoch,
    /// It holds a record.
    Record,
    Checkpoint,
    Other,
}

/// One entry of the run that is not sealed yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Row {
    /// Where its frame begins in the segment.
    pub(super) offset: u32,
    pub(super) sort: Sort,
    pub(super) mark: Mark,
    pub(super) announced: bool,
    pub(super) fact: Fact,
    pub(super) leaf: Hash,
    /// Bytes of all payloads that its record names.
    pub(super) payload: u64,
}

/// Fingerprints of a question and an answer; zero where there is none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Fact {
    pub(super) question: u64,
    pub(super) answer: u64,
}

impl Row {
    pub(super) const LOST: Self = Self {
        offset: 0,
        sort: Sort::Lost,
        mark: Mark::Plain,
        announced: false,
        fact: Fact { question: 0, answer: 0 },
        leaf: [0; 32],
        payload: 0,
    };

    /// The row of an entry whose frame lies at `offset`. `body` is the entry's.
    pub(super) fn new(entry: &Entry, body: &[u8], announced: bool, offset: u32) -> Self {
        Self::answering(entry, body, announced, offset, None)
    }

    /// As [`Self::new`], for a record whose answer digest may be known already.
    pub(super) fn answering(entry: &Entry, body: &[u8], announced: bool, offset: u32, answer: Option<Digest>) -> Self {
        let leaf = proof::leaf_hash(entry.kind(), body);
        let plain = Self { offset, sort: Sort::Other, leaf, ..Self::LOST };
        match entry {
            Entry::Observed(_) | Entry::Adopted(_) => {
                let Some(record) = entry.record() else { return Self { sort: Sort::Unknown, ..plain } };
                let answer = answer.unwrap_or_else(|| record.answer());
                plain.naming(&record, answer, announced)
            }
            Entry::Retracted { request, answer, .. } => {
                let fact = Fact { question: request.fingerprint(), answer: answer.fingerprint() };
                Self { mark: Mark::Retraction, fact, ..plain }
            }
            Entry::Epoch { .. } => Self { sort: Sort::Epoch, ..plain },
            Entry::Checkpoint { .. } => Self { sort: Sort::Checkpoint, ..plain },
            Entry::Evicted { .. } => plain,
            Entry::Unknown { .. } => Self { sort: Sort::Unknown, ..plain },
        }
    }

    /// The row of an entry about this record, with everything but its place, and not announced.
    pub(super) fn about(entry: &Entry, body: &[u8], record: &Record, answer: Digest) -> Self {
        let leaf = proof::leaf_hash(entry.kind(), body);
        Self { leaf, ..Self::LOST }.naming(record, answer, false)
    }

    fn naming(self, record: &Record, answer: Digest, announced: bool) -> Self {
        Self {
            sort: Sort::Record,
            mark: if record.class.is_memoised() { Mark::Answer } else { Mark::Plain },
            announced,
            fact: Fact { question: record.request.fingerprint(), answer: answer.fingerprint() },
            payload: record.blobs().map(|blob| blob.len).sum(),
            ..self
        }
    }

    pub(super) fn is_lost(&self) -> bool {
        self.sort == Sort::Lost
    }
}

/// How an entry appears in the announcement log.
pub(super) fn log_item(announced: bool, fact: Fact) -> LogItem {
    if announced {
        LogItem::Fact { question: fact.question.to_le_bytes(), answer: fact.answer.to_le_bytes() }
    } else {
        LogItem::Skip(1)
    }
}
