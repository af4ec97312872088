//! The recorder thread: nothing is lost, whoever goes away.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use super::*;
use crate::cassette::Adoption;
use crate::identity::Ed25519;
use crate::ledger::{FaultyStorage, LedgerError, Op};
use crate::verified::{Checked, VerifiedReply};

/// How long a test waits for another thread.
const PATIENCE: Duration = Duration::from_secs(10);

fn start(storage: &MemoryStorage, epoch: u8) -> RecorderHandle {
    Recorder::start(open(storage, epoch), None).expect("a thread")
}

#[test]
fn many_callers_share_commits_and_all_of_theirs_is_there() {
    let storage = MemoryStorage::new();
    let (told, heard) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let tell = told.clone();
    let on_durable: OnDurable = Box::new(move |durable| {
        assert!(tell.swap(durable, Ordering::SeqCst) < durable, "it only grows");
    });
    let recorder = Recorder::start(open(&storage, 1), Some(on_durable)).expect("a thread");
    std::thread::scope(|scope| {
        for caller in 0..4 {
            let (recorder, heard) = (recorder.clone(), heard.clone());
            scope.spawn(move || {
                for n in caller * 100..caller * 100 + 100 {
                    let class = if n % 2 == 0 { Class::Observed } else { Class::Portable };
                    let (record, bytes) = observed(&identity(), n, class, &Reply::ok(n.to_string()));
                    let (cassette, heard) = (recorder.cassette().clone(), heard.clone());
                    recorder.record(record, bytes, move |result| {
                        let outcome = result.expect("recorded");
                        assert!(outcome.fresh && (outcome.durable || n % 2 == 1));
                        assert_eq!(text(&cassette, n), Ok(n.to_string()), "shown before it is acknowledged");
                        heard.fetch_add(1, Ordering::SeqCst);
                    });
                }
            });
        }
    });
    assert_eq!(recorder.close().expect("closes"), 401);
    assert_eq!((heard.load(Ordering::SeqCst), told.load(Ordering::SeqCst)), (400, 401));
    storage.crash();
    let cassette = open(&storage, 2).cassette();
    assert!((0..400).all(|n| text(&cassette, n) == Ok(n.to_string())));
}

#[test]
fn a_batched_record_becomes_durable_by_itself() {
    let (sender, durable) = sync_channel(10);
    let on_durable: OnDurable = Box::new(move |length| {
        let _ = sender.send(length);
    });
    let recorder = Recorder::start(open(&MemoryStorage::new(), 1), Some(on_durable)).expect("a thread");
    let (record, bytes) = portable(1, "batched");
    recorder.record(record, bytes, |result| assert!(result.is_ok()));
    assert_eq!(durable.recv_timeout(PATIENCE), Ok(2));
    assert_eq!(recorder.cassette().ledger().durable(), 2);
}

#[test]
fn a_closed_recorder_says_so_and_what_went_before_is_durable() {
    let storage = MemoryStorage::new();
    let recorder = start(&storage, 1);
    let (record, bytes) = portable(1, "kept");
    recorder.record(record.clone(), bytes.clone(), |_| panic!("a caller's bug"));
    let other = recorder.clone();
    assert_eq!(recorder.close().expect("closes"), 2);
    assert!(matches!(other.close(), Err(LedgerError::Closed)));
    let (sender, outcome) = sync_channel(1);
    other.record(record, bytes, move |result| {
        let _ = sender.send(result);
    });
    assert!(matches!(outcome.recv_timeout(PATIENCE), Ok(Err(LedgerError::Closed))));
    storage.crash();
    assert_eq!(text(&open(&storage, 2).cassette(), 1), Ok("kept".to_owned()));
}

#[test]
fn the_last_handle_may_go_away_anywhere_even_inside_a_completion() {
    let storage = MemoryStorage::new();
    let recorder = start(&storage, 1);
    let (sender, done) = sync_channel(1);
    let last = recorder.clone();
    let (go, wait) = sync_channel::<()>(1);
    let (record, bytes) = portable(1, "kept");
    recorder.record(record, bytes, move |result| {
        let _ = wait.recv_timeout(PATIENCE);
        drop(last);
        let _ = sender.send(result.is_ok());
    });
    drop(recorder);
    go.send(()).expect("it waits");
    assert_eq!(done.recv_timeout(PATIENCE), Ok(true));

    let recorder = start(&storage.fork(), 2);
    let (record, bytes) = portable(2, "kept too");
    recorder.record(record, bytes, |_| {});
    let cassette = recorder.cassette().clone();
    drop(recorder);
    assert_eq!(cassette.ledger().durable(), cassette.ledger().length());
    assert_eq!(text(&cassette, 2), Ok("kept too".to_owned()));
}

#[test]
fn a_full_queue_is_a_typed_answer() {
    let recorder = start(&MemoryStorage::new(), 1);
    let answer = Reply::ok("x").answer();
    let (entered, inside) = sync_channel(1);
    let (go, wait) = sync_channel::<()>(1);
    recorder.retract(id(0), answer, 0, move |_| {
        let _ = entered.send(());
        let _ = wait.recv_timeout(PATIENCE);
    });
    inside.recv_timeout(PATIENCE).expect("the thread stands still");
    let busy = Arc::new(AtomicU64::new(0));
    for n in 0..limits::RECORDER_QUEUE as u64 + 3 {
        let busy = busy.clone();
        recorder.retract(id(0), answer, n, move |result| match result {
            Ok(_) => {}
            Err(LedgerError::Busy { what, bound }) => {
                assert_eq!((what, bound), ("operations", limits::RECORDER_QUEUE as u64));
                busy.fetch_add(1, Ordering::SeqCst);
            }
            Err(other) => panic!("{other}"),
        });
    }
    assert_eq!(busy.load(Ordering::SeqCst), 3);
    go.send(()).expect("it waits");
    assert_eq!(recorder.close().expect("closes"), limits::RECORDER_QUEUE as u64 + 2);
}

#[test]
fn a_failed_disk_is_told_to_everybody_and_nothing_acknowledged_is_lost() {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let options = CassetteOptions::default();
    let (writer, _) = CassetteWriter::open(Arc::new(storage.clone()), &opening(1), options).expect("opens");
    let recorder = Recorder::start(writer, None).expect("a thread");
    let ask = |n: u64| {
        let (sender, outcome) = sync_channel(1);
        let (record, bytes) = observed(&identity(), n, Class::Observed, &Reply::ok("x"));
        recorder.record(record, bytes, move |result| {
            let _ = sender.send(result);
        });
        outcome.recv_timeout(PATIENCE).expect("an answer")
    };
    assert!(ask(1).expect("records").durable);
    storage.fail(Some(Op::Sync), 0, std::io::ErrorKind::StorageFull);
    assert!(matches!(ask(2), Err(LedgerError::Io { .. })));
    assert!(matches!(ask(3), Err(LedgerError::Poisoned { .. })));
    assert!(matches!(recorder.close(), Err(LedgerError::Poisoned { .. })));
    disk.crash();
    let cassette = open(&disk, 2).cassette();
    assert!(text(&cassette, 1).is_ok() && text(&cassette, 2).is_err());
}

#[test]
fn adoptions_and_retractions_go_through_the_same_queue() {
    let recorder = start(&MemoryStorage::new(), 1);
    let (sender, outcomes) = sync_channel(10);
    let send = move |name: &'static str| {
        let sender = sender.clone();
        move |result: Result<Recorded, LedgerError>| drop(sender.send((name, result.map(|recorded| recorded.fresh))))
    };
    let (evidence, record, bytes) = foreign(1, Class::Portable, &Reply::ok("theirs"));
    recorder.adopt(evidence.clone(), record.clone(), bytes.clone(), true, send("adopt"));
    recorder.adopt(evidence.clone(), record.clone(), bytes.clone(), true, send("again"));
    recorder.retract(id(1), record.answer(), 1, send("retract"));
    recorder.adopt(evidence.clone(), record.clone(), bytes, true, send("refused"));
    recorder.adopt(evidence, record, Vec::new(), true, send("incomplete"));
    recorder.close().expect("closes");
    let outcomes: std::collections::BTreeMap<_, _> = outcomes.try_iter().collect();
    assert_eq!(outcomes.len(), 5);
    assert!(matches!((&outcomes["adopt"], &outcomes["again"], &outcomes["retract"]), (Ok(true), Ok(false), Ok(true))));
    assert!(matches!(outcomes["refused"], Err(LedgerError::Retracted { .. })));
    assert!(matches!(outcomes["incomplete"], Err(LedgerError::Payload { position: 0 })));
    assert_eq!(text(recorder.cassette(), 1), Err(NotHeld::Retracted));
}

#[test]
fn believed_replies_are_adopted_together_and_each_alone() {
    let storage = MemoryStorage::new();
    let recorder = start(&storage, 1);
    let believed = |n: u64| {
        let (evidence, _, payloads) = foreign(n, Class::Portable, &Reply::ok(format!("theirs {n}")));
        match VerifiedReply::check(id(n), evidence, payloads, &Ed25519) {
            Ok(Checked::Complete(reply)) => Adoption { reply, announce: true },
            other => panic!("{other:?}"),
        }
    };
    let refused = believed(3);
    let (done, retracted) = sync_channel(1);
    recorder.retract(id(3), refused.reply.answer(), 1, move |result| drop(done.send(result)));
    retracted.recv_timeout(PATIENCE).expect("answers").expect("retracts");
    recorder.adopt_all(vec![believed(1), refused, believed(2), believed(1)]);
    recorder.adopt_all(Vec::new());
    recorder.close().expect("closes");
    for cassette in [recorder.cassette().clone(), open(&storage, 2).cassette()] {
        assert_eq!(text(&cassette, 1).as_deref(), Ok("theirs 1"));
        assert_eq!(text(&cassette, 2).as_deref(), Ok("theirs 2"));
        assert_eq!(text(&cassette, 3), Err(NotHeld::Retracted));
        assert_eq!(cassette.stats().records, 2);
        let proven = cassette.evidence(id(2), u64::MAX, &identity()).expect("reads").expect("held");
        assert!(proven.evidence.verify(&Ed25519).is_ok(), "as its producer made it");
    }
}

#[test]
fn a_slow_disk_holds_up_neither_callers_nor_readers_and_a_caller_that_left_changes_nothing() {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let (writer, _) =
        CassetteWriter::open(Arc::new(storage.clone()), &opening(1), CassetteOptions::default()).expect("opens");
    let recorder = Recorder::start(writer, None).expect("a thread");
    let observe = |n: u64| {
        let (record, bytes) = observed(&identity(), n, Class::Observed, &Reply::ok("text"));
        let (done, outcome) = sync_channel(1);
        recorder.record(record, bytes, move |result| drop(done.send(result)));
        outcome
    };
    assert!(observe(1).recv().expect("answers").is_ok());
    storage.slow(Op::Sync, std::time::Duration::from_millis(300));
    let waiting = observe(2);
    drop(observe(3));
    assert_eq!(text(recorder.cassette(), 1).as_deref(), Ok("text"), "reading goes on");
    assert!(waiting.try_recv().is_err(), "all this took less than one sync");
    assert!(waiting.recv().expect("answers").expect("recorded").durable);
    recorder.close().expect("closes");
    disk.crash();
    let cassette = open(&disk, 2).cassette();
    for n in 1..=3 {
        assert_eq!(text(&cassette, n).as_deref(), Ok("text"), "{n}");
    }
}

fn about(n: u64, class: Class) -> Observation {
    let kind = "test".parse().expect("a name");
    Observation { request: id(n), kind, class, observed_at: n, trace: None, upstream: Vec::new() }
}

#[test]
fn in_memory_an_answer_is_recorded_by_whoever_has_it() {
    let recorder = start(&MemoryStorage::volatile(), 1);
    let reply = Reply::ok("at once");
    for (n, class) in [(1, Class::Portable), (2, Class::Observed)] {
        let result = recorder.observe_here(about(n, class), &reply, identity().node(), |_| panic!("it is here"));
        let done = result.expect("nobody else writes").expect("recorded");
        assert!(done.fresh && done.durable && done.seq == n, "{done:?}");
        assert_eq!(text(recorder.cassette(), n), Ok("at once".to_owned()));
    }
    // What is sent goes its way as before, and comes behind.
    let (sender, outcome) = sync_channel(1);
    let (record, bytes) = portable(3, "sent");
    recorder.record(record, bytes, move |result| drop(sender.send(result)));
    assert_eq!(outcome.recv_timeout(PATIENCE).expect("it ends").expect("recorded").seq, 3);
    assert_eq!(recorder.close().expect("closes"), 4);
    let (sender, outcome) = sync_channel(1);
    let here = recorder.observe_here(about(4, Class::Portable), &reply, identity().node(), move |result| {
        drop(sender.send(result));
    });
    assert!(here.is_none() && matches!(outcome.recv_timeout(PATIENCE), Ok(Err(LedgerError::Closed))));
}

#[test]
fn on_a_disk_nobody_writes_but_the_recorder() {
    let recorder = start(&MemoryStorage::new(), 1);
    let (sender, outcome) = sync_channel(1);
    let here = recorder.observe_here(about(1, Class::Observed), &Reply::ok("x"), identity().node(), move |result| {
        drop(sender.send(result));
    });
    assert!(here.is_none());
    assert!(outcome.recv_timeout(PATIENCE).expect("it ends").expect("recorded").durable);
}
