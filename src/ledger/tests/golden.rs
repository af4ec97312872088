//! The format, frozen: `tests/golden/ledger-v1*` were written once and must be readable for ever, and be written the same again.
//! To write a new golden ledger for a new format version: `EVALMESH_WRITE_GOLDEN=1 cargo test golden`.

use std::fs;
use std::path::{Path, PathBuf};

use super::*;
use crate::identity::Ed25519;
use crate::ledger::storage::{Storage, read_all};

fn root(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// One of everything, over two epochs and two segments.
fn write() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let small = Opening { segment_bytes: 1200, ..opening(1) };
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    append(&mut ledger, 1, 10);
    append(&mut ledger, 2, 17_000);
    let (request, answer) = (record(1, 10).0.request, record(1, 10).0.answer());
    ledger.append(&Entry::Retracted { request, answer, at: 77 }, &[], false).expect("appends");
    ledger.commit().expect("commits");
    drop(ledger);

    let producer = Identity::from_seed([9; 32]);
    let theirs = Opening::new(producer.node(), EpochId::from_bytes([99; 16]), 1);
    let (mut other, _) = Ledger::open(Arc::new(MemoryStorage::new()), &theirs).expect("opens");
    let (observed, blobs) = record_by(producer.node(), 3, 30);
    let seq = other.append(&Entry::Observed(observed), &blobs, true).expect("appends");
    other.commit().expect("commits");
    let evidence = other.reader().evidence(seq, &producer).expect("reads").expect("durable");

    let small = Opening { segment_bytes: 1200, ..opening(2) };
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    ledger.append(&Entry::Adopted(evidence.clone()), &blobs, true).expect("appends");
    ledger.append(&Entry::Adopted(evidence), &blobs, false).expect("appends");
    let future = Entry::Unknown { kind: 250, body: Bytes::from_static(b"\x05from the future") };
    ledger.append(&future, &[], false).expect("appends");
    ledger.commit().expect("commits");
    storage
}

/// A ledger whose beginning was dropped, with a payload that has an outboard.
fn write_floor() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let small = Opening { segment_bytes: 1200, ..opening(1) };
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    append_all(&mut ledger, 0..300, 1);
    append(&mut ledger, 300, 70_000);
    ledger.commit().expect("commits");
    let below = ledger.full_segments().last().expect("some").start;
    ledger.drop_below(below, Some(&identity()), 88).expect("drops");
    ledger.close().expect("closes");
    storage
}

/// Every file of a disk with its bytes.
fn files(storage: &dyn Storage, dir: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for name in storage.list(dir).expect("a directory") {
        let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
        if storage.list(&path).is_ok() {
            all.extend(files(storage, &path));
        } else {
            all.push((path.clone(), read_all(&*storage.open(&path).expect("there")).expect("reads")));
        }
    }
    all
}

fn golden_files(dir: &Path, prefix: &str) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("the golden ledger is in the repository") {
        let entry = entry.expect("reads");
        let path = format!("{prefix}{}", entry.file_name().to_str().expect("plain names"));
        if entry.path().is_dir() {
            all.extend(golden_files(&entry.path(), &format!("{path}/")));
        } else {
            all.push((path, fs::read(entry.path()).expect("reads")));
        }
    }
    all.sort();
    all
}

#[test]
fn golden_ledgers_are_written_the_same_again() {
    for (name, storage) in [("ledger-v1", write()), ("ledger-v1-floor", write_floor())] {
        let written = files(&storage, "");
        if std::env::var_os("EVALMESH_WRITE_GOLDEN").is_some() {
            for (path, bytes) in &written {
                let path = root(name).join(path);
                fs::create_dir_all(path.parent().expect("below the root")).expect("makes");
                fs::write(path, bytes).expect("writes");
            }
        }
        let golden = golden_files(&root(name), "");
        let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&written), names(&golden));
        for ((path, ours), (_, theirs)) in written.iter().zip(&golden) {
            assert!(ours == theirs, "{name}/{path} is written differently: a new format needs a new version");
        }
    }
}

/// A copy of a golden ledger.
fn copy(name: &str) -> MemoryStorage {
    let storage = MemoryStorage::new();
    for (path, bytes) in golden_files(&root(name), "") {
        for (at, _) in path.match_indices('/') {
            storage.create_dir(&path[..at]).expect("makes");
        }
        storage.create_new(&path).expect("new").write_at(&bytes, 0).expect("writes");
    }
    storage
}

#[test]
fn the_golden_ledger_with_a_floor_is_readable() {
    let storage = copy("ledger-v1-floor");
    let (ledger, recovery) = open(&storage, 3);
    assert!(recovery.is_clean(), "{recovery:?}");
    let reader = ledger.reader();
    let floor = reader.floor();
    assert!(floor > 256 && recovery.entries == 303, "{floor} {recovery:?}");
    assert!(matches!(reader.read(floor - 1), Err(ReadError::Dropped { .. })));
    for seq in floor..302 {
        reader.evidence(seq, &identity()).expect("reads").expect("durable").verify(&Ed25519).expect("believed");
    }
    let large = record(300, 70_000).1[0].name();
    assert_eq!(reader.payload_range(301, large, 69_990, 100).expect("verified").len(), 10);
    assert_eq!(files(&storage, "blobs"), files(&copy("ledger-v1-floor"), "blobs"), "its outboard was not made anew");
}

#[test]
fn golden_ledger_is_readable() {
    let storage = copy("ledger-v1");
    let (ledger, recovery) = open(&storage, 3);
    assert!(recovery.is_clean(), "{recovery:?}");
    assert_eq!((recovery.entries, recovery.unknown), (8, 1));
    let reader = ledger.reader();
    let kinds: Vec<u8> = (0..9).map(|seq| reader.read(seq).expect("reads").expect("there").entry.kind()).collect();
    assert_eq!(kinds, [0, 1, 1, 3, 0, 2, 2, 250, 0]);
    assert!(is_record(&reader, 1, 1, 10) && is_record(&reader, 2, 2, 17_000));
    let announced: Vec<bool> = (0..8).map(|seq| reader.read(seq).expect("reads").expect("there").announced).collect();
    assert_eq!(announced, [false, true, true, false, false, true, false, false]);
    for seq in [1, 2, 5, 6] {
        let evidence = reader.evidence(seq, &identity()).expect("reads").expect("durable");
        evidence.verify(&Ed25519).expect("believed");
    }
}
