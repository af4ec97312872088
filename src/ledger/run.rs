//! A sealed run: entries of one segment whose index lies in the index file, or in memory where the file does not have it.
//!
//! Invariant: runs follow each other without gaps; an index that does not hold is never believed but made anew from the frames.

use std::io;
use std::ops::Range;
use std::sync::{Arc, OnceLock};

use crate::id::NodeId;
use crate::proof::Hash;

use super::block::{self, Header, MAX_ENTRIES, Sealing, Table};
use super::frame::Salt;
use super::row::{Fact, Mark, Row};
use super::scan;
use super::storage::StorageFile;

/// A segment file.
pub(super) struct Segment {
    /// Sequence number of its first entry, also its name.
    pub(super) first: u64,
    /// `None` once it is dropped: only its index is kept then.
    pub(super) file: Option<Arc<dyn StorageFile>>,
    pub(super) salt: Salt,
    pub(super) owner: NodeId,
}

impl Segment {
    pub(super) fn new(node: NodeId, first: u64, file: Option<Arc<dyn StorageFile>>) -> Arc<Self> {
        Arc::new(Self { first, file, salt: Salt::new(node, first), owner: node })
    }

    /// The file; a dropped one has no bytes to give.
    pub(super) fn file(&self) -> io::Result<&Arc<dyn StorageFile>> {
        self.file.as_ref().ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

/// Entries of one segment that follow each other.
pub(super) struct Run {
    pub(super) segment: Arc<Segment>,
    pub(super) first: u64,
    pub(super) count: u64,
    /// Where its frames end in the segment.
    pub(super) end: u32,
    index: Index,
}

enum Index {
    /// In the index file.
    Filed {
        file: Arc<dyn StorageFile>,
        /// Where the block lies in the file.
        at: u64,
        header: Header,
        /// [`block::packed`] of every entry, once it was needed.
        offsets: OnceLock<Box<[u8]>>,
    },
    /// In memory: the run has lost entries.
    Held(Held),
    /// Every entry is lost.
    Lost,
}

/// An index in memory.
pub(super) struct Held {
    pub(super) rows: Vec<Row>,
    pub(super) names: Vec<(u64, u32)>,
}

/// Where an entry's frame lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) offset: u32,
    /// Up to the next entry's frame.
    pub(super) len: u32,
}

impl Run {
    pub(super) fn held(segment: Arc<Segment>, first: u64, end: u32, held: Held) -> Self {
        let count = held.rows.len() as u64;
        Self { segment, first, count, end, index: Index::Held(held) }
    }

    /// Entries of which nothing is left.
    pub(super) fn lost(segment: Arc<Segment>, seqs: &Range<u64>) -> Self {
        Self { segment, first: seqs.start, count: seqs.end - seqs.start, end: 0, index: Index::Lost }
    }

    pub(super) fn filed(segment: Arc<Segment>, file: Arc<dyn StorageFile>, at: u64, header: Header) -> Self {
        let Header { first, count, end, .. } = header;
        let count = u64::from(count);
        Self { segment, first, count, end, index: Index::Filed { file, at, header, offsets: OnceLock::new() } }
    }

    /// Writes the block of a run to the index file, at `at`. `rows` hold no lost entry and no more than [`MAX_ENTRIES`].
    pub(super) fn seal(
        segment: Arc<Segment>,
        file: Arc<dyn StorageFile>,
        at: u64,
        sealing: &Sealing<'_>,
    ) -> io::Result<(Self, u64)> {
        debug_assert!(sealing.rows.len() <= MAX_ENTRIES && sealing.rows.iter().all(|row| !row.is_lost()));
        let salt = segment.salt;
        let bytes = block::encode(sealing, salt);
        file.write_at(&bytes, at)?;
        let header = Header::decode(&bytes, salt).ok_or(io::ErrorKind::InvalidData)?;
        let run = Self::filed(segment, file, at, header);
        if let Index::Filed { offsets, .. } = &run.index {
            let _ = offsets.set(bytes[header.offsets()].into());
        }
        Ok((run, at + bytes.len() as u64))
    }

    pub(super) fn range(&self) -> Range<u64> {
        self.first..self.first + self.count
    }

    /// Bytes of it in memory.
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.index {
                Index::Filed { offsets, .. } => offsets.get().map_or(0, |offsets| offsets.len()),
                Index::Held(held) => held.rows.len() * size_of::<Row>() + held.names.len() * size_of::<(u64, u32)>(),
                Index::Lost => 0,
            }
    }

    pub(super) fn header(&self) -> Option<&Header> {
        match &self.index {
            Index::Filed { header, .. } => Some(header),
            Index::Held(_) | Index::Lost => None,
        }
    }

    pub(super) fn rows(&self) -> Option<&[Row]> {
        match &self.index {
            Index::Held(held) => Some(&held.rows),
            Index::Filed { .. } | Index::Lost => None,
        }
    }

    /// Where the frame of an entry of this run lies, `None` if it is lost; reads the index file if it has to.
    pub(super) fn place(&self, seq: u64) -> io::Result<Option<Place>> {
        if let Index::Filed { file, at, header, offsets } = &self.index
            && offsets.get().is_none()
        {
            let loaded = self.load_offsets(&**file, *at, header)?;
            offsets.get_or_init(|| loaded);
        }
        Ok(self.known_place(seq).flatten())
    }

    /// As [`Self::place`]; `None` if the index file has to be read first.
    #[expect(clippy::option_option, reason = "not known yet, known to be lost, known")]
    pub(super) fn known_place(&self, seq: u64) -> Option<Option<Place>> {
        let local = usize::try_from(seq - self.first).expect("inside the run");
        match &self.index {
            Index::Filed { offsets, .. } => Some(self.filed_place(offsets.get()?, local)),
            Index::Held(Held { rows, .. }) => {
                let row = rows.get(local).filter(|row| !row.is_lost());
                let after = || rows[local + 1..].iter().find(|row| !row.is_lost()).map_or(self.end, |next| next.offset);
                Some(row.map(|row| Place { offset: row.offset, len: after().saturating_sub(row.offset) }))
            }
            Index::Lost => Some(None),
        }
    }

    fn filed_place(&self, offsets: &[u8], local: usize) -> Option<Place> {
        let place = |local: usize| {
            let bytes = offsets.get(local * 4..local * 4 + 4)?;
            Some(block::unpacked(u32::from_le_bytes(bytes.try_into().ok()?)).0)
        };
        let offset = place(local).filter(|offset| *offset != 0)?;
        let next = (local + 1..offsets.len() / 4).filter_map(place).find(|next| *next != 0).unwrap_or(self.end);
        Some(Place { offset, len: next.saturating_sub(offset) })
    }

    fn load_offsets(&self, file: &dyn StorageFile, at: u64, header: &Header) -> io::Result<Box<[u8]>> {
        let bytes = read_part(file, at, &header.offsets())?;
        if header.offsets_hold(&bytes, self.segment.salt) {
            return Ok(bytes.into());
        }
        Ok(self.rescan()?.rows.iter().flat_map(|row| block::packed(row).to_le_bytes()).collect())
    }

    /// Hands the upper bits of every fingerprint of a table that belongs to `shard` to `visit`, with the position of its entry.
    pub(super) fn shard(&self, table: Table, shard: u8, visit: &mut dyn FnMut(u64, u64)) -> io::Result<()> {
        let Index::Filed { file, at, header, .. } = &self.index else {
            let Index::Held(held) = &self.index else { return Ok(()) };
            held.shard(self.first, table, shard, visit);
            return Ok(());
        };
        let entry = read_part(&**file, *at, &header.bucket_entry(table, shard))?;
        if let Some((bucket, sum)) = header.bucket(table, &entry) {
            let bytes = read_part(&**file, *at, &bucket)?;
            if let Some(rows) = block::read_bucket(&bytes, sum, shard, self.segment.salt) {
                for (fingerprint, local) in rows {
                    visit(fingerprint, self.first + u64::from(local));
                }
                return Ok(());
            }
        }
        self.rescan()?.shard(self.first, table, shard, visit);
        Ok(())
    }

    /// The leaves of entries `range` of this run. Without `careful` they are whatever the index file has, for a caller who checks them;
    /// with it they are checked here or made anew. Fewer if one is lost.
    pub(super) fn leaves(&self, range: Range<u64>, careful: bool) -> io::Result<Vec<Hash>> {
        let local = |seq: u64| usize::try_from(seq - self.first).expect("inside the run");
        let (from, to) = (local(range.start), local(range.end));
        let known = |rows: &[Row]| {
            rows.get(from..to).unwrap_or_default().iter().take_while(|row| !row.is_lost()).map(|row| row.leaf).collect()
        };
        let Index::Filed { file, at, header, .. } = &self.index else {
            return Ok(known(self.rows().unwrap_or_default()));
        };
        let whole = header.leaves();
        if !careful {
            let bytes = read_part(&**file, *at, &(whole.start + from * 32..whole.start + to * 32))?;
            return Ok(bytes.chunks_exact(32).filter_map(|leaf| leaf.try_into().ok()).collect());
        }
        let tail = header.tail();
        if whole.start + from * 32 >= tail.start {
            let leaves = header.read_tail(&read_part(&**file, *at, &tail)?, self.segment.salt);
            if let Some(leaves) = leaves {
                let skipped = (tail.start - whole.start) / 32;
                return Ok(leaves[from - skipped..to - skipped].to_vec());
            }
        }
        match header.read_leaves(&read_part(&**file, *at, &whole)?, self.segment.salt) {
            Some(leaves) => Ok(leaves[from..to].to_vec()),
            None => Ok(known(&self.rescan()?.rows)),
        }
    }

    /// Where epochs begin in this run, and the pages that it completes; `None` if the index does not hold.
    pub(super) fn tree(&self) -> io::Result<Option<(Vec<u32>, Vec<Hash>)>> {
        let Index::Filed { file, at, header, .. } = &self.index else { return Ok(None) };
        Ok(header.read_tree(&read_part(&**file, *at, &header.tree())?, self.segment.salt))
    }

    /// For every entry whether it is announced, and its fact.
    pub(super) fn facts(&self) -> io::Result<Vec<(bool, Fact)>> {
        let from_rows = |rows: &[Row]| rows.iter().map(|row| (row.announced, row.fact)).collect();
        let Index::Filed { file, at, header, .. } = &self.index else {
            return Ok(from_rows(self.rows().unwrap_or_default()));
        };
        let salt = self.segment.salt;
        let offsets = read_part(&**file, *at, &header.offsets())?;
        let facts = header.read_facts(&read_part(&**file, *at, &header.facts())?, salt);
        let Some(facts) = facts.filter(|_| header.offsets_hold(&offsets, salt)) else {
            return Ok(from_rows(&self.rescan()?.rows));
        };
        let flags = offsets.chunks_exact(4).map(|bits| u32::from_le_bytes(bits.try_into().expect("four")));
        Ok(flags.map(|bits| block::unpacked(bits).1).zip(facts).collect())
    }

    /// Where its block lies in the index file and its index as the frames tell it, if all of them are whole and together at most `bytes` long.
    pub(super) fn reread(&self, bytes: u32) -> io::Result<Option<(u64, Held)>> {
        let Index::Filed { at, header, .. } = &self.index else { return Ok(None) };
        if header.end - header.start > bytes {
            return Ok(None);
        }
        let held = self.frames()?;
        Ok(held.rows.iter().all(|row| !row.is_lost()).then_some((*at, held)))
    }

    /// Makes the index anew from the frames.
    pub(super) fn rescan(&self) -> io::Result<Held> {
        tracing::warn!(first = self.first, "the index of a run is damaged; reading its frames");
        self.frames()
    }

    fn frames(&self) -> io::Result<Held> {
        let start = self.header().map_or(0, |header| header.start);
        let bytes = self.segment.file()?.read_exact(u64::from(start), (self.end - start) as usize)?;
        let mut held = Held { rows: Vec::new(), names: Vec::new() };
        let Segment { salt, owner, .. } = *self.segment;
        let place = scan::Place { salt, base: u64::from(start), next: self.first, owner, torn: false };
        scan::scan(&bytes.into(), place, &mut |found| held.take(found));
        held.rows.resize(usize::try_from(self.count).expect("a run in memory"), Row::LOST);
        Ok(held)
    }
}

impl Held {
    /// Takes in what a scan found, in order.
    pub(super) fn take(&mut self, found: scan::Found<'_>) {
        match found {
            scan::Found::Entry(seen) => {
                if let Ok(local) = u32::try_from(self.rows.len()) {
                    self.names.extend(seen.stored.inline().map(|name| (name.digest.fingerprint(), local)));
                }
                self.rows.push(seen.row());
            }
            scan::Found::Lost { seqs, .. } => self.rows.extend(seqs.map(|_| Row::LOST)),
            scan::Found::Payload { .. } => {}
        }
    }

    fn shard(&self, first: u64, table: Table, shard: u8, visit: &mut dyn FnMut(u64, u64)) {
        match table {
            Table::Questions => {
                let marked = (first..).zip(&self.rows).filter(|(_, row)| row.mark != Mark::Plain);
                let own = marked.filter(|(_, row)| block::shard_of(row.fact.question) == shard);
                own.for_each(|(seq, row)| visit(block::kept(row.fact.question), seq));
            }
            Table::Names => {
                let own = self.names.iter().filter(|(name, _)| block::shard_of(*name) == shard);
                own.for_each(|(name, local)| visit(block::kept(*name), first + u64::from(*local)));
            }
        }
    }
}

fn read_part(file: &dyn StorageFile, at: u64, part: &Range<usize>) -> io::Result<Vec<u8>> {
    // A file that ends too early is a damaged one: what is missing fails its checksum.
    let mut bytes = vec![0; part.len()];
    file.read_at(&mut bytes, at + part.start as u64)?;
    Ok(bytes)
}
