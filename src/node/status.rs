//! What a node says of itself; plain data that crosses the control socket and is printed as text or JSON.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

#[cfg(feature = "gpu")]
use crate::evaluator::gpu::PipelineReport;
#[cfg(feature = "wasm")]
use crate::evaluator::slots::{SlotKind, SlotLimits, Version};
#[cfg(feature = "wasm")]
use crate::evaluator::wasm::ArtifactReport;
use crate::fabric::Liveness;
#[cfg(feature = "wasm")]
use crate::id::Digest;
use crate::id::NodeId;
#[cfg(feature = "wasm")]
use crate::request::Name;

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
    /// Facts in the holder index: a question that two peers hold counts twice.
    pub index_facts: u64,
    /// The holder index.
    pub index: IndexStatus,
    /// What was answered, and from where.
    pub answers: AnswerCounts,
    /// Traffic with peers.
    pub traffic: TrafficCounts,
    /// The ledger.
    pub ledger: LedgerStatus,
    /// The wasm evaluator, where one runs.
    #[cfg(feature = "wasm")]
    pub wasm: Option<WasmStatus>,
    /// What is known of its GPUs, in a few words.
    #[cfg(feature = "gpu")]
    pub gpu: String,
    /// The device classes that it answers.
    #[cfg(feature = "gpu")]
    pub device_classes: Vec<String>,
    /// What became of what drivers compiled; nothing where there is no GPU evaluator.
    #[cfg(feature = "gpu")]
    pub pipelines: Option<PipelineReport>,
}

/// The wasm evaluator in numbers.
#[cfg(feature = "wasm")]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WasmStatus {
    /// Instances that run, of those that there may be: from 0 to 1.
    pub instances: f64,
    /// Linear memories in use, of those that there may be: from 0 to 1.
    pub memories: f64,
    /// Programs under names.
    pub slots: u64,
    /// Where compiled code came from.
    pub artifacts: ArtifactReport,
}

/// A program under a name.
#[cfg(feature = "wasm")]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotStatus {
    /// The name.
    pub name: Name,
    /// What it promises.
    pub kind: SlotKind,
    /// Its version.
    pub number: u64,
    /// The program.
    pub digest: Digest,
    /// How long the program is.
    pub bytes: u64,
    /// What a call may use.
    pub limits: SlotLimits,
}

#[cfg(feature = "wasm")]
impl From<&Version> for SlotStatus {
    fn from(version: &Version) -> Self {
        let Version { name, kind, number, digest, limits, .. } = version;
        let bytes = version.len();
        Self { name: name.clone(), kind: *kind, number: *number, digest: *digest, bytes, limits: limits.clone() }
    }
}

/// The holder index in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct IndexStatus {
    /// Memory in bytes.
    pub bytes: u64,
    /// The most that it may take.
    pub budget: u64,
    /// Memory for each fact, in bytes.
    pub bytes_per_fact: f64,
    /// Facts that the budget left no room for.
    pub dropped: u64,
    /// Facts that turned out not to be held.
    pub corrected: u64,
}

/// Whether a peer can be counted on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PeerState {
    /// It was heard of lately.
    #[default]
    Alive,
    /// It missed a few heartbeats.
    Suspect,
    /// It was not heard of for long, though its lane is still open.
    Dead,
    /// It has no lane to this node.
    Away,
}

impl From<Liveness> for PeerState {
    fn from(liveness: Liveness) -> Self {
        match liveness {
            Liveness::Alive => Self::Alive,
            Liveness::Suspect => Self::Suspect,
            Liveness::Dead => Self::Dead,
            Liveness::Away => Self::Away,
        }
    }
}

impl fmt::Display for PeerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Dead => "dead",
            Self::Away => "away",
        })
    }
}

/// A node that is said to hold an answer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HolderStatus {
    /// Who.
    pub node: NodeId,
    /// Whether it can be asked.
    pub state: PeerState,
    /// The share of asks that it served lately, in [0, 1].
    pub hit_ratio: f64,
    /// The smoothed time in which it answers, once it did.
    pub answers_in: Option<Duration>,
}

/// A peer with an open lane.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PeerStatus {
    /// Who.
    pub node: NodeId,
    /// Where.
    pub address: SocketAddr,
    /// The smoothed round trip, once measured.
    pub round_trip: Option<Duration>,
    /// The position up to which its log is known here.
    pub log_known: u64,
    /// Entries of its log that are not known here yet.
    pub lag: u64,
    /// Whether it can be counted on.
    pub state: PeerState,
    /// The share of asks that it served lately, in [0, 1].
    pub hit_ratio: f64,
    /// The smoothed time in which it answers, once it did.
    pub answers_in: Option<Duration>,
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
    /// Bytes of large replies that came for nothing: wrong, too late, or here already.
    pub wasted: u64,
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
