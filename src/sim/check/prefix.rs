//! Invariant 4: recovery yields a prefix of what was appended. Whatever lies in the middle is whole, or named as damaged.

use super::{Check, Phase};
use crate::sim::history::{Found, History};

pub(super) const CHECK: Check = Check {
    name: "recovery yields a prefix",
    phase: Phase::Safety,
    about: "an opened ledger holds what was appended, in place, up to some position; damage needs a cause",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for opened in history.openings.iter().filter(|opened| history.is_honest(opened.node)) {
        let cut = opened.missing.iter().filter(|gone| gone.found == Found::Nothing).map(|gone| gone.seq).min();
        for gone in &opened.missing {
            let fits = match gone.found {
                Found::Nothing => true,
                // Blocks survive in any order: what follows a lost one cannot be told from damage, and is not lost in silence.
                Found::Quarantined => opened.rotten || opened.torn,
                Found::Other => opened.restored,
            };
            if !fits || cut.is_some_and(|cut| gone.seq > cut && gone.found != Found::Nothing) {
                let (node, seq, id) = (opened.node, gone.seq, gone.id.short());
                wrong.push(format!("node {node}: at {seq}, where {id} was appended, there is {:?}", gone.found));
            }
        }
    }
    wrong
}
