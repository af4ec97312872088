//! Compilation in a child process that can be killed: it has a deadline, a memory limit, no key, no secrets, and no way to open anything.
//!
//! One child compiles one program and ends; the next one waits, warm, so that nobody pays for starting it. Invariant: whatever a child does,
//! this process gets code, a refusal or an error within the bounds, and the child is gone. The child's side is `child`.

pub(in crate::evaluator) mod child;

use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::process::{ChildStdin, ChildStdout, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use self::child::Answer;
use super::engine::Flavour;
use super::limits::{ARTIFACT_BYTES, COMPILE_PATIENCE, WORKER_START};
use crate::error::{EvalError, LimitHit, Refusal};
pub use crate::evaluator::worker::enter_worker_role;
use crate::evaluator::worker::{self, Running, Start, unavailable};
use crate::id::Digest;

/// The first argument of a worker.
pub(in crate::evaluator) const ROLE: &str = "__evalmesh-wasm-compiler";

/// How programs are compiled in a process of their own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerConfig {
    /// A program that calls [`enter_worker_role`] first in its `main`: usually this one.
    pub exe: PathBuf,
    /// Processor time of one compilation.
    pub time: Duration,
    /// Address space of one compilation, in bytes.
    pub memory: u64,
    /// Where the workers' process numbers are noted, so that left-overs of a killed process are ended at the next start.
    pub folder: Option<PathBuf>,
}

impl WorkerConfig {
    /// Workers of this executable, within default bounds.
    #[must_use]
    pub fn new(exe: impl Into<PathBuf>) -> Self {
        Self { exe: exe.into(), time: Duration::from_mins(2), memory: 4 << 30, folder: None }
    }
}

/// The workers that [`enter_worker_role`] made possible.
pub(super) fn own() -> Option<WorkerConfig> {
    worker::own_exe().map(WorkerConfig::new)
}

/// Starts workers and gives them work.
#[derive(Debug)]
pub(super) struct Workers {
    config: WorkerConfig,
    /// A child that is ready, for portable programs: nearly all are.
    spare: Mutex<Option<Running>>,
}

impl Workers {
    /// Ends what earlier processes left running and starts the first spare.
    pub(super) fn start(config: WorkerConfig) -> Result<Self, EvalError> {
        if let Some(folder) = &config.folder {
            worker::sweep_folder(folder)?;
        }
        let workers = Self { config, spare: Mutex::new(None) };
        let first = workers.spawn(Flavour::Portable)?;
        *workers.spare() = Some(first);
        Ok(workers)
    }

    /// Compiles a program that the scan admitted, for an engine with this compatibility digest.
    pub(super) fn compile(&self, flavour: Flavour, engine: Digest, code: &[u8]) -> Result<Vec<u8>, EvalError> {
        let warm = if flavour == Flavour::Portable { self.spare().take() } else { None };
        let worker = match warm {
            Some(worker) => worker,
            None => self.spawn(flavour)?,
        };
        if flavour == Flavour::Portable {
            match self.spawn(flavour) {
                // Where two compile at once there are two new ones, and one is enough.
                Ok(next) => drop(self.spare().replace(next)),
                Err(error) => tracing::warn!(%error, "no spare compile worker"),
            }
        }
        self.work(worker, engine, code)
    }

    fn spawn(&self, flavour: Flavour) -> Result<Running, EvalError> {
        let config = &self.config;
        let (seconds, memory) = (config.time.as_secs().max(1).to_string(), config.memory.to_string());
        let args = [ROLE, child::name(flavour), &seconds, &memory].map(Into::into).to_vec();
        let folder = config.folder.as_deref();
        Start { exe: &config.exe, args, env: Vec::new(), stderr: Stdio::null(), folder }.spawn()
    }

    /// Gives one worker its program and sees it to its end.
    fn work(&self, worker: Running, engine: Digest, code: &[u8]) -> Result<Vec<u8>, EvalError> {
        let Running { mut child, mut stdin, mut stdout, registered: _registered } = worker;
        let patience = (self.config.time * COMPILE_PATIENCE).saturating_add(WORKER_START);
        let (done, is_done) = sync_channel::<()>(1);
        let (answer, status, late) = thread::scope(|scope| {
            let watch = scope.spawn(move || {
                let late = is_done.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
                // It has answered, or it will not: in both cases nothing of it may stay.
                (child.end(), late)
            });
            let answer = exchange(&mut stdin, &mut stdout, engine, code);
            drop(done);
            let (status, late) = watch.join().unwrap_or_else(|_| (Err(io::ErrorKind::Other.into()), false));
            (answer, status, late)
        });
        match answer {
            Ok(Answer::Code(code)) => Ok(code),
            Ok(Answer::Refused(why)) => Err(Refusal::Malformed(why).into()),
            Ok(Answer::OtherEngine) => Err(unavailable("it is another version of this program, or has other settings")),
            Err(error) => Err(self.died(&error, status.ok(), late)),
        }
    }

    /// Why a worker ended without an answer.
    fn died(&self, error: &io::Error, status: Option<ExitStatus>, late: bool) -> EvalError {
        let config = &self.config;
        let ended = status.and_then(ending);
        let time = || LimitHit::CompileTime { ms: u64::try_from(config.time.as_millis()).unwrap_or(u64::MAX) };
        match ended {
            _ if late => time().into(),
            Some(Ending::Time) => time().into(),
            // An allocation that fails aborts the process; so does a panic within a panic, but nothing else does.
            Some(Ending::Abort) => LimitHit::CompileMemory { bound: config.memory }.into(),
            _ => EvalError::Failed(format!("the compile worker ended without an answer ({error}; {status:?})")),
        }
    }

    fn spare(&self) -> std::sync::MutexGuard<'_, Option<Running>> {
        self.spare.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Ending {
    Time,
    Abort,
}

#[cfg(unix)]
fn ending(status: ExitStatus) -> Option<Ending> {
    use std::os::unix::process::ExitStatusExt;

    let is = |signal: rustix::process::Signal| status.signal() == Some(signal.as_raw());
    if is(rustix::process::Signal::XCPU) {
        Some(Ending::Time)
    } else if is(rustix::process::Signal::ABORT) || is(rustix::process::Signal::SEGV) {
        Some(Ending::Abort)
    } else {
        None
    }
}

#[cfg(not(unix))]
fn ending(_: ExitStatus) -> Option<Ending> {
    None
}

/// Sends the program and reads the answer.
fn exchange(stdin: &mut ChildStdin, stdout: &mut ChildStdout, engine: Digest, code: &[u8]) -> io::Result<Answer> {
    stdin.write_all(engine.as_bytes())?;
    stdin.write_all(&(code.len() as u64).to_le_bytes())?;
    stdin.write_all(code)?;
    stdin.flush()?;
    let mut head = [0; 9];
    stdout.read_exact(&mut head)?;
    let len = u64::from_le_bytes([head[1], head[2], head[3], head[4], head[5], head[6], head[7], head[8]]);
    if len > ARTIFACT_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "an answer of impossible length"));
    }
    let mut body = Vec::new();
    stdout.take(len).read_to_end(&mut body)?;
    if body.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Answer::of(head[0], body).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer of unknown kind"))
}
