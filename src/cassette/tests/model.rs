//! The cassette against a model that is a plain list of events, with reopenings and crashes at random points.

use proptest::prelude::*;

use super::*;
use crate::ledger::LedgerError;

#[derive(Debug, Clone)]
enum Step {
    Record(u64, u8),
    Adopt(u64, u8),
    Retract(u64, u8),
    WriteOut,
    Commit,
    Reopen,
    Crash,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Hold,
    Retract,
}

/// Something that happened, in order.
#[derive(Debug, Clone, Copy)]
struct Event {
    what: What,
    question: u64,
    answer: u8,
    needs_sync: bool,
    shown: bool,
}

#[derive(Debug, Default)]
struct Model {
    events: Vec<Event>,
    durable: usize,
}

impl Model {
    fn happen(&mut self, what: What, question: u64, answer: u8, needs_sync: bool) {
        self.events.push(Event { what, question, answer, needs_sync, shown: false });
    }

    fn show(&mut self, synced: bool) {
        self.events.iter_mut().for_each(|event| event.shown |= synced || !event.needs_sync);
        if synced {
            self.durable = self.events.len();
        }
    }

    /// The live answers to a question in order, and those that were retracted, judged by the events that `counts`.
    fn state(&self, question: u64, counts: impl Fn(&Event) -> bool) -> (Vec<u8>, Vec<u8>) {
        let (mut live, mut retracted) = (Vec::new(), Vec::new());
        for event in self.events.iter().filter(|event| event.question == question && counts(event)) {
            match event.what {
                What::Hold => live.push(event.answer),
                What::Retract => {
                    live.retain(|answer| *answer != event.answer);
                    retracted.push(event.answer);
                }
            }
        }
        (live, retracted)
    }
}

fn step() -> impl Strategy<Value = Step> {
    let (question, answer) = (0..4u64, 0..3u8);
    prop_oneof![
        5 => (question.clone(), answer.clone()).prop_map(|(q, a)| Step::Record(q, a)),
        3 => (question.clone(), answer.clone()).prop_map(|(q, a)| Step::Adopt(q, a)),
        2 => (question, answer).prop_map(|(q, a)| Step::Retract(q, a)),
        3 => Just(Step::WriteOut),
        3 => Just(Step::Commit),
        1 => Just(Step::Reopen),
        1 => Just(Step::Crash),
    ]
}

/// Even questions are observations, odd ones can be computed again.
fn class(question: u64) -> Class {
    if question.is_multiple_of(2) { Class::Observed } else { Class::Portable }
}

/// Answer 2 is too large to live in a frame.
fn reply(answer: u8) -> Reply {
    Reply::ok(if answer == 2 { "2".repeat(17_000) } else { answer.to_string() })
}

fn adopt(writer: &mut CassetteWriter, model: &mut Model, question: u64, answer: u8) {
    let (live, retracted) = model.state(question, |_| true);
    let (evidence, record, bytes) = foreign(question, class(question), &reply(answer));
    match writer.adopt(evidence, record, bytes, true) {
        Ok(ticket) if ticket.fresh => {
            assert!(!live.contains(&answer) && !retracted.contains(&answer));
            model.happen(What::Hold, question, answer, false);
        }
        Ok(_) => assert!(live.contains(&answer)),
        Err(LedgerError::Retracted { .. }) => assert!(!live.contains(&answer) && retracted.contains(&answer)),
        Err(other) => panic!("{other}"),
    }
}

fn check(cassette: &Cassette, model: &Model) {
    for question in 0..5 {
        let (live, retracted) = model.state(question, |event| event.shown);
        let expected = match (live.first(), retracted.is_empty()) {
            (Some(answer), _) => Ok(reply(*answer)),
            (None, false) => Err(NotHeld::Retracted),
            (None, true) => Err(NotHeld::NeverSeen),
        };
        let found = match cassette.lookup(id(question)).expect("the disk answers") {
            Lookup::Hit(held) => Ok(held.into_reply()),
            Lookup::Miss(why) => Err(why),
        };
        assert_eq!(found.map(|reply| reply.answer()), expected.map(|reply| reply.answer()), "question {question}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_cassette_does_what_the_model_does(steps in prop::collection::vec(step(), 1..60)) {
        let storage = MemoryStorage::new();
        let mut model = Model::default();
        let mut epoch = 1;
        let mut writer = open(&storage, epoch);
        for step in steps {
            match step {
                Step::Record(question, answer) => {
                    let (record, bytes) = observed(&identity(), question, class(question), &reply(answer));
                    writer.record(record, bytes).expect("records");
                    model.happen(What::Hold, question, answer, class(question) == Class::Observed);
                }
                Step::Adopt(question, answer) => adopt(&mut writer, &mut model, question, answer),
                Step::Retract(question, answer) => {
                    writer.retract(id(question), reply(answer).answer(), 1).expect("retracts");
                    model.happen(What::Retract, question, answer, true);
                }
                Step::WriteOut => {
                    writer.write_out().expect("writes");
                    model.show(false);
                }
                Step::Commit => {
                    writer.commit().expect("commits");
                    model.show(true);
                }
                Step::Reopen | Step::Crash => {
                    if matches!(step, Step::Crash) {
                        storage.crash();
                        model.events.truncate(model.durable);
                    } else {
                        writer.commit().expect("commits");
                    }
                    model.show(true);
                    drop(writer);
                    epoch += 1;
                    let (opened, recovery) = open_reporting(&storage, epoch);
                    prop_assert!(recovery.damaged == 0 && recovery.entries == model.events.len() as u64 + u64::from(epoch) - 1);
                    writer = opened;
                }
            }
            check(&writer.cassette(), &model);
        }
    }
}
