//! Bit rot, missing, doubled and foreign files: named, never silently skipped, never wrong bytes.

use proptest::prelude::*;

use super::*;
use crate::ledger::frame::Header;
use crate::ledger::storage::{Storage, read_all};

const LENGTHS: [usize; 9] = [5, 0, 40, 17_000, 9, 64, 200, 1, 3];

fn build() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = open(&storage, 1);
    for (n, len) in (0..).zip(LENGTHS) {
        append(&mut ledger, n, len);
    }
    ledger.commit().expect("commits");
    storage
}

fn flip(storage: &MemoryStorage, path: &str, at: usize) {
    let file = storage.open(path).expect("there");
    let mut byte = [0];
    file.read_at(&mut byte, at as u64).expect("reads");
    file.write_at(&[byte[0] ^ (1 << (at % 8))], at as u64).expect("writes");
}

/// Reads everything; counts the records that are not served, and fails on any that is served wrongly.
fn not_served(reader: &LedgerReader, context: &str) -> usize {
    let served = |(n, len): (u64, usize)| {
        let (record, blobs) = record(n, len);
        match reader.read(n + 1) {
            Ok(Some(stored)) if matches!(stored.entry, Entry::Observed(_)) => {
                assert_eq!(stored.entry, Entry::Observed(record), "{context}");
                reader.payload_of(&stored, blobs[0].name()).is_ok_and(|bytes| {
                    assert_eq!(Some(&bytes), blobs[0].bytes(), "{context}");
                    true
                })
            }
            Ok(other) => {
                // A cut tail: the position is the next epoch's, or nobody's.
                assert!(other.is_none_or(|stored| matches!(stored.entry, Entry::Epoch { .. })), "{context}");
                false
            }
            Err(error) => {
                assert!(error.is_loss(), "{context}: {error}");
                false
            }
        }
    };
    (0..).zip(LENGTHS).filter(|record| !served(*record)).count()
}

#[test]
fn one_flipped_bit_anywhere_costs_at_most_one_record() {
    let storage = build();
    let len = read_all(&*storage.open(&segment(0)).expect("there")).expect("reads").len();
    let check = |at: usize| {
        let disk = storage.fork();
        flip(&disk, &segment(0), at);
        let (ledger, recovery) = open(&disk, 2);
        let lost = not_served(&ledger.reader(), &format!("byte {at}"));
        assert!(lost <= 1, "byte {at}: {lost} records, {recovery:?}");
        assert!(!recovery.is_clean(), "byte {at} went unnoticed");
        if lost == 1 && recovery.cut.is_none() {
            assert_eq!(recovery.damaged, 1, "byte {at}: {recovery:?}");
        }
        // Whatever was lost, the next opening sees the same and this epoch's entries are whole.
        drop(ledger);
        let (_, again) = open(&disk, 3);
        assert_eq!((&again.damages, again.cut), (&recovery.damages, None), "byte {at}");
    };
    std::thread::scope(|scope| {
        scope.spawn(|| (0..len).step_by(2).for_each(check));
        scope.spawn(|| (1..len).step_by(2).for_each(check));
    });
}

#[test]
fn one_flipped_bit_under_an_open_reader_is_typed_and_costs_one_record() {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = open(&storage, 1);
    for (n, len) in (0..).zip(LENGTHS) {
        append(&mut ledger, n, len);
    }
    ledger.commit().expect("commits");
    let reader = ledger.reader();
    let len = read_all(&*storage.open(&segment(0)).expect("there")).expect("reads").len();
    for at in 0..len {
        flip(&storage, &segment(0), at);
        assert!(not_served(&reader, &format!("byte {at}")) <= 1, "byte {at}");
        flip(&storage, &segment(0), at);
    }
    assert_eq!(not_served(&reader, "mended"), 0);
}

#[test]
fn a_damaged_blob_is_named_and_healed_by_recording_it_again() {
    let storage = build();
    let (_, blobs) = record(3, 17_000);
    let path = blobs::path(&blobs[0].name().digest);
    flip(&storage, &path, 16_999);
    let (mut ledger, _) = open(&storage, 2);
    let reader = ledger.reader();
    let name = blobs[0].name();
    assert!(matches!(reader.payload(4, name), Err(ReadError::PayloadDamaged { seq: 4, .. })));
    assert!(matches!(reader.payload_range(4, name, 0, 10), Err(ReadError::PayloadDamaged { .. })));
    assert_eq!(reader.blob(name.digest).expect("reads"), None);
    storage.remove(&path).expect("there");
    assert!(matches!(reader.payload(4, name), Err(ReadError::PayloadGone { seq: 4, .. })));
    append(&mut ledger, 3, 17_000);
    ledger.commit().expect("commits");
    assert!(is_record(&reader, 4, 3, 17_000));
    assert_eq!(reader.payload_range(4, name, 16_990, 100).expect("whole").len(), 10);
    assert_eq!(reader.payload_range(4, name, u64::MAX, 100).expect("whole").len(), 0);
}

/// Five segments or so.
fn build_segments() -> (MemoryStorage, Vec<u64>) {
    let storage = MemoryStorage::new();
    let small = Opening { segment_bytes: 500, ..opening(1) };
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    append_all(&mut ledger, 0..12, 30);
    ledger.commit().expect("commits");
    let names = storage.list("segments").expect("there");
    let firsts: Vec<u64> = names.iter().map(|name| name[..20].parse().expect("a number")).collect();
    assert!(firsts.len() > 3);
    (storage, firsts)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Ranges overwritten with noise, moved from elsewhere, or cut: nothing is served wrongly, nothing panics, and the next opening is as good.
    #[test]
    fn whatever_happens_to_a_segment_no_wrong_entry_is_served(
        changes in prop::collection::vec((0..4u8, any::<u16>(), any::<u16>(), 1..400usize), 1..6),
    ) {
        let storage = build();
        let file = storage.open(&segment(0)).expect("there");
        for (what, at, from, len) in changes {
            let all = read_all(&*file).expect("reads");
            let place = |n: u16| usize::from(n) % all.len().max(1);
            let source = &all[place(from).min(all.len())..];
            match what {
                0 => file.write_at(&vec![from.to_le_bytes()[0]; len], place(at) as u64).expect("writes"),
                1 | 2 => file.write_at(&source[..len.min(source.len())], place(at) as u64 / 8 * 8).expect("writes"),
                _ => file.set_len((all.len() - all.len().min(len)) as u64).expect("cuts"),
            }
        }
        let (mut ledger, _) = open(&storage, 2);
        not_served(&ledger.reader(), "first opening");
        let seq = append(&mut ledger, 77, 7);
        ledger.commit().expect("commits");
        let entries = |reader: &LedgerReader| (0..=seq).map(|seq| reader.read(seq).ok().flatten().map(|stored| stored.entry)).collect::<Vec<_>>();
        let before = entries(&ledger.reader());
        drop(ledger);
        let (ledger, _) = open(&storage, 3);
        prop_assert_eq!(before, entries(&ledger.reader()));
        prop_assert!(is_record(&ledger.reader(), seq, 77, 7));
    }
}

#[test]
fn a_missing_segment_is_a_named_gap() {
    let (storage, firsts) = build_segments();
    storage.remove(&segment(firsts[1])).expect("there");
    let (ledger, recovery) = open(&storage, 2);
    let gap = firsts[1]..firsts[2];
    assert_eq!(recovery.damages.len(), 1);
    assert_eq!(
        (recovery.damages[0].cause.clone(), recovery.damages[0].lost.clone()),
        (Cause::MissingSegment, gap.clone())
    );
    let reader = ledger.reader();
    for n in 0..12 {
        let seq = n + 1;
        let lost = gap.contains(&seq);
        assert_eq!(is_record(&reader, seq, n, 30), !lost);
        assert_eq!(matches!(reader.read(seq), Err(ReadError::Quarantined { .. })), lost);
    }
}

#[test]
fn the_beginning_may_be_missing_too() {
    let (storage, firsts) = build_segments();
    storage.remove(&segment(0)).expect("there");
    let (ledger, recovery) = open(&storage, 2);
    assert_eq!(recovery.lost, firsts[1]);
    let reader = ledger.reader();
    assert!(is_record(&reader, firsts[1], firsts[1] - 1, 30));
    assert!(matches!(reader.evidence(firsts[1], &identity()), Err(ReadError::Unprovable { .. })));
    assert_eq!(reader.lineage().len(), 1);
    let batch = reader.batch(0, 100).expect("skips to the new epoch");
    assert_eq!((batch.first, batch.end()), (0, 14));
    drop(ledger);
    let (ledger, again) = open(&storage, 3);
    assert_eq!(again.lost, recovery.lost);
    assert_eq!(ledger.reader().lineage().len(), 2);
}

#[test]
fn doubled_renamed_and_foreign_files_are_moved_to_quarantine() {
    let (storage, firsts) = build_segments();
    let bytes = read_all(&*storage.open(&segment(firsts[1])).expect("there")).expect("reads");
    for path in [segment(1000), segment(firsts[1] + 1), "segments/notes.txt".to_owned()] {
        let file = storage.create_new(&path).expect("new");
        file.write_at(&bytes, 0).expect("writes");
    }
    // A whole segment that claims positions another one has.
    let rival = firsts[2] + 1;
    let header = Header { format: 1, node: identity().node(), first: rival };
    let file = storage.create_new(&segment(rival)).expect("new");
    file.write_at(&header.encode(), 0).expect("writes");
    let (ledger, recovery) = open(&storage, 2);
    let causes: Vec<_> = recovery.damages.iter().map(|damage| damage.cause.clone()).collect();
    assert_eq!(causes, [Cause::Misplaced, Cause::Misplaced, Cause::Misplaced, Cause::DuplicateSegment]);
    assert_eq!(storage.list("quarantine").expect("there").len(), 4);
    assert!((0..12).all(|n| is_record(&ledger.reader(), n + 1, n, 30)));
    drop(ledger);
    assert!(open(&storage, 3).1.is_clean());
}

#[test]
fn another_nodes_directory_and_a_newer_format_are_refused_untouched() {
    let storage = build();
    let before = read_all(&*storage.open(&segment(0)).expect("there")).expect("reads");
    let other = Opening { node: Identity::from_seed([8; 32]).node(), ..opening(2) };
    let refused = Ledger::open(Arc::new(storage.clone()), &other).expect_err("another node's");
    assert!(matches!(refused, OpenError::OtherNode { .. }) && !refused.hint().is_empty());

    let newer = Header { format: 2, node: identity().node(), first: 0 };
    storage.open(&segment(0)).expect("there").write_at(&newer.encode(), 0).expect("writes");
    let refused = Ledger::open(Arc::new(storage.clone()), &opening(2)).expect_err("newer");
    assert!(matches!(refused, OpenError::Newer { found: 2, known: 1, .. }));
    let after = read_all(&*storage.open(&segment(0)).expect("there")).expect("reads");
    assert_eq!(before[64..], after[64..]);
}

#[test]
fn what_a_newer_version_wrote_is_kept_and_counted() {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = open(&storage, 1);
    let odd = [
        Entry::Unknown { kind: 9, body: Bytes::from_static(b"\x01from the future") },
        Entry::Unknown { kind: 3, body: Bytes::from_static(b"\x02another version") },
        Entry::Unknown { kind: 1, body: Bytes::from_static(b"\x07a record to be") },
        Entry::Unknown { kind: 200, body: Bytes::new() },
    ];
    for entry in &odd {
        assert_eq!(&Entry::decode(entry.kind(), &entry.body()).expect("kept"), entry);
        ledger.append(entry, &[], true).expect("appends");
    }
    append(&mut ledger, 5, 5);
    ledger.commit().expect("commits");
    drop(ledger);
    let (ledger, recovery) = open(&storage, 2);
    assert_eq!((recovery.unknown, recovery.is_clean()), (4, true));
    for (seq, entry) in (1..).zip(&odd) {
        assert_eq!(&ledger.reader().read(seq).expect("reads").expect("there").entry, entry);
    }
    // They are leaves like all others: what follows them is proven.
    let evidence = ledger.reader().evidence(5, &identity()).expect("reads").expect("durable");
    assert!(evidence.verify(&crate::identity::Ed25519).is_ok());
}

#[test]
fn bodies_are_read_strictly() {
    let (record, _) = record(1, 1);
    let entries = [
        Entry::Observed(record.clone()),
        Entry::Retracted { request: record.request, answer: record.answer(), at: 5 },
        Entry::Epoch {
            epoch: EpochId::from_bytes([1; 16]),
            start: 0,
            parent: None,
            node: record.producer,
            opened_at: 9,
        },
    ];
    for entry in entries {
        let body = entry.body();
        assert_eq!(Entry::decode(entry.kind(), &body).as_ref(), Ok(&entry));
        for wrong in [body.slice(..body.len() - 1), [&body[..], &[0]].concat().into()] {
            assert!(Entry::decode(entry.kind(), &wrong).is_err(), "{entry:?}");
        }
    }
    // 5 in two bytes.
    let long = Entry::Retracted { request: record.request, answer: record.answer(), at: 5 }.body();
    let long: Bytes = [&long[..long.len() - 1], &[0x85, 0]].concat().into();
    assert!(Entry::decode(3, &long).is_err());
}
