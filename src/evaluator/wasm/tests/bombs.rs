//! Modules that are small and cost a compiler minutes: refused by the scan, in the time that the scan takes.

use super::super::WasmLimits;
use super::super::admit::scan;
use super::super::engine::Stopwatch;
use super::super::limits::LOOPS;
use crate::error::Refusal;

fn module(functions: &str) -> Vec<u8> {
    wat::parse_str(format!("(module {functions})")).unwrap()
}

fn rule(bytes: &[u8]) -> String {
    match scan(bytes, &WasmLimits::default()) {
        Err(Refusal::TooLarge { rule, found, bound }) if found > bound => rule,
        other => panic!("{other:?}"),
    }
}

/// Functions of the body `one`, `times` over.
fn repeated(head: &str, one: &str, times: usize) -> Vec<u8> {
    module(&format!("(func {head} {})", one.repeat(times)))
}

#[test]
fn what_costs_more_than_it_weighs_is_refused() {
    // Measured on this engine: 5,000 loops side by side (35 KB) took 30 s to compile, 10,000 took 115 s.
    assert_eq!(rule(&repeated("(param i32)", "(loop (br_if 0 (local.get 0))) ", 5_000)), "loops of a function");
    // Each block may carry every local: 24 KB that take gigabytes.
    let locals = format!("(param i32) (local {})", "i64 ".repeat(8_000));
    assert_eq!(
        rule(&repeated(&locals, "(block (br_if 0 (local.get 0))) ", 2_000)),
        "blocks of a function times its values"
    );
    // The same cost spread over many functions.
    let many = format!("(func {locals} {})", "(block (br_if 0 (local.get 0))) ".repeat(100)).repeat(60);
    assert_eq!(rule(&module(&many)), "blocks of all functions times their values");
    let table = format!(
        "(func (param i32) {} (br_table {} (local.get 0)) {})",
        "block ".repeat(2),
        "0 1 ".repeat(600_000),
        "end ".repeat(2)
    );
    assert_eq!(rule(&module(&table)), "size of a function in bytes");
}

#[test]
fn a_bomb_of_28_kilobytes_is_refused_at_once() {
    let nested = module(&format!("(func {} {})", "loop ".repeat(9_500), "end ".repeat(9_500)));
    assert!((27_000..30_000).contains(&nested.len()), "{}", nested.len());
    let mut best = u128::MAX;
    for _ in 0..5 {
        let watch = Stopwatch::start();
        assert_eq!(rule(&nested), "depth of nested loops");
        best = best.min(watch.elapsed().as_millis());
    }
    assert!(best < 50, "{best} ms");
}

/// The heaviest function of the large modules that were tried (a database, two language runtimes, two bundlers) has 586 loops, 12,889 branches
/// and a weight of 193,168; the heaviest module weighs 14,548,263.
#[test]
fn what_real_programs_have_is_admitted() {
    let body = "(block (br_if 0 (local.get 0)) (local.set 1 (i32.add (local.get 1) (local.get 0)))) ";
    let branches = repeated("(param i32 i32) (local i64 i64 i64 i64 i64)", body, 13_000);
    let loops = repeated("(param i32) (local i64 i64 i64 i64 i64)", "(loop (br_if 0 (local.get 0))) ", 600);
    for bytes in [branches, loops] {
        scan(&bytes, &WasmLimits::default()).unwrap();
    }
    const { assert!(LOOPS >= 2 * 586) };
}
