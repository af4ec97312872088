//! Every limit ends the evaluation as an error that the guest cannot observe.

use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use super::super::engine::Stopwatch;
use super::{SHARED, call, command, evaluator, run, run_on, start, stdout, wat};
use crate::error::{EvalError, LimitHit};
use crate::reply::Status;
use crate::request::Request;

const FOREVER: &str = "(loop $again (br $again))";

fn limit(request: Request) -> LimitHit {
    match run(request) {
        Err(EvalError::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    }
}

#[test]
fn fuel() {
    let mut request = command(FOREVER);
    request.options.fuel = Some(10_000);
    assert_eq!(limit(request), LimitHit::Fuel { bound: 10_000 });
    let mut start = call(&format!("(module (func $s {FOREVER}) (start $s) (func (export \"f\")))"), "f");
    start.options.fuel = Some(500);
    assert_eq!(limit(start), LimitHit::Fuel { bound: 500 });
}

#[test]
fn fuel_used_is_a_fact_and_a_bound_that_suffices_changes_nothing() {
    let counted = |n: u32| {
        let text = "(module (func (export \"f\") (param i32)
            (loop $l (local.set 0 (i32.sub (local.get 0) (i32.const 1))) (br_if $l (local.get 0)))))";
        call(text, "f").arg(n.to_string())
    };
    let fuel = |request| run(request).unwrap().facts.fuel.unwrap();
    let (few, many) = (fuel(counted(10)), fuel(counted(1_000)));
    assert!(few > 10 && many > few * 50, "{few} {many}");
    let mut exact = counted(1_000);
    exact.options.fuel = Some(many + 10);
    assert_eq!(fuel(exact), many);
}

#[test]
fn deadline() {
    let watch = Stopwatch::start();
    let request = command(FOREVER).timeout(Duration::from_millis(60));
    assert_eq!(limit(request), LimitHit::Deadline { ms: 60 });
    assert!(watch.elapsed() >= Duration::from_millis(60));
}

#[test]
fn stack() {
    let text = r#"(module (func $f (export "f") (result i32) (i32.add (call $f) (i32.const 1))))"#;
    assert_eq!(limit(call(text, "f")), LimitHit::Stack);
}

#[test]
fn memory_beyond_the_nodes_limit_is_never_seen_by_the_guest() {
    let grow = |memory: &str, pages: u32| {
        let text =
            format!("(module (memory {memory}) (func (export \"f\") (result i32) (memory.grow (i32.const {pages}))))");
        call(&text, "f")
    };
    assert_eq!(stdout(&run(grow("1", 255)).unwrap()), "1\n");
    assert_eq!(limit(grow("1", 256)), LimitHit::Memory { bound: 16 << 20 });
    assert_eq!(stdout(&run(grow("1 3", 3)).unwrap()), "-1\n", "the module's own maximum is the guest's affair");
    assert_eq!(stdout(&run(grow("1", 65_536)).unwrap()), "-1\n", "nor has any node more than 4 GiB");
    assert_eq!(limit(grow("1 1000", 999)), LimitHit::Memory { bound: 16 << 20 });
    let mut lower = grow("1", 1);
    lower.options.memory = Some(65_536);
    assert_eq!(limit(lower.clone()), LimitHit::Memory { bound: 65_536 });
    lower.options.memory = Some(65_535);
    assert_eq!(limit(lower.clone()), LimitHit::Memory { bound: 65_535 }, "already when it is made");
    lower.options.memory = Some(u64::MAX);
    assert_eq!(stdout(&run(lower).unwrap()), "1\n");
}

#[test]
fn tables_beyond_the_nodes_limit_are_never_seen_by_the_guest() {
    let grow = |tables: &str, by: u32| {
        let text = format!(
            "(module {tables} (func (export \"f\") (result i32) (table.grow 0 (ref.null func) (i32.const {by}))))"
        );
        call(&text, "f")
    };
    assert_eq!(stdout(&run(grow("(table 10 funcref)", 990)).unwrap()), "10\n");
    assert!(matches!(limit(grow("(table 10 funcref)", 991)), LimitHit::Memory { .. }));
    assert!(matches!(limit(grow("(table 10 funcref) (table 500 funcref)", 491)), LimitHit::Memory { .. }));
    assert_eq!(stdout(&run(grow("(table 10 20 funcref)", 11)).unwrap()), "-1\n");
}

#[test]
fn output_is_never_cut() {
    // 40 bytes a time to stdout or stderr, ignoring what the host says.
    let write = |fd: u32, times: u32| {
        command(&format!(
            "(local $i i32)
            (i32.store (i32.const 0) (i32.const 1024)) (i32.store (i32.const 4) (i32.const 40))
            (loop $again
              (drop (call $fd_write (i32.const {fd}) (i32.const 0) (i32.const 1) (i32.const 8)))
              (local.set $i (i32.add (local.get $i) (i32.const 1)))
              (br_if $again (i32.lt_u (local.get $i) (i32.const {times}))))"
        ))
    };
    for fd in [1, 2] {
        let mut request = write(fd, 10);
        request.options.output = Some(400);
        assert_eq!(run(request.clone()).unwrap().len(), 400);
        request.options.output = Some(399);
        assert_eq!(limit(request), LimitHit::Output { bound: 399 });
        assert_eq!(limit(write(fd, 1_000_000)), LimitHit::Output { bound: 1 << 20 });
    }
}

#[test]
fn files_count_as_output() {
    // Makes a file `some` and sets its size.
    let make = |size: u64| {
        command(&format!(
            "(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 4) (i32.const 1)
                (i64.const -1) (i64.const 0) (i32.const 0) (i32.const 0)))
             (drop (call $set_size (i32.load (i32.const 0)) (i64.const {size})))"
        ))
    };
    let reply = run(make(1 << 20)).unwrap();
    assert_eq!(reply.files[0].data.len(), 1 << 20);
    for size in [(1 << 20) + 1, i64::MAX as u64, u64::MAX] {
        assert_eq!(limit(make(size)), LimitHit::Output { bound: 1 << 20 });
    }
}

#[test]
fn processor_time() {
    let mut request = command(FOREVER);
    request.options.cpu = Some(Duration::from_millis(30));
    let watch = Stopwatch::start();
    assert_eq!(limit(request.clone()), LimitHit::CpuTime { ms: 30 });
    assert!(watch.elapsed() >= Duration::from_millis(30), "a thread gets no more than the time that goes by");
    request.options.timeout = Some(Duration::from_millis(10));
    assert_eq!(limit(request), LimitHit::Deadline { ms: 10 });
    let lower = super::WasmLimits { cpu: Some(Duration::from_millis(20)), ..super::limits() };
    let strict = super::WasmEvaluator::new(crate::evaluator::pool::Pool::start("test", 1).unwrap(), lower).unwrap();
    let mut generous = command(FOREVER);
    generous.options.cpu = Some(Duration::from_secs(9));
    assert_eq!(
        run_on(&strict, generous),
        Err(EvalError::Limit(LimitHit::CpuTime { ms: 20 })),
        "a request only lowers it"
    );
}

#[test]
fn files_that_are_made() {
    // Makes and closes `a`, `b`, ...: as many as there are, each counted once.
    let make = |files: u32| {
        let open = "(drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 1024) (i32.const 1) (i32.const 1)
            (i64.const -1) (i64.const 0) (i32.const 0) (i32.const 0))) (drop (call $close (i32.load (i32.const 0))))";
        let each = (0..files).map(|n| format!("(i32.store8 (i32.const 1024) (i32.const {})) {open} {open}", 97 + n));
        let mut request = command(&each.collect::<String>());
        request.options.files = Some(3);
        request
    };
    assert_eq!(run(make(3)).unwrap().files.len(), 3);
    assert_eq!(limit(make(4)), LimitHit::Files { bound: 3 });
}

#[test]
fn cancelling_is_heard_within_a_moment() {
    let warm = command(FOREVER).timeout(Duration::from_millis(1));
    let _ = run(warm);
    let (cancel, outcome) = start(&SHARED, command(FOREVER));
    assert_eq!(outcome.recv_timeout(Duration::from_millis(40)), Err(RecvTimeoutError::Timeout));
    let watch = Stopwatch::start();
    cancel.cancel();
    assert_eq!(outcome.recv().unwrap(), Err(EvalError::Cancelled));
    assert!(watch.elapsed() < Duration::from_millis(250), "{:?}: some 10 ms on an idle machine", watch.elapsed());
}

#[test]
fn a_cancelled_job_does_not_begin() {
    let evaluator = evaluator();
    let one = start(&evaluator, command(FOREVER));
    let two = start(&evaluator, command(FOREVER));
    let three = start(&evaluator, command(""));
    for (cancel, _) in [&three, &one, &two] {
        cancel.cancel();
    }
    assert_eq!(three.1.recv().unwrap(), Err(EvalError::Cancelled));
}

#[test]
fn the_evaluator_can_be_dropped_while_it_works() {
    let evaluator = evaluator();
    let (_, outcome) = start(&evaluator, command(FOREVER).timeout(Duration::from_millis(30)));
    drop(evaluator);
    let result = outcome.recv().unwrap();
    assert_eq!(result, Err(EvalError::Limit(LimitHit::Deadline { ms: 30 })));
}

#[test]
fn compiled_programs_are_kept_shared_and_bounded() {
    let evaluator = evaluator();
    let programs = &evaluator.shared.programs;
    let module = |i: usize| wat(&format!("(module (func (export \"_start\")) (global i32 (i32.const {i})))"));
    for _ in 0..3 {
        run_on(&evaluator, module(0)).unwrap();
    }
    assert_eq!(programs.len(), 1);
    let _ = run_on(&evaluator, wat("(module (import \"a\" \"b\" (func)))"));
    assert_eq!(programs.len(), 2, "a refusal is remembered too");
    for i in 0..260 {
        assert_eq!(run_on(&evaluator, module(i)).unwrap().status, Status::Exit(0));
    }
    assert_eq!(programs.len(), super::super::limits::CACHED_MODULES);
}
