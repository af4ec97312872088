//! Which faults come when: a plan that follows from scenario and seed alone, before anything runs.
//!
//! Faults come in episodes, each a few steps on a few nodes that belong together. Every kind has a random stream of its own, and episodes keep
//! their numbers, so that any of them can be left out (`shrink`) without another one changing. Invariant: a plan ends before the calm begins.

use std::time::Duration;

use super::Place;
use super::disk::Torn;
use super::rng::{Purpose, Rng};
use super::scenario::Scenario;
use super::span::{self, Span};
use crate::ledger::Op;

/// What a step does to the world.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Act {
    /// The node is gone: with everything durable, or as the power leaves it.
    Stop(Place, Stop),
    Start(Place),
    Pause(Place, Duration),
    Break(Place, Place),
    /// Frames vanish in this direction.
    Cut(Place, Place),
    Mend(Place, Place),
    /// After so many more operations of this sort one fails.
    Fail(Place, Op, u64),
    /// After so many more writes one is torn and all later ones fail.
    Fill(Place, u64, usize),
    HealDisk(Place),
    Slow(Place, bool),
    /// Flips a bit; the number says which one.
    Rot(Place, u64),
    /// Keeps an image of the disk.
    Image(Place),
    Jump(Place, i64),
    /// Gives a file another text; the number says which.
    Edit(Place, u64),
}

/// How a node ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stop {
    Clean,
    Power(Torn),
    /// And its disk is replaced by the image.
    Replaced,
}

/// A kind of fault, as in [`super::Faults`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// Power lost, or a clean stop.
    Crash,
    /// Standing still.
    Pause,
    /// A connection reset.
    Reset,
    /// No way between two nodes.
    Cut,
    /// No way in one direction.
    OneWay,
    /// Two halves.
    Partition,
    /// Nodes cut off one by one.
    Swizzle,
    /// A connection that comes and goes.
    Flap,
    /// No space on a disk.
    Full,
    /// A failing disk operation.
    Error,
    /// A slow disk.
    Slow,
    /// A flipped bit.
    Rot,
    /// An older image of a disk.
    Rollback,
    /// A wall clock that jumps.
    Jump,
    /// Edited files.
    Edit,
}

/// One fault from its begin to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Episode {
    /// Its number in the plan, for `--skip`.
    pub number: usize,
    /// Its kind.
    pub kind: Kind,
    /// When it begins.
    pub from: Duration,
    /// When it ends.
    pub to: Duration,
    /// Whom it concerns.
    pub nodes: Vec<Place>,
    pub(super) steps: Vec<(Duration, Act)>,
}

impl Episode {
    /// Whether it was played, as opposed to left out.
    #[must_use]
    pub fn is_played(&self) -> bool {
        !self.steps.is_empty()
    }

    /// It in one line.
    #[must_use]
    pub fn describe(&self) -> String {
        let nodes: Vec<_> = self.nodes.iter().map(ToString::to_string).collect();
        let (from, to) = (span::format(self.from), span::format(self.to));
        format!("#{} {:?} of node {} from {from} to {to}", self.number, self.kind, nodes.join(", "))
    }
}

type Steps = Vec<(Duration, Act)>;

/// The whole plan of a scenario, in order of kind; `peers` says who is connected to whom.
pub(super) fn plan(scenario: &Scenario, peers: &[Vec<Place>]) -> Vec<Episode> {
    let f = &scenario.faults;
    let kinds = [
        (Kind::Crash, f.crashes),
        (Kind::Pause, f.pauses),
        (Kind::Reset, f.resets),
        (Kind::Cut, f.cuts),
        (Kind::OneWay, f.one_way),
        (Kind::Partition, f.partitions),
        (Kind::Swizzle, f.swizzles),
        (Kind::Flap, f.flaps),
        (Kind::Full, f.full),
        (Kind::Error, f.errors),
        (Kind::Slow, f.slow),
        (Kind::Rot, f.rot),
        (Kind::Rollback, f.rollbacks),
        (Kind::Jump, f.jumps),
        (Kind::Edit, f.edits),
    ];
    let mut plan = Vec::new();
    for (kind, count) in kinds {
        let mut rng = Rng::stream(scenario.seed, Purpose::Faults, kind as u64);
        for _ in 0..count {
            plan.push(episode(kind, plan.len(), (scenario.faulty, peers), &mut rng));
        }
    }
    plan
}

fn episode(kind: Kind, number: usize, (end, peers): (Duration, &[Vec<Place>]), rng: &mut Rng) -> Episode {
    let from = rng.within(&Span { from: Duration::ZERO, to: end });
    let length = rng.within(&Span { from: Duration::from_millis(50), to: Duration::from_secs(5) });
    let to = (from + length).min(end);
    let nodes = targets(kind, peers, rng);
    let steps = steps(kind, (from, to), &nodes, peers, rng);
    Episode { number, kind, from, to, nodes, steps }
}

/// Whom it hits: one node, a pair that is connected, or a set.
fn targets(kind: Kind, peers: &[Vec<Place>], rng: &mut Rng) -> Vec<Place> {
    let nodes = peers.len();
    let mut all: Vec<_> = (0..nodes).collect();
    rng.shuffle(&mut all);
    let pair = matches!(kind, Kind::Reset | Kind::Cut | Kind::OneWay | Kind::Flap);
    if let [first, second, ..] = &mut all[..]
        && pair
        && !peers[*first].contains(second)
    {
        *second = *rng.pick(&peers[*first]).unwrap_or(second);
    }
    all.truncate(match kind {
        _ if pair => 2,
        Kind::Partition => nodes / 2,
        Kind::Swizzle => 1 + rng.index(nodes.min(8)),
        _ => 1,
    });
    all
}

fn steps(kind: Kind, (from, to): (Duration, Duration), nodes: &[Place], peers: &[Vec<Place>], rng: &mut Rng) -> Steps {
    let length = to.saturating_sub(from);
    let Some(&node) = nodes.first() else { return Vec::new() };
    let pair = nodes.get(1).map(|other| (node, *other));
    match kind {
        Kind::Crash => {
            let stop = if rng.happens(200) { Stop::Clean } else { Stop::Power(torn(rng)) };
            vec![(from, Act::Stop(node, stop)), (to, Act::Start(node))]
        }
        Kind::Pause => vec![(from, Act::Pause(node, length.min(Duration::from_secs(2))))],
        Kind::Reset => pair.map_or_else(Vec::new, |(a, b)| vec![(from, Act::Break(a, b))]),
        Kind::Cut => pair.map_or_else(Vec::new, |(a, b)| cut_between(from, to, [(a, b)])),
        Kind::OneWay => pair.map_or_else(Vec::new, |(a, b)| vec![(from, Act::Cut(a, b)), (to, Act::Mend(a, b))]),
        Kind::Partition => cut_between(from, to, across(nodes, peers)),
        Kind::Swizzle => swizzle(from, to, nodes, peers, rng),
        Kind::Flap => pair.map_or_else(Vec::new, |(a, b)| {
            let beat = length / 8;
            (0..4).flat_map(|n| cut_between(from + beat * (2 * n), from + beat * (2 * n + 1), [(a, b)])).collect()
        }),
        Kind::Full => vec![(from, Act::Fill(node, rng.below(6), rng.index(600))), (to, Act::HealDisk(node))],
        Kind::Error => {
            let op = *rng.pick(&[Op::Read, Op::Write, Op::Sync, Op::Name, Op::SyncDir]).unwrap_or(&Op::Sync);
            vec![(from, Act::Fail(node, op, rng.below(6))), (to, Act::HealDisk(node))]
        }
        Kind::Slow => vec![(from, Act::Slow(node, true)), (to, Act::Slow(node, false))],
        Kind::Rot => vec![(from, Act::Rot(node, rng.bits()))],
        Kind::Rollback => {
            let back = (to + Duration::from_millis(500)).min(to + length);
            vec![(from, Act::Image(node)), (to, Act::Stop(node, Stop::Replaced)), (back, Act::Start(node))]
        }
        Kind::Jump => {
            let seconds = i64::try_from(rng.below(7200)).unwrap_or_default() - 3600;
            vec![(from, Act::Jump(node, seconds * 1_000_000))]
        }
        Kind::Edit => [from, from + length / 2, to].map(|at| (at, Act::Edit(node, rng.bits()))).into(),
    }
}

fn torn(rng: &mut Rng) -> Torn {
    match rng.below(3) {
        0 => Torn::Nothing,
        1 => Torn::Prefix(rng.index(2048)),
        _ => Torn::Blocks(rng.bits()),
    }
}

/// Cuts these links, both ways.
fn cut_between(from: Duration, to: Duration, links: impl IntoIterator<Item = (Place, Place)>) -> Steps {
    let mut steps = Vec::new();
    for (a, b) in links {
        steps.extend([(from, Act::Cut(a, b)), (from, Act::Cut(b, a)), (from, Act::Break(a, b))]);
        steps.extend([(to, Act::Mend(a, b)), (to, Act::Mend(b, a))]);
    }
    steps
}

/// The links between a set of nodes and all others.
fn across(nodes: &[Place], peers: &[Vec<Place>]) -> Vec<(Place, Place)> {
    let mut inside = vec![false; peers.len()];
    // In the order of the set, which is a random one.
    let mut order = vec![0; peers.len()];
    for (at, node) in nodes.iter().enumerate() {
        (inside[*node], order[*node]) = (true, at);
    }
    let mut links = Vec::new();
    for other in (0..peers.len()).filter(|other| !inside[*other]) {
        let mut mine: Vec<_> = peers[other].iter().copied().filter(|node| inside[*node]).collect();
        mine.sort_unstable_by_key(|node| order[*node]);
        links.extend(mine.into_iter().map(|node| (other, node)));
    }
    links
}

/// Cuts nodes off one after the other, and brings them back in another order.
fn swizzle(from: Duration, to: Duration, nodes: &[Place], peers: &[Vec<Place>], rng: &mut Rng) -> Steps {
    let half = from + to.saturating_sub(from) / 2;
    let mut steps = Vec::new();
    for &node in nodes {
        let off = rng.within(&Span { from, to: half });
        let on = rng.within(&Span { from: half, to });
        steps.extend(cut_between(off, on, peers[node].iter().map(|other| (*other, node))));
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::scenario::Faults;

    fn scenario(faults: Faults) -> Scenario {
        Scenario { nodes: 5, seed: 3, faults, ..Scenario::default() }
    }

    fn mesh() -> Vec<Vec<Place>> {
        (0..5).map(|place| (0..5).filter(|other| *other != place).collect()).collect()
    }

    #[test]
    fn one_kind_does_not_reshuffle_another() {
        let few = scenario(Faults { crashes: 3, rot: 2, ..Faults::default() });
        let many = scenario(Faults { crashes: 5, rot: 2, flaps: 4, ..Faults::default() });
        let of = |scenario: &Scenario, kind| {
            plan(scenario, &mesh())
                .into_iter()
                .filter(|e| e.kind == kind)
                .map(|e| (e.from, e.steps))
                .collect::<Vec<_>>()
        };
        assert_eq!(of(&few, Kind::Rot), of(&many, Kind::Rot));
        assert_eq!(of(&few, Kind::Crash)[..], of(&many, Kind::Crash)[..3]);
        assert_ne!(of(&few, Kind::Crash), of(&few.with_seed(4), Kind::Crash));
    }

    #[test]
    fn faults_between_nodes_hit_links_that_there_are() {
        let ring: Vec<Vec<Place>> = (0..6).map(|place| vec![(place + 1) % 6, (place + 5) % 6]).collect();
        let all = Faults { resets: 9, cuts: 9, one_way: 9, partitions: 9, swizzles: 9, flaps: 9, ..Faults::default() };
        for episode in plan(&Scenario { nodes: 6, ..scenario(all) }, &ring) {
            let link = |act: &Act| match act {
                Act::Break(a, b) | Act::Cut(a, b) | Act::Mend(a, b) => (*a, *b),
                other => panic!("{other:?}"),
            };
            assert!(!episode.steps.is_empty());
            assert!(episode.steps.iter().all(|(_, act)| ring[link(act).0].contains(&link(act).1)), "{episode:?}");
        }
    }

    #[test]
    fn every_cut_is_mended_and_numbers_are_positions() {
        let all = Faults { cuts: 3, one_way: 3, partitions: 2, swizzles: 3, flaps: 2, ..Faults::default() };
        let plan = plan(&scenario(all), &mesh());
        assert!(plan.iter().enumerate().all(|(number, episode)| episode.number == number));
        for episode in plan {
            let cuts = |act: fn(&Act) -> Option<(Place, Place)>| {
                let mut links: Vec<_> = episode.steps.iter().filter_map(|(_, step)| act(step)).collect();
                links.sort_unstable();
                links
            };
            let cut = cuts(|act| if let Act::Cut(a, b) = act { Some((*a, *b)) } else { None });
            let mended = cuts(|act| if let Act::Mend(a, b) = act { Some((*a, *b)) } else { None });
            assert_eq!(cut, mended, "{}", episode.describe());
            assert!(!cut.is_empty() && cut.iter().all(|(a, b)| a != b));
            assert!(episode.to <= Duration::from_secs(10));
        }
    }
}
