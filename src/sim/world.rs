//! The engine: takes events in order and hands them to the nodes they happen to.
//!
//! First the safety phase, in which anything may fail; then, from `Calm` on, nothing fails and everything must come to rest. Invariant: the world
//! only lets things happen and writes them down; it judges nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::disk::{Disk, Torn};
use super::faults::{Act, Episode, Stop};
use super::history::{Asked, End, Retracted, Source, delivered};
use super::mutate::Mutation;
use super::node::{Node, Shared};
use super::queue::{Event, Life};
use super::rng::Rng;
use super::seat::Seat;
use super::timeline::{Sample, Told, millis};
use super::workload::{Asking, Question, Workload};
use super::{MAX_EVENTS, Place};
use crate::cassette::Lookup;
use crate::error::EvalError;
use crate::fabric::{Ask, Input, JobId, Time};
use crate::id::Digest;
use crate::ledger::OpenError;
use crate::record::Resolved;
use crate::request::AnswerFrom;

/// How long after a break or a start two nodes find each other again.
const REDIAL: Duration = Duration::from_millis(300);
/// How long after a failed start a node tries again.
const AGAIN: Duration = Duration::from_millis(500);
/// How often figures are taken.
const SAMPLE: Duration = Duration::from_millis(500);

/// Is told each event before it happens: when, to which node, and what.
pub(super) type Watcher<'a> = &'a mut dyn FnMut(Time, Option<Place>, &dyn std::fmt::Display);

pub(super) struct World {
    pub(super) shared: Shared,
    pub(super) seats: Vec<Seat>,
    pub(super) plan: Workload,
    pub(super) episodes: Vec<Episode>,
    pub(super) faults: Rng,
    /// Figures over time.
    pub(super) samples: Vec<Sample>,
    pub(super) endless: bool,
    /// What nodes missed of each other's logs, summed over the samples.
    pub(super) missed: BTreeMap<(Place, Place), u64>,
}

impl World {
    /// Runs to the end.
    pub(super) fn run(&mut self, end: Time, mut watch: Option<Watcher<'_>>) {
        while let Some(event) = self.shared.queue.pop(end) {
            if let Some(watch) = &mut watch {
                watch(self.shared.queue.now(), event.place(), &Told(&event));
            }
            self.take(event);
            if self.shared.queue.taken() > MAX_EVENTS {
                self.endless = true;
                break;
            }
        }
        self.shared.history.end = end;
    }

    /// Schedules everything that does not follow from something else.
    pub(super) fn schedule(&mut self, calm: Duration, retractions: &[(Duration, Place, usize)]) {
        let queue = &mut self.shared.queue;
        (0..self.seats.len()).for_each(|place| queue.at(Time::default(), Event::Restart(place)));
        self.plan.asks.iter().enumerate().for_each(|(n, ask)| queue.at(Time(ask.at), Event::Ask(n)));
        for (at, place, question) in retractions {
            queue.at(Time(*at), Event::Retract(*place, *question));
        }
        for (n, episode) in self.episodes.iter().enumerate() {
            episode.steps.iter().enumerate().for_each(|(step, (at, _))| queue.at(Time(*at), Event::Step(n, step)));
        }
        queue.at(Time(calm), Event::Calm);
        queue.at(Time(SAMPLE), Event::Sample);
    }

    fn take(&mut self, event: Event) {
        let place = match &event {
            Event::Ask(number) => Some(self.plan.asks[*number].node),
            other => other.place(),
        };
        if let Some(place) = place {
            let around = &mut self.shared.around[place];
            if around.paused > self.shared.queue.now() || !around.held.is_empty() {
                // It stands still: whatever happens to it, it notices later, and in order.
                return around.held.push_back(event);
            }
        }
        self.happen(event);
    }

    fn happen(&mut self, event: Event) {
        match event {
            Event::Ask(number) => self.on_ask(number),
            Event::Abandon(life, job) => self.with(life, |node, shared| node.on_abandon(shared, job)),
            Event::Frame { from, to, lane, bytes } => {
                let sender = self.seats[from].name;
                if self.shared.network.generation(from, to) == Some(lane)
                    && let Some(node) = &mut self.seats[to].node
                {
                    node.on_frame(&mut self.shared, sender, &bytes);
                }
            }
            Event::Up(a, b) => self.on_up(a, b),
            Event::Down { place, peer, lane } => {
                // A newer lane has replaced it, and with that it was noticed.
                if self.shared.network.generation(place, peer).is_none_or(|now| now == lane) {
                    self.down(place, peer);
                }
            }
            Event::Break(a, b) => {
                self.disconnect(a, b);
                self.shared.queue.after(REDIAL, Event::Up(a, b));
            }
            Event::Done(life, _, input) => self.with(life, |node, shared| node.apply(shared, *input)),
            Event::Computed(life, flight, number) => {
                self.with(life, |node, shared| node.on_computed(shared, flight, number));
            }
            Event::Written(life) => self.with(life, Node::on_written),
            Event::Synced(life) => self.on_synced(life),
            Event::Wake(life, at) => self.with(life, |node, shared| node.on_wake(shared, at)),
            Event::Retract(place, question) => self.on_retract(place, question),
            Event::Resume(place) => self.on_resume(place),
            Event::Step(episode, step) => self.on_step(episode, step),
            Event::Restart(place) => self.on_restart(place),
            Event::Calm => self.on_calm(),
            Event::Sample => {
                let sample = self.sample();
                self.samples.push(sample);
                self.shared.queue.after(SAMPLE, Event::Sample);
            }
        }
    }

    /// Does something with a node if it still lives that life.
    fn with(&mut self, life: Life, act: impl FnOnce(&mut Node, &mut Shared)) {
        if let Some(node) = self.seats[life.place].node.as_mut().filter(|node| node.hands.life == life) {
            act(node, &mut self.shared);
        }
    }

    fn on_synced(&mut self, life: Life) {
        let mut failed = None;
        self.with(life, |node, shared| failed = node.on_synced(shared).err());
        if let Some(error) = failed
            && !self.shared.history.disk_may_have_failed(life.place, self.shared.queue.now())
        {
            self.shared.history.broken.push(format!("a sound disk failed: {error}"));
        }
    }

    /// A caller asks as `Node::eval` does: the cassette first, then the fabric.
    fn on_ask(&mut self, number: usize) {
        let asking = self.plan.asks[number].clone();
        let (Question { id, resolved: wanted }, expected) = self.question(&asking);
        let class = wanted.request.class.clone();
        let Some(node) = &mut self.seats[asking.node].node else { return };
        let at = self.shared.queue.now();
        let job = JobId(self.shared.history.asks.len() as u64);
        let (answer_from, timeout) = (asking.answer_from, asking.timeout);
        let looked_up = answer_from != AnswerFrom::ComputedOnly && class.is_memoised();
        let (place, probe, ends) = (asking.node, asking.probe, Vec::new());
        let asked = Asked { at, node: place, id, class, answer_from, timeout, expected, probe, ends };
        self.shared.history.asks.push(asked);
        if looked_up {
            let end = match node.hands.cassette.lookup(id) {
                Ok(Lookup::Hit(held)) => {
                    Some(End::Answered { answer: delivered(held.reply()), source: Source::Memory })
                }
                Ok(Lookup::Miss(_)) => None,
                Err(error) => Some(End::Error(EvalError::Ledger(error.to_string()))),
            };
            if let Some(end) = end {
                return self.shared.history.ended(job, at, end);
            }
        }
        node.hands.waiting.insert(job);
        if let Some(leaves) = asking.leaves {
            self.shared.queue.after(leaves, Event::Abandon(node.hands.life, job));
        }
        let request = (answer_from != AnswerFrom::HeldOnly).then(|| Arc::clone(&wanted));
        let mut ask = Ask { job, id, request, answer_from, timeout };
        super::effects::meddle(self.shared.mutation, &mut ask, &wanted);
        node.apply(&mut self.shared, Input::Eval(ask));
    }

    /// What is asked, and what the answer must be if it is about files.
    fn question(&mut self, asking: &Asking) -> (Question, Option<Digest>) {
        if asking.reads.is_empty() {
            return (self.plan.questions[asking.question].clone(), None);
        }
        let stale = self.shared.mutation == Some(Mutation::TrustOldFiles);
        let (request, expected) = self.shared.around[asking.node].workspace.question(&asking.reads, stale);
        let id = request.id().expect("a few short files are well-formed");
        (Question { id, resolved: Arc::new(Resolved { request, upstream: Vec::new() }) }, Some(expected))
    }

    /// A node retracts its answer to a question, if it holds one.
    fn on_retract(&mut self, place: Place, question: usize) {
        let id = self.plan.questions[question].id;
        let Some(node) = &mut self.seats[place].node else { return };
        let at = self.shared.queue.now();
        let Ok(Lookup::Hit(held)) = node.hands.cassette.lookup(id) else { return };
        let answer = held.record().answer();
        let unix = self.shared.around[place].clock.unix(at);
        let length = node.hands.writing.retract(id, answer, unix).ok();
        self.shared.history.retracted.push(Retracted { node: place, at, id, answer, sure: length.is_some() });
        if let Some(length) = length {
            node.apply(&mut self.shared, Input::Durable(length));
        }
    }

    fn on_up(&mut self, a: Place, b: Place) {
        let awake = [a, b].map(|place| self.shared.around[place].paused).into_iter().max().unwrap_or_default();
        if awake > self.shared.queue.now() {
            return self.shared.queue.at(awake, Event::Up(a, b));
        }
        let both = a != b && [a, b].iter().all(|place| self.seats[*place].node.is_some());
        if !both || !self.shared.network.open(a, b) {
            return;
        }
        for (place, peer) in [(a, b), (b, a)] {
            self.down(place, peer);
            let name = self.seats[peer].name;
            if let Some(node) = &mut self.seats[place].node {
                node.hands.lanes.insert(peer);
                node.apply(&mut self.shared, Input::PeerUp(name));
            }
        }
    }

    fn down(&mut self, place: Place, peer: Place) {
        let name = self.seats[peer].name;
        if let Some(node) = &mut self.seats[place].node
            && node.hands.lanes.remove(&peer)
        {
            node.apply(&mut self.shared, Input::PeerDown(name));
        }
    }

    /// Ends a lane; both ends notice a little later.
    fn disconnect(&mut self, a: Place, b: Place) {
        let Some(lane) = self.shared.network.close(a, b) else { return };
        for (place, peer) in [(a, b), (b, a)] {
            let wait = Duration::from_micros(100 + self.faults.below(5_000));
            self.shared.queue.after(wait, Event::Down { place, peer, lane });
        }
    }

    fn on_step(&mut self, episode: usize, step: usize) {
        if self.shared.history.calm.is_some() {
            return;
        }
        let now = self.shared.queue.now();
        match self.episodes[episode].steps[step].1.clone() {
            Act::Stop(place, how) => self.on_stop(place, &how),
            Act::Start(place) => self.on_restart(place),
            Act::Pause(place, long) => {
                let around = &mut self.shared.around[place];
                around.paused = around.paused.max(now + long);
                self.shared.queue.after(long, Event::Resume(place));
                self.shared.history.nodes[place].pauses.push((now, long));
            }
            Act::Break(a, b) => {
                self.disconnect(a, b);
                self.shared.queue.after(REDIAL, Event::Up(a, b));
            }
            Act::Cut(from, to) => self.shared.network.cut(from, to, true),
            Act::Mend(from, to) => {
                self.shared.network.cut(from, to, false);
                if self.seats[from].peers.contains(&to) {
                    self.shared.queue.after(REDIAL, Event::Up(from, to));
                }
            }
            Act::Fail(place, op, after) => {
                self.shared.history.nodes[place].disk_failed.push(now);
                self.seats[place].disk.fail(op, after);
            }
            Act::Fill(place, after, torn) => {
                self.shared.history.nodes[place].disk_failed.push(now);
                self.seats[place].disk.fill(after, torn);
            }
            Act::HealDisk(place) => self.seats[place].disk.heal(),
            Act::Slow(place, slow) => self.shared.around[place].slow = if slow { 100 } else { 1 },
            Act::Rot(place, which) => {
                if self.seats[place].disk.rot(which) {
                    self.shared.history.nodes[place].rotten = true;
                }
            }
            Act::Image(place) => self.seats[place].keep_image(),
            Act::Jump(place, micros) => self.shared.around[place].clock.wrong += micros,
            Act::Edit(place, which) => self.shared.around[place].workspace.edit(which),
        }
    }

    fn on_resume(&mut self, place: Place) {
        let around = &mut self.shared.around[place];
        if around.paused <= self.shared.queue.now() {
            for event in std::mem::take(&mut around.held) {
                self.happen(event);
            }
        }
    }

    fn on_stop(&mut self, place: Place, how: &Stop) {
        let now = self.shared.queue.now();
        let seat = &mut self.seats[place];
        if let Some(mut node) = seat.node.take() {
            if *how == Stop::Clean {
                // What fails here fails at the next opening too, and is noticed there.
                let _ = node.on_synced(&mut self.shared);
            }
            for job in &node.hands.waiting {
                self.shared.history.ended(*job, now, End::Crashed);
            }
            for (_, evaluation) in node.hands.running.keys() {
                self.shared.history.evaluations[*evaluation].to = Some(now);
            }
        }
        match how {
            Stop::Clean => {}
            Stop::Power(torn) => {
                seat.disk.crash(*torn);
                seat.torn |= matches!(torn, Torn::Blocks(_));
            }
            Stop::Replaced => {
                seat.disk.crash(Torn::Nothing);
                if seat.disk.restore_image() {
                    seat.restored = true;
                    self.shared.history.nodes[place].restored = true;
                }
            }
        }
        for peer in self.seats[place].peers.clone() {
            self.disconnect(place, peer);
        }
    }

    fn on_restart(&mut self, place: Place) {
        let now = self.shared.queue.now();
        let seat = &mut self.seats[place];
        if seat.node.is_some() {
            return;
        }
        seat.lives += 1;
        let life = Life { place, number: seat.lives };
        let epoch = seat.next_epoch(self.shared.mutation == Some(Mutation::ReuseEpoch));
        match Node::start(seat.identity.clone(), life, &seat.disk, epoch, &mut self.shared) {
            Ok((node, recovery)) => {
                let opened = seat.read_back(&node, &recovery, place, now, &self.shared.history);
                let peers = seat.peers.clone();
                seat.node = Some(node);
                self.shared.history.openings.push(opened);
                self.shared.history.nodes[place].starts.push(now);
                for peer in peers {
                    self.shared.queue.after(REDIAL, Event::Up(place, peer));
                }
            }
            Err(error) => self.on_failed_start(place, &error),
        }
    }

    fn on_failed_start(&mut self, place: Place, error: &OpenError) {
        let now = self.shared.queue.now();
        if !self.shared.history.disk_may_have_failed(place, now) {
            return self.shared.history.broken.push(format!("node {place} did not come up: {error}"));
        }
        self.seats[place].failed = true;
        self.shared.queue.after(AGAIN, Event::Restart(place));
    }

    /// From now on nothing fails: whatever is broken is mended, whoever is down comes back.
    fn on_calm(&mut self) {
        self.shared.history.calm = Some(self.shared.queue.now());
        self.shared.network.heal();
        for place in 0..self.seats.len() {
            self.shared.around[place].slow = 1;
            let disk: &mut Disk = &mut self.seats[place].disk;
            disk.heal();
            if disk.failing {
                // A ledger that could not be written takes no writes until it is opened again.
                self.on_stop(place, &Stop::Clean);
            }
            self.on_restart(place);
            for peer in self.seats[place].peers.clone() {
                self.shared.queue.after(REDIAL, Event::Up(place, peer));
            }
        }
    }

    /// How far honest neighbours are behind each other, and how callers fared.
    fn sample(&mut self) -> Sample {
        let (mut behind, mut pairs_behind) = (0, 0);
        let up = self.seats.iter().enumerate().filter_map(|(place, seat)| Some((place, seat, seat.node.as_ref()?)));
        for (place, seat, node) in up.clone() {
            for peer in seat.peers.iter().filter(|peer| self.shared.history.nodes[**peer].honest) {
                let Some(other) = &self.seats[*peer].node else { continue };
                let durable = other.hands.cassette.ledger().durable();
                let missing = durable.saturating_sub(node.fabric.holders().known(other.hands.me));
                behind += missing;
                if missing > 0 {
                    pairs_behind += 1;
                    *self.missed.entry((place, *peer)).or_default() += missing;
                }
            }
        }
        let mut sample = Sample {
            at: millis(self.shared.queue.now()),
            behind,
            pairs_behind,
            up: up.count() as u64,
            answered: 0,
            hits: 0,
        };
        for (_, end) in self.shared.history.asks.iter().filter_map(|ask| ask.ends.first()) {
            if let End::Answered { source, .. } = end {
                sample.answered += 1;
                sample.hits += u64::from(*source != Source::Computed);
            }
        }
        sample
    }
}
