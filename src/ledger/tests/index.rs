//! Index files: believed only as far as they hold, made anew where they do not; and room ahead.

use std::collections::BTreeSet;

use super::*;
use crate::identity::Ed25519;
use crate::ledger::limits::RUN_ENTRIES;
use crate::ledger::state::index_path;
use crate::ledger::storage::{Storage, read_all};

const RECORDS: u64 = 600;

/// Three epochs, more than two pages of leaves, everything sealed.
fn build() -> MemoryStorage {
    let storage = MemoryStorage::new();
    for epoch in 1..=3 {
        let (mut ledger, _) = open(&storage, epoch);
        let third = RECORDS / 3;
        append_all(&mut ledger, (u64::from(epoch) - 1) * third..u64::from(epoch) * third, 5);
        if epoch == 2 {
            append_all(&mut ledger, 1000..1300, 0);
        }
        ledger.close().expect("closes");
    }
    storage
}

/// The position of record `n` of [`build`].
fn seq(n: u64) -> u64 {
    match n / (RECORDS / 3) {
        0 => n + 1,
        1 => n + 2,
        _ => n + 303,
    }
}

/// Every answer of a table, as the finder would read it.
fn table(reader: &LedgerReader, table: Table) -> BTreeSet<(u64, u64)> {
    let mut all = BTreeSet::new();
    for shard in 0..=u8::MAX {
        reader.shard(table, shard, &mut |fingerprint, seq| assert!(all.insert((fingerprint, seq)))).expect("reads");
    }
    all
}

fn check(disk: &MemoryStorage, context: &str) {
    let (ledger, recovery) = open(disk, 9);
    assert!(recovery.is_clean(), "{context}: {recovery:?}");
    assert_eq!(recovery.entries, 903, "{context}");
    let reader = ledger.reader();
    for n in (0..RECORDS).step_by(61).chain([199, 200, 399, 400, 599]) {
        assert!(is_record(&reader, seq(n), n, 5), "{context}: record {n}");
        let evidence = reader.evidence(seq(n), &identity()).expect("provable").expect("durable");
        assert_eq!(evidence.verify(&Ed25519).expect("believed"), record(n, 5).0, "{context}");
    }
    let kept = |fingerprint: u64| fingerprint & !0xffff;
    let (questions, names) = (table(&reader, Table::Questions), table(&reader, Table::Names));
    assert_eq!((questions.len(), names.len()), (900, 900), "{context}");
    for n in (0..RECORDS).step_by(7) {
        let (record, blobs) = record(n, 5);
        assert!(questions.contains(&(kept(record.request.fingerprint()), seq(n))), "{context}: {n}");
        assert!(names.contains(&(kept(blobs[0].name().digest.fingerprint()), seq(n))), "{context}: {n}");
    }
    let batch = reader.batch(0, 1000).expect("facts");
    assert_eq!(batch.items.len(), 201, "{context}: the epoch's own entry and its records");
}

#[test]
fn an_index_with_any_byte_wrong_misleads_nobody() {
    let storage = build();
    check(&storage.fork(), "untouched");
    let path = index_path(0);
    let len = read_all(&*storage.open(&path).expect("there")).expect("reads").len();
    assert!(len > 60 * 900);
    for at in (0..140).step_by(5).chain((140..len).step_by(len / 19)) {
        let disk = storage.fork();
        let file = disk.open(&path).expect("there");
        let mut byte = [0];
        file.read_at(&mut byte, at as u64).expect("reads");
        file.write_at(&[byte[0] ^ 0x10], at as u64).expect("writes");
        check(&disk, &format!("byte {at}"));
    }
}

#[test]
fn a_missing_or_short_index_is_made_anew() {
    let storage = build();
    for len in [None, Some(0), Some(100), Some(5000), Some(40_000)] {
        let disk = storage.fork();
        match len {
            None => disk.remove(&index_path(0)).expect("there"),
            Some(len) => disk.open(&index_path(0)).expect("there").set_len(len).expect("cuts"),
        }
        check(&disk, &format!("cut to {len:?}"));
        let whole = read_all(&*disk.open(&index_path(0)).expect("made")).expect("reads");
        assert!(whole.len() > 60 * 900, "{len:?}: {} bytes", whole.len());
        disk.crash();
        let (_, recovery) = open(&disk, 10);
        assert_eq!(recovery.entries, 904);
    }
}

#[test]
fn an_index_that_knows_more_than_its_segment_is_not_believed() {
    let storage = build();
    let old = {
        let storage = MemoryStorage::new();
        let (mut ledger, _) = open(&storage, 1);
        append_all(&mut ledger, 0..150, 5);
        ledger.close().expect("closes");
        storage
    };
    let index = read_all(&*storage.open(&index_path(0)).expect("there")).expect("reads");
    let file = old.open(&index_path(0)).expect("there");
    file.set_len(0).expect("cuts");
    file.write_at(&index, 0).expect("writes");
    let (ledger, recovery) = open(&old, 9);
    assert!(recovery.is_clean(), "{recovery:?}");
    assert_eq!(recovery.entries, 151);
    let reader = ledger.reader();
    assert!((0..150).all(|n| is_record(&reader, n + 1, n, 5)));
    assert_eq!(table(&reader, Table::Questions).len(), 150);
    assert_eq!(reader.read(152).expect("reads").map(|stored| stored.seq), None);
}

#[test]
fn a_long_run_is_sealed_on_the_way_and_a_crash_costs_only_what_was_not_durable() {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = open(&storage, 1);
    let (request, answer) = (record(1, 1).0.request, record(1, 1).0.answer());
    let more = RUN_ENTRIES as u64 + 500;
    for at in 0..more {
        ledger.append(&Entry::Retracted { request, answer, at }, &[], false).expect("appends");
        if at % 5000 == 0 {
            ledger.write_out().expect("writes");
        }
    }
    ledger.write_out().expect("writes");
    let durable = ledger.reader().durable();
    assert!(durable > RUN_ENTRIES as u64 / 2, "sealing makes durable");
    let (ledger, recovery) = open(&storage.after_crash(0), 2);
    assert!(recovery.is_clean() && recovery.entries >= durable, "{recovery:?}");
    let reader = ledger.reader();
    for seq in [1, 2, durable / 2, durable - 1] {
        let stored = reader.read(seq).expect("reads").expect("there");
        assert_eq!(stored.entry, Entry::Retracted { request, answer, at: seq - 1 });
    }
}

#[cfg(unix)]
#[test]
fn room_ahead_is_no_torn_end_and_garbage_in_it_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("ledger");
    let storage = || Arc::new(FileStorage::open(&path).expect("opens")) as Arc<dyn Storage>;
    let small = |epoch: u8| Opening { segment_bytes: 3_000_000, ..opening(epoch) };
    let (mut ledger, _) = Ledger::open(storage(), &small(1)).expect("opens");
    for n in 0..200 {
        append(&mut ledger, n, 16_000);
        ledger.commit().expect("commits");
        while let Some(room) = ledger.wants_room() {
            let made = room.make();
            ledger.accept(made);
        }
    }
    assert!(ledger.reader().segments() >= 2, "the spare was taken");
    let newest =
        std::fs::read_dir(path.join("segments")).expect("there").map(|entry| entry.expect("reads").path()).max();
    let newest = newest.expect("segments");
    assert_eq!(std::fs::metadata(&newest).expect("there").len(), 3_000_000, "room to its end");
    drop(ledger);
    let (ledger, recovery) = Ledger::open(storage(), &small(2)).expect("opens");
    assert!(recovery.is_clean(), "{recovery:?}");
    assert!((0..200).all(|n| is_record(&ledger.reader(), n + 1, n, 16_000)));
    drop(ledger);
    let file = std::fs::OpenOptions::new().write(true).open(&newest).expect("there");
    std::os::unix::fs::FileExt::write_at(&file, b"garbage", 2_999_000).expect("writes");
    let (ledger, recovery) = Ledger::open(storage(), &small(3)).expect("opens");
    assert!(recovery.cut.is_some() && recovery.damaged == 0, "{recovery:?}");
    assert!((0..200).all(|n| is_record(&ledger.reader(), n + 1, n, 16_000)));
    let closed = ledger.close().expect("closes");
    assert!(!path.join("spare.seg").exists());
    let (_, recovery) = Ledger::open(storage(), &small(4)).expect("opens");
    assert!(recovery.is_clean() && recovery.entries == closed);
}

#[test]
fn many_short_openings_leave_few_runs() {
    let storage = MemoryStorage::new();
    for epoch in 1..=100 {
        let (mut ledger, recovery) = open(&storage, epoch);
        assert!(recovery.is_clean() && recovery.entries == 2 * u64::from(epoch - 1), "{recovery:?}");
        append(&mut ledger, u64::from(epoch), 20);
        ledger.commit().expect("commits");
        // Some end without closing.
        if epoch % 3 > 0 {
            ledger.close().expect("closes");
        }
    }
    let (ledger, _) = open(&storage, 101);
    let runs = ledger.shared.read().runs.len();
    assert!(runs <= 9, "{runs} runs for 201 entries");
    let reader = ledger.reader();
    assert!((1..=100).all(|n| is_record(&reader, 2 * n - 1, n, 20)));
    assert_eq!(table(&reader, Table::Questions).len(), 100);
    assert!((1..=100).all(|n| reader.evidence(2 * n - 1, &identity()).is_ok_and(|evidence| evidence.is_some())));
}
