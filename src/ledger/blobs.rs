//! Payloads as files of their own, named by their digest: `blobs/ab/<hex>`, and beside a large one its outboard, `blobs/ab/<hex>.bao`.
//!
//! Invariant: a name in `blobs/ab/` is durable before a frame names it, and its bytes are those of the digest or the file is damaged. An
//! outboard is a copy: never synced, believed as far as it leads to the digest, made anew where it does not.

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::bao::{self, ChunkProof, TreeHasher};
use crate::id::Digest;
use crate::reply::BlobRef;

use super::limits::{OUTBOARD_FROM, STREAM_PIECE};
use super::outboard::{Check, Verdict};
use super::storage::{Storage, StorageFile, read_all, remove_if_there};

/// The folder of all blobs.
pub(super) const DIR: &str = "blobs";
/// Files being written, in [`DIR`] itself; what is left of them after a crash is swept away.
pub(super) const TEMP_PREFIX: &str = "tmp-";
/// Ends the name of an outboard.
const OUTBOARD: &str = ".bao";

/// Bytes with their verified name; hashing is paid once, by whoever makes it.
#[derive(Debug, Clone)]
pub struct Blob {
    name: BlobRef,
    source: Source,
}

#[derive(Debug, Clone)]
enum Source {
    /// In memory, with the outboard if it has one.
    Here { bytes: Bytes, outboard: Bytes },
    /// In its file already; the guard keeps that from being dropped before an entry names it.
    Filed(#[expect(dead_code, reason = "held, not read")] Arc<Guard>),
}

impl Blob {
    /// Hashes these bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        let len = bytes.len() as u64;
        let (digest, outboard) = if len < OUTBOARD_FROM { (Digest::of(&bytes), Vec::new()) } else { bao::of(&bytes) };
        Self { name: BlobRef { digest, len }, source: Source::Here { bytes, outboard: outboard.into() } }
    }

    /// Bytes that were held against this name before; a large payload is hashed all the same, for its outboard.
    #[must_use]
    pub(crate) fn proven(name: BlobRef, bytes: Bytes) -> Self {
        debug_assert_eq!(bytes.len() as u64, name.len, "what was proven has its length");
        if name.len >= OUTBOARD_FROM {
            return Self::new(bytes);
        }
        Self { name, source: Source::Here { bytes, outboard: Bytes::new() } }
    }

    /// Bytes that are in their file.
    pub(super) fn filed(name: BlobRef, guard: Arc<Guard>) -> Self {
        Self { name, source: Source::Filed(guard) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> BlobRef {
        self.name
    }

    /// The bytes; `None` if they streamed in and are in their file already.
    #[must_use]
    pub fn bytes(&self) -> Option<&Bytes> {
        match &self.source {
            Source::Here { bytes, .. } => Some(bytes),
            Source::Filed(_) => None,
        }
    }

    /// How many bytes it takes in memory.
    #[must_use]
    pub fn in_memory(&self) -> u64 {
        self.bytes().map_or(0, |bytes| bytes.len() as u64)
    }
}

/// Files that no entry names yet and that must not be dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Guards(Arc<Mutex<BTreeMap<Digest, u32>>>);

/// As long as it lives, the file of its digest stays.
#[derive(Debug)]
pub(super) struct Guard {
    digest: Digest,
    guards: Guards,
}

impl Guards {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Digest, u32>> {
        self.0.lock().expect("no code panics while it holds the guards")
    }

    pub(super) fn guard(&self, digest: Digest) -> Arc<Guard> {
        *self.lock().entry(digest).or_insert(0) += 1;
        Arc::new(Guard { digest, guards: self.clone() })
    }

    /// Removes a payload's file unless it is guarded; returns how long it was. Nobody can begin to guard it meanwhile.
    pub(super) fn remove(&self, storage: &dyn Storage, digest: &Digest) -> io::Result<u64> {
        let guarded = self.lock();
        if guarded.contains_key(digest) { Ok(0) } else { remove(storage, digest) }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut guards = self.guards.lock();
        if let Some(count) = guards.get_mut(&self.digest) {
            *count -= 1;
            if *count == 0 {
                guards.remove(&self.digest);
            }
        }
    }
}

/// What became of a blob file, or of a range of it.
pub(super) enum Found {
    Whole(Bytes),
    Damaged,
    Missing,
}

fn shard(digest: &Digest) -> String {
    format!("{DIR}/{}", &digest.to_string()[..2])
}

pub(super) fn path(digest: &Digest) -> String {
    format!("{}/{digest}", shard(digest))
}

pub(super) fn outboard_path(digest: &Digest) -> String {
    format!("{}{OUTBOARD}", path(digest))
}

/// The digest that a file in a shard is about: the blob itself, or its outboard.
pub(super) fn digest_of(name: &str) -> Option<(Digest, bool)> {
    match name.strip_suffix(OUTBOARD) {
        Some(name) => Some((name.parse().ok()?, true)),
        None => Some((name.parse().ok()?, false)),
    }
}

/// Makes a blob durable. One that is there already and whole is left alone, one that is damaged is replaced.
pub(super) fn store(storage: &dyn Storage, blob: &Blob) -> io::Result<()> {
    let digest = &blob.name.digest;
    let Source::Here { bytes, outboard } = &blob.source else { return Ok(()) };
    if !is_whole(storage, blob.name)? {
        let (data, tree) = (format!("{DIR}/{TEMP_PREFIX}{digest}"), format!("{DIR}/{TEMP_PREFIX}{digest}{OUTBOARD}"));
        let file = fresh(storage, &data)?;
        file.write_shared(bytes, 0)?;
        file.sync()?;
        if !outboard.is_empty() {
            fresh(storage, &tree)?.write_at(outboard, 0)?;
        }
        return install(storage, digest, &data, (!outboard.is_empty()).then_some(&*tree));
    }
    storage.sync_dir(&shard(digest))
}

/// A temporary file, made anew.
pub(super) fn fresh(storage: &dyn Storage, path: &str) -> io::Result<Arc<dyn StorageFile>> {
    remove_if_there(storage, path)?;
    storage.create_new(path)
}

/// Gives a payload that is written and synced its name, and makes that durable.
pub(super) fn install(storage: &dyn Storage, digest: &Digest, data: &str, outboard: Option<&str>) -> io::Result<()> {
    let shard = shard(digest);
    storage.create_dir(&shard)?;
    storage.sync_dir(DIR)?;
    if let Some(outboard) = outboard {
        storage.rename(outboard, &outboard_path(digest))?;
    }
    storage.rename(data, &path(digest))?;
    storage.sync_dir(&shard)
}

fn open(storage: &dyn Storage, digest: &Digest) -> io::Result<Option<Arc<dyn StorageFile>>> {
    match storage.open(&path(digest)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Whether the file of a blob is there and has its bytes.
fn is_whole(storage: &dyn Storage, name: BlobRef) -> io::Result<bool> {
    let Some(file) = open(storage, &name.digest)? else { return Ok(false) };
    Ok(file.len()? == name.len && hash(&*file, &mut |_, _| Ok(()))? == name.digest)
}

/// Hashes a file piece by piece; `parents` gets the outboard, each part with its offset.
pub(super) fn hash(
    file: &dyn StorageFile,
    parents: &mut dyn FnMut(Vec<u8>, u64) -> io::Result<()>,
) -> io::Result<Digest> {
    let (mut hasher, mut at, mut put, mut piece) = (TreeHasher::default(), 0, 0, vec![0; STREAM_PIECE]);
    loop {
        let read = file.read_at(&mut piece, at)?;
        if read == 0 {
            break;
        }
        hasher.update(&piece[..read]);
        at += read as u64;
        let part = hasher.take_parents();
        let len = part.len() as u64;
        parents(part, put)?;
        put += len;
    }
    let (digest, rest) = hasher.finish();
    parents(rest, put)?;
    Ok(digest)
}

/// Reads and verifies a whole blob.
pub(super) fn load(storage: &dyn Storage, digest: Digest) -> io::Result<Found> {
    let Some(file) = open(storage, &digest)? else { return Ok(Found::Missing) };
    let bytes = read_all(&*file)?;
    Ok(if Digest::of(&bytes) == digest { Found::Whole(bytes.into()) } else { Found::Damaged })
}

/// Reads and verifies some bytes of a blob, fewer at its end, and no more of the file than the leaves that have them.
pub(super) fn load_range(storage: &dyn Storage, blob: BlobRef, offset: u64, len: u32) -> io::Result<Found> {
    let start = offset.min(blob.len);
    let wanted = start..start.saturating_add(u64::from(len)).min(blob.len);
    let place = if blob.len < OUTBOARD_FROM { 0..blob.len } else { bao::leaves(&wanted, blob.len) };
    let (found, _) = load_leaves(storage, blob, &place)?;
    Ok(match found {
        Found::Whole(bytes) => {
            Found::Whole(bytes.slice(index(wanted.start - place.start)?..index(wanted.end - place.start)?))
        }
        other => other,
    })
}

fn index(n: u64) -> io::Result<usize> {
    usize::try_from(n).map_err(|_| io::Error::from(io::ErrorKind::OutOfMemory))
}

/// Reads and verifies whole leaves of a blob (all of a small one), and what proves them to others.
pub(super) fn load_leaves(storage: &dyn Storage, blob: BlobRef, place: &Range<u64>) -> io::Result<(Found, ChunkProof)> {
    let Some(file) = open(storage, &blob.digest)? else { return Ok((Found::Missing, ChunkProof::default())) };
    if file.len()? != blob.len {
        return Ok((Found::Damaged, ChunkProof::default()));
    }
    let bytes = Bytes::from(file.read_exact(place.start, index(place.end - place.start)?)?);
    let proof = if blob.len < OUTBOARD_FROM {
        (Digest::of(&bytes) == blob.digest).then(ChunkProof::default)
    } else {
        verify(storage, &*file, blob, place, Some(&bytes))?
    };
    Ok(proof.map_or((Found::Damaged, ChunkProof::default()), |proof| (Found::Whole(bytes), proof)))
}

/// What proves whole leaves of a blob of at least [`OUTBOARD_FROM`] to others, without reading them; `None` if it is missing or damaged.
pub(super) fn proof(storage: &dyn Storage, blob: BlobRef, place: &Range<u64>) -> io::Result<Option<ChunkProof>> {
    match open(storage, &blob.digest)? {
        Some(file) => verify(storage, &*file, blob, place, None),
        None => Ok(None),
    }
}

/// Holds the outboard of a blob, and the bytes of whole leaves if they are given, against its digest: what proves these leaves if it holds.
fn verify(
    storage: &dyn Storage,
    file: &dyn StorageFile,
    blob: BlobRef,
    place: &Range<u64>,
    bytes: Option<&[u8]>,
) -> io::Result<Option<ChunkProof>> {
    let check = |outboard: &mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>| {
        let mut proof = ChunkProof::default();
        let check = Check { len: blob.len, range: place.clone(), bytes, proof: &mut proof, outboard };
        Ok::<_, io::Error>((check.against(&blob.digest)?, proof))
    };
    let (verdict, proof) = match storage.open(&outboard_path(&blob.digest)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => (Verdict::Outboard, ChunkProof::default()),
        opened => {
            let opened = opened?;
            check(&mut |buffer, at| opened.read_at(buffer, at))?
        }
    };
    if verdict != Verdict::Outboard {
        return Ok((verdict == Verdict::Holds).then_some(proof));
    }
    let Some(made) = rebuild(storage, file, &blob.digest)? else { return Ok(None) };
    let (verdict, proof) = check(&mut |buffer, at| {
        let rest = usize::try_from(at).ok().and_then(|at| made.get(at..)).unwrap_or_default();
        let count = rest.len().min(buffer.len());
        buffer[..count].copy_from_slice(&rest[..count]);
        Ok(count)
    })?;
    Ok((verdict == Verdict::Holds).then_some(proof))
}

/// Makes the outboard of a blob anew; `None` if its bytes are not those of the digest.
fn rebuild(storage: &dyn Storage, file: &dyn StorageFile, digest: &Digest) -> io::Result<Option<Vec<u8>>> {
    let mut made = Vec::new();
    let found = hash(file, &mut |part, _| {
        made.extend(part);
        Ok(())
    })?;
    if found != *digest {
        return Ok(None);
    }
    let temp = format!("{DIR}/{TEMP_PREFIX}{digest}{OUTBOARD}");
    let written = fresh(storage, &temp)
        .and_then(|file| file.write_at(&made, 0))
        .and_then(|()| storage.rename(&temp, &outboard_path(digest)));
    if let Err(error) = written {
        // It serves this time all the same, and is made again the next time.
        tracing::warn!(%digest, %error, "the outboard of a payload cannot be kept");
    }
    Ok(Some(made))
}

/// Removes a payload's files; returns how long they were.
fn remove(storage: &dyn Storage, digest: &Digest) -> io::Result<u64> {
    let mut freed = 0;
    for path in [path(digest), outboard_path(digest)] {
        freed += match storage.open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            file => file?.len()?,
        };
        storage.remove(&path)?;
    }
    Ok(freed)
}
