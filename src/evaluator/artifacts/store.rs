//! One file per artifact: the code first, since it may be mapped from the file's beginning, then a trailer of a fixed length with what it was made
//! for, and a keyed hash over all of it.
//!
//! Invariant: no byte of a file is given out before its keyed hash held; what fails is removed, counted and made anew. The key never leaves the node, so
//! a file from elsewhere is as good as damaged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use super::report::{Counters, Miss};
use crate::id::Digest;

/// The ending of finished files; unfinished ones have another.
const ENDING: &str = "aot";
/// The ending of unfinished files.
const UNFINISHED: &str = "unfinished";
/// Bytes of the keyed hash.
const TAG: usize = 32;
/// Bytes that are read and hashed at a time, so that they are still in the processor's cache when they are hashed.
const READ_CHUNK: usize = 256 * 1024;

/// Where this node keeps native code, and the secret that marks it as its own.
#[derive(Clone)]
pub struct AotConfig {
    /// A folder of its own; made if it is not there.
    pub folder: PathBuf,
    /// A secret of this node.
    pub key: [u8; 32],
    /// Bytes that the store may take on disk; the least recently used files go first.
    pub bytes: u64,
}

impl AotConfig {
    /// A store in this folder whose key is derived from a secret of the node.
    #[must_use]
    pub fn new(folder: impl Into<PathBuf>, secret: &[u8]) -> Self {
        let key = blake3::derive_key("evalmesh 2026-11-21 aot store key v1", secret);
        Self { folder: folder.into(), key, bytes: 4 << 30 }
    }
}

impl std::fmt::Debug for AotConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AotConfig").field("folder", &self.folder).field("bytes", &self.bytes).finish_non_exhaustive()
    }
}

/// What the files of one evaluator look like.
#[derive(Debug, Clone, Copy)]
pub(in crate::evaluator) struct Form {
    /// What its unfinished files are called.
    pub(in crate::evaluator) name: &'static str,
    /// How long the facts are that follow the code.
    pub(in crate::evaluator) facts: usize,
    /// The longest code.
    pub(in crate::evaluator) most: u64,
}

/// The files of one evaluator in the node's folder.
#[derive(Debug)]
pub(in crate::evaluator) struct Store {
    config: AotConfig,
    form: Form,
    /// Names unfinished files.
    next: AtomicU64,
    /// One sweep at a time.
    sweeping: Mutex<()>,
}

/// A file whose keyed hash held a moment ago, at its beginning.
pub(in crate::evaluator) struct Found {
    pub(in crate::evaluator) file: File,
    /// How long the code is.
    pub(in crate::evaluator) len: u64,
    /// What follows it.
    pub(in crate::evaluator) facts: Vec<u8>,
}

impl Store {
    /// Opens the store and removes what a killed process left unfinished.
    pub(in crate::evaluator) fn open(config: AotConfig, form: Form, counters: &Counters) -> io::Result<Self> {
        make_private_folder(&config.folder)?;
        let store = Self { config, form, next: AtomicU64::new(0), sweeping: Mutex::new(()) };
        // The other evaluators of this process may be writing.
        let own = format!("-{}-", std::process::id());
        for entry in fs::read_dir(&store.config.folder)? {
            let path = entry?.path();
            let unfinished = path.extension().is_some_and(|ending| ending == UNFINISHED);
            if unfinished && !path.file_name().is_some_and(|name| name.to_string_lossy().contains(&own)) {
                store.remove(&path, counters);
            }
        }
        store.shrink(counters);
        Ok(store)
    }

    /// Has the file of this name taken over by `take`; one that is of no use is removed.
    pub(in crate::evaluator) fn load<T>(
        &self,
        name: &Digest,
        counters: &Counters,
        take: impl FnOnce(Found) -> Result<T, Miss>,
    ) -> Result<T, Miss> {
        let path = self.path(name);
        let loaded = self.open_checked(&path).and_then(|found| {
            // For the least recently used files to be known; losing this loses nothing.
            drop(found.file.set_modified(now()));
            take(found)
        });
        if let Err(why) = &loaded
            && !matches!(why, Miss::Absent | Miss::Unreadable)
        {
            tracing::warn!(file = %path.display(), %why, "compiled code on disk is unusable and will be made anew");
            self.remove(&path, counters);
        }
        loaded
    }

    /// Keeps code under a name. The file appears whole or not at all.
    pub(in crate::evaluator) fn store(
        &self,
        name: &Digest,
        code: &[u8],
        facts: &[u8],
        counters: &Counters,
    ) -> io::Result<()> {
        debug_assert_eq!(facts.len(), self.form.facts, "it could not be read again");
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = format!("{}-{}-{number}.{UNFINISHED}", self.form.name, std::process::id());
        let unfinished = self.config.folder.join(unfinished);
        let mut hasher = blake3::Hasher::new_keyed(&self.config.key);
        hasher.update(code).update(facts);
        let written = private_file(&unfinished).and_then(|mut file| {
            file.write_all(code)?;
            file.write_all(facts)?;
            file.write_all(hasher.finalize().as_bytes())
        });
        let placed = written.and_then(|()| fs::rename(&unfinished, self.path(name)));
        if placed.is_err() {
            drop(fs::remove_file(&unfinished));
        } else {
            self.shrink(counters);
        }
        placed
    }

    /// Removes the file of this name: whoever loaded it found it of no use.
    #[cfg(feature = "gpu")]
    pub(in crate::evaluator) fn forget(&self, name: &Digest, counters: &Counters) {
        self.remove(&self.path(name), counters);
    }

    fn path(&self, name: &Digest) -> PathBuf {
        self.config.folder.join(format!("{name}.{ENDING}"))
    }

    fn open_checked(&self, path: &Path) -> Result<Found, Miss> {
        let mut file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Miss::Absent,
            _ => Miss::Unreadable,
        })?;
        let all = file.metadata().map_err(|_| Miss::Unreadable)?.len();
        let len = all.checked_sub((self.form.facts + TAG) as u64).ok_or(Miss::Truncated)?;
        if len > self.form.most {
            return Err(Miss::TooLarge);
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.config.key);
        hash_exactly(&mut file, len, &mut hasher)?;
        let mut facts = vec![0; self.form.facts];
        let mut tag = [0; TAG];
        file.read_exact(&mut facts).and_then(|()| file.read_exact(&mut tag)).map_err(|_| Miss::Truncated)?;
        // The comparison of two hashes takes the same time whatever they are.
        if hasher.update(&facts).finalize() != blake3::Hash::from_bytes(tag) {
            return Err(Miss::NotAuthentic);
        }
        file.rewind().map_err(|_| Miss::Unreadable)?;
        Ok(Found { file, len, facts })
    }

    /// Removes the least recently used files until the budget holds.
    fn shrink(&self, counters: &Counters) {
        let Ok(_sweeping) = self.sweeping.try_lock() else { return };
        let Ok(entries) = fs::read_dir(&self.config.folder) else { return };
        let finished = entries.flatten().filter(|entry| entry.path().extension().is_some_and(|e| e == ENDING));
        let mut files: Vec<_> = finished
            .filter_map(|entry| {
                let data = entry.metadata().ok()?;
                Some((data.modified().ok()?, data.len(), entry.path()))
            })
            .collect();
        files.sort();
        let mut bytes: u64 = files.iter().map(|(_, len, _)| len).sum();
        for (_, len, path) in files {
            if bytes <= self.config.bytes {
                break;
            }
            self.remove(&path, counters);
            bytes -= len;
        }
    }

    fn remove(&self, path: &Path, counters: &Counters) {
        debug_assert!(path.starts_with(&self.config.folder), "only own files are removed");
        if fs::remove_file(path).is_ok() {
            counters.count(|report| report.removed += 1);
        }
    }
}

fn hash_exactly(file: &mut File, len: u64, hasher: &mut blake3::Hasher) -> Result<(), Miss> {
    let mut buffer = vec![0; READ_CHUNK];
    let mut left = len;
    while left > 0 {
        let chunk = buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        file.read_exact(&mut buffer[..chunk]).map_err(|_| Miss::Truncated)?;
        hasher.update(&buffer[..chunk]);
        left -= chunk as u64;
    }
    Ok(())
}

fn make_private_folder(folder: &Path) -> io::Result<()> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

fn private_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

#[expect(
    clippy::disallowed_methods,
    reason = "when a file was last used is a fact about this disk, and no guest sees it"
)]
fn now() -> std::time::SystemTime {
    std::time::SystemTime::now()
}
