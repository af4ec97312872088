//! Invariant 5: a node announces only what it can serve.

use std::collections::BTreeSet;

use super::{Check, Phase};
use crate::sim::history::History;

pub(super) const CHECK: Check = Check {
    name: "announced is served",
    phase: Phase::Safety,
    about: "a node appended what it announces, and in the end serves it with evidence, unless it retracted it or its disk rotted",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    let appended: BTreeSet<_> =
        history.appended.iter().map(|entry| (entry.node, entry.seq, entry.id.fingerprint())).collect();
    for batch in history.announced.iter().filter(|batch| history.is_honest(batch.node)) {
        let not_there = batch.facts.iter().filter(|(seq, question)| !appended.contains(&(batch.node, *seq, *question)));
        wrong
            .extend(not_there.map(|(seq, _)| format!("node {} announced at {seq} what it never appended", batch.node)));
    }
    for (place, last) in history.finals.iter().enumerate() {
        let Some(story) = history.nodes.get(place).filter(|story| story.honest && !story.rotten) else { continue };
        let torn = history.openings.iter().any(|opened| opened.node == place && opened.torn && opened.reported);
        let retracted = |id| history.retracted.iter().any(|gone| gone.node == place && gone.id == id);
        let unserved = last.unserved.iter().filter(|id| !torn && !retracted(**id));
        wrong.extend(unserved.map(|id| format!("node {} cannot serve {}", story.name.short(), id.short())));
    }
    wrong
}
