//! Figures of the ledger alone: `cargo bench --no-default-features --bench ledger [-- PART [SCALE]]`.
//!
//! Parts: durable, bulk, get, open, verify, all. `benches/peers` compares the same workload with other stores.

#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::wildcard_imports,
    reason = "figures for people; the workload is one vocabulary"
)]

#[path = "workload.rs"]
mod workload;

use std::hint::black_box;
use std::path::Path;
use std::process::Command;

use evalmesh::cassette::{Durability, Tier};
use evalmesh::identity::Ed25519;
use evalmesh::ledger::{LookStorage, Sight, Survey};
use workload::*;

const RECORDS: u64 = 1_000_000;
const PLENTY: usize = 4 * 1024 * 1024 * 1024;

fn main() {
    workload::allocator::keep_memory();
    let args: Vec<String> = std::env::args().skip(1).filter(|arg| arg != "--bench").collect();
    let scale = args.get(1).and_then(|scale| scale.parse().ok()).unwrap_or(1.0);
    let records = (RECORDS as f64 * scale) as u64;
    match args.first().map_or("all", String::as_str) {
        "durable" => durable(scale),
        "bulk" => bulk(records),
        "get" => get(records),
        "open" => open(records),
        "verify" => verify(records),
        // A process that dies with a full ledger, for `open`.
        "die" => die(Path::new(&args[2]), records),
        "first" => first(Path::new(&args[2]), records),
        "disk" => disk(Path::new(&args[2]), records),
        _ => {
            durable(scale);
            bulk(records);
            get(records);
            open(records);
            verify(records);
        }
    }
}

fn directory() -> tempfile::TempDir {
    match std::env::var_os("BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).expect("a directory"),
        None => tempfile::tempdir().expect("a directory"),
    }
}

fn durable(scale: f64) {
    for (callers, count) in [(1, 20_000.0), (16, 150_000.0), (128, 500_000.0)] {
        let count = (count * scale) as u64;
        let rates = (0..3).map(|_| {
            let dir = directory();
            let store = Ours::open(dir.path(), Durability::Durable, 0);
            let rate = appends(&store, callers, 0, count);
            store.recorder.close().expect("closes");
            rate
        });
        println!("durable appends, {callers:>3} callers: {:>9.0} /s", median(rates.collect()));
    }
}

fn bulk(records: u64) {
    let dir = directory();
    let before = written();
    let store = Ours::open(dir.path(), Durability::Memory, 0);
    let begun = now();
    appends(&store, 1024, 0, records);
    store.recorder.close().expect("closes");
    let rate = records as f64 / begun.elapsed().as_secs_f64();
    let cpu = process_cpu().as_secs_f64() * 1e6 / records as f64;
    let amplification = (written() - before) as f64 / (records as f64 * VALUE as f64);
    println!(
        "bulk appends: {rate:>9.0} /s, {cpu:.2} us CPU each, {amplification:.3} bytes written for each byte of payload"
    );
}

fn get(records: u64) {
    let dir = directory();
    let store = Ours::open(dir.path(), Durability::Memory, PLENTY);
    appends(&store, 1024, 0, records);
    let ram = gets(records, records, |n| store.get(n));
    println!("random get, RAM tier: {ram:.3} us CPU");
    let map: std::collections::HashMap<[u8; 32], Vec<u8>> =
        (0..records).map(|n| (*key(n).as_bytes(), value(n).to_vec())).collect();
    let plain =
        gets(records, records, |n| map.get(key(n).as_bytes()).map_or(0, |value| black_box(value.clone()).len()));
    println!("random get, HashMap: {plain:.3} us CPU; ratio {:.2}", ram / plain);
    drop(map);
    store.recorder.close().expect("closes");
    drop(store);
    let store = Ours::open(dir.path(), Durability::Memory, 0);
    let cold = gets(records, records, |n| store.get(n));
    let disk = gets(records, records, |n| store.get(n));
    let stats = store.cassette().stats();
    println!("random get, disk tier: {disk:.3} us CPU ({cold:.3} the first time)");
    println!("index: {:.1} bytes a record", stats.index_bytes as f64 / records as f64);
    assert!(
        matches!(store.cassette().lookup(key(1)), Ok(evalmesh::cassette::Lookup::Hit(held)) if held.tier == Tier::Disk)
    );
}

/// How fast everything is checked: frames, payloads, leaves, roots.
fn verify(records: u64) {
    let dir = directory();
    let store = Ours::open(dir.path(), Durability::Memory, 0);
    appends(&store, 1024, 0, records);
    store.recorder.close().expect("closes");
    let storage = LookStorage::new(dir.path());
    for _ in 0..3 {
        let (mut bytes, mut entries, mut findings) = (0, 0_u64, 0);
        let begun = thread_cpu();
        let survey = Survey::open(&storage).expect("reads").expect("a ledger");
        let mut visit = |sight: Sight<'_>| match sight {
            Sight::Progress(more) => bytes += more,
            Sight::Entry { .. } => entries += 1,
            Sight::Finding(_) => findings += 1,
        };
        survey.verify(&Ed25519, &mut visit).expect("reads");
        let spent = thread_cpu().saturating_sub(begun).as_secs_f64();
        assert_eq!((entries, findings), (records + 1, 0));
        println!(
            "verify: {:.2} GB/s of one core, {:.2} us a record",
            bytes as f64 / spent / 1e9,
            spent * 1e6 / records as f64
        );
    }
}

fn die(path: &Path, records: u64) {
    let store = Ours::open(path, Durability::Batched(std::time::Duration::from_millis(5)), 0);
    appends(&store, 1024, 0, records);
    std::process::abort();
}

/// Opens and gets once, in a process of its own.
fn first(path: &Path, records: u64) {
    let begun = now();
    let store = Ours::open(path, Durability::Durable, 0);
    let opened = begun.elapsed();
    assert_eq!(store.get(records / 3), VALUE);
    let done = begun.elapsed();
    let ms = |time: std::time::Duration| time.as_secs_f64() * 1e3;
    println!("{:.2} ms (open {:.2} ms; CPU {:.2} ms)", ms(done), ms(opened), ms(thread_cpu()));
    store.recorder.close().expect("closes");
}

fn open(records: u64) {
    let dir = directory();
    let scale = (records as f64 / RECORDS as f64).to_string();
    let run = |part: &str| {
        let exe = std::env::current_exe().expect("a path");
        let output = Command::new(exe).args([part, &scale]).arg(dir.path()).output().expect("runs");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    run("die");
    println!("open and first get after a kill: {}", run("first"));
    for _ in 0..3 {
        println!("open and first get after a clean close: {}", run("first"));
    }
}

/// Random gets from a ledger that is there already, for a profiler.
fn disk(path: &Path, records: u64) {
    let store = Ours::open(path, Durability::Memory, 0);
    println!("{:.3} us CPU", gets(4 * records, records, |n| store.get(n)));
}
