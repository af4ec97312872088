//! The virtual network: lanes between pairs of nodes that delay, drop, duplicate, reorder, squeeze, cut and break.
//!
//! What travels are the real encoded frames. As in the real network, the first frame of a lane (the hello, for which a fresh queue has room) is
//! not dropped and nothing overtakes it. Each direction of each link has a random stream of its own. Invariant: nothing arrives over a cut.

use std::collections::HashMap;
use std::time::Duration;

use foldhash::fast::FixedState;

use super::Place;
use super::rng::{Purpose, Rng};
use super::scenario;
use crate::fabric::Time;

/// How far behind a squeezed link may fall before its queue is full and frames are dropped, as a real outbox does.
const QUEUE: Duration = Duration::from_secs(2);

/// One direction of a link; outlives its lanes.
#[derive(Debug)]
struct Link {
    rng: Rng,
    /// The generation of the lane that is open; the same in both directions.
    lane: Option<u64>,
    /// How many faults cut it now.
    cuts: u32,
    /// Until when it is busy with what was sent.
    busy: Time,
    /// When the lane's first frame arrives, once it was sent.
    greeted: Option<Time>,
    /// When the last frame arrives.
    last: Time,
}

/// Counts for the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Traffic {
    pub(super) frames: u64,
    pub(super) bytes: u64,
    pub(super) lost: u64,
}

/// When a frame arrives, on which lane, and when a second copy of it does.
pub(super) struct Arrival {
    pub(super) at: Time,
    pub(super) lane: u64,
    pub(super) again: Option<Time>,
}

#[derive(Debug)]
pub(super) struct Network {
    how: scenario::Network,
    seed: u64,
    /// Whether frames may be lost, duplicated and reordered.
    faulty: bool,
    /// Per sender, the links to others.
    links: Vec<HashMap<Place, Link, FixedState>>,
    generations: u64,
    pub(super) traffic: Traffic,
}

impl Network {
    pub(super) fn new(how: scenario::Network, seed: u64, nodes: usize) -> Self {
        let links = (0..nodes).map(|_| HashMap::default()).collect();
        Self { how, seed, faulty: true, links, generations: 0, traffic: Traffic::default() }
    }

    /// From now on nothing is lost, and no link is cut.
    pub(super) fn heal(&mut self) {
        self.faulty = false;
        self.links.iter_mut().flat_map(HashMap::values_mut).for_each(|link| link.cuts = 0);
    }

    fn link(&mut self, from: Place, to: Place) -> &mut Link {
        let seed = self.seed;
        self.links[from].entry(to).or_insert_with(|| {
            let rng = Rng::stream(seed, Purpose::Link, ((from as u64) << 32) | to as u64);
            Link { rng, lane: None, cuts: 0, busy: Time::default(), greeted: None, last: Time::default() }
        })
    }

    /// One more fault cuts this direction, or one less.
    pub(super) fn cut(&mut self, from: Place, to: Place, cut: bool) {
        let cuts = &mut self.link(from, to).cuts;
        *cuts = if cut { *cuts + 1 } else { cuts.saturating_sub(1) };
    }

    /// Whether frames get through in both directions.
    pub(super) fn is_open(&mut self, a: Place, b: Place) -> bool {
        self.link(a, b).cuts == 0 && self.link(b, a).cuts == 0
    }

    /// Opens a lane; says whether there was none and now is one.
    pub(super) fn open(&mut self, a: Place, b: Place) -> bool {
        if self.generation(a, b).is_some() || !self.is_open(a, b) {
            return false;
        }
        self.generations += 1;
        let lane = Some(self.generations);
        for (from, to) in [(a, b), (b, a)] {
            let link = self.link(from, to);
            (link.lane, link.greeted, link.last) = (lane, None, Time::default());
        }
        true
    }

    /// Closes a lane; returns its generation if there was one.
    pub(super) fn close(&mut self, a: Place, b: Place) -> Option<u64> {
        let ends = [(a, b), (b, a)].map(|(from, to)| self.links[from].get_mut(&to).and_then(|link| link.lane.take()));
        ends[0]
    }

    /// The generation of the open lane.
    pub(super) fn generation(&self, a: Place, b: Place) -> Option<u64> {
        self.links[a].get(&b).and_then(|link| link.lane)
    }

    /// When a frame that is sent now arrives; `None` if it never does.
    pub(super) fn send(&mut self, now: Time, from: Place, to: Place, len: usize) -> Option<Arrival> {
        let (how, faulty) = (self.how, self.faulty);
        let chance = |per_mille| if faulty { per_mille } else { 0 };
        let link = self.links[from].get_mut(&to)?;
        let lane = link.lane?;
        // Every frame draws the same number of times, whatever comes of it.
        let mut travels = link.rng.within(&how.latency);
        if link.rng.happens(how.tail) {
            travels *= 2 << link.rng.below(5);
        }
        let [lost, twice, overtakes] =
            [how.loss, how.duplicate, how.reorder].map(|share| link.rng.happens(chance(share)));
        let spread = link.rng.within(&how.latency);
        let sent = match how.bandwidth {
            0 => now,
            rate => link.busy.max(now) + Duration::from_micros(len as u64 * 1000 / rate),
        };
        let greeted = link.greeted.is_some();
        let full = sent - now > QUEUE && greeted;
        if !full {
            link.busy = sent;
        }
        let dropped = link.cuts > 0 || full || (lost && greeted);
        let arrives = sent + travels;
        let at = match link.greeted {
            Some(hello) if overtakes => arrives.max(hello),
            _ => arrives.max(link.last),
        };
        let again = (twice && greeted && !dropped).then(|| at + spread);
        if !dropped {
            link.last = link.last.max(at);
            link.greeted = link.greeted.or(Some(at));
        }
        let counts = &mut self.traffic;
        counts.frames += 1;
        counts.bytes += len as u64;
        counts.lost += u64::from(dropped);
        (!dropped).then_some(Arrival { at, lane, again })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::span::Span;

    fn network(how: scenario::Network) -> Network {
        let mut network = Network::new(how, 1, 3);
        assert!(network.open(0, 1) && !network.open(1, 0));
        network
    }

    fn at(network: &mut Network, now: u64, len: usize) -> Option<u128> {
        network.send(Time(Duration::from_millis(now)), 0, 1, len).map(|arrival| arrival.at.0.as_millis())
    }

    #[test]
    fn a_lane_keeps_its_order_unless_told_otherwise() {
        let latency = Span { from: Duration::ZERO, to: Duration::from_millis(50) };
        let disorder = |how| {
            let mut network = network(how);
            let times: Vec<_> = (0..200).filter_map(|now| at(&mut network, now, 10)).collect();
            assert_eq!(times.len(), 200);
            times.windows(2).filter(|pair| pair[0] > pair[1]).count()
        };
        let calm = scenario::Network { latency, tail: 100, ..scenario::Network::default() };
        assert_eq!(disorder(calm), 0);
        assert!(disorder(scenario::Network { reorder: 500, ..calm }) > 10);
    }

    #[test]
    fn loss_and_copies_never_touch_the_hello() {
        let how = scenario::Network { loss: 1000, duplicate: 1000, ..scenario::Network::default() };
        let mut network = network(how);
        let hello = network.send(Time::default(), 0, 1, 10).expect("the hello arrives");
        assert_eq!(hello.again, None);
        assert_eq!(at(&mut network, 1, 10), None);
        network.heal();
        assert!(at(&mut network, 2, 10).is_some());
        assert_eq!((network.traffic.frames, network.traffic.lost), (3, 1));
    }

    #[test]
    fn a_narrow_link_delays_and_then_drops() {
        let latency = Span::always(Duration::from_millis(1));
        let mut network = network(scenario::Network { latency, bandwidth: 100, ..scenario::Network::default() });
        assert_eq!(at(&mut network, 0, 100_000), Some(1001), "100 kB at 100 kB/s");
        assert_eq!(at(&mut network, 0, 50_000), Some(1501));
        assert_eq!(at(&mut network, 0, 100_000), None, "its queue is full");
        assert_eq!(at(&mut network, 1500, 10), Some(1501));
    }

    #[test]
    fn a_one_way_cut_stops_one_way_and_cuts_add_up() {
        let mut network = network(scenario::Network::default());
        network.cut(0, 1, true);
        network.cut(0, 1, true);
        network.cut(0, 1, false);
        assert_eq!(at(&mut network, 0, 10), None);
        assert!(network.send(Time::default(), 1, 0, 10).is_some());
        assert_eq!(network.close(0, 1), Some(1));
        assert!(!network.open(0, 1), "nobody connects over a cut");
        network.cut(0, 1, false);
        assert!(network.open(0, 1));
        assert!(network.send(Time::default(), 0, 2, 10).is_none(), "there is no lane");
    }
}
