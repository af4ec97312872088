//! Tests of the ledger. What they share is here; each topic has its file.

mod crash;
mod damage;
mod directory;
mod epochs;
mod faults;
mod floor;
mod golden;
mod index;
mod proofs;
mod streams;
mod survey;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::*;
use crate::id::{ContentId, EpochId, NodeId};
use crate::identity::{Identity, Signer};
use crate::record::{Observation, Record};
use crate::reply::{Facts, Payload, Reply};
use crate::request::Class;

pub(super) fn identity() -> Identity {
    Identity::from_seed([7; 32])
}

pub(super) fn opening(epoch: u8) -> Opening {
    Opening::new(identity().node(), EpochId::from_bytes([epoch; 16]), 1_000_000 + u64::from(epoch))
}

pub(super) fn open(storage: &MemoryStorage, epoch: u8) -> (Ledger, Recovery) {
    Ledger::open(Arc::new(storage.clone()), &opening(epoch)).expect("opens")
}

/// The n-th record, with a payload of `len` bytes.
pub(super) fn record_by(producer: NodeId, n: u64, len: usize) -> (Record, Vec<Blob>) {
    let stdout = Bytes::from(vec![u8::try_from(n % 251).expect("small"); len]);
    let facts =
        Facts { duration: Duration::from_micros(n), fuel: Some(n), host: "test".into(), evaluator: "test 1".into() };
    let reply = Reply { stdout: Some(Payload::Inline(stdout.clone())), facts, ..Reply::ok("") };
    let about = Observation {
        request: ContentId::of(&n.to_le_bytes()),
        kind: "test".parse().expect("a name"),
        class: Class::Portable,
        observed_at: n,
        trace: None,
        upstream: Vec::new(),
    };
    (Record::observe(about, &reply, producer), vec![Blob::new(stdout)])
}

pub(super) fn record(n: u64, len: usize) -> (Record, Vec<Blob>) {
    record_by(identity().node(), n, len)
}

pub(super) fn append(ledger: &mut Ledger, n: u64, len: usize) -> u64 {
    let (record, blobs) = record(n, len);
    ledger.append(&Entry::Observed(record), &blobs, true).expect("appends")
}

pub(super) fn append_all(ledger: &mut Ledger, records: std::ops::Range<u64>, len: usize) {
    for n in records {
        append(ledger, n, len);
    }
}

/// Whether the entry at `seq` is exactly the n-th record with its payload.
pub(super) fn is_record(reader: &LedgerReader, seq: u64, n: u64, len: usize) -> bool {
    let (record, blobs) = record(n, len);
    let Ok(Some(stored)) = reader.read(seq) else { return false };
    stored.entry == Entry::Observed(record)
        && blobs
            .iter()
            .all(|blob| reader.payload_of(&stored, blob.name()).is_ok_and(|bytes| Some(&bytes) == blob.bytes()))
}

/// Where the frame of an entry begins in its segment.
pub(super) fn place(ledger: &Ledger, seq: u64) -> u64 {
    let Ok(super::state::Located::At(_, place)) = ledger.shared.locate(seq) else { panic!("{seq} is there") };
    u64::from(place.offset)
}

pub(super) fn segment(first: u64) -> String {
    super::state::segment_path(first)
}
