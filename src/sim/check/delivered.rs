//! Invariant 1: a delivered reply was produced by an evaluation of that very question.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Phase};
use crate::id::ContentId;
use crate::sim::history::{End, Evaluated, History, Source};

pub(super) const CHECK: Check = Check {
    name: "delivered is evaluated",
    phase: Phase::Safety,
    about: "whatever is delivered, byte for byte, came out of an evaluation of that very question",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut outputs: BTreeMap<ContentId, Vec<&Evaluated>> = BTreeMap::new();
    history.evaluations.iter().for_each(|evaluated| outputs.entry(evaluated.id).or_default().push(evaluated));
    let mut wrong = Vec::new();
    for (n, ask) in history.asks.iter().enumerate().filter(|(_, ask)| history.is_honest(ask.node)) {
        for (at, end) in &ask.ends {
            let End::Answered { answer, source } = end else { continue };
            let fits = |evaluated: &&Evaluated| {
                let before = evaluated.to.is_some_and(|to| to <= *at);
                // What has no key, and what was computed for this caller, was evaluated here.
                let here = ask.class.is_memoised() && *source != Source::Computed || evaluated.node == ask.node;
                before && here && evaluated.result == Some(Ok(*answer))
            };
            if !outputs.get(&ask.id).is_some_and(|all| all.iter().any(fits)) {
                let (id, node, answer) = (ask.id.short(), ask.node, answer.short());
                wrong.push(format!(
                    "ask {n} of {id} on node {node} got {answer}, which no evaluation of it gave ({source:?})"
                ));
            }
        }
    }
    wrong.extend(disagreements(&outputs));
    wrong
}

/// Two evaluations of a reproducible question agree.
fn disagreements(outputs: &BTreeMap<ContentId, Vec<&Evaluated>>) -> Vec<String> {
    let differ = |all: &&Vec<&Evaluated>| {
        let reproducible = all.iter().filter(|evaluated| evaluated.class.is_reproducible());
        let answers: BTreeSet<_> =
            reproducible.filter_map(|evaluated| evaluated.result.as_ref()?.as_ref().ok()).collect();
        answers.len() > 1
    };
    outputs
        .iter()
        .filter(|(_, all)| differ(all))
        .map(|(id, _)| format!("evaluations of {} differ", id.short()))
        .collect()
}
