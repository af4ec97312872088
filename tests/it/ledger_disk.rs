//! The ledger on real disks: one that is too small, and one with a hundred thousand tiny replies.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use evalmesh::cassette::{CassetteOptions, CassetteWriter, Durability, Lookup, Recorder, RecorderHandle};
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Ed25519, Identity, Signer};
use evalmesh::ledger::{FileStorage, LedgerError, LookStorage, Opening, Sight, Survey};
use evalmesh::record::Observation;
use evalmesh::reply::Reply;
use evalmesh::request::Class;

/// A file system of eight megabytes; unmounted when dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    /// The error is what `mount` said.
    fn mount(folder: &Path) -> Result<Self, String> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", "size=8m", "tmpfs"]).arg(folder);
        let output = mount.output().map_err(|error| error.to_string())?;
        let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        if output.status.success() { Ok(Self(folder.to_owned())) } else { Err(said) }
    }
}

impl SmallDisk {
    fn freeze(&self, readonly: bool) {
        let mode = if readonly { "remount,ro" } else { "remount,rw" };
        assert!(Command::new("mount").args(["-o", mode]).arg(&self.0).status().expect("mount runs").success());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
    }
}

fn open(folder: &Path, epoch: u8) -> CassetteWriter {
    let opening = Opening::new(Identity::from_seed([7; 32]).node(), EpochId::from_bytes([epoch; 16]), u64::from(epoch));
    let options = CassetteOptions { ram_bytes: 0, ..CassetteOptions::default() };
    let storage = Arc::new(FileStorage::open(folder).expect("opens"));
    let (writer, recovery) = CassetteWriter::open(storage, &opening, options).expect("opens");
    assert_eq!((recovery.damaged, recovery.lost), (0, 0), "{recovery:?}");
    writer
}

fn id(n: u64) -> ContentId {
    ContentId::of(&n.to_le_bytes())
}

fn reply(n: u64) -> Reply {
    // Every tenth goes to a file.
    let repeat = if n.is_multiple_of(10) { 2500 } else { 100 };
    Reply::ok(n.to_le_bytes().repeat(repeat))
}

fn about(n: u64, class: Class) -> Observation {
    let kind = "test".parse().expect("a name");
    Observation { request: id(n), kind, class, observed_at: n, trace: None, upstream: Vec::new() }
}

fn observe(recorder: &RecorderHandle, n: u64, reply: &Reply, class: Class) -> Result<bool, LedgerError> {
    let (done, outcomes) = sync_channel(2000);
    let producer = Identity::from_seed([7; 32]).node();
    recorder.observe(about(n, class), reply, producer, move |result| drop(done.send(result)));
    outcomes.recv().expect("it answers").map(|recorded| recorded.durable)
}

#[test]
fn a_full_disk_costs_nothing_that_was_acknowledged_and_is_left_behind_once_there_is_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let disk = match SmallDisk::mount(folder.path()) {
        Ok(disk) => disk,
        Err(why) => return eprintln!("skipped: no file system may be mounted here: {why}"),
    };
    let ledger = folder.path().join("node");
    let mut acknowledged = Vec::new();
    for round in 0..3_u8 {
        let ballast = folder.path().join("ballast");
        std::fs::write(&ballast, vec![0; 4 << 20]).expect("there is room for it");
        let recorder = Recorder::start(open(&ledger, 2 * round), None).expect("a thread");
        let first = u64::from(round) * 1_000_000;
        let full = (first..first + 100_000)
            .find_map(|n| {
                let outcome = observe(&recorder, n, &reply(n), Class::Observed);
                acknowledged.extend(outcome.as_ref().ok().map(|durable| {
                    assert!(durable, "acknowledged means durable");
                    n
                }));
                outcome.err()
            })
            .expect("the disk is full at last");
        assert!(
            matches!(&full, LedgerError::Io { source, .. } if source.kind() == std::io::ErrorKind::StorageFull),
            "{full}"
        );
        assert!(full.hint().is_some_and(|hint| hint.contains("full")), "{full}");
        let refused = observe(&recorder, first + 200_000, &reply(1), Class::Observed).expect_err("poisoned");
        assert!(matches!(refused, LedgerError::Poisoned { .. }), "{refused}");
        let served = recorder.cassette().lookup(id(acknowledged[0])).expect("reads");
        assert!(matches!(served, Lookup::Hit(_)), "reading goes on");
        recorder.close().expect_err("it says that it is poisoned");
        drop(recorder);
        std::fs::remove_file(&ballast).expect("removes");

        let writer = open(&ledger, 2 * round + 1);
        let cassette = writer.cassette();
        for n in &acknowledged {
            let Lookup::Hit(held) = cassette.lookup(id(*n)).expect("reads") else { panic!("{n} is lost") };
            assert_eq!(held.reply().stdout, reply(*n).stdout, "{n}");
        }
        writer.close().expect("there is room again");
        drop(cassette);
        disk.freeze(true);
        let refused = FileStorage::open(&ledger).expect_err("read-only");
        assert!(!refused.hint().is_empty() && refused.to_string().contains("node"), "{refused}");
        let (storage, mut findings) = (LookStorage::new(&ledger), Vec::new());
        let survey = Survey::open(&storage).expect("it may be looked at").expect("a ledger");
        let visit = &mut |sight: Sight<'_>| {
            if let Sight::Finding(finding) = sight {
                findings.extend(finding.is_damage().then(|| finding.to_string()));
            }
        };
        survey.verify(&Ed25519, visit).expect("reads");
        assert_eq!(findings, Vec::<String>::new());
        disk.freeze(false);
        // So that the next round begins with as much room as this one.
        std::fs::remove_dir_all(&ledger).expect("removes");
        acknowledged.clear();
    }
    drop(disk);
}

#[test]
fn a_hundred_thousand_tiny_replies_take_little_memory_and_few_files() {
    const COUNT: u64 = 100_000;
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = |n: u64| Reply::ok(n.to_string());
    let options = CassetteOptions {
        ram_bytes: 0,
        durability: Some(Durability::Batched(std::time::Duration::from_millis(5))),
        ..CassetteOptions::default()
    };
    let opening = |epoch| Opening::new(Identity::from_seed([7; 32]).node(), EpochId::from_bytes([epoch; 16]), 1);
    let storage = || Arc::new(FileStorage::open(folder.path()).expect("opens"));
    let (writer, _) = CassetteWriter::open(storage(), &opening(1), options).expect("opens");
    let recorder = Recorder::start(writer, None).expect("a thread");
    let (done, outcomes) = sync_channel(2000);
    for n in 0..COUNT {
        let done = done.clone();
        let producer = Identity::from_seed([7; 32]).node();
        recorder.observe(about(n, Class::Portable), &tiny(n), producer, move |result| {
            let _ = done.send(result.is_ok());
        });
        if n >= 1000 {
            assert!(outcomes.recv().expect("it answers"));
        }
    }
    recorder.close().expect("closes");
    drop(recorder);
    let files = std::fs::read_dir(folder.path().join("segments")).expect("there").count();
    assert_eq!(files, 1, "they all lie in one segment");
    assert_eq!(std::fs::read_dir(folder.path().join("blobs")).expect("there").count(), 0);

    let (writer, recovery) = CassetteWriter::open(storage(), &opening(2), options).expect("opens");
    assert!(recovery.is_clean());
    let cassette = writer.cassette();
    for n in 0..COUNT {
        let Lookup::Hit(held) = cassette.lookup(id(n)).expect("reads") else { panic!("{n} is lost") };
        assert_eq!(held.reply().stdout, tiny(n).stdout);
    }
    let stats = cassette.stats();
    assert!(stats.index_bytes <= 32 * COUNT, "{} bytes of index a record", stats.index_bytes / COUNT);
}
