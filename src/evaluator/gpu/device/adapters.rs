//! Finding adapters, opening one, and naming its device class.
//!
//! The class is made of everything that may change a bit of an answer: what the driver says of itself, features, limits, the versions of the
//! shader compiler and of our rewriting, and the bits that a suite of floating-point probes gives. The slot that a card is in is no part of it.

use wgpu::{Adapter, Features, Instance, InstanceDescriptor, InstanceFlags, Limits};

use super::super::report::{AdapterFacts, DeviceLimits, DeviceReport, Verdict};
use super::run::Runner;
use super::{Gpu, cache, import, probe, ready, selftest};
use crate::evaluator::gpu::worker::CacheFacts;
use crate::id::Digest;
use crate::request::Name;

/// What compiles shaders, and the version of what this evaluator changes in them. Part of every device class.
const COMPILER: &str = "naga 30.0.1, rewriting 1";

/// All adapters that the drivers of this machine show, in a fixed order.
pub(in crate::evaluator::gpu) fn all() -> Vec<(AdapterFacts, Adapter)> {
    let instance = Instance::new(InstanceDescriptor {
        backends: wgpu::Backends::PRIMARY,
        // A driver that admits to bending the rules is tested like any other.
        flags: InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER,
        ..InstanceDescriptor::new_without_display_handle()
    });
    let adapters = ready(instance.enumerate_adapters(wgpu::Backends::PRIMARY)).unwrap_or_default();
    let mut found: Vec<_> = adapters.into_iter().map(|adapter| (facts(&adapter), adapter)).collect();
    found.sort_by(|(one, _), (other, _)| one.cmp(other));
    found
}

fn facts(adapter: &Adapter) -> AdapterFacts {
    let info = adapter.get_info();
    AdapterFacts {
        name: info.name,
        kind: match info.device_type {
            wgpu::DeviceType::DiscreteGpu => "discrete",
            wgpu::DeviceType::IntegratedGpu => "integrated",
            wgpu::DeviceType::VirtualGpu => "virtual",
            wgpu::DeviceType::Cpu => "software",
            wgpu::DeviceType::Other => "other",
        }
        .to_owned(),
        backend: info.backend.to_string(),
        driver: info.driver,
        driver_version: info.driver_info,
        vendor: info.vendor,
        device: info.device,
        subgroups: (info.subgroup_min_size, info.subgroup_max_size),
    }
}

/// Opens the adapter of these facts; of several equal ones the one at this place among them.
pub(in crate::evaluator::gpu) fn open(facts: &AdapterFacts, place: usize, memory: u64) -> Result<Opened, String> {
    let (_, adapter) = all()
        .into_iter()
        .filter(|(found, _)| found == facts)
        .nth(place)
        .ok_or_else(|| "the adapter is not there any more".to_owned())?;
    let offered = adapter.limits();
    let wanted = limits(&offered)?;
    let shares_memory = matches!(facts.kind.as_str(), "software" | "integrated");
    let own = if shares_memory { Features::SUBGROUP | Features::MAPPABLE_PRIMARY_BUFFERS } else { Features::SUBGROUP };
    // Caches change no bit of an answer, so they are no part of the class.
    let features = adapter.features() & own;
    let caches = adapter.features() & Features::PIPELINE_CACHE;
    let description = wgpu::DeviceDescriptor {
        label: None,
        required_features: features | caches,
        required_limits: wanted.clone(),
        memory_hints: wgpu::MemoryHints::Performance,
        ..wgpu::DeviceDescriptor::default()
    };
    let is_processor = facts.kind == "software";
    // One more extension of the driver, and no part of the class either: what it is used for is tested before it is.
    let given = is_processor.then(|| import::open(&adapter, &description)).flatten();
    let (device, queue, importer) = if let Some((device, queue, importer)) = given {
        (device, queue, Some(importer))
    } else {
        let opened = ready(adapter.request_device(&description)).ok_or("the driver does not answer")?;
        let (device, queue) = opened.map_err(|error| error.to_string())?;
        (device, queue, None)
    };
    let limits = DeviceLimits {
        buffer: wanted.max_storage_buffer_binding_size.min(wanted.max_buffer_size),
        memory,
        workgroup: wanted.max_compute_invocations_per_workgroup,
        workgroup_bytes: wanted.max_compute_workgroup_storage_size,
        subgroups: features.contains(Features::SUBGROUP),
    };
    let identity = format!("{COMPILER}\n{facts:?}\n{:?}\n{features:?}\n{offered:?}", adapter.features());
    let gpu = Gpu::new(device, queue, limits, features | caches, is_processor, importer);
    let cache = cache::facts(&gpu, &adapter.get_info());
    Ok(Opened { facts: facts.clone(), identity, cache, runner: Runner::new(gpu) })
}

/// The limits that are asked for: what every device has, and buffers as large as this one allows.
fn limits(offered: &Limits) -> Result<Limits, String> {
    let usual = Limits::default();
    let needed = [
        ("storage buffers", usual.max_storage_buffers_per_shader_stage, offered.max_storage_buffers_per_shader_stage),
        ("bind groups", usual.max_bind_groups, offered.max_bind_groups),
        ("workgroup memory", usual.max_compute_workgroup_storage_size, offered.max_compute_workgroup_storage_size),
        (
            "invocations of a workgroup",
            usual.max_compute_invocations_per_workgroup,
            offered.max_compute_invocations_per_workgroup,
        ),
        ("workgroups", usual.max_compute_workgroups_per_dimension, offered.max_compute_workgroups_per_dimension),
    ];
    if let Some((what, wanted, found)) = needed.into_iter().find(|(_, wanted, found)| found < wanted) {
        return Err(format!("it has {found} {what}, and {wanted} are needed"));
    }
    let mut wanted = usual.or_worse_values_from(offered);
    wanted.max_buffer_size = offered.max_buffer_size;
    wanted.max_storage_buffer_binding_size = offered.max_storage_buffer_binding_size;
    Ok(wanted)
}

/// A device that is open, tested or not.
pub(in crate::evaluator::gpu) struct Opened {
    pub(in crate::evaluator::gpu) facts: AdapterFacts,
    /// What its class is made of, without the probes.
    identity: String,
    /// Its driver's caches, if it has such.
    pub(in crate::evaluator::gpu) cache: Option<CacheFacts>,
    pub(in crate::evaluator::gpu) runner: Runner,
}

impl Opened {
    /// Tests the device and says what it is.
    pub(in crate::evaluator::gpu) fn examine(&mut self) -> DeviceReport {
        let mut report = DeviceReport {
            adapter: self.facts.clone(),
            verdict: Verdict::Sound,
            class: None,
            limits: self.runner.gpu.limits,
            speed: None,
            in_place: false,
        };
        let tested = selftest::run(&mut self.runner).and_then(|()| probe::run(&mut self.runner));
        match tested {
            Ok(probes) => {
                report.class = self.class(&probes);
                report.speed = probe::speed(&mut self.runner).ok();
                report.in_place = self.runner.uses_payloads_in_place();
            }
            Err((test, why)) => {
                report.verdict = Verdict::Refused { test: test.to_owned(), why, advice: advice(&self.facts) };
            }
        }
        report
    }

    fn class(&self, probes: &[u8]) -> Option<Name> {
        let digest = Digest::of(&[self.identity.as_bytes(), b"\n", probes].concat()).to_string();
        format!("gpu:{}:{}", slug(&self.facts), &digest[..16]).parse().ok()
    }
}

/// A device that could not be opened or tested at all.
pub(in crate::evaluator::gpu) fn unopened(facts: &AdapterFacts, test: &str, why: String) -> DeviceReport {
    DeviceReport {
        adapter: facts.clone(),
        verdict: Verdict::Refused { test: test.to_owned(), why, advice: advice(facts) },
        class: None,
        limits: DeviceLimits::default(),
        speed: None,
        in_place: false,
    }
}

/// What people see of a class: the beginning of the adapter's name.
fn slug(facts: &AdapterFacts) -> String {
    const LEN: usize = 32;
    let mut slug = String::new();
    for letter in facts.name.chars() {
        match letter {
            letter if letter.is_ascii_alphanumeric() || letter == '.' => slug.push(letter.to_ascii_lowercase()),
            _ if slug.ends_with('-') || slug.is_empty() => {}
            _ => slug.push('-'),
        }
    }
    slug.truncate(LEN);
    slug.trim_end_matches('-').to_owned()
}

fn advice(facts: &AdapterFacts) -> String {
    let driver = format!("{} {} {}", facts.name, facts.driver, facts.driver_version).to_lowercase();
    if driver.contains("llvmpipe") || driver.contains("mesa") {
        "install Mesa 25 or newer; Debian 12 has it in its backports (mesa-vulkan-drivers)".to_owned()
    } else {
        "install a newer driver from the vendor of the device".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_compiler_of_the_class_is_the_one_that_is_built_in() {
        let lock = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.lock"));
        let (_, naga) = lock.split_once("name = \"naga\"\nversion = \"").expect("naga is locked");
        let (version, _) = naga.split_once('"').expect("a version");
        assert!(
            COMPILER.starts_with(&format!("naga {version},")),
            "naga is {version}: name it in COMPILER, which makes new classes"
        );
    }

    #[test]
    fn a_class_begins_with_the_name_of_the_adapter() {
        let facts = |name: &str| AdapterFacts {
            name: name.to_owned(),
            kind: String::new(),
            backend: String::new(),
            driver: String::new(),
            driver_version: String::new(),
            vendor: 0,
            device: 0,
            subgroups: (0, 0),
        };
        assert_eq!(slug(&facts("llvmpipe (LLVM 15.0.6, 256 bits)")), "llvmpipe-llvm-15.0.6-256-bits");
        assert_eq!(slug(&facts("  Ünïcode/../ GPU")), "n-code-..-gpu");
    }
}
