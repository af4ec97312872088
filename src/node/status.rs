//! What a node says of itself; plain data that crosses the control socket and is printed as text or JSON.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// How a node is.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The version of evalmesh.
    pub version: String,
    /// This node.
    pub node: NodeId,
    /// Its process.
    pub pid: u32,
    /// How long it has been running.
    pub uptime: Duration,
    /// Where its ledger is; `None` for a node in memory.
    pub data_dir: Option<PathBuf>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// The engines that it computes with.
    pub evaluators: Vec<String>,
    /// Peers with an open lane.
    pub peers: Vec<PeerStatus>,
    /// Peers that could not be joined, with the reason.
    pub refused: Vec<RefusedPeer>,
    /// Questions in flight.
    pub in_flight: u64,
    /// Questions that some peer said it holds.
    pub index_facts: u64,
    /// What was answered, and from where.
    pub answers: AnswerCounts,
    /// Traffic with peers.
    pub traffic: TrafficCounts,
    /// The ledger.
    pub ledger: LedgerStatus,
}

/// A peer with an open lane.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub address: SocketAddr,
    /// The smoothed round trip, once measured.
    pub round_trip: Option<Duration>,
    /// The position up to which its log is known here.
    pub log_known: u64,
}

/// A peer that could not be joined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefusedPeer {
    /// Where.
    pub address: SocketAddr,
    /// Why.
    pub reason: String,
    /// Whether it is of another fleet.
    pub other_secret: bool,
}

/// Answers since the start, by where they came from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AnswerCounts {
    /// From memory.
    pub ram: u64,
    /// From the ledger.
    pub disk: u64,
    /// From a peer.
    pub fetched: u64,
    /// Evaluations started.
    pub computed: u64,
    /// Callers that joined a question already in flight.
    pub joined: u64,
}

/// Traffic with peers since the start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrafficCounts {
    /// Asks sent.
    pub asks_sent: u64,
    /// Of these, sent because the first holder was slow.
    pub hedged: u64,
    /// Asks answered for peers.
    pub served: u64,
    /// Announcement batches sent.
    pub batches: u64,
    /// Answers or batches that did not verify.
    pub disbelieved: u64,
    /// Frames that could not be sent because a peer's queue was full.
    pub dropped: u64,
}

/// The ledger in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LedgerStatus {
    /// Entries, all epochs together.
    pub entries: u64,
    /// Entries that survive a crash.
    pub durable: u64,
    /// Epochs: how often it was opened for writing.
    pub epochs: u64,
    /// Questions that it can answer.
    pub answers: u64,
    /// Damaged entries found so far.
    pub damaged: u64,
}
