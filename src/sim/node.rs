//! One simulated node: the real fabric on a virtual disk, one turn of its loop at a time.
//!
//! Whatever the production driver does on other threads takes virtual time and comes back as an event. What the fabric wants done is carried out in
//! `effects`. Invariant: a node sees its own monotonic clock only.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::Place;
use super::clock::Clock;
use super::compute::Evaluator;
use super::disk::{Disk, Who, Writing};
use super::frames::Frames;
use super::history::{End, History};
use super::liar::Liar;
use super::mutate::Mutation;
use super::network::Network;
use super::news::News;
use super::queue::{Event, Life, Queue};
use super::rng::Rng;
use super::scenario;
use super::signatures::Key;
use super::timeline::Hops;
use super::workspace::Workspace;
use crate::cassette::Cassette;
use crate::error::EvalError;
use crate::fabric::{Config, Fabric, FlightId, Input, JobId, Output, Time, Verdict, perform};
use crate::id::{EpochId, NodeId};
use crate::identity::{Signer, Verifier};
use crate::ledger::{OpenError, Recovery};
use crate::reply::Reply;

/// What all nodes share: the world around them.
pub(super) struct Shared {
    pub(super) queue: Queue,
    pub(super) network: Network,
    pub(super) frames: Frames,
    pub(super) places: HashMap<NodeId, Place, foldhash::fast::FixedState>,
    pub(super) verifier: Box<dyn Verifier>,
    pub(super) history: History,
    pub(super) evaluator: Box<dyn Evaluator>,
    pub(super) disk: scenario::Disk,
    /// Up to how many lanes a node tells everybody.
    pub(super) mesh: usize,
    pub(super) news: News,
    pub(super) around: Vec<Around>,
    pub(super) mutation: Option<Mutation>,
    /// Evaluations started.
    pub(super) runs: u64,
    pub(super) deliveries: u64,
    /// Frames on their way, if they are to be drawn.
    pub(super) hops: Option<Hops>,
}

/// What stays of a node over its lives, apart from its disk.
pub(super) struct Around {
    pub(super) clock: Clock,
    pub(super) computing: Rng,
    pub(super) work: Rng,
    pub(super) liar: Option<Liar>,
    /// Its files.
    pub(super) workspace: Workspace,
    /// How many times as long its disk takes.
    pub(super) slow: u32,
    /// It stands still until then.
    pub(super) paused: Time,
    /// What happened to it meanwhile, in order.
    pub(super) held: VecDeque<Event>,
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
    clock: Clock,
    pub(super) identity: Key,
    pub(super) me: NodeId,
    pub(super) writing: Writing,
    pub(super) cassette: Cassette,
    /// Peers whose lane is open as far as this node knows.
    pub(super) lanes: BTreeSet<Place>,
    /// Evaluations that run, and which of the history's they are.
    pub(super) running: BTreeMap<(FlightId, usize), Result<Reply, EvalError>>,
    pub(super) waiting: BTreeSet<JobId>,
    pub(super) write_set: bool,
    pub(super) sync_set: bool,
    pub(super) wake_at: Option<Time>,
    /// Replies computed and not yet handed on; only a mutation keeps one.
    swapped: VecDeque<Result<Reply, EvalError>>,
}

/// A node's hands at work in the world.
pub(super) struct Acting<'a> {
    pub(super) hands: &'a mut Hands,
    pub(super) shared: &'a mut Shared,
}

impl Hands {
    pub(super) fn who(&self, now: Time) -> Who {
        Who { place: self.life.place, me: self.me, now }
    }

    /// When in the world this node's clock shows a time.
    pub(super) fn real(&self, local: Time) -> Time {
        self.born + self.clock.real(local.0)
    }
}

impl Node {
    /// Starts a node on its disk.
    pub(super) fn start(
        identity: Key,
        life: Life,
        disk: &Disk,
        epoch: EpochId,
        shared: &mut Shared,
    ) -> Result<(Self, Recovery), OpenError> {
        let born = shared.queue.now();
        let clock = shared.around[life.place].clock.clone();
        let me = identity.node();
        let (writing, recovery) = disk.open(me, epoch, clock.unix(born))?;
        let cassette = writing.cassette();
        let (lineage, length) = (cassette.ledger().lineage(), cassette.ledger().durable());
        let config = Config { mesh_lanes: shared.mesh, ..Config::new(me, lineage, length) };
        let fabric = Fabric::new(config);
        let hands = Hands {
            life,
            born,
            clock,
            identity,
            me,
            writing,
            cassette,
            lanes: BTreeSet::new(),
            running: BTreeMap::new(),
            waiting: BTreeSet::new(),
            write_set: false,
            sync_set: false,
            wake_at: None,
            swapped: VecDeque::new(),
        };
        let mut node = Self { fabric, hands, outputs: Vec::new() };
        node.apply(shared, Input::Wake);
        Ok((node, recovery))
    }

    /// One turn of the loop.
    pub(super) fn apply(&mut self, shared: &mut Shared, input: Input) {
        let now = Time(self.hands.clock.local(shared.queue.now() - self.hands.born));
        let author = match &input {
            Input::Durable(length) => {
                shared.news.durable(self.hands.life.place, *length, shared.queue.now());
                None
            }
            Input::AnnouncementChecked(_, announcement, Verdict::Signed(_)) => Some(announcement.author()),
            Input::ManifestChecked(_, manifest, Some(true)) => Some(manifest.node),
            Input::SegmentChecked(_, ask, Some(Ok(_))) => self.fabric.fetching(*ask),
            _ => None,
        };
        let before = author.map(|author| self.fabric.holders().known(author));
        self.fabric.handle(now, input, &mut self.outputs);
        if let (Some(author), Some(before)) = (author, before) {
            let learned = before..self.fabric.holders().known(author);
            let place = shared.places.get(&author).filter(|_| !learned.is_empty());
            if let Some(place) = place {
                shared.news.learned(*place, learned, (self.hands.born, shared.queue.now()));
            }
        }
        let peak = &mut shared.history.peaks.flights;
        *peak = (*peak).max(self.fabric.in_flight());
        perform(&mut self.outputs, &mut Acting { hands: &mut self.hands, shared });
    }

    pub(super) fn on_frame(&mut self, shared: &mut Shared, from: NodeId, bytes: &Bytes) {
        let input = match shared.frames.decode(bytes) {
            Ok(message) => Input::Message(from, message),
            Err(error) => Input::Garbage(from, error.to_string()),
        };
        self.apply(shared, input);
    }

    pub(super) fn on_abandon(&mut self, shared: &mut Shared, job: JobId) {
        if self.hands.waiting.remove(&job) {
            let now = shared.queue.now();
            shared.history.ended(job, now, End::Abandoned);
            self.apply(shared, Input::Abandon(job));
        }
    }

    pub(super) fn on_computed(&mut self, shared: &mut Shared, flight: FlightId, evaluation: usize) {
        let Some(mut result) = self.hands.running.remove(&(flight, evaluation)) else { return };
        let noted = &mut shared.history.evaluations[evaluation];
        noted.to = Some(shared.queue.now());
        noted.result = Some(result.as_ref().map(super::history::delivered).map_err(Clone::clone));
        if shared.mutation == Some(Mutation::SwapReplies) {
            self.hands.swapped.push_back(result.clone());
            if self.hands.swapped.len() > 1 {
                result = self.hands.swapped.pop_front().unwrap_or(result);
            }
        }
        self.apply(shared, Input::Computed(flight, result));
    }

    pub(super) fn on_written(&mut self, shared: &mut Shared) {
        self.hands.write_set = false;
        let who = self.hands.who(shared.queue.now());
        let (durable, done) = self.hands.writing.write_out(who, &mut shared.history);
        for (flight, result) in done {
            self.apply(shared, Input::Recorded(flight, result));
        }
        if let Some(length) = durable {
            self.apply(shared, Input::Durable(length));
        } else if !std::mem::replace(&mut self.hands.sync_set, true) {
            let around = &mut shared.around[who.place];
            let wait = around.work.within(&shared.disk.sync) * around.slow;
            shared.queue.after(wait, Event::Synced(self.hands.life));
        }
    }

    /// Syncs; the error is the disk's.
    pub(super) fn on_synced(&mut self, shared: &mut Shared) -> Result<(), String> {
        self.hands.sync_set = false;
        let who = self.hands.who(shared.queue.now());
        let length = self.hands.writing.commit(who, &mut shared.history).map_err(|error| error.to_string())?;
        self.apply(shared, Input::Durable(length));
        Ok(())
    }

    pub(super) fn on_wake(&mut self, shared: &mut Shared, at: Time) {
        if self.hands.wake_at.take_if(|wanted| *wanted == at).is_some() {
            self.apply(shared, Input::Wake);
        }
    }
}

impl Acting<'_> {
    /// Hands the outcome of work off the loop to the loop, later.
    pub(super) fn off_loop(&mut self, what: super::queue::Work, span: &super::span::Span, input: Input) {
        let wait = self.shared.around[self.hands.life.place].work.within(span);
        self.shared.queue.after(wait, Event::Done(self.hands.life, what, Box::new(input)));
    }

    pub(super) fn write_soon(&mut self) {
        if !std::mem::replace(&mut self.hands.write_set, true) {
            let around = &mut self.shared.around[self.hands.life.place];
            let wait: Duration = around.work.within(&self.shared.disk.write) * around.slow;
            self.shared.queue.after(wait, Event::Written(self.hands.life));
        }
    }
}

/// A question as a fabric wants it computed.
pub(super) type Wanted = Arc<crate::record::Resolved>;
