//! The scenarios of `simulations/`, every seed that ever failed, and the baseline.
//!
//! They are part of the program, so that `evalmesh sim` works wherever it is installed. Invariant (tested): every file in `simulations/` is here.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::report::Report;
use super::scenario::{Scenario, ScenarioError};

macro_rules! scenarios {
    ($($name:literal),* $(,)?) => {
        /// Name and text of every scenario that comes with the program.
        pub const SCENARIOS: &[(&str, &str)] =
            &[$(($name, include_str!(concat!("../../simulations/", $name, ".toml")))),*];
    };
}

scenarios!(
    "bulk",
    "calm",
    "clocks",
    "disks",
    "herd",
    "liars",
    "links",
    "overlay",
    "storm",
    "swarm",
    "thousand",
    "workspaces"
);

/// Every seed that ever failed.
pub const REGRESSIONS: &str = include_str!("../../simulations/regressions.txt");

/// The quality figures to compare with.
pub const BASELINE: &str = include_str!("../../simulations/baseline.json");

/// A scenario that comes with the program; `None` if there is none of this name.
#[must_use]
pub fn scenario(name: &str) -> Option<Result<Scenario, ScenarioError>> {
    let (name, text) = SCENARIOS.iter().find(|(known, _)| *known == name)?;
    Some(Scenario::from_toml(text).map(|scenario| Scenario { name: (*name).to_owned(), ..scenario }))
}

/// A seed that once failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Regression {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// What was wrong.
    pub why: String,
}

/// Reads lines of `SCENARIO SEED what was wrong`; empty ones and those that begin with `#` are skipped.
pub fn regressions(text: &str) -> Result<Vec<Regression>, ScenarioError> {
    let line = |(number, line): (usize, &str)| {
        let mut words = line.split_whitespace();
        let (scenario, seed) = (words.next()?, words.next().and_then(|seed| seed.parse().ok()));
        let why = words.collect::<Vec<_>>().join(" ");
        Some(match seed {
            Some(seed) if !why.is_empty() => Ok(Regression { scenario: scenario.to_owned(), seed, why }),
            _ => {
                Err(ScenarioError::Text(format!("line {}: expected SCENARIO SEED REASON, found `{line}`", number + 1)))
            }
        })
    };
    let lines = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with('#'));
    lines.filter_map(line).collect()
}

/// The seed of a commit: the first 16 hexadecimal digits of its id.
#[must_use]
pub fn seed_of_commit(id: &str) -> Option<u64> {
    u64::from_str_radix(id.trim().get(..16)?, 16).ok()
}

/// How good a scenario's runs are, over its pinned seeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quality {
    /// How many seeds.
    pub seeds: u64,
    /// Evaluations per thousand asks that were answered.
    pub evaluations_per_mille: u64,
    /// Evaluations of what somebody had evaluated before, per thousand evaluations.
    pub duplicates_per_mille: u64,
    /// Answers from memory or a peer, per thousand.
    pub hits_per_mille: u64,
    /// Frames per answered ask.
    pub frames_per_answer: u64,
    /// Bytes per answered ask.
    pub bytes_per_answer: u64,
    /// The median over all runs of the median wait, in microseconds.
    pub p50_us: u64,
    /// The median over all runs of the 99th percentile of waits, in microseconds.
    pub p99_us: u64,
    /// The longest that indexes took to converge after the faults, in milliseconds.
    pub settled_ms: u64,
}

impl Quality {
    /// The quality of some runs of one scenario.
    #[must_use]
    pub fn of(reports: &[Report]) -> Self {
        let sum = |of: fn(&Report) -> u64| reports.iter().map(of).sum::<u64>();
        let median = |of: fn(&Report) -> u64| {
            let mut all: Vec<_> = reports.iter().map(of).collect();
            all.sort_unstable();
            all.get(all.len() / 2).copied().unwrap_or_default()
        };
        let evaluations = sum(|report| report.evaluations);
        let (hits, fetched) = (sum(|report| report.outcomes.hits), sum(|report| report.outcomes.fetched));
        let answered = (hits + fetched + sum(|report| report.outcomes.computed)).max(1);
        Self {
            seeds: reports.len() as u64,
            evaluations_per_mille: evaluations * 1000 / answered,
            duplicates_per_mille: sum(|report| report.duplicates) * 1000 / evaluations.max(1),
            hits_per_mille: (hits + fetched) * 1000 / answered,
            frames_per_answer: sum(|report| report.frames) / answered,
            bytes_per_answer: sum(|report| report.bytes) / answered,
            p50_us: median(|report| report.latency.p50),
            p99_us: median(|report| report.latency.p99),
            settled_ms: reports.iter().map(|report| report.settled.unwrap_or(u64::MAX)).max().unwrap_or_default(),
        }
    }

    /// Every figure with its name, and whether more of it is better.
    #[must_use]
    pub fn figures(&self) -> [(&'static str, u64, bool); 8] {
        [
            ("evaluations per 1000 answers", self.evaluations_per_mille, false),
            ("duplicates per 1000 evaluations", self.duplicates_per_mille, false),
            ("hits per 1000 answers", self.hits_per_mille, true),
            ("frames per answer", self.frames_per_answer, false),
            ("bytes per answer", self.bytes_per_answer, false),
            ("p50 wait, us", self.p50_us, false),
            ("p99 wait, us", self.p99_us, false),
            ("settled after, ms", self.settled_ms, false),
        ]
    }

    /// The figures that are worse than in `before` by more than so many per cent (and by more than a rounding).
    #[must_use]
    pub fn worse_than(&self, before: &Self, tolerance: u64) -> Vec<(&'static str, u64, u64)> {
        let pairs = self.figures().into_iter().zip(before.figures());
        let worse = pairs.filter(|((_, now, more), (_, old, _))| {
            let slack = (u128::from(*old) * u128::from(tolerance) / 100).max(2);
            let (now, old) = (u128::from(*now), u128::from(*old));
            if *more { now + slack < old } else { now > old + slack }
        });
        worse.map(|((name, now, _), (_, old, _))| (name, old, now)).collect()
    }
}

/// A baseline: the quality of each scenario by name.
pub type Baseline = BTreeMap<String, Quality>;

/// Reads a baseline.
pub fn baseline(text: &str) -> Result<Baseline, ScenarioError> {
    serde_json::from_str(text).map_err(|error| ScenarioError::Text(format!("the baseline: {error}")))
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    #[test]
    fn every_file_in_simulations_is_known_and_can_be_run() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations");
        let mut files: Vec<String> = fs::read_dir(folder)
            .expect("the folder is there")
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".toml")?.to_owned()))
            .collect();
        files.sort();
        assert_eq!(files, SCENARIOS.iter().map(|(name, _)| *name).collect::<Vec<_>>());
        for name in &files {
            let scenario = scenario(name).expect("listed").unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(!scenario.about.is_empty(), "{name} does not say what it is about");
        }
        assert!(scenario("nothing").is_none());
    }

    #[test]
    fn every_regression_names_a_scenario_and_the_baseline_too() {
        let known = |name: &str| SCENARIOS.iter().any(|(known, _)| *known == name);
        for regression in regressions(REGRESSIONS).expect("well-formed") {
            assert!(known(&regression.scenario), "{regression:?}");
        }
        for name in baseline(BASELINE).expect("well-formed").keys() {
            assert!(known(name), "{name}");
        }
    }

    #[test]
    fn what_was_found_is_among_the_regressions() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("simulations/FOUND.md");
        let text = fs::read_to_string(path).expect("it is there");
        let regressions = regressions(REGRESSIONS).expect("well-formed");
        // Every second piece is between two backticks.
        let quoted = text.split('`').skip(1).step_by(2);
        let seeds = quoted.filter_map(|piece| Some((piece.split_once(' ')?.0, piece.split_once(' ')?.1.parse().ok()?)));
        let seeds: Vec<(&str, u64)> = seeds.collect();
        assert!(seeds.len() > 5, "{seeds:?}");
        for (name, seed) in seeds {
            assert!(regressions.iter().any(|one| (one.scenario.as_str(), one.seed) == (name, seed)), "{name} {seed}");
        }
    }

    #[test]
    fn malformed_lines_are_named() {
        assert_eq!(regressions("# c\n\nstorm 7 because\n").expect("fine")[0].why, "because");
        for wrong in ["storm", "storm x why", "storm 7"] {
            assert!(regressions(wrong).expect_err(wrong).to_string().contains("line 1"));
        }
        assert_eq!(seed_of_commit("00000000000000ffdead\n"), Some(255));
        assert_eq!(seed_of_commit("main"), None);
        assert!(baseline("{").is_err());
    }

    #[test]
    fn a_worse_figure_is_found_in_its_direction() {
        let before = Quality {
            seeds: 5,
            evaluations_per_mille: 500,
            duplicates_per_mille: 100,
            hits_per_mille: 500,
            frames_per_answer: 100,
            bytes_per_answer: 10_000,
            p50_us: 1000,
            p99_us: 5000,
            settled_ms: 1000,
        };
        assert_eq!(before.worse_than(&before, 0), []);
        let after = Quality { hits_per_mille: 300, p99_us: 9000, p50_us: 10, frames_per_answer: 104, ..before };
        let named: Vec<_> = after.worse_than(&before, 10).into_iter().map(|(name, ..)| name).collect();
        assert_eq!(named, ["hits per 1000 answers", "p99 wait, us"]);
    }
}
