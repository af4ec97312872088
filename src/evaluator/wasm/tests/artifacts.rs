//! The store of compiled code: a restart compiles nothing, and nothing that was touched is ever loaded.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;

use super::super::{
    AotConfig, ArtifactReport, Compilation, Folder, Layer, Miss, RemoteConfig, WasmEvaluator, WasmSetup,
};
use super::{limits, run_on, stdout};
use crate::evaluator::pool::Pool;
use crate::identity::{Identity, Signer};
use crate::reply::Payload;
use crate::request::{Code, Request};

fn evaluator(folder: &Path, secret: &[u8], bytes: u64) -> WasmEvaluator {
    let aot = Some(AotConfig { bytes, ..AotConfig::new(folder.join("aot"), secret) });
    let setup = WasmSetup { limits: limits(), compilation: Compilation::InProcess, aot, remotes: Vec::new() };
    WasmEvaluator::with(Pool::start("test", 1).unwrap(), setup).unwrap()
}

fn program(result: i32) -> Request {
    super::call(&format!("(module (memory 1 3) (func (export \"f\") (result i32) (i32.const {result})))"), "f")
}

/// One process' life: start, ask, say what the layers did.
fn life(folder: &Path, secret: &[u8]) -> ArtifactReport {
    let evaluator = evaluator(folder, secret, 1 << 30);
    assert_eq!(stdout(&run_on(&evaluator, program(42)).unwrap()), "42\n");
    evaluator.artifacts()
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(folder.join("aot")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    files
}

/// Another file of that name: the old one may still be mapped, and a store never writes into a file either.
fn replace(file: &Path, bytes: &[u8]) {
    fs::remove_file(file).unwrap();
    fs::write(file, bytes).unwrap();
}

fn misses(report: &ArtifactReport) -> Vec<(Miss, u64)> {
    let disk = report.misses.iter().filter(|((layer, _), _)| *layer == Layer::Disk);
    disk.map(|((_, why), count)| (*why, *count)).collect()
}

fn kept() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let first = life(folder.path(), b"secret");
    assert_eq!((first.compiled, first.stored, first.disk_hits), (1, 1, 0));
    assert_eq!(misses(&first), [(Miss::Absent, 1)]);
    folder
}

#[test]
fn a_restart_compiles_nothing() {
    let folder = kept();
    let again = life(folder.path(), b"secret");
    assert_eq!((again.compiled, again.disk_hits, again.promoted), (0, 1, 1));
    assert_eq!(misses(&again), []);
    assert_eq!(files(folder.path()).len(), 1);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder.path().join("aot")), mode(&files(folder.path())[0])), (0o700, 0o600));
    }
}

#[test]
fn a_second_call_is_a_hit_in_ram() {
    let folder = tempfile::tempdir().unwrap();
    let evaluator = evaluator(folder.path(), b"secret", 1 << 30);
    for _ in 0..3 {
        run_on(&evaluator, program(1)).unwrap();
    }
    let report = evaluator.artifacts();
    assert_eq!((report.ram_hits, report.compiled), (2, 1));
    assert_eq!(report.misses[&(Layer::Ram, Miss::Absent)], 1);
    assert!(report.to_string().contains("miss: disk: absent: 1"), "{report}");
}

/// Every single byte matters: of the code, of the facts, of the keyed hash.
#[test]
fn a_flipped_byte_anywhere_is_rebuilt_and_counted() {
    let folder = kept();
    let file = files(folder.path())[0].clone();
    let sound = fs::read(&file).unwrap();
    for at in [0, 1, 64, sound.len() / 3, sound.len() / 2, sound.len() - 120, sound.len() - 40, sound.len() - 1] {
        let mut damaged = sound.clone();
        damaged[at] ^= 0x10;
        replace(&file, &damaged);
        let report = life(folder.path(), b"secret");
        assert_eq!((report.compiled, report.stored, report.removed), (1, 1, 1), "byte {at}");
        assert_eq!(misses(&report), [(Miss::NotAuthentic, 1)], "byte {at}");
        assert_eq!(fs::read(&file).unwrap().len(), sound.len(), "it was made anew");
    }
}

#[test]
fn a_cut_or_lengthened_file_is_rebuilt() {
    let folder = kept();
    let file = files(folder.path())[0].clone();
    let sound = fs::read(&file).unwrap();
    let longer = [&sound[..], b"x"].concat();
    let cases = [
        (&sound[..0], Miss::Truncated),
        (&sound[..50], Miss::Truncated),
        (&sound[..sound.len() - 1], Miss::NotAuthentic),
        (&longer, Miss::NotAuthentic),
    ];
    for (bytes, why) in cases {
        replace(&file, bytes);
        let report = life(folder.path(), b"secret");
        assert_eq!((report.compiled, misses(&report)), (1, vec![(why, 1)]));
    }
}

#[test]
fn another_nodes_code_is_foreign() {
    let folder = kept();
    let report = life(folder.path(), b"another secret");
    assert_eq!((report.compiled, report.disk_hits), (1, 0));
    assert_eq!(misses(&report), [(Miss::NotAuthentic, 1)]);
}

#[test]
fn code_under_another_programs_name_is_refused() {
    let folder = kept();
    let one = files(folder.path())[0].clone();
    let other = evaluator(folder.path(), b"secret", 1 << 30);
    assert_eq!(stdout(&run_on(&other, program(7)).unwrap()), "7\n");
    let two = files(folder.path()).into_iter().find(|file| *file != one).unwrap();
    replace(&one, &fs::read(&two).unwrap());
    let report = life(folder.path(), b"secret");
    assert_eq!(misses(&report), [(Miss::OtherFingerprint, 1)]);
}

#[test]
fn left_overs_are_removed_and_the_budget_holds() {
    let folder = kept();
    let size = fs::metadata(&files(folder.path())[0]).unwrap().len();
    fs::write(folder.path().join("aot/123-0.unfinished"), "half").unwrap();
    fs::write(folder.path().join("aot/README"), "a person's").unwrap();
    let evaluator = evaluator(folder.path(), b"secret", 2 * size + 100);
    assert_eq!(evaluator.artifacts().removed, 1, "the unfinished one");
    for result in 0..4 {
        run_on(&evaluator, program(result)).unwrap();
    }
    let report = evaluator.artifacts();
    assert_eq!((report.stored, report.removed), (4, 4), "{report}");
    assert!(folder.path().join("aot/README").exists());
    assert_eq!(files(folder.path()).len(), 3);
}

#[cfg(unix)]
#[test]
fn a_disk_that_refuses_costs_nothing_but_the_copy() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().unwrap();
    let evaluator = evaluator(folder.path(), b"secret", 1 << 30);
    let store = folder.path().join("aot");
    fs::remove_dir(&store).unwrap();
    assert_eq!(stdout(&run_on(&evaluator, program(5)).unwrap()), "5\n");
    assert_eq!((evaluator.artifacts().stored, evaluator.artifacts().not_stored), (0, 1));
    fs::create_dir(&store).unwrap();
    fs::set_permissions(&store, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(stdout(&run_on(&evaluator, program(6)).unwrap()), "6\n");
    assert_eq!(evaluator.artifacts().stored, 1);
}

#[test]
fn a_signers_copy_is_promoted_to_disk_and_a_bad_one_is_compiled_around() {
    let folder = tempfile::tempdir().unwrap();
    let signer = Identity::from_seed([8; 32]);
    let public = folder.path().join("public");
    let program = program(42);
    let Code::Bytes(Payload::Inline(code)) = &program.program.code else { panic!("inline") };
    let with = |name: &str, signer: &Identity| {
        let remote =
            RemoteConfig { signers: vec![signer.node()], source: None, fetch: Arc::new(Folder(public.clone())) };
        let setup = WasmSetup {
            limits: limits(),
            compilation: Compilation::InProcess,
            aot: Some(AotConfig::new(folder.path().join(name), b"secret")),
            remotes: vec![remote],
        };
        let evaluator = WasmEvaluator::with(Pool::start("test", 1).unwrap(), setup).unwrap();
        assert_eq!(stdout(&run_on(&evaluator, program.clone()).unwrap()), "42\n");
        evaluator
    };
    let publisher = with("publisher", &signer);
    assert!(publisher.publish(code, " ", &signer).is_err(), "it must say where it is from");
    let path = publisher.publish(code, "a test", &signer).unwrap().write(&public).unwrap();
    let remote_misses = |report: &ArtifactReport| {
        let remote = report.misses.iter().filter(|((layer, _), _)| *layer == Layer::Remote);
        remote.map(|((_, why), count)| (*why, *count)).collect::<Vec<_>>()
    };
    assert_eq!(remote_misses(&publisher.artifacts()), [(Miss::Absent, 1)]);
    let reader = with("reader", &signer).artifacts();
    assert_eq!((reader.remote_hits, reader.compiled, reader.stored, reader.promoted), (1, 0, 1, 2));
    let again = with("reader", &signer).artifacts();
    assert_eq!((again.disk_hits, again.remote_hits), (1, 0), "the nearer layer has it now");
    let stranger = with("stranger", &Identity::from_seed([9; 32])).artifacts();
    assert_eq!((stranger.compiled, remote_misses(&stranger)), (1, vec![(Miss::SignerNotListed, 1)]));
    let mut damaged = fs::read(&path).unwrap();
    *damaged.last_mut().unwrap() ^= 1;
    replace(&path, &damaged);
    let compiled = with("another", &signer).artifacts();
    assert_eq!((compiled.compiled, remote_misses(&compiled)), (1, vec![(Miss::NotAuthentic, 1)]));
}
