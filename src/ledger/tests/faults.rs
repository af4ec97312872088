//! Disks that fail: the writer stops, says so, and nothing that was acknowledged is lost.

use std::io;

use super::*;

fn faulty() -> (MemoryStorage, FaultyStorage, Ledger) {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let (ledger, _) = Ledger::open(Arc::new(storage.clone()), &opening(1)).expect("opens");
    (disk, storage, ledger)
}

#[test]
fn a_failed_sync_poisons_until_reopened() {
    let (disk, storage, mut ledger) = faulty();
    append(&mut ledger, 1, 3);
    assert_eq!(ledger.commit().expect("commits"), 2);
    append(&mut ledger, 2, 3);
    storage.fail(Some(Op::Sync), 0, io::ErrorKind::Other);
    assert!(matches!(ledger.commit(), Err(LedgerError::Io { .. })));
    assert_eq!(ledger.reader().durable(), 2);
    let (record, blobs) = record(3, 3);
    for _ in 0..3 {
        assert!(matches!(
            ledger.append(&Entry::Observed(record.clone()), &blobs, true),
            Err(LedgerError::Poisoned { .. })
        ));
        assert!(matches!(ledger.write_out(), Err(LedgerError::Poisoned { .. })));
        assert!(matches!(ledger.commit(), Err(LedgerError::Poisoned { .. })));
    }
    assert!(is_record(&ledger.reader(), 1, 1, 3), "reading goes on");
    assert!(ledger.reader().evidence(1, &identity()).expect("reads").is_some());
    drop(ledger);
    disk.crash();
    let (mut ledger, recovery) = open(&disk, 2);
    assert_eq!(recovery.entries, 2);
    append(&mut ledger, 3, 3);
    ledger.commit().expect("commits");
    assert!(is_record(&ledger.reader(), 1, 1, 3) && is_record(&ledger.reader(), 3, 3, 3));
}

#[test]
fn a_full_disk_costs_only_what_was_not_acknowledged() {
    for torn in [0, 1, 7, 8, 31, 33, 100, 200, 300, 400] {
        let (disk, storage, mut ledger) = faulty();
        append(&mut ledger, 1, 3);
        let acknowledged = ledger.commit().expect("commits");
        storage.fill(0, torn);
        append_all(&mut ledger, 2..5, 3);
        let full = ledger.commit().expect_err("full");
        assert!(
            matches!(&full, LedgerError::Io { source, .. } if source.kind() == io::ErrorKind::StorageFull),
            "{full}"
        );
        assert!(full.hint().is_some());
        drop(ledger);
        storage.heal();
        let (mut ledger, recovery) = Ledger::open(Arc::new(storage), &opening(2)).expect("opens once there is room");
        assert!(recovery.entries >= acknowledged && recovery.damaged == 0, "{recovery:?}");
        let seq = append(&mut ledger, 9, 3);
        ledger.commit().expect("commits");
        let reader = ledger.reader();
        assert!(is_record(&reader, 1, 1, 3) && is_record(&reader, seq, 9, 3));
        drop(ledger);
        assert!(open(&disk, 3).1.is_clean());
    }
}

#[test]
fn whatever_operation_fails_nothing_acknowledged_is_lost() {
    for after in 0.. {
        let disk = MemoryStorage::new();
        let storage = FaultyStorage::new(Arc::new(disk.clone()));
        storage.fail(None, after, io::ErrorKind::Other);
        let small = Opening { segment_bytes: 700, ..opening(1) };
        let (mut acknowledged, mut failed) = (0, false);
        match Ledger::open(Arc::new(storage.clone()), &small) {
            Err(_) => failed = true,
            Ok((mut ledger, _)) => {
                for n in 0..8 {
                    let len = if n == 4 { 20_000 } else { 10 };
                    let (record, blobs) = record(n, len);
                    let entry = Entry::Observed(record);
                    match ledger.append(&entry, &blobs, true).and_then(|_| ledger.commit()) {
                        Ok(durable) => acknowledged = durable,
                        Err(_) => failed = true,
                    }
                }
            }
        }
        storage.heal();
        disk.crash();
        let (ledger, recovery) = open(&disk, 2);
        assert!(recovery.entries >= acknowledged, "operation {after}: {recovery:?}");
        assert_eq!(recovery.damaged, 0, "operation {after}: {recovery:?}");
        for n in 0..acknowledged.saturating_sub(1) {
            assert!(
                is_record(&ledger.reader(), n + 1, n, if n == 4 { 20_000 } else { 10 }),
                "operation {after}, record {n}"
            );
        }
        if !failed {
            assert!(after > 20, "the fault was beyond the last operation");
            break;
        }
    }
}

#[test]
fn a_disk_that_does_not_answer_is_not_a_loss() {
    let (_, storage, mut ledger) = faulty();
    append(&mut ledger, 1, 3);
    ledger.commit().expect("commits");
    storage.fail(Some(Op::Read), 0, io::ErrorKind::TimedOut);
    let error = ledger.reader().read(1).expect_err("the disk fails");
    assert!(matches!(error, ReadError::Io { .. }) && !error.is_loss());
    assert!(is_record(&ledger.reader(), 1, 1, 3), "once it answers, all is well");
}

#[test]
fn what_cannot_be_served_or_read_again_is_not_taken() {
    let (_, _, mut ledger) = faulty();
    let (record, blobs) = record(1, 3);
    let before = ledger.next_seq();
    let entry = Entry::Observed(record.clone());
    assert!(matches!(ledger.append(&entry, &[], true), Err(LedgerError::Payload { position: 0 })));
    let other = [Blob::new(Bytes::from_static(b"other"))];
    assert!(matches!(ledger.append(&entry, &other, true), Err(LedgerError::Payload { position: 0 })));
    let file = |path: &str| crate::record::FileRef {
        path: path.parse().expect("a path"),
        executable: false,
        data: blobs[0].name(),
    };
    let disordered = Record { files: vec![file("b"), file("a")], ..record.clone() };
    assert!(matches!(ledger.append(&Entry::Observed(disordered), &blobs, true), Err(LedgerError::Files)));
    let huge = Record { host: "x".repeat(2 * 1024 * 1024).into(), ..record.clone() };
    assert!(matches!(ledger.append(&Entry::Observed(huge), &blobs, true), Err(LedgerError::TooLarge { .. })));
    let epoch = Entry::Epoch {
        epoch: EpochId::from_bytes([3; 16]),
        start: 1,
        parent: None,
        node: record.producer,
        opened_at: 0,
    };
    assert!(matches!(ledger.append(&epoch, &[], false), Err(LedgerError::EpochEntry)));
    assert_eq!(ledger.next_seq(), before);
    ledger.append(&entry, &blobs, true).expect("a refusal is no poison");
    ledger.commit().expect("commits");
}

#[test]
fn a_bit_that_is_wrong_once_is_noticed_once() {
    let (_, storage, mut ledger) = faulty();
    append(&mut ledger, 1, 500);
    append(&mut ledger, 2, 40_000);
    ledger.commit().expect("commits");
    let reader = ledger.reader();
    for bit in (0..8 * 700).step_by(13) {
        storage.flip(0, bit);
        let served = is_record(&reader, 1, 1, 500);
        let padding = bit / 8 >= usize::try_from(place(&ledger, 2) - place(&ledger, 1)).expect("small") - 8;
        assert!(!served || padding, "bit {bit} was wrong and served");
        storage.heal();
        assert!(is_record(&reader, 1, 1, 500), "bit {bit}: the next read is whole");
    }
    let blob = record(2, 40_000).1[0].name();
    storage.flip(0, 8 * 12_345);
    assert!(matches!(reader.payload(2, blob), Err(ReadError::PayloadDamaged { .. })));
    assert!(reader.payload(2, blob).is_ok());
}

#[test]
fn a_clock_that_jumps_changes_nothing() {
    let storage = MemoryStorage::new();
    for (epoch, now) in [(1, 5_000_000), (2, 10), (3, u64::MAX), (4, 0)] {
        let opening = Opening { now, ..opening(epoch) };
        let (mut ledger, recovery) = Ledger::open(Arc::new(storage.clone()), &opening).expect("opens");
        assert!(recovery.is_clean());
        append(&mut ledger, u64::from(epoch), 3);
        let (record, _) = record(u64::from(epoch), 3);
        let at = now.wrapping_sub(1);
        ledger
            .append(&Entry::Retracted { request: record.request, answer: record.answer(), at }, &[], false)
            .expect("appends");
        ledger.commit().expect("commits");
        let reader = ledger.reader();
        let seqs: Vec<u64> =
            (0..reader.length()).map(|seq| reader.read(seq).expect("reads").expect("there").seq).collect();
        assert_eq!(seqs, (0..3 * u64::from(epoch)).collect::<Vec<_>>(), "order is that of appending");
        assert!(reader.evidence(seqs[seqs.len() - 2], &identity()).expect("reads").is_some());
    }
}
