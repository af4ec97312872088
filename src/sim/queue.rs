//! What is going to happen, in order of virtual time and then of scheduling, and the digest of all that has happened.
//!
//! Invariants: time never goes back; every event that is taken is in the digest, with all that decides what it leads to (of a frame its
//! length and checksum).

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::binary_heap::PeekMut;
use std::time::Duration;

use bytes::Bytes;

use super::Place;
use crate::fabric::{FlightId, Input, JobId, Time};
use crate::id::Digest;

/// Bytes of trace that are hashed in one go.
const TRACE_BUFFER: usize = 32 * 1024;

/// One life of a node: from a start to its crash. What an earlier life set going does not reach a later one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Life {
    pub(super) place: Place,
    pub(super) number: u64,
}

/// Something that happens.
#[derive(Debug)]
pub(super) enum Event {
    /// A caller asks: the n-th of the planned asks.
    Ask(usize),
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
    /// Work off the loop is done.
    Done(Life, Work, Box<Input>),
    /// An evaluation ends.
    Computed(Life, FlightId, usize),
    /// The disk has written what was appended.
    Written(Life),
    /// The disk has synced what was written.
    Synced(Life),
    /// The time that a fabric asked for has come.
    Wake(Life, Time),
    /// A node retracts its answer to some question.
    Retract(Place, usize),
    /// A node that stood still goes on.
    Resume(Place),
    /// A step of an episode.
    Step(usize, usize),
    /// A node comes back.
    Restart(Place),
    /// From now on nothing fails.
    Calm,
    /// Figures are taken.
    Sample,
}

/// What is done off the loop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Work {
    Checked = 1,
    AnnouncementChecked,
    Found,
    FoundChunk,
    LogRead,
    ManifestChecked,
    SegmentChecked,
    FoundSegment,
    Described,
}

impl Event {
    /// The node it happens to, if it is one.
    pub(super) fn place(&self) -> Option<Place> {
        match self {
            Self::Abandon(life, _)
            | Self::Done(life, ..)
            | Self::Computed(life, ..)
            | Self::Written(life)
            | Self::Synced(life)
            | Self::Wake(life, _) => Some(life.place),
            Self::Frame { to, .. } => Some(*to),
            Self::Down { place, .. } | Self::Retract(place, _) => Some(*place),
            _ => None,
        }
    }

    /// A number for its kind and the numbers that tell it from others of the kind.
    fn code(&self) -> (u8, [u64; 3]) {
        let of = |life: &Life, more: u64| [life.place as u64, life.number, more];
        match self {
            Self::Ask(number) => (1, [*number as u64, 0, 0]),
            Self::Abandon(life, job) => (2, of(life, job.0)),
            Self::Frame { from, to, lane, .. } => (3, [*from as u64, *to as u64, *lane]),
            Self::Up(a, b) => (4, [*a as u64, *b as u64, 0]),
            Self::Down { place, peer, lane } => (5, [*place as u64, *peer as u64, *lane]),
            Self::Break(a, b) => (6, [*a as u64, *b as u64, 0]),
            Self::Done(life, what, _) => (7, of(life, *what as u64)),
            Self::Computed(life, flight, _) => (8, of(life, flight.0)),
            Self::Written(life) => (9, of(life, 0)),
            Self::Synced(life) => (10, of(life, 0)),
            Self::Wake(life, at) => (11, of(life, nanos(*at))),
            Self::Retract(place, which) => (12, [*place as u64, *which as u64, 0]),
            Self::Resume(place) => (13, [*place as u64, 0, 0]),
            Self::Step(episode, step) => (14, [*episode as u64, *step as u64, 0]),
            Self::Restart(place) => (16, [*place as u64, 0, 0]),
            Self::Calm => (17, [0; 3]),
            Self::Sample => (18, [0; 3]),
        }
    }
}

fn nanos(at: Time) -> u64 {
    u64::try_from(at.0.as_nanos()).unwrap_or(u64::MAX)
}

/// When an event happens, in what order it was scheduled, and where it is kept: one number, since comparing these is what a queue does most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Turn(u128);

impl Turn {
    /// Bits of a place: that many events may wait at a time.
    const PLACE: u32 = 26;
    /// Bits of the order: that many events may be scheduled in a run.
    const ORDER: u32 = 64 - Self::PLACE;

    fn new(at: u64, scheduled: u64, place: usize) -> Self {
        assert!(
            place >> Self::PLACE == 0 && scheduled >> Self::ORDER == 0,
            "a run of fewer than 2^38 events, 2^26 at a time"
        );
        Self((u128::from(at) << 64) | (u128::from(scheduled) << Self::PLACE) | place as u128)
    }

    fn at(self) -> u64 {
        (self.0 >> 64) as u64
    }

    fn place(self) -> usize {
        self.0 as usize & ((1 << Self::PLACE) - 1)
    }
}

/// The events to come.
#[derive(Debug, Default)]
pub(super) struct Queue {
    order: BinaryHeap<Reverse<Turn>>,
    events: Vec<Option<Event>>,
    free: Vec<usize>,
    scheduled: u64,
    taken: u64,
    now: Time,
    trace: blake3::Hasher,
    buffer: Vec<u8>,
}

impl Queue {
    pub(super) fn now(&self) -> Time {
        self.now
    }

    /// How many events have happened.
    pub(super) fn taken(&self) -> u64 {
        self.taken
    }

    pub(super) fn after(&mut self, wait: Duration, event: Event) {
        self.at(self.now + wait, event);
    }

    pub(super) fn at(&mut self, at: Time, event: Event) {
        let place = self.free.pop().unwrap_or_else(|| {
            self.events.push(None);
            self.events.len() - 1
        });
        self.events[place] = Some(event);
        self.order.push(Reverse(Turn::new(nanos(at.max(self.now)), self.scheduled, place)));
        self.scheduled += 1;
    }

    /// Takes the next event that happens before `end`, and moves the clock to it.
    pub(super) fn pop(&mut self, end: Time) -> Option<Event> {
        let next = self.order.peek_mut()?;
        let at = next.0.at();
        if at >= nanos(end) {
            return None;
        }
        let place = PeekMut::pop(next).0.place();
        let event = self.events[place].take().expect("an ordered event is kept");
        self.free.push(place);
        self.now = Time(Duration::from_nanos(at));
        self.taken += 1;
        self.note(at, &event);
        Some(event)
    }

    fn note(&mut self, at: u64, event: &Event) {
        let (kind, numbers) = event.code();
        self.buffer.push(kind);
        self.buffer.extend_from_slice(&at.to_le_bytes());
        for number in numbers {
            self.buffer.extend_from_slice(&number.to_le_bytes());
        }
        if let Event::Frame { bytes, .. } = event {
            // Its checksum stands for it: one batch travels to everybody, and hashing every copy would cost as much as the rest.
            self.buffer.extend_from_slice(&(bytes.len() as u64).to_le_bytes());
            self.buffer.extend_from_slice(&crc32c::crc32c(bytes).to_le_bytes());
        }
        if self.buffer.len() >= TRACE_BUFFER {
            self.trace.update(&self.buffer);
            self.buffer.clear();
        }
    }

    /// The digest of everything that happened so far.
    pub(super) fn digest(&mut self) -> Digest {
        self.trace.update(&self.buffer);
        self.buffer.clear();
        Digest::from_bytes(*self.trace.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_come_in_order_of_time_and_then_of_scheduling() {
        let mut queue = Queue::default();
        let ms = Duration::from_millis;
        for (wait, number) in [(5, 0), (1, 1), (5, 2), (3, 3)] {
            queue.after(ms(wait), Event::Ask(number));
        }
        let mut seen = Vec::new();
        while let Some(Event::Ask(number)) = queue.pop(Time(ms(100))) {
            // What is scheduled for the past happens now.
            if number == 3 {
                queue.at(Time(ms(1)), Event::Ask(4));
            }
            seen.push((number, queue.now().0));
        }
        assert_eq!(seen, [(1, ms(1)), (3, ms(3)), (4, ms(3)), (0, ms(5)), (2, ms(5))]);
        assert_eq!(queue.taken(), 5);
        queue.after(ms(1), Event::Calm);
        assert!(queue.pop(queue.now()).is_none(), "the end is not included");
    }

    #[test]
    fn the_digest_is_about_content_and_order() {
        let digest = |events: &[(u64, usize)]| {
            let mut queue = Queue::default();
            for (at, number) in events {
                queue.at(Time(Duration::from_millis(*at)), Event::Ask(*number));
            }
            while queue.pop(Time(Duration::from_secs(1))).is_some() {}
            queue.digest()
        };
        let one = digest(&[(1, 1), (2, 2)]);
        assert_eq!(one, digest(&[(2, 2), (1, 1)]), "the order of scheduling alone is nothing");
        assert_ne!(one, digest(&[(1, 2), (2, 1)]));
        assert_ne!(one, digest(&[(1, 1), (3, 2)]));
    }
}
