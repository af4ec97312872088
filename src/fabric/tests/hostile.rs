//! Floods, replays, lies: each bounded, counted, and at the cost of nobody but its sender.

use super::*;
use crate::limits::{MAX_ASKS_PER_PEER, MAX_CHECKS_PER_PEER, MAX_FETCHES, SEGMENT};

fn checks(script: &mut Script) -> usize {
    script.take(|output| matches!(output, Output::CheckAnnouncement(..)).then_some(())).len()
}

#[test]
fn a_flood_of_announcements_is_checked_a_few_at_a_time() {
    let mut script = Script::new();
    let (mut flooder, mut honest) = (Remote::new(1), Remote::new(2));
    script.join(&flooder, ms(1));
    script.join(&honest, ms(1));
    // Every one of them would be new: histories of its own making, one more from position 0 at a time.
    for n in 0..1000 {
        let mut history = Remote::new(1);
        let announcement = history.announce(&[request(n).0]);
        let mut again = announcement.clone();
        Arc::make_mut(&mut again).batch.first = 0;
        script.say(&flooder, Message::Announce(again));
    }
    assert_eq!(checks(&mut script), 1, "one position is checked once");
    assert_eq!(script.fabric.counters().duplicates, 999);
    // Relayed histories of many authors that do exist, all new.
    let mut authors: Vec<_> = (10..60).map(Remote::new).collect();
    for author in &authors {
        script.fabric.holders.describe(author.node(), vec![author.epoch]);
    }
    for author in &mut authors {
        let announcement = author.announce(&[request(1).0]);
        script.say(&flooder, Message::Announce(announcement));
    }
    assert_eq!(checks(&mut script), MAX_CHECKS_PER_PEER - 1);
    assert_eq!(script.fabric.counters().flooded, 50 - (MAX_CHECKS_PER_PEER as u64 - 1));
    script.learn(&mut honest, &[request(7).0]);
    assert_eq!(script.fabric.holders().holders(request(7).0.fingerprint()), [honest.node()], "others are not held up");
    flooder.items.clear();
}

#[test]
fn replays_and_duplicates_cost_no_signature_check() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    let first = peer.announce(&[request(1).0]);
    let second = peer.announce(&[request(2).0]);
    for announcement in [&first, &second] {
        script.say(&peer, Message::Announce(announcement.clone()));
        script.check_all();
    }
    for _ in 0..500 {
        script.say(&peer, Message::Announce(first.clone()));
        script.say(&peer, Message::Announce(second.clone()));
    }
    assert_eq!((checks(&mut script), script.fabric.counters().duplicates), (0, 1000));
    assert_eq!(script.fabric.holders().stats_of(peer.node()).facts, 2);
    assert!(script.disconnects().is_empty(), "a duplicate is not a lie");
}

#[test]
fn a_forged_announcement_convicts_whoever_brought_it() {
    let mut script = Script::new();
    let (messenger, mut victim) = (Remote::new(1), Remote::new(2));
    script.join(&messenger, ms(1));
    script.join(&victim, ms(1));
    let mut forged = victim.announce(&[request(1).0]);
    Arc::make_mut(&mut forged).batch.items[0] = LogItem::Fact { question: [6; 8], answer: [6; 8] };
    script.say(&messenger, Message::Announce(forged));
    script.check_all();
    assert!(matches!(&script.disconnects()[..], [(who, Disconnect::Unbelievable(_))] if *who == messenger.node()));
    assert!(script.fabric.holders().is_empty());
}

#[test]
fn two_signed_histories_convict_their_author() {
    let mut script = Script::new();
    let (messenger, mut liar, mut twin) = (Remote::new(1), Remote::new(2), Remote::new(2));
    script.join(&messenger, ms(1));
    script.join(&liar, ms(1));
    script.learn(&mut liar, &[request(1).0]);
    let other = twin.announce(&[request(2).0]);
    script.say(&messenger, Message::Announce(other));
    script.check_all();
    assert!(matches!(&script.disconnects()[..], [(who, Disconnect::Unbelievable(_))] if *who == liar.node()));
    assert_eq!(script.fabric.counters().equivocations, 1);
}

#[test]
fn a_holder_that_claims_everything_and_serves_nothing_is_asked_a_few_times() {
    let (mut script, mut liar) = (Script::new(), Remote::new(1));
    script.join(&liar, ms(2));
    let ids: Vec<_> = (0..500).map(|n| request(n).0).collect();
    script.learn(&mut liar, &ids);
    let mut asked = 0;
    for n in 0..500 {
        script.ask(n, AnswerFrom::Anywhere);
        if let [ask] = script.asks(&liar)[..] {
            asked += 1;
            script.say(&liar, Message::NotHeld { ask });
        }
        assert_eq!(script.computations().len(), 1, "and then it is computed at once");
    }
    assert_eq!(asked, 16);
    assert_eq!(script.fabric.holders().stats_of(liar.node()).corrected, 16);
}

#[test]
fn lengths_that_nobody_has_cost_one_pull_a_heartbeat() {
    let (mut script, peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    let heads =
        |nonce| Message::Heads { epoch: peer.epoch.epoch, length: u64::MAX, floor: 0, rows: vec![], nonce, pace: 1 };
    for nonce in 0..1000 {
        script.say(&peer, heads(nonce));
    }
    assert_eq!(script.sent(&peer).len(), 1);
    script.pass(ms(1000));
    assert_eq!(script.sent(&peer).len(), 1);
}

#[test]
fn a_manifest_that_lies_is_refused_before_anything_is_fetched() {
    let mut honest = Remote::new(1);
    honest.announce(&[request(1).0]);
    let lies: [fn(&mut Manifest); 4] = [
        |manifest| manifest.end = u64::MAX,
        |manifest| manifest.segments[0].0 = u32::try_from(SEGMENT).expect("small") + 1,
        |manifest| manifest.lineage.clear(),
        |manifest| manifest.chain[0] ^= 1,
    ];
    for lie in lies {
        let mut script = Script::new();
        script.join(&honest, ms(1));
        script.sent(&honest);
        let mut manifest = honest.manifest();
        lie(Arc::make_mut(&mut manifest));
        script.say(&honest, Message::Manifest(manifest));
        script.check_all();
        assert!(matches!(script.disconnects()[..], [(_, Disconnect::Unbelievable(_))]));
        assert!(script.sent(&honest).is_empty());
    }
}

#[test]
fn a_segment_that_is_not_the_one_of_that_name_is_a_lie() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    peer.announce(&[request(1).0]);
    script.join(&peer, ms(1));
    script.say(&peer, Message::Manifest(peer.manifest()));
    script.check_all();
    let ask = script.sent(&peer).into_iter().find_map(|message| match message {
        Message::GetSegment { ask, .. } => Some(ask),
        _ => None,
    });
    let bytes = segment::encode_keys(vec![1, 2, 3]).into();
    script.say(&peer, Message::Segment { ask: ask.expect("asked for"), bytes });
    script.check_all();
    assert!(matches!(script.disconnects()[..], [(_, Disconnect::Unbelievable(_))]));
    assert!(script.fabric.holders().is_empty() && script.fabric.learning.is_consistent());
}

#[test]
fn nobody_but_its_author_takes_a_log_back() {
    let mut script = Script::new();
    let (relay, mut author) = (Remote::new(1), Remote::new(2));
    script.join(&relay, ms(1));
    script.join(&author, ms(1));
    script.learn(&mut author, &[request(1).0]);
    // The author did sign this once, for another ledger.
    let other = EpochStart { epoch: EpochId::from_bytes([77; 16]), start: 0 };
    let mut stale = Remote { epoch: other, ..Remote::new(2) };
    stale.chain = chain_start(stale.node(), other.epoch);
    stale.announce(&[request(2).0, request(3).0]);
    script.say(&relay, Message::Manifest(stale.manifest()));
    script.check_all();
    assert_eq!(script.fabric.holders().holders(request(1).0.fingerprint()), [author.node()]);
    script.say(&author, Message::Manifest(stale.manifest()));
    script.check_all();
    assert!(script.fabric.holders().holders(request(1).0.fingerprint()).is_empty(), "the author may");
}

#[test]
fn manifests_of_many_logs_are_fetched_a_few_at_a_time() {
    let (mut script, relay) = (Script::new(), Remote::new(1));
    script.join(&relay, ms(1));
    for seed in 10..60 {
        let mut author = Remote::new(seed);
        author.announce(&[request(1).0]);
        script.say(&relay, Message::Manifest(author.manifest()));
        script.check_all();
    }
    assert_eq!(script.fabric.learning.fetches(), MAX_FETCHES);
    assert!(script.fabric.learning.is_consistent());
}

#[test]
fn asks_beyond_the_bound_are_told_so_at_once() {
    let (mut script, peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    for n in 0..=MAX_ASKS_PER_PEER as u64 {
        script.say(&peer, Message::Ask { ask: AskId(n), id: request(1).0 });
    }
    assert_eq!(script.sent(&peer), [Message::Busy { ask: AskId(MAX_ASKS_PER_PEER as u64) }]);
    script.give(Input::Found(peer.node(), AskId(0), None));
    script.give(Input::Found(peer.node(), AskId(0), None));
    assert_eq!(script.sent(&peer), [Message::NotHeld { ask: AskId(0) }], "one answer for one ask");
    script.say(&peer, Message::Ask { ask: AskId(0), id: request(1).0 });
    assert!(script.sent(&peer).is_empty(), "there is room again");
    assert_eq!(script.fabric.counters().refused, 1);
}

#[test]
fn answers_to_what_was_not_asked_are_dropped() {
    let (mut script, mut peer, other) = (Script::new(), Remote::new(1), Remote::new(2));
    script.join(&peer, ms(1));
    script.join(&other, ms(1));
    script.learn(&mut peer, &[request(1).0]);
    script.ask(1, AnswerFrom::Anywhere);
    let ask = script.asks(&peer)[0];
    for message in [
        other.held(ask, request(1).0, 10),
        Message::NotHeld { ask },
        Message::Busy { ask },
        Message::Chunk { ask, bytes: Bytes::from_static(b"x") },
        Message::Segment { ask, bytes: Bytes::from_static(b"x") },
        Message::NotHeld { ask: AskId(12_345) },
    ] {
        script.say(&other, message);
    }
    script.check_all();
    assert!(script.deliveries().is_empty() && script.disconnects().is_empty());
    assert_eq!(script.fabric.asks.len(), 1, "the ask of the right peer still stands");
}
