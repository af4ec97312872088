//! The wasm evaluator: WebAssembly modules on wasmtime, with a deterministic WASI preview 1 of our own.
//!
//! A module is scanned (`admit`), compiled once (`compile`, `cache`), and given a fresh instance per evaluation (`store`, `instances`), which
//! is entered as a command (`wasi`) or as a plain module (`plain`). Invariant: a reply depends on the request alone. Time and randomness
//! are virtual, and every limit of this node ends the evaluation as an error that the guest cannot observe. `docs/wasm.md` is the contract
//! in full. Knows nothing of ledgers, peers or the fabric.

mod admit;
mod aot;
mod artifacts;
mod cache;
mod compile;
mod engine;
#[cfg(feature = "artifacts-http")]
mod http;
mod inspect;
mod instances;
mod limits;
pub(super) mod plain;
pub(super) mod program;
mod remote;
mod store;
#[cfg(test)]
mod tests;
mod wasi;
mod weigh;
pub mod worker;

use std::env::consts::{ARCH, OS};
use std::fmt;
use std::sync::{self, Arc, OnceLock};

use bytes::Bytes;
use wasmtime::PoolConcurrencyLimitError;

pub use self::aot::AotConfig;
pub use self::artifacts::{ArtifactReport, Layer, Miss};
use self::cache::{Key, Programs};
pub use self::compile::{Compilation, WasmSetup};
use self::compile::{Compiler, Kit};
use self::engine::{Flavour, Stopwatch, VERSION};
#[cfg(feature = "artifacts-http")]
pub use self::http::{AddressError, Https};
pub use self::inspect::{GuestKind, Inspection, Item, Needs, inspect};
pub use self::instances::PoolGauges;
use self::instances::Seats;
pub use self::limits::WasmLimits;
use self::program::{Entry, Program};
pub use self::remote::{Fetch, Folder, Publication, RemoteConfig};
use self::store::{Bounds, State};
use self::wasi::Wasi;
use crate::error::{EvalError, Refusal};
use crate::evaluator::pool::{Pool, QUEUE};
use crate::evaluator::{Done, Evaluator, Job};
use crate::id::Digest;
use crate::identity::Signer;
use crate::reply::{Facts, OutputFile, Payload, Reply, Status};
use crate::request::{Class, Code, Engine, Request, Slot};

/// The contract between guests and this evaluator; part of every request's id.
const ABI: u32 = 1;

/// Runs WebAssembly modules on compute threads.
#[derive(Clone)]
pub struct WasmEvaluator {
    pool: Pool,
    shared: Arc<Shared>,
}

struct Shared {
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
        match request.capabilities.first() {
            Some(capability) => Err(Refusal::Capability(capability.to_string()).into()),
            None => Ok(()),
        }
    }

    fn start(&self, job: Job, done: Done) {
        if let Err(error) = Evaluator::admit(self, &job.request) {
            return done(Err(error));
        }
        let shared = Arc::clone(&self.shared);
        self.pool.run(move || shared.evaluate(&job), done);
    }
}

impl Shared {
    fn evaluate(&self, job: &Job) -> Result<Reply, EvalError> {
        let watch = Stopwatch::start();
        let bounds = self.bounds(job);
        let go_on = || Ok(store::go_on(bounds.time, watch, &job.cancel)?);
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
        self.run(job, kit, &program, &entry, &bounds, watch)
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
            time: job.budget.unwrap_or(limits.time),
        }
    }

    fn run(
        &self,
        job: &Job,
        kit: &Kit,
        program: &Program,
        entry: &Entry,
        bounds: &Bounds,
        watch: Stopwatch,
    ) -> Result<Reply, EvalError> {
        let failed = |error: wasmtime::Error| EvalError::Failed(format!("{error:#}"));
        let arguments = match entry {
            Entry::Command => Vec::new(),
            Entry::Bytes(_) => only_takes(&job.request, &[Slot::Stdin], true).map(|()| Vec::new())?,
            Entry::Call(_, ty) => {
                only_takes(&job.request, &[], false)?;
                plain::arguments(ty, &job.request.args)?
            }
        };
        let wasi = match entry {
            Entry::Command => Some(Box::new(Wasi::new(job, bounds.output)?)),
            Entry::Bytes(_) | Entry::Call(..) => None,
        };
        let running = Stopwatch::start();
        let state = State::new(wasi, bounds, program.shape.memory_maximum);
        let mut store = store::store(&kit.engine, state, bounds, watch, job.cancel.clone()).map_err(failed)?;
        let outcome = program.pre.instantiate(&mut store).and_then(|instance| match entry {
            Entry::Command => {
                let start = instance.get_typed_func::<(), ()>(&mut store, wasi::START)?;
                start.call(&mut store, ()).map(|()| Bytes::new())
            }
            Entry::Bytes(entry) => {
                let input = job.stdin().map_or(&[][..], |stdin| stdin);
                plain::bytes(&mut store, instance, *entry, input, bounds.output)
            }
            Entry::Call(name, ty) => plain::call(&mut store, instance, name, ty, &arguments),
        });
        let (status, plain_stdout, trap) = match outcome {
            Ok(stdout) => (Status::Exit(0), stdout, None),
            Err(error) => {
                if error.is::<PoolConcurrencyLimitError>() {
                    return Err(self.seats.full());
                }
                let (status, trap) = store::ending(&error, bounds)?;
                (status, Bytes::new(), trap)
            }
        };
        let fuel = bounds.fuel.saturating_sub(store.get_fuel().map_err(failed)?);
        let duration = running.elapsed();
        let facts = Facts { duration, fuel: Some(fuel), host: format!("{ARCH}-{OS}"), evaluator: VERSION.to_owned() };
        Ok(reply(status, plain_stdout, trap, store.into_data().wasi, facts))
    }
}

/// Refuses what a plain module could only ignore: an ignored input would still be part of the id.
fn only_takes(request: &Request, slots: &[Slot], no_args: bool) -> Result<(), Refusal> {
    if !request.env.is_empty() {
        return Err(Refusal::Arguments("a plain module has no environment".to_owned()));
    }
    if no_args && !request.args.is_empty() {
        return Err(Refusal::Arguments("the alloc/run ABI takes standard input and no arguments".to_owned()));
    }
    match request.inputs.keys().find(|slot| !slots.contains(slot)) {
        Some(Slot::Stdin) => Err(Refusal::Arguments("a call has no standard input".to_owned())),
        Some(Slot::File(path)) => Err(Refusal::Arguments(format!("a plain module sees no files such as `{path}`"))),
        None => Ok(()),
    }
}

fn reply(status: Status, plain_stdout: Bytes, trap: Option<String>, wasi: Option<Box<Wasi>>, facts: Facts) -> Reply {
    let outcome = wasi.map(|wasi| wasi.finish());
    let trap = trap.map(|text| text + "\n");
    let (stdout, stderr, files) = match outcome {
        Some(outcome) => {
            let mut stderr = outcome.stderr;
            stderr.extend_from_slice(trap.unwrap_or_default().as_bytes());
            (outcome.stdout.into(), Some(Bytes::from(stderr)), outcome.files)
        }
        None => (plain_stdout, trap.map(Bytes::from), Vec::new()),
    };
    let files = files
        .into_iter()
        .map(|(path, bytes)| OutputFile { path, executable: false, data: Payload::Inline(bytes) })
        .collect();
    Reply { status, stdout: Some(Payload::Inline(stdout)), stderr: stderr.map(Payload::Inline), files, facts }
}
