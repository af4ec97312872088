//! Compilation in worker processes. This program is its own worker, which a test under the usual harness could not be.
//!
//! Each check is a function named in `main`; a failed assertion ends the process with another status than 0.

#![expect(clippy::disallowed_methods, reason = "these tests measure how long killing takes")]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use evalmesh::error::{EvalError, LimitHit, Refusal};
use evalmesh::evaluator::Job;
use evalmesh::evaluator::pool::Pool;
use evalmesh::evaluator::wasm::worker::{WorkerConfig, enter_worker_role};
use evalmesh::evaluator::wasm::{AotConfig, Compilation, WasmEvaluator, WasmLimits, WasmSetup};
use evalmesh::reply::Reply;
use evalmesh::request::{Program, Request};

#[path = "conformance/mod.rs"]
mod conformance;

fn main() {
    enter_worker_role();
    let checks: [(&str, fn()); 9] = [
        ("every conformance guest ends as it must, compiled and from disk", every_guest_ends_as_it_must),
        ("code from a worker runs, in both classes", code_from_a_worker_runs),
        ("what a worker made is kept on disk", what_a_worker_made_is_kept),
        ("a compilation beyond its time is killed", a_compilation_beyond_its_time_is_killed),
        ("a compilation beyond its memory is ended", a_compilation_beyond_its_memory_is_ended),
        ("a caller who gives up does not wait for the compiler", a_caller_who_gives_up_does_not_wait),
        ("a program that is no worker is unavailable", a_program_that_is_no_worker_is_unavailable),
        ("no worker outlives its evaluator", no_worker_outlives_its_evaluator),
        ("a worker has nothing to take", a_worker_has_nothing_to_take),
    ];
    let wanted = std::env::args().skip(1).find(|arg| !arg.starts_with("--"));
    for (name, check) in checks {
        if wanted.as_ref().is_none_or(|wanted| name.contains(wanted.as_str())) {
            check();
            println!("ok: {name}");
        }
    }
}

fn config() -> WorkerConfig {
    WorkerConfig::new(std::env::current_exe().expect("this program"))
}

fn evaluator(config: WorkerConfig, aot: Option<AotConfig>) -> Result<WasmEvaluator, EvalError> {
    let setup =
        WasmSetup { limits: WasmLimits::default(), compilation: Compilation::Worker(config), aot, remotes: Vec::new() };
    WasmEvaluator::with(Pool::start("test", 2).expect("threads"), setup)
}

fn run(evaluator: &WasmEvaluator, request: Request) -> Result<Reply, EvalError> {
    evaluator.evaluate(&Job::inline(request)?)
}

fn call(text: &str) -> Request {
    Request::new(Program::wasm(wat::parse_str(text).expect("a module")).entry("f"))
}

fn stdout(reply: &Reply) -> &[u8] {
    reply.stdout.as_ref().expect("a stdout").bytes().expect("inline")
}

fn code_from_a_worker_runs() {
    let evaluator = evaluator(config(), None).expect("workers");
    for n in 0..3 {
        let request = call(&format!("(module (func (export \"f\") (result i32) (i32.const {n})))"));
        let native = Request { class: WasmEvaluator::native_class().expect("a class"), ..request.clone() };
        for request in [request, native] {
            assert_eq!(stdout(&run(&evaluator, request).expect("a reply")), format!("{n}\n").as_bytes());
        }
    }
    assert_eq!(evaluator.artifacts().compiled, 6);
    let refused = run(&evaluator, call("(module (func (export \"g\")))"));
    assert!(matches!(refused, Err(EvalError::Refused(Refusal::Entry { .. }))), "{refused:?}");
}

/// The nodes of `tests/it` compile these in their own process; here workers do, and the second time the code comes from disk.
fn every_guest_ends_as_it_must() {
    let folder = tempfile::tempdir().expect("a folder");
    for from_disk in [false, true] {
        let aot = Some(AotConfig::new(folder.path().join("aot"), b"secret"));
        let evaluator = evaluator(config(), aot).expect("workers");
        // Those that ask take a node.
        let asks = |request: &Request| request.capabilities.iter().any(|capability| capability.as_str() == "eval");
        let guests = conformance::guests().into_iter().filter(|guest| !asks(&guest.request));
        let wrong: Vec<_> = guests.filter_map(|guest| guest.check(&run(&evaluator, guest.request.clone()))).collect();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        let report = evaluator.artifacts();
        assert_eq!((report.compiled == 0, report.disk_hits > 0), (from_disk, from_disk), "{report}");
    }
}

fn what_a_worker_made_is_kept() {
    let folder = tempfile::tempdir().expect("a folder");
    let aot = || Some(AotConfig::new(folder.path().join("aot"), b"secret"));
    let request = || call("(module (func (export \"f\") (result i32) (i32.const 9)))");
    for (compiled, disk) in [(1, 0), (0, 1)] {
        let evaluator = evaluator(config(), aot()).expect("workers");
        assert_eq!(stdout(&run(&evaluator, request()).expect("a reply")), b"9\n");
        let report = evaluator.artifacts();
        assert_eq!((report.compiled, report.disk_hits), (compiled, disk));
    }
}

/// Within every bound of the scan and yet seconds of work, as many loops as one function may have in each of many functions.
fn costly() -> Request {
    let one = format!("(func (param i32) {})", "(loop (br_if 0 (local.get 0))) ".repeat(1_900));
    call(&format!("(module {} (func (export \"f\")))", one.repeat(30)))
}

fn a_compilation_beyond_its_time_is_killed() {
    let evaluator = evaluator(WorkerConfig { time: Duration::from_secs(1), ..config() }, None).expect("workers");
    let limit = Err(EvalError::Limit(LimitHit::CompileTime { ms: 1000 }));
    let costly = costly();
    assert_eq!(run(&evaluator, costly.clone()), limit);
    let start = Instant::now();
    assert_eq!(run(&evaluator, costly), limit, "it is remembered");
    assert!(start.elapsed() < Duration::from_millis(500), "{:?}", start.elapsed());
    run(&evaluator, call("(module (func (export \"f\")))")).expect("the next program compiles");
}

fn a_compilation_beyond_its_memory_is_ended() {
    let evaluator = evaluator(WorkerConfig { memory: 192 << 20, ..config() }, None).expect("workers");
    run(&evaluator, call("(module (func (export \"f\")))")).expect("a small program compiles within it");
    let result = run(&evaluator, Request::new(Program::wasm(voluminous()).entry("f")));
    assert_eq!(result, Err(EvalError::Limit(LimitHit::CompileMemory { bound: 192 << 20 })));
}

/// A function `f` and one data segment of 60 MB, of which a compiler makes a copy or two.
fn voluminous() -> Vec<u8> {
    const LEN: u32 = 60_000_000;
    let leb =
        |value: u32| (0..5_u32).map(move |i| (value >> (7 * i)).to_le_bytes()[0] & 0x7f | if i < 4 { 0x80 } else { 0 });
    let mut module =
        b"\0asm\x01\0\0\0\x01\x04\x01\x60\0\0\x03\x02\x01\0\x07\x05\x01\x01f\0\0\x0a\x04\x01\x02\0\x0b\x0b".to_vec();
    module.extend(leb(LEN + 7));
    module.extend([1, 1]);
    module.extend(leb(LEN));
    module.resize(module.len() + LEN as usize, 7);
    module
}

fn a_caller_who_gives_up_does_not_wait() {
    let evaluator = evaluator(WorkerConfig { time: Duration::from_secs(3), ..config() }, None).expect("workers");
    let costly = costly();
    let start = Instant::now();
    let result = run(&evaluator, costly.timeout(Duration::from_millis(100)));
    assert_eq!(result, Err(EvalError::Limit(LimitHit::Deadline { ms: 100 })));
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}

fn a_program_that_is_no_worker_is_unavailable() {
    let missing = evaluator(WorkerConfig::new("/nowhere/evalmesh"), None);
    assert!(matches!(missing, Err(EvalError::Refused(Refusal::WorkerUnavailable(_)))), "{missing:?}");
    // It starts, reads nothing and ends.
    let other = evaluator(WorkerConfig::new("/bin/true"), None).expect("it can be started");
    let result = run(&other, call("(module (func (export \"f\")))"));
    assert!(matches!(result, Err(EvalError::Failed(_))), "{result:?}");
}

/// The processes whose parent is this one.
fn children() -> Vec<PathBuf> {
    let me = std::process::id().to_string();
    let processes = std::fs::read_dir("/proc").map(|entries| entries.flatten().map(|entry| entry.path()).collect());
    let is_child = |path: &PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)).is_some_and(|parent| parent == me)
    };
    let processes: Vec<PathBuf> = processes.unwrap_or_default();
    processes.into_iter().filter(is_child).collect()
}

/// Waits until no worker is left: a dropped evaluator's threads end a moment later, and so does a compilation that is still going on.
fn ended() {
    let start = Instant::now();
    while !children().is_empty() {
        assert!(start.elapsed() < Duration::from_mins(2), "{:?}", children());
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn no_worker_outlives_its_evaluator() {
    if !cfg!(target_os = "linux") {
        return;
    }
    ended();
    let folder = tempfile::tempdir().expect("a folder");
    let notes = folder.path().join("workers");
    let evaluator = evaluator(WorkerConfig { folder: Some(notes.clone()), ..config() }, None).expect("workers");
    let count = |folder: &Path| std::fs::read_dir(folder).expect("a folder").count();
    assert_eq!((children().len(), count(&notes)), (1, 1), "one spare, and its note");
    run(&evaluator, call("(module (func (export \"f\")))")).expect("a reply");
    assert_eq!((children().len(), count(&notes)), (1, 1), "the next spare");
    drop(evaluator);
    ended();
    assert_eq!(count(&notes), 0);
}

fn a_worker_has_nothing_to_take() {
    if !cfg!(target_os = "linux") {
        return;
    }
    ended();
    let evaluator = evaluator(config(), None).expect("workers");
    let [worker] = &children()[..] else { panic!("one spare") };
    let read = |name: &str| std::fs::read_to_string(worker.join(name)).unwrap_or_default();
    let start = Instant::now();
    // It gives up its rights after its engine is ready.
    while !read("limits").lines().any(|line| line.starts_with("Max open files") && line.contains(" 0 ")) {
        assert!(start.elapsed() < Duration::from_secs(20), "{}", read("limits"));
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(read("environ"), "", "an empty environment");
    let open = std::fs::read_dir(worker.join("fd")).expect("its descriptors").flatten();
    let open: Vec<_> = open.map(|fd| std::fs::read_link(fd.path()).expect("a target")).collect();
    let harmless = |target: &PathBuf| {
        let target = target.to_string_lossy();
        target.starts_with("pipe:") || target == "/dev/null"
    };
    assert!(open.iter().all(harmless), "{open:?}");
    drop(evaluator);
}
