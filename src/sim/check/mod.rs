//! What must hold: one small program per invariant of the design, each of which sees a recorded history and nothing else.
//!
//! Adding one is adding a file with a [`Check`] in it and its line in [`ALL`]. They judge simulations and fleets of real processes alike.
//! Invariant: a check never fails for what a fault of its history explains; every check is failed by some planted bug (see `sim::tests`).

mod accused;
mod answers;
mod asked_for;
mod authors;
mod bounds;
mod broken;
mod converged;
mod deadlines;
mod delivered;
mod durable;
mod ends;
mod errors;
mod positions;
mod prefix;
mod retracted;
mod secrets;
mod served;
mod single;
mod workspaces;

use serde::Serialize;

use super::history::History;
use super::report::Violation;

/// Lines that one check may report of one run.
const MAX_LINES: usize = 20;

/// When something must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Always: something wrong must never happen.
    Safety,
    /// Some time after nothing fails any more: something right must happen.
    Liveness,
}

/// One thing that must hold.
#[derive(Debug, Clone, Copy)]
pub struct Check {
    /// Its name.
    pub name: &'static str,
    /// When it must hold.
    pub phase: Phase,
    /// What it says, in one line.
    pub about: &'static str,
    /// What does not hold, one line each.
    pub run: fn(&History) -> Vec<String>,
}

/// All checks that come with the simulator.
pub const ALL: &[Check] = &[
    broken::CHECK,
    ends::AT_MOST_ONCE,
    ends::AT_LEAST_ONCE,
    delivered::CHECK,
    workspaces::CHECK,
    errors::CHECK,
    deadlines::CHECK,
    single::CHECK,
    asked_for::CHECK,
    durable::CHECK,
    prefix::CHECK,
    positions::CHECK,
    authors::CHECK,
    served::CHECK,
    retracted::CHECK,
    accused::CHECK,
    bounds::CHECK,
    secrets::CHECK,
    converged::CHECK,
    answers::CHECK,
];

/// Everything that does not hold. What must hold in the end is asked only of a whole run.
#[must_use]
pub fn judge(checks: &[Check], history: &History, whole: bool) -> Vec<Violation> {
    let due = checks.iter().filter(|check| whole || check.phase == Phase::Safety);
    let found = due.flat_map(|check| {
        let lines = (check.run)(history).into_iter().take(MAX_LINES);
        lines.map(|what| Violation { check: check.name, phase: check.phase, what })
    });
    found.collect()
}

/// The verdict on a run that was given up.
pub(super) fn endless(events: u64) -> Violation {
    let what = format!("it was given up after {events} events");
    Violation { check: "comes to rest", phase: Phase::Liveness, what }
}
