//! What drivers compiled, over restarts: kept, found again, and never taken from anybody else.
//!
//! The drivers of these tests give no more than an empty cache has, so here everything is kept that is given.

use std::fs;
use std::path::{Path, PathBuf};

use evalmesh::evaluator::artifacts::{AotConfig, Layer, Miss};
use evalmesh::evaluator::gpu::{GpuConfig, GpuEvaluator, PipelineData, PipelineReport};

use crate::Check;
use crate::drivers::{Driver, config, out, program, request, run, shader};

pub(crate) const CHECKS: &[Check] = &[
    ("compiled pipelines are found again after a restart", found_again),
    ("compiled pipelines of others are refused", refused),
    ("an empty cache is not worth keeping", not_worth_it),
];

/// Bytes of facts and keyed hash behind the data.
const FACTS: usize = 108;
const TRAILER: usize = FACTS + 32;
const SECRET: &[u8] = b"secret";

/// One process' life: start, ask, say what became of compiled pipelines.
fn life(folder: &Path, driver: Driver, secret: &[u8], least: u64) -> PipelineReport {
    let pipelines = Some(PipelineData { least, ..PipelineData::new(AotConfig::new(folder, secret)) });
    let evaluator = GpuEvaluator::new(GpuConfig { pipelines, ..config(&[driver]) });
    let ask = |n: u32, body: &str| {
        let answer = run(&evaluator, request(&program(&shader(body), 64, 1), &[n; 64]));
        out(&answer.expect("an answer"))
    };
    assert_eq!(ask(1, "b[id.x] = a[id.x] + 41u;"), [42; 64]);
    assert_eq!(ask(2, "b[id.x] = a[id.x] + 41u;"), [43; 64]);
    assert_eq!(ask(3, "b[id.x] = a[id.x] * 14u;"), [42; 64]);
    // What came of a program is heard after its answer, and before whatever comes next.
    assert_eq!(ask(4, "b[id.x] = a[id.x] + 41u;"), [45; 64]);
    evaluator.pipelines()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("it").path()).collect();
    files.sort();
    files
}

fn misses(report: &PipelineReport, wanted: Miss) -> u64 {
    report.artifacts.misses.get(&(Layer::Disk, wanted)).copied().unwrap_or(0)
}

/// Has the only file of a folder be another one.
fn change(folder: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let file = &files(folder)[0];
    let mut bytes = fs::read(file).expect("a file");
    change(&mut bytes);
    fs::remove_file(file).and_then(|()| fs::write(file, bytes)).expect("a file");
}

/// A folder with the data of one of the two programs.
fn kept(driver: Driver) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let first = life(folder.path(), driver, SECRET, 0);
    assert_eq!((first.artifacts.compiled, first.artifacts.stored, misses(&first, Miss::Absent)), (2, 2, 2));
    fs::remove_file(&files(folder.path())[1]).expect("it was there");
    folder
}

fn found_again() {
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        let folder = kept(driver);
        for hits in [1, 2] {
            let PipelineReport { artifacts, useless } = life(folder.path(), driver, SECRET, 0);
            let (compiled, stored) = (2 - hits, 2 - hits);
            assert_eq!(
                (artifacts.disk_hits, artifacts.compiled, artifacts.stored, useless),
                (hits, compiled, stored, 0)
            );
        }
    }
    if !crate::drivers::is_real() {
        let folder = kept(Driver::Lavapipe);
        let other = life(folder.path(), Driver::SwiftShader, SECRET, 0);
        assert_eq!((misses(&other, Miss::Absent), other.artifacts.disk_hits), (2, 0), "another device: {other}");
    }
}

fn refused() {
    let driver = Driver::SwiftShader;
    let refused = |folder: &Path, secret: &[u8], why: Miss| {
        let report = life(folder, driver, secret, 0);
        assert_eq!((misses(&report, why), report.artifacts.removed), (1, 1), "{why}: {report}");
    };
    let folder = kept(driver);
    refused(folder.path(), b"another node's", Miss::NotAuthentic);
    let folder = kept(driver);
    change(folder.path(), |bytes| bytes[40] ^= 1);
    refused(folder.path(), SECRET, Miss::NotAuthentic);
    let folder = kept(driver);
    change(folder.path(), |bytes| bytes.truncate(TRAILER - 1));
    refused(folder.path(), SECRET, Miss::Truncated);
    // Authentic in every respect, as if this node had been fooled into writing it: the device itself looks at what it is given.
    let folder = kept(driver);
    change(folder.path(), |bytes| {
        let at = bytes.len() - TRAILER;
        let mut data = bytes[..at].to_vec();
        data[8..40].fill(0xee);
        let facts = [&bytes[at..at + FACTS - 32], blake3::hash(&data).as_bytes()].concat();
        let key = AotConfig::new("", SECRET).key;
        let tag = *blake3::Hasher::new_keyed(&key).update(&data).update(&facts).finalize().as_bytes();
        *bytes = [&data[..], &facts, &tag].concat();
    });
    refused(folder.path(), SECRET, Miss::NotLoadable);
}

fn not_worth_it() {
    let folder = tempfile::tempdir().expect("a folder");
    let report = life(folder.path(), Driver::Lavapipe, SECRET, 1024);
    assert!(report.useless == 2 && report.artifacts.stored == 0 && files(folder.path()).is_empty(), "{report}");
}
