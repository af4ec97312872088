//! Real sockets on the loopback address, several networks in one process.

mod bulk;
#[cfg(feature = "quic")]
mod quic;

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::Transport;
use libp2p::core::Endpoint;
use libp2p::core::muxing::StreamMuxerExt;
use libp2p::core::transport::{DialOpts, ListenerId, PortUse, TransportEvent};
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc::{Receiver, channel};
use tokio::time::{Instant, timeout};

use super::limits::{MAX_FRAME, MAX_QUEUED_BYTES, MAX_QUEUED_FRAMES, Timings};
use super::{
    Carrier, DownReason, FleetSecret, FrameError, Net, NetConfig, NetError, NetEvent, PeerAddr, Refusal, SendError,
};
use crate::id::NodeId;
use crate::identity::{Identity, Signer};

const SECRET: FleetSecret = FleetSecret::from_bytes([7; 32]);

/// Long enough for a busy machine, and only ever waited out by a failure.
const PATIENCE: Duration = Duration::from_secs(10);

const QUICK: Timings = Timings {
    handshake: PATIENCE,
    open_lane: PATIENCE,
    silent: Duration::from_mins(1),
    stalled: Duration::from_millis(600),
    close: Duration::from_millis(300),
    redial_first: Duration::from_millis(50),
    redial_most: Duration::from_millis(200),
    stable: Duration::from_secs(10),
    other_side: Duration::from_millis(300),
    bulk_idle: Duration::from_millis(500),
    bulk_retry: Duration::from_millis(300),
};

struct Node {
    id: NodeId,
    addr: SocketAddr,
    net: Net,
    events: Receiver<NetEvent>,
}

fn local() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn config(seed: u8, listen: SocketAddr, peers: &[SocketAddr]) -> NetConfig {
    let peers = peers.iter().map(|addr| PeerAddr { addr: *addr, node: None }).collect();
    let identity = Identity::from_seed([seed; 32]);
    NetConfig { identity, secret: SECRET, listen: vec![listen], peers, mdns: false, carrier: Carrier::Tcp }
}

impl Node {
    fn with(config: NetConfig, timings: Timings, capacity: usize) -> Self {
        let id = config.identity.node();
        let (sender, events) = channel(capacity);
        let net = Net::start_with(config, timings, sender).unwrap();
        Self { id, addr: net.local_addrs()[0], net, events }
    }

    fn start(seed: u8, listen: SocketAddr, peers: &[SocketAddr]) -> Self {
        Self::with(config(seed, listen, peers), QUICK, 1024)
    }

    /// The next event of interest.
    async fn next(&mut self) -> NetEvent {
        loop {
            match timeout(PATIENCE, self.events.recv()).await.expect("no event").expect("the network ended") {
                NetEvent::Listening { .. } => {}
                event => return event,
            }
        }
    }

    /// Waits for a lane to that peer; nothing but failed dials may come before it.
    async fn up(&mut self, expected: NodeId) {
        loop {
            match self.next().await {
                NetEvent::Refused { .. } => {}
                NetEvent::Up { peer, .. } if peer == expected => return,
                other => panic!("{other:?}"),
            }
        }
    }

    async fn frame(&mut self, expected: NodeId) -> Bytes {
        match self.next().await {
            NetEvent::Frame { from, bytes } if from == expected => bytes,
            other => panic!("{other:?}"),
        }
    }

    async fn down(&mut self, expected: NodeId) -> DownReason {
        match self.next().await {
            NetEvent::Down { peer, reason } if peer == expected => reason,
            other => panic!("{other:?}"),
        }
    }

    async fn refused(&mut self) -> Refusal {
        match self.next().await {
            NetEvent::Refused { reason, .. } => reason,
            other => panic!("{other:?}"),
        }
    }

    /// Nothing happens for a while.
    async fn quiet(&mut self, wait: Duration) {
        let event = timeout(wait, self.next()).await;
        assert!(event.is_err(), "{event:?}");
    }
}

/// Two nodes with a lane.
async fn pair() -> (Node, Node) {
    let mut a = Node::start(1, local(), &[]);
    let mut b = Node::start(2, local(), &[a.addr]);
    a.up(b.id).await;
    b.up(a.id).await;
    (a, b)
}

fn bytes(len: usize, fill: u8) -> Bytes {
    vec![fill; len].into()
}

#[test]
fn a_network_is_shared_between_threads() {
    fn check<T: Send + Sync>() {}
    check::<Net>();
}

#[tokio::test]
async fn frames_of_every_size_arrive_in_order_both_ways() {
    let (mut a, mut b) = pair().await;
    for len in [1, 256, 16 << 10, 1 << 20, MAX_FRAME] {
        a.net.send(b.id, bytes(len, 3)).unwrap();
        b.net.send(a.id, bytes(len, 4)).unwrap();
        assert!(b.frame(a.id).await == bytes(len, 3), "{len}");
        assert!(a.frame(b.id).await == bytes(len, 4), "{len}");
    }
    for number in 0..2000_u32 {
        a.net.send(b.id, Bytes::copy_from_slice(&number.to_le_bytes())).unwrap();
    }
    for number in 0..2000_u32 {
        assert_eq!(*b.frame(a.id).await, number.to_le_bytes());
    }
    assert_eq!(a.net.send(b.id, Bytes::new()), Err(SendError::Empty));
    assert_eq!(a.net.send(b.id, bytes(MAX_FRAME + 1, 0)), Err(SendError::TooLarge { len: MAX_FRAME + 1 }));
    assert_eq!(a.net.send(a.id, bytes(1, 0)), Err(SendError::NotConnected));
}

#[tokio::test]
async fn peers_that_list_each_other_end_with_one_lane() {
    // Ports must be known before either starts; nobody else takes a port this soon after it was free.
    for round in 0..5 {
        let ports: Vec<SocketAddr> = (0..2).map(|_| free_port()).collect();
        let mut a = Node::start(10 + round, ports[0], &[ports[1]]);
        let mut b = Node::start(60 + round, ports[1], &[ports[0]]);
        a.up(b.id).await;
        b.up(a.id).await;
        a.quiet(Duration::from_millis(150)).await;
        b.quiet(Duration::from_millis(150)).await;
        a.net.send(b.id, bytes(9, 1)).unwrap();
        b.net.send(a.id, bytes(9, 2)).unwrap();
        assert_eq!(b.frame(a.id).await, bytes(9, 1));
        assert_eq!(a.frame(b.id).await, bytes(9, 2));
    }
}

fn free_port() -> SocketAddr {
    std::net::TcpListener::bind(local()).unwrap().local_addr().unwrap()
}

#[tokio::test]
async fn another_secret_is_refused_and_harms_nobody() {
    let mut a = Node::start(1, local(), &[]);
    let stranger = NetConfig { secret: FleetSecret::from_bytes([8; 32]), ..config(2, local(), &[a.addr]) };
    let mut stranger = Node::with(stranger, QUICK, 64);
    assert_eq!(stranger.refused().await, Refusal::OtherSecret);
    assert_eq!(stranger.refused().await, Refusal::OtherSecret);
    let mut b = Node::start(3, local(), &[a.addr]);
    a.up(b.id).await;
    b.up(a.id).await;
    a.net.send(b.id, bytes(5, 5)).unwrap();
    assert_eq!(b.frame(a.id).await, bytes(5, 5));
}

#[tokio::test]
async fn an_address_in_use_is_told() {
    let a = Node::start(1, local(), &[]);
    let (sender, _events) = channel(1);
    let error = Net::start(config(2, a.addr, &[]), sender.clone()).unwrap_err();
    assert!(matches!(error, NetError::AddressInUse { addr } if addr == a.addr), "{error:?}");
    let elsewhere = "192.0.2.1:7".parse().unwrap();
    let error = Net::start(config(2, elsewhere, &[]), sender).unwrap_err();
    assert!(matches!(error, NetError::Bind { addr, .. } if addr == elsewhere), "{error:?}");
}

#[tokio::test]
async fn a_pinned_address_takes_no_other_node() {
    let mut a = Node::start(1, local(), &[]);
    let expected = Identity::from_seed([99; 32]).node();
    let mut wrong = config(2, local(), &[]);
    wrong.peers.push(PeerAddr { addr: a.addr, node: Some(expected) });
    let mut b = Node::with(wrong, QUICK, 64);
    assert_eq!(b.refused().await, Refusal::OtherNode { expected, found: a.id });
    let mut right = config(3, local(), &[]);
    right.peers.push(PeerAddr { addr: a.addr, node: Some(a.id) });
    let mut c = Node::with(right, QUICK, 64);
    c.up(a.id).await;
    a.up(c.id).await;
}

#[tokio::test]
async fn what_is_no_evalmesh_node_is_told_apart() {
    // Nobody there.
    let mut node = Node::start(1, local(), &[free_port()]);
    assert!(matches!(node.refused().await, Refusal::Unreachable(_)));
    // Somebody who says nothing.
    let silent = TcpListener::bind(local()).await.unwrap();
    let hasty = Timings { handshake: Duration::from_millis(300), ..QUICK };
    let mut node = Node::with(config(2, local(), &[silent.local_addr().unwrap()]), hasty, 64);
    assert_eq!(node.refused().await, Refusal::TimedOut);
    // Somebody who speaks of something else.
    let other = TcpListener::bind(local()).await.unwrap();
    let mut node = Node::start(3, local(), &[other.local_addr().unwrap()]);
    let (mut stream, _) = other.accept().await.unwrap();
    stream
        .write_all(b"220 mail.example ESMTP ready; in this protocol the server is the one who speaks first\r\n")
        .await
        .unwrap();
    assert_eq!(node.refused().await, Refusal::NotEvalmesh);
    // Somebody who hangs up, every time.
    let rude = TcpListener::bind(local()).await.unwrap();
    let mut node = Node::start(4, local(), &[rude.local_addr().unwrap()]);
    for _ in 0..2 {
        drop(rude.accept().await.unwrap());
    }
    assert_eq!(node.refused().await, Refusal::HungUp);
    // The node itself, which is tried once.
    let mut itself = config(5, local(), &[]);
    itself.listen = vec![free_port()];
    itself.peers.push(PeerAddr { addr: itself.listen[0], node: None });
    let mut node = Node::with(itself, QUICK, 64);
    assert_eq!(node.refused().await, Refusal::Itself);
    node.quiet(Duration::from_millis(300)).await;
}

#[tokio::test]
async fn garbage_does_not_disturb_a_listener() {
    let mut a = Node::start(1, local(), &[]);
    let mut streams = Vec::new();
    for garbage in
        [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"\x13/multistream/1.0.0\n\x07/noise\n\xff\xffgarbage"]
    {
        let mut stream = TcpStream::connect(a.addr).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        streams.push(stream);
    }
    let mut b = Node::start(2, local(), &[a.addr]);
    b.up(a.id).await;
    a.up(b.id).await;
}

/// A peer with the right secret that opens a lane by hand and then sends these bytes.
async fn send_by_hand(seed: u8, to: SocketAddr, raw: &[u8]) {
    assert_eq!(talk_by_hand(seed, to, b"EVMH\x01\x00\x01\x00", raw).await, *b"EVMH\x01\x00\x01\x00");
}

/// The same with this greeting; returns the other side's.
async fn talk_by_hand(seed: u8, to: SocketAddr, greeting: &[u8], raw: &[u8]) -> [u8; 8] {
    let key = super::transport::keypair(&Identity::from_seed([seed; 32])).unwrap();
    let mut stack = super::transport::build(&key, &SECRET, Carrier::Tcp, &QUICK).unwrap();
    let opts = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let (_, mut muxer) = stack.dial(super::addr::multiaddr(to, Carrier::Tcp), opts).unwrap().await.unwrap();
    let mut stream = std::future::poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await.unwrap();
    let run = std::future::poll_fn(|cx| muxer.poll_unpin(cx).map(drop));
    let mut heard = [0; 8];
    let talk = async {
        stream.write_all(b"\x13/multistream/1.0.0\n\x0f/evalmesh/lane\n").await.unwrap();
        stream.write_all(greeting).await.unwrap();
        let mut answer = [0; 20 + 16 + 8];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer[20..36], b"\x0f/evalmesh/lane\n");
        heard.copy_from_slice(&answer[36..]);
        stream.write_all(raw).await.unwrap();
        // Until the other side closes.
        drop(stream.read(&mut [0]).await);
    };
    tokio::select! { () = run => {}, () = talk => {} }
    heard
}

#[tokio::test]
async fn a_peer_of_another_version_is_told_ours_and_gets_no_lane() {
    let mut a = Node::start(1, local(), &[]);
    let theirs = talk_by_hand(2, a.addr, b"EVMH\x02\x00\x07\x00", &[]).await;
    assert_eq!(theirs, *b"EVMH\x01\x00\x01\x00");
    let mut b = Node::start(3, local(), &[a.addr]);
    a.up(b.id).await;
    b.up(a.id).await;
}

/// A node with the right secret that hangs up on everybody once they are authenticated, as a full one does; or greets them like this.
async fn listen_by_hand(address: tokio::sync::oneshot::Sender<SocketAddr>, greeting: Option<&[u8; 8]>) {
    let key = super::transport::keypair(&Identity::from_seed([1; 32])).unwrap();
    let mut stack = super::transport::build(&key, &SECRET, Carrier::Tcp, &QUICK).unwrap();
    stack.listen_on(ListenerId::next(), super::addr::multiaddr(local(), Carrier::Tcp)).unwrap();
    let mut address = Some(address);
    loop {
        match stack.next().await.unwrap() {
            TransportEvent::NewAddress { listen_addr, .. } => {
                let (addr, _) = super::addr::socket_addr(&listen_addr).unwrap();
                address.take().unwrap().send(addr).unwrap();
            }
            TransportEvent::Incoming { upgrade, .. } => {
                let (_, mut muxer) = upgrade.await.unwrap();
                let Some(greeting) = greeting else { continue };
                let mut stream = std::future::poll_fn(|cx| muxer.poll_inbound_unpin(cx)).await.unwrap();
                let run = std::future::poll_fn(|cx| muxer.poll_unpin(cx).map(drop));
                let talk = async {
                    stream.read_exact(&mut [0; 20 + 16]).await.unwrap();
                    stream.write_all(b"\x13/multistream/1.0.0\n\x0f/evalmesh/lane\n").await.unwrap();
                    stream.read_exact(&mut [0; 8]).await.unwrap();
                    stream.write_all(greeting).await.unwrap();
                    drop(stream.read(&mut [0]).await);
                };
                tokio::select! { () = run => {}, () = talk => {} }
            }
            _ => {}
        }
    }
}

#[tokio::test]
async fn another_version_is_refused_with_both_named() {
    let (send, addr) = tokio::sync::oneshot::channel();
    let talk = async {
        let mut node = Node::start(2, local(), &[addr.await.unwrap()]);
        let refused = node.refused().await;
        assert_eq!(refused.to_string(), "this node speaks version 1 of the lane, the other one 3 to 4");
        assert_eq!(refused.hint(), Some("upgrade evalmesh on this node"));
    };
    tokio::select! { () = listen_by_hand(send, Some(b"EVMH\x03\x00\x04\x00")) => {}, () = talk => {} }
}

#[tokio::test]
async fn a_listener_that_does_not_greet_is_no_evalmesh_node() {
    let (send, addr) = tokio::sync::oneshot::channel();
    let talk = async {
        let mut node = Node::start(2, local(), &[addr.await.unwrap()]);
        assert_eq!(node.refused().await, Refusal::NotEvalmesh);
    };
    tokio::select! { () = listen_by_hand(send, Some(b"HTTP/1.1")) => {}, () = talk => {} }
}

#[tokio::test]
async fn a_peer_that_takes_no_lane_is_dialed_again() {
    let (send, addr) = tokio::sync::oneshot::channel();
    let talk = async {
        let mut node = Node::start(2, local(), &[addr.await.unwrap()]);
        for _ in 0..3 {
            assert_eq!(node.refused().await, Refusal::HungUp);
        }
    };
    tokio::select! { () = listen_by_hand(send, None) => {}, () = talk => {} }
}

#[tokio::test]
async fn a_peer_that_breaks_the_framing_is_cut_off() {
    let mut a = Node::start(1, local(), &[]);
    let other = Identity::from_seed([2; 32]).node();
    let cases: [(&[u8], FrameError); 2] =
        [(&[0xff; 4], FrameError::TooLarge { len: u32::MAX as usize }), (&[0; 4], FrameError::Empty)];
    for (raw, error) in cases {
        let whole = [&[2, 0, 0, 0, 8, 9], raw].concat();
        tokio::join!(send_by_hand(2, a.addr, &whole), async {
            a.up(other).await;
            assert_eq!(*a.frame(other).await, [8, 9]);
            assert_eq!(a.down(other).await, DownReason::BadFrame(error));
        });
    }
}

#[tokio::test]
async fn a_peer_that_stops_reading_is_bounded_and_then_cut_off() {
    let mut a = Node::start(1, local(), &[]);
    let mut b = Node::with(config(2, local(), &[a.addr]), QUICK, 1);
    let mut c = Node::start(3, local(), &[a.addr]);
    let mut waiting: BTreeSet<NodeId> = [b.id, c.id].into();
    while !waiting.is_empty() {
        let NetEvent::Up { peer, .. } = a.next().await else { panic!() };
        waiting.remove(&peer);
    }
    b.up(a.id).await;
    c.up(a.id).await;
    let frame = bytes(256 << 10, 1);
    let mut queued = 0;
    while a.net.send(b.id, frame.clone()).is_ok() {
        queued += frame.len();
        assert!(queued < 10 * MAX_QUEUED_BYTES, "no bound");
        tokio::task::yield_now().await;
    }
    assert!(queued >= MAX_QUEUED_BYTES);
    assert_eq!(a.net.send(b.id, frame.clone()), Err(SendError::QueueFull));
    // The others do not notice.
    a.net.send(c.id, frame.clone()).unwrap();
    assert_eq!(c.frame(a.id).await, frame);
    assert_eq!(a.down(b.id).await, DownReason::Stalled);
    assert_eq!(a.net.send(b.id, frame), Err(SendError::NotConnected));
    // What b has was sent in full, and then it hears of the end too.
    while let NetEvent::Frame { bytes, .. } = b.next().await {
        assert_eq!(bytes.len(), 256 << 10);
    }
    b.up(a.id).await;
    a.up(b.id).await;
}

#[tokio::test]
async fn small_frames_are_bounded_in_number() {
    let patient = Timings { stalled: Duration::from_mins(1), ..QUICK };
    let mut a = Node::with(config(1, local(), &[]), patient, 64);
    let mut b = Node::with(config(2, local(), &[a.addr]), QUICK, 1);
    a.up(b.id).await;
    b.up(a.id).await;
    let mut sent = 0;
    while a.net.send(b.id, bytes(256, 1)).is_ok() {
        sent += 1;
        assert!(sent < 100 * MAX_QUEUED_FRAMES, "no bound");
    }
    // A slow reader gets every one of them.
    for _ in 0..sent {
        assert_eq!(b.frame(a.id).await.len(), 256);
    }
}

#[tokio::test]
async fn a_silent_peer_is_cut_off() {
    let timings = Timings { silent: Duration::from_millis(300), ..QUICK };
    let mut a = Node::with(config(1, local(), &[]), timings, 64);
    let mut b = Node::start(2, local(), &[a.addr]);
    b.up(a.id).await;
    a.up(b.id).await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        b.net.send(a.id, bytes(1, 1)).unwrap();
        a.frame(b.id).await;
    }
    assert_eq!(a.down(b.id).await, DownReason::Silent);
    assert_eq!(b.down(a.id).await, DownReason::Closed);
    b.up(a.id).await;
}

#[tokio::test]
async fn a_peer_that_restarts_is_found_again() {
    let a = Node::start(1, local(), &[]);
    let mut b = Node::start(2, local(), &[a.addr]);
    b.up(a.id).await;
    let (id, addr) = (a.id, a.addr);
    a.net.shutdown();
    assert_eq!(b.down(id).await, DownReason::Closed);
    assert!(matches!(b.refused().await, Refusal::Unreachable(_)));
    assert_eq!(b.net.send(id, bytes(1, 1)), Err(SendError::NotConnected));
    let mut a = Node::start(1, addr, &[]);
    b.up(id).await;
    a.up(b.id).await;
    a.net.send(b.id, bytes(3, 3)).unwrap();
    assert_eq!(b.frame(id).await, bytes(3, 3));
}

#[tokio::test]
async fn a_farewell_arrives_before_the_end() {
    let (a, mut b) = pair().await;
    for number in 0..10 {
        a.net.send(b.id, bytes(1000, number)).unwrap();
    }
    let id = a.id;
    let mut events = a.events;
    a.net.shutdown();
    for number in 0..10 {
        assert_eq!(b.frame(id).await, bytes(1000, number));
    }
    assert_eq!(b.down(id).await, DownReason::Closed);
    let last = std::iter::from_fn(|| events.try_recv().ok()).last();
    assert_eq!(last, Some(NetEvent::Down { peer: b.id, reason: DownReason::Shutdown }));
}

#[tokio::test]
async fn hanging_up_gives_the_reason_here_and_an_end_there() {
    let (mut a, mut b) = pair().await;
    a.net.disconnect(b.id, "it misbehaved");
    assert_eq!(a.down(b.id).await, DownReason::Disconnected("it misbehaved".to_owned()));
    assert_eq!(b.down(a.id).await, DownReason::Closed);
    a.up(b.id).await;
    b.up(a.id).await;
}

#[tokio::test]
async fn shutdown_is_prompt_even_when_nobody_reads() {
    let mut a = Node::start(1, local(), &[]);
    let mut b = Node::with(config(2, local(), &[a.addr]), QUICK, 1);
    a.up(b.id).await;
    b.up(a.id).await;
    while a.net.send(b.id, bytes(256 << 10, 1)).is_ok() {}
    for net in [a.net, b.net] {
        let begin = Instant::now();
        net.shutdown();
        assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    }
}

#[tokio::test]
async fn a_consumer_that_goes_away_ends_the_network() {
    let (a, mut b) = pair().await;
    drop(a.events);
    assert_eq!(b.down(a.id).await, DownReason::Closed);
    assert_eq!(a.net.send(b.id, bytes(1, 1)), Err(SendError::NotConnected));
}

#[tokio::test]
async fn ten_nodes_form_a_full_mesh() {
    let ports: Vec<SocketAddr> = (0..10).map(|_| free_port()).collect();
    let mut nodes: Vec<Node> = ports
        .iter()
        .zip(0..)
        .map(|(port, seed)| {
            let others: Vec<SocketAddr> = ports.iter().copied().filter(|other| other != port).collect();
            Node::start(seed, *port, &others)
        })
        .collect();
    let everybody: BTreeSet<NodeId> = nodes.iter().map(|node| node.id).collect();
    for node in &mut nodes {
        let mut missing = everybody.clone();
        missing.remove(&node.id);
        while !missing.is_empty() {
            match node.next().await {
                NetEvent::Up { peer, .. } => assert!(missing.remove(&peer), "twice"),
                NetEvent::Refused { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
    for node in &nodes {
        for other in everybody.iter().filter(|other| **other != node.id) {
            node.net.send(*other, Bytes::copy_from_slice(node.id.as_bytes())).unwrap();
        }
    }
    for node in &mut nodes {
        let mut missing = everybody.clone();
        missing.remove(&node.id);
        while !missing.is_empty() {
            match node.next().await {
                NetEvent::Frame { from, bytes } => assert!(missing.remove(&from) && *bytes == *from.as_bytes()),
                other => panic!("{other:?}"),
            }
        }
    }
    for node in &mut nodes {
        node.quiet(Duration::from_millis(20)).await;
    }
}
