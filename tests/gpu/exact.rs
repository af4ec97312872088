//! What devices are, and what they answer.

use evalmesh::error::{EvalError, LimitHit, Refusal};
use evalmesh::evaluator::gpu::{Binding, Dispatch, Groups, Kind, Size, Stage, Verdict};
use evalmesh::request::{Class, Options, Request};

use crate::Check;
use crate::drivers::{COMMON, Driver, class, evaluator, on, out, program, request, run, shader};

pub(crate) const CHECKS: &[Check] = &[
    ("two devices are sound and the third is refused by the test it fails", two_are_sound_and_one_is_refused),
    ("an exact kernel agrees on both sound devices and with Rust", an_exact_kernel_agrees),
    ("float kernels are of one class, and asking for them as portable is an error", float_kernels_keep_to_their_class),
    ("several dispatches share buffers", several_dispatches_share_buffers),
    ("buffers that are used again hold what their evaluation says", used_again),
    ("large buffers go through shared memory", large_buffers),
    ("shared memory that devices used is given back", given_back),
    ("no driver is an answer, not an error", no_driver),
];

fn two_are_sound_and_one_is_refused() {
    let devices = COMMON.devices();
    for device in &devices.devices {
        println!("   {}: {:?} {:?} {:?}", device.adapter, device.class, device.verdict, device.speed);
    }
    assert_eq!((devices.devices.len(), devices.sound().count(), devices.trouble.clone()), (3, 2, None));
    for device in devices.sound() {
        // SwiftShader has the extension and says that it takes nothing through it.
        let can = cfg!(target_os = "linux") && device.adapter.name.starts_with("llvmpipe");
        assert_eq!(device.in_place, can, "{}: large payloads are used where they lie", device.adapter);
    }
    let refused = devices.devices.iter().find(|device| !device.is_sound()).expect("one");
    let Verdict::Refused { test, why, advice } = &refused.verdict else { panic!("{refused:?}") };
    assert_eq!((test.as_str(), refused.class.as_ref()), ("flat loop", None), "{why}");
    assert!(refused.adapter.driver_version.contains("22.3") && advice.contains("Mesa 25"), "{refused:?}");
    let (lavapipe, swiftshader) = (class(&COMMON, Driver::Lavapipe), class(&COMMON, Driver::SwiftShader));
    assert_ne!(lavapipe, swiftshader);
    let again = evaluator(&[Driver::Lavapipe]);
    assert_eq!(class(&again, Driver::Lavapipe), lavapipe, "a class is the same in every process");
}

/// PCG, 64 rounds of it for each word.
const HASH: &str = "var x = a[id.x];
    for (var i = 0u; i < 64u; i++) {
        let state = x * 747796405u + 2891336453u;
        let word = ((state >> ((state >> 28u) + 4u)) ^ state) * 277803737u;
        x = (word >> 22u) ^ word;
    }
    b[id.x] = x;";

fn hash(word: u32) -> u32 {
    (0..64).fold(word, |x, _| {
        let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
        let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
        (word >> 22) ^ word
    })
}

fn an_exact_kernel_agrees() {
    let input: Vec<u32> = (0..4096).collect();
    let right: Vec<u32> = input.iter().map(|word| hash(*word)).collect();
    let portable = request(&program(&shader(HASH), 4096, 64), &input);
    let reply = run(&COMMON, portable.clone()).expect("a reply");
    assert_eq!(out(&reply), right);
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        let own = on(&COMMON, driver, &portable).expect("a reply");
        assert_eq!(own.answer(), reply.answer(), "{driver:?}");
    }
}

fn float_kernels_keep_to_their_class() {
    let body = "b[id.x] = bitcast<u32>(sin(f32(a[id.x]) * 0.37));";
    let request = request(&program(&shader(body), 4096, 64), &(0..4096).collect::<Vec<_>>());
    let refused = run(&COMMON, request.clone());
    assert!(
        matches!(&refused, Err(EvalError::Refused(Refusal::ClassNotProven(why))) if why.contains("float")),
        "{refused:?}"
    );
    let answers = [Driver::Lavapipe, Driver::SwiftShader].map(|driver| on(&COMMON, driver, &request).expect("a reply"));
    assert_ne!(answers[0].answer(), answers[1].answer(), "these two differ in their sines");
    let classes = [Driver::Lavapipe, Driver::SwiftShader].map(|driver| class(&COMMON, driver));
    let ids = classes.map(|class| request.clone().class(Class::Device(class)).id().expect("an id"));
    assert_ne!(ids[0], ids[1], "the class is in the id");
    let elsewhere = request.class(Class::Device("gpu:another:0123456789abcdef".parse().expect("a name")));
    assert!(matches!(run(&COMMON, elsewhere), Err(EvalError::Refused(Refusal::NoDevice { .. }))));
}

fn several_dispatches_share_buffers() {
    let shader = "@group(0) @binding(0) var<storage, read_write> a: array<u32>;
        @group(1) @binding(5) var<storage, read_write> b: array<u32>;
        @group(0) @binding(2) var<uniform> by: vec4u;
        @compute @workgroup_size(32) fn there(@builtin(global_invocation_id) id: vec3u) { b[id.x] = a[(id.x + 1u) % 128u] * by.x; }
        @compute @workgroup_size(32) fn back(@builtin(global_invocation_id) id: vec3u) { a[id.x] = b[(id.x + 1u) % 128u] + by.y; }";
    let name = |name: &str| name.parse().expect("a name");
    let cover = |entry: &str| Dispatch { entry: entry.to_owned(), groups: Groups::Cover { binding: 0, stride: 4 } };
    let program = evalmesh::evaluator::gpu::GpuProgram {
        shader: shader.to_owned(),
        bindings: vec![
            Binding { group: 0, binding: 0, name: name("words"), kind: Kind::InOut },
            Binding {
                group: 1,
                binding: 5,
                name: name("stdout"),
                kind: Kind::Output(Size::Of { binding: 0, times: 1, over: 1 }),
            },
            Binding { group: 0, binding: 2, name: name("by"), kind: Kind::Input },
        ],
        stages: vec![
            Stage { repeat: 10, dispatches: vec![cover("there"), cover("back")] },
            Stage { repeat: 1, dispatches: vec![cover("there")] },
        ],
    };
    let mut words: Vec<u32> = (0..128).map(|n| n * n).collect();
    let request = program.request().expect("a program");
    let request = request.file("words", crate::drivers::bytes(&words)).expect("a name");
    let request = request.file("by", crate::drivers::bytes(&[3, 7, 0, 0])).expect("a name");
    let reply = run(&COMMON, request).expect("a reply");
    let mut other = vec![0; 128];
    for step in 0..=10 {
        other = (0..128).map(|at| words[(at + 1) % 128_usize].wrapping_mul(3)).collect();
        if step < 10 {
            words = (0..128).map(|at| other[(at + 1) % 128_usize].wrapping_add(7)).collect();
        }
    }
    assert_eq!(crate::drivers::words(reply.stdout.as_ref().expect("stdout").bytes().expect("inline")), other);
    assert_eq!(reply.files.len(), 1);
    assert_eq!(crate::drivers::words(reply.files[0].data.bytes().expect("inline")), words);
}

/// Sizes on both sides of what travels inside messages, lies in one buffer, shares a submission, and is used where it lies, each several times and in turns, so that
/// evaluations get buffers that others filled; one in between fails after it has written.
fn used_again() {
    let name = |name: &str| name.parse().expect("a name");
    let like = |times| Size::Of { binding: 0, times, over: 1 };
    let binding = |binding, text: &str, kind| Binding { group: 0, binding, name: name(text), kind };
    let shader = "@group(0) @binding(0) var<storage, read> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> c: array<u32>;
        @group(0) @binding(2) var<storage, read_write> s: array<u32>;
        @group(0) @binding(3) var<storage, read_write> b: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
            let i = id.x;
            if (i >= arrayLength(&a)) { return; }
            s[i] += a[i]; c[i] += s[i]; b[i] += c[i]; b[i + arrayLength(&a)] += 1u;
            for (var n = 0u; a[i] == 4294967295u; n++) { b[i] += n; }
        }";
    let program = evalmesh::evaluator::gpu::GpuProgram {
        shader: shader.to_owned(),
        bindings: vec![
            binding(0, "in", Kind::Input),
            binding(1, "both", Kind::InOut),
            binding(2, "s", Kind::Scratch(like(1))),
            binding(3, "out", Kind::Output(like(2))),
        ],
        stages: vec![Stage {
            repeat: 1,
            dispatches: vec![Dispatch { entry: "main".to_owned(), groups: Groups::Cover { binding: 0, stride: 4 } }],
        }],
    };
    let asked = |input: &[u32], both: &[u32]| {
        let request = request(&program, input).file("both", crate::drivers::bytes(both)).expect("a name");
        Request { options: Options { fuel: Some(1000), ..request.options.clone() }, ..request }
    };
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        for round in 1..=4_u32 {
            for words in [1, 63, 65, 800, 1100, 3000, 20_000, 70_001] {
                let input: Vec<u32> = (0..words).map(|n| n ^ (round << 20)).collect();
                let both: Vec<u32> = input.iter().map(|word| word.wrapping_mul(round)).collect();
                let reply = on(&COMMON, driver, &asked(&input, &both)).expect("a reply");
                let sums: Vec<u32> = input.iter().zip(&both).map(|(one, other)| one.wrapping_add(*other)).collect();
                let ones = vec![1; input.len()];
                assert_eq!(out(&reply), [&sums[..], &ones].concat(), "{driver:?}: {words} words, round {round}");
                let file = reply.files.iter().find(|file| file.path.as_str() == "both").expect("an output `both`");
                assert_eq!(crate::drivers::words(file.data.bytes().expect("inline")), sums);
                let endless = vec![u32::MAX; input.len()];
                let over = on(&COMMON, driver, &asked(&endless, &both));
                assert_eq!(over, Err(EvalError::Limit(LimitHit::Steps { bound: 1000 })));
            }
        }
    }
}

fn large_buffers() {
    let words = 3_000_001_usize;
    let body = "for (var i = id.x; i < arrayLength(&a); i += 65536u) { b[i] = a[i] ^ i; }";
    let input: Vec<u32> = (0..u32::try_from(words).expect("fits")).map(|n| n.wrapping_mul(77)).collect();
    let request = request(&program(&shader(body), words as u64, 1024), &input);
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        let reply = on(&COMMON, driver, &request).expect("a reply");
        let found = out(&reply);
        assert!(
            found
                .iter()
                .zip(&input)
                .enumerate()
                .all(|(at, (found, word))| *found == word ^ u32::try_from(at).expect("fits")),
            "{driver:?}"
        );
        assert_eq!(found.len(), words);
        // The last word is not whole: what was in its place before is no part of it.
        let mut bytes = crate::drivers::bytes(&input);
        bytes.pop();
        let request = program(&shader(body), words as u64, 1024).request().expect("a program");
        let reply = on(&COMMON, driver, &request.file("in", bytes).expect("a name")).expect("a reply");
        let last = words - 1;
        assert_eq!(out(&reply)[last], (input[last] & 0x00ff_ffff) ^ u32::try_from(last).expect("fits"), "{driver:?}");
    }
    assert_eq!(out(&run(&COMMON, request).expect("portable")).len(), words);
}

/// Of every size the arena was mapped once; what it was before is mapped by nobody any more, so the device gave back what it had of it.
#[cfg(target_os = "linux")]
fn given_back() {
    let before = crate::hostile::workers();
    let own = evaluator(&[Driver::Lavapipe]);
    for megabytes in [1, 4, 7, 15, 30] {
        let words: usize = megabytes << 18;
        let body = "for (var i = id.x; i < arrayLength(&a); i += 65536u) { b[i] = a[i] + 1u; }";
        let reply = on(&own, Driver::Lavapipe, &request(&program(&shader(body), words as u64, 1024), &vec![7; words]));
        assert!(out(&reply.expect("a reply")).iter().all(|word| *word == 8), "{megabytes} MiB");
    }
    let workers = crate::hostile::workers().into_iter().filter(|path| !before.contains(path));
    let maps = workers.map(|path| std::fs::read_to_string(path.join("maps")).expect("it runs"));
    // The arena as it is now.
    let shared: Vec<_> = maps.map(|maps| maps.matches("memfd:evalmesh-gpu").count()).collect();
    assert_eq!(shared, [1]);
}

#[cfg(not(target_os = "linux"))]
fn given_back() {}

fn no_driver() {
    let none = evaluator(&[]);
    let devices = none.devices();
    assert_eq!((devices.devices.len(), devices.trouble.clone()), (0, None));
    assert!(devices.summary().contains("no adapter"), "{}", devices.summary());
    let refused = run(&none, request(&program(&shader(HASH), 64, 1), &[1]));
    assert!(
        matches!(&refused, Err(EvalError::Refused(Refusal::NoDevice { why, .. })) if why.contains("no adapter")),
        "{refused:?}"
    );
}
