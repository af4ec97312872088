//! Every bound of the value layer and the fabric, with its reason. A full queue or an oversized value is a typed answer, never a surprise.
//!
//! Bounds of one transport, evaluator or store live in that folder's own `limits.rs`.

use std::time::Duration;

/// Arguments, environment and names of one request together. Ids are hashed on the caller's thread; this keeps that under a millisecond.
pub const MAX_REQUEST_TEXT: usize = 256 * 1024;
/// Inputs of one request. A guest's directory listing stays linear and small.
pub const MAX_INPUTS: usize = 4096;
/// Bytes of a path inside a request or reply, as on Linux.
pub const MAX_PATH: usize = 4096;
/// Files that one reply may name, so that a record stays well under a frame.
pub const MAX_OUTPUT_FILES: usize = 4096;
/// How deep a graph of requests may nest; a deeper graph is refused before anything runs.
pub const MAX_GRAPH_DEPTH: usize = 32;
/// Canonical bytes of one record: metadata only, payloads are named by digest.
pub const MAX_RECORD: usize = 1024 * 1024;
/// Inclusion proofs longer than this would need more than 2^64 leaves.
pub const MAX_PROOF: usize = 64;

/// Program, inputs and outputs that a node holds in memory for one evaluation.
pub const MAX_PAYLOAD: u64 = 1024 * 1024 * 1024;
/// Replies up to this size travel inside the answer; larger outputs are fetched in chunks.
pub const INLINE_REPLY: usize = 256 * 1024;
/// One chunk of a large output: 64 KiB chunks move best through noise and yamux, a few of them make one frame.
pub const CHUNK: u32 = 256 * 1024;
/// Chunks asked for ahead of those that arrived; covers the bandwidth-delay product of a LAN.
pub const CHUNKS_IN_FLIGHT: usize = 8;

/// Evaluations that may be in flight on one node; the next caller gets `Busy`.
pub const MAX_FLIGHTS: usize = 16 * 1024;
/// Callers that may wait on one node, joined callers included.
pub const MAX_WAITERS: usize = 64 * 1024;
/// Asks that one peer may have in flight here; further ones are answered "not held".
pub const MAX_ASKS_PER_PEER: usize = 1024;
/// Holders asked for one question: the best one and one hedge. A lookup is never a chain of timeouts.
pub const MAX_ASKED: usize = 2;
/// Peers asked when no holder is known but the caller wants a held answer or nothing.
pub const MAX_ASKED_CACHED_ONLY: usize = 8;
/// Facts in one announcement batch.
pub const BATCH_FACTS: usize = 1000;
/// How long a fresh fact may wait for company before it is announced.
pub const BATCH_DELAY: Duration = Duration::from_millis(10);
/// Holders remembered per fact, and beyond which an adoption is no longer announced: a hot id must not cost N^2 facts.
pub const MAX_HOLDERS: usize = 8;
/// Facts remembered per peer before the index stops taking more from it. The compact index will raise this.
pub const MAX_FACTS_PER_PEER: usize = 4_000_000;
/// Epochs a peer's log may consist of before its oldest are forgotten.
pub const MAX_LINEAGE: usize = 4096;
/// Addresses that one node may say it listens on: a few interfaces in two families.
pub const MAX_LISTEN_ADDRS: usize = 16;
/// Peers that one list of addresses may name: as many as a full mesh has.
pub const MAX_TOLD_PEERS: usize = 256;
/// How often a node tells each peer how long its log is; also the heartbeat.
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// First guess of a peer's round trip, before anything was measured.
pub const FIRST_RTT: Duration = Duration::from_millis(50);
/// What a lookup may cost beyond one round trip before computing starts beside it.
pub const ASK_GRACE: Duration = Duration::from_millis(2);
/// After this a holder that did not answer is given up for this question.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer that brought no byte for this long is given up.
pub const TRANSFER_STALL: Duration = Duration::from_secs(10);
