//! A reply: what an evaluation gave back.
//!
//! Invariant: the answer digest covers status and outputs and nothing else, because that is what two honest nodes must agree on. Logs and
//! facts (duration, fuel, host, evaluator) may differ. Absent is not empty: a program that wrote nothing to stdout has an empty stdout,
//! a shader has none.

use std::fmt;
use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::id::Digest;
use crate::request::{OutputName, RelPath};

/// The derive-key context of every answer digest.
static ANSWER: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("evalmesh 2026-11-21 answer v1"));

/// Names bytes that are kept elsewhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BlobRef {
    /// Plain BLAKE3 of the bytes.
    pub digest: Digest,
    /// How many there are.
    pub len: u64,
}

/// Bytes, here or by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Payload {
    /// The bytes themselves.
    Inline(Bytes),
    /// Bytes that somebody holds.
    Stored(BlobRef),
}

impl Payload {
    /// The bytes, if they are here.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match self {
            Self::Inline(bytes) => Some(bytes),
            Self::Stored(_) => None,
        }
    }

    /// How many bytes these are.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Stored(blob) => blob.len,
        }
    }

    /// Whether these are no bytes at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl<T: Into<Bytes>> From<T> for Payload {
    fn from(bytes: T) -> Self {
        Self::Inline(bytes.into())
    }
}

/// Why a program trapped; only traps that every node reproduces. Append-only: part of the answer digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum TrapCode {
    /// `unreachable` was executed.
    Unreachable,
    /// A load or store outside memory.
    MemoryOutOfBounds,
    /// A table access outside the table.
    TableOutOfBounds,
    /// An indirect call through an empty table slot.
    IndirectCallToNull,
    /// An indirect call with another signature.
    BadSignature,
    /// An integer overflow in a division.
    IntegerOverflow,
    /// A division by zero.
    IntegerDivisionByZero,
    /// A float that has no integer.
    BadConversionToInteger,
    /// An array access outside its bounds.
    ArrayOutOfBounds,
    /// A null reference was used.
    NullReference,
    /// A cast to a type that the value does not have.
    CastFailure,
    /// An atomic access that is not aligned.
    Misaligned,
    /// The program broke its contract with the host, for example with a result outside its memory.
    Contract,
}

impl fmt::Display for TrapCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreachable => "unreachable executed",
            Self::MemoryOutOfBounds => "out-of-bounds memory access",
            Self::TableOutOfBounds => "out-of-bounds table access",
            Self::IndirectCallToNull => "indirect call to null",
            Self::BadSignature => "indirect call with another signature",
            Self::IntegerOverflow => "integer overflow",
            Self::IntegerDivisionByZero => "integer division by zero",
            Self::BadConversionToInteger => "float has no integer",
            Self::ArrayOutOfBounds => "out-of-bounds array access",
            Self::NullReference => "null reference",
            Self::CastFailure => "cast failure",
            Self::Misaligned => "misaligned atomic access",
            Self::Contract => "host contract broken",
        })
    }
}

/// How an evaluation ended. Append-only: part of the answer digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Status {
    /// The program ended with this code.
    Exit(i32),
    /// The program trapped, as it would anywhere.
    Trap(TrapCode),
}

impl Status {
    /// Whether the program ended well: exit code 0.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        *self == Self::Exit(0)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Trap(code) => write!(f, "trap: {code}"),
        }
    }
}

/// A file that the program wrote.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OutputFile {
    /// Where.
    pub path: RelPath,
    /// Whether it is executable.
    pub executable: bool,
    /// What.
    pub data: Payload,
}

/// What is known about an evaluation beyond its answer. Two honest nodes may differ in all of it.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Facts {
    /// How long it ran.
    pub duration: Duration,
    /// Wasm fuel used.
    pub fuel: Option<u64>,
    /// Where it ran: architecture and system.
    pub host: SmolStr,
    /// What ran it, with its version.
    pub evaluator: SmolStr,
}

/// What an evaluation gave back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reply {
    /// How it ended.
    pub status: Status,
    /// Its standard output.
    pub stdout: Option<Payload>,
    /// Its log; outside the answer digest.
    pub stderr: Option<Payload>,
    /// The files it wrote, in order of their paths.
    pub files: Vec<OutputFile>,
    /// Outside the answer digest.
    pub facts: Facts,
}

impl Reply {
    /// A reply that ended well with this standard output and nothing else.
    #[must_use]
    pub fn ok(stdout: impl Into<Bytes>) -> Self {
        Self {
            status: Status::Exit(0),
            stdout: Some(Payload::Inline(stdout.into())),
            stderr: None,
            files: Vec::new(),
            facts: Facts::default(),
        }
    }

    /// One output by name.
    #[must_use]
    pub fn output(&self, name: &OutputName) -> Option<&Payload> {
        match name {
            OutputName::Stdout => self.stdout.as_ref(),
            OutputName::File(path) => self.files.iter().find(|file| file.path == *path).map(|file| &file.data),
        }
    }

    /// All payloads: outputs and logs.
    pub fn payloads(&self) -> impl Iterator<Item = &Payload> {
        self.stdout.iter().chain(&self.stderr).chain(self.files.iter().map(|file| &file.data))
    }

    /// Bytes of all outputs and logs.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.payloads().map(Payload::len).sum()
    }

    /// Whether there is no byte of output or log.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The digest of what two honest nodes must agree on: status and outputs.
    #[must_use]
    pub fn answer(&self) -> Digest {
        let files = self.files.iter().map(|file| (&file.path, file.executable, file.data.blob_ref()));
        answer_digest(self.status, self.stdout.as_ref().map(Payload::blob_ref), files)
    }
}

/// The answer digest from names alone; see [`Reply::answer`].
pub(crate) fn answer_digest<'a>(
    status: Status,
    stdout: Option<BlobRef>,
    files: impl Iterator<Item = (&'a RelPath, bool, BlobRef)>,
) -> Digest {
    let mut files: Vec<_> = files.collect();
    files.sort_unstable_by_key(|(path, ..)| *path);
    let bytes = postcard::to_stdvec(&(status, stdout, files)).expect("plain values into memory always encode");
    Digest::from_bytes(*ANSWER.clone().update(&bytes).finalize().as_bytes())
}
