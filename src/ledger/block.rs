//! The bytes of an index block: what the index file says about one run of entries. Pure functions; `docs/ledger-format.md` specifies them.
//!
//! Invariant: a block is a *copy* of what the run's frames say, under checksums of its own that are seeded with node and segment. So it is
//! believed only where its checksum holds, and whatever is damaged or missing is made anew from the frames.

use std::ops::Range;

use crate::proof::Hash;

use super::frame::{Salt, u32_at, u64_at};
use super::row::{Fact, Mark, Row, Sort};

/// Length of a block's header.
pub(super) const HEADER: usize = 128;
/// Entries of one block: their place in it takes 16 bits.
pub(super) const MAX_ENTRIES: usize = u16::MAX as usize;
/// Leaves at a block's end that have a checksum of their own.
pub(super) const TAIL: usize = 256;

const MAGIC: [u8; 8] = *b"EVMINDEX";
const VERSION: u32 = 1;
/// A bucket is made for about this many rows.
const BUCKET_BITS: u32 = 5;
/// Buckets of a table are at most 2 to the power of this.
pub(super) const SHARD_BITS: u32 = 8;
/// The bits of a row that are its place in the block; the others are the upper bits of a fingerprint.
const LOCAL: u64 = 0xffff;

const ANNOUNCED: u32 = 1 << 31;
const MARK_SHIFT: u32 = 29;
const OFFSET: u32 = (1 << MARK_SHIFT) - 1;

/// What a block's header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Length of the whole block.
    pub(super) len: u32,
    pub(super) first: u64,
    pub(super) count: u32,
    /// Where the run's first frame begins in the segment, and where its last one ends.
    pub(super) start: u32,
    pub(super) end: u32,
    pub(super) last: Last,
    pub(super) totals: Totals,
    epochs: u32,
    pages: u32,
    questions: u32,
    names: u32,
    question_bits: u8,
    name_bits: u8,
    sums: Sums,
}

/// The run's last frame, by which a block is held against the segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Last {
    pub(super) offset: u32,
    /// Its entry checksum.
    pub(super) checksum: u32,
}

/// Sums over a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Totals {
    pub(super) records: u32,
    pub(super) retractions: u32,
    pub(super) unknown: u32,
    pub(super) answers: u32,
    /// Bytes of all payloads that its records name.
    pub(super) payload: u64,
    /// The place of the last checkpoint in the run, plus one; 0 if it has none.
    pub(super) checkpoint: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sums {
    pages: u32,
    offsets: u32,
    facts: u32,
    leaves: u32,
    tail: u32,
}

/// What can be looked for by its fingerprint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Table {
    /// Questions that its entries answer or retract an answer to.
    Questions,
    /// Payloads that lie in its frames.
    Names,
}

/// A run that is to be sealed.
pub(super) struct Sealing<'a> {
    pub(super) first: u64,
    pub(super) rows: &'a [Row],
    /// Fingerprints of inline payloads, each with the place of its entry in the run.
    pub(super) names: &'a [(u64, u16)],
    pub(super) end: u32,
    pub(super) checksum: u32,
    /// Hashes of the tree pages that the run completes.
    pub(super) pages: &'a [Hash],
}

impl Totals {
    pub(super) fn of(rows: &[Row]) -> Self {
        let mut totals = Self::default();
        for (row, place) in rows.iter().zip(1..) {
            totals.records += u32::from(row.sort == Sort::Record);
            totals.retractions += u32::from(row.mark == Mark::Retraction);
            totals.answers += u32::from(row.mark == Mark::Answer);
            totals.unknown += u32::from(row.sort == Sort::Unknown);
            totals.payload += row.payload;
            if row.sort == Sort::Checkpoint {
                totals.checkpoint = place;
            }
        }
        totals
    }
}

/// Appends one table: its directory of buckets and its sorted rows.
fn put_table(directory: &mut Vec<u8>, out: &mut Vec<u8>, rows: &[u64], bits: u8, salt: Salt) {
    let mut at = 0;
    for bucket in 1..=1u64 << bits {
        let end = if bucket == 1 << bits {
            rows.len()
        } else {
            rows.partition_point(|row| row >> (64 - u32::from(bits)) < bucket)
        };
        let start = out.len();
        rows[at..end].iter().for_each(|row| out.extend_from_slice(&row.to_le_bytes()));
        directory.extend_from_slice(&narrow(end).to_le_bytes());
        directory.extend_from_slice(&salt.checksum(&out[start..]).to_le_bytes());
        at = end;
    }
}

fn bits_for(rows: usize) -> u8 {
    let bits = rows.max(1).ilog2().saturating_sub(BUCKET_BITS).min(SHARD_BITS);
    u8::try_from(bits).expect("at most eight")
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).expect("a block is shorter than 4 GiB")
}

/// The bytes of a block. `rows` are those of a run without lost entries, at most [`MAX_ENTRIES`].
pub(super) fn encode(sealing: &Sealing<'_>, salt: Salt) -> Vec<u8> {
    let Sealing { first, rows, names, end, checksum, pages } = sealing;
    let local = |place: usize| u64::from(u16::try_from(place).expect("at most MAX_ENTRIES"));
    let marked = rows.iter().enumerate().filter(|(_, row)| row.mark != Mark::Plain);
    let mut questions: Vec<u64> = marked.map(|(place, row)| (row.fact.question & !LOCAL) | local(place)).collect();
    questions.sort_unstable();
    let mut names: Vec<u64> = names.iter().map(|(name, place)| (name & !LOCAL) | u64::from(*place)).collect();
    names.sort_unstable();
    let (question_bits, name_bits) = (bits_for(questions.len()), bits_for(names.len()));

    // A row, both of its tables and the tree: more than that only where there are few rows.
    let mut out = Vec::with_capacity(HEADER + rows.len() * 80 + pages.len() * 32);
    out.resize(HEADER, 0);
    let epochs: Vec<u32> =
        (0..).zip(*rows).filter(|(_, row)| row.sort == Sort::Epoch).map(|(place, _)| place).collect();
    for place in &epochs {
        out.extend_from_slice(&place.to_le_bytes());
    }
    out.resize(out.len().next_multiple_of(8), 0);
    pages.iter().for_each(|page| out.extend_from_slice(page));
    let pages_sum = salt.checksum(&out[HEADER..]);
    let (mut directory, mut tables) = (Vec::new(), Vec::new());
    put_table(&mut directory, &mut tables, &questions, question_bits, salt);
    put_table(&mut directory, &mut tables, &names, name_bits, salt);
    out.extend_from_slice(&directory);
    out.extend_from_slice(&tables);
    let offsets = out.len();
    rows.iter().for_each(|row| out.extend_from_slice(&packed(row).to_le_bytes()));
    let offsets_sum = salt.checksum(&out[offsets..]);
    out.resize(out.len().next_multiple_of(8), 0);
    let facts = out.len();
    for Row { fact, .. } in *rows {
        out.extend_from_slice(&fact.question.to_le_bytes());
        out.extend_from_slice(&fact.answer.to_le_bytes());
    }
    let facts_sum = salt.checksum(&out[facts..]);
    let leaves = out.len();
    rows.iter().for_each(|row| out.extend_from_slice(&row.leaf));
    let tail = leaves + rows.len().saturating_sub(TAIL) * 32;
    let header = Header {
        len: narrow(out.len()),
        first: *first,
        count: narrow(rows.len()),
        start: rows.first().map_or(0, |row| row.offset),
        end: *end,
        last: Last { offset: rows.last().map_or(0, |row| row.offset), checksum: *checksum },
        totals: Totals::of(rows),
        epochs: narrow(epochs.len()),
        pages: narrow(pages.len()),
        questions: narrow(questions.len()),
        names: narrow(names.len()),
        question_bits,
        name_bits,
        sums: Sums {
            pages: pages_sum,
            offsets: offsets_sum,
            facts: facts_sum,
            leaves: salt.checksum(&out[leaves..]),
            tail: salt.checksum(&out[tail..]),
        },
    };
    header.put(&mut out[..HEADER], salt);
    out
}

/// Offset, mark and flag of an entry in 32 bits.
pub(super) fn packed(row: &Row) -> u32 {
    let mark = match row.mark {
        Mark::Plain => 0,
        Mark::Answer => 1,
        Mark::Retraction => 2,
    };
    (row.offset / 8) | mark << MARK_SHIFT | if row.announced { ANNOUNCED } else { 0 }
}

/// What [`packed`] put together: offset and whether the entry is announced.
pub(super) fn unpacked(bits: u32) -> (u32, bool) {
    ((bits & OFFSET) * 8, bits & ANNOUNCED != 0)
}

impl Header {
    fn put(&self, out: &mut [u8], salt: Salt) {
        let Self { last, totals, sums, .. } = self;
        out[..8].copy_from_slice(&MAGIC);
        out[16..24].copy_from_slice(&self.first.to_le_bytes());
        out[80..88].copy_from_slice(&totals.payload.to_le_bytes());
        (out[76], out[77]) = (self.question_bits, self.name_bits);
        let fields = [
            (8, VERSION),
            (12, self.len),
            (24, self.count),
            (28, self.start),
            (32, self.end),
            (36, last.offset),
            (40, last.checksum),
            (44, totals.records),
            (48, totals.retractions),
            (52, totals.unknown),
            (56, totals.answers),
            (60, self.epochs),
            (64, self.pages),
            (68, self.questions),
            (72, self.names),
            (88, sums.pages),
            (92, sums.offsets),
            (96, sums.facts),
            (100, sums.leaves),
            (104, sums.tail),
            (108, totals.checkpoint),
        ];
        for (at, value) in fields {
            out[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let sum = salt.checksum(&out[..124]);
        out[124..].copy_from_slice(&sum.to_le_bytes());
    }

    /// `None` if this is no whole header of a version that is known here, or if its numbers do not fit together.
    pub(super) fn decode(bytes: &[u8], salt: Salt) -> Option<Self> {
        let bytes = bytes.get(..HEADER)?;
        let field = |at| u32_at(bytes, at);
        if bytes[..8] != MAGIC || field(8)? != VERSION || field(124)? != salt.checksum(&bytes[..124]) {
            return None;
        }
        let header = Self {
            len: field(12)?,
            first: u64_at(bytes, 16)?,
            count: field(24)?,
            start: field(28)?,
            end: field(32)?,
            last: Last { offset: field(36)?, checksum: field(40)? },
            totals: Totals {
                records: field(44)?,
                retractions: field(48)?,
                unknown: field(52)?,
                answers: field(56)?,
                payload: u64_at(bytes, 80)?,
                checkpoint: field(108)?,
            },
            epochs: field(60)?,
            pages: field(64)?,
            questions: field(68)?,
            names: field(72)?,
            question_bits: bytes[76],
            name_bits: bytes[77],
            sums: Sums {
                pages: field(88)?,
                offsets: field(92)?,
                facts: field(96)?,
                leaves: field(100)?,
                tail: field(104)?,
            },
        };
        header.fits().then_some(header)
    }

    fn fits(&self) -> bool {
        let small = |n: u32| n as usize <= MAX_ENTRIES;
        let many = [self.count, self.epochs, self.pages, self.questions].into_iter().all(small);
        // A frame may have more than one payload.
        let names = u64::from(self.names) * 8 <= u64::from(self.len);
        let bits = u32::from(self.question_bits.max(self.name_bits)) <= SHARD_BITS;
        many && names
            && bits
            && self.count > 0
            && self.start <= self.last.offset
            && self.last.offset < self.end
            && self.totals.checkpoint <= self.count
            && self.leaves().end == self.len as usize
    }

    fn pages(&self) -> Range<usize> {
        let start = HEADER + (self.epochs as usize * 4).next_multiple_of(8);
        start..start + self.pages as usize * 32
    }

    fn directory(&self, table: Table) -> Range<usize> {
        let questions = self.pages().end..self.pages().end + (8 << self.question_bits);
        match table {
            Table::Questions => questions,
            Table::Names => questions.end..questions.end + (8 << self.name_bits),
        }
    }

    fn table(&self, table: Table) -> Range<usize> {
        let start = self.directory(Table::Names).end;
        let questions = start..start + self.questions as usize * 8;
        match table {
            Table::Questions => questions,
            Table::Names => questions.end..questions.end + self.names as usize * 8,
        }
    }

    /// Where the offsets lie in the block.
    pub(super) fn offsets(&self) -> Range<usize> {
        let start = self.table(Table::Names).end;
        start..start + self.count as usize * 4
    }

    /// Where the facts lie.
    pub(super) fn facts(&self) -> Range<usize> {
        let start = self.offsets().end.next_multiple_of(8);
        start..start + self.count as usize * 16
    }

    /// Where the leaves lie.
    pub(super) fn leaves(&self) -> Range<usize> {
        let start = self.facts().end;
        start..start + self.count as usize * 32
    }

    /// Where the last leaves lie, those that have a checksum of their own.
    pub(super) fn tail(&self) -> Range<usize> {
        let leaves = self.leaves();
        leaves.end - (self.count as usize).min(TAIL) * 32..leaves.end
    }

    /// Where epochs and pages lie.
    pub(super) fn tree(&self) -> Range<usize> {
        HEADER..self.pages().end
    }

    /// The places of epoch entries in the run, and the hashes of the pages that it completes; from the bytes at [`Self::tree`].
    pub(super) fn read_tree(&self, bytes: &[u8], salt: Salt) -> Option<(Vec<u32>, Vec<Hash>)> {
        if salt.checksum(bytes) != self.sums.pages || bytes.len() != self.tree().len() {
            return None;
        }
        let epochs = bytes[..self.epochs as usize * 4].chunks_exact(4).filter_map(|at| u32_at(at, 0)).collect();
        let pages = &bytes[self.pages().start - HEADER..];
        Some((epochs, hashes(pages)))
    }

    /// Checks the bytes at [`Self::offsets`].
    pub(super) fn offsets_hold(&self, bytes: &[u8], salt: Salt) -> bool {
        salt.checksum(bytes) == self.sums.offsets
    }

    /// The facts in the bytes at [`Self::facts`].
    pub(super) fn read_facts(&self, bytes: &[u8], salt: Salt) -> Option<Vec<Fact>> {
        let fact = |at: &[u8]| Some(Fact { question: u64_at(at, 0)?, answer: u64_at(at, 8)? });
        (salt.checksum(bytes) == self.sums.facts).then(|| bytes.chunks_exact(16).filter_map(fact).collect())
    }

    /// The leaves in the bytes at [`Self::leaves`].
    pub(super) fn read_leaves(&self, bytes: &[u8], salt: Salt) -> Option<Vec<Hash>> {
        (salt.checksum(bytes) == self.sums.leaves).then(|| hashes(bytes))
    }

    /// The leaves in the bytes at [`Self::tail`].
    pub(super) fn read_tail(&self, bytes: &[u8], salt: Salt) -> Option<Vec<Hash>> {
        (salt.checksum(bytes) == self.sums.tail).then(|| hashes(bytes))
    }

    /// Where the directory rows lie that say where bucket of `shard` begins and ends: one row, or two if it is not the first.
    pub(super) fn bucket_entry(&self, table: Table, shard: u8) -> Range<usize> {
        let directory = self.directory(table);
        let bits = match table {
            Table::Questions => self.question_bits,
            Table::Names => self.name_bits,
        };
        let bucket = usize::from(shard) >> (SHARD_BITS - u32::from(bits));
        let at = directory.start + bucket * 8;
        if bucket == 0 { at..at + 8 } else { at - 8..at + 8 }
    }

    /// Where a bucket lies and its checksum; from the bytes at [`Self::bucket_entry`].
    pub(super) fn bucket(&self, table: Table, entry: &[u8]) -> Option<(Range<usize>, u32)> {
        let rows = self.table(table);
        let before = if entry.len() > 8 { u32_at(entry, 0)? as usize } else { 0 };
        let own = entry.len() - 8;
        let (end, sum) = (u32_at(entry, own)? as usize, u32_at(entry, own + 4)?);
        let place = rows.start + before * 8..rows.start + end * 8;
        (before <= end && place.end <= rows.end).then_some((place, sum))
    }
}

/// The rows of a bucket that belong to `shard`: the upper bits of a fingerprint, and the place in the run.
pub(super) fn read_bucket(bytes: &[u8], sum: u32, shard: u8, salt: Salt) -> Option<Vec<(u64, u16)>> {
    if salt.checksum(bytes) != sum {
        return None;
    }
    let rows = bytes.chunks_exact(8).filter_map(|row| u64_at(row, 0));
    let own = rows.filter(|row| shard_of(*row) == shard);
    Some(own.map(|row| (row & !LOCAL, u16::try_from(row & LOCAL).expect("sixteen bits"))).collect())
}

/// Which of 256 shards a fingerprint belongs to.
pub(super) fn shard_of(fingerprint: u64) -> u8 {
    u8::try_from(fingerprint >> (64 - SHARD_BITS)).expect("eight bits")
}

/// The part of a fingerprint that a block's tables keep.
pub(super) fn kept(fingerprint: u64) -> u64 {
    fingerprint & !LOCAL
}

fn hashes(bytes: &[u8]) -> Vec<Hash> {
    bytes.chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect()
}
