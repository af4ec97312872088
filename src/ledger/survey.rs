//! Looking at a ledger without opening it: every frame, every hash, every payload, and exactly what is wrong.
//!
//! Recovery believes index files where their checksums hold; a survey reads the frames themselves and makes every hash again. It changes
//! nothing, needs no lock and no key, and may run beside a node that is writing: then the newest entries may look torn.
//! Invariant: nothing is held in memory but one segment, the tree of one epoch, and the names of blobs.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::{Digest, EpochId, NodeId};
use crate::identity::Verifier;
use crate::proof::EvidenceError;
use crate::reply::BlobRef;

use super::blobs;
use super::entry::{Entry, Parent};
use super::error::{Cause, Damage, OpenError};
use super::floor::{Crossing, Floor};
use super::frame::{FORMAT, HEADER, Header, Salt};
use super::lanes;
use super::limits::OUTBOARD_FROM;
use super::outboard::Verdict;
use super::reader::Stored;
use super::scan::{self, scan};
use super::state::{SEGMENTS, segment_path};
use super::storage::{Storage, StorageFile};
use super::tree::PagedTree;

/// Payloads in frames whose digests are made at once.
const SIDE_BY_SIDE: usize = 64;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Finding {
    /// A damaged place in a segment.
    Damage(Damage),
    /// Bytes at the end of the newest segment that are no whole entry: being written right now, or cut off at the next opening.
    Tail {
        /// First sequence number of the segment.
        segment: u64,
        /// Where the last whole entry ends.
        offset: u64,
        /// How many bytes follow.
        bytes: u64,
    },
    /// A payload whose bytes are not those of its digest.
    PayloadDamaged {
        /// The entry that names it.
        seq: u64,
        /// The payload.
        blob: BlobRef,
    },
    /// A payload that is nowhere.
    PayloadMissing {
        /// The entry that names it.
        seq: u64,
        /// The payload.
        blob: BlobRef,
    },
    /// An adopted record whose proof or signature does not hold.
    NotProven {
        /// The entry.
        seq: u64,
        /// Why not.
        why: EvidenceError,
    },
    /// A blob file that no entry names: a left-over, harmless.
    Orphan(Digest),
    /// The outboard of a blob is missing or damaged; it is made anew when a range is read.
    Outboard(Digest),
}

impl Finding {
    /// Whether something is lost or wrong; otherwise it is a remark.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        !matches!(self, Self::Tail { .. } | Self::Orphan(_) | Self::Outboard(_))
    }
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Damage(Damage { segment, offset, bytes, lost, cause }) => {
                write!(f, "segment {segment}, byte {offset}: {cause} ({bytes} bytes)")?;
                match lost.end - lost.start {
                    0 => Ok(()),
                    1 => write!(f, "; entry {} is lost", lost.start),
                    count => write!(f, "; {count} entries are lost, {} to {}", lost.start, lost.end - 1),
                }
            }
            Self::Tail { segment, offset, bytes } => {
                write!(f, "segment {segment}, byte {offset}: {bytes} bytes at the end are no whole entry")
            }
            Self::PayloadDamaged { seq, blob } => {
                write!(f, "entry {seq}: payload {} ({} bytes) is damaged", blob.digest, blob.len)
            }
            Self::PayloadMissing { seq, blob } => {
                write!(f, "entry {seq}: payload {} ({} bytes) is missing", blob.digest, blob.len)
            }
            Self::NotProven { seq, why } => write!(f, "entry {seq}: {why}"),
            Self::Orphan(digest) => write!(f, "blob {digest}: no entry names it"),
            Self::Outboard(digest) => write!(f, "blob {digest}: its outboard is missing or damaged"),
        }
    }
}

/// What a survey comes across, in order.
#[derive(Debug)]
pub enum Sight<'a> {
    /// This many more bytes were read.
    Progress(u64),
    /// An entry.
    Entry {
        /// The entry.
        stored: &'a Stored,
        /// First sequence number of its segment.
        segment: u64,
        /// Where its frame lies in the segment.
        place: Range<u64>,
    },
    /// Something that is not as it should be.
    Finding(Finding),
}

/// A segment file.
struct SegmentFile {
    first: u64,
    len: u64,
    file: Arc<dyn StorageFile>,
}

/// A ledger that is looked at. See the module.
pub struct Survey<'a> {
    storage: &'a dyn Storage,
    node: NodeId,
    segments: Vec<SegmentFile>,
    misplaced: Vec<Damage>,
    floor: Option<Floor>,
}

impl<'a> Survey<'a> {
    /// Finds the segments. `None` if there is no ledger.
    pub fn open(storage: &'a dyn Storage) -> Result<Option<Self>, OpenError> {
        let at = |path: &str| {
            let path = storage.locate(path);
            move |source| OpenError::io(path, source)
        };
        let names = match storage.list(SEGMENTS) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            names => names.map_err(at(SEGMENTS))?,
        };
        let (mut found, mut misplaced, mut owner) = (Vec::new(), Vec::new(), None);
        for name in names {
            let path = format!("{SEGMENTS}/{name}");
            let first = name.strip_suffix(".seg").and_then(|first| first.parse().ok());
            let Some(first) = first.filter(|first| segment_path(*first) == path) else {
                misplaced.push(Damage { segment: 0, offset: 0, bytes: 0, lost: 0..0, cause: Cause::Misplaced });
                continue;
            };
            let file = storage.open_lasting(&path).map_err(at(&path))?;
            let len = file.len().map_err(at(&path))?;
            let head = file.read_exact(0, usize::try_from(len).unwrap_or(HEADER).min(HEADER)).map_err(at(&path))?;
            let header = Header::decode(&head);
            if let Some(Header { format, .. }) = header
                && format > FORMAT
            {
                return Err(OpenError::Newer { path: storage.locate(&path), found: format, known: FORMAT });
            }
            owner = owner.or(header.filter(|header| header.first == first).map(|header| header.node));
            found.push((SegmentFile { first, len, file }, header));
        }
        let Some(node) = owner else { return Ok(None) };
        let mut segments = Vec::new();
        for (file, header) in found {
            if header.is_some_and(|header| header.first != file.first || header.node != node) {
                let (segment, bytes) = (file.first, file.len);
                misplaced.push(Damage { segment, offset: 0, bytes, lost: 0..0, cause: Cause::Misplaced });
            } else {
                segments.push(file);
            }
        }
        segments.sort_by_key(|segment| segment.first);
        let floor = Floor::load(storage)?.filter(|floor| floor.node == node);
        // What a crash has left of segments that were being dropped.
        segments.retain(|segment| floor.as_ref().is_none_or(|floor| segment.first >= floor.first));
        Ok(Some(Self { storage, node, segments, misplaced, floor }))
    }

    /// Whose ledger it is.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// The first entry that was not dropped with its segment.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor.as_ref().map_or(0, |floor| floor.first)
    }

    /// The first sequence number of each segment.
    #[must_use]
    pub fn segments(&self) -> impl DoubleEndedIterator<Item = u64> + ExactSizeIterator {
        self.segments.iter().map(|segment| segment.first)
    }

    /// Bytes of the segments from the one that holds this position on.
    #[must_use]
    pub fn bytes(&self, from: u64) -> u64 {
        self.segments[self.start(from)..].iter().map(|segment| segment.len).sum()
    }

    fn start(&self, from: u64) -> usize {
        self.segments.partition_point(|segment| segment.first <= from).saturating_sub(1)
    }

    /// Reads the segments from the one that holds the position `from` on, and hands over what it comes across. Payload files and proofs are
    /// not looked at; see [`Survey::verify`].
    pub fn walk(&self, from: u64, visit: &mut dyn FnMut(Sight<'_>)) -> Result<(), OpenError> {
        for damage in &self.misplaced {
            visit(Sight::Finding(Finding::Damage(damage.clone())));
        }
        let start = self.start(from);
        let mut next = if start == 0 { self.floor() } else { self.segments[start].first };
        let mut buffer = Bytes::new();
        for (position, segment) in self.segments.iter().enumerate().skip(start) {
            let io = |source| OpenError::io(self.storage.locate(&segment_path(segment.first)), source);
            if segment.first < next {
                let cause = Cause::DuplicateSegment;
                let damage = Damage { segment: segment.first, offset: 0, bytes: segment.len, lost: 0..0, cause };
                visit(Sight::Finding(Finding::Damage(damage)));
                continue;
            }
            if segment.first > next {
                let cause = Cause::MissingSegment;
                let damage = Damage { segment: segment.first, offset: 0, bytes: 0, lost: next..segment.first, cause };
                visit(Sight::Finding(Finding::Damage(damage)));
            }
            let bytes = reread(&*segment.file, segment.len, buffer).map_err(io)?;
            next = self.segment(segment, &bytes, self.segments.get(position + 1), visit);
            buffer = bytes;
        }
        Ok(())
    }

    /// Looks at the bytes of one segment; returns the sequence number after its last entry.
    fn segment(
        &self,
        segment: &SegmentFile,
        bytes: &Bytes,
        following: Option<&SegmentFile>,
        visit: &mut dyn FnMut(Sight<'_>),
    ) -> u64 {
        let (first, last) = (segment.first, following.is_none());
        let damage = |place: Range<u64>, lost, cause| {
            let (offset, bytes) = (place.start, place.end - place.start);
            Sight::Finding(Finding::Damage(Damage { segment: first, offset, bytes, lost, cause }))
        };
        if Header::decode(bytes).is_none() && !(last && bytes.len() <= HEADER) {
            visit(damage(0..HEADER as u64, 0..0, Cause::Header));
        }
        let base = bytes.len().min(HEADER);
        let place = scan::Place {
            salt: Salt::new(self.node, first),
            base: base as u64,
            next: first,
            owner: self.node,
            torn: last,
        };
        let (mut next, mut at) = (first, base as u64);
        let end = scan(&bytes.slice(base..), place, &mut |found| match found {
            scan::Found::Entry(scan::Seen { stored, end, .. }) => {
                visit(Sight::Entry { stored, segment: first, place: at..end });
                (next, at) = (stored.seq + 1, end);
            }
            scan::Found::Lost { place, seqs, cause } => {
                (next, at) = (seqs.end, place.end);
                visit(damage(place, seqs, cause));
            }
            scan::Found::Payload { place } => visit(damage(place, next..next, Cause::Payload)),
        });
        let end = base + end;
        if bytes[end..].iter().any(|byte| *byte != 0) {
            let (offset, len) = (end as u64, (bytes.len() - end) as u64);
            match following {
                None => visit(Sight::Finding(Finding::Tail { segment: first, offset, bytes: len })),
                Some(following) => {
                    let until = following.first.max(next);
                    visit(damage(offset..offset + len, next..until, Cause::Frame));
                    next = until;
                }
            }
        }
        visit(Sight::Progress(segment.len));
        next
    }

    /// Verifies everything: frames, payloads, the root of every epoch that a later one names, adopted proofs and signatures, blob files.
    /// Payloads are hashed side by side, so that what is wrong with one of them is told a few entries later.
    pub fn verify(&self, verifier: &dyn Verifier, visit: &mut dyn FnMut(Sight<'_>)) -> Result<(), OpenError> {
        let epoch = self.floor.as_ref().and_then(|floor| {
            let Crossing { id, start, .. } = floor.epoch.as_ref()?;
            let tree = floor.epoch.as_ref()?.tree(floor.first);
            Some(Chain { id: *id, start: *start, tree })
        });
        let (payloads, wanted, evicted) = (Vec::new(), BTreeMap::new(), BTreeSet::new());
        let mut check = Check { verifier, epoch, payloads, wanted, evicted };
        self.walk(0, &mut |sight| {
            match &sight {
                Sight::Entry { stored, segment, .. } => {
                    check.entry(stored, *segment).into_iter().for_each(|finding| visit(Sight::Finding(finding)));
                }
                // A lost entry's leaf is unknown, so the root of its epoch cannot be made any more.
                Sight::Finding(Finding::Damage(damage)) if !damage.lost.is_empty() => {
                    check.epoch.iter_mut().for_each(|epoch| epoch.tree.break_off());
                }
                // The memory of this segment is used again for the next one.
                Sight::Progress(_) => {
                    check.damaged_payloads().into_iter().for_each(|finding| visit(Sight::Finding(finding)));
                }
                Sight::Finding(_) => {}
            }
            visit(sight);
        })?;
        self.blobs(&check, visit).map_err(|source| OpenError::io(self.storage.locate(blobs::DIR), source))
    }

    fn blobs(&self, check: &Check<'_>, visit: &mut dyn FnMut(Sight<'_>)) -> io::Result<()> {
        let mut there = BTreeSet::new();
        for shard in self.list(blobs::DIR)?.into_iter().filter(|name| name.len() == 2) {
            let names = self.list(&format!("{}/{shard}", blobs::DIR))?;
            let files = names.iter().filter_map(|name| blobs::digest_of(name));
            there.extend(files.filter_map(|(digest, is_outboard)| (!is_outboard).then_some(digest)));
        }
        for (digest, (seq, blob)) in &check.wanted {
            if there.remove(digest) {
                match self.blob(blob, visit)? {
                    Verdict::Holds => {}
                    Verdict::Differs => visit(Sight::Finding(Finding::PayloadDamaged { seq: *seq, blob: *blob })),
                    Verdict::Outboard => visit(Sight::Finding(Finding::Outboard(*digest))),
                }
            } else if !check.evicted.contains(digest) {
                visit(Sight::Finding(Finding::PayloadMissing { seq: *seq, blob: *blob }));
            }
        }
        for orphan in there {
            visit(Sight::Finding(Finding::Orphan(orphan)));
        }
        Ok(())
    }

    /// Hashes a whole blob and holds it and its outboard against the digest.
    fn blob(&self, blob: &BlobRef, visit: &mut dyn FnMut(Sight<'_>)) -> io::Result<Verdict> {
        let file = self.storage.open(&blobs::path(&blob.digest))?;
        let outboard = match self.storage.open(&blobs::outboard_path(&blob.digest)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            opened => Some(opened?),
        };
        let mut same = true;
        let digest = blobs::hash(&*file, &mut |parents, at| {
            if let Some(outboard) = outboard.as_ref().filter(|_| same) {
                let mut there = vec![0; parents.len()];
                same = outboard.read_at(&mut there, at)? == parents.len() && there == parents;
            }
            Ok(())
        })?;
        let len = file.len()?;
        visit(Sight::Progress(len));
        let wanted = len >= OUTBOARD_FROM;
        Ok(match () {
            () if len != blob.len || digest != blob.digest => Verdict::Differs,
            () if wanted && (outboard.is_none() || !same) => Verdict::Outboard,
            () => Verdict::Holds,
        })
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        match self.storage.list(dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            names => names,
        }
    }
}

/// A whole file, in the memory of the one before it unless somebody kept a part of that: fresh memory costs as much as reading.
fn reread(file: &dyn StorageFile, len: u64, before: Bytes) -> io::Result<Bytes> {
    let len = usize::try_from(len).map_err(io::Error::other)?;
    let mut bytes = before.try_into_mut().unwrap_or_default();
    bytes.resize(len, 0);
    if file.read_at(&mut bytes, 0)? < len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(bytes.freeze())
}

/// The epoch under way.
struct Chain {
    id: EpochId,
    start: u64,
    /// Of the leaves up to the first lost one.
    tree: PagedTree,
}

struct Check<'a> {
    verifier: &'a dyn Verifier,
    epoch: Option<Chain>,
    /// Payloads in frames, of the entries that were seen last.
    payloads: Vec<(u64, BlobRef, Bytes)>,
    /// Payloads that should have files of their own, and an entry that names each.
    wanted: BTreeMap<Digest, (u64, BlobRef)>,
    evicted: BTreeSet<Digest>,
}

impl Check<'_> {
    fn entry(&mut self, stored: &Stored, segment: u64) -> Vec<Finding> {
        let mut findings = Vec::new();
        match &stored.entry {
            Entry::Epoch { epoch, start, parent, .. } if *start == stored.seq => {
                findings.extend(self.parent(parent.as_ref(), segment));
                self.epoch = Some(Chain { id: *epoch, start: *start, tree: PagedTree::default() });
            }
            Entry::Adopted(evidence) => {
                let seq = stored.seq;
                findings.extend(evidence.verify(self.verifier).err().map(|why| Finding::NotProven { seq, why }));
            }
            Entry::Evicted { payloads, .. } => self.evicted.extend(payloads),
            _ => {}
        }
        if let Some(chain) = &mut self.epoch {
            chain.tree.push(stored.leaf());
        }
        for (blob, bytes) in stored.payloads() {
            match bytes {
                Some(bytes) => self.payloads.push((stored.seq, blob, bytes)),
                None => findings.push(Finding::PayloadDamaged { seq: stored.seq, blob }),
            }
        }
        if self.payloads.len() >= SIDE_BY_SIDE {
            findings.extend(self.damaged_payloads());
        }
        for blob in stored.entry.record().iter().flat_map(|record| record.blobs()) {
            if !stored.inline().any(|inline| inline == blob) {
                self.wanted.entry(blob.digest).or_insert((stored.seq, blob));
            }
        }
        findings
    }

    /// Holds the payloads that wait for it against their digests.
    fn damaged_payloads(&mut self) -> Vec<Finding> {
        let bytes: Vec<&[u8]> = self.payloads.iter().map(|(.., bytes)| &**bytes).collect();
        let found = self.payloads.iter().zip(lanes::digests(&bytes));
        let damaged = found.filter(|((_, blob, _), digest)| *digest != blob.digest);
        let findings = damaged.map(|((seq, blob, _), _)| Finding::PayloadDamaged { seq: *seq, blob: *blob }).collect();
        self.payloads.clear();
        findings
    }

    /// Holds the epoch under way against what the next one says about it.
    fn parent(&self, parent: Option<&Parent>, segment: u64) -> Option<Finding> {
        let (chain, parent) = (self.epoch.as_ref()?, parent?);
        let same = (chain.id, chain.start) == (parent.epoch, parent.start);
        // Only the last page is needed, and that is in memory, unless the epoch was cut back: then no root can be made.
        let root = chain.tree.root(parent.length, &mut |_| Ok::<_, Infallible>(Arc::default()));
        let holds = same && (chain.tree.is_broken() || root == Ok(Some(parent.root)));
        let cause = Cause::RootDiffers(parent.epoch);
        (!holds).then_some(Finding::Damage(Damage { segment, offset: 0, bytes: 0, lost: 0..0, cause }))
    }
}
