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

/// The whole plan of a scenario, in order of kind.
pub(super) fn plan(scenario: &Scenario) -> Vec<Episode> {
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
            plan.push(episode(kind, plan.len(), scenario, &mut rng));
        }
    }
    plan
}

fn episode(kind: Kind, number: usize, scenario: &Scenario, rng: &mut Rng) -> Episode {
    let end = scenario.faulty;
    let from = rng.within(&Span { from: Duration::ZERO, to: end });
    let length = rng.within(&Span { from: Duration::from_millis(50), to: Duration::from_secs(5) });
    let to = (from + length).min(end);
    let nodes = targets(kind, scenario.nodes, rng);
    let steps = steps(kind, (from, to), &nodes, scenario.nodes, rng);
    Episode { number, kind, from, to, nodes, steps }
}

/// Whom it hits: one node, a pair, or a set.
fn targets(kind: Kind, nodes: usize, rng: &mut Rng) -> Vec<Place> {
    let mut all: Vec<_> = (0..nodes).collect();
    rng.shuffle(&mut all);
    all.truncate(match kind {
        Kind::Reset | Kind::Cut | Kind::OneWay | Kind::Flap => 2,
        Kind::Partition => nodes / 2,
        Kind::Swizzle => 1 + rng.index(nodes.min(8)),
        _ => 1,
    });
    all
}

fn steps(kind: Kind, (from, to): (Duration, Duration), nodes: &[Place], all: usize, rng: &mut Rng) -> Steps {
    let length = to.saturating_sub(from);
    let Some(&node) = nodes.first() else { return Vec::new() };
    let pair = nodes.get(1).map(|other| (node, *other));
    let outside = || (0..all).filter(|other| !nodes.contains(other));
    match kind {
        Kind::Crash => {
            let stop = if rng.happens(200) { Stop::Clean } else { Stop::Power(torn(rng)) };
            vec![(from, Act::Stop(node, stop)), (to, Act::Start(node))]
        }
        Kind::Pause => vec![(from, Act::Pause(node, length.min(Duration::from_secs(2))))],
        Kind::Reset => pair.map_or_else(Vec::new, |(a, b)| vec![(from, Act::Break(a, b))]),
        Kind::Cut => pair.map_or_else(Vec::new, |(a, b)| cut_between(from, to, [a], &[b])),
        Kind::OneWay => pair.map_or_else(Vec::new, |(a, b)| vec![(from, Act::Cut(a, b)), (to, Act::Mend(a, b))]),
        Kind::Partition => cut_between(from, to, outside(), nodes),
        Kind::Swizzle => swizzle(from, to, nodes, all, rng),
        Kind::Flap => pair.map_or_else(Vec::new, |(a, b)| {
            let beat = length / 8;
            (0..4).flat_map(|n| cut_between(from + beat * (2 * n), from + beat * (2 * n + 1), [a], &[b])).collect()
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

/// Cuts every link between two sets, both ways.
fn cut_between(from: Duration, to: Duration, left: impl IntoIterator<Item = Place>, right: &[Place]) -> Steps {
    let mut steps = Vec::new();
    for a in left {
        for &b in right.iter().filter(|b| **b != a) {
            steps.extend([(from, Act::Cut(a, b)), (from, Act::Cut(b, a)), (from, Act::Break(a, b))]);
            steps.extend([(to, Act::Mend(a, b)), (to, Act::Mend(b, a))]);
        }
    }
    steps
}

/// Cuts nodes off one after the other, and brings them back in another order.
fn swizzle(from: Duration, to: Duration, nodes: &[Place], all: usize, rng: &mut Rng) -> Steps {
    let half = from + to.saturating_sub(from) / 2;
    let mut steps = Vec::new();
    for &node in nodes {
        let off = rng.within(&Span { from, to: half });
        let on = rng.within(&Span { from: half, to });
        steps.extend(cut_between(off, on, 0..all, &[node]));
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

    #[test]
    fn one_kind_does_not_reshuffle_another() {
        let few = scenario(Faults { crashes: 3, rot: 2, ..Faults::default() });
        let many = scenario(Faults { crashes: 5, rot: 2, flaps: 4, ..Faults::default() });
        let of = |scenario: &Scenario, kind| {
            plan(scenario).into_iter().filter(|e| e.kind == kind).map(|e| (e.from, e.steps)).collect::<Vec<_>>()
        };
        assert_eq!(of(&few, Kind::Rot), of(&many, Kind::Rot));
        assert_eq!(of(&few, Kind::Crash)[..], of(&many, Kind::Crash)[..3]);
        assert_ne!(of(&few, Kind::Crash), of(&few.with_seed(4), Kind::Crash));
    }

    #[test]
    fn every_cut_is_mended_and_numbers_are_positions() {
        let all = Faults { cuts: 3, one_way: 3, partitions: 2, swizzles: 3, flaps: 2, ..Faults::default() };
        let plan = plan(&scenario(all));
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
