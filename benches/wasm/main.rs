//! What an evaluation costs, as ratios to bare wasmtime with the same settings: `cargo bench --no-default-features --features wasm`.
//!
//! Both sides are measured in turns within one run, so load on the machine hits both; the figures are medians over rounds, and the ratio is the
//! median of the rounds' ratios. Arguments choose rows: `calls`, `threads`, `memory`, `restart`; none means all but `restart`.

#![expect(clippy::disallowed_methods, reason = "a benchmark measures time")]

mod bare;
mod restart;

use std::hint::black_box;
use std::time::{Duration, Instant};

use evalmesh::evaluator::Job;
use evalmesh::evaluator::pool::Pool;
use evalmesh::evaluator::wasm::{WasmEvaluator, WasmLimits};
use evalmesh::request::{Program, Request};

/// That of the `evalmesh` program.
#[path = "../../src/allocator.rs"]
mod allocator;

const ROUNDS: usize = 61;
const CALLS: usize = 400;

const ROT13: &[u8] = include_bytes!("../../examples/guests/rot13.wasm");
const QUEENS: &[u8] = include_bytes!("../../examples/guests/queens.wasm");
const WORDFREQ: &[u8] = include_bytes!("../../examples/guests/wordfreq.wasm");
const CRC32C: &[u8] = include_bytes!("../../examples/guests/crc32c.wasm");
const INPUT: &[u8] = b"Hello, Wasm! 123";

fn main() {
    allocator::keep_memory();
    let chosen: Vec<String> = std::env::args().skip(1).filter(|arg| !arg.starts_with("--")).collect();
    let wanted = |row: &str| if chosen.is_empty() { row != "restart" } else { chosen.iter().any(|arg| arg == row) };
    let evaluator = WasmEvaluator::new(Pool::start("bench", 2).expect("threads"), WasmLimits::default());
    let evaluator = evaluator.expect("an evaluator");
    // First: what threads that have ended leave with the allocator is none of it.
    if wanted("memory") {
        memory(&evaluator);
    }
    if wanted("calls") {
        calls(&evaluator);
    }
    if wanted("threads") {
        threads(&evaluator);
    }
    if wanted("restart") {
        restart::first_call();
    }
}

fn job(request: Request) -> Job {
    Job::inline(request).expect("a whole request")
}

fn filter() -> Job {
    job(Request::new(Program::wasm(ROT13)).stdin(INPUT))
}

/// One call after the other on one thread.
fn calls(evaluator: &WasmEvaluator) {
    println!("one call, fresh instance each (median of {ROUNDS} rounds of {CALLS})   ours us   bare us   ratio");
    let bare = bare::Bare::new();
    let rows: [(&str, Job, &dyn Fn()); 4] = [
        ("core module, alloc/run, 16 bytes", filter(), &|| bare.filter(INPUT)),
        (
            "core module, one call: queens(1)",
            job(Request::new(Program::wasm(QUEENS).entry("queens")).arg("1")),
            &|| {
                bare.call(1);
            },
        ),
        (
            "WASI C command: wordfreq, 16 bytes",
            job(Request::new(Program::wasm(WORDFREQ)).arg("3").stdin(INPUT)),
            &|| {
                bare.instantiate_command();
            },
        ),
        (
            "WASI C command: crc32c of a file of 16 bytes",
            job(Request::new(Program::wasm(CRC32C)).arg("a").file("a", INPUT).expect("a path")),
            &|| {
                bare.instantiate_command();
            },
        ),
    ];
    for (name, job, bare) in rows {
        let ours = || drop(black_box(evaluator.evaluate(&job).expect("a reply")));
        let (ours, bare, ratio) = in_turns(&ours, bare);
        println!("{name:<68} {:>8.2} {:>9.2} {ratio:>7.2}", micros(ours), micros(bare));
    }
    println!("(the bare side of the command rows only instantiates: there is no second host to compare with)");
}

/// Medians of both sides, and of the ratio within a round.
fn in_turns(ours: &dyn Fn(), bare: &dyn Fn()) -> (Duration, Duration, f64) {
    let round = |work: &dyn Fn()| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| work());
        start.elapsed() / u32::try_from(CALLS).expect("small")
    };
    round(ours);
    round(bare);
    let mut rounds: Vec<_> = (0..ROUNDS).map(|_| (round(ours), round(bare))).collect();
    let mut ratios: Vec<f64> = rounds.iter().map(|(ours, bare)| ours.as_secs_f64() / bare.as_secs_f64()).collect();
    ratios.sort_by(f64::total_cmp);
    rounds.sort();
    let ours = rounds[ROUNDS / 2].0;
    rounds.sort_by_key(|(_, bare)| *bare);
    (ours, rounds[ROUNDS / 2].1, ratios[ROUNDS / 2])
}

/// As many calls as two threads manage.
fn threads(evaluator: &WasmEvaluator) {
    const EACH: u32 = 50_000;
    let mut best = 0.0_f64;
    for _ in 0..5 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let job = filter();
                    (0..EACH).for_each(|_| drop(black_box(evaluator.evaluate(&job).expect("a reply"))));
                });
            }
        });
        best = best.max(f64::from(2 * EACH) / start.elapsed().as_secs_f64());
    }
    println!("2 threads: {best:.0} instantiate+call per second (best of 5)");
}

/// Whether a million calls leave anything behind.
fn memory(evaluator: &WasmEvaluator) {
    let job = filter();
    let run = |calls: u32| (0..calls).for_each(|_| drop(black_box(evaluator.evaluate(&job).expect("a reply"))));
    run(50_000);
    let before = resident();
    run(1_000_000);
    let after = resident();
    println!("1,000,000 calls: resident {before} KiB before, {after} KiB after");
    assert!(after <= before + 256, "host memory grew by {} KiB", after - before);
}

/// Resident memory in KiB, where the system says.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

fn micros(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e6
}
