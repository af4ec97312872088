//! Invariant 6: at most one evaluation of a question in flight per node.

use std::collections::BTreeMap;

use super::{Check, Phase};
use crate::fabric::Time;
use crate::sim::history::History;

pub(super) const CHECK: Check = Check {
    name: "one evaluation at a time",
    phase: Phase::Safety,
    about: "no node evaluates the same question twice at the same time, unless it has no key",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut until = BTreeMap::new();
    let mut wrong = Vec::new();
    for evaluated in history.evaluations.iter().filter(|evaluated| evaluated.class.is_memoised()) {
        let end = evaluated.to.unwrap_or(Time(std::time::Duration::MAX));
        let before = until.insert((evaluated.node, evaluated.id), end);
        if before.is_some_and(|before| before > evaluated.from) {
            wrong.push(format!("node {} evaluates {} twice at the same time", evaluated.node, evaluated.id.short()));
        }
    }
    wrong
}
