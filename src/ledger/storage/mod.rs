//! The disk, as small as the ledger needs it.
//!
//! Paths are relative, with `/` between their parts; the empty path is the root. The contract is that of POSIX: written bytes are durable
//! after the file's `sync`, a created, renamed or removed name after `sync_dir` of its directory. Nothing here knows what is stored.

mod faulty;
mod file;
mod look;
#[cfg(all(unix, target_pointer_width = "64"))]
mod map;
#[cfg(not(all(unix, target_pointer_width = "64")))]
#[path = "no_map.rs"]
mod map;
mod memory;
mod pool;
mod writeback;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
pub use faulty::{FaultyStorage, Op};
pub use file::{DirLock, FileStorage};
pub use look::LookStorage;
pub use memory::MemoryStorage;

/// A directory tree.
pub trait Storage: Send + Sync + fmt::Debug {
    /// The names in a directory, sorted.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Creates a file that must not exist yet.
    fn create_new(&self, path: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// Opens a file for reading and writing.
    fn open(&self, path: &str) -> io::Result<Arc<dyn StorageFile>>;
    /// As [`Self::open`], for one of many files that are held open for long: it may be closed meanwhile and opened again by its name.
    fn open_lasting(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        self.open(path)
    }
    /// Removes a file.
    fn remove(&self, path: &str) -> io::Result<()>;
    /// Renames a file, over another one if need be.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Creates a directory unless it exists.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a directory durable.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Whether a file that has its length already is cheaper to sync.
    fn rewards_room(&self) -> bool {
        false
    }
    /// Whether it is memory that ends with the process: writing takes what copying takes, and a sync nothing.
    fn is_volatile(&self) -> bool {
        false
    }
    /// Where a path is, for people.
    fn locate(&self, path: &str) -> PathBuf {
        PathBuf::from(path)
    }
}

/// An open file.
pub trait StorageFile: Send + Sync {
    /// Reads up to `buffer.len()` bytes; fewer only at the end of the file.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Reads exactly so many bytes; [`io::ErrorKind::UnexpectedEof`] if the file ends before.
    fn read_exact(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; len];
        if self.read_at(&mut bytes, offset)? < len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(bytes)
    }
    /// Nothing is written to the file from now on: how it is read may change.
    fn settle(&self) {}
    /// These bytes will have to be durable before long: the system may begin with them. A hint that promises nothing and never fails.
    fn hasten(&self, _offset: u64, _len: u64) {}
    /// Writes all bytes, past the end of the file if need be.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// As [`Self::write_at`], of bytes that may be kept instead of copied.
    fn write_shared(&self, bytes: &Bytes, offset: u64) -> io::Result<()> {
        self.write_at(bytes, offset)
    }
    /// How long the file is.
    fn len(&self) -> io::Result<u64>;
    /// Whether it has no bytes.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }
    /// Cuts or extends the file.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes everything written to this file durable.
    fn sync(&self) -> io::Result<()>;
}

/// Removes a file, if there is one.
pub(super) fn remove_if_there(storage: &dyn Storage, path: &str) -> io::Result<()> {
    match storage.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Reads a whole file.
pub(super) fn read_all(file: &dyn StorageFile) -> io::Result<Vec<u8>> {
    let len = usize::try_from(file.len()?).map_err(|_| io::ErrorKind::OutOfMemory)?;
    let mut bytes = vec![0; len];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}
