//! Group commit under many orders of its threads: `recorder.rs` itself, on shuttle's threads, locks and channels and a clock of chance.

use std::sync::Arc;

use shuttle::rand::Rng;
use shuttle::thread;

use super::{id, identity, observed, open, opening, text};
use crate::cassette::{CassetteOptions, CassetteWriter, Recorded, view, writer};
use crate::identity::Signer;
use crate::interleavings::explore;
use crate::ledger::{FaultyStorage, LedgerError, MemoryStorage, Op};
use crate::record::Observation;
use crate::reply::Reply;
use crate::request::Class;

#[expect(clippy::duplicate_mod, reason = "the same file on other threads is the point")]
#[expect(unreachable_pub, dead_code, reason = "it is public where it ships")]
#[path = "../recorder.rs"]
mod recorder;

use self::recorder::{OnDurable, Recorder, RecorderHandle};

mod sync {
    pub(super) use shuttle::sync::{Arc, Mutex, RwLock, atomic};

    pub(super) use crate::interleavings::mpsc;
}

/// So small that queues and groups are full in many orders.
mod limits {
    use std::time::Duration;

    pub(super) const BUDGET_EVERY: u64 = 1;
    pub(super) const COMPANY: usize = 1;
    pub(super) const COMPANY_SILENCE: Duration = Duration::from_micros(60);
    pub(super) const COMPANY_WAIT: Duration = Duration::from_millis(20);
    pub(super) const RECORDER_BYTES: u64 = 20;
    pub(super) const RECORDER_GROUP: usize = 2;
    pub(super) const RECORDER_QUEUE: usize = 3;
}

/// A batch may wait for 5 ms; every look at this clock may take longer or shorter than that.
mod clock {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::{Duration, Instant};

    use shuttle::rand::Rng;

    static START: OnceLock<Instant> = OnceLock::new();
    static PASSED: AtomicU64 = AtomicU64::new(0);

    #[expect(clippy::disallowed_methods, reason = "only differences of times are looked at, and those are drawn")]
    pub(super) fn now() -> Instant {
        let passed = PASSED.fetch_add(shuttle::rand::thread_rng().gen_range(0..8), Ordering::SeqCst);
        *START.get_or_init(Instant::now) + Duration::from_millis(passed)
    }

    pub(super) fn micros() -> u64 {
        7
    }
}

type Answers = Arc<sync::Mutex<Vec<(u64, Result<Recorded, LedgerError>)>>>;

fn class(n: u64) -> Class {
    if n.is_multiple_of(2) { Class::Observed } else { Class::Portable }
}

/// Asks to record the reply to question `n`; the answer is noted, and that what it says is shown already.
fn ask(recorder: &RecorderHandle, n: u64, answers: &Answers) {
    let (record, bytes) = observed(&identity(), n, class(n), &Reply::ok(format!("reply {n}")));
    let (answers, cassette) = (answers.clone(), recorder.cassette().clone());
    recorder.record(record, bytes, move |result| {
        if let Ok(recorded) = &result {
            assert!(recorded.durable || class(n) == Class::Portable, "question {n} is acknowledged before its sync");
            assert_eq!(text(&cassette, n), Ok(format!("reply {n}")), "acknowledged before it is shown");
        }
        answers.lock().unwrap().push((n, result));
    });
}

fn join(callers: Vec<thread::JoinHandle<()>>) {
    for caller in callers {
        caller.join().expect("it does not panic");
    }
}

fn only_growing() -> OnDurable {
    let last = std::sync::atomic::AtomicU64::new(0);
    Box::new(move |length| {
        assert!(last.swap(length, std::sync::atomic::Ordering::SeqCst) < length, "the durable length went back");
    })
}

/// Every question has one answer; what was answered well is there.
fn judge(
    answers: &Answers,
    asked: impl Iterator<Item = u64>,
    storage: &MemoryStorage,
    why_not: fn(&LedgerError) -> bool,
) {
    let mut answers = std::mem::take(&mut *answers.lock().unwrap());
    answers.sort_by_key(|(n, _)| *n);
    assert!(asked.eq(answers.iter().map(|(n, _)| *n)), "not one answer each: {answers:?}");
    storage.crash();
    let cassette = open(storage, 2).cassette();
    for (n, answer) in answers {
        match answer {
            Ok(_) => assert_eq!(text(&cassette, n), Ok(format!("reply {n}")), "what was acknowledged is gone"),
            Err(LedgerError::Busy { .. }) => assert!(text(&cassette, n).is_err(), "refused, and recorded all the same"),
            Err(error) => assert!(why_not(&error), "{error}"),
        }
    }
}

#[test]
fn whoever_asks_while_it_closes_is_answered_once_and_what_was_acknowledged_stays() {
    explore(|| {
        let storage = MemoryStorage::new();
        let answers = Answers::default();
        let recorder = Recorder::start(open(&storage, 1), Some(only_growing())).expect("a thread");
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let (recorder, answers) = (recorder.clone(), answers.clone());
                thread::spawn(move || (caller * 2..caller * 2 + 2).for_each(|n| ask(&recorder, n, &answers)))
            })
            .collect();
        let early = shuttle::rand::thread_rng().gen_bool(0.5);
        let closed = early.then(|| recorder.close());
        join(callers);
        let length = closed.unwrap_or_else(|| recorder.close()).expect("the disk is sound");
        assert_eq!(recorder.cassette().ledger().durable(), length, "closed and not durable");
        assert!(matches!(recorder.close(), Err(LedgerError::Closed)));
        judge(&answers, 0..6, &storage, |error| matches!(error, LedgerError::Closed));
    });
}

#[test]
fn the_last_handle_may_go_away_in_any_thread() {
    explore(|| {
        let storage = MemoryStorage::new();
        let answers = Answers::default();
        let recorder = Recorder::start(open(&storage, 1), None).expect("a thread");
        let callers: Vec<_> = (0..2)
            .map(|n| {
                let (recorder, answers) = (recorder.clone(), answers.clone());
                thread::spawn(move || ask(&recorder, n, &answers))
            })
            .collect();
        // A completion that holds the last handle ends the thread from within.
        let (last, held) = (recorder.clone(), answers.clone());
        recorder.retract(id(9), Reply::ok("x").answer(), 1, move |result| {
            drop(last);
            held.lock().unwrap().push((2, result));
        });
        drop(recorder);
        join(callers);
        while answers.lock().unwrap().len() < 3 {
            thread::yield_now();
        }
    });
}

#[test]
fn a_disk_that_fails_at_any_sync_takes_nothing_that_was_acknowledged_as_durable() {
    explore(|| {
        let storage = MemoryStorage::new();
        let faulty = FaultyStorage::new(Arc::new(storage.clone()));
        let options = CassetteOptions::default();
        let (writer, _) = CassetteWriter::open(Arc::new(faulty.clone()), &opening(1), options).expect("opens");
        let answers = Answers::default();
        let recorder = Recorder::start(writer, Some(only_growing())).expect("a thread");
        faulty.fail(Some(Op::Sync), shuttle::rand::thread_rng().gen_range(0..4), std::io::ErrorKind::Other);
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let (recorder, answers) = (recorder.clone(), answers.clone());
                // Even numbers only: observations, which are durable or refused.
                thread::spawn(move || [caller * 4, caller * 4 + 2].iter().for_each(|n| ask(&recorder, *n, &answers)))
            })
            .collect();
        join(callers);
        let _ = recorder.close();
        judge(&answers, (0..12).step_by(2), &storage, |error| {
            matches!(error, LedgerError::Io { .. } | LedgerError::Poisoned { .. })
        });
    });
}

/// As `ask`, where the ledger is in memory: whoever has an answer may record it.
fn ask_here(recorder: &RecorderHandle, n: u64, answers: &Answers) {
    let about = Observation {
        request: id(n),
        kind: "test".parse().expect("a name"),
        class: class(n),
        observed_at: n,
        trace: None,
        upstream: Vec::new(),
    };
    let (later, cassette) = (answers.clone(), recorder.cassette().clone());
    let note = move |answers: &Answers, result: Result<Recorded, LedgerError>| {
        if result.is_ok() {
            assert_eq!(text(&cassette, n), Ok(format!("reply {n}")), "acknowledged before it is shown");
        }
        answers.lock().unwrap().push((n, result));
    };
    let noted = note.clone();
    let here = recorder.observe_here(about, &Reply::ok(format!("reply {n}")), identity().node(), move |result| {
        noted(&later, result);
    });
    if let Some(result) = here {
        assert!(!matches!(result, Err(LedgerError::Busy { .. })), "it waits for nobody");
        note(answers, result);
    }
}

#[test]
fn in_memory_everybody_may_write_and_each_is_answered_once() {
    explore(|| {
        let storage = MemoryStorage::volatile();
        let answers = Answers::default();
        let recorder = Recorder::start(open(&storage, 1), None).expect("a thread");
        let callers: Vec<_> = (0..3)
            .map(|caller| {
                let (recorder, answers) = (recorder.clone(), answers.clone());
                thread::spawn(move || {
                    ask_here(&recorder, caller * 3, &answers);
                    ask(&recorder, caller * 3 + 2, &answers);
                    ask_here(&recorder, caller * 3 + 1, &answers);
                })
            })
            .collect();
        let early = shuttle::rand::thread_rng().gen_bool(0.3);
        let closed = early.then(|| recorder.close());
        join(callers);
        let length = closed.unwrap_or_else(|| recorder.close()).expect("memory does not fail");
        let cassette = recorder.cassette();
        assert_eq!(cassette.ledger().durable(), length, "closed and not durable");
        let mut answers = std::mem::take(&mut *answers.lock().unwrap());
        answers.sort_by_key(|(n, _)| *n);
        assert!((0..9).eq(answers.iter().map(|(n, _)| *n)), "not one answer each: {answers:?}");
        for (n, answer) in answers {
            match answer {
                Ok(_) => assert_eq!(text(cassette, n), Ok(format!("reply {n}"))),
                Err(LedgerError::Busy { .. } | LedgerError::Closed) => assert!(text(cassette, n).is_err()),
                Err(error) => panic!("{error}"),
            }
        }
    });
}
