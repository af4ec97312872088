//! Dropping whole segments: what is above the floor stays provable, what is below is gone and says so, and a crash leaves the one or the other.

use super::*;
use crate::identity::Ed25519;
use crate::ledger::state::SEGMENTS;
use crate::ledger::storage::read_all;

const RECORDS: u64 = 700;

/// A ledger of many small segments in two epochs.
fn build(storage: &MemoryStorage) -> Ledger {
    for (epoch, records) in [(1, 0..100), (2, 100..RECORDS)] {
        let mut ledger = again(storage, epoch);
        append_all(&mut ledger, records, 40);
        ledger.commit().expect("commits");
        if epoch == 2 {
            return ledger;
        }
        ledger.close().expect("closes");
    }
    unreachable!("the second epoch returns")
}

fn again(storage: &MemoryStorage, epoch: u8) -> Ledger {
    let small = Opening { segment_bytes: 8_000, ..opening(epoch) };
    let (ledger, recovery) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    assert!(recovery.is_clean(), "{recovery:?}");
    ledger
}

/// Every record above the floor is proven and whole, nothing below it is there.
fn check(ledger: &Ledger, floor: u64, context: &str) {
    let reader = ledger.reader();
    assert_eq!(reader.floor(), floor, "{context}");
    for seq in [0, 1, floor - 1] {
        assert!(matches!(reader.read(seq), Err(ReadError::Dropped { .. })), "{context}: {seq}");
    }
    let mut proven = 0;
    for seq in (floor..reader.durable()).step_by(5) {
        if let Some(evidence) = reader.evidence(seq, &identity()).unwrap_or_else(|error| panic!("{context}: {error}")) {
            evidence.verify(&Ed25519).expect("holds");
            proven += 1;
        }
    }
    assert!(proven >= 10, "{context}: {proven}");
    let mut at = 0;
    while let Some(batch) = reader.batch(at, 100) {
        for item in &batch.items {
            at += item.positions();
            let skipped = matches!(item, crate::message::LogItem::Skip(_));
            assert!(skipped || at > floor, "{context}: nothing below the floor is announced");
        }
    }
    assert_eq!(at, reader.durable(), "{context}: the log is listed to its end");
}

fn findings(storage: &MemoryStorage) -> Vec<String> {
    let mut found = Vec::new();
    let survey = Survey::open(storage).expect("looks").expect("there");
    let visit = &mut |sight: Sight<'_>| {
        if let Sight::Finding(finding) = sight {
            found.push(finding.to_string());
        }
    };
    survey.verify(&Ed25519, visit).expect("reads");
    found
}

#[test]
fn what_is_above_the_floor_stays_provable_through_every_opening() {
    let storage = MemoryStorage::new();
    let mut ledger = build(&storage);
    let before = ledger.reader().head(&identity()).expect("provable");
    let segments = ledger.full_segments();
    let below = segments[segments.len() / 2].end + 1;
    let freed = ledger.drop_below(below, Some(&identity()), 9).expect("drops");
    let floor = ledger.reader().floor();
    assert!(floor < below && freed.dropped > 5 && freed.bytes > 8_000 * freed.dropped, "{freed:?} {floor}");
    assert!(floor % 256 != 102, "the floor cuts through a page of the tree");
    check(&ledger, floor, "at once");
    assert_eq!(ledger.drop_below(floor, None, 9).expect("nothing to do"), Freed::default());
    let checkpoint = ledger.reader().read(ledger.next_seq() - 1).expect("reads").expect("there");
    assert!(
        matches!(&checkpoint.entry, Entry::Checkpoint { floor: said, head: Some(head), .. } if *said == floor && *head == before)
    );
    assert_eq!(findings(&storage), Vec::<String>::new());
    ledger.close().expect("closes");

    let mut ledger = again(&storage, 3);
    check(&ledger, floor, "after a clean close");
    append_all(&mut ledger, 0..300, 40);
    ledger.commit().expect("commits");
    let segments = ledger.full_segments();
    ledger.drop_below(segments[segments.len() - 3].end, None, 10).expect("drops again, into the third epoch");
    let higher = ledger.reader().floor();
    assert!(higher > floor + 200);
    check(&ledger, higher, "the floor has risen");
    drop(ledger);
    storage.crash();
    let ledger = again(&storage, 4);
    check(&ledger, higher, "after a crash");
    assert_eq!(findings(&storage), Vec::<String>::new());
}

#[test]
fn a_crash_at_every_step_leaves_a_sound_ledger() {
    let built = MemoryStorage::new();
    drop(build(&built));
    let mut done = false;
    for step in 0.. {
        let disk = built.fork();
        let storage = FaultyStorage::new(Arc::new(disk.clone()));
        let small = Opening { segment_bytes: 8_000, ..opening(3) };
        let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
        let below = ledger.full_segments()[6].end;
        storage.fail(None, step, std::io::ErrorKind::Other);
        let outcome = ledger.drop_below(below, None, 9);
        storage.heal();
        done = outcome.is_ok();
        drop(ledger);
        for crashed in [false, true] {
            let disk = disk.fork();
            if crashed {
                disk.crash();
            }
            let ledger = again(&disk, 4);
            let floor = ledger.reader().floor();
            assert!(floor == 0 || floor == below, "step {step}: {floor}");
            if floor > 0 {
                check(&ledger, floor, &format!("step {step}"));
                let firsts = disk.list(SEGMENTS).expect("there");
                assert!(firsts.iter().all(|name| *name >= format!("{floor:020}.seg")), "step {step}: finished");
            } else {
                assert!(ledger.reader().evidence(5, &identity()).expect("reads").is_some());
            }
            assert_eq!(findings(&disk), Vec::<String>::new(), "step {step}");
        }
        if done {
            break;
        }
    }
    assert!(done);
}

#[test]
fn without_its_floor_file_what_is_missing_is_lost_and_said() {
    let storage = MemoryStorage::new();
    let mut ledger = build(&storage);
    let below = ledger.full_segments()[3].end;
    ledger.drop_below(below, None, 9).expect("drops");
    ledger.close().expect("closes");
    let harms: [&dyn Fn(&MemoryStorage); 2] = [&|disk| disk.remove("floor").expect("removes"), &|disk| {
        disk.open("floor").expect("there").write_at(&[0xff; 3], 20).expect("writes");
    }];
    for harm in harms {
        let disk = storage.fork();
        harm(&disk);
        assert!(findings(&disk)[0].contains(&format!("{below} entries are lost")), "{:?}", findings(&disk));
        let (ledger, recovery) = open(&disk, 9);
        assert_eq!((recovery.lost, recovery.damaged), (below, 1), "{recovery:?}");
        assert!(matches!(ledger.reader().read(1), Err(ReadError::Quarantined { seq: 1 })));
        assert!(is_record(&ledger.reader(), below + 40, below + 40 - if below > 101 { 2 } else { 1 }, 40));
    }
}

#[test]
fn a_floor_of_a_newer_version_is_refused_and_left_alone() {
    let storage = MemoryStorage::new();
    let mut ledger = build(&storage);
    ledger.drop_below(ledger.full_segments()[3].end, None, 9).expect("drops");
    ledger.close().expect("closes");
    let mut bytes = read_all(&*storage.open("floor").expect("there")).expect("reads");
    bytes[0] = 2;
    let checked = bytes.len() - 4;
    let checksum = crc32c::crc32c(&bytes[..checked]).to_le_bytes();
    bytes[checked..].copy_from_slice(&checksum);
    storage.open("floor").expect("there").write_at(&bytes, 0).expect("writes");
    let newer = |error: &OpenError| matches!(error, OpenError::Newer { found: 2, known: 1, .. });
    assert!(Survey::open(&storage).is_err_and(|error| newer(&error)));
    assert!(Ledger::open(Arc::new(storage.clone()), &opening(77)).is_err_and(|error| newer(&error)));
    assert_eq!(read_all(&*storage.open("floor").expect("there")).expect("reads"), bytes);
}
