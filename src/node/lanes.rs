//! The loop's view of the network: lanes when the `net` feature is on and wanted, silence otherwise.
#![cfg_attr(
    not(feature = "net"),
    expect(dead_code, clippy::unused_self, reason = "without the network there is nobody to hear and nobody to tell")
)]

use std::net::SocketAddr;
use std::task::Context;

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
    net: Option<Network>,
}

#[cfg(feature = "net")]
struct Network {
    net: crate::net::Net,
    events: tokio::sync::mpsc::Receiver<crate::net::NetEvent>,
    /// Room for those of one burst.
    heard: Vec<crate::net::NetEvent>,
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
        Self { net: Some(Network { net, events, heard: Vec::new() }) }
    }

    /// Adds at most so many events that are there by now; none, without a network.
    #[cfg(feature = "net")]
    pub(super) fn poll_many(&mut self, cx: &mut Context<'_>, into: &mut Vec<LaneEvent>, most: usize) {
        use crate::net::{NetEvent, Refusal};

        let Some(Network { events, heard, .. }) = &mut self.net else { return };
        if events.poll_recv_many(cx, heard, most).is_pending() {
            return;
        }
        into.extend(heard.drain(..).map(|event| match event {
            NetEvent::Up { peer, addr, .. } => LaneEvent::Up(peer, addr),
            NetEvent::Down { peer, reason } => {
                tracing::info!(peer = %peer.short(), %reason, "peer gone");
                LaneEvent::Down(peer)
            }
            NetEvent::Frame { from, bytes } => LaneEvent::Frame(from, bytes),
            NetEvent::Listening { addr } => LaneEvent::Listening(addr),
            NetEvent::Refused { addr, reason } => {
                let other_secret = matches!(reason, Refusal::OtherSecret);
                LaneEvent::Refused(RefusedPeer { address: addr, reason: reason.to_string(), other_secret })
            }
        }));
    }

    #[cfg(not(feature = "net"))]
    pub(super) fn poll_many(&mut self, _: &mut Context<'_>, _: &mut Vec<LaneEvent>, _: usize) {}

    /// Dials a node that a peer told of.
    pub(super) fn learn(&self, node: NodeId, address: SocketAddr) {
        #[cfg(feature = "net")]
        if let Some(Network { net, .. }) = &self.net {
            net.learn(node, address);
        }
        #[cfg(not(feature = "net"))]
        let _ = (node, address);
    }

    /// Queues a frame for a peer, a large one where it holds up no small one; never blocks.
    #[cfg(feature = "net")]
    pub(super) fn send(&self, to: NodeId, frame: Bytes, bulk: bool) -> Result<(), String> {
        let Network { net, .. } = self.net.as_ref().ok_or_else(|| "there is no network".to_owned())?;
        let sent = if bulk { net.send_bulk(to, frame) } else { net.send(to, frame) };
        sent.map_err(|error| error.to_string())
    }

    /// So many bytes in large frames were asked of a peer.
    pub(super) fn expect_bulk(&self, from: NodeId, bytes: usize) {
        #[cfg(feature = "net")]
        if let Some(Network { net, .. }) = self.net.as_ref().filter(|_| bytes > 0) {
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
        if let Some(Network { net, .. }) = &self.net {
            net.disconnect(peer, reason);
        }
        #[cfg(not(feature = "net"))]
        let _ = (peer, reason);
    }

    /// The runtime on which frames arrive.
    #[cfg(feature = "net")]
    pub(super) fn runtime(&self) -> Option<tokio::runtime::Handle> {
        self.net.as_ref().map(|network| network.net.runtime())
    }

    #[cfg(not(feature = "net"))]
    pub(super) fn runtime(&self) -> Option<tokio::runtime::Handle> {
        None
    }

    /// Says goodbye to all peers. Blocks for a while, so it is nothing for the network's own thread.
    pub(super) fn close(&mut self) {
        #[cfg(feature = "net")]
        if let Some(Network { net, .. }) = self.net.take() {
            net.shutdown();
        }
    }
}
