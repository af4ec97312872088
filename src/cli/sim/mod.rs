//! `evalmesh sim`: simulated fleets, their failures replayed and made small, their quality compared.
//!
//! Simulations run on all cores; the same scenario and seed give the same run on every machine. Data goes to stdout, progress to stderr.

mod compare;
mod list;
mod replay;
mod run;
mod shrink;
mod text;

use std::fs;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use indicatif::{ProgressBar, ProgressStyle};

use crate::cli::{Failure, Format, exit};
use crate::sim::{Mutation, Report, Scenario, ScenarioError, Simulation, library};

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// List scenarios, and what is checked in every run.
    List(list::Args),
    /// Run scenarios over many seeds.
    Run(run::Args),
    /// Run one seed again and tell what happens.
    Replay(replay::Args),
    /// Find the fewest faults with which a failing seed still fails.
    Shrink(shrink::Args),
    /// Compare the quality of this version with a baseline.
    Compare(compare::Args),
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::List(args) => list::run(args),
        Command::Run(args) => run::run(args),
        Command::Replay(args) => replay::run(args),
        Command::Shrink(args) => shrink::run(args),
        Command::Compare(args) => compare::run(args),
    }
}

impl From<ScenarioError> for Failure {
    fn from(error: ScenarioError) -> Self {
        Self::new(exit::SCENARIO, error.to_string(), error.hint())
    }
}

/// A scenario by name, or from a file.
fn scenario(name: &str) -> Result<Scenario, Failure> {
    if let Some(scenario) = library::scenario(name) {
        return Ok(scenario?);
    }
    let path = PathBuf::from(name);
    if path.extension().is_none_or(|extension| extension != "toml") {
        let hint = "`evalmesh sim list` shows the names; a file's name ends in .toml";
        return Err(Failure::new(exit::SCENARIO, format!("there is no scenario `{name}`"), hint));
    }
    let text = fs::read_to_string(&path).map_err(|error| Failure::unreadable(&path, &error))?;
    Ok(Scenario { name: name.to_owned(), ..Scenario::from_toml(&text)? })
}

/// Reads the name of a planted bug.
fn mutation(name: &str) -> Result<Mutation, String> {
    let known = || Mutation::ALL.map(|mutation| mutation.to_string()).join(", ");
    Mutation::named(name).ok_or_else(|| format!("the planted bugs are: {}", known()))
}

/// A simulation, with a planted bug if one is wanted.
fn simulation<'a>(scenario: Scenario, plant: Option<Mutation>) -> Simulation<'a> {
    let simulation = Simulation::new(scenario);
    match plant {
        Some(mutation) => simulation.mutate(mutation),
        None => simulation,
    }
}

/// Runs everything on as many threads as wanted; reports come in the order of the scenarios given.
fn run_all(all: &[Scenario], jobs: Option<usize>, plant: Option<Mutation>) -> Result<Vec<Report>, Failure> {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads = jobs.unwrap_or(cores).clamp(1, all.len().max(1));
    let bar = progress(all.len() as u64);
    let (next, reports) = (AtomicUsize::new(0), Mutex::new(vec![None; all.len()]));
    let work = || {
        while let Some(scenario) = all.get(next.fetch_add(1, Ordering::Relaxed)) {
            let report = simulation(scenario.clone(), plant).run().map(|run| run.report);
            let position = all.iter().position(|other| std::ptr::eq(other, scenario)).unwrap_or_default();
            reports.lock().expect("no code panics while it holds the reports")[position] = Some(report);
            bar.set_message(scenario.name.clone());
            bar.inc(1);
        }
    };
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    bar.finish_and_clear();
    let reports = reports.into_inner().expect("no code panics while it holds the reports");
    Ok(reports.into_iter().flatten().collect::<Result<_, _>>()?)
}

/// A bar on stderr that is not there when stderr is no terminal.
fn progress(length: u64) -> ProgressBar {
    let style = ProgressStyle::with_template("{bar:30} {pos}/{len} {per_sec} {eta} {wide_msg}");
    ProgressBar::new(length).with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

/// The code that says how bad it is.
fn code(reports: &[Report]) -> u8 {
    if reports.iter().any(Report::is_unsafe) {
        exit::SIM_UNSAFE
    } else if reports.iter().any(|report| !report.violations.is_empty()) {
        exit::SIM_STUCK
    } else {
        exit::OK
    }
}

fn json(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string_pretty(value)
        .map(|text| text + "\n")
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot print the report: {error}"), None))
}

/// Writes a file that a person asked for.
fn write(path: &std::path::Path, text: &str) -> Result<(), Failure> {
    fs::write(path, text).map_err(|error| {
        let hint = "check the folder and its permissions";
        Failure::new(exit::FAILED, format!("cannot write {}: {error}", path.display()), hint)
    })
}
