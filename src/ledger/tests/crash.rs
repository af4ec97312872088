//! Power failures: what was acknowledged survives, what survives is a prefix of whole entries.

use super::*;
use crate::ledger::storage::{Storage, read_all};

fn segment_len(storage: &MemoryStorage) -> usize {
    read_all(&*storage.open(&segment(0)).expect("there")).expect("reads").len()
}

#[test]
fn a_crash_at_every_byte_of_the_last_records_keeps_a_prefix_and_all_that_was_acknowledged() {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = open(&storage, 1);
    for n in 0..3 {
        append(&mut ledger, n, 5);
    }
    let acknowledged = ledger.commit().expect("commits");
    let synced = segment_len(&storage);
    let mut ends = vec![synced];
    for n in 3..53 {
        append(&mut ledger, n, usize::try_from(n % 7).expect("small"));
        ledger.write_out().expect("writes");
        ends.push(segment_len(&storage));
    }
    let total = ends[ends.len() - 1] - synced;
    let check = |torn: usize| {
        let disk = storage.after_crash(torn);
        let (ledger, recovery) = open(&disk, 2);
        let whole = ends.iter().filter(|end| **end <= synced + torn).count() as u64 - 1;
        assert_eq!(recovery.entries, acknowledged + whole, "{torn} bytes of the tail");
        assert_eq!((recovery.damaged, recovery.lost, recovery.unknown), (0, 0, 0));
        let clean = ends.contains(&(synced + torn));
        assert_eq!(recovery.cut.is_none(), clean, "{torn}: {recovery:?}");
        let reader = ledger.reader();
        assert!(matches!(reader.read(recovery.entries), Ok(Some(Stored { entry: Entry::Epoch { .. }, .. }))));
        if clean {
            for n in 3..3 + whole {
                assert!(is_record(&reader, n + 1, n, usize::try_from(n % 7).expect("small")), "{torn}: record {n}");
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..=total).step_by(2).for_each(check));
        scope.spawn(|| (1..=total).step_by(2).for_each(check));
    });
}

#[test]
fn a_crash_before_the_first_segment_is_whole_leaves_an_empty_ledger() {
    for len in [0, 1, 30, 63] {
        let storage = MemoryStorage::new();
        storage.create_dir("segments").expect("new");
        storage.create_new(&segment(0)).expect("new").set_len(len).expect("grows");
        let (ledger, recovery) = open(&storage, 1);
        assert_eq!(recovery.cut, Some(Cut { segment: 0, offset: 0, bytes: len }));
        assert_eq!(ledger.reader().durable(), 1);
        drop(ledger);
        assert!(open(&storage, 2).1.is_clean());
    }
}

#[test]
fn large_payloads_are_on_disk_before_the_record_that_names_them() {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = open(&storage, 1);
    append(&mut ledger, 1, 100_000);
    ledger.write_out().expect("writes");
    // All of the frame survives, though it was never synced: so must the blob.
    let (ledger, recovery) = open(&storage.after_crash(usize::MAX), 2);
    assert_eq!(recovery.entries, 2);
    assert!(is_record(&ledger.reader(), 1, 1, 100_000));
}

#[test]
fn a_full_segment_is_durable_before_the_next_one_exists() {
    let storage = MemoryStorage::new();
    let small = Opening { segment_bytes: 2000, ..opening(1) };
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    for n in 0..40 {
        append(&mut ledger, n, 20);
        ledger.write_out().expect("writes");
    }
    let segments = ledger.reader().segments();
    assert!(segments > 3, "{segments}");
    let (after, recovery) = open(&storage.after_crash(0), 2);
    assert!(recovery.is_clean(), "{recovery:?}");
    assert!(recovery.segments >= segments - 1, "only the newest segment may lose its tail");
    for n in 0..recovery.entries - 1 {
        assert!(is_record(&after.reader(), n + 1, n, 20));
    }
    ledger.commit().expect("commits");
    let (after, recovery) = open(&storage.after_crash(0), 2);
    assert_eq!((recovery.entries, recovery.segments), (41, segments));
    assert!((0..40).all(|n| is_record(&after.reader(), n + 1, n, 20)));
}

#[test]
fn what_an_interrupted_blob_write_left_is_swept_away() {
    let storage = MemoryStorage::new();
    drop(open(&storage, 1));
    storage.create_new("blobs/tmp-1234").expect("new");
    drop(open(&storage, 2));
    assert_eq!(storage.list("blobs").expect("there"), Vec::<String>::new());
}
