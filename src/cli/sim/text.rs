//! Reports as text for people.

use std::fmt::Write;

use comfy_table::Table;

use crate::sim::library::Quality;
use crate::sim::{Mutation, Report, Run, check};

/// Failed runs that are told one by one.
const MAX_TOLD: usize = 10;

/// A run that failed, with the command that shows it again.
fn failed(report: &Report, plant: Option<Mutation>) -> String {
    let first = &report.violations[0];
    let plant = plant.map(|mutation| format!(" --plant {mutation}")).unwrap_or_default();
    format!(
        "{}, seed {}: {}: {} ({} in all)\n    evalmesh sim replay {} --scenario {}{plant}",
        report.scenario,
        report.seed,
        first.check,
        first.what,
        report.violations.len(),
        report.seed,
        report.scenario
    )
}

/// A table of many runs, a row for each scenario.
pub(super) fn summary(reports: &[Report], plant: Option<Mutation>) -> String {
    let mut table = Table::new();
    table.set_header(["scenario", "runs", "failed", "events", "answers", "hits", "evaluated", "p50", "p99", "settled"]);
    let mut names: Vec<_> = reports.iter().map(|report| &report.scenario).collect();
    names.dedup();
    let mut failed = 0;
    for name in names {
        let of_this: Vec<_> = reports.iter().filter(|report| report.scenario == *name).cloned().collect();
        let bad = of_this.iter().filter(|report| !report.violations.is_empty()).count();
        failed += bad;
        let quality = Quality::of(&of_this);
        let answers = |report: &Report| report.outcomes.hits + report.outcomes.fetched + report.outcomes.computed;
        table.add_row([
            name.clone(),
            of_this.len().to_string(),
            bad.to_string(),
            of_this.iter().map(|report| report.events).sum::<u64>().to_string(),
            of_this.iter().map(answers).sum::<u64>().to_string(),
            format!("{}.{} %", quality.hits_per_mille / 10, quality.hits_per_mille % 10),
            of_this.iter().map(|report| report.evaluations).sum::<u64>().to_string(),
            millis(quality.p50_us),
            millis(quality.p99_us),
            if quality.settled_ms == u64::MAX { "never".to_owned() } else { format!("{} ms", quality.settled_ms) },
        ]);
    }
    let verdict = if failed == 0 { "everything holds".to_owned() } else { format!("{failed} failed") };
    let told = reports.iter().filter(|report| !report.violations.is_empty()).take(MAX_TOLD);
    let told: String = told.map(|report| self::failed(report, plant) + "\n").collect();
    format!("{table}\n{told}{} runs, {} checks each: {verdict}\n", reports.len(), check::ALL.len())
}

/// One run, told.
pub(super) fn story(run: &Run) -> String {
    let report = &run.report;
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<12}{value}");
    };
    let o = report.outcomes;
    line("run", format!("{}, seed {}, {} nodes, {} events", report.scenario, report.seed, report.nodes, report.events));
    line("digest", report.trace_digest.clone());
    line("answers", format!("{} from memory, {} from a peer, {} evaluated", o.hits, o.fetched, o.computed));
    line("others", format!("{} errors, {} callers gone, {} nodes gone", o.errors, o.abandoned, o.crashed));
    line("evaluations", format!("{}, of them {} again", report.evaluations, report.duplicates));
    line("waits", format!("{} median, {} 99th percentile", millis(report.latency.p50), millis(report.latency.p99)));
    line("network", format!("{} frames ({} lost), {} bytes", report.frames, report.lost, report.bytes));
    line("settled", report.settled.map_or("never".to_owned(), |after| format!("{after} ms after the faults")));
    for episode in run.episodes.iter().filter(|episode| episode.is_played()) {
        line("fault", episode.describe());
    }
    for violation in &report.violations {
        line("WRONG", format!("{}: {}", violation.check, violation.what));
    }
    if report.violations.is_empty() {
        line("verdict", format!("all {} checks hold", check::ALL.len()));
    }
    text
}

fn millis(micros: u64) -> String {
    format!("{}.{} ms", micros / 1000, micros % 1000 / 100)
}
