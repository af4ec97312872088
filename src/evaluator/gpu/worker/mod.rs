//! The node's side of a GPU worker: a child process that finds adapters or drives one of them, and can be ended whatever it does.
//!
//! A worker is asked one thing at a time; while it works a watchdog holds it against a deadline and against the callers' patience. Invariant: an
//! order ends with an answer, or with the worker's end. The other side is `child`.

pub(in crate::evaluator) mod child;
#[cfg(target_os = "linux")]
pub(super) mod mailbox;
#[cfg(not(target_os = "linux"))]
#[path = "no_mailbox.rs"]
pub(super) mod mailbox;
#[cfg(target_os = "linux")]
pub(super) mod memory;
#[cfg(not(target_os = "linux"))]
#[path = "no_memory.rs"]
pub(super) mod memory;
mod pipes;
pub(super) mod protocol;
pub(super) mod shared;
mod watchdog;

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use self::mailbox::{Letter, Mailbox};
use self::memory::Arena;
pub(super) use self::pipes::{Bell, To};
use self::protocol::{BUILD, Order, Reply};
pub(super) use self::protocol::{CacheFacts, Code, Given, Made, Ran, Trouble, Wanted};
use self::watchdog::Watchdog;
pub(super) use self::watchdog::{Guard, Why};
use super::limits;
use super::report::{AdapterFacts, DeviceReport};
use crate::error::EvalError;
use crate::evaluator::gpu::device::Stopwatch;
use crate::evaluator::worker::{Killed, Running, Start, own_exe, unavailable};
use crate::id::Digest;

/// The first argument of a worker.
pub(in crate::evaluator) const ROLE: &str = "__evalmesh-gpu-worker";

/// What a worker sees of the environment: how drivers are found, and where they keep what they compiled.
const ENVIRONMENT: &[&str] = &[
    "VK_DRIVER_FILES",
    "VK_ADD_DRIVER_FILES",
    "VK_ICD_FILENAMES",
    "VK_LOADER_DEBUG",
    "VK_LOADER_DRIVERS_SELECT",
    "VK_LOADER_DRIVERS_DISABLE",
    "LD_LIBRARY_PATH",
    "HOME",
    "XDG_CACHE_HOME",
    "XDG_DATA_DIRS",
    "XDG_RUNTIME_DIR",
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "NVIDIA_DRIVER_CAPABILITIES",
    "MESA_SHADER_CACHE_DIR",
    "LP_NUM_THREADS",
    "SystemRoot",
];

/// How workers are started.
#[derive(Debug, Clone)]
pub(super) struct Setup {
    /// The executable; without one there are no workers.
    pub(super) exe: Option<PathBuf>,
    /// Variables in place of those that this process has.
    pub(super) env: Vec<(OsString, OsString)>,
    /// Memory that one worker may make.
    pub(super) process_memory: u64,
    /// How long a worker may take to start, to list adapters, or to open and examine one.
    pub(super) start: Duration,
    /// Where process numbers are noted.
    pub(super) folder: Option<PathBuf>,
}

impl Setup {
    /// A variable of the workers' environment.
    pub(super) fn variable(&self, name: &str) -> Option<OsString> {
        let given = self.env.iter().find(|(other, _)| other == name).map(|(_, value)| value.clone());
        given.or_else(|| std::env::var_os(name))
    }

    /// The same with these variables in place of what it has.
    pub(super) fn with(&self, env: Vec<(OsString, OsString)>) -> Self {
        let mut setup = self.clone();
        setup.env.retain(|(name, _)| !env.iter().any(|(other, _)| other == name));
        setup.env.extend(env);
        setup
    }
}

/// Why an order has no answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Ended {
    /// The watchdog ended the worker.
    Killed(Why),
    /// The worker ended by itself, or said what makes no sense.
    Died(String),
}

/// A worker process.
pub(super) struct Worker {
    child: Arc<Mutex<Killed>>,
    stdin: To,
    stdout: pipes::From,
    /// The memory that both see, where there is any, and what of it is mapped.
    shared: Option<File>,
    arena: Option<Arc<Arena>>,
    /// Where it leaves answers, if there is such a place.
    pub(super) mailbox: Option<Arc<Mailbox>>,
    /// Programs that it was given. It may have dropped some.
    pub(super) known: BTreeSet<Digest>,
    /// Of the open device, if it has caches.
    pub(super) cache: Option<CacheFacts>,
    watchdog: Watchdog,
    _registered: Option<crate::evaluator::worker::Registered>,
}

impl Worker {
    /// Starts a worker and hears what it is.
    pub(super) fn start(setup: &Setup) -> Result<Self, EvalError> {
        let none = || {
            unavailable("this process cannot start one: it calls `enter_worker_role` first in its `main`, or names one")
        };
        let exe = setup.exe.clone().or_else(own_exe).ok_or_else(none)?;
        let shared = memory::make().ok();
        let stderr = match &shared {
            Some(file) => file.try_clone().map_or_else(|_| Stdio::null(), Stdio::from),
            None => Stdio::null(),
        };
        let args = vec![ROLE.into(), setup.process_memory.to_string().into()];
        let folder = setup.folder.as_deref();
        let Running { child, stdin, stdout, registered } =
            Start { exe: &exe, args, env: environment(setup), stderr, folder }.spawn()?;
        let (stdin, stdout) = pipes::take(stdin, stdout).map_err(|error| unavailable(&format!("no pipes: {error}")))?;
        let mut worker = Self {
            child: Arc::new(Mutex::new(child)),
            stdin,
            stdout,
            mailbox: shared.as_ref().and_then(|file| Mailbox::of(file).ok()).map(Arc::new),
            shared,
            arena: None,
            known: BTreeSet::new(),
            cache: None,
            watchdog: Watchdog::start().map_err(|error| unavailable(&format!("no watchdog: {error}")))?,
            _registered: registered,
        };
        match worker.hear(Guard::within(setup.start)) {
            Ok(Reply::Hello(build)) if build == BUILD => Ok(worker),
            Ok(_) => Err(unavailable("it is another version of this program")),
            Err(ended) => Err(unavailable(&format!("it ends at once ({})", ended.text()))),
        }
    }

    /// The adapters that drivers show to this worker.
    pub(super) fn list(&mut self, setup: &Setup) -> Result<Vec<AdapterFacts>, Ended> {
        match self.ask(&Order::List, Guard::within(setup.start))? {
            Reply::Adapters(adapters) => Ok(adapters),
            other => Err(odd(&other)),
        }
    }

    /// Opens a device, and examines it if wanted. The inner error is the device's.
    pub(super) fn open(
        &mut self,
        setup: &Setup,
        (facts, place): (&AdapterFacts, u32),
        memory: u64,
        examine: bool,
    ) -> Result<Result<Option<Box<DeviceReport>>, String>, Ended> {
        let order = Order::Open { facts: facts.clone(), place, memory, examine };
        match self.ask(&order, Guard::within(setup.start))? {
            Reply::Opened(report, cache) => {
                self.cache = cache;
                Ok(Ok(report))
            }
            Reply::NotOpened(why) => Ok(Err(why)),
            other => Err(odd(&other)),
        }
    }

    /// Runs evaluations, together where there are several; their payloads lie in the arena.
    pub(super) fn run(&mut self, wanted: Vec<Wanted>, guard: Guard) -> Result<Vec<Result<Ran, Trouble>>, Ended> {
        let count = wanted.len();
        all(self.ask(&Order::Run(wanted, self.reach()), guard)?, count)
    }

    /// How much of the shared memory orders may speak of.
    fn reach(&self) -> u64 {
        self.arena.as_ref().map_or(0, |arena| arena.len())
    }

    /// What came of making a program's pipelines, which it was sent along with an evaluation.
    pub(super) fn compiled(&mut self, setup: &Setup, program: Digest) -> Result<Option<Made>, Ended> {
        match self.ask(&Order::Compiled(program), Guard::within(setup.start))? {
            Reply::Compiled(made) => Ok(made),
            other => Err(odd(&other)),
        }
    }

    /// Has the worker watched from now on, while the order for this evaluation is on its way: whoever has the result writes it, at once, and
    /// [`Self::hear_of`] hears what comes of it, or [`Self::fetch`] if it is to come to the mailbox. Nothing, if the order does not fit the pipe, which
    /// then has to be waited for.
    pub(super) fn post(&self, wanted: Wanted, guard: Guard, to_mailbox: bool) -> Option<Posted> {
        let mailbox = self.mailbox.as_ref().filter(|_| to_mailbox);
        let order = match mailbox {
            Some(_) => Order::Mail(wanted, self.reach()),
            None => Order::Run(vec![wanted], self.reach()),
        };
        let order = protocol::frame(&order).ok()?;
        if order.len() > self.stdin.room {
            return None;
        }
        if let Some(mailbox) = mailbox {
            mailbox.clear();
        }
        self.watchdog.arm(Arc::clone(&self.child), guard);
        Some(Posted { order, to: self.stdin.clone(), child: Arc::clone(&self.child) })
    }

    /// Whether the answer to what was posted comes so soon that it is not worth sleeping until then.
    pub(super) fn answers_within(&self, patience: Duration) -> bool {
        pipes::comes_within(&self.stdout, patience)
    }

    /// Waits for what comes of so many evaluations that were posted.
    pub(super) fn hear_of(&mut self, count: usize) -> Result<Vec<Result<Ran, Trouble>>, Ended> {
        let answer = protocol::read(&mut self.stdout);
        all(self.settle(answer)?, count)
    }

    /// As [`Self::answers_within`], of what is to come to the mailbox.
    pub(super) fn writes_within(&self, patience: Duration) -> bool {
        let watch = Stopwatch::start();
        while self.mailbox.as_ref().is_some_and(|mailbox| mailbox.is_empty()) {
            if watch.elapsed() >= patience {
                return false;
            }
            std::thread::yield_now();
        }
        true
    }

    /// Sleeps until what is to come to the mailbox is there or the worker has ended, for at most that time; whether it is.
    pub(super) fn wait_for_letter(&self, at_most: Duration) -> bool {
        let Some(mailbox) = &self.mailbox else { return true };
        if mailbox.is_empty() {
            mailbox.wait(at_most);
        }
        !mailbox.is_empty() || self.has_spoken()
    }

    /// Takes what came to the mailbox; waits for it if it is not there.
    pub(super) fn fetch(&mut self) -> Result<Vec<Result<Ran, Trouble>>, Ended> {
        while !self.wait_for_letter(limits::LOOK) {}
        let answer = match self.mailbox.as_ref().and_then(|mailbox| mailbox.look()) {
            Some(Letter::Here(letter)) => protocol::whole(&letter),
            // Or it ended, which the pipe says too.
            Some(Letter::Elsewhere) | None => protocol::read(&mut self.stdout),
        };
        all(self.settle(answer)?, 1)
    }

    /// Whether there is something in the pipe, or it is closed.
    pub(super) fn has_spoken(&self) -> bool {
        pipes::has_spoken(&self.stdout)
    }

    /// What says that there is an answer, or that the worker ended.
    pub(super) fn ears(&self) -> Arc<File> {
        Arc::clone(self.stdout.get_ref())
    }

    /// An arena with room for so many bytes behind the mailbox, or none where there is none.
    pub(super) fn arena(&mut self, bytes: u64) -> Option<Arc<Arena>> {
        let bytes = bytes.checked_add(limits::MAILBOX)?;
        if self.arena.as_ref().is_none_or(|arena| arena.len() < bytes) {
            let bytes = bytes.max(limits::ARENA).checked_next_power_of_two()?;
            let file = self.shared.as_ref()?.try_clone().ok()?;
            self.arena = Some(Arc::new(Arena::over(file, bytes).ok()?));
        }
        self.arena.clone()
    }

    /// Gives back what a large evaluation took.
    pub(super) fn trim(&mut self) {
        if let Some(arena) = self.arena.as_ref().filter(|arena| arena.len() > limits::SHARED_KEPT)
            && let Err(error) = arena.clear()
        {
            tracing::warn!(%error, "memory that is shared with a GPU worker stays");
        }
    }

    fn ask(&mut self, order: &Order, guard: Guard) -> Result<Reply, Ended> {
        let child = Arc::clone(&self.child);
        self.watchdog.arm(child, guard);
        let (stdin, stdout) = (&mut self.stdin, &mut self.stdout);
        let answer = protocol::write(stdin, order).and_then(|()| protocol::read(stdout));
        self.settle(answer)
    }

    fn hear(&mut self, guard: Guard) -> Result<Reply, Ended> {
        self.watchdog.arm(Arc::clone(&self.child), guard);
        let answer = protocol::read(&mut self.stdout);
        self.settle(answer)
    }

    fn settle(&mut self, answer: std::io::Result<Reply>) -> Result<Reply, Ended> {
        match (self.watchdog.disarm(), answer) {
            (Some(why), _) => Err(Ended::Killed(why)),
            (None, Ok(reply)) => Ok(reply),
            (None, Err(error)) => Err(Ended::Died(error.to_string())),
        }
    }
}

/// An order for a small evaluation, about to cross the pipe.
pub(super) struct Posted {
    order: Vec<u8>,
    to: To,
    child: Arc<Mutex<Killed>>,
}

impl Posted {
    /// Writes it. A worker whose pipe does not take it has not read what it answered, and is ended: whoever waits for its answer hears of that.
    pub(super) fn write(&self) {
        if self.to.at_once(&self.order).is_err() {
            // Whoever has the child is about to end it.
            if let Ok(mut child) = self.child.try_lock() {
                child.kill();
            }
        }
    }
}

/// What came of so many evaluations.
fn all(reply: Reply, count: usize) -> Result<Vec<Result<Ran, Trouble>>, Ended> {
    match reply {
        Reply::Ran(ran) if ran.len() == count => Ok(ran),
        other => Err(odd(&other)),
    }
}

impl Ended {
    pub(super) fn text(&self) -> String {
        match self {
            Self::Killed(Why::Deadline) => "it took too long and was ended".to_owned(),
            Self::Killed(Why::Cancelled) => "it was ended, since nobody waited".to_owned(),
            Self::Died(error) => format!("it ended by itself: {error}"),
        }
    }
}

fn odd(reply: &Reply) -> Ended {
    let kind = match reply {
        Reply::Hello(_) => "a greeting",
        Reply::Adapters(_) => "adapters",
        Reply::Opened(..) | Reply::NotOpened(_) => "news of a device",
        Reply::Ran(_) => "other results",
        Reply::Compiled(_) => "compiled pipelines",
    };
    Ended::Died(format!("it answered with {kind}"))
}

fn environment(setup: &Setup) -> Vec<(OsString, OsString)> {
    let own = ENVIRONMENT.iter().filter_map(|name| Some((OsString::from(name), std::env::var_os(name)?)));
    let own = own.filter(|(name, _)| !setup.env.iter().any(|(other, _)| other == name));
    own.chain(setup.env.iter().cloned()).collect()
}
