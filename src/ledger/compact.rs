//! Making room: dropping payloads, rewriting segments without them, sweeping files that no entry names.
//!
//! Invariant: entries, their order and their leaves never change, so every proof stays what it was; what is dropped on purpose is said in an
//! `Evicted` entry that is durable first. A rewritten segment takes the old one's name in one step; a crash leaves the one or the other.

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use crate::id::{ContentId, Digest};
use crate::reply::BlobRef;

use super::blobs;
use super::block::Sealing;
use super::entry::Entry;
use super::error::LedgerError;
use super::frame::{self, FORMAT, Header, Parts, u32_at};
use super::limits::{EVICTED_AT_ONCE, RUN_BYTES, RUN_ENTRIES};
use super::pins;
use super::reader::Stored;
use super::row::{Row, Sort};
use super::run::{Run, Segment};
use super::seal::pages_of;
use super::state::{INDEX, SEGMENTS, index_path, segment_path};
use super::storage::{StorageFile, remove_if_there};
use super::writer::Ledger;

/// A segment while it is rewritten; removed at every opening.
pub(super) const TEMP: &str = "compact.tmp";

/// What making room has led to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Freed {
    /// Bytes that the disk got back.
    pub bytes: u64,
    /// Payloads that were dropped.
    pub payloads: u64,
    /// Segments that were rewritten.
    pub segments: u64,
    /// Segments that were dropped, with every entry in them.
    pub dropped: u64,
}

impl std::ops::AddAssign for Freed {
    fn add_assign(&mut self, more: Self) {
        let Self { bytes, payloads, segments, dropped } = more;
        self.bytes += bytes;
        self.payloads += payloads;
        self.segments += segments;
        self.dropped += dropped;
    }
}

/// A frame of the new segment.
struct Moved {
    row: Row,
    end: u32,
    names: Vec<u64>,
}

impl Ledger {
    /// Bytes that segments, their indexes and blobs take on disk.
    pub fn disk_bytes(&self) -> io::Result<u64> {
        let storage = &self.shared.storage;
        let mut total = 0;
        let mut add = |dir: &str| -> io::Result<()> {
            for name in storage.list(dir)? {
                total += storage.open(&format!("{dir}/{name}"))?.len()?;
            }
            Ok(())
        };
        add(SEGMENTS)?;
        add(INDEX)?;
        for shard in storage.list(blobs::DIR)? {
            if !shard.starts_with(blobs::TEMP_PREFIX) {
                add(&format!("{}/{shard}", blobs::DIR))?;
            }
        }
        Ok(total)
    }

    /// The full segments, oldest first: the range of entries of each.
    #[must_use]
    pub fn full_segments(&self) -> Vec<Range<u64>> {
        let state = self.shared.read();
        let firsts: Vec<u64> = state.segments.iter().map(|segment| segment.first).collect();
        firsts.windows(2).map(|pair| pair[0]..pair[1]).collect()
    }

    /// The pinned questions.
    pub fn pins(&self) -> io::Result<BTreeSet<ContentId>> {
        pins::load(&*self.shared.storage)
    }

    /// Whether a payload has a file of its own.
    pub fn has_file(&self, digest: Digest) -> io::Result<bool> {
        match self.shared.storage.open(&blobs::path(&digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other.map(|_| true),
        }
    }

    /// Says, durably, that these payloads are dropped on purpose.
    pub fn note_evicted(&mut self, payloads: &BTreeSet<Digest>, at: u64) -> Result<(), LedgerError> {
        let all: Vec<Digest> = payloads.iter().copied().collect();
        for some in all.chunks(EVICTED_AT_ONCE) {
            self.append(&Entry::Evicted { payloads: some.to_vec(), at }, &[], false)?;
        }
        self.commit().map(drop)
    }

    /// Says, durably, that these payloads are dropped on purpose, and removes their files.
    pub fn evict(&mut self, payloads: &BTreeSet<Digest>, at: u64) -> Result<Freed, LedgerError> {
        self.note_evicted(payloads, at)?;
        let mut freed = Freed { payloads: payloads.len() as u64, ..Freed::default() };
        for digest in payloads {
            freed.bytes += self.remove_blob(*digest).map_err(|error| self.io_error(&blobs::path(digest), error))?;
        }
        Ok(freed)
    }

    /// Removes a payload's files unless something is about to name it; returns how long they were.
    fn remove_blob(&self, digest: Digest) -> io::Result<u64> {
        self.shared.guards.remove(&*self.shared.storage, &digest)
    }

    /// Removes files of payloads that no entry names: left over from a crash, or named by nothing that was kept.
    pub fn sweep(&mut self) -> Result<Freed, LedgerError> {
        self.commit()?;
        let mut named = BTreeSet::new();
        let reader = self.reader();
        for seq in reader.floor()..self.next_seq() {
            match reader.read(seq) {
                Ok(Some(stored)) => named.extend(stored.entry.record().iter().flat_map(|record| record.blobs())),
                Ok(None) => {}
                // What is lost may have named anything: nothing is swept.
                Err(error) if error.is_loss() => return Ok(Freed::default()),
                Err(error) => return Err(error.into()),
            }
        }
        let named: BTreeSet<Digest> = named.into_iter().map(|blob: BlobRef| blob.digest).collect();
        let mut freed = Freed::default();
        let failed = |error| self.io_error(blobs::DIR, error);
        let storage = &self.shared.storage;
        for shard in storage.list(blobs::DIR).map_err(failed)? {
            let dir = format!("{}/{shard}", blobs::DIR);
            for name in storage.list(&dir).map_err(failed)? {
                let Some((digest, is_outboard)) = blobs::digest_of(&name) else { continue };
                if !named.contains(&digest) {
                    let bytes = self.remove_blob(digest).map_err(failed)?;
                    freed.bytes += bytes;
                    freed.payloads += u64::from(bytes > 0 && !is_outboard);
                }
            }
        }
        Ok(freed)
    }

    /// Rewrites a full segment without the inline payloads that `keep` refuses. One with damage is left as it is: what is quarantined may
    /// still be healed. Nothing is rewritten if nothing would be dropped.
    pub fn compact(
        &mut self,
        segment: &Range<u64>,
        keep: &mut dyn FnMut(&Stored, BlobRef) -> bool,
    ) -> Result<Freed, LedgerError> {
        let mut freed = Freed::default();
        let (mut bytes, mut moved) = (self.header(segment.start), Vec::new());
        let salt = Segment::new(self.shared.node, segment.start, None).salt;
        let reader = self.reader();
        for seq in segment.clone() {
            let stored = match reader.read(seq) {
                Ok(Some(stored)) => stored,
                Err(error) if !error.is_loss() => return Err(error.into()),
                _ => return Ok(Freed::default()),
            };
            let mut kept = Vec::new();
            for name in stored.inline() {
                match reader.payload_of(&stored, name) {
                    Ok(payload) if keep(&stored, name) => kept.push((name, payload)),
                    Ok(_) => freed.payloads += 1,
                    Err(_) => return Ok(Freed::default()),
                }
            }
            let (kind, body) = stored.source();
            let offset = bytes.len();
            let payloads: Vec<_> = kept.iter().map(|(name, payload)| (*name, payload)).collect();
            let parts = Parts { seq, kind, announced: stored.announced, body: &body, payloads: &payloads };
            frame::encode(&mut bytes, salt, offset as u64, &parts);
            let narrow = |n: usize| u32::try_from(n).expect("shorter than the old segment");
            let mut row = Row::new(&stored.entry, &body, stored.announced, narrow(offset));
            if matches!(stored.entry, Entry::Epoch { start, node, .. } if start != seq || node != self.shared.node) {
                row.sort = Sort::Unknown;
            }
            let names = kept.iter().map(|(name, _)| name.digest.fingerprint()).collect();
            moved.push(Moved { row, end: narrow(bytes.len()), names });
        }
        if freed.payloads == 0 {
            return Ok(freed);
        }
        let path = segment_path(segment.start);
        let old = self.replace(segment.start, &path, &bytes).map_err(|error| self.io_error(&path, error))?;
        self.swap(segment, &bytes, &moved).map_err(|error| self.io_error(&index_path(segment.start), error))?;
        freed.bytes = old.saturating_sub(bytes.len() as u64);
        freed.segments = 1;
        Ok(freed)
    }

    fn header(&self, first: u64) -> Vec<u8> {
        Header { format: FORMAT, node: self.shared.node, first }.encode().to_vec()
    }

    /// Puts new bytes in the place of a segment; returns how long it was. Its index goes first: it speaks of the old frames.
    fn replace(&self, first: u64, path: &str, bytes: &[u8]) -> io::Result<u64> {
        let storage = &self.shared.storage;
        let old = storage.open(path)?.len()?;
        remove_if_there(&**storage, TEMP)?;
        let file = storage.create_new(TEMP)?;
        file.write_at(bytes, 0)?;
        file.sync()?;
        remove_if_there(&**storage, &index_path(first))?;
        storage.sync_dir(INDEX)?;
        storage.rename(TEMP, path)?;
        storage.sync_dir(SEGMENTS)?;
        Ok(old)
    }

    /// Readers see the new segment from here on; those that read in the old one right now still have its file.
    fn swap(&self, range: &Range<u64>, bytes: &[u8], moved: &[Moved]) -> io::Result<()> {
        let storage = &self.shared.storage;
        let file = storage.open_lasting(&segment_path(range.start))?;
        file.settle();
        let segment = Segment::new(self.shared.node, range.start, Some(file));
        storage.create_new(&index_path(range.start))?;
        let index: Arc<dyn StorageFile> = storage.open_lasting(&index_path(range.start))?;
        let mut runs = Vec::new();
        let (mut at, mut from) = (0, 0);
        while from < moved.len() {
            let start = moved[from].row.offset;
            let fits = |at: &Moved| u64::from(at.end - start) <= RUN_BYTES;
            let count = moved[from..].iter().take(RUN_ENTRIES).take_while(|moved| fits(moved)).count().max(1);
            let part = &moved[from..from + count];
            let first = range.start + from as u64;
            let rows: Vec<Row> = part.iter().map(|moved| moved.row).collect();
            let local = |place: usize| u16::try_from(place).expect("at most RUN_ENTRIES");
            let names: Vec<(u64, u16)> = part
                .iter()
                .enumerate()
                .flat_map(|(place, moved)| moved.names.iter().map(move |name| (*name, local(place))))
                .collect();
            let last = &part[count - 1];
            let checksum = u32_at(bytes, last.row.offset as usize + 4).unwrap_or(0);
            let pages = pages_of(&self.shared.read(), first..first + count as u64);
            let sealing = Sealing { first, rows: &rows, names: &names, end: last.end, checksum, pages: &pages };
            let (run, end) = Run::seal(segment.clone(), index.clone(), at, &sealing)?;
            runs.push(Arc::new(run));
            (at, from) = (end, from + count);
        }
        let mut state = self.shared.write();
        if let Some(place) = state.segments.iter_mut().find(|other| other.first == range.start) {
            *place = segment;
        }
        let begin = state.runs.partition_point(|run| run.first < range.start);
        let end = state.runs.partition_point(|run| run.first < range.end);
        state.runs.splice(begin..end, runs);
        Ok(())
    }
}
