//! Payloads as files of their own, named by their digest: `blobs/ab/<hex>`.
//!
//! Invariant: a name in `blobs/ab/` is durable before a frame names it, and its bytes are those of the digest or the file is damaged.

use std::io;

use bytes::Bytes;

use crate::id::Digest;
use crate::reply::BlobRef;

use super::storage::{Storage, read_all};

/// The folder of all blobs.
pub(super) const DIR: &str = "blobs";
/// Files being written, in [`DIR`] itself; what is left of them after a crash is swept away.
pub(super) const TEMP_PREFIX: &str = "tmp-";

/// Bytes with their verified name; hashing is paid once, by whoever makes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blob {
    name: BlobRef,
    bytes: Bytes,
}

impl Blob {
    /// Hashes these bytes.
    #[must_use]
    pub fn new(bytes: Bytes) -> Self {
        Self { name: BlobRef { digest: Digest::of(&bytes), len: bytes.len() as u64 }, bytes }
    }

    /// Bytes whose name is known to be right.
    pub(super) fn named(name: BlobRef, bytes: Bytes) -> Self {
        Self { name, bytes }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> BlobRef {
        self.name
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

/// What became of a blob file.
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

/// Makes a blob durable. One that is there already and whole is left alone, one that is damaged is replaced.
pub(super) fn store(storage: &dyn Storage, blob: &Blob) -> io::Result<()> {
    let digest = &blob.name.digest;
    let (shard, path) = (shard(digest), path(digest));
    if !matches!(load(storage, blob.name.digest)?, Found::Whole(_)) {
        storage.create_dir(&shard)?;
        storage.sync_dir(DIR)?;
        let temp = format!("{DIR}/{TEMP_PREFIX}{digest}");
        match storage.remove(&temp) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = storage.create_new(&temp)?;
        file.write_at(&blob.bytes, 0)?;
        file.sync()?;
        storage.rename(&temp, &path)?;
    }
    storage.sync_dir(&shard)
}

/// Reads and verifies a whole blob.
pub(super) fn load(storage: &dyn Storage, digest: Digest) -> io::Result<Found> {
    let file = match storage.open(&path(&digest)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Missing),
        Err(error) => return Err(error),
    };
    let bytes = read_all(&*file)?;
    Ok(if Digest::of(&bytes) == digest { Found::Whole(bytes.into()) } else { Found::Damaged })
}
