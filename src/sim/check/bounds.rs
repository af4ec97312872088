//! Invariant 8: no bound is ever exceeded.

use super::{Check, Phase};
use crate::limits::{BATCH_FACTS, MAX_FLIGHTS};
use crate::wire::MAX_FRAME;

pub(super) const CHECK: Check = Check {
    name: "bounds hold",
    phase: Phase::Safety,
    about: "questions in flight, frames and batches stay within their bounds",
    run: |history| {
        let peaks = history.peaks;
        let all = [
            ("questions in flight", peaks.flights, MAX_FLIGHTS),
            ("bytes in a frame", peaks.frame, MAX_FRAME),
            ("facts in a batch", peaks.batch, BATCH_FACTS),
        ];
        let beyond = all.into_iter().filter(|(_, peak, bound)| peak > bound);
        beyond.map(|(what, peak, bound)| format!("{peak} {what}, the bound is {bound}")).collect()
    },
};
