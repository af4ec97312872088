//! Large replies: windows, several holders, theft, and holders that are lost, stall, refuse or lie in the middle.

use std::collections::{BTreeMap, BTreeSet};

use super::asks::holders;
use super::*;
use crate::bao::ChunkClaim;
use crate::bao::tests::claim;
use crate::error::LimitHit;
use crate::limits::{CHUNK, CHUNKS_IN_FLIGHT, SOURCE_STALL, TRANSFER_STALL};

/// Chunks that a holder was asked for: the ask, and where the chunk begins.
type Wanted = Vec<(AskId, u64)>;

/// A question whose reply of so many bytes is on its way.
struct Fetch {
    script: Script,
    payload: Vec<u8>,
    job: JobId,
    computed: Vec<FlightId>,
    /// How often each chunk was asked for.
    asked: BTreeMap<u64, usize>,
    /// Chunks and their proofs, made once.
    claims: BTreeMap<u64, ChunkClaim>,
}

impl Fetch {
    /// Asks question 1, of which `lead` gives the record.
    fn start(mut script: Script, lead: &Remote, len: usize) -> Self {
        let job = script.ask(1, AnswerFrom::Anywhere);
        let ask = script.asks(lead)[0];
        script.say(lead, lead.held(ask, request(1).0, len));
        script.check_all();
        let payload = vec![7; len];
        let step = u64::from(CHUNK);
        let places = (0..len as u64).step_by(CHUNK as usize).map(|at| at..(at + step).min(len as u64));
        let claims = places.map(|range| (range.start, claim(&payload, range))).collect();
        Self { script, payload, job, computed: Vec::new(), asked: BTreeMap::new(), claims }
    }

    fn wanted(&mut self, of: &Remote) -> Wanted {
        let digest = self.claims[&0].blob.digest;
        let chunk = |message| match message {
            Message::GetChunk { ask, id, blob, offset, len } => {
                let whole = (self.payload.len() as u64 - offset).min(u64::from(CHUNK));
                assert_eq!((id, blob, u64::from(len)), (request(1).0, digest, whole));
                Some((ask, offset))
            }
            Message::Ask { .. } | Message::Cancel { .. } => None,
            other => panic!("{other:?}"),
        };
        let wanted: Wanted = self.script.sent(of).into_iter().filter_map(chunk).collect();
        for (_, offset) in &wanted {
            *self.asked.entry(*offset).or_default() += 1;
        }
        wanted
    }

    fn chunk(&self, (ask, offset): (AskId, u64)) -> Message {
        let claim = self.claims[&offset].clone();
        assert!(!claim.siblings.is_empty());
        Message::ProvenChunk { ask, bytes: claim.bytes, siblings: claim.siblings }
    }

    fn bring(&mut self, from: &Remote, wanted: (AskId, u64)) {
        let chunk = self.chunk(wanted);
        self.script.say(from, chunk);
        self.script.check_all();
        // Once more for what is put together after the last one.
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
            fetch.bring(&holder, wanted);
        }
    }
    assert_eq!((count, largest), (11, CHUNKS_IN_FLIGHT));
    assert_eq!(fetch.script.fabric.counters().chunks, 11);
    fetch.assert_delivered();
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
fn a_chunk_of_another_length_is_a_lie() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(3));
    let (ask, _) = fetch.wanted(&holder)[0];
    fetch.script.say(&holder, Message::Chunk { ask, bytes: Bytes::from_static(b"short") });
    assert!(matches!(fetch.script.disconnects()[..], [(_, Disconnect::Unbelievable(_))]));
    assert_eq!(fetch.computes(), 1);
}

#[test]
fn all_holders_bring_chunks_and_a_faster_one_brings_more() {
    let (script, [near, far, other]) = holders([2, 3, 4]);
    let mut fetch = Fetch::start(script, &near, chunks(60));
    let remotes = [(&near, 1), (&far, 4), (&other, 4)];
    let (mut queues, mut brought, mut here) = ([const { Vec::new() }; 3], [0; 3], BTreeSet::new());
    for tick in 1..200 {
        for (n, (remote, every)) in remotes.iter().enumerate() {
            let fresh = fetch.wanted(remote);
            queues[n].extend(fresh);
            let open = queues[n].iter().filter(|(_, offset)| !here.contains(offset)).count();
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
            // Alone the fastest takes 60 ms, all three together 40; what they are asked for at the end is little.
            assert!(tick <= 44, "{tick} ms");
            break;
        }
    }
    fetch.assert_delivered();
    assert!(brought[0] >= 35 && brought[1] >= 8 && brought[2] >= 8, "{brought:?}");
    let twice = fetch.asked.values().filter(|count| **count > 1).count();
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
        assert!(again <= CHUNKS_IN_FLIGHT, "what came is kept: {again} chunks were asked for again");
        assert_eq!(fetch.script.fabric.counters().replaced, 1);
    }
}

#[test]
fn the_first_wrong_chunk_costs_a_holder_its_standing_and_only_that_chunk_is_lost() {
    for (twist, lies) in [("byte", 0), ("sibling", 1), ("length", 2), ("none", 3), ("other place", 4)] {
        let (script, [liar, honest]) = holders([4, 10]);
        let mut fetch = Fetch::start(script, &liar, chunks(12) + 1);
        let wanted = [fetch.wanted(&liar), fetch.wanted(&honest)];
        fetch.bring(&liar, wanted[0][0]);
        let Message::ProvenChunk { ask, bytes, mut siblings } = fetch.chunk(wanted[0][1]) else { unreachable!() };
        let mut bytes = bytes.to_vec();
        match lies {
            0 => *bytes.last_mut().expect("a chunk") ^= 1,
            1 => siblings[0][31] ^= 1,
            2 => siblings.push([0; 32]),
            3 => siblings.clear(),
            // All leaves of this payload have the same bytes, yet another place in the tree.
            _ => siblings.rotate_left(1),
        }
        fetch.script.say(&liar, Message::ProvenChunk { ask, bytes: bytes.into(), siblings });
        fetch.script.check_all();
        let ended = fetch.script.disconnects();
        assert!(matches!(&ended[..], [(who, Disconnect::Unbelievable(_))] if *who == liar.node()), "{twist}");
        assert!(fetch.script.fabric.hit_ratio(liar.node()) < 0.01, "{twist}");
        wanted[1].iter().for_each(|wanted| fetch.bring(&honest, *wanted));
        fetch.bring_all(&honest);
        fetch.assert_delivered();
        assert_eq!(fetch.asked[&wanted[0][0].1], 1, "what held is kept ({twist})");
        assert_eq!(fetch.script.fabric.counters().disbelieved, 1);
    }
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
        let ask = refused[0].0;
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
    let (ask, _) = fetch.wanted(&holder)[0];
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
fn a_chunk_that_cannot_be_checked_now_is_asked_for_again_but_not_for_ever() {
    let (script, [holder]) = holders([4]);
    let mut fetch = Fetch::start(script, &holder, chunks(3));
    let start = fetch.script.now;
    while fetch.computes() == 0 {
        for wanted in fetch.wanted(&holder) {
            let chunk = fetch.chunk(wanted);
            fetch.script.say(&holder, chunk);
        }
        let unchecked = fetch.script.take(|output| match output {
            Output::CheckChunk(from, ask, _) => Some(Input::ChunkChecked(*from, *ask, None)),
            _ => None,
        });
        assert_eq!(unchecked.len(), 3);
        for input in unchecked {
            fetch.script.give(input);
        }
        fetch.script.pass(ms(100));
        fetch.script.answer_heartbeats(&holder);
        assert!(fetch.script.now - start < TRANSFER_STALL * 2);
    }
    assert!(fetch.script.disconnects().is_empty(), "that is not the holder's fault");
}

#[test]
fn whoever_goes_away_leaves_no_chunk_behind() {
    let (script, [near, far]) = holders([4, 10]);
    let mut fetch = Fetch::start(script, &near, chunks(20));
    let wanted = fetch.wanted(&near);
    let chunk = fetch.chunk(wanted[0]);
    fetch.script.say(&near, chunk);
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
                    if let Some((ask, _)) = queues[n].pop() {
                        fetch.script.say(&remotes[n], Message::NotHeld { ask });
                    }
                }
                2 if n as u64 != stays => {
                    if let Some((ask, offset)) = queues[n].pop() {
                        let wrong =
                            vec![9; fetch.payload.len().min(usize::try_from(offset).expect("small") + chunks(1))];
                        let bytes = wrong[usize::try_from(offset).expect("small")..].to_vec().into();
                        fetch.script.say(&remotes[n], Message::ProvenChunk { ask, bytes, siblings: vec![[1; 32]; 3] });
                        fetch.script.check_all();
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
