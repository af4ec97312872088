//! Memory that a node and its worker both see: a file without a name that lives in memory, in which large payloads lie while messages name them.
//!
//! It is read and written, never mapped, so the worker can change bytes under the node's hands but can make nothing there fault. Where the system
//! has no such files everything travels inside the messages.

use std::fs::File;
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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

/// Parts in which shared memory is moved: they stay in the processor's cache between the two copies.
const PART: usize = 256 * 1024;

/// Hands all bytes over, part by part with the place of each.
pub(in crate::evaluator::gpu) fn copy_in(
    data: &Data,
    shared: Option<&File>,
    mut to: impl FnMut(usize, &[u8]),
) -> io::Result<()> {
    let (at, len) = match (data, shared) {
        (Data::Inline(bytes), _) => {
            to(0, bytes);
            return Ok(());
        }
        (Data::Shared { at, len }, Some(_)) => (*at, usize::try_from(*len).map_err(io::Error::other)?),
        (Data::Shared { .. }, None) => return Err(io::Error::other("there is none")),
    };
    let mut part = vec![0; PART.min(len)];
    let mut done = 0;
    while let (Some(shared), true) = (shared, done < len) {
        let part = &mut part[..PART.min(len - done)];
        read_at(shared, at + done as u64, part)?;
        to(done, part);
        done += part.len();
    }
    Ok(())
}

/// Memory without a name, for one worker.
#[cfg(target_os = "linux")]
pub(super) fn make() -> Option<File> {
    use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};

    let file = memfd_create("evalmesh-gpu", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).ok()?;
    // The worker cannot seal it against the node.
    fcntl_add_seals(&file, SealFlags::SEAL).ok()?;
    Some(file.into())
}

#[cfg(not(target_os = "linux"))]
pub(super) fn make() -> Option<File> {
    None
}

#[cfg(unix)]
pub(in crate::evaluator::gpu) fn read_at(file: &File, at: u64, bytes: &mut [u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::read_exact_at(file, bytes, at)
}

#[cfg(unix)]
pub(in crate::evaluator::gpu) fn write_at(file: &File, at: u64, bytes: &[u8]) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, at)
}

#[cfg(not(unix))]
pub(in crate::evaluator::gpu) fn read_at(_: &File, _: u64, _: &mut [u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(not(unix))]
pub(in crate::evaluator::gpu) fn write_at(_: &File, _: u64, _: &[u8]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
