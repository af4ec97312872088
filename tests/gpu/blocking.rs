//! Callers that wait with their thread and hear a device's worker themselves: the same answers, whatever becomes of caller and worker meanwhile.

use std::sync::mpsc::{Receiver, sync_channel};
use std::thread::{self, ThreadId};
use std::time::{Duration, Instant};

use evalmesh::error::{EvalError, LimitHit};
use evalmesh::eval::{Eval, Origin};
use evalmesh::evaluator::gpu::GpuEvaluator;
use evalmesh::evaluator::{Errand, Evaluator, Job};
use evalmesh::node::Node;
use evalmesh::reply::Reply;
use evalmesh::request::{Class, Request};

use crate::Check;
use crate::drivers::{Driver, class, config, evaluator, out, program, request, shader};
use crate::hostile::{kill, workers};

pub(crate) const CHECKS: &[Check] = &[
    ("callers that wait with their threads get what others get", callers_with_threads),
    ("a caller that waits hears the worker itself, and what comes meanwhile waits", heard_by_the_caller),
    ("what a caller leaves is heard by the lane", left_to_the_lane),
    ("a worker that a caller hears is ended at the deadline", ended_at_the_deadline),
    ("a worker that is killed while a caller hears it is replaced", killed_while_heard),
];

/// Quick for a zero, a minute of work for a one.
const SHADER: &str = "var x = a[0]; for (var i = 0u; i < a[0] * 250000000u; i++) { x = x * 1664525u + i; }
    b[id.x] = a[1] + (x >> 31u) / 2u + 1u;";

fn question(class: &Class, work: u32, n: u32) -> Request {
    request(&program(&shader(SHADER), 1024, 16), &[work, n]).class(class.clone())
}

/// An evaluator whose worker knows the program and is idle.
fn warm() -> (GpuEvaluator, Class) {
    let own = evaluator(&[Driver::Lavapipe]);
    let class = Class::Device(class(&own, Driver::Lavapipe));
    settle(&own, &class);
    (own, class)
}

type Outcome = (ThreadId, Result<u32, EvalError>);

fn begin(own: &GpuEvaluator, request: Request) -> (Option<Errand>, Receiver<Outcome>) {
    let (done, outcome) = sync_channel(1);
    let first = |reply: Reply| out(&reply)[0];
    let told = move |result: Result<Reply, EvalError>| drop(done.send((thread::current().id(), result.map(first))));
    (own.start_for_waiting(Job::inline(request).expect("a job"), Box::new(told)), outcome)
}

fn next(outcome: &Receiver<Outcome>) -> Outcome {
    outcome.recv_timeout(Duration::from_mins(1)).expect("every evaluation ends, once")
}

/// The errand of a caller whose evaluation finds the worker idle.
fn errand(own: &GpuEvaluator, request: &Request) -> (Errand, Receiver<Outcome>) {
    let (errand, outcome) = begin(own, request.clone());
    (errand.expect("an idle worker is heard by whoever waits"), outcome)
}

fn callers_with_threads() {
    let node = Node::builder().gpu(config(&[Driver::Lavapipe])).start().expect("a node in memory");
    let evaluator = evaluator(&[Driver::Lavapipe]);
    let class = Class::Device(class(&evaluator, Driver::Lavapipe));
    node.eval_blocking(question(&class, 0, 1_000_000)).expect("an answer");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    thread::scope(|scope| {
        for caller in 0..4_u32 {
            let (node, class) = (&node, &class);
            scope.spawn(move || {
                for n in 0..200 {
                    // Each is asked by two.
                    let n = (caller / 2) * 1000 + n;
                    let answer = node.eval_blocking(question(class, 0, n)).expect("an answer");
                    assert_eq!(out(&answer.reply), vec![n + 1; 1024]);
                }
            });
        }
        for n in 5000..5200 {
            let answer = runtime.block_on(node.eval(question(&class, 0, n))).expect("an answer");
            assert_eq!(out(&answer.reply), vec![n + 1; 1024]);
        }
    });
    assert_eq!(node.eval_blocking(question(&class, 0, 1100)).expect("an answer").origin, Origin::Ram);
    let status = node.status();
    assert_eq!((status.answers.computed, status.in_flight), (601, 0));
    // An answer that takes longer than the caller waits.
    let start = Instant::now();
    let late = node.eval_blocking(question(&class, 1, 0).timeout(Duration::from_millis(300)));
    assert!(matches!(late, Err(EvalError::Limit(LimitHit::Deadline { .. }))), "{late:?}");
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    assert_eq!(out(&node.eval_blocking(question(&class, 0, 7000)).expect("the next one").reply)[0], 7001);
    node.shutdown();
}

fn heard_by_the_caller() {
    let (own, class) = warm();
    for n in 0..50 {
        let (errand, outcome) = errand(&own, &question(&class, 0, n));
        // The worker is away: these wait for it, one of them with its thread.
        let (none, second) = begin(&own, question(&class, 0, n + 100));
        let (_, third) = begin(&own, question(&class, 0, n + 200));
        assert!(none.is_none());
        assert!(second.recv_timeout(Duration::from_millis(2)).is_err(), "nobody else has the worker");
        errand.run(Duration::MAX);
        assert_eq!(next(&outcome), (thread::current().id(), Ok(n + 1)));
        assert_eq!((next(&second).1, next(&third).1), (Ok(n + 101), Ok(n + 201)));
        settle(&own, &class);
    }
}

/// Waits until the worker is idle again, which is a moment after its last answer.
fn settle(own: &GpuEvaluator, class: &Class) {
    let start = Instant::now();
    loop {
        let (errand, outcome) = begin(own, question(class, 0, 9));
        let is_idle = errand.is_some();
        drop(errand);
        next(&outcome).1.expect("a reply");
        thread::sleep(Duration::from_millis(2));
        if is_idle {
            return;
        }
        assert!(start.elapsed() < Duration::from_mins(1), "the worker stays away");
    }
}

fn left_to_the_lane() {
    let (own, class) = warm();
    let here = thread::current().id();
    for n in 0..20 {
        let (errand, outcome) = errand(&own, &question(&class, 0, n));
        drop(errand);
        let (thread, result) = next(&outcome);
        assert!(thread != here && result == Ok(n + 1));
        settle(&own, &class);
    }
    // One that takes too long for its caller, and then for nobody.
    let mut job = Job::inline(question(&class, 1, 0)).expect("a job");
    job.budget = Some(Duration::from_secs(20));
    let cancel = job.cancel.clone();
    let (done, outcome) = sync_channel(1);
    let errand = own.start_for_waiting(job, Box::new(move |result| drop(done.send(result))));
    let start = Instant::now();
    errand.expect("an idle worker").run(Duration::from_millis(50));
    assert!(start.elapsed() < Duration::from_secs(1) && outcome.try_recv().is_err(), "{:?}", start.elapsed());
    cancel.cancel();
    assert_eq!(outcome.recv_timeout(Duration::from_secs(10)).expect("it ends"), Err(EvalError::Cancelled));
    let (errand, outcome) = begin(&own, question(&class, 0, 3));
    drop(errand);
    assert_eq!(next(&outcome).1, Ok(4));
}

fn ended_at_the_deadline() {
    let (own, class) = warm();
    let (errand, outcome) = errand(&own, &question(&class, 1, 0).timeout(Duration::from_millis(300)));
    let start = Instant::now();
    errand.run(Duration::MAX);
    assert_eq!(next(&outcome), (thread::current().id(), Err(EvalError::Limit(LimitHit::Deadline { ms: 300 }))));
    assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
    let (errand, outcome) = begin(&own, question(&class, 0, 3));
    drop(errand);
    assert_eq!(next(&outcome).1, Ok(4));
    settle(&own, &class);
}

fn killed_while_heard() {
    let before = workers();
    let (own, class) = warm();
    let new = || workers().into_iter().filter(|path| !before.contains(path)).collect::<Vec<_>>();
    // While nothing is under way, after a caller had it.
    let (first, outcome) = errand(&own, &question(&class, 0, 5));
    first.run(Duration::MAX);
    assert_eq!(next(&outcome).1, Ok(6));
    for path in new() {
        kill(&path);
    }
    let (again, outcome) = begin(&own, question(&class, 0, 6));
    if let Some(errand) = again {
        errand.run(Duration::MAX);
    }
    assert_eq!(next(&outcome).1, Ok(7));
    settle(&own, &class);
    // While it works: the evaluation is repeated once, and ends as a failure when that worker is killed as well.
    let (errand, outcome) = errand(&own, &question(&class, 1, 0));
    let heard = thread::spawn(move || {
        errand.run(Duration::MAX);
        thread::current().id()
    });
    let start = Instant::now();
    let (by, result) = loop {
        if let Ok(ended) = outcome.recv_timeout(Duration::from_millis(300)) {
            break ended;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it is repeated for ever");
        for path in new() {
            kill(&path);
        }
    };
    assert_eq!(heard.join().expect("the errand ends"), by);
    assert!(matches!(&result, Err(EvalError::Failed(_) | EvalError::Refused(_))), "{result:?}");
    let (last, outcome) = begin(&own, question(&class, 0, 8));
    if let Some(errand) = last {
        errand.run(Duration::MAX);
    }
    assert_eq!(next(&outcome).1, Ok(9));
}
