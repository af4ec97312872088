//! What the device itself gives: a hash and a matrix product against its arithmetic, and a copy.
//!
//! Each runs many dispatches in one evaluation, so that what is measured is the device; times are those of the worker, from the submission to the
//! outputs.

use std::time::Duration;

use evalmesh::eval::Eval;
use evalmesh::node::Node;
use evalmesh::request::Class;

use super::program;

const HEAD: &str = "@group(0) @binding(0) var<storage, read> a: array<f32>;
    @group(0) @binding(1) var<storage, read_write> b: array<f32>;";

/// Multiplies and adds in registers: the arithmetic peak.
const PEAK: &str = "@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u) {
        var x = vec4f(a[id.x & 1023u]); var y = x + 0.1; var z = x + 0.2; var w = x + 0.3;
        for (var i = 0u; i < 256u; i++) { x = fma(x, y, z); y = fma(y, z, w); z = fma(z, w, x); w = fma(w, x, y); }
        b[id.x] = dot(x + y + z + w, vec4f(1.0));
    }";

const COPY: &str = "@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(num_workgroups) groups: vec3u) {
        b[id.x] = a[id.x];
    }";

const HASH: &str = "@compute @workgroup_size(256) fn main(@builtin(global_invocation_id) id: vec3u) {
        var x = id.x;
        for (var i = 0u; i < 256u; i++) { x = (x ^ (x >> 16u)) * 0x85ebca6bu; x = (x ^ (x >> 13u)) * 0xc2b2ae35u; }
        b[id.x] = a[0] + bitcast<f32>(x & 0x007fffffu);
    }";

/// SIDE x SIDE, in tiles of 16 x 16 that a workgroup shares, four results to an invocation.
const PRODUCT: &str = "const SIDE = 1024u;
    var<workgroup> left: array<array<f32, 16>, 64>;
    var<workgroup> right: array<array<f32, 16>, 16>;
    @compute @workgroup_size(16, 16) fn main(@builtin(workgroup_id) group: vec3u, @builtin(local_invocation_id) at: vec3u) {
        let place = vec2u(group.x % (SIDE / 16u), group.x / (SIDE / 16u));
        let column = place.x * 16u + at.x;
        let row = place.y * 64u + at.y;
        var sums = vec4f();
        for (var tile = 0u; tile < SIDE; tile += 16u) {
            for (var part = 0u; part < 4u; part++) {
                left[at.y + part * 16u][at.x] = a[(row + part * 16u) * SIDE + tile + at.x];
            }
            right[at.y][at.x] = a[(tile + at.y) * SIDE + column];
            workgroupBarrier();
            for (var k = 0u; k < 16u; k++) {
                let one = right[k][at.x];
                sums += vec4f(left[at.y][k], left[at.y + 16u][k], left[at.y + 32u][k], left[at.y + 48u][k]) * one;
            }
            workgroupBarrier();
        }
        for (var part = 0u; part < 4u; part++) { b[(row + part * 16u) * SIDE + column] = sums[part]; }
    }";

pub(crate) fn measure(node: &Node, runtime: &tokio::runtime::Runtime, class: &Class, quick: bool) {
    let run = |body: &str, input: usize, output: u64, groups: u32, repeat: u32| -> Duration {
        let text = format!("{HEAD}\n{body}");
        let ask = |repeat: u32, salt: f32| {
            let program = program(&text, output, groups, repeat);
            let bytes: Vec<u8> = (0..input)
                .flat_map(|at| (salt + f32::from(u8::try_from(at % 97).unwrap_or_default()) * 0.01).to_le_bytes())
                .collect();
            let request = program.request().expect("a program").file("in", bytes).expect("a name").class(class.clone());
            runtime.block_on(node.eval(request)).expect("an answer").reply.facts.duration
        };
        // What is not the dispatches themselves is in both, and goes out in the difference.
        ask(1, 0.0);
        let (once, often) = (ask(1, 1.0), ask(repeat + 1, 2.0));
        often.saturating_sub(once).max(Duration::from_nanos(1)) / repeat
    };
    let repeat = if quick { 1 } else { 10 };
    let giga = |count: f64, took: Duration| count / took.as_secs_f64() / 1e9;
    let copy = run(COPY, 1 << 23, 1 << 25, 1 << 15, repeat);
    let groups = if quick { 4 } else { 1024 };
    let invocations = f64::from(groups) * 256.0;
    let peak = run(PEAK, 1024, u64::from(groups) * 1024, groups, repeat);
    let hash = run(HASH, 1024, u64::from(groups) * 1024, groups, repeat);
    let product = run(PRODUCT, 1 << 20, 1 << 22, 64 * 16, repeat);
    let peak = giga(invocations * 256.0 * 4.0 * 4.0 * 2.0, peak);
    let product = giga(2.0 * 1024.0 * 1024.0 * 1024.0, product);
    println!("\ncopy            {:>10.1} GB/s read and written", giga(2.0 * f64::from(1 << 25), copy));
    println!("arithmetic      {peak:>10.1} Gflop/s in registers");
    println!("matrix product  {product:>10.1} Gflop/s, {:.0} % of that", product / peak * 100.0);
    println!("hash            {:>10.1} G rounds/s", giga(invocations * 256.0, hash));
}
