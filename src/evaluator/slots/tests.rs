//! Contracts, versions, and what happens when two change the same slot at once.

mod interleavings;

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::error::{LimitHit, Refusal};
use crate::evaluator::pool::Pool;
use crate::evaluator::wasm::WasmLimits;

const ALLOC: &str = "(memory (export \"memory\") 1) (func (export \"alloc\") (param i32) (result i32) (i32.const 64))";

fn slots() -> Slots {
    Slots::new(WasmEvaluator::new(Pool::start("test", 1).unwrap(), WasmLimits::default()).unwrap())
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn registration(slot: &str, kind: SlotKind, functions: &str) -> Registration {
    let code = wat::parse_str(format!("(module {ALLOC} {functions})")).unwrap().into();
    Registration { name: name(slot), kind, code, limits: SlotLimits::default(), probe: None }
}

/// Lets inputs of this length pass.
fn filter(slot: &str, len: u32) -> Registration {
    let function =
        format!("(func (export \"filter\") (param i32 i32) (result i32) (i32.eq (local.get 1) (i32.const {len})))");
    registration(slot, SlotKind::Filter, &function)
}

/// Returns the first bytes of its input.
fn shape(slot: &str, len: u32) -> Registration {
    let function = format!(
        "(func (export \"run\") (param i32 i32) (result i64)
            (i64.or (i64.shl (i64.extend_i32_u (local.get 0)) (i64.const 32)) (i64.const {len})))"
    );
    registration(slot, SlotKind::Shape, &function)
}

fn observe(slot: &str, body: &str) -> Registration {
    registration(slot, SlotKind::Observe, &format!("(func (export \"observe\") (param i32 i32) {body})"))
}

#[test]
fn each_kind_keeps_its_contract() {
    let slots = slots();
    for one in [filter("f", 3), shape("s", 2), observe("o", "nop"), observe("broken", "unreachable")] {
        assert_eq!(slots.register(&one).unwrap().number, 1);
    }
    let command = Registration {
        name: name("c"),
        kind: SlotKind::Command,
        code: Bytes::from_static(include_bytes!("../../../examples/guests/wordfreq.wasm")),
        limits: SlotLimits::default(),
        probe: None,
    };
    slots.register(&command).unwrap();
    assert_eq!(slots.filter(&name("f"), "abc"), Ok(true));
    assert_eq!(slots.filter(&name("f"), "abcd"), Ok(false));
    assert_eq!(slots.shape(&name("s"), "hello").unwrap(), "he");
    assert_eq!(slots.observe(&name("o"), "seen"), Ok(()));
    assert_eq!(slots.command(&name("c"), "a a b").unwrap().status, Status::Exit(64), "it wants an argument");
    let trapped = SlotError::Trapped { slot: name("broken"), kind: SlotKind::Observe, trap: TrapCode::Unreachable };
    assert_eq!(slots.observe(&name("broken"), ""), Err(trapped));
    let verdict =
        registration("v", SlotKind::Filter, "(func (export \"filter\") (param i32 i32) (result i32) (i32.const 2))");
    slots.register(&verdict).unwrap();
    let contract = SlotError::Trapped { slot: name("v"), kind: SlotKind::Filter, trap: TrapCode::Contract };
    assert_eq!(slots.filter(&name("v"), ""), Err(contract));
}

#[test]
fn a_wrong_call_names_slot_and_kind() {
    let slots = slots();
    slots.register(&filter("f", 3)).unwrap();
    let missing = slots.shape(&name("g"), "").unwrap_err();
    assert_eq!(missing.to_string(), "no slot `g` is registered (wanted: shape)");
    let other = slots.observe(&name("f"), "").unwrap_err();
    assert_eq!(other.to_string(), "slot `f` is of kind filter and was called as observe");
}

#[test]
fn versions_rise_with_content_and_limits_and_with_nothing_else() {
    let slots = slots();
    let first = slots.register(&filter("f", 3)).unwrap();
    assert!(Arc::ptr_eq(&first, &slots.register(&filter("f", 3)).unwrap()), "the same bytes are no change");
    assert_eq!(slots.register(&filter("f", 4)).unwrap().number, 2);
    let limited = Registration { limits: SlotLimits { fuel: Some(1), ..SlotLimits::default() }, ..filter("f", 4) };
    assert_eq!(slots.register(&limited).unwrap().number, 3);
    let call = SlotError::Call {
        slot: name("f"),
        kind: SlotKind::Filter,
        source: EvalError::Limit(LimitHit::Fuel { bound: 1 }),
    };
    assert_eq!(slots.filter(&name("f"), "abcd"), Err(call), "limits hold");
    assert_eq!(slots.register(&filter("f", 3)).unwrap().number, 4, "an old content is a change too");
}

#[test]
fn what_is_refused_leaves_the_old_version_serving() {
    let slots = slots();
    slots.register(&filter("f", 3)).unwrap();
    let no_contract = Registration { kind: SlotKind::Filter, ..shape("f", 1) };
    let refused = slots.register(&no_contract).unwrap_err();
    assert!(
        matches!(&refused, SlotError::Refused { source: EvalError::Refused(Refusal::Entry { .. }), .. }),
        "{refused:?}"
    );
    assert!(refused.to_string().contains("it exports no `filter: func (i32 i32) -> i32`"), "{refused}");
    let malformed = Registration { code: Bytes::from_static(b"no module"), ..filter("f", 3) };
    assert!(matches!(slots.register(&malformed), Err(SlotError::Refused { .. })));
    let change = SlotError::KindChange { slot: name("f"), kind: SlotKind::Filter, wanted: SlotKind::Shape };
    assert_eq!(slots.register(&shape("f", 1)).unwrap_err(), change);
    assert_eq!(slots.filter(&name("f"), "abc"), Ok(true));
    assert_eq!(slots.get(&name("f"), SlotKind::Filter).unwrap().number, 1);
}

#[test]
fn evicting_is_idempotent_and_frees_the_name() {
    let slots = slots();
    slots.register(&filter("f", 3)).unwrap();
    assert!(slots.evict(&name("f")));
    assert!(!slots.evict(&name("f")));
    assert_eq!(slots.register(&shape("f", 1)).unwrap().number, 1, "any kind may have it now");
}

#[test]
fn a_pass_makes_the_slots_exactly_these_or_changes_nothing() {
    let slots = slots();
    slots.reconcile(&[filter("a", 1), filter("b", 1), shape("c", 1)]).unwrap();
    let names = || slots.list().iter().map(|version| version.name.to_string()).collect::<Vec<_>>();
    assert_eq!(names(), ["a", "b", "c"]);
    let done = slots.reconcile(&[filter("a", 1), filter("b", 2), observe("d", "nop")]).unwrap();
    let expected = Reconciled {
        added: vec![name("d")],
        replaced: vec![name("b")],
        unchanged: vec![name("a")],
        evicted: vec![name("c")],
    };
    assert_eq!(done, expected);
    let failed = [
        vec![filter("e", 1), Registration { code: Bytes::new(), ..filter("a", 1) }],
        vec![filter("e", 1), shape("a", 1)],
        vec![filter("e", 1), filter("e", 1)],
    ];
    for pass in failed {
        slots.reconcile(&pass).unwrap_err();
        assert_eq!(names(), ["a", "b", "d"], "a failed pass evicts nothing and adds nothing");
    }
    assert_eq!(slots.reconcile(&[]).unwrap().evicted.len(), 3);
}

#[test]
fn the_id_holds_the_digest_and_never_the_name() {
    let slots = slots();
    let (one, two) = (slots.register(&filter("one", 3)).unwrap(), slots.register(&filter("two", 3)).unwrap());
    assert_eq!(one.request("x").id(), two.request("x").id());
    assert_eq!(job(&one, "x".into()).unwrap().id, one.request("x").id().unwrap());
    assert_ne!(one.request("x").id(), slots.register(&filter("one", 4)).unwrap().request("x").id());
}

#[test]
fn two_who_register_the_same_get_the_same() {
    for round in 0..20 {
        let slots = slots();
        let barrier = Barrier::new(4);
        let versions = thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        let wanted = filter("f", round);
                        barrier.wait();
                        slots.register(&wanted).unwrap()
                    })
                })
                .collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
        });
        assert!(versions.iter().all(|version| Arc::ptr_eq(version, &versions[0]) && version.number == 1));
        assert_eq!(slots.evaluator.artifacts().compiled, 1, "one of them compiles");
    }
}

#[test]
fn replacing_disturbs_no_call_in_flight() {
    let slots = slots();
    slots.register(&shape("s", 1)).unwrap();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let callers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let (mut calls, mut last) = (0_u32, 0);
                    while !stop.load(Ordering::Relaxed) || calls < 50 {
                        let len = slots.shape(&name("s"), "abcdefgh").unwrap().len();
                        assert!(len >= last, "never an older version than before: {len} after {last}");
                        (calls, last) = (calls + 1, len);
                    }
                    calls
                })
            })
            .collect();
        for len in 2..=8 {
            assert_eq!(u64::from(len), slots.register(&shape("s", len)).unwrap().number);
            thread::sleep(Duration::from_millis(5));
        }
        stop.store(true, Ordering::Relaxed);
        assert!(callers.into_iter().all(|caller| caller.join().unwrap() >= 50));
    });
    assert_eq!(slots.shape(&name("s"), "abcdefgh").unwrap().len(), 8);
}

#[test]
fn a_call_ends_on_the_version_it_began_with() {
    let slots = slots();
    slots.register(&shape("s", 1)).unwrap();
    let begun = slots.get(&name("s"), SlotKind::Shape).unwrap();
    slots.register(&shape("s", 2)).unwrap();
    assert!(slots.evict(&name("s")));
    let reply = slots.evaluator.evaluate(&job(&begun, "abc".into()).unwrap()).unwrap();
    assert_eq!(output(&reply), b"a");
}

#[test]
fn changes_to_many_slots_at_once_are_all_kept() {
    let slots = slots();
    thread::scope(|scope| {
        for thread in 0..4 {
            let slots = &slots;
            scope.spawn(move || {
                for i in 0..25 {
                    slots.register(&filter(&format!("slot-{thread}-{i}"), 1)).unwrap();
                    if i % 5 == 0 {
                        assert!(slots.evict(&name(&format!("slot-{thread}-{i}"))));
                    }
                }
            });
        }
    });
    assert_eq!(slots.list().len(), 4 * 20);
}

#[test]
fn a_program_that_fails_its_probe_is_not_registered() {
    let slots = slots();
    let probed = |one: Registration| Registration { probe: Some(Bytes::from_static(b"try")), ..one };
    slots.register(&probed(observe("o", "nop"))).unwrap();
    let trapping = slots.register(&probed(observe("o", "unreachable")));
    let trapped = SlotError::Probe { slot: name("o"), kind: SlotKind::Observe, trap: TrapCode::Unreachable };
    assert_eq!(trapping.map(drop), Err(trapped));
    let mut endless = probed(observe("o", "(loop (br 0))"));
    endless.limits.fuel = Some(1_000);
    let source = EvalError::Limit(LimitHit::Fuel { bound: 1_000 });
    let refused = SlotError::Refused { slot: name("o"), kind: SlotKind::Observe, source };
    assert_eq!(slots.register(&endless).map(drop), Err(refused));
    assert_eq!(slots.find(&name("o")).unwrap().number, 1, "the old version is still there");
    slots.observe(&name("o"), "x").unwrap();
}

#[test]
fn a_restored_version_keeps_its_number() {
    let (first, second) = (slots(), slots());
    first.register(&shape("s", 1)).unwrap();
    let version = first.register(&shape("s", 2)).unwrap();
    second.restore(&version.registration(), version.number).unwrap();
    assert_eq!(second.shape(&name("s"), "abc").unwrap(), "ab");
    assert_eq!(second.register(&shape("s", 2)).unwrap().number, 2, "the same content is no new version");
    assert_eq!(second.register(&shape("s", 3)).unwrap().number, 3);
}
