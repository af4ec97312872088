//! Above the bound of the mesh: links, eager and lazy, and rows that bring back what they lost.

use std::collections::BTreeSet;

use super::*;
use crate::limits::{GRAFT_ROUND_TRIPS, LINKS_CHOSEN};

/// A script with this many peers in an overlay, all with the same round trip.
fn overlay(count: u8) -> (Script, Vec<Remote>) {
    let mut script = Script::with(Config { mesh_lanes: 0, ..config() });
    let peers: Vec<_> = (1..=count).map(Remote::new).collect();
    for peer in &peers {
        script.join(peer, ms(10));
    }
    script.pass(ms(1000) - script.now);
    script.now += ms(10);
    for peer in &peers {
        script.answer_heartbeats(peer);
    }
    (script, peers)
}

/// The peers that this node chose, by what it told them last.
fn chosen(script: &mut Script, peers: &[Remote]) -> Vec<usize> {
    let links = script.take(|output| match output {
        Output::Send(to, Message::Link { on }) => Some((*to, *on)),
        _ => None,
    });
    let on = |peer: &Remote| links.iter().rev().find(|(to, _)| *to == peer.node()).is_some_and(|(_, on)| *on);
    (0..peers.len()).filter(|at| on(&peers[*at])).collect()
}

#[test]
fn a_node_chooses_a_few_neighbours_and_replaces_those_that_go() {
    let (mut script, peers) = overlay(40);
    let links = chosen(&mut script, &peers);
    assert_eq!(links.len(), LINKS_CHOSEN);
    script.give(Input::PeerDown(peers[links[0]].node()));
    script.pass(ms(1000));
    let more = chosen(&mut script, &peers);
    assert_eq!(more.len(), 1);
    assert!(!links.contains(&more[0]));
}

#[test]
fn news_goes_on_over_links_and_turns_lazy_where_it_comes_twice() {
    let (mut script, mut peers) = overlay(12);
    let links = chosen(&mut script, &peers);
    let announcement = peers[links[0]].announce(&[request(1).0]);
    let (a, b) = (links[1], links[2]);
    script.outputs.clear();
    script.say(&peers[a], Message::Announce(announcement.clone()));
    script.say(&peers[b], Message::Announce(announcement.clone()));
    assert_eq!(script.sent(&peers[b]), [Message::Prune], "it was being checked already");
    script.check_all();
    let went: Vec<_> = (0..12).filter(|at| !script.sent(&peers[*at]).is_empty()).collect();
    assert_eq!(went, [links[3]], "to every link but its author and those that have shown that they have it");
    let next = peers[links[0]].announce(&[request(2).0]);
    script.say(&peers[a], Message::Announce(next));
    script.check_all();
    assert!(matches!(script.sent(&peers[b])[..], [Message::Have { .. }]), "only word of it");
    assert!(matches!(script.sent(&peers[links[3]])[..], [Message::Announce(_)]));
}

#[test]
fn a_log_is_passed_on_from_its_first_fact_on() {
    let (mut script, mut peers) = overlay(12);
    let links = chosen(&mut script, &peers);
    let (author, from) = (links[0], links[1]);
    script.outputs.clear();
    let skip = peers[author].append(vec![LogItem::Skip(1)]);
    script.say(&peers[from], Message::Announce(skip));
    script.check_all();
    assert_eq!(script.fabric.holders().known(peers[author].node()), 1, "it is known here");
    assert!((0..12).all(|at| script.sent(&peers[at]).is_empty()), "and worth nothing to others");
    let fact = peers[author].announce(&[request(1).0]);
    script.say(&peers[from], Message::Announce(fact));
    script.check_all();
    assert!(matches!(script.sent(&peers[links[2]])[..], [Message::Announce(_)]));
    // Whoever gets it asks for what comes before it.
    script.say(&peers[links[2]], Message::Pull { node: peers[author].node(), from: 0 });
    assert!(matches!(script.sent(&peers[links[2]])[..], [Message::Announce(_), Message::Announce(_)]));
    let skip = peers[author].append(vec![LogItem::Skip(1)]);
    script.say(&peers[from], Message::Announce(skip));
    script.check_all();
    assert!(matches!(script.sent(&peers[links[3]])[..], [Message::Announce(_), Message::Announce(_)]), "it has facts");
}

#[test]
fn a_lazy_link_is_grafted_when_the_entries_do_not_come() {
    let (mut script, mut peers) = overlay(6);
    let row = |author: &Remote| Row { node: author.node(), epoch: author.epoch.epoch, length: 1 };
    let announcement = peers[0].announce(&[request(1).0]);
    script.outputs.clear();
    script.say(&peers[1], Message::Have { rows: vec![row(&peers[0])] });
    assert_eq!(script.fabric.round_trip(peers[1].node()), Some(ms(10)));
    script.pass(ms(10) * GRAFT_ROUND_TRIPS - ms(1));
    assert!(script.sent(&peers[1]).is_empty());
    script.pass(ms(1));
    assert_eq!(script.sent(&peers[1]), [Message::Graft { node: peers[0].node(), from: 0 }]);
    script.say(&peers[1], Message::Announce(announcement.clone()));
    script.check_all();
    assert_eq!(script.fabric.holders().known(peers[0].node()), 1);
    script.say(&peers[2], Message::Have { rows: vec![row(&peers[0])] });
    script.pass(ms(100));
    assert_eq!(script.fabric.counters().grafts, 1, "what came meanwhile is not asked for");
    // This node serves a graft from what it relayed.
    script.outputs.clear();
    script.say(&peers[3], Message::Graft { node: peers[0].node(), from: 0 });
    assert_eq!(script.sent(&peers[3]), [Message::Announce(announcement)]);
}

#[test]
fn rows_are_told_until_they_are_confirmed() {
    let (mut script, mut peers) = overlay(6);
    let neighbour = chosen(&mut script, &peers)[0];
    let author = (neighbour + 1) % 6;
    script.learn(&mut peers[author], &[request(1).0]);
    let rows = |script: &mut Script, to: NodeId| {
        script.pass(ms(1000));
        let told = script.take(|output| match output {
            Output::Send(peer, Message::Heads { rows, nonce, .. }) if *peer == to => Some((rows.clone(), *nonce)),
            _ => None,
        });
        told.into_iter().next_back().expect("a heartbeat")
    };
    let row = Row { node: peers[author].node(), epoch: peers[author].epoch.epoch, length: 1 };
    let to = peers[neighbour].node();
    assert_eq!(rows(&mut script, to).0, [row]);
    let (told, nonce) = rows(&mut script, to);
    assert_eq!(told, [row], "the first may be lost");
    script.say(&peers[neighbour], Message::Pong { nonce });
    assert_eq!(rows(&mut script, to).0, []);
}

#[test]
fn a_row_of_an_unknown_log_is_pulled_and_its_segments_come_by_way_of_the_neighbour() {
    let (mut script, peers) = overlay(6);
    let mut stranger = Remote::new(77);
    stranger.announce(&[request(1).0, request(2).0]);
    let row = Row { node: stranger.node(), epoch: stranger.epoch.epoch, length: 2 };
    script.outputs.clear();
    let epoch = peers[0].epoch.epoch;
    script.say(&peers[0], Message::Heads { epoch, length: 0, floor: 0, rows: vec![row], nonce: 1, pace: 1 });
    let sent = script.sent(&peers[0]);
    assert_eq!(sent, [Message::Pull { node: stranger.node(), from: 0 }, Message::Describe], "and its own log by name");
    let manifest = stranger.manifest();
    script.say(&peers[0], Message::Manifest(manifest.clone()));
    script.check_all();
    let sent = script.sent(&peers[0]);
    let [Message::GetSegment { ask, number, end, digest, .. }] = sent[..] else { panic!("{sent:?}") };
    script.say(&peers[0], Message::Segment { ask, bytes: stranger.segment(number, end) });
    script.check_all();
    assert_eq!(script.fabric.holders().known(stranger.node()), 2);
    // What came is passed on, and can be asked for by name.
    let pushed: Vec<_> = peers[1..].iter().flat_map(|peer| script.sent(peer)).collect();
    assert_eq!(pushed, vec![Message::Manifest(Arc::clone(&manifest)); pushed.len()]);
    assert!(pushed.len() >= LINKS_CHOSEN - 1, "over {} eager links", pushed.len());
    script.say(&peers[1], Message::Pull { node: stranger.node(), from: 0 });
    let ask = AskId(3);
    script.say(&peers[1], Message::GetSegment { ask, node: stranger.node(), number, end, digest });
    let told = script.sent(&peers[1]);
    assert_eq!(told, [Message::Manifest(manifest), Message::Segment { ask, bytes: stranger.segment(number, end) }]);
}

#[test]
fn a_log_that_neighbours_cannot_give_is_had_from_its_author() {
    let (mut script, peers) = overlay(6);
    let row = Row { node: Remote::new(77).node(), epoch: EpochId::from_bytes([77; 16]), length: 5 };
    script.say(&peers[0], Message::Have { rows: vec![row] });
    script.pass(ms(30));
    let epoch = peers[0].epoch.epoch;
    script.say(&peers[0], Message::Heads { epoch, length: 0, floor: 0, rows: vec![row], nonce: 1, pace: 1 });
    // One heartbeat after the other another neighbour is asked; then the author is looked for.
    let pulled = |script: &mut Script| -> BTreeSet<NodeId> {
        let pulled = script.take(|output| match output {
            Output::Send(to, Message::Pull { node, .. }) if *node == row.node => Some(*to),
            _ => None,
        });
        pulled.into_iter().collect()
    };
    let mut asked = pulled(&mut script);
    let connects = |script: &mut Script| script.take(|output| matches!(output, Output::Connect(_)).then_some(()));
    while connects(&mut script).is_empty() {
        for peer in &peers {
            script.beat(peer, ms(1));
        }
        asked.extend(pulled(&mut script));
        assert!(script.now < ms(60_000));
    }
    assert!(asked.len() > LINKS_CHOSEN, "{} were asked", asked.len());
    // What nobody has is not asked for for ever.
    script.pass(Duration::from_mins(2));
    pulled(&mut script);
    connects(&mut script);
    script.pass(Duration::from_mins(2));
    assert_eq!((pulled(&mut script).len(), connects(&mut script).len()), (0, 0));
}

#[test]
fn a_neighbour_that_lacks_a_segment_is_not_the_last_to_be_asked() {
    let (mut script, peers) = overlay(6);
    let links = chosen(&mut script, &peers);
    let mut stranger = Remote::new(77);
    stranger.announce(&[request(1).0]);
    let (first, manifest) = (&peers[links[0]], stranger.manifest());
    script.outputs.clear();
    script.say(first, Message::Manifest(manifest));
    script.check_all();
    let mut source = first.node();
    for _ in 0..2 {
        let sent = script.take(|output| match output {
            Output::Send(to, Message::GetSegment { ask, number, end, .. }) => Some((*to, *ask, *number, *end)),
            _ => None,
        });
        let [(to, ask, number, end)] = sent[..] else { panic!("{sent:?}") };
        let asked = peers.iter().find(|peer| peer.node() == to).expect("a peer");
        if source == to {
            script.say(asked, Message::NotHeld { ask });
        } else {
            script.say(asked, Message::Segment { ask, bytes: stranger.segment(number, end) });
        }
        source = to;
    }
    script.check_all();
    assert_eq!(script.fabric.holders().known(stranger.node()), 1);
}
