//! What programs, drivers and killers do, and what comes of it: a typed error, and the next request works.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use evalmesh::error::{EvalError, LimitHit, Refusal};
use evalmesh::evaluator::gpu::{GpuConfig, GpuEvaluator, GpuLimits, Size, Verdict};
use evalmesh::evaluator::{Evaluator, Job};
use evalmesh::request::{Program, Request};

use crate::Check;
use crate::drivers::{COMMON, Driver, class, config, evaluator, on, out, program, request, run, shader};

pub(crate) const CHECKS: &[Check] = &[
    ("endless loops end as a limit and cost no worker", endless_loops_end),
    ("invocations that run out of steps among barriers cost their own evaluation alone", overruns_among_barriers),
    ("a shader beyond its time is ended, and the next one runs at once", beyond_its_time),
    ("hostile shaders are refused", hostile_shaders),
    ("bindings that do not fit are refused", bindings_that_do_not_fit),
    ("bytes that are no program are refused", no_program),
    ("too much memory is a limit", too_much_memory),
    ("a killed worker is replaced and the evaluation repeated", a_killed_worker),
    ("one hostile evaluation of a batch takes no other with it", one_of_a_batch),
    ("a cancelled evaluation ends", a_cancelled_one_ends),
    ("races are found out and demoted", races_are_demoted),
    ("a worker has no secrets", no_secrets),
    ("a driver that crashes or hangs while devices are listed costs only its own", drivers_that_fail),
    ("what is no worker is unavailable", no_worker),
    ("no worker outlives its evaluator", no_worker_outlives),
];

fn simple(evaluator: &GpuEvaluator) {
    let request = request(&program(&shader("b[id.x] = a[id.x] + 1u;"), 64, 1), &[41; 64]);
    assert_eq!(out(&run(evaluator, request).expect("the next request works")), [42; 64]);
}

fn endless_loops_end() {
    let bodies = [
        "loop { b[0] = 1u; }",
        "while (a[0] == 1u) { b[id.x] += 1u; }",
        "for (var i = 0u; i < 4000000000u; i++) { for (var j = 0u; j < 4000000000u; j++) { b[0] = j; } }",
        "var x = a[0]; loop { x = x * 3u; continuing { break if x == 0u; } } b[0] = x;",
    ];
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        for body in bodies {
            let mut request = request(&program(&shader(body), 64, 1), &[1; 64]);
            request.options.fuel = Some(10_000);
            assert_eq!(
                on(&COMMON, driver, &request),
                Err(EvalError::Limit(LimitHit::Steps { bound: 10_000 })),
                "{driver:?}: {body}"
            );
        }
    }
    simple(&COMMON);
}

/// The steps of each invocation are its own, so some leave a loop that others go on with, and do not come to its barriers any more. That is as it
/// may be on each device, but it ends, in time, and as an error.
fn overruns_among_barriers() {
    let body = "for (var i = 0u; i < at * 100u; i++) { b[id.x] += 1u; }
        for (var i = 0u; i < 200u; i++) { workgroupBarrier(); b[id.x] += a[0]; }";
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        let mut request = request(&program(&shader(body), 64, 1), &[1; 64]).timeout(Duration::from_secs(3));
        request.options.fuel = Some(3000);
        let start = Instant::now();
        let ended = on(&COMMON, driver, &request);
        assert!(
            matches!(ended, Err(EvalError::Limit(LimitHit::Steps { bound: 3000 } | LimitHit::Deadline { .. }))),
            "{driver:?}: {ended:?}"
        );
        assert!(start.elapsed() < Duration::from_secs(10), "{driver:?}: {:?}", start.elapsed());
        println!("   {driver:?}: {}", ended.expect_err("an error"));
        request.options.fuel = None;
        let reply = on(&COMMON, driver, &request).expect("with all its steps it is an ordinary program");
        assert_eq!(out(&reply), (0..64).map(|at| at * 100 + 200).collect::<Vec<u32>>());
    }
    simple(&COMMON);
}

/// Within every bound and yet hours of work.
fn endless() -> Request {
    let body = "var x = a[0]; for (var i = 0u; i < 200000000u; i++) { x = x * 1664525u + i; } b[id.x] = x;";
    request(&program(&shader(body), 64 * 4096, 4096), &[1; 64])
}

fn beyond_its_time() {
    let with_spare = GpuEvaluator::new(GpuConfig { spare: true, ..config(&[Driver::Lavapipe]) });
    simple(&with_spare);
    std::thread::sleep(Duration::from_secs(1));
    for _ in 0..2 {
        let start = Instant::now();
        let limit = run(&with_spare, endless().timeout(Duration::from_millis(300)));
        assert_eq!(limit, Err(EvalError::Limit(LimitHit::Deadline { ms: 300 })));
        assert!(start.elapsed() < Duration::from_secs(2), "{:?}", start.elapsed());
        let start = Instant::now();
        simple(&with_spare);
        println!("   first result after a worker was ended: {:?}", start.elapsed());
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
        std::thread::sleep(Duration::from_secs(1));
    }
}

fn hostile_shaders() {
    let call = |n: u32| format!("fn f{n}(x: u32) -> u32 {{ return f{}(x) + f{}(x + 1u); }}\n", n - 1, n - 1);
    let first = "fn f0(x: u32) -> u32 { return x * 3u; }\n".to_owned();
    let doubling = (1..30).map(call).fold(first, |text, line| text + &line) + &shader("b[0] = f29(a[0]);");
    let group = shader("w[at] = 1u; b[0] = w[at + 1u];") + "var<workgroup> w: array<u32, 1000000>;";
    let cases = [
        (shader(&format!("b[0] = a[0]{};", " + a[0]".repeat(20_000))), "operators"),
        (shader(&format!("b[0] = {}a[0]{};", "(".repeat(2000), ")".repeat(2000))), "brackets"),
        (doubling, "calls expanded"),
        (group, "workgroup memory"),
        (shader("b[0] = nothing;"), "nothing"),
        (shader("if (at < 32u) { workgroupBarrier(); } b[id.x] = 1u;"), "reach together"),
        (shader("if (id.x > 9u) { return; } workgroupBarrier(); b[id.x] = 1u;"), "reach together"),
        (shader("for (var i = 0u; i < at; i++) { storageBarrier(); } b[id.x] = 1u;"), "reach together"),
    ];
    for (text, why) in cases {
        let start = Instant::now();
        let refused = run(&COMMON, request(&program(&text, 64, 1), &[1]));
        assert!(
            matches!(&refused, Err(EvalError::Refused(refusal)) if refusal.to_string().contains(why)),
            "{refused:?}, not `{why}`"
        );
        assert!(start.elapsed() < Duration::from_secs(3), "{:?}", start.elapsed());
    }
    simple(&COMMON);
}

fn bindings_that_do_not_fit() {
    let text = shader("b[id.x] = a[id.x];");
    let refused = |program: &evalmesh::evaluator::gpu::GpuProgram, input: &[u32], why: &str| {
        let refused = run(&COMMON, request(program, input));
        assert!(
            matches!(&refused, Err(EvalError::Refused(Refusal::Binding { .. } | Refusal::Entry { .. })) if format!("{refused:?}").contains(why)),
            "{refused:?}, not `{why}`"
        );
    };
    let good = program(&text, 64, 1);
    refused(&good, &[], "may not be empty");
    let mut other = good.clone();
    other.bindings[0].binding = 5;
    refused(&other, &[1], "nothing is bound");
    other = good.clone();
    other.bindings.push(evalmesh::evaluator::gpu::Binding {
        binding: 7,
        name: "more".parse().expect("a name"),
        ..good.bindings[1].clone()
    });
    refused(&other, &[1], "no variable at");
    other = good.clone();
    other.bindings[0].kind = evalmesh::evaluator::gpu::Kind::InOut;
    refused(&other, &[1], "only reads it");
    other = good.clone();
    "other".clone_into(&mut other.stages[0].dispatches[0].entry);
    refused(&other, &[1], "the shader has `main`");
    let wide = text.replace("b: array<u32>", "b: array<u32, 100>");
    refused(&program(&wide, 64, 1), &[1], "the shader's variable 400");
    let without = good.request().expect("a program");
    assert!(matches!(run(&COMMON, without), Err(EvalError::Refused(Refusal::Binding { .. }))), "an input is missing");
    let more = request(&good, &[1]).file("other", &b"1234"[..]).expect("a name");
    assert!(matches!(run(&COMMON, more), Err(EvalError::Refused(Refusal::Binding { .. }))), "an input too many");
    let odd = good.request().expect("a program").file("in", &b"\x01\0\0\0\x02"[..]).expect("a name");
    assert_eq!(out(&run(&COMMON, odd).expect("padded"))[..3], [1, 2, 2], "and clamped");
    for (what, request) in [
        ("arguments", request(&good, &[1]).arg("x")),
        ("capability", request(&good, &[1]).capability("eval".parse().expect("a name"))),
        ("class", request(&good, &[1]).class(evalmesh::request::Class::Observed)),
    ] {
        assert!(matches!(run(&COMMON, request), Err(EvalError::Refused(_))), "{what}");
    }
}

fn no_program() {
    let good = program(&shader("b[id.x] = a[id.x];"), 64, 1).encode().expect("a program");
    let mut newer = good.clone();
    newer[0] = 9;
    for bytes in [vec![], vec![1], newer, [&good[..], &[0]].concat(), good[..good.len() - 1].to_vec(), vec![0xff; 100]]
    {
        let refused = run(&COMMON, Request::new(Program::gpu(bytes)));
        assert!(matches!(refused, Err(EvalError::Refused(Refusal::Shader(_)))), "{refused:?}");
    }
    let mut endless = program(&shader("b[id.x] = a[id.x];"), 64, 1);
    endless.stages[0].repeat = u32::MAX;
    assert!(matches!(endless.encode(), Err(EvalError::Refused(Refusal::TooLarge { .. }))));
}

fn too_much_memory() {
    let limits = GpuLimits { memory: 64 << 20, ..GpuLimits::default() };
    let small = GpuEvaluator::new(GpuConfig { limits, ..config(&[Driver::SwiftShader]) });
    let text = shader("b[id.x] = a[id.x];");
    let mut large = program(&text, 64, 1);
    large.bindings[1].kind = evalmesh::evaluator::gpu::Kind::Output(Size::Bytes(80 << 20));
    assert_eq!(run(&small, request(&large, &[1])), Err(EvalError::Limit(LimitHit::DeviceMemory { bound: 64 << 20 })));
    let mut asked = request(&program(&text, 1 << 20, 1), &[1]);
    asked.options.memory = Some(1 << 20);
    assert_eq!(run(&small, asked), Err(EvalError::Limit(LimitHit::DeviceMemory { bound: 1 << 20 })));
    let mut asked = request(&program(&text, 1 << 20, 1), &[1]);
    asked.options.output = Some(1 << 20);
    assert_eq!(run(&small, asked), Err(EvalError::Limit(LimitHit::Output { bound: 1 << 20 })));
    // More than the budget in all, one after the other.
    for outputs in 1..20_u64 {
        run(&small, request(&program(&text, outputs << 19, 1), &[1])).expect("within the budget");
    }
    simple(&small);
}

/// The worker processes of this one.
pub(crate) fn workers() -> Vec<PathBuf> {
    let me = std::process::id().to_string();
    let is_worker = |path: &PathBuf| {
        let stat = std::fs::read_to_string(path.join("stat")).unwrap_or_default();
        let mut fields = stat.rsplit_once(')').map(|(_, rest)| rest.split_whitespace()).into_iter().flatten();
        let (state, parent) = (fields.next(), fields.next());
        state.is_some_and(|state| state != "Z") && parent.is_some_and(|parent| parent == me)
    };
    let processes = std::fs::read_dir("/proc").into_iter().flatten().flatten().map(|entry| entry.path());
    processes.filter(is_worker).collect()
}

pub(crate) fn kill(path: &std::path::Path) {
    let pid = path.file_name().expect("a number");
    assert!(std::process::Command::new("kill").arg("-9").arg(pid).status().expect("kill runs").success());
}

fn a_killed_worker() {
    let before = workers();
    let own = evaluator(&[Driver::Lavapipe]);
    simple(&own);
    let new = |all: Vec<PathBuf>| all.into_iter().filter(|path| !before.contains(path)).collect::<Vec<_>>();
    for path in new(workers()) {
        kill(&path);
    }
    simple(&own);
    // While it works: the evaluation is repeated once, and ends as a failure when that worker is killed as well.
    let (done, outcome) = std::sync::mpsc::sync_channel(1);
    own.start(Job::inline(endless()).expect("a job"), Box::new(move |result| drop(done.send(result))));
    let start = Instant::now();
    let result = loop {
        if let Ok(result) = outcome.recv_timeout(Duration::from_millis(300)) {
            break result;
        }
        assert!(start.elapsed() < Duration::from_secs(30), "it is repeated for ever");
        for path in new(workers()) {
            kill(&path);
        }
    };
    // The last one killed may have been one that was only being started for the repetition.
    let unavailable = matches!(&result, Err(EvalError::Refused(Refusal::WorkerUnavailable(_))));
    assert!(unavailable || matches!(&result, Err(EvalError::Failed(_))), "{result:?}");
    simple(&own);
}

fn one_of_a_batch() {
    let own = evaluator(&[Driver::Lavapipe]);
    let good = program(&shader("b[id.x] = a[id.x] + 1u;"), 64, 1);
    simple(&own);
    let (done, outcomes) = std::sync::mpsc::sync_channel(100);
    // The first one holds the lane while the others gather behind it.
    for n in 0..64_u32 {
        let asked = match n {
            20 => request(&program(&shader("loop { b[0] = 1u; }"), 64, 1), &[1]),
            30 => endless().timeout(Duration::from_millis(400)),
            _ => request(&good, &[n; 64]),
        };
        let mut asked = asked.class(evalmesh::request::Class::Device(class(&own, Driver::Lavapipe)));
        if n == 20 {
            asked.options.fuel = Some(1000);
        }
        let done = done.clone();
        own.start(Job::inline(asked).expect("a job"), Box::new(move |result| drop(done.send((n, result)))));
    }
    drop(done);
    let mut seen = 0;
    for (n, result) in outcomes {
        seen += 1;
        match (n, result) {
            (20, Err(EvalError::Limit(LimitHit::Steps { bound: 1000 })))
            | (30, Err(EvalError::Limit(LimitHit::Deadline { .. }))) => {}
            (n, Ok(reply)) => assert_eq!(out(&reply), [n + 1; 64]),
            (n, other) => panic!("{n}: {other:?}"),
        }
    }
    assert_eq!(seen, 64);
}

fn a_cancelled_one_ends() {
    let own = evaluator(&[Driver::Lavapipe]);
    simple(&own);
    let job = Job::inline(endless()).expect("a job");
    let cancel = job.cancel.clone();
    let (done, outcome) = std::sync::mpsc::sync_channel(1);
    own.start(job, Box::new(move |result| drop(done.send(result))));
    std::thread::sleep(Duration::from_millis(200));
    cancel.cancel();
    assert_eq!(outcome.recv_timeout(Duration::from_secs(5)).expect("it ends"), Err(EvalError::Cancelled));
    simple(&own);
}

fn races_are_demoted() {
    let body = "for (var i = 0u; i < 2000u; i++) { b[i & 7u] = b[i & 7u] * 3u + id.x; }";
    let own = evaluator(&[Driver::Lavapipe]);
    let program = program(&shader(body), 8, 256);
    let demoted = (0..50_u32).any(|n| {
        let result = run(&own, request(&program, &[n]));
        matches!(result, Err(EvalError::Refused(Refusal::ClassNotProven(why))) if why.contains("race"))
    });
    assert!(demoted, "two runs of this differ sooner or later");
    let again = run(&own, request(&program, &[1]));
    assert!(matches!(again, Err(EvalError::Refused(Refusal::ClassNotProven(_)))), "for good: {again:?}");
    on(&own, Driver::Lavapipe, &request(&program, &[1])).expect("in a device class it may race");
    simple(&own);
}

fn no_secrets() {
    let before = workers();
    let own = evaluator(&[Driver::Lavapipe]);
    simple(&own);
    let found: Vec<_> = workers().into_iter().filter(|path| !before.contains(path)).collect();
    assert!(!found.is_empty(), "a worker runs");
    for path in found {
        let environment = std::fs::read_to_string(path.join("environ")).expect("its environment");
        for variable in environment.split('\0').filter(|variable| !variable.is_empty()) {
            let name = variable.split('=').next().unwrap_or_default();
            let known = ["VK_", "XDG_", "LD_LIBRARY_PATH", "HOME", "LP_NUM_THREADS", "MESA_", "CUDA_", "NVIDIA_"];
            assert!(known.iter().any(|known| name.starts_with(known)), "a worker sees {name}");
        }
    }
}

/// A driver that does this as soon as the loader speaks to it, by its manifest. Rust made these tests, so Rust makes it.
fn broken_driver(folder: &std::path::Path, name: &str, does: &str) -> PathBuf {
    let (source, library) = (folder.join(format!("{name}.rs")), folder.join(format!("lib{name}.so")));
    let text = format!(
        "#[unsafe(no_mangle)] pub extern \"C\" fn vk_icdNegotiateLoaderICDInterfaceVersion(_: *mut u32) -> i32 {{ {does} }}"
    );
    std::fs::write(&source, text).expect("a file");
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let made = std::process::Command::new(rustc)
        .args(["--edition", "2024", "--crate-type", "cdylib", "-o"])
        .args([&library, &source])
        .output()
        .expect("the compiler that made these tests runs");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    manifest(folder, name, &library)
}

fn manifest(folder: &std::path::Path, name: &str, library: &std::path::Path) -> PathBuf {
    let path = folder.join(format!("{name}.json"));
    let (library, version) = (library.display(), "1.0.0");
    let text = format!(
        "{{\"file_format_version\": \"{version}\", \"ICD\": {{\"library_path\": \"{library}\", \"api_version\": \"1.3.0\"}}}}"
    );
    std::fs::write(&path, text).expect("a file");
    path
}

fn drivers_that_fail() {
    let folder = tempfile::tempdir().expect("a folder");
    let aborting = broken_driver(folder.path(), "aborting", "std::process::abort()");
    let hanging = broken_driver(folder.path(), "hanging", "loop { std::thread::park() }");
    let no_library = folder.path().join("libnone.so");
    std::fs::write(&no_library, "no library").expect("a file");
    let garbage = manifest(folder.path(), "garbage", &no_library);
    let with = |drivers: &[Driver], more: &[&PathBuf]| {
        let mut config = config(drivers);
        let own = config.env.iter_mut().find(|(name, _)| name == "VK_DRIVER_FILES").expect("drivers are named");
        let sound: Vec<PathBuf> = if drivers.is_empty() { Vec::new() } else { std::env::split_paths(&own.1).collect() };
        own.1 = std::env::join_paths(more.iter().copied().chain(&sound)).expect("paths");
        config.limits.start = Duration::from_secs(5);
        GpuEvaluator::new(config)
    };
    // One that cannot even be loaded is the loader's to skip.
    for broken in [vec![&aborting], vec![&hanging], vec![&garbage, &aborting, &hanging]] {
        let own = with(&[Driver::SwiftShader], &broken);
        simple(&own);
        let devices = own.devices();
        assert_eq!((devices.sound().count(), &devices.trouble), (1, &None), "{devices:?}");
        let refused: Vec<_> = devices.devices.iter().filter(|device| !device.is_sound()).collect();
        let expected: Vec<_> = broken.iter().filter(|path| **path != &garbage).collect();
        assert_eq!(refused.len(), expected.len(), "{devices:?}");
        for path in expected {
            let told = refused.iter().find(|device| device.adapter.driver == path.display().to_string());
            let verdict = &told.unwrap_or_else(|| panic!("no word of {}: {devices:?}", path.display())).verdict;
            let Verdict::Refused { test, why, .. } = verdict else { panic!("{verdict:?}") };
            let expected = if *path == &hanging { "took too long" } else { "ended by itself" };
            assert!(test == "listing its devices" && why.contains(expected), "{verdict:?}");
        }
    }
    let alone = with(&[], &[&aborting]);
    let refused = run(&alone, endless());
    assert!(matches!(refused, Err(EvalError::Refused(Refusal::NoDevice { .. }))), "{refused:?}");
    assert_eq!(alone.devices().devices.len(), 1, "{:?}", alone.devices());
    // A node that has only such a driver lives, says so, and answers what is no shader's.
    let mut only = config(&[]);
    only.env.retain(|(name, _)| name != "VK_DRIVER_FILES");
    only.env.push(("VK_DRIVER_FILES".into(), aborting.into()));
    let node = evalmesh::node::Node::builder().gpu(only).start().expect("a node");
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let devices = tokio.block_on(node.devices()).expect("devices");
    assert_eq!((devices.sound().count(), devices.devices.len()), (0, 1), "{devices:?}");
    assert_eq!(node.status().gpu, devices.summary());
    node.shutdown();
}

fn no_worker() {
    for exe in ["/nowhere/evalmesh", "/bin/true"] {
        let none = GpuEvaluator::new(GpuConfig { worker_exe: Some(exe.into()), ..config(&[Driver::Lavapipe]) });
        let devices = none.devices();
        assert!(
            devices.devices.is_empty()
                && devices.trouble.as_ref().is_some_and(|why| why.contains("worker unavailable")),
            "{devices:?}"
        );
        let refused = run(&none, endless());
        assert!(matches!(refused, Err(EvalError::Refused(Refusal::NoDevice { .. }))), "{refused:?}");
    }
}

fn no_worker_outlives() {
    let before = workers();
    let own = GpuEvaluator::new(GpuConfig { spare: true, ..config(&[Driver::Lavapipe]) });
    simple(&own);
    own.start(Job::inline(endless()).expect("a job"), Box::new(|result| assert!(result.is_err())));
    std::thread::sleep(Duration::from_secs(1));
    drop(own);
    let start = Instant::now();
    while workers().iter().any(|path| !before.contains(path)) {
        assert!(start.elapsed() < Duration::from_secs(10), "a worker is left");
        std::thread::sleep(Duration::from_millis(50));
    }
}
