//! Slots: names under which the current version of a program is called.
//!
//! A slot's kind is a contract, checked when a program is registered: which export it has, what goes in and what comes out. A call takes the
//! version that is current when it begins and ends on it, whatever is registered meanwhile. Invariants: (1) a view once published never
//! changes; (2) versions start at 1 and rise by one only when content or limits change; (3) what is refused changes nothing. The name never
//! reaches an id: requests carry the program's digest. Knows nothing of nodes or files.

mod table;
#[cfg(test)]
mod tests;

use std::fmt;
use std::str::FromStr;
use std::sync::{self, Arc};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use self::table::Table;
use super::wasm::WasmEvaluator;
use super::wasm::plain::ACCEPTED;
use super::wasm::program::{FILTER, OBSERVE, SHAPE};
use super::{Cancel, Job};
use crate::error::EvalError;
use crate::id::Digest;
use crate::reply::{BlobRef, Payload, Reply, Status, TrapCode};
use crate::request::{Code, Name, Program, Request, Slot};

/// Slots of one process; each holds a program's bytes in memory.
pub const MAX_SLOTS: usize = 4_096;

/// What a slot's program promises.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SlotKind {
    /// `filter(ptr, len) -> i32`: bytes in, a verdict out.
    Filter,
    /// `run(ptr, len) -> i64`: bytes in, bytes out.
    Shape,
    /// `observe(ptr, len)`: bytes in, nothing out.
    Observe,
    /// `_start`: a WASI preview 1 command.
    Command,
}

impl SlotKind {
    /// The entry of requests to such a program.
    fn entry(self) -> &'static str {
        match self {
            Self::Filter => FILTER,
            Self::Shape => SHAPE,
            Self::Observe => OBSERVE,
            Self::Command => "_start",
        }
    }
}

impl FromStr for SlotKind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let all = [Self::Filter, Self::Shape, Self::Observe, Self::Command];
        let kind = all.into_iter().find(|kind| kind.to_string() == text);
        kind.ok_or_else(|| format!("`{text}` is not filter, shape, observe or command"))
    }
}

impl fmt::Display for SlotKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Filter => "filter",
            Self::Shape => "shape",
            Self::Observe => "observe",
            Self::Command => "command",
        })
    }
}

/// What one call of a slot may use; absent leaves it to the evaluator.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotLimits {
    /// Fuel.
    pub fuel: Option<u64>,
    /// Bytes of memory.
    pub memory: Option<u64>,
    /// Bytes of output.
    pub output: Option<u64>,
    /// Wall time.
    pub time: Option<Duration>,
    /// Processor time.
    pub cpu: Option<Duration>,
}

/// A program under a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Registration {
    /// The slot's name.
    pub name: Name,
    /// The contract.
    pub kind: SlotKind,
    /// The program.
    pub code: Bytes,
    /// What a call may use.
    pub limits: SlotLimits,
    /// An input that the program must take, within these limits and without a trap, before it is registered.
    pub probe: Option<Bytes>,
}

impl Registration {
    /// The version that this makes.
    fn version(&self, digest: Digest, number: u64) -> Version {
        let Self { name, kind, code, limits, .. } = self.clone();
        Version { name, kind, number, digest, limits, code }
    }
}

/// One version of a slot's program.
#[derive(Debug)]
pub struct Version {
    /// The slot's name.
    pub name: Name,
    /// The contract.
    pub kind: SlotKind,
    /// 1, and one more with every change of content or limits.
    pub number: u64,
    /// The program.
    pub digest: Digest,
    /// What a call may use.
    pub limits: SlotLimits,
    code: Bytes,
}

impl Version {
    fn is(&self, wanted: &Registration, digest: Digest) -> bool {
        self.digest == digest && self.limits == wanted.limits
    }

    /// The question that a call with this input asks. Its id holds the program's digest and not the slot's name.
    #[must_use]
    pub fn request(&self, input: impl Into<Bytes>) -> Request {
        let mut request = Request::new(Program::wasm(self.code.clone()).entry(self.kind.entry())).stdin(input);
        request.options.fuel = self.limits.fuel;
        request.options.memory = self.limits.memory;
        request.options.output = self.limits.output;
        request.options.timeout = self.limits.time;
        request.options.cpu = self.limits.cpu;
        request
    }

    /// How long the program is, in bytes.
    #[must_use]
    #[expect(clippy::len_without_is_empty, reason = "a program is never empty")]
    pub fn len(&self) -> u64 {
        self.code.len() as u64
    }

    /// What registers this version again.
    #[must_use]
    pub fn registration(&self) -> Registration {
        let Self { name, kind, limits, code, .. } = self;
        Registration { name: name.clone(), kind: *kind, code: code.clone(), limits: limits.clone(), probe: None }
    }
}

/// What is wrong with a slot, always naming it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum SlotError {
    /// There is no such slot.
    #[error("no slot `{slot}` is registered (wanted: {wanted})")]
    Missing {
        /// The slot.
        slot: Name,
        /// The kind it was called as.
        wanted: SlotKind,
    },
    /// The slot has another kind.
    #[error("slot `{slot}` is of kind {kind} and was called as {wanted}")]
    OtherKind {
        /// The slot.
        slot: Name,
        /// Its kind.
        kind: SlotKind,
        /// The kind it was called as.
        wanted: SlotKind,
    },
    /// A slot's kind is for good: evict it first.
    #[error("slot `{slot}` is of kind {kind} and cannot become {wanted}")]
    KindChange {
        /// The slot.
        slot: Name,
        /// Its kind.
        kind: SlotKind,
        /// The kind it was to become.
        wanted: SlotKind,
    },
    /// The program is not admitted, or does not fulfil the contract.
    #[error("slot `{slot}` of kind {kind}: {source}")]
    Refused {
        /// The slot.
        slot: Name,
        /// The kind it was to have.
        kind: SlotKind,
        /// Why.
        source: EvalError,
    },
    /// A call ended without a reply.
    #[error("calling slot `{slot}` of kind {kind}: {source}")]
    Call {
        /// The slot.
        slot: Name,
        /// Its kind.
        kind: SlotKind,
        /// Why.
        source: EvalError,
    },
    /// The program trapped.
    #[error("slot `{slot}` of kind {kind}, trapped: {trap}")]
    Trapped {
        /// The slot.
        slot: Name,
        /// Its kind.
        kind: SlotKind,
        /// How.
        trap: TrapCode,
    },
    /// The program did not pass its probe.
    #[error("slot `{slot}` of kind {kind}, its probe trapped: {trap}")]
    Probe {
        /// The slot.
        slot: Name,
        /// The kind it was to have.
        kind: SlotKind,
        /// How.
        trap: TrapCode,
    },
    /// The slot could not be kept on disk, so it was not changed.
    #[error("slot `{slot}` cannot be kept: {why}")]
    NotKept {
        /// The slot.
        slot: Name,
        /// The system's words.
        why: String,
    },
    /// A pass names a slot twice.
    #[error("slot `{slot}` is named twice")]
    Twice {
        /// The slot.
        slot: Name,
    },
    /// There are too many slots.
    #[error("there are {bound} slots already")]
    Full {
        /// The bound.
        bound: usize,
    },
}

/// What a pass of [`Slots::reconcile`] changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reconciled {
    /// Slots that were not there before.
    pub added: Vec<Name>,
    /// Slots with a new version.
    pub replaced: Vec<Name>,
    /// Slots that stayed as they were.
    pub unchanged: Vec<Name>,
    /// Slots that are gone.
    pub evicted: Vec<Name>,
}

/// Named programs, called by name.
#[derive(Debug)]
pub struct Slots {
    evaluator: WasmEvaluator,
    table: Table,
}

impl Slots {
    /// No slots yet, whose programs will run on this evaluator.
    #[must_use]
    pub fn new(evaluator: WasmEvaluator) -> Self {
        Self { evaluator, table: Table::default() }
    }

    /// Registers a program, or replaces the one that is there. Content and limits that are there already change nothing.
    pub fn register(&self, wanted: &Registration) -> Result<Arc<Version>, SlotError> {
        self.table.register(wanted, self.prepare(wanted)?)
    }

    /// Puts a version back that was registered in an earlier life of this process, under its number. It is compiled when it is first called.
    pub fn restore(&self, earlier: &Registration, number: u64) -> Result<Arc<Version>, SlotError> {
        self.table.restore(earlier.version(Digest::of(&earlier.code), number))
    }

    /// Forgets a slot. Says whether it was there.
    pub fn evict(&self, name: &Name) -> bool {
        self.table.evict(name)
    }

    /// Makes the slots exactly these. Where one of them is refused nothing changes, so a bad pass never takes away what works.
    pub fn reconcile(&self, wanted: &[Registration]) -> Result<Reconciled, SlotError> {
        let digests = wanted.iter().map(|one| self.prepare(one)).collect::<Result<Vec<_>, _>>()?;
        self.table.reconcile(wanted, digests)
    }

    /// The current versions, by name.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Version>> {
        self.table.list()
    }

    /// The current version of a slot, whatever its kind.
    #[must_use]
    pub fn find(&self, name: &Name) -> Option<Arc<Version>> {
        self.table.find(name)
    }

    /// The current version of a slot that is called as this kind.
    pub fn get(&self, name: &Name, wanted: SlotKind) -> Result<Arc<Version>, SlotError> {
        self.table.get(name, wanted)
    }

    /// Asks a filter for its verdict.
    pub fn filter(&self, name: &Name, input: impl Into<Bytes>) -> Result<bool, SlotError> {
        let reply = self.call(name, SlotKind::Filter, input.into())?;
        Ok(output(&reply) == ACCEPTED)
    }

    /// Has bytes made of bytes.
    pub fn shape(&self, name: &Name, input: impl Into<Bytes>) -> Result<Bytes, SlotError> {
        let reply = self.call(name, SlotKind::Shape, input.into())?;
        Ok(Bytes::copy_from_slice(output(&reply)))
    }

    /// Shows bytes to an observer.
    pub fn observe(&self, name: &Name, input: impl Into<Bytes>) -> Result<(), SlotError> {
        self.call(name, SlotKind::Observe, input.into()).map(drop)
    }

    /// Runs a command with this standard input. Its exit status is part of the reply.
    pub fn command(&self, name: &Name, input: impl Into<Bytes>) -> Result<Reply, SlotError> {
        self.call(name, SlotKind::Command, input.into())
    }

    fn call(&self, name: &Name, kind: SlotKind, input: Bytes) -> Result<Reply, SlotError> {
        let version = self.get(name, kind)?;
        let called = |source| SlotError::Call { slot: name.clone(), kind, source };
        let reply = job(&version, input).and_then(|job| self.evaluator.evaluate(&job)).map_err(called)?;
        match reply.status {
            Status::Trap(trap) => Err(SlotError::Trapped { slot: name.clone(), kind, trap }),
            Status::Exit(_) => Ok(reply),
        }
    }

    /// Compiles a program and checks its contract, without holding anybody up. Of two that race with the same bytes one compiles.
    fn prepare(&self, wanted: &Registration) -> Result<Digest, SlotError> {
        self.table.accepts(wanted)?;
        let refused = |source| SlotError::Refused { slot: wanted.name.clone(), kind: wanted.kind, source };
        let digest = self.evaluator.prepare(&wanted.code, wanted.kind.entry()).map_err(refused)?;
        self.probe(wanted, digest)?;
        Ok(digest)
    }

    /// Runs the probe, if there is one. What is registered already with the same content and limits has passed.
    fn probe(&self, wanted: &Registration, digest: Digest) -> Result<(), SlotError> {
        let Some(input) = &wanted.probe else { return Ok(()) };
        if self.table.find(&wanted.name).is_some_and(|version| version.is(wanted, digest)) {
            return Ok(());
        }
        let refused = |source| SlotError::Refused { slot: wanted.name.clone(), kind: wanted.kind, source };
        let version = wanted.version(digest, 0);
        let reply = job(&version, input.clone()).and_then(|job| self.evaluator.evaluate(&job)).map_err(refused)?;
        match reply.status {
            Status::Trap(trap) => Err(SlotError::Probe { slot: wanted.name.clone(), kind: wanted.kind, trap }),
            Status::Exit(_) => Ok(()),
        }
    }
}

/// A call's job. The program is named by its digest, so that the id costs no hash of its bytes.
fn job(version: &Version, input: Bytes) -> Result<Job, EvalError> {
    let mut request = version.request(input.clone());
    let blob = BlobRef { digest: version.digest, len: version.code.len() as u64 };
    request.program.code = Code::Bytes(Payload::Stored(blob));
    Ok(Job {
        id: request.id()?,
        budget: version.limits.time,
        request: Arc::new(request),
        code: version.code.clone(),
        inputs: vec![(Slot::Stdin, input)],
        cancel: Cancel::default(),
        asker: None,
    })
}

fn output(reply: &Reply) -> &[u8] {
    reply.stdout.as_ref().and_then(Payload::bytes).map_or(&[], |bytes| bytes)
}
