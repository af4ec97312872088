//! What is not run, and how a caller is told.

use std::fmt::Write as _;

use super::super::admit::scan;
use super::super::engine::{Stopwatch, VERSION};
use super::super::limits::NESTING;
use super::{SHARED, WasmLimits, call, command, run, wat};
use crate::error::{EvalError, Refusal};
use crate::evaluator::Evaluator;
use crate::request::{Class, Engine, Program, Request};

fn refusal(request: Request) -> Refusal {
    match run(request) {
        Err(EvalError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    }
}

fn too_large(text: &str, rule: &str) {
    let bytes = wat::parse_str(text).unwrap();
    match scan(&bytes, &WasmLimits::default()) {
        Err(Refusal::TooLarge { rule: found, .. }) => assert_eq!(found, rule),
        other => panic!("{rule}: {other:?}"),
    }
}

#[test]
fn what_is_no_module_is_malformed() {
    let component = wat::parse_str("(component)").unwrap();
    let cases: [&[u8]; 6] =
        [b"", b"(module)", b"\0asm", b"\0asm\x01\0\0\0\x01", b"\x7fELF and so on", component.as_slice()];
    for bytes in cases {
        let request = Request::new(Program::wasm(bytes.to_vec()));
        if cfg!(feature = "component") && bytes == component {
            // Well-formed there, and still no program: it has no entry.
            assert!(matches!(refusal(request), Refusal::Entry { .. }));
            continue;
        }
        assert!(matches!(refusal(request), Refusal::Malformed(_)), "{bytes:?}");
    }
    let invalid = wasm_with_body(&[0x6a, 0x0b]);
    assert!(matches!(refusal(Request::new(Program::wasm(invalid))), Refusal::Malformed(_)), "an addition of nothing");
}

/// A module with one exported function of this body, whether valid or not.
fn wasm_with_body(code: &[u8]) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0".to_vec();
    let len = |n: usize| {
        [
            u8::try_from(n & 0x7f).unwrap() | 0x80,
            u8::try_from(n >> 7 & 0x7f).unwrap() | 0x80,
            u8::try_from(n >> 14).unwrap(),
        ]
    };
    module.push(0x0a);
    module.extend(len(code.len() + 5));
    module.push(1);
    module.extend(len(code.len() + 1));
    module.push(0);
    module.extend(code);
    module
}

#[test]
fn proposals_that_are_off_are_malformed() {
    let off = [
        "(module (memory i64 1))",
        "(module (memory 1) (memory 1))",
        "(module (memory 1 1 shared))",
        "(module (memory 1) (func (drop (i32.atomic.load (i32.const 0)))))",
        "(module (func (param v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 0))))",
        "(module (tag))",
        "(module (type (struct)))",
        "(module (type $f (func)) (func (param (ref $f))))",
        "(module (memory 1 (pagesize 1)))",
        "(module (func (param externref)))",
    ];
    for text in off {
        assert!(matches!(refusal(wat(text)), Refusal::Malformed(_)), "{text}");
    }
    let on = r#"(module (memory 1) (table 1 funcref) (global i32 (i32.add (i32.const 1) (i32.const 2)))
        (func $f (export "f") (param f64) (result i32 i64) (local v128)
          (local.set 1 (i8x16.splat (i32.const 1)))
          (memory.fill (i32.const 0) (i32.const 0) (i32.const 9))
          (table.set 0 (i32.const 0) (ref.null func))
          (i32.extend8_s (i32.trunc_sat_f64_s (local.get 0))) (i64.const 1))
        (func (export "g") (result i32 i64) (return_call $f (f64.const 1))))"#;
    run(call(on, "g")).unwrap();
}

#[test]
fn unknown_imports_are_named() {
    let wasi = "wasi_snapshot_preview1";
    for (module, name, what) in [
        ("env", "puts", "(func)"),
        (wasi, "fd_teleport", "(func)"),
        ("wasi_unstable", "fd_write", "(func)"),
        (wasi, "fd_write", "(memory 1)"),
    ] {
        let text = format!(r#"(module (import "{module}" "{name}" {what}) (func (export "_start")))"#);
        assert_eq!(refusal(wat(&text)), Refusal::Import { module: module.to_owned(), name: name.to_owned() });
    }
    let typed = format!(r#"(module (import "{wasi}" "fd_write" (func)) (func (export "_start")))"#);
    assert!(matches!(refusal(wat(&typed)), Refusal::Malformed(_)), "a known function with another type");
}

#[test]
fn entries_that_do_not_fit_are_told_what_there_is() {
    let text = r#"(module (memory (export "memory") 1) (global (export "g") i32 (i32.const 1))
        (func (export "alpha")) (func (export "v") (param v128)) (func (export "r") (result funcref) (ref.null func)))"#;
    let why = |request| match refusal(request) {
        Refusal::Entry { why, .. } => why,
        other => panic!("{other:?}"),
    };
    assert_eq!(why(wat(text)), "the module exports `alpha`, `v`, `r`");
    assert_eq!(why(call(text, "g")), "the module exports `alpha`, `v`, `r`");
    assert!(why(call(text, "v")).contains("not a function of numbers"));
    assert!(why(call(text, "r")).contains("not a function of numbers"));
    assert_eq!(why(wat("(module)")), "the module exports no function");
    let many = (0..50).fold(String::new(), |mut text, i| {
        write!(text, "(func (export \"f{i}{}\"))", "x".repeat(500)).unwrap();
        text
    });
    let why_many = why(wat(&format!("(module {many})")));
    assert!(why_many.ends_with(" and 38 more") && why_many.len() < 1_000, "{why_many}");
    assert!(why(wat("(module (func (export \"_start\") (param i32)))")).contains("not (func)"));
    let reactor = r#"(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32))) (func (export "f")))"#;
    assert!(why(call(reactor, "f")).contains("starts at `_start`"));
    let half =
        r#"(module (memory (export "memory") 1) (func (export "run") (param i32 i32) (result i64) i64.const 0))"#;
    assert_eq!(why(wat(half)), "the module exports `run`");
}

#[test]
fn requests_that_no_module_could_satisfy_are_refused_before_it_is_looked_at() {
    let ok = || command("");
    SHARED.admit(&ok()).unwrap();
    let name = |text: &str| text.parse().unwrap();
    for class in [Class::Device(name("x")), Class::Observed, Class::Volatile, Class::Effectful] {
        assert!(matches!(refusal(ok().class(class)), Refusal::ClassNotProven(_)));
    }
    assert_eq!(refusal(ok().capability(name("net"))), Refusal::Capability("net".to_owned()));
    let mut other = ok();
    other.program.abi = 2;
    assert!(matches!(refusal(other), Refusal::Malformed(_)));
    let mut other = ok();
    other.program.engine = Engine::Gpu;
    assert_eq!(refusal(other), Refusal::NoEvaluator(Engine::Gpu));
    let mut opaque = Request::new(Program::host("f", 1).unwrap()).class(Class::Portable);
    opaque.program.engine = Engine::Wasm;
    assert!(matches!(refusal(opaque), Refusal::Malformed(_)));
}

#[test]
fn a_path_cannot_be_a_file_and_a_directory() {
    let request = command("").file("a", "x").unwrap().file("a/b", "y").unwrap();
    assert!(matches!(refusal(request), Refusal::Arguments(_)));
}

#[test]
fn each_rule_of_the_scan_refuses() {
    let many = |n: usize, text: &str| text.repeat(n);
    too_large(&format!("(module {})", many(20_001, "(type (func))")), "number of types");
    too_large(&format!("(module (type (func {})))", many(129, "(param i32)")), "parameters of a function type");
    too_large(&format!("(module (type (func {})))", many(129, "(result i32)")), "results of a function type");
    let import = "(import \"wasi_snapshot_preview1\" \"sched_yield\" (func (result i32)))";
    too_large(&format!("(module {})", many(1_001, import)), "number of imports");
    too_large(&format!("(module {})", many(100_001, "(func)")), "number of functions");
    too_large(&format!("(module {})", many(17, "(table 1 funcref)")), "number of tables");
    too_large("(module (table 600000 funcref) (table 600000 funcref))", "initial table elements");
    too_large("(module (memory 16385))", "initial memory in bytes");
    too_large(&format!("(module {})", many(10_001, "(global i32 (i32.const 0))")), "number of globals");
    let exports = (0..20_001).fold(String::new(), |mut text, i| {
        write!(text, "(export \"{i}\" (func 0))").unwrap();
        text
    });
    too_large(&format!("(module (func) {exports})"), "number of exports");
    too_large(&format!("(module (func (local {})))", many(8_193, "i32 ")), "locals of a function");
    let nested = |block: &str, depth| format!("(module (func {} {}))", many(depth, block), many(depth, "end "));
    too_large(&nested("block ", 4_097), "depth of nested blocks");
    too_large(&nested("loop ", 25), "depth of nested loops");
    too_large(&format!("(module (func {}))", many(1_100_000, "nop ")), "size of a function in bytes");
}

#[test]
fn a_memory_that_the_node_never_gives_is_refused() {
    let found = refusal(call(r#"(module (memory 257) (func (export "f")))"#, "f"));
    let rule = "initial memory in bytes".to_owned();
    assert_eq!(found, Refusal::TooLarge { rule, found: 257 << 16, bound: 16 << 20 });
}

#[test]
fn bombs_are_refused_quickly() {
    let nest = usize::try_from(NESTING).unwrap();
    let mut loops = [0x03, 0x40].repeat(9_000);
    loops.extend([0x0b].repeat(9_001));
    let mut switches = [0x02, 0x40].repeat(nest + 1);
    switches.extend([0x0b].repeat(nest + 2));
    for (code, rule) in [(loops, "depth of nested loops"), (switches, "depth of nested blocks")] {
        let watch = Stopwatch::start();
        let found = refusal(Request::new(Program::wasm(wasm_with_body(&code)).entry("f")));
        assert!(matches!(found, Refusal::TooLarge { rule: found, .. } if found == rule));
        assert!(watch.elapsed().as_millis() < 500, "{:?}", watch.elapsed());
    }
}

#[test]
fn the_version_is_the_locked_one() {
    let lock = include_str!("../../../../Cargo.lock");
    let (_, rest) = lock.split_once("name = \"wasmtime\"\nversion = \"").unwrap();
    assert_eq!(VERSION, format!("wasmtime {}", rest.split_once('"').unwrap().0));
}
