//! The engine: takes events in order and hands them to the nodes they happen to.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::check::{self, End, Job};
use super::disk::Disk;
use super::network::Network;
use super::node::{Node, Shared};
use super::queue::{Event, Life, Place, Queue};
use super::rng::{Purpose, Rng};
use super::{MAX_EVENTS, Outcomes, Report, SETTLE, Scenario};
use crate::cassette::Lookup;
use crate::fabric::{Ask, Input, JobId, Time};
use crate::id::ContentId;
use crate::identity::{Identity, MemoVerifier, Signer};
use crate::record::Resolved;
use crate::request::{AnswerFrom, Program, Request};

/// How long after a break or a start two nodes find each other again.
const REDIAL: Duration = Duration::from_millis(300);
/// How long a crashed node is away.
const AWAY: Duration = Duration::from_millis(700);
/// Callers who want something special, per thousand and wish.
const SPECIAL: u32 = 80;
/// Bytes of an unsynced tail that may survive a crash.
const TORN: usize = 2048;

/// A seat for a node, whether it runs or not.
struct Seat {
    identity: Identity,
    disk: Disk,
    lives: u64,
    node: Option<Node>,
}

pub(super) struct World {
    shared: Shared,
    seats: Vec<Seat>,
    questions: Vec<(ContentId, Arc<Resolved>)>,
    wishes: Rng,
    faults: Rng,
    epochs: Rng,
    special: bool,
    calm: bool,
}

impl World {
    /// The world of a scenario, with everything scheduled that does not follow from something else.
    pub(super) fn new(scenario: &Scenario) -> Self {
        let stream = |purpose| Rng::stream(scenario.seed, purpose);
        let mut epochs = stream(Purpose::Epochs);
        let identities = std::iter::repeat_with(|| {
            let mut seed = [0; 32];
            seed[..16].copy_from_slice(&epochs.bytes());
            Identity::from_seed(seed)
        });
        let seat = |identity| Seat { identity, disk: Disk::default(), lives: 0, node: None };
        let seats: Vec<_> = identities.take(scenario.nodes).map(seat).collect();
        let places = seats.iter().enumerate().map(|(place, seat)| (seat.identity.node(), place)).collect();
        let shared = Shared {
            queue: Queue::default(),
            network: Network::new(stream(Purpose::Network), scenario.latency.clone(), scenario.loss),
            places,
            verifier: MemoVerifier::default(),
            jobs: BTreeMap::new(),
            computing: stream(Purpose::Compute),
            disks: stream(Purpose::Disk),
            compute: scenario.compute.clone(),
            sync: scenario.sync.clone(),
            computed: 0,
            fetched: 0,
            violations: Vec::new(),
        };
        let questions = (0..scenario.questions).map(|number| {
            let request = Request::new(Program::wasm(&b"simulated"[..])).arg(number.to_string());
            let id = request.id().expect("a short argument is well-formed");
            (id, Arc::new(Resolved { request, upstream: Vec::new() }))
        });
        let mut world = Self {
            shared,
            seats,
            questions: questions.collect(),
            wishes: stream(Purpose::Workload),
            faults: stream(Purpose::Faults),
            epochs,
            special: scenario.asks.is_some(),
            calm: false,
        };
        world.schedule(scenario);
        world
    }

    fn schedule(&mut self, scenario: &Scenario) {
        let Self { shared: Shared { queue, .. }, wishes, faults, seats, .. } = self;
        let span = Duration::ZERO..scenario.faulty;
        for place in 0..seats.len() {
            queue.at(Time::default(), Event::Restart(place));
        }
        match scenario.asks {
            Some(asks) => {
                for _ in 0..asks {
                    let ask = Event::Ask(wishes.index(seats.len()), wishes.index(scenario.questions));
                    queue.at(Time(wishes.within(&span)), ask);
                }
            }
            None => {
                for place in 0..seats.len() {
                    let turn = SETTLE * u32::try_from(place + 1).unwrap_or(u32::MAX);
                    (0..scenario.questions).for_each(|question| queue.at(Time(turn), Event::Ask(place, question)));
                }
            }
        }
        for _ in 0..scenario.crashes {
            queue.at(Time(faults.within(&span)), Event::Crash(faults.index(seats.len())));
        }
        for _ in 0..scenario.breaks {
            let (a, b) = (faults.index(seats.len()), faults.index(seats.len()));
            queue.at(Time(faults.within(&span)), Event::Break(a, b));
        }
        queue.at(Time(scenario.faulty), Event::Calm);
    }

    /// Runs to the end and looks at everything.
    pub(super) fn run(mut self, end: Time) -> Report {
        while let Some(event) = self.shared.queue.pop(end) {
            self.take(event);
            if self.shared.queue.scheduled() > MAX_EVENTS {
                self.shared.violations.push(format!("more than {MAX_EVENTS} events: it does not come to rest"));
                break;
            }
        }
        self.check_all();
        let Shared { queue, jobs, computed, fetched, violations, .. } = self.shared;
        let outcomes = Outcomes::count(jobs.values().flat_map(|job| &job.ends));
        Report { trace_digest: queue.digest(), events: queue.scheduled(), outcomes, computed, fetched, violations }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Ask(place, question) => self.on_ask(place, question),
            Event::Abandon(life, job) => self.with(life, |node, shared| node.on_abandon(shared, job)),
            Event::Frame { from, to, lane, bytes } => {
                let sender = self.seats[from].identity.node();
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
                self.cut(a, b);
                self.shared.queue.after(REDIAL, Event::Up(a, b));
            }
            Event::Done(life, _, input) => self.with(life, |node, shared| node.apply(shared, *input)),
            Event::Computed(life, flight) => self.with(life, |node, shared| node.on_computed(shared, flight)),
            Event::Written(life) => self.with(life, Node::on_written),
            Event::Synced(life) => {
                let seat = &mut self.seats[life.place];
                if let Some(node) = seat.node.as_mut().filter(|node| node.hands.life == life) {
                    node.on_synced(&mut self.shared, &mut seat.disk);
                }
            }
            Event::Wake(life, at) => self.with(life, |node, shared| node.on_wake(shared, at)),
            Event::Crash(place) => self.on_crash(place),
            Event::Restart(place) => self.on_restart(place),
            Event::Calm => {
                self.calm = true;
                self.shared.network.loss = 0;
            }
        }
    }

    /// Does something with a node if it still lives that life.
    fn with(&mut self, life: Life, act: impl FnOnce(&mut Node, &mut Shared)) {
        if let Some(node) = self.seats[life.place].node.as_mut().filter(|node| node.hands.life == life) {
            act(node, &mut self.shared);
        }
    }

    /// A caller asks as `Node::eval` does: the cassette first, then the fabric.
    fn on_ask(&mut self, place: Place, question: usize) {
        let (id, request) = &self.questions[question];
        let id = *id;
        let special = self.special;
        let wishes = |rng: &mut Rng| special && rng.happens(SPECIAL);
        let answer_from = match (wishes(&mut self.wishes), wishes(&mut self.wishes)) {
            (true, _) => AnswerFrom::HeldOnly,
            (_, true) => AnswerFrom::ComputedOnly,
            _ => AnswerFrom::Anywhere,
        };
        let timeout = wishes(&mut self.wishes).then(|| Duration::from_millis(self.wishes.below(40)));
        let leaves = wishes(&mut self.wishes).then(|| Duration::from_millis(self.wishes.below(40)));
        let Some(node) = &mut self.seats[place].node else { return };
        let job = JobId(self.shared.jobs.len() as u64);
        self.shared.jobs.insert(job, Job { id, answer_from, timed: timeout.is_some(), ends: Vec::new() });
        if answer_from != AnswerFrom::ComputedOnly {
            match node.hands.cassette.lookup(id) {
                Ok(Lookup::Hit(held)) => return self.shared.end(job, End::Hit(held.into_reply())),
                Ok(Lookup::Miss(_)) => {}
                Err(error) => self.shared.violations.push(format!("a look-up failed: {error}")),
            }
        }
        node.hands.waiting.insert(job);
        if let Some(leaves) = leaves {
            self.shared.queue.after(leaves, Event::Abandon(node.hands.life, job));
        }
        let request = (answer_from != AnswerFrom::HeldOnly).then(|| Arc::clone(request));
        node.apply(&mut self.shared, Input::Eval(Ask { job, id, request, answer_from, timeout }));
    }

    fn on_up(&mut self, a: Place, b: Place) {
        let both = a != b && [a, b].iter().all(|place| self.seats[*place].node.is_some());
        if !both || !self.shared.network.open(a, b) {
            return;
        }
        for (place, peer) in [(a, b), (b, a)] {
            self.down(place, peer);
            let name = self.seats[peer].identity.node();
            if let Some(node) = &mut self.seats[place].node {
                node.hands.lanes.insert(peer);
                node.apply(&mut self.shared, Input::PeerUp(name));
            }
        }
    }

    fn down(&mut self, place: Place, peer: Place) {
        let name = self.seats[peer].identity.node();
        if let Some(node) = &mut self.seats[place].node
            && node.hands.lanes.remove(&peer)
        {
            node.apply(&mut self.shared, Input::PeerDown(name));
        }
    }

    /// Cuts a lane; both ends notice a little later.
    fn cut(&mut self, a: Place, b: Place) {
        let Some(lane) = self.shared.network.close(a, b) else { return };
        for (place, peer) in [(a, b), (b, a)] {
            let wait = self.faults.within(&self.shared.network.latency);
            self.shared.queue.after(wait, Event::Down { place, peer, lane });
        }
    }

    fn on_crash(&mut self, place: Place) {
        let Some(node) = self.seats[place].node.take() else { return };
        for job in &node.hands.waiting {
            self.shared.end(*job, End::Crashed);
        }
        drop(node);
        self.seats[place].disk.crash(self.faults.index(TORN));
        (0..self.seats.len()).filter(|peer| *peer != place).for_each(|peer| self.cut(place, peer));
        self.shared.queue.after(AWAY, Event::Restart(place));
    }

    fn on_restart(&mut self, place: Place) {
        let Seat { identity, disk, lives, node } = &mut self.seats[place];
        *lives += 1;
        let life = Life { place, number: *lives };
        match Node::start(identity.clone(), life, disk, &mut self.epochs, &mut self.shared) {
            Ok(started) => {
                let broken = check::promises_are_kept(&disk.promised, &started.hands.cassette);
                self.shared.violations.extend(broken);
                *node = Some(started);
            }
            Err(error) => self.shared.violations.push(format!("a node did not come back: {error}")),
        }
        for peer in (0..self.seats.len()).filter(|peer| *peer != place) {
            self.shared.queue.after(REDIAL, Event::Up(place, peer));
        }
    }

    fn check_all(&mut self) {
        let jobs = &self.shared.jobs;
        let mut found = check::every_job_ends_once(jobs);
        found.extend(check::delivered_is_right(jobs));
        found.extend(check::errors_are_asked_for(jobs));
        let ids: Vec<_> = self.questions.iter().map(|(id, _)| *id).collect();
        for seat in &self.seats {
            let Some(node) = &seat.node else {
                found.push("a node is not up at the end".to_owned());
                continue;
            };
            let cassette = &node.hands.cassette;
            let log = check::facts_of_log(cassette, &seat.identity);
            found.extend(check::promises_are_kept(&seat.disk.promised, cassette));
            found.extend(check::announced_is_served(&log, &ids, cassette, &seat.identity));
            for other in self.seats.iter().filter_map(|other| other.node.as_ref()) {
                if other.hands.life.place != node.hands.life.place {
                    found.extend(check::index_is_the_log(&other.fabric, seat.identity.node(), &log));
                }
            }
        }
        if !self.calm {
            found.push("the faults never stopped".to_owned());
        }
        self.shared.violations.extend(found);
    }
}
