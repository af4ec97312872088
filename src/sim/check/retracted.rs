//! A retracted answer is not served again on that node, nor fetched back, until it is recorded anew there.

use std::time::Duration;

use super::{Check, Phase};
use crate::sim::history::{Asked, End, History, Retracted, Source};

/// A fetch that was checked right before the retraction is delivered right after it.
const RACE: Duration = Duration::from_millis(10);

pub(super) const CHECK: Check = Check {
    name: "retracted is not served",
    phase: Phase::Safety,
    about: "an answer is not served or fetched after its retraction, until the node records it anew",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for gone in history.retracted.iter().filter(|gone| gone.sure) {
        let asks = history.asks.iter().enumerate().filter(|(_, ask)| ask.node == gone.node && ask.id == gone.id);
        for (n, ask) in asks.filter(|(_, ask)| serves(history, gone, ask)) {
            wrong.push(format!("ask {n} on node {} got the retracted answer to {}", ask.node, ask.id.short()));
        }
    }
    wrong
}

fn serves(history: &History, gone: &Retracted, ask: &Asked) -> bool {
    let Some((at, End::Answered { answer, source })) = ask.ends.first() else { return false };
    // An older image of the disk knows nothing of a later retraction.
    let forgotten = history.nodes.get(gone.node).is_some_and(|story| story.restored || story.rotten);
    let anew = history.appended.iter().any(|entry| {
        let here = entry.own && entry.node == gone.node && entry.id == gone.id && entry.answer == gone.answer;
        here && entry.at >= gone.at && entry.at <= *at
    });
    *answer == gone.answer && *source != Source::Computed && ask.at > gone.at + RACE && !anew && !forgotten
}
