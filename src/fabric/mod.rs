//! The decision-maker: a state machine without I/O, clock or randomness.
//!
//! Hand in one [`Input`] and the time with [`Fabric::handle`], get [`Output`]s back, let [`perform`] carry them out; completions come back as
//! inputs. The same inputs in the same order give the same outputs, so a simulation of it *is* it. It never touches bytes of programs or
//! ledgers, and it knows neither sockets nor threads.
//!
//! The walk of one eval here (a cassette hit never gets this far): join the flight of the same question, or start one; ask the best known
//! holder, hedged to a second; compute when nobody holds it, or beside the asks when they take longer than one round trip; record; deliver;
//! announce. Files: `flight` (one question in flight), `ask` (its asks), `transfer` (large replies), `pieces` (which
//! chunk of them is whose), `standing` (whom to ask), `serve`
//! (answering peers), `peers` (lanes and liveness), `logs` (announcing the own log), `learn` (the logs of others), `overlay` (who is told
//! what), `relay` (what neighbours know and may ask for), `holders` (the index), `segment` (sealed pieces of it).

mod ask;
mod effects;
mod flight;
mod holders;
mod learn;
mod logs;
mod overlay;
mod peers;
mod pieces;
mod relay;
pub mod segment;
mod serve;
mod standing;
#[cfg(test)]
mod tests;
mod time;
mod transfer;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

pub use self::effects::{Delivery, Disconnect, Effects, Output, perform};
use self::flight::Flight;
pub use self::holders::{HolderIndex, IndexStats, LogStats, Merge};
use self::learn::Learning;
pub use self::learn::Verdict;
use self::logs::OwnLog;
pub use self::peers::Liveness;
use self::peers::Peer;
use self::relay::Relay;
use self::serve::Tickets;
use self::standing::Standings;
pub use self::time::Time;
use self::time::Timers;
use crate::bao::ChunkProof;
use crate::error::EvalError;
use crate::id::{ContentId, NodeId};
use crate::limits::{HEARTBEAT, INDEX_BYTES, MESH_LANES};
use crate::message::{Announcement, AskId, EpochStart, Manifest, Message, Row};
use crate::proof::Evidence;
use crate::record::Resolved;
use crate::reply::Reply;
use crate::request::AnswerFrom;
use crate::verified::Checked;

/// Names one caller's wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(pub u64);

/// Names one question in flight on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlightId(pub u64);

/// What the fabric is told at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// This node.
    pub me: NodeId,
    /// The epochs of this node's log, oldest first, the current one last.
    pub lineage: Vec<EpochStart>,
    /// The durable length of this node's log.
    pub length: u64,
    /// How long to wait for a known holder before computing beside it; `None` means one measured round trip plus 2 ms.
    pub patience: Option<Duration>,
    /// Memory for the holder index, in bytes.
    pub index_bytes: u64,
    /// With more lanes than this, news goes over the links of an overlay instead of to everybody.
    pub mesh_lanes: usize,
}

impl Config {
    /// The usual bounds for this node and its log.
    #[must_use]
    pub fn new(me: NodeId, lineage: Vec<EpochStart>, length: u64) -> Self {
        Self { me, lineage, length, patience: None, index_bytes: INDEX_BYTES, mesh_lanes: MESH_LANES }
    }
}

/// One caller's question, after a miss in the cassette.
#[derive(Debug, Clone)]
pub struct Ask {
    /// The caller.
    pub job: JobId,
    /// The question.
    pub id: ContentId,
    /// What to compute if nobody holds it; `None` when only the id is known.
    pub request: Option<Arc<Resolved>>,
    /// Where the answer may come from.
    pub answer_from: AnswerFrom,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
}

/// What happens to the fabric.
#[derive(Debug)]
pub enum Input {
    /// A caller asks.
    Eval(Ask),
    /// A caller went away.
    Abandon(JobId),
    /// A lane to a peer opened.
    PeerUp(NodeId),
    /// A lane to a peer closed.
    PeerDown(NodeId),
    /// A message came in.
    Message(NodeId, Message),
    /// What came in from a peer was no message.
    Garbage(NodeId, String),
    /// An evaluation ended.
    Computed(FlightId, Result<Reply, EvalError>),
    /// Another node computed it and holds the answer; the error is why this node could not, for who has no answer in the end.
    Placed(FlightId, NodeId, EvalError),
    /// A computed reply was appended, or could not be.
    Recorded(FlightId, Result<(), String>),
    /// An answer was checked; the error says why it is not believed.
    Checked(NodeId, AskId, Result<Checked, String>),
    /// An announcement's signature was checked, or could not be now.
    AnnouncementChecked(NodeId, Arc<Announcement>, Verdict),
    /// A manifest's signature was checked; `None` if it could not be now.
    ManifestChecked(NodeId, Arc<Manifest>, Option<bool>),
    /// A segment's digest was checked: its keys and bytes, or why it is not the one asked for; `None` if it could not be checked now.
    SegmentChecked(NodeId, AskId, Option<Result<(Vec<u64>, Bytes), String>>),
    /// A look-up for a peer ended: evidence and all payloads, or none of the payloads if they are too large.
    Found(NodeId, AskId, Option<(Evidence, Vec<Bytes>)>),
    /// A read of a chunk for a peer ended: its bytes and what proves them.
    FoundChunk(NodeId, AskId, Option<(Bytes, ChunkProof)>),
    /// A read of one of this node's segments for a peer ended.
    FoundSegment(NodeId, AskId, Option<Bytes>),
    /// There is no time now to look or read something up for a peer.
    NoTime(NodeId, AskId),
    /// A read of this node's log ended.
    LogRead(Option<Announcement>),
    /// A manifest of this node's log was made, or could not be.
    Described(Option<Manifest>),
    /// The ledger dropped everything before this position.
    Dropped(u64),
    /// This node's log is durable up to this length.
    Durable(u64),
    /// The time asked for with `WakeAt` has come.
    Wake,
}

impl Input {
    /// The peer of which more, or something else, is known after this.
    #[must_use]
    pub fn about(&self) -> Option<NodeId> {
        match self {
            Self::PeerUp(peer)
            | Self::PeerDown(peer)
            | Self::Message(peer, _)
            | Self::Garbage(peer, _)
            | Self::Placed(_, peer, _)
            | Self::Checked(peer, ..)
            | Self::SegmentChecked(peer, ..)
            | Self::Found(peer, ..)
            | Self::FoundChunk(peer, ..)
            | Self::FoundSegment(peer, ..)
            | Self::NoTime(peer, _) => Some(*peer),
            Self::AnnouncementChecked(_, announcement, _) => Some(announcement.author()),
            Self::ManifestChecked(_, manifest, _) => Some(manifest.node),
            Self::Eval(_)
            | Self::Abandon(_)
            | Self::Computed(..)
            | Self::Recorded(..)
            | Self::LogRead(_)
            | Self::Described(_)
            | Self::Dropped(_)
            | Self::Durable(_)
            | Self::Wake => None,
        }
    }
}

/// Counts since the start, for `status`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Callers' questions that reached the fabric.
    pub asked: u64,
    /// Of these, those that joined a question in flight.
    pub joined: u64,
    /// Evaluations started.
    pub computed: u64,
    /// Questions answered by a peer.
    pub fetched: u64,
    /// Asks sent to peers.
    pub asks_sent: u64,
    /// Asks that a second holder got because the first was slow.
    pub hedged: u64,
    /// Chunks of large replies that came and were proven.
    pub chunks: u64,
    /// Bytes of large replies that came for nothing: wrong, too late, or here already.
    pub wasted: u64,
    /// Chunks asked of a faster holder while a slower one had not brought them yet.
    pub stolen: u64,
    /// Chunks that were asked for again because nothing came of any holder.
    pub renewed: u64,
    /// Holders that were lost, stalled, refused or lied in the middle of a transfer that went on without them.
    pub replaced: u64,
    /// Asks answered for peers.
    pub served: u64,
    /// Peers caught with something that does not verify.
    pub disbelieved: u64,
    /// Announcement batches sent.
    pub batches: u64,
    /// Segments of others' logs fetched.
    pub segments: u64,
    /// Announcements and manifests that brought nothing new.
    pub duplicates: u64,
    /// Announcements and manifests dropped because too many of one peer were being checked.
    pub flooded: u64,
    /// Asks of peers refused because too many of one peer were under way.
    pub refused: u64,
    /// Messages ignored because their sender had not said hello.
    pub unheard: u64,
    /// Authors caught with two histories of one epoch.
    pub equivocations: u64,
    /// Entries asked for because only word of them came.
    pub grafts: u64,
}

#[derive(Debug, Clone, Copy)]
enum Timer {
    Heartbeat,
    Heartbeats,
    Announce,
    Deadline(JobId),
    ComputeBeside(FlightId),
    Hedge(FlightId),
    AskTimeout(AskId),
    Transfer(FlightId),
    Graft(NodeId),
}

/// The decision-maker; see the module's front page.
#[derive(Debug)]
pub struct Fabric {
    config: Config,
    peers: BTreeMap<NodeId, Peer>,
    /// Heartbeats so far.
    beats: u64,
    /// Who is still to be told of the last one, and how many of them at a time.
    owed: VecDeque<NodeId>,
    portion: usize,
    shunned: BTreeMap<NodeId, Time>,
    holders: HolderIndex,
    own_log: OwnLog,
    learning: Learning,
    relay: Relay,
    standings: Standings,
    tickets: Tickets,
    flights: BTreeMap<FlightId, Box<Flight>>,
    /// Invariant: names exactly the flights that may be joined.
    by_id: BTreeMap<ContentId, FlightId>,
    /// Invariant: names exactly the waiters of all flights.
    jobs: BTreeMap<JobId, FlightId>,
    /// Invariant: names exactly the asks (for replies, for chunks, for putting these together) of all flights.
    asks: BTreeMap<AskId, FlightId>,
    timers: Timers<Timer>,
    woken_at: Option<Time>,
    next_id: u64,
    counters: Counters,
}

/// The moment of one call and where its outputs go.
struct Step<'a> {
    now: Time,
    out: &'a mut Vec<Output>,
}

impl Fabric {
    /// A fabric without peers. The first heartbeat is due one interval after `Time::default()`.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let mut timers = Timers::default();
        timers.set(Time::default() + HEARTBEAT, Timer::Heartbeat);
        Self {
            own_log: OwnLog::new(&config),
            learning: Learning::default(),
            relay: Relay::default(),
            standings: Standings::default(),
            tickets: Tickets::default(),
            peers: BTreeMap::new(),
            beats: 0,
            owed: VecDeque::new(),
            portion: 0,
            shunned: BTreeMap::new(),
            holders: HolderIndex::new(config.index_bytes),
            config,
            flights: BTreeMap::new(),
            by_id: BTreeMap::new(),
            jobs: BTreeMap::new(),
            asks: BTreeMap::new(),
            timers,
            woken_at: None,
            next_id: 0,
            counters: Counters::default(),
        }
    }

    /// Takes one input. `now` never goes back. Outputs are appended in the order in which they are to be performed.
    pub fn handle(&mut self, now: Time, input: Input, out: &mut Vec<Output>) {
        let step = &mut Step { now, out };
        match input {
            Input::Eval(ask) => self.on_eval(step, ask),
            Input::Abandon(job) => self.on_abandon(step, job),
            Input::PeerUp(peer) => self.on_peer_up(step, peer),
            Input::PeerDown(peer) => self.on_peer_down(step, peer),
            Input::Message(from, message) => self.on_message(step, from, message),
            Input::Garbage(from, what) => self.end_lane(step, from, Disconnect::Garbage(what)),
            Input::Computed(flight, result) => self.on_computed(step, flight, result),
            Input::Placed(flight, peer, error) => self.on_placed(step, flight, peer, error),
            Input::Recorded(flight, result) => self.on_recorded(step, flight, result),
            Input::Checked(from, ask, result) => self.on_checked(step, from, ask, result),
            Input::AnnouncementChecked(from, announcement, verdict) => {
                self.on_announcement_checked(step, from, announcement, verdict);
            }
            Input::ManifestChecked(from, manifest, holds) => self.on_manifest_checked(step, from, manifest, holds),
            Input::SegmentChecked(from, ask, checked) => self.on_segment_checked(step, from, ask, checked),
            Input::Found(to, ask, found) => self.on_found(step, to, ask, found),
            Input::FoundChunk(to, ask, bytes) => self.on_found_chunk(step, to, ask, bytes),
            Input::FoundSegment(to, ask, bytes) => self.on_found_segment(step, to, ask, bytes),
            Input::NoTime(to, ask) => drop(self.served(step, to, ask, Message::Busy { ask })),
            Input::LogRead(announcement) => self.on_log_read(step, announcement),
            Input::Described(manifest) => self.on_described(step, manifest),
            Input::Dropped(floor) => self.on_dropped(floor),
            Input::Durable(length) => self.on_durable(step, length),
            // Whatever the timer's precision: what is not due yet is asked for again.
            Input::Wake => self.woken_at = None,
        }
        self.fire_due(step);
        let next = self.timers.next_at();
        if next != self.woken_at || step.now >= self.woken_at.unwrap_or_default() {
            self.woken_at = next;
            step.out.extend(next.map(Output::WakeAt));
        }
        self.assert_invariants();
    }

    fn fire_due(&mut self, step: &mut Step<'_>) {
        while let Some(timer) = self.timers.pop_due(step.now) {
            match timer {
                Timer::Heartbeat => self.on_heartbeat(step),
                Timer::Heartbeats => self.on_heartbeats(step),
                Timer::Announce => self.on_announce(step),
                Timer::Deadline(job) => self.on_deadline(step, job),
                Timer::ComputeBeside(flight) => self.on_compute_beside(step, flight),
                Timer::Hedge(flight) => self.on_hedge(step, flight),
                Timer::AskTimeout(ask) => self.on_ask_timeout(step, ask),
                Timer::Transfer(flight) => self.on_transfer_due(step, flight),
                Timer::Graft(author) => self.on_graft_due(step, author),
            }
        }
    }

    fn on_message(&mut self, step: &mut Step<'_>, from: NodeId, message: Message) {
        if !self.hear(step, from, &message) {
            return;
        }
        match message {
            Message::Hello { newest, oldest, lineage, length } => {
                self.on_hello(step, from, (oldest, newest), lineage, length);
            }
            Message::Heads { epoch, length, floor, rows, nonce, pace } => {
                self.on_heads(step, from, Row { node: from, epoch, length }, floor, &rows, (nonce, pace));
            }
            Message::Pong { nonce } => self.on_pong(step, from, nonce),
            Message::Pull { node, from: position } => self.on_pull(step, from, node, position),
            Message::Describe => self.describe_to(step, from),
            Message::Announce(announcement) => self.on_announcement(step, from, announcement),
            Message::Manifest(manifest) => self.on_manifest(step, from, manifest),
            Message::GetSegment { ask, node, number, end, digest } => {
                self.on_get_segment(step, from, ask, (node, number, end), digest);
            }
            Message::Segment { ask, bytes } => self.on_segment(step, from, ask, bytes),
            Message::Have { rows } => self.on_have(step, from, &rows),
            Message::Graft { node, from: position } => self.on_graft(step, from, node, position),
            Message::Prune => self.on_prune(from),
            Message::Link { on } => self.on_link(step, from, on),
            Message::Ask { ask, id } => self.on_ask(step, from, ask, id),
            Message::GetChunk { ask, id, blob, offset, len } => {
                self.on_get_chunk(step, from, ask, (id, blob), (offset, len));
            }
            Message::Held { ask, evidence, payloads, announce } => {
                self.on_held(step, from, ask, (evidence, announce), payloads);
            }
            Message::NotHeld { ask } => self.on_not_held(step, from, ask),
            Message::Busy { ask } => self.on_busy(step, from, ask),
            Message::Chunk { ask, bytes } => self.on_chunk(step, from, ask, bytes, Vec::new()),
            Message::ProvenChunk { ask, bytes, siblings } => self.on_chunk(step, from, ask, bytes, siblings),
            Message::Leaves { ask, proof } => self.on_leaves(step, from, ask, proof),
            Message::Leaf { ask, number, bytes } => self.on_leaf(step, from, ask, number, bytes),
            // Where nodes listen is the driver's affair. Look-ups are short: by the time a cancel comes, the answer is on its way.
            Message::Cancel { .. } | Message::Addresses(_) | Message::WhereIs { .. } | Message::Placement(_) => {}
        }
    }

    fn fresh_id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Peers whose lane is open and greeted.
    pub fn live_peers(&self) -> impl Iterator<Item = NodeId> {
        self.peers.iter().filter(|(_, peer)| peer.is_greeted()).map(|(node, _)| *node)
    }

    /// The smoothed round trip to a peer, once measured.
    #[must_use]
    pub fn round_trip(&self, peer: NodeId) -> Option<Duration> {
        self.peers.get(&peer).and_then(Peer::round_trip)
    }

    /// Who holds what, as far as this node knows.
    #[must_use]
    pub fn holders(&self) -> &HolderIndex {
        &self.holders
    }

    /// How many entries of a peer's log are not known here yet, by its own word.
    #[must_use]
    pub fn lag(&self, peer: NodeId) -> u64 {
        self.learning.heard_of(peer).saturating_sub(self.holders.known(peer))
    }

    /// The share of asks that a holder served lately, in [0, 1].
    #[must_use]
    pub fn hit_ratio(&self, peer: NodeId) -> f64 {
        self.standings.hit_ratio(peer)
    }

    /// The smoothed time in which a holder answers, once it did.
    #[must_use]
    pub fn answer_latency(&self, peer: NodeId) -> Option<Duration> {
        self.standings.latency(peer).map(|(smoothed, _)| smoothed)
    }

    /// Counts since the start.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// Logs that are being caught up with by their segments.
    #[must_use]
    pub fn catching_up(&self) -> usize {
        self.learning.fetches()
    }

    /// Questions in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.flights.len()
    }

    /// The cross-references between maps, checked after every input in builds with debug assertions.
    fn assert_invariants(&self) {
        debug_assert!(self.by_id.iter().all(|(id, flight)| self.flights.get(flight).is_some_and(|f| f.id == *id)));
        debug_assert_eq!(self.jobs.len(), self.flights.values().map(|flight| flight.waiters.len()).sum::<usize>());
        debug_assert!(self.flights.values().all(|flight| !flight.waiters.is_empty()), "a flight without waiters");
        debug_assert!(self.learning.is_consistent(), "asks for segments and their fetches differ");
        debug_assert!(
            self.flights.values().all(|flight| flight.is_consistent()),
            "a leaf is in two places, or in none"
        );
        debug_assert_eq!(self.asks.len(), self.flights.values().map(|flight| flight.asks_in_flight()).sum::<usize>());
    }
}
