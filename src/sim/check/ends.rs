//! Invariant 7: every request ends in exactly one outcome.

use super::{Check, Phase};
use crate::sim::history::History;

pub(super) const AT_MOST_ONCE: Check = Check {
    name: "ends at most once",
    phase: Phase::Safety,
    about: "no caller gets two outcomes, and none without waiting",
    run: |history| {
        let twice = history.asks.iter().enumerate().filter(|(_, ask)| ask.ends.len() > 1);
        let twice = twice.map(|(n, ask)| format!("ask {n} on node {} ended {} times", ask.node, ask.ends.len()));
        let strays = history.strays.iter().map(|job| format!("ask {} was answered, and nobody waited", job.0));
        twice.chain(strays).collect()
    },
};

pub(super) const AT_LEAST_ONCE: Check = Check {
    name: "ends at least once",
    phase: Phase::Liveness,
    about: "no caller waits for ever, and no node keeps a question in flight that nobody waits for",
    run,
};

fn run(history: &History) -> Vec<String> {
    let never = history.asks.iter().enumerate().filter(|(_, ask)| ask.ends.is_empty() && history.is_honest(ask.node));
    let never = never.map(|(n, ask)| format!("ask {n} of {} on node {} never ended", ask.id.short(), ask.node));
    let finals = history.finals.iter().enumerate().filter(|(_, last)| last.in_flight > 0);
    let stuck = finals.map(|(place, last)| format!("node {place} still has {} questions in flight", last.in_flight));
    never.chain(stuck).collect()
}
