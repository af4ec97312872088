//! Invariant 8: who wants a held answer or nothing never causes a computation; nor does anybody who has gone.

use super::{Check, Phase};
use crate::request::AnswerFrom;
use crate::sim::history::{Evaluated, History};

pub(super) const CHECK: Check = Check {
    name: "computed when asked for",
    phase: Phase::Safety,
    about: "an evaluation starts only while a caller on that node waits who takes a computed answer",
    run,
};

fn run(history: &History) -> Vec<String> {
    let wanted = |evaluated: &Evaluated| {
        history.asks.iter().any(|ask| {
            let waits = ask.at <= evaluated.from && ask.ends.first().is_none_or(|(at, _)| *at >= evaluated.from);
            ask.node == evaluated.node && ask.id == evaluated.id && ask.answer_from != AnswerFrom::HeldOnly && waits
        })
    };
    let unasked = history.evaluations.iter().filter(|evaluated| !wanted(evaluated));
    unasked
        .map(|evaluated| {
            format!("node {} computes {}, which nobody wants computed", evaluated.node, evaluated.id.short())
        })
        .collect()
}
