//! A request: one question, and the canonical bytes that give it its id.
//!
//! Invariant: the id covers everything that can change the answer and nothing else. Inside: engine, ABI, program, entry, inputs by digest and
//! length, arguments, environment, capabilities, class, scope. Outside: everything in [`Options`]. So the same bytes given inline or by
//! digest, or capabilities named in another order, are the same question; `tests/it/request_id.rs` holds this for every field.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::error::RequestError;
use crate::id::{ContentId, Digest};
use crate::limits::{MAX_INPUTS, MAX_PATH, MAX_REQUEST_TEXT};
use crate::reply::{BlobRef, Payload};

/// Version byte of the canonical form; a reader refuses what it does not know.
const CANONICAL_V1: u8 = 1;

/// Which kind of evaluator answers the question. Append-only: the position is part of every id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Engine {
    /// WebAssembly modules.
    Wasm,
    /// GPU compute shaders.
    Gpu,
    /// Functions of the embedding process, and replies recorded by hand.
    Host,
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Wasm => "wasm",
            Self::Gpu => "gpu",
            Self::Host => "host",
        })
    }
}

/// How reproducible an answer is claimed to be. Declared by the request, part of its id, proved at admission. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Class {
    /// Bit-exact on any node.
    Portable,
    /// Bit-exact within one device class, which is named here and so is part of the id.
    Device(Name),
    /// One observation; the first record wins by policy.
    Observed,
    /// An observation that is different every time: no lookup, no record served, no join.
    Volatile,
    /// An observation with side effects: recorded for history, run at most once per caller, never joined or served.
    Effectful,
}

impl Class {
    /// Whether a recorded reply may answer a later request of this class.
    #[must_use]
    pub fn is_memoised(&self) -> bool {
        matches!(self, Self::Portable | Self::Device(_) | Self::Observed)
    }

    /// Whether another node could compute the same bytes again.
    #[must_use]
    pub fn is_reproducible(&self) -> bool {
        matches!(self, Self::Portable | Self::Device(_))
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Portable => f.write_str("portable"),
            Self::Device(name) => write!(f, "device:{name}"),
            Self::Observed => f.write_str("observed"),
            Self::Volatile => f.write_str("volatile"),
            Self::Effectful => f.write_str("effectful"),
        }
    }
}

/// A checked text with a rule of its own, parsed once.
macro_rules! checked_text {
    ($(#[$meta:meta])* $name:ident, $error:ident, $holds:expr) => {
        $(#[$meta])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(SmolStr);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = RequestError;

            fn try_from(text: String) -> Result<Self, RequestError> {
                text.parse()
            }
        }

        impl FromStr for $name {
            type Err = RequestError;

            fn from_str(text: &str) -> Result<Self, RequestError> {
                let holds: fn(&str) -> bool = $holds;
                if holds(text) { Ok(Self(text.into())) } else { Err(RequestError::$error(text.to_owned())) }
            }
        }

        impl From<$name> for String {
            fn from(value: $name) -> String {
                value.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// A capability, device class or record kind: 1 to 255 lower-case letters, digits and `-_./:`.
    Name, Name, |text| {
        (1..=255).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-_./:".contains(&b))
    }
}
checked_text! {
    /// A clean relative path with `/` between its parts: no `.`, `..`, empty part, backslash or NUL. The same on every system.
    RelPath, Path, |text| {
        text.len() <= MAX_PATH
            && !text.contains(['\0', '\\'])
            && text.split('/').all(|part| !part.is_empty() && part != "." && part != "..")
    }
}

/// The code of a program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Code {
    /// A module or shader, by value or by digest.
    Bytes(Payload),
    /// Something this fabric cannot see into: a function of the embedding process, a tool, a reply recorded by hand.
    Opaque {
        /// What names it within its kind.
        key: Bytes,
        /// What it is.
        kind: Name,
        /// Rises when its meaning changes.
        version: u32,
    },
}

/// What is run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// The evaluator that runs it.
    pub engine: Engine,
    /// The version of the contract between program and evaluator.
    pub abi: u32,
    /// The code.
    pub code: Code,
    /// The entry point; empty means the engine's default.
    pub entry: String,
}

impl Program {
    /// A WebAssembly module: a WASI preview 1 command, or a plain module.
    #[must_use]
    pub fn wasm(module: impl Into<Bytes>) -> Self {
        Self { engine: Engine::Wasm, abi: 1, code: Code::Bytes(Payload::Inline(module.into())), entry: String::new() }
    }

    /// A GPU program in its canonical form, as [`GpuProgram::encode`](crate::evaluator::gpu::GpuProgram::encode) gives it.
    #[must_use]
    pub fn gpu(program: impl Into<Bytes>) -> Self {
        Self { engine: Engine::Gpu, abi: 1, code: Code::Bytes(Payload::Inline(program.into())), entry: String::new() }
    }

    /// A function of the embedding process, registered there under `name`.
    pub fn host(name: &str, version: u32) -> Result<Self, RequestError> {
        let kind: Name = name.parse()?;
        Ok(Self {
            engine: Engine::Host,
            abi: 1,
            code: Code::Opaque { key: Bytes::new(), kind, version },
            entry: String::new(),
        })
    }

    /// The same program, started at another entry point.
    #[must_use]
    pub fn entry(mut self, entry: impl Into<String>) -> Self {
        self.entry = entry.into();
        self
    }
}

/// Where an input goes. Append-only: the position is part of every id.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Slot {
    /// The program's standard input.
    Stdin,
    /// A file that the program sees under this path.
    File(RelPath),
}

/// Where an input comes from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Source {
    /// Bytes, by value or by digest.
    Payload(Payload),
    /// An output of another request, which is evaluated first.
    Output(Box<Request>, OutputName),
}

/// Names one output of a reply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum OutputName {
    /// Its standard output.
    Stdout,
    /// A file that it wrote.
    File(RelPath),
}

/// Where the caller accepts an answer from. Outside the id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum AnswerFrom {
    /// Memory, a holder, or a computation: whatever is first.
    #[default]
    Anywhere,
    /// A held answer or none (`--cached-only`).
    HeldOnly,
    /// A computation that is not finished yet when the request arrives (`--fresh`).
    ComputedOnly,
}

/// What bounds or steers an evaluation without changing its answer. Outside the id.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Options {
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    /// Wasm fuel that may be used.
    pub fuel: Option<u64>,
    /// Memory in bytes that the program may use.
    pub memory: Option<u64>,
    /// Bytes of output that the program may write.
    pub output: Option<u64>,
    /// Whether the caller wants the reply while it is being made.
    pub stream: bool,
    /// Where the answer may come from.
    pub answer_from: AnswerFrom,
    /// Processor time that the program may use.
    pub cpu: Option<Duration>,
    /// Files that the program may make or change.
    pub files: Option<u64>,
    /// Whether an answer of another device class will do, where none of the request's own is held. It comes with that other question's id.
    pub approximate: bool,
    /// Whether it must be computed on the node that is asked, if it is computed at all.
    pub here: bool,
}

/// One question. Build it with the methods below; ask it with `Eval::eval`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// What is run.
    pub program: Program,
    /// Its inputs; a slot is filled at most once.
    pub inputs: BTreeMap<Slot, Source>,
    /// Arguments, without the program's own name.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// What it may do beyond computing.
    pub capabilities: BTreeSet<Name>,
    /// How reproducible the answer is claimed to be.
    pub class: Class,
    /// A namespace: the same question in another scope is another question.
    pub scope: Option<Name>,
    /// What does not change the answer.
    pub options: Options,
}

impl Request {
    /// The program's bytes, unless it has none, and the inputs that are not outputs of other requests.
    #[cfg(feature = "node")]
    pub(crate) fn payloads(&self) -> impl Iterator<Item = &Payload> {
        let code = match &self.program.code {
            Code::Bytes(payload) => Some(payload),
            Code::Opaque { .. } => None,
        };
        let inputs = self.inputs.values().filter_map(|source| match source {
            Source::Payload(payload) => Some(payload),
            Source::Output(..) => None,
        });
        code.into_iter().chain(inputs)
    }

    /// A question to this program without inputs. Host functions are `Observed`, all else is `Portable`, until [`Request::class`] says otherwise.
    #[must_use]
    pub fn new(program: Program) -> Self {
        let class = if program.engine == Engine::Host { Class::Observed } else { Class::Portable };
        Self {
            program,
            inputs: BTreeMap::new(),
            args: Vec::new(),
            env: BTreeMap::new(),
            capabilities: BTreeSet::new(),
            class,
            scope: None,
            options: Options::default(),
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl Into<String>) -> Self {
        self.args.push(arg.into());
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.insert(name.into(), value.into());
        self
    }

    /// Gives the program its standard input.
    #[must_use]
    pub fn stdin(self, bytes: impl Into<Bytes>) -> Self {
        self.input(Slot::Stdin, Source::Payload(Payload::Inline(bytes.into())))
    }

    /// Shows the program a file.
    pub fn file(self, path: &str, bytes: impl Into<Bytes>) -> Result<Self, RequestError> {
        Ok(self.input(Slot::File(path.parse()?), Source::Payload(Payload::Inline(bytes.into()))))
    }

    /// Fills an input slot from any source.
    #[must_use]
    pub fn input(mut self, slot: Slot, source: Source) -> Self {
        self.inputs.insert(slot, source);
        self
    }

    /// Asks for a capability.
    #[must_use]
    pub fn capability(mut self, capability: Name) -> Self {
        self.capabilities.insert(capability);
        self
    }

    /// Declares the determinism class.
    #[must_use]
    pub fn class(mut self, class: Class) -> Self {
        self.class = class;
        self
    }

    /// Puts the question into a namespace.
    #[must_use]
    pub fn scope(mut self, scope: Name) -> Self {
        self.scope = Some(scope);
        self
    }

    /// Bounds how long the caller waits.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Restricts where the answer may come from.
    #[must_use]
    pub fn answer_from(mut self, answer_from: AnswerFrom) -> Self {
        self.options.answer_from = answer_from;
        self
    }

    /// The record kind that answers to this request get: the engine, or the kind of an opaque program.
    #[must_use]
    pub fn kind(&self) -> Name {
        match &self.program.code {
            Code::Opaque { kind, .. } => kind.clone(),
            Code::Bytes(_) => Name(smol_str::ToSmolStr::to_smolstr(&self.program.engine)),
        }
    }

    /// The id of this question.
    pub fn id(&self) -> Result<ContentId, RequestError> {
        Ok(ContentId::of(&self.canonical()?))
    }

    /// The canonical bytes: a version byte, then the postcard form of everything inside the id. Fails while an input is still the output of
    /// another request: only resolved questions have an id.
    pub fn canonical(&self) -> Result<Vec<u8>, RequestError> {
        self.check()?;
        let inputs = self.inputs.iter().map(|(slot, source)| match source {
            Source::Payload(payload) => Ok((slot, payload.blob_ref())),
            Source::Output(..) => Err(RequestError::Unresolved),
        });
        let canonical = CanonicalV1 {
            engine: self.program.engine,
            abi: self.program.abi,
            code: match &self.program.code {
                Code::Bytes(payload) => CanonicalCode::Bytes(payload.blob_ref()),
                Code::Opaque { key, kind, version } => CanonicalCode::Opaque { key, kind, version: *version },
            },
            entry: &self.program.entry,
            inputs: inputs.collect::<Result<_, _>>()?,
            args: &self.args,
            env: &self.env,
            capabilities: &self.capabilities,
            class: &self.class,
            scope: self.scope.as_ref(),
        };
        // Most requests are shorter, and are encoded without growing the buffer.
        let mut bytes = Vec::with_capacity(256);
        bytes.push(CANONICAL_V1);
        postcard::to_extend(&canonical, bytes).map_err(|error| RequestError::Encoding(error.to_string()))
    }

    fn check(&self) -> Result<(), RequestError> {
        let variable_is_bad = |name: &String| name.is_empty() || name.contains(['=', '\0']);
        let texts = self.args.iter().chain(self.env.values()).chain([&self.program.entry]);
        if let Some(bad) = texts.clone().find(|text| text.contains('\0')) {
            return Err(RequestError::Text(bad.clone()));
        }
        if let Some(bad) = self.env.keys().find(|name| variable_is_bad(name)) {
            return Err(RequestError::Text(bad.clone()));
        }
        let text: usize = texts.chain(self.env.keys()).map(String::len).sum();
        let bounds = [
            ("argument and environment text", text, MAX_REQUEST_TEXT),
            ("number of inputs", self.inputs.len(), MAX_INPUTS),
        ];
        match bounds.into_iter().find(|(_, found, bound)| found > bound) {
            Some((what, found, bound)) => {
                Err(RequestError::TooLarge { what: what.to_owned(), found: found as u64, bound: bound as u64 })
            }
            None => Ok(()),
        }
    }
}

/// What the id covers, in its order. Never reorder, remove or insert: append, under a new version byte.
#[derive(Serialize)]
struct CanonicalV1<'a> {
    engine: Engine,
    abi: u32,
    code: CanonicalCode<'a>,
    entry: &'a str,
    inputs: Vec<(&'a Slot, BlobRef)>,
    args: &'a [String],
    env: &'a BTreeMap<String, String>,
    capabilities: &'a BTreeSet<Name>,
    class: &'a Class,
    scope: Option<&'a Name>,
}

#[derive(Serialize)]
enum CanonicalCode<'a> {
    Bytes(BlobRef),
    Opaque { key: &'a Bytes, kind: &'a Name, version: u32 },
}

impl Payload {
    /// The name of these bytes, hashed here if they are inline.
    #[must_use]
    pub fn blob_ref(&self) -> BlobRef {
        match self {
            Self::Inline(bytes) => BlobRef { digest: Digest::of(bytes), len: bytes.len() as u64 },
            Self::Stored(blob) => *blob,
        }
    }
}
