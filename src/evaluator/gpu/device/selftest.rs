//! What a device must get right before it may answer: small programs whose answers are known, one for each way in which drivers were seen to lie.
//!
//! They go the way of every program - admitted, rewritten, run in pooled buffers - so they test that way too.

use super::super::limits::{PAGE, STEPS};
use super::super::program::{Binding, Dispatch, GpuProgram, Groups, Kind, Size, Stage};
use super::super::worker::Code;
use super::super::worker::memory;
use super::super::worker::shared::{Data, Place, Shared};
use super::Fault;
use super::run::{Runner, Task};
use crate::id::Digest;

/// A test that was failed, and what came instead of the right answer.
pub(super) type Failed = (&'static str, String);

struct Test {
    name: &'static str,
    shader: &'static str,
    input: fn() -> Vec<u32>,
    outputs: usize,
    groups: u32,
    right: fn(&[u32]) -> Vec<u32>,
}

/// Runs all tests.
pub(super) fn run(runner: &mut Runner) -> Result<(), Failed> {
    for test in TESTS {
        let input = (test.input)();
        let right = (test.right)(&input);
        // Twice, since the second run gets used buffers.
        for _ in 0..2 {
            let found = words(runner, test.shader, &["main"], &input, test.outputs, test.groups)
                .map_err(|why| (test.name, why))?;
            if let Some(at) = found.iter().zip(&right).position(|(found, right)| found != right) {
                return Err((test.name, format!("word {at} is {}, not {}", found[at], right[at])));
            }
            if found.len() != right.len() {
                return Err((test.name, format!("{} words came, not {}", found.len(), right.len())));
            }
        }
    }
    Ok(())
}

/// Whether the device uses payloads right where they lie in shared memory: an input, what is changed, an output that begins as zeros and of which the
/// second half is left alone, and what lies between them and is nobody's.
pub(super) fn in_place(runner: &mut Runner) -> Result<(), String> {
    const WORDS: u32 = 128 * 1024;
    const BYTES: u64 = 4 * WORDS as u64;
    let free = vec![1; usize::try_from(PAGE).expect("a page")];
    let places = [0, BYTES, BYTES + PAGE, 2 * BYTES + PAGE, 3 * BYTES + PAGE];
    let [input, _, comes, goes, output] = places;
    let (program, code) = used_in_place(BYTES, WORDS / 64)?;
    runner.load(program, &Code { bytes: code.into(), compiled: None, keep: false }).map_err(|fault| said(&fault))?;
    let system = |error: std::io::Error| error.to_string();
    let mut shared = Shared::new(Some(memory::make().map_err(system)?));
    shared.reach(output + BYTES).map_err(system)?;
    for round in 0..2 {
        let words = |seed: u32| (0..WORDS).map(move |n| (n ^ seed).wrapping_mul(0x9E37_79B9));
        let changed = words(round).zip(words(!round)).map(|(a, b)| b.wrapping_add(a.wrapping_mul(3)));
        let half = words(round).zip(words(!round)).step_by(2).map(|(a, b)| a ^ b);
        let bytes = |words: &mut dyn Iterator<Item = u32>| words.flat_map(u32::to_le_bytes).collect::<Vec<u8>>();
        let (a, b) = (bytes(&mut words(round)), bytes(&mut words(!round)));
        let used = vec![7; a.len()];
        for (at, filled) in places.into_iter().zip([&a, &free, &b, &used, &used]) {
            shared.output(Place::Shared { at }, filled).map_err(system)?;
        }
        let inputs = [Data::Shared { at: input, len: BYTES }, Data::Shared { at: comes, len: BYTES }];
        let outputs = [Place::Shared { at: goes }, Place::Shared { at: output }];
        let task = Task { program, portable: false, steps: STEPS, inputs: &inputs, outputs: &outputs };
        runner.run(&[task], &mut shared).pop().ok_or("no outcome")?.map_err(|fault| said(&fault))?;
        let zeros = std::iter::repeat_n(0, WORDS as usize / 2);
        let (changed, out) = (bytes(&mut { changed }), bytes(&mut half.chain(zeros)));
        for (at, right) in places.into_iter().zip([&a, &free, &b, &changed, &out]) {
            if shared.input(&Data::Shared { at, len: right.len() as u64 }).map_err(system)? != right {
                return Err(format!("what lies at {at} is wrong in run {round}"));
            }
        }
    }
    Ok(())
}

/// The program for [`in_place`].
fn used_in_place(bytes: u64, groups: u32) -> Result<(Digest, Vec<u8>), String> {
    let shader = "@group(0) @binding(0) var<storage, read> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @group(0) @binding(2) var<storage, read_write> c: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
            if id.x % 2u == 0u { c[id.x / 2u] += a[id.x] ^ b[id.x]; }
            b[id.x] += a[id.x] * 3u;
        }";
    let kinds = [Kind::Input, Kind::InOut, Kind::Output(Size::Bytes(bytes))];
    let binding = |(binding, kind): (u32, Kind)| {
        let name = format!("b{binding}").parse().map_err(|error: crate::error::RequestError| error.to_string())?;
        Ok(Binding { group: 0, binding, name, kind })
    };
    let bindings = (0..).zip(kinds).map(binding).collect::<Result<_, String>>()?;
    let dispatch = Dispatch { entry: "main".to_owned(), groups: Groups::Fixed([groups, 1, 1]) };
    let program = GpuProgram {
        shader: shader.to_owned(),
        bindings,
        stages: vec![Stage { repeat: 1, dispatches: vec![dispatch] }],
    };
    let code = program.encode().map_err(|error| error.to_string())?;
    Ok((Digest::of(&code), code))
}

fn said(fault: &Fault) -> String {
    match fault {
        Fault::Error(error) => error.to_string(),
        Fault::Lost(why) => format!("the device was lost: {why}"),
    }
}

/// Runs a shader on words: input at binding 0, output at binding 1, its entries one after the other.
pub(super) fn words(
    runner: &mut Runner,
    shader: &str,
    entries: &[&str],
    input: &[u32],
    outputs: usize,
    groups: u32,
) -> Result<Vec<u32>, String> {
    let (digest, code) = program(shader, entries, outputs, groups)?;
    let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    runner.load(digest, &Code { bytes: code.into(), compiled: None, keep: false }).map_err(|fault| said(&fault))?;
    let inputs = [Data::Inline(bytes.into())];
    let task = Task { program: digest, portable: false, steps: STEPS, inputs: &inputs, outputs: &[Place::Inline] };
    let outcome =
        runner.run(&[task], &mut Shared::default()).pop().ok_or("no outcome")?.map_err(|fault| said(&fault))?;
    match outcome.outputs.as_slice() {
        [Data::Inline(bytes)] => {
            Ok(bytes.chunks_exact(4).map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]])).collect())
        }
        _ => Err("no output".to_owned()),
    }
}

fn program(shader: &str, entries: &[&str], outputs: usize, groups: u32) -> Result<(Digest, Vec<u8>), String> {
    let name = |name: &str| name.parse().map_err(|error: crate::error::RequestError| error.to_string());
    let dispatch = |entry: &&str| Dispatch { entry: (*entry).to_owned(), groups: Groups::Fixed([groups, 1, 1]) };
    let program = GpuProgram {
        shader: shader.to_owned(),
        bindings: vec![
            Binding { group: 0, binding: 0, name: name("in")?, kind: Kind::Input },
            Binding { group: 0, binding: 1, name: name("out")?, kind: Kind::Output(Size::Bytes(outputs as u64 * 4)) },
        ],
        stages: vec![Stage { repeat: 1, dispatches: entries.iter().map(dispatch).collect() }],
    };
    let code = program.encode().map_err(|error| error.to_string())?;
    Ok((Digest::of(&code), code))
}

fn numbers() -> Vec<u32> {
    (0..4096_u32).map(|n| n.wrapping_mul(0x9E37_79B9) ^ n.rotate_left(7)).collect()
}

fn few() -> Vec<u32> {
    vec![3, 5, 7, 11]
}

const TESTS: &[Test] = &[
    Test {
        name: "flat loop",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            @compute @workgroup_size(1) fn main() {
                var x = a[0];
                for (var i = 0u; i < 200000u; i++) { x = x * 1664525u + 1013904223u; }
                b[0] = x;
            }",
        input: few,
        outputs: 1,
        groups: 1,
        right: |input| vec![(0..200_000).fold(input[0], |x, _| x.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))],
    },
    Test {
        name: "nested loops",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            @compute @workgroup_size(1) fn main() {
                var x = a[1];
                for (var i = 0u; i < 400u; i++) { for (var j = 0u; j < 400u; j++) { x = (x ^ (i * j)) * 16777619u; } }
                b[0] = x;
            }",
        input: few,
        outputs: 1,
        groups: 1,
        right: |input| {
            let pairs = (0..400_u32).flat_map(|i| (0..400_u32).map(move |j| i * j));
            vec![pairs.fold(input[1], |x, product| (x ^ product).wrapping_mul(16_777_619))]
        },
    },
    Test {
        name: "integer hashing",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
                var x = a[id.x];
                x ^= x >> 16u; x *= 0x85ebca6bu; x ^= x >> 13u; x *= 0xc2b2ae35u; x ^= x >> 16u;
                let s = bitcast<i32>(x);
                let d = s / bitcast<i32>((a[id.x] & 15u)) + s % 7;
                b[id.x] = x ^ bitcast<u32>(d) ^ (x << (a[id.x] & 63u)) ^ countOneBits(x) ^ reverseBits(x) ^ bitcast<u32>(s >> 3u);
            }",
        input: numbers,
        outputs: 4096,
        groups: 64,
        right: |input| {
            let hash = |a: &u32| {
                let mut x = *a;
                x ^= x >> 16;
                x = x.wrapping_mul(0x85eb_ca6b);
                x ^= x >> 13;
                x = x.wrapping_mul(0xc2b2_ae35);
                x ^= x >> 16;
                let s = x.cast_signed();
                let by = (a & 15).cast_signed();
                let d = if by == 0 { s } else { s.wrapping_div(by) };
                let d = d.wrapping_add(s.wrapping_rem(7)).cast_unsigned();
                x ^ d ^ x.wrapping_shl(a & 63) ^ x.count_ones() ^ x.reverse_bits() ^ (s >> 3).cast_unsigned()
            };
            input.iter().map(hash).collect()
        },
    },
    Test {
        name: "barriers",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            var<workgroup> shared_words: array<u32, 64>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) at: u32) {
                shared_words[at] = a[id.x];
                workgroupBarrier();
                for (var step = 1u; step < 64u; step *= 2u) {
                    var sum = shared_words[at];
                    if (at >= step) { sum += shared_words[at - step]; }
                    workgroupBarrier();
                    shared_words[at] = sum;
                    workgroupBarrier();
                }
                b[id.x] = shared_words[63u - at];
            }",
        input: numbers,
        outputs: 4096,
        groups: 64,
        right: |input| {
            let group = |words: &[u32]| {
                let sums = words.iter().scan(0_u32, |sum, word| {
                    *sum = sum.wrapping_add(*word);
                    Some(*sum)
                });
                let mut sums: Vec<_> = sums.collect();
                sums.reverse();
                sums
            };
            input.chunks(64).flat_map(group).collect()
        },
    },
    Test {
        name: "atomics",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<atomic<u32>, 64>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
                let x = a[id.x];
                atomicAdd(&b[x & 15u], x);
                atomicMax(&b[16u + (x & 15u)], x);
                atomicXor(&b[32u + (x & 15u)], x);
                atomicOr(&b[48u + (x & 15u)], x & 0xff00ff00u);
            }",
        input: numbers,
        outputs: 64,
        groups: 64,
        right: |input| {
            let mut right = vec![0_u32; 64];
            for x in input {
                let at = (x & 15) as usize;
                right[at] = right[at].wrapping_add(*x);
                right[16 + at] = right[16 + at].max(*x);
                right[32 + at] ^= x;
                right[48 + at] |= x & 0xff00_ff00;
            }
            right
        },
    },
    Test {
        name: "zero initialisation",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            var<workgroup> in_group: array<u32, 256>;
            var<private> own: array<u32, 16>;
            @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) at: u32) {
                var local: array<u32, 16>;
                b[id.x] = b[id.x] + in_group[at * 4u + 3u] + own[at & 15u] + local[a[0] & 15u];
                workgroupBarrier();
                in_group[at] = 7u;
                if (id.x == 4095u) { b[4096] = a[0]; }
            }",
        input: few,
        outputs: 4096 + 64,
        groups: 64,
        right: |input| [&[0; 4096], &input[..1], &[0; 63]].concat(),
    },
    Test {
        name: "bounds",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            @compute @workgroup_size(1) fn main() {
                var local = array<u32, 4>(1u, 2u, 3u, 4u);
                let far = a[0] * 1000u;
                b[0] = a[far]; b[1] = local[far]; b[2] = a[a[1] - 6u];
                let v = vec3u(7u, 8u, 9u);
                b[3] = v[far];
                local[far] = 5u; b[4] = local[3];
                b[far] = 42u;
                let back = -1 - bitcast<i32>(a[0]);
                b[5] = a[back];
            }",
        input: few,
        outputs: 8,
        groups: 1,
        right: |_| vec![11, 4, 11, 9, 5, 11, 0, 42],
    },
    Test {
        name: "many workgroups",
        shader: "@group(0) @binding(0) var<storage, read> a: array<u32>;
            @group(0) @binding(1) var<storage, read_write> b: array<u32>;
            @compute @workgroup_size(4) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
                if (id.x < 65536u) { b[id.x] = id.x * a[2] + groups.x; }
            }",
        input: few,
        outputs: 65_536,
        groups: 16_400,
        right: |input| (0..65_536).map(|id: u32| id.wrapping_mul(input[2]).wrapping_add(16_400)).collect(),
    },
];
