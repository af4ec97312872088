//! What a ledger consists of. Each entry has a kind byte and a body; the body's first byte is the version of its format.
//!
//! Invariant: equal entries have equal bytes, because the leaf of an entry in the Merkle tree is the hash of its kind and body. Kinds are
//! append-only. What is not known here is kept as it is ([`Entry::Unknown`]), so that an older version never loses a newer one's entries.

use std::borrow::Cow;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::proof::{self, Evidence, Hash, SignedHead, form};
use crate::record::form::Rest;
use crate::record::{Record, RecordError};

const EPOCH: u8 = 0;
const ADOPTED: u8 = 2;
const RETRACTED: u8 = 3;
const CHECKPOINT: u8 = 4;
const EVICTED: u8 = 5;

/// Version byte of every body that is defined here; an observed record's body has the version of the record itself.
const BODY_V1: u8 = 1;

/// The epoch that another one continues.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Parent {
    /// Its name.
    pub epoch: EpochId,
    /// The sequence number of its first entry.
    pub start: u64,
    /// How many of its entries stay valid: facts beyond them that anybody saw are masked.
    pub length: u64,
    /// The root over them.
    pub root: Hash,
}

/// One entry of a ledger.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The ledger was opened for writing; always leaf 0 of its epoch.
    Epoch {
        /// The new epoch.
        epoch: EpochId,
        /// The sequence number of this very entry.
        start: u64,
        /// The epoch before it.
        parent: Option<Parent>,
        /// Whose ledger this is.
        node: NodeId,
        /// When, by this node's clock: microseconds since 1970.
        opened_at: u64,
    },
    /// This node observed a reply. The body is exactly [`Record::encode`].
    Observed(Record),
    /// This node holds a reply that another one observed; the producer's record, proof and head are unchanged.
    Adopted(Evidence),
    /// Never serve this answer again.
    Retracted {
        /// The question.
        request: ContentId,
        /// The answer.
        answer: Digest,
        /// When, by this node's clock: microseconds since 1970.
        at: u64,
    },
    /// A place to hold on to: where the ledger begins now, and a signed head.
    Checkpoint {
        /// Entries before this position may have been dropped. It only rises.
        floor: u64,
        /// The newest head at that time.
        head: Option<SignedHead>,
        /// When, by this node's clock: microseconds since 1970.
        at: u64,
    },
    /// These payloads were dropped to make room; the records that name them stay.
    Evicted {
        /// The payloads.
        payloads: Vec<Digest>,
        /// When, by this node's clock: microseconds since 1970.
        at: u64,
    },
    /// Something that a newer version wrote.
    Unknown {
        /// Its kind byte.
        kind: u8,
        /// Its body.
        body: Bytes,
    },
}

/// Why a body of a known kind and version is not an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical entry: {0}")]
pub struct EntryError(String);

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct EpochV1 {
    epoch: EpochId,
    start: u64,
    parent: Option<Parent>,
    node: NodeId,
    opened_at: u64,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct RetractedV1 {
    request: ContentId,
    answer: Digest,
    at: u64,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct CheckpointV1 {
    floor: u64,
    head: Option<SignedHead>,
    at: u64,
}

#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct EvictedV1 {
    payloads: Vec<Digest>,
    at: u64,
}

impl Entry {
    /// The kind byte.
    #[must_use]
    pub fn kind(&self) -> u8 {
        match self {
            Self::Epoch { .. } => EPOCH,
            Self::Observed(_) => proof::OBSERVED,
            Self::Adopted(_) => ADOPTED,
            Self::Retracted { .. } => RETRACTED,
            Self::Checkpoint { .. } => CHECKPOINT,
            Self::Evicted { .. } => EVICTED,
            Self::Unknown { kind, .. } => *kind,
        }
    }

    /// The body: version byte, then the postcard form of the fields in their order.
    #[must_use]
    pub fn body(&self) -> Bytes {
        match self {
            &Self::Epoch { epoch, start, parent, node, opened_at } => {
                encode(&EpochV1 { epoch, start, parent, node, opened_at })
            }
            Self::Observed(record) => record.encode().into(),
            Self::Adopted(evidence) => {
                let mut body = Vec::with_capacity(1 + evidence.size());
                body.push(BODY_V1);
                form::write(evidence, &mut body);
                body.into()
            }
            &Self::Retracted { request, answer, at } => encode(&RetractedV1 { request, answer, at }),
            Self::Checkpoint { floor, head, at } => {
                encode(&CheckpointV1 { floor: *floor, head: head.clone(), at: *at })
            }
            Self::Evicted { payloads, at } => encode(&EvictedV1 { payloads: payloads.clone(), at: *at }),
            Self::Unknown { body, .. } => body.clone(),
        }
    }

    /// The leaf of this entry in its epoch's tree.
    #[must_use]
    pub fn leaf(&self) -> Hash {
        proof::leaf_hash(self.kind(), &self.body())
    }

    /// Reads a body strictly. An unknown kind or version is an [`Entry::Unknown`]; a known one must have its one byte form.
    pub fn decode(kind: u8, body: &Bytes) -> Result<Self, EntryError> {
        let unknown = || Self::Unknown { kind, body: body.clone() };
        if kind == proof::OBSERVED {
            return match Record::decode(body) {
                Ok(record) => Ok(Self::Observed(record)),
                Err(RecordError::Version(_)) => Ok(unknown()),
                Err(error) => Err(EntryError(error.to_string())),
            };
        }
        if !matches!(kind, EPOCH | ADOPTED | RETRACTED | CHECKPOINT | EVICTED)
            || body.first().is_some_and(|version| *version != BODY_V1)
        {
            return Ok(unknown());
        }
        Ok(match kind {
            EPOCH => {
                let EpochV1 { epoch, start, parent, node, opened_at } = decode(body)?;
                Self::Epoch { epoch, start, parent, node, opened_at }
            }
            ADOPTED => {
                let mut rest = Rest(body.get(1..).unwrap_or_default());
                let evidence = form::read(&mut rest, body).filter(|_| rest.0.is_empty());
                let evidence = evidence.ok_or_else(|| EntryError("not the one form of evidence".to_owned()))?;
                match Record::decode(&evidence.record) {
                    Ok(_) => Self::Adopted(evidence),
                    Err(RecordError::Version(_)) => unknown(),
                    Err(error) => return Err(EntryError(error.to_string())),
                }
            }
            CHECKPOINT => {
                let CheckpointV1 { floor, head, at } = decode(body)?;
                Self::Checkpoint { floor, head, at }
            }
            EVICTED => {
                let EvictedV1 { payloads, at } = decode(body)?;
                Self::Evicted { payloads, at }
            }
            _ => {
                let RetractedV1 { request, answer, at } = decode(body)?;
                Self::Retracted { request, answer, at }
            }
        })
    }

    /// Reads a body that is in the ledger: what is malformed is kept like what is unknown.
    pub(super) fn read(kind: u8, body: &Bytes) -> Self {
        Self::decode(kind, body).unwrap_or_else(|_| Self::Unknown { kind, body: body.clone() })
    }

    /// The record that this entry is about: the observed or the adopted one.
    #[must_use]
    pub fn record(&self) -> Option<Cow<'_, Record>> {
        match self {
            Self::Observed(record) => Some(Cow::Borrowed(record)),
            Self::Adopted(evidence) => Record::decode(&evidence.record).ok().map(Cow::Owned),
            _ => None,
        }
    }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    postcard::to_extend(value, vec![BODY_V1]).expect("plain values into memory always encode").into()
}

fn decode<T: Serialize + for<'de> Deserialize<'de>>(body: &Bytes) -> Result<T, EntryError> {
    let value =
        postcard::from_bytes(body.get(1..).unwrap_or_default()).map_err(|error| EntryError(error.to_string()))?;
    if encode(&value) == *body { Ok(value) } else { Err(EntryError("another form of the same values".to_owned())) }
}
