//! Filters and plain calls.

use super::{call, run, stderr, stdout, wat};
use crate::error::{EvalError, LimitHit, Refusal};
use crate::reply::{Status, TrapCode};
use crate::request::{Program, Request};

/// A filter whose `alloc` returns `at` and whose `run` returns `result`.
fn filter(at: &str, result: &str) -> Request {
    wat(&format!(
        r#"(module (memory (export "memory") 1)
            (func (export "alloc") (param i32) (result i32) {at})
            (func (export "run") (param i32 i32) (result i64) {result}))"#
    ))
}

fn printed(body: &str, args: &[&str]) -> String {
    let request = call(&format!("(module (func (export \"f\") {body}))"), "f");
    let request = args.iter().fold(request, |request, arg| request.arg(*arg));
    let reply = run(request).unwrap();
    assert_eq!(reply.status, Status::Exit(0));
    stdout(&reply)
}

#[test]
fn numbers_are_parsed_and_printed_by_type() {
    let echo = "(param i32 i64 f32 f64) (result i32 i64 f32 f64)
        local.get 0 local.get 1 local.get 2 local.get 3";
    assert_eq!(
        printed(echo, &["-1", "9223372036854775807", "0.1", "1e21"]),
        "-1\n9223372036854775807\n0.1\n1000000000000000000000\n"
    );
    assert_eq!(printed(echo, &["4294967295", "18446744073709551615", "-0", "inf"]), "-1\n-1\n-0\ninf\n");
    assert_eq!(printed(echo, &["0", "-5", "nan", "-NaN"]), "0\n-5\nNaN\nNaN\n");
    assert_eq!(printed("(result f64) f64.const 5e-324", &[]).trim().parse::<f64>().unwrap().to_bits(), 1);
    assert_eq!(printed("(result f64) f64.const nan:0x4", &[]), "NaN\n");
    assert_eq!(printed("", &[]), "");
}

#[test]
fn nan_bits_are_canonical() {
    let body = "(param f64) (result i64) (i64.reinterpret_f64 (f64.div (local.get 0) (local.get 0)))";
    for zero in ["0", "-0", "inf", "nan", "-nan"] {
        assert_eq!(printed(body, &[zero]), format!("{}\n", 0x7ff8_0000_0000_0000_i64));
    }
}

#[test]
fn wrong_arguments_are_refused() {
    let text = r#"(module (func (export "f") (param i32)))"#;
    for args in [&[][..], &["1", "2"], &["x"], &["1.5"], &["4294967296"], &[""]] {
        let request = args.iter().fold(call(text, "f"), |request, arg| request.arg(*arg));
        assert!(matches!(run(request), Err(EvalError::Refused(Refusal::Arguments(_)))), "{args:?}");
    }
    let one = call(text, "f").arg("1");
    for request in [one.clone().stdin("x"), one.clone().env("a", "b"), one.file("a", "b").unwrap()] {
        assert!(matches!(run(request), Err(EvalError::Refused(Refusal::Arguments(_)))));
    }
    let ok = filter("i32.const 0", "i64.const 0");
    for request in [ok.clone().arg("x"), ok.clone().env("a", "b"), ok.file("a", "b").unwrap()] {
        assert!(matches!(run(request), Err(EvalError::Refused(Refusal::Arguments(_)))));
    }
}

#[test]
fn a_filter_that_lies_about_places_traps() {
    let whole = "(i64.or (i64.shl (i64.const 65530) (i64.const 32)) (i64.const 6))";
    assert_eq!(run(filter("i32.const 65532", whole).stdin("abcd")).unwrap().status, Status::Exit(0));
    let broken = [
        filter("i32.const 65533", "i64.const 0").stdin("abcd"),
        filter("i32.const -1", "i64.const 0").stdin("a"),
        filter("i32.const 65537", "i64.const 0"),
        filter("i32.const 0", "i64.const -1"),
        filter("i32.const 0", "i64.const 65537"),
        filter("i32.const 0", "(i64.or (i64.shl (i64.const 65530) (i64.const 32)) (i64.const 7))"),
    ];
    for request in broken {
        let reply = run(request).unwrap();
        assert_eq!(reply.status, Status::Trap(TrapCode::Contract));
        assert_eq!(stdout(&reply), "", "absent is not empty");
        assert!(stderr(&reply).starts_with("trap: host contract broken: "), "{}", stderr(&reply));
    }
}

#[test]
fn a_filter_result_beyond_the_output_bound_is_a_limit() {
    let mut request = filter("i32.const 0", "i64.const 101");
    request.options.output = Some(100);
    assert_eq!(run(request).unwrap_err(), EvalError::Limit(LimitHit::Output { bound: 100 }));
}

#[test]
fn traps_are_answers() {
    let cases = [
        ("unreachable", TrapCode::Unreachable),
        ("(drop (i32.div_s (i32.const 1) (local.get 0)))", TrapCode::IntegerDivisionByZero),
        ("(drop (i32.div_s (i32.const 0x80000000) (i32.const -1)))", TrapCode::IntegerOverflow),
        ("(drop (i32.trunc_f32_s (f32.const nan)))", TrapCode::BadConversionToInteger),
        ("(drop (i32.load (i32.const -1)))", TrapCode::MemoryOutOfBounds),
        ("(call_indirect (type 0) (i32.const 9))", TrapCode::TableOutOfBounds),
        ("(call_indirect (type 0) (i32.const 0))", TrapCode::IndirectCallToNull),
        ("(call_indirect (type 0) (i32.const 1))", TrapCode::BadSignature),
        ("(drop (table.get 0 (i32.const 9)))", TrapCode::TableOutOfBounds),
        ("(memory.fill (i32.const 65536) (i32.const 0) (i32.const 1))", TrapCode::MemoryOutOfBounds),
    ];
    for (body, code) in cases {
        let text = format!(
            "(module (type (func)) (memory 1) (table 3 funcref) (elem (i32.const 1) $f)
                (func $f (export \"f\") (local i32) (result i32) {body} i32.const 1))"
        );
        let text = text.replace("(local i32) (result i32)", "(result i32) (local i32)");
        let reply = run(call(&text, "f")).unwrap();
        assert_eq!(reply.status, Status::Trap(code), "{body}: {}", stderr(&reply));
        assert!(stderr(&reply).starts_with("trap: "));
    }
}

#[test]
fn a_trap_while_instantiating_is_an_answer() {
    let start = r#"(module (func $s unreachable) (start $s) (func (export "f")))"#;
    assert_eq!(run(call(start, "f")).unwrap().status, Status::Trap(TrapCode::Unreachable));
    let data = r#"(module (memory 1) (data (i32.const 65536) "x") (func (export "f")))"#;
    assert_eq!(run(call(data, "f")).unwrap().status, Status::Trap(TrapCode::MemoryOutOfBounds));
}

#[test]
fn the_entry_decides_how_a_module_is_run() {
    let both = r#"(module (memory (export "memory") 1)
        (func (export "_start"))
        (func (export "alloc") (param i32) (result i32) i32.const 0)
        (func (export "run") (param i32 i32) (result i64) i64.const 1))"#;
    assert_eq!(stdout(&run(wat(both)).unwrap()), "", "a command comes first");
    assert_eq!(stdout(&run(call(both, "run").arg("3").arg("4")).unwrap()), "1\n", "a named entry is a plain call");
    let bytes = wat::parse_str(both).unwrap();
    let start = Request::new(Program::wasm(bytes).entry("_start")).arg("an argument");
    assert_eq!(run(start).unwrap().status, Status::Exit(0));
}
