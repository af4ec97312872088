//! The dialing book: which addresses are dialed, and when.
//!
//! Configured addresses are dialed at once and for ever. Addresses from discovery are dialed by the node with the lower id; the other one
//! steps in when nothing has come for a while. Each failure doubles the wait; a lane that lived long enough resets it.
//!
//! Invariants:
//! 1. At most `MAX_DIALS` targets are `Dialing`, and at most `MAX_LEARNED` are not configured.
//! 2. No target whose node is up is dialed, and none that turned out to be this node.
//!
//! Time comes in as an argument and the jitter from the node's own name, so a run can be repeated. It knows nothing of sockets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use tokio::time::Instant;

use super::addr::PeerAddr;
use super::error::Refusal;
use super::limits::{MAX_DIALS, MAX_LEARNED, MAX_LEARNED_ATTEMPTS, Timings};
use crate::id::NodeId;

/// Names an entry of the book.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct TargetId(u64);

/// An address to dial now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dial {
    pub(super) id: TargetId,
    pub(super) addr: SocketAddr,
    /// The only node that is accepted there.
    pub(super) node: Option<NodeId>,
    /// The last attempt was hung up on, and no other connection explains that: it can be told now.
    pub(super) hung_up: bool,
    /// Attempts that failed before this one, since the last lane.
    pub(super) failures: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Dialing,
    /// Its node is up or about to be, or it is an address of this node.
    Resting,
}

#[derive(Debug)]
struct Target {
    addr: SocketAddr,
    /// The node that has to answer, or the one that did.
    node: Option<NodeId>,
    pinned: bool,
    learned: bool,
    state: State,
    failures: u32,
    /// The last attempt was hung up on, which is also how the loser of two crossing dials ends.
    hung_up: bool,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Book {
    me: NodeId,
    timings: Timings,
    targets: BTreeMap<TargetId, Target>,
    up: BTreeMap<NodeId, Instant>,
    next_id: u64,
    draws: u64,
}

impl Book {
    pub(super) fn new(me: NodeId, timings: Timings) -> Self {
        Self { me, timings, targets: BTreeMap::new(), up: BTreeMap::new(), next_id: 0, draws: 0 }
    }

    /// Adds a configured address.
    pub(super) fn configure(&mut self, peer: &PeerAddr, now: Instant) {
        self.add(peer.addr, peer.node, false, State::Waiting(now));
    }

    /// A node announced an address on the local network. Both sides hear of each other, so one of them waits.
    pub(super) fn found(&mut self, node: NodeId, addr: SocketAddr, now: Instant) {
        let wait = if self.me < node { Duration::ZERO } else { self.jittered(self.timings.other_side) };
        self.learn(node, addr, now + wait);
    }

    /// A peer said that a node listens there. The other side may never hear of this one, so it is dialed at once.
    pub(super) fn heard(&mut self, node: NodeId, addr: SocketAddr, now: Instant) {
        self.learn(node, addr, now);
    }

    fn learn(&mut self, node: NodeId, addr: SocketAddr, due: Instant) {
        let known = self.targets.values().any(|target| target.addr == addr && target.node == Some(node));
        let learned = self.targets.values().filter(|target| target.learned).count();
        if node == self.me || known || learned >= MAX_LEARNED {
            return;
        }
        let state = if self.up.contains_key(&node) { State::Resting } else { State::Waiting(due) };
        self.add(addr, Some(node), true, state);
    }

    /// An announcement ran out.
    pub(super) fn expired(&mut self, node: NodeId, addr: SocketAddr) {
        self.targets.retain(|_, target| {
            !(target.learned && target.addr == addr && target.node == Some(node) && target.state != State::Dialing)
        });
    }

    /// When there is something to dial, if ever.
    pub(super) fn next_due(&self) -> Option<Instant> {
        if self.dialing() >= MAX_DIALS {
            return None;
        }
        self.waiting().map(|(due, _)| due).min()
    }

    /// The next address to dial, which counts as under way from now until [`Book::failed`] or [`Book::reached`].
    pub(super) fn next_dial(&mut self, now: Instant) -> Option<Dial> {
        if self.dialing() >= MAX_DIALS {
            return None;
        }
        let (_, id) = self.waiting().filter(|(due, _)| *due <= now).min()?;
        let target = self.targets.get_mut(&id)?;
        target.state = State::Dialing;
        let hung_up = std::mem::take(&mut target.hung_up);
        let (addr, node, failures) = (target.addr, target.node.filter(|_| target.pinned), target.failures);
        Some(Dial { id, addr, node, hung_up, failures })
    }

    /// That node answered there. Whether a lane comes of it is told by [`Book::up`] or [`Book::failed`].
    pub(super) fn reached(&mut self, id: TargetId, node: NodeId) {
        if let Some(target) = self.targets.get_mut(&id) {
            target.node = Some(node);
            target.state = State::Resting;
        }
    }

    /// That node answered there, but there is a connection with it already.
    pub(super) fn superfluous(&mut self, id: TargetId, node: NodeId, now: Instant) {
        self.reached(id, node);
        if !self.up.contains_key(&node) {
            self.wait(id, now);
        }
    }

    /// That address gave no lane. Says whether anybody wants to hear of it: being hung up on is told with the next attempt, if it was not
    /// the end of a crossing of two dials, and an address from discovery that leads elsewhere is nobody's mistake.
    #[must_use]
    pub(super) fn failed(&mut self, id: TargetId, refusal: &Refusal, now: Instant) -> bool {
        let Some(target) = self.targets.get_mut(&id) else { return false };
        let elsewhere = target.learned && matches!(refusal, Refusal::Itself | Refusal::OtherNode { .. });
        target.failures += 1;
        target.hung_up = *refusal == Refusal::HungUp;
        if target.learned && (refusal.is_final() || target.failures >= MAX_LEARNED_ATTEMPTS) {
            self.targets.remove(&id);
        } else if *refusal == Refusal::Itself || target.node.is_some_and(|node| self.up.contains_key(&node)) {
            target.state = State::Resting;
        } else {
            self.wait(id, now);
        }
        !elsewhere && *refusal != Refusal::HungUp
    }

    /// There is a lane to that node.
    pub(super) fn up(&mut self, node: NodeId, now: Instant) {
        self.up.insert(node, now);
        for target in self.targets.values_mut() {
            if target.node == Some(node) && target.state != State::Dialing {
                target.state = State::Resting;
                target.hung_up = false;
            }
        }
    }

    /// There is none any more.
    pub(super) fn down(&mut self, node: NodeId, now: Instant) {
        let Some(since) = self.up.remove(&node) else { return };
        let stable = now - since >= self.timings.stable;
        let ids: Vec<TargetId> = self.of(node).collect();
        for id in ids {
            if let Some(target) = self.targets.get_mut(&id) {
                target.failures = if stable { 1 } else { target.failures + 1 };
            }
            self.wait(id, now);
        }
    }

    fn add(&mut self, addr: SocketAddr, node: Option<NodeId>, learned: bool, state: State) {
        let id = TargetId(self.next_id);
        self.next_id += 1;
        // Discovery names a node, and its announcement may be forged or old: there too, no other node will do.
        let pinned = node.is_some();
        self.targets.insert(id, Target { addr, node, pinned, learned, state, failures: 0, hung_up: false });
    }

    fn of(&self, node: NodeId) -> impl Iterator<Item = TargetId> {
        let resting = move |target: &Target| target.node == Some(node) && target.state == State::Resting;
        self.targets.iter().filter(move |(_, target)| resting(target)).map(|(id, _)| *id)
    }

    fn dialing(&self) -> usize {
        self.targets.values().filter(|target| target.state == State::Dialing).count()
    }

    /// Waiting targets of nodes that are not up or being dialed elsewhere.
    fn waiting(&self) -> impl Iterator<Item = (Instant, TargetId)> {
        let busy: BTreeSet<NodeId> = self
            .targets
            .values()
            .filter(|target| target.state == State::Dialing)
            .filter_map(|target| target.node)
            .collect();
        self.targets.iter().filter_map(move |(id, target)| match target.state {
            State::Waiting(due) if !target.node.is_some_and(|node| busy.contains(&node)) => Some((due, *id)),
            _ => None,
        })
    }

    /// Sets the wait that this many failures call for.
    fn wait(&mut self, id: TargetId, now: Instant) {
        let Some(target) = self.targets.get(&id) else { return };
        let doublings = target.failures.saturating_sub(1).min(16);
        let mut wait = (self.timings.redial_first * (1 << doublings)).min(self.timings.redial_most);
        if target.learned && target.node.is_some_and(|node| self.me > node) {
            wait += self.timings.other_side;
        }
        let due = now + self.jittered(wait);
        if let Some(target) = self.targets.get_mut(&id) {
            target.state = State::Waiting(due);
        }
    }

    /// Between three and five quarters of a wait, so that a fleet that lost a switch does not come back in step.
    fn jittered(&mut self, wait: Duration) -> Duration {
        self.draws += 1;
        let mut hasher = blake3::Hasher::new_derive_key("evalmesh 2026-11-21 redial jitter v1");
        hasher.update(self.me.as_bytes());
        hasher.update(&self.draws.to_le_bytes());
        let draw = hasher.finalize().as_bytes()[0];
        wait * 3 / 4 + wait / 2 * u32::from(draw) / 255
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId::from_bytes([5; 32]);
    const LOWER: NodeId = NodeId::from_bytes([1; 32]);
    const HIGHER: NodeId = NodeId::from_bytes([9; 32]);

    fn addr(port: u16) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], port))
    }

    fn book(now: Instant, ports: &[u16]) -> Book {
        let mut book = Book::new(ME, Timings::DEFAULT);
        for port in ports {
            book.configure(&PeerAddr { addr: addr(*port), node: None }, now);
        }
        book
    }

    #[test]
    fn a_configured_address_is_dialed_for_ever_with_growing_waits() {
        let mut now = Instant::now();
        let mut book = book(now, &[1]);
        let mut waits = Vec::new();
        for _ in 0..40 {
            let due = book.next_due().unwrap();
            waits.push(due - now);
            now = due;
            let dial = book.next_dial(now).unwrap();
            assert_eq!((book.next_dial(now), book.next_due()), (None, None));
            assert!(book.failed(dial.id, &Refusal::OtherSecret, now));
        }
        assert_eq!(waits[0], Duration::ZERO);
        assert!(waits[1] < Duration::from_millis(300) && waits[2] > waits[1]);
        let most = Timings::DEFAULT.redial_most;
        assert!(waits[10..].iter().all(|wait| *wait >= most * 3 / 4 && *wait <= most * 5 / 4));
        assert!(waits[10..].windows(2).any(|pair| pair[0] != pair[1]), "no jitter");
    }

    #[test]
    fn a_node_that_is_up_is_not_dialed_and_one_that_went_down_is() {
        let now = Instant::now();
        let mut book = book(now, &[1, 2]);
        let first = book.next_dial(now).unwrap();
        book.reached(first.id, HIGHER);
        book.up(HIGHER, now);
        let second = book.next_dial(now).unwrap();
        book.reached(second.id, HIGHER);
        assert_eq!(book.next_due(), None);
        book.down(HIGHER, now);
        let due = book.next_due().unwrap();
        assert!(due > now);
        assert!(book.next_dial(due).is_some());
        assert_eq!(book.next_dial(due + Timings::DEFAULT.redial_most), None, "the same node is dialed once at a time");
    }

    #[test]
    fn being_hung_up_on_is_told_only_when_nothing_explains_it() {
        let now = Instant::now();
        let mut book = book(now, &[1]);
        let dial = book.next_dial(now).unwrap();
        book.reached(dial.id, LOWER);
        assert!(!book.failed(dial.id, &Refusal::HungUp, now));
        let dial = book.next_dial(book.next_due().unwrap()).unwrap();
        assert!(dial.hung_up);
        assert!(!book.failed(dial.id, &Refusal::HungUp, now));
        book.up(LOWER, now);
        book.down(LOWER, now);
        assert!(!book.next_dial(book.next_due().unwrap()).unwrap().hung_up);
    }

    #[test]
    fn a_stable_lane_resets_the_wait() {
        let mut now = Instant::now();
        let mut book = book(now, &[1]);
        for _ in 0..10 {
            now = book.next_due().unwrap();
            let dial = book.next_dial(now).unwrap();
            assert!(book.failed(dial.id, &Refusal::TimedOut, now));
        }
        now = book.next_due().unwrap();
        let dial = book.next_dial(now).unwrap();
        book.reached(dial.id, HIGHER);
        book.up(HIGHER, now);
        now += Timings::DEFAULT.stable;
        book.down(HIGHER, now);
        assert!(book.next_due().unwrap() - now <= Timings::DEFAULT.redial_first * 5 / 4);
    }

    #[test]
    fn the_lower_node_dials_what_is_discovered_and_the_higher_one_later() {
        let now = Instant::now();
        let mut book = book(now, &[]);
        book.found(ME, addr(1), now);
        assert_eq!(book.next_due(), None, "itself");
        book.found(LOWER, addr(2), now);
        assert!(book.next_due().unwrap() >= now + Timings::DEFAULT.other_side / 2);
        book.found(HIGHER, addr(3), now);
        book.found(HIGHER, addr(3), now);
        assert_eq!(book.next_dial(now).map(|dial| (dial.addr, dial.node)), Some((addr(3), Some(HIGHER))));
        assert_eq!(book.targets.len(), 2);
        book.up(LOWER, now);
        assert_eq!(book.next_due(), None);
    }

    #[test]
    fn discovered_addresses_are_bounded_in_number_and_attempts() {
        let mut now = Instant::now();
        let mut book = book(now, &[]);
        book.found(HIGHER, addr(1), now);
        for _ in 0..MAX_LEARNED_ATTEMPTS {
            now = book.next_due().unwrap();
            let dial = book.next_dial(now).unwrap();
            assert!(book.failed(dial.id, &Refusal::TimedOut, now));
        }
        assert_eq!((book.next_due(), book.targets.len()), (None, 0));
        for port in 1..2000 {
            book.found(NodeId::from_bytes([u8::try_from(port % 100 + 100).unwrap(); 32]), addr(port), now);
        }
        assert_eq!(book.targets.len(), MAX_LEARNED);
        assert_eq!(std::iter::from_fn(|| book.next_dial(now)).count(), MAX_DIALS);
        assert_eq!(book.next_due(), None);
    }

    #[test]
    fn an_address_of_this_node_is_left_alone() {
        let now = Instant::now();
        let mut book = book(now, &[1]);
        let dial = book.next_dial(now).unwrap();
        assert!(book.failed(dial.id, &Refusal::Itself, now), "a person wrote it down");
        assert_eq!(book.next_due(), None);
        book.found(HIGHER, addr(2), now);
        let dial = book.next_dial(now).unwrap();
        assert!(!book.failed(dial.id, &Refusal::Itself, now), "discovery said it");
        assert_eq!(book.targets.len(), 1);
    }
}
