//! A lane as a node uses it: frames are handled by a task on the network's own thread.

use std::time::Duration;

use bytes::Bytes;
use evalmesh::id::NodeId;
use evalmesh::identity::Identity;
use evalmesh::net::{Carrier, FleetSecret, Net, NetConfig, NetEvent};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Client, Failure, SIZE, Server, Window};

fn start(seed: u8, peers: Vec<String>) -> Result<(Net, mpsc::Receiver<NetEvent>), Failure> {
    let (sender, events) = mpsc::channel(4096);
    let listen = if peers.is_empty() { vec!["127.0.0.1:0".parse()?] } else { Vec::new() };
    let peers = peers.iter().map(|peer| peer.parse()).collect::<Result<_, _>>()?;
    let (identity, secret) = (Identity::from_seed([seed; 32]), FleetSecret::from_bytes([3; 32]));
    let net = Net::start(NetConfig { identity, secret, listen, peers, mdns: false, carrier: Carrier::default() }, sender)?;
    Ok((net, events))
}

pub(super) async fn serve() -> Result<(), Failure> {
    serve_with(|bytes| bytes).await
}

/// Answers every frame.
pub(super) async fn serve_with(answer: impl Fn(Bytes) -> Bytes + Send + 'static) -> Result<(), Failure> {
    let (net, mut events) = start(1, Vec::new())?;
    println!("{}", net.local_addrs()[0]);
    let runtime = net.runtime();
    let serve = async move {
        while let Some(event) = events.recv().await {
            if let NetEvent::Frame { from, bytes } = event {
                net.send(from, answer(bytes))?;
            }
        }
        Ok(())
    };
    runtime.spawn(serve).await?
}

/// What goes over a lane.
#[derive(Clone, Copy)]
pub(super) struct Exchange {
    /// Bytes of a request and of its answer.
    pub(super) request: usize,
    pub(super) answer: usize,
    /// What is done with each answer.
    pub(super) each: fn(&[u8]),
}

pub(super) struct Lane {
    /// Empty while requests are under way.
    link: Option<Link>,
    runtime: Handle,
    server: Server,
    exchange: Exchange,
}

struct Link {
    net: Net,
    events: mpsc::Receiver<NetEvent>,
    peer: NodeId,
}

pub(super) async fn client() -> Result<Lane, Failure> {
    Lane::to("lane-server", Exchange { request: SIZE, answer: SIZE, each: |_| {} }).await
}

impl Lane {
    /// A lane to a server of this role.
    pub(super) async fn to(role: &str, exchange: Exchange) -> Result<Self, Failure> {
        let (server, address) = Server::start(role).await?;
        let (net, mut events) = start(2, vec![address])?;
        loop {
            match events.recv().await.ok_or("the network ended")? {
                NetEvent::Up { peer, .. } => {
                    let runtime = net.runtime();
                    return Ok(Self { link: Some(Link { net, events, peer }), runtime, server, exchange });
                }
                NetEvent::Refused { reason, .. } => return Err(reason.to_string().into()),
                _ => {}
            }
        }
    }
}

impl Link {
    async fn requests(&mut self, count: usize, in_flight: usize, what: Exchange) -> Result<Vec<Duration>, Failure> {
        let request = Bytes::from(vec![7; what.request]);
        let mut window = Window::new(count);
        let mut events = Vec::with_capacity(in_flight);
        while !window.done() {
            while window.send(in_flight) {
                self.net.send(self.peer, request.clone())?;
            }
            self.events.recv_many(&mut events, in_flight).await;
            for event in events.drain(..) {
                match event {
                    NetEvent::Frame { bytes, .. } if bytes.len() == what.answer => {
                        (what.each)(&bytes);
                        window.received(in_flight);
                    }
                    other => return Err(format!("{other:?}").into()),
                }
            }
        }
        Ok(window.times)
    }
}

impl Client for Lane {
    async fn requests(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>, Failure> {
        let mut link = self.link.take().ok_or("the requests before these failed")?;
        let exchange = self.exchange;
        let run = async move { (link.requests(count, in_flight, exchange).await, link) };
        let (times, link) = self.runtime.spawn(run).await?;
        self.link = Some(link);
        times
    }

    fn server(&self) -> u32 {
        self.server.pid()
    }
}
