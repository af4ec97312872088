//! Nobody hears of an error but whoever caused it: by a limit, by refusing computation, by an evaluator that broke, by a disk that failed.

use super::{Check, Phase};
use crate::error::{EvalError, LimitHit};
use crate::fabric::Time;
use crate::request::AnswerFrom;
use crate::sim::history::{Asked, End, History};

pub(super) const CHECK: Check = Check {
    name: "errors are asked for",
    phase: Phase::Safety,
    about: "an error is a limit that the caller set, a computation that it refused, a broken evaluator or a failed disk",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for (n, ask) in history.asks.iter().enumerate() {
        for (at, end) in &ask.ends {
            if let End::Error(error) = end
                && !explained(history, ask, *at, error)
            {
                wrong.push(format!("ask {n} of {} on node {} ended in an error: {error}", ask.id.short(), ask.node));
            }
        }
    }
    wrong
}

fn explained(history: &History, ask: &Asked, at: Time, error: &EvalError) -> bool {
    match error {
        EvalError::NotHeld { .. } => ask.answer_from == AnswerFrom::HeldOnly,
        EvalError::Limit(LimitHit::Deadline { .. }) => ask.timeout.is_some(),
        EvalError::Ledger(_) => history.disk_may_have_failed(ask.node, at),
        other => history.evaluations.iter().any(|evaluated| {
            evaluated.node == ask.node
                && evaluated.id == ask.id
                && evaluated.result.as_ref() == Some(&Err(other.clone()))
        }),
    }
}
