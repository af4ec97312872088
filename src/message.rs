//! What nodes say to each other, as plain values. How it becomes bytes is `wire`'s affair, what it leads to is `fabric`'s.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use blake3::hazmat::{ContextKey, HasherExt, hash_derive_key_context};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::bao::ChunkProof;
use crate::error::EvalError;
use crate::id::{ContentId, Digest, EpochId, NodeId, plain_bytes};
use crate::identity::{Signature, Signer, Verifier};
use crate::limits::SEGMENT;
use crate::proof::{Evidence, Hash, Head};
use crate::request::{Class, Name, Slot};

/// The newest protocol version spoken here.
pub const PROTOCOL: u16 = 5;
/// The oldest protocol version still spoken here. Version 1 had chunks without proof, version 2 had chunks that were
/// proven only as a whole, version 3 signed the head of a batch apart from the batch, version 4 did not say when the next heartbeat comes.
pub const OLDEST_PROTOCOL: u16 = 5;
/// The nonce of a heartbeat that wants no pong. No other one has it.
pub const NO_PONG: u64 = 0;

/// Domain of an announcement's signature.
const ANNOUNCE_CONTEXT: &[u8] = b"evalmesh 2026-11-21 announcement v2\0";
/// Domain of a manifest's signature.
const MANIFEST_CONTEXT: &[u8] = b"evalmesh 2026-11-21 manifest v1\0";
/// BLAKE3 derive-key contexts of a batch, of the chain over a log's batches, and of a manifest's statement. Every announcement that comes is
/// hashed several times, so the contexts themselves are hashed once.
static BATCH: LazyLock<ContextKey> =
    LazyLock::new(|| hash_derive_key_context("evalmesh 2026-11-21 announcement batch v1"));
static CHAIN: LazyLock<ContextKey> =
    LazyLock::new(|| hash_derive_key_context("evalmesh 2026-11-21 announcement chain v1"));
static STATEMENT: LazyLock<ContextKey> =
    LazyLock::new(|| hash_derive_key_context("evalmesh 2026-11-21 manifest statement v1"));

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

/// A run of consecutive log positions, with a head that covers its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    /// The log position of the first item.
    pub first: u64,
    /// The items.
    pub items: Vec<LogItem>,
    /// The announcer's head over (at least) these entries; whoever signs the batch signs it with it.
    pub head: Head,
}

impl Batch {
    /// The log position after the last item.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.items.iter().fold(self.first, |at, item| at.saturating_add(item.positions()))
    }

    /// Names its positions and items. Whoever passes a batch on and changes an item breaks the signature, not the author's word.
    #[must_use]
    pub fn digest(&self) -> BatchDigest {
        let mut bytes = Vec::with_capacity(8 + self.items.len() * 17);
        bytes.extend_from_slice(&self.first.to_le_bytes());
        for item in &self.items {
            match item {
                LogItem::Fact { question, answer } => {
                    bytes.push(0);
                    bytes.extend_from_slice(question);
                    bytes.extend_from_slice(answer);
                }
                LogItem::Skip(count) => {
                    bytes.push(1);
                    bytes.extend_from_slice(&count.to_le_bytes());
                }
            }
        }
        BatchDigest(*blake3::Hasher::new_from_context_key(&BATCH).update(&bytes).finalize().as_bytes())
    }
}

/// A batch as its author announces it: chained to the one before it in the same epoch and signed once, so that it may come by way of others.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// The log positions.
    pub batch: Batch,
    /// The epoch's chain after this batch.
    #[serde(deserialize_with = "plain_bytes")]
    pub chain: Hash,
    /// The author's signature over batch, head and chain: one for all of it.
    pub signature: Signature,
}

/// The digest of a batch's positions and items: what its announcement's signature and chain are made of. Whoever checked the one has it for
/// the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchDigest(Hash);

/// The chain of an epoch before its first batch.
#[must_use]
pub fn chain_start(node: NodeId, epoch: EpochId) -> Hash {
    let mut hasher = blake3::Hasher::new_from_context_key(&CHAIN);
    hasher.update(node.as_bytes()).update(epoch.as_bytes());
    *hasher.finalize().as_bytes()
}

impl Announcement {
    /// Announces a batch behind the chain `before` it.
    #[must_use]
    pub fn sign(signer: &dyn Signer, before: &Hash, batch: Batch) -> Self {
        let digest = batch.digest();
        let chain = chain_after(before, digest);
        let signature = signer.sign(&statement(&batch, digest, &chain));
        Self { batch, chain, signature }
    }

    /// Whose log it is of.
    #[must_use]
    pub fn author(&self) -> NodeId {
        self.batch.head.node
    }

    /// The digest of its batch, if its author signed exactly this batch, head and chain.
    #[must_use]
    pub fn verify(&self, verifier: &dyn Verifier) -> Option<BatchDigest> {
        let digest = self.batch.digest();
        let statement = statement(&self.batch, digest, &self.chain);
        verifier.verify(self.author(), &statement, &self.signature).then_some(digest)
    }

    /// Whether its chain is the one that leads on from `before`; `digest` is its batch's. If its author signed it and it does not, the author
    /// has two histories.
    #[must_use]
    pub fn follows(&self, before: &Hash, digest: BatchDigest) -> bool {
        chain_after(before, digest) == self.chain
    }
}

fn chain_after(before: &Hash, digest: BatchDigest) -> Hash {
    *blake3::Hasher::new_from_context_key(&CHAIN).update(before).update(&digest.0).finalize().as_bytes()
}

fn statement(batch: &Batch, digest: BatchDigest, chain: &Hash) -> Vec<u8> {
    let Head { epoch, length, root, .. } = &batch.head;
    [ANNOUNCE_CONTEXT, epoch.as_bytes(), &length.to_le_bytes(), root, &digest.0, chain].concat()
}

/// One segment of a log: its facts as a Golomb-coded set, named by the digest of that set's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentName {
    /// Which: it begins at log position `number * SEGMENT`.
    pub number: u64,
    /// The log position after it; only the last segment of a log ends early.
    pub end: u64,
    /// How many facts it has; none needs no fetching.
    pub facts: u32,
    /// The digest of its bytes.
    pub digest: Digest,
}

/// A whole log in names: what late joiners fetch instead of every batch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// Whose log.
    pub node: NodeId,
    /// Its epochs, oldest first.
    pub lineage: Vec<EpochStart>,
    /// For each segment from position 0 on: how many facts, and the digest.
    pub segments: Vec<(u32, Digest)>,
    /// The log position after the last segment.
    pub end: u64,
    /// The current epoch's chain at `end`.
    #[serde(deserialize_with = "plain_bytes")]
    pub chain: Hash,
    /// The author's signature over all of this.
    pub signature: Signature,
}

impl Manifest {
    /// The names of all segments.
    pub fn names(&self) -> impl Iterator<Item = SegmentName> {
        self.segments.iter().zip(0..).map(|(&(facts, digest), number)| SegmentName {
            number,
            end: ((number + 1) * SEGMENT).min(self.end),
            facts,
            digest,
        })
    }

    /// Whether it names exactly the segments that a log of this length has, none with more facts than positions.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.segments.len() as u64 == self.end.div_ceil(SEGMENT)
            && self.lineage.last().is_some_and(|epoch| epoch.start <= self.end)
            && self.names().all(|name| u64::from(name.facts) <= name.end - name.number * SEGMENT)
    }

    /// The same manifest, signed.
    #[must_use]
    pub fn sign(mut self, signer: &dyn Signer) -> Self {
        self.signature = signer.sign(&self.statement());
        self
    }

    /// Whether its author signed it.
    #[must_use]
    pub fn verify(&self, verifier: &dyn Verifier) -> bool {
        verifier.verify(self.node, &self.statement(), &self.signature)
    }

    fn statement(&self) -> Vec<u8> {
        let mut hasher = blake3::Hasher::new_from_context_key(&STATEMENT);
        hasher.update(&self.end.to_le_bytes()).update(&self.chain);
        hasher.update(&(self.lineage.len() as u64).to_le_bytes());
        for epoch in &self.lineage {
            hasher.update(epoch.epoch.as_bytes()).update(&epoch.start.to_le_bytes());
        }
        for (facts, digest) in &self.segments {
            hasher.update(&facts.to_le_bytes()).update(digest.as_bytes());
        }
        [MANIFEST_CONTEXT, hasher.finalize().as_bytes()].concat()
    }
}

/// How long a log is: one row of a version vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// Whose log.
    pub node: NodeId,
    /// Its current epoch.
    pub epoch: EpochId,
    /// Up to where it is known to whoever sends the row.
    pub length: u64,
}

/// A message from one node to another. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Message {
    /// The first message on every lane, from both sides; sent again until something shows that it came.
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
    /// Heartbeat: how long the sender's log is now, and what it knows of others.
    Heads {
        /// The log's current epoch.
        epoch: EpochId,
        /// Its length.
        length: u64,
        /// Entries before this position are dropped.
        floor: u64,
        /// Logs of others that grew since the last heartbeat that came back; empty where every node has a lane to every other.
        rows: Vec<Row>,
        /// Comes back in `Pong`, unless it is [`NO_PONG`].
        nonce: u64,
        /// How many seconds there are between two heartbeats to the same peer.
        pace: u8,
    },
    /// The answer to `Heads`.
    Pong {
        /// From the heartbeat.
        nonce: u64,
    },
    /// "Send me this log from here."
    Pull {
        /// Whose log.
        node: NodeId,
        /// The log position wanted first.
        from: u64,
    },
    /// "Name me your log": in an overlay its epochs are what neighbours need to believe what is passed on.
    Describe,
    /// Log entries: pushed when new, or pulled.
    Announce(Arc<Announcement>),
    /// The answer to a pull from far back.
    Manifest(Arc<Manifest>),
    /// "Send me this segment of that log."
    GetSegment {
        /// Comes back in the answer.
        ask: AskId,
        /// Whose log.
        node: NodeId,
        /// Which segment.
        number: u64,
        /// The log position after its last entry.
        end: u64,
        /// The digest of its bytes.
        digest: Digest,
    },
    /// The segment asked for.
    Segment {
        /// From the ask.
        ask: AskId,
        /// Its bytes.
        bytes: Bytes,
    },
    /// "I have these logs up to there": sent in place of the entries on lazy links.
    Have {
        /// The logs.
        rows: Vec<Row>,
    },
    /// "Send me what is new yourself, and this log from here."
    Graft {
        /// Whose log.
        node: NodeId,
        /// The log position wanted first.
        from: u64,
    },
    /// "What you send me I have already: tell me what you have instead."
    Prune,
    /// "I chose you as a neighbour of the overlay", or no longer.
    Link {
        /// Whether the link is wanted.
        on: bool,
    },
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
        /// Whether the asker may announce that it holds the answer too: its producer lets only a few do that.
        announce: bool,
    },
    /// "No."
    NotHeld {
        /// From the ask.
        ask: AskId,
    },
    /// "Not now": says nothing about what is held.
    Busy {
        /// From the ask.
        ask: AskId,
    },
    /// "Send me this chunk of a payload of that record": whole leaves of [`LEAF`](crate::bao::LEAF) bytes.
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
    /// The chunk asked for, if it is the whole payload and one leaf: its digest proves it.
    Chunk {
        /// From the ask.
        ask: AskId,
        /// The bytes.
        bytes: Bytes,
    },
    /// "I no longer need that." Asks of the fabric are answered at once, so it is for work that was placed; see the node's `placement`.
    Cancel {
        /// From the ask, or the work.
        ask: AskId,
    },
    /// Where nodes listen; see the node's `addresses`. The fabric has no part in it.
    Addresses(Addresses),
    /// The chunk asked for, if it is one leaf of the payload: see [`ChunkClaim`](crate::bao::ChunkClaim).
    ProvenChunk {
        /// From the ask.
        ask: AskId,
        /// The bytes.
        bytes: Bytes,
        /// The chaining values of the subtrees beside it, from left to right.
        siblings: Vec<Hash>,
    },
    /// The chunk asked for comes leaf by leaf, if it has more than one: what these are.
    Leaves {
        /// From the ask.
        ask: AskId,
        /// The proof: see [`LeavesClaim`](crate::bao::LeavesClaim).
        proof: ChunkProof,
    },
    /// One leaf of a chunk whose [`Leaves`](Self::Leaves) went ahead.
    Leaf {
        /// From the ask.
        ask: AskId,
        /// Which.
        number: u32,
        /// Its bytes.
        bytes: Bytes,
    },
    /// "Where does this node listen?" Answered with `Addresses` by whoever heard it from that node itself; the node's affair like these.
    WhereIs {
        /// Who is looked for.
        node: NodeId,
    },
    /// Who computes what for others; see the node's `placement`. The fabric has no part in it.
    Placement(Placement),
}

/// What a segment is taken for before it came, in bytes: a full one has about as many.
const USUAL_SEGMENT: usize = 48 * 1024;

impl Message {
    /// Whether this is a part of something large. Such messages need no order with others, and must hold up nobody else's.
    #[must_use]
    pub fn is_bulk(&self) -> bool {
        matches!(
            self,
            Self::Chunk { .. }
                | Self::ProvenChunk { .. }
                | Self::Leaves { .. }
                | Self::Leaf { .. }
                | Self::Segment { .. }
        )
    }

    /// About how many bytes of that kind this asks for.
    #[must_use]
    pub fn bulk_wanted(&self) -> usize {
        match self {
            Self::GetChunk { len, .. } => *len as usize,
            Self::GetSegment { .. } => USUAL_SEGMENT,
            _ => 0,
        }
    }
}

/// What nodes say to each other so that one computes for another. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Placement {
    /// "I compute in these device classes": all of them, in place of what was said before.
    Offer(Vec<Name>),
    /// "Compute this for me, and hold the answer."
    Work(AskId, Work),
    /// "I hold it now", or why not.
    Done(AskId, Result<(), EvalError>),
}

/// A GPU evaluation for another node, with all its bytes: nothing in it nests.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Work {
    /// The program's bytes.
    pub program: Bytes,
    /// The inputs' bytes.
    pub inputs: Vec<(Slot, Bytes)>,
    /// Class and namespace, as in the request.
    pub class: Class,
    /// See the request.
    pub scope: Option<Name>,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
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
