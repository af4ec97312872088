//! Placed work between two nodes in one process, with an evaluator that goes on until nobody waits.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::Network;
use super::driver::Event;
use super::nested::block_on;
use crate::error::{EvalError, LimitHit};
use crate::eval::{Answer, Eval};
use crate::evaluator::{Done, Evaluator, Job};
use crate::net::{Carrier, FleetSecret, PeerAddr};
use crate::node::Node;
use crate::reply::Reply;
use crate::request::{Class, Engine, Name, Program, Request};

/// Evaluates until it is told to finish, or nobody waits.
#[derive(Clone, Default)]
struct Slow {
    finish: Arc<AtomicBool>,
    started: Arc<AtomicUsize>,
    cancelled: Arc<AtomicUsize>,
    threads: Arc<Mutex<Vec<thread::JoinHandle<()>>>>,
}

impl Evaluator for Slow {
    fn engine(&self) -> Engine {
        Engine::Gpu
    }

    fn version(&self) -> String {
        "slow".to_owned()
    }

    fn admit(&self, _: &Request) -> Result<(), EvalError> {
        Ok(())
    }

    fn start(&self, job: Job, done: Done) {
        self.started.fetch_add(1, Ordering::SeqCst);
        let slow = self.clone();
        let evaluate = move || {
            while !slow.finish.load(Ordering::SeqCst) {
                if job.cancel.is_cancelled() {
                    slow.cancelled.fetch_add(1, Ordering::SeqCst);
                    return done(Err(EvalError::Cancelled));
                }
                thread::sleep(Duration::from_millis(1));
            }
            done(Ok(Reply::ok(job.code.clone())));
        };
        self.threads.lock().unwrap().push(thread::spawn(evaluate));
    }
}

impl Slow {
    fn counts(&self) -> (usize, usize) {
        (self.started.load(Ordering::SeqCst), self.cancelled.load(Ordering::SeqCst))
    }
}

fn class() -> Name {
    "gpu:slow".parse().unwrap()
}

fn network(peers: Vec<PeerAddr>) -> Network {
    let (secret, listen) = (FleetSecret::from_bytes([7; 32]), vec!["127.0.0.1:0".parse().unwrap()]);
    Network { secret, listen, peers, mdns: false, carrier: Carrier::default() }
}

/// A node that evaluates and one that cannot, which knows of it.
fn pair(slow: &Slow) -> (Node, Node) {
    let able = Node::builder().without_gpu().evaluator(slow.clone()).network(network(Vec::new())).start().unwrap();
    let addr = able.status().addresses[0];
    let unable = Node::builder().without_gpu().network(network(vec![PeerAddr { addr, node: None }])).start().unwrap();
    able.inner.turns.put(Event::Offer(vec![class()]));
    let offered = || {
        let (found, offered) = futures_channel::oneshot::channel();
        unable.inner.turns.put(Event::Offered(found));
        block_on(async { offered.await.map_err(|_| EvalError::Closed) }, &|| Ok(())).unwrap()
    };
    until("the offer comes", || offered().contains(&class()));
    (able, unable)
}

fn question(n: u8) -> Request {
    Request::new(Program::gpu(vec![n; 8])).class(Class::Device(class()))
}

fn ask(node: &Node, request: Request) -> Result<Answer, EvalError> {
    block_on(node.eval(request), &|| Ok(()))
}

fn until(what: &str, is_so: impl Fn() -> bool) {
    for _ in 0..10_000 {
        if is_so() {
            return;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("{what}: never");
}

#[test]
fn what_nobody_waits_for_any_more_ends_at_the_peer() {
    let slow = Slow::default();
    let (able, unable) = pair(&slow);
    let late = ask(&unable, question(1).timeout(Duration::from_millis(100)));
    assert!(matches!(late, Err(EvalError::Limit(LimitHit::Deadline { .. }))), "{late:?}");
    until("it ends after its deadline", || slow.counts().1 == 1);
    // The caller goes away.
    let gone = AtomicBool::new(false);
    let go_on = || if gone.load(Ordering::SeqCst) { Err(EvalError::Cancelled) } else { Ok(()) };
    let gave_up = thread::scope(|scope| {
        let caller = scope.spawn(|| block_on(unable.eval(question(2)), &go_on));
        until("it is placed", || slow.counts().0 == 2);
        gone.store(true, Ordering::SeqCst);
        caller.join().unwrap()
    });
    assert_eq!(gave_up, Err(EvalError::Cancelled));
    until("it ends after its caller", || slow.counts() == (2, 2));
    slow.finish.store(true, Ordering::SeqCst);
    let stdout = ask(&unable, question(2)).unwrap().reply.stdout;
    assert_eq!(stdout, Reply::ok(vec![2; 8]).stdout, "it can be asked again");
    unable.shutdown();
    able.shutdown();
}

#[test]
fn a_node_that_stops_leaves_nothing_at_its_peer() {
    let slow = Slow::default();
    let (able, unable) = pair(&slow);
    thread::scope(|scope| {
        let caller = scope.spawn(|| ask(&unable, question(1)));
        until("it is placed", || slow.counts().0 == 1);
        unable.clone().shutdown();
        assert_eq!(caller.join().unwrap(), Err(EvalError::Closed));
    });
    until("it ends with the lane", || slow.counts() == (1, 1));
    able.shutdown();
}

#[test]
fn a_cancel_hurts_nobody_who_shares_the_evaluation() {
    let slow = Slow::default();
    let (able, unable) = pair(&slow);
    thread::scope(|scope| {
        let own = scope.spawn(|| ask(&able, question(1)));
        until("it runs", || slow.counts().0 == 1);
        let late = ask(&unable, question(1).timeout(Duration::from_millis(200)));
        assert!(matches!(late, Err(EvalError::Limit(LimitHit::Deadline { .. }))), "{late:?}");
        thread::sleep(Duration::from_millis(200));
        assert_eq!(slow.counts(), (1, 0), "one evaluation, which goes on");
        slow.finish.store(true, Ordering::SeqCst);
        assert_eq!(own.join().unwrap().unwrap().reply.stdout, Reply::ok(vec![1; 8]).stdout);
    });
    unable.shutdown();
    able.shutdown();
}
