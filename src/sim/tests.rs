use super::*;

fn violations(run: &Run) -> &[Violation] {
    &run.report.violations
}

#[test]
fn nothing_wrong_happens_in_a_hundred_storms() {
    let mut seen = Outcomes::default();
    for seed in 0..100 {
        let run = Simulation::new(Scenario::stormy(seed)).run().expect("valid");
        assert_eq!(violations(&run), [], "seed {seed}");
        seen.crashed += run.report.outcomes.crashed;
        seen.abandoned += run.report.outcomes.abandoned;
        seen.hits += run.report.outcomes.hits;
        seen.fetched += run.report.outcomes.fetched;
    }
    let happened = [seen.crashed, seen.abandoned, seen.hits, seen.fetched];
    assert!(happened.iter().all(|count| *count > 0), "the storms are too calm to show anything: {seen:?}");
}

#[test]
#[ignore = "a sweep for people"]
fn sweep() {
    let var = |name: &str| std::env::var(name).ok();
    let from: u64 = var("SEED").and_then(|s| s.parse().ok()).unwrap_or(0);
    let count: u64 = var("SEEDS").and_then(|s| s.parse().ok()).unwrap_or(10);
    let names = var("SCENARIO").unwrap_or_else(|| "storm".to_owned());
    for name in names.split(',') {
        let scenario = library::scenario(name).expect("known").expect("valid");
        let mut kinds = std::collections::BTreeMap::new();
        if let Some(node) = var("TRACE") {
            let node: usize = node.parse().expect("a number");
            let mut tell = |at: crate::fabric::Time, place: Option<Place>, what: &dyn std::fmt::Display| {
                if place.is_none_or(|place| place == node) {
                    println!("{} {what}", moment(at.0));
                }
            };
            let run = Simulation::new(scenario.with_seed(from)).watch(&mut tell).run().expect("valid");
            println!("{:?} {:?}", run.history.accused, violations(&run));
            run.episodes.iter().for_each(|e| println!("{} {:?}", e.describe(), e.steps));
            continue;
        }
        for seed in from..from + count {
            let report = run(&scenario.with_seed(seed)).expect("valid");
            if var("SHOW").is_some() {
                println!("{name} {seed}: {} events {:?} computed {} dup {} lat {:?} frames {} lost {} settled {:?}", report.events, report.outcomes, report.evaluations, report.duplicates, report.latency, report.frames, report.lost, report.settled);
            }
            for v in &report.violations {
                let e = kinds.entry(v.check).or_insert_with(Vec::new);
                e.push((seed, v.what.clone()));
            }
        }
        for (check, list) in kinds {
            println!("{name}: {check}: {}", list.len());
            for (seed, what) in list.iter().take(6) {
                println!("    seed {seed}: {what}");
            }
        }
    }
}
