//! The deterministic simulator: whole nodes in one thread, on virtual time, network and disk.
//!
//! It drives the same fabric, cassette, ledger and wire format as a real node through the same `perform`; only the far side of `Effects`
//! is simulated. One seed fixes everything: the same [`Scenario`] gives the same [`Report`], trace digest included. First anything may fail
//! and nothing wrong may happen; then the faults stop and everything must come to rest. What must hold is in `check`. This module knows no
//! sockets, threads, clocks or tokio.

mod check;
mod disk;
mod network;
mod node;
mod queue;
mod rng;
#[cfg(test)]
mod tests;
mod world;

use std::ops::Range;
use std::time::Duration;

use self::check::End;
use self::world::World;
use crate::fabric::Time;
use crate::id::Digest;

/// How long everything gets to come to rest: twice the longest wait that a lost frame can cause.
const SETTLE: Duration = Duration::from_secs(20);
/// Events after which a run is given up as endless.
const MAX_EVENTS: u64 = 10_000_000;

/// What is simulated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Scenario {
    /// Fixes everything that is random.
    pub seed: u64,
    /// How many nodes; each is connected to each.
    pub nodes: usize,
    /// How many different questions there are.
    pub questions: usize,
    /// How many times something is asked, at random, with some callers who want only held answers, insist on computing, set a timeout or
    /// go away. Without it each node asks every question once, one node after the other.
    pub asks: Option<usize>,
    /// Frames lost, per thousand.
    pub loss: u32,
    /// How many times a node crashes: its memory and what its disk has not synced are lost.
    pub crashes: usize,
    /// How many times a lane breaks.
    pub breaks: usize,
    /// How long the faults last; random asks come in this time.
    pub faulty: Duration,
    /// How long a frame travels.
    pub latency: Range<Duration>,
    /// How long an evaluation takes.
    pub compute: Range<Duration>,
    /// How long after a write the disk is synced.
    pub sync: Range<Duration>,
}

impl Default for Scenario {
    /// Two nodes that ask the same twenty questions one after the other, without faults.
    fn default() -> Self {
        Self {
            seed: 0,
            nodes: 2,
            questions: 20,
            asks: None,
            loss: 0,
            crashes: 0,
            breaks: 0,
            faulty: Duration::from_secs(10),
            latency: Duration::from_micros(100)..Duration::from_millis(5),
            compute: Duration::from_millis(1)..Duration::from_millis(200),
            sync: Duration::from_millis(1)..Duration::from_millis(50),
        }
    }
}

impl Scenario {
    /// Random asks, lost frames, broken lanes and crashes.
    #[must_use]
    pub fn stormy(seed: u64) -> Self {
        Self { seed, asks: Some(150), loss: 50, crashes: 4, breaks: 4, ..Self::default() }
    }
}

/// How the callers' waits ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Outcomes {
    /// Answered from the asked node's own cassette.
    pub hits: u64,
    /// Answered by the fabric.
    pub answered: u64,
    /// Ended with an error, such as a timeout.
    pub errors: u64,
    /// The caller went away first.
    pub abandoned: u64,
    /// The node crashed first.
    pub crashed: u64,
}

impl Outcomes {
    fn count<'a>(ends: impl Iterator<Item = &'a End>) -> Self {
        let mut counts = Self::default();
        for end in ends {
            let count = match end {
                End::Hit(_) => &mut counts.hits,
                End::Outcome(Ok(_)) => &mut counts.answered,
                End::Outcome(Err(_)) => &mut counts.errors,
                End::Abandoned => &mut counts.abandoned,
                End::Crashed => &mut counts.crashed,
            };
            *count += 1;
        }
        counts
    }
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// The digest of every event in order; equal for equal scenarios.
    pub trace_digest: Digest,
    /// How many events there were.
    pub events: u64,
    /// How the callers' waits ended.
    pub outcomes: Outcomes,
    /// Evaluations started.
    pub computed: u64,
    /// Waits that ended with a peer's answer.
    pub fetched: u64,
    /// What did not hold; empty if all is well.
    pub violations: Vec<String>,
}

/// Runs a scenario to its end.
#[must_use]
pub fn run(scenario: &Scenario) -> Report {
    let turns = if scenario.asks.is_none() { u32::try_from(scenario.nodes).unwrap_or(u32::MAX) } else { 0 };
    let end = Time::default() + scenario.faulty.max(SETTLE.saturating_mul(turns)) + SETTLE;
    World::new(scenario).run(end)
}
