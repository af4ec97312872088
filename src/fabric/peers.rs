//! Lanes to peers: hello, heartbeat, liveness and round trips.
//!
//! A hello is sent again with every beat until something shows that it came. The heartbeat says how long the log is and, now and then, brings
//! the pong that measures the round trip; where there are many peers they take turns, and each heartbeat says when the next one comes. A peer
//! that is not heard of is suspect, then dead, and back with its first word. Liveness is not in any log:
//! the dead are masked here, and what they announced stays in the index. Invariant: nothing but a hello is taken from whoever did not say it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::overlay::Link;
use super::standing::RoundTrip;
use super::{Disconnect, Fabric, Output, Step, Time, Timer};
use crate::id::NodeId;
use crate::limits::{
    ASK_GRACE, DEAD_AFTER, DEAD_BEATS, FIRST_PONGS, FIRST_RTT, HEARTBEAT, HEARTBEATS_AT_ONCE, HELLO_PATIENCE, MAX_PACE,
    MEASURE_EVERY, PEERS_PER_BEAT, SUSPECT_AFTER, SWEEP_PAGES,
};
use crate::message::{AskId, EpochStart, Message, NO_PONG, OLDEST_PROTOCOL, PROTOCOL, Row};

/// How long a peer that sent something unbelievable is not spoken to.
const SHUN: Duration = Duration::from_mins(1);
/// Shunned peers remembered; beyond it the oldest is forgiven early.
const MAX_SHUNNED: usize = 1024;

/// How a node is, as far as this one can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Liveness {
    /// It was heard of lately.
    Alive,
    /// It missed a few heartbeats: asked only if nobody else can answer.
    Suspect,
    /// It was not heard of for long: masked in the index, though its lane is still open.
    Dead,
    /// It has no lane to this node.
    Away,
}

/// A peer with an open lane.
#[derive(Debug)]
pub(super) struct Peer {
    /// It said hello.
    greeted: bool,
    /// It took this node's hello: it says more than hello.
    confirmed: bool,
    /// When the lane opened, or the last message came.
    heard: Time,
    /// How many seconds there are between two of its heartbeats.
    pace: u8,
    /// Its look-ups under way here, and the question of each.
    pub(super) serving: BTreeMap<AskId, u64>,
    /// What it announced and is being checked.
    pub(super) checking: usize,
    /// The last heartbeat that wants a pong: nonce, when, and the version of rows that it brought.
    heartbeat: Option<(u64, Time, u64)>,
    /// When this node's own entries last went to it, and the floor of the log that it was told.
    informed: Option<Time>,
    floor: Option<u64>,
    /// How many pongs came over this lane, and when the last one did.
    pongs: u32,
    measured: Time,
    /// Its round trip, as measured over this lane and the one before.
    round_trip: Option<RoundTrip>,
    pub(super) link: Link,
}

impl Peer {
    fn new(now: Time, round_trip: Option<RoundTrip>) -> Self {
        Self {
            greeted: false,
            confirmed: false,
            heard: now,
            pace: 1,
            serving: BTreeMap::new(),
            checking: 0,
            heartbeat: None,
            informed: None,
            floor: None,
            pongs: 0,
            measured: now,
            round_trip,
            link: Link::default(),
        }
    }

    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.round_trip.map(|known| known.smoothed)
    }

    /// Whether its round trip is not known well, or was not measured for long.
    fn wants_measuring(&self, now: Time) -> bool {
        let known = self.round_trip.is_some_and(|known| known.times >= FIRST_PONGS) && self.pongs > 0;
        !known || now - self.measured >= MEASURE_EVERY
    }

    /// After how long without a word it is dead.
    fn dead_after(&self) -> Duration {
        DEAD_AFTER.max(HEARTBEAT * u32::from(self.pace) * DEAD_BEATS)
    }

    pub(super) fn liveness(&self, now: Time) -> Liveness {
        match now - self.heard {
            _ if !self.greeted => Liveness::Away,
            silent if silent >= self.dead_after() => Liveness::Dead,
            silent if silent >= HEARTBEAT * u32::from(self.pace) * SUSPECT_AFTER => Liveness::Suspect,
            _ => Liveness::Alive,
        }
    }
}

impl Fabric {
    pub(super) fn on_peer_up(&mut self, step: &mut Step<'_>, peer: NodeId) {
        if self.shunned.get(&peer).is_some_and(|until| step.now < *until) {
            return step.out.push(Output::Disconnect(peer, Disconnect::Shunned));
        }
        let before = self.peers.insert(peer, Peer::new(step.now, self.standings.round_trip(peer)));
        if let Some(before) = before {
            self.forget_link(before.link);
        }
        self.send_hello(step, peer);
    }

    fn send_hello(&self, step: &mut Step<'_>, to: NodeId) {
        let lineage = self.config.lineage.clone();
        let length = self.own_log.announced;
        step.out.push(Output::Send(to, Message::Hello { newest: PROTOCOL, oldest: OLDEST_PROTOCOL, lineage, length }));
    }

    pub(super) fn on_peer_down(&mut self, step: &mut Step<'_>, peer: NodeId) {
        if let Some(gone) = self.peers.remove(&peer) {
            self.forget_link(gone.link);
            if let Some(round_trip) = gone.round_trip {
                self.standings.keep_round_trip(peer, round_trip);
            }
        }
        self.forget_source(step, peer);
        self.lose_asks(step, peer);
    }

    pub(super) fn end_lane(&mut self, step: &mut Step<'_>, peer: NodeId, reason: Disconnect) {
        if self.peers.contains_key(&peer) {
            step.out.push(Output::Disconnect(peer, reason));
            self.on_peer_down(step, peer);
        }
    }

    /// A peer was caught with something that does not verify.
    pub(super) fn disbelieve(&mut self, step: &mut Step<'_>, peer: NodeId, why: String) {
        self.counters.disbelieved += 1;
        self.standings.lied(peer, step.now);
        if self.shunned.len() >= MAX_SHUNNED {
            self.shunned.pop_first();
        }
        self.shunned.insert(peer, step.now + SHUN);
        self.end_lane(step, peer, Disconnect::Unbelievable(why));
    }

    /// Takes note that a peer spoke; `false` if it has to say hello first.
    pub(super) fn hear(&mut self, step: &mut Step<'_>, from: NodeId, message: &Message) -> bool {
        let is_hello = matches!(message, Message::Hello { .. });
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        if !peer.greeted && !is_hello {
            // Its hello was lost and comes again; until then it may not keep the lane open by talking.
            self.counters.unheard += 1;
            return false;
        }
        let was_dead = peer.liveness(step.now) == Liveness::Dead;
        peer.confirmed |= !is_hello;
        peer.heard = step.now;
        if was_dead {
            self.pull_if_behind(step, from, from);
        }
        true
    }

    pub(super) fn on_hello(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        (oldest, newest): (u16, u16),
        lineage: Vec<EpochStart>,
        length: u64,
    ) {
        if newest < OLDEST_PROTOCOL || oldest > PROTOCOL {
            let reason = Disconnect::Protocol {
                theirs_oldest: oldest,
                theirs_newest: newest,
                ours_oldest: OLDEST_PROTOCOL,
                ours_newest: PROTOCOL,
            };
            return self.end_lane(step, from, reason);
        }
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.greeted = true;
        self.on_described_by_author(step, from, lineage, length);
        self.send_heartbeat(step, from);
        self.choose_links(step);
        if self.is_overlay() {
            // It passes this node's news on to others, who need its epochs to believe it.
            self.describe_to(step, from);
        }
        self.ask_newcomer(step, from);
    }

    pub(super) fn on_heartbeat(&mut self, step: &mut Step<'_>) {
        self.timers.set(step.now + HEARTBEAT, Timer::Heartbeat);
        self.shunned.retain(|_, until| step.now < *until);
        self.holders.tidy(SWEEP_PAGES);
        self.renew_pulls(step);
        self.on_durable(step, self.own_log.durable);
        self.beats = self.beats.wrapping_add(1);
        let peers: Vec<_> = self.peers.iter().map(|(node, peer)| (*node, peer.greeted, peer.confirmed)).collect();
        let mut owed = VecDeque::new();
        for (node, greeted, confirmed) in peers {
            if !confirmed {
                self.send_hello(step, node);
            }
            if greeted {
                if self.owes_heartbeat(step.now, node) {
                    owed.push_back(node);
                }
                self.pull_if_behind(step, node, node);
                let distance = self.round_trip(node).unwrap_or(Duration::MAX);
                self.holders.set_distance(node, distance);
            } else if self.peers.get(&node).is_some_and(|peer| step.now - peer.heard >= HELLO_PATIENCE) {
                self.end_lane(step, node, Disconnect::NoHello);
            }
        }
        self.give_up_on_the_dead(step);
        self.choose_links(step);
        self.spread_heartbeats(step, owed);
    }

    /// Sends the heartbeats of one beat; many of them a few at a time, so that nobody who shares their way or their processors waits for all of them.
    fn spread_heartbeats(&mut self, step: &mut Step<'_>, owed: VecDeque<NodeId>) {
        let portions = if owed.len() > 2 * HEARTBEATS_AT_ONCE { owed.len().div_ceil(HEARTBEATS_AT_ONCE) } else { 1 };
        let count = u32::try_from(portions).unwrap_or(u32::MAX);
        for portion in 1..count {
            self.timers.set(step.now + HEARTBEAT * portion / count, Timer::Heartbeats);
        }
        self.portion = owed.len().div_ceil(portions);
        self.owed = owed;
        self.on_heartbeats(step);
    }

    pub(super) fn on_heartbeats(&mut self, step: &mut Step<'_>) {
        for _ in 0..self.portion {
            let Some(node) = self.owed.pop_front() else { return };
            if self.is_live(node) {
                self.send_heartbeat(step, node);
            }
        }
    }

    /// Asks to peers that died meanwhile end at once instead of one by one.
    fn give_up_on_the_dead(&mut self, step: &mut Step<'_>) {
        let just_died = |peer: &Peer| {
            let silent = step.now - peer.heard;
            silent >= peer.dead_after() && silent < peer.dead_after() + HEARTBEAT
        };
        let dead = self.peers.iter().filter(|(_, peer)| just_died(peer));
        let dead: Vec<_> = dead.map(|(node, _)| *node).collect();
        for node in dead {
            self.forget_source(step, node);
            self.lose_asks(step, node);
        }
    }

    /// How many seconds there are between two heartbeats to the same peer.
    fn pace(&self) -> u8 {
        u8::try_from(self.peers.len().div_ceil(PEERS_PER_BEAT)).unwrap_or(MAX_PACE).clamp(1, MAX_PACE)
    }

    /// Whether it is a peer's turn, and it learns more from a heartbeat than from the entries that were sent to it since the last one: those
    /// show that this node lives, and how long its log is. Of a fleet that is at work, heartbeats would be half of all messages.
    fn owes_heartbeat(&self, now: Time, to: NodeId) -> bool {
        let Some(peer) = self.peers.get(&to) else { return false };
        if peer.pongs == 0 || (self.is_overlay() && peer.link.is_on()) {
            return true;
        }
        // Peers' names are random, so that each beat is a turn of about as many of them.
        let pace = self.pace();
        if !self.beats.wrapping_add(u64::from(to.as_bytes()[0])).is_multiple_of(u64::from(pace)) {
            return false;
        }
        let informed = peer.informed.is_some_and(|at| now - at < HEARTBEAT * u32::from(pace));
        !informed || peer.floor != Some(self.own_log.floor) || peer.wants_measuring(now)
    }

    /// Takes note that this node's own newest entries went to a peer.
    pub(super) fn note_informed(&mut self, now: Time, to: NodeId) {
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.informed = Some(now);
        }
    }

    fn send_heartbeat(&mut self, step: &mut Step<'_>, to: NodeId) {
        let fresh = self.fresh_id();
        let (rows, version) = self.rows_for(to);
        let (epoch, length, floor) = (self.own_log.epoch, self.own_log.announced, self.own_log.floor);
        let pace = self.pace();
        if let Some(peer) = self.peers.get_mut(&to) {
            let wants_pong = !rows.is_empty() || peer.wants_measuring(step.now);
            peer.floor = Some(floor);
            let nonce = if wants_pong { fresh } else { NO_PONG };
            if wants_pong {
                peer.heartbeat = Some((nonce, step.now, version));
            }
            step.out.push(Output::Send(to, Message::Heads { epoch, length, floor, rows, nonce, pace }));
        }
    }

    pub(super) fn on_heads(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        own: Row,
        floor: u64,
        rows: &[Row],
        (nonce, pace): (u64, u8),
    ) {
        if nonce != NO_PONG {
            step.out.push(Output::Send(from, Message::Pong { nonce }));
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.pace = pace.clamp(1, MAX_PACE);
        }
        // Most heartbeats say nothing new.
        if self.holders.newest(from).is_none_or(|(_, known)| own.length > known) {
            self.hear_of(from, own.length);
            self.pull_if_behind(step, from, from);
        }
        self.holders.raise_floor(from, floor);
        self.on_rows(step, from, rows);
        self.describe_if_unknown(step, from, own.epoch);
    }

    pub(super) fn on_pong(&mut self, step: &mut Step<'_>, from: NodeId, nonce: u64) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        if let Some((_, at, version)) = peer.heartbeat.take_if(|(sent, ..)| *sent == nonce) {
            peer.round_trip = Some(RoundTrip::measured(peer.round_trip, step.now - at, peer.pongs == 0));
            peer.pongs = peer.pongs.saturating_add(1);
            peer.measured = step.now;
            self.rows_confirmed(from, version);
        }
    }

    /// How a node is.
    #[must_use]
    pub fn liveness(&self, now: Time, node: NodeId) -> Liveness {
        self.peers.get(&node).map_or(Liveness::Away, |peer| peer.liveness(now))
    }

    /// Whether a peer may be sent to: its lane is open and it said hello.
    pub(super) fn is_live(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(Peer::is_greeted)
    }

    pub(super) fn is_suspect(&self, now: Time, peer: NodeId) -> bool {
        self.liveness(now, peer) != Liveness::Alive
    }

    /// After this without an answer a second holder is asked: the larger of two round trips and what nearly all answers take.
    pub(super) fn hedge_delay(&self, peer: NodeId) -> Duration {
        let round_trips = self.round_trip(peer).unwrap_or(FIRST_RTT / 2) * 2;
        self.standings
            .latency(peer)
            .map_or(round_trips, |(smoothed, deviation)| round_trips.max(smoothed + deviation * 4))
    }

    /// After this without an answer computing starts beside the asks: one round trip and a little more. How much round trips differ does not count:
    /// whoever is in doubt computes. But an observation is not repeated because its holder is a little late: it may have cost somebody something.
    pub(super) fn patience(&self, peer: NodeId, repeatable: bool) -> Duration {
        let usual = || self.round_trip(peer).unwrap_or(FIRST_RTT) + ASK_GRACE;
        let at_least = || if repeatable { Duration::ZERO } else { self.hedge_delay(peer) };
        self.config.patience.unwrap_or_else(|| usual().max(at_least()))
    }
}
