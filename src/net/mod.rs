//! Lanes: frames of bytes between this node and its peers, over libp2p.
//!
//! A [`Net`] runs a swarm on its own thread and runtime, because a lane on a shared runtime costs twice the CPU. It keeps one *lane* - a
//! persistent stream over TCP, noise and yamux - with each peer that it was told of ([`NetConfig::peers`]), that it discovered on the
//! local network or that dialed it. [`Net::send`] queues a frame and never waits; what comes in goes to a channel of [`NetEvent`]s.
//! What is large goes through [`Net::send_bulk`]: beyond a mebibyte it gets a second connection, so that it holds up nothing small, and that
//! one is closed when there is nothing large left. No order is kept between the two.
//!
//! Invariants:
//! 1. Only nodes with the same [`FleetSecret`] complete a handshake, and a [`NodeId`] in an event is a key that the peer proved to have.
//! 2. For each peer, events come as `Up`, any number of `Frame`s in the order sent, `Down`, and again. There is one lane per pair of nodes,
//!    and one connection but while something large is carried.
//! 3. Nothing waits without a bound; see [`limits`]. A slow peer or a slow consumer of events holds up its own lanes and nobody else's.
//!
//! With `Carrier::Quic` (feature `quic`) a node also listens by UDP, on the same ports, and dials by QUIC first and by TCP in turns.
//!
//! On the wire a lane is a stream of protocol `/evalmesh/lane` that the dialer opens. Both sides greet (see `greeting`: it settles the
//! version) and from then on send frames, each a length as `u32` little-endian and that many bytes.
//!
//! It does not know what a frame means, keeps nothing across a lane's end, and acknowledges nothing: a frame that was queued when the
//! lane went down may or may not have arrived. Heartbeats are the business of the layer above; a peer that sends nothing is cut off.

mod addr;
mod arbiter;
mod behaviour;
mod book;
mod bulk;
mod driver;
mod error;
mod frame;
mod gather;
mod greeting;
mod handler;
mod lane;
pub mod limits;
#[cfg(feature = "quic")]
mod membership;
mod outbox;
mod retransmission;
mod secret;
#[cfg(test)]
mod tests;
mod transport;
mod turn;

use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use libp2p::StreamProtocol;
use tokio::runtime::Handle;
use tokio::sync::mpsc::{Sender, channel};
use tokio::sync::oneshot;

pub use self::addr::{Carrier, ParsePeerError, PeerAddr};
use self::driver::{Command, Driver, Routes};
pub use self::error::{DownReason, NetError, Refusal, SendError};
pub use self::frame::FrameError;
pub use self::greeting::Versions;
use self::limits::{MAX_LEARNED, SHUTDOWN_WAIT, Timings};
pub use self::secret::{FleetSecret, SecretError};
use crate::id::NodeId;
use crate::identity::Identity;

/// The lane's protocol. It has no version, since its greeting settles that and can say what was wrong.
const LANE_PROTOCOL: StreamProtocol = StreamProtocol::new("/evalmesh/lane");

/// What a [`Net`] is started with.
#[derive(Debug, Clone)]
pub struct NetConfig {
    /// This node's key.
    pub identity: Identity,
    /// What makes this node a member of its fleet.
    pub secret: FleetSecret,
    /// Where to listen; port 0 takes a free one. Without any address this node only dials.
    pub listen: Vec<SocketAddr>,
    /// Peers that are dialed for ever.
    pub peers: Vec<PeerAddr>,
    /// Whether to announce this node on the local network and to look for others. A listener on the loopback
    /// interface is not announced.
    pub mdns: bool,
    /// What carries the lanes.
    pub carrier: Carrier,
}

/// What happens on the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NetEvent {
    /// This node listens here. A wildcard address gives one of these per interface.
    Listening {
        /// The address.
        addr: SocketAddr,
    },
    /// There is a lane to this node, in both directions.
    Up {
        /// The node.
        peer: NodeId,
        /// The other end of the connection; a port to dial only if `outbound`.
        addr: SocketAddr,
        /// What carries it.
        carrier: Carrier,
        /// Whether this node dialed.
        outbound: bool,
    },
    /// The lane is gone. A peer with a known address is dialed again.
    Down {
        /// The node.
        peer: NodeId,
        /// Why.
        reason: DownReason,
    },
    /// A frame arrived.
    Frame {
        /// Who sent it.
        from: NodeId,
        /// What it holds: at least one byte and at most `MAX_FRAME`.
        bytes: Bytes,
    },
    /// An address was dialed and gave no lane. One for each attempt; see `Refusal` for what can be done.
    Refused {
        /// The address.
        addr: SocketAddr,
        /// Why.
        reason: Refusal,
    },
}

/// A running network, to be shared between threads. Dropping it shuts it down.
#[derive(Debug)]
pub struct Net {
    routes: Arc<Routes>,
    commands: Sender<Command>,
    local: Vec<SocketAddr>,
    runtime: Handle,
    /// Empty once the network was shut down.
    thread: Mutex<Option<Thread>>,
}

/// The network thread from outside.
#[derive(Debug)]
struct Thread {
    handle: std::thread::JoinHandle<()>,
    /// Dropped to stop it.
    stop: oneshot::Sender<()>,
    /// Closes when it is done; nothing is ever sent.
    done: Receiver<()>,
}

impl Net {
    /// Starts the network thread. Every listener is bound when this returns; dialing begins.
    ///
    /// When `events` is full, lanes stop reading until there is room; when its receiver is dropped, the network shuts down.
    pub fn start(config: NetConfig, events: Sender<NetEvent>) -> Result<Self, NetError> {
        Self::start_with(config, Timings::DEFAULT, events)
    }

    fn start_with(config: NetConfig, timings: Timings, events: Sender<NetEvent>) -> Result<Self, NetError> {
        let routes = Arc::new(Routes::default());
        let (commands, asked) = channel(MAX_LEARNED);
        let (stop, stopped) = oneshot::channel();
        let (ready, started) = sync_channel(1);
        let (alive, done) = sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(NetError::Thread)?;
        let on_runtime = runtime.handle().clone();
        let thread_routes = Arc::clone(&routes);
        let body = move || {
            // Owned by this thread: it goes last, when everything else is dropped.
            let _alive: SyncSender<()> = alive;
            runtime.block_on(async move {
                match Driver::start(&config, timings, thread_routes, events).await {
                    Ok((driver, local)) => {
                        drop(ready.send(Ok(local)));
                        drop(config);
                        Box::pin(driver.run(stopped, asked)).await;
                    }
                    Err(error) => drop(ready.send(Err(error))),
                }
            });
            runtime.shutdown_background();
        };
        let handle =
            std::thread::Builder::new().name("evalmesh-net".to_owned()).spawn(body).map_err(NetError::Thread)?;
        let died = |_| NetError::Thread(std::io::Error::other("the network thread died"));
        match started.recv().map_err(died).flatten() {
            Ok(local) => Ok(Self {
                routes,
                commands,
                local,
                runtime: on_runtime,
                thread: Mutex::new(Some(Thread { handle, stop, done })),
            }),
            Err(error) => {
                // Listeners that were bound before the one that failed are free again when this returns.
                drop(handle.join());
                Err(error)
            }
        }
    }

    /// The addresses that are listened on, in the order of [`NetConfig::listen`], with the ports that were free. A wildcard stays one.
    #[must_use]
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.local.clone()
    }

    /// Queues a frame for a peer whose lane is up. Never waits, and tells at once if the frame has no place.
    pub fn send(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        self.routes.send(to, frame)
    }

    /// Queues a large frame for a peer whose lane is up: behind other large ones, on a second connection as soon as there is one.
    pub fn send_bulk(&self, to: NodeId, frame: Bytes) -> Result<(), SendError> {
        self.expect_bulk(to, frame.len());
        self.routes.send_bulk(to, frame)
    }

    /// So many large bytes were asked of a peer. The node that dialed the lane has to know of them: the second connection is its affair.
    pub fn expect_bulk(&self, from: NodeId, bytes: usize) {
        if self.routes.expect_bulk(from, bytes) {
            // If there is no room it is said again with the next one.
            let _ = self.commands.try_send(Command::Bulk(from));
        }
    }

    #[cfg(test)]
    fn has_bulk(&self, peer: NodeId) -> bool {
        self.routes.has_bulk(peer)
    }

    /// The runtime of the network's own thread. For frames and events that are handled by a task there nothing changes threads, which
    /// halves what a small request costs. Such a task must not block, and ends with the network at the latest.
    #[must_use]
    pub fn runtime(&self) -> Handle {
        self.runtime.clone()
    }

    /// Takes note of where a node is said to listen, and dials it soon unless there is a lane to it. Hearsay: it is given up after a few
    /// attempts, and no other node is accepted there. Dropped if too much of it comes at once.
    pub fn learn(&self, node: NodeId, addr: SocketAddr) {
        let _ = self.commands.try_send(Command::Heard(node, addr));
    }

    /// Closes the lane to a peer, if there is one; its `Down` carries this reason. Frames still queued for it may be lost. A peer with a
    /// known address is dialed again.
    pub fn disconnect(&self, peer: NodeId, reason: impl Into<String>) {
        self.routes.hang_up(peer, DownReason::Disconnected(reason.into()));
    }

    /// Closes every lane in order and ends the thread; a second call does nothing. Blocks for at most [`SHUTDOWN_WAIT`]; a thread that is
    /// not done then is left to finish by itself.
    pub fn shutdown(&self) {
        let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() else { return };
        drop(thread.stop);
        if thread.done.recv_timeout(SHUTDOWN_WAIT) == Err(RecvTimeoutError::Timeout) {
            tracing::warn!("the network thread takes its time to end");
        } else if thread.handle.join().is_err() {
            tracing::error!("the network thread panicked");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        self.shutdown();
    }
}
