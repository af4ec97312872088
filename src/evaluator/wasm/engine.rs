//! The engine: a frozen configuration for each flavour of code, the pool of instances, and the thread that makes running programs look up.
//!
//! Invariant: two nodes of this version accept the same instructions and give them the same meaning. So every proposal is named in
//! [`features`] and all others are off, and NaNs are canonical where the class is portable. Knows nothing of requests.

use std::env::consts::ARCH;
use std::hash::{Hash, Hasher};
use std::io;
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::{Config, Enabled, Engine, EngineWeak, Error, PoolingAllocationConfig, Result, WasmFeatures};

#[cfg(feature = "component")]
use super::limits::CORE_INSTANCES;
use super::limits::{
    INSTANCE_BYTES, KEPT_RESIDENT, KEPT_RESIDENT_PAGEMAP, MEMORY_BYTES, STACK, TABLE_ELEMENTS, TABLES, TICK, WasmLimits,
};
use crate::id::Digest;
use crate::request::Class;

/// What replies state as their evaluator; a test holds it to `Cargo.lock`.
pub(super) const VERSION: &str = "wasmtime 48.0.8";

/// The derive-key context of [`compatibility`].
const COMPATIBILITY_CONTEXT: &str = "evalmesh 2026-11-21 wasm engine compatibility v1";

/// The proposals of ABI 1. Absent on purpose: relaxed SIMD and threads (not deterministic); memory64, several memories, custom page sizes,
/// exceptions, typed references, garbage collection and stack switching (no need was shown yet, and each widens what must be bounded).
pub(super) fn features() -> WasmFeatures {
    WasmFeatures::FLOATS
        | WasmFeatures::MUTABLE_GLOBAL
        | WasmFeatures::SATURATING_FLOAT_TO_INT
        | WasmFeatures::SIGN_EXTENSION
        | WasmFeatures::MULTI_VALUE
        | WasmFeatures::BULK_MEMORY
        | WasmFeatures::REFERENCE_TYPES
        | WasmFeatures::SIMD
        | WasmFeatures::TAIL_CALL
        | WasmFeatures::EXTENDED_CONST
}

/// Which code is made of a program. Append-only: the position names files of the artifact store.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Flavour {
    /// `wasm-det-v1`: the same bits on every machine.
    Portable,
    /// Without canonical NaNs: the same bits on one architecture and one version of the compiler, and float loops run two to four times faster.
    Native,
}

impl Flavour {
    /// The flavour that a class asks for, if this machine has it.
    pub(super) fn of(class: &Class) -> Option<Self> {
        match class {
            Class::Portable => Some(Self::Portable),
            Class::Device(name) if name.as_str() == native_class() => Some(Self::Native),
            _ => None,
        }
    }
}

/// The device class whose answers this machine reproduces: architecture and compiler.
pub(super) fn native_class() -> String {
    format!("wasm-native:{ARCH}:{}", VERSION.replace(' ', "-"))
}

/// Starts an engine and its ticker, which ends by itself once the engine is gone.
pub(super) fn start(flavour: Flavour, limits: &WasmLimits) -> Result<Engine> {
    let mut pooled = config(flavour);
    pooled.allocation_strategy(pool(limits));
    let engine = Engine::new(&pooled).or_else(|error| {
        // A process under `ulimit -v` cannot reserve it. What is lost is speed, so this is no reason not to start.
        tracing::warn!(%error, "no address space for the wasm instance pool: every instance is made from scratch");
        Engine::new(&config(flavour))
    })?;
    tick(engine.weak()).map_err(Error::from)?;
    Ok(engine)
}

/// An engine that only compiles: it reserves nothing and makes the same code.
pub(super) fn compiler(flavour: Flavour) -> Result<Engine> {
    Engine::new(&config(flavour))
}

fn config(flavour: Flavour) -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(features(), true)
        .cranelift_nan_canonicalization(flavour == Flavour::Portable)
        .relaxed_simd_deterministic(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .wasm_backtrace_max_frames(None);
    #[cfg(feature = "component")]
    config.wasm_component_model(true);
    config
}

/// Slots are reserved once and reused: a fresh instance costs no `mmap`, and its memory is a copy-on-write image of the module's data.
fn pool(limits: &WasmLimits) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::new();
    // A table's slot is one longer than any table may be, which tells the pool's bound from a module's own maximum.
    let (core_instances, resident, pagemap) = if PoolingAllocationConfig::is_pagemap_scan_available() {
        (limits.instances, KEPT_RESIDENT_PAGEMAP, Enabled::Yes)
    } else {
        (limits.instances, KEPT_RESIDENT, Enabled::No)
    };
    #[cfg(feature = "component")]
    let core_instances = core_instances.saturating_mul(CORE_INSTANCES);
    #[cfg(feature = "component")]
    pool.total_component_instances(limits.instances)
        .max_component_instance_size(INSTANCE_BYTES)
        .max_core_instances_per_component(CORE_INSTANCES)
        .max_memories_per_component(1)
        .max_tables_per_component(TABLES);
    pool.total_core_instances(core_instances)
        .total_memories(limits.instances)
        .total_tables(limits.instances.saturating_mul(TABLES))
        .max_core_instance_size(INSTANCE_BYTES)
        .max_tables_per_module(TABLES)
        .max_memories_per_module(1)
        .max_memory_size(usize::try_from(limits.memory).unwrap_or(usize::MAX).min(MEMORY_BYTES))
        .table_elements(usize::try_from(limits.table_elements).unwrap_or(usize::MAX).min(TABLE_ELEMENTS) + 1)
        .linear_memory_keep_resident(resident)
        .table_keep_resident(KEPT_RESIDENT)
        .pagemap_scan(pagemap);
    pool
}

/// What must be equal for one engine to run what another one compiled.
pub(super) fn compatibility(engine: &Engine) -> Digest {
    let mut hasher = ToBlake3(blake3::Hasher::new_derive_key(COMPATIBILITY_CONTEXT));
    engine.precompile_compatibility_hash().hash(&mut hasher);
    hasher.0.update(VERSION.as_bytes());
    Digest::from_bytes(*hasher.0.finalize().as_bytes())
}

/// Collects what is hashed, since 64 bits of `finish` are too few to rely on.
struct ToBlake3(blake3::Hasher);

impl Hasher for ToBlake3 {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    fn finish(&self) -> u64 {
        let first = self.0.finalize();
        first.as_bytes().first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes))
    }
}

fn tick(engine: EngineWeak) -> io::Result<()> {
    let work = move || {
        while let Some(engine) = engine.upgrade() {
            engine.increment_epoch();
            drop(engine);
            thread::sleep(TICK);
        }
    };
    thread::Builder::new().name("wasm-ticker".to_owned()).stack_size(64 << 10).spawn(work)?;
    Ok(())
}

/// Measures how long an evaluation runs: the only clock of this evaluator, and no guest ever sees it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Stopwatch(Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "an evaluator is an edge: durations and deadlines are measured here")]
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn elapsed(self) -> Duration {
        self.0.elapsed()
    }
}

/// Measures the processor time of this thread, where the system counts it; elsewhere time on the wall, which is no less.
#[derive(Debug, Clone, Copy)]
pub(super) struct CpuWatch(Duration);

impl CpuWatch {
    pub(super) fn start() -> Self {
        Self(cpu_time())
    }

    pub(super) fn elapsed(self) -> Duration {
        cpu_time().saturating_sub(self.0)
    }
}

#[cfg(unix)]
fn cpu_time() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::new(u64::try_from(time.tv_sec).unwrap_or(0), u32::try_from(time.tv_nsec).unwrap_or(0))
}

#[cfg(not(unix))]
fn cpu_time() -> Duration {
    static START: std::sync::OnceLock<Stopwatch> = std::sync::OnceLock::new();
    START.get_or_init(Stopwatch::start).elapsed()
}
