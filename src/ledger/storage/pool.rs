//! Files of the real file system that are open only while they are used: a ledger has more segments than a process may have open files.
//!
//! Invariants: at most [`OPEN`] files are open at a time, beside those in use right now; no file is closed with bytes that are not synced, and a
//! failure of that sync is told at the next one. A file that was replaced or removed since it was last open is read as what is there now:
//! whoever asks knows its bytes by their checksums. A file that is settled is read through a [`Map`] where that is safe.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock, Weak};

use super::StorageFile;
use super::map::Map;

/// Files that are open at a time: well below the 1024 that a process may have unless it asks for more.
const OPEN: usize = 256;

/// The files that are open, in the order in which they were opened.
#[derive(Debug, Default)]
pub(super) struct Pool(Mutex<VecDeque<Weak<PooledFile>>>);

/// A file that is opened again when it is needed.
#[derive(Debug)]
pub(super) struct PooledFile {
    path: PathBuf,
    pool: Arc<Pool>,
    this: Weak<Self>,
    file: RwLock<Option<Arc<File>>>,
    /// Set by every use, cleared by whoever would close it: a second chance.
    used: AtomicBool,
    /// Whether something was written since the last sync.
    dirty: AtomicBool,
    /// Whether a sync before closing failed.
    failed: AtomicBool,
    writable: bool,
    /// Whether nothing is written to it any more, so that it may be mapped.
    settled: AtomicBool,
    map: OnceLock<Option<Map>>,
}

fn open(path: &PathBuf, writable: bool) -> io::Result<File> {
    OpenOptions::new().read(true).write(writable).open(path)
}

impl Pool {
    /// A file that is there.
    pub(super) fn open(self: &Arc<Self>, path: PathBuf, writable: bool) -> io::Result<Arc<PooledFile>> {
        let file = RwLock::new(Some(Arc::new(open(&path, writable)?)));
        let (pool, flag) = (self.clone(), AtomicBool::new);
        let pooled = Arc::new_cyclic(|this| PooledFile {
            path,
            pool,
            this: this.clone(),
            file,
            writable,
            used: flag(true),
            dirty: flag(false),
            failed: flag(false),
            settled: flag(false),
            map: OnceLock::new(),
        });
        self.opened(&pooled.this);
        Ok(pooled)
    }

    /// A file was opened: closes others that were not used lately, until few enough are open.
    fn opened(&self, file: &Weak<PooledFile>) {
        let mut queue = self.0.lock().expect("no code panics while it holds the pool");
        queue.push_back(file.clone());
        let mut chances = queue.len();
        while queue.len() > OPEN {
            let Some(oldest) = queue.pop_front() else { break };
            let Some(pooled) = oldest.upgrade() else { continue };
            if pooled.used.swap(false, Ordering::Relaxed) && chances > 0 {
                chances -= 1;
                queue.push_back(oldest);
            } else {
                pooled.close();
            }
        }
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.0.lock().expect("no code panics while it holds the pool").len()
    }
}

impl PooledFile {
    fn get(&self) -> io::Result<Arc<File>> {
        if let Some(file) = &*self.file.read().expect("no code panics while it holds a file") {
            if !self.used.load(Ordering::Relaxed) {
                self.used.store(true, Ordering::Relaxed);
            }
            return Ok(file.clone());
        }
        let opened = {
            let mut place = self.file.write().expect("no code panics while it holds a file");
            if let Some(file) = &*place {
                return Ok(file.clone());
            }
            place.insert(Arc::new(open(&self.path, self.writable)?)).clone()
        };
        self.used.store(true, Ordering::Relaxed);
        self.pool.opened(&self.this);
        Ok(opened)
    }

    /// The map of a file that is settled, made at the first use.
    fn map(&self) -> Option<&Map> {
        if !self.settled.load(Ordering::Acquire) {
            return None;
        }
        let make = || {
            let file = self.get().ok()?;
            Map::new(&file, StorageFile::len(&*file).ok()?)
        };
        self.map.get_or_init(make).as_ref()
    }

    fn close(&self) {
        let mut place = self.file.write().expect("no code panics while it holds a file");
        if let Some(file) = place.take()
            && self.dirty.swap(false, Ordering::AcqRel)
            && let Err(error) = file.sync()
        {
            tracing::warn!(path = %self.path.display(), %error, "a file could not be synced");
            self.failed.store(true, Ordering::Release);
        }
    }

    /// Changes the file; it is not closed meanwhile.
    fn change(&self, act: impl FnOnce(&File) -> io::Result<()>) -> io::Result<()> {
        let file = self.get()?;
        // Whoever closes it from here on syncs what is written; a sync that comes before the write does no harm, for the flag is set again.
        self.dirty.store(true, Ordering::Release);
        let outcome = act(&file);
        self.dirty.store(true, Ordering::Release);
        outcome
    }
}

impl StorageFile for PooledFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.get()?.read_at(buffer, offset)
    }

    fn read_exact(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        if let Some(bytes) = self.map().and_then(|map| map.read(offset, len)) {
            return Ok(bytes);
        }
        self.get()?.read_exact(offset, len)
    }

    fn settle(&self) {
        self.settled.store(true, Ordering::Release);
    }

    fn hasten(&self, offset: u64, len: u64) {
        if let Ok(file) = self.get() {
            file.hasten(offset, len);
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        debug_assert!(!self.settled.load(Ordering::Acquire), "a settled file is not written");
        self.change(|file| file.write_at(bytes, offset))
    }

    fn len(&self) -> io::Result<u64> {
        StorageFile::len(&*self.get()?)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(|file| StorageFile::set_len(file, len))
    }

    fn sync(&self) -> io::Result<()> {
        let file = self.get()?;
        self.dirty.store(false, Ordering::Release);
        file.sync()?;
        if self.failed.swap(false, Ordering::AcqRel) { Err(io::Error::other("an earlier sync failed")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thousand_files_are_read_and_written_with_few_open() {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = Arc::new(Pool::default());
        let files: Vec<_> = (0..1000_u32)
            .map(|n| {
                let path = directory.path().join(n.to_string());
                std::fs::write(&path, n.to_le_bytes()).expect("writes");
                pool.open(path, true).expect("opens")
            })
            .collect();
        assert_eq!(pool.len(), OPEN);
        for (n, file) in (0..1000_u32).zip(&files) {
            file.write_at(&[1], 4).expect("writes");
            let mut bytes = [0; 8];
            assert_eq!(file.read_at(&mut bytes, 0).expect("reads"), 5);
            assert_eq!((&bytes[..4], bytes[4]), (&n.to_le_bytes()[..], 1));
        }
        let open = files.iter().filter(|file| file.file.read().expect("a lock").is_some()).count();
        assert_eq!((open, pool.len()), (OPEN, OPEN));
        drop(files);
        pool.open(directory.path().join("1"), false).expect("opens");
        assert!(pool.len() <= OPEN);
    }

    #[test]
    fn a_file_that_is_gone_says_so_when_it_is_opened_again() {
        let directory = tempfile::tempdir().expect("a directory");
        let pool = Arc::new(Pool::default());
        let path = directory.path().join("f");
        std::fs::write(&path, "x").expect("writes");
        let file = pool.open(path.clone(), true).expect("opens");
        std::fs::remove_file(path).expect("removes");
        assert_eq!(file.len().expect("is open"), 1);
        file.close();
        assert_eq!(file.len().map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    }
}
