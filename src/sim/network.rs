//! The virtual network: ordered lanes between pairs of nodes that delay, drop and break.
//!
//! As in the real one, a lane keeps its order, and its first frame (the hello, for which a fresh queue has room) is not dropped.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::Duration;

use super::queue::Place;
use super::rng::Rng;
use crate::fabric::Time;

/// One direction of a lane.
#[derive(Debug, Clone, Copy, Default)]
struct Direction {
    greeted: bool,
    /// When the last frame arrives.
    last: Time,
}

#[derive(Debug)]
struct Lane {
    generation: u64,
    directions: [Direction; 2],
}

#[derive(Debug)]
pub(super) struct Network {
    pub(super) rng: Rng,
    pub(super) latency: Range<Duration>,
    /// Frames dropped, per thousand.
    pub(super) loss: u32,
    lanes: BTreeMap<(Place, Place), Lane>,
    generations: u64,
}

fn key(a: Place, b: Place) -> (Place, Place) {
    (a.min(b), a.max(b))
}

impl Network {
    pub(super) fn new(rng: Rng, latency: Range<Duration>, loss: u32) -> Self {
        Self { rng, latency, loss, lanes: BTreeMap::new(), generations: 0 }
    }

    /// Opens a lane; says whether there was none.
    pub(super) fn open(&mut self, a: Place, b: Place) -> bool {
        if self.lanes.contains_key(&key(a, b)) {
            return false;
        }
        self.generations += 1;
        self.lanes.insert(key(a, b), Lane { generation: self.generations, directions: Default::default() });
        true
    }

    /// Closes a lane; returns its generation if there was one.
    pub(super) fn close(&mut self, a: Place, b: Place) -> Option<u64> {
        self.lanes.remove(&key(a, b)).map(|lane| lane.generation)
    }

    /// The generation of the open lane.
    pub(super) fn generation(&self, a: Place, b: Place) -> Option<u64> {
        self.lanes.get(&key(a, b)).map(|lane| lane.generation)
    }

    /// When a frame that is sent now arrives and on which lane; `None` if it never does.
    pub(super) fn send(&mut self, now: Time, from: Place, to: Place) -> Option<(Time, u64)> {
        let lane = self.lanes.get_mut(&key(from, to))?;
        let direction = &mut lane.directions[usize::from(from > to)];
        let lost = self.rng.happens(self.loss);
        let arrives = (now + self.rng.within(&self.latency)).max(direction.last);
        if lost && direction.greeted {
            return None;
        }
        *direction = Direction { greeted: true, last: arrives };
        Some((arrives, lane.generation))
    }
}
