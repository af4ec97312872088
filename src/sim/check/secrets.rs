//! Invariant 9: a node's secret key is in no frame and on no disk of its ledger.

use super::{Check, Phase};

pub(super) const CHECK: Check = Check {
    name: "secrets stay",
    phase: Phase::Safety,
    about: "no frame and no ledger ever contains a node's secret key",
    run: |history| {
        let leaks =
            history.nodes.iter().enumerate().flat_map(|(place, story)| story.leaks.iter().map(move |w| (place, w)));
        leaks.map(|(place, place_of_leak)| format!("the secret key of node {place} was seen {place_of_leak}")).collect()
    },
};
