//! Both nodes of a pair, whose dials cross in every order.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::tests::{AT, HIGH, LOW, conn};
use super::*;

/// What one end of a connection tells the other, in order.
#[derive(Debug, Clone, Copy)]
enum Wire {
    Hello,
    Offer(Kind),
    Taken,
    Bye,
}

/// Both nodes of a pair and what is under way between them; node 0 is the lower one.
struct Pair {
    arbiters: [Arbiter; 2],
    /// For each connection: who dialed, for what, and the queues towards node 0 and node 1.
    wires: Vec<(usize, [VecDeque<Wire>; 2], Kind)>,
    /// The ends that exist, as (node, connection).
    ends: BTreeSet<(usize, usize)>,
    lanes: [Vec<String>; 2],
    carrier: [Option<usize>; 2],
    bulk: [Option<usize>; 2],
}

impl Pair {
    const NODES: [NodeId; 2] = [LOW, HIGH];

    /// Dials a second time, if this node dialed the lane that it sees.
    fn dial_for_bulk(&mut self, node: usize) {
        let dialed = self.carrier[node].is_some_and(|id| self.wires[id].0 == node);
        if dialed && self.bulk[node].is_none() {
            self.arbiters[node].dialing_for_bulk(conn(self.wires.len()));
            self.dial(node, Kind::Bulk);
        }
    }

    fn dial(&mut self, node: usize, kind: Kind) {
        let id = self.wires.len();
        self.wires.push((node, Default::default(), kind));
        // The handshake ends here first; the other side learns of it later.
        self.tell(1 - node, id, Wire::Hello);
        if self.meet(node, id) {
            self.tell(1 - node, id, Wire::Offer(kind));
        }
    }

    fn tell(&mut self, node: usize, id: usize, wire: Wire) {
        self.wires[id].1[node].push_back(wire);
    }

    /// One end of a connection is authenticated.
    fn meet(&mut self, node: usize, id: usize) -> bool {
        let (other, dialed) = (Self::NODES[1 - node], self.wires[id].0 == node);
        let wanted = self.arbiters[node].wants(other, dialed.then_some(self.wires[id].2));
        if wanted {
            self.arbiters[node].connected(other, conn(id), dialed, AT);
            self.ends.insert((node, id));
        } else {
            self.tell(1 - node, id, Wire::Bye);
        }
        wanted
    }

    /// The next thing that some queue holds happens at its end.
    fn arrive(&mut self, node: usize, id: usize) {
        let Some(wire) = self.wires[id].1[node].pop_front() else { return };
        let other = Self::NODES[1 - node];
        if let Wire::Hello = wire {
            self.meet(node, id);
        } else if self.ends.contains(&(node, id)) {
            let open = || Report::Open(Arc::new(Lane::new(other, self.wires[id].2)));
            match wire {
                Wire::Offer(kind) => self.arbiters[node].reported(other, conn(id), Report::Offered(kind)),
                Wire::Taken => self.open(node, id, open()),
                Wire::Bye | Wire::Hello => self.part(node, id),
            }
        }
        self.settle(node);
    }

    fn open(&mut self, node: usize, id: usize, report: Report) {
        self.arbiters[node].reported(Self::NODES[1 - node], conn(id), report);
        match self.wires[id].2 {
            Kind::Main => self.carrier[node] = Some(id),
            Kind::Bulk => self.bulk[node] = Some(id),
        }
    }

    fn part(&mut self, node: usize, id: usize) {
        if self.ends.remove(&(node, id)) {
            self.arbiters[node].disconnected(Self::NODES[1 - node], conn(id), DownReason::Closed);
        }
    }

    fn settle(&mut self, node: usize) {
        while let Some(verdict) = self.arbiters[node].next() {
            match verdict {
                Verdict::Take(other, id) => {
                    let id = (0..self.wires.len()).find(|number| conn(*number) == id).unwrap();
                    self.tell(1 - node, id, Wire::Taken);
                    self.open(node, id, Report::Open(Arc::new(Lane::new(other, self.wires[id].2))));
                }
                Verdict::Close(_, id) => {
                    let id = (0..self.wires.len()).find(|number| conn(*number) == id).unwrap();
                    self.tell(1 - node, id, Wire::Bye);
                    self.part(node, id);
                }
                Verdict::Up { .. } => self.lanes[node].push("up".to_owned()),
                Verdict::Down { reason, .. } => self.lanes[node].push(format!("down {reason:?}")),
                Verdict::BulkDown(_) => self.bulk[node] = None,
                Verdict::BulkUp(_) | Verdict::Failed { .. } | Verdict::Gone(_) => {}
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    /// However the messages of crossing dials interleave, both sides end with the same single connection and never see it go down.
    #[test]
    fn crossing_dials_end_with_one_lane(
        first in 0..2_usize,
        dials in prop::collection::vec(0..4_usize, 0..7),
        order in prop::collection::vec(any::<u8>(), 80),
    ) {
        let mut pair = Pair {
            arbiters: [Arbiter::new(LOW), Arbiter::new(HIGH)],
            wires: Vec::new(),
            ends: BTreeSet::new(),
            lanes: Default::default(),
            carrier: [None; 2],
            bulk: [None; 2],
        };
        pair.dial(first, Kind::Main);
        let (mut dials, mut order) = (dials.into_iter(), order.into_iter().map(usize::from));
        loop {
            let busy: Vec<(usize, usize)> = (0..pair.wires.len())
                .flat_map(|id| [(0, id), (1, id)])
                .filter(|(node, id)| !pair.wires[*id].1[*node].is_empty())
                .collect();
            let pick = order.next().unwrap_or(0) % (busy.len() + 1);
            match (busy.get(pick), dials.len()) {
                (Some((node, id)), _) => pair.arrive(*node, *id),
                (None, 1..) => match dials.next().unwrap() {
                    node @ 0..2 => pair.dial(node, Kind::Main),
                    node => pair.dial_for_bulk(node - 2),
                },
                (None, 0) if busy.is_empty() => break,
                (None, 0) => pair.arrive(busy[0].0, busy[0].1),
            }
        }
        prop_assert_eq!(&pair.lanes, &[["up"], ["up"]]);
        prop_assert_eq!(pair.carrier[0], pair.carrier[1]);
        prop_assert_eq!(pair.bulk[0], pair.bulk[1]);
        prop_assert!(pair.bulk[0].is_none() || pair.bulk[0] != pair.carrier[0]);
        prop_assert_eq!(pair.ends.len(), if pair.bulk[0].is_some() { 4 } else { 2 });
    }
}
