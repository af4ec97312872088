use super::*;

#[test]
fn nothing_wrong_happens_in_a_hundred_storms() {
    let mut seen = Outcomes::default();
    for seed in 0..100 {
        let report = run(&Scenario::stormy(seed));
        assert_eq!(report.violations, Vec::<String>::new(), "seed {seed}");
        seen.crashed += report.outcomes.crashed;
        seen.abandoned += report.outcomes.abandoned;
        seen.hits += report.outcomes.hits;
        seen.answered += report.outcomes.answered.min(report.fetched);
    }
    let happened = [seen.crashed, seen.abandoned, seen.hits, seen.answered];
    assert!(happened.iter().all(|count| *count > 0), "the storms are too calm to show anything: {seen:?}");
}

#[test]
fn a_seed_fixes_the_whole_run() {
    let (first, again, other) = (run(&Scenario::stormy(7)), run(&Scenario::stormy(7)), run(&Scenario::stormy(8)));
    assert_eq!(first, again);
    assert_ne!(first.trace_digest, other.trace_digest);
}

#[test]
fn the_second_asker_fetches_and_does_not_compute() {
    let report = run(&Scenario::default());
    assert_eq!(report.violations, Vec::<String>::new());
    assert_eq!((report.computed, report.fetched), (20, 20));
    assert_eq!(report.outcomes, Outcomes { answered: 40, ..Outcomes::default() });
}
