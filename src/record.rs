//! A record: who observed which reply to which question, when and how. Position-free, so it means the same in everybody's ledger.
//!
//! Invariant: a record has exactly one byte form (version byte, then postcard), and its producer's signature covers that form through the
//! Merkle tree of the epoch it was appended in (see `proof`). Payloads are named by digest, so evicting one breaks no proof.
//! The field order is frozen by golden bytes: append under a new version byte, never reorder.

pub(crate) mod form;
#[cfg(test)]
mod tests;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::id::{ContentId, Digest, NodeId};
use crate::limits::MAX_RECORD;
use crate::reply::{BlobRef, Facts, OutputFile, Payload, Reply, Status, answer_digest};
use crate::request::{Class, Name, RelPath, Request};

/// Version byte of the canonical form.
const RECORD_V1: u8 = 1;

/// A file output, by name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileRef {
    /// Where.
    pub path: RelPath,
    /// Whether it is executable.
    pub executable: bool,
    /// What.
    pub data: BlobRef,
}

/// What kind of root an evaluation observed. Append-only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum RootKind {
    /// The bytes of a file.
    Content,
    /// That nothing is there.
    Absent,
    /// A directory's sorted names and types.
    Directory,
    /// A glob's sorted matches.
    Glob,
    /// A Merkle tree of a directory.
    Tree,
    /// The text of a symbolic link.
    LinkText,
    /// An upstream request and the answer it had.
    Reply,
    /// Something outside the workspace that the host function fingerprinted itself.
    External,
}

/// One thing that an evaluation observed, with its fingerprint at that time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// What kind of thing.
    pub kind: RootKind,
    /// Its path within the workspace, its glob, or its name.
    pub name: String,
    /// Its fingerprint.
    pub fingerprint: Digest,
}

/// The roots that an evaluation observed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Trace {
    /// In order of observation.
    pub roots: Vec<Root>,
}

/// A request that this evaluation asked on its way, and the answer it got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upstream {
    /// The question.
    pub request: ContentId,
    /// The answer digest.
    pub answer: Digest,
}

/// A request whose inputs are all bytes or digests, with the requests that some of them came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The request; its inputs are payloads.
    pub request: Request,
    /// What was asked to get them.
    pub upstream: Vec<Upstream>,
}

/// Who observed which reply to which question, when and how.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// The question.
    pub request: ContentId,
    /// What kind of evaluation this was: the engine, or the kind of an opaque program.
    pub kind: Name,
    /// The class that the request declared.
    pub class: Class,
    /// How it ended.
    pub status: Status,
    /// Standard output; absent is not empty.
    pub stdout: Option<BlobRef>,
    /// Log; absent is not empty.
    pub stderr: Option<BlobRef>,
    /// Files, in order of their paths.
    pub files: Vec<FileRef>,
    /// How long it ran.
    pub duration: Duration,
    /// Wasm fuel used.
    pub fuel: Option<u64>,
    /// When it ended, by the producer's clock: microseconds since 1970.
    pub observed_at: u64,
    /// Who observed it.
    pub producer: NodeId,
    /// Where it ran: architecture and system.
    pub host: SmolStr,
    /// What ran it, with its version.
    pub evaluator: SmolStr,
    /// What it depended on in the workspace, for host functions.
    pub trace: Option<Trace>,
    /// Requests it asked on its way.
    pub upstream: Vec<Upstream>,
}

/// What a record is about, apart from the reply itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observation {
    /// The question.
    pub request: ContentId,
    /// See [`Record::kind`].
    pub kind: Name,
    /// The class that the request declared.
    pub class: Class,
    /// Microseconds since 1970.
    pub observed_at: u64,
    /// See [`Record::trace`].
    pub trace: Option<Trace>,
    /// See [`Record::upstream`].
    pub upstream: Vec<Upstream>,
}

/// Why bytes are not a record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RecordError {
    /// A format that this version does not read.
    #[error("record version {0} is not known here")]
    Version(u8),
    /// Too long.
    #[error("a record of {0} bytes, the bound is {MAX_RECORD}")]
    TooLarge(usize),
    /// Not the one canonical form.
    #[error("not a canonical record")]
    Encoding,
}

impl Record {
    /// The record of this reply, observed by `producer`. Inline payloads are hashed here; files are put in order.
    #[must_use]
    pub fn observe(about: Observation, reply: &Reply, producer: NodeId) -> Self {
        let mut files: Vec<_> = reply.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let names: Vec<_> = reply
            .stdout
            .iter()
            .chain(&reply.stderr)
            .chain(files.into_iter().map(|file| &file.data))
            .map(Payload::blob_ref)
            .collect();
        Self::observe_named(about, reply, names.into_iter(), producer)
    }

    /// As [`Self::observe`], with the names of the payloads in the order of [`Self::blobs`].
    pub(crate) fn observe_named(
        about: Observation,
        reply: &Reply,
        mut names: impl Iterator<Item = BlobRef>,
        producer: NodeId,
    ) -> Self {
        let mut next = || names.next().expect("a name for each payload");
        let stdout = reply.stdout.as_ref().map(|_| next());
        let stderr = reply.stderr.as_ref().map(|_| next());
        let mut files: Vec<_> = reply.files.iter().collect();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        let name = |file: &OutputFile| FileRef { path: file.path.clone(), executable: file.executable, data: next() };
        let files = files.into_iter().map(name).collect();
        let Observation { request, kind, class, observed_at, trace, upstream } = about;
        Self {
            request,
            kind,
            class,
            status: reply.status,
            stdout,
            stderr,
            files,
            duration: reply.facts.duration,
            fuel: reply.facts.fuel,
            observed_at,
            producer,
            host: reply.facts.host.clone(),
            evaluator: reply.facts.evaluator.clone(),
            trace,
            upstream,
        }
    }

    /// The digest of what two honest nodes must agree on; equal to [`Reply::answer`] of the reply it records.
    #[must_use]
    pub fn answer(&self) -> Digest {
        let files = self.files.iter().map(|file| (&file.path, file.executable, file.data));
        answer_digest(self.status, self.stdout, files)
    }

    /// The payloads that this record names, in a fixed order: stdout, stderr, files.
    pub fn blobs(&self) -> impl Iterator<Item = BlobRef> {
        self.stdout.into_iter().chain(self.stderr).chain(self.files.iter().map(|file| file.data))
    }

    /// The reply that this record names, with every payload by reference.
    #[must_use]
    pub fn reply(&self) -> Reply {
        Reply {
            status: self.status,
            stdout: self.stdout.map(Payload::Stored),
            stderr: self.stderr.map(Payload::Stored),
            files: self
                .files
                .iter()
                .map(|file| OutputFile {
                    path: file.path.clone(),
                    executable: file.executable,
                    data: Payload::Stored(file.data),
                })
                .collect(),
            facts: Facts {
                duration: self.duration,
                fuel: self.fuel,
                host: self.host.clone(),
                evaluator: self.evaluator.clone(),
            },
        }
    }

    /// The reply that this record names, with these payloads in the order of [`Self::blobs`]; those that are missing stay names.
    pub(crate) fn into_reply(self, payloads: impl IntoIterator<Item = Payload>) -> Reply {
        let mut payloads = payloads.into_iter();
        let mut fill = |blob: BlobRef| payloads.next().unwrap_or(Payload::Stored(blob));
        Reply {
            status: self.status,
            stdout: self.stdout.map(&mut fill),
            stderr: self.stderr.map(&mut fill),
            files: self
                .files
                .into_iter()
                .map(|file| OutputFile { path: file.path, executable: file.executable, data: fill(file.data) })
                .collect(),
            facts: Facts { duration: self.duration, fuel: self.fuel, host: self.host, evaluator: self.evaluator },
        }
    }

    /// The one byte form.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(256);
        bytes.push(RECORD_V1);
        form::write(self, &mut bytes);
        bytes
    }

    /// Reads the one byte form; anything else that would decode to the same values is refused, so that equal records have equal bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        if bytes.len() > MAX_RECORD {
            return Err(RecordError::TooLarge(bytes.len()));
        }
        let (&version, body) = bytes.split_first().ok_or(RecordError::Encoding)?;
        if version != RECORD_V1 {
            return Err(RecordError::Version(version));
        }
        let record = form::read(body).ok_or(RecordError::Encoding)?;
        debug_assert_eq!(record.encode(), bytes, "one form");
        Ok(record)
    }
}
