//! The worker's side: bound yourself, compile one program, answer, end.
//!
//! Invariant: before it reads a byte of a program it has given up everything but its two pipes: it can open no file and no socket any more, has an
//! empty environment, and ends when its parent does. So code that breaks out of the compiler finds nothing to take.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::process::exit;
use std::thread;

use super::super::code;
use super::super::engine::{self, Flavour};
use super::super::limits::MODULE_BYTES;
use crate::id::Digest;

/// What a worker says.
pub(super) enum Answer {
    /// The compiled program.
    Code(Vec<u8>),
    /// Why it cannot be compiled.
    Refused(String),
    /// The worker's engine is not the one that is wanted.
    OtherEngine,
}

impl Answer {
    pub(super) fn of(kind: u8, body: Vec<u8>) -> Option<Self> {
        match kind {
            1 => Some(Self::Code(body)),
            2 => Some(Self::Refused(String::from_utf8_lossy(&body).into_owned())),
            3 => Some(Self::OtherEngine),
            _ => None,
        }
    }

    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Self::Code(code) => (1, code),
            Self::Refused(why) => (2, why.as_bytes()),
            Self::OtherEngine => (3, &[]),
        }
    }
}

/// What the flavour is called on a worker's command line.
pub(super) fn name(flavour: Flavour) -> &'static str {
    match flavour {
        Flavour::Portable => "portable",
        Flavour::Native => "native",
    }
}

/// Exit codes of a worker, for whoever looks at a core of them.
const OK: i32 = 0;
const MISUSED: i32 = 64;
const FAILED: i32 = 70;

/// Does a worker's work and ends the process.
pub(in crate::evaluator) fn run(args: impl Iterator<Item = OsString>) -> ! {
    let args: Option<Vec<String>> = args.map(|arg| arg.into_string().ok()).collect();
    let Some([flavour, seconds, memory]) = args.as_deref() else { exit(MISUSED) };
    let flavour = [Flavour::Portable, Flavour::Native].into_iter().find(|one| name(*one) == flavour);
    let (Some(flavour), Ok(seconds), Ok(memory)) = (flavour, seconds.parse(), memory.parse()) else { exit(MISUSED) };
    exit(match work(flavour, seconds, memory) {
        Ok(()) => OK,
        Err(_) => FAILED,
    })
}

fn work(flavour: Flavour, seconds: u64, memory: u64) -> io::Result<()> {
    let engine = engine::compiler(flavour).map_err(|error| io::Error::other(format!("{error:#}")))?;
    let own = engine::compatibility(&engine);
    bound(seconds, memory)?;
    let mut stdin = io::stdin();
    let mut head = [0; 40];
    stdin.read_exact(&mut head)?;
    let (wanted, len) = head.split_at(32);
    let wanted = wanted.try_into().map(Digest::from_bytes).map_err(io::Error::other)?;
    let len = u64::from_le_bytes(len.try_into().map_err(io::Error::other)?);
    if wanted != own {
        return say(&Answer::OtherEngine);
    }
    if len > MODULE_BYTES {
        return Err(io::Error::other("a program of impossible length"));
    }
    let mut program = vec![0; usize::try_from(len).map_err(io::Error::other)?];
    stdin.read_exact(&mut program)?;
    // The parent sends nothing more, so this returns when it is gone: then nobody wants the answer.
    thread::Builder::new().stack_size(64 << 10).spawn(move || {
        drop(stdin.read(&mut [0]));
        exit(FAILED);
    })?;
    say(&match code::precompile(&engine, &program) {
        Ok(code) => Answer::Code(code),
        Err(error) => Answer::Refused(format!("{error:#}")),
    })
}

fn say(answer: &Answer) -> io::Result<()> {
    let (kind, body) = answer.parts();
    let mut stdout = io::stdout().lock();
    stdout.write_all(&[kind])?;
    stdout.write_all(&(body.len() as u64).to_le_bytes())?;
    stdout.write_all(body)?;
    stdout.flush()
}

/// Gives up what compiling does not need. A limit that cannot be set is a worker that does not work.
#[cfg(unix)]
fn bound(seconds: u64, memory: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let to = |resource, bound| setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) });
    to(Resource::Core, 0)?;
    // The first limit is a signal that says why; the second one ends a process that does not listen.
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds.saturating_add(5)) })?;
    to(Resource::As, memory)?;
    // Open files stay open; nothing can be opened any more, sockets included.
    to(Resource::Nofile, 0)?;
    Ok(())
}

#[cfg(not(unix))]
fn bound(_: u64, _: u64) -> io::Result<()> {
    Ok(())
}
