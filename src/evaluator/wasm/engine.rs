//! The engine: one frozen configuration, and the thread that makes running programs look up.
//!
//! Invariant: two nodes of this version accept the same instructions and give them the same meaning. So every proposal is named in
//! [`features`] and all others are off, NaNs are canonical, and nothing here depends on the machine. Knows nothing of requests.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use wasmtime::{Config, Engine, EngineWeak, Error, Result, WasmFeatures};

use super::limits::{STACK, TICK};

/// What replies state as their evaluator; a test holds it to `Cargo.lock`.
pub(super) const VERSION: &str = "wasmtime 48.0.8";

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

/// Starts an engine and its ticker, which ends by itself once the engine is gone.
pub(super) fn start() -> Result<Engine> {
    let engine = Engine::new(&config())?;
    tick(engine.weak()).map_err(Error::from)?;
    Ok(engine)
}

/// The seam for later tuning: a pooling allocator, or an artifact store, changes this function and no other.
fn config() -> Config {
    let mut config = Config::new();
    config
        .wasm_features(WasmFeatures::all(), false)
        .wasm_features(features(), true)
        .cranelift_nan_canonicalization(true)
        .relaxed_simd_deterministic(true)
        .consume_fuel(true)
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .wasm_backtrace_max_frames(None);
    config
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
