//! The second implementation of [`Effects`]: what the fabric wants done, done on virtual time.
//!
//! Invariant: everything here mirrors the production driver, mutations and lies apart; nothing decides.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Place;
use super::history::{Accused, Announced, Chunk, End, Evaluated, Source};
use super::liar::Twisted;
use super::mutate::Mutation;
use super::node::{Acting, Wanted};
use super::queue::{Event, Work};
use super::span::Span;
use crate::bao::ProvenStart;
use crate::error::EvalError;
use crate::eval::Origin;
use crate::fabric::{Delivery, Disconnect, Effects, FlightId, Input, JobId, Time, Verdict, segment};
use crate::id::{ContentId, Digest, NodeId};
use crate::ledger::LedgerError;
use crate::limits::{BATCH_FACTS, INLINE_REPLY};
use crate::message::{Announcement, AskId, Batch, LogItem, Manifest, Message, SegmentName};
use crate::proof::{Evidence, Hash};
use crate::record::{Observation, Record};
use crate::reply::Reply;
use crate::verified::{Checked, Disbelief, VerifiedReply};

/// How long work off the loop takes: signatures, look-ups, reads.
const OFF_LOOP: Span = Span { from: Duration::from_micros(20), to: Duration::from_micros(400) };
/// How much later a replayed message comes.
const REPLAYED: Duration = Duration::from_millis(700);
/// Beyond this many nodes only every so many-th frame is searched for secrets.
const SEARCHED: u64 = 16;

impl Acting<'_> {
    fn transmit(&mut self, to: Place, bytes: Bytes) {
        let from = self.hands.life.place;
        let history = &mut self.shared.history;
        history.peaks.frame = history.peaks.frame.max(bytes.len());
        let secret = self.hands.identity.seed();
        let few = self.shared.around.len() <= 16 || self.shared.network.traffic.frames.is_multiple_of(SEARCHED);
        if few && super::signatures::contains(&bytes, &secret) {
            history.nodes[from].leaks.push(format!("in a frame to node {to}"));
        }
        let now = self.shared.queue.now();
        let arrival = self.shared.network.send(now, from, to, bytes.len());
        if let Some(hops) = &mut self.shared.hops {
            hops.note(now, (from, to), arrival.as_ref().map(|arrival| arrival.at), &bytes);
        }
        let Some(arrival) = arrival else { return };
        let lane = arrival.lane;
        if let Some(again) = arrival.again {
            self.shared.queue.at(again, Event::Frame { from, to, lane, bytes: bytes.clone() });
        }
        self.shared.queue.at(arrival.at, Event::Frame { from, to, lane, bytes });
    }

    /// The frame of a message.
    fn encode(&mut self, message: &Message) -> Option<Bytes> {
        let frame = self.shared.frames.encode(message);
        frame.map_err(|error| self.shared.history.broken.push(format!("a message has no wire form: {error}"))).ok()
    }

    fn honest(&self) -> bool {
        self.shared.around[self.hands.life.place].liar.is_none()
    }

    /// A disk operation failed: that is somebody's fault unless a fault is due.
    fn disk_error(&mut self, what: &str, error: &dyn std::fmt::Display) {
        let (node, now) = (self.hands.life.place, self.shared.queue.now());
        if !self.shared.history.disk_may_have_failed(node, now) {
            self.shared.history.broken.push(format!("{what} on a sound disk: {error}"));
        }
    }

    fn checked(&mut self, from: NodeId, ask: AskId, id: ContentId, checked: Result<Checked, Disbelief>) {
        let cassette = &self.hands.cassette;
        let careless = self.shared.mutation == Some(Mutation::FetchRetracted);
        let input = match checked {
            Ok(Checked::Complete(reply)) if !careless && cassette.is_retracted(id, reply.record().answer()) => {
                Input::Message(from, Message::NotHeld { ask })
            }
            checked => Input::Checked(from, ask, checked.map_err(|why| why.to_string())),
        };
        self.off_loop(Work::Checked, &OFF_LOOP, input);
    }

    /// What is announced, as it is announced.
    fn note_announced(&mut self, batch: &Batch) {
        let mut position = batch.first;
        let mut facts = Vec::new();
        for item in &batch.items {
            if let LogItem::Fact { question, .. } = item {
                facts.push((position, u64::from_le_bytes(*question)));
            }
            position += item.positions();
        }
        let (node, at) = (self.hands.life.place, self.shared.queue.now());
        let history = &mut self.shared.history;
        history.peaks.batch = history.peaks.batch.max(batch.items.len());
        history.announced.push(Announced { node, at, epoch: batch.head.epoch, facts });
    }
}

impl Effects for Acting<'_> {
    fn send(&mut self, to: NodeId, message: Message) {
        let Some(&place) = self.shared.places.get(&to) else { return };
        let message = match self.shared.mutation {
            None => message,
            Some(mutation) => match mutation.twist(message, &self.hands.identity.seed()) {
                Some(message) => message,
                None => return,
            },
        };
        let Some(liar) = &mut self.shared.around[self.hands.life.place].liar else {
            let Some(bytes) = self.encode(&message) else { return };
            return self.transmit(place, bytes);
        };
        match liar.twist(message, to) {
            Twisted::Nothing => {}
            Twisted::Bytes(bytes) => self.transmit(place, bytes),
            Twisted::Message(message) => {
                if let Ok(bytes) = crate::wire::encode(&message) {
                    self.transmit(place, bytes);
                }
            }
            Twisted::Twice(message) => {
                let Ok(bytes) = crate::wire::encode(&message) else { return };
                let from = self.hands.life.place;
                if let Some(lane) = self.shared.network.generation(from, place) {
                    self.shared.queue.after(REPLAYED, Event::Frame { from, to: place, lane, bytes: bytes.clone() });
                }
                self.transmit(place, bytes);
            }
        }
    }

    fn disconnect(&mut self, peer: NodeId, reason: Disconnect) {
        let Some(&place) = self.shared.places.get(&peer) else { return };
        let (node, at) = (self.hands.life.place, self.shared.queue.now());
        if reason != Disconnect::Shunned {
            self.shared.history.accused.push(Accused { node, at, peer: place, why: reason.to_string() });
        }
        self.shared.queue.after(Duration::ZERO, Event::Break(node, place));
    }

    fn compute(&mut self, flight: FlightId, id: ContentId, wanted: Wanted) {
        let node = self.hands.life.place;
        let times = if self.shared.mutation == Some(Mutation::EvaluateTwice) { 2 } else { 1 };
        for _ in 0..times {
            let Self { shared, hands } = self;
            let random = &mut shared.around[node].computing;
            let done = shared.evaluator.evaluate(node, id, &wanted.request, shared.runs, random);
            shared.runs += 1;
            let (from, class) = (shared.queue.now(), wanted.request.class.clone());
            let number = shared.history.evaluations.len();
            shared.history.evaluations.push(Evaluated { node, id, class, from, to: None, result: None });
            hands.running.insert((flight, number), done.result);
            shared.queue.after(done.takes, Event::Computed(hands.life, flight, number));
        }
    }

    fn cancel_compute(&mut self, flight: FlightId) {
        let now = self.shared.queue.now();
        for ((_, evaluation), _) in self.hands.running.extract_if(.., |(running, _), _| *running == flight) {
            self.shared.history.evaluations[evaluation].to = Some(now);
        }
    }

    fn check(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, payloads: Vec<Bytes>) {
        let checked = VerifiedReply::check(id, evidence, payloads, &*self.shared.verifier);
        self.checked(from, ask, id, checked);
    }

    fn assemble(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, proven: Vec<ProvenStart>) {
        let checked = VerifiedReply::assemble(id, evidence, proven, &*self.shared.verifier);
        if let Err(why) = &checked {
            self.shared.history.broken.push(format!("proven chunks do not make the reply: {why}"));
        }
        self.checked(from, ask, id, checked);
    }

    fn check_announcement(&mut self, from: NodeId, announcement: Arc<Announcement>) {
        let check = || Verdict::of(&announcement, &*self.shared.verifier);
        let verdict = self.shared.frames.verdict(&announcement, check);
        let input = Input::AnnouncementChecked(from, announcement, verdict);
        self.off_loop(Work::AnnouncementChecked, &OFF_LOOP, input);
    }

    fn check_manifest(&mut self, from: NodeId, manifest: Arc<Manifest>) {
        let holds = manifest.verify(&*self.shared.verifier);
        self.off_loop(Work::ManifestChecked, &OFF_LOOP, Input::ManifestChecked(from, manifest, Some(holds)));
    }

    fn check_segment(&mut self, from: NodeId, ask: AskId, name: SegmentName, bytes: Bytes) {
        let checked = segment::check(&name, &bytes);
        let checked = checked.map(|keys| (keys, self.shared.frames.segment(name.digest, bytes)));
        self.off_loop(Work::SegmentChecked, &OFF_LOOP, Input::SegmentChecked(from, ask, Some(checked)));
    }

    fn record(&mut self, flight: FlightId, id: ContentId, wanted: Wanted, reply: Reply) {
        let now = self.shared.queue.now();
        let about = Observation {
            request: id,
            kind: wanted.request.kind(),
            class: wanted.request.class.clone(),
            observed_at: self.shared.around[self.hands.life.place].clock.unix(now),
            trace: None,
            upstream: wanted.upstream.clone(),
        };
        let record = Record::observe(about, &reply, self.hands.me);
        let who = self.hands.who(now);
        self.hands.writing.record(who, flight, record, &reply, &mut self.shared.history);
        self.write_soon();
    }

    fn adopt(&mut self, reply: Box<VerifiedReply>, announce: bool) {
        let who = self.hands.who(self.shared.queue.now());
        match self.hands.writing.adopt(who, *reply, announce, &mut self.shared.history) {
            Ok(()) => self.write_soon(),
            Err(LedgerError::Retracted { .. }) => {}
            Err(error) => self.disk_error("a believed reply was not adopted", &error),
        }
    }

    fn look_up(&mut self, peer: NodeId, ask: AskId, id: ContentId) {
        let found =
            self.hands.cassette.evidence(id, INLINE_REPLY as u64, &self.hands.identity).unwrap_or_else(|error| {
                self.disk_error("a held answer could not be read", &error);
                None
            });
        let found = found.map(|proven| proven.for_peer(INLINE_REPLY as u64));
        self.off_loop(Work::Found, &OFF_LOOP, Input::Found(peer, ask, found));
    }

    fn read_chunk(&mut self, peer: NodeId, ask: AskId, id: ContentId, blob: Digest, offset: u64, len: u32) {
        let found = self.hands.cassette.payload_chunk(id, blob, offset, len).ok().flatten();
        if let (Some(&to), true) = (self.shared.places.get(&peer), found.is_some()) {
            self.shared.history.chunks.push(Chunk { to, from: self.hands.life.place, blob });
        }
        self.off_loop(Work::FoundChunk, &OFF_LOOP, Input::FoundChunk(peer, ask, found));
    }

    fn read_segment(&mut self, peer: NodeId, ask: AskId, number: u64, end: u64) {
        let log = |at, max| self.hands.cassette.ledger().batch(at, max);
        let bytes = segment::read(number, end, log).map(Bytes::from);
        self.off_loop(Work::FoundSegment, &OFF_LOOP, Input::FoundSegment(peer, ask, bytes));
    }

    fn read_log(&mut self, from: u64, chain: Hash) {
        let me = &self.hands.identity;
        let batch = self.hands.cassette.ledger().batch(from, BATCH_FACTS);
        let announcement = batch.map(|batch| Announcement::sign(me, &chain, batch));
        if let (Some(told), true) = (&announcement, self.honest()) {
            match self
                .shared
                .mutation
                .map(|mutation| mutation.twist(Message::Announce(Arc::new(told.clone())), &[0; 32]))
            {
                Some(Some(Message::Announce(twisted))) => self.note_announced(&twisted.batch),
                _ => self.note_announced(&told.batch),
            }
        }
        self.off_loop(Work::LogRead, &OFF_LOOP, Input::LogRead(announcement));
    }

    fn describe(&mut self, manifest: Manifest) {
        let me = &self.hands.identity;
        let described = segment::complete(manifest, me, |at, max| self.hands.cassette.ledger().batch(at, max));
        self.off_loop(Work::Described, &OFF_LOOP, Input::Described(described));
    }

    fn connect(&mut self, _: NodeId) {
        // Lanes are the scenario's: every pair that shall reach each other does.
    }

    fn deliver(&mut self, job: JobId, outcome: Result<Delivery, EvalError>) {
        self.shared.deliveries += 1;
        if self.shared.mutation == Some(Mutation::LoseDeliveries) && self.shared.deliveries.is_multiple_of(20) {
            return;
        }
        if !self.hands.waiting.remove(&job) {
            self.shared.history.strays.push(job);
        }
        let now = self.shared.queue.now();
        let end = match outcome {
            Ok(Delivery { reply, origin, .. }) => {
                let source = match origin {
                    Origin::Peer(peer) => Source::Peer(peer),
                    Origin::Ram | Origin::Disk => Source::Memory,
                    Origin::Computed => Source::Computed,
                };
                End::Answered { answer: super::history::delivered(&reply), source }
            }
            Err(error) => End::Error(error),
        };
        if self.shared.mutation == Some(Mutation::DeliverTwice) {
            self.shared.history.ended(job, now, end.clone());
        }
        self.shared.history.ended(job, now, end);
    }

    fn wake_at(&mut self, at: Time) {
        self.hands.wake_at = Some(at);
        self.shared.queue.at(self.hands.real(at), Event::Wake(self.hands.life, at));
    }
}

/// What an ask becomes if a mutation meddles.
pub(super) fn meddle(mutation: Option<Mutation>, ask: &mut crate::fabric::Ask, wanted: &Wanted) {
    match mutation {
        Some(Mutation::ForgetTimeouts) => ask.timeout = None,
        Some(Mutation::ComputeUnasked) => {
            ask.answer_from = crate::request::AnswerFrom::Anywhere;
            ask.request = Some(Arc::clone(wanted));
        }
        _ => {}
    }
}
