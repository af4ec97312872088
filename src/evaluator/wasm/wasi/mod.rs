//! WASI preview 1 for commands, deterministic and all in memory.
//!
//! A program sees its request and nothing else: arguments, environment, standard input, input files and scratch under `/`, a clock that begins at
//! a fixed instant, and randomness seeded by the request's id. Invariant: two evaluations of one request make the same calls and get the same
//! answers, on any node. Limits of a node end the evaluation and are no errno.

pub(super) mod abi;
mod clock;
mod fds;
pub(super) mod fs;
mod paths;

use bytes::Bytes;
use wasmtime::{Caller, Engine, Error, Extern, Linker, Result};

use self::abi::{Errno, Fault, Memory, Outcome};
use self::fds::Fd;
use self::fs::{Budget, Files};
use super::asking;
use super::store::{Bounds, State, Stop};
use crate::error::Refusal;
use crate::evaluator::Job;
use crate::id::ContentId;
use crate::reply::TrapCode;
use crate::request::{RelPath, Slot};

/// The module that commands import from.
pub(super) const MODULE: &str = "wasi_snapshot_preview1";
/// The entry of a command.
pub(super) const START: &str = "_start";
/// What a program is told it is called.
const PROGRAM: &str = "program";

/// The host of one command.
#[derive(Debug)]
pub(super) struct Wasi {
    args: Vec<Vec<u8>>,
    env: Vec<Vec<u8>>,
    stdin: Bytes,
    /// Never beyond `stdin`.
    stdin_at: usize,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    files: Files,
    fds: Vec<Option<Fd>>,
    budget: Budget,
    /// Virtual nanoseconds since the start.
    now: u64,
    /// Made when it is first drawn from: most programs never do.
    random: Option<blake3::OutputReader>,
    id: ContentId,
}

/// What a command leaves behind.
pub(super) struct Finished {
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// Files that it made or changed, by path.
    pub(super) files: Vec<(RelPath, Bytes)>,
}

impl Wasi {
    pub(super) fn new(job: &Job, bounds: &Bounds) -> Result<Self, Refusal> {
        let request = &job.request;
        let ended = |text: &str| [text.as_bytes(), b"\0"].concat();
        let inputs = job.inputs.iter().filter_map(|(slot, bytes)| match slot {
            Slot::File(path) => Some((path, bytes)),
            Slot::Stdin => None,
        });
        Ok(Self {
            args: [PROGRAM].into_iter().chain(request.args.iter().map(String::as_str)).map(ended).collect(),
            env: request.env.iter().map(|(name, value)| ended(&format!("{name}={value}"))).collect(),
            stdin: job.stdin().cloned().unwrap_or_default(),
            stdin_at: 0,
            stdout: Vec::new(),
            stderr: Vec::new(),
            files: Files::new(inputs, bounds.files)?,
            fds: fds::initial(),
            budget: Budget::new(bounds.output),
            now: 0,
            random: None,
            id: job.id,
        })
    }

    /// Appends to the log, within the output's budget.
    #[cfg(feature = "component")]
    pub(super) fn log(&mut self, text: &[u8]) -> Outcome {
        self.budget.take(text.len() as u64)?;
        self.stderr.extend_from_slice(text);
        Ok(())
    }

    /// Charges bytes to the output's budget.
    #[cfg(feature = "component")]
    pub(super) fn charge(&mut self, bytes: u64) -> Outcome {
        self.budget.take(bytes)
    }

    pub(super) fn finish(self) -> Finished {
        Finished { stdout: self.stdout, stderr: self.stderr, files: self.files.into_changed() }
    }

    fn args_sizes_get(&mut self, memory: &mut Memory<'_>, count: u32, size: u32) -> Outcome {
        put_sizes(&self.args, memory, count, size)
    }

    fn args_get(&mut self, memory: &mut Memory<'_>, pointers: u32, buffer: u32) -> Outcome {
        put_strings(&self.args, memory, pointers, buffer)
    }

    fn environ_sizes_get(&mut self, memory: &mut Memory<'_>, count: u32, size: u32) -> Outcome {
        put_sizes(&self.env, memory, count, size)
    }

    fn environ_get(&mut self, memory: &mut Memory<'_>, pointers: u32, buffer: u32) -> Outcome {
        put_strings(&self.env, memory, pointers, buffer)
    }

    /// Links, signals and sockets do not exist.
    fn unsupported() -> Outcome {
        Err(Errno::Notsup.into())
    }
}

fn put_sizes(strings: &[Vec<u8>], memory: &mut Memory<'_>, count: u32, size: u32) -> Outcome {
    memory.put_len(count, strings.len())?;
    memory.put_len(size, strings.iter().map(Vec::len).sum())
}

fn put_strings(strings: &[Vec<u8>], memory: &mut Memory<'_>, mut pointers: u32, mut buffer: u32) -> Outcome {
    for string in strings {
        memory.put_u32(pointers, buffer)?;
        memory.put(buffer, string)?;
        // Wrapping is harmless: the next access is checked like any other.
        pointers = pointers.wrapping_add(4);
        buffer = buffer.wrapping_add(u32::try_from(string.len()).map_err(|_| Errno::Inval)?);
    }
    Ok(())
}

/// Lists the functions of preview 1 once: the names that admission knows, and the definitions that programs are linked with.
macro_rules! preview1 {
    (offered { $($name:ident($($arg:ident: $ty:ty),*);)+ } absent { $($absent:ident($($absent_ty:ty),*);)+ }) => {
        const OFFERED: &[&str] = &["proc_exit", $(stringify!($name),)+ $(stringify!($absent),)+];

        fn define(linker: &mut Linker<State>) -> Result<()> {
            $(
                linker.func_wrap(MODULE, stringify!($name), |caller: Caller<'_, State>, $($arg: $ty),*| {
                    call(caller, |wasi, memory| wasi.$name(memory, $($arg),*))
                })?;
            )+
            $(
                linker.func_wrap(MODULE, stringify!($absent), |caller: Caller<'_, State>, $(_: $absent_ty),*| {
                    call(caller, |_, _| Wasi::unsupported())
                })?;
            )+
            Ok(())
        }
    };
}

preview1! {
    offered {
        args_get(pointers: u32, buffer: u32);
        args_sizes_get(count: u32, size: u32);
        environ_get(pointers: u32, buffer: u32);
        environ_sizes_get(count: u32, size: u32);
        clock_res_get(clock: u32, result: u32);
        clock_time_get(clock: u32, precision: u64, result: u32);
        random_get(buffer: u32, len: u32);
        poll_oneoff(subscriptions: u32, events: u32, count: u32, result: u32);
        sched_yield();
        fd_advise(fd: u32, at: u64, len: u64, advice: u32);
        fd_allocate(fd: u32, at: u64, len: u64);
        fd_close(fd: u32);
        fd_datasync(fd: u32);
        fd_sync(fd: u32);
        fd_fdstat_get(fd: u32, result: u32);
        fd_fdstat_set_flags(fd: u32, flags: u32);
        fd_fdstat_set_rights(fd: u32, base: u64, inheriting: u64);
        fd_filestat_get(fd: u32, result: u32);
        fd_filestat_set_size(fd: u32, size: u64);
        fd_filestat_set_times(fd: u32, accessed: u64, modified: u64, flags: u32);
        fd_pread(fd: u32, iovs: u32, count: u32, at: u64, nread: u32);
        fd_prestat_get(fd: u32, result: u32);
        fd_prestat_dir_name(fd: u32, path: u32, len: u32);
        fd_pwrite(fd: u32, iovs: u32, count: u32, at: u64, nwritten: u32);
        fd_read(fd: u32, iovs: u32, count: u32, nread: u32);
        fd_readdir(fd: u32, buffer: u32, len: u32, cookie: u64, used: u32);
        fd_renumber(from: u32, to: u32);
        fd_seek(fd: u32, delta: i64, whence: u32, result: u32);
        fd_tell(fd: u32, result: u32);
        fd_write(fd: u32, iovs: u32, count: u32, nwritten: u32);
        path_create_directory(fd: u32, path: u32, len: u32);
        path_filestat_get(fd: u32, lookup: u32, path: u32, len: u32, result: u32);
        path_filestat_set_times(fd: u32, lookup: u32, path: u32, len: u32, accessed: u64, modified: u64, flags: u32);
        path_open(
            fd: u32, lookup: u32, path: u32, len: u32, oflags: u32, base: u64, inheriting: u64, flags: u32, result: u32
        );
        path_readlink(fd: u32, path: u32, len: u32, buffer: u32, size: u32, used: u32);
        path_remove_directory(fd: u32, path: u32, len: u32);
        path_rename(from_fd: u32, from: u32, from_len: u32, to_fd: u32, to: u32, to_len: u32);
        path_unlink_file(fd: u32, path: u32, len: u32);
    }
    absent {
        path_link(u32, u32, u32, u32, u32, u32, u32);
        path_symlink(u32, u32, u32, u32, u32);
        proc_raise(u32);
        sock_accept(u32, u32, u32);
        sock_recv(u32, u32, u32, u32, u32, u32);
        sock_send(u32, u32, u32, u32, u32);
        sock_shutdown(u32, u32);
    }
}

/// Whether preview 1 has a function of this name.
pub(super) fn is_offered(name: &str) -> bool {
    OFFERED.contains(&name)
}

/// All of preview 1, ready to link programs with.
pub(super) fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    define(&mut linker)?;
    asking::define(&mut linker)?;
    linker.func_wrap(MODULE, "proc_exit", |code: i32| -> Result<()> { Err(Error::new(Stop::Exit(code))) })?;
    Ok(linker)
}

/// Runs one function of preview 1.
fn call(caller: Caller<'_, State>, function: impl FnOnce(&mut Wasi, &mut Memory<'_>) -> Outcome) -> Result<i32> {
    with_memory(caller, |state, memory| match &mut state.wasi {
        Some(wasi) => function(wasi, memory),
        None => Err(broken("a plain module has no host")),
    })
}

/// Runs one host function on the guest's memory and turns its outcome into an errno, or into the end of the evaluation.
pub(super) fn with_memory(
    mut caller: Caller<'_, State>,
    function: impl FnOnce(&mut State, &mut Memory<'_>) -> Outcome,
) -> Result<i32> {
    let memory = match caller.data().memory {
        Some(memory) => memory,
        None => match caller.get_export("memory") {
            Some(Extern::Memory(memory)) => {
                caller.data_mut().memory = Some(memory);
                memory
            }
            _ => return outcome(Err(broken("a command must export its memory as `memory`"))),
        },
    };
    let (bytes, state) = memory.data_and_store_mut(&mut caller);
    outcome(function(state, &mut Memory(bytes)))
}

fn outcome(outcome: Outcome) -> Result<i32> {
    match outcome {
        Ok(()) => Ok(0),
        Err(Fault::Errno(errno)) => Ok(errno as i32),
        Err(Fault::Stop(stop)) => Err(Error::new(stop)),
    }
}

fn broken(why: &'static str) -> Fault {
    Stop::Trap(TrapCode::Contract, why).into()
}
