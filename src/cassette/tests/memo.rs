//! Memory around an inner one that answers questions, with an inner one that counts.

use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread;

use super::*;
use crate::error::{EvalError, Refusal};
use crate::eval::{Answer, Eval, Origin};
use crate::ledger::{FaultyStorage, Op};
use crate::request::{AnswerFrom, OutputName, Program, Request, Slot, Source};

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

fn block_on<F: Future>(future: F) -> F::Output {
    let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(output) => return output,
            Poll::Pending => std::thread::park(),
        }
    }
}

/// Answers with the number of the call, and admits everything but the capability `forbidden`.
#[derive(Debug, Default)]
struct Counter {
    calls: AtomicU64,
}

impl Eval for &Counter {
    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        match request.capabilities.iter().find(|capability| capability.as_str() == "forbidden") {
            Some(capability) => Err(Refusal::Capability(capability.to_string()).into()),
            None => Ok(()),
        }
    }

    async fn eval(&self, request: Request) -> Result<Answer, EvalError> {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if request.args.first().is_some_and(|arg| arg == "fail") {
            return Err(EvalError::Failed("as asked".to_owned()));
        }
        let id = request.id().unwrap_or(id(0));
        Ok(Answer { id, reply: Reply::ok(call.to_string()), origin: Origin::Computed, recorded: false })
    }
}

fn request(arg: &str) -> Request {
    Request::new(Program::host("count", 1).expect("a name")).arg(arg)
}

fn memo(counter: &Counter) -> (Memo<&Counter>, RecorderHandle, FaultyStorage) {
    let storage = FaultyStorage::new(Arc::new(MemoryStorage::new()));
    let options = CassetteOptions { ram_bytes: 4096, ..CassetteOptions::default() };
    let (writer, _) = CassetteWriter::open(Arc::new(storage.clone()), &opening(1), options).expect("opens");
    let recorder = Recorder::start(writer, None).expect("a thread");
    (Memo::new(counter, recorder.clone(), identity().node(), || 1234), recorder, storage)
}

/// Standard output, origin, and whether it is recorded.
fn ask(memo: &Memo<&Counter>, request: Request) -> Result<(String, Origin, bool), EvalError> {
    let id = request.id();
    let answer = block_on(memo.eval(request))?;
    assert_eq!(Ok(answer.id), id);
    let stdout = answer.reply.stdout.as_ref().and_then(Payload::bytes).expect("inline").to_vec();
    Ok((String::from_utf8(stdout).expect("text"), answer.origin, answer.recorded))
}

#[test]
fn a_question_is_computed_once_and_answered_from_memory_then() {
    let counter = Counter::default();
    let (memo, recorder, _) = memo(&counter);
    assert_eq!(ask(&memo, request("a")), Ok(("1".to_owned(), Origin::Computed, true)));
    assert_eq!(ask(&memo, request("a")), Ok(("1".to_owned(), Origin::Ram, true)));
    assert_eq!(ask(&memo, request("b")), Ok(("2".to_owned(), Origin::Computed, true)));
    let Ok(Lookup::Hit(held)) = recorder.cassette().lookup(request("a").id().expect("an id")) else { panic!("held") };
    assert_eq!((held.record().observed_at, held.record().producer), (1234, identity().node()));
    assert_eq!((held.record().kind.as_str(), &held.record().class), ("count", &Class::Observed));
    assert!(memo.admit(&request("a")).is_ok());
}

#[test]
fn where_the_answer_may_come_from_is_respected() {
    let counter = Counter::default();
    let (memo, _recorder, _) = memo(&counter);
    let id = request("a").id().expect("an id");
    let held_only = || request("a").answer_from(AnswerFrom::HeldOnly);
    assert_eq!(ask(&memo, held_only()), Err(EvalError::NotHeld { id, why: NotHeld::NeverSeen }));
    let fresh = || request("a").answer_from(AnswerFrom::ComputedOnly);
    assert_eq!(ask(&memo, fresh()), Ok(("1".to_owned(), Origin::Computed, true)));
    assert_eq!(ask(&memo, fresh()), Ok(("2".to_owned(), Origin::Computed, true)));
    assert_eq!(ask(&memo, held_only()), Ok(("1".to_owned(), Origin::Ram, true)), "the first record wins");
}

#[test]
fn a_hit_never_bypasses_admission() {
    let counter = Counter::default();
    let (memo, recorder, _) = memo(&counter);
    let forbidden = request("a").capability("forbidden".parse().expect("a name"));
    let reply = Reply::ok("recorded elsewhere");
    let about = Observation {
        request: forbidden.id().expect("an id"),
        kind: forbidden.kind(),
        class: Class::Observed,
        observed_at: 1,
        trace: None,
        upstream: Vec::new(),
    };
    let record = Record::observe(about, &reply, identity().node());
    recorder.record(record, payloads(&reply).expect("inline"), |result| assert!(result.is_ok()));
    recorder.close().expect("closes");
    assert!(matches!(recorder.cassette().lookup(forbidden.id().expect("an id")), Ok(Lookup::Hit(_))));
    assert!(matches!(ask(&memo, forbidden), Err(EvalError::Refused(Refusal::Capability(_)))));
    assert_eq!(counter.calls.load(Ordering::SeqCst), 0);
}

#[test]
fn errors_are_not_recorded_and_volatile_calls_are_always_made() {
    let counter = Counter::default();
    let (memo, recorder, _) = memo(&counter);
    for _ in 0..2 {
        assert!(matches!(ask(&memo, request("fail")), Err(EvalError::Failed(_))));
    }
    assert_eq!(recorder.cassette().stats().records, 0);
    for call in ["3", "4"] {
        let volatile = request("a").class(Class::Volatile);
        assert_eq!(ask(&memo, volatile), Ok((call.to_owned(), Origin::Computed, true)));
    }
    assert_eq!(recorder.cassette().stats().records, 2);
}

#[test]
fn what_cannot_be_recorded_is_given_only_if_it_can_be_computed_again() {
    let counter = Counter::default();
    let (memo, _recorder, storage) = memo(&counter);
    storage.fail(Some(Op::Write), 0, std::io::ErrorKind::StorageFull);
    assert!(matches!(ask(&memo, request("a")), Err(EvalError::Ledger(_))));
    let portable = request("a").class(Class::Portable);
    assert_eq!(ask(&memo, portable), Ok(("2".to_owned(), Origin::Computed, false)));
}

#[test]
fn a_disk_that_cannot_be_read_is_no_miss_for_an_observation() {
    let counter = Counter::default();
    let (memo, _recorder, storage) = memo(&counter);
    for class in [Class::Observed, Class::Portable] {
        // Pushed out of memory by others.
        let asked = || request("a").class(class.clone());
        ask(&memo, asked()).expect("computes");
        for other in 0..20 {
            ask(&memo, request(&other.to_string()).class(class.clone())).expect("computes");
        }
        storage.fail(Some(Op::Read), 0, std::io::ErrorKind::TimedOut);
        let outcome = ask(&memo, asked());
        if class == Class::Observed {
            assert!(matches!(outcome, Err(EvalError::Ledger(_))));
        } else {
            assert!(matches!(outcome, Ok((_, Origin::Computed, true))));
        }
        assert!(matches!(ask(&memo, asked()), Ok((_, Origin::Disk, true))));
    }
}

#[test]
fn a_graph_is_the_inner_ones_affair() {
    let counter = Counter::default();
    let (memo, recorder, _) = memo(&counter);
    let graph = request("a").input(Slot::Stdin, Source::Output(Box::new(request("b")), OutputName::Stdout));
    assert_eq!(block_on(memo.eval(graph)).map(|answer| answer.recorded), Ok(false));
    assert_eq!(recorder.cassette().stats().records, 0);
}
