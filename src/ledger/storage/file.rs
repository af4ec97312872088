//! A directory of the real file system, locked against a second process.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::pool::Pool;
use super::{Storage, StorageFile, writeback};
use crate::ledger::error::OpenError;

/// The lock on a directory; held until dropped, also by a process that is killed.
#[derive(Debug)]
pub struct DirLock {
    _file: File,
}

impl DirLock {
    /// Takes the lock, or says who has it.
    pub fn acquire(dir: &Path) -> Result<Self, OpenError> {
        let path = dir.join("lock");
        let error = |source| OpenError::io(path.clone(), source);
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).open(&path).map_err(error)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut text = String::new();
                let pid = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
                return Err(OpenError::Locked { path: dir.to_owned(), pid });
            }
            Err(TryLockError::Error(source)) => return Err(error(source)),
        }
        file.set_len(0).map_err(error)?;
        file.rewind().map_err(error)?;
        writeln!(file, "{}", std::process::id()).map_err(error)?;
        Ok(Self { _file: file })
    }
}

/// A directory on disk.
#[derive(Debug)]
pub struct FileStorage {
    root: PathBuf,
    lasting: Arc<Pool>,
    _lock: Option<DirLock>,
}

impl FileStorage {
    /// Opens a directory, made if it does not exist, for this process alone.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        if root.exists() && !root.is_dir() {
            return Err(OpenError::NotADirectory { path: root });
        }
        fs::create_dir_all(&root).map_err(|source| OpenError::io(root.clone(), source))?;
        fs::read_dir(&root).map_err(|source| OpenError::io(root.clone(), source))?;
        let lock = DirLock::acquire(&root)?;
        Ok(Self { root, lasting: Arc::default(), _lock: Some(lock) })
    }

    /// A directory that is there, also beside a process that has it open: only for files that are replaced as a whole, such as the pins.
    pub fn beside(root: impl Into<PathBuf>) -> Result<Self, OpenError> {
        let root = root.into();
        if root.exists() && !root.is_dir() {
            return Err(OpenError::NotADirectory { path: root });
        }
        fs::read_dir(&root).map_err(|source| OpenError::io(root.clone(), source))?;
        Ok(Self { root, lasting: Arc::default(), _lock: None })
    }
}

impl Storage for FileStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(self.locate(dir))? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort_unstable();
        Ok(names)
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).create_new(true).open(self.locate(path))?))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(OpenOptions::new().read(true).write(true).open(self.locate(path))?))
    }

    fn open_lasting(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.lasting.open(self.locate(path), true)?)
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        fs::remove_file(self.locate(path))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.locate(from), self.locate(to))
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        match fs::create_dir(self.locate(path)) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.locate(path).is_dir() => Ok(()),
            other => other,
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        // Elsewhere a directory is no file that could be synced; the names are durable with the files.
        if cfg!(unix) { File::open(self.locate(path))?.sync_all() } else { Ok(()) }
    }

    fn rewards_room(&self) -> bool {
        true
    }

    fn locate(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}

impl StorageFile for File {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut read = 0;
        while read < buffer.len() {
            match read_once(self, &mut buffer[read..], offset + read as u64) {
                Ok(0) => break,
                Ok(count) => read += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut written = 0;
        while written < bytes.len() {
            match write_once(self, &bytes[written..], offset + written as u64) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn hasten(&self, offset: u64, len: u64) {
        writeback::begin(self, offset, len);
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}

#[cfg(unix)]
fn read_once(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::read_at(file, buffer, offset)
}

#[cfg(unix)]
fn write_once(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::unix::fs::FileExt::write_at(file, bytes, offset)
}

#[cfg(windows)]
fn read_once(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_read(file, buffer, offset)
}

#[cfg(windows)]
fn write_once(file: &File, bytes: &[u8], offset: u64) -> io::Result<usize> {
    std::os::windows::fs::FileExt::seek_write(file, bytes, offset)
}
