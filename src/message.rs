//! What nodes say to each other, as plain values. How it becomes bytes is `wire`'s affair, what it leads to is `fabric`'s.

use std::net::SocketAddr;

use bytes::Bytes;

use serde::{Deserialize, Serialize};

use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::proof::{Evidence, SignedHead};

/// The newest protocol version spoken here.
pub const PROTOCOL: u16 = 1;
/// The oldest protocol version still spoken here.
pub const OLDEST_PROTOCOL: u16 = 1;

/// Names an ask between two peers; chosen by the asker, unique while it is in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AskId(pub u64);

/// Where an epoch of a log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EpochStart {
    /// The epoch.
    pub epoch: EpochId,
    /// The log position of its first entry.
    pub start: u64,
}

/// One position of an announcement log. Positions are those of the announcer's ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogItem {
    /// "I hold an answer to this": fingerprints of the question and of the answer.
    Fact {
        /// The first eight bytes of the question's id.
        question: [u8; 8],
        /// The first eight bytes of the answer digest.
        answer: [u8; 8],
    },
    /// That many entries that are not announced.
    Skip(u32),
}

impl LogItem {
    /// How many log positions this item stands for.
    #[must_use]
    pub fn positions(&self) -> u64 {
        match self {
            Self::Fact { .. } => 1,
            Self::Skip(count) => u64::from(*count),
        }
    }
}

/// A run of consecutive log positions, vouched for by a head that covers its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The log position of the first item.
    pub first: u64,
    /// The items.
    pub items: Vec<LogItem>,
    /// The announcer's head over (at least) these entries.
    pub head: SignedHead,
}

impl Batch {
    /// The log position after the last item.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.items.iter().fold(self.first, |at, item| at.saturating_add(item.positions()))
    }
}

/// A message from one node to another. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message on every lane, from both sides.
    Hello {
        /// Newest protocol version spoken.
        newest: u16,
        /// Oldest protocol version spoken.
        oldest: u16,
        /// The epochs of the sender's log, oldest first.
        lineage: Vec<EpochStart>,
        /// The length of its log.
        length: u64,
    },
    /// Heartbeat: how long the sender's log is now.
    Heads {
        /// The log's current epoch.
        epoch: EpochId,
        /// Its length.
        length: u64,
        /// Comes back in `Pong`.
        nonce: u64,
    },
    /// The answer to `Heads`.
    Pong {
        /// From the heartbeat.
        nonce: u64,
    },
    /// "Send me your log from here."
    Pull {
        /// The log position wanted first.
        from: u64,
    },
    /// Log entries: pushed when new, or pulled.
    Batch(Batch),
    /// "Do you hold an answer to this question?"
    Ask {
        /// Comes back in the answer.
        ask: AskId,
        /// The question.
        id: ContentId,
    },
    /// "Yes, here it is."
    Held {
        /// From the ask.
        ask: AskId,
        /// The record, as its producer signed it.
        evidence: Evidence,
        /// All its payloads in the order of `Record::blobs`, or none if they are too large to travel with the answer.
        payloads: Vec<Bytes>,
    },
    /// "No."
    NotHeld {
        /// From the ask.
        ask: AskId,
    },
    /// "Send me these bytes of a payload of that record."
    GetChunk {
        /// Comes back in the answer.
        ask: AskId,
        /// The question whose record names the payload.
        id: ContentId,
        /// The payload.
        blob: Digest,
        /// The first byte wanted.
        offset: u64,
        /// How many bytes.
        len: u32,
    },
    /// The bytes asked for.
    Chunk {
        /// From the ask.
        ask: AskId,
        /// The bytes.
        bytes: Bytes,
    },
    /// "I no longer need that."
    Cancel {
        /// From the ask.
        ask: AskId,
    },
    /// Where nodes listen; see the node's `addresses`. The fabric has no part in it.
    Addresses(Addresses),
}

/// Addresses to dial.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Addresses {
    /// Where the sender listens, as far as the receiver may be able to reach it.
    pub mine: Vec<SocketAddr>,
    /// Where the sender's peers listen, as they said themselves.
    pub others: Vec<(NodeId, Vec<SocketAddr>)>,
    /// "Tell me of others."
    pub curious: bool,
}
