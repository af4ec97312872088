//! A reply far larger than the memory that it may take: streamed in, recorded, found after a restart, and streamed out again.
//!
//! Part of `cargo test` with 300 MiB; `cargo test --release --no-default-features --test large -- 5120` does it with 5 GiB. It is a process of
//! its own because it measures its memory.

use std::error::Error;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use evalmesh::cassette::{CassetteOptions, CassetteWriter, Lookup, Recorder};
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Ed25519, Identity, Signer};
use evalmesh::ledger::{FileStorage, LookStorage, Opening, Sight, Survey};
use evalmesh::limits::MAX_PAYLOAD;
use evalmesh::record::{Observation, Record};
use evalmesh::reply::{BlobRef, Payload, Reply};
use evalmesh::request::Class;

const MIB: u64 = 1024 * 1024;
/// Mebibytes in everyday tests.
const SHORT: u64 = 300;
/// What the process may take: a few pieces, code, threads and the ledger's buffers.
const MEMORY: u64 = 96 * MIB;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.iter().any(|arg| arg == "--list") {
        return Ok(());
    }
    let size = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(SHORT) * MIB + 12_345;
    let directory = tempfile::tempdir()?;
    let name = record(directory.path(), size)?;
    read(directory.path(), name)?;
    verify(directory.path())?;
    println!("a reply of {} MiB with at most {} MiB of memory", size / MIB, peak()? / MIB);
    Ok(())
}

/// The piece of the payload that begins at `n` MiB: no two are equal.
fn piece(n: u64) -> Vec<u8> {
    let mut bytes = vec![0; 1024 * 1024];
    blake3::Hasher::new().update(&n.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

fn open(directory: &Path, epoch: u8) -> Result<CassetteWriter, Box<dyn Error>> {
    let node = Identity::from_seed([7; 32]).node();
    let opening = Opening::new(node, EpochId::from_bytes([epoch; 16]), u64::from(epoch));
    let storage = Arc::new(FileStorage::open(directory)?);
    let (writer, recovery) = CassetteWriter::open(storage, &opening, CassetteOptions::default())?;
    assert!(recovery.is_clean(), "{recovery:?}");
    Ok(writer)
}

fn id() -> ContentId {
    ContentId::of(b"large")
}

/// Streams the payload in and records it as the answer to a question.
fn record(directory: &Path, size: u64) -> Result<BlobRef, Box<dyn Error>> {
    let recorder = Recorder::start(open(directory, 1)?, None)?;
    let mut intake = recorder.intake();
    for n in 0..=size / MIB {
        let rest = usize::try_from((size - n * MIB).min(MIB))?;
        intake.write_all(&piece(n)[..rest])?;
    }
    let blob = intake.finish()?;
    let name = blob.name();
    assert_eq!(name.len, size);
    let about = Observation {
        request: id(),
        kind: "large".parse()?,
        class: Class::Observed,
        observed_at: 1,
        trace: None,
        upstream: Vec::new(),
    };
    let reply = Reply { stdout: Some(Payload::Stored(name)), ..Reply::ok("") };
    let record = Record::observe(about, &reply, Identity::from_seed([7; 32]).node());
    let (done, outcomes) = sync_channel(1);
    recorder.record_blobs(record, vec![blob], move |result| drop(done.send(result)));
    assert!(outcomes.recv()??.durable);
    recorder.close()?;
    Ok(name)
}

/// Finds the answer again and reads it to its end, and some ranges of it.
fn read(directory: &Path, name: BlobRef) -> Result<(), Box<dyn Error>> {
    let writer = open(directory, 2)?;
    let cassette = writer.cassette();
    if name.len > MAX_PAYLOAD {
        let Lookup::Hit(held) = cassette.lookup(id())? else { return Err("it is not held".into()) };
        assert_eq!(held.reply().stdout, Some(Payload::Stored(name)), "too long to be in memory");
    }
    let mut reader = cassette.payload_reader(id(), name.digest)?.ok_or("it is not held")?;
    let mut bytes = vec![0; 1024 * 1024];
    for n in 0..=name.len / MIB {
        let rest = usize::try_from((name.len - n * MIB).min(MIB))?;
        reader.read_exact(&mut bytes[..rest])?;
        assert!(bytes[..rest] == piece(n)[..rest], "piece {n} has other bytes");
    }
    assert_eq!(reader.read(&mut bytes)?, 0, "nothing follows");
    for n in (0..name.len / MIB).step_by(37) {
        let range = cassette.payload_range(id(), name.digest, n * MIB + 1000, 3000)?.ok_or("it is held")?;
        assert!(range == piece(n)[1000..4000], "a range of piece {n} has other bytes");
    }
    Ok(())
}

fn verify(directory: &Path) -> Result<(), Box<dyn Error>> {
    let storage = LookStorage::new(directory);
    let mut findings = Vec::new();
    Survey::open(&storage)?.ok_or("no ledger")?.verify(&Ed25519, &mut |sight| {
        if let Sight::Finding(finding) = sight {
            findings.push(finding.to_string());
        }
    })?;
    assert!(findings.is_empty(), "{findings:?}");
    let peak = peak()?;
    assert!(peak <= MEMORY, "{} MiB of memory", peak / MIB);
    Ok(())
}

/// The most memory that this process has had; 0 where the system does not tell.
fn peak() -> Result<u64, Box<dyn Error>> {
    let Ok(text) = std::fs::read_to_string("/proc/self/status") else { return Ok(0) };
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or("0");
    Ok(line.trim().trim_end_matches(" kB").trim().parse::<u64>()? * 1024)
}
