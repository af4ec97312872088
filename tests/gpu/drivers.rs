//! The drivers of these tests, and evaluators that use some of them.

use std::path::PathBuf;
use std::sync::LazyLock;

use evalmesh::error::EvalError;
use evalmesh::evaluator::gpu::{
    Binding, DeviceReport, Dispatch, GpuConfig, GpuEvaluator, GpuProgram, Groups, Kind, Size, Stage,
};
use evalmesh::evaluator::{Evaluator, Job};
use evalmesh::reply::Reply;
use evalmesh::request::{Class, Name, Request};

/// A driver by its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Driver {
    Lavapipe,
    SwiftShader,
    /// The distribution's own, which ends loops early.
    Old,
}

pub(crate) const ALL: [Driver; 3] = [Driver::Lavapipe, Driver::SwiftShader, Driver::Old];

fn folder() -> PathBuf {
    let usual = concat!(env!("CARGO_MANIFEST_DIR"), "/target/drivers").into();
    std::env::var_os("EVALMESH_DRIVERS").map_or(usual, PathBuf::from)
}

/// Whether the system's own drivers are tested instead (`tests/real-gpu.sh`); then every check that wants a driver gets the best device.
pub(crate) fn is_real() -> bool {
    std::env::var_os("EVALMESH_REAL_GPU").is_some()
}

/// Whether `tests/drivers.sh` was run. In CI it must have been.
pub(crate) fn are_there() -> bool {
    if is_real() || folder().join("done").is_file() {
        return true;
    }
    assert!(std::env::var_os("CI").is_none(), "no drivers in {}: tests/drivers.sh was not run", folder().display());
    println!("skipped: no drivers in {}; tests/drivers.sh makes them", folder().display());
    false
}

pub(crate) fn config(drivers: &[Driver]) -> GpuConfig {
    let file = |driver: &Driver| {
        let name = match driver {
            Driver::Lavapipe => "lavapipe.json",
            Driver::SwiftShader => "swiftshader.json",
            Driver::Old => "old.json",
        };
        folder().join(name)
    };
    let files = std::env::join_paths(drivers.iter().map(file)).expect("paths");
    let env = vec![("VK_DRIVER_FILES".into(), files), ("LD_LIBRARY_PATH".into(), folder().join("lib").into())];
    let env = if is_real() { Vec::new() } else { env };
    GpuConfig { env, spare: false, ..GpuConfig::default() }
}

pub(crate) fn evaluator(drivers: &[Driver]) -> GpuEvaluator {
    GpuEvaluator::new(config(drivers))
}

/// One evaluator with all three drivers, for the checks that do no harm.
pub(crate) static COMMON: LazyLock<GpuEvaluator> = LazyLock::new(|| evaluator(&ALL));

pub(crate) fn class(evaluator: &GpuEvaluator, driver: Driver) -> Name {
    let is = |device: &DeviceReport| match driver {
        Driver::Lavapipe => {
            device.adapter.name.starts_with("llvmpipe") && device.adapter.driver_version.contains("25.0.7")
        }
        Driver::SwiftShader => device.adapter.name.starts_with("SwiftShader"),
        Driver::Old => device.adapter.driver_version.contains("22.3"),
    };
    let devices = evaluator.devices();
    if is_real() {
        return devices.best_class().expect("a sound device").clone();
    }
    let device =
        devices.devices.iter().find(|device| is(device)).unwrap_or_else(|| panic!("no {driver:?} in {devices:?}"));
    device.class.clone().unwrap_or_else(|| panic!("{driver:?} has no class: {device:?}"))
}

pub(crate) fn run(evaluator: &GpuEvaluator, request: Request) -> Result<Reply, EvalError> {
    let (done, outcome) = std::sync::mpsc::sync_channel(1);
    evaluator.start(Job::inline(request)?, Box::new(move |result| drop(done.send(result))));
    outcome.recv().expect("every evaluation ends")
}

pub(crate) fn on(evaluator: &GpuEvaluator, driver: Driver, request: &Request) -> Result<Reply, EvalError> {
    run(evaluator, request.clone().class(Class::Device(class(evaluator, driver))))
}

pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes.chunks_exact(4).map(|word| u32::from_le_bytes(word.try_into().expect("four bytes"))).collect()
}

pub(crate) fn bytes(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// The words of the output `out`.
pub(crate) fn out(reply: &Reply) -> Vec<u32> {
    let file = reply.files.iter().find(|file| file.path.as_str() == "out").expect("an output `out`");
    words(file.data.bytes().expect("inline"))
}

/// A program with an input `in` at binding 0 and an output `out` at binding 1.
pub(crate) fn program(shader: &str, outputs: u64, groups: u32) -> GpuProgram {
    GpuProgram {
        shader: shader.to_owned(),
        bindings: vec![
            Binding { group: 0, binding: 0, name: "in".parse().expect("a name"), kind: Kind::Input },
            Binding {
                group: 0,
                binding: 1,
                name: "out".parse().expect("a name"),
                kind: Kind::Output(Size::Bytes(outputs * 4)),
            },
        ],
        stages: vec![Stage {
            repeat: 1,
            dispatches: vec![Dispatch { entry: "main".to_owned(), groups: Groups::Fixed([groups, 1, 1]) }],
        }],
    }
}

pub(crate) fn request(program: &GpuProgram, input: &[u32]) -> Request {
    program.request().expect("a program").file("in", bytes(input)).expect("a name")
}

/// A body for `main` with `a` and `b` at the two bindings of [`program`].
pub(crate) fn shader(body: &str) -> String {
    format!(
        "@group(0) @binding(0) var<storage, read> a: array<u32>;
        @group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) at: u32) {{ {body} }}"
    )
}
