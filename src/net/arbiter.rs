//! One lane per pair of nodes: which of the connections between them gets it, and whether there is a second one for what is large.
//!
//! The node with the lower id is the arbiter of a pair. It opens a lane on the first connection that it dialed or takes the lane on the
//! first one that it is offered, and turns down every other; the node with the higher id goes along with what it gets. So dials that
//! cross end with the same single connection on both sides, and the survivor never goes down on the way.
//!
//! A newer lane wins over an older one where only a dead older one explains it: at the higher node always (the arbiter would not have
//! opened another), at the arbiter if the same peer dialed both (it would not have dialed again).
//!
//! The second connection is dialed by the node that dialed the first: it knows an address that works, and two never cross. It carries nothing
//! but bulk, is never there without a lane, and goes with it.
//!
//! Invariants, for each peer:
//! 1. `chosen`, `lane` and `bulk` name connections in `conns`, the lane is on the chosen one, and `bulk` is another one.
//! 2. At most one of `conns` was dialed by this node for a lane, and at most one for bulk.
//! 3. `bulk` is there only while `lane` is.
//!
//! It has no I/O and no clock: it decides, and `behaviour` carries out.

#[cfg(test)]
mod crossing;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;

use libp2p::swarm::ConnectionId;

use super::addr::Carrier;
use super::error::{DownReason, Refusal};
use super::handler::Report;
use super::lane::{Kind, Lane};
use super::limits::MAX_BULK;
use crate::id::NodeId;

/// What is to be done about a connection, or told to the driver.
#[derive(Debug)]
pub(super) enum Verdict {
    /// Take the lane that was offered on it.
    Take(NodeId, ConnectionId),
    /// Close it.
    Close(NodeId, ConnectionId),
    /// A lane is open.
    Up { lane: Arc<Lane>, addr: SocketAddr, carrier: Carrier, outbound: bool },
    /// A lane is gone.
    Down { lane: Arc<Lane>, reason: DownReason },
    /// There is a second connection beside a lane.
    BulkUp(Arc<Lane>),
    /// There is none any more.
    BulkDown(Arc<Lane>),
    /// A connection that this node dialed came to nothing.
    Failed { conn: ConnectionId, refusal: Refusal },
    /// A connection exists no longer; nothing more is told about it.
    Gone(ConnectionId),
}

#[derive(Debug, Clone, Copy)]
struct Conn {
    dialed: bool,
    addr: SocketAddr,
    carrier: Carrier,
    /// This node dialed it for bulk.
    for_bulk: bool,
    /// Its end was decided or reported, so what it still says does not count.
    over: bool,
}

#[derive(Debug, Default)]
struct Peer {
    conns: BTreeMap<ConnectionId, Conn>,
    chosen: Option<ConnectionId>,
    lane: Option<Arc<Lane>>,
    /// The second connection, and its lane once that is open.
    bulk: Option<(ConnectionId, Option<Arc<Lane>>)>,
}

impl Peer {
    fn chosen_was_dialed(&self) -> bool {
        self.chosen.and_then(|chosen| self.conns.get(&chosen)).is_some_and(|conn| conn.dialed)
    }

    fn is_bulk(&self, id: ConnectionId) -> bool {
        self.bulk.as_ref().is_some_and(|(bulk, _)| *bulk == id)
    }
}

/// Every connection, and which of them have the lanes.
#[derive(Debug)]
pub(super) struct Arbiter {
    me: NodeId,
    peers: BTreeMap<NodeId, Peer>,
    /// Dials for bulk that are not connected yet.
    bulk_dials: BTreeSet<ConnectionId>,
    verdicts: VecDeque<Verdict>,
}

impl Arbiter {
    pub(super) fn new(me: NodeId) -> Self {
        Self { me, peers: BTreeMap::new(), bulk_dials: BTreeSet::new(), verdicts: VecDeque::new() }
    }

    /// The next thing to do.
    pub(super) fn next(&mut self) -> Option<Verdict> {
        self.verdicts.pop_front()
    }

    /// This node is about to dial its peer a second time, for bulk.
    pub(super) fn dialing_for_bulk(&mut self, id: ConnectionId) {
        self.bulk_dials.insert(id);
    }

    /// A dial did not lead to a connection.
    pub(super) fn not_connected(&mut self, id: ConnectionId) {
        self.bulk_dials.remove(&id);
    }

    /// What a dial is for.
    pub(super) fn purpose(&self, id: ConnectionId) -> Kind {
        if self.bulk_dials.contains(&id) { Kind::Bulk } else { Kind::Main }
    }

    /// Whether a connection that was just authenticated is of any use; what this node dialed it for, if it did.
    pub(super) fn wants(&self, node: NodeId, dialed: Option<Kind>) -> bool {
        let Some(peer) = self.peers.get(&node) else { return dialed != Some(Kind::Bulk) };
        let open = |conn: &Conn| conn.dialed && !conn.for_bulk && !conn.over;
        if dialed == Some(Kind::Bulk) {
            peer.lane.is_some() && peer.chosen_was_dialed() && peer.bulk.is_none()
        } else if dialed.is_some() {
            peer.lane.is_none() && peer.chosen.is_none() && !peer.conns.values().any(open)
        } else {
            self.me > node || !peer.chosen_was_dialed()
        }
    }

    /// A connection exists.
    pub(super) fn connected(&mut self, node: NodeId, id: ConnectionId, dialed: bool, at: (SocketAddr, Carrier)) {
        let arbiter = self.me < node;
        let for_bulk = self.bulk_dials.remove(&id);
        let peer = self.peers.entry(node).or_default();
        let (addr, carrier) = at;
        peer.conns.insert(id, Conn { dialed, addr, carrier, for_bulk, over: false });
        if for_bulk {
            if peer.lane.is_some() && peer.bulk.is_none() {
                peer.bulk = Some((id, None));
            } else {
                // The lane went down while this was on its way.
                self.end(node, id, None);
            }
        } else if arbiter && dialed && peer.chosen.is_none() {
            peer.chosen = Some(id);
        }
    }

    /// A connection exists no longer.
    pub(super) fn disconnected(&mut self, node: NodeId, id: ConnectionId, reason: DownReason) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let over = peer.conns.get(&id).is_none_or(|conn| conn.over);
        let for_nothing = peer.conns.get(&id).is_some_and(|conn| conn.dialed && !conn.for_bulk);
        if peer.chosen == Some(id) && peer.lane.is_some() || peer.is_bulk(id) {
            self.lose(node, id, reason);
        } else {
            if peer.chosen == Some(id) {
                peer.chosen = None;
            }
            if for_nothing && !over && peer.lane.is_none() {
                self.verdicts.push_back(Verdict::Failed { conn: id, refusal: Refusal::HungUp });
            }
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.conns.remove(&id);
            if peer.conns.is_empty() {
                self.peers.remove(&node);
            }
        }
        self.verdicts.push_back(Verdict::Gone(id));
    }

    /// A connection said something.
    pub(super) fn reported(&mut self, node: NodeId, id: ConnectionId, report: Report) {
        if self.peers.get(&node).and_then(|peer| peer.conns.get(&id)).is_none_or(|conn| conn.over) {
            return;
        }
        match report {
            Report::Offered(Kind::Main) => self.offered(node, id),
            Report::Offered(Kind::Bulk) => self.offered_bulk(node, id),
            Report::Open(lane) if lane.kind() == Kind::Bulk => self.opened_bulk(node, id, lane),
            Report::Open(lane) => self.opened(node, id, lane),
            Report::Over(reason @ DownReason::BadFrame(_)) if self.peers[&node].is_bulk(id) => {
                // Whoever breaks the framing is done with on both.
                if let Some(chosen) = self.peers[&node].chosen {
                    self.end(node, chosen, Some(reason));
                }
            }
            Report::Over(reason) => self.end(node, id, Some(reason)),
            Report::Failed(refusal) => {
                if self.peers[&node].conns[&id].dialed {
                    self.verdicts.push_back(Verdict::Failed { conn: id, refusal });
                }
                self.end(node, id, None);
            }
        }
    }

    fn offered(&mut self, node: NodeId, id: ConnectionId) {
        if self.me < node && self.peers[&node].chosen_was_dialed() {
            self.end(node, id, None);
            return;
        }
        self.choose(node, id);
        self.verdicts.push_back(Verdict::Take(node, id));
    }

    /// The peer wants to send, or be sent, what is large.
    fn offered_bulk(&mut self, node: NodeId, id: ConnectionId) {
        let others = self.peers.iter().filter(|(peer, conns)| **peer != node && conns.bulk.is_some()).count();
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.lane.is_none() || peer.chosen_was_dialed() || others >= MAX_BULK {
            return self.end(node, id, None);
        }
        // It would not dial a second one if the first were alive.
        if let Some((before, _)) = peer.bulk {
            self.end(node, before, None);
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.bulk = Some((id, None));
        }
        self.verdicts.push_back(Verdict::Take(node, id));
    }

    fn opened_bulk(&mut self, node: NodeId, id: ConnectionId, lane: Arc<Lane>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        match &mut peer.bulk {
            Some((bulk, open)) if *bulk == id => {
                *open = Some(Arc::clone(&lane));
                self.verdicts.push_back(Verdict::BulkUp(lane));
            }
            _ => self.end(node, id, None),
        }
    }

    fn opened(&mut self, node: NodeId, id: ConnectionId, lane: Arc<Lane>) {
        self.choose(node, id);
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let conn = peer.conns[&id];
        peer.lane = Some(Arc::clone(&lane));
        self.verdicts.push_back(Verdict::Up { lane, addr: conn.addr, carrier: conn.carrier, outbound: conn.dialed });
        let others: Vec<ConnectionId> = peer.conns.keys().copied().filter(|other| *other != id).collect();
        for other in others {
            self.end(node, other, None);
        }
    }

    /// The lane is on this connection from now on; whatever was there before is dead.
    fn choose(&mut self, node: NodeId, id: ConnectionId) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        match peer.chosen {
            Some(chosen) if chosen == id => return,
            Some(chosen) => self.end(node, chosen, Some(DownReason::Replaced)),
            None => {}
        }
        if let Some(peer) = self.peers.get_mut(&node) {
            peer.chosen = Some(id);
        }
    }

    /// Closes a connection and reports its lane, if it had one, as down.
    fn end(&mut self, node: NodeId, id: ConnectionId, reason: Option<DownReason>) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        let Some(conn) = peer.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.over, true) {
            return;
        }
        self.lose(node, id, reason.unwrap_or(DownReason::Closed));
        self.verdicts.push_back(Verdict::Close(node, id));
    }

    /// A connection carries nothing any more: reports what it carried as down, and ends the second one with the lane.
    fn lose(&mut self, node: NodeId, id: ConnectionId, reason: DownReason) {
        let Some(peer) = self.peers.get_mut(&node) else { return };
        if peer.is_bulk(id) {
            let lane = peer.bulk.take().and_then(|(_, lane)| lane);
            self.verdicts.extend(lane.map(Verdict::BulkDown));
        } else if peer.chosen == Some(id) {
            peer.chosen = None;
            let (lane, bulk) = (peer.lane.take(), peer.bulk.as_ref().map(|(bulk, _)| *bulk));
            if let Some(bulk) = bulk {
                self.end(node, bulk, None);
            }
            self.verdicts.extend(lane.map(|lane| Verdict::Down { lane, reason }));
        }
    }
}
