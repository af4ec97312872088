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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const LOW: NodeId = NodeId::from_bytes([1; 32]);
    const HIGH: NodeId = NodeId::from_bytes([2; 32]);
    const AT: (SocketAddr, Carrier) =
        (SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1), Carrier::Tcp);

    fn conn(id: usize) -> ConnectionId {
        ConnectionId::new_unchecked(id)
    }

    /// An arbiter with these connections to `peer`, as (number, dialed).
    fn arbiter(me: NodeId, peer: NodeId, conns: &[(usize, bool)]) -> Arbiter {
        let mut arbiter = Arbiter::new(me);
        for (id, dialed) in conns {
            arbiter.connected(peer, conn(*id), *dialed, AT);
        }
        arbiter
    }

    fn open(arbiter: &mut Arbiter, peer: NodeId, id: usize) {
        arbiter.reported(peer, conn(id), Report::Open(Arc::new(Lane::new(peer, Kind::Main))));
    }

    /// What it decided, in short.
    fn verdicts(arbiter: &mut Arbiter) -> Vec<String> {
        std::iter::from_fn(|| arbiter.next())
            .map(|verdict| match verdict {
                Verdict::Take(_, id) => format!("take {id}"),
                Verdict::Close(_, id) => format!("close {id}"),
                Verdict::Up { outbound, .. } => format!("up {}", if outbound { "out" } else { "in" }),
                Verdict::Down { reason, .. } => format!("down {reason:?}"),
                Verdict::BulkUp(_) => "bulk up".to_owned(),
                Verdict::BulkDown(_) => "bulk down".to_owned(),
                Verdict::Failed { conn, refusal } => format!("failed {conn} {refusal:?}"),
                Verdict::Gone(id) => format!("gone {id}"),
            })
            .collect()
    }

    #[test]
    fn the_lower_node_stays_with_its_own_dial() {
        let mut low = arbiter(LOW, HIGH, &[(1, true), (2, false)]);
        low.reported(HIGH, conn(2), Report::Offered(Kind::Main));
        assert_eq!(verdicts(&mut low), ["close 2"]);
        open(&mut low, HIGH, 1);
        assert_eq!(verdicts(&mut low), ["up out"]);
        assert!(!low.wants(HIGH, Some(Kind::Main)) && !low.wants(HIGH, None));
    }

    #[test]
    fn the_lower_node_takes_what_it_is_offered_first() {
        let mut low = arbiter(LOW, HIGH, &[(1, false)]);
        low.reported(HIGH, conn(1), Report::Offered(Kind::Main));
        open(&mut low, HIGH, 1);
        assert_eq!(verdicts(&mut low), ["take 1", "up in"]);
        assert!(!low.wants(HIGH, Some(Kind::Main)));
    }

    #[test]
    fn the_higher_node_goes_along() {
        let mut high = arbiter(HIGH, LOW, &[(1, true), (2, false)]);
        high.reported(LOW, conn(2), Report::Offered(Kind::Main));
        open(&mut high, LOW, 2);
        assert_eq!(verdicts(&mut high), ["take 2", "up in", "close 1"]);
        high.disconnected(LOW, conn(1), DownReason::Closed);
        assert_eq!(verdicts(&mut high), ["gone 1"]);
    }

    #[test]
    fn a_newer_lane_replaces_a_dead_one() {
        for (me, peer) in [(HIGH, LOW), (LOW, HIGH)] {
            let mut arbiter = arbiter(me, peer, &[(1, false)]);
            arbiter.reported(peer, conn(1), Report::Offered(Kind::Main));
            open(&mut arbiter, peer, 1);
            assert!(arbiter.wants(peer, None));
            arbiter.connected(peer, conn(2), false, AT);
            arbiter.reported(peer, conn(2), Report::Offered(Kind::Main));
            open(&mut arbiter, peer, 2);
            assert_eq!(verdicts(&mut arbiter), ["take 1", "up in", "down Replaced", "close 1", "take 2", "up in"]);
        }
    }

    fn open_bulk(arbiter: &mut Arbiter, peer: NodeId, id: usize) {
        arbiter.reported(peer, conn(id), Report::Open(Arc::new(Lane::new(peer, Kind::Bulk))));
    }

    /// A node that dialed its peer, and has a second connection.
    fn with_bulk(me: NodeId, peer: NodeId) -> Arbiter {
        let mut arbiter = arbiter(me, peer, &[(1, true)]);
        assert!(!arbiter.wants(peer, Some(Kind::Bulk)), "not without a lane");
        open(&mut arbiter, peer, 1);
        assert!(arbiter.wants(peer, Some(Kind::Bulk)));
        arbiter.dialing_for_bulk(conn(2));
        arbiter.connected(peer, conn(2), true, AT);
        assert!(!arbiter.wants(peer, Some(Kind::Bulk)), "one is enough");
        open_bulk(&mut arbiter, peer, 2);
        assert_eq!(verdicts(&mut arbiter), ["up out", "bulk up"]);
        arbiter
    }

    #[test]
    fn a_second_connection_comes_and_goes_beside_the_lane() {
        for (me, peer) in [(LOW, HIGH), (HIGH, LOW)] {
            let mut arbiter = with_bulk(me, peer);
            arbiter.reported(peer, conn(2), Report::Over(DownReason::Idle));
            arbiter.disconnected(peer, conn(2), DownReason::Closed);
            assert_eq!(verdicts(&mut arbiter), ["bulk down", "close 2", "gone 2"]);
            assert!(arbiter.wants(peer, Some(Kind::Bulk)));
        }
    }

    #[test]
    fn a_second_connection_goes_with_the_lane_and_before_it() {
        let mut low = with_bulk(LOW, HIGH);
        low.disconnected(HIGH, conn(1), DownReason::Closed);
        assert_eq!(verdicts(&mut low), ["bulk down", "close 2", "down Closed", "gone 1"]);
        let mut low = with_bulk(LOW, HIGH);
        let garbage = DownReason::BadFrame(crate::net::FrameError::Empty);
        low.reported(HIGH, conn(2), Report::Over(garbage));
        assert_eq!(verdicts(&mut low)[..2], ["bulk down", "close 2"]);
        assert!(low.wants(HIGH, Some(Kind::Main)), "who breaks the framing of one loses both");
    }

    #[test]
    fn a_second_connection_is_taken_from_whoever_dialed_the_lane_and_from_nobody_else() {
        let mut high = arbiter(HIGH, LOW, &[(1, false), (2, false)]);
        high.reported(LOW, conn(2), Report::Offered(Kind::Bulk));
        assert_eq!(verdicts(&mut high), ["close 2"], "there is no lane yet");
        high.reported(LOW, conn(1), Report::Offered(Kind::Main));
        open(&mut high, LOW, 1);
        for id in [3, 4] {
            high.connected(LOW, conn(id), false, AT);
            high.reported(LOW, conn(id), Report::Offered(Kind::Bulk));
            open_bulk(&mut high, LOW, id);
        }
        let expected = ["take 1", "up in", "take 3", "bulk up", "bulk down", "close 3", "take 4", "bulk up"];
        assert_eq!(verdicts(&mut high), expected, "a newer one replaces a dead one");
        let mut low = with_bulk(LOW, HIGH);
        low.connected(HIGH, conn(3), false, AT);
        low.reported(HIGH, conn(3), Report::Offered(Kind::Bulk));
        assert_eq!(verdicts(&mut low), ["close 3"], "it did not dial the lane");
    }

    #[test]
    fn second_connections_are_bounded_in_number() {
        let mut arbiter = Arbiter::new(LOW);
        for n in 0..=MAX_BULK {
            let mut name = [9; 32];
            name[..8].copy_from_slice(&n.to_be_bytes());
            let peer = NodeId::from_bytes(name);
            for id in [2 * n, 2 * n + 1] {
                arbiter.connected(peer, conn(id), false, AT);
            }
            arbiter.reported(peer, conn(2 * n), Report::Offered(Kind::Main));
            open(&mut arbiter, peer, 2 * n);
            arbiter.connected(peer, conn(2 * n + 1), false, AT);
            verdicts(&mut arbiter);
            arbiter.reported(peer, conn(2 * n + 1), Report::Offered(Kind::Bulk));
            let expected = if n < MAX_BULK { "take" } else { "close" };
            assert_eq!(verdicts(&mut arbiter), [format!("{expected} {}", 2 * n + 1)]);
        }
    }

    #[test]
    fn the_end_is_reported_once() {
        let mut low = arbiter(LOW, HIGH, &[(1, true)]);
        open(&mut low, HIGH, 1);
        low.reported(HIGH, conn(1), Report::Over(DownReason::Silent));
        low.disconnected(HIGH, conn(1), DownReason::Closed);
        assert_eq!(verdicts(&mut low), ["up out", "down Silent", "close 1", "gone 1"]);
        assert!(low.wants(HIGH, Some(Kind::Main)) && low.peers.is_empty());
    }

    #[test]
    fn a_dial_without_a_lane_is_reported_once() {
        let mut low = arbiter(LOW, HIGH, &[(1, true)]);
        low.reported(HIGH, conn(1), Report::Failed(Refusal::NotEvalmesh));
        low.disconnected(HIGH, conn(1), DownReason::Closed);
        assert_eq!(verdicts(&mut low), ["failed 1 NotEvalmesh", "close 1", "gone 1"]);
        for (me, peer) in [(HIGH, LOW), (LOW, HIGH)] {
            let mut arbiter = arbiter(me, peer, &[(1, true)]);
            arbiter.disconnected(peer, conn(1), DownReason::Closed);
            assert_eq!(verdicts(&mut arbiter), ["failed 1 HungUp", "gone 1"]);
        }
    }

    /// What one end of a connection tells the other, in order.
    #[derive(Debug, Clone, Copy)]
    enum Wire {
        Hello,
        Offer(Kind),
        Taken,
        Bye,
    }

    /// Both nodes of a pair and what is under way between them; node 0 is the lower one.
    struct Pair {
        arbiters: [Arbiter; 2],
        /// For each connection: who dialed, for what, and the queues towards node 0 and node 1.
        wires: Vec<(usize, [VecDeque<Wire>; 2], Kind)>,
        /// The ends that exist, as (node, connection).
        ends: BTreeSet<(usize, usize)>,
        lanes: [Vec<String>; 2],
        carrier: [Option<usize>; 2],
        bulk: [Option<usize>; 2],
    }

    impl Pair {
        const NODES: [NodeId; 2] = [LOW, HIGH];

        /// Dials a second time, if this node dialed the lane that it sees.
        fn dial_for_bulk(&mut self, node: usize) {
            let dialed = self.carrier[node].is_some_and(|id| self.wires[id].0 == node);
            if dialed && self.bulk[node].is_none() {
                self.arbiters[node].dialing_for_bulk(conn(self.wires.len()));
                self.dial(node, Kind::Bulk);
            }
        }

        fn dial(&mut self, node: usize, kind: Kind) {
            let id = self.wires.len();
            self.wires.push((node, Default::default(), kind));
            // The handshake ends here first; the other side learns of it later.
            self.tell(1 - node, id, Wire::Hello);
            if self.meet(node, id) {
                self.tell(1 - node, id, Wire::Offer(kind));
            }
        }

        fn tell(&mut self, node: usize, id: usize, wire: Wire) {
            self.wires[id].1[node].push_back(wire);
        }

        /// One end of a connection is authenticated.
        fn meet(&mut self, node: usize, id: usize) -> bool {
            let (other, dialed) = (Self::NODES[1 - node], self.wires[id].0 == node);
            let wanted = self.arbiters[node].wants(other, dialed.then_some(self.wires[id].2));
            if wanted {
                self.arbiters[node].connected(other, conn(id), dialed, AT);
                self.ends.insert((node, id));
            } else {
                self.tell(1 - node, id, Wire::Bye);
            }
            wanted
        }

        /// The next thing that some queue holds happens at its end.
        fn arrive(&mut self, node: usize, id: usize) {
            let Some(wire) = self.wires[id].1[node].pop_front() else { return };
            let other = Self::NODES[1 - node];
            if let Wire::Hello = wire {
                self.meet(node, id);
            } else if self.ends.contains(&(node, id)) {
                let open = || Report::Open(Arc::new(Lane::new(other, self.wires[id].2)));
                match wire {
                    Wire::Offer(kind) => self.arbiters[node].reported(other, conn(id), Report::Offered(kind)),
                    Wire::Taken => self.open(node, id, open()),
                    Wire::Bye | Wire::Hello => self.part(node, id),
                }
            }
            self.settle(node);
        }

        fn open(&mut self, node: usize, id: usize, report: Report) {
            self.arbiters[node].reported(Self::NODES[1 - node], conn(id), report);
            match self.wires[id].2 {
                Kind::Main => self.carrier[node] = Some(id),
                Kind::Bulk => self.bulk[node] = Some(id),
            }
        }

        fn part(&mut self, node: usize, id: usize) {
            if self.ends.remove(&(node, id)) {
                self.arbiters[node].disconnected(Self::NODES[1 - node], conn(id), DownReason::Closed);
            }
        }

        fn settle(&mut self, node: usize) {
            while let Some(verdict) = self.arbiters[node].next() {
                match verdict {
                    Verdict::Take(other, id) => {
                        let id = (0..self.wires.len()).find(|number| conn(*number) == id).unwrap();
                        self.tell(1 - node, id, Wire::Taken);
                        self.open(node, id, Report::Open(Arc::new(Lane::new(other, self.wires[id].2))));
                    }
                    Verdict::Close(_, id) => {
                        let id = (0..self.wires.len()).find(|number| conn(*number) == id).unwrap();
                        self.tell(1 - node, id, Wire::Bye);
                        self.part(node, id);
                    }
                    Verdict::Up { .. } => self.lanes[node].push("up".to_owned()),
                    Verdict::Down { reason, .. } => self.lanes[node].push(format!("down {reason:?}")),
                    Verdict::BulkDown(_) => self.bulk[node] = None,
                    Verdict::BulkUp(_) | Verdict::Failed { .. } | Verdict::Gone(_) => {}
                }
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        /// However the messages of crossing dials interleave, both sides end with the same single connection and never see it go down.
        #[test]
        fn crossing_dials_end_with_one_lane(
            first in 0..2_usize,
            dials in prop::collection::vec(0..4_usize, 0..7),
            order in prop::collection::vec(any::<u8>(), 80),
        ) {
            let mut pair = Pair {
                arbiters: [Arbiter::new(LOW), Arbiter::new(HIGH)],
                wires: Vec::new(),
                ends: BTreeSet::new(),
                lanes: Default::default(),
                carrier: [None; 2],
                bulk: [None; 2],
            };
            pair.dial(first, Kind::Main);
            let (mut dials, mut order) = (dials.into_iter(), order.into_iter().map(usize::from));
            loop {
                let busy: Vec<(usize, usize)> = (0..pair.wires.len())
                    .flat_map(|id| [(0, id), (1, id)])
                    .filter(|(node, id)| !pair.wires[*id].1[*node].is_empty())
                    .collect();
                let pick = order.next().unwrap_or(0) % (busy.len() + 1);
                match (busy.get(pick), dials.len()) {
                    (Some((node, id)), _) => pair.arrive(*node, *id),
                    (None, 1..) => match dials.next().unwrap() {
                        node @ 0..2 => pair.dial(node, Kind::Main),
                        node => pair.dial_for_bulk(node - 2),
                    },
                    (None, 0) if busy.is_empty() => break,
                    (None, 0) => pair.arrive(busy[0].0, busy[0].1),
                }
            }
            prop_assert_eq!(&pair.lanes, &[["up"], ["up"]]);
            prop_assert_eq!(pair.carrier[0], pair.carrier[1]);
            prop_assert_eq!(pair.bulk[0], pair.bulk[1]);
            prop_assert!(pair.bulk[0].is_none() || pair.bulk[0] != pair.carrier[0]);
            prop_assert_eq!(pair.ends.len(), if pair.bulk[0].is_some() { 4 } else { 2 });
        }
    }
}
