//! What can go wrong with an eval, sorted by what the caller can do about it.
//!
//! The types are plain data: they cross the control socket unchanged. A miss is a value in the layers below and becomes an error here only
//! because a caller asked for a held answer or nothing.

use serde::{Deserialize, Serialize};

use crate::id::ContentId;
use crate::reply::BlobRef;
use crate::request::Engine;

/// Why an eval ended without a reply. None of these is ever recorded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The request itself is malformed: mend the request.
    #[error("malformed request: {0}")]
    Request(#[from] RequestError),
    /// The program may not run here: mend the program, or ask for what it may have.
    #[error("program refused: {0}")]
    Refused(#[from] Refusal),
    /// A bound was reached: raise it or ask for less.
    #[error("limit reached: {0}")]
    Limit(#[from] LimitHit),
    /// Nobody holds an answer and the caller did not want one computed.
    #[error("no node holds an answer to {}: {why}", .id.short())]
    NotHeld {
        /// The question.
        id: ContentId,
        /// What is known about it.
        why: NotHeld,
    },
    /// An input was given by digest and its bytes are not here.
    #[error("input {} ({} bytes) is not held here", .0.digest.short(), .0.len)]
    InputMissing(BlobRef),
    /// A queue is full: try again later.
    #[error("busy: {what} is at its bound of {bound}")]
    Busy {
        /// Which queue.
        what: String,
        /// Its bound.
        bound: u64,
    },
    /// The caller went away or cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The node is shutting down.
    #[error("the node is shutting down")]
    Closed,
    /// The answer could not be recorded, and may not be given unrecorded.
    #[error("the ledger refused the record: {0}")]
    Ledger(String),
    /// The evaluator broke (not the program): a host function failed, a worker died.
    #[error("the evaluator failed: {0}")]
    Failed(String),
}

impl EvalError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Refused(refusal) => return refusal.hint(),
            Self::Limit(LimitHit::Deadline { .. }) => "give it more time with --timeout",
            Self::Limit(LimitHit::CompileTime { .. } | LimitHit::CompileMemory { .. }) => {
                "split its largest functions, or compile it with less inlining"
            }
            Self::Limit(_) => "raise the limit or give the program less to do",
            Self::NotHeld { why: NotHeld::Retracted, .. } => {
                "its answer was retracted; leave out --cached-only to compute it anew"
            }
            Self::NotHeld { .. } => "check the id, or leave out --cached-only to compute it",
            Self::InputMissing(_) => "pass the bytes themselves with --input",
            Self::Busy { .. } => "try again in a moment",
            Self::Closed => "start the node again with `evalmesh up`",
            Self::Ledger(_) => "look at the node's disk (full? read-only?), then restart it",
            Self::Request(_) | Self::Cancelled | Self::Failed(_) => return None,
        })
    }
}

/// What a node knows about a question that it cannot answer from memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum NotHeld {
    /// No record of it was ever seen.
    #[error("never seen")]
    NeverSeen,
    /// It was answered, and that answer was retracted.
    #[error("its answer was retracted")]
    Retracted,
    /// It was answered, but the files that the answer depended on differ now.
    #[error("seen, but its roots differ")]
    RootsDiffer,
    /// A record exists but its payload was evicted or is damaged.
    #[error("its payload is gone")]
    PayloadGone,
}

/// Why a request has no canonical form.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum RequestError {
    /// A path is not a clean relative path.
    #[error("`{0}` is not a relative path without `.`, `..`, empty parts or NUL")]
    Path(String),
    /// A capability, scope or device class name has characters that it may not have.
    #[error("`{0}` is not a name of lower-case letters, digits and `-_./:`")]
    Name(String),
    /// Arguments or environment hold a NUL, or a variable's name holds `=` or is empty.
    #[error("argument or variable `{0}` holds a NUL or `=`, or is empty")]
    Text(String),
    /// Something is larger than its bound.
    #[error("{what} is {found}, the bound is {bound}")]
    TooLarge {
        /// What is too large.
        what: String,
        /// How large it is.
        found: u64,
        /// Its bound.
        bound: u64,
    },
    /// An input is the output of another request that was not evaluated yet.
    #[error("an input is the output of another request that is not resolved yet")]
    Unresolved,
    /// The request that an input comes from has no such output.
    #[error("the request that an input comes from has no output `{0}`")]
    NoSuchOutput(String),
    /// Bytes are not the canonical form of a request.
    #[error("not a canonical request: {0}")]
    Encoding(String),
}

/// Why a program is not admitted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The bytes are not a program of the engine.
    #[error("malformed module: {0}")]
    Malformed(String),
    /// The program wants something from its host that is not offered.
    #[error("it imports `{module}::{name}`, which no host offers")]
    Import {
        /// The import's module.
        module: String,
        /// The import's field.
        name: String,
    },
    /// The entry point is missing or has another type.
    #[error("entry `{entry}`: {why}")]
    Entry {
        /// The wanted export.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// The arguments do not fit the entry point.
    #[error("arguments: {0}")]
    Arguments(String),
    /// The declared determinism class cannot be proven for this program.
    #[error("class not proven: {0}")]
    ClassNotProven(String),
    /// A capability is not granted on this node.
    #[error("capability `{0}` is not granted here")]
    Capability(String),
    /// No evaluator of this kind runs on this node.
    #[error("no {0} evaluator runs here")]
    NoEvaluator(Engine),
    /// No host function of this name and version is registered here.
    #[error("no host function `{name}` version {version} is registered here")]
    NoFunction {
        /// Its name.
        name: String,
        /// Its version.
        version: u32,
    },
    /// An admission rule's number is exceeded.
    #[error("{rule} is {found}, the bound is {bound}")]
    TooLarge {
        /// The rule.
        rule: String,
        /// What the program has.
        found: u64,
        /// What it may have.
        bound: u64,
    },
    /// Untrusted programs need a worker process and none can be started.
    #[error("worker unavailable: {0}")]
    WorkerUnavailable(String),
    /// The bytes are not a GPU program, or its shader is not one that runs here.
    #[error("shader: {0}")]
    Shader(String),
    /// An input or output of a GPU program does not fit its shader.
    #[error("binding `{name}`: {why}")]
    Binding {
        /// The binding's name, or its numbers.
        name: String,
        /// What is wrong with it.
        why: String,
    },
    /// No device of this node may answer.
    #[error("no device for {wanted}: {why}")]
    NoDevice {
        /// The class that is wanted.
        wanted: String,
        /// What is known about the devices here.
        why: String,
    },
}

impl Refusal {
    fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Malformed(_) => "is it a WebAssembly file? a WASI preview 1 command or a plain module is expected",
            Self::Import { .. } => "compile for wasm32-wasip1 (WASI preview 1), or as a module without imports",
            Self::Entry { .. } => "name an exported function with --entry",
            Self::Arguments(_) => "pass one --arg for each parameter",
            Self::Capability(_) => "start the node with that grant, or ask without it",
            Self::Shader(_) => "docs/gpu.md says what a shader may be",
            Self::Binding { .. } => "compare the bindings with the shader's `@group(..) @binding(..)` variables",
            Self::NoDevice { .. } => "`evalmesh devices` shows what is here and why; or ask a node that has the device",
            Self::NoEvaluator(_) => "build evalmesh with that engine's feature, or ask another node",
            Self::ClassNotProven(_) | Self::NoFunction { .. } | Self::TooLarge { .. } | Self::WorkerUnavailable(_) => {
                return None;
            }
        })
    }
}

/// Which bound ended an evaluation. A limit is this node's affair and never an answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum LimitHit {
    /// The time allowed is over.
    #[error("no answer within {ms} ms")]
    Deadline {
        /// The time allowed, in milliseconds.
        ms: u64,
    },
    /// Wasm fuel is used up.
    #[error("fuel of {bound} is used up")]
    Fuel {
        /// The bound.
        bound: u64,
    },
    /// The program wanted more memory than this node gives.
    #[error("memory beyond {bound} bytes")]
    Memory {
        /// The bound in bytes.
        bound: u64,
    },
    /// The output is longer than allowed.
    #[error("output beyond {bound} bytes")]
    Output {
        /// The bound in bytes.
        bound: u64,
    },
    /// The call stack is used up; how deep that is differs between machines.
    #[error("the call stack is used up")]
    Stack,
    /// Compiling the program took too long.
    #[error("compiling it takes more than {ms} ms of processor time")]
    CompileTime {
        /// The processor time allowed, in milliseconds.
        ms: u64,
    },
    /// Compiling the program took too much memory.
    #[error("compiling it takes more than {bound} bytes of address space")]
    CompileMemory {
        /// The bound in bytes.
        bound: u64,
    },
    /// The processor time allowed is used up.
    #[error("no answer within {ms} ms of processor time")]
    CpuTime {
        /// The processor time allowed, in milliseconds.
        ms: u64,
    },
    /// The program made more files than allowed.
    #[error("more than {bound} files")]
    Files {
        /// The bound.
        bound: u64,
    },
    /// Evaluations that ask for others in a row, or in a circle, which has no end at all.
    #[error("nested evaluations deeper than {bound}, or in a circle")]
    Depth {
        /// The bound.
        bound: u64,
    },
    /// One evaluation asked too many questions.
    #[error("more than {bound} questions asked by one evaluation")]
    FanOut {
        /// The bound.
        bound: u64,
    },
    /// One invocation of a shader ran through too many loop iterations.
    #[error("more than {bound} loop iterations in one invocation")]
    Steps {
        /// The bound.
        bound: u64,
    },
    /// A GPU program wants more memory of its device than this node gives.
    #[error("device memory beyond {bound} bytes")]
    DeviceMemory {
        /// The bound in bytes.
        bound: u64,
    },
}
