//! Invariant 8: who wants a held answer or nothing never causes a computation; nor does anybody who has gone.

use std::collections::BTreeMap;

use super::{Check, Phase};
use crate::request::AnswerFrom;
use crate::sim::history::{Asked, Evaluated, History};

pub(super) const CHECK: Check = Check {
    name: "computed when asked for",
    phase: Phase::Safety,
    about: "an evaluation starts only while a caller on that node waits who takes a computed answer",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut takers: BTreeMap<_, Vec<&Asked>> = BTreeMap::new();
    for ask in history.asks.iter().filter(|ask| ask.answer_from != AnswerFrom::HeldOnly) {
        takers.entry((ask.node, ask.id)).or_default().push(ask);
    }
    let wanted = |evaluated: &Evaluated| {
        let waits =
            |ask: &Asked| ask.at <= evaluated.from && ask.ends.first().is_none_or(|(at, _)| *at >= evaluated.from);
        takers.get(&(evaluated.node, evaluated.id)).is_some_and(|asks| asks.iter().any(|ask| waits(ask)))
    };
    let unasked = history.evaluations.iter().filter(|evaluated| !wanted(evaluated));
    unasked
        .map(|evaluated| {
            format!("node {} computes {}, which nobody wants computed", evaluated.node, evaluated.id.short())
        })
        .collect()
}
