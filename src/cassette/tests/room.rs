//! Making room: budgets, pins, retracted payloads, left-over files; and that proofs survive all of it.

use super::*;
use std::collections::BTreeSet;

use crate::identity::Ed25519;
use crate::ledger::{FaultyStorage, LedgerError, Sight, Storage, Survey, pins};

const SMALL: u64 = 20_000;

fn small(epoch: u8) -> Opening {
    Opening { segment_bytes: SMALL, ..opening(epoch) }
}

fn open_small(storage: &dyn Fn() -> Arc<dyn Storage>, epoch: u8) -> CassetteWriter {
    CassetteWriter::open(storage(), &small(epoch), CassetteOptions { ram_bytes: 0, ..CassetteOptions::default() })
        .expect("opens")
        .0
}

fn large(n: u64) -> String {
    n.to_string().repeat(20_000)
}

/// Ten questions with large answers in files, then forty with small ones in frames.
fn fill(writer: &mut CassetteWriter) {
    for n in 0..50 {
        let text = if n < 10 { large(n) } else { format!("{n}").repeat(500) };
        let (record, bytes) = portable(n, &text);
        writer.record(record, bytes).expect("records");
    }
    writer.commit().expect("commits");
}

/// What a survey finds to be damaged.
fn damages(storage: &dyn Storage) -> Vec<String> {
    let mut found = Vec::new();
    let survey = Survey::open(storage).expect("looks").expect("there");
    survey
        .verify(&Ed25519, &mut |sight| {
            if let Sight::Finding(finding) = sight
                && finding.is_damage()
            {
                found.push(finding.to_string());
            }
        })
        .expect("reads");
    found
}

fn all_proven(cassette: &Cassette, records: u64) {
    let evidence = (0..cassette.ledger().durable())
        .filter_map(|seq| cassette.ledger().evidence(seq, &identity()).expect("provable"));
    let proven = evidence.filter(|evidence| evidence.verify(&Ed25519).is_ok()).count();
    assert_eq!(proven as u64, records, "every record is there, whatever became of its payloads");
}

#[test]
fn a_budget_drops_payloads_oldest_first_and_spares_pinned_and_served_ones() {
    let disk = MemoryStorage::new();
    let shared = || Arc::new(disk.clone()) as Arc<dyn Storage>;
    let mut writer = open_small(&shared, 1);
    fill(&mut writer);
    let cassette = writer.cassette();
    pins::store(&disk, &[id(1), id(12)].into()).expect("stores");
    assert_eq!(text(&cassette, 0), Ok(large(0)), "served lately");
    let used = writer.ledger.disk_bytes().expect("reads");
    let freed = writer.make_room(used - 50_000, 1).expect("makes room");
    assert!(freed.bytes >= 50_000 && freed.segments == 0, "{freed:?}");
    assert_eq!(text(&cassette, 0), Ok(large(0)), "a second chance");
    assert_eq!(text(&cassette, 1), Ok(large(1)), "pinned");
    assert_eq!(text(&cassette, 2), Err(NotHeld::PayloadGone));
    assert!(text(&cassette, 9).is_ok(), "no more than needed");
    assert_eq!(cassette.stats().damaged, 0, "dropped is not damaged");

    let freed = writer.make_room(0, 2).expect("makes room");
    assert!(freed.segments > 1, "{freed:?}");
    for n in [1, 12] {
        assert!(text(&cassette, n).is_ok(), "{n} is pinned");
    }
    for n in [0, 5, 11, 20] {
        assert_eq!(text(&cassette, n), Err(NotHeld::PayloadGone), "{n}");
    }
    all_proven(&cassette, 50);
    assert_eq!(damages(&disk), Vec::<String>::new());
    let (record, bytes) = portable(5, &large(5));
    writer.record(record, bytes).expect("records");
    writer.commit().expect("commits");
    assert_eq!(text(&cassette, 5), Ok(large(5)), "recorded again, served again");
    drop(writer);

    let writer = open_small(&shared, 2);
    let cassette = writer.cassette();
    assert!(cassette.stats().recovery.is_clean());
    for (n, there) in [(1, true), (12, true), (5, true), (0, false), (20, false)] {
        assert_eq!(text(&cassette, n).is_ok(), there, "{n} after reopening");
    }
    all_proven(&cassette, 51);
}

#[test]
fn compaction_gives_back_retracted_payloads_and_left_over_files() {
    let disk = MemoryStorage::new();
    let shared = || Arc::new(disk.clone()) as Arc<dyn Storage>;
    let mut writer = open_small(&shared, 1);
    fill(&mut writer);
    let answer = |n: u64| Reply::ok(format!("{n}").repeat(500)).answer();
    writer.retract(id(11), answer(11), 5).expect("retracts");
    writer.retract(id(12), answer(12), 5).expect("retracts");
    let (again, bytes) = portable(12, &"12".repeat(500));
    writer.record(again, bytes).expect("records");
    writer.commit().expect("commits");
    disk.create_dir("blobs/00").expect("new");
    disk.create_new(&format!("blobs/00/{}", "0".repeat(64))).expect("new").write_at(&[1; 777], 0).expect("writes");
    let mut turns = Vec::new();
    let freed = writer.compact(9, &mut |done, all| turns.push((done, all))).expect("compacts");
    assert_eq!((freed.segments, freed.payloads), (1, 2), "one answer in a frame, one file");
    assert!(freed.bytes > 777 + 900, "{freed:?}");
    assert!(
        turns.first().is_some_and(|(done, all)| *done == 0 && *all > 1)
            && turns.last().is_some_and(|(done, all)| done == all)
    );
    assert_eq!(
        writer.compact(10, &mut |_, _| {}).expect("compacts"),
        crate::ledger::Freed::default(),
        "nothing is left to do"
    );
    let check = |cassette: &Cassette| {
        assert_eq!(text(cassette, 11), Err(NotHeld::Retracted));
        assert_eq!(text(cassette, 12), Ok("12".repeat(500)));
        assert_eq!(text(cassette, 13), Ok("13".repeat(500)));
        assert_eq!(text(cassette, 3), Ok(large(3)));
        all_proven(cassette, 51);
    };
    check(&writer.cassette());
    assert_eq!(damages(&disk), Vec::<String>::new());
    drop(writer);
    check(&open_small(&shared, 2).cassette());
    disk.crash();
    check(&open_small(&shared, 3).cassette());
}

#[test]
fn whatever_fails_while_room_is_made_nothing_is_lost_that_was_not_to_go() {
    for after in (0..).step_by(3) {
        let disk = MemoryStorage::new();
        let faulty = FaultyStorage::new(Arc::new(disk.clone()));
        let shared = || Arc::new(faulty.clone()) as Arc<dyn Storage>;
        let mut writer = open_small(&shared, 1);
        fill(&mut writer);
        pins::store(&disk, &[id(1), id(12)].into()).expect("stores");
        faulty.fail(None, after, std::io::ErrorKind::Other);
        let outcome = writer.make_room(0, 1);
        faulty.heal();
        disk.crash();
        drop(writer);
        let writer = open_small(&shared, 2);
        let cassette = writer.cassette();
        assert_eq!(cassette.stats().recovery.damaged, 0, "operation {after}");
        assert_eq!(
            (text(&cassette, 1), text(&cassette, 12)),
            (Ok(large(1)), Ok("12".repeat(500))),
            "operation {after}"
        );
        all_proven(&cassette, 50);
        assert_eq!(damages(&disk), Vec::<String>::new(), "operation {after}");
        if outcome.is_ok() {
            assert!(after > 100, "the fault was beyond the last operation");
            break;
        }
    }
}

#[test]
fn the_floor_spares_pinned_records_and_keeps_what_was_retracted() {
    let disk = MemoryStorage::new();
    let shared = || Arc::new(disk.clone()) as Arc<dyn Storage>;
    let mut writer = open_small(&shared, 1);
    let answer = |n: u64| Reply::ok(format!("{n}").repeat(500)).answer();
    let (evidence, record, bytes) = foreign(11, Class::Portable, &Reply::ok("11".repeat(500)));
    writer.adopt(evidence.clone(), record.clone(), bytes.clone(), true).expect("adopts");
    writer.retract(id(11), answer(11), 5).expect("retracts");
    fill(&mut writer);
    writer.retract(id(11), answer(11), 6).expect("retracts");
    writer.retract(id(12), answer(12), 6).expect("retracts");
    let (again, bytes12) = portable(12, &"12".repeat(500));
    writer.record(again, bytes12).expect("records");
    for n in 50..100 {
        let (record, bytes) = portable(n, &n.to_string().repeat(500));
        writer.record(record, bytes).expect("records");
    }
    writer.commit().expect("commits");
    let cassette = writer.cassette();

    pins::store(&disk, &[id(30)].into()).expect("stores");
    let pinned = writer.raise_floor(u64::MAX, None, 9).expect("raises");
    let floor = cassette.ledger().floor();
    assert!(pinned.dropped > 0 && floor > 5, "{pinned:?}, {floor}");
    assert!(text(&cassette, 30).is_ok(), "pinned");
    pins::store(&disk, &BTreeSet::new()).expect("stores");
    let freed = writer.make_room(50_000, 10).expect("makes room");
    assert!(freed.dropped > 0 && cassette.ledger().floor() > floor, "{freed:?}: facts alone were too many");
    for epoch in 2..4 {
        let cassette = writer.cassette();
        assert!(text(&cassette, 5).is_err(), "dropped");
        assert!(cassette.is_retracted(id(11), answer(11)), "said again above the floor");
        let refused = writer.adopt(evidence.clone(), record.clone(), bytes.clone(), true).expect_err("not taken back");
        assert!(matches!(refused, LedgerError::Retracted { .. }), "{refused}");
        assert!(!cassette.is_retracted(id(12), answer(12)), "recorded again after it was retracted");
        assert_eq!(cassette.stats().damaged, 0, "dropped is not damaged");
        drop(writer);
        writer = open_small(&shared, epoch);
        assert!(writer.cassette().stats().recovery.is_clean());
    }
    assert_eq!(damages(&disk), Vec::<String>::new());
}
