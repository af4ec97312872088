//! Kills a process that records without pause, again and again, and checks after each kill that nothing acknowledged is lost.
//!
//! Some rounds are part of `cargo test`; `cargo test --release --no-default-features --test kill -- 500` does five hundred. The victim writes the number of every record that
//! was acknowledged as durable to its standard output; whatever of that arrived here before the kill must be in the ledger afterwards.

use std::error::Error;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use evalmesh::cassette::{CassetteOptions, CassetteWriter, Durability, Lookup, Recorder};
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Ed25519, Identity, Signer};
use evalmesh::ledger::{FileStorage, Opening};
use evalmesh::record::Observation;
use evalmesh::reply::Reply;
use evalmesh::request::Class;

/// Rounds in everyday tests.
const SHORT: u64 = 6;
/// Rounds after which a new ledger is begun.
const FRESH: u64 = 20;

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [role, directory, round] = &args[..]
        && role == "victim"
    {
        return victim(Path::new(directory), round.parse()?);
    }
    // Other tests' filters are no number of rounds.
    let rounds = args.iter().find_map(|arg| arg.parse().ok()).unwrap_or(SHORT);
    if args.iter().any(|arg| arg == "--list") {
        return Ok(());
    }
    let directory = std::env::temp_dir().join(format!("evalmesh-kill-loop-{}", std::process::id()));
    let outcome = kill(&directory, rounds);
    let _ = std::fs::remove_dir_all(&directory);
    println!("{rounds} rounds, {} acknowledged records, none lost", outcome?);
    Ok(())
}

/// Records of different sizes: most in frames, some in files.
fn reply(n: u64) -> Reply {
    let len = if n.is_multiple_of(50) { 40_000 } else { 100 + n % 3000 };
    Reply::ok(n.to_le_bytes().repeat(usize::try_from(len / 8 + 1).unwrap_or(1)))
}

fn open(directory: &Path, round: u64) -> Result<(CassetteWriter, bool), Box<dyn Error>> {
    let mut epoch = [0; 16];
    epoch[..8].copy_from_slice(&round.to_le_bytes());
    let node = Identity::from_seed([7; 32]).node();
    // Small segments, so that the kill hits their making too.
    let opening = Opening { segment_bytes: 300_000, ..Opening::new(node, EpochId::from_bytes(epoch), round) };
    let options = CassetteOptions { ram_bytes: 0, durability: Some(Durability::Durable), ..CassetteOptions::default() };
    let (writer, recovery) = CassetteWriter::open(Arc::new(FileStorage::open(directory)?), &opening, options)?;
    Ok((writer, recovery.damaged == 0))
}

fn victim(directory: &Path, round: u64) -> Result<(), Box<dyn Error>> {
    let (writer, _) = open(directory, 2 * round)?;
    let recorder = Recorder::start(writer, None)?;
    let node = Identity::from_seed([7; 32]).node();
    for n in round << 32.. {
        let about = Observation {
            request: ContentId::of(&n.to_le_bytes()),
            kind: "kill".parse()?,
            class: Class::Observed,
            observed_at: n,
            trace: None,
            upstream: Vec::new(),
        };
        recorder.observe(about, &reply(n), node, move |result| {
            if result.is_ok() {
                let mut line = std::io::stdout().lock();
                let _ = writeln!(line, "{n}").and_then(|()| line.flush());
            }
        });
        if n % 64 == 63 {
            std::thread::sleep(Duration::from_micros(300));
        }
    }
    Ok(())
}

fn kill(directory: &Path, rounds: u64) -> Result<usize, Box<dyn Error>> {
    let (mut acknowledged, mut total): (Vec<u64>, usize) = (Vec::new(), 0);
    for round in 1..=rounds {
        let mut victim = Command::new(std::env::current_exe()?)
            .args(["victim", &directory.to_string_lossy(), &round.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let mut lines = BufReader::new(victim.stdout.take().ok_or("no pipe")?).lines();
        // The first acknowledgement says that it runs; the kill comes a different time after it in every round.
        let first = lines.next().ok_or("the victim ended by itself")??;
        let reader = std::thread::spawn(move || lines.map_while(Result::ok).collect::<Vec<_>>());
        std::thread::sleep(Duration::from_micros(round * 7919 % 30_000));
        victim.kill()?;
        victim.wait()?;
        let rest = reader.join().map_err(|_| "the reader panicked")?;
        let before = acknowledged.len();
        acknowledged.push(first.parse()?);
        // A line that was cut off says nothing.
        acknowledged.extend(rest.iter().filter_map(|line| line.parse::<u64>().ok()).filter(|n| n >> 32 == round));
        let (writer, sound) = open(directory, 2 * round + 1)?;
        assert!(sound, "round {round}: something is damaged");
        let cassette = writer.cassette();
        let check = if round % 5 == 0 { 0 } else { before };
        for n in &acknowledged[check..] {
            let id = ContentId::of(&n.to_le_bytes());
            let Lookup::Hit(held) = cassette.lookup(id)? else { panic!("round {round}: record {n} is lost") };
            assert!(held.reply().stdout == reply(*n).stdout, "round {round}: record {n} has other bytes");
        }
        let last = ContentId::of(&acknowledged[acknowledged.len() - 1].to_le_bytes());
        let proven = cassette.evidence(last, u64::MAX, &Identity::from_seed([7; 32]))?.ok_or("no proof")?;
        proven.evidence.verify(&Ed25519)?;
        if round % 3 == 0 {
            writer.close()?;
        }
        if round % 50 == 0 {
            println!("{round} rounds");
        }
        if round % FRESH == 0 {
            drop(cassette);
            total += acknowledged.len();
            acknowledged.clear();
            std::fs::remove_dir_all(directory)?;
        }
    }
    Ok(total + acknowledged.len())
}
