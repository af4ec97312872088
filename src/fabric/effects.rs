//! What the fabric wants done, and the one place where it is handed to whoever does it.
//!
//! The node's driver and the simulator both call [`perform`]; neither interprets outputs itself. Invariant: no method of [`Effects`] blocks
//! or fails; whatever has a result comes back later as an [`Input`](super::Input).

use std::sync::Arc;

use bytes::Bytes;

use crate::bao::ProvenStart;
use crate::error::EvalError;
use crate::eval::Origin;
use crate::fabric::{FlightId, JobId, Time};
use crate::id::{ContentId, Digest, NodeId};
use crate::message::{Announcement, AskId, Manifest, Message, SegmentName};
use crate::proof::{Evidence, Hash};
use crate::record::Resolved;
use crate::reply::Reply;
use crate::verified::VerifiedReply;

/// A reply on its way to a caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The reply, every payload inline.
    pub reply: Reply,
    /// Where it came from.
    pub origin: Origin,
    /// Whether the ledger has it, or is about to.
    pub recorded: bool,
}

/// Why a connection is ended by this side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disconnect {
    /// There is no protocol version that both speak.
    #[error("it speaks protocol {theirs_oldest} to {theirs_newest}, this node speaks {ours_oldest} to {ours_newest}")]
    Protocol {
        /// The peer's oldest version.
        theirs_oldest: u16,
        /// The peer's newest version.
        theirs_newest: u16,
        /// Our oldest version.
        ours_oldest: u16,
        /// Our newest version.
        ours_newest: u16,
    },
    /// Something came before its hello.
    #[error("it spoke before it said hello")]
    NoHello,
    /// Its frames are not messages.
    #[error("it sent what is not a message: {0}")]
    Garbage(String),
    /// What it sent does not verify.
    #[error("it sent what does not verify: {0}")]
    Unbelievable(String),
    /// It was shown to lie a moment ago.
    #[error("it sent what does not verify a moment ago")]
    Shunned,
}

/// One thing that the fabric wants done.
#[derive(Debug)]
pub enum Output {
    /// Send a message; a peer that is gone loses it.
    Send(NodeId, Message),
    /// End the connection to a peer.
    Disconnect(NodeId, Disconnect),
    /// Start an evaluation; comes back as `Computed`.
    Compute(FlightId, ContentId, Arc<Resolved>),
    /// Nobody waits for this evaluation any more.
    CancelCompute(FlightId),
    /// Check an answer; comes back as `Checked`.
    Check(NodeId, AskId, ContentId, Evidence, Vec<Bytes>),
    /// Put together an answer whose payloads came in chunks; comes back as `Checked`.
    Assemble(NodeId, AskId, ContentId, Evidence, Vec<ProvenStart>),
    /// Check an announcement's signatures; comes back as `AnnouncementChecked`.
    CheckAnnouncement(NodeId, Arc<Announcement>),
    /// Check a manifest's signature; comes back as `ManifestChecked`.
    CheckManifest(NodeId, Arc<Manifest>),
    /// Check that these bytes are that segment; comes back as `SegmentChecked`. See [`segment::check`](super::segment::check).
    CheckSegment(NodeId, AskId, SegmentName, Bytes),
    /// Append a computed reply; comes back as `Recorded`.
    Record(FlightId, ContentId, Arc<Resolved>, Reply),
    /// Append a believed reply of somebody else in the background; announce it or not.
    Adopt(Box<VerifiedReply>, bool),
    /// Look an answer up for a peer; comes back as `Found`.
    LookUp(NodeId, AskId, ContentId),
    /// Read a chunk of a payload with its proof for a peer; comes back as `FoundChunk`.
    ReadChunk(NodeId, AskId, ContentId, Digest, u64, u32),
    /// Read one of this node's segments up to a log position for a peer; comes back as `FoundSegment`.
    ReadSegment(NodeId, AskId, u64, u64),
    /// Read this node's log from a position and sign it behind that chain; comes back as `LogRead`.
    ReadLog(u64, Hash),
    /// Name the segments that this manifest lacks, and sign it; comes back as `Described`. See [`segment::complete`](super::segment::complete).
    Describe(Manifest),
    /// Open a lane to a node, if there is a way to it.
    Connect(NodeId),
    /// End a caller's wait.
    Deliver(JobId, Result<Delivery, EvalError>),
    /// Call again with `Input::Wake` at this time; a later call replaces an earlier one.
    WakeAt(Time),
}

/// What a driver can do. One method per [`Output`].
pub trait Effects {
    /// See [`Output::Send`].
    fn send(&mut self, to: NodeId, message: Message);
    /// See [`Output::Disconnect`].
    fn disconnect(&mut self, peer: NodeId, reason: Disconnect);
    /// See [`Output::Compute`].
    fn compute(&mut self, flight: FlightId, id: ContentId, request: Arc<Resolved>);
    /// See [`Output::CancelCompute`].
    fn cancel_compute(&mut self, flight: FlightId);
    /// See [`Output::Check`].
    fn check(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, payloads: Vec<Bytes>);
    /// See [`Output::Assemble`].
    fn assemble(&mut self, from: NodeId, ask: AskId, id: ContentId, evidence: Evidence, proven: Vec<ProvenStart>);
    /// See [`Output::CheckAnnouncement`].
    fn check_announcement(&mut self, from: NodeId, announcement: Arc<Announcement>);
    /// See [`Output::CheckManifest`].
    fn check_manifest(&mut self, from: NodeId, manifest: Arc<Manifest>);
    /// See [`Output::CheckSegment`].
    fn check_segment(&mut self, from: NodeId, ask: AskId, name: SegmentName, bytes: Bytes);
    /// See [`Output::Record`].
    fn record(&mut self, flight: FlightId, id: ContentId, request: Arc<Resolved>, reply: Reply);
    /// See [`Output::Adopt`].
    fn adopt(&mut self, reply: Box<VerifiedReply>, announce: bool);
    /// See [`Output::LookUp`].
    fn look_up(&mut self, peer: NodeId, ask: AskId, id: ContentId);
    /// See [`Output::ReadChunk`].
    fn read_chunk(&mut self, peer: NodeId, ask: AskId, id: ContentId, blob: Digest, offset: u64, len: u32);
    /// See [`Output::ReadSegment`].
    fn read_segment(&mut self, peer: NodeId, ask: AskId, number: u64, end: u64);
    /// See [`Output::ReadLog`].
    fn read_log(&mut self, from: u64, chain: Hash);
    /// See [`Output::Describe`].
    fn describe(&mut self, manifest: Manifest);
    /// See [`Output::Connect`].
    fn connect(&mut self, peer: NodeId);
    /// See [`Output::Deliver`].
    fn deliver(&mut self, job: JobId, outcome: Result<Delivery, EvalError>);
    /// See [`Output::WakeAt`].
    fn wake_at(&mut self, at: Time);
}

/// Hands every output to the driver, in order, and leaves the list empty.
pub fn perform(outputs: &mut Vec<Output>, effects: &mut impl Effects) {
    for output in outputs.drain(..) {
        match output {
            Output::Send(to, message) => effects.send(to, message),
            Output::Disconnect(peer, reason) => effects.disconnect(peer, reason),
            Output::Compute(flight, id, request) => effects.compute(flight, id, request),
            Output::CancelCompute(flight) => effects.cancel_compute(flight),
            Output::Check(from, ask, id, evidence, payloads) => effects.check(from, ask, id, evidence, payloads),
            Output::Assemble(from, ask, id, evidence, proven) => effects.assemble(from, ask, id, evidence, proven),
            Output::CheckAnnouncement(from, announcement) => effects.check_announcement(from, announcement),
            Output::CheckManifest(from, manifest) => effects.check_manifest(from, manifest),
            Output::CheckSegment(from, ask, name, bytes) => effects.check_segment(from, ask, name, bytes),
            Output::Record(flight, id, request, reply) => effects.record(flight, id, request, reply),
            Output::Adopt(reply, announce) => effects.adopt(reply, announce),
            Output::LookUp(peer, ask, id) => effects.look_up(peer, ask, id),
            Output::ReadChunk(peer, ask, id, blob, offset, len) => {
                effects.read_chunk(peer, ask, id, blob, offset, len);
            }
            Output::ReadSegment(peer, ask, number, end) => effects.read_segment(peer, ask, number, end),
            Output::ReadLog(from, chain) => effects.read_log(from, chain),
            Output::Describe(manifest) => effects.describe(manifest),
            Output::Connect(peer) => effects.connect(peer),
            Output::Deliver(job, outcome) => effects.deliver(job, outcome),
            Output::WakeAt(at) => effects.wake_at(at),
        }
    }
}
