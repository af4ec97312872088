//! Making a failing run small: fewer faults, less noise, less time, as long as the same check still fails.
//!
//! Faults are left out by number (delta debugging, Zeller 1999), so what is left is what the failure needs. Invariant: what is returned was run and
//! failed the same check.

use std::collections::BTreeSet;

use super::faults;
use super::report::Report;
use super::scenario::{Scenario, ScenarioError};
use super::simulation::{Simulation, topology};

/// The smallest failing run that was found.
#[derive(Debug, Clone)]
pub struct Shrunk {
    /// The scenario, with less noise in it.
    pub scenario: Scenario,
    /// The episodes of faults that are left out.
    pub skip: BTreeSet<usize>,
    /// How many episodes are left.
    pub left: usize,
    /// How it fails.
    pub report: Report,
    /// How many runs it took.
    pub runs: usize,
}

/// Shrinks a run that fails; `None` if it does not. `plant` sets the simulation up further; `told` hears of each run.
pub fn shrink(
    scenario: &Scenario,
    plant: &dyn Fn(Simulation<'static>) -> Simulation<'static>,
    told: &mut dyn FnMut(usize, usize),
) -> Result<Option<Shrunk>, ScenarioError> {
    let mut runs = 0;
    let mut fails = |scenario: &Scenario, skip: &BTreeSet<usize>, check: Option<&str>, left: usize| {
        runs += 1;
        told(runs, left);
        let run = plant(Simulation::new(scenario.clone())).skip(skip.iter().copied()).run()?;
        let same = |name: &str| run.report.violations.iter().any(|violation| violation.check == name);
        let failed = check.map_or(!run.report.violations.is_empty(), same);
        Ok::<_, ScenarioError>(failed.then_some(run.report))
    };
    let all: BTreeSet<usize> =
        faults::plan(scenario, &topology(scenario)).iter().map(|episode| episode.number).collect();
    let mut skip = BTreeSet::new();
    let Some(mut report) = fails(scenario, &skip, None, all.len())? else { return Ok(None) };
    let check = report.violations[0].check;
    let mut size = all.len().div_ceil(2).max(1);
    loop {
        let left: Vec<usize> = all.difference(&skip).copied().collect();
        let mut smaller = false;
        for part in left.chunks(size) {
            let mut more = skip.clone();
            more.extend(part);
            if let Some(failed) = fails(scenario, &more, Some(check), all.len() - more.len())? {
                (skip, report, smaller) = (more, failed, true);
            }
        }
        if size == 1 && !smaller {
            break;
        }
        size = (size / 2).max(1);
    }
    let mut scenario = scenario.clone();
    for calmer in CALMER {
        let mut try_it = scenario.clone();
        calmer(&mut try_it);
        if try_it == scenario {
            continue;
        }
        if let Some(failed) = fails(&try_it, &skip, Some(check), all.len() - skip.len())? {
            (scenario, report) = (try_it, failed);
        }
    }
    let left = all.len() - skip.len();
    Ok(Some(Shrunk { scenario, skip, left, report, runs }))
}

/// What may be left out of a scenario, one after the other. None of it changes which number an episode of faults has.
const CALMER: &[fn(&mut Scenario)] = &[
    |scenario| scenario.network.loss = 0,
    |scenario| scenario.network.duplicate = 0,
    |scenario| scenario.network.reorder = 0,
    |scenario| scenario.network.tail = 0,
    |scenario| scenario.network.bandwidth = 0,
    |scenario| scenario.clock.drift = 0,
    |scenario| scenario.clock.skew = 0,
    |scenario| scenario.compute.hangs = 0,
    |scenario| scenario.compute.fails = 0,
    |scenario| scenario.questions.observed = 0,
    |scenario| scenario.questions.volatile = 0,
    |scenario| scenario.questions.trapping = 0,
    |scenario| scenario.questions.large = 0,
    |scenario| scenario.workload.special = 0,
    |scenario| scenario.workload.retractions = 0,
    |scenario| scenario.liars.share = 0,
    |scenario| scenario.workload.asks = (scenario.workload.asks / 2).max(1),
    |scenario| scenario.workload.asks = (scenario.workload.asks / 2).max(1),
    |scenario| scenario.workload.asks = (scenario.workload.asks / 2).max(1),
];
