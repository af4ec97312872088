//! The figures that the design promises, measured. They want an optimised build and a quiet core, so they run on demand:
//!
//! `cargo test --profile sim --no-default-features --features sim --lib sim::figures -- --ignored --nocapture --test-threads 1`

use super::*;

/// That of the `evalmesh` program.
#[path = "../allocator.rs"]
mod allocator;

fn scenario(name: &str) -> Scenario {
    library::scenario(name).expect("known").expect("valid")
}

/// CPU seconds of this thread so far: other people's builds do not count.
fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/thread-self/stat").expect("Linux");
    let after_name = stat.rsplit_once(')').expect("a name").1;
    let ticks: f64 =
        after_name.split_whitespace().skip(11).take(2).map(|field| field.parse::<f64>().expect("ticks")).sum();
    // 100 ticks a second on every Linux that this runs on.
    ticks / 100.0
}

/// The most memory that this process ever had, in megabytes.
fn peak_megabytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a peak");
    line.split_whitespace().next().and_then(|kb| kb.parse::<u64>().ok()).expect("kilobytes") / 1024
}

#[test]
#[ignore = "a figure: wants an optimised build"]
fn a_thousand_seeds_of_the_swarm_take_ten_minutes_of_one_core() {
    let seeds = std::env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(20);
    allocator::keep_memory();
    let swarm = scenario("swarm");
    let before = cpu();
    let mut events = 0;
    for seed in 0..seeds {
        let report = run(&swarm.with_seed(seed)).expect("valid");
        assert_eq!(report.violations, [], "swarm {seed}");
        events += report.events;
    }
    let took = (cpu() - before) / f64::from(u32::try_from(seeds).expect("few"));
    println!(
        "swarm: {took:.3} CPU s a seed over {seeds} seeds, {} events a seed, {:.0} s for 1,000 seeds",
        events / seeds,
        took * 1000.0
    );
    assert!(took < 0.6, "{took} s a seed");
}

#[test]
#[ignore = "a figure: wants an optimised build"]
fn a_thousand_nodes_for_five_minutes_take_two_minutes_and_two_gigabytes() {
    allocator::keep_memory();
    let before = cpu();
    let report = run(&scenario("thousand")).expect("valid");
    let (took, memory) = (cpu() - before, peak_megabytes());
    println!("thousand: {took:.1} CPU s, {memory} MB, {} events, {:?}", report.events, report.outcomes);
    assert_eq!(report.violations, []);
    assert!(took < 120.0 && memory < 2048, "{took} s, {memory} MB");
}

/// `NODES=1000` tries less of it, `KINDS=` counts what happens and takes longer.
#[test]
#[ignore = "a figure: wants an optimised build"]
fn ten_thousand_nodes_for_five_minutes_take_ten_minutes_and_four_gigabytes() {
    allocator::keep_memory();
    let overlay = scenario("overlay");
    let nodes = std::env::var("NODES").ok().and_then(|nodes| nodes.parse().ok()).unwrap_or(10_000);
    let mut kinds = std::collections::BTreeMap::<String, u64>::new();
    let mut count = |_: crate::fabric::Time, _: Option<Place>, what: &dyn std::fmt::Display| {
        let told = what.to_string();
        *kinds
            .entry(told.split(' ').filter(|word| word.chars().all(char::is_alphabetic)).take(2).collect())
            .or_default() += 1;
    };
    let mut simulation = Simulation::new(Scenario { nodes, ..overlay });
    if std::env::var_os("KINDS").is_some() {
        simulation = simulation.watch(&mut count);
    }
    let before = cpu();
    let report = simulation.run().expect("valid").report;
    let (took, memory) = (cpu() - before, peak_megabytes());
    println!("{kinds:?}");
    println!("overlay of {nodes}: {took:.1} CPU s, {memory} MB, {} events, {:?}", report.events, report.outcomes);
    println!("{:?} (iroh-gossip: p99 1,580 ms); {} frames, {} bytes", report.news, report.frames, report.bytes);
    assert_eq!(report.violations, []);
    assert!(took < 600.0 && memory < 4096, "{took} s, {memory} MB");
}

/// Many seeds without the command line's dependencies: `SCENARIO=storm,disks SEED=0 SEEDS=1000`.
#[test]
#[ignore = "a long sweep: wants an optimised build"]
fn sweep() {
    let number = |name: &str, default| std::env::var(name).ok().and_then(|value| value.parse().ok()).unwrap_or(default);
    let (first, seeds) = (number("SEED", 0), number("SEEDS", 100));
    let mut failed = Vec::new();
    for name in std::env::var("SCENARIO").unwrap_or_else(|_| "storm".to_owned()).split(',') {
        let scenario = scenario(name);
        let (mut evaluations, mut duplicates, mut fetched) = (0, 0, 0);
        for seed in first..first + seeds {
            let report = run(&scenario.with_seed(seed)).expect("valid");
            evaluations += report.evaluations;
            duplicates += report.duplicates;
            fetched += report.outcomes.fetched;
            failed.extend(
                report.violations.first().map(|first| format!("{name} {seed} {}: {}", first.check, first.what)),
            );
        }
        println!(
            "{name}: {seeds} seeds from {first} on; {evaluations} evaluations, {duplicates} of them duplicates; \
             {fetched} callers answered by peers; {} failures so far",
            failed.len()
        );
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
