//! Payloads that stream in and out: same names, same files, verified by range, and nothing left behind.

use std::io::{Read, Write};

use super::*;
use crate::ledger::blobs;
use crate::ledger::limits::{INLINE_PAYLOAD, OUTBOARD_FROM, STREAM_PIECE};
use crate::ledger::storage::read_all;
use crate::reply::BlobRef;

fn noise(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().finalize_xof().fill(&mut bytes);
    bytes
}

/// Streams these bytes in, in pieces of an odd size.
fn stream(reader: &LedgerReader, bytes: &[u8]) -> Blob {
    let mut intake = reader.intake();
    for piece in bytes.chunks(77_777) {
        intake.write_all(piece).expect("writes");
    }
    assert_eq!(intake.len(), bytes.len() as u64);
    intake.finish().expect("finishes")
}

/// Appends a record whose standard output is this payload.
fn append_blob(ledger: &mut Ledger, n: u64, blob: Blob) -> u64 {
    let (record, _) = record(n, 1);
    let record = Record { stdout: Some(blob.name()), ..record };
    ledger.append(&Entry::Observed(record), &[blob], true).expect("appends")
}

fn file_names(storage: &MemoryStorage) -> Vec<String> {
    let mut names = Vec::new();
    for name in storage.list("blobs").expect("there") {
        match storage.list(&format!("blobs/{name}")) {
            Ok(inside) => names.extend(inside),
            Err(_) => names.push(name),
        }
    }
    names
}

const SIZES: [usize; 7] = [0, 1, INLINE_PAYLOAD, INLINE_PAYLOAD + 1, 65_535, 65_536, 3 * STREAM_PIECE + 12_345];

#[test]
fn what_streams_in_is_what_a_payload_in_memory_would_be() {
    for size in SIZES {
        let bytes = noise(size);
        let (streamed, whole) = (MemoryStorage::new(), MemoryStorage::new());
        let (mut ledger, _) = open(&streamed, 1);
        let blob = stream(&ledger.reader(), &bytes);
        assert_eq!(blob.name(), Blob::new(bytes.clone().into()).name());
        assert_eq!(blob.bytes().is_some(), size <= INLINE_PAYLOAD, "{size}");
        let name = blob.name();
        let seq = append_blob(&mut ledger, 1, blob);
        ledger.commit().expect("commits");
        let (mut other, _) = open(&whole, 1);
        append_blob(&mut other, 1, Blob::new(bytes.clone().into()));
        other.commit().expect("commits");
        assert_eq!(file_names(&streamed), file_names(&whole), "{size}");
        for name in file_names(&whole) {
            let path = format!("blobs/{}/{name}", &name[..2]);
            let read = |storage: &MemoryStorage| read_all(&*storage.open(&path).expect("there")).expect("reads");
            assert!(read(&streamed) == read(&whole), "{size}: {name}");
        }
        streamed.crash();
        let (ledger, recovery) = open(&streamed, 2);
        assert!(recovery.is_clean(), "{recovery:?}");
        let mut read = Vec::new();
        ledger.reader().payload_reader(seq, name).read_to_end(&mut read).expect("reads");
        assert!(read == bytes, "{size}");
    }
}

/// A ledger with one large payload, whose name and place this returns.
fn with_large(storage: &MemoryStorage) -> (Ledger, Vec<u8>, u64, BlobRef) {
    let bytes = noise(1_000_003);
    let (mut ledger, _) = open(storage, 1);
    let blob = stream(&ledger.reader(), &bytes);
    let name = blob.name();
    let seq = append_blob(&mut ledger, 1, blob);
    ledger.commit().expect("commits");
    (ledger, bytes, seq, name)
}

#[test]
fn damage_in_a_large_payload_costs_the_leaf_that_has_it() {
    let storage = MemoryStorage::new();
    let (ledger, bytes, seq, name) = with_large(&storage);
    let reader = ledger.reader();
    let range = |offset: u64, len: u32| reader.payload_range(seq, name, offset, len);
    assert_eq!(range(500_000, 100_000).expect("whole"), bytes[500_000..600_000]);
    assert_eq!(range(1_000_000, 100).expect("whole"), bytes[1_000_000..]);
    assert_eq!(range(2_000_000, 100).expect("beyond").len(), 0);
    let file = storage.open(&blobs::path(&name.digest)).expect("there");
    file.write_at(&[bytes[300_000] ^ 1], 300_000).expect("writes");
    let leaf = 300_000 / 16_384 * 16_384;
    assert!(matches!(range(leaf + 16_383, 1), Err(ReadError::PayloadDamaged { .. })));
    assert!(matches!(range(0, 1_000_003), Err(ReadError::PayloadDamaged { .. })));
    assert_eq!(range(leaf + 16_384, 16_384).expect("the next leaf").len(), 16_384);
    assert_eq!(range(0, u32::try_from(leaf).expect("small")).expect("those before").len() as u64, leaf);
    let mut read = Vec::new();
    reader.payload_reader(seq, name).read_to_end(&mut read).expect_err("damaged");
    file.set_len(999_999).expect("cuts");
    assert!(matches!(range(0, 1), Err(ReadError::PayloadDamaged { .. })), "a length that is not the payload's");
}

#[test]
fn an_outboard_that_does_not_hold_is_made_anew() {
    let storage = MemoryStorage::new();
    let (ledger, bytes, seq, name) = with_large(&storage);
    let path = blobs::outboard_path(&name.digest);
    let outboard = read_all(&*storage.open(&path).expect("there")).expect("reads");
    let harms: [&dyn Fn(); 4] = [
        &|| storage.remove(&path).expect("removes"),
        &|| storage.open(&path).expect("there").set_len(0).expect("cuts"),
        &|| storage.open(&path).expect("there").write_at(&[0; 64], outboard.len() as u64 - 64).expect("writes"),
        &|| storage.open(&path).expect("there").write_at(&[9; 3000], 0).expect("writes"),
    ];
    for (n, harm) in harms.into_iter().enumerate() {
        harm();
        let read = ledger.reader().payload_range(seq, name, 400_000, 1000).expect("whole all the same");
        assert_eq!(read, bytes[400_000..401_000], "harm {n}");
        assert!(read_all(&*storage.open(&path).expect("there")).expect("reads") == outboard, "harm {n}");
    }
}

#[test]
fn an_intake_that_is_not_finished_leaves_nothing() {
    let storage = MemoryStorage::new();
    let (ledger, _) = open(&storage, 1);
    let mut intake = ledger.reader().intake();
    intake.write_all(&noise(3 * STREAM_PIECE)).expect("writes");
    assert_eq!(file_names(&storage).len(), 2, "data and outboard");
    let copy = storage.fork();
    drop(intake);
    assert_eq!(file_names(&storage), Vec::<String>::new());
    let (_ledger, recovery) = open(&copy, 2);
    assert!(recovery.is_clean());
    assert_eq!(file_names(&copy), Vec::<String>::new(), "what a crash left is swept");
}

#[test]
fn a_payload_that_no_entry_names_yet_is_neither_swept_nor_dropped() {
    let storage = MemoryStorage::new();
    let (mut ledger, _, seq, name) = with_large(&storage);
    // The same bytes come again, and are evicted before the entry that names them is appended.
    let again = stream(&ledger.reader(), &noise(1_000_003));
    let other = stream(&ledger.reader(), &noise(70_000));
    ledger.evict(&[name.digest].into(), 7).expect("evicts");
    ledger.sweep().expect("sweeps");
    assert!(ledger.reader().payload_range(seq, name, 0, 10).is_ok());
    append_blob(&mut ledger, 2, again);
    ledger.commit().expect("commits");
    let path = blobs::path(&other.name().digest);
    assert!(storage.open(&path).is_ok());
    drop(other);
    let freed = ledger.sweep().expect("sweeps");
    assert_eq!((freed.payloads, freed.bytes), (1, 70_000 + 4 * 64));
    assert!(storage.open(&path).is_err());
    assert!(ledger.evict(&[name.digest].into(), 8).expect("evicts").bytes > 1_000_003);
    assert!(matches!(ledger.reader().payload_range(seq, name, 0, 10), Err(ReadError::PayloadGone { .. })));
}

#[test]
fn a_full_disk_fails_the_payload_and_not_the_ledger() {
    let disk = MemoryStorage::new();
    let storage = FaultyStorage::new(Arc::new(disk.clone()));
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &opening(1)).expect("opens");
    let mut intake = ledger.reader().intake();
    storage.fill(1, 100);
    let error = intake.write_all(&noise(3 * STREAM_PIECE)).expect_err("full");
    assert_eq!(error.kind(), std::io::ErrorKind::StorageFull);
    let mut small = ledger.reader().intake();
    small.write_all(&noise(OUTBOARD_FROM.try_into().expect("small"))).expect("buffered");
    let error = small.finish().expect_err("full");
    assert!(matches!(error, LedgerError::Io { .. }) && error.hint().is_some(), "{error}");
    drop(intake);
    storage.heal();
    assert_eq!(file_names(&disk), Vec::<String>::new());
    append(&mut ledger, 1, 3);
    ledger.commit().expect("the ledger goes on");
}
