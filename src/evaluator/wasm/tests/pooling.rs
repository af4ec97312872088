//! The pool of instances: full is an error of its own, gauges tell how full, and nothing of one evaluation is left for the next.

use std::time::Duration;

use super::super::{Flavour, WasmEvaluator, WasmLimits};
use super::{call, command, evaluator, limits, run, run_on, start, stdout, wat};
use crate::error::EvalError;
use crate::evaluator::Evaluator;
use crate::evaluator::pool::Pool;
use crate::request::{Class, Request};

const FOREVER: &str = "(loop $again (br $again))";

fn one_seat() -> WasmEvaluator {
    WasmEvaluator::new(Pool::start("test", 2).unwrap(), WasmLimits { instances: 1, ..limits() }).unwrap()
}

#[test]
fn an_evaluation_waits_for_a_seat_and_for_no_longer_than_it_may() {
    let evaluator = one_seat();
    assert!(evaluator.gauges().instances < 0.001);
    let (cancel, endless) = start(&evaluator, command(FOREVER));
    while evaluator.gauges().memories < 1.0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(evaluator.gauges().instances > 0.999);
    let waited = run_on(&evaluator, command("").timeout(Duration::from_millis(40)));
    assert!(matches!(waited, Err(EvalError::Limit(_))), "{waited:?}");
    cancel.cancel();
    assert_eq!(endless.recv().unwrap(), Err(EvalError::Cancelled));
    run_on(&evaluator, command("")).unwrap();
    assert!(evaluator.gauges().instances < 0.001);
}

#[test]
fn a_program_with_more_tables_than_the_pool_has_left_is_busy_not_broken() {
    // One seat has room for sixteen tables; the pool never promises more than that to one instance.
    let tables = "(table 1 funcref)".repeat(16);
    let evaluator = one_seat();
    let request = call(&format!("(module {tables} (func (export \"f\")))"), "f");
    for _ in 0..3 {
        run_on(&evaluator, request.clone()).unwrap();
    }
}

#[test]
fn nothing_is_left_of_the_instance_before() {
    // Writes to memory, a global and a table, and says what was there.
    let text = r#"(module (memory 2) (global $g (mut i32) (i32.const 0)) (table $t 3 funcref) (data (i32.const 8) "\05")
        (func $x) (elem declare func $x)
        (func (export "f") (result i32 i32 i32 i32 i32)
          (i32.load (i32.const 100000)) (i32.load8_u (i32.const 8)) (global.get $g)
          (ref.is_null (table.get $t (i32.const 1))) (memory.size)
          (i32.store (i32.const 100000) (i32.const 1)) (i32.store8 (i32.const 8) (i32.const 9))
          (global.set $g (i32.const 3)) (table.set $t (i32.const 1) (ref.func $x)) (drop (memory.grow (i32.const 3)))))"#;
    let evaluator = one_seat();
    for _ in 0..5 {
        assert_eq!(stdout(&run_on(&evaluator, call(text, "f")).unwrap()), "0\n5\n0\n1\n2\n");
    }
}

#[test]
fn the_native_class_is_another_question_with_its_own_code() {
    let text = "(module (func (export \"f\") (param f64 f64) (result f64) (f64.add (local.get 0) (local.get 1))))";
    let portable = call(text, "f").arg("1.5").arg("2");
    let native = Request { class: WasmEvaluator::native_class().unwrap(), ..portable.clone() };
    assert_ne!(portable.id().unwrap(), native.id().unwrap());
    let evaluator = evaluator();
    for request in [portable, native] {
        assert_eq!(stdout(&run_on(&evaluator, request).unwrap()), "3.5\n");
    }
    assert_eq!(evaluator.shared.programs.len(), 2);
    assert_eq!(Flavour::of(&Class::Observed), None);
    let elsewhere = Request { class: Class::Device("wasm-native:vax:wasmtime-1".parse().unwrap()), ..wat("(module)") };
    assert!(matches!(evaluator.admit(&elsewhere), Err(EvalError::Refused(_))));
}

#[test]
fn nans_are_canonical_where_the_class_is_portable() {
    // Adds a NaN with a payload to one and looks at the bits.
    let bits = "(module (func (export \"f\") (result i64)
        (i64.reinterpret_f64 (f64.add (f64.reinterpret_i64 (i64.const 0x7ff4deadbeef0001)) (f64.const 1)))))";
    assert_eq!(stdout(&run(call(bits, "f")).unwrap()), format!("{}\n", 0x7ff8_0000_0000_0000_i64));
    let vector = "(module (func (export \"f\") (result i64)
        (i64x2.extract_lane 0 (f64x2.mul (v128.const i64x2 0xfff4deadbeef0001 0) (v128.const f64x2 2 2)))))";
    assert_eq!(stdout(&run(call(vector, "f")).unwrap()), format!("{}\n", 0x7ff8_0000_0000_0000_i64));
}
