//! Nodes of this process over loopback, through the public door.

use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use evalmesh::eval::{Eval, Origin};
use evalmesh::evaluator::Job;
use evalmesh::evaluator::host::HostEvaluator;
use evalmesh::evaluator::pool::Pool;
use evalmesh::net::{Carrier, FleetSecret, PeerAddr};
use evalmesh::node::{Network, Node};
use evalmesh::reply::Reply;
use evalmesh::request::{AnswerFrom, Class, Program, Request};

const PATIENCE: Duration = Duration::from_mins(1);

fn start(data: &Path, listen: &str, peers: Vec<PeerAddr>) -> Node {
    let secret = FleetSecret::from_bytes([5; 32]);
    let listen = vec![listen.parse().expect("an address")];
    let network = Network { secret, listen, peers, mdns: false, carrier: Carrier::default() };
    let pool = Pool::start("host", 1).expect("a thread");
    let length = |job: &Job| {
        let len = job.request.args[0].parse().expect("a length");
        Ok(Reply::ok(vec![7; len]))
    };
    let host = HostEvaluator::new(pool).function("bytes".parse().expect("a name"), 1, Class::Portable, length);
    Node::builder().data_dir(data).network(network).evaluator(host).start().expect("it starts")
}

fn question(len: usize) -> Request {
    Request::new(Program::host("bytes", 1).expect("a name")).class(Class::Portable).arg(len.to_string())
}

fn at(node: &Node) -> PeerAddr {
    PeerAddr { addr: node.status().addresses[0], node: Some(node.id()) }
}

#[expect(clippy::disallowed_methods, reason = "real nodes take real time")]
async fn until(what: &str, holds: impl AsyncFn() -> bool) {
    let begin = Instant::now();
    while !holds().await {
        assert!(begin.elapsed() < PATIENCE, "waited too long for {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_holder_to_which_there_is_no_lane_is_dialed_by_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let asker = start(&folder.path().join("asker"), "127.0.0.1:0", Vec::new());
    let holder = start(&folder.path().join("holder"), "127.0.0.1:0", vec![at(&asker)]);
    holder.eval(question(9)).await.expect("it computes");
    until("the holder to be known", async || asker.status().index_facts > 0).await;
    let (name, listened): (_, SocketAddr) = (holder.id(), holder.status().addresses[0]);
    holder.shutdown();
    until("the lane to go down", async || asker.status().peers.is_empty()).await;
    // It comes back where it was, and dials nobody: somebody has to look for it.
    let holder = start(&folder.path().join("holder"), &listened.to_string(), Vec::new());
    assert_eq!(holder.id(), name);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(asker.status().peers.is_empty(), "nobody dialed");
    until("the answer", async || {
        let answer = asker.eval(question(9).answer_from(AnswerFrom::HeldOnly)).await;
        answer.is_ok_and(|answer| answer.origin == Origin::Peer(name))
    })
    .await;
    asker.shutdown();
    holder.shutdown();
}

#[tokio::test]
async fn a_large_reply_comes_whole_over_two_connections() {
    let folder = tempfile::tempdir().expect("a folder");
    let holder = start(&folder.path().join("holder"), "127.0.0.1:0", Vec::new());
    let len = (24 << 20) + 12_345;
    let first = holder.eval(question(len)).await.expect("it computes");
    let asker = start(&folder.path().join("asker"), "127.0.0.1:0", vec![at(&holder)]);
    until("the holder to be known", async || asker.status().index_facts > 0).await;
    let second = asker.eval(question(len).answer_from(AnswerFrom::HeldOnly)).await.expect("it is held");
    assert_eq!(second.origin, Origin::Peer(holder.id()));
    assert_eq!(second.reply.answer(), first.reply.answer());
    assert_eq!(asker.status().traffic.dropped, 0);
    asker.shutdown();
    holder.shutdown();
}
