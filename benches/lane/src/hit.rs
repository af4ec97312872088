//! A whole hit between two nodes: look-up, ask, serve, check of bytes, proof and signature, delivery, and the append to the asker's ledger.
//!
//! Every question is new to the asker and known to the server, whose signed heads are checked once each. Questions come in the order in which their
//! answers were recorded, so neighbouring proofs share most of their nodes. Both ledgers are in memory; the asker's grows by 1.4 KB an answer, and
//! with the memory tier and the index it takes 3 to 4 KB, which both processes have touched before.

use std::time::{Duration, Instant};

use evalmesh::eval::{Eval, Origin};
use evalmesh::evaluator::Job;
use evalmesh::evaluator::host::HostEvaluator;
use evalmesh::evaluator::pool::Pool;
use evalmesh::net::{Carrier, FleetSecret};
use evalmesh::node::{Network, Node};
use evalmesh::reply::Reply;
use evalmesh::request::{AnswerFrom, Class, Program, Request};

use super::{Asker, Client, Failure, IN_FLIGHT, SIZE, Server, Sizes, ask_all, touch_memory};

/// Fewer than of the others, since the server has to hold an answer to each.
pub(super) const SIZES: Sizes = Sizes { warm: 2_000, alone: 5_000, together: 60_000, many: 5_000 };
const HELD: usize = SIZES.warm + SIZES.alone + SIZES.together + SIZES.many;

fn question(number: usize) -> Result<Request, Failure> {
    Ok(Request::new(Program::host("bytes", 1)?).class(Class::Portable).arg(number.to_string()))
}

fn start(peers: Vec<String>) -> Result<Node, Failure> {
    let listen = if peers.is_empty() { vec!["127.0.0.1:0".parse()?] } else { Vec::new() };
    let peers = peers.iter().map(|peer| peer.parse()).collect::<Result<_, _>>()?;
    let network = Network { secret: FleetSecret::from_bytes([3; 32]), listen, peers, mdns: false, carrier: Carrier::default() };
    let make = |_: &Job| Ok(Reply::ok(vec![7; SIZE]));
    let host = HostEvaluator::new(Pool::start("host", 1)?).function("bytes".parse()?, 1, Class::Portable, make);
    Ok(Node::builder().network(network).evaluator(host).patience(Duration::from_secs(5)).start()?)
}

pub(super) async fn serve() -> Result<(), Failure> {
    touch_memory();
    let node = start(Vec::new())?;
    // In bursts, so that it does not take longer than what is measured.
    for first in (0..HELD).step_by(IN_FLIGHT) {
        let mut answers = tokio::task::JoinSet::new();
        for number in first..HELD.min(first + IN_FLIGHT) {
            let (node, question) = (node.clone(), question(number)?);
            answers.spawn(async move { node.eval(question).await });
        }
        while let Some(answer) = answers.join_next().await {
            answer??;
        }
    }
    println!("{}", node.status().addresses[0]);
    std::future::pending().await
}

pub(super) struct Hit {
    node: Node,
    server: Server,
    next: usize,
}

pub(super) async fn client() -> Result<Hit, Failure> {
    touch_memory();
    let (server, address) = Server::start("hit-server").await?;
    let node = start(vec![address])?;
    let begin = Instant::now();
    while node.status().index_facts < HELD as u64 {
        if begin.elapsed() > Duration::from_secs(60) {
            return Err("the holder was not heard of".into());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Hit { node, server, next: 0 })
}

impl Asker for Node {
    async fn ask(&mut self, number: usize) -> Result<(), Failure> {
        let answer = self.eval(question(number)?.answer_from(AnswerFrom::HeldOnly)).await?;
        if matches!(answer.origin, Origin::Peer(_)) { Ok(()) } else { Err("it was here already".into()) }
    }
}

impl Client for Hit {
    async fn requests(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>, Failure> {
        let first = self.next;
        self.next += count;
        ask_all(&self.node, first..self.next, in_flight).await
    }

    fn server(&self) -> u32 {
        self.server.pid()
    }
}
