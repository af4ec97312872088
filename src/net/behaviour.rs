//! The swarm's behaviour: connection limits, discovery on the local network, and lanes as the [`Arbiter`] decides.
//!
//! It carries out and decides nothing itself. It does not know which addresses are dialed or when; see `book`.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished};
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionError, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler,
    THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, connection_limits, mdns};
use tokio::sync::mpsc::Sender;

use super::NetEvent;
use super::addr::{Carrier, node_id, peer_id, socket_addr};
use super::arbiter::{Arbiter, Verdict};
use super::error::DownReason;
use super::handler::{Handler, Take};
use super::lane::Kind;
use super::limits::{MAX_BULK, MAX_CONNECTIONS, MAX_CONNECTIONS_PER_PEER, MAX_DIALS, MAX_INBOUND_HANDSHAKES, Timings};
use crate::id::NodeId;

/// What the driver hears.
#[derive(Debug)]
pub(super) enum Heard {
    /// About lanes: never `Take` or `Close`.
    Lane(Verdict),
    /// A node announces itself on the local network.
    Found(NodeId, SocketAddr),
    /// Its announcement ran out.
    Expired(NodeId, SocketAddr),
}

/// A connection that is of no use: there is a better one with the same node.
#[derive(Debug, thiserror::Error)]
#[error("there is a connection with that node")]
pub(super) struct Superfluous {
    pub(super) node: NodeId,
}

/// A peer whose name is no Ed25519 key.
#[derive(Debug, thiserror::Error)]
#[error("the peer's key is of another kind")]
pub(super) struct OtherKey;

pub(super) struct Behaviour {
    limits: connection_limits::Behaviour,
    mdns: Option<mdns::tokio::Behaviour>,
    arbiter: Arbiter,
    heard: VecDeque<Heard>,
    events: Sender<NetEvent>,
    timings: Timings,
}

impl Behaviour {
    pub(super) fn new(
        me: NodeId,
        mdns: Option<mdns::tokio::Behaviour>,
        events: Sender<NetEvent>,
        timings: Timings,
    ) -> Self {
        let limits = connection_limits::ConnectionLimits::default()
            .with_max_pending_incoming(Some(MAX_INBOUND_HANDSHAKES))
            .with_max_pending_outgoing(u32::try_from(MAX_DIALS + MAX_BULK).ok())
            .with_max_established(Some(MAX_CONNECTIONS))
            .with_max_established_per_peer(Some(MAX_CONNECTIONS_PER_PEER));
        Self {
            limits: connection_limits::Behaviour::new(limits),
            mdns,
            arbiter: Arbiter::new(me),
            heard: VecDeque::new(),
            events,
            timings,
        }
    }

    /// The next connection with this number is a second one, for bulk.
    pub(super) fn dialing_for_bulk(&mut self, id: ConnectionId) {
        self.arbiter.dialing_for_bulk(id);
    }

    fn admit(&self, peer: PeerId, dialed: Option<Kind>) -> Result<Handler, ConnectionDenied> {
        let node = node_id(peer).ok_or_else(|| ConnectionDenied::new(OtherKey))?;
        if !self.arbiter.wants(node, dialed) {
            return Err(ConnectionDenied::new(Superfluous { node }));
        }
        Ok(Handler::new(node, dialed, self.events.clone(), self.timings))
    }

    fn discovered(&mut self, event: mdns::Event) {
        let (list, heard): (_, fn(NodeId, SocketAddr) -> Heard) = match event {
            mdns::Event::Discovered(list) => (list, Heard::Found),
            mdns::Event::Expired(list) => (list, Heard::Expired),
        };
        self.heard.extend(list.iter().filter_map(|(peer, addr)| Some(heard(node_id(*peer)?, socket_addr(addr)?.0))));
    }
}

/// The swarm's form of a verdict.
fn action(verdict: Verdict) -> Option<ToSwarm<Heard, Take>> {
    match verdict {
        Verdict::Take(node, conn) => {
            let (peer_id, handler) = (peer_id(node)?, NotifyHandler::One(conn));
            Some(ToSwarm::NotifyHandler { peer_id, handler, event: Take })
        }
        Verdict::Close(node, conn) => {
            let (peer_id, connection) = (peer_id(node)?, CloseConnection::One(conn));
            Some(ToSwarm::CloseConnection { peer_id, connection })
        }
        other => Some(ToSwarm::GenerateEvent(Heard::Lane(other))),
    }
}

/// Why a connection ended, in our words. An orderly end and the end of the peer's process look the same.
fn down_reason(cause: Option<&ConnectionError>) -> DownReason {
    match cause {
        None | Some(ConnectionError::KeepAliveTimeout) => DownReason::Closed,
        Some(ConnectionError::IO(error)) => match error.to_string() {
            text if text.contains("connection is closed") => DownReason::Closed,
            text => DownReason::Lost(text),
        },
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Heard;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.limits.handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.limits.handle_established_inbound_connection(id, peer, local, remote)?;
        self.admit(peer, None)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.limits.handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        addr: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.limits.handle_established_outbound_connection(id, peer, addr, role, port_use)?;
        self.admit(peer, Some(self.arbiter.purpose(id)))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        self.limits.on_swarm_event(event);
        if let Some(mdns) = &mut self.mdns {
            mdns.on_swarm_event(event);
        }
        match event {
            FromSwarm::ConnectionEstablished(ConnectionEstablished { peer_id, connection_id, endpoint, .. }) => {
                let Some(node) = node_id(peer_id) else { return };
                let nowhere = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
                let at = socket_addr(endpoint.get_remote_address()).unwrap_or((nowhere, Carrier::Tcp));
                self.arbiter.connected(node, connection_id, endpoint.is_dialer(), at);
            }
            FromSwarm::ConnectionClosed(ConnectionClosed { peer_id, connection_id, cause, .. }) => {
                let Some(node) = node_id(peer_id) else { return };
                self.arbiter.disconnected(node, connection_id, down_reason(cause));
            }
            FromSwarm::DialFailure(failure) => self.arbiter.not_connected(failure.connection_id),
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, report: THandlerOutEvent<Self>) {
        if let Some(node) = node_id(peer) {
            self.arbiter.reported(node, id, report);
        }
    }

    // The swarm polls again after every call above, so there is no waker to keep. The limits never have anything to say.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        loop {
            if let Some(heard) = self.heard.pop_front() {
                return Poll::Ready(ToSwarm::GenerateEvent(heard));
            }
            if let Some(verdict) = self.arbiter.next() {
                match action(verdict) {
                    Some(action) => return Poll::Ready(action),
                    None => continue,
                }
            }
            let Some(mdns) = &mut self.mdns else { return Poll::Pending };
            match std::task::ready!(mdns.poll(cx)) {
                ToSwarm::GenerateEvent(event) => self.discovered(event),
                other => {
                    let unheard = |_| unreachable!("only GenerateEvent holds an event");
                    return Poll::Ready(other.map_out(unheard).map_in(|never: Infallible| match never {}));
                }
            }
        }
    }
}
