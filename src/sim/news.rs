//! How fast news travels: when each author's log became durable how far, and how long others took to know it.
//!
//! Invariant: it only watches; a node that came up after something was durable has nothing to be late for.

use std::ops::Range;

use super::Place;
use super::report::{Spread, rank};
use crate::fabric::Time;

#[derive(Debug, Default)]
pub(super) struct News {
    /// Per author, the lengths of its log and when it became that long.
    durable: Vec<Vec<(u64, Time)>>,
    /// How long others took, in microseconds.
    took: Vec<u32>,
}

impl News {
    /// An author's log is durable up to this length.
    pub(super) fn durable(&mut self, author: Place, length: u64, at: Time) {
        if self.durable.len() <= author {
            self.durable.resize_with(author + 1, Vec::new);
        }
        let known = &mut self.durable[author];
        // A node that was restored from an older image says other things in these places.
        while known.last().is_some_and(|(last, _)| *last > length) {
            known.pop();
        }
        if known.last().is_none_or(|(last, _)| *last < length) {
            known.push((length, at));
        }
    }

    /// A node that came up at `born` got to know these positions of an author's log.
    pub(super) fn learned(&mut self, author: Place, positions: Range<u64>, (born, now): (Time, Time)) {
        let lengths = self.durable.get(author).map_or(&[][..], Vec::as_slice);
        let [first, end] =
            [positions.start, positions.end].map(|at| lengths.partition_point(|(length, _)| *length <= at));
        let new = lengths[first..end.max(first)].iter().filter(|(_, at)| *at >= born);
        self.took.extend(new.map(|(_, at)| u32::try_from((now - *at).as_micros()).unwrap_or(u32::MAX)));
    }

    pub(super) fn spread(mut self) -> Spread {
        self.took.sort_unstable();
        let [p50, p99, max] = [50, 99, 100].map(|percent| u64::from(rank(&self.took, percent)));
        Spread { learned: self.took.len() as u64, p50, p99, max }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(ms: u64) -> Time {
        Time(Duration::from_millis(ms))
    }

    #[test]
    fn what_is_new_is_counted_once_for_everybody_who_could_have_known() {
        let mut news = News::default();
        news.durable(3, 2, at(10));
        news.durable(3, 2, at(11));
        news.durable(3, 5, at(20));
        news.learned(3, 0..2, (at(0), at(14)));
        news.learned(3, 2..5, (at(0), at(29)));
        news.learned(3, 0..5, (at(15), at(30)));
        news.learned(7, 0..5, (at(0), at(30)));
        assert_eq!(news.took, [4_000, 9_000, 10_000]);
        news.durable(3, 3, at(40));
        news.learned(3, 2..3, (at(0), at(41)));
        assert_eq!(news.spread(), Spread { learned: 4, p50: 4_000, p99: 10_000, max: 10_000 });
        assert_eq!(News::default().spread(), Spread::default());
    }
}
