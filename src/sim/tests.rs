//! The simulator under plain `cargo test`: pinned scenarios, every seed that ever failed, one seed of the commit, and every planted bug.
//!
//! At length it is run by `evalmesh sim run`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Duration;

use super::*;
use crate::request::{Program, Request};

fn scenario(name: &str) -> Scenario {
    library::scenario(name).expect("known").expect("valid")
}

fn simulate(scenario: &Scenario, seed: u64) -> Run {
    Simulation::new(scenario.with_seed(seed)).run().expect("valid")
}

/// Runs seeds that must not fail. To play one again: `evalmesh sim replay SEED --scenario NAME`.
fn assert_sound(scenario: &Scenario, seeds: impl IntoIterator<Item = u64>) -> Vec<Report> {
    let mut reports = Vec::new();
    for seed in seeds {
        let run = simulate(scenario, seed);
        assert_eq!(run.report.violations, [], "evalmesh sim replay {seed} --scenario {}", scenario.name);
        reports.push(run.report);
    }
    reports
}

#[test]
fn nothing_wrong_happens_in_storms() {
    let reports = assert_sound(&Scenario::stormy(0), 0..20);
    let sum = |of: fn(&Outcomes) -> u64| reports.iter().map(|report| of(&report.outcomes)).sum::<u64>();
    let happened = [sum(|o| o.crashed), sum(|o| o.abandoned), sum(|o| o.hits), sum(|o| o.fetched), sum(|o| o.errors)];
    assert!(happened.iter().all(|count| *count > 0), "the storms are too calm to show anything: {happened:?}");
}

#[test]
fn pinned_scenarios_are_sound() {
    for (name, seeds) in [("calm", 1), ("clocks", 2), ("herd", 1), ("links", 2), ("storm", 5), ("workspaces", 2)] {
        assert_sound(&scenario(name), 0..seeds);
    }
}

#[test]
fn pinned_disks_are_sound() {
    assert_sound(&scenario("disks"), 0..6);
}

#[test]
fn pinned_liars_do_no_harm() {
    assert_sound(&scenario("liars"), 0..4);
}

#[test]
fn edited_files_are_asked_about_as_they_are_and_answers_come_back_with_them() {
    let run = simulate(&scenario("workspaces"), 0);
    assert_eq!(run.report.violations, []);
    let about_files = run.history.asks.iter().filter(|ask| ask.expected.is_some());
    let mut nodes = BTreeMap::<_, BTreeSet<_>>::new();
    let (mut fetched, mut remembered) = (0, 0);
    for ask in about_files {
        nodes.entry(ask.expected).or_default().insert(ask.node);
        if let Some((_, history::End::Answered { source, .. })) = ask.ends.first() {
            fetched += usize::from(matches!(source, history::Source::Peer(_)));
            remembered += usize::from(*source == history::Source::Memory);
        }
    }
    let shared = nodes.values().filter(|nodes| nodes.len() > 1).count();
    assert!(nodes.len() > 60 && shared > 10, "{} different answers, {shared} on more than one node", nodes.len());
    assert!(fetched > 10 && remembered > 10, "{fetched} from peers, {remembered} from memory");
}

#[test]
fn large_replies_come_whole_from_many_holders_and_past_wrong_ones() {
    let (mut sources, mut wrong) = (0, 0);
    for seed in 0..3 {
        let run = simulate(&scenario("bulk"), seed);
        assert_eq!(run.report.violations, [], "evalmesh sim replay {seed} --scenario bulk");
        let mut brought: BTreeMap<_, BTreeSet<_>> = BTreeMap::new();
        for chunk in &run.history.chunks {
            brought.entry((chunk.to, chunk.blob)).or_default().insert(chunk.from);
        }
        // The checks of the history say that nothing of it was delivered.
        wrong += run.history.accused.iter().filter(|accused| accused.why.contains("chunk")).count();
        sources = brought.values().map(BTreeSet::len).max().unwrap_or(0).max(sources);
    }
    assert!(
        sources >= 3 && wrong > 0,
        "too calm to show anything: {sources} holders of one reply, {wrong} wrong chunks"
    );
}

#[test]
fn small_sizes_of_the_large_scenarios_are_sound() {
    assert_sound(&Scenario { nodes: 10, ..scenario("swarm") }, 0..1);
    let faulty = std::time::Duration::from_secs(45);
    assert_sound(&Scenario { nodes: 40, degree: Some(5), faulty, ..scenario("thousand") }, 0..1);
    let fewer = |scenario: Scenario| {
        let few = Faults { crashes: 4, resets: 8, ..scenario.faults };
        let workload = Asks { askers: Some(10), every: std::time::Duration::from_secs(4), ..scenario.workload };
        Scenario { nodes: 60, faulty, faults: few, workload, ..scenario }
    };
    let reports = assert_sound(&fewer(scenario("overlay")), 0..2);
    // Nearly everybody of those 59 learns nearly everything while it runs.
    assert!(reports.iter().all(|report| report.news.learned > 59 * 50), "{:?}", reports[0].news);
}

#[test]
fn every_seed_that_ever_failed_is_sound() {
    for regression in library::regressions(library::REGRESSIONS).expect("well-formed") {
        assert_sound(&scenario(&regression.scenario), [regression.seed]);
    }
}

#[test]
fn the_seed_of_this_commit_is_sound() {
    let head = Command::new("git").args(["rev-parse", "HEAD"]).current_dir(env!("CARGO_MANIFEST_DIR")).output();
    let seed = head.ok().and_then(|output| library::seed_of_commit(&String::from_utf8_lossy(&output.stdout)));
    match seed {
        Some(seed) => drop(assert_sound(&scenario("storm"), [seed])),
        None => println!("no commit: this is no git checkout, so there is no seed to derive"),
    }
}

#[test]
fn a_seed_fixes_the_whole_run_and_watching_changes_nothing() {
    let storm = scenario("storm");
    let (first, again, other) = (simulate(&storm, 7).report, simulate(&storm, 7).report, simulate(&storm, 8).report);
    assert_eq!(first, again);
    assert_ne!(first.trace_digest, other.trace_digest);
    let mut events = 0;
    let mut count = |_: crate::fabric::Time, _: Option<Place>, what: &dyn std::fmt::Display| {
        assert!(!what.to_string().is_empty());
        events += 1;
    };
    let watched = Simulation::new(storm.with_seed(7)).draw().watch(&mut count).run().expect("valid");
    assert_eq!(watched.report, first);
    assert_eq!(events, first.events);
    assert!(!watched.hops.is_empty());
}

#[test]
fn the_second_asker_fetches_and_does_not_compute() {
    let run = simulate(&scenario("calm"), 0);
    assert_eq!(run.report.violations, []);
    // Each node also proves in the end that it answers something new, and one question that it holds.
    assert_eq!((run.report.evaluations, run.report.duplicates), (22, 0));
    assert_eq!(run.report.outcomes, Outcomes { hits: 2, fetched: 20, computed: 22, ..Outcomes::default() });
}

#[test]
fn where_round_trips_differ_most_evaluations_beside_an_ask_are_in_vain() {
    // From 0.2 to 10 ms, and many frames wait for one before them: what is computed beside is mostly overtaken by the answer, and ended.
    let run = simulate(&Scenario::default(), 0);
    assert_eq!(run.report.violations, []);
    let Outcomes { fetched, computed, hits, .. } = run.report.outcomes;
    assert!(run.report.duplicates > 0 && fetched >= 18, "{:?}", run.report.outcomes);
    assert_eq!(fetched + computed + hits, 44);
}

#[test]
fn a_run_that_is_stopped_early_is_not_judged_by_how_it_would_have_ended() {
    let run = Simulation::new(Scenario::stormy(1)).until(std::time::Duration::from_secs(3)).run().expect("valid");
    assert_eq!(run.report.violations, []);
    assert_eq!(run.history.calm, None);
    assert!(run.history.asks.iter().any(|ask| ask.ends.is_empty()) || run.history.asks.len() < 150);
}

/// A small world in which everything can go wrong.
fn proving_ground(mutation: Mutation) -> Scenario {
    let storm = scenario("storm");
    let faulty = std::time::Duration::from_secs(5);
    let count = usize::from(mutation == Mutation::TrustEverybody);
    let liars = Liars { count, share: 500, lies: vec![Lie::ForgedRecord] };
    let happens = Faults { crashes: 6, rollbacks: 3, pauses: 0, rot: 0, full: 0, errors: 0, ..storm.faults };
    let workload = Asks { asks: 200, retractions: 20, special: 150, ..storm.workload };
    let edited = mutation == Mutation::TrustOldFiles;
    let workspaces = Workspaces { asks: if edited { 500 } else { 0 }, ..storm.workspaces };
    let happens = Faults { edits: if edited { 10 } else { 0 }, ..happens };
    Scenario { nodes: 4, faulty, workload, workspaces, faults: happens, liars, ..storm }
}

/// Which check finds which planted bug.
const FOUND_BY: [(Mutation, &str); 16] = [
    (Mutation::AcknowledgeEarly, "durable survives"),
    (Mutation::SkipSync, "durable survives"),
    (Mutation::TrustEverybody, "authors are the authors"),
    (Mutation::EvaluateTwice, "one evaluation at a time"),
    (Mutation::DeliverTwice, "ends at most once"),
    (Mutation::LoseDeliveries, "ends at least once"),
    (Mutation::NeverPull, "indexes converge"),
    (Mutation::ReuseEpoch, "positions are used once"),
    (Mutation::FetchRetracted, "retracted is not served"),
    (Mutation::ComputeUnasked, "computed when asked for"),
    (Mutation::ForgetTimeouts, "timeouts are kept"),
    (Mutation::SwapReplies, "delivered is evaluated"),
    (Mutation::LeakKey, "secrets stay"),
    (Mutation::ForgetEpochs, "honest nodes agree"),
    (Mutation::AnnounceUnheld, "announced is served"),
    (Mutation::TrustOldFiles, "files are as they were asked about"),
];

/// How many seeds it takes to find a planted bug, up to 200.
fn seeds_to_find(mutation: Mutation, check: &str) -> Option<u64> {
    let ground = proving_ground(mutation);
    (0..200).find(|seed| {
        let run = Simulation::new(ground.with_seed(*seed)).mutate(mutation).run().expect("valid");
        run.report.violations.iter().any(|violation| violation.check == check)
    })
}

#[test]
fn every_planted_bug_is_found_within_200_seeds() {
    let missed: Vec<_> =
        FOUND_BY.iter().filter(|(mutation, check)| seeds_to_find(*mutation, check).is_none()).collect();
    assert!(missed.is_empty(), "not found: {missed:?}");
}

#[test]
fn without_a_planted_bug_the_proving_grounds_are_sound() {
    assert_sound(&proving_ground(Mutation::SkipSync), 0..3);
    assert_sound(&proving_ground(Mutation::TrustEverybody), 0..2);
}

#[test]
fn every_planted_bug_has_a_name_of_its_own() {
    for mutation in Mutation::ALL {
        assert_eq!(Mutation::named(&mutation.to_string()), Some(mutation));
        assert_eq!(FOUND_BY.iter().filter(|(listed, _)| *listed == mutation).count(), 1);
    }
    assert_eq!(Mutation::SkipSync.to_string(), "skip-sync");
}

#[test]
fn a_failing_run_shrinks_to_what_it_needs() {
    let ground = proving_ground(Mutation::SkipSync);
    let seed = seeds_to_find(Mutation::SkipSync, "durable survives").expect("found");
    let plant = |simulation: Simulation<'static>| simulation.mutate(Mutation::SkipSync);
    let shrunk = shrink(&ground.with_seed(seed), &plant, &mut |_, _| {}).expect("valid").expect("it fails");
    assert_eq!(shrunk.report.violations[0].check, "durable survives");
    assert!(shrunk.left <= 2, "a crash is enough: {shrunk:?}");
    assert!(shrink(&Scenario::default(), &|simulation| simulation, &mut |_, _| {}).expect("valid").is_none());
}

/// A fleet of ten in which everybody holds something, two who vanish without a word, and what the others then ask before they can suspect anything: how
/// long each evaluation was put off.
fn waits_beside_black_holes(latency: Span, seed: u64) -> Vec<Duration> {
    const QUESTIONS: u32 = 60;
    const HOLES: [Place; 2] = [8, 9];
    let question = |holder: usize, number: u32| {
        Request::new(Program::wasm(&b"simulated"[..])).arg(holder.to_string()).arg(number.to_string())
    };
    let (gone, second) = (Duration::from_mins(1), Duration::from_secs(1));
    let mut asks = Vec::new();
    for number in 0..QUESTIONS {
        let offset = second * number / QUESTIONS;
        for node in 0..10 {
            asks.push(Ask { at: second + offset, node, request: question(node, number) });
        }
        for asker in 0..8 {
            // Something that each of the others is said to hold, and something that nobody does.
            let holder = (asker + 1 + number as usize % 10) % 11;
            asks.push(Ask { at: gone + 2 * offset, node: asker, request: question(holder, number) });
        }
    }
    let quiet = Scenario { nodes: 10, seed, ..Scenario::default() };
    let scenario = Scenario { network: Network { latency, ..quiet.network }, faulty: 70 * second, ..quiet };
    let run = Simulation::new(scenario).asks(asks).black_holes(&HOLES, gone, gone + 3 * second).run().expect("valid");
    assert_eq!(run.report.violations, []);
    let asked_late = |asked: &&history::Asked| asked.at.0 >= gone && !asked.probe && asked.node < 8;
    let mut waits = Vec::new();
    for asked in run.history.asks.iter().filter(asked_late) {
        let computed = run
            .history
            .evaluations
            .iter()
            .find(|one| (one.node, one.id) == (asked.node, asked.id) && one.from >= asked.at);
        waits.extend(computed.map(|computed| computed.from - asked.at));
    }
    waits.sort_unstable();
    waits
}

#[test]
fn black_holes_cost_a_miss_one_round_trip_and_two_milliseconds() {
    let ms = Duration::from_millis;
    for (from, to) in [(ms(2), ms(2)), (Duration::from_micros(500), ms(3)), (ms(20), ms(30))] {
        let (waits, bound) = (waits_beside_black_holes(Span { from, to }, 0), 2 * to + crate::limits::ASK_GRACE);
        let waited = waits.iter().filter(|wait| **wait > Duration::ZERO).count();
        assert!(waited > 40 && waits.len() > waited, "too few to show anything: {waited} of {}", waits.len());
        let p99 = report::rank(&waits, 99);
        assert!(p99 <= bound, "{p99:?} of at most {bound:?}, {:?} at most, from {from:?} to {to:?}", waits.last());
    }
}
