//! The form by hand against its definition: postcard's, read strictly.

use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;

use super::*;
use crate::reply::TrapCode;

fn digest() -> impl Strategy<Value = Digest> {
    any::<[u8; 32]>().prop_map(Digest::from_bytes)
}

/// Numbers of all lengths, not only long ones.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64_u32).prop_map(|(bits, shift)| bits >> shift)
}

fn blob() -> impl Strategy<Value = BlobRef> {
    (digest(), number()).prop_map(|(digest, len)| BlobRef { digest, len })
}

fn name() -> impl Strategy<Value = Name> {
    "[a-z0-9_./:-]{1,40}".prop_map(|text| text.parse().expect("a name"))
}

fn class() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Portable),
        name().prop_map(Class::Device),
        Just(Class::Observed),
        Just(Class::Volatile),
        Just(Class::Effectful),
    ]
}

fn status() -> impl Strategy<Value = Status> {
    static TRAPS: [TrapCode; 3] = [TrapCode::Unreachable, TrapCode::IntegerOverflow, TrapCode::Contract];
    prop_oneof![
        any::<i32>().prop_map(Status::Exit),
        (-3..200_i32).prop_map(Status::Exit),
        prop::sample::select(&TRAPS[..]).prop_map(Status::Trap),
    ]
}

fn files() -> impl Strategy<Value = Vec<FileRef>> {
    let file = ("[a-zé]{1,9}(/[a-z]{1,4})?", any::<bool>(), blob());
    vec(file, 0..5).prop_map(|files| {
        let name = |(path, executable, data): (String, bool, BlobRef)| {
            let path: RelPath = path.parse().expect("a path");
            FileRef { path, executable, data }
        };
        let mut files: Vec<_> = files.into_iter().map(name).collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        files.dedup_by(|a, b| a.path == b.path);
        files
    })
}

fn trace() -> impl Strategy<Value = Trace> {
    let root = ("[a-z/*é]{0,12}", digest(), any::<bool>()).prop_map(|(name, fingerprint, glob)| Root {
        kind: if glob { RootKind::Glob } else { RootKind::Absent },
        name,
        fingerprint,
    });
    vec(root, 0..4).prop_map(|roots| Trace { roots })
}

prop_compose! {
    fn record()(
        (request, producer) in (digest(), digest()),
        (kind, class, status) in (name(), class(), status()),
        (stdout, stderr, files) in (option::of(blob()), option::of(blob()), files()),
        (secs, nanos, fuel, observed_at) in (number(), 0..1_000_000_000_u32, option::of(number()), number()),
        (host, evaluator) in ("[a-z0-9 é.-]{0,200}", "[a-z 0-9.]{0,30}"),
        (trace, upstream) in (option::of(trace()), vec((digest(), digest()), 0..3)),
    ) -> Record {
        let upstream = upstream.into_iter().map(|(request, answer)| Upstream {
            request: ContentId::from_bytes(*request.as_bytes()),
            answer,
        });
        Record {
            request: ContentId::from_bytes(*request.as_bytes()),
            producer: NodeId::from_bytes(*producer.as_bytes()),
            kind, class, status, stdout, stderr, files,
            duration: Duration::new(secs, nanos),
            fuel, observed_at, host: host.into(), evaluator: evaluator.into(), trace,
            upstream: upstream.collect(),
        }
    }
}

/// What [`form::read`] is to do, by definition.
fn reference(bytes: &[u8]) -> Option<Record> {
    let record: Record = postcard::from_bytes(bytes).ok()?;
    let in_order = record.files.windows(2).all(|pair| pair[0].path < pair[1].path);
    (in_order && postcard::to_stdvec(&record).ok()? == bytes).then_some(record)
}

proptest! {
    #[test]
    fn the_form_is_postcards(record in record()) {
        let bytes = postcard::to_stdvec(&record).expect("encodes");
        prop_assert_eq!(&record.encode()[1..], &bytes[..]);
        prop_assert_eq!(form::read(&bytes), Some(record));
    }

    #[test]
    fn what_is_no_record_is_none_here_either(
        record in record(),
        changes in vec((any::<prop::sample::Index>(), any::<u8>(), 0..4_u8), 1..4),
    ) {
        let mut bytes = postcard::to_stdvec(&record).expect("encodes");
        for (at, byte, how) in changes {
            let at = at.index(bytes.len().max(1));
            match how {
                _ if bytes.is_empty() => bytes.push(byte),
                0 => bytes[at] = byte,
                1 => bytes.insert(at, byte),
                2 => bytes.truncate(at),
                // A number in more bytes than it needs.
                _ => {
                    bytes[at] |= 0x80;
                    bytes.insert(at + 1, 0);
                }
            }
        }
        prop_assert_eq!(form::read(&bytes), reference(&bytes));
    }

    #[test]
    fn any_bytes_are_read_as_postcard_reads_them(bytes in vec(any::<u8>(), 0..300)) {
        prop_assert_eq!(form::read(&bytes), reference(&bytes));
    }
}

/// Every number that could be written longer is refused so, whichever it is.
#[test]
fn every_longer_number_is_refused() {
    let about = Observation {
        request: ContentId::of(b"x"),
        kind: "k".parse().expect("a name"),
        class: Class::Portable,
        observed_at: 300,
        trace: Some(Trace::default()),
        upstream: Vec::new(),
    };
    let bytes = Record::observe(about, &Reply::ok(&b"y"[..]), NodeId::from_bytes([7; 32])).encode();
    for at in 1..bytes.len() {
        if bytes[at] < 0x80 {
            let mut longer = bytes.clone();
            longer[at] |= 0x80;
            longer.insert(at + 1, 0);
            assert_eq!(Record::decode(&longer), Err(RecordError::Encoding), "byte {at}");
        }
    }
}
