//! Nested evaluation: a program that was granted it asks the fabric for other replies on its way.
//!
//! A question is put together field by field, asked, and its reply read; the functions are listed at the end. The program sees answers only:
//! whatever else comes of a question (a limit, a refusal, nobody who answers) ends the evaluation with that error, since it may differ between
//! nodes. Invariants: a nested question has the class and scope of the one that asks it and no capability that it lacks; what questions and
//! replies hold is bounded like output is.

use std::sync::Arc;

use bytes::Bytes;
use wasmtime::{Caller, Linker, Result};

use super::limits::ASKS;
use super::store::{State, Stop, Watch};
use super::wasi::abi::{Errno, Fault, Memory, Outcome};
use super::wasi::fs::Budget;
use super::wasi::with_memory;
use crate::error::{LimitHit, Refusal};
use crate::evaluator::pool::Pool;
use crate::evaluator::{Asker, Job};
use crate::reply::{OutputFile, Payload, Reply, Status};
use crate::request::{Name, Program, RelPath, Request, Slot, Source};

/// The module that these functions are imported from.
pub(super) const MODULE: &str = "evalmesh";

/// What one evaluation asks.
pub(super) struct Asking {
    asker: Arc<dyn Asker>,
    pool: Pool,
    outer: Arc<Request>,
    code: Bytes,
    watch: Watch,
    /// The question that is being put together, and the bytes that it holds.
    next: Option<(Request, u64)>,
    /// By number; those that were forgotten are gone.
    replies: Vec<Option<Reply>>,
    budget: Budget,
}

impl Asking {
    /// For the evaluation of this job, if it was granted this.
    pub(super) fn new(job: &Job, pool: &Pool, watch: &Watch, bytes: u64) -> Option<Box<Self>> {
        Some(Box::new(Self {
            asker: Arc::clone(job.asker.as_ref()?),
            pool: pool.clone(),
            outer: Arc::clone(&job.request),
            code: job.code.clone(),
            watch: watch.clone(),
            next: None,
            replies: Vec::new(),
            budget: Budget::new(bytes),
        }))
    }

    /// A question to a program, which is this one if none is given.
    pub(super) fn question(&self, program: Option<Bytes>) -> Request {
        let mut request = Request::new(Program::wasm(program.unwrap_or_else(|| self.code.clone())));
        request.class = self.outer.class.clone();
        request.scope.clone_from(&self.outer.scope);
        request
    }

    /// Asks, waits, and keeps the reply.
    pub(super) fn put(&mut self, mut request: Request) -> std::result::Result<u32, Fault> {
        if self.replies.len() >= ASKS {
            return Err(Stop::from(LimitHit::FanOut { bound: ASKS as u64 }).into());
        }
        if let Some(capability) = request.capabilities.difference(&self.outer.capabilities).next() {
            return Err(Stop::Error(Box::new(Refusal::Capability(capability.to_string()).into())).into());
        }
        request.options.timeout = Some(self.watch.left());
        let (asker, watch) = (Arc::clone(&self.asker), self.watch.clone());
        let go_on = move || Ok(watch.go_on()?);
        let answered = self.pool.blocking(move || asker.ask(request, &go_on)).and_then(|answer| answer);
        let reply = answered.map_err(|error| Stop::Error(Box::new(error)))?.reply;
        self.budget.take(reply.len())?;
        self.replies.push(Some(reply));
        u32::try_from(self.replies.len() - 1).map_err(|_| Errno::Inval.into())
    }

    /// Asks for a component, which is handed the reply at once, so nothing is held afterwards.
    #[cfg(feature = "component")]
    pub(super) fn put_and_take(&mut self, request: Request) -> std::result::Result<Reply, Fault> {
        let number = self.put(request)?;
        self.budget.reset();
        self.replies[number as usize].take().ok_or_else(|| Errno::Badf.into())
    }

    /// Charges bytes of a question.
    #[cfg(feature = "component")]
    pub(super) fn charge(&mut self, bytes: u64) -> Outcome {
        self.budget.take(bytes)
    }

    fn reply(&self, number: u32) -> std::result::Result<&Reply, Errno> {
        self.replies.get(number as usize).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    /// Changes the question that is being put together, which then holds so many bytes more.
    fn edit(&mut self, bytes: u32, change: impl FnOnce(&mut Request)) -> Outcome {
        let (request, held) = self.next.as_mut().ok_or(Errno::Inval)?;
        self.budget.take(bytes.into())?;
        *held += u64::from(bytes);
        change(request);
        Ok(())
    }

    fn begin(&mut self, program: Option<Bytes>) -> Outcome {
        if let Some((_, held)) = self.next.take() {
            self.budget.give_back(held);
        }
        let held = program.as_ref().map_or(0, Bytes::len) as u64;
        self.budget.take(held)?;
        self.next = Some((self.question(program), held));
        Ok(())
    }

    fn program(&mut self, memory: &mut Memory<'_>, at: u32, len: u32) -> Outcome {
        let program = copy(memory, at, len)?;
        self.begin(Some(program))
    }

    fn program_self(&mut self, _: &mut Memory<'_>) -> Outcome {
        self.begin(None)
    }

    fn entry(&mut self, memory: &mut Memory<'_>, at: u32, len: u32) -> Outcome {
        let entry = memory.text(at, len)?.to_owned();
        self.edit(len, |request| request.program.entry = entry)
    }

    fn argument(&mut self, memory: &mut Memory<'_>, at: u32, len: u32) -> Outcome {
        let argument = memory.text(at, len)?.to_owned();
        self.edit(len, |request| request.args.push(argument))
    }

    fn variable(&mut self, memory: &mut Memory<'_>, name: u32, name_len: u32, at: u32, len: u32) -> Outcome {
        let (name, value) = (memory.text(name, name_len)?.to_owned(), memory.text(at, len)?.to_owned());
        let held = name_len.saturating_add(len);
        self.edit(held, |request| drop(request.env.insert(name, value)))
    }

    fn input(&mut self, memory: &mut Memory<'_>, at: u32, len: u32) -> Outcome {
        let input = copy(memory, at, len)?;
        self.edit(len, |request| drop(request.inputs.insert(Slot::Stdin, Source::Payload(Payload::Inline(input)))))
    }

    fn file(&mut self, memory: &mut Memory<'_>, path: u32, path_len: u32, at: u32, len: u32) -> Outcome {
        let path: RelPath = memory.path(path, path_len)?.parse().map_err(|_| Errno::Inval)?;
        let bytes = copy(memory, at, len)?;
        let held = path_len.saturating_add(len);
        let source = Source::Payload(Payload::Inline(bytes));
        self.edit(held, |request| drop(request.inputs.insert(Slot::File(path), source)))
    }

    fn capability(&mut self, memory: &mut Memory<'_>, at: u32, len: u32) -> Outcome {
        let capability: Name = memory.text(at, len)?.parse().map_err(|_| Errno::Inval)?;
        self.edit(len, |request| {
            request.capabilities.insert(capability);
        })
    }

    fn ask(&mut self, memory: &mut Memory<'_>, result: u32) -> Outcome {
        memory.put_u32(result, 0)?;
        let (request, held) = self.next.take().ok_or(Errno::Inval)?;
        let number = self.put(request);
        self.budget.give_back(held);
        memory.put_u32(result, number?)
    }

    /// Two numbers: 0 and the exit status, or 1 and the trap's code.
    fn status(&mut self, memory: &mut Memory<'_>, reply: u32, result: u32) -> Outcome {
        let (kind, code) = match self.reply(reply)?.status {
            Status::Exit(code) => (0, code.cast_unsigned()),
            Status::Trap(code) => (1, code as u32),
        };
        memory.put_u32(result, kind)?;
        memory.put_u32(result.wrapping_add(4), code)
    }

    /// Standard output under the empty path, else a file.
    fn output(&self, memory: &Memory<'_>, reply: u32, path: u32, path_len: u32) -> std::result::Result<&Bytes, Fault> {
        let path = memory.path(path, path_len)?;
        let reply = self.reply(reply)?;
        let named = |file: &&OutputFile| file.path.as_str() == path;
        let data = match path {
            "" => reply.stdout.as_ref(),
            _ => reply.files.iter().find(named).map(|file| &file.data),
        };
        data.and_then(Payload::bytes).ok_or_else(|| Errno::Noent.into())
    }

    fn output_len(&mut self, memory: &mut Memory<'_>, reply: u32, path: u32, path_len: u32, result: u32) -> Outcome {
        let len = self.output(memory, reply, path, path_len)?.len();
        memory.put_u64(result, len as u64)
    }

    #[expect(clippy::too_many_arguments, reason = "a path, a place in a file, a buffer and a result")]
    fn output_read(
        &mut self,
        memory: &mut Memory<'_>,
        reply: u32,
        path: u32,
        path_len: u32,
        at: u64,
        buffer: u32,
        len: u32,
        result: u32,
    ) -> Outcome {
        let data = self.output(memory, reply, path, path_len)?;
        let at = usize::try_from(at).unwrap_or(usize::MAX).min(data.len());
        let piece = &data[at..data.len().min(at.saturating_add(len as usize))];
        memory.bytes(buffer, len)?;
        memory.put(buffer, piece)?;
        memory.put_len(result, piece.len())
    }

    fn forget(&mut self, _: &mut Memory<'_>, reply: u32) -> Outcome {
        let reply = self.replies.get_mut(reply as usize).and_then(Option::take).ok_or(Errno::Badf)?;
        self.budget.give_back(reply.len());
        Ok(())
    }
}

fn copy(memory: &Memory<'_>, at: u32, len: u32) -> std::result::Result<Bytes, Fault> {
    memory.bytes(at, len).map(Bytes::copy_from_slice)
}

/// Lists the functions once: the names that admission knows, and the definitions that programs are linked with.
macro_rules! functions {
    ($($name:ident($($arg:ident: $ty:ty),*);)+) => {
        const OFFERED: &[&str] = &[$(stringify!($name)),+];

        /// Defines all of them.
        pub(super) fn define(linker: &mut Linker<State>) -> Result<()> {
            $(
                linker.func_wrap(MODULE, stringify!($name), |caller: Caller<'_, State>, $($arg: $ty),*| {
                    with_memory(caller, |state, memory| match &mut state.asking {
                        Some(asking) => asking.$name(memory, $($arg),*),
                        None => Err(Errno::Notcapable.into()),
                    })
                })?;
            )+
            Ok(())
        }
    };
}

functions! {
    program(at: u32, len: u32);
    program_self();
    entry(at: u32, len: u32);
    argument(at: u32, len: u32);
    variable(name: u32, name_len: u32, at: u32, len: u32);
    input(at: u32, len: u32);
    file(path: u32, path_len: u32, at: u32, len: u32);
    capability(at: u32, len: u32);
    ask(result: u32);
    status(reply: u32, result: u32);
    output_len(reply: u32, path: u32, path_len: u32, result: u32);
    output_read(reply: u32, path: u32, path_len: u32, at: u64, buffer: u32, len: u32, result: u32);
    forget(reply: u32);
}

/// Whether there is a function of this name.
pub(super) fn is_offered(name: &str) -> bool {
    OFFERED.contains(&name)
}
