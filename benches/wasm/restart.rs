//! The first call after a restart: a large program whose native code lies in the store on disk.
//!
//! The program is made here: 20 MB of functions that a compiler cannot fold away, so that its native code is about twice as large.

use std::time::Instant;

use evalmesh::evaluator::Job;
use evalmesh::evaluator::pool::Pool;
use evalmesh::evaluator::wasm::{AotConfig, WasmEvaluator, WasmLimits, WasmSetup};
use evalmesh::reply::{BlobRef, Payload};
use evalmesh::request::{Code, Program, Request};

const BYTES: usize = 20_000_000;
const RESTARTS: usize = 15;

pub(crate) fn first_call() {
    let folder = tempfile::tempdir().expect("a folder");
    let program = large();
    let digest = evalmesh::id::Digest::of(&program);
    let mut job = super::job(Request::new(Program::wasm(program.clone()).entry("f0")).arg("1").arg("2"));
    let start = || {
        let setup = WasmSetup {
            aot: Some(AotConfig::new(folder.path().join("aot"), b"a secret")),
            limits: WasmLimits { compiled_bytes: 1 << 30, ..WasmLimits::default() },
            ..WasmSetup::default()
        };
        WasmEvaluator::with(Pool::start("bench", 1).expect("threads"), setup).expect("an evaluator")
    };
    let life = |job: &Job| {
        let evaluator = start();
        let begin = Instant::now();
        evaluator.evaluate(job).expect("a reply");
        (begin.elapsed(), evaluator.artifacts())
    };
    let (compiled, report) = life(&job);
    assert_eq!(report.compiled, 1);
    let files = std::fs::read_dir(folder.path().join("aot")).expect("a folder").flatten();
    let native: u64 = files.filter_map(|file| Some(file.metadata().ok()?.len())).sum();
    println!(
        "program {} MB, native code {} MB, compiled in {compiled:.1?}",
        program.len() / 1_000_000,
        native / 1_000_000
    );
    // A node has the digest of a program that it holds; a caller who brings the bytes pays for hashing them.
    for (name, by_digest) in [("bytes given", false), ("named by digest", true)] {
        if by_digest {
            let mut request = (*job.request).clone();
            request.program.code = Code::Bytes(Payload::Stored(BlobRef { digest, len: program.len() as u64 }));
            job.request = request.into();
        }
        let mut times: Vec<_> = (0..RESTARTS).map(|_| life(&job)).collect();
        assert!(times.iter().all(|(_, report)| report.disk_hits == 1 && report.compiled == 0));
        times.sort_by_key(|(time, _)| *time);
        println!("first call after restart, {name}: median {:.1?}, best {:.1?}", times[RESTARTS / 2].0, times[0].0);
    }
}

/// Functions of two numbers, each a long mix of its arguments and its predecessors.
fn large() -> Vec<u8> {
    let leb = |mut value: usize| {
        let mut bytes = Vec::new();
        loop {
            let low = u8::try_from(value & 0x7f).expect("seven bits");
            value >>= 7;
            bytes.push(if value == 0 { low } else { low | 0x80 });
            if value == 0 {
                return bytes;
            }
        }
    };
    let section = |id: u8, body: Vec<u8>| [vec![id], leb(body.len()), body].concat();
    // (param i64 i64) (result i64)
    let types = section(1, vec![1, 0x60, 2, 0x7e, 0x7e, 1, 0x7e]);
    let mut bodies = Vec::new();
    let mut count = 0;
    let mut seed = 1_u64;
    while bodies.len() < BYTES {
        let mut code = vec![0];
        for _ in 0..80 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let constant = usize::try_from((seed >> 40) & 0x3f_ffff).expect("22 bits") | 0x10_0000;
            // x = (x op constant) rotated by y; y = y op2 x
            let [op, op2] =
                [[0x7c, 0x7e, 0x85][(seed >> 33) as usize % 3], [0x7c, 0x7d, 0x84][(seed >> 35) as usize % 3]];
            code.extend([0x20, 0, 0x42]);
            code.extend(leb(constant & 0x1f_ffff | 0x10_0000).into_iter().chain([]));
            code.extend([op, 0x20, 1, 0x89, 0x21, 0, 0x20, 1, 0x20, 0, op2, 0x21, 1]);
        }
        code.extend([0x20, 0, 0x20, 1, 0x7c, 0x0b]);
        bodies.extend(leb(code.len()));
        bodies.extend(code);
        count += 1;
    }
    let functions = section(3, [leb(count), vec![0; count]].concat());
    let exports = section(7, [vec![1, 2], b"f0".to_vec(), vec![0, 0]].concat());
    let code = section(10, [leb(count), bodies].concat());
    [b"\0asm\x01\0\0\0".to_vec(), types, functions, exports, code].concat()
}
