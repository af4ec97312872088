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
/// Chunks asked of one holder ahead of those that arrived, at most; covers the bandwidth-delay product of a LAN.
pub const CHUNKS_IN_FLIGHT: usize = 8;
/// Chaining values that prove one chunk: at most two on each level of a tree over as many leaves of 16 KiB as there can be.
pub const MAX_SIBLINGS: usize = 100;
/// A holder that brought no chunk of a transfer for so long has its chunks asked of others, or of itself again if there are none.
pub const SOURCE_STALL: Duration = Duration::from_secs(2);
/// How often it is looked at whether a faster holder may take over what a slower one did not bring yet, at the end of a transfer.
pub const STEAL_EVERY: Duration = Duration::from_millis(20);

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
/// Between two announcements of one node that are not full: a fact that comes after a pause goes at once, those that follow wait for company.
pub const BATCH_DELAY: Duration = Duration::from_millis(10);
/// Holders remembered per fact, and beyond which an adoption is no longer announced: a hot id must not cost N^2 facts.
pub const MAX_HOLDERS: usize = 8;
/// Log positions in one sealed segment: about 50 KB on the wire, and merged in under three milliseconds.
pub const SEGMENT: u64 = 16 * 1024;
/// Bytes of one segment: a code is at most `KEY_BITS + 2` bits on average over a full one, and damaged ones are refused.
pub const MAX_SEGMENT_BYTES: usize = 128 * 1024;
/// Segments that a manifest names: logs of up to 2^28 positions, 600 KB on the wire.
pub const MAX_SEGMENTS: usize = 16 * 1024;
/// Segments asked of one peer at the same time: enough to hide a round trip, few enough to leave its disk to others.
pub const SEGMENTS_IN_FLIGHT: usize = 4;
/// Logs that the index follows; one costs about 300 bytes.
pub const MAX_LOGS: usize = 64 * 1024;
/// Memory of the holder index unless configured otherwise: about 2 * 10^8 facts.
pub const INDEX_BYTES: u64 = 1024 * 1024 * 1024;
/// While masked runs are swept, one page is swept per this many insertions: done long before the spare sixteenth of the budget is used up.
pub const SWEEP_EVERY: u32 = 8;
/// Pages swept with each heartbeat, about a millisecond.
pub const SWEEP_PAGES: usize = 512;
/// Own announcements kept for whoever pulls; from further back a manifest is the answer.
pub const RECENT_BATCHES: usize = 64;
/// Announcements sent in answer to one pull.
pub const PULL_WINDOW: usize = 8;
/// Announcements and manifests of one peer that are being checked; more are dropped and pulled again later.
pub const MAX_CHECKS_PER_PEER: usize = 32;
/// Logs that are fetched by manifest at the same time; the others' turn comes with a later heartbeat.
pub const MAX_FETCHES: usize = 16;
/// Logs asked for between two heartbeats.
pub const MAX_PULLS: usize = 1024;
/// Lanes from which on a node no longer pushes to all of them: the overlay's links take over.
pub const MESH_LANES: usize = 256;
/// Neighbours that a node chooses in the overlay; as many choose it, on average, which makes a degree of eight.
pub const LINKS_CHOSEN: usize = 4;
/// Announcements of others kept in the overlay for whoever pulls: about 24 MB if all are full.
pub const RELAYED_BATCHES: usize = 1024;
/// Manifests of others kept in the overlay.
pub const RELAYED_MANIFESTS: usize = 1024;
/// Segments of others kept in the overlay: about 26 MB.
pub const RELAYED_SEGMENTS: usize = 512;
/// Of these, segments of one log that a neighbour fetches though it knows what they say, so that others can have them from it.
pub const RELAYED_PER_LOG: usize = 16;
/// How often each neighbour is asked for a log, one after the other with every heartbeat, before it is left to news of it to ask again.
pub const PULL_ROUNDS: usize = 4;
/// Round trips that a lazy link waits at least for the entries to come by another way before it asks for them.
pub const GRAFT_ROUND_TRIPS: u32 = 3;
/// So many it waits at most, however late entries always are: whoever hears of them so much earlier has a shorter way to their author.
pub const GRAFT_ROUND_TRIPS_AT_MOST: u32 = 8;
/// Segments of a log whose manifest is pushed over eager links, 2 KB: whoever gets a longer one has word of it only.
pub const PUSHED_SEGMENTS: usize = 64;
/// A peer that was not heard of for so many of its heartbeats is asked only if nobody else holds the answer.
pub const SUSPECT_AFTER: u32 = 3;
/// A peer that was not heard of for this long, and not for [`DEAD_BEATS`] of its heartbeats, is masked in the index until it is heard of again.
pub const DEAD_AFTER: Duration = Duration::from_secs(10);
/// See [`DEAD_AFTER`].
pub const DEAD_BEATS: u32 = 5;
/// Heartbeats after which a lane whose peer never said hello is ended.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(10);
/// Nodes whose standing as holders is remembered; beyond it the ones with the lowest name are forgotten first.
pub const MAX_STANDINGS: usize = 16 * 1024;
/// How long a holder with no standing left is not asked before it gets another chance.
pub const PROBATION: Duration = Duration::from_secs(10);
/// Questions for which this node remembers how many holders it let announce; the oldest is forgotten first.
pub const MAX_TICKETS: usize = 64 * 1024;
/// Rows of a version vector in one message, about 50 bytes each.
pub const MAX_ROWS: usize = 1024;
/// Epochs a peer's log may consist of before its oldest are forgotten.
pub const MAX_LINEAGE: usize = 4096;
/// Addresses that one node may say it listens on: a few interfaces in two families.
pub const MAX_LISTEN_ADDRS: usize = 16;
/// Peers that one list of addresses may name: as many as a full mesh has.
pub const MAX_TOLD_PEERS: usize = 256;
/// Nodes whose addresses are remembered after their lanes went down; the one that went down first is forgotten first.
pub const MAX_REMEMBERED: usize = 1024;
/// Nodes that a node looks for at the same time because somebody wants to ask them; further ones are left to mere chance.
pub const MAX_SOUGHT: usize = 256;
/// Peers that are asked at once where a node listens; the next ones when it is looked for again.
pub const ASKED_WHERE: usize = 3;
/// How long a node that could not be reached is not looked for again; doubles with every attempt.
pub const SEEK_AGAIN: Duration = Duration::from_secs(1);
/// The longest such wait.
pub const SEEK_AGAIN_AT_MOST: Duration = Duration::from_secs(64);
/// Device classes that one node may offer: as many devices as a machine has.
pub const MAX_OFFERED: usize = 64;
/// Evaluations that one node does for others at one time; the next one is refused as busy, and another node is asked.
pub const MAX_PLACED: usize = 16;
/// Bytes of a program and its inputs that travel to another node to be evaluated there: what fits a frame.
pub const PLACED_BYTES: usize = 1024 * 1024;
/// How often a node beats: what was lost is asked for again, and peers are told how long its log is. All of them, up to [`PEERS_PER_BEAT`].
pub const HEARTBEAT: Duration = Duration::from_secs(1);
/// Peers that are told with each beat. More take turns, so that being alive costs a node the same in a fleet of any size.
pub const PEERS_PER_BEAT: usize = 32;
/// Of more than twice as many heartbeats so many are sent at once, and the others over the rest of the second.
pub const HEARTBEATS_AT_ONCE: usize = 8;
/// The most beats between two heartbeats to the same peer, so that a fleet of any size notices who is gone.
pub const MAX_PACE: u8 = 8;
/// How often a heartbeat wants a pong once a peer's round trip is known: more often would be half of all messages of a quiet fleet.
pub const MEASURE_EVERY: Duration = Duration::from_secs(8);
/// So many heartbeats of a new peer want a pong each, until the round trip is known well.
pub const FIRST_PONGS: u32 = 8;
/// First guess of a peer's round trip, before anything was measured.
pub const FIRST_RTT: Duration = Duration::from_millis(50);
/// How long after one round trip an evaluation is begun beside a look-up. A look-up may cost two milliseconds more than a round trip before
/// computing starts; the rest of them is for the alarm that goes off and the threads that begin it.
pub const ASK_GRACE: Duration = Duration::from_micros(1500);
/// After this a holder that did not answer is given up for this question.
pub const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// A transfer that brought no byte for this long is given up.
pub const TRANSFER_STALL: Duration = Duration::from_secs(10);
