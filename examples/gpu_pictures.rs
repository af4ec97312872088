//! Two GPU programs through a node, painted as pictures: an exact one that every sound device answers alike, and a float one that belongs to a
//! device class. The second time each is asked, the node remembers.
//!
//! `cargo run --example gpu_pictures [FOLDER]` writes `automaton.png` and `nbody.png` there (by default nowhere).

#![expect(clippy::disallowed_methods, reason = "the times are shown to whoever runs this")]

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use evalmesh::eval::{Answer, Eval};
use evalmesh::evaluator::gpu::{Binding, Dispatch, GpuProgram, Groups, Kind, Size, Stage};
use evalmesh::evaluator::worker::enter_worker_role;
use evalmesh::node::Node;
use evalmesh::request::{Class, Request};

/// The exact program, as `examples/gpu/automaton.toml` says it.
pub(crate) fn automaton() -> GpuProgram {
    GpuProgram {
        shader: include_str!("gpu/automaton.wgsl").to_owned(),
        bindings: vec![
            binding(0, "seed", Kind::Input),
            binding(1, "here", Kind::Scratch(Size::Bytes(256 * 256 * 4))),
            binding(2, "there", Kind::Scratch(Size::Bytes(256 * 256 * 4))),
            binding(3, "picture", Kind::Output(Size::Bytes(256 * 256))),
        ],
        stages: vec![
            stage(1, &[("begin", [16, 16, 1])]),
            stage(300, &[("forth", [16, 16, 1]), ("back", [16, 16, 1])]),
            stage(1, &[("paint", [256, 1, 1])]),
        ],
    }
}

/// The float program, as `examples/gpu/nbody.toml` says it, with so many steps.
pub(crate) fn nbody(steps: u32) -> GpuProgram {
    GpuProgram {
        shader: include_str!("gpu/nbody.wgsl").to_owned(),
        bindings: vec![
            binding(0, "world", Kind::Input),
            binding(1, "places", Kind::Output(Size::Bytes(2048 * 16))),
            binding(2, "speeds", Kind::Scratch(Size::Of { binding: 1, times: 1, over: 1 })),
            binding(3, "picture", Kind::Output(Size::Bytes(192 * 192 * 4))),
        ],
        stages: vec![
            stage(1, &[("begin", [32, 1, 1])]),
            stage(steps, &[("pull", [32, 1, 1]), ("drift", [32, 1, 1])]),
            stage(1, &[("paint", [32, 1, 1])]),
        ],
    }
}

/// The inputs of both.
pub(crate) const SEED: [u32; 4] = [2026, 0, 0, 0];
/// Bodies, the picture's side, time step and softening.
pub(crate) const WORLD: (u32, u32, f32, f32) = (2048, 192, 0.01, 0.002);

pub(crate) fn world() -> Vec<u8> {
    let (bodies, side, step, softening) = WORLD;
    [bodies.to_le_bytes(), side.to_le_bytes(), step.to_le_bytes(), softening.to_le_bytes()].concat()
}

fn binding(binding: u32, name: &str, kind: Kind) -> Binding {
    Binding { group: 0, binding, name: name.parse().expect("a name"), kind }
}

fn stage(repeat: u32, dispatches: &[(&str, [u32; 3])]) -> Stage {
    let dispatch =
        |(entry, groups): &(&str, [u32; 3])| Dispatch { entry: (*entry).to_owned(), groups: Groups::Fixed(*groups) };
    Stage { repeat, dispatches: dispatches.iter().map(dispatch).collect() }
}

/// A cell's colour: the states are a ring of hues.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 255")]
pub(crate) fn hue(state: u8) -> [u8; 3] {
    let turn = f32::from(state) / 14.0 * std::f32::consts::TAU;
    [0.0, 2.1, 4.2].map(|shift: f32| (127.5 + 120.0 * (turn + shift).cos()) as u8)
}

/// How bright a place is, by how many stars are there: from 0 to 15.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is from 0 to 255")]
fn glow(count: u32) -> u8 {
    (f32::from(u16::try_from(count).unwrap_or(u16::MAX)).sqrt() * 6.0).min(15.0) as u8
}

/// A PNG of at most sixteen colours, each given by its red, green and blue.
pub(crate) fn picture(side: usize, palette: &[[u8; 3]], pixels: &[u8]) -> Vec<u8> {
    // Four bits a pixel; each line begins with its filter, which is none.
    let lines =
        pixels.chunks(side).flat_map(|line| [0].into_iter().chain(line.chunks(2).map(|two| two[0] << 4 | two[1])));
    let side = u32::try_from(side).expect("small").to_be_bytes();
    let header = [&side[..], &side, &[4, 3, 0, 0, 0]].concat();
    let mut png = b"\x89PNG\r\n\x1a\n".to_vec();
    for (kind, data) in [
        (b"IHDR", header),
        (b"PLTE", palette.concat()),
        (b"IDAT", stored(&lines.collect::<Vec<u8>>())),
        (b"IEND", Vec::new()),
    ] {
        png.extend(u32::try_from(data.len()).expect("small").to_be_bytes());
        let chunk = [&kind[..], &data].concat();
        let sum = !chunk.iter().fold(!0, |sum: u32, byte| {
            (0..8).fold(sum ^ u32::from(*byte), |sum, _| if sum & 1 == 1 { sum >> 1 ^ 0xEDB8_8320 } else { sum >> 1 })
        });
        png.extend(chunk);
        png.extend(sum.to_be_bytes());
    }
    png
}

/// A zlib stream that stores and does not compress.
fn stored(data: &[u8]) -> Vec<u8> {
    let mut stream = vec![0x78, 0x01];
    let parts = data.chunks(65_535).count();
    for (at, part) in data.chunks(65_535).enumerate() {
        let len = u16::try_from(part.len()).expect("a part");
        stream.push(u8::from(at + 1 == parts));
        stream.extend(len.to_le_bytes());
        stream.extend((!len).to_le_bytes());
        stream.extend(part);
    }
    let (one, two) = data.iter().fold((1_u32, 0_u32), |(one, two), byte| {
        let one = (one + u32::from(*byte)) % 65_521;
        (one, (two + one) % 65_521)
    });
    stream.extend((two << 16 | one).to_be_bytes());
    stream
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("a file");
    println!("wrote {}", path.display());
}

fn output<'a>(answer: &'a Answer, name: &str) -> &'a [u8] {
    let file = answer.reply.files.iter().find(|file| file.path.as_str() == name).expect("an output");
    file.data.bytes().expect("its bytes")
}

fn main() -> ExitCode {
    enter_worker_role();
    let folder = std::env::args().nth(1);
    let node = Node::builder().start().expect("a node in memory");
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let devices = runtime.block_on(node.devices()).expect("devices");
    println!("{}", devices.summary());
    let Some(class) = devices.best_class().cloned() else {
        println!("nothing to paint with; tests/drivers.sh makes software devices");
        return ExitCode::SUCCESS;
    };
    let ask = |what: &str, request: Request| {
        let ask = || {
            let start = Instant::now();
            let answer = runtime.block_on(node.eval(request.clone())).expect("an answer");
            println!("{what}: {} in {:.1} ms, {}", answer.origin, start.elapsed().as_secs_f64() * 1e3, answer.id);
            answer
        };
        let (first, again) = (ask(), ask());
        assert_eq!(first.reply.answer(), again.reply.answer());
        first
    };
    let seed: Vec<u8> = SEED.iter().flat_map(|word| word.to_le_bytes()).collect();
    let request = automaton().request().expect("a program").file("seed", seed).expect("a name");
    let cells = ask("automaton", request);
    let request =
        nbody(120).request().expect("a program").file("world", world()).expect("a name").class(Class::Device(class));
    let stars = ask("n-body", request);
    if let Some(folder) = folder {
        let folder = Path::new(&folder);
        let hues: Vec<_> = (0..14).map(hue).collect();
        write(&folder.join("automaton.png"), &picture(256, &hues, output(&cells, "picture")));
        let words = output(&stars, "picture").chunks_exact(4);
        let pixels: Vec<u8> =
            words.map(|word| glow(u32::from_le_bytes(word.try_into().expect("four bytes")))).collect();
        let night: Vec<_> = (0..16_u8).map(|light| [light * 17, light * 16, light * 12 + 20]).collect();
        write(&folder.join("nbody.png"), &picture(192, &night, &pixels));
    }
    node.shutdown();
    ExitCode::SUCCESS
}
