//! The second connections that this node dials, and when it dials none.
//!
//! Only the node that dialed a pair's lane dials the second connection, to the same address. One that did not come about is not tried again for
//! a while: until then what is large goes over the lane. Invariant: at most `MAX_BULK` are dialed or open, and only beside a lane.
//!
//! Time comes in as an argument. It knows nothing of sockets.

use libp2p::Multiaddr;
use libp2p::swarm::ConnectionId;
use std::collections::BTreeMap;
use tokio::time::Instant;

use super::limits::{MAX_BULK, Timings};
use crate::id::NodeId;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    None,
    Dialing(ConnectionId),
    Open,
    /// It did not come about: not before this time again.
    Refused(Instant),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Seconds {
    timings: Timings,
    /// By peer whose lane this node dialed.
    of: BTreeMap<NodeId, (Multiaddr, State)>,
}

impl Seconds {
    pub(super) fn new(timings: Timings) -> Self {
        Self { timings, of: BTreeMap::new() }
    }

    /// There is a lane to a node, dialed at this address.
    pub(super) fn lane_up(&mut self, node: NodeId, addr: Multiaddr) {
        self.of.insert(node, (addr, State::None));
    }

    pub(super) fn lane_down(&mut self, node: NodeId) {
        self.of.remove(&node);
    }

    /// Where to dial a node a second time, if that is to be done now.
    pub(super) fn wanted(&self, node: NodeId, now: Instant) -> Option<Multiaddr> {
        let (addr, state) = self.of.get(&node)?;
        let busy = |state: &State| matches!(state, State::Dialing(_) | State::Open);
        let due = match state {
            State::None => true,
            State::Refused(until) => *until <= now,
            State::Dialing(_) | State::Open => false,
        };
        (due && self.of.values().filter(|(_, state)| busy(state)).count() < MAX_BULK).then(|| addr.clone())
    }

    pub(super) fn dialing(&mut self, node: NodeId, conn: ConnectionId) {
        self.set(node, State::Dialing(conn));
    }

    pub(super) fn up(&mut self, node: NodeId) {
        self.set(node, State::Open);
    }

    pub(super) fn down(&mut self, node: NodeId) {
        self.set(node, State::None);
    }

    /// A connection came to nothing, if it was one of these.
    pub(super) fn failed(&mut self, conn: ConnectionId, now: Instant) {
        if let Some((_, state)) = self.of.values_mut().find(|(_, state)| *state == State::Dialing(conn)) {
            *state = State::Refused(now + self.timings.bulk_retry);
        }
    }

    fn set(&mut self, node: NodeId, to: State) {
        if let Some((_, state)) = self.of.get_mut(&node) {
            *state = to;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: usize) -> NodeId {
        let mut name = [0; 32];
        name[..8].copy_from_slice(&n.to_be_bytes());
        NodeId::from_bytes(name)
    }

    fn with_lanes(count: usize) -> Seconds {
        let mut seconds = Seconds::new(Timings::DEFAULT);
        (0..count).for_each(|n| seconds.lane_up(node(n), "/ip4/127.0.0.1/tcp/7".parse().unwrap()));
        seconds
    }

    #[test]
    fn there_is_one_per_lane_that_this_node_dialed() {
        let (mut seconds, now) = (with_lanes(1), Instant::now());
        assert_eq!(seconds.wanted(node(1), now), None, "no lane, or not dialed from here");
        assert!(seconds.wanted(node(0), now).is_some());
        seconds.dialing(node(0), ConnectionId::new_unchecked(1));
        assert_eq!(seconds.wanted(node(0), now), None);
        seconds.up(node(0));
        assert_eq!(seconds.wanted(node(0), now), None);
        seconds.down(node(0));
        assert!(seconds.wanted(node(0), now).is_some());
        seconds.lane_down(node(0));
        assert_eq!(seconds.wanted(node(0), now), None);
    }

    #[test]
    fn what_did_not_come_about_is_left_alone_for_a_while() {
        let (mut seconds, now) = (with_lanes(1), Instant::now());
        seconds.dialing(node(0), ConnectionId::new_unchecked(1));
        seconds.failed(ConnectionId::new_unchecked(2), now);
        seconds.failed(ConnectionId::new_unchecked(1), now);
        assert_eq!(seconds.wanted(node(0), now), None);
        assert!(seconds.wanted(node(0), now + Timings::DEFAULT.bulk_retry).is_some());
    }

    #[test]
    fn they_are_bounded_in_number() {
        let (mut seconds, now) = (with_lanes(MAX_BULK + 1), Instant::now());
        for n in 0..MAX_BULK {
            assert!(seconds.wanted(node(n), now).is_some());
            seconds.dialing(node(n), ConnectionId::new_unchecked(n));
        }
        assert_eq!(seconds.wanted(node(MAX_BULK), now), None);
        seconds.up(node(0));
        assert_eq!(seconds.wanted(node(MAX_BULK), now), None);
        seconds.down(node(0));
        assert!(seconds.wanted(node(MAX_BULK), now).is_some());
    }
}
