//! Child processes that do what cannot be stopped inside a process: the same executable in a worker role, without key, secrets or environment.
//!
//! Here is what all workers have in common: how this process is asked to be one, how they are started, and that none is left behind. Invariant: a
//! worker ends with its handle, and one of a process that was killed is ended at the next start. What workers do is theirs (`wasm/worker`,
//! `gpu/worker`).

mod sweep;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::OnceLock;

pub(super) use self::sweep::Registered;
use crate::error::{EvalError, Refusal};

/// This process' own executable, once it said that it can be a worker.
static SELF: OnceLock<PathBuf> = OnceLock::new();

/// Call this first in `main`: where the process was started as a worker it does that work and never returns. Otherwise it returns at once, and
/// evaluators of this process use workers of the same executable unless they are told otherwise.
pub fn enter_worker_role() {
    let mut args = std::env::args_os();
    let _program = args.next();
    if let Some(role) = args.next() {
        #[cfg(feature = "wasm")]
        if role == super::wasm::worker::ROLE {
            super::wasm::worker::child::run(args);
        }
        #[cfg(feature = "gpu")]
        if role == super::gpu::worker::ROLE {
            super::gpu::worker::child::run(args);
        }
        drop(role);
    }
    if let Ok(exe) = std::env::current_exe() {
        let _ = SELF.set(exe);
    }
}

/// The executable that [`enter_worker_role`] made a worker of.
pub(super) fn own_exe() -> Option<PathBuf> {
    SELF.get().cloned()
}

/// How one worker is started.
pub(super) struct Start<'a> {
    pub(super) exe: &'a Path,
    /// The role and what belongs to it.
    pub(super) args: Vec<OsString>,
    /// All that the worker sees of an environment.
    pub(super) env: Vec<(OsString, OsString)>,
    /// What it has in place of standard error.
    pub(super) stderr: Stdio,
    /// Where its number is noted.
    pub(super) folder: Option<&'a Path>,
}

/// A worker that runs. It is ended when this is dropped.
#[derive(Debug)]
pub(super) struct Running {
    pub(super) child: Killed,
    pub(super) stdin: ChildStdin,
    pub(super) stdout: ChildStdout,
    pub(super) registered: Option<Registered>,
}

impl Start<'_> {
    pub(super) fn spawn(self) -> Result<Running, EvalError> {
        let spawned = Command::new(self.exe)
            .args(self.args)
            .env_clear()
            .envs(self.env)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(self.stderr)
            .spawn();
        let mut child = spawned.map_err(|error| unavailable(&format!("{}: {error}", self.exe.display())))?;
        let registered = self.folder.and_then(|folder| sweep::register(folder, child.id()));
        match (child.stdin.take(), child.stdout.take()) {
            (Some(stdin), Some(stdout)) => Ok(Running { child: Killed(child), stdin, stdout, registered }),
            _ => Err(unavailable("no pipes")),
        }
    }
}

/// Ends what earlier processes left running.
pub(super) fn sweep_folder(folder: &Path) -> Result<(), EvalError> {
    sweep::sweep(folder).map(drop).map_err(|error| unavailable(&format!("{}: {error}", folder.display())))
}

pub(super) fn unavailable(why: &str) -> EvalError {
    Refusal::WorkerUnavailable(why.to_owned()).into()
}

/// A child that is ended when it is dropped, whatever it does.
#[derive(Debug)]
pub(super) struct Killed(Child);

impl Killed {
    pub(super) fn end(&mut self) -> io::Result<ExitStatus> {
        self.kill();
        self.0.wait()
    }

    /// Has it end, without waiting until it has.
    pub(super) fn kill(&mut self) {
        // It may have ended already, which is what is wanted.
        drop(self.0.kill());
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        drop(self.end());
    }
}
