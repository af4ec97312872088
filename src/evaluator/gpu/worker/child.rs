//! The worker's side: give up what is not needed, open what is asked for, run what comes, end with the parent.
//!
//! Invariant: standard output and error are the node's pipe and memory before any driver is loaded, and nobody's afterwards: drivers may print
//! what they like. Drivers open files and devices, so unlike a compile worker this one keeps that; it never had a key, a secret, or an
//! environment beyond what drivers are found with.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, BufReader, Read, Write};
use std::process::exit;
use std::thread;

use super::super::device::adapters::{self, Opened};
use super::super::device::{Fault, Task};
use super::super::limits::PARSE_STACK;
use super::protocol::{self, BUILD, Order, Ran, Reply, Trouble, Wanted};
use super::shared::Shared;

/// Exit codes of a worker.
const OK: i32 = 0;
const MISUSED: i32 = 64;
const FAILED: i32 = 70;

/// Does a worker's work and ends the process.
pub(in crate::evaluator) fn run(args: impl Iterator<Item = OsString>) -> ! {
    let args: Option<Vec<String>> = args.map(|arg| arg.into_string().ok()).collect();
    let Some([memory]) = args.as_deref() else { exit(MISUSED) };
    let Ok(memory) = memory.parse() else { exit(MISUSED) };
    let worker = thread::Builder::new().stack_size(PARSE_STACK).spawn(move || work(memory));
    exit(match worker.map(thread::JoinHandle::join) {
        Ok(Ok(Ok(()))) => OK,
        _ => FAILED,
    })
}

fn work(memory: u64) -> io::Result<()> {
    let (from, mut to, shared) = take_pipes()?;
    let mut shared = Shared::new(shared);
    bound(memory)?;
    let mut from = BufReader::new(from);
    protocol::write(&mut to, &Reply::Hello(BUILD.to_owned()))?;
    let mut opened = None;
    loop {
        let order: Order = match protocol::read(&mut from) {
            Ok(order) => order,
            // The parent is gone, or wants nothing more.
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(()),
            Err(error) => return Err(error),
        };
        let (order, mailed) = match order {
            Order::Mail(wanted, reach) => (Order::Run(vec![wanted], reach), true),
            order => (order, false),
        };
        let reply = match (order, &mut opened) {
            (Order::List, _) => Reply::Adapters(adapters::all().into_iter().map(|(facts, _)| facts).collect()),
            (Order::Open { facts, place, memory, examine }, opened) => {
                match adapters::open(&facts, place as usize, memory) {
                    Ok(device) => {
                        let device = opened.insert(device);
                        let report = examine.then(|| Box::new(device.examine()));
                        Reply::Opened(report, device.cache.clone())
                    }
                    Err(why) => Reply::NotOpened(why),
                }
            }
            (Order::Run(wanted, reach), Some(opened)) => {
                shared.reach(reach)?;
                Reply::Ran(run_all(opened, &wanted, &mut shared))
            }
            (Order::Compiled(program), Some(opened)) => Reply::Compiled(opened.runner.compiled(&program)),
            (Order::Run(..) | Order::Mail(..) | Order::Compiled(_), _) => {
                return Err(io::Error::other("no device is open"));
            }
        };
        let lost = matches!(&reply, Reply::Ran(ran) if ran.iter().any(|one| matches!(one, Err(Trouble::Lost(_)))));
        let answer = protocol::frame(&reply)?;
        if !(mailed && shared.mail(&answer)?) {
            to.write_all(&answer)?;
        }
        if lost {
            // A device that was lost cannot be closed either: nothing is dropped in an orderly way.
            exit(FAILED);
        }
    }
}

/// Runs what it knows together; what fails to load is answered by itself.
fn run_all(opened: &mut Opened, wanted: &[Wanted], shared: &mut Shared) -> Vec<Result<Ran, Trouble>> {
    let runner = &mut opened.runner;
    let mut answers: Vec<Option<Result<Ran, Trouble>>> = Vec::new();
    for one in wanted {
        let loaded = match &one.code {
            _ if runner.knows(&one.program) => Ok(()),
            Some(code) => runner.load(one.program, code).map_err(trouble),
            None => Err(Trouble::Unknown),
        };
        answers.push(loaded.err().map(Err));
    }
    let ready = wanted.iter().zip(&answers).filter(|(_, answer)| answer.is_none()).map(|(one, _)| Task {
        program: one.program,
        portable: one.portable,
        steps: one.steps,
        inputs: &one.inputs,
        outputs: &one.outputs,
    });
    let ready: Vec<_> = ready.collect();
    let mut ran = if ready.is_empty() { Vec::new() } else { runner.run(&ready, shared) }.into_iter();
    let answer = |known: Option<Result<Ran, Trouble>>| {
        known.unwrap_or_else(|| match ran.next() {
            Some(Ok(outcome)) => {
                Ok(Ran { outputs: outcome.outputs, nanos: u64::try_from(outcome.took.as_nanos()).unwrap_or(u64::MAX) })
            }
            Some(Err(fault)) => Err(trouble(fault)),
            None => Err(Trouble::Lost("an evaluation was forgotten".to_owned())),
        })
    };
    answers.into_iter().map(answer).collect()
}

fn trouble(fault: Fault) -> Trouble {
    match fault {
        Fault::Error(error) => Trouble::Error(error),
        Fault::Lost(why) => Trouble::Lost(why),
    }
}

/// Takes standard input and output as the ways from and to the node and standard error as the memory shared with it, and leaves nothing in the
/// place of what drivers may write to.
#[cfg(unix)]
fn take_pipes() -> io::Result<(impl Read, impl Write, Option<File>)> {
    use std::os::fd::AsFd;

    // Not through `Stdin`, which would copy everything once more.
    let from = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    let to = File::from(io::stdout().as_fd().try_clone_to_owned()?);
    let shared = File::from(io::stderr().as_fd().try_clone_to_owned()?);
    let nothing = File::options().write(true).open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nothing)?;
    rustix::stdio::dup2_stderr(&nothing)?;
    // Where the node has no shared memory to give, standard error is a device and no file.
    let shared = shared.metadata().ok().filter(std::fs::Metadata::is_file).map(|_| shared);
    let parent = rustix::process::getppid();
    let watch = move || {
        // A shader that hangs keeps the other thread from seeing that the parent is gone.
        while rustix::process::getppid() == parent {
            thread::sleep(std::time::Duration::from_secs(1));
        }
        exit(FAILED);
    };
    thread::Builder::new().stack_size(64 << 10).spawn(watch)?;
    Ok((from, to, shared))
}

#[cfg(not(unix))]
fn take_pipes() -> io::Result<(impl Read, impl Write, Option<File>)> {
    Ok((io::stdin(), io::stdout(), None))
}

/// Bounds the memory that this process can make; what a device has of its own is bounded by its buffers.
#[cfg(unix)]
fn bound(memory: u64) -> io::Result<()> {
    use rustix::process::{Resource, Rlimit, setrlimit};

    let to = |resource, bound| setrlimit(resource, Rlimit { current: Some(bound), maximum: Some(bound) });
    to(Resource::Core, 0)?;
    // Drivers reserve address space by the terabyte, so it is data that is bounded.
    to(Resource::Data, memory)?;
    // It could make the shared memory as large as it likes.
    to(Resource::Fsize, memory)?;
    Ok(())
}

#[cfg(not(unix))]
fn bound(_: u64) -> io::Result<()> {
    Ok(())
}
