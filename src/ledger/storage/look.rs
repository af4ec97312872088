//! A directory that is only looked at: without its lock, beside whoever has it open. Everything that would change it is refused.

use std::fs::{self, File};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::pool::Pool;
use super::{Storage, StorageFile};

/// A directory on disk, for reading only.
#[derive(Debug)]
pub struct LookStorage {
    root: PathBuf,
    lasting: Arc<Pool>,
}

impl LookStorage {
    /// Looks at this directory.
    #[must_use]
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), lasting: Arc::default() }
    }
}

fn refused<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::ReadOnlyFilesystem, "the ledger is only looked at"))
}

impl Storage for LookStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let names = fs::read_dir(self.locate(dir))?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()));
        let mut names = names.collect::<io::Result<Vec<_>>>()?;
        names.sort_unstable();
        Ok(names)
    }

    fn create_new(&self, _: &str) -> io::Result<Arc<dyn StorageFile>> {
        refused()
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(File::open(self.locate(path))?))
    }

    fn open_lasting(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(self.lasting.open(self.locate(path), false)?)
    }

    fn remove(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn rename(&self, _: &str, _: &str) -> io::Result<()> {
        refused()
    }

    fn create_dir(&self, _: &str) -> io::Result<()> {
        refused()
    }

    fn sync_dir(&self, _: &str) -> io::Result<()> {
        Ok(())
    }

    fn locate(&self, path: &str) -> PathBuf {
        if path.is_empty() { self.root.clone() } else { self.root.join(path) }
    }
}
