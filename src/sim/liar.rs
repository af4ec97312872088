//! Nodes that lie: they run the real core, and what they send is twisted on the way out.
//!
//! A lie is one that the network lets through: an authenticated member that does not keep to the rules. What a liar signs *as its own* wrong
//! observation is believed today under the `fleet` policy, and is no lie here until trust is more than membership.
//! Invariant: no lie needs a key that is not the liar's own.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::rng::Rng;
use crate::bao::ChunkProof;
use crate::id::{Digest, NodeId};
use crate::identity::Signature;
use crate::message::{LogItem, Message};
use crate::proof::{Evidence, OBSERVED, SignedHead, Tree, leaf_hash};
use crate::record::Record;
use crate::reply::BlobRef;

/// A way to lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Lie {
    /// A payload with a flipped bit.
    WrongBytes,
    /// A record in another node's name.
    ForgedRecord,
    /// A proof that leads elsewhere.
    WrongProof,
    /// The answer to another question.
    OtherAnswer,
    /// "I hold it", of what it does not hold.
    FalseHolder,
    /// "I hold nothing", of what it holds.
    Denial,
    /// A log longer than it is.
    LongLog,
    /// A head over another length than was signed.
    ForgedHead,
    /// No answer at all.
    Silence,
    /// What is no message.
    Garbage,
    /// The same message twice, later.
    Replay,
    /// A batch of another place in the log.
    Misplaced,
}

impl Lie {
    /// All of them.
    pub const ALL: [Self; 12] = [
        Self::WrongBytes,
        Self::ForgedRecord,
        Self::WrongProof,
        Self::OtherAnswer,
        Self::FalseHolder,
        Self::Denial,
        Self::LongLog,
        Self::ForgedHead,
        Self::Silence,
        Self::Garbage,
        Self::Replay,
        Self::Misplaced,
    ];
}

/// What a liar sends in place of one message.
pub(super) enum Twisted {
    Message(Message),
    Twice(Message),
    Bytes(Bytes),
    Nothing,
}

#[derive(Debug)]
pub(super) struct Liar {
    rng: Rng,
    share: u32,
    lies: Vec<Lie>,
    /// An answer that it gave before.
    last: Option<(Evidence, Vec<Bytes>)>,
}

impl Liar {
    pub(super) fn new(rng: Rng, share: u32, lies: &[Lie]) -> Self {
        let lies = if lies.is_empty() { Lie::ALL.to_vec() } else { lies.to_vec() };
        Self { rng, share, lies, last: None }
    }

    /// What is sent to `to` in place of a message.
    pub(super) fn twist(&mut self, message: Message, to: NodeId) -> Twisted {
        if matches!(message, Message::Hello { .. }) || !self.rng.happens(self.share) {
            if let Message::Held { evidence, payloads, .. } = &message {
                self.last = Some((evidence.clone(), payloads.clone()));
            }
            return Twisted::Message(message);
        }
        let lie = *self.rng.pick(&self.lies).unwrap_or(&Lie::Silence);
        self.tell(lie, message, to)
    }

    /// A lie that does not fit a message leaves it as it is.
    fn tell(&mut self, lie: Lie, mut message: Message, to: NodeId) -> Twisted {
        match (lie, &mut message) {
            (Lie::Silence, _) => return Twisted::Nothing,
            (Lie::Garbage, _) => {
                let bytes: Vec<u8> = (0..4).flat_map(|_| self.rng.bytes()).collect();
                return Twisted::Bytes(bytes.into());
            }
            (Lie::Replay, _) => return Twisted::Twice(message),
            (Lie::WrongBytes, Message::Held { payloads, .. }) => payloads.iter_mut().for_each(|bytes| self.flip(bytes)),
            (
                Lie::WrongBytes,
                Message::Chunk { bytes, .. } | Message::ProvenChunk { bytes, .. } | Message::Leaf { bytes, .. },
            ) => self.flip(bytes),
            (Lie::WrongBytes, Message::Leaves { proof, .. }) => {
                let at = self.rng.index(proof.leaves.len());
                proof.leaves.iter_mut().skip(at).take(1).for_each(|leaf| leaf[0] ^= 1);
            }
            (
                Lie::WrongProof,
                Message::ProvenChunk { siblings, .. } | Message::Leaves { proof: ChunkProof { siblings, .. }, .. },
            ) => match self.rng.below(3) {
                0 => siblings.reverse(),
                1 => drop(siblings.pop()),
                _ => siblings.iter_mut().for_each(|sibling| sibling[31] ^= 1),
            },
            (Lie::ForgedRecord, Message::Held { evidence, payloads, .. }) => {
                if let Some(forged) = forge(evidence, to) {
                    (*evidence, *payloads) = forged;
                }
            }
            (Lie::WrongProof, Message::Held { evidence, .. }) => {
                evidence.index = evidence.index.wrapping_add(1);
                if evidence.path.pop().is_none() {
                    evidence.path.push([7; 32]);
                }
            }
            (Lie::OtherAnswer, Message::Held { evidence, payloads, .. }) => {
                if let Some(last) = self.last.clone() {
                    (*evidence, *payloads) = last;
                }
            }
            (Lie::Denial, Message::Held { ask, .. }) => return Twisted::Message(Message::NotHeld { ask: *ask }),
            (Lie::FalseHolder, Message::Announce(told)) => {
                for item in &mut Arc::make_mut(told).batch.items {
                    if let LogItem::Fact { question, .. } = item {
                        *question = self.rng.bits().to_le_bytes();
                    }
                }
            }
            (Lie::LongLog, Message::Heads { length, .. }) => *length = length.saturating_add(self.rng.below(1 << 40)),
            (Lie::ForgedHead, Message::Announce(told)) => Arc::make_mut(told).batch.head.length += 1,
            (Lie::ForgedHead, Message::Held { evidence, .. }) => evidence.head.length += 1,
            (Lie::Misplaced, Message::Announce(told)) => {
                Arc::make_mut(told).batch.first = told.batch.first.wrapping_sub(1 + self.rng.below(5));
            }
            _ => {}
        }
        Twisted::Message(message)
    }

    fn flip(&mut self, bytes: &mut Bytes) {
        let mut twisted = bytes.to_vec();
        let at = self.rng.index(twisted.len());
        if let Some(byte) = twisted.get_mut(at) {
            *byte ^= 1 << self.rng.below(8);
        }
        *bytes = twisted.into();
    }
}

/// A record in another node's name that is right in every respect but its signature.
fn forge(evidence: &Evidence, victim: NodeId) -> Option<(Evidence, Vec<Bytes>)> {
    let forged = Bytes::from_static(b"forged");
    let mut record = Record::decode(&evidence.record).ok()?;
    let stdout = BlobRef { digest: Digest::of(&forged), len: forged.len() as u64 };
    (record.producer, record.stdout, record.stderr) = (victim, Some(stdout), None);
    record.files.clear();
    let bytes = Bytes::from(record.encode());
    let mut tree = Tree::default();
    tree.push(leaf_hash(OBSERVED, &bytes));
    let signature = Signature::from_bytes([5; 64]);
    let head = SignedHead { node: victim, epoch: evidence.head.epoch, length: 1, root: tree.root(1)?, signature };
    Some((Evidence { record: bytes, index: 0, path: Vec::new(), head }, vec![forged]))
}
