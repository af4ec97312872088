//! Invariant 10: after healing, what honest nodes know of each other's logs is those logs.

use std::collections::BTreeSet;

use super::{Check, Phase};
use crate::fabric::segment;
use crate::sim::history::History;

pub(super) const CHECK: Check = Check {
    name: "indexes converge",
    phase: Phase::Liveness,
    about: "in the end connected honest nodes know each other's logs, no more, and no less but for what they gave up knowingly",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for (place, last) in history.finals.iter().enumerate().filter(|(place, _)| history.is_honest(*place)) {
        if !last.up {
            wrong.push(format!("node {place} is not up"));
        }
        for (peer, known) in last.known.iter().filter(|(peer, _)| history.is_honest(**peer)) {
            let Some(other) = history.finals.get(*peer).filter(|other| other.up) else { continue };
            let log: BTreeSet<_> = other.log.iter().map(|question| segment::key(*question)).collect();
            let known: BTreeSet<_> = known.iter().copied().collect();
            let given_up = last.given_up.get(peer).copied().unwrap_or(0);
            // A log that lost entries cannot take back what it announced: what peers know of it only grows.
            let damaged =
                history.nodes[*peer].rotten || history.openings.iter().any(|o| o.node == *peer && o.torn && o.reported);
            let missing = log.difference(&known).count() as u64;
            let fits = missing <= given_up && (damaged || known.is_subset(&log));
            if last.up && !fits {
                wrong.push(format!(
                    "node {place} knows {} facts of node {peer}, whose log has {}",
                    known.len(),
                    log.len()
                ));
            }
        }
    }
    wrong
}
