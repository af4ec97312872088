//! After healing every node answers.

use super::{Check, Phase};
use crate::error::EvalError;
use crate::sim::history::{Asked, End};

pub(super) const CHECK: Check = Check {
    name: "the healed fleet answers",
    phase: Phase::Liveness,
    about: "whoever asks without conditions after everything healed gets an answer, unless its evaluator breaks",
    run: |history| {
        let fine = |ask: &Asked| {
            matches!(ask.ends.first(), Some((_, End::Answered { .. } | End::Error(EvalError::Failed(_)))))
        };
        let probes = history.asks.iter().filter(|ask| ask.probe && !fine(ask));
        probes.map(|ask| format!("node {} does not answer {}: {:?}", ask.node, ask.id.short(), ask.ends)).collect()
    },
};
