//! Large replies: windows, several holders, theft, and holders that are lost, stall, refuse or lie in the middle.

use std::collections::{BTreeMap, BTreeSet};

use super::asks::holders;
use super::*;
use crate::bao::{LEAF, proof_of};
use crate::error::LimitHit;
use crate::id::Digest;
use crate::limits::{CHUNK, CHUNKS_IN_FLIGHT, SOURCE_STALL, TRANSFER_STALL};

/// A chunk that a holder was asked for: the ask, where the chunk begins, and how long it is.
type Wanted = (AskId, u64, u32);

/// A question whose reply of so many bytes is on its way.
struct Fetch {
    script: Script,
    payload: Vec<u8>,
    job: JobId,
    computed: Vec<FlightId>,
    digest: Digest,
    /// How often each leaf was asked for.
    asked: BTreeMap<u64, usize>,
    /// The messages that bring a chunk, made once.
    made: BTreeMap<(u64, u32), Vec<Message>>,
}

impl Fetch {
    /// Asks question 1, of which `lead` gives the record.
    fn start(mut script: Script, lead: &Remote, len: usize) -> Self {
        let job = script.ask(1, AnswerFrom::Anywhere);
        let ask = script.asks(lead)[0];
        script.say(lead, lead.held(ask, request(1).0, len));
        script.check_all();
        let payload = vec![7; len];
        let digest = Digest::of(&payload);
        Self { script, payload, job, computed: Vec::new(), digest, asked: BTreeMap::new(), made: BTreeMap::new() }
    }

    fn wanted(&mut self, of: &Remote) -> Vec<Wanted> {
        let chunk = |message| match message {
            Message::GetChunk { ask, id, blob, offset, len } => {
                let end = offset + u64::from(len);
                assert!((id, blob) == (request(1).0, self.digest) && end <= self.payload.len() as u64);
                assert!(len <= CHUNK && offset.is_multiple_of(LEAF) && len > 0);
                Some((ask, offset, len))
            }
            Message::Ask { .. } | Message::Cancel { .. } => None,
            other => panic!("{other:?}"),
        };
        let wanted: Vec<Wanted> = self.script.sent(of).into_iter().filter_map(chunk).collect();
        for (_, offset, len) in &wanted {
            for leaf in (*offset..offset + u64::from(*len)).step_by(16 * 1024) {
                *self.asked.entry(leaf).or_default() += 1;
            }
        }
        wanted
    }

    /// What brings a chunk: what its leaves are, and then each of them.
    fn messages(&mut self, (ask, offset, len): Wanted) -> Vec<Message> {
        let make = || {
            let range = offset..offset + u64::from(len);
            let place = |at: u64| usize::try_from(at).expect("small");
            let (bytes, proof) = (&self.payload[place(range.start)..place(range.end)], proof_of(&self.payload, &range));
            let one = |number, bytes| Message::Leaf { ask, number, bytes: Bytes::copy_from_slice(bytes) };
            match bytes.chunks(place(LEAF)) {
                leaves if leaves.len() > 1 => {
                    let leaves = (0..).zip(leaves).map(|(number, bytes)| one(number, bytes));
                    [Message::Leaves { ask, proof }].into_iter().chain(leaves).collect()
                }
                _ => {
                    let (bytes, siblings) = (Bytes::copy_from_slice(bytes), proof.siblings);
                    assert!(!siblings.is_empty());
                    vec![Message::ProvenChunk { ask, bytes, siblings }]
                }
            }
        };
        let mut messages = self.made.entry((offset, len)).or_insert_with(make).clone();
        for message in &mut messages {
            let (Message::Leaves { ask: of, .. }
            | Message::Leaf { ask: of, .. }
            | Message::ProvenChunk { ask: of, .. }) = message
            else {
                unreachable!()
            };
            *of = ask;
        }
        messages
    }

    fn bring(&mut self, from: &Remote, wanted: Wanted) {
        for message in self.messages(wanted) {
            self.script.say(from, message);
        }
        // For what is put together after the last one.
        self.script.check_all();
    }

    /// Has a holder bring everything that it is asked for, until it is asked for nothing.
    fn bring_all(&mut self, from: &Remote) -> usize {
        let mut brought = 0;
        loop {
            let wanted = self.wanted(from);
            if wanted.is_empty() {
                return brought;
            }
            brought += wanted.len();
            for wanted in wanted {
                self.bring(from, wanted);
            }
        }
    }

    fn computes(&mut self) -> usize {
        self.computed.extend(self.script.computations());
        self.computed.len()
    }

    /// Asserts that the reply came whole and nothing is left behind.
    fn assert_delivered(&mut self) {
        let delivered = self.script.deliveries();
        let [(to, Ok(delivery))] = &delivered[..] else { panic!("{delivered:?}") };
        let stdout = delivery.reply.payloads().next().and_then(Payload::bytes).cloned();
        assert_eq!((*to, stdout), (self.job, Some(self.payload.clone().into())));
        assert_eq!(self.computes(), 0, "the bytes were on their way");
        assert!(self.script.fabric.asks.is_empty() && self.script.fabric.in_flight() == 0);
    }
}

fn chunks(count: usize) -> usize {
    CHUNK as usize * count
}

#[test]
fn large_replies_come_in_chunks_with_a_bounded_window() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(10) + 5);
    let (mut count, mut largest) = (0, 0);
    loop {
        let wanted = fetch.wanted(&holder);
        largest = largest.max(wanted.len());
        if wanted.is_empty() {
            break;
        }
        count += wanted.len();
        for wanted in wanted {
            fetch.script.pass(ms(3));
            fetch.bring(&holder, wanted);
        }
    }
    assert_eq!((count, largest), (11, CHUNKS_IN_FLIGHT));
    assert_eq!(fetch.script.fabric.counters().chunks, 11);
    fetch.assert_delivered();
}

#[test]
fn a_window_is_as_large_as_the_way_is_long() {
    // What a holder four milliseconds away brings in them, and one more.
    for (pace, window) in [(10, 2), (4, 2), (2, 3), (1, 5)] {
        let (script, [holder]) = holders([4]);
        let mut fetch = Fetch::start(script, &holder, chunks(60));
        let mut open: std::collections::VecDeque<_> = fetch.wanted(&holder).into();
        assert_eq!(open.len(), CHUNKS_IN_FLIGHT, "nothing is known of its pace");
        let mut windows = Vec::new();
        while let Some(first) = open.pop_front() {
            fetch.script.pass(ms(pace));
            fetch.bring(&holder, first);
            open.extend(fetch.wanted(&holder));
            windows.push(open.len());
        }
        assert_eq!(windows[20..50], [window; 30], "a chunk in {pace} ms");
        fetch.assert_delivered();
    }
}

#[test]
fn a_fast_holder_is_asked_for_less_at_once() {
    for (pace, portion) in [(1, CHUNK / 2), (3, CHUNK)] {
        let (script, [holder]) = holders([4]);
        let mut fetch = Fetch::start(script, &holder, chunks(30));
        let mut open: std::collections::VecDeque<_> = fetch.wanted(&holder).into();
        let mut portions = Vec::new();
        while let Some(first) = open.pop_front() {
            portions.push(first.2);
            fetch.script.pass(ms(pace));
            fetch.bring(&holder, first);
            open.extend(fetch.wanted(&holder));
        }
        assert_eq!((portions[0], portions[20]), (CHUNK, portion));
        fetch.assert_delivered();
    }
}

#[test]
fn a_stalled_transfer_is_given_up_and_computed_instead() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(3));
    for _ in 0..TRANSFER_STALL.as_secs() {
        assert_eq!(fetch.computes(), 0);
        fetch.script.pass(ms(1000));
        fetch.script.answer_heartbeats(&holder);
    }
    fetch.script.pass(SOURCE_STALL / 4);
    assert_eq!(fetch.computes(), 1);
    assert!(fetch.script.fabric.asks.is_empty(), "no chunk is waited for any more");
}

#[test]
fn what_was_lost_on_its_way_is_asked_for_again_of_the_only_holder() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(3));
    let wanted = fetch.wanted(&holder);
    fetch.bring(&holder, wanted[0]);
    // Of the second chunk two leaves come, of the third nothing.
    for message in fetch.messages(wanted[1]).drain(..3) {
        fetch.script.say(&holder, message);
    }
    fetch.script.pass(SOURCE_STALL - ms(1));
    assert!(fetch.wanted(&holder).is_empty(), "it may only be slow");
    fetch.script.answer_heartbeats(&holder);
    fetch.script.pass(SOURCE_STALL / 4 + ms(1));
    let again = fetch.wanted(&holder);
    let left: u32 = again.iter().map(|(.., len)| len).sum();
    assert_eq!((again.len(), left), (2, 2 * CHUNK - 2 * 16 * 1024), "what is here is not asked for again");
    assert_eq!(fetch.script.fabric.counters().renewed, 2);
    fetch.bring(&holder, wanted[2]);
    for wanted in again {
        fetch.bring(&holder, wanted);
    }
    fetch.assert_delivered();
}

#[test]
fn a_chunk_of_another_length_is_a_lie() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(3));
    let (ask, ..) = fetch.wanted(&holder)[0];
    fetch.script.say(&holder, Message::Chunk { ask, bytes: Bytes::from_static(b"short") });
    assert!(matches!(fetch.script.disconnects()[..], [(_, Disconnect::Unbelievable(_))]));
    assert_eq!(fetch.computes(), 1);
}

#[test]
fn all_holders_bring_chunks_and_a_faster_one_brings_more() {
    let (script, [near, far, other]) = holders([2, 3, 4]);
    let mut fetch = Fetch::start(script, &near, chunks(60));
    let remotes = [(&near, 3), (&far, 12), (&other, 12)];
    let (mut queues, mut brought, mut here) = ([const { Vec::new() }; 3], [0; 3], BTreeSet::new());
    for tick in 1..600 {
        for (n, (remote, every)) in remotes.iter().enumerate() {
            let fresh = fetch.wanted(remote);
            queues[n].extend(fresh);
            let open = queues[n].iter().filter(|(_, offset, _)| !here.contains(offset)).count();
            assert!(open <= CHUNKS_IN_FLIGHT, "{open}");
            if tick % every == 0 && !queues[n].is_empty() {
                let first = queues[n].remove(0);
                fetch.bring(remote, first);
                here.insert(first.1);
                brought[n] += 1;
            }
        }
        fetch.script.pass(ms(1));
        if fetch.script.fabric.in_flight() == 0 {
            // Alone the fastest takes 180 ms, all three together 120; what they are asked for at the end is little.
            assert!(tick <= 132, "{tick} ms");
            break;
        }
    }
    fetch.assert_delivered();
    for (remote, _) in remotes {
        // What was asked for last and came from another one meanwhile.
        fetch.wanted(remote);
    }
    assert!(brought[0] >= 35 && brought[1] >= 8 && brought[2] >= 8, "{brought:?}");
    let twice = fetch.asked.values().filter(|count| **count > 1).count() / 16;
    assert_eq!(twice as u64, fetch.script.fabric.counters().stolen);
    assert!((1..=2 * CHUNKS_IN_FLIGHT).contains(&twice), "the slower ones are relieved of their last windows: {twice}");
    assert!(fetch.asked.values().all(|count| *count <= 2));
}

#[test]
fn what_fits_one_window_is_left_to_one_holder_unless_it_is_silent() {
    let (script, [near, far]) = holders([4, 10]);
    let mut fetch = Fetch::start(script, &near, chunks(4));
    let wanted = fetch.wanted(&near);
    assert_eq!((wanted.len(), fetch.wanted(&far).len()), (4, 0));
    fetch.script.pass(SOURCE_STALL / 4 - ms(1));
    assert_eq!(fetch.wanted(&far).len(), 0);
    fetch.script.pass(ms(2));
    assert_eq!(fetch.bring_all(&far), 4, "it is relieved of everything");
    fetch.assert_delivered();
    fetch.bring(&near, wanted[0]);
    assert!(fetch.script.disconnects().is_empty(), "what comes too late is dropped");
}

#[test]
fn a_transfer_goes_on_when_a_holder_is_lost_in_the_middle() {
    for lost in 0..2 {
        let (script, remotes) = holders([4, 10]);
        let mut fetch = Fetch::start(script, &remotes[0], chunks(20));
        let wanted = [fetch.wanted(&remotes[0]), fetch.wanted(&remotes[1])];
        assert_eq!([wanted[0].len(), wanted[1].len()], [CHUNKS_IN_FLIGHT; 2]);
        wanted[lost][..3].iter().for_each(|wanted| fetch.bring(&remotes[lost], *wanted));
        fetch.script.give(Input::PeerDown(remotes[lost].node()));
        fetch.wanted(&remotes[lost]);
        wanted[1 - lost].iter().for_each(|wanted| fetch.bring(&remotes[1 - lost], *wanted));
        fetch.bring_all(&remotes[1 - lost]);
        fetch.assert_delivered();
        let again: usize = fetch.asked.values().map(|count| count - 1).sum();
        assert!(again <= CHUNKS_IN_FLIGHT * 16, "what came is kept: {again} leaves were asked for again");
        assert_eq!(fetch.script.fabric.counters().replaced, 1);
    }
}

#[test]
fn the_first_wrong_leaf_costs_a_holder_its_standing_and_only_that_leaf_is_lost() {
    for leaf in [0, 1, 7, 15] {
        let (script, [liar, honest]) = holders([4, 10]);
        let mut fetch = Fetch::start(script, &liar, chunks(12) + 1);
        let wanted = [fetch.wanted(&liar), fetch.wanted(&honest)];
        fetch.bring(&liar, wanted[0][0]);
        let (_, begin, _) = wanted[0][1];
        let mut messages = fetch.messages(wanted[0][1]);
        let Message::Leaf { bytes, .. } = &mut messages[1 + leaf] else { unreachable!() };
        let mut wrong = bytes.to_vec();
        *wrong.last_mut().expect("a leaf") ^= 1;
        *bytes = wrong.into();
        for message in messages {
            fetch.script.say(&liar, message);
        }
        let ended = fetch.script.disconnects();
        assert!(matches!(&ended[..], [(who, Disconnect::Unbelievable(_))] if *who == liar.node()), "{leaf}");
        assert!(fetch.script.fabric.hit_ratio(liar.node()) < 0.01, "{leaf}");
        assert_eq!(
            fetch.script.fabric.counters().wasted,
            LEAF,
            "the lane is ended before the next one is read ({leaf})"
        );
        wanted[1].iter().for_each(|wanted| fetch.bring(&honest, *wanted));
        fetch.bring_all(&honest);
        fetch.assert_delivered();
        for (place, times) in fetch.asked.range(begin..begin + u64::from(CHUNK)) {
            let kept = *place < begin + leaf as u64 * LEAF;
            assert_eq!(*times, if kept { 1 } else { 2 }, "leaf {leaf}, byte {place}");
        }
        assert_eq!(fetch.asked[&wanted[0][0].1], 1, "what held is kept ({leaf})");
        assert_eq!(fetch.script.fabric.counters().disbelieved, 1);
    }
}

#[test]
fn leaves_that_do_not_lead_to_the_digest_are_found_out_before_any_byte_comes() {
    type Twist = fn(&mut crate::bao::ChunkProof);
    let twists: [(&str, Twist); 6] = [
        ("leaf", |proof| proof.leaves[3][0] ^= 1),
        ("sibling", |proof| proof.siblings[0][31] ^= 1),
        ("more siblings", |proof| proof.siblings.push([0; 32])),
        ("no siblings", |proof| proof.siblings.clear()),
        ("fewer leaves", |proof| proof.leaves.truncate(15)),
        // All leaves of this payload have the same bytes, yet another place in the tree.
        ("other place", |proof| proof.leaves.rotate_left(1)),
    ];
    for (twist, lie) in twists {
        let (script, [liar, honest]) = holders([4, 10]);
        let mut fetch = Fetch::start(script, &liar, chunks(12));
        let wanted = [fetch.wanted(&liar), fetch.wanted(&honest)];
        let Message::Leaves { ask, mut proof } = fetch.messages(wanted[0][0]).remove(0) else { unreachable!() };
        lie(&mut proof);
        fetch.script.say(&liar, Message::Leaves { ask, proof });
        let ended = fetch.script.disconnects();
        assert!(matches!(&ended[..], [(who, Disconnect::Unbelievable(_))] if *who == liar.node()), "{twist}");
        assert_eq!(fetch.script.fabric.counters().wasted, 0);
        wanted[1].iter().for_each(|wanted| fetch.bring(&honest, *wanted));
        fetch.bring_all(&honest);
        fetch.assert_delivered();
    }
}

#[test]
fn leaves_may_come_in_any_order_and_twice_and_one_that_was_not_told_of_counts_for_nothing() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(2) + 5);
    let wanted = fetch.wanted(&holder);
    let mut messages = fetch.messages(wanted[0]);
    let early = messages[5].clone();
    fetch.script.say(&holder, early.clone());
    assert_eq!(fetch.script.fabric.counters().wasted, LEAF, "its hash was not told yet");
    messages[1..].reverse();
    for message in messages {
        fetch.script.say(&holder, message);
    }
    fetch.script.say(&holder, early);
    assert_eq!(fetch.script.fabric.counters().wasted, 2 * LEAF, "it came too late");
    assert!(fetch.script.disconnects().is_empty());
    wanted[1..].iter().for_each(|wanted| fetch.bring(&holder, *wanted));
    fetch.assert_delivered();
}

#[test]
fn what_a_lost_holder_brought_of_a_chunk_is_not_asked_for_again() {
    let (script, [lost, honest]) = holders([4, 10]);
    let mut fetch = Fetch::start(script, &lost, chunks(1) * 20);
    let wanted = [fetch.wanted(&lost), fetch.wanted(&honest)];
    let (_, begin, _) = wanted[0][0];
    // Every third leaf, so what is left are runs of two.
    let messages = fetch.messages(wanted[0][0]);
    let some = messages.into_iter().enumerate().filter(|(n, _)| n % 3 == 0).map(|(_, message)| message);
    for message in some {
        fetch.script.say(&lost, message);
    }
    fetch.script.give(Input::PeerDown(lost.node()));
    wanted[1].iter().for_each(|wanted| fetch.bring(&honest, *wanted));
    fetch.bring_all(&honest);
    fetch.assert_delivered();
    for (leaf, (place, times)) in fetch.asked.range(begin..begin + u64::from(CHUNK)).enumerate() {
        assert_eq!(*times, if leaf % 3 == 2 { 1 } else { 2 }, "leaf {leaf} at {place}");
    }
    assert_eq!(fetch.script.fabric.counters().wasted, 0);
}

#[test]
fn a_silent_holder_is_relieved_while_the_others_go_on() {
    let (script, [near, silent]) = holders([4, 10]);
    let mut fetch = Fetch::start(script, &near, chunks(16));
    let (mut brought, held) = (0, fetch.wanted(&silent).len());
    assert_eq!(held, CHUNKS_IN_FLIGHT);
    let start = fetch.script.now;
    while fetch.script.fabric.in_flight() > 0 {
        fetch.script.pass(ms(5));
        fetch.script.answer_heartbeats(&near);
        brought += fetch.bring_all(&near);
        assert!(fetch.script.now - start < ms(200), "it does not take its whole patience: {brought}");
    }
    assert_eq!(brought, 16);
    fetch.assert_delivered();
}

#[test]
fn a_holder_of_another_answer_is_done_without_and_keeps_its_name() {
    for (refusal, n) in [("not held", 0), ("busy", 1)] {
        let (script, [near, far]) = holders([4, 10]);
        let mut fetch = Fetch::start(script, &near, chunks(20));
        let (first, refused) = (fetch.wanted(&near), fetch.wanted(&far));
        let (ask, ..) = refused[0];
        fetch.script.say(&far, if n == 0 { Message::NotHeld { ask } } else { Message::Busy { ask } });
        for wanted in first {
            fetch.bring(&near, wanted);
        }
        fetch.bring_all(&near);
        assert!(fetch.wanted(&far).is_empty(), "{refusal}");
        fetch.assert_delivered();
        assert!(fetch.script.fabric.hit_ratio(far.node()) > 0.99, "{refusal}");
        assert_eq!(fetch.script.fabric.holders().holders(request(1).0.fingerprint()).len(), 2, "{refusal}");
    }
}

#[test]
fn without_any_holder_left_the_question_is_computed() {
    let (script, [near, far]) = holders([4, 10]);
    let mut fetch = Fetch::start(script, &near, chunks(20));
    let wanted = fetch.wanted(&near);
    fetch.bring(&near, wanted[0]);
    fetch.script.give(Input::PeerDown(far.node()));
    assert_eq!(fetch.computes(), 0);
    fetch.script.give(Input::PeerDown(near.node()));
    assert_eq!(fetch.computes(), 1);
    assert!(fetch.script.fabric.asks.is_empty());
    assert!(fetch.script.deliveries().is_empty());
}

#[test]
fn a_lead_that_no_longer_holds_it_is_forgotten_and_the_last_one_ends_the_transfer() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(3));
    let (ask, ..) = fetch.wanted(&holder)[0];
    fetch.script.say(&holder, Message::NotHeld { ask });
    assert_eq!(fetch.computes(), 1);
    assert!(fetch.script.fabric.holders().holders(request(1).0.fingerprint()).is_empty());
    assert!(fetch.script.fabric.hit_ratio(holder.node()) < 1.0);
}

#[test]
fn a_newcomer_joins_in() {
    let (mut script, [near, late]) = holders([4, 10]);
    script.give(Input::PeerDown(late.node()));
    let mut fetch = Fetch::start(script, &near, chunks(30));
    let first = fetch.wanted(&near);
    fetch.script.join(&late, ms(4));
    let second = fetch.wanted(&late);
    assert_eq!((first.len(), second.len()), (CHUNKS_IN_FLIGHT, CHUNKS_IN_FLIGHT));
    for wanted in second {
        fetch.bring(&late, wanted);
    }
    assert!(fetch.bring_all(&late) > 0);
    for wanted in first {
        fetch.bring(&near, wanted);
    }
    fetch.bring_all(&near);
    fetch.assert_delivered();
}

#[test]
fn whoever_goes_away_leaves_no_chunk_behind() {
    let (script, [near, far]) = holders([4, 10]);
    let mut fetch = Fetch::start(script, &near, chunks(20));
    let wanted = fetch.wanted(&near);
    for message in fetch.messages(wanted[0]).drain(..3) {
        fetch.script.say(&near, message);
    }
    fetch.script.give(Input::Abandon(fetch.job));
    assert!(fetch.script.fabric.asks.is_empty() && fetch.script.fabric.in_flight() == 0);
    fetch.script.check_all();
    let late = fetch.wanted(&far);
    for wanted in late {
        fetch.bring(&far, wanted);
    }
    assert!(fetch.script.disconnects().is_empty() && fetch.script.deliveries().is_empty());
    let gone: Vec<_> = fetch.script.deliveries();
    assert!(!gone.iter().any(|(_, end)| matches!(end, Err(EvalError::Limit(LimitHit::Deadline { .. })))));
}

/// Holders that serve, dawdle, refuse, vanish and lie in any order: the reply comes as long as one honest holder stays, and is always right.
#[test]
fn any_mix_of_holders_ends_with_the_whole_reply_or_with_computing() {
    for seed in 0..60_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) + 1;
        let mut random = |below: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below
        };
        let (script, remotes) = holders([3, 4, 5, 6]);
        let mut fetch = Fetch::start(script, &remotes[0], chunks(1 + usize::try_from(random(20)).expect("small")) + 1);
        let mut queues = [const { Vec::new() }; 4];
        let (mut gone, stays) = (BTreeSet::new(), random(5));
        for _ in 0..4000 {
            if fetch.script.fabric.in_flight() == 0 || fetch.computes() > 0 {
                break;
            }
            let n = usize::try_from(random(4)).expect("small");
            let fresh = fetch.wanted(&remotes[n]);
            queues[n].extend(fresh);
            match random(40) {
                0 if n as u64 != stays => {
                    fetch.script.give(Input::PeerDown(remotes[n].node()));
                    gone.insert(n);
                }
                1 if n as u64 != stays => {
                    if let Some((ask, ..)) = queues[n].pop() {
                        fetch.script.say(&remotes[n], Message::NotHeld { ask });
                    }
                }
                2 if n as u64 != stays => {
                    if let Some(wanted) = queues[n].pop() {
                        let mut messages = fetch.messages(wanted);
                        let at = usize::try_from(random(messages.len() as u64)).expect("small");
                        match &mut messages[at] {
                            Message::Leaves { proof, .. } => proof.leaves[0] = [1; 32],
                            Message::Leaf { bytes, .. } | Message::ProvenChunk { bytes, .. } => {
                                *bytes = vec![9; bytes.len()].into();
                            }
                            other => panic!("{other:?}"),
                        }
                        for message in messages {
                            fetch.script.say(&remotes[n], message);
                        }
                        gone.insert(n);
                    }
                }
                // A part of a chunk, and then nothing more of it.
                4 if n as u64 != stays => {
                    if let Some(wanted) = queues[n].pop() {
                        let messages = fetch.messages(wanted);
                        let part = usize::try_from(random(messages.len() as u64)).expect("small");
                        for message in messages.into_iter().take(part) {
                            fetch.script.say(&remotes[n], message);
                        }
                    }
                }
                3 => {
                    fetch.script.pass(ms(random(300)));
                    for remote in &remotes {
                        fetch.script.answer_heartbeats(remote);
                    }
                }
                _ if !queues[n].is_empty() => {
                    let first = queues[n].remove(0);
                    fetch.bring(&remotes[n], first);
                }
                _ => fetch.script.pass(ms(1)),
            }
        }
        if fetch.computes() > 0 {
            assert!(stays == 4, "seed {seed}: an honest holder was there ({gone:?} gone)");
        } else {
            fetch.assert_delivered();
        }
    }
}
