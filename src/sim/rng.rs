//! Randomness from a seed alone: one stream per purpose and per node, link or disk.
//!
//! Invariant: a stream's numbers depend on the seed, its purpose and whose it is, and on nothing else that happens, so a change to one kind of
//! fault (or leaving one out, as `shrink` does) does not reshuffle all others. Whole numbers only: no two machines round them differently.

use std::time::Duration;

use super::span::Span;

/// What a stream is drawn for. The numbers are part of what a seed means.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Link = 1,
    Compute,
    Disk,
    Workload,
    Faults,
    Identity,
    Epochs,
    Clock,
    Lies,
    Topology,
    Callers,
    Workspaces,
}

/// A stream of random numbers (splitmix64, Steele, Lea and Flood 2014).
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    /// The stream of a seed for a purpose, for the `whose`-th node, link or disk.
    pub(super) fn stream(seed: u64, purpose: Purpose, whose: u64) -> Self {
        let mixed = Self(seed).bits() ^ (purpose as u64).wrapping_mul(0xA076_1D64_78BD_642F);
        Self(Self(Self(mixed).bits() ^ whose).bits())
    }

    /// The stream of a seed, for whoever brings a workload of their own.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(Self(seed).bits())
    }

    /// 64 random bits.
    pub fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; zero if `bound` is.
    pub fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.bits()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// A position in a list of this length.
    pub fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or_default()
    }

    /// Whether something that happens so many times in a thousand happens now.
    pub fn happens(&mut self, per_mille: u32) -> bool {
        per_mille > 0 && self.below(1000) < u64::from(per_mille)
    }

    /// A time within a span, in whole microseconds from its begin.
    pub fn within(&mut self, span: &Span) -> Duration {
        let width = u64::try_from(span.to.saturating_sub(span.from).as_micros()).unwrap_or(u64::MAX);
        span.from + Duration::from_micros(self.below(width))
    }

    /// One of a list; `None` of an empty one.
    pub fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.index(list.len()))
    }

    /// Puts a list in random order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for last in (1..list.len()).rev() {
            list.swap(last, self.index(last + 1));
        }
    }

    /// Bytes for a name.
    pub fn bytes(&mut self) -> [u8; 16] {
        ((u128::from(self.bits()) << 64) | u128::from(self.bits())).to_le_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_are_independent_and_fixed() {
        let first = |seed, purpose, whose| Rng::stream(seed, purpose, whose).bits();
        assert_eq!(first(7, Purpose::Link, 3), first(7, Purpose::Link, 3));
        let all = [
            first(7, Purpose::Link, 3),
            first(7, Purpose::Link, 4),
            first(7, Purpose::Disk, 3),
            first(8, Purpose::Link, 3),
        ];
        let different: std::collections::BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn chances_and_orders_are_fair_enough() {
        let mut rng = Rng::new(1);
        let hits = (0..10_000).filter(|_| rng.happens(250)).count();
        assert!((2_300..2_700).contains(&hits), "{hits}");
        let mut firsts = [0; 4];
        for _ in 0..4_000 {
            let mut list = [0, 1, 2, 3];
            rng.shuffle(&mut list);
            firsts[list[0]] += 1;
        }
        assert!(firsts.iter().all(|count| (850..1_150).contains(count)), "{firsts:?}");
    }
}
