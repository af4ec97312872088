//! Memory that a node and its worker share: a file without a name, mapped on both sides, in which payloads lie while messages name them.
//!
//! A map faults when its file is cut, so the file is sealed against that, and the system keeps the seal whatever a worker was made to do. Invariants:
//! (1) a map is never longer than its file; (2) since the worker may write at any time, the node copies out of the arena first and judges the copy.
//! That copy is made into large pages where the system has them: small ones cost several times what the copying does. (3) A map stays as long as
//! anything looks at it, which a device may do too ([`Part`]).
//!
//! What is large is copied and cleared by several threads, as one alone does not get all that memory gives; but for the copy into fresh memory.

#![expect(unsafe_code, reason = "memory maps have no safe interface")]

use std::fs::File;
use std::io;
use std::ops::Range;
use std::ptr::{self, NonNull};
use std::slice;
use std::sync::{Arc, LazyLock};
use std::thread;

use bytes::Bytes;
use rustix::fs::{
    FallocateFlags, MemfdFlags, SealFlags, fallocate, fcntl_add_seals, fcntl_get_seals, ftruncate, memfd_create,
};
use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap, mmap_anonymous, munmap};

/// Bytes of a large page; where they are larger they are not used for what is smaller.
const LARGE_PAGE: usize = 2 * 1024 * 1024;
/// From this size on payloads lie in large pages.
const LARGE: usize = 2 * LARGE_PAGE;
/// What a thread is worth starting for: to copy so much takes several times as long.
const THREAD: usize = 2 * 1024 * 1024;
/// More threads than this wait for memory.
const THREADS: usize = 4;

/// Asking the system takes longer than copying a small payload.
static AVAILABLE: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS));

/// An unnamed file in memory that cannot be cut. It may grow; nobody can seal it any further.
pub(in crate::evaluator::gpu) fn make() -> io::Result<File> {
    let file = memfd_create("evalmesh-gpu", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(file.into())
}

/// Memory of this process, or of two.
#[derive(Debug)]
struct Map {
    begin: NonNull<u8>,
    len: usize,
}

// SAFETY: it is plain memory that stays until the map is dropped; how it may be touched is said where it is.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// The address of these bytes, if all of them are in the map.
    fn place(&self, at: u64, len: usize) -> io::Result<*mut u8> {
        let at = usize::try_from(at).map_err(io::Error::other)?;
        if at.checked_add(len).is_none_or(|end| end > self.len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // SAFETY: it is inside the map.
        Ok(unsafe { self.begin.as_ptr().add(at) })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: nobody looks at it any more, for that would borrow it.
        let _ = unsafe { munmap(self.begin.as_ptr().cast(), self.len) };
    }
}

/// The shared memory, as one of both processes sees it.
#[derive(Debug)]
pub(in crate::evaluator::gpu) struct Arena {
    file: File,
    map: Arc<Map>,
}

/// A piece of the shared memory for something that is not told when the arena is given up. What may be done there is for whoever uses its address
/// to know.
#[derive(Debug)]
pub(in crate::evaluator::gpu) struct Part {
    map: Arc<Map>,
    at: usize,
    len: usize,
}

impl Part {
    pub(in crate::evaluator::gpu) fn begin(&self) -> *mut u8 {
        // Inside the map: that was seen when this was made.
        self.map.begin.as_ptr().wrapping_add(self.at)
    }

    pub(in crate::evaluator::gpu) fn len(&self) -> usize {
        self.len
    }
}

impl Arena {
    /// Maps so many bytes of a file of [`make`], which is made that long if it is not.
    pub(super) fn over(file: File, bytes: u64) -> io::Result<Self> {
        if !fcntl_get_seals(&file)?.contains(SealFlags::SHRINK) {
            return Err(io::Error::other("the shared memory is not sealed"));
        }
        if file.metadata()?.len() < bytes {
            ftruncate(&file, bytes)?;
        }
        let len = usize::try_from(bytes).map_err(io::Error::other)?;
        // SAFETY: a new map, at an address that the system chooses. Its file is at least as long, for good, so no page of it is ever missing.
        let begin =
            unsafe { mmap(ptr::null_mut(), len, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, &file, 0)? };
        let begin = NonNull::new(begin.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { file, map: Arc::new(Map { begin, len }) })
    }

    pub(in crate::evaluator::gpu) fn len(&self) -> u64 {
        self.map.len as u64
    }

    pub(in crate::evaluator::gpu) fn write(&self, at: u64, bytes: &[u8]) -> io::Result<()> {
        let to = self.map.place(at, bytes.len())?;
        // SAFETY: the target is inside the map, into which nobody in this process has a reference that is not `self`'s.
        unsafe { copy(bytes.as_ptr(), to, bytes.len()) };
        Ok(())
    }

    /// For the worker: makes these bytes zeros.
    pub(super) fn zero(&self, at: u64, len: u64) -> io::Result<()> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let to = Address(self.map.place(at, len)?);
        // SAFETY: as for `write`; the pieces are parts of that place.
        in_pieces(len, |piece| unsafe { to.at(piece.start).write_bytes(0, piece.len()) });
        Ok(())
    }

    /// For the worker: copies bytes from one place to another one that has none of them.
    pub(super) fn copy_within(&self, from: u64, to: u64, len: u64) -> io::Result<()> {
        if from.abs_diff(to) < len {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let (from, to) = (self.map.place(from, len)?, self.map.place(to, len)?);
        // SAFETY: both are inside the map, and apart; as for `write`.
        unsafe { copy(from, to, len) };
        Ok(())
    }

    /// For the worker: these bytes as something that a device can be given.
    pub(super) fn part(&self, at: u64, len: u64) -> io::Result<Part> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        self.map.place(at, len)?;
        let at = usize::try_from(at).map_err(io::Error::other)?;
        Ok(Part { map: Arc::clone(&self.map), at, len })
    }

    /// A copy, whatever the other side does meanwhile.
    pub(in crate::evaluator::gpu) fn read(&self, at: u64, len: u64) -> io::Result<Bytes> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let from = self.map.place(at, len)?;
        if len >= LARGE {
            // SAFETY: the source is inside the map.
            return Ok(Bytes::from_owner(unsafe { Fresh::copy(from, len)? }));
        }
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: the source is inside the map and the target is the vector's own room.
        unsafe {
            ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        Ok(bytes.into())
    }

    /// For the worker: bytes that the node put here, in place.
    pub(in crate::evaluator::gpu) fn inputs(&mut self, at: u64, len: u64) -> io::Result<&[u8]> {
        let len = usize::try_from(len).map_err(io::Error::other)?;
        let from = self.map.place(at, len)?;
        // SAFETY: it is inside the map. The node, this process' parent and of the same executable, writes nothing while an order of it is
        // under way, and this process does not while the result is borrowed: a device that was given parts of it works at no such time.
        Ok(unsafe { slice::from_raw_parts(from, len) })
    }

    /// Gives the pages back; the memory is all zeros then.
    pub(super) fn clear(&self) -> io::Result<()> {
        Ok(fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 0, self.len())?)
    }
}

/// An address that several threads are told.
#[derive(Clone, Copy)]
struct Address(*mut u8);

// SAFETY: it is a number; whoever uses it says why that may be.
unsafe impl Send for Address {}
// SAFETY: as above.
unsafe impl Sync for Address {}

impl Address {
    fn at(self, offset: usize) -> *mut u8 {
        self.0.wrapping_add(offset)
    }
}

/// Does something with every piece of so many bytes, on several threads where there are enough of both.
fn in_pieces(len: usize, what: impl Fn(Range<usize>) + Sync) {
    let threads = (len / THREAD).min(*AVAILABLE);
    if threads < 2 {
        return what(0..len);
    }
    let piece = len.div_ceil(threads).next_multiple_of(LARGE_PAGE);
    thread::scope(|scope| {
        for begin in (piece..len).step_by(piece) {
            let (what, range) = (&what, begin..len.min(begin + piece));
            let again = range.clone();
            if thread::Builder::new().spawn_scoped(scope, || what(range)).is_err() {
                what(again);
            }
        }
        what(0..len.min(piece));
    });
}

/// Copies bytes.
///
/// # Safety
///
/// There are so many to be read, and as many to be written elsewhere, where nobody has a reference to them.
unsafe fn copy(from: *const u8, to: *mut u8, len: usize) {
    let (from, to) = (Address(from.cast_mut()), Address(to));
    // SAFETY: the pieces are parts of what the caller speaks of; the source is only read.
    in_pieces(len, |piece| unsafe { ptr::copy_nonoverlapping(from.at(piece.start), to.at(piece.start), piece.len()) });
}

/// A payload in memory of its own.
struct Fresh {
    map: Map,
    /// Where it begins in the map: at the beginning of a large page.
    skipped: usize,
    len: usize,
}

impl Fresh {
    /// A copy of these bytes.
    ///
    /// # Safety
    ///
    /// There are so many to be read.
    unsafe fn copy(from: *const u8, len: usize) -> io::Result<Self> {
        let room = len.checked_add(LARGE_PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        // SAFETY: new memory, at an address that the system chooses.
        let begin =
            unsafe { mmap_anonymous(ptr::null_mut(), room, ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE)? };
        let map = Map { begin: NonNull::new(begin.cast()).ok_or(io::ErrorKind::OutOfMemory)?, len: room };
        let skipped = begin.addr().next_multiple_of(LARGE_PAGE) - begin.addr();
        let to = map.place(skipped as u64, len)?;
        // SAFETY: the advice is about whole large pages of this memory alone. Without them it is the same memory.
        let _ = unsafe { madvise(to.cast(), len - len % LARGE_PAGE, Advice::LinuxHugepage) };
        // By this thread alone: what several threads get of fresh memory at once is memory that nobody used for longer, and where a host has taken
        // that back it costs more than they gain.
        // SAFETY: the source is the caller's to know, and the target is new memory of at least that length.
        unsafe { ptr::copy_nonoverlapping(from, to, len) };
        Ok(Self { map, skipped, len })
    }
}

impl AsRef<[u8]> for Fresh {
    fn as_ref(&self) -> &[u8] {
        // SAFETY: it is inside the map, which nobody else knows of and to which nothing is written any more.
        unsafe { slice::from_raw_parts(self.map.begin.as_ptr().add(self.skipped), self.len) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_arena_is_one_memory_for_both_and_ends_where_it_ends() {
        let file = make().unwrap();
        let own = Arena::over(file.try_clone().unwrap(), 8192).unwrap();
        let mut theirs = Arena::over(file.try_clone().unwrap(), 8192).unwrap();
        own.write(8190, b"ab").unwrap();
        assert_eq!(theirs.inputs(8190, 2).unwrap(), b"ab");
        theirs.write(0, b"cd").unwrap();
        assert_eq!(&own.read(0, 2).unwrap()[..], b"cd");
        assert!(own.write(8191, b"ab").is_err() && own.read(8191, 2).is_err() && own.read(8193, 0).is_err());
        assert!(theirs.inputs(u64::MAX, 2).is_err() && theirs.inputs(2, u64::MAX).is_err());
        let larger = Arena::over(file, 1 << 20).unwrap();
        assert_eq!((&larger.read(8190, 2).unwrap()[..], larger.len()), (&b"ab"[..], 1 << 20));
        larger.clear().unwrap();
        assert_eq!(theirs.inputs(8190, 2).unwrap(), [0, 0]);
    }

    #[test]
    fn nobody_can_cut_what_is_mapped() {
        let file = make().unwrap();
        let arena = Arena::over(file.try_clone().unwrap(), 8192).unwrap();
        arena.write(4096, b"here").unwrap();
        assert!(file.set_len(4096).is_err(), "cut");
        assert!(fcntl_add_seals(&file, SealFlags::WRITE).is_err(), "sealed against the node");
        assert_eq!(&arena.read(4096, 4).unwrap()[..], b"here");
        let unsealed = tempfile::tempfile().unwrap();
        assert!(Arena::over(unsealed, 1).is_err(), "what could be cut is not mapped");
    }

    #[test]
    fn large_copies_are_copies() {
        for len in [LARGE - 1, LARGE, LARGE + 1, 3 * LARGE + 4097] {
            let pattern: Vec<u8> = (0..len).map(|at| (at % 251).try_into().unwrap()).collect();
            let arena = Arena::over(make().unwrap(), 4096 + len as u64).unwrap();
            arena.write(4096, &pattern).unwrap();
            let copy = arena.read(4096, len as u64).unwrap();
            arena.write(4096, &vec![0; len]).unwrap();
            drop(arena);
            assert!(copy == pattern, "{len}");
        }
    }
}
