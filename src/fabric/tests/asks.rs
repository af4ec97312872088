//! Asks, hedges, timeouts, and what a question costs when holders do not do what they should.

use super::*;
use crate::error::NotHeld;
use crate::eval::Origin;
use crate::limits::{ASK_TIMEOUT, MAX_HOLDERS};
use crate::request::Class;

/// A script with holders of question 1 whose round trips are these.
pub(super) fn holders<const N: usize>(round_trips: [u64; N]) -> (Script, [Remote; N]) {
    let mut script = Script::new();
    let mut seed = 0;
    let remotes = round_trips.map(|rtt| {
        seed += 1;
        let mut remote = Remote::new(seed);
        script.join(&remote, ms(rtt));
        script.learn(&mut remote, &[request(1).0]);
        remote
    });
    script.outputs.clear();
    (script, remotes)
}

#[test]
fn the_nearest_holder_is_asked_and_its_answer_delivered_and_adopted() {
    let (mut script, [far, near]) = holders([20, 4]);
    let job = script.ask(1, AnswerFrom::Anywhere);
    let asks = script.asks(&near);
    assert_eq!((asks.len(), script.asks(&far).len(), script.computations().len()), (1, 0, 0));
    script.pass(ms(3));
    let id = request(1).0;
    script.say(&near, near.held(asks[0], id, 10));
    assert!(script.deliveries().is_empty(), "nothing is delivered unchecked");
    script.check_all();
    let delivered = script.deliveries();
    let [(to, Ok(delivery))] = &delivered[..] else { panic!("{delivered:?}") };
    assert_eq!((*to, delivery.origin), (job, Origin::Peer(near.node())));
    assert_eq!(script.adoptions(), [true]);
    script.pass(ms(400));
    assert_eq!((script.asks(&far).len(), script.computations().len(), script.fabric.in_flight()), (0, 0, 0));
}

#[test]
fn a_slow_holder_is_hedged_and_computing_starts_beside_the_asks() {
    let (mut script, [near, far]) = holders([4, 10]);
    script.ask(1, AnswerFrom::Anywhere);
    assert_eq!(script.asks(&near).len(), 1);
    // Patience: the one round trip that was measured (4 ms), and less than 2 ms.
    script.pass(ms(5));
    assert_eq!(script.computations().len(), 0);
    script.pass(ms(1));
    assert_eq!(script.computations().len(), 1, "beside the asks, not behind them");
    script.pass(ms(1));
    assert_eq!(script.asks(&far).len(), 0);
    script.pass(ms(1));
    assert_eq!(script.asks(&far).len(), 1, "the hedge, after two round trips");
    assert_eq!(script.fabric.counters().hedged, 1);
}

#[test]
fn whichever_comes_first_ends_everything_else() {
    let (mut script, [near, far]) = holders([4, 10]);
    let job = script.ask(1, AnswerFrom::Anywhere);
    script.asks(&near);
    script.pass(ms(15));
    let (hedge, flight) = (script.asks(&far), script.computations());
    script.say(&far, far.held(hedge[0], request(1).0, 10));
    script.check_all();
    assert!(matches!(&script.deliveries()[..], [(to, Ok(_))] if *to == job));
    let cancelled = script.take(|output| matches!(output, Output::CancelCompute(f) if *f == flight[0]).then_some(()));
    assert_eq!(cancelled.len(), 1);
    assert!(matches!(script.sent(&near)[..], [Message::Cancel { .. }]));
    script.give(Input::Computed(flight[0], Ok(Reply::ok("late"))));
    assert!(script.deliveries().is_empty() && script.fabric.in_flight() == 0);
}

#[test]
fn a_black_hole_costs_one_round_trip_and_two_milliseconds_and_then_nothing() {
    let (mut script, [hole]) = holders([4]);
    for _ in 0..200 {
        script.beat(&hole, ms(4));
    }
    let step = Duration::from_micros(10);
    let mut waits = Vec::new();
    for _ in 0..40 {
        script.ask(1, AnswerFrom::Anywhere);
        let start = script.now;
        let mut flights = script.computations();
        while flights.is_empty() {
            script.pass(step);
            flights = script.computations();
        }
        waits.push(script.now - start);
        script.pass(ms(50));
        script.give(Input::Computed(flights[0], Ok(Reply::ok("x"))));
        script.give(Input::Recorded(flights[0], Ok(())));
    }
    assert!(waits.iter().all(|wait| *wait <= ms(4 + 2) + step), "{waits:?}");
    assert_eq!(waits.iter().filter(|wait| **wait > Duration::ZERO).count(), 16, "then it is on probation: {waits:?}");
    assert!(script.fabric.hit_ratio(hole.node()) < 0.125);
}

#[test]
fn an_observation_is_not_repeated_because_its_holder_is_a_little_late() {
    let (mut script, [near, _]) = holders([4, 10]);
    let (id, mut resolved) = request(1);
    Arc::make_mut(&mut resolved).request.class = Class::Observed;
    let ask = Ask { job: JobId(77), id, request: Some(resolved), answer_from: AnswerFrom::Anywhere, timeout: None };
    script.give(Input::Eval(ask));
    assert_eq!(script.asks(&near).len(), 1);
    script.pass(ms(7));
    assert_eq!(script.computations().len(), 0, "twice the round trip is not over");
    script.pass(ms(2));
    assert_eq!(script.computations().len(), 1, "slower than nearly all answers are");
}

#[test]
fn patience_is_a_round_trip_and_no_more_where_they_differ() {
    let after = |round_trips: [u64; 2]| {
        let (mut script, [peer]) = holders([4]);
        for round in 0..40 {
            script.beat(&peer, ms(round_trips[round % 2]));
        }
        script.fabric.patience(peer.node(), true)
    };
    let (steady, erratic) = (after([4, 4]), after([1, 7]));
    assert!(steady > ms(4 + 1) && steady < ms(4 + 2), "{steady:?}");
    assert!(erratic > ms(3 + 1) && erratic < ms(5 + 2), "{erratic:?}: half of its round trips take longer");
}

#[test]
fn not_held_corrects_the_index_and_the_next_holder_is_asked_at_once() {
    let (mut script, [near, far]) = holders([4, 10]);
    script.ask(1, AnswerFrom::Anywhere);
    let ask = script.asks(&near)[0];
    script.say(&near, Message::NotHeld { ask });
    assert_eq!(script.asks(&far).len(), 1);
    assert_eq!(script.fabric.holders().holders(request(1).0.fingerprint()), [far.node()]);
    assert_eq!(script.fabric.holders().stats_of(near.node()).corrected, 1);
    script.ask(1, AnswerFrom::Anywhere);
    assert!(script.asks(&near).is_empty(), "it is not asked for that again");
}

#[test]
fn busy_says_nothing_about_what_is_held() {
    let (mut script, [near, far]) = holders([4, 10]);
    script.ask(1, AnswerFrom::Anywhere);
    let ask = script.asks(&near)[0];
    script.say(&near, Message::Busy { ask });
    assert_eq!(script.asks(&far).len(), 1);
    assert_eq!(script.fabric.holders().holders(request(1).0.fingerprint()).len(), 2);
    assert!(script.fabric.hit_ratio(near.node()) > 0.99);
}

#[test]
fn a_corrupt_answer_costs_the_holder_its_standing() {
    let (mut script, [liar, honest]) = holders([4, 10]);
    script.ask(1, AnswerFrom::Anywhere);
    let ask = script.asks(&liar)[0];
    let Message::Held { evidence, .. } = liar.held(ask, request(1).0, 10) else { unreachable!() };
    let payloads = vec![Bytes::from_static(b"something else")];
    script.say(&liar, Message::Held { ask, evidence, payloads, announce: true });
    script.check_all();
    assert!(matches!(&script.disconnects()[..], [(who, Disconnect::Unbelievable(_))] if *who == liar.node()));
    assert_eq!(script.asks(&honest).len(), 1, "the question goes on with the next holder");
    script.give(Input::PeerUp(liar.node()));
    assert!(matches!(script.disconnects()[..], [(_, Disconnect::Shunned)]));
    script.pass(Duration::from_mins(2));
    script.join(&liar, ms(1));
    assert!(script.fabric.hit_ratio(liar.node()) < 0.1, "coming back clears nothing");
}

#[test]
fn a_held_only_question_ends_with_a_miss_when_nobody_has_it() {
    let (mut script, [one, two]) = holders([4, 10]);
    let job = script.ask(2, AnswerFrom::HeldOnly);
    let asks = [(&one, script.asks(&one)), (&two, script.asks(&two))];
    for (peer, asks) in &asks {
        assert_eq!(asks.len(), 1, "no holder is known: the nearest peers are asked once");
        script.say(peer, Message::NotHeld { ask: asks[0] });
    }
    let miss = EvalError::NotHeld { id: request(2).0, why: NotHeld::NeverSeen };
    assert_eq!(script.deliveries(), [(job, Err(miss))]);
    assert!(script.fabric.hit_ratio(one.node()) > 0.99, "who never claimed to hold it did nothing wrong");
}

#[test]
fn an_ask_ends_when_its_time_is_over_or_its_lane_is_gone() {
    let (mut script, [near, far]) = holders([4, 10]);
    let job = script.ask(1, AnswerFrom::HeldOnly);
    script.pass(ms(100));
    assert_eq!((script.asks(&near).len(), script.asks(&far).len()), (1, 1));
    script.give(Input::PeerDown(near.node()));
    assert!(script.deliveries().is_empty(), "the other may still answer");
    script.pass(ASK_TIMEOUT);
    assert!(matches!(&script.deliveries()[..], [(to, Err(EvalError::NotHeld { .. }))] if *to == job));
    assert!(script.fabric.asks.is_empty());
}

#[test]
fn callers_of_one_question_share_one_flight() {
    let mut script = Script::new();
    let jobs = [script.ask(1, AnswerFrom::Anywhere), script.ask(1, AnswerFrom::Anywhere)];
    let flights = script.computations();
    assert_eq!((flights.len(), script.fabric.counters().joined), (1, 1));
    script.give(Input::Abandon(jobs[0]));
    assert!(script.take(|output| matches!(output, Output::CancelCompute(_)).then_some(())).is_empty());
    script.give(Input::Computed(flights[0], Ok(Reply::ok("x"))));
    assert!(script.deliveries().is_empty(), "not before it is recorded");
    script.give(Input::Recorded(flights[0], Ok(())));
    assert!(matches!(&script.deliveries()[..], [(to, Ok(_))] if *to == jobs[1]));
    let last = script.ask(2, AnswerFrom::Anywhere);
    let flights = script.computations();
    script.give(Input::Abandon(last));
    let cancelled = script.take(|output| matches!(output, Output::CancelCompute(f) if *f == flights[0]).then_some(()));
    assert_eq!((cancelled.len(), script.fabric.in_flight()), (1, 0), "nobody waits: nothing stays behind");
}

#[test]
fn a_producer_lets_only_a_few_announce_a_hot_answer() {
    let mut script = Script::new();
    let producer = Identity::from_seed([99; 32]);
    assert_eq!(script.fabric.config.me, producer.node());
    let own = Remote { me: producer, ..Remote::new(99) };
    let (id, mut announcing) = (request(1).0, 0);
    for seed in 0..200 {
        let peer = Remote { me: Identity::from_seed([seed; 32]), ..Remote::new(seed) };
        if peer.node() == own.node() {
            continue;
        }
        script.join(&peer, ms(1));
        script.say(&peer, Message::Ask { ask: AskId(7), id });
        script.give(Input::Found(peer.node(), AskId(7), Some(own.answer(id, 10))));
        let told = script.sent(&peer);
        let [Message::Held { announce, .. }] = &told[..] else { panic!("{told:?}") };
        announcing += usize::from(*announce);
    }
    assert_eq!(announcing, MAX_HOLDERS - 1, "with the producer's own fact that makes K");
    // Somebody who only adopted it lets nobody announce it.
    let (first, other) = (Remote::new(201), Remote::new(202));
    script.join(&first, ms(1));
    script.say(&first, Message::Ask { ask: AskId(8), id: request(2).0 });
    script.give(Input::Found(first.node(), AskId(8), Some(other.answer(request(2).0, 10))));
    assert!(matches!(script.sent(&first)[..], [Message::Held { announce: false, .. }]));
}

#[test]
fn an_adoption_is_announced_only_if_the_producer_lets_it_be() {
    let (mut script, [holder]) = holders([4]);
    script.ask(1, AnswerFrom::Anywhere);
    let ask = script.asks(&holder)[0];
    let (evidence, payloads) = holder.answer(request(1).0, 10);
    script.say(&holder, Message::Held { ask, evidence, payloads, announce: false });
    script.check_all();
    assert_eq!(script.adoptions(), [false]);
}

#[test]
fn a_holder_without_a_lane_is_connected_to_while_computing_and_asked_when_it_is_there() {
    let (mut script, [holder]) = holders([4]);
    script.give(Input::PeerDown(holder.node()));
    let job = script.ask(1, AnswerFrom::Anywhere);
    assert_eq!(script.computations().len(), 1, "nothing waits for a lane");
    let wanted = script.take(|output| matches!(output, Output::Connect(_)).then_some(()));
    assert_eq!(wanted.len(), 1);
    script.join(&holder, ms(4));
    let ask = script.asks(&holder)[0];
    script.say(&holder, holder.held(ask, request(1).0, 10));
    script.check_all();
    assert!(matches!(&script.deliveries()[..], [(to, Ok(_))] if *to == job));
}
