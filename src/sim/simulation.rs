//! Setting a simulation up, running it, and what comes back.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::time::Duration;

use super::Place;
use super::check::{self, Check};
use super::clock::Clock;
use super::compute::{Evaluator, Synthetic};
use super::disk::Disk;
use super::faults::{self, Act, Episode, Kind};
use super::frames::Frames;
use super::history::{History, Story};
use super::liar::Liar;
use super::mutate::{Gullible, Mutation};
use super::network::Network;
use super::news::News;
use super::node::{Around, Shared};
use super::queue::Queue;
use super::report::Report;
use super::rng::{Purpose, Rng};
use super::scenario::{Pattern, Scenario, ScenarioError};
use super::seat::Seat;
use super::signatures::{Checked, Key};
use super::span::Span;
use super::timeline::{Hop, Hops, Sample};
use super::workload::{Ask, TURN, Workload};
use super::workspace::Workspace;
use super::world::{Watcher, World};
use crate::fabric::Time;
use crate::id::ContentId;
use crate::identity::Verifier;

/// A simulation that can be run.
#[must_use = "a simulation does nothing until it is run"]
pub struct Simulation<'a> {
    scenario: Scenario,
    asks: Option<Vec<Ask>>,
    evaluator: Option<Box<dyn Evaluator>>,
    checks: Vec<Check>,
    skip: BTreeSet<usize>,
    /// Faults beside those of the scenario.
    more: Vec<Episode>,
    until: Option<Duration>,
    mutation: Option<Mutation>,
    draw: bool,
    watch: Option<Watcher<'a>>,
}

impl fmt::Debug for Simulation<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Simulation").field("scenario", &self.scenario.name).finish_non_exhaustive()
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Run {
    /// Figures and verdict.
    pub report: Report,
    /// Everything that happened, as checkers see it.
    pub history: History,
    /// The faults that were played.
    pub episodes: Vec<Episode>,
    /// Figures over time.
    pub samples: Vec<Sample>,
    /// Who missed how much of whose log, summed over the samples.
    pub missed: Vec<(Place, Place, u64)>,
    /// Frames on their way, if they were to be drawn.
    pub hops: Vec<Hop>,
}

impl<'a> Simulation<'a> {
    /// The simulation of a scenario.
    pub fn new(scenario: Scenario) -> Self {
        let checks = check::ALL.to_vec();
        let (asks, evaluator, skip, more, until, mutation) = (None, None, BTreeSet::new(), Vec::new(), None, None);
        Self { scenario, asks, evaluator, checks, skip, more, until, mutation, draw: false, watch: None }
    }

    /// Asks these questions instead of the scenario's own.
    pub fn asks(mut self, asks: Vec<Ask>) -> Self {
        self.asks = Some(asks);
        self
    }

    /// Computes replies with this instead of the built-in evaluator.
    pub fn evaluator(mut self, evaluator: impl Evaluator + 'static) -> Self {
        self.evaluator = Some(Box::new(evaluator));
        self
    }

    /// Also checks this.
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// Leaves out episodes of faults, by number.
    pub fn skip(mut self, episodes: impl IntoIterator<Item = usize>) -> Self {
        self.skip.extend(episodes);
        self
    }

    /// Lets nothing through between these nodes and all others from a time on; their lanes stay up, as far as anybody can tell.
    pub fn black_holes(mut self, nodes: &[Place], from: Duration, to: Duration) -> Self {
        let others = (0..self.scenario.nodes).flat_map(|other| nodes.iter().map(move |node| (*node, other)));
        let ways = others.filter(|(node, other)| node != other).flat_map(|(a, b)| [(a, b), (b, a)]);
        let steps = ways.flat_map(|(a, b)| [(from, Act::Cut(a, b)), (to, Act::Mend(a, b))]).collect();
        self.more.push(Episode { number: usize::MAX, kind: Kind::OneWay, from, to, nodes: nodes.to_vec(), steps });
        self
    }

    /// Stops at this time; what was to come to rest later is not judged.
    pub fn until(mut self, until: Duration) -> Self {
        self.until = Some(until);
        self
    }

    /// Plants a bug.
    pub fn mutate(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        self
    }

    /// Keeps what a picture of the run needs.
    pub fn draw(mut self) -> Self {
        self.draw = true;
        self
    }

    /// Is told every event before it happens: when, to which node, and what.
    pub fn watch(mut self, watch: Watcher<'a>) -> Self {
        self.watch = Some(watch);
        self
    }

    /// Runs it.
    pub fn run(mut self) -> Result<Run, ScenarioError> {
        self.scenario.validate()?;
        let calm = self.calm();
        let end = calm + self.scenario.settle;
        let mut world = self.world(calm)?;
        let retractions = self.retractions(&world.plan);
        world.schedule(calm, &retractions);
        let stop = self.until.map_or(end, |until| until.min(end));
        world.run(Time(stop), self.watch.take());
        let whole = stop == end && !world.endless;
        let asked: Vec<ContentId> = world.plan.questions.iter().map(|question| question.id).collect();
        let names: Vec<_> = world.seats.iter().map(|seat| seat.name).collect();
        for (place, seat) in world.seats.iter_mut().enumerate() {
            let secret = seat.identity.seed();
            let history = &mut world.shared.history;
            if history.nodes[place].honest && seat.disk.contains(&secret) {
                history.nodes[place].leaks.push("on its disk".to_owned());
            }
            let (last, opened) = seat.finish(place, &names, history, &asked);
            history.finals.push(last);
            history.openings.extend(opened);
        }
        let traffic = world.shared.network.traffic;
        let Shared { mut queue, history, hops, news, .. } = world.shared;
        let mut violations = check::judge(&self.checks, &history, whole);
        if world.endless {
            violations.push(check::endless(queue.taken()));
        }
        let digest = queue.digest();
        let report =
            Report::new(&self.scenario, (digest, queue.taken()), &history, &world.samples, traffic, violations);
        let report = Report { news: news.spread(), ..report };
        let hops = hops.map(|hops| hops.0).unwrap_or_default();
        let missed = world.missed.into_iter().map(|((who, whom), sum)| (who, whom, sum)).collect();
        Ok(Run { report, history, episodes: world.episodes, samples: world.samples, missed, hops })
    }

    /// When faults end: never before everybody had a turn.
    fn calm(&self) -> Duration {
        let turns = match (&self.asks, self.scenario.workload.pattern) {
            (None, Pattern::Turns) => TURN * u32::try_from(self.scenario.askers().len() + 1).unwrap_or(u32::MAX),
            _ => Duration::ZERO,
        };
        let last = self.asks.iter().flatten().map(|ask| ask.at).max().unwrap_or_default();
        self.scenario.faulty.max(turns).max(last + Duration::from_nanos(1))
    }

    fn world(&mut self, calm: Duration) -> Result<World, ScenarioError> {
        let scenario = &self.scenario;
        let seed = scenario.seed;
        let mutation = self.mutation;
        let mut plan = match self.asks.take() {
            None => Workload::of(scenario),
            Some(asks) => {
                Workload::of_asks(asks).map_err(|error| ScenarioError::Text(format!("a question: {error}")))?
            }
        };
        if let Some(wrong) = plan.asks.iter().find(|ask| ask.node >= scenario.nodes) {
            let bound = format!("below the number of nodes, {}", scenario.nodes);
            return Err(ScenarioError::Bound { what: "node of a question", found: wrong.node.to_string(), bound });
        }
        let first_liar = scenario.nodes - scenario.liars.count;
        let askers = scenario.askers();
        plan.probe(calm, &askers.iter().copied().filter(|place| *place < first_liar).collect::<Vec<_>>());
        let (peers, checked) = (topology(scenario), Checked::default());
        let mut episodes = faults::plan(scenario, &peers);
        let seat = |(place, peers): (Place, Vec<Place>)| {
            let mut key = [0; 32];
            let mut rng = Rng::stream(seed, Purpose::Identity, place as u64);
            key[..16].copy_from_slice(&rng.bytes());
            key[16..].copy_from_slice(&rng.bytes());
            let epochs = Rng::stream(seed, Purpose::Epochs, place as u64);
            // News travels over links to everybody, and without them to neighbours only.
            let mut follows: BTreeSet<_> = peers.iter().copied().collect();
            follows.extend(askers.iter().filter(|author| scenario.is_overlay() && **author != place));
            let disk = Disk::new(scenario.disk, mutation);
            Seat::new(Key::new(key, &checked), disk, (peers, follows.into_iter().collect()), epochs)
        };
        let seats: Vec<Seat> = peers.into_iter().enumerate().map(seat).collect();
        let around = |place: Place| {
            let stream = |purpose| Rng::stream(seed, purpose, place as u64);
            let liar = (place >= first_liar)
                .then(|| Liar::new(stream(Purpose::Lies), scenario.liars.share, &scenario.liars.lies));
            let clock = Clock::new(scenario.clock, &mut stream(Purpose::Clock));
            let (computing, work) = (stream(Purpose::Compute), stream(Purpose::Disk));
            let workspace = Workspace::new(scenario.workspaces);
            Around { clock, computing, work, liar, workspace, slow: 1, paused: Time::default(), held: VecDeque::new() }
        };
        let story = |(place, seat): (Place, &Seat)| Story { honest: place < first_liar, ..Story::new(seat.name) };
        let history = History { nodes: seats.iter().enumerate().map(story).collect(), ..History::default() };
        let verifier: Box<dyn Verifier> = match mutation {
            Some(Mutation::TrustEverybody) => Box::new(Gullible),
            _ => Box::new(checked),
        };
        let synthetic = Synthetic { questions: scenario.questions, compute: scenario.compute };
        let shared = Shared {
            queue: Queue::default(),
            frames: Frames::default(),
            network: Network::new(scenario.network, seed, scenario.nodes),
            places: seats.iter().enumerate().map(|(place, seat)| (seat.name, place)).collect(),
            verifier,
            history,
            evaluator: self.evaluator.take().unwrap_or_else(|| Box::new(synthetic)),
            disk: scenario.disk,
            mesh: scenario.mesh,
            news: News::default(),
            around: (0..scenario.nodes).map(around).collect(),
            mutation,
            runs: 0,
            deliveries: 0,
            hops: self.draw.then(Hops::default),
        };
        episodes.append(&mut self.more);
        episodes.iter_mut().filter(|e| self.skip.contains(&e.number)).for_each(|e| e.steps.clear());
        let faults = Rng::stream(seed, Purpose::Faults, u64::MAX);
        Ok(World {
            shared,
            seats,
            plan,
            episodes,
            faults,
            samples: Vec::new(),
            endless: false,
            missed: BTreeMap::new(),
        })
    }

    /// When which node retracts its answer to which question.
    fn retractions(&self, plan: &Workload) -> Vec<(Duration, Place, usize)> {
        let mut rng = Rng::stream(self.scenario.seed, Purpose::Callers, 1);
        let span = Span { from: Duration::ZERO, to: self.scenario.faulty };
        let asked: Vec<_> = plan.asks.iter().filter(|ask| !ask.probe).collect();
        let retraction = |_| {
            let after = rng.within(&span);
            let ask = rng.pick(&asked)?;
            Some(((ask.at + after / 4).min(self.scenario.faulty), ask.node, ask.question))
        };
        (0..self.scenario.workload.retractions).filter_map(retraction).collect()
    }
}

/// Who is connected to whom: everybody, or a ring with random chords.
pub(super) fn topology(scenario: &Scenario) -> Vec<Vec<Place>> {
    let nodes = scenario.nodes;
    let Some(degree) = scenario.degree.filter(|degree| *degree + 1 < nodes) else {
        return (0..nodes).map(|place| (0..nodes).filter(|other| *other != place).collect()).collect();
    };
    let mut rng = Rng::stream(scenario.seed, Purpose::Topology, 0);
    let mut peers = vec![BTreeSet::new(); nodes];
    let link = |peers: &mut Vec<BTreeSet<Place>>, a: Place, b: Place| {
        if a != b {
            peers[a].insert(b);
            peers[b].insert(a);
        }
    };
    (0..nodes).for_each(|place| link(&mut peers, place, (place + 1) % nodes));
    for place in 0..nodes {
        // Bounded: a full neighbourhood is found soon or not at all.
        for _ in 0..4 * degree {
            let other = rng.index(nodes);
            if peers[place].len() < degree && peers[other].len() < degree {
                link(&mut peers, place, other);
            }
        }
    }
    peers.into_iter().map(|peers| peers.into_iter().collect()).collect()
}
