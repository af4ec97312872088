//! Lanes to peers: hello, heartbeat, logs in both directions, and answering what peers ask.
//!
//! The writer pushes its own log to everybody; whoever sees a gap, or hears in a heartbeat that it is behind, pulls. Gossip alone loses
//! messages; the pull once a second is what makes indexes equal. Invariant: only the durable prefix of the own log is ever announced.

use std::time::Duration;

use bytes::Bytes;

use super::holders::Merge;
use super::{Disconnect, Fabric, Output, Step, Time, Timer};
use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::limits::{ASK_GRACE, BATCH_DELAY, BATCH_FACTS, FIRST_RTT, HEARTBEAT, MAX_ASKS_PER_PEER};
use crate::message::{AskId, Batch, EpochStart, Message, OLDEST_PROTOCOL, PROTOCOL};
use crate::proof::Evidence;

/// How long a peer that sent something unbelievable is not spoken to.
const SHUN: Duration = Duration::from_mins(1);
/// Shunned peers remembered; beyond it the oldest is forgiven early.
const MAX_SHUNNED: usize = 1024;

/// A peer with an open lane.
#[derive(Debug, Default)]
pub(super) struct Peer {
    greeted: bool,
    /// How long its log is, by its own word.
    length: u64,
    /// Whether it was asked for its log and has not answered.
    pulling: bool,
    /// Whether its own pull is being read.
    reading: bool,
    /// Its asks that are being looked up.
    serving: usize,
    heartbeat: Option<(u64, Time)>,
    /// Smoothed round trip and its mean deviation (RFC 6298).
    rtt: Option<(Duration, Duration)>,
}

impl Peer {
    pub(super) fn is_greeted(&self) -> bool {
        self.greeted
    }

    pub(super) fn round_trip(&self) -> Option<Duration> {
        self.rtt.map(|(smoothed, _)| smoothed)
    }
}

/// How far this node's own log is announced.
#[derive(Debug)]
pub(super) struct OwnLog {
    durable: u64,
    announced: u64,
    /// Whether a flush is set or a read is under way.
    flushing: bool,
}

impl OwnLog {
    pub(super) fn new(length: u64) -> Self {
        Self { durable: length, announced: length, flushing: false }
    }
}

impl Fabric {
    pub(super) fn on_peer_up(&mut self, step: &mut Step<'_>, peer: NodeId) {
        if self.shunned.get(&peer).is_some_and(|until| step.now < *until) {
            return step.out.push(Output::Disconnect(peer, Disconnect::Shunned));
        }
        self.peers.insert(peer, Peer::default());
        let hello = Message::Hello {
            newest: PROTOCOL,
            oldest: OLDEST_PROTOCOL,
            lineage: self.config.lineage.clone(),
            length: self.own_log.durable,
        };
        step.out.push(Output::Send(peer, hello));
    }

    pub(super) fn on_peer_down(&mut self, step: &mut Step<'_>, peer: NodeId) {
        self.peers.remove(&peer);
        let lost = |asks: &super::flight::Flight| {
            asks.asks.iter().filter(|(_, asking)| asking.peer == peer).map(|(ask, _)| *ask).collect::<Vec<_>>()
        };
        let lost: Vec<_> = self.flights.values().flat_map(lost).collect();
        for ask in lost {
            self.fail_ask(step, ask, false);
        }
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
        if self.shunned.len() >= MAX_SHUNNED {
            self.shunned.pop_first();
        }
        self.shunned.insert(peer, step.now + SHUN);
        self.end_lane(step, peer, Disconnect::Unbelievable(why));
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
        peer.length = length;
        self.holders.describe(from, lineage);
        self.pull_if_behind(step, from);
        self.send_heartbeat(step, from);
    }

    pub(super) fn on_heartbeat(&mut self, step: &mut Step<'_>) {
        self.timers.set(step.now + HEARTBEAT, Timer::Heartbeat);
        self.shunned.retain(|_, until| step.now < *until);
        let live: Vec<_> = self.live_peers().collect();
        for peer in live {
            self.send_heartbeat(step, peer);
            // An answer that was lost must not keep the log from being asked for again.
            if let Some(state) = self.peers.get_mut(&peer) {
                state.pulling = false;
            }
            self.pull_if_behind(step, peer);
        }
    }

    fn send_heartbeat(&mut self, step: &mut Step<'_>, to: NodeId) {
        let nonce = self.fresh_id();
        let epoch = self.config.lineage.last().map_or(EpochId::from_bytes([0; 16]), |epoch| epoch.epoch);
        if let Some(peer) = self.peers.get_mut(&to) {
            peer.heartbeat = Some((nonce, step.now));
            step.out.push(Output::Send(to, Message::Heads { epoch, length: self.own_log.durable, nonce }));
        }
    }

    pub(super) fn on_heads(&mut self, step: &mut Step<'_>, from: NodeId, _epoch: EpochId, length: u64, nonce: u64) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.length = peer.length.max(length);
        }
        step.out.push(Output::Send(from, Message::Pong { nonce }));
        self.pull_if_behind(step, from);
    }

    pub(super) fn on_pong(&mut self, step: &mut Step<'_>, from: NodeId, nonce: u64) {
        let sent = self.peers.get_mut(&from).and_then(|peer| peer.heartbeat.take_if(|(sent, _)| *sent == nonce));
        if let Some((_, at)) = sent {
            self.measured(from, step.now - at);
        }
    }

    fn pull_if_behind(&mut self, step: &mut Step<'_>, from: NodeId) {
        let known = self.holders.known(from);
        if let Some(peer) = self.peers.get_mut(&from)
            && known < peer.length
            && !peer.pulling
        {
            peer.pulling = true;
            step.out.push(Output::Send(from, Message::Pull { from: known }));
        }
    }

    pub(super) fn on_pull(&mut self, step: &mut Step<'_>, from: NodeId, position: u64) {
        if let Some(peer) = self.peers.get_mut(&from)
            && !peer.reading
        {
            peer.reading = true;
            step.out.push(Output::ReadLog(Some(from), position));
        }
    }

    pub(super) fn on_head_checked(&mut self, step: &mut Step<'_>, from: NodeId, batch: &Batch, holds: bool) {
        if !holds {
            return self.disbelieve(step, from, "the head of a batch is not its own".to_owned());
        }
        let merged = self.holders.merge(from, batch);
        let Some(peer) = self.peers.get_mut(&from) else { return };
        match merged {
            Merge::Merged => {
                peer.length = peer.length.max(batch.end());
                peer.pulling = false;
                self.pull_if_behind(step, from);
            }
            Merge::Gap(_) => {
                peer.length = peer.length.max(batch.first);
                self.pull_if_behind(step, from);
            }
            Merge::Foreign => self.disbelieve(step, from, "a batch that is not of the log it described".to_owned()),
        }
    }

    pub(super) fn on_durable(&mut self, step: &mut Step<'_>, length: u64) {
        self.own_log.durable = self.own_log.durable.max(length);
        let fresh = self.own_log.durable - self.own_log.announced;
        if fresh > 0 && !self.own_log.flushing {
            self.own_log.flushing = true;
            let wait = if fresh >= BATCH_FACTS as u64 { Duration::ZERO } else { BATCH_DELAY };
            self.timers.set(step.now + wait, Timer::Announce);
        }
    }

    pub(super) fn on_announce(&mut self, step: &mut Step<'_>) {
        step.out.push(Output::ReadLog(None, self.own_log.announced));
    }

    pub(super) fn on_log_read(&mut self, step: &mut Step<'_>, to: Option<NodeId>, batch: Option<Batch>) {
        if let Some(to) = to {
            if let Some(peer) = self.peers.get_mut(&to) {
                peer.reading = false;
                step.out.extend(batch.map(|batch| Output::Send(to, Message::Batch(batch))));
            }
            return;
        }
        self.own_log.flushing = false;
        // Nothing to read although something is durable is retried by the pulls of peers.
        let Some(batch) = batch else { return };
        self.own_log.announced = self.own_log.announced.max(batch.end());
        let live: Vec<_> = self.live_peers().collect();
        self.counters.batches += live.len() as u64;
        step.out.extend(live.into_iter().map(|peer| Output::Send(peer, Message::Batch(batch.clone()))));
        self.on_durable(step, self.own_log.durable);
    }

    pub(super) fn on_ask(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, id: ContentId) {
        if self.may_serve(from) {
            step.out.push(Output::LookUp(from, ask, id));
        } else {
            step.out.push(Output::Send(from, Message::NotHeld { ask }));
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
        if self.may_serve(from) {
            step.out.push(Output::ReadChunk(from, ask, id, blob, offset, len));
        } else {
            step.out.push(Output::Send(from, Message::NotHeld { ask }));
        }
    }

    fn may_serve(&mut self, to: NodeId) -> bool {
        self.peers.get_mut(&to).is_some_and(|peer| {
            let room = peer.serving < MAX_ASKS_PER_PEER;
            peer.serving += usize::from(room);
            room
        })
    }

    pub(super) fn on_found(
        &mut self,
        step: &mut Step<'_>,
        to: NodeId,
        ask: AskId,
        found: Option<(Evidence, Vec<Bytes>)>,
    ) {
        self.served(
            step,
            to,
            found.is_some(),
            match found {
                Some((evidence, payloads)) => Message::Held { ask, evidence, payloads },
                None => Message::NotHeld { ask },
            },
        );
    }

    pub(super) fn on_found_chunk(&mut self, step: &mut Step<'_>, to: NodeId, ask: AskId, bytes: Option<Bytes>) {
        self.served(
            step,
            to,
            false,
            match bytes {
                Some(bytes) => Message::Chunk { ask, bytes },
                None => Message::NotHeld { ask },
            },
        );
    }

    fn served(&mut self, step: &mut Step<'_>, to: NodeId, counts: bool, message: Message) {
        let Some(peer) = self.peers.get_mut(&to) else { return };
        peer.serving = peer.serving.saturating_sub(1);
        self.counters.served += u64::from(counts);
        step.out.push(Output::Send(to, message));
    }

    /// Takes a measured round trip into the smoothed one (RFC 6298 section 2).
    pub(super) fn measured(&mut self, peer: NodeId, took: Duration) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.rtt = Some(match peer.rtt {
                None => (took, took / 2),
                Some((smoothed, deviation)) => {
                    (smoothed * 7 / 8 + took / 8, deviation * 3 / 4 + smoothed.abs_diff(took) / 4)
                }
            });
        }
    }

    pub(super) fn is_live(&self, peer: NodeId) -> bool {
        self.peers.get(&peer).is_some_and(Peer::is_greeted)
    }

    /// After this without an answer a second holder is asked: the larger of two round trips and what nearly all answers take.
    pub(super) fn hedge_delay(&self, peer: NodeId) -> Duration {
        match self.peers.get(&peer).and_then(|peer| peer.rtt) {
            None => FIRST_RTT,
            Some((smoothed, deviation)) => (smoothed * 2).max(smoothed + deviation * 4),
        }
    }

    /// After this without an answer computing starts beside the asks.
    pub(super) fn patience(&self, peer: NodeId) -> Duration {
        let measured = match self.peers.get(&peer).and_then(|peer| peer.rtt) {
            None => FIRST_RTT,
            Some((smoothed, deviation)) => smoothed + deviation * 4,
        };
        self.config.patience.unwrap_or(measured + ASK_GRACE)
    }
}
