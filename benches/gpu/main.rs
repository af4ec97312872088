//! What a GPU evaluation costs beyond the work itself, and what a device gives.
//!
//! `eval "$(tests/drivers.sh env)"; cargo bench --no-default-features --features gpu,node --bench gpu` on software devices; without the first part on whatever is here. Bare wgpu and
//! evaluations take turns, so that a busy machine is busy for both; figures are medians.

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

/// That of the `evalmesh` program, in the node, its workers and the bare runs alike.
#[path = "../../src/allocator.rs"]
mod allocator;
mod bare;
mod card;
mod compiled;
mod warm;

use std::time::{Duration, Instant};

use bare::Bare;
use evalmesh::error::{EvalError, LimitHit};
use evalmesh::eval::Eval;
use evalmesh::evaluator::gpu::{Binding, Dispatch, GpuConfig, GpuEvaluator, GpuProgram, Groups, Kind, Size, Stage};
use evalmesh::evaluator::worker::enter_worker_role;
use evalmesh::evaluator::{Evaluator, Job};
use evalmesh::node::Node;
use evalmesh::request::{Class, Request};

/// Work that is the same in both: a few instructions a word.
const SHADER: &str = "@group(0) @binding(0) var<storage, read> a: array<vec4u>;
    @group(0) @binding(1) var<storage, read_write> b: array<vec4u>;
    @compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u) {
        let x = a[id.x];
        b[id.x] = (x ^ (x >> vec4u(15u))) * 0x2c1b3c6du;
    }";

/// Inputs up to this size are measured through both doors of a node.
const DOORS: usize = 4096;

fn main() {
    allocator::keep_memory();
    enter_worker_role();
    // `cargo test --benches` wants to know that it runs, not how fast.
    let quick = std::env::args().any(|arg| arg == "--test");
    let node = Node::builder().start().expect("a node in memory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let devices = runtime.block_on(node.devices()).expect("devices");
    let Some(device) = devices.sound().next() else {
        println!("{}", devices.summary());
        return;
    };
    let alone = GpuEvaluator::new(GpuConfig { spare: false, ..GpuConfig::default() });
    let class = Class::Device(device.class.clone().expect("a sound device has one"));
    println!("on {}\n", device.adapter);
    println!(
        "{:>12} {:>12} {:>12} {:>12} {:>8} {:>12} {:>12} {:>12}",
        "bytes", "bare", "eval", "overhead", "ratio", "blocking", "no node", "on device"
    );
    // A number of bytes as an argument: that row and nothing else.
    let only = std::env::args().find_map(|arg| arg.parse::<usize>().ok());
    for (bytes, rounds) in [(4096, 400), (64 << 10, 200), (1 << 20, 50), (64 << 20, 7)] {
        if only.is_some_and(|only| only != bytes) {
            continue;
        }
        let rounds = if quick { 1 } else { rounds };
        overhead(&node, &runtime, &alone, &device.adapter.name, &class, bytes, rounds);
    }
    if only.is_none_or(|only| only == 4096) {
        row(&node, &runtime, &device.adapter.name, &class, if quick { 1 } else { 20 });
    }
    drop(alone);
    if only.is_some() {
        return node.shutdown();
    }
    respawn(&node, &runtime, &class, if quick { 1 } else { 5 });
    together(&node, &runtime, &class, if quick { 10 } else { 1000 });
    for device in devices.sound() {
        compiled::measure(&device.adapter.name, if quick { 1 } else { 5 });
    }
    // A processor would take minutes for what a card does in milliseconds.
    card::measure(&node, &runtime, &class, quick || device.adapter.kind == "software");
    node.shutdown();
}

/// A program with an input and an output of these sizes.
fn program(shader: &str, output: u64, groups: u32, repeat: u32) -> GpuProgram {
    let name = |name: &str| name.parse().expect("a name");
    GpuProgram {
        shader: shader.to_owned(),
        bindings: vec![
            Binding { group: 0, binding: 0, name: name("in"), kind: Kind::Input },
            Binding { group: 0, binding: 1, name: name("out"), kind: Kind::Output(Size::Bytes(output)) },
        ],
        stages: vec![Stage {
            repeat,
            dispatches: vec![Dispatch { entry: "main".to_owned(), groups: Groups::Fixed([groups, 1, 1]) }],
        }],
    }
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

fn overhead(
    node: &Node,
    runtime: &tokio::runtime::Runtime,
    alone: &GpuEvaluator,
    adapter: &str,
    class: &Class,
    bytes: usize,
    rounds: u32,
) {
    let groups = u32::try_from(bytes / 16 / 256).expect("fits");
    let bare = Bare::new(adapter, SHADER, bytes as u64, groups);
    let program = program(SHADER, bytes as u64, groups, 1);
    let mut input = vec![7; bytes];
    let (mut bares, mut evals, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
    let (mut singles, mut insides) = (Vec::new(), Vec::new());
    for round in 0..rounds + 2 {
        // Another question each time, or it would be remembered.
        input[..4].copy_from_slice(&round.to_le_bytes());
        warm::touch(bytes);
        let start = Instant::now();
        let right = bare.run(&input);
        bares.push(start.elapsed());
        // What is large goes the same way through both doors. Of others each goes first in its turn, as the second one finds more of the node in the
        // processor's caches.
        let doors = if bytes > DOORS { vec![false] } else { vec![round % 2 == 0, round % 2 > 0] };
        for waits in doors {
            // Another question than the one before.
            input[3] ^= 0x80;
            let given = input.clone();
            warm::touch(bytes);
            let start = Instant::now();
            let request = program.request().expect("a program").file("in", given).expect("a name").class(class.clone());
            let answer = if waits { node.eval_blocking(request) } else { runtime.block_on(node.eval(request)) };
            let answer = answer.expect("an answer");
            if waits { &mut blocked } else { &mut evals }.push(start.elapsed());
            let out = answer.reply.files[0].data.bytes().expect("inline");
            assert_eq!(&out[16..], &right[16..], "both do the same");
            if !waits {
                insides.push(answer.reply.facts.duration);
            }
        }
        let given = input.clone();
        warm::touch(bytes);
        let start = Instant::now();
        let request = program.request().expect("a program").file("in", given).expect("a name").class(class.clone());
        let (done, outcome) = std::sync::mpsc::sync_channel(1);
        alone.start(Job::inline(request).expect("a job"), Box::new(move |result| drop(done.send(result))));
        outcome.recv().expect("it ends").expect("a reply");
        singles.push(start.elapsed());
    }
    // The first two have pipelines and buffers made.
    let (bare, eval) = (median(bares.split_off(2)), median(evals.split_off(2)));
    let block = if blocked.is_empty() { "-".to_owned() } else { format!("{:.1?}", median(blocked.split_off(2))) };
    let single = median(singles.split_off(2));
    let inside = median(insides.split_off(2));
    let ratio = eval.as_secs_f64() / bare.as_secs_f64();
    let over = eval.saturating_sub(bare);
    println!(
        "{bytes:>12} {bare:>12.1?} {eval:>12.1?} {over:>12.1?} {ratio:>8.2} {block:>12} {single:>12.1?} {inside:>12.1?}"
    );
}

/// One small evaluation after the other, then as many bare runs, in turns: both find in the processor's caches what they left there.
fn row(node: &Node, runtime: &tokio::runtime::Runtime, adapter: &str, class: &Class, turns: u32) {
    const IN_A_ROW: u32 = 50;

    let bare = Bare::new(adapter, SHADER, 4096, 1);
    let program = program(SHADER, 4096, 1, 1);
    let (mut bares, mut evals, mut blocked) = (Vec::new(), Vec::new(), Vec::new());
    for turn in 0..=turns {
        for n in 0..IN_A_ROW {
            let input = (1 << 29 | turn << 10 | n).to_le_bytes().repeat(1024);
            let start = Instant::now();
            bare.run(&input);
            bares.push(start.elapsed());
        }
        for n in 0..IN_A_ROW {
            let input = (1 << 29 | turn << 10 | n).to_le_bytes().repeat(1024);
            let start = Instant::now();
            let request = program.request().expect("a program").file("in", input).expect("a name").class(class.clone());
            runtime.block_on(node.eval(request)).expect("an answer");
            evals.push(start.elapsed());
        }
        for n in 0..IN_A_ROW {
            let input = (1 << 28 | turn << 10 | n).to_le_bytes().repeat(1024);
            let start = Instant::now();
            let request = program.request().expect("a program").file("in", input).expect("a name").class(class.clone());
            node.eval_blocking(request).expect("an answer");
            blocked.push(start.elapsed());
        }
    }
    // The first of each turn have their caches to fill.
    let settled = |times: Vec<Duration>| {
        let turns = times.chunks(IN_A_ROW as usize).skip(1);
        median(turns.flat_map(|turn| turn[turn.len() / 5..].to_vec()).collect())
    };
    let (bare, eval, block) = (settled(bares), settled(evals), settled(blocked));
    println!(
        "\n4096 bytes, {IN_A_ROW} in a row: bare {bare:.1?}, eval {eval:.1?}, {:.1?} more, blocking {block:.1?}, {:.1?} more",
        eval.saturating_sub(bare),
        block.saturating_sub(bare)
    );
}

/// From the end of a worker that had to be ended to the next result.
fn respawn(node: &Node, runtime: &tokio::runtime::Runtime, class: &Class, rounds: u32) {
    let hung = "@group(0) @binding(0) var<storage, read> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
            var x = a[0]; for (var i = 0u; i < 200000000u; i++) { x = x * 1664525u + i; } b[id.x] = x;
        }";
    let ask = |shader: &str, groups: u32, n: u32, timeout: Duration| {
        let program = program(shader, u64::from(groups) * 256, groups, 1);
        let request = program.request().expect("a program").file("in", n.to_le_bytes().repeat(64)).expect("a name");
        runtime.block_on(node.eval(request.class(class.clone()).timeout(timeout)))
    };
    let mut times = Vec::new();
    for n in 0..rounds {
        // The spare is being made ready meanwhile, as it would be in a node that is not attacked without a pause.
        std::thread::sleep(Duration::from_secs(1));
        let ended = ask(hung, 60_000, n, Duration::from_millis(200));
        assert!(matches!(ended, Err(EvalError::Limit(LimitHit::Deadline { .. }))), "{ended:?}");
        let start = Instant::now();
        ask(SHADER, 1, 1_000_000 + n, Duration::from_secs(20)).expect("an answer");
        times.push(start.elapsed());
    }
    println!("\nfirst result after a shader had to be ended: {:.1?}", median(times));
}

/// Many small evaluations at once: they share submissions.
fn together(node: &Node, runtime: &tokio::runtime::Runtime, class: &Class, count: u32) {
    let program = program(SHADER, 4096, 1, 1);
    let requests = (0..count).map(|n| -> Request {
        let request =
            program.request().expect("a program").file("in", (n | 1 << 30).to_le_bytes().repeat(1024)).expect("a name");
        request.class(class.clone())
    });
    let requests: Vec<_> = requests.collect();
    let start = Instant::now();
    runtime.block_on(async {
        let mut tasks = tokio::task::JoinSet::new();
        for request in requests {
            let node = node.clone();
            tasks.spawn(async move { node.eval(request).await.map(drop) });
        }
        while let Some(answered) = tasks.join_next().await {
            answered.expect("no panic").expect("an answer");
        }
    });
    let took = start.elapsed();
    println!("{count} evaluations of 4096 bytes at once: {took:.1?}, {:.1?} each", took / count);
}
