//! What a hit allocates: nothing from memory, and from disk little more than the reply itself. Counted, so it holds on every machine.

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use evalmesh::cassette::{Cassette, CassetteOptions, CassetteWriter, Lookup, Recorder, Tier};
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Identity, Signer};
use evalmesh::ledger::{FileStorage, Opening};
use evalmesh::record::Observation;
use evalmesh::reply::Reply;
use evalmesh::request::Class;

const RECORDS: u64 = 1000;
/// The frame and its shared handle, the shared reply, and one to spare.
const DISK_HIT: u64 = 4;

fn id(n: u64) -> ContentId {
    ContentId::of(&n.to_le_bytes())
}

/// A cassette with records of a kilobyte, whose memory tier has this size.
fn cassette(folder: &std::path::Path, ram_bytes: usize) -> Cassette {
    let node = Identity::from_seed([7; 32]).node();
    let opening = Opening::new(node, EpochId::from_bytes([1; 16]), 1);
    let options = CassetteOptions { ram_bytes, ..CassetteOptions::default() };
    let storage = Arc::new(FileStorage::open(folder).expect("opens"));
    let (writer, _) = CassetteWriter::open(storage, &opening, options).expect("opens");
    let recorder = Recorder::start(writer, None).expect("a thread");
    let (done, outcomes) = sync_channel(1000);
    for n in 0..RECORDS {
        let about = Observation {
            request: id(n),
            kind: "test".parse().expect("a name"),
            class: Class::Portable,
            observed_at: n,
            trace: None,
            upstream: Vec::new(),
        };
        let done = done.clone();
        recorder.observe(about, &Reply::ok(vec![7; 1024]), node, move |result| {
            let _ = done.send(result.is_ok());
        });
    }
    assert!((0..RECORDS).all(|_| outcomes.recv() == Ok(true)));
    let cassette = recorder.cassette().clone();
    recorder.close().expect("closes");
    cassette
}

/// Allocations of a look-up in this tier, and the bytes of them.
fn hit(cassette: &Cassette, n: u64, tier: Tier) -> (u64, u64) {
    let mut found = None;
    let counted = allocation_counter::measure(|| found = cassette.lookup(id(n)).ok());
    assert!(matches!(found, Some(Lookup::Hit(held)) if held.tier == tier), "{n}");
    (counted.count_total, counted.bytes_total)
}

#[test]
fn a_hit_in_memory_allocates_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let cassette = cassette(folder.path(), 64 << 20);
    for n in 0..RECORDS {
        assert_eq!(hit(&cassette, n, Tier::Ram), (0, 0), "{n}");
    }
}

#[test]
fn a_hit_on_disk_allocates_little_more_than_the_reply() {
    let folder = tempfile::tempdir().expect("a folder");
    let cassette = cassette(folder.path(), 0);
    hit(&cassette, 0, Tier::Disk);
    for n in 0..RECORDS {
        let (count, bytes) = hit(&cassette, n, Tier::Disk);
        assert!(count <= DISK_HIT && bytes <= 1024 + 1500, "{n}: {count} allocations of {bytes} bytes");
    }
}
