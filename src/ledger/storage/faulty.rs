//! A disk that fails on demand, around any other.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use super::{Storage, StorageFile};

/// What a storage is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    /// Reading from a file.
    Read,
    /// Writing to a file, or changing its length.
    Write,
    /// Making a file's contents durable.
    Sync,
    /// Creating, opening, renaming, removing or listing names.
    Name,
    /// Making a directory's names durable.
    SyncDir,
}

#[derive(Debug, Clone, Copy)]
struct Fault {
    /// `None` means any operation.
    op: Option<Op>,
    /// Operations of that sort that still succeed.
    after: u64,
    kind: io::ErrorKind,
    /// Bytes that a failing write still writes.
    torn: usize,
    /// Whether every later one fails too.
    sticky: bool,
}

/// Fails the n-th operation with a chosen error. Clones share the faults.
#[derive(Clone)]
pub struct FaultyStorage {
    inner: Arc<dyn Storage>,
    faults: Arc<Mutex<Vec<Fault>>>,
    slow: Arc<Mutex<Vec<(Op, Duration)>>>,
    /// Reads until the one in which a bit is wrong, and which bit, counted from the beginning of what is read.
    flip: Arc<Mutex<Option<(u64, usize)>>>,
}

impl FaultyStorage {
    /// Wraps a storage; nothing fails yet.
    #[must_use]
    pub fn new(inner: Arc<dyn Storage>) -> Self {
        Self { inner, faults: Arc::default(), slow: Arc::default(), flip: Arc::default() }
    }

    /// From now on, lets `after` operations of this sort succeed and fails the one that follows, once.
    pub fn fail(&self, op: Option<Op>, after: u64, kind: io::ErrorKind) {
        self.push(Fault { op, after, kind, torn: 0, sticky: false });
    }

    /// From now on, lets `after` writes succeed; the next one writes only its first `torn` bytes and fails, and so do all later ones: a full disk.
    pub fn fill(&self, after: u64, torn: usize) {
        self.push(Fault { op: Some(Op::Write), after, kind: io::ErrorKind::StorageFull, torn, sticky: true });
    }

    /// From now on, every operation of this sort takes so much longer.
    pub fn slow(&self, op: Op, by: Duration) {
        self.slow.lock().expect("no code panics while it holds the faults").push((op, by));
    }

    /// From now on, lets `after` reads succeed; in the next one that is long enough, once, the `bit`-th bit is wrong.
    pub fn flip(&self, after: u64, bit: usize) {
        *self.flip.lock().expect("no code panics while it holds the faults") = Some((after, bit));
    }

    /// Takes all faults back.
    pub fn heal(&self) {
        self.slow.lock().expect("no code panics while it holds the faults").clear();
        *self.flip.lock().expect("no code panics while it holds the faults") = None;
        self.faults.lock().expect("no code panics while it holds the faults").clear();
    }

    fn push(&self, fault: Fault) {
        self.faults.lock().expect("no code panics while it holds the faults").push(fault);
    }

    /// The fault that hits this operation, if any.
    fn check(&self, op: Op) -> Option<Fault> {
        let slow = self.slow.lock().expect("no code panics while it holds the faults").clone();
        slow.iter().filter(|(slowed, _)| *slowed == op).for_each(|(_, by)| thread::sleep(*by));
        let mut faults = self.faults.lock().expect("no code panics while it holds the faults");
        let mut hit = None;
        faults.retain_mut(|fault| {
            if fault.op.is_some_and(|wanted| wanted != op) {
                return true;
            }
            if fault.after > 0 {
                fault.after -= 1;
                return true;
            }
            let torn = if hit.is_none() { fault.torn } else { 0 };
            hit = hit.or(Some(*fault));
            fault.torn -= torn;
            fault.sticky
        });
        hit
    }

    fn pass(&self, op: Op) -> io::Result<()> {
        self.check(op).map_or(Ok(()), |fault| Err(fault.kind.into()))
    }

    fn garble(&self, bytes: &mut [u8]) {
        let mut flip = self.flip.lock().expect("no code panics while it holds the faults");
        match &mut *flip {
            Some((0, bit)) => {
                if let Some(byte) = bytes.get_mut(*bit / 8) {
                    *byte ^= 1 << (*bit % 8);
                    *flip = None;
                }
            }
            Some((after, _)) => *after -= 1,
            None => {}
        }
    }

    fn wrap(&self, inner: Arc<dyn StorageFile>) -> Arc<dyn StorageFile> {
        Arc::new(FaultyFile { inner, storage: self.clone() })
    }
}

impl fmt::Debug for FaultyStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("FaultyStorage").field(&self.inner).finish()
    }
}

impl Storage for FaultyStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.pass(Op::Name)?;
        self.inner.list(dir)
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.pass(Op::Name)?;
        Ok(self.wrap(self.inner.create_new(path)?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.pass(Op::Name)?;
        Ok(self.wrap(self.inner.open(path)?))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.pass(Op::Name)?;
        self.inner.remove(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.pass(Op::Name)?;
        self.inner.rename(from, to)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.pass(Op::Name)?;
        self.inner.create_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.pass(Op::SyncDir)?;
        self.inner.sync_dir(path)
    }

    fn rewards_room(&self) -> bool {
        self.inner.rewards_room()
    }

    fn locate(&self, path: &str) -> PathBuf {
        self.inner.locate(path)
    }
}

struct FaultyFile {
    inner: Arc<dyn StorageFile>,
    storage: FaultyStorage,
}

impl StorageFile for FaultyFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.storage.pass(Op::Read)?;
        let read = self.inner.read_at(buffer, offset)?;
        self.storage.garble(&mut buffer[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let Some(fault) = self.storage.check(Op::Write) else { return self.inner.write_at(bytes, offset) };
        self.inner.write_at(&bytes[..fault.torn.min(bytes.len())], offset)?;
        Err(fault.kind.into())
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.storage.pass(Op::Write)?;
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.storage.pass(Op::Sync)?;
        self.inner.sync()
    }
}
