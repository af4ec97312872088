//! A hundred real nodes: how fast a new fact is everywhere, and how fast all indexes are equal after a partition. Ten: what black holes cost.
//!
//! ```sh
//! cargo run --release --manifest-path benches/fleet/Cargo.toml [-- NODES]      # as root: it makes two network namespaces
//! ```
//!
//! All nodes are in this process and connected to each other, half of them in one network namespace and half in another; what they hold is in memory.
//!
//! - `fact`: a node, another one each time, computes something; the time from its caller's question until the last of the others has it in its
//!   index.
//! - `partition`: the link between the halves is down for three seconds, in which every node computes something; the time from when it is up again
//!   until everybody knows everything. The indexes are compared then, entry by entry.
//! - `black holes`: eight of ten nodes ask what only the other two hold, whose link is down without their knowing; the time until they compute it
//!   themselves.
//!
//! Times are of all nodes on this machine's cores together, so the CPU that a fact costs all of them is shown beside.

#[path = "../../../tests/it/fleet/halves.rs"]
#[expect(dead_code, reason = "a part of it is for tests")]
mod halves;
#[path = "../../../tests/it/fleet/holes.rs"]
mod holes;
#[path = "../../../tests/it/fleet/namespaces.rs"]
#[expect(dead_code, reason = "a part of it is for fleets of processes")]
mod namespaces;

use std::process::ExitCode;
use std::thread::sleep;
use std::time::{Duration, Instant};

use halves::Halves;

/// That of the `evalmesh` program.
#[path = "../../../src/allocator.rs"]
mod allocator;

const NODES: usize = 100;
const FACTS: usize = 300;
/// After this all round trips are known well, and each node is measured in turn.
const REST: Duration = Duration::from_secs(40);
/// Between two facts, so that each is alone.
const PAUSE: Duration = Duration::from_millis(100);
const PARTITION: Duration = Duration::from_secs(3);
const PARTITIONS: usize = 5;

/// Time on a processor of all threads of this process.
fn cpu() -> Duration {
    let tasks = std::fs::read_dir("/proc/self/task").expect("Linux");
    let nanos = |path: std::path::PathBuf| {
        let stat = std::fs::read_to_string(path.join("schedstat")).unwrap_or_default();
        stat.split(' ').next().and_then(|nanos| nanos.parse::<u64>().ok()).unwrap_or(0)
    };
    Duration::from_nanos(tasks.map(|task| nanos(task.expect("a thread").path())).sum())
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// The smallest of these that so many of a hundred do not exceed.
fn rank(times: &mut [Duration], percent: usize) -> f64 {
    times.sort_unstable();
    ms(times[(times.len() * percent).div_ceil(100).max(1) - 1])
}

fn facts(halves: &mut Halves) {
    sleep(REST);
    let idle = {
        let before = cpu();
        sleep(Duration::from_secs(10));
        (cpu() - before) / 10
    };
    let (mut everywhere, mut each) = (Vec::new(), Vec::new());
    let (begin, before) = (Instant::now(), cpu());
    for number in 0..FACTS {
        let asked = Instant::now();
        halves.compute(number * 37 % halves.nodes.len());
        let computed = asked.elapsed();
        let waits: Vec<_> = halves.know_everything().into_iter().map(|wait| wait + computed).collect();
        everywhere.extend(waits.iter().max().copied());
        each.extend(waits);
        sleep(PAUSE);
    }
    let spent = (cpu() - before).saturating_sub(idle.mul_f64(begin.elapsed().as_secs_f64())) / FACTS as u32;
    println!("idle: {:.0} ms of CPU a second, all nodes together", ms(idle));
    println!("a fact costs {:.1} ms of CPU, all nodes together", ms(spent));
    println!("{:<26} {:>8} {:>8} {:>8}", "a new fact, ms", "p50", "p99", "most");
    for (what, times) in [("at a node", &mut each), ("at every node", &mut everywhere)] {
        println!("{what:<26} {:>8.1} {:>8.1} {:>8.1}", rank(times, 50), rank(times, 99), rank(times, 100));
    }
}

fn partitions(halves: &mut Halves) {
    for _ in 0..PARTITIONS {
        halves.cut(true);
        for node in 0..halves.nodes.len() {
            halves.compute(node);
        }
        sleep(PARTITION);
        halves.cut(false);
        let before = cpu();
        let waits = halves.know_everything();
        let (last, spent) = (waits.iter().max().copied().unwrap_or_default(), cpu() - before);
        let differences = halves.differences();
        println!(
            "after a partition of {PARTITION:?}: everything is known after {:.0} ms ({:.0} ms of CPU), {} differences",
            ms(last),
            ms(spent),
            differences.len()
        );
        sleep(Duration::from_secs(2));
    }
}

fn black_holes() -> Result<(), String> {
    let mut waits = holes::waits(REST)?;
    println!("ten nodes, two of them black holes, until a miss is computed, ms:   p50      p99     most");
    for (what, times) in [("held by a black hole", &mut waits.holes), ("held by nobody", &mut waits.nobody)] {
        println!("{what:<62} {:>8.2} {:>8.2} {:>8.2}", rank(times, 50), rank(times, 99), rank(times, 100));
    }
    println!("one round trip and 2 ms: {:.2}", ms(waits.round_trip) + 2.0);
    Ok(())
}

fn main() -> ExitCode {
    allocator::keep_memory();
    let nodes = std::env::args().nth(1).and_then(|nodes| nodes.parse().ok()).unwrap_or(NODES);
    let begun = black_holes().map(|()| (Instant::now(), cpu()));
    let (begin, before, mut halves) = match begun.and_then(|(begin, cpu)| Ok((begin, cpu, Halves::start(nodes)?))) {
        Ok(begun) => begun,
        Err(why) => {
            eprintln!("no network namespaces here ({why}); run it as root on Linux with iproute2");
            return ExitCode::FAILURE;
        }
    };
    halves.meet();
    println!("{nodes} nodes met after {:.1} s ({:.1} s of CPU)", begin.elapsed().as_secs_f64(), (cpu() - before).as_secs_f64());
    facts(&mut halves);
    partitions(&mut halves);
    ExitCode::SUCCESS
}
