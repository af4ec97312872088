//! Tests of the cassette. What they share is here; each topic has its file.

mod interleavings;
mod memo;
mod model;
mod recorder;
mod room;
mod view;
mod writer;

use std::sync::Arc;

use bytes::Bytes;

use super::*;
use crate::error::NotHeld;
use crate::id::{ContentId, EpochId};
use crate::identity::{Identity, Signer};
use crate::ledger::{Entry, Ledger, MemoryStorage, Opening, Recovery};
use crate::proof::Evidence;
use crate::record::{Observation, Record};
use crate::reply::{Payload, Reply};
use crate::request::Class;

pub(super) fn identity() -> Identity {
    Identity::from_seed([7; 32])
}

pub(super) fn opening(epoch: u8) -> Opening {
    Opening::new(identity().node(), EpochId::from_bytes([epoch; 16]), u64::from(epoch))
}

pub(super) fn open(storage: &MemoryStorage, epoch: u8) -> CassetteWriter {
    open_reporting(storage, epoch).0
}

pub(super) fn open_reporting(storage: &MemoryStorage, epoch: u8) -> (CassetteWriter, Recovery) {
    CassetteWriter::open(Arc::new(storage.clone()), &opening(epoch), CassetteOptions::default()).expect("opens")
}

pub(super) fn id(n: u64) -> ContentId {
    ContentId::of(&n.to_le_bytes())
}

/// A record about question `n`, by `producer`.
pub(super) fn observed(producer: &Identity, n: u64, class: Class, reply: &Reply) -> (Record, Vec<Bytes>) {
    let about = Observation {
        request: id(n),
        kind: "test".parse().expect("a name"),
        class,
        observed_at: n,
        trace: None,
        upstream: Vec::new(),
    };
    (Record::observe(about, reply, producer.node()), payloads(reply).expect("inline"))
}

pub(super) fn portable(n: u64, text: &str) -> (Record, Vec<Bytes>) {
    observed(&identity(), n, Class::Portable, &Reply::ok(text.to_owned()))
}

/// What another node would send about question `n`.
pub(super) fn foreign(n: u64, class: Class, reply: &Reply) -> (Evidence, Record, Vec<Bytes>) {
    let producer = Identity::from_seed([9; 32]);
    let opening = Opening::new(producer.node(), EpochId::from_bytes([99; 16]), 1);
    let (mut ledger, _) = Ledger::open(Arc::new(MemoryStorage::new()), &opening).expect("opens");
    let (record, bytes) = observed(&producer, n, class, reply);
    let blobs: Vec<_> = bytes.iter().cloned().map(crate::ledger::Blob::new).collect();
    let seq = ledger.append(&Entry::Observed(record.clone()), &blobs, true).expect("appends");
    ledger.commit().expect("commits");
    (ledger.reader().evidence(seq, &producer).expect("reads").expect("durable"), record, bytes)
}

/// The standard output that question `n` is answered with, and from where.
pub(super) fn served(cassette: &Cassette, n: u64) -> Result<(String, Tier), NotHeld> {
    match cassette.lookup(id(n)).expect("the disk answers") {
        Lookup::Miss(why) => Err(why),
        Lookup::Hit(held) => {
            assert_eq!(held.record().request, id(n));
            assert_eq!(held.record().answer(), held.reply().answer());
            assert!(held.reply().payloads().all(|payload| payload.bytes().is_some()));
            let stdout = held.reply().stdout.as_ref().and_then(Payload::bytes).expect("inline").to_vec();
            Ok((String::from_utf8(stdout).expect("text"), held.tier))
        }
    }
}

pub(super) fn text(cassette: &Cassette, n: u64) -> Result<String, NotHeld> {
    served(cassette, n).map(|(text, _)| text)
}
