//! Two nodes of one fleet in one process, joined over loopback TCP: what A computed, B fetches, checks and keeps.
//!
//! ```sh
//! cargo run --example two_nodes
//! ```

use std::time::Duration;

use evalmesh::eval::{Eval, Origin};
use evalmesh::net::{Carrier, FleetSecret, PeerAddr};
use evalmesh::node::{Network, Node, random};
use evalmesh::request::{Program, Request};

type Failure = Box<dyn std::error::Error>;

const QUEENS: &[u8] = include_bytes!("guests/queens.wasm");

fn node(secret: [u8; 32], peers: Vec<PeerAddr>) -> Result<Node, Failure> {
    let secret = FleetSecret::from_bytes(secret);
    let network =
        Network { secret, listen: vec!["127.0.0.1:0".parse()?], peers, mdns: false, carrier: Carrier::default() };
    // Patience: wait for the holder instead of computing beside it after one round trip, so that the output is the same every time.
    Ok(Node::builder().network(network).patience(Duration::from_secs(5)).start()?)
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), Failure> {
    for _ in 0..1000 {
        if holds() {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err(format!("waited 10 s for {what}").into())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    let secret = random()?;
    let a = node(secret, Vec::new())?;
    let at_a = PeerAddr { addr: a.status().addresses[0], node: Some(a.id()) };
    let b = node(secret, vec![at_a])?;
    until("the two to meet", || !a.status().peers.is_empty() && !b.status().peers.is_empty()).await?;

    let question = Request::new(Program::wasm(QUEENS).entry("queens")).arg("10");
    let first = a.eval(question.clone()).await?;
    println!("A: {}", first.origin);
    until("B to hear who holds it", || b.status().index_facts > 0).await?;
    let second = b.eval(question.clone()).await?;
    println!("B: {}", second.origin);
    println!("B: {}", b.eval(question).await?.origin);

    assert_eq!((first.origin, second.origin), (Origin::Computed, Origin::Peer(a.id())));
    assert_eq!(first.reply.answer(), second.reply.answer());
    b.shutdown();
    a.shutdown();
    Ok(())
}
