//! What can be drawn and told of a run: frames on their way, figures over time, events as text.
//!
//! Invariant: watching changes nothing; a run that is watched has the same digest.

use std::fmt;
use std::time::Duration;

use super::Place;
use super::queue::Event;
use crate::fabric::Time;
use crate::message::Message;

/// Frames that are kept for drawing; a picture shows no more.
const MAX_HOPS: usize = 6000;

/// A frame on its way.
#[derive(Debug, Clone, Copy)]
pub struct Hop {
    /// From where to where.
    pub between: (Place, Place),
    /// When it was sent.
    pub sent: Time,
    /// When it arrives; `None` if it was lost.
    pub arrives: Option<Time>,
    /// What it is.
    pub what: &'static str,
}

/// Frames on their way, as many as a picture shows: the chatter of heartbeats is left out.
#[derive(Debug, Clone, Default)]
pub(super) struct Hops(pub(super) Vec<Hop>);

impl Hops {
    pub(super) fn note(&mut self, sent: Time, between: (Place, Place), arrives: Option<Time>, bytes: &[u8]) {
        if self.0.len() >= MAX_HOPS {
            return;
        }
        let what = crate::wire::decode(bytes).map_or("garbage", |message| name(&message));
        if !matches!(what, "heads" | "pong") {
            self.0.push(Hop { between, sent, arrives, what });
        }
    }
}

/// What kind of message it is.
pub(super) fn name(message: &Message) -> &'static str {
    match message {
        Message::Hello { .. } => "hello",
        Message::Heads { .. } => "heads",
        Message::Pong { .. } => "pong",
        Message::Pull { .. } => "pull",
        Message::Describe => "describe",
        Message::Announce(_) => "announce",
        Message::Manifest(_) => "manifest",
        Message::GetSegment { .. } => "get-segment",
        Message::Segment { .. } => "segment",
        Message::Have { .. } => "have",
        Message::Graft { .. } => "graft",
        Message::Prune => "prune",
        Message::Link { .. } => "link",
        Message::Busy { .. } => "busy",
        Message::Ask { .. } => "ask",
        Message::Held { .. } => "held",
        Message::NotHeld { .. } => "not-held",
        Message::GetChunk { .. } => "get-chunk",
        Message::Chunk { .. } | Message::ProvenChunk { .. } => "chunk",
        Message::Leaves { .. } => "leaves",
        Message::Leaf { .. } => "leaf",
        Message::Cancel { .. } => "cancel",
        Message::Addresses(_) => "addresses",
        Message::WhereIs { .. } => "where-is",
        Message::Placement(_) => "placement",
    }
}

/// Figures at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Sample {
    /// When, in milliseconds.
    pub at: u64,
    /// Log positions that connected honest nodes do not know of each other, all pairs together.
    pub behind: u64,
    /// Pairs of which one is behind the other.
    pub pairs_behind: u64,
    /// Callers answered so far.
    pub answered: u64,
    /// Of these, from memory or from a peer.
    pub hits: u64,
    /// Nodes that run.
    pub up: u64,
}

/// An event as a line of text.
pub(super) struct Told<'a>(pub(super) &'a Event);

impl fmt::Display for Told<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Event::Ask(number) => write!(f, "ask {number}"),
            Event::Abandon(_, job) => write!(f, "caller {} goes away", job.0),
            Event::Frame { from, to, bytes, .. } => match crate::wire::decode(bytes) {
                Ok(Message::Announce(told)) => {
                    let (first, end) = (told.batch.first, told.batch.end());
                    write!(f, "{from} -> {to} announce {first}..{end} ({} B)", bytes.len())
                }
                Ok(message) => write!(f, "{from} -> {to} {} ({} B)", name(&message), bytes.len()),
                Err(error) => write!(f, "{from} -> {to} garbage: {error}"),
            },
            Event::Up(a, b) => write!(f, "{a} and {b} find each other"),
            Event::Down { place, peer, .. } => write!(f, "{place} notices that {peer} is gone"),
            Event::Break(a, b) => write!(f, "the lane between {a} and {b} breaks"),
            Event::Done(_, what, _) => write!(f, "off the loop: {what:?}"),
            Event::Computed(_, flight, _) => write!(f, "evaluation of flight {} ends", flight.0),
            Event::Written(_) => f.write_str("written"),
            Event::Synced(_) => f.write_str("synced"),
            Event::Wake(..) => f.write_str("timer"),
            Event::Retract(_, question) => write!(f, "retracts its answer to question {question}"),
            Event::Resume(place) => write!(f, "node {place} goes on"),
            Event::Step(episode, step) => write!(f, "fault #{episode}, step {step}"),
            Event::Restart(place) => write!(f, "node {place} comes up"),
            Event::Calm => f.write_str("from now on nothing fails"),
            Event::Sample => f.write_str("figures"),
        }
    }
}

/// Whole milliseconds of a time.
pub(super) fn millis(at: Time) -> u64 {
    u64::try_from(at.0.as_millis()).unwrap_or(u64::MAX)
}

/// A moment as people read it: seconds with microseconds.
#[must_use]
pub fn clock(at: Duration) -> String {
    format!("{:>4}.{:06}", at.as_secs(), at.subsec_micros())
}
