//! What a survey says of a sound ledger, and of every kind of damage.

use super::*;
use crate::identity::Ed25519;
use crate::ledger::state::segment_path;
use crate::ledger::storage::read_all;

/// A ledger of some small segments and a blob file.
fn build() -> MemoryStorage {
    let storage = MemoryStorage::new();
    let small = Opening { segment_bytes: 600, ..opening(1) };
    let (mut ledger, _) = Ledger::open(Arc::new(storage.clone()), &small).expect("opens");
    append_all(&mut ledger, 0..9, 40);
    append(&mut ledger, 9, 40_000);
    ledger.commit().expect("commits");
    drop(ledger);
    let (mut ledger, recovery) = Ledger::open(Arc::new(storage.clone()), &opening(2)).expect("opens");
    assert!(recovery.is_clean());
    append_all(&mut ledger, 10..13, 40);
    ledger.commit().expect("commits");
    storage
}

/// What is harmed, how, and what a survey says of it.
type Harm<'a> = (&'a str, Box<dyn Fn(&MemoryStorage) + 'a>, &'a str);

/// Sequence numbers seen, bytes read, and what was found.
fn verify(storage: &MemoryStorage) -> (Vec<u64>, u64, Vec<Finding>) {
    let survey = Survey::open(storage).expect("readable").expect("a ledger");
    let (mut seqs, mut bytes, mut findings) = (Vec::new(), 0, Vec::new());
    survey
        .verify(&Ed25519, &mut |sight| match sight {
            Sight::Entry { stored, .. } => seqs.push(stored.seq),
            Sight::Progress(more) => bytes += more,
            Sight::Finding(finding) => findings.push(finding),
        })
        .expect("readable");
    (seqs, bytes, findings)
}

fn flip(storage: &MemoryStorage, path: &str, at: u64) {
    let file = storage.open(path).expect("there");
    let byte = file.read_exact(at, 1).expect("reads")[0];
    file.write_at(&[byte ^ 0x10], at).expect("writes");
}

#[test]
fn a_sound_ledger_has_nothing_to_find_and_is_not_changed() {
    let storage = build();
    let before = storage.clone();
    let (seqs, bytes, findings) = verify(&storage);
    assert_eq!(findings, []);
    assert_eq!(seqs, (0..15).collect::<Vec<_>>());
    assert!(bytes > 40_000);
    for name in before.list("segments").expect("there") {
        let path = format!("segments/{name}");
        let read = |storage: &MemoryStorage| read_all(&*storage.open(&path).expect("there")).expect("reads");
        assert_eq!(read(&before), read(&storage));
    }
    let empty = MemoryStorage::new();
    assert!(Survey::open(&empty).expect("readable").is_none());
}

#[test]
fn a_walk_from_the_middle_reads_only_what_it_must() {
    let storage = build();
    let survey = Survey::open(&storage).expect("readable").expect("a ledger");
    let mut seqs = Vec::new();
    survey
        .walk(12, &mut |sight| match sight {
            Sight::Entry { stored, .. } => seqs.push(stored.seq),
            Sight::Progress(_) => {}
            Sight::Finding(finding) => panic!("{finding}"),
        })
        .expect("readable");
    assert!(seqs.contains(&12) && seqs.first().is_some_and(|first| *first > 0), "{seqs:?}");
    assert!(survey.bytes(12) < survey.bytes(0));
}

#[test]
fn every_damage_is_named() {
    let firsts: Vec<u64> = {
        let storage = build();
        Survey::open(&storage).expect("readable").expect("a ledger").segments().collect()
    };
    assert!(firsts.len() > 2);
    let newest = segment_path(firsts[firsts.len() - 1]);
    let blob = Blob::new(vec![9; 40_000].into()).name();
    let blob_path = format!("blobs/{}/{}", &blob.digest.to_string()[..2], blob.digest);
    let cases: Vec<Harm<'_>> = vec![
        ("a frame", Box::new(|s| flip(s, &segment_path(firsts[1]), 64 + 40)), "no whole frame"),
        ("a header", Box::new(|s| flip(s, &segment_path(firsts[1]), 20)), "header is damaged"),
        ("a segment", Box::new(|s| s.remove(&segment_path(firsts[1])).expect("there")), "a segment is missing"),
        ("a blob", Box::new(|s| flip(s, &blob_path, 7)), "is damaged"),
        ("no blob", Box::new(|s| s.remove(&blob_path).expect("there")), "is missing"),
        (
            "a stranger",
            Box::new(|s| drop(s.create_new("segments/notes.txt").expect("new"))),
            "no segment of this ledger",
        ),
        (
            "a tail",
            Box::new(|s| {
                let file = s.open(&newest).expect("there");
                file.write_at(b"EVMf garbage", file.len().expect("known")).expect("writes");
            }),
            "no whole entry",
        ),
        (
            "a left-over",
            Box::new(|s| {
                s.create_dir("blobs/aa").expect("new");
                drop(s.create_new(&format!("blobs/aa/{}", "a".repeat(64))).expect("new"));
            }),
            "no entry names it",
        ),
    ];
    for (what, harm, says) in cases {
        let storage = build();
        harm(&storage);
        let (seqs, _, findings) = verify(&storage);
        assert_eq!(findings.len(), 1, "{what}: {findings:?}");
        assert!(findings[0].to_string().contains(says), "{what}: {}", findings[0]);
        assert_eq!(findings[0].is_damage(), !matches!(what, "a tail" | "a left-over"), "{what}");
        let lost = match &findings[0] {
            Finding::Damage(damage) => damage.lost.end - damage.lost.start,
            _ => 0,
        };
        assert_eq!(seqs.len() as u64 + lost, 15, "{what}: every other entry is seen");
    }
}

#[test]
fn changed_history_is_noticed() {
    let storage = build();
    // The same number of entries with sound checksums, but other ones: what a forger without the next epoch's root would write.
    let forged = MemoryStorage::new();
    let small = Opening { segment_bytes: 600, ..opening(1) };
    let (mut ledger, _) = Ledger::open(Arc::new(forged.clone()), &small).expect("opens");
    append(&mut ledger, 100, 40);
    append_all(&mut ledger, 1..9, 40);
    ledger.commit().expect("commits");
    drop(ledger);
    let path = segment_path(0);
    let bytes = read_all(&*forged.open(&path).expect("there")).expect("reads");
    let file = storage.open(&path).expect("there");
    assert_eq!(file.len().expect("known"), bytes.len() as u64, "the same lengths");
    file.write_at(&bytes, 0).expect("writes");
    let (seqs, _, findings) = verify(&storage);
    assert_eq!(seqs.len(), 15);
    assert_eq!(findings.len(), 1, "{findings:?}");
    assert!(findings[0].is_damage() && findings[0].to_string().contains("are not those that the next epoch names"));
}
