//! The ledger against a model that is a plain list, under any sequence of appends, commits, crashes, torn blocks, failing disks and restored images.
//!
//! The model says what may be there: everything durable, nothing that was not appended, each entry at its own position.

use std::sync::Arc;

use bytes::Bytes;
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Ed25519, Identity, Signer};
use evalmesh::ledger::{Blob, Entry, FaultyStorage, Ledger, LedgerError, MemoryStorage, Op, Opening, ReadError};
use evalmesh::record::{Observation, Record};
use evalmesh::reply::Reply;
use evalmesh::request::Class;
use proptest::prelude::*;

#[derive(Debug, Clone)]
enum Step {
    /// A record with a payload of so many bytes.
    Append(u16),
    WriteOut,
    Commit,
    /// The process dies; the disk keeps what was written.
    Kill,
    /// The power fails; so many bytes of each unsynced tail survive.
    Crash(u16),
    /// The power fails; the bits say which unsynced blocks survive.
    Tear(u64),
    /// A disk operation fails after so many more.
    Fail(Op, u8),
    KeepImage,
    RestoreImage,
}

/// What is at a position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Slot {
    Epoch,
    /// The n-th record with a payload of this length.
    Record(u64, u16),
    Lost,
    /// A record that was written and not durable when a crash tore its payload: the record stays, at every opening.
    Hollow(u64, u16),
}

#[derive(Debug, Clone, Default)]
struct Model {
    slots: Vec<Slot>,
    written: usize,
    durable: usize,
}

struct World {
    disk: MemoryStorage,
    faulty: FaultyStorage,
    ledger: Option<Ledger>,
    model: Model,
    image: Option<(MemoryStorage, Model)>,
    identity: Identity,
    epochs: u8,
    records: u64,
}

fn record(identity: &Identity, n: u64, len: u16) -> (Record, Vec<Blob>) {
    let stdout = Bytes::from(vec![u8::try_from(n % 251).expect("small"); usize::from(len)]);
    let about = Observation {
        request: ContentId::of(&n.to_le_bytes()),
        kind: "test".parse().expect("a name"),
        class: Class::Portable,
        observed_at: n,
        trace: None,
        upstream: Vec::new(),
    };
    (Record::observe(about, &Reply::ok(stdout.clone()), identity.node()), vec![Blob::new(stdout)])
}

impl World {
    fn new() -> Self {
        let disk = MemoryStorage::new();
        let faulty = FaultyStorage::new(Arc::new(disk.clone()));
        let identity = Identity::from_seed([3; 32]);
        let mut world =
            Self { disk, faulty, ledger: None, model: Model::default(), image: None, identity, epochs: 0, records: 0 };
        world.open(false);
        world
    }

    /// Opens what the disk holds, and compares it with what may be there.
    fn open(&mut self, torn: bool) {
        self.faulty.heal();
        self.epochs += 1;
        let opening = Opening {
            segment_bytes: 4 * 1024,
            ..Opening::new(self.identity.node(), EpochId::from_bytes([self.epochs; 16]), 1)
        };
        let (ledger, recovery) = Ledger::open(Arc::new(self.faulty.clone()), &opening).expect("a healed disk opens");
        let reader = ledger.reader();
        let length = usize::try_from(recovery.entries).expect("few");
        let model = &mut self.model;
        assert!(model.durable <= length, "{} durable entries, {length} recovered", model.durable);
        assert!(length <= model.slots.len(), "{length} recovered, {} appended", model.slots.len());
        model.slots.truncate(length);
        for (seq, slot) in model.slots.iter_mut().enumerate() {
            match reader.read(seq as u64) {
                Ok(Some(stored)) => match *slot {
                    Slot::Record(n, len) => {
                        let (record, blobs) = record(&self.identity, n, len);
                        assert_eq!(stored.entry, Entry::Observed(record), "at {seq}");
                        let bytes = reader.payload_of(&stored, blobs[0].name());
                        let whole = bytes.as_ref().is_ok_and(|bytes| Some(bytes) == blobs[0].bytes());
                        assert!(whole || (torn && seq >= model.durable), "the payload at {seq}: {bytes:?}");
                        if !whole {
                            *slot = Slot::Hollow(n, len);
                        }
                    }
                    Slot::Hollow(n, len) => {
                        let (record, blobs) = record(&self.identity, n, len);
                        assert_eq!(stored.entry, Entry::Observed(record), "at {seq}");
                        let bytes = reader.payload_of(&stored, blobs[0].name());
                        assert!(bytes.is_err(), "what was damaged at {seq} is back");
                    }
                    Slot::Epoch => assert!(matches!(stored.entry, Entry::Epoch { .. }), "at {seq}"),
                    Slot::Lost => panic!("what was lost at {seq} is back"),
                },
                Ok(None) => panic!("{length} entries were recovered, and at {seq} there is nothing"),
                Err(error @ (ReadError::Quarantined { .. } | ReadError::Damaged { .. })) => {
                    let fits = *slot == Slot::Lost || (torn && seq >= model.durable);
                    assert!(fits, "{error}, and {} are durable: {recovery:?}", model.durable);
                    assert!(!recovery.is_clean() || *slot == Slot::Lost, "damage at {seq} was not reported");
                    *slot = Slot::Lost;
                }
                Err(error) => panic!("at {seq}: {error}"),
            }
        }
        model.slots.push(Slot::Epoch);
        (model.written, model.durable) = (length + 1, length + 1);
        self.ledger = Some(ledger);
        self.compare();
    }

    /// What the open ledger says of itself.
    fn compare(&self) {
        let Some(ledger) = &self.ledger else { return };
        let reader = ledger.reader();
        assert_eq!(ledger.next_seq(), self.model.slots.len() as u64);
        assert_eq!(reader.durable(), self.model.durable as u64);
        // Whatever is proven is durable and verifies; what is announced is durable.
        let last = self.model.durable.saturating_sub(1);
        if let Slot::Record(..) = self.model.slots[last] {
            let evidence = reader.evidence(last as u64, &self.identity).expect("it can be read");
            let lossless = !self.model.slots.contains(&Slot::Lost);
            assert!(evidence.is_some() || !lossless, "the durable entry {last} has no proof");
            assert!(evidence.is_none_or(|evidence| evidence.verify(&Ed25519).is_ok()));
        }
        let mut from = 0;
        while let Some(batch) = reader.batch(from, 7) {
            assert!(batch.end() <= self.model.durable as u64 && batch.end() > from, "{from}..{}", batch.end());
            from = batch.end();
        }
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Append(len) => {
                let (record, blobs) = record(&self.identity, self.records, *len);
                let ledger = self.ledger.as_mut().expect("it is open");
                match ledger.append(&Entry::Observed(record), &blobs, true) {
                    Ok(seq) => {
                        assert_eq!(seq, self.model.slots.len() as u64);
                        self.model.slots.push(Slot::Record(self.records, *len));
                        self.records += 1;
                    }
                    Err(error) => return self.failed(&error),
                }
            }
            Step::WriteOut => match self.ledger.as_mut().expect("it is open").write_out() {
                Ok(written) => self.model.written = usize::try_from(written).expect("few"),
                Err(error) => return self.failed(&error),
            },
            Step::Commit => match self.ledger.as_mut().expect("it is open").commit() {
                Ok(durable) => {
                    assert_eq!(durable, self.model.slots.len() as u64, "a commit makes all of it durable");
                    (self.model.written, self.model.durable) = (self.model.slots.len(), self.model.slots.len());
                }
                Err(error) => return self.failed(&error),
            },
            Step::Kill => return self.reopen(|_| (), false),
            Step::Crash(torn) => return self.reopen(|disk| disk.crash_torn(usize::from(*torn)), false),
            Step::Tear(bits) => {
                let mut bits = *bits;
                let mut survives = || {
                    bits = bits.rotate_left(1);
                    bits & 1 == 1
                };
                return self.reopen(|disk| disk.crash_blocks(512, &mut survives), true);
            }
            Step::Fail(op, after) => self.faulty.fail(Some(*op), u64::from(*after), std::io::ErrorKind::Other),
            Step::KeepImage => {
                // An image taken between two writes holds what was written; nothing beyond what is durable is promised.
                self.image = Some((self.disk.fork(), self.model.clone()));
            }
            Step::RestoreImage => {
                if let Some((disk, model)) = self.image.take() {
                    self.ledger = None;
                    self.faulty = FaultyStorage::new(Arc::new(disk.clone()));
                    (self.disk, self.model) = (disk, model);
                    return self.open(true);
                }
            }
        }
        self.compare();
    }

    /// After a failure nothing is written until the ledger is opened again.
    fn failed(&mut self, error: &LedgerError) {
        assert!(matches!(error, LedgerError::Io { .. } | LedgerError::Poisoned { .. }), "{error}");
        let again = self.ledger.as_mut().expect("it is open").commit();
        assert!(matches!(again, Err(LedgerError::Poisoned { .. })), "{again:?}");
        self.reopen(|_| (), true);
    }

    fn reopen(&mut self, crash: impl FnOnce(&MemoryStorage), torn: bool) {
        self.ledger = None;
        crash(&self.disk);
        self.open(torn);
    }
}

fn step() -> impl Strategy<Value = Step> {
    let op = prop_oneof![Just(Op::Write), Just(Op::Sync), Just(Op::Name), Just(Op::SyncDir)];
    prop_oneof![
        8 => prop_oneof![4 => 0..600_u16, 1 => 16_000..20_000_u16].prop_map(Step::Append),
        2 => Just(Step::WriteOut),
        4 => Just(Step::Commit),
        1 => Just(Step::Kill),
        1 => (0..3000_u16).prop_map(Step::Crash),
        1 => any::<u64>().prop_map(Step::Tear),
        1 => (op, 0..6_u8).prop_map(|(op, after)| Step::Fail(op, after)),
        1 => Just(Step::KeepImage),
        1 => Just(Step::RestoreImage),
    ]
}

/// Found by the model: power lost between sealing a full segment and making the next one, then trimmed to nothing at the next opening.
#[test]
fn a_segment_that_was_sealed_and_not_followed_keeps_its_entries() {
    let mut world = World::new();
    let mut steps = vec![Step::Append(600), Step::Append(600), Step::Append(600), Step::Append(600), Step::Append(600)];
    steps.extend([
        Step::Append(600),
        Step::Append(600),
        Step::Commit,
        Step::Fail(Op::Name, 0),
        Step::Append(1),
        Step::Commit,
    ]);
    for after in 0..4 {
        steps.extend([Step::Fail(Op::Name, after), Step::Append(600), Step::Append(600), Step::Commit, Step::Kill]);
    }
    for step in &steps {
        world.take(step);
    }
    assert!(world.model.slots.len() > 10);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn the_ledger_is_a_list_that_survives(steps in proptest::collection::vec(step(), 1..60)) {
        let mut world = World::new();
        for step in &steps {
            world.take(step);
        }
    }
}
