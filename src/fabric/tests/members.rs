//! Hello, heartbeats, and who is alive.

use super::*;
use crate::limits::{DEAD_AFTER, HEARTBEATS_AT_ONCE, HELLO_PATIENCE, PEERS_PER_BEAT, SUSPECT_AFTER};

fn hellos(script: &mut Script, to: &Remote) -> usize {
    let hello = |output: &Output| match output {
        Output::Send(peer, Message::Hello { .. }) if *peer == to.node() => Some(()),
        _ => None,
    };
    script.take(hello).len()
}

#[test]
fn a_hello_is_sent_again_until_something_shows_that_it_came() {
    let (mut script, peer) = (Script::new(), Remote::new(1));
    script.give(Input::PeerUp(peer.node()));
    assert_eq!(hellos(&mut script, &peer), 1);
    script.pass(ms(2000));
    assert_eq!(hellos(&mut script, &peer), 2, "once with every heartbeat");
    // Its hello comes, but ours may still be lost.
    script.say(&peer, peer.hello());
    script.pass(ms(1000));
    assert_eq!(hellos(&mut script, &peer), 1);
    script.say(&peer, Message::Pong { nonce: 0 });
    script.pass(ms(3000));
    assert_eq!(hellos(&mut script, &peer), 0);
}

#[test]
fn who_never_says_hello_is_not_listened_to_and_loses_the_lane() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    script.give(Input::PeerUp(peer.node()));
    let early = peer.announce(&[request(1).0]);
    script.say(&peer, Message::Announce(early));
    for _ in 0..9 {
        script.pass(ms(1000));
        script.say(
            &peer,
            Message::Heads { epoch: peer.epoch.epoch, length: 9, floor: 0, rows: vec![], nonce: 1, pace: 1 },
        );
    }
    assert_eq!((script.fabric.counters().unheard, script.fabric.live_peers().count()), (10, 0));
    assert!(script.disconnects().is_empty());
    script.pass(HELLO_PATIENCE - ms(9000));
    assert_eq!(script.disconnects(), [(peer.node(), Disconnect::NoHello)]);
}

#[test]
fn versions_that_do_not_overlap_are_named() {
    let (mut script, peer) = (Script::new(), Remote::new(1));
    script.give(Input::PeerUp(peer.node()));
    script.say(&peer, Message::Hello { newest: 9, oldest: 7, lineage: vec![peer.epoch], length: 0 });
    let (ours_oldest, ours_newest) = (OLDEST_PROTOCOL, PROTOCOL);
    let reason = Disconnect::Protocol { theirs_oldest: 7, theirs_newest: 9, ours_oldest, ours_newest };
    assert_eq!(script.disconnects(), [(peer.node(), reason)]);
}

#[test]
fn a_silent_peer_is_suspect_then_dead_then_back() {
    let (mut script, mut silent, mut alive) = (Script::new(), Remote::new(1), Remote::new(2));
    script.join(&silent, ms(1));
    script.join(&alive, ms(9));
    for peer in [&mut silent, &mut alive] {
        script.learn(peer, &[request(1).0]);
    }
    let live = |script: &Script, peer: &Remote| script.fabric.liveness(Time(script.now), peer.node());
    assert_eq!(live(&script, &silent), Liveness::Alive);
    let keep_one = |script: &mut Script, time: Duration| {
        let end = script.now + time;
        while script.now < end {
            script.pass(ms(500));
            script.answer_heartbeats(&alive);
            script.outputs.clear();
        }
    };
    keep_one(&mut script, HEARTBEAT * SUSPECT_AFTER);
    assert_eq!((live(&script, &silent), live(&script, &alive)), (Liveness::Suspect, Liveness::Alive));
    script.ask(1, AnswerFrom::Anywhere);
    assert_eq!((script.asks(&alive).len(), script.asks(&silent).len()), (1, 0), "the suspect is nearer, and second");
    keep_one(&mut script, DEAD_AFTER);
    assert_eq!(live(&script, &silent), Liveness::Dead);
    let (id, known) = (request(1).0, script.fabric.holders().known(silent.node()));
    assert_eq!((known, script.fabric.holders().holders(id.fingerprint()).len()), (1, 2), "nothing is forgotten");
    script.give(Input::PeerDown(alive.node()));
    script.outputs.clear();
    script.ask(1, AnswerFrom::Anywhere);
    assert_eq!((script.asks(&silent).len(), script.fabric.in_flight()), (0, 1), "the dead are not asked");
    script.say(&silent, Message::Pong { nonce: 0 });
    assert_eq!(live(&script, &silent), Liveness::Alive, "back with its first word");
    script.give(Input::PeerDown(silent.node()));
    assert_eq!(live(&script, &silent), Liveness::Away);
}

#[test]
fn asks_to_a_peer_that_dies_end_at_once() {
    let (mut script, mut peer) = (Script::new(), Remote::new(1));
    script.join(&peer, ms(1));
    script.learn(&mut peer, &[request(1).0]);
    script.pass(DEAD_AFTER - ms(500));
    let job = script.ask(1, AnswerFrom::HeldOnly);
    assert_eq!(script.asks(&peer).len(), 1, "suspect, and the only one");
    script.pass(ms(1500));
    assert!(matches!(&script.deliveries()[..], [(to, Err(EvalError::NotHeld { .. }))] if *to == job));
}

#[test]
fn many_peers_take_turns_and_are_told_when_theirs_comes() {
    let mut script = Script::new();
    let peers: Vec<_> = (0..3 * PEERS_PER_BEAT).map(|n| Remote::new(u8::try_from(n).expect("few"))).collect();
    for peer in &peers {
        script.join(peer, ms(1));
    }
    let mut told = std::collections::BTreeMap::<NodeId, usize>::new();
    for _ in 0..12 * 8 {
        script.pass(HEARTBEAT / 8);
        let heads = script.take(|output| match output {
            Output::Send(to, Message::Heads { pace, .. }) => Some((*to, *pace)),
            _ => None,
        });
        assert!(heads.len() <= 2 * HEARTBEATS_AT_ONCE, "{} at once", heads.len());
        for (to, pace) in heads {
            assert_eq!(pace, 3);
            *told.entry(to).or_default() += 1;
        }
    }
    assert_eq!(told.len(), peers.len());
    // Some of them have their fourth turn in the rest of the last second.
    assert!(told.values().all(|times| matches!(times, 3..=4)), "{told:?}");
}

#[test]
fn who_speaks_seldom_is_given_time() {
    let (mut script, slow) = (Script::new(), Remote::new(1));
    script.join(&slow, ms(1));
    let heads = Message::Heads { epoch: slow.epoch.epoch, length: 0, floor: 0, rows: vec![], nonce: NO_PONG, pace: 4 };
    script.say(&slow, heads);
    let live = |script: &Script| script.fabric.liveness(Time(script.now), slow.node());
    script.pass(HEARTBEAT * 4 * SUSPECT_AFTER - ms(1));
    assert_eq!(live(&script), Liveness::Alive);
    script.pass(ms(1));
    assert_eq!(live(&script), Liveness::Suspect);
    script.pass(ms(7_999));
    assert_eq!(live(&script), Liveness::Suspect, "five of its heartbeats are twenty seconds");
    script.pass(ms(1));
    assert_eq!(live(&script), Liveness::Dead);
}
