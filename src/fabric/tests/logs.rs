//! Announcing, pulling, catching up: nothing that is lost stays lost.

use super::*;
use crate::limits::{BATCH_DELAY, MAX_CHECKS_PER_PEER, PULL_WINDOW, RECENT_BATCHES, SEGMENT};

/// The fabric's own log, read as its driver would.
struct Own(Remote);

impl Own {
    fn new() -> Self {
        let me = Identity::from_seed([99; 32]);
        let epoch = config().lineage[0];
        Self(Remote { chain: chain_start(me.node(), epoch.epoch), me, epoch, items: Vec::new() })
    }

    fn append(&mut self, script: &mut Script, count: u32) {
        let from = u32::try_from(self.0.items.len()).expect("small");
        let fact = |n: u32| LogItem::Fact { question: request(n).0.fingerprint().to_le_bytes(), answer: [1; 8] };
        self.0.items.extend((0..count).map(|n| fact(from + n)));
        script.give(Input::Durable(self.0.items.len() as u64));
    }

    /// Carries out the reads that the fabric asked for; says how many.
    fn read(&self, script: &mut Script) -> usize {
        let me = &self.0.me;
        let done = script.take(|output| match output {
            Output::ReadLog(from, chain) => {
                let batch = self.0.read(*from, crate::limits::BATCH_FACTS);
                Some(Input::LogRead(batch.map(|batch| Announcement::sign(me, chain, batch))))
            }
            Output::Describe(manifest) => {
                Some(Input::Described(segment::complete(manifest.clone(), me, |at, max| self.0.read(at, max))))
            }
            Output::ReadSegment(to, ask, number, end) => {
                Some(Input::FoundSegment(*to, *ask, Some(self.0.segment(*number, *end))))
            }
            _ => None,
        });
        let count = done.len();
        for input in done {
            script.give(input);
        }
        count
    }
}

fn firsts(messages: &[Message]) -> Vec<u64> {
    let first = |message: &Message| match message {
        Message::Announce(announcement) => Some(announcement.batch.first),
        _ => None,
    };
    messages.iter().filter_map(first).collect()
}

#[test]
fn what_is_durable_is_announced_to_everybody_in_one_chain() {
    let (mut script, mut own) = (Script::new(), Own::new());
    let peers = [Remote::new(1), Remote::new(2)];
    for peer in &peers {
        script.join(peer, ms(1));
    }
    own.append(&mut script, 3);
    assert_eq!(own.read(&mut script), 1, "what comes after a pause is told at once");
    own.append(&mut script, 2);
    own.append(&mut script, 1);
    script.pass(BATCH_DELAY.checked_sub(ms(1)).unwrap());
    assert_eq!(own.read(&mut script), 0, "what follows waits for company");
    script.pass(ms(1));
    assert_eq!(own.read(&mut script), 1);
    own.append(&mut script, 3);
    script.pass(BATCH_DELAY);
    own.read(&mut script);
    for peer in &peers {
        let sent = script.sent(peer);
        assert_eq!(firsts(&sent), [0, 3, 6]);
        let mut index = HolderIndex::new(1 << 20);
        index.describe(own.0.node(), vec![own.0.epoch]);
        for message in sent {
            let Message::Announce(announcement) = message else { panic!("{message:?}") };
            assert!(announcement.verify(&Ed25519).is_some());
            assert_eq!(index.merge(&announcement, announcement.batch.digest()), Merge::Merged);
        }
        assert_eq!(index.known(own.0.node()), 9);
    }
}

#[test]
fn a_log_may_be_read_further_than_it_was_told_to_be_durable() {
    let (mut script, mut own, peer) = (Script::new(), Own::new(), Remote::new(1));
    script.join(&peer, ms(1));
    own.append(&mut script, 2);
    script.pass(BATCH_DELAY);
    // Word of the third comes after it was read.
    let late = own.0.items.len() as u64 + 1;
    own.0.items.push(LogItem::Fact { question: [7; 8], answer: [1; 8] });
    assert_eq!(own.read(&mut script), 1);
    script.give(Input::Durable(late));
    own.append(&mut script, 1);
    script.pass(BATCH_DELAY);
    assert_eq!((own.read(&mut script), firsts(&script.sent(&peer))), (1, vec![0, 3]));
}

#[test]
fn a_pull_is_answered_from_recent_batches_or_by_a_manifest() {
    let (mut script, mut own, peer) = (Script::new(), Own::new(), Remote::new(1));
    script.join(&peer, ms(1));
    for _ in 0..RECENT_BATCHES + 6 {
        own.append(&mut script, 2);
        script.pass(BATCH_DELAY);
        own.read(&mut script);
    }
    script.sent(&peer);
    let me = own.0.node();
    script.say(&peer, Message::Pull { node: me, from: 20 });
    assert_eq!(firsts(&script.sent(&peer)), (10..10 + PULL_WINDOW as u64).map(|n| n * 2).collect::<Vec<_>>());
    for from in [0, 5, 19] {
        script.say(&peer, Message::Pull { node: me, from });
    }
    assert_eq!(own.read(&mut script), 1, "one manifest is made for all who wait");
    let told = script.sent(&peer);
    let [Message::Manifest(manifest)] = &told[..] else { panic!("{told:?}") };
    assert!(manifest.verify(&Ed25519) && manifest.is_whole() && manifest.end == 140);
    script.say(&peer, Message::Pull { node: me, from: 0 });
    assert_eq!((own.read(&mut script), script.sent(&peer).len()), (0, 1), "made once, sent again");
    let name = manifest.names().next().expect("one segment");
    let ask = AskId(5);
    script.say(&peer, Message::GetSegment { ask, node: me, number: 0, end: name.end, digest: name.digest });
    own.read(&mut script);
    let told = script.sent(&peer);
    let [Message::Segment { bytes, .. }] = &told[..] else { panic!("{told:?}") };
    assert_eq!(segment::check(&name, bytes).map(|keys| keys.len()), Ok(140));
    script.say(&peer, Message::GetSegment { ask, node: me, number: 7, end: 9, digest: name.digest });
    assert_eq!(script.sent(&peer), [Message::NotHeld { ask }]);
}

#[test]
fn a_lost_announcement_is_pulled_when_the_next_one_or_a_heartbeat_comes() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    let lost = peer.announce(&[request(1).0]);
    let next = peer.announce(&[request(2).0]);
    script.say(&peer, Message::Announce(next.clone()));
    let pull = Message::Pull { node: peer.node(), from: 0 };
    assert_eq!(script.sent(&peer), std::slice::from_ref(&pull));
    script.say(&peer, Message::Announce(next.clone()));
    assert!(script.sent(&peer).is_empty(), "asked for once");
    assert_eq!(script.fabric.lag(peer.node()), 2);
    script.pass(ms(1000));
    assert_eq!(script.sent(&peer), [pull], "the answer was lost: asked for again");
    script.say(&peer, Message::Announce(lost));
    script.check_all();
    script.say(&peer, Message::Announce(next));
    script.check_all();
    assert_eq!((script.fabric.holders().known(peer.node()), script.fabric.lag(peer.node())), (2, 0));
    let gone = peer.announce(&[request(3).0]);
    let length = gone.batch.end();
    script.outputs.clear();
    script.say(&peer, Message::Heads { epoch: peer.epoch.epoch, length, floor: 0, rows: vec![], nonce: 7, pace: 1 });
    assert_eq!(script.sent(&peer), [Message::Pull { node: peer.node(), from: 2 }], "a heartbeat tells as well");
}

#[test]
fn a_late_joiner_fetches_segments_and_goes_on_with_announcements() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    let count = u32::try_from(SEGMENT).expect("small") * 6 + 10;
    let fact = |n: u32| LogItem::Fact {
        question: u64::from(n).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes(),
        answer: [1; 8],
    };
    // As if announced long ago: only the chain is left of it.
    peer.items = (0..count).map(fact).collect();
    script.join(&peer, ms(1));
    assert_eq!(script.sent(&peer), [Message::Pull { node: peer.node(), from: 0 }]);
    script.say(&peer, Message::Manifest(peer.manifest()));
    script.check_all();
    let (mut rounds, mut fetched) = (0, 0);
    loop {
        let wanted = script.sent(&peer);
        if wanted.is_empty() {
            break;
        }
        assert!(wanted.len() <= crate::limits::SEGMENTS_IN_FLIGHT);
        for message in wanted {
            let Message::GetSegment { ask, number, end, .. } = message else { panic!("{message:?}") };
            script.say(&peer, Message::Segment { ask, bytes: peer.segment(number, end) });
            fetched += 1;
        }
        script.check_all();
        rounds += 1;
    }
    assert_eq!((rounds, fetched), (2, 7));
    assert_eq!(script.fabric.holders().known(peer.node()), u64::from(count));
    assert_eq!(script.fabric.holders().stats_of(peer.node()).facts, u64::from(count));
    script.learn(&mut peer, &[request(1).0]);
    assert_eq!(script.fabric.holders().known(peer.node()), u64::from(count) + 1);
}

#[test]
fn a_lost_segment_is_asked_for_again_with_a_later_heartbeat() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    peer.items = (0..9_u64).map(|n| LogItem::Fact { question: n.to_le_bytes(), answer: [1; 8] }).collect();
    script.join(&peer, ms(1));
    script.say(&peer, Message::Manifest(peer.manifest()));
    script.check_all();
    assert!(script.sent(&peer).iter().any(|message| matches!(message, Message::GetSegment { .. })));
    let mut pulled = false;
    for _ in 0..3 {
        script.beat(&peer, ms(1));
        pulled |= script.sent(&peer).contains(&Message::Pull { node: peer.node(), from: 0 });
    }
    assert!(pulled, "the fetch was given up, and begun again");
    assert!(script.fabric.learning.is_consistent());
}

#[test]
fn a_restarted_node_announces_its_new_epoch_from_its_beginning() {
    let (old, new) = (config().lineage[0], EpochStart { epoch: EpochId::from_bytes([10; 16]), start: 40 });
    let mut script = Script::with(Config::new(config().me, vec![old, new], 41));
    let peer = Remote::new(1);
    script.give(Input::PeerUp(peer.node()));
    let told = script.take(|output| match output {
        Output::Send(_, Message::Hello { lineage, length, .. }) => Some((lineage.clone(), *length)),
        _ => None,
    });
    assert_eq!(told, [(vec![old, new], 40)], "what is not announced yet is not promised");
    script.pass(ms(1000) + BATCH_DELAY);
    let read = script.take(|output| match output {
        Output::ReadLog(from, chain) => Some((*from, *chain)),
        _ => None,
    });
    assert_eq!(read, [(40, chain_start(config().me, new.epoch))]);
}

#[test]
fn an_overloaded_driver_delays_an_announcement_and_loses_none() {
    let (mut script, mut own, peer) = (Script::new(), Own::new(), Remote::new(1));
    script.join(&peer, ms(1));
    own.append(&mut script, 1);
    script.pass(BATCH_DELAY);
    assert_eq!(script.take(|output| matches!(output, Output::ReadLog(..)).then_some(())).len(), 1);
    script.give(Input::LogRead(None));
    script.pass(ms(1000) + BATCH_DELAY);
    assert_eq!(own.read(&mut script), 1, "read again after the next heartbeat");
    assert_eq!(firsts(&script.sent(&peer)), [0]);
}

#[test]
fn dropped_segments_are_told_of_and_masked() {
    let (mut script, peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    script.give(Input::Dropped(70));
    script.pass(ms(1000));
    let floors = script.take(|output| match output {
        Output::Send(_, Message::Heads { floor, .. }) => Some(*floor),
        _ => None,
    });
    assert_eq!(floors, [70]);
}

/// The checks that were asked for, not carried out yet.
fn checks(script: &mut Script) -> Vec<(NodeId, Arc<Announcement>)> {
    script.take(|output| match output {
        Output::CheckAnnouncement(from, announcement) => Some((*from, announcement.clone())),
        _ => None,
    })
}

/// The outcome of a check that an announcement passes.
fn signed(from: NodeId, announcement: Arc<Announcement>) -> Input {
    let verdict = Verdict::of(&announcement, &Ed25519);
    assert_ne!(verdict, Verdict::Forged);
    Input::AnnouncementChecked(from, announcement, verdict)
}

fn pulls(script: &mut Script, of: &Remote) -> usize {
    script.sent(of).iter().filter(|message| matches!(message, Message::Pull { .. })).count()
}

#[test]
fn announcements_back_to_back_are_checked_side_by_side_and_merged_in_order() {
    for order in [[0, 1, 2, 3], [3, 2, 1, 0], [2, 0, 3, 1]] {
        let (mut script, mut peer) = (Script::new(), Remote::new(1));
        script.join(&peer, ms(1));
        script.sent(&peer);
        for n in 0..4 {
            let announcement = peer.announce(&[request(n).0]);
            script.say(&peer, Message::Announce(announcement.clone()));
            script.say(&peer, Message::Announce(announcement));
        }
        let waiting = checks(&mut script);
        assert_eq!(waiting.len(), 4, "each once, none waits for the one before");
        for at in order {
            let (from, announcement) = waiting[at].clone();
            script.give(signed(from, announcement));
        }
        assert_eq!(script.fabric.holders().known(peer.node()), 4, "{order:?}");
        assert_eq!(pulls(&mut script, &peer), 0, "{order:?}");
        assert!(script.fabric.learning.is_consistent() && script.fabric.learning.is_idle());
    }
}

#[test]
fn what_follows_on_something_that_did_not_hold_is_let_go_and_pulled() {
    let (mut script, mut author, other) = (Script::new(), Remote::new(1), Remote::new(2));
    script.join(&author, ms(1));
    script.join(&other, ms(1));
    let told: Vec<_> = (0..4).map(|n| author.announce(&[request(n).0])).collect();
    for announcement in &told {
        script.say(&author, Message::Announce(announcement.clone()));
    }
    script.sent(&author);
    let waiting = checks(&mut script);
    for at in [3, 1, 0] {
        let (from, announcement) = waiting[at].clone();
        script.give(signed(from, announcement));
    }
    let (from, announcement) = waiting[2].clone();
    script.give(Input::AnnouncementChecked(from, announcement, Verdict::NotNow));
    assert_eq!(script.fabric.holders().known(author.node()), 2, "the third could not be checked");
    assert!(script.fabric.learning.is_idle());
    assert_eq!(pulls(&mut script, &author), 1, "what is missing is asked for again");
    for announcement in &told[2..] {
        script.say(&author, Message::Announce(announcement.clone()));
    }
    script.check_all();
    assert_eq!(script.fabric.holders().known(author.node()), 4);
}

#[test]
fn one_peer_has_only_so_many_announcements_checked_or_waiting() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    for n in 0..40 {
        let announcement = peer.announce(&[request(n).0]);
        script.say(&peer, Message::Announce(announcement));
    }
    let mut waiting = checks(&mut script);
    assert_eq!(waiting.len(), MAX_CHECKS_PER_PEER);
    // All but the first are checked: they still count.
    let first = waiting.remove(0);
    for (from, announcement) in waiting {
        script.give(signed(from, announcement));
    }
    let next = peer.announce(&[request(77).0]);
    script.say(&peer, Message::Announce(next));
    assert!(checks(&mut script).is_empty());
    script.give(signed(first.0, first.1));
    assert_eq!(script.fabric.holders().known(peer.node()), MAX_CHECKS_PER_PEER as u64);
    assert!(script.fabric.learning.is_idle());
}

#[test]
fn a_known_round_trip_is_measured_now_and_then() {
    let (mut script, peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(3));
    let mut wanted = 0;
    for _ in 0..100 {
        script.pass(HEARTBEAT);
        let (pongs, heartbeats) = script.answer_heartbeats(&peer);
        assert_eq!(heartbeats, 1);
        wanted += pongs;
    }
    assert!((15..=25).contains(&wanted), "{wanted} pongs for 100 heartbeats");
}
