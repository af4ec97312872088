//! Many nodes in this process: one part of them in one network namespace, the other in another, and a link between the two that can be cut.
//!
//! What they compute nobody asks for, so every fact has one holder and a node knows everything once it knows as many facts as others have.

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use evalmesh::eval::{Answer, Eval, Origin};
use evalmesh::evaluator::Job;
use evalmesh::evaluator::host::HostEvaluator;
use evalmesh::evaluator::pool::Pool;
use evalmesh::id::ContentId;
use evalmesh::net::{Carrier, FleetSecret, PeerAddr};
use evalmesh::node::{Network, Node};
use evalmesh::reply::Reply;
use evalmesh::request::{Class, Program, Request};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Runtime;

use super::namespaces::Namespaces;

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_mins(2);
/// How often it is looked what nodes know.
const LOOK_EVERY: Duration = Duration::from_micros(250);

pub(super) struct Halves {
    pub(super) nodes: Vec<Node>,
    /// Which half each is in.
    half: Vec<usize>,
    /// What each node has computed.
    made: Vec<Vec<ContentId>>,
    questions: usize,
    started: Started,
    runtime: Runtime,
    // Dropped last: it outlives what is in it.
    namespaces: Namespaces,
}

/// When the last computation of each question began, on whichever node.
type Started = Arc<Mutex<BTreeMap<String, Instant>>>;

#[expect(clippy::disallowed_methods, reason = "real nodes take real time")]
fn start(listen: &str, peers: Vec<PeerAddr>, started: Started) -> Node {
    let listen = vec![listen.parse().expect("an address")];
    let secret = FleetSecret::from_bytes([5; 32]);
    let network = Network { secret, listen, peers, mdns: false, carrier: Carrier::default() };
    let pool = Pool::start("host", 1).expect("a thread");
    let compute = move |job: &Job| {
        let question = job.request.args.first().cloned().unwrap_or_default();
        started.lock().expect("nobody panics with it").insert(question, Instant::now());
        Ok(Reply::ok("so"))
    };
    let host = HostEvaluator::new(pool).function("fact".parse().expect("a name"), 1, Class::Portable, compute);
    Node::builder().network(network).evaluator(host).start().expect("it starts")
}

impl Halves {
    /// Starts so many nodes, every other one in the second half. The error says why there can be no namespaces.
    pub(super) fn start(count: usize) -> Result<Self, String> {
        Self::split((0..count).map(|node| node % 2).collect())
    }

    /// Starts nodes in these halves, each of which knows where those before it listen.
    pub(super) fn split(half: Vec<usize>) -> Result<Self, String> {
        let (count, started) = (half.len(), Started::default());
        let namespaces = Namespaces::new(2)?;
        let mut nodes: Vec<Node> = Vec::new();
        for side in &half {
            let known = |node: &Node| PeerAddr { addr: node.status().addresses[0], node: Some(node.id()) };
            let peers = nodes.iter().map(known).collect();
            let (place, address) = (namespaces.name(*side), Namespaces::address(*side));
            let started = Arc::clone(&started);
            let enter = move || {
                let namespace = File::open(format!("/run/netns/{place}")).expect("it was made");
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network)).expect("root may");
                // A node's threads are in the namespace of the thread that starts it.
                start(&format!("{address}:0"), peers, started)
            };
            nodes.push(scope(|scope| scope.spawn(enter).join()).expect("it starts"));
        }
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Ok(Self { made: vec![Vec::new(); count], nodes, half, questions: 0, started, runtime, namespaces })
    }

    pub(super) fn lanes(&self) -> Vec<usize> {
        self.nodes.iter().map(|node| node.status().peers.len()).collect()
    }

    /// Waits until everybody has a lane to everybody and has measured its round trip.
    pub(super) fn meet(&self) {
        let met = |node: &Node| {
            let peers = node.status().peers;
            peers.len() + 1 == self.nodes.len() && peers.iter().all(|peer| peer.round_trip.is_some())
        };
        until("the nodes to meet", Duration::from_millis(100), || self.nodes.iter().all(met));
    }

    /// Computes something new on a node; says which question it was.
    pub(super) fn compute(&mut self, node: usize) -> usize {
        let question = self.questions;
        self.questions += 1;
        let answer = self.ask(node, question);
        self.made[node].push(answer.id);
        question
    }

    fn ask(&self, node: usize, question: usize) -> Answer {
        let program = Program::host("fact", 1).expect("a name");
        let question = Request::new(program).class(Class::Portable).arg(question.to_string());
        self.runtime.block_on(self.nodes[node].eval(question)).expect("it computes")
    }

    /// Asks a node what it can only compute; how long after that it began to.
    #[expect(clippy::disallowed_methods, reason = "real nodes take real time")]
    pub(super) fn miss(&self, node: usize, question: usize) -> Duration {
        let asked = Instant::now();
        let answer = self.ask(node, question);
        assert_eq!(answer.origin, Origin::Computed, "nobody has it who answers");
        let began = self.started.lock().expect("nobody panics with it")[&question.to_string()];
        began.checked_duration_since(asked).expect("it was computed anew")
    }

    /// Waits until everybody knows as many facts as others have; how long after now each node did.
    pub(super) fn know_everything(&self) -> Vec<Duration> {
        #[expect(clippy::disallowed_methods, reason = "real nodes take real time")]
        let begin = Instant::now();
        let all: usize = self.made.iter().map(Vec::len).sum();
        let mut waits: Vec<Option<Duration>> = vec![None; self.nodes.len()];
        until("everybody to know everything", LOOK_EVERY, || {
            for (node, wait) in waits.iter_mut().enumerate().filter(|(_, wait)| wait.is_none()) {
                let others = (all - self.made[node].len()) as u64;
                *wait = (self.nodes[node].index_facts() >= others).then(|| begin.elapsed());
            }
            waits.iter().all(Option::is_some)
        });
        waits.into_iter().flatten().collect()
    }

    /// Whether everybody knows what its own half has made since it knew everything, and nothing of the other half. Every node has made as much.
    pub(super) fn know_own_half(&self) -> Result<(), String> {
        let count = self.nodes.len();
        for (number, node) in self.nodes.iter().enumerate() {
            let made = self.made[number].len();
            let same = self.half.iter().filter(|half| **half == self.half[number]).count();
            let expected = ((made - 1) * (count - 1) + same - 1) as u64;
            if node.index_facts() != expected {
                return Err(format!("node {number} knows {} facts and not {expected}", node.index_facts()));
            }
        }
        Ok(())
    }

    /// Cuts the two halves off from each other, or connects them again.
    pub(super) fn cut(&self, cut: bool) {
        self.namespaces.cut(1, cut);
    }

    /// Where a node's index says anything else than what was computed.
    pub(super) fn differences(&self) -> Vec<String> {
        let mut found = Vec::new();
        for (number, node) in self.nodes.iter().enumerate() {
            for (author, made) in self.made.iter().enumerate() {
                for id in made {
                    let holders = self.runtime.block_on(node.holders(*id)).expect("it runs");
                    let holders: Vec<_> = holders.into_iter().map(|holder| holder.node).collect();
                    let expected: Vec<_> = (author != number).then(|| self.nodes[author].id()).into_iter().collect();
                    if holders != expected {
                        found.push(format!("node {number} on {}: {holders:?}, not {expected:?}", id.short()));
                    }
                }
            }
        }
        found
    }
}

#[expect(clippy::disallowed_methods, reason = "real nodes take real time")]
fn until(what: &str, look_every: Duration, mut holds: impl FnMut() -> bool) {
    let begin = Instant::now();
    while !holds() {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(look_every);
    }
}
