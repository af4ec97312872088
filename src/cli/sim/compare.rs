//! `evalmesh sim compare`: is this version worse than the baseline?

use std::fs;
use std::path::PathBuf;

use comfy_table::Table;

use super::{Format, code, json, run_all, scenario, write};
use crate::cli::{Failure, exit, print_bytes};
use crate::sim::library::{self, Baseline, Quality};
use crate::sim::{Report, Scenario};

/// Scenarios whose quality is compared when none is named: those that are quick and ask a lot.
const COMPARED: [&str; 5] = ["calm", "clocks", "herd", "links", "storm"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Names (see `sim list`) or files that end in .toml [default: those of the baseline].
    scenarios: Vec<String>,
    /// The baseline to compare with [default: the one that comes with the program].
    #[arg(long, value_name = "FILE.json")]
    baseline: Option<PathBuf>,
    /// How many seeds of each [default: as many as the baseline has, else 10].
    #[arg(long)]
    seeds: Option<u64>,
    /// By how many per cent a figure may be worse.
    #[arg(long, default_value_t = 10)]
    tolerance: u64,
    /// Write what is measured to this file, as the next baseline.
    #[arg(long, value_name = "FILE.json")]
    write: Option<PathBuf>,
    /// How many threads to use [default: as many as cores].
    #[arg(long)]
    jobs: Option<usize>,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let before = match &args.baseline {
        None => library::baseline(library::BASELINE)?,
        Some(path) => library::baseline(&fs::read_to_string(path).map_err(|error| Failure::unreadable(path, &error))?)?,
    };
    let names: Vec<String> = match (args.scenarios.is_empty(), before.is_empty()) {
        (false, _) => args.scenarios.clone(),
        (true, false) => before.keys().cloned().collect(),
        (true, true) => COMPARED.map(str::to_owned).to_vec(),
    };
    let mut now = Baseline::new();
    let mut reports: Vec<Report> = Vec::new();
    for name in names {
        let scenario = scenario(&name)?;
        let seeds = args.seeds.or(before.get(&name).map(|old| old.seeds)).unwrap_or(10);
        let all: Vec<Scenario> = (0..seeds).map(|seed| scenario.with_seed(seed)).collect();
        let of_this = run_all(&all, args.jobs, None)?;
        now.insert(name, Quality::of(&of_this));
        reports.extend(of_this);
    }
    let (table, worse) = table(&before, &now, args.tolerance);
    let printed = match args.format {
        Format::Json => json(&now)?,
        Format::Text => format!("{table}\n"),
    };
    print_bytes(printed.as_bytes())?;
    if let Some(path) = &args.write {
        write(path, &json(&now)?)?;
    }
    Ok(match code(&reports) {
        exit::OK if worse => exit::SIM_WORSE,
        code => code,
    })
}

fn table(before: &Baseline, now: &Baseline, tolerance: u64) -> (Table, bool) {
    let mut table = Table::new();
    table.set_header(["scenario", "figure", "before", "now", ""]);
    let mut worse = false;
    for (name, quality) in now {
        let old = before.get(name);
        let bad = old.map_or_else(Vec::new, |old| quality.worse_than(old, tolerance));
        for (position, (figure, value, _)) in quality.figures().into_iter().enumerate() {
            let was = old.map_or("-".to_owned(), |old| old.figures()[position].1.to_string());
            let verdict = if bad.iter().any(|(name, ..)| *name == figure) { "WORSE" } else { "" };
            worse |= !verdict.is_empty();
            table.add_row([name, figure, &was, &value.to_string(), verdict]);
        }
    }
    (table, worse)
}
