//! What a holder's answers were worth: how fast they came, and how often there was one.
//!
//! A standing outlives the lane, so that coming back clears nothing. Invariant: a holder that never serves is asked a few times, then once in
//! a while; what it announced costs look-ups nothing in between.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Time;
use crate::id::NodeId;
use crate::limits::{MAX_STANDINGS, PROBATION};

/// A hit ratio of one; ratios are kept in parts of this.
const ONE: u32 = 1 << 16;
/// Below this a holder has no standing left: about sixteen misses in a row, or seven times as many misses as hits.
const NO_STANDING: u32 = ONE / 8;

#[derive(Debug, Clone, Copy)]
struct Standing {
    /// Moving average of answers that were served and believed.
    ratio: u32,
    /// Smoothed time to an answer and its mean deviation.
    latency: Option<(Duration, Duration)>,
    /// The round trip of its last lane.
    round_trip: Option<RoundTrip>,
    /// A holder without standing is not asked before this.
    next_chance: Time,
}

impl Default for Standing {
    fn default() -> Self {
        Self { ratio: ONE, latency: None, round_trip: None, next_chance: Time::default() }
    }
}

/// A measured round trip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RoundTrip {
    pub(super) smoothed: Duration,
    /// How often it was measured.
    pub(super) times: u32,
}

#[derive(Debug, Default)]
pub(super) struct Standings {
    of: BTreeMap<NodeId, Standing>,
}

/// Takes a measurement into a smoothed one (RFC 6298 section 2).
pub(super) fn smooth(before: Option<(Duration, Duration)>, took: Duration) -> (Duration, Duration) {
    match before {
        None => (took, took / 2),
        Some((smoothed, deviation)) => (smoothed * 7 / 8 + took / 8, deviation * 3 / 4 + smoothed.abs_diff(took) / 4),
    }
}

impl RoundTrip {
    /// Takes a measurement into what was known before; after a change of the way, which `fresh` says is possible, it begins anew.
    pub(super) fn measured(before: Option<Self>, took: Duration, fresh: bool) -> Self {
        let same_way = |before: &Self| !fresh || (took <= before.smoothed * 2 && before.smoothed <= took * 2);
        let before = before.filter(same_way);
        let smoothed = before.map_or(took, |before| before.smoothed * 7 / 8 + took / 8);
        Self { smoothed, times: before.map_or(1, |before| before.times.saturating_add(1)) }
    }
}

impl Standings {
    fn entry(&mut self, node: NodeId) -> &mut Standing {
        if self.of.len() >= MAX_STANDINGS && !self.of.contains_key(&node) {
            self.of.pop_first();
        }
        self.of.entry(node).or_default()
    }

    /// It answered, right or wrong.
    pub(super) fn answered(&mut self, node: NodeId, took: Duration) {
        let standing = self.entry(node);
        standing.latency = Some(smooth(standing.latency, took));
    }

    /// It served an answer that holds.
    pub(super) fn served(&mut self, node: NodeId) {
        let standing = self.entry(node);
        standing.ratio += (ONE - standing.ratio).div_ceil(8);
    }

    /// It did not answer, or not with what it announced.
    pub(super) fn failed(&mut self, node: NodeId, now: Time) {
        let standing = self.entry(node);
        standing.ratio -= standing.ratio / 8;
        if standing.ratio < NO_STANDING {
            standing.next_chance = now + PROBATION;
        }
    }

    /// What it sent was a lie: nothing is left of its standing.
    pub(super) fn lied(&mut self, node: NodeId, now: Time) {
        let standing = self.entry(node);
        standing.ratio = 0;
        standing.next_chance = now + PROBATION;
    }

    /// Whether it is worth asking at this time.
    pub(super) fn may_be_asked(&self, node: NodeId, now: Time) -> bool {
        self.of.get(&node).is_none_or(|standing| standing.ratio >= NO_STANDING || standing.next_chance <= now)
    }

    /// The share of asks that it served, in [0, 1].
    pub(super) fn hit_ratio(&self, node: NodeId) -> f64 {
        self.of.get(&node).map_or(1.0, |standing| f64::from(standing.ratio) / f64::from(ONE))
    }

    pub(super) fn latency(&self, node: NodeId) -> Option<(Duration, Duration)> {
        self.of.get(&node).and_then(|standing| standing.latency)
    }

    /// Its lane is gone; the way to it is most likely the same when it comes back.
    pub(super) fn keep_round_trip(&mut self, node: NodeId, round_trip: RoundTrip) {
        self.entry(node).round_trip = Some(round_trip);
    }

    pub(super) fn round_trip(&self, node: NodeId) -> Option<RoundTrip> {
        self.of.get(&node).and_then(|standing| standing.round_trip)
    }

    /// What an answer is expected to cost: its latency, once for every ask that it takes.
    pub(super) fn cost(&self, node: NodeId, round_trip: Duration) -> Duration {
        let ratio = self.of.get(&node).map_or(ONE, |standing| standing.ratio.max(ONE / 64));
        self.latency(node).map_or(round_trip, |(smoothed, _)| smoothed) * ONE / ratio
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIAR: NodeId = NodeId::from_bytes([1; 32]);

    #[test]
    fn who_serves_nothing_is_asked_less_and_less() {
        let mut standings = Standings::default();
        let now = Time(Duration::from_secs(100));
        let mut asks = 0;
        while standings.may_be_asked(LIAR, now) {
            standings.failed(LIAR, now);
            asks += 1;
        }
        assert_eq!(asks, 16);
        assert!(!standings.may_be_asked(LIAR, now + PROBATION.saturating_sub(Duration::from_millis(1))));
        assert!(standings.may_be_asked(LIAR, now + PROBATION), "another chance");
        standings.failed(LIAR, now + PROBATION);
        assert!(!standings.may_be_asked(LIAR, now + PROBATION), "one, not sixteen");
        for _ in 0..2 {
            standings.served(LIAR);
        }
        assert!(standings.may_be_asked(LIAR, now), "who serves again is asked again");
    }

    #[test]
    fn a_fast_holder_that_misses_costs_more_than_a_slow_one_that_serves() {
        let mut standings = Standings::default();
        let (fast, slow) = (NodeId::from_bytes([2; 32]), NodeId::from_bytes([3; 32]));
        standings.answered(fast, Duration::from_millis(1));
        standings.answered(slow, Duration::from_millis(3));
        let cost = |standings: &Standings, node| standings.cost(node, Duration::from_millis(9));
        assert!(cost(&standings, fast) < cost(&standings, slow));
        for _ in 0..9 {
            standings.failed(fast, Time::default());
        }
        assert!(cost(&standings, fast) > cost(&standings, slow));
    }

    #[test]
    fn standings_are_bounded() {
        let mut standings = Standings::default();
        for n in 0..=MAX_STANDINGS as u64 {
            let mut name = [0; 32];
            name[..8].copy_from_slice(&n.to_be_bytes());
            standings.failed(NodeId::from_bytes(name), Time::default());
        }
        assert_eq!(standings.of.len(), MAX_STANDINGS);
    }
}
