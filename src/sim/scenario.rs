//! What is simulated, as plain data: a file in `simulations/`, or a value in a test.
//!
//! A scenario and a seed fix a run completely. Invariant: what [`Scenario::validate`] passes can be run; nothing else is.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::Place;
use super::liar::Lie;
use super::span::{self, Span};
use crate::limits::MESH_LANES;

/// More nodes than this would not fit in memory.
const MAX_NODES: usize = 10_000;
/// A full mesh beyond this is not how fleets are built (DESIGN section 6); give a degree.
const MAX_MESH: usize = 256;

/// Why a scenario cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ScenarioError {
    /// The text is not a scenario.
    #[error("not a scenario: {0}")]
    Text(String),
    /// A value is out of its bounds.
    #[error("`{what}` is {found}, it must be {bound}")]
    Bound {
        /// Which value.
        what: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        bound: String,
    },
}

impl ScenarioError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Text(_) => {
                "compare it with the files in simulations/; every key is explained in simulations/storm.toml"
            }
            Self::Bound { .. } => "change that value in the scenario",
        }
    }
}

/// What is simulated. Every field has a default, so a file names only what it is about.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Scenario {
    /// What it is called: its file's name without the ending.
    pub name: String,
    /// What it is about, in one line.
    pub about: String,
    /// The first seed.
    pub seed: u64,
    /// How many seeds `sim run` tries.
    pub seeds: u64,
    /// How many nodes.
    pub nodes: usize,
    /// To how many others each node is connected; all of them if absent.
    pub degree: Option<usize>,
    /// Up to how many lanes a node tells all of them what is new; with more of them the links of an overlay do.
    pub mesh: usize,
    /// How long anything may fail. Asks come in this time.
    #[serde(with = "span::one")]
    pub faulty: Duration,
    /// How long everything then gets to come to rest.
    #[serde(with = "span::one")]
    pub settle: Duration,
    /// What is asked.
    pub questions: Questions,
    /// Who asks when.
    pub workload: Asks,
    /// Files that questions are about.
    pub workspaces: Workspaces,
    /// How frames travel.
    pub network: Network,
    /// How disks behave.
    pub disk: Disk,
    /// How evaluations behave.
    pub compute: Compute,
    /// How clocks behave.
    pub clock: Clock,
    /// How many episodes of each kind of fault there are.
    pub faults: Faults,
    /// Nodes that lie.
    pub liars: Liars,
}

impl Default for Scenario {
    /// Two nodes that ask the same twenty questions one after the other, without faults.
    fn default() -> Self {
        Self {
            name: "calm".to_owned(),
            about: String::new(),
            seed: 0,
            seeds: 20,
            nodes: 2,
            degree: None,
            mesh: MESH_LANES,
            faulty: Duration::from_secs(10),
            settle: Duration::from_secs(12),
            questions: Questions::default(),
            workload: Asks::default(),
            workspaces: Workspaces::default(),
            network: Network::default(),
            disk: Disk::default(),
            compute: Compute::default(),
            clock: Clock::default(),
            faults: Faults::default(),
            liars: Liars::default(),
        }
    }
}

/// What is asked. Shares are per thousand questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Questions {
    /// How many different ones there are; `steady` asks make their own.
    pub count: usize,
    /// Whose replies are too large to travel with their record.
    pub large: u32,
    /// How large these are at most, in kilobytes, and at least half of that; from 256 to 630 if 0.
    pub kilobytes: u32,
    /// Whose replies are observations: another one at every evaluation.
    pub observed: u32,
    /// That have no key: never looked up, joined or served.
    pub volatile: u32,
    /// Whose programs trap, always at the same point.
    pub trapping: u32,
}

impl Default for Questions {
    fn default() -> Self {
        Self { count: 20, large: 60, kilobytes: 0, observed: 0, volatile: 0, trapping: 0 }
    }
}

/// Who asks when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Asks {
    /// In what pattern.
    pub pattern: Pattern,
    /// How many asks in all, for `random`; how many waves, for `herd`.
    pub asks: usize,
    /// How many nodes ask, the others only listen; all of them if absent.
    pub askers: Option<usize>,
    /// How often each node asks, for `steady`.
    #[serde(with = "span::one")]
    pub every: Duration,
    /// `steady` asks that repeat somebody's earlier question, per thousand.
    pub repeats: u32,
    /// Callers who want something special, per thousand and wish: held answers only, a fresh computation, a timeout, to go away early.
    pub special: u32,
    /// How many times a node says that an answer is never to be served again.
    pub retractions: usize,
}

impl Default for Asks {
    fn default() -> Self {
        let every = Duration::from_secs(1);
        Self { pattern: Pattern::Turns, asks: 150, askers: None, every, repeats: 300, special: 0, retractions: 0 }
    }
}

/// In what pattern nodes ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Pattern {
    /// Each node asks every question once, one node after the other.
    Turns,
    /// Any node asks any question at any time.
    Random,
    /// Each node asks at a fixed pace, mostly something new.
    Steady,
    /// All nodes ask the same question at the same instant, wave after wave.
    Herd,
}

/// Files on every node that questions are about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Workspaces {
    /// How many files each node has.
    pub files: usize,
    /// How many different texts a file may have.
    pub texts: u64,
    /// Asks that are about files of the asker's workspace, one to three of them, per thousand.
    pub asks: u32,
}

impl Default for Workspaces {
    fn default() -> Self {
        Self { files: 6, texts: 3, asks: 0 }
    }
}

/// How frames travel. Chances are per thousand frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Network {
    /// How long a frame travels.
    pub latency: Span,
    /// Frames that take 2 to 32 times as long.
    pub tail: u32,
    /// Frames lost while anything may fail.
    pub loss: u32,
    /// Frames that arrive twice while anything may fail.
    pub duplicate: u32,
    /// Frames that do not wait for those before them while anything may fail.
    pub reorder: u32,
    /// Kilobytes per second and direction of a link; without a limit if 0.
    pub bandwidth: u64,
}

impl Default for Network {
    fn default() -> Self {
        let latency = Span { from: Duration::from_micros(100), to: Duration::from_millis(5) };
        Self { latency, tail: 0, loss: 0, duplicate: 0, reorder: 0, bandwidth: 0 }
    }
}

/// How disks behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Disk {
    /// How long a write takes.
    pub write: Span,
    /// How long after a write what needs no sync at once is synced.
    pub sync: Span,
    /// How large a segment may grow, in kilobytes.
    pub segment: u64,
    /// Replies kept in memory, in kilobytes; what does not fit is read from the disk.
    pub ram: usize,
}

impl Default for Disk {
    fn default() -> Self {
        Self {
            write: Span { from: Duration::from_micros(50), to: Duration::from_millis(2) },
            sync: Span { from: Duration::from_millis(1), to: Duration::from_millis(50) },
            segment: 64 * 1024,
            ram: 64 * 1024,
        }
    }
}

/// How evaluations behave. Chances are per thousand evaluations.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Compute {
    /// How long one takes.
    pub takes: Span,
    /// Evaluations that hang until a watchdog ends them.
    pub hangs: u32,
    /// Evaluators that break down.
    pub fails: u32,
}

impl Default for Compute {
    fn default() -> Self {
        let takes = Span { from: Duration::from_millis(1), to: Duration::from_millis(200) };
        Self { takes, hangs: 0, fails: 0 }
    }
}

/// How clocks behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Clock {
    /// By how much a node's monotonic clock may run fast or slow, in parts per million.
    pub drift: u32,
    /// By how many seconds a node's wall clock may be wrong.
    pub skew: u32,
}

/// How many episodes of each kind of fault there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Faults {
    /// A node loses power: memory and what its disk has not synced are lost.
    pub crashes: usize,
    /// A node stands still for a while, and wakes to find that time has passed.
    pub pauses: usize,
    /// A connection is reset.
    pub resets: usize,
    /// Two nodes cannot reach each other.
    pub cuts: usize,
    /// Frames vanish in one direction, and the connection stays up.
    pub one_way: usize,
    /// The fleet falls apart into two halves.
    pub partitions: usize,
    /// A random set of nodes is cut off one by one and comes back in another order.
    pub swizzles: usize,
    /// A connection comes and goes.
    pub flaps: usize,
    /// A disk is full.
    pub full: usize,
    /// A disk operation fails.
    pub errors: usize,
    /// A disk takes a hundred times as long.
    pub slow: usize,
    /// A bit on a disk flips.
    pub rot: usize,
    /// A node is restored from an older image of its disk.
    pub rollbacks: usize,
    /// A node's wall clock jumps.
    pub jumps: usize,
    /// Files of a node's workspace are edited.
    pub edits: usize,
}

/// Nodes that lie.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Liars {
    /// How many there are.
    pub count: usize,
    /// Messages that they twist, per thousand.
    pub share: u32,
    /// In what ways; all of them if empty.
    pub lies: Vec<Lie>,
}

impl Default for Liars {
    fn default() -> Self {
        Self { count: 0, share: 200, lies: Vec::new() }
    }
}

impl Scenario {
    /// Random asks, lost frames, broken lanes and crashes.
    #[must_use]
    pub fn stormy(seed: u64) -> Self {
        let calm = Self::default();
        Self {
            name: "stormy".to_owned(),
            seed,
            workload: Asks { pattern: Pattern::Random, special: 80, ..calm.workload },
            network: Network { loss: 50, ..calm.network },
            faults: Faults { crashes: 4, resets: 4, ..calm.faults },
            ..calm
        }
    }

    /// The same with another seed.
    #[must_use]
    pub fn with_seed(&self, seed: u64) -> Self {
        Self { seed, ..self.clone() }
    }

    /// The nodes that ask.
    pub(super) fn askers(&self) -> Vec<Place> {
        let count = self.workload.askers.unwrap_or(self.nodes);
        (0..count).map(|number| number * self.nodes / count).collect()
    }

    /// Whether what is new goes over the links of an overlay, and so to everybody.
    pub(super) fn is_overlay(&self) -> bool {
        self.degree.unwrap_or(self.nodes).min(self.nodes.saturating_sub(1)) > self.mesh
    }

    /// Reads a scenario file.
    pub fn from_toml(text: &str) -> Result<Self, ScenarioError> {
        let scenario: Self = toml::from_str(text).map_err(|error| ScenarioError::Text(error.to_string()))?;
        scenario.validate()?;
        Ok(scenario)
    }

    /// Checks that it can be run.
    pub fn validate(&self) -> Result<(), ScenarioError> {
        let bound = |what, found: &dyn ToString, bound: &str, holds: bool| {
            let error = || ScenarioError::Bound { what, found: found.to_string(), bound: bound.to_owned() };
            if holds { Ok(()) } else { Err(error()) }
        };
        let Self { nodes, questions, network, compute, liars, .. } = self;
        bound("nodes", nodes, &format!("1 to {MAX_NODES}"), (1..=MAX_NODES).contains(nodes))?;
        bound("nodes", nodes, "at most 256 without a `degree`", self.degree.is_some() || *nodes <= MAX_MESH)?;
        bound("degree", &self.degree.unwrap_or(1), "1 or more", self.degree != Some(0))?;
        let askers = self.workload.askers.unwrap_or(1);
        bound("workload.askers", &askers, "1 to the number of nodes", (1..=*nodes).contains(&askers))?;
        bound("questions.count", &questions.count, "1 or more", questions.count > 0)?;
        let kilobytes = questions.kilobytes == 0 || (600..=64 * 1024).contains(&questions.kilobytes);
        bound("questions.kilobytes", &questions.kilobytes, "0, or 600 to 65536", kilobytes)?;
        bound("liars.count", &liars.count, "fewer than the nodes", liars.count < *nodes)?;
        bound(
            "workload.every",
            &span::format(self.workload.every),
            "more than nothing",
            !self.workload.every.is_zero(),
        )?;
        bound("workspaces.files", &self.workspaces.files, "1 to 1000", (1..=1000).contains(&self.workspaces.files))?;
        bound("clock.drift", &self.clock.drift, "at most 100000", self.clock.drift <= 100_000)?;
        bound("disk.segment", &self.disk.segment, "1 to 65536", (1..=65_536).contains(&self.disk.segment))?;
        let shares = [
            ("questions.large", questions.large),
            ("questions.observed", questions.observed),
            ("questions.volatile", questions.volatile),
            ("questions.trapping", questions.trapping),
            ("workload.special", self.workload.special),
            ("workload.repeats", self.workload.repeats),
            ("workspaces.asks", self.workspaces.asks),
            ("network.tail", network.tail),
            ("network.loss", network.loss),
            ("network.duplicate", network.duplicate),
            ("network.reorder", network.reorder),
            ("compute.hangs", compute.hangs),
            ("compute.fails", compute.fails),
            ("liars.share", liars.share),
        ];
        shares.into_iter().try_for_each(|(what, share)| bound(what, &share, "at most 1000", share <= 1000))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scenario_survives_its_file() {
        let scenario = Scenario::stormy(7);
        let text = toml::to_string(&scenario).expect("plain data");
        assert_eq!(Scenario::from_toml(&text), Ok(scenario));
        assert_eq!(Scenario::from_toml(""), Ok(Scenario::default()));
    }

    #[test]
    fn what_cannot_be_run_is_refused_by_name() {
        for (text, named) in [
            ("nodes = 0", "nodes"),
            ("nodes = 1000", "nodes"),
            ("nodes = 10001\ndegree = 8", "nodes"),
            ("degree = 0", "degree"),
            ("[workload]\naskers = 0", "workload.askers"),
            ("[workload]\naskers = 3", "workload.askers"),
            ("[liars]\ncount = 2", "liars.count"),
            ("[network]\nloss = 1001", "network.loss"),
            ("[questions]\ncount = 0", "questions.count"),
            ("[questions]\nkilobytes = 500", "questions.kilobytes"),
            ("[workspaces]\nfiles = 0", "workspaces.files"),
            ("[workspaces]\nasks = 1001", "workspaces.asks"),
            ("[workload]\nevery = \"0s\"", "workload.every"),
        ] {
            let error = Scenario::from_toml(text).expect_err(text);
            assert!(matches!(&error, ScenarioError::Bound { what, .. } if *what == named), "{text}: {error}");
            assert!(!error.hint().is_empty());
        }
        for text in ["nodez = 3", "faulty = 5", "faulty = \"5\"", "[network]\nlatency = \"2ms..1ms\"", "["] {
            assert!(matches!(Scenario::from_toml(text), Err(ScenarioError::Text(_))), "{text}");
        }
    }
}
