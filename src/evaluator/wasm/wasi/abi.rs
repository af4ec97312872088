//! The numbers of WASI preview 1, and checked access to a guest's memory.
//!
//! Invariant: no pointer of a guest is used before it was checked. One that leads outside its memory ends the evaluation as the guest's trap,
//! the same on every node; [`Fault`] keeps that apart from an errno, which the guest sees.

use super::super::limits::IO_VECTORS;
use super::super::store::Stop;
use crate::limits::MAX_PATH;
use crate::reply::TrapCode;

/// The error numbers that this host returns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(in super::super) enum Errno {
    Badf = 8,
    Exist = 20,
    Ilseq = 25,
    Inval = 28,
    Isdir = 31,
    Mfile = 33,
    Nametoolong = 37,
    Noent = 44,
    Nospc = 51,
    Notdir = 54,
    Notempty = 55,
    Notsup = 58,
    Perm = 63,
    Spipe = 70,
    Notcapable = 76,
}

/// Why a host function did not succeed.
#[derive(Debug, PartialEq, Eq)]
pub(in super::super) enum Fault {
    /// The guest is told.
    Errno(Errno),
    /// The evaluation ends.
    Stop(Stop),
}

impl From<Errno> for Fault {
    fn from(errno: Errno) -> Self {
        Self::Errno(errno)
    }
}

impl From<Stop> for Fault {
    fn from(stop: Stop) -> Self {
        Self::Stop(stop)
    }
}

/// What a host function returns: the guest's errno is 0, or the fault.
pub(in super::super) type Outcome = Result<(), Fault>;

/// File types.
pub(in super::super) mod filetype {
    pub(in super::super) const UNKNOWN: u8 = 0;
    pub(in super::super) const DIRECTORY: u8 = 3;
    pub(in super::super) const REGULAR_FILE: u8 = 4;
}

/// Rights that matter here.
pub(in super::super) mod rights {
    pub(in super::super) const FD_READ: u64 = 1 << 1;
    pub(in super::super) const FD_WRITE: u64 = 1 << 6;
    pub(in super::super) const POLL: u64 = 1 << 27;
    /// All that a regular file can have.
    pub(in super::super) const FILE: u64 = (1 << 0)
        | FD_READ
        | (1 << 2)
        | (1 << 3)
        | (1 << 4)
        | (1 << 5)
        | FD_WRITE
        | (1 << 7)
        | (1 << 8)
        | (1 << 21)
        | (1 << 22)
        | (1 << 23)
        | POLL;
    /// All that a directory can have: every `path_*` right but those for links, reading it, and its status.
    pub(in super::super) const DIRECTORY: u64 =
        (1 << 3) | (1 << 4) | (1 << 9) | (1 << 10) | (0b11_1111 << 13) | (0b1111 << 18) | (1 << 23) | (0b11 << 25);
}

/// Descriptor flags.
pub(in super::super) const APPEND: u16 = 1;

/// Flags of `path_open`.
pub(in super::super) mod oflags {
    pub(in super::super) const CREAT: u16 = 1;
    pub(in super::super) const DIRECTORY: u16 = 2;
    pub(in super::super) const EXCL: u16 = 4;
    pub(in super::super) const TRUNC: u16 = 8;
}

/// A guest's memory.
pub(in super::super) struct Memory<'a>(pub(in super::super) &'a mut [u8]);

impl Memory<'_> {
    pub(in super::super) fn bytes(&self, at: u32, len: u32) -> Result<&[u8], Fault> {
        let start = at as usize;
        start.checked_add(len as usize).and_then(|end| self.0.get(start..end)).ok_or_else(outside)
    }

    pub(in super::super) fn bytes_mut(&mut self, at: u32, len: u32) -> Result<&mut [u8], Fault> {
        let start = at as usize;
        start.checked_add(len as usize).and_then(|end| self.0.get_mut(start..end)).ok_or_else(outside)
    }

    fn array<const N: usize>(&self, at: u32) -> Result<[u8; N], Fault> {
        let start = at as usize;
        let bytes = self.0.get(start..).and_then(<[u8]>::first_chunk);
        bytes.copied().ok_or_else(outside)
    }

    pub(in super::super) fn u8(&self, at: u32) -> Result<u8, Fault> {
        self.array(at).map(u8::from_le_bytes)
    }

    pub(in super::super) fn u16(&self, at: u32) -> Result<u16, Fault> {
        self.array(at).map(u16::from_le_bytes)
    }

    pub(in super::super) fn u32(&self, at: u32) -> Result<u32, Fault> {
        self.array(at).map(u32::from_le_bytes)
    }

    pub(in super::super) fn u64(&self, at: u32) -> Result<u64, Fault> {
        self.array(at).map(u64::from_le_bytes)
    }

    pub(in super::super) fn put(&mut self, at: u32, bytes: &[u8]) -> Outcome {
        let len = u32::try_from(bytes.len()).map_err(|_| outside())?;
        self.bytes_mut(at, len)?.copy_from_slice(bytes);
        Ok(())
    }

    pub(in super::super) fn put_u32(&mut self, at: u32, value: u32) -> Outcome {
        self.put(at, &value.to_le_bytes())
    }

    pub(in super::super) fn put_u64(&mut self, at: u32, value: u64) -> Outcome {
        self.put(at, &value.to_le_bytes())
    }

    /// A count or length that the guest's 32 bits hold.
    pub(in super::super) fn put_len(&mut self, at: u32, len: usize) -> Outcome {
        self.put_u32(at, u32::try_from(len).map_err(|_| Errno::Inval)?)
    }

    /// A text; UTF-8 by the contract.
    pub(in super::super) fn text(&self, at: u32, len: u32) -> Result<&str, Fault> {
        str::from_utf8(self.bytes(at, len)?).map_err(|_| Errno::Ilseq.into())
    }

    /// A path; UTF-8 by the contract.
    pub(in super::super) fn path(&self, at: u32, len: u32) -> Result<&str, Fault> {
        let bytes = self.bytes(at, len)?;
        if bytes.len() > MAX_PATH {
            return Err(Errno::Nametoolong.into());
        }
        str::from_utf8(bytes).map_err(|_| Errno::Ilseq.into())
    }

    /// The buffers of a read or write, all of them inside the memory.
    pub(in super::super) fn vectors(&self, at: u32, count: u32) -> Result<Vec<(u32, u32)>, Fault> {
        if count > IO_VECTORS {
            return Err(Errno::Inval.into());
        }
        let table = self.bytes(at, count * 8)?;
        let vectors = table.chunks_exact(8).map(|entry| {
            let word = |i: usize| u32::from_le_bytes([entry[i], entry[i + 1], entry[i + 2], entry[i + 3]]);
            (word(0), word(4))
        });
        let vectors: Vec<_> = vectors.collect();
        for (at, len) in &vectors {
            self.bytes(*at, *len)?;
        }
        Ok(vectors)
    }

    /// Fills the buffers in turn from `source`, which says how many bytes it wrote, until it writes fewer than were wanted.
    pub(in super::super) fn scatter(
        &mut self,
        vectors: &[(u32, u32)],
        mut source: impl FnMut(&mut [u8]) -> usize,
    ) -> Result<u32, Fault> {
        let mut total = 0_usize;
        for (at, len) in vectors {
            let buffer = self.bytes_mut(*at, *len)?;
            let read = source(buffer);
            total += read;
            if read < *len as usize {
                break;
            }
        }
        u32::try_from(total).map_err(|_| Errno::Inval.into())
    }

    /// How many bytes the buffers hold together.
    pub(in super::super) fn gathered(vectors: &[(u32, u32)]) -> u64 {
        vectors.iter().map(|(_, len)| u64::from(*len)).sum()
    }
}

fn outside() -> Fault {
    Stop::Trap(TrapCode::MemoryOutOfBounds, "a pointer given to the host leads outside the memory").into()
}
