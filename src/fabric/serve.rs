//! Answering what peers ask, each within its bound, and deciding who else may announce an answer of this node.
//!
//! Invariant: `Peer::serving` names exactly the look-ups under way for that peer. A hot question must not cost a fact of every node that
//! fetched it: its producer lets the first few announce it, and nobody else does.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::{Fabric, Output, Step};
use crate::bao::{ChunkProof, LEAF};
use crate::id::{ContentId, Digest, NodeId};
use crate::limits::{MAX_ASKS_PER_PEER, MAX_HOLDERS, MAX_TICKETS};
use crate::message::{AskId, Message};
use crate::proof::Evidence;

/// How many were let announce each answer of this node.
#[derive(Debug, Default)]
pub(super) struct Tickets {
    /// Looked up alone: their order is nobody's business.
    given: HashMap<u64, usize, RandomState>,
    order: VecDeque<u64>,
}

impl Tickets {
    /// Lets one more announce the answer to a question that so many are known to hold, unless there are enough.
    fn give(&mut self, question: u64, known: usize) -> bool {
        // The producer's own fact is one of them.
        let given = match self.given.entry(question) {
            Entry::Occupied(given) => given.into_mut(),
            Entry::Vacant(place) => {
                self.order.push_back(question);
                place.insert(0)
            }
        };
        *given = (*given).max(known);
        let few = *given + 1 < MAX_HOLDERS;
        *given += usize::from(few);
        if self.order.len() > MAX_TICKETS
            && let Some(oldest) = self.order.pop_front()
        {
            self.given.remove(&oldest);
        }
        few
    }
}

impl Fabric {
    pub(super) fn on_ask(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, id: ContentId) {
        if self.may_serve(from, ask, id.fingerprint()) {
            step.out.push(Output::LookUp(from, ask, id));
        } else {
            step.out.push(Output::Send(from, Message::Busy { ask }));
        }
    }

    pub(super) fn on_get_chunk(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        (id, blob): (ContentId, Digest),
        (offset, len): (u64, u32),
    ) {
        if self.may_serve(from, ask, id.fingerprint()) {
            step.out.push(Output::ReadChunk(from, ask, id, blob, offset, len));
        } else {
            step.out.push(Output::Send(from, Message::Busy { ask }));
        }
    }

    /// Takes note of a look-up for a peer, unless it has too many, or this very one, under way.
    pub(super) fn may_serve(&mut self, to: NodeId, ask: AskId, question: u64) -> bool {
        let Some(peer) = self.peers.get_mut(&to) else { return false };
        let room = peer.serving.len() < MAX_ASKS_PER_PEER && !peer.serving.contains_key(&ask);
        if room {
            peer.serving.insert(ask, question);
        }
        self.counters.refused += u64::from(!room);
        room
    }

    pub(super) fn on_found(
        &mut self,
        step: &mut Step<'_>,
        to: NodeId,
        ask: AskId,
        found: Option<(Evidence, Vec<Bytes>)>,
    ) {
        let question = self.peers.get(&to).and_then(|peer| peer.serving.get(&ask)).copied();
        let message = match (found, question) {
            (Some((evidence, payloads)), Some(question)) => {
                let announce = evidence.head.node == self.config.me
                    && self.tickets.give(question, self.holders.holders(question).len());
                self.counters.served += 1;
                Message::Held { ask, evidence, payloads, announce }
            }
            _ => Message::NotHeld { ask },
        };
        self.served(step, to, ask, message);
    }

    pub(super) fn on_found_chunk(
        &mut self,
        step: &mut Step<'_>,
        to: NodeId,
        ask: AskId,
        found: Option<(Bytes, ChunkProof)>,
    ) {
        let leaf = usize::try_from(LEAF).unwrap_or(usize::MAX);
        match found {
            None => {
                self.served(step, to, ask, Message::NotHeld { ask });
            }
            Some((bytes, proof)) if bytes.len() > leaf => {
                if self.served(step, to, ask, Message::Leaves { ask, proof }) {
                    let leaves = (0..bytes.len()).step_by(leaf).map(|at| bytes.slice(at..bytes.len().min(at + leaf)));
                    let leaves = (0..).zip(leaves).map(|(number, bytes)| Message::Leaf { ask, number, bytes });
                    step.out.extend(leaves.map(|leaf| Output::Send(to, leaf)));
                }
            }
            Some((bytes, proof)) if proof.leaves.is_empty() => {
                self.served(step, to, ask, Message::Chunk { ask, bytes });
            }
            Some((bytes, ChunkProof { siblings, .. })) => {
                self.served(step, to, ask, Message::ProvenChunk { ask, bytes, siblings });
            }
        }
    }

    /// Sends the outcome of a look-up, if the lane on which it was asked for is still there; says whether it is.
    pub(super) fn served(&mut self, step: &mut Step<'_>, to: NodeId, ask: AskId, message: Message) -> bool {
        let waits = self.peers.get_mut(&to).is_some_and(|peer| peer.serving.remove(&ask).is_some());
        if waits {
            step.out.push(Output::Send(to, message));
        }
        waits
    }
}
