//! One simulated node: the real fabric, and the second implementation of its [`Effects`].
//!
//! Whatever the production driver does on other threads takes virtual time here and comes back as an event.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::check::{self, End, Job};
use super::disk::{Disk, Writing};
use super::network::Network;
use super::queue::{Event, Life, Place, Queue};
use super::rng::Rng;
use crate::cassette::{Cassette, Proven};
use crate::error::EvalError;
use crate::eval::Origin;
use crate::fabric::{
    Config, Delivery, Disconnect, Effects, Fabric, FlightId, Input, JobId, Output, Time, perform, segment,
};
use crate::id::{ContentId, Digest, NodeId};
use crate::identity::{Ed25519, Identity, MemoVerifier, Signer};
use crate::limits::{BATCH_FACTS, INLINE_REPLY};
use crate::message::{Announcement, AskId, Manifest, Message, SegmentName};
use crate::proof::{Evidence, Hash};
use crate::record::{Observation, Record, Resolved};
use crate::reply::{Payload, Reply};
use crate::verified::{Checked, VerifiedReply};

/// How long work off the loop takes: signatures, look-ups, reads.
const OFF_LOOP: Range<Duration> = Duration::from_micros(20)..Duration::from_micros(400);
/// How long a write takes.
const WRITE: Range<Duration> = Duration::from_micros(50)..Duration::from_millis(2);

/// What all nodes share: the world around them.
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) network: Network,
    pub(super) places: BTreeMap<NodeId, Place>,
    pub(super) verifier: MemoVerifier<Ed25519>,
    pub(super) jobs: BTreeMap<JobId, Job>,
    pub(super) computing: Rng,
    pub(super) disks: Rng,
    pub(super) compute: Range<Duration>,
    pub(super) sync: Range<Duration>,
    pub(super) computed: u64,
    pub(super) fetched: u64,
    pub(super) violations: Vec<String>,
}

impl Shared {
    pub(super) fn end(&mut self, job: JobId, end: End) {
        if let Some(job) = self.jobs.get_mut(&job) {
            job.ends.push(end);
        }
    }
}

/// A running node.
pub(super) struct Node {
    pub(super) fabric: Fabric,
    pub(super) hands: Hands,
    outputs: Vec<Output>,
}

/// What carries out its fabric's outputs, apart from the shared world.
pub(super) struct Hands {
    pub(super) life: Life,
    born: Time,
    pub(super) identity: Identity,
    pub(super) writing: Writing,
    pub(super) cassette: Cassette,
    /// Peers whose lane is open as far as this node knows.
    pub(super) lanes: BTreeSet<Place>,
    running: BTreeMap<FlightId, ContentId>,
    pub(super) waiting: BTreeSet<JobId>,
    write_set: bool,
    sync_set: bool,
    wake_at: Option<Time>,
}

struct Acting<'a> {
    hands: &'a mut Hands,
    shared: &'a mut Shared,
}

impl Node {
    /// Starts a node on its disk.
    pub(super) fn start(
        identity: Identity,
        life: Life,
        disk: &Disk,
        epochs: &mut Rng,
        shared: &mut Shared,
    ) -> Result<Self, String> {
        let born = shared.queue.now();
        let writing = disk.open(&identity, epochs, micros(born))?;
        let cassette = writing.cassette();
        let (lineage, length) = (cassette.ledger().lineage(), cassette.ledger().durable());
        let fabric = Fabric::new(Config::new(identity.node(), lineage, length));
        let (write_set, sync_set, wake_at) = (false, false, None);
        let hands = Hands {
            life,
            born,
            identity,
            writing,
            cassette,
            lanes: BTreeSet::new(),
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            write_set,
            sync_set,
            wake_at,
        };
        let mut node = Self { fabric, hands, outputs: Vec::new() };
        node.apply(shared, Input::Wake);
        Ok(node)
    }

    /// One turn of the loop.
    pub(super) fn apply(&mut self, shared: &mut Shared, input: Input) {
        let now = Time(shared.queue.now() - self.hands.born);
        self.fabric.handle(now, input, &mut self.outputs);
        perform(&mut self.outputs, &mut Acting { hands: &mut self.hands, shared });
    }

    pub(super) fn on_frame(&mut self, shared: &mut Shared, from: NodeId, bytes: &[u8]) {
        let input = match crate::wire::decode(bytes) {
            Ok(message) => Input::Message(from, message),
            Err(error) => Input::Garbage(from, error.to_string()),
        };
        self.apply(shared, input);
    }

    pub(super) fn on_abandon(&mut self, shared: &mut Shared, job: JobId) {
        if self.hands.waiting.remove(&job) {
            shared.end(job, End::Abandoned);
            self.apply(shared, Input::Abandon(job));
        }
    }

    pub(super) fn on_computed(&mut self, shared: &mut Shared, flight: FlightId) {
        let result = self.hands.running.remove(&flight).map(check::reply_to).ok_or(EvalError::Cancelled);
        self.apply(shared, Input::Computed(flight, result));
    }

    pub(super) fn on_written(&mut self, shared: &mut Shared) {
        self.hands.write_set = false;
        for (flight, result) in self.hands.writing.write_out() {
            self.apply(shared, Input::Recorded(flight, result));
        }
        if !std::mem::replace(&mut self.hands.sync_set, true) {
            let wait = shared.disks.within(&shared.sync);
            shared.queue.after(wait, Event::Synced(self.hands.life));
        }
    }

    pub(super) fn on_synced(&mut self, shared: &mut Shared, disk: &mut Disk) {
        self.hands.sync_set = false;
        match self.hands.writing.commit(disk) {
            Ok(length) => self.apply(shared, Input::Durable(length)),
            Err(error) => shared.violations.push(format!("a sound disk failed: {error}")),
        }
    }

    pub(super) fn on_wake(&mut self, shared: &mut Shared, at: Time) {
        if self.hands.wake_at.take_if(|wanted| *wanted == at).is_some() {
            self.apply(shared, Input::Wake);
        }
    }
}

impl Acting<'_> {
    /// Hands the outcome of work off the loop to the loop, later.
    fn off_loop(&mut self, what: &'static str, input: Input) {
        let wait = self.shared.disks.within(&OFF_LOOP);
        self.shared.queue.after(wait, Event::Done(self.hands.life, what, Box::new(input)));
    }

    fn write_soon(&mut self) {
        if !std::mem::replace(&mut self.hands.write_set, true) {
            let wait = self.shared.disks.within(&WRITE);
            self.shared.queue.after(wait, Event::Written(self.hands.life));
        }
    }
}

impl Effects for Acting<'_> {
    fn send(&mut self, to: NodeId, message: Message) {
        let Some(&place) = self.shared.places.get(&to) else { return };
        let from = self.hands.life.place;
        match crate::wire::encode(&message) {
            Ok(bytes) => {
                if let Some((at, lane)) = self.shared.network.send(self.shared.queue.now(), from, place) {
                    self.shared.queue.at(at, Event::Frame { from, to: place, lane, bytes });
                }
            }
            Err(error) => self.shared.violations.push(format!("a message has no wire form: {error}")),
        }
    }

    fn disconnect(&mut self, peer: NodeId, reason: Disconnect) {
        self.shared.violations.push(format!("an honest peer was disconnected: {reason}"));
        if let Some(&place) = self.shared.places.get(&peer) {
            self.shared.queue.after(Duration::ZERO, Event::Break(self.hands.life.place, place));
        }
    }

    fn compute(&mut self, flight: FlightId, id: ContentId, _request: Arc<Resolved>) {
        self.shared.computed += 1;
        self.hands.running.insert(flight, id);
        self.shared.violations.extend(check::one_evaluation(&self.hands.running));
        let wait = self.shared.computing.within(&self.shared.compute);
        self.shared.queue.after(wait, Event::Computed(self.hands.life, flight));
    }

    fn cancel_compute(&mut self, flight: FlightId) {
        self.hands.running.remove(&flight);
    }

    fn check(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, payloads: Vec<Bytes>) {
        let checked = VerifiedReply::check(id, evidence, payloads, &self.shared.verifier);
        let cassette = &self.hands.cassette;
        let input = match checked {
            Ok(Checked::Complete(reply)) if cassette.is_retracted(id, reply.record().answer()) => {
                Input::Message(from, Message::NotHeld { ask })
            }
            checked => Input::Checked(from, ask, checked.map_err(|why| why.to_string())),
        };
        self.off_loop("checked", input);
    }

    fn check_announcement(&mut self, from: NodeId, announcement: Announcement) {
        let holds = announcement.verify(&self.shared.verifier);
        self.off_loop("announcement checked", Input::AnnouncementChecked(from, announcement, Some(holds)));
    }

    fn check_manifest(&mut self, from: NodeId, manifest: Manifest) {
        let holds = manifest.verify(&self.shared.verifier);
        self.off_loop("manifest checked", Input::ManifestChecked(from, manifest, Some(holds)));
    }

    fn check_segment(&mut self, from: NodeId, ask: AskId, name: SegmentName, bytes: Bytes) {
        let checked = segment::check(&name, &bytes).map(|keys| (keys, bytes));
        self.off_loop("segment checked", Input::SegmentChecked(from, ask, Some(checked)));
    }

    fn record(&mut self, flight: FlightId, id: ContentId, resolved: Arc<Resolved>, reply: Reply) {
        let about = Observation {
            request: id,
            kind: resolved.request.kind(),
            class: resolved.request.class.clone(),
            observed_at: micros(self.shared.queue.now()),
            trace: None,
            upstream: resolved.upstream.clone(),
        };
        let record = Record::observe(about, &reply, self.hands.identity.node());
        self.hands.writing.record(flight, record, &reply);
        self.write_soon();
    }

    fn adopt(&mut self, reply: Box<VerifiedReply>, announce: bool) {
        match self.hands.writing.adopt(*reply, announce) {
            Ok(()) => self.write_soon(),
            Err(error) => self.shared.violations.push(format!("a believed reply was not adopted: {error}")),
        }
    }

    fn look_up(&mut self, peer: NodeId, ask: AskId, id: ContentId) {
        let found = self.hands.cassette.evidence(id, &self.hands.identity).unwrap_or_else(|error| {
            self.shared.violations.push(format!("a held answer cannot be read: {error}"));
            None
        });
        let found = found.map(|Proven { held, evidence }| {
            let payloads: Vec<_> = held.reply().payloads().filter_map(Payload::bytes).cloned().collect();
            let fits = payloads.iter().map(Bytes::len).sum::<usize>() <= INLINE_REPLY;
            (evidence, if fits { payloads } else { Vec::new() })
        });
        self.off_loop("found", Input::Found(peer, ask, found));
    }

    fn read_chunk(&mut self, peer: NodeId, ask: AskId, id: ContentId, blob: Digest, offset: u64, len: u32) {
        let bytes = self.hands.cassette.payload_range(id, blob, offset, len).ok().flatten();
        self.off_loop("found a chunk", Input::FoundChunk(peer, ask, bytes));
    }

    fn read_segment(&mut self, peer: NodeId, ask: AskId, number: u64, end: u64) {
        let log = |at, max| self.hands.cassette.ledger().batch(at, max, &self.hands.identity);
        let bytes = segment::read(number, end, log).map(Bytes::from);
        self.off_loop("found a segment", Input::FoundSegment(peer, ask, bytes));
    }

    fn read_log(&mut self, from: u64, chain: Hash) {
        let me = &self.hands.identity;
        let batch = self.hands.cassette.ledger().batch(from, BATCH_FACTS, me);
        let announcement = batch.map(|batch| Announcement::sign(me, &chain, batch));
        self.off_loop("read its log", Input::LogRead(announcement));
    }

    fn describe(&mut self, manifest: Manifest) {
        let me = &self.hands.identity;
        let described = segment::complete(manifest, me, |at, max| self.hands.cassette.ledger().batch(at, max, me));
        self.off_loop("described its log", Input::Described(described));
    }

    fn connect(&mut self, _peer: NodeId) {
        // Every pair that can reach each other is dialling already.
    }

    fn deliver(&mut self, job: JobId, outcome: Result<Delivery, EvalError>) {
        if !self.hands.waiting.remove(&job) {
            self.shared.violations.push(format!("{job:?} was delivered to, and nobody waits for it"));
        }
        let fetched = matches!(&outcome, Ok(delivery) if matches!(delivery.origin, Origin::Peer(_)));
        self.shared.fetched += u64::from(fetched);
        self.shared.end(job, End::Outcome(outcome));
    }

    fn wake_at(&mut self, at: Time) {
        self.hands.wake_at = Some(at);
        self.shared.queue.at(self.hands.born + at.0, Event::Wake(self.hands.life, at));
    }
}

fn micros(at: Time) -> u64 {
    u64::try_from(at.0.as_micros()).unwrap_or(u64::MAX)
}
