//! The deterministic simulator: whole nodes in one thread, on virtual time, network, disk and clocks.
//!
//! It drives the same fabric, cassette, ledger and wire format as a real node through the same `perform`; only the far side of `Effects`
//! is simulated. A scenario and a seed fix everything: the same run gives the same trace digest. First comes the safety phase, in which
//! anything may fail and nothing wrong may happen; then the liveness phase, in which nothing fails and everything must come to rest. What must
//! hold is in [`check`]: one small program per invariant, each of which sees only the recorded [`History`].
//!
//! ```
//! use evalmesh::sim::{Scenario, Simulation};
//!
//! let run = Simulation::new(Scenario::stormy(7)).run().expect("a scenario that can be run");
//! assert_eq!(run.report.violations, []);
//! ```
//!
//! [`Simulation`] also takes workloads, evaluators and checks of your own: see `examples/simulate_my_fleet.rs`. Scenarios as files are in
//! `simulations/` (see [`library`]). This module knows no sockets, threads, clocks or tokio.

pub mod check;
mod clock;
mod compute;
mod disk;
mod effects;
mod faults;
#[cfg(all(test, target_os = "linux"))]
mod figures;
mod frames;
pub mod history;
pub mod html;
mod liar;
pub mod library;
mod mutate;
mod network;
mod news;
mod node;
mod queue;
mod report;
mod rng;
mod scenario;
mod seat;
mod shrink;
mod signatures;
mod simulation;
pub mod span;
#[cfg(test)]
mod tests;
mod timeline;
mod workload;
mod workspace;
mod world;

pub use self::compute::{Evaluation, Evaluator};
pub use self::faults::{Episode, Kind};
pub use self::history::History;
pub use self::liar::Lie;
pub use self::mutate::Mutation;
pub use self::report::{Latency, Outcomes, Report, Spread, Violation};
pub use self::rng::Rng;
pub use self::scenario::{
    Asks, Clock, Compute, Disk, Faults, Liars, Network, Pattern, Questions, Scenario, ScenarioError, Workspaces,
};
pub use self::shrink::{Shrunk, shrink};
pub use self::simulation::{Run, Simulation};
pub use self::span::Span;
pub use self::timeline::{Hop, Sample, clock as moment};
pub use self::workload::Ask;

/// A node's place in the scenario.
pub type Place = usize;

/// Events after which a run is given up as endless.
const MAX_EVENTS: u64 = 200_000_000;

/// Runs a scenario to its end.
pub fn run(scenario: &Scenario) -> Result<Report, ScenarioError> {
    Ok(Simulation::new(scenario.clone()).run()?.report)
}
