//! Floating-point probes, whose bits are part of a device's class, and how fast a device is.
//!
//! Two drivers that agree on every probe may still differ somewhere else; they are one class only if they also say the same of themselves.

use super::super::report::Speed;
use super::Stopwatch;
use super::run::Runner;
use super::selftest::{Failed, words};

/// Everything in which drivers were seen to differ: transcendental functions, sums in some order, denormals, conversions, contractions.
const PROBES: &str = "@group(0) @binding(0) var<storage, read> a: array<u32>;
    @group(0) @binding(1) var<storage, read_write> b: array<f32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        let n = a[id.x];
        let x = f32(n) * 0.000001;
        let y = bitcast<f32>((n & 0x007fffffu) | 0x3f800000u);
        let tiny = bitcast<f32>(n & 0x007fffffu);
        var sum = 0.0;
        for (var i = 0u; i < 100u; i++) { sum += f32(a[(id.x + i) & 63u]) * 0.1; }
        let at = id.x * 16u;
        b[at] = sin(x); b[at + 1u] = cos(y); b[at + 2u] = exp(y); b[at + 3u] = log(y + x);
        b[at + 4u] = pow(y, 2.7); b[at + 5u] = sqrt(y); b[at + 6u] = inverseSqrt(y); b[at + 7u] = x / y;
        b[at + 8u] = fma(x, y, -x); b[at + 9u] = x * y - x; b[at + 10u] = tiny * 0.5; b[at + 11u] = sum;
        b[at + 12u] = f32(n); b[at + 13u] = tanh(y); b[at + 14u] = atan2(x, y); b[at + 15u] = length(vec3f(x, y, sum));
    }";

const WRITE: &str = "@group(0) @binding(0) var<storage, read> a: array<u32>;
    @group(0) @binding(1) var<storage, read_write> b: array<u32>;
    @compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
        let all = groups.x * 256u;
        for (var i = 0u; i < 16u; i++) { b[id.x + i * all] = a[0] + i; }
    }";

const HASH: &str = "@group(0) @binding(0) var<storage, read> a: array<u32>;
    @group(0) @binding(1) var<storage, read_write> b: array<u32>;
    @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {
        var x = a[0] + id.x;
        for (var i = 0u; i < 256u; i++) { x ^= x >> 16u; x *= 0x85ebca6bu; x ^= x >> 13u; }
        b[id.x] = x;
    }";

/// The bits of all probes; a device that gives other bits the second time has none.
pub(super) fn run(runner: &mut Runner) -> Result<Vec<u8>, Failed> {
    let input: Vec<u32> = (0..64_u32).map(|n| n.wrapping_mul(0x9E37_79B9) ^ 0x1234_5678).collect();
    let mut probe = || words(runner, PROBES, &["main"], &input, 64 * 16, 1).map_err(|why| ("float probes", why));
    let (once, again) = (probe()?, probe()?);
    if once != again {
        return Err(("float probes", "two runs gave different bits".to_owned()));
    }
    Ok(once.into_iter().flat_map(u32::to_le_bytes).collect())
}

/// Measures, a few milliseconds each.
pub(super) fn speed(runner: &mut Runner) -> Result<Speed, String> {
    const WORDS: u32 = 1024 * 1024;
    const GROUPS: u32 = 256;

    let mut time = |shader, input: &[u32], outputs, groups| {
        words(runner, shader, &["main"], input, outputs, groups)?;
        let watch = Stopwatch::start();
        words(runner, shader, &["main"], input, outputs, groups)?;
        Ok::<_, String>(watch.elapsed())
    };
    let round_trip = time(HASH, &[1; 1024], 64, 1)?;
    let write = time(WRITE, &[1], WORDS as usize, WORDS / 256 / 16)?;
    let hash = time(HASH, &[1], GROUPS as usize * 64, GROUPS)?;
    let per_second = |count: u64, took: std::time::Duration| {
        let nanos = took.saturating_sub(round_trip).as_nanos().max(1);
        u64::try_from(u128::from(count) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
    };
    Ok(Speed {
        round_trip,
        written: per_second(u64::from(WORDS) * 4, write),
        hashed: per_second(u64::from(GROUPS) * 64 * 256, hash),
    })
}
