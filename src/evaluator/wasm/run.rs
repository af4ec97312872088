//! One evaluation from its first instruction to its reply.

use std::env::consts::{ARCH, OS};
use std::sync::LazyLock;

use bytes::Bytes;
use smol_str::{SmolStr, format_smolstr};
use wasmtime::{Instance, PoolConcurrencyLimitError, Store};

use super::asking::Asking;
use super::compile::Kit;
use super::engine::{Stopwatch, VERSION};
use super::program::{Entry, Program, Ready};
use super::store::{self, Bounds, State, Watch};
use super::wasi::{self, Wasi};
use super::{Shared, plain};
use crate::error::{EvalError, Refusal};
use crate::evaluator::{Job, NESTING};
use crate::reply::{Facts, OutputFile, Payload, Reply, Status};
use crate::request::{Request, Slot};

/// Where replies say that they were computed.
static HOST: LazyLock<SmolStr> = LazyLock::new(|| format_smolstr!("{ARCH}-{OS}"));

impl Shared {
    /// Runs a program that is compiled, on an instance of its own.
    pub(super) fn run(
        &self,
        job: &Job,
        kit: &Kit,
        program: &Program,
        entry: &Entry,
        bounds: &Bounds,
        watch: &Watch,
    ) -> Result<Reply, EvalError> {
        let failed = |error: wasmtime::Error| EvalError::Failed(format!("{error:#}"));
        let mut arguments = Vec::new();
        match entry {
            Entry::Command => {}
            #[cfg(feature = "component")]
            Entry::Component => {}
            Entry::Bytes(_) => only_takes(&job.request, &[Slot::Stdin], true)?,
            Entry::Call(_, ty) => {
                only_takes(&job.request, &[], false)?;
                arguments = plain::arguments(ty, &job.request.args)?;
            }
        }
        let wasi = match entry {
            Entry::Command => Some(Box::new(Wasi::new(job, bounds)?)),
            #[cfg(feature = "component")]
            Entry::Component => Some(Box::new(Wasi::new(job, bounds)?)),
            Entry::Bytes(_) | Entry::Call(..) => None,
        };
        let asking = if program.shape.asks { self.asking(job, bounds, watch)? } else { None };
        let running = Stopwatch::start();
        let state = State::new(wasi, asking, bounds, program.shape.memory_maximum);
        let mut store = store::store(&kit.engine, state, bounds, watch).map_err(failed)?;
        let outcome = match &program.pre {
            Ready::Module(pre) => pre.instantiate(&mut store).and_then(|instance| {
                let input = job.stdin().map_or(&[][..], |stdin| stdin);
                let stdout = enter(&mut store, instance, entry, input, &arguments, bounds)?;
                Ok((Status::Exit(0), stdout, Vec::new()))
            }),
            #[cfg(feature = "component")]
            Ready::Component(ready) => ready.evaluate(&mut store, job, bounds),
        };
        let (status, stdout, files, trap) = match outcome {
            Ok((status, stdout, files)) => (status, stdout, files, None),
            Err(error) => {
                if error.is::<PoolConcurrencyLimitError>() {
                    return Err(self.seats.full());
                }
                let (status, trap) = store::ending(&error, bounds)?;
                (status, Bytes::new(), Vec::new(), trap)
            }
        };
        let fuel = bounds.fuel.saturating_sub(store.get_fuel().map_err(failed)?);
        let duration = running.elapsed();
        let facts = Facts { duration, fuel: Some(fuel), host: HOST.clone(), evaluator: SmolStr::new_static(VERSION) };
        let given = Given { status, stdout, files, trap };
        Ok(given.reply(store.into_data().wasi, facts))
    }

    /// The right to ask, which a program that can ask needs before it runs.
    fn asking(&self, job: &Job, bounds: &Bounds, watch: &Watch) -> Result<Option<Box<Asking>>, EvalError> {
        let granted = job.request.capabilities.iter().any(|capability| capability.as_str() == NESTING);
        let asking = if granted { Asking::new(job, &self.pool, watch, bounds.output) } else { None };
        asking.map(Some).ok_or_else(|| Refusal::Capability(NESTING.to_owned()).into())
    }
}

fn enter(
    store: &mut Store<State>,
    instance: Instance,
    entry: &Entry,
    input: &[u8],
    arguments: &[wasmtime::Val],
    bounds: &Bounds,
) -> wasmtime::Result<Bytes> {
    match entry {
        Entry::Command => {
            let start = instance.get_typed_func::<(), ()>(&mut *store, wasi::START)?;
            start.call(store, ()).map(|()| Bytes::new())
        }
        #[cfg(feature = "component")]
        Entry::Component => Err(wasmtime::Error::msg("a module is no component")),
        Entry::Bytes(call) => plain::bytes(store, instance, call, input, bounds.output),
        Entry::Call(name, ty) => plain::call(store, instance, name, ty, arguments),
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

/// What a program gave back by itself, beside what it gave to its host.
struct Given {
    status: Status,
    stdout: Bytes,
    files: Vec<OutputFile>,
    trap: Option<String>,
}

impl Given {
    fn reply(self, wasi: Option<Box<Wasi>>, facts: Facts) -> Reply {
        let Self { status, mut stdout, mut files, trap } = self;
        let trap = trap.map(|text| text + "\n");
        let stderr = match wasi {
            Some(wasi) => {
                let outcome = wasi.finish();
                if !outcome.stdout.is_empty() {
                    stdout = outcome.stdout.into();
                }
                let made = |(path, bytes)| OutputFile { path, executable: false, data: Payload::Inline(bytes) };
                files.extend(outcome.files.into_iter().map(made));
                let mut stderr = outcome.stderr;
                stderr.extend_from_slice(trap.unwrap_or_default().as_bytes());
                Some(Bytes::from(stderr))
            }
            None => trap.map(Bytes::from),
        };
        Reply { status, stdout: Some(Payload::Inline(stdout)), stderr: stderr.map(Payload::Inline), files, facts }
    }
}
