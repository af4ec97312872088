//! What is going to happen, in order of virtual time and then of scheduling, and the digest of all that has happened.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use crate::fabric::{FlightId, Input, JobId, Time};
use crate::id::Digest;

/// A node's place in the scenario.
pub(super) type Place = usize;

/// One life of a node: from a start to its crash. What an earlier life set going does not reach a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) place: Place,
    pub(super) number: u64,
}

/// Something that happens.
pub(super) enum Event {
    /// A caller asks this question (by number).
    Ask(Place, usize),
    /// A caller goes away.
    Abandon(Life, JobId),
    /// A frame arrives from a node, on a lane of this generation.
    Frame { from: Place, to: Place, lane: u64, bytes: Bytes },
    /// Two nodes find each other.
    Up(Place, Place),
    /// A node notices that its lane to the other one, of this generation, is gone.
    Down { place: Place, peer: Place, lane: u64 },
    /// A lane breaks.
    Break(Place, Place),
    /// Work off the loop is done; the text says which.
    Done(Life, &'static str, Box<Input>),
    /// An evaluation ends.
    Computed(Life, FlightId),
    /// The disk has written what was appended.
    Written(Life),
    /// The disk has synced what was written.
    Synced(Life),
    /// The time that a fabric asked for has come.
    Wake(Life, Time),
    /// The power of a node fails.
    Crash(Place),
    /// It comes back.
    Restart(Place),
    /// From now on nothing fails.
    Calm,
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ask(place, question) => write!(f, "ask {place} {question}"),
            Self::Abandon(life, job) => write!(f, "abandon {life:?} {job:?}"),
            Self::Frame { from, to, lane, bytes } => write!(f, "frame {from} {to} {lane} {}", Digest::of(bytes)),
            Self::Up(a, b) => write!(f, "up {a} {b}"),
            Self::Down { place, peer, lane } => write!(f, "down {place} {peer} {lane}"),
            Self::Break(a, b) => write!(f, "break {a} {b}"),
            Self::Done(life, what, _) => write!(f, "done {life:?} {what}"),
            Self::Computed(life, flight) => write!(f, "computed {life:?} {flight:?}"),
            Self::Written(life) => write!(f, "written {life:?}"),
            Self::Synced(life) => write!(f, "synced {life:?}"),
            Self::Wake(life, at) => write!(f, "wake {life:?} {at:?}"),
            Self::Crash(place) => write!(f, "crash {place}"),
            Self::Restart(place) => write!(f, "restart {place}"),
            Self::Calm => f.write_str("calm"),
        }
    }
}

/// The events to come. Invariant: time never goes back.
#[derive(Debug, Default)]
pub(super) struct Queue {
    events: BTreeMap<(Time, u64), Event>,
    next: u64,
    now: Time,
    trace: blake3::Hasher,
}

impl Queue {
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// How many events were scheduled so far.
    pub(super) fn scheduled(&self) -> u64 {
        self.next
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        self.events.insert((at.max(self.now), self.next), event);
        self.next += 1;
    }

    /// Takes the next event that happens before `end`, and moves the clock to it.
    pub(super) fn pop(&mut self, end: Time) -> Option<Event> {
        let first = self.events.first_entry()?;
        if first.key().0 >= end {
            return None;
        }
        let ((at, _), event) = first.remove_entry();
        self.now = at;
        self.trace.update(format!("{at:?} {event:?}\n").as_bytes());
        Some(event)
    }

    /// The digest of everything that happened so far.
    pub(super) fn digest(&self) -> Digest {
        Digest::from_bytes(*self.trace.finalize().as_bytes())
    }
}
