//! What the fuzz targets do with arbitrary bytes; shared by `fuzz/` (libFuzzer, nightly) and by a short stable run in the tests.
//!
//! `cargo +nightly fuzz run recovery` and so on. A body never panics, and whatever survives is held against what was written.

use std::sync::Arc;

use bytes::Bytes;
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Identity, Signer};
use evalmesh::ledger::{Blob, Entry, Ledger, MemoryStorage, Opening, Storage};
use evalmesh::record::{Observation, Record};
use evalmesh::reply::{Payload, Reply};
use evalmesh::request::Class;

const SEGMENT: &str = "segments/00000000000000000000.seg";
const INDEX: &str = "index/00000000000000000000.idx";
const RECORDS: u64 = 12;

fn identity() -> Identity {
    Identity::from_seed([7; 32])
}

fn opening(epoch: u8) -> Opening {
    Opening::new(identity().node(), EpochId::from_bytes([epoch; 16]), u64::from(epoch))
}

fn record(n: u64) -> (Record, Blob) {
    let text = Bytes::from(n.to_le_bytes().repeat(usize::try_from(n * 5).expect("small")));
    let reply = Reply { stdout: Some(Payload::Inline(text.clone())), ..Reply::ok("") };
    let about = Observation {
        request: ContentId::of(&n.to_le_bytes()),
        kind: "fuzz".parse().expect("a name"),
        class: Class::Portable,
        observed_at: n,
        trace: None,
        upstream: Vec::new(),
    };
    (Record::observe(about, &reply, identity().node()), Blob::new(text))
}

/// A closed ledger with a few records.
fn build() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &opening(1)).expect("opens");
    for n in 0..RECORDS {
        let (record, blob) = record(n);
        ledger.append(&Entry::Observed(record), &[blob], true).expect("appends");
    }
    ledger.close().expect("closes");
    storage
}

/// Opens whatever is there; every record that is served must be the one that was written. The next opening finds no less.
fn check(storage: &MemoryStorage) {
    let mut served = None;
    for epoch in [2, 3] {
        let Ok((mut ledger, _)) = Ledger::open(Arc::new(storage.clone()), &opening(epoch)) else { return };
        let reader = ledger.reader();
        let mut whole = Vec::new();
        for n in 0..RECORDS {
            let (record, blob) = record(n);
            let Ok(Some(stored)) = reader.read(n + 1) else { continue };
            // A tail that was cut off leaves its positions to later entries.
            if matches!(stored.entry, Entry::Epoch { .. } | Entry::Retracted { .. }) {
                continue;
            }
            assert_eq!(stored.entry, Entry::Observed(record), "another entry than the one that was written");
            if let Ok(bytes) = reader.payload_of(&stored, blob.name()) {
                assert_eq!(Some(&bytes), blob.bytes(), "other bytes than those that were written");
                whole.push(n);
            }
            if let Ok(Some(evidence)) = reader.evidence(n + 1, &identity()) {
                evidence.verify(&evalmesh::identity::Ed25519).expect("what is proven is proven");
            }
        }
        let (request, answer) = (record(0).0.request, record(0).0.answer());
        ledger.append(&Entry::Retracted { request, answer, at: 1 }, &[], false).expect("appends");
        ledger.commit().expect("commits");
        let before = served.replace(whole.clone());
        assert!(before.is_none_or(|before| before == whole), "an opening lost what the one before it served");
    }
}

/// An entry's body: the first byte is the kind.
pub(crate) fn entry(bytes: &[u8]) {
    let Some((kind, body)) = bytes.split_first() else { return };
    let body = Bytes::copy_from_slice(body);
    if let Ok(entry) = Entry::decode(*kind, &body) {
        assert_eq!(entry.body(), body, "one byte form");
        assert_eq!(entry.kind(), *kind);
        let _ = entry.record().map(|record| record.answer());
    }
}

/// Bytes in the place of a segment's frames.
pub(crate) fn segment(bytes: &[u8]) {
    let storage = build();
    let file = storage.open(SEGMENT).expect("there");
    storage.remove(INDEX).expect("there");
    file.set_len(64).expect("cuts");
    file.write_at(bytes, 64).expect("writes");
    check(&storage);
}

/// Bytes in the place of an index file.
pub(crate) fn index(bytes: &[u8]) {
    let storage = build();
    let file = storage.open(INDEX).expect("there");
    file.set_len(0).expect("cuts");
    file.write_at(bytes, 0).expect("writes");
    check(&storage);
}

/// Edits of a sound ledger, four bytes each: which file, where (two), and what is put there.
pub(crate) fn recovery(bytes: &[u8]) {
    let storage = build();
    for edit in bytes.chunks_exact(4) {
        let file = storage.open(if edit[0] & 1 == 0 { SEGMENT } else { INDEX }).expect("there");
        let len = file.len().expect("there");
        let at = u64::from(u16::from_le_bytes([edit[1], edit[2]])) % len.max(1);
        match edit[0] >> 1 & 3 {
            0 | 1 => file.write_at(&edit[3..], at).expect("writes"),
            2 => file.write_at(&vec![edit[3]; usize::from(edit[0])], at).expect("writes"),
            _ => file.set_len(at).expect("cuts"),
        }
    }
    check(&storage);
}
