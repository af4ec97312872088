//! Scripted tests: one fabric, a clock that the test moves, and every peer played by the test.
//!
//! A script hands inputs in and looks at outputs; nothing happens behind its back. The simulator covers what many fabrics do together.

#![expect(clippy::unchecked_time_subtraction, reason = "a script knows its own times; a wrong one shall panic")]

mod asks;
mod fleet;
mod hostile;
mod logs;
mod members;
mod overlay;
mod transfers;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::error::EvalError;
use crate::id::EpochId;
use crate::identity::{Ed25519, Identity, Signature, Signer};
use crate::limits::INLINE_REPLY;
use crate::message::{Batch, LogItem, NO_PONG, OLDEST_PROTOCOL, PROTOCOL, chain_start};
use crate::proof::{Hash, Head, OBSERVED, SignedHead, leaf_hash};
use crate::record::{Observation, Record};
use crate::reply::Payload;
use crate::request::{Program, Request};
use crate::verified::VerifiedReply;

/// A peer as the test plays it: an identity, and a log of facts.
struct Remote {
    me: Identity,
    epoch: EpochStart,
    chain: Hash,
    items: Vec<LogItem>,
}

impl Remote {
    fn new(seed: u8) -> Self {
        let me = Identity::from_seed([seed; 32]);
        let epoch = EpochStart { epoch: EpochId::from_bytes([seed; 16]), start: 0 };
        Self { chain: chain_start(me.node(), epoch.epoch), me, epoch, items: Vec::new() }
    }

    fn node(&self) -> NodeId {
        self.me.node()
    }

    fn hello(&self) -> Message {
        let length = self.items.len() as u64;
        Message::Hello { newest: PROTOCOL, oldest: OLDEST_PROTOCOL, lineage: vec![self.epoch], length }
    }

    fn batch(&self, first: u64, items: Vec<LogItem>) -> Batch {
        let length = first + items.len() as u64;
        let head = Head { node: self.node(), epoch: self.epoch.epoch, length, root: [0; 32] };
        Batch { first, items, head }
    }

    /// Appends facts to its log and announces them.
    fn announce(&mut self, questions: &[ContentId]) -> Arc<Announcement> {
        let fact = |id: &ContentId| LogItem::Fact { question: id.fingerprint().to_le_bytes(), answer: [1; 8] };
        self.append(questions.iter().map(fact).collect())
    }

    /// Appends items of one position each to its log and announces them.
    fn append(&mut self, items: Vec<LogItem>) -> Arc<Announcement> {
        let batch = self.batch(self.items.len() as u64, items.clone());
        self.items.extend(items);
        let announcement = Arc::new(Announcement::sign(&self.me, &self.chain, batch));
        self.chain = announcement.chain;
        announcement
    }

    fn read(&self, at: u64, max: usize) -> Option<Batch> {
        let items: Vec<_> = self.items.iter().skip(usize::try_from(at).ok()?).take(max).copied().collect();
        (!items.is_empty()).then(|| self.batch(at, items))
    }

    fn manifest(&self) -> Arc<Manifest> {
        let unsigned = Manifest {
            node: self.node(),
            lineage: vec![self.epoch],
            segments: Vec::new(),
            end: self.items.len() as u64,
            chain: self.chain,
            signature: Signature::from_bytes([0; 64]),
        };
        Arc::new(segment::complete(unsigned, &self.me, |at, max| self.read(at, max)).expect("its whole log is there"))
    }

    fn segment(&self, number: u64, end: u64) -> Bytes {
        segment::read(number, end, |at, max| self.read(at, max)).expect("its whole log is there").into()
    }

    /// A signed reply of so many bytes to a question, and its payloads.
    fn answer(&self, id: ContentId, len: usize) -> (Evidence, Vec<Bytes>) {
        let reply = Reply::ok(Bytes::from(vec![7; len]));
        let about = Observation {
            request: id,
            kind: "wasm".parse().expect("a name"),
            class: crate::request::Class::Portable,
            observed_at: 1,
            trace: None,
            upstream: Vec::new(),
        };
        let record = Bytes::from(Record::observe(about, &reply, self.node()).encode());
        let head = SignedHead::over(&self.me, self.epoch.epoch, 1, leaf_hash(OBSERVED, &record));
        let payloads = reply.payloads().filter_map(Payload::bytes).cloned().collect();
        (Evidence { record, index: 0, path: Vec::new(), head }, payloads)
    }

    fn held(&self, ask: AskId, id: ContentId, len: usize) -> Message {
        let (evidence, payloads) = self.answer(id, len);
        let payloads = if len <= INLINE_REPLY { payloads } else { Vec::new() };
        Message::Held { ask, evidence, payloads, announce: true }
    }
}

/// A fabric under test, with everything it wanted done and nobody looked at yet.
struct Script {
    fabric: Fabric,
    now: Duration,
    outputs: Vec<Output>,
    jobs: u64,
}

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

fn config() -> Config {
    let epoch = EpochStart { epoch: EpochId::from_bytes([9; 16]), start: 0 };
    Config::new(Identity::from_seed([99; 32]).node(), vec![epoch], 0)
}

fn request(n: u32) -> (ContentId, Arc<Resolved>) {
    let request = Request::new(Program::wasm(&b"scripted"[..])).arg(n.to_string());
    (request.id().expect("well-formed"), Arc::new(Resolved { request, upstream: Vec::new() }))
}

impl Script {
    fn new() -> Self {
        Self::with(config())
    }

    fn with(config: Config) -> Self {
        Self { fabric: Fabric::new(config), now: Duration::ZERO, outputs: Vec::new(), jobs: 0 }
    }

    fn give(&mut self, input: Input) {
        self.fabric.handle(Time(self.now), input, &mut self.outputs);
    }

    fn say(&mut self, from: &Remote, message: Message) {
        self.give(Input::Message(from.node(), message));
    }

    /// Lets time pass, waking the fabric whenever it wants to be woken.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.fabric.timers.next_at().filter(|at| at.0 <= end) {
            self.now = self.now.max(at.0);
            self.give(Input::Wake);
        }
        self.now = end;
    }

    /// A peer comes up and says hello; its round trip measures `rtt`.
    fn join(&mut self, peer: &Remote, rtt: Duration) {
        self.give(Input::PeerUp(peer.node()));
        self.say(peer, peer.hello());
        self.now += rtt;
        self.answer_heartbeats(peer);
    }

    /// What a living peer does: a pong for every heartbeat since the last look that wants one. How many there were, of how many heartbeats.
    fn answer_heartbeats(&mut self, peer: &Remote) -> (usize, usize) {
        let heads = self.take(|output| match output {
            Output::Send(to, Message::Heads { nonce, .. }) if *to == peer.node() => Some(*nonce),
            _ => None,
        });
        let wanted: Vec<_> = heads.iter().filter(|nonce| **nonce != NO_PONG).collect();
        for nonce in &wanted {
            self.say(peer, Message::Pong { nonce: **nonce });
        }
        (wanted.len(), heads.len())
    }

    /// Waits for the next heartbeat and answers it after a round trip.
    fn beat(&mut self, peer: &Remote, rtt: Duration) {
        let next = HEARTBEAT.as_nanos() - self.now.as_nanos() % HEARTBEAT.as_nanos();
        self.pass(Duration::from_nanos(u64::try_from(next).expect("less than a second")));
        self.now += rtt;
        self.answer_heartbeats(peer);
    }

    /// Announces facts of a peer and lets them be checked.
    fn learn(&mut self, peer: &mut Remote, questions: &[ContentId]) {
        let announcement = peer.announce(questions);
        self.say(peer, Message::Announce(announcement));
        self.check_all();
    }

    /// Takes the outputs that `of` picks; the others stay.
    fn take<T>(&mut self, of: impl Fn(&Output) -> Option<T>) -> Vec<T> {
        let mut picked = Vec::new();
        self.outputs.retain(|output| match of(output) {
            Some(found) => {
                picked.push(found);
                false
            }
            None => true,
        });
        picked
    }

    /// Messages sent to a peer that are neither hello nor heartbeat.
    fn sent(&mut self, to: &Remote) -> Vec<Message> {
        self.take(|output| match output {
            Output::Send(_, Message::Hello { .. } | Message::Heads { .. } | Message::Pong { .. }) => None,
            Output::Send(peer, message) if *peer == to.node() => Some(message.clone()),
            _ => None,
        })
    }

    fn asks(&mut self, to: &Remote) -> Vec<AskId> {
        self.take(|output| match output {
            Output::Send(peer, Message::Ask { ask, .. }) if *peer == to.node() => Some(*ask),
            _ => None,
        })
    }

    /// Carries out every check that was asked for, for real.
    fn check_all(&mut self) {
        let checked = self.take(|output| match output {
            Output::CheckAnnouncement(from, announcement) => {
                let verdict = Verdict::of(announcement, &Ed25519);
                Some(Input::AnnouncementChecked(*from, announcement.clone(), verdict))
            }
            Output::CheckManifest(from, manifest) => {
                Some(Input::ManifestChecked(*from, manifest.clone(), Some(manifest.verify(&Ed25519))))
            }
            Output::CheckSegment(from, ask, name, bytes) => {
                let checked = segment::check(name, bytes).map(|keys| (keys, bytes.clone()));
                Some(Input::SegmentChecked(*from, *ask, Some(checked)))
            }
            Output::Check(from, ask, id, evidence, payloads) => {
                let checked = VerifiedReply::check(*id, evidence.clone(), payloads.clone(), &Ed25519);
                Some(Input::Checked(*from, *ask, checked.map_err(|why| why.to_string())))
            }
            Output::Assemble(from, ask, id, evidence, proven) => {
                let checked = VerifiedReply::assemble(*id, evidence.clone(), proven.clone(), &Ed25519);
                Some(Input::Checked(*from, *ask, checked.map_err(|why| why.to_string())))
            }
            _ => None,
        });
        for input in checked {
            self.give(input);
        }
    }

    fn ask(&mut self, n: u32, answer_from: AnswerFrom) -> JobId {
        let (id, resolved) = request(n);
        self.jobs += 1;
        let job = JobId(self.jobs);
        let request = (answer_from != AnswerFrom::HeldOnly).then_some(resolved);
        self.give(Input::Eval(Ask { job, id, request, answer_from, timeout: None }));
        job
    }

    fn computations(&mut self) -> Vec<FlightId> {
        self.take(|output| match output {
            Output::Compute(flight, ..) => Some(*flight),
            _ => None,
        })
    }

    fn deliveries(&mut self) -> Vec<(JobId, Result<Delivery, EvalError>)> {
        self.take(|output| match output {
            Output::Deliver(job, outcome) => Some((*job, outcome.clone())),
            _ => None,
        })
    }

    fn disconnects(&mut self) -> Vec<(NodeId, Disconnect)> {
        self.take(|output| match output {
            Output::Disconnect(peer, reason) => Some((*peer, reason.clone())),
            _ => None,
        })
    }

    fn adoptions(&mut self) -> Vec<bool> {
        self.take(|output| match output {
            Output::Adopt(_, announce) => Some(*announce),
            _ => None,
        })
    }
}
