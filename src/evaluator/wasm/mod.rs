//! The wasm evaluator: WebAssembly modules on wasmtime, with a deterministic WASI preview 1 of our own.
//!
//! A module is scanned (`admit`), compiled once (`compile`, `cache`), and given a fresh instance per evaluation (`store`, `instances`), which
//! is entered as a command (`wasi`), as a plain module (`plain`) or as a component (`component`), by `run`. Invariant: a reply depends on the request alone. Time and randomness
//! are virtual, and every limit of this node ends the evaluation as an error that the guest cannot observe. `docs/wasm.md` is the contract
//! in full. Knows nothing of ledgers, peers or the fabric.

mod admit;
mod aot;
mod asking;
mod cache;
mod code;
mod compile;
#[cfg(feature = "component")]
mod component;
mod engine;
#[cfg(feature = "artifacts-http")]
mod http;
mod inspect;
mod instances;
mod limits;
pub(super) mod plain;
pub(super) mod program;
mod remote;
mod run;
mod store;
#[cfg(test)]
mod tests;
mod wasi;
mod weigh;
pub mod worker;

use std::fmt;
use std::sync::{self, Arc, OnceLock};

use bytes::Bytes;

use self::cache::{Key, Programs};
pub use self::compile::{Compilation, WasmSetup};
use self::compile::{Compiler, Kit};
use self::engine::{Flavour, VERSION};
#[cfg(feature = "artifacts-http")]
pub use self::http::{AddressError, Https};
pub use self::inspect::{GuestKind, Inspection, Item, Needs, inspect};
pub use self::instances::PoolGauges;
use self::instances::Seats;
pub use self::limits::WasmLimits;
use self::program::Program;
pub use self::remote::{Fetch, Folder, Publication, RemoteConfig};
use self::store::{Bounds, Watch};
use crate::error::{EvalError, Refusal};
pub use crate::evaluator::artifacts::{AotConfig, ArtifactReport, Layer, Miss};
use crate::evaluator::pool::{Pool, QUEUE};
use crate::evaluator::{Done, Evaluator, Job, NESTING};
use crate::id::Digest;
use crate::identity::Signer;
use crate::limits::MAX_OUTPUT_FILES;
use crate::reply::{Payload, Reply};
use crate::request::{Class, Code, Engine, Request};

/// The contract between guests and this evaluator; part of every request's id.
const ABI: u32 = 1;

/// Runs WebAssembly modules on compute threads.
#[derive(Clone)]
pub struct WasmEvaluator {
    pool: Pool,
    shared: Arc<Shared>,
}

struct Shared {
    pool: Pool,
    portable: Arc<Kit>,
    /// Made when it is first asked for.
    native: OnceLock<Result<Arc<Kit>, EvalError>>,
    programs: Arc<Programs>,
    compiler: Arc<Compiler>,
    seats: Seats,
    limits: WasmLimits,
}

impl WasmEvaluator {
    /// An evaluator that runs programs on this pool, under these limits, and keeps nothing on disk.
    pub fn new(pool: Pool, limits: WasmLimits) -> Result<Self, EvalError> {
        Self::with(pool, WasmSetup { limits, ..WasmSetup::default() })
    }

    /// An evaluator that is set up in every respect.
    pub fn with(pool: Pool, setup: WasmSetup) -> Result<Self, EvalError> {
        let limits = setup.limits.clone();
        let shared = Shared {
            pool: pool.clone(),
            portable: Arc::new(Kit::new(Flavour::Portable, &limits)?),
            native: OnceLock::new(),
            programs: Programs::new(limits.compiled_bytes),
            compiler: Arc::new(Compiler::new(setup)?),
            seats: Seats::new(limits.instances),
            limits,
        };
        Ok(Self { pool, shared: Arc::new(shared) })
    }

    /// What the layers of compiled code did so far.
    #[must_use]
    pub fn artifacts(&self) -> ArtifactReport {
        self.shared.compiler.counters.report()
    }

    /// Runs one evaluation on this thread, which may take as long as its budget.
    pub fn evaluate(&self, job: &Job) -> Result<Reply, EvalError> {
        Evaluator::admit(self, &job.request)?;
        self.shared.evaluate(job)
    }

    /// Compiles a program, if it is not compiled yet, and says whether it can be entered here and by that name. Runs nothing.
    pub fn prepare(&self, code: &Bytes, entry: &str) -> Result<Digest, EvalError> {
        let digest = self.shared.programs.digest(code);
        let key = Key { digest, flavour: Flavour::Portable };
        self.shared.program(&self.shared.portable, key, code, || Ok(()))?.entry(entry)?;
        Ok(digest)
    }

    /// Compiles a program and signs the code, for others who list the signer. `source` says where the program is from.
    pub fn publish(&self, code: &Bytes, source: &str, signer: &dyn Signer) -> Result<Publication, EvalError> {
        if source.trim().is_empty() {
            return Err(Refusal::Arguments("a published copy says where its program is from".to_owned()).into());
        }
        let digest = self.shared.programs.digest(code);
        self.shared.compiler.publish(&self.shared.portable, digest, code, source, signer)
    }

    /// The class that asks for this machine's own arithmetic: as fast as the hardware, and comparable only between equal machines and versions.
    #[must_use]
    pub fn native_class() -> Option<Class> {
        engine::native_class().parse().ok().map(Class::Device)
    }

    /// How full the pool of instances is.
    #[must_use]
    pub fn gauges(&self) -> PoolGauges {
        PoolGauges::read(&self.shared.seats, &self.shared.portable.engine)
    }
}

impl fmt::Debug for WasmEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WasmEvaluator").field("limits", &self.shared.limits).finish_non_exhaustive()
    }
}

impl Evaluator for WasmEvaluator {
    fn engine(&self) -> Engine {
        Engine::Wasm
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        let program = &request.program;
        if program.engine != Engine::Wasm {
            return Err(Refusal::NoEvaluator(program.engine).into());
        }
        if program.abi != ABI {
            return Err(
                Refusal::Malformed(format!("it speaks ABI {}, this evaluator speaks {ABI}", program.abi)).into()
            );
        }
        if matches!(program.code, Code::Opaque { .. }) {
            return Err(Refusal::Malformed("a wasm program is shipped, not named".to_owned()).into());
        }
        if Flavour::of(&request.class).is_none() {
            let native = engine::native_class();
            let why = format!("wasm here is portable or device:{native}, the request says {}", request.class);
            return Err(Refusal::ClassNotProven(why).into());
        }
        match request.capabilities.iter().find(|capability| capability.as_str() != NESTING) {
            Some(capability) => Err(Refusal::Capability(capability.to_string()).into()),
            None => Ok(()),
        }
    }

    fn start(&self, job: Job, done: Done) {
        if let Err(error) = Evaluator::admit(self, &job.request) {
            return done(Err(error));
        }
        let shared = Arc::clone(&self.shared);
        self.pool.run(job.depth(), move || shared.evaluate(&job), done);
    }
}

impl Shared {
    fn evaluate(&self, job: &Job) -> Result<Reply, EvalError> {
        let bounds = self.bounds(job);
        let watch = Watch::start(&bounds, &job.cancel);
        let go_on = || Ok(watch.go_on()?);
        go_on()?;
        let digest = match &job.request.program.code {
            Code::Bytes(Payload::Stored(blob)) => blob.digest,
            _ => self.programs.digest(&job.code),
        };
        let flavour = Flavour::of(&job.request.class)
            .ok_or_else(|| Refusal::ClassNotProven(format!("wasm is not {}", job.request.class)))?;
        let (kit, key) = (self.kit(flavour)?, Key { digest, flavour });
        let program = self.program(kit, key, &job.code, go_on)?;
        let entry = program.entry(&job.request.program.entry)?;
        let _seat = self.seats.take(go_on)?;
        self.run(job, kit, &program, &entry, &bounds, &watch)
    }

    fn program(
        &self,
        kit: &Arc<Kit>,
        key: Key,
        code: &Bytes,
        go_on: impl Fn() -> Result<(), EvalError>,
    ) -> Result<Arc<Program>, EvalError> {
        let begin = |making| self.compiler.begin(Arc::clone(kit), code.clone(), key, making);
        self.programs.get(key, QUEUE as u64, &self.compiler.counters, go_on, begin)
    }

    fn kit(&self, flavour: Flavour) -> Result<&Arc<Kit>, EvalError> {
        match flavour {
            Flavour::Portable => Ok(&self.portable),
            Flavour::Native => {
                let make = || Kit::new(flavour, &self.limits).map(Arc::new);
                self.native.get_or_init(make).as_ref().map_err(Clone::clone)
            }
        }
    }

    fn bounds(&self, job: &Job) -> Bounds {
        let (limits, options) = (&self.limits, &job.request.options);
        let lowered = |wanted: Option<u64>, limit: u64| wanted.unwrap_or(limit).min(limit);
        Bounds {
            fuel: options.fuel.unwrap_or(limits.fuel),
            memory: lowered(options.memory, limits.memory),
            table_elements: limits.table_elements,
            output: lowered(options.output, limits.output),
            files: lowered(options.files, MAX_OUTPUT_FILES as u64),
            time: job.budget.unwrap_or(limits.time),
            cpu: [options.cpu, limits.cpu].into_iter().flatten().min(),
        }
    }
}
