//! Invariant 4: a position is never used for two facts within one epoch.

use std::collections::BTreeMap;

use super::{Check, Phase};
use crate::sim::history::History;

pub(super) const CHECK: Check = Check {
    name: "positions are used once",
    phase: Phase::Safety,
    about: "no node ever announces two facts at one position of one epoch",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut seen = BTreeMap::new();
    let mut wrong = Vec::new();
    for batch in history.announced.iter().filter(|batch| history.is_honest(batch.node)) {
        for (position, question) in &batch.facts {
            let before = seen.insert((batch.node, batch.epoch, *position), *question);
            if before.is_some_and(|before| before != *question) {
                wrong.push(format!("node {} announced two facts at position {position} of one epoch", batch.node));
            }
        }
    }
    wrong
}
