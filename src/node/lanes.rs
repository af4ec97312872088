//! The loop's view of the network: lanes when the `net` feature is on and wanted, silence otherwise.
#![cfg_attr(
    not(feature = "net"),
    expect(dead_code, clippy::unused_self, reason = "without the network there is nobody to hear and nobody to tell")
)]

use std::net::SocketAddr;

use bytes::Bytes;

use crate::id::NodeId;
use crate::node::status::RefusedPeer;

/// Events that may wait for the loop; when it is full, lanes stop reading.
#[cfg(feature = "net")]
pub(super) const LANE_EVENTS: usize = 4096;

/// What happens on the network, as far as the loop cares.
pub(super) enum LaneEvent {
    Up(NodeId, SocketAddr),
    Down(NodeId),
    Frame(NodeId, Bytes),
    Refused(RefusedPeer),
    Listening(SocketAddr),
}

/// The network, or none.
pub(super) struct Lanes {
    #[cfg(feature = "net")]
    net: Option<(crate::net::Net, tokio::sync::mpsc::Receiver<crate::net::NetEvent>)>,
}

impl Lanes {
    /// A node that talks to nobody.
    pub(super) fn none() -> Self {
        Self {
            #[cfg(feature = "net")]
            net: None,
        }
    }

    #[cfg(feature = "net")]
    pub(super) fn over(net: crate::net::Net, events: tokio::sync::mpsc::Receiver<crate::net::NetEvent>) -> Self {
        Self { net: Some((net, events)) }
    }

    /// The next event; never, without a network.
    #[cfg(feature = "net")]
    pub(super) async fn next(&mut self) -> LaneEvent {
        use crate::net::{NetEvent, Refusal};

        let Some((_, events)) = &mut self.net else { return std::future::pending().await };
        match events.recv().await {
            None => std::future::pending().await,
            Some(NetEvent::Up { peer, addr, .. }) => LaneEvent::Up(peer, addr),
            Some(NetEvent::Down { peer, reason }) => {
                tracing::info!(peer = %peer.short(), %reason, "peer gone");
                LaneEvent::Down(peer)
            }
            Some(NetEvent::Frame { from, bytes }) => LaneEvent::Frame(from, bytes),
            Some(NetEvent::Listening { addr }) => LaneEvent::Listening(addr),
            Some(NetEvent::Refused { addr, reason }) => {
                let other_secret = matches!(reason, Refusal::OtherSecret);
                LaneEvent::Refused(RefusedPeer { address: addr, reason: reason.to_string(), other_secret })
            }
        }
    }

    /// Dials a node that a peer told of.
    pub(super) fn learn(&self, node: NodeId, address: SocketAddr) {
        #[cfg(feature = "net")]
        if let Some((net, _)) = &self.net {
            net.learn(node, address);
        }
        #[cfg(not(feature = "net"))]
        let _ = (node, address);
    }

    #[cfg(not(feature = "net"))]
    pub(super) async fn next(&mut self) -> LaneEvent {
        std::future::pending().await
    }

    /// Queues a frame for a peer, a large one where it holds up no small one; never blocks.
    #[cfg(feature = "net")]
    pub(super) fn send(&self, to: NodeId, frame: Bytes, bulk: bool) -> Result<(), String> {
        let (net, _) = self.net.as_ref().ok_or_else(|| "there is no network".to_owned())?;
        let sent = if bulk { net.send_bulk(to, frame) } else { net.send(to, frame) };
        sent.map_err(|error| error.to_string())
    }

    /// So many bytes in large frames were asked of a peer.
    pub(super) fn expect_bulk(&self, from: NodeId, bytes: usize) {
        #[cfg(feature = "net")]
        if let Some((net, _)) = self.net.as_ref().filter(|_| bytes > 0) {
            net.expect_bulk(from, bytes);
        }
        #[cfg(not(feature = "net"))]
        let _ = (from, bytes);
    }

    #[cfg(not(feature = "net"))]
    pub(super) fn send(&self, _: NodeId, _: Bytes, _: bool) -> Result<(), String> {
        Err("there is no network".to_owned())
    }

    pub(super) fn disconnect(&self, peer: NodeId, reason: &str) {
        #[cfg(feature = "net")]
        if let Some((net, _)) = &self.net {
            net.disconnect(peer, reason);
        }
        #[cfg(not(feature = "net"))]
        let _ = (peer, reason);
    }

    /// The runtime on which frames arrive.
    #[cfg(feature = "net")]
    pub(super) fn runtime(&self) -> Option<tokio::runtime::Handle> {
        self.net.as_ref().map(|(net, _)| net.runtime())
    }

    #[cfg(not(feature = "net"))]
    pub(super) fn runtime(&self) -> Option<tokio::runtime::Handle> {
        None
    }

    /// Says goodbye to all peers. Blocks for a while, so it is nothing for the network's own thread.
    pub(super) fn close(&mut self) {
        #[cfg(feature = "net")]
        if let Some((net, _)) = self.net.take() {
            net.shutdown();
        }
    }
}
