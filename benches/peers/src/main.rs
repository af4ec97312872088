//! The ledger's workload on other embedded stores, in one run, with ratios.
//!
//! `cargo run --release --manifest-path benches/peers/Cargo.toml [-- PART [SCALE]]`; parts: durable, bulk, get, all. Every store gets the same
//! pairs (32-byte key, 1 KiB of noise) from callers that each wait for their answer. A peer is driven the way that suits it best: one thread
//! takes whatever waits, puts it into one batch or transaction, and commits that once. Stores take turns; figures are medians of three.

#[path = "../../workload.rs"]
mod workload;

mod peers;

use std::hint::black_box;
use std::path::Path;

use evalmesh::cassette::Durability;
#[cfg(feature = "rocksdb")]
use peers::Rocks;
use peers::{Batched, Fjall, Lmdb, Peer, Raw, Redb};
use workload::*;

const ROUNDS: usize = 3;
const NAMES: &[&str] = if cfg!(feature = "rocksdb") {
    &["evalmesh", "fjall", "rocksdb", "lmdb", "redb"]
} else {
    &["evalmesh", "fjall", "lmdb", "redb"]
};

fn main() {
    workload::allocator::keep_memory();
    let args: Vec<String> = std::env::args().skip(1).collect();
    let scale = args.get(1).and_then(|scale| scale.parse().ok()).unwrap_or(1.0);
    let part = args.first().map_or("all", String::as_str);
    if matches!(part, "durable" | "all") {
        for (callers, count) in [(1, 8_000.0), (16, 60_000.0), (128, 200_000.0)] {
            durable(callers, (count * scale) as u64);
        }
    }
    if matches!(part, "bulk" | "all") {
        bulk((500_000.0 * scale) as u64);
    }
    if matches!(part, "get" | "all") {
        get((1_000_000.0 * scale) as u64);
    }
}

fn directory() -> tempfile::TempDir {
    match std::env::var_os("BENCH_DIR") {
        Some(dir) => tempfile::tempdir_in(dir).expect("a directory"),
        None => tempfile::tempdir().expect("a directory"),
    }
}

fn open(name: &str, path: &Path, sync: bool) -> Box<dyn Peer> {
    match name {
        "fjall" => Box::new(Fjall::open(path, sync)),
        #[cfg(feature = "rocksdb")]
        "rocksdb" => Box::new(Rocks::open(path, sync)),
        "lmdb" => Box::new(Lmdb::open(path, sync)),
        _ => Box::new(Redb::open(path, sync)),
    }
}

/// A row of the table: what, in which unit, one median for each store, and how ours compares with the best and with each.
fn row(what: &str, figures: &[Vec<f64>], more_is_better: bool) {
    let medians: Vec<f64> = figures.iter().map(|rounds| median(rounds.clone())).collect();
    let ratio = |other: f64| medians[0] / other;
    let best = medians[1..].iter().copied().reduce(|a, b| if more_is_better { a.max(b) } else { a.min(b) });
    println!("\n{what}");
    for (name, figure) in NAMES.iter().zip(&medians) {
        println!("  {name:<10}{figure:>12.2}   ours is {:.2} x", ratio(*figure));
    }
    println!("  against the best peer: {:.2} x", ratio(best.unwrap_or(f64::NAN)));
}

fn durable(callers: u64, count: u64) {
    let mut figures = vec![Vec::new(); NAMES.len()];
    let mut limit = Vec::new();
    for _ in 0..ROUNDS {
        let dir = directory();
        limit.push(appends(&Batched::start(Box::new(Raw::open(dir.path(), true))), callers, 0, count));
        for (name, figures) in NAMES.iter().zip(&mut figures) {
            let dir = directory();
            figures.push(if *name == "evalmesh" {
                let ours = Ours::open(dir.path(), Durability::Durable, 0);
                let rate = appends(&ours, callers, 0, count);
                ours.recorder.close().expect("closes");
                rate
            } else {
                appends(&Batched::start(open(name, dir.path(), true)), callers, 0, count)
            });
        }
    }
    let limit = median(limit);
    row(&format!("durable appends a second, {callers} callers, {count} x 1 KiB"), &figures, true);
    println!("  a plain file: {limit:.2}; ours is {:.2} x that limit", median(figures.swap_remove(0)) / limit);
}

fn bulk(count: u64) {
    let (mut rates, mut amplified) = (vec![Vec::new(); NAMES.len()], vec![Vec::new(); NAMES.len()]);
    for _ in 0..ROUNDS {
        for (at, name) in NAMES.iter().enumerate() {
            let dir = directory();
            let (before, begun) = (written(), now());
            if *name == "evalmesh" {
                let ours = Ours::open(dir.path(), Durability::Memory, 0);
                appends(&ours, 1024, 0, count);
                ours.recorder.close().expect("closes");
            } else {
                let peer = Batched::start(open(name, dir.path(), false));
                appends(&peer, 1024, 0, count);
                peer.close();
            }
            rates[at].push(count as f64 / begun.elapsed().as_secs_f64());
            amplified[at].push((written() - before) as f64 / (count as f64 * VALUE as f64));
        }
    }
    row(&format!("bulk appends a second, 1024 callers, {count} x 1 KiB, closed at the end"), &rates, true);
    row("bytes written for each byte of value", &amplified, false);
}

fn get(count: u64) {
    let mut figures = vec![Vec::new(); NAMES.len()];
    let mut ram = (Vec::new(), Vec::new());
    for (at, name) in NAMES.iter().enumerate() {
        let dir = directory();
        if *name == "evalmesh" {
            let ours = Ours::open(dir.path(), Durability::Memory, 4 << 30);
            appends(&ours, 1024, 0, count);
            let map: std::collections::HashMap<[u8; 32], Vec<u8>> =
                (0..count).map(|n| (*key(n).as_bytes(), value(n).to_vec())).collect();
            for _ in 0..ROUNDS {
                ram.0.push(gets(count, count, |n| ours.get(n)));
                ram.1.push(gets(count, count, |n| {
                    map.get(key(n).as_bytes()).map_or(0, |value| black_box(value.clone()).len())
                }));
            }
            ours.recorder.close().expect("closes");
            drop(ours);
            let ours = Ours::open(dir.path(), Durability::Memory, 0);
            gets(count, count, |n| ours.get(n));
            figures[at].extend((0..ROUNDS).map(|_| gets(count, count, |n| ours.get(n))));
        } else {
            let peer = Batched::start(open(name, dir.path(), false));
            appends(&peer, 1024, 0, count);
            peer.close();
            let peer = open(name, dir.path(), false);
            gets(count, count, |n| peer.get(key(n).as_bytes()));
            figures[at].extend((0..ROUNDS).map(|_| gets(count, count, |n| peer.get(key(n).as_bytes()))));
        }
    }
    row(&format!("random get of {count} x 1 KiB from disk in the page cache, us of CPU"), &figures, false);
    let (ours, map) = (median(ram.0), median(ram.1));
    println!("\nrandom get from memory, us of CPU: ours {ours:.3}, HashMap of bytes {map:.3}: {:.2} x", ours / map);
}
