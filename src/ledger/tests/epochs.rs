//! Every opening is an epoch; a restored old copy never claims one (epoch, index) twice.

use std::collections::BTreeMap;

use super::*;
use crate::ledger::storage::{Storage, read_all};
use crate::message::EpochStart;
use crate::proof::Hash;

#[test]
fn each_opening_names_the_one_before_it() {
    let storage = MemoryStorage::new();
    let mut expected = None;
    for epoch in 1..=20 {
        let (mut ledger, recovery) = open(&storage, epoch);
        assert!(recovery.is_clean());
        let reader = ledger.reader();
        let start = recovery.entries;
        assert_eq!(reader.durable(), start + 1, "the epoch is durable before first use");
        let stored = reader.read(start).expect("reads").expect("there");
        let Entry::Epoch { epoch: id, start: named, parent, node, opened_at } = stored.entry else {
            panic!("not an epoch")
        };
        assert_eq!((id, named, node), (EpochId::from_bytes([epoch; 16]), start, identity().node()));
        assert_eq!((parent, opened_at), (expected, 1_000_000 + u64::from(epoch)));
        append_all(&mut ledger, 0..u64::from(epoch) % 4, 3);
        ledger.commit().expect("commits");
        let head = reader.head(&identity()).expect("provable");
        expected = Some(Parent { epoch: id, start, length: head.length, root: head.root });
    }
    let (ledger, _) = open(&storage, 21);
    let lineage = ledger.reader().lineage();
    assert_eq!(lineage.len(), 21);
    assert!(lineage.is_sorted_by(|a, b| a.start < b.start));
}

#[test]
fn an_epoch_cannot_be_used_again() {
    let storage = MemoryStorage::new();
    drop(open(&storage, 1));
    let refused = Ledger::open(Arc::new(storage), &opening(1)).expect_err("used");
    assert!(matches!(refused, OpenError::EpochReused(_)));
}

/// What a peer would remember: the leaf it saw at each (epoch, index).
fn remember(reader: &LedgerReader, seen: &mut BTreeMap<(EpochId, u64), Hash>) {
    let lineage = reader.lineage();
    for seq in 0..reader.durable() {
        let EpochStart { epoch, start } =
            *lineage.iter().rfind(|epoch| epoch.start <= seq).expect("the first starts at 0");
        let leaf = reader.read(seq).expect("reads").expect("there").entry.leaf();
        let first = *seen.entry((epoch, seq - start)).or_insert(leaf);
        assert_eq!(first, leaf, "one (epoch, index) has two entries");
    }
}

#[test]
fn a_restored_copy_goes_on_in_a_new_epoch_from_where_the_copy_ends() {
    let storage = MemoryStorage::new();
    let mut seen = BTreeMap::new();
    let (mut ledger, _) = open(&storage, 1);
    append_all(&mut ledger, 0..4, 3);
    ledger.commit().expect("commits");
    let head = ledger.reader().head(&identity()).expect("provable");
    drop(ledger);
    let copy = storage.fork();

    let (mut ledger, _) = open(&storage, 2);
    append_all(&mut ledger, 10..14, 3);
    ledger.commit().expect("commits");
    remember(&ledger.reader(), &mut seen);
    drop(ledger);

    let (mut ledger, recovery) = open(&copy, 3);
    assert!(recovery.is_clean(), "a cleanly closed copy looks sound: only the epoch tells");
    append_all(&mut ledger, 20..24, 3);
    ledger.commit().expect("commits");
    let reader = ledger.reader();
    remember(&reader, &mut seen);
    let stored = reader.read(5).expect("reads").expect("there");
    let Entry::Epoch { parent: Some(parent), .. } = stored.entry else { panic!("an epoch with a parent") };
    assert_eq!((parent.epoch, parent.length, parent.root), (EpochId::from_bytes([1; 16]), 5, head.root));
}

#[test]
fn a_lost_epoch_entry_is_known_from_its_child() {
    let storage = MemoryStorage::new();
    for epoch in 1..=3 {
        let (mut ledger, _) = open(&storage, epoch);
        append_all(&mut ledger, 0..3, 3);
        ledger.commit().expect("commits");
    }
    let (reader_before, slot) = {
        let (ledger, _) = open(&storage, 4);
        (ledger.reader().lineage(), place(&ledger, 4))
    };
    let file = storage.open(&segment(0)).expect("there");
    file.write_at(&[0xff; 40], slot).expect("writes");
    let (ledger, recovery) = open(&storage, 5);
    assert_eq!((recovery.lost, recovery.damaged), (1, 1));
    let reader = ledger.reader();
    assert_eq!(reader.lineage()[..4], reader_before[..]);
    assert!(is_record(&reader, 5, 0, 3), "its entries are served");
    assert!(matches!(reader.evidence(5, &identity()), Err(ReadError::Unprovable { seq: 5 })));
    assert!(reader.evidence(9, &identity()).expect("another epoch").is_some());
}

#[test]
fn changed_history_is_noticed_and_not_proven() {
    // Two histories of the same length that share their epochs; the second half of one is put behind the first half of the other.
    let build = |n: u64| {
        let storage = MemoryStorage::new();
        for epoch in 1..=2 {
            let small = Opening { segment_bytes: 100, ..opening(epoch) };
            let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
            append(&mut ledger, n, 3);
            ledger.commit().expect("commits");
        }
        storage
    };
    let (ours, theirs) = (build(1), build(2));
    let names = ours.list("segments").expect("there");
    assert_eq!(names, theirs.list("segments").expect("there"));
    let forged = read_all(&*theirs.open(&segment(1)).expect("there")).expect("reads");
    ours.open(&segment(1)).expect("there").write_at(&forged, 0).expect("writes");
    let (ledger, recovery) = open(&ours, 3);
    assert_eq!(recovery.damages.len(), 1, "{recovery:?}");
    assert_eq!(recovery.damages[0].cause, Cause::RootDiffers(EpochId::from_bytes([1; 16])));
    assert!(matches!(ledger.reader().evidence(1, &identity()), Err(ReadError::Unprovable { .. })));
    assert!(ledger.reader().evidence(3, &identity()).expect("sound").is_some());
}
