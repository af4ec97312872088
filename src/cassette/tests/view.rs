//! Lookups, tiers, losses, and what peers are given.

use super::*;
use crate::identity::Ed25519;
use crate::ledger::{Blob, FaultyStorage, Op, Storage};
use crate::reply::{OutputFile, Status};

/// A reply with everything in it; its files are not in order.
fn rich() -> Reply {
    let file = |path: &str, data: Vec<u8>, executable| OutputFile {
        path: path.parse().expect("a path"),
        executable,
        data: Payload::Inline(data.into()),
    };
    Reply {
        status: Status::Exit(3),
        stderr: Some(Payload::Inline(Bytes::from_static(b"log"))),
        files: vec![
            file("z", vec![1; 100_000], true),
            file("a/b", vec![2; 10], false),
            file("empty", Vec::new(), false),
        ],
        ..Reply::ok("out")
    }
}

#[test]
fn a_reply_comes_back_whole_from_memory_and_from_disk() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let (record, bytes) = observed(&identity(), 1, Class::Portable, &rich());
    writer.record(record.clone(), bytes).expect("records");
    writer.commit().expect("commits");
    let mut expected = rich();
    expected.files.sort_by(|a, b| a.path.cmp(&b.path));
    let hit = |cassette: &Cassette| match cassette.lookup(id(1)).expect("reads") {
        Lookup::Hit(held) => {
            assert_eq!((held.record(), held.reply()), (&record, &expected));
            held.tier
        }
        Lookup::Miss(why) => panic!("{why}"),
    };
    assert_eq!(hit(&writer.cassette()), Tier::Ram);
    drop(writer);
    let cassette = open(&storage, 2).cassette();
    assert_eq!(hit(&cassette), Tier::Disk);
    assert_eq!(hit(&cassette), Tier::Ram);
    assert_eq!(text(&cassette, 2), Err(NotHeld::NeverSeen));
    let stats = cassette.stats();
    assert_eq!((stats.records, stats.bytes, stats.questions), (1, 100_016, 1));
    assert_eq!((stats.ram_hits, stats.disk_hits, stats.misses), (1, 1, 1));
    assert_eq!((stats.durable, stats.length, stats.segments), (3, 3, 1));
    assert!(stats.ram_bytes > 100_016 && stats.recovery.is_clean());
}

#[test]
fn the_first_record_wins_here_and_after_reopening() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    for answer in ["first", "second"] {
        let (record, bytes) = observed(&identity(), 1, Class::Observed, &Reply::ok(answer));
        writer.record(record, bytes).expect("records");
        writer.commit().expect("commits");
    }
    assert_eq!(text(&writer.cassette(), 1), Ok("first".to_owned()));
    drop(writer);
    assert_eq!(text(&open(&storage, 2).cassette(), 1), Ok("first".to_owned()));
}

#[test]
fn volatile_and_effectful_replies_are_history_and_never_served() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    for (n, class) in [(1, Class::Volatile), (2, Class::Effectful)] {
        let (record, bytes) = observed(&identity(), n, class, &Reply::ok("now"));
        writer.record(record, bytes).expect("records");
    }
    writer.commit().expect("commits");
    let check = |cassette: &Cassette| {
        assert_eq!(text(cassette, 1), Err(NotHeld::NeverSeen));
        assert_eq!(text(cassette, 2), Err(NotHeld::NeverSeen));
        assert_eq!(cassette.stats().records, 2);
        let batch = cassette.ledger().batch(0, 10).expect("entries");
        assert_eq!(batch.items.len(), 1, "nothing is announced that would not be served");
    };
    check(&writer.cassette());
    drop(writer);
    check(&open(&storage, 2).cassette());
}

#[test]
fn memory_is_bounded_and_what_is_used_stays() {
    let storage = MemoryStorage::new();
    let options = CassetteOptions { ram_bytes: 20_000, ..CassetteOptions::default() };
    let (mut writer, _) = CassetteWriter::open(Arc::new(storage), &opening(1), options).expect("opens");
    let cassette = writer.cassette();
    for n in 0..50 {
        let (record, bytes) = portable(n, &"x".repeat(1000));
        writer.record(record, bytes).expect("records");
        writer.write_out().expect("writes");
        assert!(cassette.stats().ram_bytes <= 20_000);
        assert_eq!(served(&cassette, 0).map(|(_, tier)| tier), Ok(Tier::Ram), "used all the time");
    }
    assert_eq!(served(&cassette, 1).map(|(_, tier)| tier), Ok(Tier::Disk));
    assert_eq!(served(&cassette, 1).map(|(_, tier)| tier), Ok(Tier::Ram));
    let (record, bytes) = portable(99, &"y".repeat(6000));
    writer.record(record, bytes).expect("records");
    writer.write_out().expect("writes");
    assert_eq!(served(&cassette, 99).map(|(_, tier)| tier), Ok(Tier::Disk), "too large a share");
    assert_eq!(served(&cassette, 99).map(|(_, tier)| tier), Ok(Tier::Disk));
}

#[test]
fn a_damaged_payload_is_a_typed_miss_and_healed_by_a_new_record() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let large = "z".repeat(20_000);
    for (n, text) in [(1, "inline"), (2, large.as_str()), (3, "neighbour")] {
        let (record, bytes) = portable(n, text);
        writer.record(record, bytes).expect("records");
    }
    writer.commit().expect("commits");
    drop(writer);
    let segment = "segments/00000000000000000000.seg";
    let file = storage.open(segment).expect("there");
    let mut bytes = vec![0; usize::try_from(file.len().expect("there")).expect("small")];
    file.read_at(&mut bytes, 0).expect("reads");
    let at = bytes.windows(6).position(|window| window == b"inline").expect("there");
    file.write_at(b"I", at as u64).expect("writes");
    let digest = Blob::new(large.clone().into()).name().digest.to_string();
    let blob = storage.open(&format!("blobs/{}/{digest}", &digest[..2])).expect("there");
    blob.write_at(b"Z", 777).expect("writes");

    let (mut writer, recovery) = open_reporting(&storage, 2);
    let cassette = writer.cassette();
    assert_eq!(recovery.damaged, 1, "the frame's; blobs are looked at when they are read");
    for n in [1, 2, 1] {
        assert_eq!(text(&cassette, n), Err(NotHeld::PayloadGone));
        assert!(cassette.evidence(id(n), u64::MAX, &identity()).expect("reads").is_none());
    }
    let inline = Blob::new(Bytes::from_static(b"inline")).name().digest;
    assert_eq!(cassette.blob(inline).expect("reads"), None);
    assert_eq!(text(&cassette, 3), Ok("neighbour".to_owned()));
    assert_eq!(cassette.stats().damaged, 2);
    for (n, again) in [(1, "inline"), (2, large.as_str())] {
        let (record, bytes) = portable(n, again);
        writer.record(record, bytes).expect("records");
        writer.commit().expect("commits");
        assert_eq!(text(&cassette, n).as_deref(), Ok(again));
    }
    assert_eq!(cassette.blob(inline).expect("reads").as_deref(), Some(&b"inline"[..]));
    drop(writer);
    let cassette = open(&storage, 3).cassette();
    assert_eq!(text(&cassette, 1).as_deref(), Ok("inline"), "the damaged one is passed over");
    assert_eq!(cassette.stats().damaged, 1);
    assert_eq!(text(&cassette, 2), Ok(large), "its file was replaced");
}

#[test]
fn a_disk_that_does_not_answer_is_an_error_and_not_a_miss() {
    let disk = MemoryStorage::new();
    let mut writer = open(&disk, 1);
    let (record, bytes) = portable(1, "text");
    writer.record(record, bytes).expect("records");
    writer.commit().expect("commits");
    drop(writer);
    let storage = FaultyStorage::new(Arc::new(disk));
    let options = CassetteOptions::default();
    let (writer, _) = CassetteWriter::open(Arc::new(storage.clone()), &opening(2), options).expect("opens");
    storage.fail(Some(Op::Read), 0, std::io::ErrorKind::TimedOut);
    let error = writer.cassette().lookup(id(1)).expect_err("no answer");
    assert!(!error.hint().is_empty());
    assert_eq!(text(&writer.cassette(), 1), Ok("text".to_owned()), "it was not given up");
}

#[test]
fn a_peer_gets_evidence_that_holds_and_ranges_of_what_is_held() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let cassette = writer.cassette();
    let (record, bytes) = observed(&identity(), 1, Class::Portable, &rich());
    writer.record(record.clone(), bytes).expect("records");
    writer.write_out().expect("writes");
    assert!(matches!(cassette.lookup(id(1)), Ok(Lookup::Hit(_))));
    assert!(
        cassette.evidence(id(1), u64::MAX, &identity()).expect("reads").is_none(),
        "only what is durable is proven"
    );
    writer.commit().expect("commits");
    let (evidence, theirs, payloads) = foreign(2, Class::Observed, &Reply::ok("theirs"));
    writer.adopt(evidence.clone(), theirs, payloads, true).expect("adopts");
    writer.commit().expect("commits");

    let own = cassette.evidence(id(1), u64::MAX, &identity()).expect("reads").expect("held");
    assert_eq!(own.evidence.verify(&Ed25519).expect("believed"), record);
    let adopted = cassette.evidence(id(2), u64::MAX, &identity()).expect("reads").expect("held");
    assert_eq!(adopted.evidence, evidence);
    assert!(cassette.evidence(id(3), u64::MAX, &identity()).expect("reads").is_none());

    let large = record.files.last().expect("z").data.digest;
    drop(writer);
    let cold = open(&storage, 2).cassette();
    for cassette in [&cassette, &cold] {
        let range = |offset, len| cassette.payload_range(id(1), large, offset, len).expect("reads");
        assert_eq!(range(10, 20).as_deref(), Some(&[1; 20][..]));
        assert_eq!(range(99_990, 20).as_deref(), Some(&[1; 10][..]));
        assert_eq!(range(200_000, 20).as_deref(), Some(&[][..]));
        assert_eq!(cassette.payload_range(id(2), large, 0, 10).expect("reads"), None, "another record's payload");
        assert_eq!(cassette.payload_range(id(9), large, 0, 10).expect("reads"), None);
        for blob in record.blobs() {
            assert_eq!(cassette.blob(blob.digest).expect("reads").expect("held").len() as u64, blob.len);
        }
        assert_eq!(cassette.blob(crate::id::Digest::of(b"nobody's")).expect("reads"), None);
    }
}

#[test]
fn the_evidence_of_a_large_reply_leaves_its_payloads_on_disk() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let (record, bytes) = observed(&identity(), 1, Class::Portable, &Reply::ok(vec![7; 300_000]));
    writer.record(record.clone(), bytes).expect("records");
    let (small, bytes) = portable(2, "few bytes");
    writer.record(small, bytes).expect("records");
    writer.commit().expect("commits");
    drop(writer);
    let cassette = open(&storage, 2).cassette();
    let proven = |n| cassette.evidence(id(n), 1000, &identity()).expect("reads");
    let large = proven(1).expect("held");
    assert_eq!(large.evidence.verify(&Ed25519).expect("believed"), record);
    assert!(
        large.held.reply().payloads().all(|payload| payload.bytes().is_none()) && large.for_peer(1000).1.is_empty()
    );
    assert_eq!(proven(2).expect("held").for_peer(1000).1, ["few bytes"]);
    let Ok(Lookup::Hit(held)) = cassette.lookup(id(1)) else { panic!("it is held") };
    assert_eq!(held.reply().payloads().next().and_then(|payload| payload.bytes()).map(Bytes::len), Some(300_000));
    // What is not there any more is not promised.
    let blob = record.blobs().next().expect("its output").digest.to_string();
    storage.remove(&format!("blobs/{}/{blob}", &blob[..2])).expect("it was there");
    let cold = open(&storage, 3).cassette();
    assert!(cold.evidence(id(1), 1000, &identity()).expect("reads").is_none());
}

#[test]
fn what_is_at_hand_is_what_is_proven_the_slow_way() {
    let storage = MemoryStorage::new();
    let mut writer = open(&storage, 1);
    let cassette = writer.cassette();
    let record = |writer: &mut CassetteWriter, n| {
        let (record, bytes) = portable(n, &format!("answer {n}"));
        writer.record(record, bytes).expect("records");
    };
    (0..700).for_each(|n| record(&mut writer, n));
    writer.commit().expect("commits");
    assert!(cassette.evidence_at_hand(id(1)).is_none(), "nothing was signed yet");
    let slow = |n| cassette.evidence(id(n), u64::MAX, &identity()).expect("reads").expect("held").evidence;
    let mut at_hand = 0;
    for n in 0..700 {
        // Of every page the first proof takes the slow way, and the others find it in memory.
        if let Some(quick) = cassette.evidence_at_hand(id(n)) {
            assert_eq!(quick.evidence, slow(n), "{n}");
            assert_eq!(quick.held.record().request, id(n));
            at_hand += 1;
        }
        assert!(slow(n).verify(&Ed25519).is_ok());
    }
    assert!(at_hand >= 690, "{at_hand} of 700");
    // What the head does not cover yet, what is not durable, what is adopted and what is not held is left to the slow way.
    record(&mut writer, 700);
    writer.write_out().expect("writes");
    assert!(cassette.evidence_at_hand(id(700)).is_none());
    writer.commit().expect("commits");
    assert!(cassette.evidence_at_hand(id(700)).is_none());
    slow(700);
    assert_eq!(cassette.evidence_at_hand(id(700)).expect("at hand").evidence, slow(700));
    let (evidence, theirs, payloads) = foreign(701, Class::Portable, &Reply::ok("theirs"));
    writer.adopt(evidence, theirs, payloads, true).expect("adopts");
    writer.commit().expect("commits");
    assert!(cassette.evidence_at_hand(id(701)).is_none() && cassette.evidence_at_hand(id(999)).is_none());
    // After a restart the records come from disk, and their bytes are at hand as well.
    drop(writer);
    let cold = open(&storage, 2).cassette();
    let proven = cold.evidence(id(5), u64::MAX, &identity()).expect("reads").expect("held").evidence;
    assert_eq!(cold.evidence_at_hand(id(5)).expect("at hand").evidence, proven);
}
