//! The wasm evaluator: WebAssembly modules on wasmtime, with a deterministic WASI preview 1 of our own.
//!
//! A module is scanned (`admit`), compiled once (`cache`, `program`), and given a fresh instance per evaluation (`store`), which
//! is entered as a command (`wasi`) or as a plain module (`plain`). Invariant: a reply depends on the request alone. Time and randomness
//! are virtual, and every limit of this node ends the evaluation as an error that the guest cannot observe.
//!
//! Compilation runs on the calling compute thread and cannot be cancelled; the scan bounds what it can cost. A worker process that can be
//! killed belongs behind [`WasmEvaluator::start`](Evaluator::start). Knows nothing of ledgers, peers or the fabric.

mod admit;
mod cache;
mod engine;
mod limits;
mod plain;
mod program;
mod store;
#[cfg(test)]
mod tests;
mod wasi;

use std::env::consts::{ARCH, OS};
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{Engine as Wasmtime, Linker};

use self::cache::Programs;
use self::engine::{Stopwatch, VERSION};
pub use self::limits::WasmLimits;
use self::program::{Entry, Program};
use self::store::{Bounds, State};
use self::wasi::Wasi;
use crate::error::{EvalError, Refusal};
use crate::evaluator::pool::Pool;
use crate::evaluator::{Done, Evaluator, Job};
use crate::id::Digest;
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
    engine: Wasmtime,
    linker: Linker<State>,
    programs: Programs,
    limits: WasmLimits,
}

impl WasmEvaluator {
    /// An evaluator that runs programs on this pool, under these limits.
    pub fn new(pool: Pool, limits: WasmLimits) -> Result<Self, EvalError> {
        let broken = |error: wasmtime::Error| EvalError::Failed(format!("no wasm engine: {error:#}"));
        let engine = engine::start().map_err(broken)?;
        let linker = wasi::linker(&engine).map_err(broken)?;
        let programs = Programs::new(limits.compiled_bytes);
        Ok(Self { pool, shared: Arc::new(Shared { engine, linker, programs, limits }) })
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
        if request.class != Class::Portable {
            let why = format!("wasm is portable, the request says {}", request.class);
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
        let check = || store::go_on(bounds.time, watch, &job.cancel);
        check()?;
        let digest = match &job.request.program.code {
            Code::Bytes(Payload::Stored(blob)) => blob.digest,
            _ => Digest::of(&job.code),
        };
        let make = || Program::make(&self.engine, &self.linker, &job.code, &self.limits);
        let program = self.programs.get(digest, make)?;
        check()?;
        let entry = program.entry(&job.request.program.entry)?;
        self.run(job, &program, &entry, &bounds, watch)
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
        program: &Program,
        entry: &Entry,
        bounds: &Bounds,
        watch: Stopwatch,
    ) -> Result<Reply, EvalError> {
        let failed = |error: wasmtime::Error| EvalError::Failed(format!("{error:#}"));
        let arguments = match entry {
            Entry::Command => Vec::new(),
            Entry::Filter => only_takes(&job.request, &[Slot::Stdin], true).map(|()| Vec::new())?,
            Entry::Call(_, ty) => {
                only_takes(&job.request, &[], false)?;
                plain::arguments(ty, &job.request.args)?
            }
        };
        let wasi = match entry {
            Entry::Command => Some(Box::new(Wasi::new(job, bounds.output)?)),
            Entry::Filter | Entry::Call(..) => None,
        };
        let running = Stopwatch::start();
        let state = State::new(wasi, bounds, program.shape.memory_maximum);
        let mut store = store::store(&self.engine, state, bounds, watch, job.cancel.clone()).map_err(failed)?;
        let outcome = program.pre.instantiate(&mut store).and_then(|instance| match entry {
            Entry::Command => {
                let start = instance.get_typed_func::<(), ()>(&mut store, wasi::START)?;
                start.call(&mut store, ()).map(|()| Bytes::new())
            }
            Entry::Filter => {
                plain::filter(&mut store, instance, job.stdin().map_or(&[][..], |stdin| stdin), bounds.output)
            }
            Entry::Call(name, ty) => plain::call(&mut store, instance, name, ty, &arguments),
        });
        let (status, plain_stdout, trap) = match outcome {
            Ok(stdout) => (Status::Exit(0), stdout, None),
            Err(error) => {
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
