//! Programs that ask, on a whole node: memoised, recorded, bounded, and never with more rights than they have.

use std::fmt::Write;
use std::time::Duration;

use super::nested::block_on;
use super::{Node, unix_micros};
use crate::error::{EvalError, LimitHit, Refusal};
use crate::eval::{Answer, Eval, Origin};
use crate::evaluator::NESTING;
use crate::ledger::Entry;
use crate::record::{Record, Upstream};
use crate::request::{Name, Program, Request};

const LATTICE: &[u8] = include_bytes!("../../examples/guests/lattice.wasm");

fn nesting() -> Name {
    NESTING.parse().unwrap()
}

fn node() -> Node {
    Node::builder().grant(nesting()).grant("other".parse().unwrap()).start().unwrap()
}

fn eval(node: &Node, request: Request) -> Result<Answer, EvalError> {
    block_on(node.eval(request), &|| Ok(()))
}

fn lattice(rows: u32, columns: u32) -> Request {
    Request::new(Program::wasm(LATTICE)).arg(rows.to_string()).arg(columns.to_string()).capability(nesting())
}

fn stdout(answer: &Answer) -> &[u8] {
    answer.reply.stdout.as_ref().unwrap().bytes().unwrap()
}

/// A command whose `_start` is `body`, with the functions that ask at hand.
fn asking(body: &str) -> Request {
    let functions = [
        ("program", "(param i32 i32)"),
        ("program_self", ""),
        ("entry", "(param i32 i32)"),
        ("argument", "(param i32 i32)"),
        ("input", "(param i32 i32)"),
        ("capability", "(param i32 i32)"),
        ("ask", "(param i32)"),
        ("status", "(param i32 i32)"),
        ("output_len", "(param i32 i32 i32 i32)"),
        ("output_read", "(param i32 i32 i32 i64 i32 i32 i32)"),
        ("forget", "(param i32)"),
    ];
    let imports =
        functions.map(|(name, ty)| format!("(import \"evalmesh\" \"{name}\" (func ${name} {ty} (result i32)))"));
    let text = format!(
        r#"(module {} (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
            (import "wasi_snapshot_preview1" "args_sizes_get" (func $args (param i32 i32) (result i32)))
            (memory (export "memory") 1)
            (data (i32.const 1024) "eval") (data (i32.const 1032) "other") (data (i32.const 1040) "\ff\fe")
            (func (export "_start") {body}))"#,
        imports.concat()
    );
    Request::new(Program::wasm(wat::parse_str(text).unwrap())).capability(nesting())
}

/// Runs `body`, which leaves a number, and gives that back.
fn exit(body: &str) -> i32 {
    let node = node();
    match eval(&node, asking(&format!("(call $exit {body})"))).unwrap().reply.status {
        crate::reply::Status::Exit(code) => code,
        trap @ crate::reply::Status::Trap(_) => panic!("{trap}"),
    }
}

/// Bytes as the text of a data segment.
fn escaped(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in bytes {
        write!(text, "\\{byte:02x}").unwrap();
    }
    text
}

fn records(node: &Node) -> Vec<Record> {
    let ledger = node.cassette().ledger();
    let entries = (0..ledger.length()).filter_map(|at| ledger.read(at).ok().flatten());
    entries
        .filter_map(|stored| match stored.entry {
            Entry::Observed(record) => Some(record),
            _ => None,
        })
        .collect()
}

#[test]
fn a_recursion_is_asked_once_for_each_question_and_every_record_names_what_it_asked() {
    let node = node();
    let answer = eval(&node, lattice(6, 6)).unwrap();
    assert_eq!((stdout(&answer), answer.origin), (&b"924\n"[..], Origin::Computed));
    let status = node.status();
    // Each grid of at most 6 by 6, but for the corner that nobody comes to.
    assert_eq!(status.answers.computed, 48);
    let records = records(&node);
    assert_eq!(records.len(), 48);
    let record = records.iter().find(|record| record.request == answer.id).unwrap();
    let expected: Vec<_> = [(5, 6), (6, 5)]
        .into_iter()
        .map(|(rows, columns)| {
            let answer = eval(&node, lattice(rows, columns)).unwrap();
            assert_eq!(answer.origin, Origin::Ram, "it is held by now");
            Upstream { request: answer.id, answer: answer.reply.answer() }
        })
        .collect();
    assert_eq!(record.upstream, expected);
    let edge = eval(&node, lattice(0, 6)).unwrap();
    assert!(records.iter().find(|record| record.request == edge.id).unwrap().upstream.is_empty());
    node.shutdown();
}

#[test]
fn many_askers_share_few_places_and_none_waits_for_ever() {
    let node = node();
    let began = unix_micros();
    std::thread::scope(|scope| {
        let asked: Vec<_> = (0..24)
            .map(|n| {
                (
                    n,
                    scope.spawn({
                        let node = &node;
                        move || eval(node, lattice(n % 7, 8))
                    }),
                )
            })
            .collect();
        for (n, answer) in asked {
            let ways = (1..=8).fold(1, |ways, k| ways * u64::from(n % 7 + k) / u64::from(k));
            assert_eq!(stdout(&answer.join().unwrap().unwrap()), format!("{ways}\n").as_bytes());
        }
    });
    assert!(unix_micros() - began < 60_000_000);
    node.shutdown();
}

#[test]
fn without_the_capability_nothing_is_asked() {
    let refused = EvalError::Refused(Refusal::Capability(NESTING.to_owned()));
    let ungranted = Node::builder().start().unwrap();
    assert_eq!(eval(&ungranted, lattice(1, 1)).unwrap_err(), refused, "the node does not grant it");
    ungranted.shutdown();
    let node = node();
    let mut unasked = lattice(1, 1);
    unasked.capabilities.clear();
    assert_eq!(eval(&node, unasked).unwrap_err(), refused, "the request does not ask for it");
    // A program that asks gives nobody what it lacks itself.
    let body = "(drop (call $program_self)) (drop (call $capability (i32.const 1032) (i32.const 5))) (drop (call $ask (i32.const 0)))";
    let other = EvalError::Refused(Refusal::Capability("other".to_owned()));
    assert_eq!(eval(&node, asking(body)).unwrap_err(), other);
    assert!(records(&node).is_empty(), "nothing of this is recorded");
    node.shutdown();
}

#[test]
fn circles_depth_and_fan_out_end_as_limits() {
    let node = node();
    let own = "(drop (call $program_self)) (drop (call $capability (i32.const 1024) (i32.const 4)))";
    let depth = |request| match eval(&node, request) {
        Err(EvalError::Limit(LimitHit::Depth { bound })) => bound,
        other => panic!("{other:?}"),
    };
    // It asks exactly the question that it is.
    assert_eq!(depth(asking(&format!("{own} (drop (call $ask (i32.const 0)))"))), 32);
    // Each asks for one with an argument more.
    let more = "(local $n i32) (drop (call $args (i32.const 0) (i32.const 4))) (local.set $n (i32.load (i32.const 0)))
        (loop $again (drop (call $argument (i32.const 1024) (i32.const 1)))
          (local.set $n (i32.sub (local.get $n) (i32.const 1))) (br_if $again (local.get $n)))";
    let longer =
        format!("{} {own} {} (drop (call $ask (i32.const 0)))", "(local $n i32)", more.replace("(local $n i32)", ""));
    assert_eq!(depth(asking(&longer)), 32);
    let endless = format!(
        "(loop $again (drop (call $program_self)) (drop (call $entry (i32.const 0) (i32.const 0)))
           (drop (call $argument (i32.const 1024) (i32.const 4)))
           (drop (call $ask (i32.const 0))) (br $again)) {own}"
    );
    // What is asked lacks the capability, and so ends the first time: with it, and quick to answer, it is the count that ends it.
    assert_eq!(eval(&node, asking(&endless)).unwrap_err(), EvalError::Refused(Refusal::Capability(NESTING.to_owned())));
    let quick = wat::parse_str(r#"(module (func (export "f")))"#).unwrap();
    let bytes = escaped(&quick);
    let many = format!(
        "(loop $again (drop (call $program (i32.const 2048) (i32.const {}))) (drop (call $entry (i32.const 3000) (i32.const 1)))
           (drop (call $ask (i32.const 0))) (br $again)))
         (data (i32.const 2048) \"{bytes}\") (data (i32.const 3000) \"f\") (func",
        quick.len()
    );
    let fan_out = EvalError::Limit(LimitHit::FanOut { bound: 1_024 });
    assert_eq!(eval(&node, asking(&many)).unwrap_err(), fan_out);
    node.shutdown();
}

#[test]
fn a_nested_error_ends_the_one_who_asked_and_time_is_shared() {
    let node = node();
    let garbage = "(drop (call $program (i32.const 0) (i32.const 64))) (drop (call $ask (i32.const 0)))";
    assert!(matches!(eval(&node, asking(garbage)), Err(EvalError::Refused(Refusal::Malformed(_)))));
    let endless = wat::parse_str(r#"(module (func (export "f") (loop br 0)))"#).unwrap();
    let bytes = escaped(&endless);
    let waits = format!(
        "(drop (call $program (i32.const 2048) (i32.const {}))) (drop (call $entry (i32.const 3000) (i32.const 1)))
           (drop (call $ask (i32.const 0))))
         (data (i32.const 2048) \"{bytes}\") (data (i32.const 3000) \"f\") (func",
        endless.len()
    );
    let late = eval(&node, asking(&waits).timeout(Duration::from_millis(200)));
    assert!(matches!(late, Err(EvalError::Limit(LimitHit::Deadline { .. }))), "{late:?}");
    assert!(records(&node).is_empty());
    node.shutdown();
}

#[test]
fn misuse_is_an_errno() {
    let (no_reply, invalid, not_utf8, missing) = (8, 28, 25, 44);
    assert_eq!(exit("(call $ask (i32.const 0))"), invalid, "no question was begun");
    assert_eq!(exit("(call $argument (i32.const 0) (i32.const 0))"), invalid);
    assert_eq!(exit("(call $status (i32.const 0) (i32.const 0))"), no_reply);
    assert_eq!(exit("(call $forget (i32.const -1))"), no_reply);
    let begun = |call: &str| exit(&format!("(block (result i32) (drop (call $program_self)) {call})"));
    assert_eq!(begun("(call $argument (i32.const 1040) (i32.const 2))"), not_utf8);
    assert_eq!(begun("(call $capability (i32.const 0) (i32.const 1))"), invalid, "not a name");
    let quick = wat::parse_str(r#"(module (func (export "f") unreachable))"#).unwrap();
    let mut store = String::new();
    for (at, byte) in quick.iter().enumerate() {
        write!(store, "(i32.store8 (i32.const {at}) (i32.const {byte}))").unwrap();
    }
    let asked = |call: &str| {
        exit(&format!(
            "(block (result i32) {store} (i32.store8 (i32.const 500) (i32.const 102))
               (drop (call $program (i32.const 0) (i32.const {}))) (drop (call $entry (i32.const 500) (i32.const 1)))
               (drop (call $ask (i32.const 600))) {call})",
            quick.len()
        ))
    };
    // A trap is an answer: kind 1, and `unreachable` is the first of its codes.
    let status = "(drop (call $status (i32.load (i32.const 600)) (i32.const 700)))";
    assert_eq!(asked(&format!("{status} (i32.load (i32.const 700))")), 1);
    assert_eq!(asked(&format!("{status} (i32.load (i32.const 704))")), 0);
    assert_eq!(asked("(call $output_len (i32.const 0) (i32.const 500) (i32.const 1) (i32.const 0))"), missing);
    assert_eq!(asked("(call $output_len (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0))"), 0);
    let forget = "(drop (call $forget (i32.const 0)))";
    assert_eq!(asked(&format!("{forget} (call $forget (i32.const 0))")), no_reply);
}
