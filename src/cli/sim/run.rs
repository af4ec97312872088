//! `evalmesh sim run`: scenarios over many seeds.

use std::path::PathBuf;

use super::{Format, code, json, mutation, run_all, scenario, simulation, text, write};
use crate::cli::{Failure, exit, print_bytes};
use crate::sim::{Mutation, Report, Scenario, html, library};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names (see `sim list`) or files that end in .toml [default: every scenario that comes with the program].
    scenarios: Vec<String>,
    /// How many seeds of each [default: as the scenario says].
    #[arg(long)]
    seeds: Option<u64>,
    /// The first seed [default: as the scenario says].
    #[arg(long)]
    seed: Option<u64>,
    /// Run every seed that ever failed, too.
    #[arg(long)]
    regressions: bool,
    /// Another number of nodes.
    #[arg(long)]
    nodes: Option<usize>,
    /// How many threads to use [default: as many as cores].
    #[arg(long)]
    jobs: Option<usize>,
    /// Plant a bug, to see that it is found.
    #[arg(long, value_name = "BUG", value_parser = mutation)]
    plant: Option<Mutation>,
    /// Write a page about the first failing run (or the first run, if none fails) to this file.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let all = seeds(args)?;
    let reports = run_all(&all, args.jobs, args.plant)?;
    let same = again(&all, &reports, args.plant)?;
    let printed = match args.format {
        Format::Json => json(&reports)?,
        Format::Text => text::summary(&reports, args.plant),
    };
    print_bytes(printed.as_bytes())?;
    let told = reports.iter().position(|report| !report.violations.is_empty()).unwrap_or(0);
    if let (Some(path), Some(scenario)) = (&args.html, all.get(told)) {
        let run = simulation(scenario.clone(), args.plant).draw().run()?;
        write(path, &html::page(scenario, &run))?;
        eprintln!("evalmesh: a page about {}, seed {} is in {}", scenario.name, scenario.seed, path.display());
    }
    if !same {
        eprintln!("evalmesh: the same scenario and seed gave another run: something outside the seed decides");
        return Ok(exit::SIM_DIFFERS);
    }
    Ok(code(&reports))
}

/// Every scenario and seed that is wanted.
fn seeds(args: &Args) -> Result<Vec<Scenario>, Failure> {
    let known = || library::SCENARIOS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let names: Vec<String> = if args.scenarios.is_empty() { known() } else { args.scenarios.clone() };
    let mut all = Vec::new();
    for name in &names {
        let mut scenario = scenario(name)?;
        scenario.nodes = args.nodes.unwrap_or(scenario.nodes);
        scenario.validate()?;
        let first = args.seed.unwrap_or(scenario.seed);
        let seeds = args.seeds.unwrap_or(scenario.seeds);
        all.extend((first..first.saturating_add(seeds)).map(|seed| scenario.with_seed(seed)));
    }
    if args.regressions {
        for regression in library::regressions(library::REGRESSIONS)? {
            all.push(scenario(&regression.scenario)?.with_seed(regression.seed));
        }
    }
    Ok(all)
}

/// Whether the shortest of the runs gives the same run again.
fn again(all: &[Scenario], reports: &[Report], plant: Option<Mutation>) -> Result<bool, Failure> {
    let shortest = all.iter().zip(reports).min_by_key(|(_, report)| report.events);
    shortest.map_or(Ok(true), |(scenario, report)| Ok(simulation(scenario.clone(), plant).run()?.report == *report))
}
