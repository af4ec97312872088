//! What carries out the fabric's outputs in a node.
//!
//! Whatever may block (disk, long hashing, signatures, programs) runs on other threads and comes back as an event. Invariant: nothing here waits.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::bao::ProvenStart;
use crate::cassette::{Adoption, Cassette, Proven, RecorderHandle};
use crate::error::EvalError;
use crate::evaluator::pool::Pool;
use crate::evaluator::{Asker, Cancel, Done, Job, NESTING};
use crate::fabric::{Delivery, Disconnect, Effects, Fabric, FlightId, Input, JobId, Time, Verdict, segment};
use crate::id::{ContentId, Digest, NodeId};
use crate::identity::{Ed25519, MemoVerifier, Signer, Verifier};
use crate::ledger::LedgerError;
use crate::limits::INLINE_REPLY;
use crate::message::{Announcement, AskId, Manifest, Message, SegmentName};
use crate::node::Node;
use crate::node::addresses::{Consequences, Exchange};
use crate::node::clock::{Clock, unix_micros};
use crate::node::desk::{Waiting, hand_out};
use crate::node::driver::Event;
use crate::node::evaluators::Evaluators;
use crate::node::lanes::{LaneEvent, Lanes};
use crate::node::nested::{NodeAsker, Waits};
use crate::node::placement;
use crate::node::placing::Placing;
use crate::node::resolve::load;
use crate::node::shared::Shared;
use crate::node::turns::{After, Turns};
use crate::proof::{Evidence, Hash, ProvenNodes};
use crate::record::{Observation, Resolved};
use crate::reply::{Payload, Reply};
use crate::request::{Request, Source};
use crate::verified::{Checked, Disbelief, VerifiedReply};

/// Replies up to this size are hashed on the loop: a few microseconds.
const HASHED_HERE: u64 = 16 * 1024;
/// Evaluations of programs and inputs up to this size together are started on the loop.
const STARTED_HERE: u64 = 64 * 1024;

/// Announcements of up to so many entries are checked on the loop, but only one in this time: a signature takes 50 us, which is less than two
/// changes of threads in a fleet at rest, and would be too much in a flood.
const CHECKED_HERE: usize = 32;
const CHECK_HERE_EVERY: Duration = Duration::from_millis(1);

/// What carries out the fabric's outputs.
pub(super) struct Hands {
    pub(super) clock: Clock,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) verifier: Arc<MemoVerifier<Ed25519>>,
    /// What was proven of producers' logs on the way to answers that were believed.
    pub(super) proven: ProvenNodes,
    pub(super) cassette: Cassette,
    pub(super) recorder: RecorderHandle,
    pub(super) evaluators: Arc<Evaluators>,
    pub(super) lanes: Lanes,
    pub(super) exchange: Exchange,
    pub(super) shared: Arc<Shared>,
    /// Threads for disk, hashing and signatures.
    pub(super) io: Pool,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) turns: Arc<Turns>,
    pub(super) waiting: BTreeMap<JobId, Waiting>,
    /// What the loop itself made of an output, to be taken next.
    pub(super) made_here: VecDeque<Input>,
    /// Of the burst under way: the peers it was about, what is to be recorded, and what is done when it is over.
    pub(super) touched: Vec<NodeId>,
    pub(super) adoptions: Vec<Adoption>,
    pub(super) after: After,
    pub(super) running: BTreeMap<FlightId, Cancel>,
    /// This node, for programs that ask it.
    pub(super) node: Node,
    pub(super) waits: Arc<Waits>,
    /// Of evaluations that may ask, from their start to their record.
    pub(super) askers: BTreeMap<FlightId, Arc<NodeAsker>>,
    pub(super) wake_at: Option<Time>,
    /// What peers compute for this node, and this node for them.
    pub(super) placing: Placing,
    /// When an announcement was last checked on the loop.
    pub(super) checked_here: Option<Time>,
}

/// Whether an evaluation may be started on the loop: all bytes are here, and too few for anything about them to take time.
fn starts_here(request: &Request) -> bool {
    let small = request.payloads().map(Payload::len).fold(0, u64::saturating_add) <= STARTED_HERE;
    let resolved = request.inputs.values().all(|source| matches!(source, Source::Payload(_)));
    small && resolved && request.payloads().all(|payload| matches!(payload, Payload::Inline(_)))
}

/// What follows from a check: what was retracted here is not believed again.
fn judge(cassette: &Cassette, from: NodeId, ask: AskId, id: ContentId, checked: Result<Checked, Disbelief>) -> Input {
    match checked {
        Ok(Checked::Complete(reply)) if cassette.is_retracted(id, reply.answer()) => {
            Input::Message(from, Message::NotHeld { ask })
        }
        checked => Input::Checked(from, ask, checked.map_err(|why| why.to_string())),
    }
}

/// A held answer as it goes to a peer: with its payloads if they are few bytes.
fn found(peer: NodeId, ask: AskId, found: Option<Proven>) -> Input {
    let found = found.map(|proven| proven.for_peer(INLINE_REPLY as u64));
    Input::Found(peer, ask, found)
}

impl Hands {
    /// Hands over what the burst led to: first what is to be recorded, so that whoever asks again after an answer comes behind it.
    /// The rest is for whoever had the turn.
    pub(super) fn finish_burst(&mut self, fabric: &Fabric, now: Time) -> After {
        if !self.adoptions.is_empty() {
            self.recorder.adopt_all(std::mem::take(&mut self.adoptions));
        }
        self.shared.note(fabric, now, &self.touched);
        self.touched.clear();
        std::mem::take(&mut self.after)
    }

    /// The loop is over: ends evaluations and callers.
    pub(super) fn end(&mut self) {
        for (_, cancel) in std::mem::take(&mut self.running) {
            cancel.cancel();
        }
        self.recorder.adopt_all(std::mem::take(&mut self.adoptions));
        hand_out(&mut self.after.outcomes);
        for (_, Waiting { caller, .. }) in std::mem::take(&mut self.waiting) {
            // A caller that went away needs no answer.
            drop(caller.send(Err(EvalError::Closed)));
        }
    }

    /// What an event of the network is for the fabric, if it is anything for it; the first of several, which are taken one after the other.
    pub(super) fn on_lane(&mut self, event: LaneEvent, now: Time) -> Option<Input> {
        match event {
            LaneEvent::Up(peer, address) => {
                self.shared.peer_up(peer, address);
                let greeting = self.exchange.up(peer, address);
                self.send(peer, greeting);
                if let Some(offer) = self.placing.offer() {
                    self.send(peer, offer);
                }
                Some(Input::PeerUp(peer))
            }
            LaneEvent::Down(peer) => {
                self.shared.peer_down(peer);
                self.exchange.down(peer);
                let lost = self.placing_down(peer);
                self.made_here.extend(lost.into_iter().chain([Input::PeerDown(peer)]));
                self.made_here.pop_front()
            }
            LaneEvent::Frame(peer, bytes) => Some(match crate::wire::take(&bytes) {
                Ok(Message::Addresses(told)) => {
                    let consequences = self.exchange.heard(peer, told, now);
                    self.carry_out(consequences);
                    return None;
                }
                Ok(Message::WhereIs { node }) => {
                    if let Some(known) = self.exchange.where_is(peer, node, now) {
                        self.send(peer, known);
                    }
                    return None;
                }
                Ok(Message::Placement(said)) => return self.on_placement(peer, said),
                Ok(Message::Cancel { ask }) if placement::is_placed(ask) => {
                    self.placing.cancelled(peer, ask);
                    return None;
                }
                Ok(message) => Input::Message(peer, message),
                Err(error) => Input::Garbage(peer, error.to_string()),
            }),
            LaneEvent::Refused(refused) => {
                self.shared.peer_refused(refused);
                None
            }
            LaneEvent::Listening(address) => {
                self.exchange.listening(address);
                self.shared.listening(address);
                None
            }
        }
    }

    /// What the peer exchange has decided.
    fn carry_out(&mut self, Consequences { send, dial }: Consequences) {
        for (peer, message) in send {
            self.send(peer, message);
        }
        for (node, address) in dial {
            self.lanes.learn(node, address);
        }
    }

    /// Has an answer checked off the loop.
    fn believe(
        &self,
        from: NodeId,
        ask: AskId,
        id: ContentId,
        check: impl FnOnce(&dyn Verifier) -> Result<Checked, Disbelief> + Send + 'static,
    ) {
        let (verifier, cassette) = (Arc::clone(&self.verifier), self.cassette.clone());
        // Whether it is held is not known.
        let instead = move |_| Input::Message(from, Message::Busy { ask });
        self.off_loop(move || judge(&cassette, from, ask, id, check(&*verifier)), instead);
    }

    /// Who asks for a program that may.
    fn asker(&mut self, flight: FlightId, id: ContentId, request: &Request) -> Option<Arc<dyn Asker>> {
        request.capabilities.iter().find(|capability| capability.as_str() == NESTING)?;
        let (node, waits) = (self.node.clone(), Arc::clone(&self.waits));
        let asker = Arc::new(NodeAsker { node, waits, id, asked: Mutex::default() });
        self.askers.insert(flight, Arc::clone(&asker));
        Some(asker)
    }

    /// Runs `work` on an I/O thread and hands its input to the loop; `instead` if the queue is full.
    fn off_loop(&self, work: impl FnOnce() -> Input + Send + 'static, instead: impl FnOnce(EvalError) -> Input) {
        let events = self.events.clone();
        let task = move || drop(events.blocking_send(Event::Fabric(work())));
        if let Err(error) = self.io.spawn(task)
            && self.events.try_send(Event::Fabric(instead(error))).is_err()
        {
            warn!("the node is overloaded: an event was lost");
        }
    }
}

impl Effects for Hands {
    fn send(&mut self, to: NodeId, message: Message) {
        match crate::wire::encode(&message) {
            Ok(frame) => {
                self.lanes.expect_bulk(to, message.bulk_wanted());
                if let Err(error) = self.lanes.send(to, frame, message.is_bulk()) {
                    self.shared.count_dropped();
                    debug!(peer = %to.short(), %error, "a message was not sent");
                }
            }
            Err(error) => warn!(%error, "a message has no wire form"),
        }
    }

    fn disconnect(&mut self, peer: NodeId, reason: Disconnect) {
        warn!(peer = %peer.short(), %reason, "ending the connection");
        self.lanes.disconnect(peer, &reason.to_string());
    }

    fn compute(&mut self, flight: FlightId, id: ContentId, resolved: Arc<Resolved>) {
        let cancel = Cancel::default();
        self.running.insert(flight, cancel.clone());
        let asker = self.asker(flight, id, &resolved.request);
        let here = starts_here(&resolved.request);
        let (cassette, evaluators, turns) =
            (self.cassette.clone(), Arc::clone(&self.evaluators), Arc::clone(&self.turns));
        let task = move |waits: bool| {
            let about = Arc::clone(&resolved);
            let done: Done = Box::new(move |result| turns.tell(Event::Computed(flight, about, result)));
            let job = load(&cassette, &resolved.request).map(|(code, inputs)| Job {
                id,
                request: Arc::new(resolved.request.clone()),
                code,
                inputs,
                budget: None,
                cancel,
                asker,
            });
            match job {
                Ok(job) if waits => return evaluators.start_for_waiting(job, done),
                Ok(job) => evaluators.start(job, done),
                Err(error) => done(Err(error)),
            }
            None
        };
        if here {
            // Nothing is read, so nothing blocks, and a thread's turn is saved.
            return self.after.starts.push(Box::new(task));
        }
        if let Err(error) = self.io.spawn(move || drop(task(false)))
            && self.events.try_send(Event::Fabric(Input::Computed(flight, Err(error)))).is_err()
        {
            warn!("the node is overloaded: an evaluation was lost");
        }
    }

    fn cancel_compute(&mut self, flight: FlightId) {
        if let Some(cancel) = self.running.remove(&flight) {
            cancel.cancel();
        }
        self.no_longer_placed(flight);
        self.askers.remove(&flight);
    }

    fn check(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, payloads: Vec<Bytes>) {
        // A head that was checked before leaves a few hashes, which take less than another thread's turn.
        let small = payloads.iter().map(|bytes| bytes.len() as u64).sum::<u64>() <= HASHED_HERE;
        let head = &evidence.head;
        if small && (self.proven.knows(head) || head.verify(&self.verifier.remembered())) {
            let checked = VerifiedReply::check_among(id, evidence, payloads, &*self.verifier, &mut self.proven);
            let input = judge(&self.cassette, from, ask, id, checked);
            return self.made_here.push_back(input);
        }
        self.believe(from, ask, id, move |verifier| VerifiedReply::check(id, evidence, payloads, verifier));
    }

    fn assemble(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, proven: Vec<ProvenStart>) {
        self.believe(from, ask, id, move |verifier| VerifiedReply::assemble(id, evidence, proven, verifier));
    }

    fn check_announcement(&mut self, from: NodeId, announcement: Arc<Announcement>) {
        let now = self.clock.now();
        let rested = self.checked_here.is_none_or(|last| now - last >= CHECK_HERE_EVERY);
        if rested && announcement.batch.items.len() <= CHECKED_HERE {
            self.checked_here = Some(now);
            let verdict = Verdict::of(&announcement, &*self.verifier);
            return self.made_here.push_back(Input::AnnouncementChecked(from, announcement, verdict));
        }
        let verifier = Arc::clone(&self.verifier);
        // What is too much now is dropped here and pulled again with a later heartbeat.
        let (author, again) = (announcement.author(), Arc::clone(&announcement));
        self.off_loop(
            move || {
                let verdict = Verdict::of(&announcement, &*verifier);
                Input::AnnouncementChecked(from, announcement, verdict)
            },
            move |_| {
                debug!(author = %author.short(), "an announcement could not be checked");
                Input::AnnouncementChecked(from, again, Verdict::NotNow)
            },
        );
    }

    fn check_manifest(&mut self, from: NodeId, manifest: Arc<Manifest>) {
        let (verifier, again) = (Arc::clone(&self.verifier), Arc::clone(&manifest));
        self.off_loop(
            move || {
                let holds = manifest.verify(&*verifier);
                Input::ManifestChecked(from, manifest, Some(holds))
            },
            move |_| Input::ManifestChecked(from, again, None),
        );
    }

    fn check_segment(&mut self, from: NodeId, ask: AskId, name: SegmentName, bytes: Bytes) {
        let work = move || {
            let checked = segment::check(&name, &bytes).map(|keys| (keys, bytes));
            Input::SegmentChecked(from, ask, Some(checked))
        };
        self.off_loop(work, |_| Input::SegmentChecked(from, ask, None));
    }

    fn record(&mut self, flight: FlightId, id: ContentId, resolved: Arc<Resolved>, reply: Reply) {
        let (recorder, turns, producer) = (self.recorder.clone(), Arc::clone(&self.turns), self.signer.node());
        let asker = self.askers.remove(&flight);
        let small = reply.len() <= HASHED_HERE;
        let outcome = move |result: Result<_, LedgerError>| {
            Input::Recorded(flight, result.map(drop).map_err(|error| error.to_string()))
        };
        let task = move || {
            let mut upstream = resolved.upstream.clone();
            upstream.extend(asker.iter().flat_map(|asker| asker.asked()));
            let about = Observation {
                request: id,
                kind: resolved.request.kind(),
                class: resolved.request.class.clone(),
                observed_at: unix_micros(),
                trace: None,
                upstream,
            };
            // From the recorder's thread, which has more to do than to take turns.
            let turns_too = Arc::clone(&turns);
            let later = move |result| turns_too.put(Event::Fabric(outcome(result)));
            if let Some(result) = recorder.observe_here(about, &reply, producer, later) {
                let durable = result.as_ref().ok().map(|done| done.seq + 1);
                turns.tell(Event::Fabric(outcome(result)));
                if let Some(length) = durable {
                    turns.tell(Event::Fabric(Input::Durable(length)));
                }
            }
        };
        if small {
            // Hashing it takes less than another thread's turn.
            let here = move |_| {
                task();
                None
            };
            return self.after.starts.push(Box::new(here));
        }
        if let Err(error) = self.io.spawn(task) {
            let input = Input::Recorded(flight, Err(error.to_string()));
            if self.events.try_send(Event::Fabric(input)).is_err() {
                warn!("the node is overloaded: a record was lost");
            }
        }
    }

    fn adopt(&mut self, reply: Box<VerifiedReply>, announce: bool) {
        self.adoptions.push(Adoption { reply, announce });
    }

    fn look_up(&mut self, peer: NodeId, ask: AskId, id: ContentId) {
        if let Some(proven) = self.cassette.evidence_at_hand(id) {
            // Nothing is read or signed, which takes less than another thread's turn.
            return self.made_here.push_back(found(peer, ask, Some(proven)));
        }
        let (cassette, signer) = (self.cassette.clone(), Arc::clone(&self.signer));
        let work = move || {
            let held = cassette.evidence(id, INLINE_REPLY as u64, &*signer).unwrap_or_else(|error| {
                warn!(%error, id = %id.short(), "cannot serve an answer");
                None
            });
            found(peer, ask, held)
        };
        self.off_loop(work, |_| Input::NoTime(peer, ask));
    }

    fn read_chunk(&mut self, peer: NodeId, ask: AskId, id: ContentId, blob: Digest, offset: u64, len: u32) {
        let cassette = self.cassette.clone();
        let work = move || Input::FoundChunk(peer, ask, cassette.payload_chunk(id, blob, offset, len).ok().flatten());
        self.off_loop(work, |_| Input::NoTime(peer, ask));
    }

    fn read_segment(&mut self, peer: NodeId, ask: AskId, number: u64, end: u64) {
        let reader = self.cassette.ledger().clone();
        let work = move || {
            let bytes = segment::read(number, end, |at, max| reader.batch(at, max));
            Input::FoundSegment(peer, ask, bytes.map(Bytes::from))
        };
        self.off_loop(work, |_| Input::NoTime(peer, ask));
    }

    fn read_log(&mut self, from: u64, chain: Hash) {
        let (reader, signer) = (self.cassette.ledger().clone(), Arc::clone(&self.signer));
        let work = move || {
            let batch = reader.batch(from, crate::limits::BATCH_FACTS);
            Input::LogRead(batch.map(|batch| Announcement::sign(&*signer, &chain, batch)))
        };
        self.off_loop(work, |_| Input::LogRead(None));
    }

    fn describe(&mut self, manifest: Manifest) {
        let (reader, signer) = (self.cassette.ledger().clone(), Arc::clone(&self.signer));
        let work = move || Input::Described(segment::complete(manifest, &*signer, |at, max| reader.batch(at, max)));
        self.off_loop(work, |_| Input::Described(None));
    }

    fn connect(&mut self, peer: NodeId) {
        let consequences = self.exchange.seek(peer, self.clock.now());
        self.carry_out(consequences);
    }

    fn deliver(&mut self, job: JobId, outcome: Result<Delivery, EvalError>) {
        self.after.outcomes.extend(self.waiting.remove(&job).map(|waiting| (waiting, outcome)));
    }

    fn wake_at(&mut self, at: Time) {
        self.wake_at = Some(at);
    }
}
