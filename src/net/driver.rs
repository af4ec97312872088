//! The network thread: one loop over the swarm, the dialing book's timer and the outbox.
//!
//! `select!` gives an [`Action`], which is carried out without waiting. Invariant: nothing here awaits a peer or the consumer of events, so
//! one that is slow holds up nobody else.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::Bytes;
use futures::StreamExt;
use libp2p::core::transport::ListenerId;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError, ListenError, Swarm, SwarmEvent};
use libp2p::{TransportError, connection_limits, mdns};
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Receiver, Sender};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::addr::{Carrier, multiaddr, node_id, peer_id, socket_addr};
use super::arbiter::Verdict;
use super::behaviour::{Behaviour, Heard, OtherKey, Superfluous};
use super::book::{Book, Dial, TargetId};
use super::bulk::Seconds;
use super::error::{DownReason, NetError, Refusal, SendError};
use super::lane::Lane;
use super::limits::{BULK_FROM, COMPLAINT_EVERY, LISTEN_WAIT, MAX_STREAMS, Timings};
use super::outbox::Outbox;
use super::transport::{self, HandshakeError, handshake_error};
use super::{NetConfig, NetEvent};
use crate::id::NodeId;
use crate::identity::Signer;

/// The way to a peer.
#[derive(Debug)]
struct Route {
    lane: Arc<Lane>,
    /// The second connection, while there is one.
    bulk: Option<Arc<Lane>>,
    /// Whether this node dialed, so that the second connection is its affair.
    outbound: bool,
    /// Large bytes that were sent or are expected while there was no second connection.
    heavy: AtomicUsize,
}

/// The lanes that are up, for senders on any thread.
#[derive(Debug, Default)]
pub(super) struct Routes(RwLock<BTreeMap<NodeId, Route>>);

impl Routes {
    pub(super) fn send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        self.with(to, |route| route.lane.push(frame)).unwrap_or(Err(SendError::NotConnected))
    }

    /// Sends over the second connection if there is one, else over the lane.
    pub(super) fn send_bulk(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        let push = |route: &Route| match &route.bulk {
            Some(bulk) if !bulk.is_closed() => bulk.push(frame),
            _ => route.lane.push(frame),
        };
        self.with(to, push).unwrap_or(Err(SendError::NotConnected))
    }

    /// So many large bytes are on their way to or from a peer. Whether it is time to dial it a second time; one that is there is kept.
    pub(super) fn expect_bulk(&self, peer: NodeId, bytes: usize) -> bool {
        let expect = |route: &Route| {
            if let Some(bulk) = &route.bulk {
                bulk.keep();
                return false;
            }
            let heavy = route.heavy.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes);
            route.outbound && heavy >= BULK_FROM
        };
        self.with(peer, expect).unwrap_or(false)
    }

    #[cfg(test)]
    pub(super) fn has_bulk(&self, peer: NodeId) -> bool {
        self.with(peer, |route| route.bulk.is_some()).unwrap_or(false)
    }

    pub(super) fn hang_up(&self, peer: NodeId, reason: DownReason) {
        self.with(peer, |route| route.lane.hang_up(reason));
    }

    fn with<T>(&self, peer: NodeId, what: impl FnOnce(&Route) -> T) -> Option<T> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&peer).map(what)
    }

    fn change<T>(&self, change: impl FnOnce(&mut BTreeMap<NodeId, Route>) -> T) -> T {
        change(&mut self.0.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn bulk_up(&self, bulk: &Arc<Lane>) {
        self.change(|routes| {
            if let Some(route) = routes.get_mut(&bulk.peer()) {
                route.bulk = Some(Arc::clone(bulk));
            }
        });
    }

    fn bulk_down(&self, bulk: &Arc<Lane>) {
        self.change(|routes| {
            let route = routes.get_mut(&bulk.peer());
            if let Some(route) = route.filter(|route| route.bulk.as_ref().is_some_and(|b| Arc::ptr_eq(b, bulk))) {
                route.bulk = None;
                route.heavy.store(0, Ordering::Relaxed);
            }
        });
    }
}

/// What the driver is asked from other threads.
#[derive(Debug)]
pub(super) enum Command {
    /// A node is said to listen there.
    Heard(NodeId, SocketAddr),
    /// Something large is on its way to or from a peer.
    Bulk(NodeId),
}

/// What the loop has to do next.
enum Action {
    Swarm(Box<SwarmEvent<Heard>>),
    /// A target of the book is due.
    Due,
    Command(Command),
    /// Shut down: asked to, or nobody listens to the events.
    Stop,
}

/// Everything the network thread owns.
pub(super) struct Driver {
    swarm: Swarm<Behaviour>,
    book: Book,
    routes: Arc<Routes>,
    outbox: Outbox,
    events: Sender<NetEvent>,
    /// Dials of the book that are under way or connected without a lane.
    dials: BTreeMap<ConnectionId, Dial>,
    seconds: Seconds,
    timings: Timings,
    carrier: Carrier,
    /// When the last warning about an inbound connection was given, and how many were swallowed since.
    complaint: (Option<Instant>, u64),
}

impl Driver {
    /// Binds every listener. Must be called inside the runtime that runs the driver.
    pub(super) async fn start(
        config: &NetConfig,
        timings: Timings,
        routes: Arc<Routes>,
        events: Sender<NetEvent>,
    ) -> Result<(Self, Vec<SocketAddr>), NetError> {
        let me = config.identity.node();
        let key = transport::keypair(&config.identity).map_err(NetError::Key)?;
        let stack = transport::build(&key, &config.secret, config.carrier, &timings).map_err(NetError::Key)?;
        let local = key.public().to_peer_id();
        let discovery = if config.mdns { discovery(local) } else { None };
        let behaviour = Behaviour::new(me, discovery, events.clone(), timings);
        let runtime = Handle::current();
        // The runtime belongs to this thread and takes its tasks along when it is dropped.
        let settings = libp2p::swarm::Config::with_executor(move |task| drop(runtime.spawn(task)))
            .with_idle_connection_timeout(timings.open_lane)
            .with_max_negotiating_inbound_streams(MAX_STREAMS);
        let mut driver = Self {
            swarm: Swarm::new(stack, behaviour, local, settings),
            book: Book::new(me, timings),
            routes,
            outbox: Outbox::default(),
            events,
            dials: BTreeMap::new(),
            seconds: Seconds::new(timings),
            timings,
            carrier: config.carrier,
            complaint: (None, 0),
        };
        let bound = driver.listen(&config.listen).await?;
        let now = Instant::now();
        config.peers.iter().for_each(|peer| driver.book.configure(peer, now));
        Ok((driver, bound))
    }

    /// Listens on these addresses and waits until their ports are known.
    async fn listen(&mut self, wanted: &[SocketAddr]) -> Result<Vec<SocketAddr>, NetError> {
        let mut bound = Vec::new();
        for addr in wanted {
            let port = self.listen_by(*addr, Carrier::Tcp).await?;
            let addr = SocketAddr::new(addr.ip(), port);
            if self.carrier != Carrier::Tcp {
                self.listen_by(addr, self.carrier).await?;
            }
            bound.push(addr);
        }
        Ok(bound)
    }

    async fn listen_by(&mut self, addr: SocketAddr, carrier: Carrier) -> Result<u16, NetError> {
        let id = bind(&mut self.swarm, addr, carrier)?;
        timeout(LISTEN_WAIT, self.port_of(id)).await.map_err(|_| NetError::Bind {
            addr,
            source: std::io::Error::new(std::io::ErrorKind::TimedOut, "the listener got no address"),
        })
    }

    async fn port_of(&mut self, id: ListenerId) -> u16 {
        loop {
            let event = self.swarm.select_next_some().await;
            let port = match &event {
                SwarmEvent::NewListenAddr { listener_id, address } if *listener_id == id => socket_addr(address),
                _ => None,
            };
            self.on_swarm(event);
            if let Some((addr, _)) = port {
                return addr.port();
            }
        }
    }

    /// Runs until `stop` is sent or dropped, or nobody listens to the events; then closes every connection in order.
    pub(super) async fn run(mut self, mut stop: oneshot::Receiver<()>, mut commands: Receiver<Command>) {
        loop {
            match self.next(&mut stop, &mut commands).await {
                Action::Stop => break,
                Action::Due => self.dial_due(),
                Action::Command(Command::Heard(node, addr)) => self.book.heard(node, addr, Instant::now()),
                Action::Command(Command::Bulk(node)) => self.dial_for_bulk(node),
                Action::Swarm(event) => self.on_swarm(*event),
            }
        }
        self.close().await;
    }

    async fn next(&mut self, stop: &mut oneshot::Receiver<()>, commands: &mut Receiver<Command>) -> Action {
        loop {
            let due = self.book.next_due();
            tokio::select! {
                _ = &mut *stop => return Action::Stop,
                () = self.events.closed() => return Action::Stop,
                room = self.events.reserve(), if !self.outbox.is_empty() => match room {
                    Ok(permit) => self.outbox.deliver(permit),
                    Err(_) => return Action::Stop,
                },
                event = self.swarm.select_next_some() => return Action::Swarm(Box::new(event)),
                Some(command) = commands.recv() => return Action::Command(command),
                () = tokio::time::sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => return Action::Due,
            }
        }
    }

    fn dial_due(&mut self) {
        let now = Instant::now();
        while let Some(dial) = self.book.next_dial(now) {
            if dial.hung_up {
                self.outbox.other(NetEvent::Refused { addr: dial.addr, reason: Refusal::HungUp });
            }
            // Whoever does not speak this node's carrier speaks TCP.
            let carrier = if dial.failures.is_multiple_of(2) { self.carrier } else { Carrier::Tcp };
            let address = multiaddr(dial.addr, carrier);
            // A new port each time: with the listener's, two nodes that dial each other would meet in one TCP connection with two clients.
            let opts = match dial.node.map(peer_id) {
                None => DialOpts::unknown_peer_id().address(address).allocate_new_port().build(),
                Some(Some(peer)) => {
                    let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![address]);
                    opts.allocate_new_port().build()
                }
                Some(None) => {
                    self.refused(dial.id, dial.addr, Refusal::Unreachable("no such node can exist".to_owned()));
                    continue;
                }
            };
            let conn = opts.connection_id();
            self.dials.insert(conn, dial);
            if let Err(error) = self.swarm.dial(opts) {
                self.dial_failed(conn, &error);
            }
        }
    }

    /// Dials a peer a second time, unless there is a reason not to.
    fn dial_for_bulk(&mut self, node: NodeId) {
        let (Some(addr), Some(peer)) = (self.seconds.wanted(node, Instant::now()), peer_id(node)) else { return };
        let opts = DialOpts::peer_id(peer).condition(PeerCondition::Always).addresses(vec![addr]);
        let opts = opts.allocate_new_port().build();
        let conn = opts.connection_id();
        self.seconds.dialing(node, conn);
        self.swarm.behaviour_mut().dialing_for_bulk(conn);
        if let Err(error) = self.swarm.dial(opts) {
            self.dial_failed(conn, &error);
        }
    }

    fn on_swarm(&mut self, event: SwarmEvent<Heard>) {
        let now = Instant::now();
        match event {
            SwarmEvent::Behaviour(Heard::Lane(verdict)) => self.on_lane(verdict, now),
            SwarmEvent::Behaviour(Heard::Found(node, addr)) => self.book.found(node, addr, now),
            SwarmEvent::Behaviour(Heard::Expired(node, addr)) => self.book.expired(node, addr),
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, .. } => {
                if let (Some(dial), Some(node)) = (self.dials.get(&connection_id), node_id(peer_id)) {
                    self.book.reached(dial.id, node);
                }
            }
            SwarmEvent::OutgoingConnectionError { connection_id, error, .. } => self.dial_failed(connection_id, &error),
            SwarmEvent::IncomingConnectionError { send_back_addr, error, .. } => {
                self.complain(&send_back_addr.to_string(), &error, now);
            }
            SwarmEvent::NewListenAddr { address, .. } => {
                if let Some((addr, _)) = socket_addr(&address) {
                    self.outbox.other(NetEvent::Listening { addr });
                }
            }
            SwarmEvent::ListenerError { error, .. } => tracing::warn!(%error, "a listener has trouble"),
            SwarmEvent::ListenerClosed { reason: Err(error), .. } => tracing::error!(%error, "a listener is gone"),
            _ => {}
        }
    }

    fn on_lane(&mut self, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Up { lane, addr, carrier, outbound } => {
                let peer = lane.peer();
                tracing::debug!(%peer, %addr, outbound, "lane up");
                self.book.up(peer, now);
                if outbound {
                    self.seconds.lane_up(peer, multiaddr(addr, carrier));
                }
                let route = Route { lane: Arc::clone(&lane), bulk: None, outbound, heavy: AtomicUsize::new(0) };
                self.routes.change(|routes| drop(routes.insert(peer, route)));
                self.outbox.up(NetEvent::Up { peer, addr, carrier, outbound }, lane);
            }
            Verdict::Down { lane, reason } => {
                let peer = lane.peer();
                tracing::debug!(%peer, %reason, "lane down");
                lane.close();
                self.book.down(peer, now);
                self.seconds.lane_down(peer);
                self.routes.change(|routes| {
                    if routes.get(&peer).is_some_and(|route| Arc::ptr_eq(&route.lane, &lane)) {
                        routes.remove(&peer);
                    }
                });
                self.outbox.down(&lane, reason);
            }
            Verdict::BulkUp(bulk) => {
                tracing::debug!(peer = %bulk.peer(), "a second connection for what is large");
                self.seconds.up(bulk.peer());
                self.routes.bulk_up(&bulk);
                self.outbox.start(bulk);
            }
            Verdict::BulkDown(bulk) => {
                tracing::debug!(peer = %bulk.peer(), "the second connection is gone");
                bulk.close();
                self.seconds.down(bulk.peer());
                self.routes.bulk_down(&bulk);
                self.outbox.never_start(&bulk);
            }
            Verdict::Failed { conn, refusal } => {
                self.seconds.failed(conn, now);
                if let Some(dial) = self.dials.remove(&conn) {
                    self.refused(dial.id, dial.addr, refusal);
                }
            }
            Verdict::Gone(conn) => {
                self.seconds.failed(conn, now);
                self.dials.remove(&conn);
            }
            Verdict::Take(..) | Verdict::Close(..) => unreachable!("the behaviour carries these out"),
        }
    }

    fn dial_failed(&mut self, conn: ConnectionId, error: &DialError) {
        self.seconds.failed(conn, Instant::now());
        let Some(dial) = self.dials.remove(&conn) else { return };
        if let DialError::Denied { cause } = error
            && let Some(superfluous) = cause.downcast_ref::<Superfluous>()
        {
            self.book.superfluous(dial.id, superfluous.node, Instant::now());
            return;
        }
        self.refused(dial.id, dial.addr, refusal(error, dial.node));
    }

    /// One attempt came to nothing.
    fn refused(&mut self, id: TargetId, addr: SocketAddr, reason: Refusal) {
        tracing::debug!(%addr, %reason, "no lane");
        if self.book.failed(id, &reason, Instant::now()) {
            self.outbox.other(NetEvent::Refused { addr, reason });
        }
    }

    /// Says that somebody could not connect to us, but not too often.
    fn complain(&mut self, from: &str, error: &ListenError, now: Instant) {
        if let ListenError::Denied { cause } = error
            && cause.downcast_ref::<Superfluous>().is_some()
        {
            return;
        }
        let reason = match error {
            ListenError::Transport(TransportError::Other(error)) => match handshake_error(error) {
                // The dialer is the one who sees that the secrets differ, and hangs up.
                Some(HandshakeError::HungUp) => {
                    "it hung up during the handshake; perhaps it has another fleet secret".to_owned()
                }
                Some(error) => error.to_string(),
                None => error.to_string(),
            },
            ListenError::Denied { cause } => {
                std::error::Error::source(cause).map_or_else(String::new, ToString::to_string)
            }
            error => error.to_string(),
        };
        if self.complaint.0.is_some_and(|last| now - last < COMPLAINT_EVERY) {
            self.complaint.1 += 1;
            tracing::debug!(from, reason, "an inbound connection came to nothing");
        } else {
            tracing::warn!(from, reason, unreported = self.complaint.1, "an inbound connection came to nothing");
            self.complaint = (Some(now), 0);
        }
    }

    /// Says goodbye to every peer; what they do not confirm in time is cut off.
    async fn close(mut self) {
        let outbox = &mut self.outbox;
        self.routes.change(|lanes| {
            for Route { lane, bulk, .. } in std::mem::take(lanes).into_values() {
                if let Some(bulk) = bulk {
                    bulk.close();
                    outbox.never_start(&bulk);
                }
                lane.close();
                outbox.down(&lane, DownReason::Shutdown);
            }
        });
        while !self.outbox.is_empty()
            && let Ok(room) = self.events.try_reserve()
        {
            self.outbox.deliver(room);
        }
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error says that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closed = async {
            while self.swarm.connected_peers().next().is_some() {
                self.swarm.select_next_some().await;
            }
        };
        if timeout(self.timings.close, closed).await.is_err() {
            tracing::debug!("some connections did not close in order");
        }
    }
}

/// Starts discovery; a machine without multicast is no reason not to run.
fn discovery(local: libp2p::PeerId) -> Option<mdns::tokio::Behaviour> {
    mdns::tokio::Behaviour::new(mdns::Config::default(), local)
        .inspect_err(|error| tracing::warn!(%error, "no discovery on the local network"))
        .ok()
}

fn bind(swarm: &mut Swarm<Behaviour>, addr: SocketAddr, carrier: Carrier) -> Result<ListenerId, NetError> {
    // libp2p shares ports between listeners, so that a second node would get half of the first one's connections; this asks without
    // sharing. Two nodes that start in the same millisecond are not told apart.
    if addr.port() != 0 && carrier == Carrier::Tcp {
        drop(TcpListener::bind(addr).map_err(|source| bind_error(addr, source))?);
    }
    swarm.listen_on(multiaddr(addr, carrier)).map_err(|error| match error {
        TransportError::Other(error) => match handshake_kind(&error) {
            Some(kind) => bind_error(addr, kind.into()),
            None => bind_error(addr, error),
        },
        error @ TransportError::MultiaddrNotSupported(_) => bind_error(addr, std::io::Error::other(error.to_string())),
    })
}

fn bind_error(addr: SocketAddr, source: std::io::Error) -> NetError {
    match source.kind() {
        std::io::ErrorKind::AddrInUse => NetError::AddressInUse { addr },
        _ => NetError::Bind { addr, source },
    }
}

/// The operating system's error kind inside the stack's error.
fn handshake_kind(error: &std::io::Error) -> Option<std::io::ErrorKind> {
    match handshake_error(error) {
        Some(HandshakeError::Tcp(error)) => Some(error.kind()),
        _ => None,
    }
}

/// A failed dial in our words.
fn refusal(error: &DialError, expected: Option<NodeId>) -> Refusal {
    match error {
        // The swarm takes the addresses that it listens on out of a dial, and there was only one.
        DialError::LocalPeerId { .. } | DialError::NoAddresses => Refusal::Itself,
        DialError::WrongPeerId { obtained, .. } => match (expected, node_id(*obtained)) {
            (Some(expected), Some(found)) => Refusal::OtherNode { expected, found },
            _ => Refusal::NotEvalmesh,
        },
        DialError::Denied { cause } if cause.downcast_ref::<connection_limits::Exceeded>().is_some() => {
            Refusal::TooManyConnections
        }
        DialError::Denied { cause } if cause.downcast_ref::<OtherKey>().is_some() => Refusal::NotEvalmesh,
        DialError::Transport(attempts) => match attempts.first() {
            Some((_, TransportError::Other(error))) => match handshake_error(error) {
                Some(HandshakeError::TimedOut) => Refusal::TimedOut,
                Some(HandshakeError::OtherSecret) => Refusal::OtherSecret,
                Some(HandshakeError::OtherProtocol) => Refusal::NotEvalmesh,
                Some(HandshakeError::HungUp) => Refusal::HungUp,
                Some(HandshakeError::Tcp(error)) => Refusal::Unreachable(error.to_string()),
                Some(HandshakeError::Failed(text)) => Refusal::Unreachable(text.clone()),
                None => Refusal::Unreachable(error.to_string()),
            },
            Some((_, error)) => Refusal::Unreachable(error.to_string()),
            None => Refusal::Unreachable("no address".to_owned()),
        },
        error => Refusal::Unreachable(error.to_string()),
    }
}
