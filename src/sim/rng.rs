//! Randomness from a seed alone: one stream per purpose, so that a change to one kind of fault does not reshuffle all others.

use std::ops::Range;
use std::time::Duration;

/// What a stream is drawn for.
#[derive(Debug, Clone, Copy)]
pub(super) enum Purpose {
    Network = 1,
    Compute,
    Disk,
    Workload,
    Faults,
    Epochs,
}

/// A stream of random numbers (splitmix64, Steele, Lea and Flood 2014).
#[derive(Debug)]
pub(super) struct Rng(u64);

impl Rng {
    /// The stream of a seed for a purpose.
    pub(super) fn stream(seed: u64, purpose: Purpose) -> Self {
        let mixed = Self(seed).next();
        Self(Self(mixed ^ purpose as u64).next())
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`; zero if `bound` is.
    pub(super) fn below(&mut self, bound: u64) -> u64 {
        let product = u128::from(self.next()) * u128::from(bound);
        u64::try_from(product >> 64).unwrap_or_default()
    }

    /// A position in a list of this length.
    pub(super) fn index(&mut self, len: usize) -> usize {
        usize::try_from(self.below(len as u64)).unwrap_or_default()
    }

    /// Whether something that happens so many times in a thousand happens now.
    pub(super) fn happens(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }

    /// A time within a range, in whole microseconds.
    pub(super) fn within(&mut self, range: &Range<Duration>) -> Duration {
        let width = u64::try_from(range.end.saturating_sub(range.start).as_micros()).unwrap_or(u64::MAX);
        range.start + Duration::from_micros(self.below(width))
    }

    /// Bytes for a name.
    pub(super) fn bytes(&mut self) -> [u8; 16] {
        ((u128::from(self.next()) << 64) | u128::from(self.next())).to_le_bytes()
    }
}
