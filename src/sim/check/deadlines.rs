//! A caller who set a timeout does not wait longer, unless the node itself stood still.

use std::time::Duration;

use super::{Check, Phase};
use crate::fabric::Time;
use crate::sim::history::{Asked, History};

/// A node's clock may run slow by a tenth, and a timer may be late by this.
const GRACE: Duration = Duration::from_millis(20);

pub(super) const CHECK: Check = Check {
    name: "timeouts are kept",
    phase: Phase::Safety,
    about: "a caller who set a timeout does not wait longer",
    run,
};

fn run(history: &History) -> Vec<String> {
    let late = |ask: &Asked| {
        let timeout = ask.timeout?;
        let due = ask.at + timeout + timeout / 8 + GRACE;
        let ended = ask.ends.first().map_or(history.end, |(at, _)| *at);
        (ended > due && !paused(history, ask, ended)).then(|| ended - ask.at)
    };
    let asks = history.asks.iter().enumerate();
    asks.filter_map(|(n, ask)| Some(format!("ask {n} with timeout {:?} waited {:?}", ask.timeout?, late(ask)?)))
        .collect()
}

fn paused(history: &History, ask: &Asked, ended: Time) -> bool {
    history.nodes[ask.node].pauses.iter().any(|(from, long)| *from <= ended && *from + *long >= ask.at)
}
