//! What a driver's own compiled data is worth: the first result of a shader without it, with it, and a second time without it on a fresh device,
//! where only what the driver itself keeps on disk can help.

#![expect(
    unsafe_code,
    reason = "wgpu cannot know where the data of a pipeline cache comes from; here it comes from the line above"
)]

use std::time::{Duration, Instant};

use crate::bare::Bare;
use crate::median;

/// A shader that takes a moment to compile; another one for every number.
fn shader(number: usize) -> String {
    let round = |n: usize| {
        format!(
            "x = (x ^ (x >> {}u)) * {}u + y; y = (y << 3u) ^ x;\n",
            n % 13 + 1,
            (number * 7919 + n) % 1_000_003 * 2 + 1
        )
    };
    let rounds: String = (0..200).map(round).collect();
    format!(
        "@group(0) @binding(0) var<storage, read> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u) {{
            var x = a[id.x]; var y = id.x;
            {rounds}
            b[id.x] = x ^ y;
        }}"
    )
}

/// From a shader's text to its first result on a device that was just opened, and the data that there are then.
fn first_result(adapter: &str, text: &str, data: Option<&[u8]>) -> Option<(Duration, Vec<u8>)> {
    let (device, queue) = Bare::open(adapter, wgpu::Features::PIPELINE_CACHE)?;
    let description = wgpu::PipelineCacheDescriptor { label: None, data, fallback: true };
    // SAFETY: the data are those that a cache on the same adapter gave in this process, or none.
    let cache = unsafe { device.create_pipeline_cache(&description) };
    let start = Instant::now();
    let bare = Bare::on(device, queue, text, 256, 1, Some(&cache));
    bare.run(&[1; 256]);
    let took = start.elapsed();
    Some((took, cache.get_data().unwrap_or_default()))
}

pub(crate) fn measure(adapter: &str, rounds: usize) {
    let (mut without, mut with, mut again, mut bytes) = (Vec::new(), Vec::new(), Vec::new(), 0);
    // Another text in each run of this program, or the driver would know it from the last one.
    let salt = usize::try_from(std::process::id()).unwrap_or(0) * 1000;
    for round in 0..rounds {
        let text = shader(salt + round);
        let Some((took, data)) = first_result(adapter, &text, None) else {
            println!("\ncompiled pipeline data of {adapter}: the driver has none to give");
            return;
        };
        without.push(took);
        bytes = data.len();
        with.extend(first_result(adapter, &text, Some(&data)).map(|(took, _)| took));
        again.extend(first_result(adapter, &text, None).map(|(took, _)| took));
    }
    let [without, with, again] = [without, with, again].map(median);
    println!(
        "\ncompiled pipeline data of {adapter}: {bytes} bytes; first result without {without:.1?}, with {with:.1?}, without a second time {again:.1?}"
    );
}
