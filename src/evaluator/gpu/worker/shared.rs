//! What messages between a node and its worker name instead of carrying it: payloads, but for tiny ones, in memory that both see (`memory`).
//!
//! Where the system has no such memory everything travels inside the messages.

use std::fs::File;
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::mailbox::Mailbox;
use super::memory::{Arena, Part};

/// Bytes on their way to or from a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) enum Data {
    /// The bytes themselves.
    Inline(Bytes),
    /// Bytes in the shared memory.
    Shared { at: u64, len: u64 },
}

/// Where an output is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) enum Place {
    Inline,
    Shared { at: u64 },
}

impl Data {
    pub(in crate::evaluator::gpu) fn len(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Shared { len, .. } => *len,
        }
    }
}

/// What a worker shares with its node.
#[derive(Debug, Default)]
pub(in crate::evaluator::gpu) struct Shared {
    file: Option<File>,
    mailbox: Option<Mailbox>,
    arena: Option<Arena>,
}

impl Shared {
    pub(in crate::evaluator::gpu) fn new(file: Option<File>) -> Self {
        Self { file, mailbox: None, arena: None }
    }

    /// So many bytes of it from `at` on, for a device.
    pub(in crate::evaluator::gpu) fn part(&self, at: u64, len: u64) -> io::Result<Part> {
        self.arena()?.part(at, len)
    }

    /// Makes bytes of it zeros.
    pub(in crate::evaluator::gpu) fn zero(&self, at: u64, len: u64) -> io::Result<()> {
        self.arena()?.zero(at, len)
    }

    /// Copies bytes of it from one place to another.
    pub(in crate::evaluator::gpu) fn copy_within(&self, from: u64, to: u64, len: u64) -> io::Result<()> {
        self.arena()?.copy_within(from, to, len)
    }

    fn arena(&self) -> io::Result<&Arena> {
        self.arena.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Has at least so many bytes of it mapped.
    pub(in crate::evaluator::gpu) fn reach(&mut self, bytes: u64) -> io::Result<()> {
        if self.arena.as_ref().map_or(0, Arena::len) < bytes {
            let file = self.file.as_ref().ok_or(io::ErrorKind::NotFound)?;
            self.arena = Some(Arena::over(file.try_clone()?, bytes)?);
        }
        Ok(())
    }

    /// Leaves an answer for whoever waits for it; `false` if it is too long for that, which is said there too.
    pub(super) fn mail(&mut self, answer: &[u8]) -> io::Result<bool> {
        if self.mailbox.is_none() {
            self.mailbox = Some(Mailbox::of(self.file.as_ref().ok_or(io::ErrorKind::NotFound)?)?);
        }
        Ok(self.mailbox.as_ref().is_some_and(|mailbox| mailbox.leave(answer)))
    }

    /// An input.
    pub(in crate::evaluator::gpu) fn input<'a>(&'a mut self, data: &'a Data) -> io::Result<&'a [u8]> {
        match data {
            Data::Inline(bytes) => Ok(bytes),
            Data::Shared { at, len } => self.arena.as_mut().ok_or(io::ErrorKind::NotFound)?.inputs(*at, *len),
        }
    }

    /// Puts an output where it is wanted.
    pub(in crate::evaluator::gpu) fn output(&self, place: Place, bytes: &[u8]) -> io::Result<Data> {
        match place {
            Place::Inline => Ok(Data::Inline(Bytes::copy_from_slice(bytes))),
            Place::Shared { at } => {
                self.arena()?.write(at, bytes)?;
                Ok(Data::Shared { at, len: bytes.len() as u64 })
            }
        }
    }
}
