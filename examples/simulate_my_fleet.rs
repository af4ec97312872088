//! "How would my build farm behave with twenty nodes and a bad switch?" - asked before it is built.
//!
//! `cargo run --example simulate_my_fleet -- page.html`
//!
//! Brings its own workload (who asks what when), its own evaluator (what an answer is and how long it takes), its own check (what must hold),
//! and a scenario in which the switch drops frames and splits the fleet. The same lines in a `#[test]` keep it that way.

use std::time::Duration;

use evalmesh::reply::Reply;
use evalmesh::request::{Program, Request};
use evalmesh::sim::check::{Check, Phase};
use evalmesh::sim::{Ask, Evaluation, Faults, History, Network, Rng, Scenario, Simulation, html};

const NODES: usize = 20;
const FILES: u64 = 60;

/// Every developer builds every file, at some time in the first twenty seconds.
fn workload() -> Vec<Ask> {
    let mut random = Rng::new(1);
    let build = |node: usize, file: u64, at: u64| {
        let request = Request::new(Program::wasm(&b"my compiler"[..])).arg(format!("src/{file}.c"));
        Ask { at: Duration::from_millis(at), node, request }
    };
    (0..NODES)
        .flat_map(|node| (0..FILES).map(move |file| (node, file)))
        .map(|(node, file)| build(node, file, random.below(20_000)))
        .collect()
}

/// A compiler takes 50 to 500 ms and always gives the same object file.
fn compiler(_node: usize, request: &Request, random: &mut Rng) -> Evaluation {
    let takes = Duration::from_millis(50 + random.below(450));
    Evaluation { takes, result: Ok(Reply::ok(format!("object of {}", request.args[0]))) }
}

/// My own idea of "good enough": at least two of three builds cost nothing.
const SAVED: Check = Check {
    name: "two of three builds are free",
    phase: Phase::Liveness,
    about: "compilations that run to their end stay below a third of the asks: one that an answer overtakes is ended after a moment",
    run: saved,
};

fn saved(history: &History) -> Vec<String> {
    let compiled = history.evaluations.iter().filter(|evaluation| evaluation.result.is_some()).count();
    let asks = history.asks.len();
    let wasteful = compiled * 3 > asks;
    wasteful.then(|| format!("{compiled} compilations for {asks} asks")).into_iter().collect()
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let bad_switch = Scenario {
        name: "my build farm".to_owned(),
        about: "twenty developers, sixty files, and a switch that drops one frame in twenty and splits the fleet twice"
            .to_owned(),
        seed: 7,
        nodes: NODES,
        faulty: Duration::from_secs(20),
        network: Network { loss: 50, ..Network::default() },
        faults: Faults { partitions: 2, crashes: 3, ..Faults::default() },
        ..Scenario::default()
    };
    let run = Simulation::new(bad_switch.clone()).asks(workload()).evaluator(compiler).check(SAVED).draw().run()?;
    let report = &run.report;
    println!(
        "{} asks: {} from memory, {} from a peer, {} compiled; half waited at most {} ms, 99 of 100 at most {} ms",
        run.history.asks.len(),
        report.outcomes.hits,
        report.outcomes.fetched,
        report.outcomes.computed,
        report.latency.p50 / 1000,
        report.latency.p99 / 1000,
    );
    for violation in &report.violations {
        println!("does not hold: {}: {}", violation.check, violation.what);
    }
    if let Some(path) = std::env::args().nth(1) {
        std::fs::write(&path, html::page(&bad_switch, &run))?;
        println!("pictures: {path}");
    }
    if report.violations.is_empty() { Ok(()) } else { Err("the fleet would not be good enough".into()) }
}
