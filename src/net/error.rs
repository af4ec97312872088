//! What can go wrong, sorted by what the caller can do next: starting, sending, reaching a peer, keeping a lane.

use std::net::SocketAddr;

use super::frame::FrameError;
use super::greeting::Versions;
use super::limits::MAX_FRAME;
use crate::id::NodeId;

/// The network could not be started.
#[derive(Debug, thiserror::Error)]
pub enum NetError {
    /// Somebody else listens there.
    #[error("{addr} is in use")]
    AddressInUse {
        /// The address that was asked for.
        addr: SocketAddr,
    },
    /// The operating system does not let us listen there.
    #[error("cannot listen on {addr}")]
    Bind {
        /// The address that was asked for.
        addr: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The thread or its runtime did not start.
    #[error("cannot start the network thread")]
    Thread(#[source] std::io::Error),
    /// The node's key does not work for the handshake.
    #[error("the node's key cannot be used: {0}")]
    Key(String),
}

impl NetError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::AddressInUse { .. } => {
                "another node may be running here; stop it, or listen on another port (port 0 takes any free one)"
            }
            Self::Bind { .. } => "listen on an address of this machine, and on a port of 1024 or more",
            Self::Thread(_) => "check the limits on threads and open files",
            Self::Key(_) => "check the node's key file",
        }
    }
}

/// A frame that was not queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// There is no lane to that node now.
    #[error("no lane to that node")]
    NotConnected,
    /// That peer is behind; the frame is not queued, and frames before it still are.
    #[error("the peer's queue is full")]
    QueueFull,
    /// The frame is more than `MAX_FRAME`.
    #[error("a frame of {len} bytes is more than the {MAX_FRAME} allowed")]
    TooLarge {
        /// Its length.
        len: usize,
    },
    /// The frame has no bytes; see the `frame` module.
    #[error("an empty frame")]
    Empty,
}

impl From<FrameError> for SendError {
    fn from(error: FrameError) -> Self {
        match error {
            FrameError::TooLarge { len } => Self::TooLarge { len },
            FrameError::Empty => Self::Empty,
        }
    }
}

/// Why a lane is gone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DownReason {
    /// The peer closed it, or its process ended.
    #[error("the peer closed the connection")]
    Closed,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Lost(String),
    /// The peer sent nothing for too long.
    #[error("the peer fell silent")]
    Silent,
    /// The peer stopped reading.
    #[error("the peer stopped reading")]
    Stalled,
    /// The peer broke the framing.
    #[error("the peer sent {0}")]
    BadFrame(#[source] FrameError),
    /// The same node opened a newer lane, so this one was dead.
    #[error("a newer lane of the same node took over")]
    Replaced,
    /// A second connection for what is large had nothing more to carry. Never the end of a peer's lane.
    #[error("nothing large was left to carry")]
    Idle,
    /// This node hung up, for this reason.
    #[error("disconnected: {0}")]
    Disconnected(String),
    /// This node is shutting down.
    #[error("this node is shutting down")]
    Shutdown,
}

/// Why an address that was dialed gave no lane. The address is tried again, except where this says otherwise.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The node there has another fleet secret, or none.
    #[error("another fleet secret")]
    OtherSecret,
    /// Something answers there that speaks another protocol.
    #[error("no evalmesh node")]
    NotEvalmesh,
    /// The node there speaks no version of the lane that this node speaks.
    #[error("this node speaks version {ours} of the lane, the other one {theirs}")]
    OtherVersion {
        /// What this node speaks.
        ours: Versions,
        /// What the other node speaks.
        theirs: Versions,
    },
    /// Another node answers there than the one that was named.
    #[error("node {} answers, not {}", found.short(), expected.short())]
    OtherNode {
        /// The node that was named.
        expected: NodeId,
        /// The node that answers.
        found: NodeId,
    },
    /// The address is this very node; it is not tried again.
    #[error("this node itself")]
    Itself,
    /// No connection came about.
    #[error("unreachable: {0}")]
    Unreachable(String),
    /// Something accepts connections there and then says nothing.
    #[error("no answer in time")]
    TimedOut,
    /// The other side hung up before a lane was open: it may be full, shutting down or no evalmesh node.
    #[error("hung up before a lane was open")]
    HungUp,
    /// This node has as many connections as it may have.
    #[error("too many connections on this node")]
    TooManyConnections,
}

impl Refusal {
    /// What a person can do about it, if anything.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        match self {
            Self::OtherSecret => {
                Some("copy the fleet secret's file from a node of the fleet that this node should join")
            }
            Self::NotEvalmesh => Some("check the port"),
            Self::OtherVersion { ours, theirs } if ours.newest < theirs.oldest => Some("upgrade evalmesh on this node"),
            Self::OtherVersion { .. } => Some("upgrade evalmesh on the other node"),
            Self::OtherNode { .. } => Some("correct the node id before the `@`, or leave it out"),
            Self::Itself => Some("take this node's own address out of its list of peers"),
            Self::Unreachable(_) | Self::TimedOut => {
                Some("check that the node runs and that no firewall is in between")
            }
            Self::HungUp | Self::TooManyConnections => None,
        }
    }

    /// Whether trying an address from discovery again is pointless.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::OtherSecret | Self::NotEvalmesh | Self::OtherNode { .. } | Self::Itself)
    }
}
