//! What can go wrong with a ledger, one type per place where a caller acts differently, and the report of what recovery found.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::reply::BlobRef;

use super::limits::MAX_DAMAGES;

/// Why a ledger could not be opened. A directory that is refused (locked, of another node, of a newer format) is left as it was.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The path names something else.
    #[error("`{}` is not a directory", .path.display())]
    NotADirectory {
        /// What was to be opened.
        path: PathBuf,
    },
    /// The operating system refuses.
    #[error("no permission for `{}`", .path.display())]
    Permission {
        /// What was to be opened.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Somebody else has it open.
    #[error("`{}` is in use by {}", .path.display(), .pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}")))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, if it said so.
        pid: Option<u32>,
    },
    /// The directory is another node's.
    #[error("`{}` belongs to node {}, not to {}", .path.display(), .found.short(), .expected.short())]
    OtherNode {
        /// The segment that says so.
        path: PathBuf,
        /// Whose it is.
        found: NodeId,
        /// Who wanted to open it.
        expected: NodeId,
    },
    /// A newer version of this program wrote here.
    #[error("`{}` has format {found}, this version reads up to {known}", .path.display())]
    Newer {
        /// The segment that says so.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format that is known here.
        known: u32,
    },
    /// The epoch is not fresh: it must be drawn anew for every opening.
    #[error("epoch {} was used before", .0.short())]
    EpochReused(EpochId),
    /// The disk failed.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// What was being read or written.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl OpenError {
    /// Sorts a failure of the system by what can be done about it.
    pub(super) fn io(path: PathBuf, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::PermissionDenied => Self::Permission { path, source },
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::Io { path, source },
        }
    }

    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotADirectory { .. } => "name a directory, or a path where one can be made",
            Self::Permission { .. } => "check the owner and mode of the directory, or choose another one",
            Self::Locked { .. } => "stop the other process, or give this node a directory of its own",
            Self::OtherNode { .. } => "use the key file that belongs to this directory, or another directory",
            Self::Newer { .. } => "use the newer version again; this one would not understand what it wrote",
            Self::EpochReused(_) => "draw a new random epoch for every opening",
            Self::Io { .. } => "look at the disk (full? read-only? failing?)",
        }
    }
}

/// Why something was not written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LedgerError {
    /// The disk failed; from now on the ledger is poisoned.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// What was being written.
        path: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
    /// An earlier write failed, so what is on disk is not known. Reopen the ledger.
    #[error("the ledger takes no writes since one failed ({cause})")]
    Poisoned {
        /// The first failure.
        cause: String,
    },
    /// Longer than allowed; nothing was written.
    #[error("{what} of {found}, the bound is {bound}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// How large it is.
        found: u64,
        /// Its bound.
        bound: u64,
    },
    /// The payloads are not those that the record names; nothing was written.
    #[error("payload {position} is not the one that the record names")]
    Payload {
        /// Which one, in the order of `Record::blobs`.
        position: usize,
    },
    /// The record's output files are too many or not in order, so it has no canonical form; nothing was written.
    #[error("the record's files are too many, or not in order of their paths, or two have one path")]
    Files,
    /// Evidence and record differ, or the evidence holds no record; nothing was written.
    #[error("the evidence is not about that record")]
    Evidence,
    /// This answer was retracted here and is not taken back from a peer.
    #[error("the answer {} to {} was retracted here", .answer.short(), .request.short())]
    Retracted {
        /// The question.
        request: ContentId,
        /// The answer.
        answer: Digest,
    },
    /// What is held already could not be read; nothing was written.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Epoch entries are made by opening, by nothing else.
    #[error("an epoch entry cannot be appended")]
    EpochEntry,
    /// The queue is full: try again later.
    #[error("the recorder's queue is at its bound of {bound} {what}")]
    Busy {
        /// What is full: operations or bytes.
        what: &'static str,
        /// The bound.
        bound: u64,
    },
    /// The recorder was closed.
    #[error("the recorder is closed")]
    Closed,
}

impl LedgerError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> Option<&'static str> {
        Some(match self {
            Self::Io { .. } | Self::Poisoned { .. } => {
                "look at the disk (full? read-only?), then open the ledger again"
            }
            Self::Read(error) => error.hint(),
            Self::Busy { .. } => "try again in a moment",
            Self::Closed => "start the node again",
            Self::Retracted { .. } => "compute it anew; its old answer is not taken back",
            Self::TooLarge { .. } | Self::Payload { .. } | Self::Files | Self::Evidence | Self::EpochEntry => {
                return None;
            }
        })
    }
}

/// Why something that is in the ledger could not be read. Never wrong bytes, never a miss.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// The entry does not match its checksum any more.
    #[error("entry {seq} is damaged")]
    Damaged {
        /// Its sequence number.
        seq: u64,
    },
    /// The entry was lost before this opening; see the [`Recovery`] report.
    #[error("entry {seq} is quarantined")]
    Quarantined {
        /// Its sequence number.
        seq: u64,
    },
    /// The entry was in a segment that was dropped to make room.
    #[error("entry {seq} is below the floor and was dropped")]
    Dropped {
        /// Its sequence number.
        seq: u64,
    },
    /// The payload does not match its digest any more.
    #[error("payload {} of entry {seq} is damaged", .blob.digest.short())]
    PayloadDamaged {
        /// The entry that names it.
        seq: u64,
        /// The payload.
        blob: BlobRef,
    },
    /// The payload is not held (any more).
    #[error("payload {} of entry {seq} is gone", .blob.digest.short())]
    PayloadGone {
        /// The entry that names it.
        seq: u64,
        /// The payload.
        blob: BlobRef,
    },
    /// An earlier entry of the epoch is lost, so no proof can be made for this one.
    #[error("entry {seq} cannot be proven: an earlier entry of its epoch is lost")]
    Unprovable {
        /// Its sequence number.
        seq: u64,
    },
    /// The disk failed.
    #[error("`{}`: {source}", .path.display())]
    Io {
        /// What was being read.
        path: PathBuf,
        /// The system's words.
        source: Arc<io::Error>,
    },
}

impl ReadError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Io { .. } => "look at the disk",
            Self::Unprovable { .. } => "evaluate it again, so that it is recorded in the current epoch",
            _ => "evaluate it again or fetch it from another holder",
        }
    }

    /// Whether the bytes themselves are bad or gone, as opposed to a disk that did not answer.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        !matches!(self, Self::Io { .. } | Self::Unprovable { .. })
    }
}

/// What opening found and did. Plain data; whoever opened the ledger says it to people.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Positions before this opening, lost ones included.
    pub entries: u64,
    /// Segment files read.
    pub segments: u64,
    /// Entries of a kind or version that is not known here; kept and skipped.
    pub unknown: u64,
    /// The torn tail that was cut off, if there was one.
    pub cut: Option<Cut>,
    /// What is damaged, in order of position; at most `limits::MAX_DAMAGES` of them.
    pub damages: Vec<Damage>,
    /// How many damages there are, including those that are not described.
    pub damaged: u64,
    /// Entries that are lost.
    pub lost: u64,
}

impl Recovery {
    /// Whether everything was found as it was left.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.cut.is_none() && self.damaged == 0
    }

    pub(super) fn report(&mut self, damage: Damage) {
        self.damaged += 1;
        self.lost += damage.lost.end - damage.lost.start;
        if self.damages.len() < MAX_DAMAGES {
            self.damages.push(damage);
        }
    }
}

/// A torn tail: the end of the newest segment, written but never acknowledged as durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cut {
    /// First sequence number of the segment.
    pub segment: u64,
    /// Where the last whole entry ended.
    pub offset: u64,
    /// Bytes cut off.
    pub bytes: u64,
}

/// One damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Damage {
    /// First sequence number of the segment, from its name.
    pub segment: u64,
    /// Where in the segment.
    pub offset: u64,
    /// How many bytes are concerned.
    pub bytes: u64,
    /// Sequence numbers of the entries lost by it; empty if none.
    pub lost: Range<u64>,
    /// What is wrong.
    pub cause: Cause,
}

/// What is wrong with a damaged place.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Cause {
    /// Bytes that are no whole frame; reading went on at the next one.
    Frame,
    /// An inline payload that does not match its checksum; its entry is whole.
    Payload,
    /// A segment header that does not match its checksum; its entries are read all the same.
    Header,
    /// Sequence numbers that no segment covers.
    MissingSegment,
    /// A segment that covers numbers another one covers; moved to `quarantine/`.
    DuplicateSegment,
    /// A file that is no segment of this ledger, or another one than its name says; moved to `quarantine/`.
    Misplaced,
    /// An epoch whose entries do not lead to the root that the next epoch names: history was changed. Nothing of it can be proven.
    RootDiffers(EpochId),
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Frame => f.write_str("no whole frame"),
            Self::Payload => f.write_str("a payload does not match its checksum"),
            Self::Header => f.write_str("the segment's header is damaged"),
            Self::MissingSegment => f.write_str("a segment is missing"),
            Self::DuplicateSegment => f.write_str("the segment covers entries of another one"),
            Self::Misplaced => f.write_str("a file that is no segment of this ledger"),
            Self::RootDiffers(epoch) => {
                write!(f, "the entries of epoch {epoch} are not those that the next epoch names")
            }
        }
    }
}
