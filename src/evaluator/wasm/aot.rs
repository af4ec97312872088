//! The second layer: native code on this node's own disk, so that a restart compiles nothing.
//!
//! One file per artifact: the code image first, since it is mapped from the file's beginning, then a fixed trailer with what it was made for and
//! a keyed hash over all of it. Invariant: no file is mapped before its keyed hash held and its fingerprint matched exactly; what fails is
//! removed, counted and made anew. The key never leaves the node, so a file from elsewhere is as good as damaged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::Engine;

use super::admit::Shape;
use super::artifacts::{Artifact, Counters, Fingerprint, Miss};
use super::code::{self, Compiled};
use super::limits::{ARTIFACT_BYTES, READ_CHUNK};
use crate::id::Digest;

/// What a trailer begins with; the last byte is its version.
const MAGIC: [u8; 8] = *b"EMAOT\0\0\x01";
/// Magic, program, engine, policy, memory maximum, bits of the shape, length of the code.
const FACTS: usize = 8 + 32 + 32 + 4 + 8 + 1 + 8;
/// The facts and the keyed hash.
const TRAILER: usize = FACTS + 32;
/// The ending of finished files; unfinished ones have another.
const ENDING: &str = "aot";

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

/// The store.
#[derive(Debug)]
pub(super) struct AotStore {
    config: AotConfig,
    /// Names unfinished files.
    next: AtomicU64,
    /// One sweep at a time.
    sweeping: Mutex<()>,
}

impl AotStore {
    /// Opens the store and removes what a killed process left unfinished.
    pub(super) fn open(config: AotConfig, counters: &Counters) -> io::Result<Self> {
        make_private_folder(&config.folder)?;
        let store = Self { config, next: AtomicU64::new(0), sweeping: Mutex::new(()) };
        for entry in fs::read_dir(&store.config.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|ending| ending == "unfinished") {
                store.remove(&path, counters);
            }
        }
        store.shrink(counters);
        Ok(store)
    }

    /// Maps the code of this fingerprint.
    pub(super) fn load(
        &self,
        engine: &Engine,
        wanted: &Fingerprint,
        counters: &Counters,
    ) -> Result<(Compiled, Shape), Miss> {
        let path = self.path(wanted);
        let loaded = self.open_checked(&path, wanted).and_then(|(file, shape, len)| {
            // For the least recently used files to be known; losing this loses nothing.
            drop(file.set_modified(now()));
            code::map(engine, file, len, shape.component).map(|compiled| (compiled, shape))
        });
        if let Err(why) = &loaded
            && !matches!(why, Miss::Absent | Miss::Unreadable)
        {
            tracing::warn!(file = %path.display(), %why, "compiled code on disk is unusable and will be made anew");
            self.remove(&path, counters);
        }
        loaded
    }

    /// Keeps code under its fingerprint. The file appears whole or not at all.
    pub(super) fn store(&self, made_for: &Fingerprint, artifact: &Artifact, counters: &Counters) -> io::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = self.config.folder.join(format!("{}-{number}.unfinished", std::process::id()));
        let facts = facts(made_for, &artifact.shape, artifact.code.len() as u64);
        let mut hasher = blake3::Hasher::new_keyed(&self.config.key);
        hasher.update(&artifact.code).update(&facts);
        let written = private_file(&unfinished).and_then(|mut file| {
            file.write_all(&artifact.code)?;
            file.write_all(&facts)?;
            file.write_all(hasher.finalize().as_bytes())
        });
        let placed = written.and_then(|()| fs::rename(&unfinished, self.path(made_for)));
        if placed.is_err() {
            drop(fs::remove_file(&unfinished));
        } else {
            self.shrink(counters);
        }
        placed
    }

    fn path(&self, fingerprint: &Fingerprint) -> PathBuf {
        self.config.folder.join(format!("{}.{ENDING}", fingerprint.name()))
    }

    fn open_checked(&self, path: &Path, wanted: &Fingerprint) -> Result<(File, Shape, u64), Miss> {
        let mut file = File::open(path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Miss::Absent,
            _ => Miss::Unreadable,
        })?;
        let len = file.metadata().map_err(|_| Miss::Unreadable)?.len();
        let code_len = len.checked_sub(TRAILER as u64).ok_or(Miss::Truncated)?;
        if code_len > ARTIFACT_BYTES {
            return Err(Miss::TooLarge);
        }
        let mut hasher = blake3::Hasher::new_keyed(&self.config.key);
        hash_exactly(&mut file, code_len, &mut hasher)?;
        let mut trailer = [0; TRAILER];
        file.read_exact(&mut trailer).map_err(|_| Miss::Truncated)?;
        let (facts, tag) = trailer.split_at(FACTS);
        let tag: [u8; 32] = tag.try_into().map_err(|_| Miss::Truncated)?;
        // The comparison of two hashes takes the same time whatever they are.
        if hasher.update(facts).finalize() != blake3::Hash::from_bytes(tag) {
            return Err(Miss::NotAuthentic);
        }
        parse(facts, wanted, code_len).map(|shape| (file, shape, code_len))
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

fn facts(made_for: &Fingerprint, shape: &Shape, code_len: u64) -> Vec<u8> {
    let mut facts = Vec::with_capacity(FACTS);
    facts.extend(MAGIC);
    facts.extend(made_for.program.as_bytes());
    facts.extend(made_for.engine.as_bytes());
    facts.extend(made_for.policy.to_le_bytes());
    facts.extend(shape.memory_maximum.to_le_bytes());
    facts.push(shape.bits());
    facts.extend(code_len.to_le_bytes());
    facts
}

/// Reads the facts of an authentic trailer, which may still be about another program or engine.
fn parse(facts: &[u8], wanted: &Fingerprint, code_len: u64) -> Result<Shape, Miss> {
    let mut rest = facts;
    let mut take = |len: usize| {
        let (part, tail) = rest.split_at_checked(len).ok_or(Miss::Truncated)?;
        rest = tail;
        Ok::<_, Miss>(part)
    };
    if take(8)? != MAGIC {
        return Err(Miss::Truncated);
    }
    let digest = |part: &[u8]| part.try_into().map(Digest::from_bytes).map_err(|_| Miss::Truncated);
    let (program, engine) = (digest(take(32)?)?, digest(take(32)?)?);
    let policy = u32::from_le_bytes(take(4)?.try_into().map_err(|_| Miss::Truncated)?);
    let memory_maximum = u64::from_le_bytes(take(8)?.try_into().map_err(|_| Miss::Truncated)?);
    let bits = take(1)?[0];
    let found_len = u64::from_le_bytes(take(8)?.try_into().map_err(|_| Miss::Truncated)?);
    if (Fingerprint { program, engine, policy }) != *wanted || found_len != code_len {
        return Err(Miss::OtherFingerprint);
    }
    Shape::of(memory_maximum, bits).ok_or(Miss::Truncated)
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
