//! What is shown when, what survives, and what is refused.

use super::*;
use crate::ledger::{FaultyStorage, LedgerError, Op};

#[test]
fn an_entry_is_shown_once_it_is_as_durable_as_it_has_to_be() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let cassette = writer.cassette();
    let (batched, bytes) = portable(1, "batched");
    let batched = writer.record(batched, bytes).expect("records");
    let (durable, bytes) = observed(&identity(), 2, Class::Observed, &Reply::ok("durable"));
    let durable = writer.record(durable, bytes).expect("records");
    assert_eq!(durable.durability, Durability::Durable);
    assert_eq!(batched.durability, Durability::Batched(limits::BATCHED));
    assert_eq!((text(&cassette, 1), text(&cassette, 2)), (Err(NotHeld::NeverSeen), Err(NotHeld::NeverSeen)));
    assert!(!writer.is_complete(&batched) && !writer.is_complete(&durable));

    writer.write_out().expect("writes");
    assert!(writer.is_complete(&batched) && !writer.is_complete(&durable));
    assert_eq!((text(&cassette, 1), text(&cassette, 2)), (Ok("batched".to_owned()), Err(NotHeld::NeverSeen)));
    assert!(!writer.recorded(&batched).durable);
    let crashed = open(&storage.after_crash(0), 2).cassette();
    assert_eq!(text(&crashed, 1), Err(NotHeld::NeverSeen), "written is not durable");

    assert_eq!(writer.commit().expect("commits"), writer.durable());
    assert!(writer.is_complete(&durable) && writer.recorded(&batched).durable);
    assert_eq!(text(&cassette, 2), Ok("durable".to_owned()));
    let crashed = open(&storage.after_crash(0), 2).cassette();
    assert_eq!((text(&crashed, 1), text(&crashed, 2)), (Ok("batched".to_owned()), Ok("durable".to_owned())));
}

#[test]
fn one_durability_can_be_chosen_for_all_records() {
    for durability in [Durability::Memory, Durability::Durable] {
        let options = CassetteOptions { durability: Some(durability), ..CassetteOptions::default() };
        let storage = Arc::new(MemoryStorage::new());
        let (mut writer, _) = CassetteWriter::open(storage, &opening(1), options).expect("opens");
        for class in [Class::Observed, Class::Portable] {
            let (record, bytes) = observed(&identity(), 1, class, &Reply::ok("x"));
            assert_eq!(writer.record(record, bytes).expect("records").durability, durability);
        }
        let ticket = writer.retract(id(1), Reply::ok("x").answer(), 1).expect("retracts");
        assert_eq!(ticket.durability, Durability::Durable, "a retraction must not be forgotten");
    }
}

#[test]
fn a_retracted_answer_is_never_served_or_fetched_again_but_its_question_is() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let cassette = writer.cassette();
    let answer = Reply::ok("wrong").answer();
    let (record, bytes) = portable(1, "wrong");
    writer.record(record, bytes).expect("records");
    writer.commit().expect("commits");
    assert_eq!(text(&cassette, 1), Ok("wrong".to_owned()));
    writer.retract(id(1), answer, 5).expect("retracts");
    // Refused from the moment it was appended, not only when it is shown.
    let refuse = |writer: &mut CassetteWriter| {
        let (evidence, record, bytes) = foreign(1, Class::Portable, &Reply::ok("wrong"));
        let refused = writer.adopt(evidence, record, bytes, true).expect_err("retracted");
        assert!(matches!(refused, LedgerError::Retracted { .. }) && refused.hint().is_some());
    };
    refuse(&mut writer);
    writer.commit().expect("commits");
    assert_eq!(text(&cassette, 1), Err(NotHeld::Retracted));
    assert!(cassette.evidence(id(1), u64::MAX, &identity()).expect("reads").is_none());
    refuse(&mut writer);
    drop(writer);

    let mut writer = open(&storage, 2);
    let cassette = writer.cassette();
    assert_eq!(text(&cassette, 1), Err(NotHeld::Retracted));
    refuse(&mut writer);
    let (evidence, record, bytes) = foreign(1, Class::Portable, &Reply::ok("right"));
    writer.adopt(evidence, record, bytes, true).expect("another answer is welcome");
    writer.commit().expect("commits");
    assert_eq!(text(&cassette, 1), Ok("right".to_owned()));
    // Computed anew here, even the old answer is served again: behind the first live one.
    let (record, bytes) = portable(1, "wrong");
    writer.record(record, bytes).expect("records");
    writer.retract(id(1), Reply::ok("right").answer(), 6).expect("retracts");
    writer.commit().expect("commits");
    assert_eq!(text(&cassette, 1), Ok("wrong".to_owned()));
    assert_eq!(cassette.stats().retracted, 2);
    drop(writer);
    assert_eq!(text(&open(&storage, 3).cassette(), 1), Ok("wrong".to_owned()));
}

#[test]
fn a_retraction_may_come_before_the_answer() {
    let mut writer = open(&MemoryStorage::new(), 1);
    writer.retract(id(1), Reply::ok("wrong").answer(), 5).expect("retracts");
    writer.commit().expect("commits");
    let (evidence, record, bytes) = foreign(1, Class::Portable, &Reply::ok("wrong"));
    assert!(matches!(writer.adopt(evidence, record, bytes, true), Err(LedgerError::Retracted { .. })));
    assert_eq!(text(&writer.cassette(), 1), Err(NotHeld::Retracted));
}

#[test]
fn what_is_held_is_not_adopted_twice() {
    let mut writer = open(&MemoryStorage::new(), 1);
    let (evidence, record, bytes) = foreign(1, Class::Observed, &Reply::ok("theirs"));
    let adopt = |writer: &mut CassetteWriter| {
        writer.adopt(evidence.clone(), record.clone(), bytes.clone(), false).expect("adopts")
    };
    let first = adopt(&mut writer);
    let second = adopt(&mut writer);
    assert_eq!((first.fresh, second.fresh, second.seq), (true, false, first.seq));
    assert!(!writer.is_complete(&second), "it is complete when the first one is");
    writer.commit().expect("commits");
    let third = adopt(&mut writer);
    assert!(!third.fresh && writer.is_complete(&third));
    assert_eq!(writer.cassette().stats().records, 1);
    assert_eq!(text(&writer.cassette(), 1), Ok("theirs".to_owned()));
}

#[test]
fn what_does_not_belong_together_is_refused() {
    let mut writer = open(&MemoryStorage::new(), 1);
    let (record, _) = portable(1, "text");
    for (wrong, at) in [(vec![], 0), (vec!["other"], 0), (vec!["text", "more"], 1)] {
        let wrong = wrong.into_iter().map(Bytes::from).collect();
        let error = writer.record(record.clone(), wrong).expect_err("not its payloads");
        assert!(matches!(error, LedgerError::Payload { position } if position == at), "{error}");
    }
    let (evidence, _, _) = foreign(1, Class::Portable, &Reply::ok("text"));
    let (other, bytes) = portable(2, "text");
    assert!(matches!(writer.adopt(evidence, other, bytes, true), Err(LedgerError::Evidence)));
    assert_eq!(writer.commit().expect("commits"), 1, "nothing was appended");
}

#[test]
fn after_a_failed_sync_nothing_unacknowledged_is_shown() {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let options = CassetteOptions::default();
    let (mut writer, _) = CassetteWriter::open(Arc::new(storage.clone()), &opening(1), options).expect("opens");
    let cassette = writer.cassette();
    let (record, bytes) = observed(&identity(), 1, Class::Observed, &Reply::ok("kept"));
    writer.record(record, bytes).expect("records");
    writer.commit().expect("commits");
    let (record, bytes) = observed(&identity(), 2, Class::Observed, &Reply::ok("lost"));
    let ticket = writer.record(record.clone(), bytes.clone()).expect("appends");
    storage.fail(Some(Op::Sync), 0, std::io::ErrorKind::Other);
    assert!(matches!(writer.commit(), Err(LedgerError::Io { .. })));
    assert!(!writer.is_complete(&ticket));
    assert!(matches!(writer.record(record, bytes), Err(LedgerError::Poisoned { .. })));
    assert!(matches!(writer.commit(), Err(LedgerError::Poisoned { .. })));
    assert_eq!((text(&cassette, 1), text(&cassette, 2)), (Ok("kept".to_owned()), Err(NotHeld::NeverSeen)));
    drop(writer);
    disk.crash();
    assert_eq!(text(&open(&disk, 2).cassette(), 1), Ok("kept".to_owned()));
}
