//! From bytes to a program that is ready: found on disk, or scanned and then fetched or compiled, and linked; on threads of its own.
//!
//! A caller never compiles on its own thread, so its deadline and its cancellation hold while the compiler works, and what it gave up is there
//! when it asks again. Invariant: code is run only if this node's compiler or a listed signer made it for exactly this program,
//! engine and policy.
//! Knows nothing of requests.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{Engine, Linker};

use super::admit::{self, Shape};
use super::aot::{AotStore, Artifact};
use super::cache::{Key, Making};
use super::code::{self, Compiled};
#[cfg(feature = "component")]
use super::component;
use super::engine::{self, Flavour};
use super::limits::{POLICY, WasmLimits};
use super::program::{Program, Ready};
use super::remote::{Publication, RemoteConfig};
use super::store::State;
use super::wasi;
use super::worker::{self, WorkerConfig, Workers};
use crate::error::{EvalError, Refusal};
use crate::evaluator::artifacts::{AotConfig, Counters, Fingerprint, Layer, Miss};
use crate::evaluator::pool::Pool;
use crate::id::Digest;
use crate::identity::Signer;

/// Compilations at one time: each uses several cores by itself where there are any.
const COMPILERS: usize = 4;

/// Where programs are compiled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compilation {
    /// In worker processes that are killed when they take too much.
    Worker(WorkerConfig),
    /// In this process. The scan refuses what is known to be costly, but what it lets through cannot be stopped: for trusted programs.
    InProcess,
}

/// Workers if this process said that it can be one (`enter_worker_role`), else in this process.
impl Default for Compilation {
    fn default() -> Self {
        worker::own().map_or(Self::InProcess, Self::Worker)
    }
}

/// How an evaluator is set up.
#[derive(Debug, Clone, Default)]
pub struct WasmSetup {
    /// What it gives to one evaluation, and keeps.
    pub limits: WasmLimits,
    /// Where it compiles.
    pub compilation: Compilation,
    /// Where it keeps compiled code over restarts.
    pub aot: Option<AotConfig>,
    /// Whose compiled code it takes where it has none, in the order in which they are asked.
    pub remotes: Vec<RemoteConfig>,
}

/// What programs of one flavour are compiled and linked with.
pub(super) struct Kit {
    pub(super) engine: Engine,
    flavour: Flavour,
    compatibility: Digest,
    linker: Linker<State>,
    #[cfg(feature = "component")]
    components: wasmtime::component::Linker<State>,
}

impl Kit {
    pub(super) fn new(flavour: Flavour, limits: &WasmLimits) -> Result<Self, EvalError> {
        let broken = |error: wasmtime::Error| EvalError::Failed(format!("no wasm engine: {error:#}"));
        let engine = engine::start(flavour, limits).map_err(broken)?;
        let linker = wasi::linker(&engine).map_err(broken)?;
        Ok(Self {
            flavour,
            compatibility: engine::compatibility(&engine),
            linker,
            #[cfg(feature = "component")]
            components: component::linker(&engine).map_err(broken)?,
            engine,
        })
    }

    fn link(&self, compiled: &Compiled, shape: Shape) -> Result<Program, EvalError> {
        let ready = match compiled {
            // The scan passed, so what remains is a host function imported with another type.
            Compiled::Module(module) => {
                let pre = self.linker.instantiate_pre(module);
                Ready::Module(pre.map_err(|error| Refusal::Malformed(format!("{error:#}")))?)
            }
            #[cfg(feature = "component")]
            Compiled::Component(component) => Ready::Component(component::Ready::link(&self.components, component)?),
        };
        Ok(Program::new(ready, shape))
    }
}

/// Makes programs.
pub(super) struct Compiler {
    threads: Pool,
    limits: WasmLimits,
    workers: Option<Workers>,
    disk: Option<AotStore>,
    remotes: Vec<RemoteConfig>,
    pub(super) counters: Counters,
}

impl Compiler {
    pub(super) fn new(setup: WasmSetup) -> Result<Self, EvalError> {
        let failed = |what: &str, error: std::io::Error| EvalError::Failed(format!("{what}: {error}"));
        let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get).min(COMPILERS);
        let threads = Pool::start("evalmesh-compile", threads).map_err(|error| failed("no compile threads", error))?;
        let workers = match setup.compilation {
            Compilation::Worker(config) => Some(Workers::start(config)?),
            Compilation::InProcess => None,
        };
        let counters = Counters::default();
        let disk = setup.aot.map(|config| AotStore::open(config, &counters)).transpose();
        let disk = disk.map_err(|error| failed("the store of compiled code", error))?;
        Ok(Self { threads, limits: setup.limits, workers, disk, remotes: setup.remotes, counters })
    }

    /// Has a program made on another thread.
    pub(super) fn begin(self: &Arc<Self>, kit: Arc<Kit>, code: Bytes, key: Key, making: Making) {
        let this = Arc::clone(self);
        let task = move || {
            let made = catch_unwind(AssertUnwindSafe(|| this.make(&kit, key.digest, &code)));
            making.finish(made.unwrap_or_else(|_| Err(EvalError::Failed("the compiler panicked".to_owned()))));
        };
        // Where the queue is full the task is dropped, and with it the duty to fill the slot, which says so.
        drop(self.threads.spawn(task));
    }

    fn make(&self, kit: &Kit, program: Digest, code: &[u8]) -> Result<Program, EvalError> {
        let made_for = Fingerprint { program, engine: kit.compatibility, policy: POLICY };
        if let Some(disk) = &self.disk {
            match disk.load(&kit.engine, &made_for, &self.counters) {
                Ok((module, shape)) => {
                    self.counters.count(|report| {
                        report.disk_hits += 1;
                        report.promoted += 1;
                    });
                    return kit.link(&module, shape);
                }
                Err(why) => self.counters.missed(Layer::Disk, why),
            }
        }
        let shape = admit::scan(code, &self.limits)?;
        if let Some(module) = self.remotes.iter().find_map(|remote| self.fetch(kit, &made_for, shape, remote)) {
            return kit.link(&module, shape);
        }
        let module = self.compile(kit, &made_for, shape, code)?;
        self.counters.count(|report| report.compiled += 1);
        kit.link(&module, shape)
    }

    /// Takes code from a remote, which is asked only about programs that are admitted here, and promotes it to disk.
    fn fetch(&self, kit: &Kit, made_for: &Fingerprint, shape: Shape, remote: &RemoteConfig) -> Option<Compiled> {
        let fetched = remote.load(made_for).and_then(|artifact| {
            // What its signer found out about the program must be what was found out here.
            if artifact.shape == shape { Ok(artifact) } else { Err(Miss::OtherFingerprint) }
        });
        let loaded = fetched
            .and_then(|artifact| Ok((code::load_bytes(&kit.engine, &artifact.code, shape.component)?, artifact)));
        match loaded {
            Ok((module, artifact)) => {
                let promoted = self.disk.as_ref().is_some_and(|disk| self.store(disk, made_for, &artifact));
                self.counters.count(|report| {
                    report.remote_hits += 1;
                    report.promoted += 1 + u64::from(promoted);
                });
                Some(module)
            }
            Err(why) => {
                self.counters.missed(Layer::Remote, why);
                None
            }
        }
    }

    /// Compiles a program anew and signs what came of it.
    pub(super) fn publish(
        &self,
        kit: &Kit,
        program: Digest,
        code: &[u8],
        source: &str,
        signer: &dyn Signer,
    ) -> Result<Publication, EvalError> {
        let made_for = Fingerprint { program, engine: kit.compatibility, policy: POLICY };
        let shape = admit::scan(code, &self.limits)?;
        let code = self.native(kit, code)?;
        Ok(Publication::sign(&made_for, &Artifact { shape, code }, source, signer))
    }

    /// A program's native code, by whatever compiles here.
    fn native(&self, kit: &Kit, code: &[u8]) -> Result<Vec<u8>, EvalError> {
        match &self.workers {
            Some(workers) => workers.compile(kit.flavour, kit.compatibility, code),
            None => code::precompile(&kit.engine, code).map_err(|error| malformed(&error)),
        }
    }

    fn compile(&self, kit: &Kit, made_for: &Fingerprint, shape: Shape, code: &[u8]) -> Result<Compiled, EvalError> {
        if self.workers.is_none() && self.disk.is_none() {
            return Compiled::here(&kit.engine, code).map_err(|error| malformed(&error));
        }
        let code = self.native(kit, code)?;
        let artifact = Artifact { shape, code };
        let stored = self.disk.as_ref().filter(|disk| self.store(disk, made_for, &artifact));
        // What is on disk is mapped from there: then its pages are the system's to drop, and the copy here is not needed.
        let mapped = stored.and_then(|disk| disk.load(&kit.engine, made_for, &self.counters).ok());
        match mapped {
            Some((module, _)) => Ok(module),
            None => code::load_bytes(&kit.engine, &artifact.code, shape.component)
                .map_err(|why| EvalError::Failed(format!("what was just compiled is {why}"))),
        }
    }

    /// Keeps code on disk; a disk that cannot costs later starts time and nothing else.
    fn store(&self, disk: &AotStore, made_for: &Fingerprint, artifact: &Artifact) -> bool {
        let stored = disk.store(made_for, artifact, &self.counters);
        if let Err(error) = &stored {
            tracing::warn!(%error, "compiled code cannot be kept on disk");
        }
        self.counters.count(|report| *(if stored.is_ok() { &mut report.stored } else { &mut report.not_stored }) += 1);
        stored.is_ok()
    }
}

/// The scan passed, so what is refused here is a bound of the compiler's own.
fn malformed(error: &wasmtime::Error) -> EvalError {
    Refusal::Malformed(format!("{error:#}")).into()
}
