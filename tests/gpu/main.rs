//! The GPU evaluator on software devices: two that are sound, and one that lies. This program is its own worker, which a test under the usual
//! harness could not be.
//!
//! `tests/drivers.sh` makes the drivers. Where they are missing nothing here runs, except in CI, where that is a failure. Each check is a function
//! named in `main`; a failed assertion ends the process with another status than 0.

#![expect(clippy::disallowed_methods, reason = "these tests measure how long killing takes")]

mod blocking;
mod compiled;
mod drivers;
mod exact;
mod examples;
mod hostile;
mod nodes;

use evalmesh::evaluator::worker::enter_worker_role;

type Check = (&'static str, fn());

/// Checks of exactly the drivers that `tests/drivers.sh` makes; left out on a real GPU.
const OF_SOFTWARE: &[&str] = &[
    "two devices are sound and the third is refused by the test it fails",
    "float kernels are of one class, and asking for them as portable is an error",
    "no driver is an answer, not an error",
    "compiled pipelines are found again after a restart",
    "compiled pipelines of others are refused",
    "an empty cache is not worth keeping",
    "a driver that crashes or hangs while devices are listed costs only its own",
    "a node remembers answers and no errors",
    "another class's answer is given only to those who ask for it",
    "a node without a device asks one that has it",
    "what was placed and is not wanted any more ends",
    "the command line asks a shader, a manifest, and for devices",
];

fn main() {
    enter_worker_role();
    if !drivers::are_there() {
        return;
    }
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    for (name, check) in
        [exact::CHECKS, examples::CHECKS, hostile::CHECKS, nodes::CHECKS, compiled::CHECKS, blocking::CHECKS].concat()
    {
        if drivers::is_real() && OF_SOFTWARE.contains(&name) {
            println!("left out: {name}");
        } else if wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str())) {
            let start = std::time::Instant::now();
            check();
            println!("ok: {name} ({:.1} s)", start.elapsed().as_secs_f64());
        }
    }
}
