//! Honest nodes never give each other cause to end a connection.

use super::{Check, Phase};

pub(super) const CHECK: Check = Check {
    name: "honest nodes agree",
    phase: Phase::Safety,
    about: "no honest node ends the connection to another honest one because of what that one sent",
    run: |history| {
        let honest = history.accused.iter().filter(|a| history.is_honest(a.node) && history.is_honest(a.peer));
        honest.map(|a| format!("node {} ended the connection to node {}: {}", a.node, a.peer, a.why)).collect()
    },
};
