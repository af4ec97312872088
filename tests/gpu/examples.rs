//! The programs of `examples/gpu` against the same in Rust.

#[path = "../../examples/gpu_pictures.rs"]
#[expect(dead_code, reason = "the example's own main and what only that uses")]
mod pictures;

use evalmesh::evaluator::gpu::GpuProgram;

use crate::Check;
use crate::drivers::{COMMON, Driver, bytes, on, run};

pub(crate) const CHECKS: &[Check] = &[
    ("the automaton is right to the last cell, and is the committed picture", automaton),
    ("the stars move as they do in Rust", stars),
];

fn pcg(x: u32) -> u32 {
    let state = x.wrapping_mul(747_796_405).wrapping_add(2_891_336_453);
    let word = ((state >> ((state >> 28) + 4)) ^ state).wrapping_mul(277_803_737);
    (word >> 22) ^ word
}

fn automaton() {
    const SIDE: usize = 256;

    let mut cells: Vec<u8> =
        (0..65_536).map(|at| u8::try_from(pcg(at ^ pcg(pictures::SEED[0])) % 14).expect("small")).collect();
    for _ in 0..300 {
        let step = |at: usize| {
            let (x, y) = (at % SIDE, at / SIDE);
            let sides = [(x + 1, y), (x + SIDE - 1, y), (x, y + 1), (x, y + SIDE - 1)];
            let next = (cells[at] + 1) % 14;
            if sides.iter().any(|(x, y)| cells[y % SIDE * SIDE + x % SIDE] == next) { next } else { cells[at] }
        };
        cells = (0..cells.len()).map(step).collect();
    }
    let request =
        pictures::automaton().request().expect("a program").file("seed", bytes(&pictures::SEED)).expect("a name");
    let portable = run(&COMMON, request.clone()).expect("a reply");
    assert_eq!(portable.files[0].data.bytes().expect("inline"), &cells);
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        assert_eq!(on(&COMMON, driver, &request).expect("a reply").answer(), portable.answer(), "{driver:?}");
    }
    let hues: Vec<_> = (0..14).map(pictures::hue).collect();
    let committed = include_bytes!("../../examples/gpu/automaton.png");
    assert!(pictures::picture(SIDE, &hues, &cells) == committed, "examples/gpu/automaton.png is another picture");
}

/// The first bodies' places after a few steps.
fn stars() {
    const STEPS: u32 = 10;

    let (bodies, _, dt, softening) = pictures::WORLD;
    let random = |x: u32| f64::from(pcg(x) >> 8) / 16_777_216.0;
    let (mut places, mut speeds): (Vec<[f64; 3]>, Vec<[f64; 3]>) = (0..bodies)
        .map(|body| {
            let disc = f64::from(body & 1) * 2.0 - 1.0;
            let radius = 0.05 + 0.45 * random(body * 2).sqrt();
            let angle = random(body * 2 + 1) * std::f64::consts::TAU;
            let at = [angle.cos() * radius, angle.sin() * radius];
            let round = 0.55 / radius.sqrt();
            (
                [at[0] + disc * 0.7, at[1] + disc * 0.25, (random(body + 77_777) - 0.5) * 0.02],
                [-at[1] * round - disc * 0.25, at[0] * round, 0.0],
            )
        })
        .unzip();
    let (dt, softening) = (f64::from(dt), f64::from(softening));
    for _ in 0..STEPS {
        for (own, speed) in places.iter().zip(&mut speeds) {
            let mut force = [0.0; 3];
            for other in &places {
                let way = [other[0] - own[0], other[1] - own[1], other[2] - own[2]];
                let near = way.iter().map(|way| way * way).sum::<f64>() + softening;
                let pull = 1.0 / f64::from(bodies) / (near * near.sqrt());
                force.iter_mut().zip(way).for_each(|(force, way)| *force += way * pull);
            }
            speed.iter_mut().zip(force).for_each(|(speed, force)| *speed += force * dt);
        }
        for (place, speed) in places.iter_mut().zip(&speeds) {
            place.iter_mut().zip(speed).for_each(|(place, speed)| *place += speed * dt);
        }
    }
    let program: GpuProgram = pictures::nbody(STEPS);
    let request = program.request().expect("a program").file("world", pictures::world()).expect("a name");
    for driver in [Driver::Lavapipe, Driver::SwiftShader] {
        let reply = on(&COMMON, driver, &request).expect("a reply");
        let found = reply
            .files
            .iter()
            .find(|file| file.path.as_str() == "places")
            .expect("places")
            .data
            .bytes()
            .expect("inline");
        let numbers: Vec<f32> =
            found.chunks_exact(4).map(|word| f32::from_le_bytes(word.try_into().expect("four bytes"))).collect();
        let far = |(found, right): (&[f32], &[f64; 3])| {
            found.iter().zip(right).map(|(found, right)| (f64::from(*found) - right).abs()).fold(0.0, f64::max)
        };
        let worst = numbers.chunks_exact(4).zip(&places).map(far).fold(0.0, f64::max);
        assert!(worst < 1e-3, "{driver:?}: a star is {worst} away from where it should be");
        println!("   {driver:?}: the worst star is {worst:.1e} away");
    }
}
