//! The bytes of a file that is not written any more, as memory: a read costs a copy instead of a system call.
//!
//! What makes memory maps dangerous is that a page which cannot be had - the file was cut by somebody else, the disk fails - is no error but a
//! SIGBUS that ends the process. Here the signal is caught: where the address lies in one of our maps, a page of zeros takes the place
//! of the missing one and the map is marked as failed; any other address goes to whoever handled the signal before. Invariants: bytes are
//! copied first and judged after, never looked at in place; a copy from a failed map is thrown away, so that the caller reads with
//! a system call and gets the true error. Only where that is so (64-bit Unix) are files mapped at all.

#![expect(unsafe_code, reason = "memory maps and signal handlers have no safe interface")]

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::ptr::{self, NonNull};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering, compiler_fence};

use libc::{c_int, c_void, siginfo_t};

/// Maps at a time in this process; files beyond that are read with system calls. A signal handler must not allocate, so the number is fixed.
const MAPS: usize = 1024;

/// Where a map lies, for the signal handler.
#[derive(Debug)]
struct Slot {
    taken: AtomicBool,
    /// First address and the one after the last; equal if there is no map.
    begin: AtomicUsize,
    end: AtomicUsize,
    /// Whether a page of it could not be had.
    failed: AtomicBool,
}

static SLOTS: [Slot; MAPS] = [const {
    Slot {
        taken: AtomicBool::new(false),
        begin: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        failed: AtomicBool::new(false),
    }
}; MAPS];

/// Bytes of a page, and what handled SIGBUS before.
struct Before {
    page: usize,
    action: libc::sigaction,
}

static BEFORE: OnceLock<Option<Before>> = OnceLock::new();

/// A file as memory.
#[derive(Debug)]
pub(super) struct Map {
    begin: NonNull<c_void>,
    len: usize,
    slot: &'static Slot,
}

// SAFETY: the memory is only read, and stays until the map is dropped.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}

impl Map {
    /// Maps the first `len` bytes of a file. `None` if there are too many maps, or if the system refuses: then files are read otherwise.
    pub(super) fn new(file: &File, len: u64) -> Option<Self> {
        BEFORE.get_or_init(|| catch().ok()).as_ref()?;
        let len = usize::try_from(len).ok().filter(|len| *len > 0)?;
        let slot = SLOTS.iter().find(|slot| !slot.taken.swap(true, Ordering::AcqRel))?;
        // SAFETY: a new map, at an address that the system chooses.
        let begin = unsafe { libc::mmap(ptr::null_mut(), len, libc::PROT_READ, libc::MAP_SHARED, file.as_raw_fd(), 0) };
        let begin = NonNull::new(begin).filter(|begin| begin.as_ptr() != libc::MAP_FAILED);
        let Some(begin) = begin else {
            slot.taken.store(false, Ordering::Release);
            return None;
        };
        slot.failed.store(false, Ordering::Release);
        slot.begin.store(begin.as_ptr() as usize, Ordering::Release);
        slot.end.store(begin.as_ptr() as usize + len, Ordering::Release);
        Some(Self { begin, len, slot })
    }

    /// A copy of these bytes. `None` if they are not all in the map, or if a page of the map could not be had, now or earlier.
    pub(super) fn read(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let offset = usize::try_from(offset).ok()?;
        let inside = offset.checked_add(len).is_some_and(|end| end <= self.len);
        if !inside || self.slot.failed.load(Ordering::Acquire) {
            return None;
        }
        let mut bytes = Vec::with_capacity(len);
        // SAFETY: the source lies in the map and the target in the vector's own room. Whoever changes the file meanwhile changes what is
        // copied, which is why callers judge the copy by its checksum.
        unsafe {
            let from = self.begin.as_ptr().cast::<u8>().add(offset);
            ptr::copy_nonoverlapping(from, bytes.as_mut_ptr(), len);
            bytes.set_len(len);
        }
        // A fault was handled on this very thread, in the middle of the copy.
        compiler_fence(Ordering::SeqCst);
        (!self.slot.failed.load(Ordering::Acquire)).then_some(bytes)
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        self.slot.end.store(0, Ordering::Release);
        self.slot.begin.store(0, Ordering::Release);
        // SAFETY: nobody reads it any more, for that would borrow it. Pages of zeros in it go as well.
        unsafe { libc::munmap(self.begin.as_ptr(), self.len) };
        self.slot.taken.store(false, Ordering::Release);
    }
}

/// Starts to handle SIGBUS, for the rest of the process's life.
fn catch() -> io::Result<Before> {
    // SAFETY: plain system calls; the handler has the signature that SA_SIGINFO asks for, and an all-zero `sigaction` is a valid one.
    unsafe {
        let page = usize::try_from(libc::sysconf(libc::_SC_PAGESIZE)).map_err(io::Error::other)?;
        let mut before: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut before) != 0 {
            return Err(io::Error::last_os_error());
        }
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_bus_error as *const () as usize;
        action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_NODEFER;
        libc::sigemptyset(&raw mut action.sa_mask);
        if libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Before { page, action: before })
    }
}

/// Only calls what may be called in a signal handler: atomics and plain system calls.
extern "C" fn on_bus_error(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // Set before the first map is there; a signal that comes even earlier is nobody's of ours.
    let Some(Some(before)) = BEFORE.get() else { return default_action(signal) };
    // SAFETY: the system hands a valid `siginfo_t` to a handler with SA_SIGINFO.
    let address = unsafe { (*info).si_addr() } as usize;
    let ours = |slot: &&Slot| (slot.begin.load(Ordering::Acquire)..slot.end.load(Ordering::Acquire)).contains(&address);
    if let Some(slot) = SLOTS.iter().find(ours) {
        let (page, flags) = (address & !(before.page - 1), libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED);
        // SAFETY: the page lies in a map of ours, whose bytes nobody looks at in place.
        let zeros = unsafe { libc::mmap(page as *mut c_void, before.page, libc::PROT_READ, flags, -1, 0) };
        if zeros != libc::MAP_FAILED {
            slot.failed.store(true, Ordering::Release);
            return;
        }
    }
    let action = &before.action;
    match action.sa_sigaction {
        libc::SIG_DFL | libc::SIG_IGN => default_action(signal),
        handler if action.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: what was registered with SA_SIGINFO has this signature.
            let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = unsafe { std::mem::transmute(handler) };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: what was registered without SA_SIGINFO has this signature.
            let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
            handler(signal);
        }
    }
}

/// From now on the signal does what it does by default; the instruction that failed is tried again, fails again, and the process ends.
fn default_action(signal: c_int) {
    // SAFETY: a plain system call.
    unsafe { libc::signal(signal, libc::SIG_DFL) };
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;
    use std::thread;

    use super::*;

    const PAGES: u64 = 64;

    /// A file of 4 KiB pages, each full of its own number.
    fn pages(directory: &tempfile::TempDir, name: &str) -> File {
        let path = directory.path().join(name);
        let bytes: Vec<u8> = (0..PAGES).flat_map(|page| vec![u8::try_from(page).expect("few"); 4096]).collect();
        std::fs::write(&path, bytes).expect("writes");
        File::options().read(true).write(true).open(path).expect("opens")
    }

    #[test]
    fn a_map_reads_what_the_file_has_and_nothing_beyond() {
        let directory = tempfile::tempdir().expect("a directory");
        let map = Map::new(&pages(&directory, "a"), PAGES * 4096).expect("maps");
        assert_eq!(map.read(4095, 2), Some(vec![0, 1]));
        assert_eq!(map.read(PAGES * 4096 - 1, 1), Some(vec![63]));
        assert_eq!(map.read(PAGES * 4096 - 1, 2), None);
        assert_eq!(map.read(u64::MAX, 2), None);
    }

    #[test]
    fn a_file_that_is_cut_under_its_readers_harms_nobody() {
        let directory = tempfile::tempdir().expect("a directory");
        let (cut, whole) = (pages(&directory, "cut"), pages(&directory, "whole"));
        let map = Map::new(&cut, PAGES * 4096).expect("maps");
        let other = Map::new(&whole, PAGES * 4096).expect("maps");
        thread::scope(|scope| {
            for reader in 0..8_u64 {
                let (map, other) = (&map, &other);
                scope.spawn(move || {
                    for round in 0..4000_u64 {
                        let page = (round * 7 + reader) % PAGES;
                        let expected = vec![u8::try_from(page).expect("few"); 4096];
                        // Bytes or none, never wrong ones.
                        assert!(map.read(page * 4096, 4096).is_none_or(|bytes| bytes == expected));
                        assert_eq!(other.read(page * 4096, 4096), Some(expected));
                    }
                });
            }
            cut.set_len(3 * 4096).expect("cuts");
        });
        assert_eq!(map.read(60 * 4096, 1), None, "a page that is gone");
        assert_eq!(map.read(0, 1), None, "a map that failed once is not believed again");
        drop(map);
        cut.set_len(PAGES * 4096).expect("grows");
        assert_eq!(Map::new(&cut, PAGES * 4096).expect("maps").read(0, 2), Some(vec![0, 0]), "its place is free again");
    }

    /// What is none of our business ends the process as before: run below in a process of its own.
    #[test]
    fn a_bus_error_of_others_is_left_to_them() {
        let name = "ledger::storage::map::tests::a_bus_error_of_others_is_left_to_them";
        if std::env::var_os("EVALMESH_TEST_BUS_ERROR").is_none() {
            let this = std::env::current_exe().expect("a path");
            let mut child = Command::new(this);
            child.args([name, "--exact", "--nocapture"]).env("EVALMESH_TEST_BUS_ERROR", "1");
            let output = child.output().expect("runs");
            assert_eq!(output.status.signal(), Some(libc::SIGBUS), "{}", String::from_utf8_lossy(&output.stderr));
            return;
        }
        let directory = tempfile::tempdir().expect("a directory");
        let (ours, theirs) = (pages(&directory, "ours"), pages(&directory, "theirs"));
        let map = Map::new(&ours, PAGES * 4096).expect("maps");
        // SAFETY: a new map, read below on purpose where there is nothing.
        unsafe {
            let begin = libc::mmap(ptr::null_mut(), 8192, libc::PROT_READ, libc::MAP_SHARED, theirs.as_raw_fd(), 0);
            theirs.set_len(0).expect("cuts");
            assert_eq!(map.read(0, 1), Some(vec![0]));
            std::hint::black_box(ptr::read_volatile(begin.cast::<u8>()));
        }
    }
}
