//! Payloads that stream: in, without ever being in memory as a whole, and out, verified piece by piece.
//!
//! Invariant: what streams in has no name before all of it is durable under a temporary one; what streams out was held against its digest.

use std::io::{self, Read, Write};
use std::sync::Arc;

use bytes::Bytes;

use crate::reply::BlobRef;

use super::blobs::{self, Blob, DIR, TEMP_PREFIX};
use super::error::{LedgerError, ReadError};
use super::limits::{INLINE_PAYLOAD, OUTBOARD_FROM, STREAM_PIECE};
use super::outboard::TreeHasher;
use super::reader::LedgerReader;
use super::state::Shared;
use super::storage::StorageFile;

/// Takes in one payload of any length. Write to it, then [`Self::finish`] it; dropped before that, it leaves nothing behind.
///
/// A failure of the disk is the caller's alone: the ledger goes on, since no entry names what was being written.
pub struct Intake {
    shared: Arc<Shared>,
    hasher: TreeHasher,
    len: u64,
    /// Bytes that are not in the file yet.
    buffer: Vec<u8>,
    files: Option<Files>,
}

struct Files {
    data: (String, Arc<dyn StorageFile>),
    tree: (String, Arc<dyn StorageFile>),
    /// Bytes of the outboard that are written.
    parents: u64,
}

impl std::fmt::Debug for Intake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Intake").field("len", &self.len).finish_non_exhaustive()
    }
}

impl Intake {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, hasher: TreeHasher::default(), len: 0, buffer: Vec::new(), files: None }
    }

    /// Bytes taken in so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether nothing was taken in so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Makes the payload durable under its name, if it has a file at all, and returns it for an entry that names it.
    pub fn finish(mut self) -> Result<Blob, LedgerError> {
        if self.files.is_none() && self.buffer.len() <= INLINE_PAYLOAD {
            return Ok(Blob::new(std::mem::take(&mut self.buffer).into()));
        }
        self.complete()
            .map_err(|source| LedgerError::Io { path: self.shared.storage.locate(DIR), source: Arc::new(source) })
    }

    fn complete(&mut self) -> io::Result<Blob> {
        self.flush_pieces(true)?;
        let (digest, rest) = std::mem::take(&mut self.hasher).finish();
        let name = BlobRef { digest, len: self.len };
        let files = self.files.as_mut().expect("flushing makes them");
        files.tree.1.write_at(&rest, files.parents)?;
        files.data.1.sync()?;
        // From here on the file is not dropped, also if another entry named it and was evicted.
        let guard = self.shared.guards.guard(digest);
        let has_tree = self.len >= OUTBOARD_FROM;
        blobs::install(&*self.shared.storage, &digest, &files.data.0, has_tree.then_some(&*files.tree.0))?;
        Ok(Blob::filed(name, guard))
    }

    /// Writes out what is buffered: whole pieces, or everything.
    fn flush_pieces(&mut self, all: bool) -> io::Result<()> {
        if self.buffer.len() < STREAM_PIECE && !all {
            return Ok(());
        }
        let files = match &mut self.files {
            Some(files) => files,
            None => self.files.insert(Files::make(&self.shared)?),
        };
        files.data.1.write_at(&self.buffer, self.len - self.buffer.len() as u64)?;
        self.hasher.update(&self.buffer);
        self.buffer.clear();
        if self.hasher.waiting() > 0 {
            let parents = self.hasher.take_parents();
            files.tree.1.write_at(&parents, files.parents)?;
            files.parents += parents.len() as u64;
        }
        Ok(())
    }
}

impl Files {
    fn make(shared: &Shared) -> io::Result<Self> {
        let name = format!("{DIR}/{TEMP_PREFIX}{}", shared.next_intake());
        let tree = format!("{name}.bao");
        let make = |path: String| blobs::fresh(&*shared.storage, &path).map(|file| (path, file));
        Ok(Self { data: make(name)?, tree: make(tree)?, parents: 0 })
    }
}

impl Write for Intake {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(STREAM_PIECE - self.buffer.len());
        self.buffer.extend_from_slice(&bytes[..taken]);
        self.len += taken as u64;
        self.flush_pieces(false)?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for Intake {
    fn drop(&mut self) {
        for (path, _) in self.files.iter().flat_map(|files| [&files.data, &files.tree]) {
            // What cannot be removed now is removed at the next opening.
            let _ = self.shared.storage.remove(path);
        }
    }
}

/// Gives out one payload, verified as it goes: it holds one piece of it at a time.
#[derive(Debug)]
pub struct PayloadReader {
    ledger: LedgerReader,
    seq: u64,
    blob: BlobRef,
    at: u64,
    piece: Bytes,
}

impl PayloadReader {
    pub(super) fn new(ledger: LedgerReader, seq: u64, blob: BlobRef) -> Self {
        Self { ledger, seq, blob, at: 0, piece: Bytes::new() }
    }

    /// What it reads.
    #[must_use]
    pub fn name(&self) -> BlobRef {
        self.blob
    }

    /// The next piece, empty at the end.
    pub fn piece(&mut self) -> Result<Bytes, ReadError> {
        if !self.piece.is_empty() {
            return Ok(std::mem::take(&mut self.piece));
        }
        if self.at == self.blob.len {
            return Ok(Bytes::new());
        }
        let len = u32::try_from(STREAM_PIECE).expect("a piece is small");
        let piece = self.ledger.payload_range(self.seq, self.blob, self.at, len)?;
        self.at += piece.len() as u64;
        Ok(piece)
    }
}

impl Read for PayloadReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut piece = self.piece().map_err(io::Error::other)?;
        let taken = piece.split_to(piece.len().min(buffer.len()));
        buffer[..taken.len()].copy_from_slice(&taken);
        self.piece = piece;
        Ok(taken.len())
    }
}
