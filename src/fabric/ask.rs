//! Asking holders: the best one first, one hedge, each with a bound; never a chain of timeouts.
//!
//! Invariant: `Fabric::asks` names every ask of every flight, so an answer that nobody waits for finds nothing and is dropped.

use std::time::Duration;

use bytes::Bytes;

use super::flight::Flight;
use super::time::TimerKey;
use super::{Delivery, Fabric, FlightId, Liveness, Output, Step, Time, Timer};
use crate::eval::Origin;
use crate::id::NodeId;
use crate::limits::{ASK_TIMEOUT, FIRST_RTT, MAX_ASKED, MAX_ASKED_CACHED_ONLY, MAX_HOLDERS, MAX_PAYLOAD};
use crate::message::{AskId, Message};
use crate::proof::Evidence;
use crate::request::AnswerFrom;
use crate::verified::{Checked, VerifiedReply};

/// One ask to one holder.
#[derive(Debug)]
pub(super) struct Asking {
    pub(super) peer: NodeId,
    pub(super) sent_at: Time,
    pub(super) timeout: TimerKey,
    /// Whether the holder's answer came and is being checked.
    answered: bool,
    /// Whether its producer lets this node announce it.
    announce: bool,
}

/// Why an ask brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Failure {
    /// The holder says, or has shown, that it does not hold the answer.
    NotHeld,
    /// The holder has no time for it now.
    Busy,
    /// The holder did not answer, or its lane is gone.
    Unanswered,
    /// The answer is larger than this node takes.
    TooLarge,
}

impl Fabric {
    /// Looks for holders once, as soon as somebody would take a held answer.
    pub(super) fn search(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let Some(flight) = self.flights.get(&flight_id) else { return };
        if flight.searched || !flight.wants_held() {
            return;
        }
        let question = flight.id.fingerprint();
        let repeatable = flight.request.as_ref().is_none_or(|resolved| resolved.request.class.is_reproducible());
        let held_only = flight.waiters.values().all(|waiter| waiter.accepts() == AnswerFrom::HeldOnly);
        let mut known = self.holders.holders(question);
        let away = known.iter().filter(|peer| self.liveness(step.now, **peer) == Liveness::Away).take(MAX_ASKED);
        let away: Vec<_> = away.copied().collect();
        known.retain(|peer| self.liveness(step.now, *peer) <= Liveness::Suspect);
        if !held_only {
            // Whoever never serves is not worth a round trip to somebody who can compute.
            known.retain(|peer| self.standings.may_be_asked(*peer, step.now));
        }
        known.sort_by_key(|peer| self.preference(step.now, *peer));
        known.truncate(MAX_ASKED);
        if known.is_empty() {
            // Whoever has no lane yet may get one while this is computed, and is asked then.
            step.out.extend(away.into_iter().map(Output::Connect));
        }
        let broad = known.is_empty() && held_only;
        if broad {
            // The index may lag; whoever wants a held answer or nothing gets one round of asking.
            known = self.live_peers().collect();
            known.sort_by_key(|peer| self.preference(step.now, *peer));
            known.truncate(MAX_ASKED_CACHED_ONLY);
        }
        let first = known.first().copied();
        let beside = first.map(|peer| {
            let patience = self.patience(peer, repeatable);
            self.timers.set(step.now + patience, Timer::ComputeBeside(flight_id))
        });
        let flight = self.flights.get_mut(&flight_id).expect("looked up above");
        flight.searched = true;
        flight.beside = beside;
        flight.candidates = known.into();
        let at_once = if broad { MAX_ASKED_CACHED_ONLY } else { 1 };
        for _ in 0..at_once {
            self.ask_next(step, flight_id);
        }
    }

    /// A lane to a peer is there: questions whose holder it is, and that nobody is asked for, are asked now.
    pub(super) fn ask_newcomer(&mut self, step: &mut Step<'_>, peer: NodeId) {
        if !self.standings.may_be_asked(peer, step.now) {
            return;
        }
        self.add_newcomer(step, peer);
        let waits = |flight: &Flight| {
            flight.searched && flight.asks.is_empty() && flight.transfer.is_none() && flight.wants_held()
        };
        let holds = |flight: &Flight| self.holders.holders(flight.id.fingerprint()).contains(&peer);
        let flights = self.flights.iter().filter(|(_, flight)| waits(flight) && holds(flight));
        let flights: Vec<_> = flights.map(|(flight_id, _)| *flight_id).collect();
        for flight_id in flights {
            if let Some(flight) = self.flights.get_mut(&flight_id) {
                flight.candidates.push_back(peer);
            }
            self.ask_next(step, flight_id);
        }
    }

    /// The order in which holders are asked: the living first, then by what an answer is expected to cost.
    fn preference(&self, now: Time, peer: NodeId) -> (bool, Duration, NodeId) {
        let cost = self.standings.cost(peer, self.round_trip(peer).unwrap_or(FIRST_RTT));
        (self.is_suspect(now, peer), cost, peer)
    }

    /// Asks the next candidate, if there is one, and sets the hedge for the one after it.
    pub(super) fn ask_next(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let ask = AskId(self.fresh_id());
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        let live = |peer: &NodeId| self.peers.get(peer).is_some_and(super::Peer::is_greeted);
        let Some(peer) = std::iter::from_fn(|| flight.candidates.pop_front()).find(live) else { return };
        let timeout = self.timers.set(step.now + ASK_TIMEOUT, Timer::AskTimeout(ask));
        let asking = Asking { peer, sent_at: step.now, timeout, answered: false, announce: false };
        flight.asks.insert(ask, asking);
        self.asks.insert(ask, flight_id);
        step.out.push(Output::Send(peer, Message::Ask { ask, id: flight.id }));
        self.counters.asks_sent += 1;
        if !flight.candidates.is_empty() && flight.hedge.is_none() {
            let after = self.hedge_delay(peer);
            let key = self.timers.set(step.now + after, Timer::Hedge(flight_id));
            self.flights.get_mut(&flight_id).expect("looked up above").hedge = Some(key);
        }
    }

    pub(super) fn on_hedge(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        flight.hedge = None;
        let before = self.counters.asks_sent;
        self.ask_next(step, flight_id);
        self.counters.hedged += self.counters.asks_sent - before;
    }

    pub(super) fn on_held(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        (evidence, announce): (Evidence, bool),
        payloads: Vec<Bytes>,
    ) {
        let Some((flight_id, asking)) = self.asking(from, ask) else { return };
        if asking.answered {
            return;
        }
        asking.answered = true;
        asking.announce = announce;
        let took = step.now - asking.sent_at;
        let id = self.flights[&flight_id].id;
        step.out.push(Output::Check(from, ask, id, evidence, payloads));
        self.standings.answered(from, took);
    }

    pub(super) fn on_checked(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        result: Result<Checked, String>,
    ) {
        if self.is_assembled(from, ask) {
            return self.on_assembled(step, from, ask, result);
        }
        let Some((flight_id, asking)) = self.asking(from, ask) else { return };
        let announce = asking.announce;
        match result {
            Ok(Checked::Complete(verified)) => self.on_believed(step, flight_id, from, verified, announce),
            Ok(Checked::RecordOnly(believed)) => {
                let (record, evidence) = *believed;
                if record.blobs().map(|blob| blob.len).fold(0, u64::saturating_add) > MAX_PAYLOAD {
                    return self.fail_ask(step, ask, Failure::TooLarge);
                }
                self.drop_ask(step, ask, false);
                self.start_transfer(step, flight_id, from, &record, (evidence, announce));
            }
            Err(why) => {
                self.fail_ask(step, ask, Failure::NotHeld);
                self.disbelieve(step, from, why);
            }
        }
    }

    pub(super) fn on_believed(
        &mut self,
        step: &mut Step<'_>,
        flight_id: FlightId,
        from: NodeId,
        verified: Box<VerifiedReply>,
        announce: bool,
    ) {
        self.counters.fetched += 1;
        self.standings.served(from);
        let question = verified.record().request.fingerprint();
        let delivery = Delivery { reply: verified.reply().clone(), origin: Origin::Peer(from), recorded: true };
        // Its producer counts whom it lets announce; this node knows of others that it may not know of.
        let announce = announce && self.holders.holders(question).len() < MAX_HOLDERS;
        // The append comes first, so that whoever asks again after the delivery finds the reply here.
        step.out.push(Output::Adopt(verified, announce));
        let takes = |accepts| accepts != AnswerFrom::ComputedOnly;
        let asks: Vec<_> = self.flights.get(&flight_id).into_iter().flat_map(|f| f.asks.keys().copied()).collect();
        for ask in asks {
            self.drop_ask(step, ask, true);
        }
        self.drop_transfer(flight_id);
        self.deliver_where(step, flight_id, takes, Ok(delivery));
        self.settle(step, flight_id);
    }

    pub(super) fn on_not_held(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId) {
        if self.asking(from, ask).is_some() {
            self.fail_ask(step, ask, Failure::NotHeld);
        } else if self.is_part_of_transfer(from, ask) {
            self.fail_chunk(step, from, ask, Failure::NotHeld);
        } else {
            self.segment_not_held(step, from, ask);
        }
    }

    pub(super) fn on_busy(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId) {
        if self.asking(from, ask).is_some() {
            self.fail_ask(step, ask, Failure::Busy);
        } else if self.is_part_of_transfer(from, ask) {
            self.fail_chunk(step, from, ask, Failure::Busy);
        } else {
            self.segment_not_held(step, from, ask);
        }
    }

    pub(super) fn on_ask_timeout(&mut self, step: &mut Step<'_>, ask: AskId) {
        self.fail_ask(step, ask, Failure::Unanswered);
    }

    /// Ends all asks to a peer that will not answer them.
    pub(super) fn lose_asks(&mut self, step: &mut Step<'_>, peer: NodeId) {
        let to_it = |flight: &Flight| {
            let asks = flight.asks.iter().filter(|(_, asking)| asking.peer == peer);
            asks.map(|(ask, _)| *ask).collect::<Vec<_>>()
        };
        let lost: Vec<_> = self.flights.values().flat_map(|flight| to_it(flight)).collect();
        for ask in lost {
            self.fail_ask(step, ask, Failure::Unanswered);
        }
        self.lose_sources(step, peer);
    }

    /// Ends an ask without an answer, corrects the index if the holder said no, and goes on.
    pub(super) fn fail_ask(&mut self, step: &mut Step<'_>, ask: AskId, why: Failure) {
        let Some(&flight_id) = self.asks.get(&ask) else { return };
        let flight = &self.flights[&flight_id];
        let question = flight.id.fingerprint();
        let peer = flight.asks.get(&ask).map(|asking| asking.peer);
        self.drop_ask(step, ask, why == Failure::Unanswered);
        if let Some(peer) = peer.filter(|_| why == Failure::NotHeld) {
            self.correct(step, peer, question);
        }
        self.ask_next(step, flight_id);
        self.settle(step, flight_id);
    }

    /// A peer says, or has shown, that it does not hold an answer.
    pub(super) fn correct(&mut self, step: &Step<'_>, peer: NodeId, question: u64) {
        // Whoever was asked without having announced anything did nothing wrong.
        if self.holders.holders(question).contains(&peer) {
            self.standings.failed(peer, step.now);
        }
        self.holders.forget(peer, question);
    }

    /// Forgets an ask; tells the peer if it may still be working on it.
    pub(super) fn drop_ask(&mut self, step: &mut Step<'_>, ask: AskId, tell: bool) {
        let Some(flight_id) = self.asks.remove(&ask) else { return };
        let Some(asking) = self.flights.get_mut(&flight_id).and_then(|flight| flight.asks.remove(&ask)) else { return };
        self.timers.clear(asking.timeout);
        if tell && !asking.answered {
            // Slower than nearly all answers are: the next question goes to somebody else first.
            if step.now - asking.sent_at > self.hedge_delay(asking.peer) {
                self.standings.failed(asking.peer, step.now);
            }
            if self.is_live(asking.peer) {
                step.out.push(Output::Send(asking.peer, Message::Cancel { ask }));
            }
        }
    }

    fn asking(&mut self, from: NodeId, ask: AskId) -> Option<(FlightId, &mut Asking)> {
        let flight_id = *self.asks.get(&ask)?;
        let asking = self.flights.get_mut(&flight_id)?.asks.get_mut(&ask)?;
        (asking.peer == from).then_some((flight_id, asking))
    }
}
