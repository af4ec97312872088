//! Invariant 4: what was acknowledged as durable survives any crash; rot takes nothing in silence.

use super::{Check, Phase};
use crate::sim::history::{Found, History, Missing, Opened};

pub(super) const CHECK: Check = Check {
    name: "durable survives",
    phase: Phase::Safety,
    about: "what was acknowledged as durable is there after any crash; what rot took is named",
    run,
};

fn run(history: &History) -> Vec<String> {
    let mut wrong = Vec::new();
    for opened in history.openings.iter().filter(|opened| history.is_honest(opened.node)) {
        for gone in opened.missing.iter().filter(|gone| gone.durable && !explained(opened, gone)) {
            let (node, id, seq) = (opened.node, gone.id.short(), gone.seq);
            wrong.push(format!("node {node}: the durable record of {id} at {seq} is gone ({:?})", gone.found));
        }
    }
    wrong
}

fn explained(opened: &Opened, gone: &Missing) -> bool {
    match gone.found {
        Found::Nothing => opened.restored || (opened.rotten && opened.reported),
        Found::Quarantined => opened.rotten,
        Found::Other => opened.restored,
    }
}
