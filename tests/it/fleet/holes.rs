//! Ten nodes, two of which are black holes: what is sent to them is lost, and nothing says so.

use std::thread::sleep;
use std::time::Duration;

use super::halves::Halves;

const NODES: usize = 10;
const HOLES: usize = 2;
/// Asked of the others before the holes are found out, which takes seconds.
const QUESTIONS: usize = 400;
/// What questions waited until they were computed.
pub(super) struct Waits {
    /// Questions whose only holder is a black hole; sorted.
    pub(super) holes: Vec<Duration>,
    /// Questions whose answer nobody has; sorted.
    pub(super) nobody: Vec<Duration>,
    /// The longest round trip to a hole that some node measured.
    pub(super) round_trip: Duration,
}

/// Asks them after a rest in which heartbeats measure round trips. The error says why there can be no namespaces.
pub(super) fn waits(rest: Duration) -> Result<Waits, String> {
    let mut fleet = Halves::split((0..NODES).map(|node| usize::from(node >= NODES - HOLES)).collect())?;
    fleet.meet();
    sleep(rest);
    let held: Vec<_> = (0..QUESTIONS).map(|number| fleet.compute(NODES - HOLES + number % HOLES)).collect();
    fleet.know_everything();
    let (near, far) = fleet.nodes.split_at(NODES - HOLES);
    let peers = near.iter().flat_map(|node| node.status().peers);
    let to_holes = peers.filter(|peer| far.iter().any(|hole| hole.id() == peer.node));
    let round_trip = to_holes.filter_map(|peer| peer.round_trip).max().unwrap_or_default();
    fleet.cut(true);
    let (mut holes, mut nobody) = (Vec::new(), Vec::new());
    for (number, question) in held.iter().enumerate() {
        let asker = number % (NODES - HOLES);
        holes.push(fleet.miss(asker, *question));
        // Numbers that no question had.
        nobody.push(fleet.miss(asker, QUESTIONS * 1000 + number));
    }
    holes.sort_unstable();
    nobody.sort_unstable();
    Ok(Waits { holes, nobody, round_trip })
}
