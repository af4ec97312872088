//! Large replies: payloads fetched in chunks from all good holders at once, in the name of a record that is already believed.
//!
//! A chunk comes leaf by leaf, behind the chaining values of its leaves. Each leaf is held against the digest that the record names as soon as it
//! comes, so a holder that lies is found out by the first 16 KiB that are wrong, and only these are fetched again. A holder that is lost,
//! refuses or stalls is done without; if all are silent they are asked again. The transfer ends early only when no holder is left, or when
//! nothing that holds came for too long. Invariant: memory grows with the bytes that came, never with the length
//! that somebody claimed.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::ask::Failure;
use super::pieces::{Pieces, Run};
use super::time::TimerKey;
use super::{Fabric, FlightId, Liveness, Output, Step, Time, Timer};
use crate::bao::{ChunkClaim, ChunkProof, ProvenChunk, Unproven};
use crate::id::NodeId;
use crate::limits::{FIRST_RTT, MAX_HOLDERS, SOURCE_STALL, STEAL_EVERY, TRANSFER_STALL};
use crate::message::{AskId, Message};
use crate::proof::Evidence;
use crate::record::Record;
use crate::verified::Checked;

/// The payloads of one believed record on their way.
#[derive(Debug)]
pub(super) struct Transfer {
    /// Who gave the record, or whoever took its place.
    lead: NodeId,
    evidence: Evidence,
    /// Whether the answer's producer lets this node announce it.
    announce: bool,
    pieces: Pieces,
    /// Holders that this is done without from now on.
    given_up: BTreeSet<NodeId>,
    /// When the last chunk came that holds.
    progress: Time,
    /// When it is looked after next.
    due: Option<(Time, TimerKey)>,
    /// Set while all of it is put together.
    assembling: Option<AskId>,
}

impl Transfer {
    pub(super) fn asks_in_flight(&self) -> usize {
        self.pieces.in_flight() + usize::from(self.assembling.is_some())
    }

    pub(super) fn is_consistent(&self) -> bool {
        self.pieces.is_consistent()
    }
}

impl Fabric {
    /// Fetches the payloads of a record that `from` holds, or has it join in fetching them.
    pub(super) fn start_transfer(
        &mut self,
        step: &mut Step<'_>,
        flight_id: FlightId,
        from: NodeId,
        record: &Record,
        (evidence, announce): (Evidence, bool),
    ) {
        let guess = self.round_trip(from).unwrap_or(FIRST_RTT);
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        // The bytes are on their way: computing beside them would be waste, unless they stall.
        if let Some(key) = flight.beside.take() {
            self.timers.clear(key);
        }
        if let Some(transfer) = &mut flight.transfer {
            if transfer.pieces.are_of(record) && !transfer.given_up.contains(&from) {
                transfer.pieces.add_source(from, guess, step.now);
            }
        } else {
            let mut pieces = Pieces::new(record);
            pieces.add_source(from, guess, step.now);
            let alone = pieces.fit_one_window();
            flight.transfer = Some(Transfer {
                lead: from,
                evidence,
                announce,
                pieces,
                given_up: BTreeSet::new(),
                progress: step.now,
                due: None,
                assembling: None,
            });
            if !alone {
                self.add_holders(step, flight_id);
            }
        }
        self.continue_transfer(step, flight_id);
    }

    /// Has all good holders of the answer, as far as they are known, join in a transfer.
    fn add_holders(&mut self, step: &Step<'_>, flight_id: FlightId) {
        let Some(flight) = self.flights.get(&flight_id) else { return };
        let Some(transfer) = &flight.transfer else { return };
        let mut known = self.holders.holders(flight.id.fingerprint());
        known.retain(|peer| {
            self.is_live(*peer)
                && self.liveness(step.now, *peer) == Liveness::Alive
                && self.standings.may_be_asked(*peer, step.now)
                && !transfer.given_up.contains(peer)
        });
        known.truncate(MAX_HOLDERS.saturating_sub(transfer.pieces.sources().count()));
        let guesses: Vec<_> = known.iter().map(|peer| self.round_trip(*peer).unwrap_or(FIRST_RTT)).collect();
        let transfer = self.flights.get_mut(&flight_id).and_then(|flight| flight.transfer.as_mut());
        if let Some(transfer) = transfer {
            for (peer, guess) in known.into_iter().zip(guesses) {
                transfer.pieces.add_source(peer, guess, step.now);
            }
        }
    }

    /// A lane to a peer is there: transfers that could go faster with it do.
    pub(super) fn add_newcomer(&mut self, step: &mut Step<'_>, peer: NodeId) {
        let gains = |transfer: &Transfer| !transfer.pieces.fit_one_window() && !transfer.pieces.has_source(peer);
        let flights = self.flights.iter().filter(|(_, flight)| {
            flight.transfer.as_ref().is_some_and(gains) && self.holders.holders(flight.id.fingerprint()).contains(&peer)
        });
        let flights: Vec<_> = flights.map(|(flight_id, _)| *flight_id).collect();
        for flight_id in flights {
            self.add_holders(step, flight_id);
            self.continue_transfer(step, flight_id);
        }
    }

    /// Asks for what the windows have room for, and has everything put together when all chunks came.
    fn continue_transfer(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        let Some(transfer) = &mut flight.transfer else { return };
        if transfer.assembling.is_some() {
            return;
        }
        if let Some(proven) = transfer.pieces.take_all() {
            self.next_id += 1;
            let ask = AskId(self.next_id);
            transfer.assembling = Some(ask);
            self.asks.insert(ask, flight_id);
            let bringers: Vec<_> = transfer.pieces.bringers().collect();
            if !bringers.contains(&transfer.lead) {
                transfer.lead = bringers.first().copied().unwrap_or(transfer.lead);
            }
            for peer in bringers.into_iter().filter(|peer| *peer != transfer.lead) {
                self.standings.served(peer);
            }
            let evidence = transfer.evidence.clone();
            return step.out.push(Output::Assemble(transfer.lead, ask, flight.id, evidence, proven));
        }
        while let Some(next) = transfer.pieces.next(step.now) {
            self.next_id += 1;
            let ask = AskId(self.next_id);
            transfer.pieces.was_asked(ask, &next, step.now);
            self.asks.insert(ask, flight_id);
            self.counters.stolen += u64::from(next.stolen);
            let (blob, Run { offset, len, .. }) = (transfer.pieces.blob(next.run), next.run);
            let message = Message::GetChunk { ask, id: flight.id, blob: blob.digest, offset, len };
            step.out.push(Output::Send(next.of, message));
        }
        let again = step.now + if transfer.pieces.may_steal() { STEAL_EVERY } else { SOURCE_STALL / 4 };
        // Never later than it was: whatever comes, silence is noticed.
        if let Some((_, key)) = transfer.due.take_if(|(at, _)| again < *at) {
            self.timers.clear(key);
        }
        if transfer.due.is_none() {
            transfer.due = Some((again, self.timers.set(again, Timer::Transfer(flight_id))));
        }
    }

    /// Looks after a transfer from time to time: who is silent, and whether it goes on at all.
    pub(super) fn on_transfer_due(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        let Some(transfer) = &mut flight.transfer else { return };
        transfer.due = None;
        if step.now - transfer.progress >= TRANSFER_STALL {
            return self.fail_transfer(step, flight_id);
        }
        if transfer.assembling.is_some() {
            let at = transfer.progress + TRANSFER_STALL;
            transfer.due = Some((at, self.timers.set(at, Timer::Transfer(flight_id))));
            return;
        }
        if !transfer.pieces.silent(SOURCE_STALL / 4, step.now).is_empty() {
            self.add_holders(step, flight_id);
        }
        let transfer = self.flights.get(&flight_id).and_then(|flight| flight.transfer.as_ref());
        for peer in transfer.map(|transfer| transfer.pieces.stalled(step.now)).unwrap_or_default() {
            self.standings.failed(peer, step.now);
            self.lose_source(step, flight_id, peer, true);
        }
        let transfer = self.flights.get_mut(&flight_id).and_then(|flight| flight.transfer.as_mut());
        let renewed = transfer.map(|transfer| transfer.pieces.renew(step.now)).unwrap_or_default();
        self.counters.renewed += renewed.len() as u64;
        for ask in renewed {
            self.asks.remove(&ask);
        }
        self.continue_transfer(step, flight_id);
    }

    /// A chunk of one leaf came.
    pub(super) fn on_chunk(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        bytes: Bytes,
        siblings: Vec<[u8; 32]>,
    ) {
        let len = bytes.len();
        let Some((_, transfer)) = self.transfer_of(from, ask) else { return self.waste(len) };
        let Some(run) = transfer.pieces.run_of(ask) else { return };
        if len as u64 != u64::from(run.len) {
            self.waste(len);
            return self.disbelieve(step, from, "a chunk of another length than asked for".to_owned());
        }
        let proven = ChunkClaim { blob: transfer.pieces.blob(run), offset: run.offset, bytes, siblings }.prove();
        self.on_piece(step, from, ask, len, proven);
    }

    /// A chunk will come leaf by leaf.
    pub(super) fn on_leaves(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, proof: ChunkProof) {
        let Some((_, transfer)) = self.transfer_of(from, ask) else { return };
        if let Err(why) = transfer.pieces.told(ask, proof, step.now) {
            self.disbelieve(step, from, why.to_string());
        }
    }

    /// One of these leaves came. Holding it against its chaining value takes microseconds, less than handing it to another thread.
    pub(super) fn on_leaf(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, number: u32, bytes: Bytes) {
        let len = bytes.len();
        let found = self.transfer_of(from, ask).and_then(|(_, transfer)| transfer.pieces.prove(ask, number, bytes));
        match found {
            Some(proven) => self.on_piece(step, from, ask, len, proven),
            // It comes too late, or before it was told what it has to be: it counts for nothing.
            None => self.waste(len),
        }
    }

    fn on_piece(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        len: usize,
        proven: Result<ProvenChunk, Unproven>,
    ) {
        let chunk = match proven {
            Ok(chunk) => chunk,
            Err(why) => {
                self.waste(len);
                return self.disbelieve(step, from, why.to_string());
            }
        };
        let Some((flight_id, transfer)) = self.transfer_of(from, ask) else { return };
        let came = transfer.pieces.proven(ask, chunk, step.now);
        if came.fresh {
            transfer.progress = step.now;
        } else {
            self.waste(len);
        }
        self.counters.chunks += u64::from(came.complete);
        for ask in &came.ended {
            self.asks.remove(ask);
        }
        if !came.ended.is_empty() {
            self.continue_transfer(step, flight_id);
        }
    }

    fn waste(&mut self, len: usize) {
        self.counters.wasted += len as u64;
    }

    /// Everything was put together, or could not be.
    pub(super) fn on_assembled(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        result: Result<Checked, String>,
    ) {
        let Some((flight_id, transfer)) = self.transfer_of(from, ask) else { return };
        let announce = transfer.announce;
        match result {
            Ok(Checked::Complete(verified)) => self.on_believed(step, flight_id, from, verified, announce),
            Ok(Checked::RecordOnly(_)) | Err(_) => self.fail_transfer(step, flight_id),
        }
    }

    /// A holder does not give a chunk, or what was put together is not to be used.
    pub(super) fn fail_chunk(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, why: Failure) {
        let Some((flight_id, transfer)) = self.transfer_of(from, ask) else { return };
        let (lead, assembled) = (transfer.lead == from, transfer.assembling == Some(ask));
        // Another holder may well hold another answer to the question; the lead said that it holds this one.
        if lead && why == Failure::NotHeld {
            let question = self.flights[&flight_id].id.fingerprint();
            self.correct(step, from, question);
        }
        if assembled {
            return self.fail_transfer(step, flight_id);
        }
        self.lose_source(step, flight_id, from, true);
        self.continue_transfer(step, flight_id);
    }

    /// A lane is gone: transfers go on with other holders.
    pub(super) fn lose_sources(&mut self, step: &mut Step<'_>, peer: NodeId) {
        let has = |transfer: &Transfer| transfer.pieces.has_source(peer) && transfer.assembling.is_none();
        let flights = self.flights.iter().filter(|(_, flight)| flight.transfer.as_ref().is_some_and(has));
        let flights: Vec<_> = flights.map(|(flight_id, _)| *flight_id).collect();
        for flight_id in flights {
            self.lose_source(step, flight_id, peer, false);
            self.continue_transfer(step, flight_id);
        }
    }

    /// Goes on without a holder, and with all others that are known; ends the transfer if there are none.
    fn lose_source(&mut self, step: &mut Step<'_>, flight_id: FlightId, peer: NodeId, for_good: bool) {
        let Some(transfer) = self.flights.get_mut(&flight_id).and_then(|flight| flight.transfer.as_mut()) else {
            return;
        };
        for ask in transfer.pieces.remove_source(peer) {
            self.asks.remove(&ask);
        }
        if for_good {
            transfer.given_up.insert(peer);
        }
        self.add_holders(step, flight_id);
        let left = self.flights[&flight_id].transfer.as_ref().is_some_and(|t| t.pieces.sources().next().is_some());
        if left {
            self.counters.replaced += 1;
        } else {
            self.fail_transfer(step, flight_id);
        }
    }

    /// Ends a transfer without an answer, and goes on with the question.
    fn fail_transfer(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        self.drop_transfer(flight_id);
        self.ask_next(step, flight_id);
        self.settle(step, flight_id);
    }

    /// Forgets a transfer with all its chunks.
    pub(super) fn drop_transfer(&mut self, flight_id: FlightId) {
        let transfer = self.flights.get_mut(&flight_id).and_then(|flight| flight.transfer.take());
        let Some(transfer) = transfer else { return };
        if let Some((_, key)) = transfer.due {
            self.timers.clear(key);
        }
        for ask in transfer.pieces.asks().chain(transfer.assembling) {
            self.asks.remove(&ask);
        }
    }

    /// Whether this ask is for a chunk from this peer, or for putting together what it led.
    pub(super) fn is_part_of_transfer(&mut self, from: NodeId, ask: AskId) -> bool {
        self.transfer_of(from, ask).is_some()
    }

    /// Whether this is about a transfer that is put together.
    pub(super) fn is_assembled(&mut self, from: NodeId, ask: AskId) -> bool {
        self.transfer_of(from, ask).is_some_and(|(_, transfer)| transfer.assembling == Some(ask))
    }

    fn transfer_of(&mut self, from: NodeId, ask: AskId) -> Option<(FlightId, &mut Transfer)> {
        let flight_id = *self.asks.get(&ask)?;
        let transfer = self.flights.get_mut(&flight_id)?.transfer.as_mut()?;
        let assembles = transfer.assembling == Some(ask) && transfer.lead == from;
        (assembles || transfer.pieces.awaits(ask, from)).then_some((flight_id, transfer))
    }
}
