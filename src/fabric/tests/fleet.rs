//! Many fabrics on a lossy network without bytes: how news spreads, and that nothing stays lost.
//!
//! Unlike the simulator this has no disks, callers or signatures; it is here to count messages.

use super::*;
use crate::limits::LINKS_CHOSEN;

/// How long a message travels.
const LATENCY: Duration = Duration::from_millis(5);

struct Member {
    fabric: Fabric,
    log: Remote,
    wake: Option<Duration>,
}

/// A fleet whose lanes are a ring with chords: every member has `lanes` of them.
struct Fleet {
    members: Vec<Member>,
    places: BTreeMap<NodeId, usize>,
    /// Inputs to come, by time and number.
    queue: BTreeMap<(Duration, u64), (usize, Input)>,
    now: Duration,
    number: u64,
    /// Of a thousand messages, so many are lost.
    loss: u64,
    /// Pairs of members in different parts do not hear of each other.
    parted: bool,
    announces: u64,
    rows: u64,
}

impl Fleet {
    fn new(count: usize, lanes: usize, mesh_lanes: usize) -> Self {
        let remote = |at: usize| {
            let mut seed = [5; 32];
            seed[..8].copy_from_slice(&(at as u64).to_le_bytes());
            let mut log = Remote { me: Identity::from_seed(seed), ..Remote::new(1) };
            log.chain = chain_start(log.node(), log.epoch.epoch);
            log
        };
        let member = |at| {
            let log = remote(at);
            let config = Config { mesh_lanes, ..Config::new(log.node(), vec![log.epoch], 0) };
            Member { fabric: Fabric::new(config), log, wake: None }
        };
        let members: Vec<_> = (0..count).map(member).collect();
        let places = members.iter().enumerate().map(|(at, member)| (member.log.node(), at)).collect();
        let queue = BTreeMap::new();
        let mut fleet =
            Self { members, places, queue, now: ms(0), number: 0, loss: 0, parted: false, announces: 0, rows: 0 };
        for from in 0..count {
            // Chords of growing length make the diameter small.
            for chord in 0..lanes / 2 {
                let to = (from + 1 + chord * chord * 3 + chord) % count;
                for (a, b) in [(from, to), (to, from)] {
                    let peer = fleet.members[b].log.node();
                    if a != b && !fleet.members[a].fabric.peers.contains_key(&peer) {
                        fleet.give(a, Input::PeerUp(peer));
                    }
                }
            }
        }
        fleet
    }

    fn later(&mut self, wait: Duration, to: usize, input: Input) {
        self.number += 1;
        self.queue.insert((self.now + wait, self.number), (to, input));
    }

    fn give(&mut self, at: usize, input: Input) {
        let mut outputs = Vec::new();
        self.members[at].fabric.handle(Time(self.now), input, &mut outputs);
        let me = self.members[at].log.node();
        for output in outputs {
            let done = match output {
                Output::Send(to, message) => {
                    self.send(at, to, Input::Message(me, message));
                    continue;
                }
                Output::WakeAt(when) => {
                    self.members[at].wake = Some(when.0);
                    continue;
                }
                Output::CheckAnnouncement(from, told) => {
                    let verdict = Verdict::Signed(told.batch.digest());
                    Input::AnnouncementChecked(from, told, verdict)
                }
                Output::CheckManifest(from, manifest) => Input::ManifestChecked(from, manifest, Some(true)),
                Output::CheckSegment(from, ask, name, bytes) => {
                    Input::SegmentChecked(from, ask, Some(segment::check(&name, &bytes).map(|keys| (keys, bytes))))
                }
                Output::ReadLog(from, chain) => {
                    let log = &self.members[at].log;
                    let batch = log.read(from, crate::limits::BATCH_FACTS);
                    Input::LogRead(batch.map(|batch| Announcement::sign(&log.me, &chain, batch)))
                }
                Output::Describe(manifest) => {
                    let log = &self.members[at].log;
                    Input::Described(segment::complete(manifest, &log.me, |at, max| log.read(at, max)))
                }
                Output::ReadSegment(to, ask, number, end) => {
                    Input::FoundSegment(to, ask, Some(self.members[at].log.segment(number, end)))
                }
                Output::Disconnect(peer, reason) => panic!("{me:?} ends the lane to {peer:?}: {reason}"),
                _ => continue,
            };
            self.later(Duration::from_micros(100), at, done);
        }
    }

    fn send(&mut self, from: usize, to: NodeId, input: Input) {
        let to = self.places[&to];
        let lost = (self.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) % 1000 < self.loss;
        let half = self.members.len() / 2;
        if lost || (self.parted && (from < half) != (to < half)) {
            self.number += 1;
            return;
        }
        if let Input::Message(_, message) = &input {
            self.announces += u64::from(matches!(message, Message::Announce(_)));
            self.rows += match message {
                Message::Have { rows } | Message::Heads { rows, .. } => rows.len() as u64,
                _ => 0,
            };
        }
        self.later(LATENCY, to, input);
    }

    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        loop {
            let message = self.queue.first_key_value().map(|((at, _), _)| *at);
            let wakes = self.members.iter().enumerate().filter_map(|(at, member)| member.wake.map(|wake| (wake, at)));
            let wake = wakes.min();
            match (message, wake) {
                (Some(at), wake) if at <= end && wake.is_none_or(|(wake, _)| at <= wake) => {
                    self.now = self.now.max(at);
                    if let Some((_, (to, input))) = self.queue.pop_first() {
                        self.give(to, input);
                    }
                }
                (_, Some((wake, at))) if wake <= end => {
                    self.now = self.now.max(wake);
                    self.members[at].wake = None;
                    self.give(at, Input::Wake);
                }
                _ => break,
            }
        }
        self.now = end;
    }

    /// A member computes something that nobody knows yet.
    fn record(&mut self, at: usize, question: u64) {
        let fact = LogItem::Fact { question: question.to_le_bytes(), answer: [1; 8] };
        self.members[at].log.items.push(fact);
        let length = self.members[at].log.items.len() as u64;
        self.give(at, Input::Durable(length));
    }

    /// Members that do not know a fact of that one.
    fn without(&self, author: usize, question: u64) -> usize {
        let node = self.members[author].log.node();
        let knows = |member: &Member| member.fabric.holders.holders(question).contains(&node);
        self.members.iter().enumerate().filter(|(at, member)| *at != author && !knows(member)).count()
    }
}

#[test]
fn a_fact_is_everywhere_in_a_mesh_after_one_latency() {
    let mut fleet = Fleet::new(20, 20, 256);
    fleet.pass(ms(1500));
    fleet.record(3, 77);
    fleet.pass(crate::limits::BATCH_DELAY + LATENCY + ms(1));
    let lanes = fleet.members[3].fabric.live_peers().count();
    assert_eq!(fleet.without(3, 77), 19 - lanes);
}

#[test]
fn an_overlay_spreads_news_over_a_tree() {
    let count = 60;
    let mut fleet = Fleet::new(count, 10, 0);
    fleet.pass(ms(2500));
    // The first facts find the tree, the later ones use it.
    for n in 0..10 {
        fleet.record(7, 1000 + n);
        fleet.pass(ms(500));
    }
    assert_eq!(fleet.without(7, 1009), 0);
    let before = fleet.announces;
    for n in 0..10 {
        fleet.record(7, 2000 + n);
        fleet.pass(ms(100));
        assert_eq!(fleet.without(7, 2000 + n), 0, "within 100 ms, without a heartbeat's help");
    }
    let (sent, needed) = (fleet.announces - before, 10 * (count as u64 - 1));
    assert!(
        sent * 10 < needed * 11,
        "{sent} announcements where {needed} would do, {LINKS_CHOSEN} links chosen by each"
    );
}

#[test]
fn what_gossip_loses_the_rows_bring_back() {
    let mut fleet = Fleet::new(40, 8, 0);
    fleet.loss = 100;
    fleet.pass(ms(3000));
    let said = |author: usize| (0..4).map(move |n| (author as u64) << 8 | n);
    for author in (0..40).step_by(5) {
        said(author).for_each(|question| fleet.record(author, question));
        fleet.pass(ms(50));
    }
    fleet.pass(ms(12_000));
    for author in (0..40).step_by(5) {
        for question in said(author) {
            assert_eq!(fleet.without(author, question), 0, "fact {question} of member {author}");
        }
    }
}

#[test]
fn three_seconds_after_a_partition_heals_all_indexes_are_equal() {
    for mesh_lanes in [0, 256] {
        let lanes = if mesh_lanes == 0 { 8 } else { 24 };
        let mut fleet = Fleet::new(24, lanes, mesh_lanes);
        fleet.pass(ms(2500));
        fleet.parted = true;
        for author in 0..24 {
            fleet.record(author, 5000 + author as u64);
        }
        fleet.pass(ms(3000));
        fleet.parted = false;
        fleet.pass(ms(3000));
        for author in 0..24 {
            let node = fleet.members[author].log.node();
            for member in &fleet.members {
                let reaches = mesh_lanes == 0 || member.fabric.peers.contains_key(&node);
                if reaches && member.log.node() != node {
                    assert_eq!(member.fabric.holders.facts_of(node), [5000 + author as u64], "{mesh_lanes}");
                }
            }
        }
    }
}
