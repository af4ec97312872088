//! Heads, evidence and announcement batches.

use super::*;
use crate::identity::Ed25519;
use crate::ledger::storage::Storage;
use crate::message::LogItem;
use crate::proof::Evidence;

fn foreign_evidence(n: u64) -> (Evidence, Vec<Blob>) {
    let producer = Identity::from_seed([9; 32]);
    let opening = Opening::new(producer.node(), EpochId::from_bytes([99; 16]), 1);
    let (mut ledger, _) = Ledger::open(Arc::new(MemoryStorage::new()), &opening).expect("opens");
    let (record, blobs) = record_by(producer.node(), n, 30);
    let seq = ledger.append(&Entry::Observed(record), &blobs, true).expect("appends");
    ledger.commit().expect("commits");
    (ledger.reader().evidence(seq, &producer).expect("reads").expect("durable"), blobs)
}

#[test]
fn evidence_holds_for_current_closed_and_adopted_entries() {
    let storage = MemoryStorage::new();
    let me = identity();
    let (adopted, blobs) = foreign_evidence(50);
    for epoch in 1..=3 {
        let (mut ledger, _) = open(&storage, epoch);
        append_all(&mut ledger, 0..5, 3);
        ledger.append(&Entry::Adopted(adopted.clone()), &blobs, true).expect("appends");
        ledger.commit().expect("commits");
    }
    let (mut ledger, _) = open(&storage, 4);
    append(&mut ledger, 0, 3);
    ledger.commit().expect("commits");
    let reader = ledger.reader();
    let mut proven = 0;
    for seq in 0..reader.durable() {
        let Some(evidence) = reader.evidence(seq, &me).expect("reads") else { continue };
        let record = evidence.verify(&Ed25519).expect("believed");
        let stored = reader.read(seq).expect("reads").expect("there");
        assert_eq!(Some(&record), stored.entry.record().as_deref());
        proven += 1;
    }
    assert_eq!(proven, 3 * 6 + 1);
    assert_eq!(reader.evidence(6, &me).expect("reads"), Some(adopted), "unchanged");
    assert_eq!(reader.evidence(0, &me).expect("reads"), None, "an epoch is no record");
    assert_eq!(reader.evidence(1_000_000, &me).expect("reads"), None);
}

#[test]
fn only_what_is_durable_is_proven_and_a_head_is_made_when_none_covers() {
    let storage = MemoryStorage::new();
    let me = identity();
    let (mut ledger, _) = open(&storage, 1);
    let reader = ledger.reader();
    append(&mut ledger, 1, 3);
    assert!(reader.read(1).expect("reads").is_none(), "buffered only");
    ledger.write_out().expect("writes");
    assert!(is_record(&reader, 1, 1, 3));
    assert_eq!(reader.evidence(1, &me).expect("reads"), None);
    assert_eq!(reader.head(&me).expect("provable").length, 1);
    assert_eq!(reader.batch(1, 10), None);
    ledger.commit().expect("commits");
    let first = reader.evidence(1, &me).expect("reads").expect("durable");
    assert_eq!(first.head.length, 2);
    append(&mut ledger, 2, 3);
    ledger.commit().expect("commits");
    assert_eq!(
        reader.evidence(1, &me).expect("reads").expect("durable").head,
        first.head,
        "a head that covers is used again"
    );
    let second = reader.evidence(2, &me).expect("reads").expect("durable");
    assert_eq!(second.head.length, 3);
    assert_eq!(reader.head(&me).expect("provable"), second.head);
    assert!(second.verify(&Ed25519).is_ok());
}

fn fact(n: u64, len: usize) -> LogItem {
    let (record, _) = record(n, len);
    let (question, answer) = (record.request.fingerprint(), record.answer().fingerprint());
    LogItem::Fact { question: question.to_le_bytes(), answer: answer.to_le_bytes() }
}

#[test]
fn a_batch_lists_facts_and_skips_to_the_end_of_its_epoch() {
    let storage = MemoryStorage::new();
    let me = identity();
    let (adopted, blobs) = foreign_evidence(50);
    let announced = {
        let record = Record::decode(&adopted.record).expect("a record");
        let (question, answer) = (record.request.fingerprint(), record.answer().fingerprint());
        LogItem::Fact { question: question.to_le_bytes(), answer: answer.to_le_bytes() }
    };
    let (mut ledger, _) = open(&storage, 1);
    append(&mut ledger, 1, 3);
    let (request, answer) = { (record(1, 3).0.request, record(1, 3).0.answer()) };
    ledger.append(&Entry::Retracted { request, answer, at: 1 }, &[], false).expect("appends");
    ledger.append(&Entry::Adopted(adopted.clone()), &blobs, false).expect("appends");
    ledger.append(&Entry::Adopted(adopted), &blobs, true).expect("appends");
    append(&mut ledger, 2, 3);
    ledger.commit().expect("commits");
    let expected = [LogItem::Skip(1), fact(1, 3), LogItem::Skip(2), announced, fact(2, 3)];
    drop(ledger);
    let (mut ledger, _) = open(&storage, 2);
    append(&mut ledger, 3, 3);
    append(&mut ledger, 4, 3);
    ledger.write_out().expect("writes");
    let reader = ledger.reader();

    let whole = reader.batch(0, 100).expect("entries");
    assert_eq!((whole.first, &whole.items[..], whole.end()), (0, &expected[..], 6));
    let signed = reader.evidence(1, &me).expect("reads").expect("a record").head;
    assert_eq!(
        (signed.length, signed.root),
        (whole.head.length, whole.head.root),
        "what is signed for evidence is what is announced"
    );
    assert_eq!((whole.head.epoch, whole.head.length), (EpochId::from_bytes([1; 16]), 6));
    // In pieces of any size the same items come out, each under a head that covers its end.
    for max in 1..6 {
        let (mut at, mut facts) = (0, Vec::new());
        while let Some(batch) = reader.batch(at, max) {
            assert!(batch.items.len() <= max && batch.first == at && batch.end() > at);
            let start = if batch.head.epoch == EpochId::from_bytes([1; 16]) { 0 } else { 6 };
            assert!(start + batch.head.length >= batch.end());
            facts.extend(batch.items.iter().filter(|item| matches!(item, LogItem::Fact { .. })).copied());
            at = batch.end();
        }
        assert_eq!((at, &facts[..]), (7, &[fact(1, 3), announced, fact(2, 3)][..]), "the rest is not durable");
    }
    assert_eq!(reader.batch(7, 9), None);
    assert_eq!(reader.batch(0, 0), None);
    ledger.commit().expect("commits");
    assert_eq!(reader.batch(7, 9).expect("durable now").items, [fact(3, 3), fact(4, 3)]);
}

#[test]
fn behind_a_lost_entry_everything_is_readable_and_nothing_is_claimed() {
    let storage = MemoryStorage::new();
    let me = identity();
    let (mut ledger, _) = open(&storage, 1);
    append_all(&mut ledger, 0..6, 3);
    ledger.commit().expect("commits");
    let slot = place(&ledger, 3);
    drop(ledger);
    storage.open(&segment(0)).expect("there").write_at(b"rot", slot + 40).expect("writes");
    let (mut ledger, recovery) = open(&storage, 2);
    append(&mut ledger, 9, 3);
    ledger.commit().expect("commits");
    assert_eq!(recovery.damages[0].lost, 3..4);
    let reader = ledger.reader();
    assert!(matches!(reader.read(3), Err(ReadError::Quarantined { seq: 3 })));
    for (seq, provable) in [(1, true), (2, true), (4, false), (6, false), (8, true)] {
        let evidence = reader.evidence(seq, &me);
        match evidence {
            Ok(Some(evidence)) => assert!(provable && evidence.verify(&Ed25519).is_ok()),
            Err(ReadError::Unprovable { .. }) => assert!(!provable),
            other => panic!("{seq}: {other:?}"),
        }
    }
    assert!(is_record(&reader, 6, 5, 3));
    let before = reader.batch(0, 100).expect("what can be proven");
    assert_eq!((before.end(), before.head.length), (3, 3));
    let behind = reader.batch(3, 100).expect("skips");
    assert_eq!((&behind.items[..], behind.end()), (&[LogItem::Skip(5), fact(9, 3)][..], 9));
    assert_eq!(behind.head.epoch, EpochId::from_bytes([2; 16]));
}
