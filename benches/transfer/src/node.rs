//! A node that holds replies, and one that fetches them.

use std::time::{Duration, Instant};

use evalmesh::eval::{Eval, Origin};
use evalmesh::evaluator::host::HostEvaluator;
use evalmesh::evaluator::pool::Pool;
use evalmesh::net::{Carrier, FleetSecret, PeerAddr};
use evalmesh::node::{Network, Node};
use evalmesh::reply::Reply;
use evalmesh::request::{AnswerFrom, Class, Program, Request};

use super::{Failure, Fetch, LARGE};

const SMALL: usize = 256;
/// Small questions that a server holds: more than are asked while something large is fetched.
const SMALL_HELD: usize = 20_000;
const ALONE: usize = 2_000;

/// A question whose answer is so many bytes.
fn question(number: usize, len: usize) -> Result<Request, Failure> {
    let program = Program::host("bytes", 1)?;
    Ok(Request::new(program).class(Class::Portable).arg(number.to_string()).arg(len.to_string()))
}

/// Bytes that compress and repeat as little as real ones.
fn bytes(number: usize, len: usize) -> Vec<u8> {
    let mut state = number as u64 + 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
        out.extend_from_slice(&(state ^ (state >> 29)).to_le_bytes());
    }
    out.truncate(len);
    out
}

fn start(peers: Vec<PeerAddr>, listen: Option<&str>) -> Result<Node, Failure> {
    let compute = listen.is_some();
    let listen = listen.into_iter().map(str::parse).collect::<Result<_, _>>()?;
    let network = Network { secret: FleetSecret::from_bytes([3; 32]), listen, peers, mdns: false, carrier: Carrier::default() };
    let mut builder = Node::builder().network(network).patience(Duration::from_secs(5));
    if compute {
        let make = |job: &evalmesh::evaluator::Job| {
            let number = |at: usize| job.request.args.get(at).and_then(|arg| arg.parse().ok()).unwrap_or(0);
            Ok(Reply::ok(bytes(number(0), number(1))))
        };
        let host = HostEvaluator::new(Pool::start("host", 1)?).function("bytes".parse()?, 1, Class::Portable, make);
        builder = builder.evaluator(host);
    }
    Ok(builder.start()?)
}

async fn until(what: &str, holds: impl Fn() -> bool) -> Result<(), Failure> {
    let begin = Instant::now();
    while !holds() {
        if begin.elapsed() > Duration::from_secs(60) {
            return Err(format!("waited too long for {what}").into());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// `large|both SEED ADDRESS`: holds the large reply, and the small ones if both are wanted; says where it listens.
pub(crate) async fn serve(args: &[&str]) -> Result<(), Failure> {
    let node = start(Vec::new(), Some(args.get(2).unwrap_or(&"127.0.0.1:0")))?;
    node.eval(question(0, LARGE)?).await?;
    if args.first() == Some(&"both") {
        for number in 0..SMALL_HELD {
            node.eval(question(number, SMALL)?).await?;
        }
    }
    println!("{}@{}", node.id(), node.status().addresses[0]);
    std::future::pending().await
}

/// `fetch PID ADDRESS...`: the large reply, once. `small PID ADDRESS`: small ones, alone and beside the large one.
pub(crate) async fn client(args: &[&str]) -> Result<(), Failure> {
    let [what, pid, addresses @ ..] = args else { return Err("what, whom?".into()) };
    let peers = addresses.iter().map(|address| address.parse()).collect::<Result<Vec<PeerAddr>, _>>()?;
    let (count, facts) = (peers.len(), if *what == "small" { SMALL_HELD + 1 } else { peers.len() });
    let node = start(peers, None)?;
    until("the nodes to meet", || node.status().peers.len() == count).await?;
    until("the holders to be known", || node.status().index_facts >= facts as u64).await?;
    // One heartbeat measures the round trips.
    until("a round trip", || node.status().peers.iter().all(|peer| peer.round_trip.is_some())).await?;
    if *what == "small" { small(&node).await } else { Fetch::print(pid.parse()?, large(&node)).await }
}

async fn large(node: &Node) -> Result<(), Failure> {
    let answer = node.eval(question(0, LARGE)?.answer_from(AnswerFrom::HeldOnly)).await?;
    let came = matches!(answer.origin, Origin::Peer(_)) && answer.reply.stdout.as_ref().is_some_and(|out| out.len() == LARGE as u64);
    if came { Ok(()) } else { Err(format!("it came from {:?}", answer.origin).into()) }
}

async fn one_small(node: &Node, number: usize) -> Result<f64, Failure> {
    let request = question(number, SMALL)?.answer_from(AnswerFrom::HeldOnly);
    let begin = Instant::now();
    let answer = node.eval(request).await?;
    let took = begin.elapsed();
    if matches!(answer.origin, Origin::Peer(_)) { Ok(took.as_secs_f64() * 1e6) } else { Err("it was here".into()) }
}

fn quantile(times: &mut [f64], per_cent: usize) -> f64 {
    times.sort_by(f64::total_cmp);
    times.get(times.len() * per_cent / 100).copied().unwrap_or(f64::NAN)
}

async fn small(node: &Node) -> Result<(), Failure> {
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for number in 0..ALONE {
        alone.push(one_small(node, number).await?);
    }
    let mut fetch = Box::pin(large(node));
    let mut number = ALONE;
    loop {
        tokio::select! {
            done = &mut fetch => {
                done?;
                break;
            }
            took = one_small(node, number) => beside.push(took?),
        }
        number += 1;
    }
    let (a, b) = (&mut alone[..], &mut beside[..]);
    println!("{} {} {} {} {}", quantile(a, 50), quantile(a, 99), quantile(b, 50), quantile(b, 99), b.len());
    Ok(())
}
