//! The node's loop: one thread, one small runtime, one `select!`, and the fabric in the middle.
//!
//! `select!` turns every source into one [`Event`]; taking it is synchronous. Whatever may block (disk, hashing, signatures, programs) runs
//! on other threads and comes back as an event. Invariant: nothing is awaited here but the next event.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;
use tokio::sync::mpsc;
use tracing::{debug, warn};

use crate::bao::ProvenChunk;
use crate::cassette::{Cassette, RecorderHandle};
use crate::error::EvalError;
use crate::evaluator::pool::Pool;
use crate::evaluator::{Asker, Cancel, Done, Job, NESTING};
use crate::fabric::{
    Ask, Delivery, Disconnect, Effects, Fabric, FlightId, Input, JobId, Output, Time, perform, segment,
};
use crate::id::{ContentId, Digest, NodeId};
use crate::identity::{Ed25519, MemoVerifier, Signer, Verifier};
use crate::limits::INLINE_REPLY;
use crate::message::{Announcement, AskId, Manifest, Message, SegmentName};
use crate::node::Node;
use crate::node::addresses::{Consequences, Exchange};
use crate::node::clock::{Clock, unix_micros};
use crate::node::evaluators::Evaluators;
use crate::node::lanes::{LaneEvent, Lanes};
use crate::node::nested::{NodeAsker, Waits};
use crate::node::placing::Placing;
use crate::node::resolve::load;
use crate::node::shared::Shared;
use crate::node::status::HolderStatus;
use crate::proof::{Evidence, Hash};
use crate::record::{Observation, Record, Resolved};
use crate::reply::{Payload, Reply};
use crate::request::{Name, Request, Source};
use crate::verified::{Checked, Disbelief, VerifiedReply};

/// Events that may wait for the loop. Callers wait when it is full; completions come from a bounded number of threads.
pub(super) const EVENTS: usize = 16 * 1024;

/// Replies up to this size are hashed on the loop: a few microseconds.
const HASHED_HERE: u64 = 16 * 1024;
/// Evaluations of programs and inputs up to this size together are started on the loop.
const STARTED_HERE: u64 = 64 * 1024;

/// Who waits for the outcome of a job.
pub(super) type Waiting = oneshot::Sender<Result<Delivery, EvalError>>;

/// What happens to the loop.
pub(super) enum Event {
    /// A caller asks.
    Ask(Ask, Waiting),
    /// Something for the fabric.
    Fabric(Input),
    /// An evaluation ended on this node.
    Computed(FlightId, Arc<Resolved>, Result<Reply, EvalError>),
    /// What is to be sent to a peer, if it is still there.
    Send(NodeId, Message),
    /// The device classes of this node are known, or are others than before.
    #[cfg(feature = "gpu")]
    Offer(Vec<Name>),
    /// Somebody wants to know which classes peers offer.
    #[cfg(feature = "gpu")]
    Offered(oneshot::Sender<std::collections::BTreeSet<Name>>),
    /// Somebody wants to know who holds an answer.
    Holders(ContentId, oneshot::Sender<Vec<HolderStatus>>),
    /// Shut down.
    Stop,
}

/// Everything that the loop owns.
pub(super) struct Driver {
    pub(super) clock: Clock,
    pub(super) fabric: Fabric,
    pub(super) hands: Hands,
}

/// What carries out the fabric's outputs.
pub(super) struct Hands {
    pub(super) clock: Clock,
    pub(super) signer: Arc<dyn Signer>,
    pub(super) verifier: Arc<MemoVerifier<Ed25519>>,
    pub(super) cassette: Cassette,
    pub(super) recorder: RecorderHandle,
    pub(super) evaluators: Arc<Evaluators>,
    pub(super) lanes: Lanes,
    pub(super) exchange: Exchange,
    pub(super) shared: Arc<Shared>,
    /// Threads for disk, hashing and signatures.
    pub(super) io: Pool,
    pub(super) events: mpsc::Sender<Event>,
    pub(super) waiting: BTreeMap<JobId, Waiting>,
    pub(super) running: BTreeMap<FlightId, Cancel>,
    /// This node, for programs that ask it.
    pub(super) node: Node,
    pub(super) waits: Arc<Waits>,
    /// Of evaluations that may ask, from their start to their record.
    pub(super) askers: BTreeMap<FlightId, Arc<NodeAsker>>,
    pub(super) wake_at: Option<Time>,
    /// What peers compute for this node, and this node for them.
    pub(super) placing: Placing,
}

/// Whether an evaluation may be started on the loop: all bytes are here, and too few for anything about them to take time.
fn starts_here(request: &Request) -> bool {
    let small = request.payloads().map(Payload::len).fold(0, u64::saturating_add) <= STARTED_HERE;
    let resolved = request.inputs.values().all(|source| matches!(source, Source::Payload(_)));
    small && resolved && request.payloads().all(|payload| matches!(payload, Payload::Inline(_)))
}

/// Tells the loop something, from any thread, the loop's own too.
fn tell(events: &mpsc::Sender<Event>, event: Event) {
    match events.try_send(event) {
        Err(mpsc::error::TrySendError::Full(event)) => match tokio::runtime::Handle::try_current() {
            // The loop cannot wait for itself; at most as many such tasks wait as there are evaluations under way.
            Ok(runtime) => {
                let events = events.clone();
                drop(runtime.spawn(async move { drop(events.send(event).await) }));
            }
            Err(_) => drop(events.blocking_send(event)),
        },
        // A loop that has ended needs no news.
        Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
    }
}

impl Driver {
    /// Runs until it is told to stop, then ends callers and evaluations. Lanes and recorder are closed by their owner: that blocks.
    pub(super) async fn run(mut self, mut events: mpsc::Receiver<Event>) -> Lanes {
        let mut outputs = Vec::new();
        self.apply(Input::Wake, &mut outputs);
        loop {
            let wake = self.hands.wake_at.map(|at| tokio::time::Instant::from_std(self.clock.instant(at)));
            let sleep = async {
                match wake {
                    Some(at) => tokio::time::sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                event = events.recv() => match event {
                    None | Some(Event::Stop) => break,
                    Some(Event::Ask(ask, waiting)) => {
                        self.hands.waiting.insert(ask.job, waiting);
                        self.apply(Input::Eval(ask), &mut outputs);
                    }
                    Some(Event::Fabric(input)) => self.apply(input, &mut outputs),
                    Some(Event::Computed(flight, resolved, result)) => {
                        if let Some(input) = self.hands.computed(flight, &resolved, result) {
                            self.apply(input, &mut outputs);
                        }
                    }
                    Some(Event::Send(peer, message)) => self.hands.send(peer, message),
                    #[cfg(feature = "gpu")]
                    Some(Event::Offer(classes)) => self.hands.offer(classes),
                    #[cfg(feature = "gpu")]
                    Some(Event::Offered(found)) => {
                        // Whoever asked may be gone.
                        let _ = found.send(self.hands.placing.classes());
                    }
                    Some(Event::Holders(id, found)) => {
                        // Whoever asked may be gone.
                        let _ = found.send(self.holders(id));
                    }
                },
                lane = self.hands.lanes.next() => {
                    for input in self.hands.on_lane(lane, self.clock.now()) {
                        self.apply(input, &mut outputs);
                    }
                }
                () = sleep => {
                    self.hands.wake_at = None;
                    self.apply(Input::Wake, &mut outputs);
                }
            }
        }
        for (_, cancel) in std::mem::take(&mut self.hands.running) {
            cancel.cancel();
        }
        for (_, waiting) in std::mem::take(&mut self.hands.waiting) {
            // A caller that went away needs no answer.
            let _ = waiting.send(Err(EvalError::Closed));
        }
        self.hands.lanes
    }

    fn holders(&self, id: ContentId) -> Vec<HolderStatus> {
        let now = self.clock.now();
        let status = |node| HolderStatus {
            node,
            state: self.fabric.liveness(now, node).into(),
            hit_ratio: self.fabric.hit_ratio(node),
            answers_in: self.fabric.answer_latency(node),
        };
        let mut holders: Vec<_> = self.fabric.holders().holders(id.fingerprint()).into_iter().map(status).collect();
        holders.sort_by_key(|holder| (holder.state, holder.answers_in.unwrap_or(Duration::MAX)));
        holders
    }

    fn apply(&mut self, input: Input, outputs: &mut Vec<Output>) {
        if let Input::Computed(flight, outcome) = &input {
            self.hands.running.remove(flight);
            if outcome.is_err() {
                self.hands.askers.remove(flight);
            }
        }
        if let Input::Abandon(job) = &input {
            self.hands.waiting.remove(job);
        }
        let (now, about) = (self.clock.now(), input.about());
        self.fabric.handle(now, input, outputs);
        perform(outputs, &mut self.hands);
        self.hands.shared.note(&self.fabric, now, about);
    }
}

impl Hands {
    fn on_lane(&mut self, event: LaneEvent, now: Time) -> Vec<Input> {
        let input = match event {
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
                return self.placing_down(peer).into_iter().chain([Input::PeerDown(peer)]).collect();
            }
            LaneEvent::Frame(peer, bytes) => Some(match crate::wire::take(&bytes) {
                Ok(Message::Addresses(told)) => {
                    let consequences = self.exchange.heard(peer, told, now);
                    self.carry_out(consequences);
                    return Vec::new();
                }
                Ok(Message::WhereIs { node }) => {
                    if let Some(known) = self.exchange.where_is(peer, node, now) {
                        self.send(peer, known);
                    }
                    return Vec::new();
                }
                Ok(Message::Placement(said)) => return self.on_placement(peer, said).into_iter().collect(),
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
        };
        input.into_iter().collect()
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

    /// Has an answer checked off the loop; what was retracted here is not believed again.
    fn believe(
        &self,
        from: NodeId,
        ask: AskId,
        id: ContentId,
        here: bool,
        check: impl FnOnce(&dyn Verifier) -> Result<Checked, Disbelief> + Send + 'static,
    ) {
        let (verifier, cassette) = (Arc::clone(&self.verifier), self.cassette.clone());
        let work = move || {
            let retracted = |record: &Record| cassette.is_retracted(id, record.answer());
            match check(&*verifier) {
                Ok(Checked::Complete(reply)) if retracted(reply.record()) => {
                    Input::Message(from, Message::NotHeld { ask })
                }
                checked => Input::Checked(from, ask, checked.map_err(|why| why.to_string())),
            }
        };
        if here {
            return tell(&self.events, Event::Fabric(work()));
        }
        // Whether it is held is not known.
        self.off_loop(work, |_| Input::Message(from, Message::Busy { ask }));
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
        let (cassette, evaluators, events) = (self.cassette.clone(), Arc::clone(&self.evaluators), self.events.clone());
        let task = move || {
            let (events_too, about) = (events.clone(), Arc::clone(&resolved));
            let done: Done = Box::new(move |result| tell(&events_too, Event::Computed(flight, about, result)));
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
                Ok(job) => evaluators.start(job, done),
                Err(error) => done(Err(error)),
            }
        };
        if here {
            // Nothing is read, so nothing blocks, and a thread's turn is saved.
            return task();
        }
        if let Err(error) = self.io.spawn(task)
            && self.events.try_send(Event::Fabric(Input::Computed(flight, Err(error)))).is_err()
        {
            warn!("the node is overloaded: an evaluation was lost");
        }
    }

    fn cancel_compute(&mut self, flight: FlightId) {
        if let Some(cancel) = self.running.remove(&flight) {
            cancel.cancel();
        }
        self.placing.forget(flight);
        self.askers.remove(&flight);
    }

    fn check(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, payloads: Vec<Bytes>) {
        // A head that was checked before leaves a few hashes, which take less than another thread's turn.
        let small = payloads.iter().map(|bytes| bytes.len() as u64).sum::<u64>() <= HASHED_HERE;
        let here = small && evidence.head.verify(&self.verifier.remembered());
        self.believe(from, ask, id, here, move |verifier| VerifiedReply::check(id, evidence, payloads, verifier));
    }

    fn assemble(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, chunks: Vec<ProvenChunk>) {
        self.believe(from, ask, id, false, move |verifier| VerifiedReply::assemble(id, evidence, chunks, verifier));
    }

    fn check_announcement(&mut self, from: NodeId, announcement: Announcement) {
        let verifier = Arc::clone(&self.verifier);
        // What is too much now is dropped here and pulled again with a later heartbeat.
        let (author, again) = (announcement.author(), announcement.clone());
        self.off_loop(
            move || {
                let holds = announcement.verify(&*verifier);
                Input::AnnouncementChecked(from, announcement, Some(holds))
            },
            move |_| {
                debug!(author = %author.short(), "an announcement could not be checked");
                Input::AnnouncementChecked(from, again, None)
            },
        );
    }

    fn check_manifest(&mut self, from: NodeId, manifest: Manifest) {
        let (verifier, again) = (Arc::clone(&self.verifier), manifest.clone());
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
        let (recorder, events, producer) = (self.recorder.clone(), self.events.clone(), self.signer.node());
        let asker = self.askers.remove(&flight);
        let small = reply.len() <= HASHED_HERE;
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
            let done = move |result: Result<_, crate::ledger::LedgerError>| {
                let result = result.map(drop).map_err(|error| error.to_string());
                tell(&events, Event::Fabric(Input::Recorded(flight, result)));
            };
            recorder.observe(about, &reply, producer, done);
        };
        if small {
            // Hashing it takes less than another thread's turn.
            return task();
        }
        if let Err(error) = self.io.spawn(task) {
            let input = Input::Recorded(flight, Err(error.to_string()));
            if self.events.try_send(Event::Fabric(input)).is_err() {
                warn!("the node is overloaded: a record was lost");
            }
        }
    }

    fn adopt(&mut self, reply: Box<VerifiedReply>, announce: bool) {
        let (record, payloads, evidence) = reply.into_parts();
        let done = |result: Result<_, crate::ledger::LedgerError>| {
            if let Err(error) = result.map(drop) {
                debug!(%error, "a fetched reply was not adopted");
            }
        };
        self.recorder.adopt(evidence, record, payloads, announce, done);
    }

    fn look_up(&mut self, peer: NodeId, ask: AskId, id: ContentId) {
        let (cassette, signer) = (self.cassette.clone(), Arc::clone(&self.signer));
        let work = move || {
            let found = cassette.evidence(id, &*signer).unwrap_or_else(|error| {
                warn!(%error, id = %id.short(), "cannot serve an answer");
                None
            });
            let found = found.map(|crate::cassette::Proven { held, evidence }| {
                let payloads: Vec<_> = held.reply().payloads().filter_map(Payload::bytes).cloned().collect();
                let fits = payloads.iter().map(Bytes::len).sum::<usize>() <= INLINE_REPLY;
                (evidence, if fits { payloads } else { Vec::new() })
            });
            Input::Found(peer, ask, found)
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
        if let Some(waiting) = self.waiting.remove(&job) {
            // A caller that went away needs no answer.
            let _ = waiting.send(outcome);
        }
    }

    fn wake_at(&mut self, at: Time) {
        self.wake_at = Some(at);
    }
}
