//! Components of our world: recognised, run, bounded and as deterministic as commands; others are refused by the name of what they want.

use super::{SHARED, evaluator, limits, run, run_on, stdout};
use crate::error::{EvalError, LimitHit, Refusal};
use crate::evaluator::Job;
use crate::evaluator::pool::Pool;
use crate::evaluator::wasm::{AotConfig, GuestKind, WasmEvaluator, WasmLimits, WasmSetup, inspect};
use crate::reply::{Status, TrapCode};
use crate::request::{Program, Request};

const TALLY: &[u8] = include_bytes!("../../../../examples/guests/tally.component.wasm");
const TALLY_TEXT: &str = include_str!("../../../../examples/guests/tally.component.wat");

fn tally() -> Request {
    Request::new(Program::wasm(TALLY)).stdin("a\nbc\n").file("x/y", "no end").unwrap().file("a", "\n\n\n").unwrap()
}

/// A component of our world whose core function `evaluate` is `body`; `$log`, `$now` and `$random` are at hand.
fn component(body: &str) -> Request {
    let text = TALLY_TEXT;
    let types = &text[text.find("(import").unwrap()..text.find("(core module").unwrap()];
    let text = format!(
        r#"(component {types}
          (import "evalmesh:guest/host@1.0.0" (instance $host
            (export "log" (func (param "text" string)))
            (export "now" (func (result u64)))
            (export "random" (func (param "len" u32) (result (list u8))))))
          (core module $memory (memory (export "memory") 1) (global $top (mut i32) (i32.const 4096))
            (func (export "realloc") (param i32 i32 i32 i32) (result i32)
              (global.get $top)
              (global.set $top (i32.and (i32.const -8) (i32.add (i32.const 7) (i32.add (global.get $top) (local.get 3)))))))
          (core instance $memory (instantiate $memory))
          (core func $log (canon lower (func $host "log") (memory $memory "memory")))
          (core func $now (canon lower (func $host "now")))
          (core func $random (canon lower (func $host "random") (memory $memory "memory") (realloc (func $memory "realloc"))))
          (core module $program
            (import "m" "memory" (memory 1))
            (import "h" "log" (func $log (param i32 i32)))
            (import "h" "now" (func $now (result i64)))
            (import "h" "random" (func $random (param i32 i32)))
            (func (export "evaluate") (param i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {body}))
          (core instance $host (export "log" (func $log)) (export "now" (func $now)) (export "random" (func $random)))
          (core instance $program (instantiate $program (with "m" (instance $memory)) (with "h" (instance $host))))
          (func (export "evaluate") (param "question" $question) (result $answer)
            (canon lift (core func $program "evaluate") (memory $memory "memory") (realloc (func $memory "realloc")))))"#
    );
    Request::new(Program::wasm(wat::parse_str(text).unwrap()))
}

#[test]
fn the_shipped_component_is_what_its_text_says() {
    assert_eq!(wat::parse_str(TALLY_TEXT).unwrap(), TALLY);
}

#[test]
fn a_component_is_recognised_and_answers_like_any_program() {
    let reply = run(tally()).unwrap();
    assert_eq!((reply.status, stdout(&reply).as_str()), (Status::Exit(0), "2 5 stdin\n3 3 a\n0 6 x/y\n"));
    assert_eq!(stdout(&run(Request::new(Program::wasm(TALLY))).unwrap()), "", "no input is not an empty one");
    let found = inspect(TALLY, &WasmLimits::default());
    assert_eq!((found.kind, found.refused), (GuestKind::Component, None));
    assert_eq!(found.needs.memory, 65_536);
    assert!(found.exports.iter().any(|item| item.name == "evaluate"), "{:?}", found.exports);
    let other = run_on(&evaluator(), tally()).unwrap();
    assert_eq!((other.answer(), other.facts.fuel), (reply.answer(), reply.facts.fuel), "the same on every evaluator");
    let entered = run(Request::new(Program::wasm(TALLY).entry("main")));
    assert!(matches!(entered, Err(EvalError::Refused(Refusal::Entry { .. }))), "{entered:?}");
}

#[test]
fn clock_randomness_and_log_are_those_of_every_program() {
    // Random bytes and two looks at the clock become the output; the log gets four bytes.
    let body = "(call $log (i32.const 2048) (i32.const 0))
        (i32.store (i32.const 2048) (i32.const 0x676f6c0a)) (call $log (i32.const 2049) (i32.const 3))
        (call $random (i32.const 8) (i32.const 1000)) (i32.store (i32.const 3000) (i32.load (i32.load (i32.const 1000))))
        (i64.store (i32.const 3008) (call $now)) (i64.store (i32.const 3016) (call $now))
        (i32.store (i32.const 104) (i32.const 3000)) (i32.store (i32.const 108) (i32.const 24)) (i32.const 100)";
    let request = component(body);
    let first = run(request.clone()).unwrap();
    let bytes = first.stdout.as_ref().unwrap().bytes().unwrap();
    let at = |from: usize| u64::from_le_bytes(bytes[from..from + 8].try_into().unwrap());
    assert_eq!((at(8), at(16) - at(8)), (1_767_225_600_000_001_000, 1_000));
    assert_eq!(super::stderr(&first), "log");
    assert_eq!(run_on(&evaluator(), request.clone()).unwrap().answer(), first.answer());
    let other = run(request.arg("another question")).unwrap();
    assert_ne!(other.stdout.as_ref().unwrap().bytes().unwrap()[..8], bytes[..8]);
}

#[test]
fn what_a_component_does_wrong_is_its_trap_and_what_it_takes_too_much_is_a_limit() {
    let status = |body: &str| run(component(body)).unwrap().status;
    assert_eq!(status("unreachable"), Status::Trap(TrapCode::Unreachable));
    // An answer outside its memory, an output outside, and a path that leads out.
    let contract = Status::Trap(TrapCode::Contract);
    assert_eq!(status("(i32.const 65532)"), contract);
    assert_eq!(
        status(
            "(i32.store (i32.const 104) (i32.const 65000)) (i32.store (i32.const 108) (i32.const 1000)) (i32.const 100)"
        ),
        contract
    );
    let file = "(i32.store (i32.const 112) (i32.const 200)) (i32.store (i32.const 116) (i32.const 1))
        (i32.store (i32.const 200) (i32.const 300)) (i32.store (i32.const 204) (i32.const 2)) (i32.const 100)";
    assert_eq!(status(&format!("(i32.store16 (i32.const 300) (i32.const 0x2e2e)) {file}")), contract);
    assert_eq!(status("(call $log (i32.const 65530) (i32.const 100)) (i32.const 100)"), contract);
    assert_eq!(status("(call $random (i32.const -1) (i32.const 0)) (i32.const 100)"), contract);
    let limit = |body: &str| match run(component(body)) {
        Err(EvalError::Limit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    let logs = "(loop $more (call $log (i32.const 0) (i32.const 60000)) (br $more)) (i32.const 100)";
    assert_eq!(limit(logs), LimitHit::Output { bound: limits().output });
    let mut endless = component("(loop (br 0)) (i32.const 100)");
    endless.options.fuel = Some(10_000);
    assert_eq!(run(endless), Err(EvalError::Limit(LimitHit::Fuel { bound: 10_000 })));
    assert_eq!(
        limit("(drop (memory.grow (i32.const 1000))) (i32.const 100)"),
        LimitHit::Memory { bound: limits().memory }
    );
    // A list that claims the same bytes again and again: 4,096 files of 60,000 bytes each.
    let amplified = "(local $i i32)
        (drop (memory.grow (i32.const 2)))
        (i32.store (i32.const 112) (i32.const 65536)) (i32.store (i32.const 116) (i32.const 4096))
        (loop $next
          (i32.store (i32.add (i32.const 65536) (i32.shl (local.get $i) (i32.const 4))) (i32.const 2000))
          (i32.store (i32.add (i32.const 65540) (i32.shl (local.get $i) (i32.const 4))) (i32.const 1))
          (i32.store (i32.add (i32.const 65548) (i32.shl (local.get $i) (i32.const 4))) (i32.const 60000))
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $next (i32.lt_u (local.get $i) (i32.const 4096))))
        (i32.store8 (i32.const 2000) (i32.const 97)) (i32.const 100)";
    assert_eq!(limit(amplified), LimitHit::Output { bound: limits().output });
}

#[test]
fn foreign_worlds_and_too_many_parts_are_refused() {
    let refused = |text: &str| match run(Request::new(Program::wasm(wat::parse_str(text).unwrap()))) {
        Err(EvalError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let wasi = refused(r#"(component (import "wasi:cli/environment@0.2.0" (instance)))"#);
    assert_eq!(wasi, Refusal::Import { module: "wasi:cli".to_owned(), name: "environment@0.2.0".to_owned() });
    assert!(matches!(refused("(component)"), Refusal::Entry { .. }));
    let typed =
        refused(r#"(component (import "evalmesh:guest/host@1.0.0" (instance (export "now" (func (result string))))))"#);
    assert!(matches!(typed, Refusal::Malformed(_)), "{typed:?}");
    let rule = |text: String| match refused(&text) {
        Refusal::TooLarge { rule, found, bound } if found > bound => rule,
        other => panic!("{other:?}"),
    };
    assert_eq!(rule(format!("(component {})", "(core module)".repeat(17))), "modules of a component");
    assert_eq!(rule(format!("(component {})", "(component)".repeat(5))), "components within a component");
    assert_eq!(rule(format!("(component {})", "(type string)".repeat(1_001))), "number of types");
    let loops = format!("(component (core module (func {} {})))", "loop ".repeat(25), "end ".repeat(25));
    assert_eq!(rule(loops), "depth of nested loops", "modules inside are weighed like others");
    let two =
        "(component (core module $m (memory 1)) (core instance (instantiate $m)) (core instance (instantiate $m)))";
    assert!(matches!(refused(two), Refusal::Malformed(_)), "two memories");
}

#[test]
fn a_compiled_component_is_kept_and_loaded() {
    let folder = tempfile::tempdir().unwrap();
    for (compiled, disk) in [(1, 0), (0, 1)] {
        let setup =
            WasmSetup { limits: limits(), aot: Some(AotConfig::new(folder.path(), b"s")), ..WasmSetup::default() };
        let evaluator = WasmEvaluator::with(Pool::start("test", 1).unwrap(), setup).unwrap();
        let reply = evaluator.evaluate(&Job::inline(tally()).unwrap()).unwrap();
        assert_eq!(reply.answer(), run_on(&SHARED, tally()).unwrap().answer());
        let report = evaluator.artifacts();
        assert_eq!((report.compiled, report.disk_hits), (compiled, disk));
    }
}
