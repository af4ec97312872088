//! Opening: what is on the disk, what of it is whole, and what was lost.
//!
//! Reading comes first and changes nothing, so a refusal leaves the directory as it was. What the index files cover is not read again;
//! frames behind them are. Then files that do not belong are moved to `quarantine/`, and the torn tail of the newest segment is cut.
//! Damage that is found in the middle is left where it is and reported at every opening.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::NodeId;
use crate::proof;

use super::blobs;
use super::block;
use super::compact;
use super::entry::{Entry, Parent};
use super::error::{Cause, Cut, Damage, OpenError, Recovery};
use super::floor::{self, Floor};
use super::frame::{FIXED, FORMAT, Frame, HEADER, Header, Salt, is_frame, resync};
use super::limits::ROOM_STEP;
use super::room::SPARE;
use super::row::Row;
use super::run::{Run, Segment};
use super::scan::{self, Found, scan};
use super::seal::IndexFile;
use super::state::{Epoch, INDEX, QUARANTINE, SEGMENTS, State, index_path, leaves, segment_path};
use super::storage::{Storage, StorageFile};
use super::tree::{PAGE, PagedTree};

/// What recovery found.
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) report: Recovery,
    /// The newest segment's index.
    pub(super) index: IndexFile,
    /// Where the next frame goes in the newest segment.
    pub(super) end: u64,
    /// How long that segment's file is: bytes behind the last frame are zero.
    pub(super) room: u64,
}

/// A segment file that was found, before its frames are read.
struct Candidate {
    name: String,
    first: u64,
    file: Arc<dyn StorageFile>,
    len: u64,
    header: Option<Header>,
}

struct Replay<'a> {
    storage: &'a dyn Storage,
    node: NodeId,
    state: State,
    report: Recovery,
    /// The index of the newest segment so far.
    index: IndexFile,
    tail: Option<Tail>,
    /// Names to move to quarantine.
    misplaced: Vec<String>,
}

/// Finds out what the ledger consists of, and mends what can be mended.
pub(super) fn recover(storage: &dyn Storage, node: NodeId) -> Result<Recovered, OpenError> {
    let at = |path: &str| {
        let path = storage.locate(path);
        move |source| OpenError::io(path, source)
    };
    for dir in [SEGMENTS, INDEX, blobs::DIR] {
        storage.create_dir(dir).map_err(at(dir))?;
    }
    storage.sync_dir("").map_err(at(""))?;
    let mut replay = Replay {
        storage,
        node,
        state: begin(storage, node)?,
        report: Recovery::default(),
        index: IndexFile::default(),
        tail: None,
        misplaced: Vec::new(),
    };
    let mut candidates = replay.candidates()?;
    // What a crash has left of segments that were being dropped.
    let forgotten = candidates.partition_point(|candidate| candidate.first < replay.state.floor);
    let forgotten: Vec<u64> = candidates.drain(..forgotten).map(|candidate| candidate.first).collect();
    let count = candidates.len();
    let mut torn_creation = None;
    for (position, candidate) in candidates.into_iter().enumerate() {
        let last = position + 1 == count;
        if candidate.header.is_none() && last && candidate.len <= HEADER as u64 {
            torn_creation = Some((candidate.name, candidate.first, candidate.len));
            continue;
        }
        let path = segment_path(candidate.first);
        replay.segment(candidate, last).map_err(at(&path))?;
    }
    for first in forgotten {
        floor::forget(storage, first).map_err(at(&segment_path(first)))?;
    }
    for name in std::mem::take(&mut replay.misplaced) {
        quarantine(storage, &name).map_err(at(&format!("{SEGMENTS}/{name}")))?;
    }
    if let Some((name, segment, bytes)) = torn_creation {
        let path = format!("{SEGMENTS}/{name}");
        storage.remove(&path).map_err(at(&path))?;
        replay.report.cut = Some(Cut { segment, offset: 0, bytes });
    }
    // Names that were made but not synced before this process began become durable here.
    storage.sync_dir(SEGMENTS).map_err(at(SEGMENTS))?;
    for left in [SPARE, compact::TEMP] {
        match storage.remove(left) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(at(left)(error)),
            _ => {}
        }
    }
    for name in storage.list(blobs::DIR).map_err(at(blobs::DIR))? {
        if name.starts_with(blobs::TEMP_PREFIX) {
            let path = format!("{}/{name}", blobs::DIR);
            storage.remove(&path).map_err(at(&path))?;
        }
    }
    let (end, room) = replay.cut()?;
    let Replay { mut state, mut report, index, .. } = replay;
    if state.open.rows.is_empty() {
        // The index covers every frame of the newest segment: what is trimmed before the next one is made ends here all the same.
        state.open.end = u32::try_from(end).expect("a segment is shorter than 4 GiB");
    }
    report.entries = state.length();
    report.segments = state.segments.len() as u64;
    report.unknown = state.totals().unknown;
    Ok(Recovered { state, report, index, end, room })
}

/// What is known before the first segment is read: where the ledger begins.
fn begin(storage: &dyn Storage, node: NodeId) -> Result<State, OpenError> {
    let mut state = State::default();
    // Another node's is of no concern here; its segments say the same, and are refused.
    if let Some(floor) = Floor::load(storage)?.filter(|floor| floor.node == node && floor.first > 0) {
        let first = floor.first;
        state.epochs.extend(floor.epoch.as_ref().map(|epoch| Epoch {
            id: epoch.id,
            start: epoch.start,
            tree: epoch.tree(first),
        }));
        state.raise(floor);
        state.open.first = first;
    }
    Ok(state)
}

/// Moves a file out of the way, never over another one.
fn quarantine(storage: &dyn Storage, name: &str) -> io::Result<()> {
    storage.create_dir(QUARANTINE)?;
    storage.sync_dir("")?;
    let taken = storage.list(QUARANTINE)?;
    let free = (0..=taken.len()).map(|n| format!("{name}.{n}")).find(|free| !taken.contains(free)).unwrap_or_default();
    storage.rename(&format!("{SEGMENTS}/{name}"), &format!("{QUARANTINE}/{free}"))?;
    storage.sync_dir(QUARANTINE)
}

impl Replay<'_> {
    /// Finds the segments, and refuses the directory if it is another node's or of a newer format.
    fn candidates(&mut self) -> Result<Vec<Candidate>, OpenError> {
        let mut candidates = Vec::new();
        let names = self.storage.list(SEGMENTS).map_err(|e| OpenError::io(self.storage.locate(SEGMENTS), e))?;
        for name in names {
            let path = format!("{SEGMENTS}/{name}");
            let place = self.storage.locate(&path);
            let first = name.strip_suffix(".seg").and_then(|first| first.parse().ok());
            let Some(first) = first.filter(|first| segment_path(*first) == path) else {
                self.misplaced(&name, 0, 0, Cause::Misplaced);
                continue;
            };
            let io = |source| OpenError::io(place.clone(), source);
            let file = self.storage.open_lasting(&path).map_err(io)?;
            let len = file.len().map_err(io)?;
            let head = file.read_exact(0, len.min(HEADER as u64).try_into().unwrap_or(0)).map_err(io)?;
            let header = Header::decode(&head);
            if let Some(Header { format, .. }) = header
                && format > FORMAT
            {
                return Err(OpenError::Newer { path: place, found: format, known: FORMAT });
            }
            if let Some(Header { node, .. }) = header
                && node != self.node
            {
                return Err(OpenError::OtherNode { path: place, found: node, expected: self.node });
            }
            if header.is_some_and(|header| header.first != first) || u32::try_from(len).is_err() {
                self.misplaced(&name, first, len, Cause::Misplaced);
                continue;
            }
            candidates.push(Candidate { name, first, file, len, header });
        }
        candidates.sort_by_key(|candidate| candidate.first);
        Ok(candidates)
    }

    fn misplaced(&mut self, name: &str, segment: u64, bytes: u64, cause: Cause) {
        self.misplaced.push(name.to_owned());
        self.report.report(Damage { segment, offset: 0, bytes, lost: 0..0, cause });
    }

    /// Takes in one segment, in order of their names.
    fn segment(&mut self, candidate: Candidate, last: bool) -> io::Result<()> {
        let Candidate { name, first, file, len, header } = candidate;
        let salt = Salt::new(self.node, first);
        if first < self.state.length() {
            self.misplaced(&name, first, len, Cause::DuplicateSegment);
            return Ok(());
        }
        if header.is_none() {
            // The header is durable before the first frame is written: without one, only frames can say that this is a segment.
            let bytes = file.read_exact(0, usize::try_from(len).map_err(io::Error::other)?)?;
            if resync(&bytes, salt, 0, HEADER, |seq| seq >= first).is_none() {
                self.misplaced(&name, first, len, Cause::Misplaced);
                return Ok(());
            }
            let cause = Cause::Header;
            self.report.report(Damage { segment: first, offset: 0, bytes: HEADER as u64, lost: 0..0, cause });
        }
        self.close_tail(first)?;
        let segment = Segment::new(self.node, first, Some(file.clone()));
        self.state.segments.push(segment.clone());
        let indexed = self.indexed(&segment, len)?;
        let data = data_end(&*file, indexed, len)?;
        let rest = file.read_exact(indexed, usize::try_from(data - indexed).map_err(io::Error::other)?)?;
        let rest = Bytes::from(rest);
        let place = scan::Place { salt, base: indexed, next: self.state.length(), owner: self.node, torn: last };
        let end = scan(&rest, place, &mut |found| self.found(found));
        let is_room = is_zero(&rest[end..]);
        self.tail = Some(Tail { end: indexed + end as u64, len, is_room });
        Ok(())
    }

    /// The newest segment so far turns out not to be the last one: what its frames leave open up to `first` is lost.
    fn close_tail(&mut self, first: u64) -> io::Result<()> {
        let next = self.state.length();
        let segment = self.state.segments.last().map_or(0, |segment| segment.first);
        let lost = match self.tail.take() {
            Some(Tail { end, len, is_room }) if end < len && !(is_room && next == first) => {
                Some((end..len, Cause::Frame))
            }
            _ if next < first => Some((0..0, Cause::MissingSegment)),
            _ => None,
        };
        if let Some(segment) = self.state.segments.last().cloned() {
            std::mem::take(&mut self.index).seal(self.storage, &mut self.state, &segment)?;
            segment.file()?.settle();
        }
        let Some((place, cause)) = lost else { return Ok(()) };
        if next < first {
            let owner = self.state.segments.last().cloned();
            let owner = owner.unwrap_or_else(|| Segment::new(self.node, next, None));
            self.state.runs.push(Arc::new(Run::lost(owner, &(next..first))));
            self.state.open.first = first;
            self.break_epoch();
        }
        self.report.report(Damage {
            segment,
            offset: place.start,
            bytes: place.end - place.start,
            lost: next..first,
            cause,
        });
        Ok(())
    }

    fn break_epoch(&mut self) {
        if let Some(epoch) = self.state.epochs.last_mut() {
            epoch.tree.break_off();
        }
    }

    /// Takes in what the index file of a segment covers; returns where in the segment that ends.
    fn indexed(&mut self, segment: &Arc<Segment>, len: u64) -> io::Result<u64> {
        let start = (HEADER as u64).min(len);
        let file = match self.storage.open_lasting(&index_path(segment.first)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(start),
            other => other?,
        };
        let (mut at, mut covered) = (0, start);
        let mut blocks = self.blocks(segment, &file, len)?;
        // The newest block may speak of frames that a restored copy does not have.
        while let Some((_, header)) = blocks.last() {
            let mut fixed = [0; FIXED];
            segment.file()?.read_at(&mut fixed, u64::from(header.last.offset))?;
            if is_frame(&fixed, header.first + u64::from(header.count) - 1, header.last.checksum) {
                break;
            }
            blocks.pop();
        }
        for (place, header) in blocks {
            let run = Run::filed(segment.clone(), file.clone(), place, header);
            if !self.run(run)? {
                break;
            }
            (at, covered) = (place + u64::from(header.len), u64::from(header.end));
        }
        self.index = IndexFile::resume(file, at)?;
        Ok(covered)
    }

    /// The headers of the blocks that follow each other in an index file, with their places.
    fn blocks(
        &self,
        segment: &Segment,
        file: &Arc<dyn StorageFile>,
        len: u64,
    ) -> io::Result<Vec<(u64, block::Header)>> {
        let all = file.len()?;
        let (mut at, mut next, mut start) = (0, self.state.length(), HEADER as u64);
        let mut blocks = Vec::new();
        while at + block::HEADER as u64 <= all {
            let bytes = file.read_exact(at, block::HEADER)?;
            let Some(header) = block::Header::decode(&bytes, segment.salt) else { break };
            let fits = header.first == next && u64::from(header.start) == start && u64::from(header.end) <= len;
            if !fits || at + u64::from(header.len) > all {
                break;
            }
            blocks.push((at, header));
            at += u64::from(header.len);
            next += u64::from(header.count);
            start = u64::from(header.end);
        }
        Ok(blocks)
    }

    /// Takes in a run with its index; `false` if the index does not hold.
    fn run(&mut self, run: Run) -> io::Result<bool> {
        let Some((epochs, pages)) = run.tree()? else { return Ok(false) };
        let range = run.range();
        let mut opened = Vec::new();
        for place in epochs {
            let seq = range.start + u64::from(place);
            let Some(Entry::Epoch { epoch, parent, .. }) = self.epoch_entry(&run, seq)? else { return Ok(false) };
            opened.push((seq, epoch, parent));
        }
        let mut pages = pages.into_iter();
        let run = Arc::new(run);
        self.state.runs.push(run.clone());
        let mut from = range.start;
        for (seq, epoch, parent) in opened {
            self.stretch(&run, from..seq, &mut pages)?;
            from = seq;
            self.state.open.first = seq;
            self.epoch(epoch, seq, parent.as_ref());
        }
        self.stretch(&run, from..range.end, &mut pages)?;
        self.state.open.first = range.end;
        Ok(true)
    }

    fn epoch_entry(&self, run: &Run, seq: u64) -> io::Result<Option<Entry>> {
        let Some(place) = run.place(seq)? else { return Ok(None) };
        let bytes = Bytes::from(run.segment.file()?.read_exact(u64::from(place.offset), place.len as usize)?);
        let Some(frame) = Frame::parse(&bytes, run.segment.salt, u64::from(place.offset)) else { return Ok(None) };
        let entry = Entry::read(frame.kind, &frame.body(&bytes));
        let opens = matches!(&entry, Entry::Epoch { start, node, .. } if *start == seq && *node == self.node);
        Ok((frame.seq == seq && frame.payloads_whole && opens).then_some(entry))
    }

    /// Grows the newest epoch's tree by entries of an indexed run.
    fn stretch(&mut self, run: &Run, seqs: Range<u64>, pages: &mut dyn Iterator<Item = proof::Hash>) -> io::Result<()> {
        let Some(epoch) = self.state.epochs.last_mut().filter(|epoch| !epoch.tree.is_broken()) else { return Ok(()) };
        let (from, to) = (seqs.start - epoch.start, seqs.end - epoch.start);
        let wanted = usize::try_from(to / PAGE - from / PAGE).expect("a run is small");
        let completed: Vec<_> = pages.take(wanted).collect();
        let behind = to % PAGE;
        let tail = if behind <= seqs.end - seqs.start {
            run.leaves(seqs.end - behind..seqs.end, true)?
        } else {
            let mut tail = epoch.tree.tail().to_vec();
            tail.extend(run.leaves(seqs, true)?);
            tail
        };
        if completed.len() == wanted && tail.len() as u64 == behind && epoch.tree.len() == from {
            epoch.tree.extend(&completed, tail);
        } else {
            epoch.tree.break_off();
        }
        Ok(())
    }

    /// Takes in what a scan found.
    fn found(&mut self, found: Found<'_>) {
        let segment = self.state.segments.last().map_or(0, |segment| segment.first);
        let mut report = |place: Range<u64>, lost, cause| {
            let bytes = place.end - place.start;
            self.report.report(Damage { segment, offset: place.start, bytes, lost, cause });
        };
        self.state.open.damaged |= !matches!(found, Found::Entry(_));
        match found {
            Found::Payload { place } => report(place, self.state.length()..self.state.length(), Cause::Payload),
            Found::Lost { place, seqs, cause } => {
                report(place.clone(), seqs.clone(), cause);
                let end = u32::try_from(place.end).expect("longer segments are quarantined");
                seqs.for_each(|_| self.state.push(Row::LOST, end, None));
            }
            Found::Entry(seen) => {
                let (stored, row) = (seen.stored, seen.row());
                if let Entry::Epoch { epoch, start, parent, node, .. } = stored.entry
                    && start == stored.seq
                    && node == self.node
                {
                    self.epoch(epoch, start, parent.as_ref());
                }
                let names = stored.inline().map(|name| (name.digest.fingerprint(), stored.seq));
                self.state.open.names.extend(names);
                let end = u32::try_from(seen.end).expect("longer segments are quarantined");
                self.state.push(row, end, None);
            }
        }
    }

    fn epoch(&mut self, id: crate::id::EpochId, start: u64, parent: Option<&Parent>) {
        if let Some(parent) = parent {
            self.parent(parent);
        }
        self.state.epochs.push(Epoch { id, start, tree: PagedTree::default() });
    }

    /// Holds the history against what the next epoch says about it.
    fn parent(&mut self, parent: &Parent) {
        let segment = self.state.segments.last().map_or(0, |segment| segment.first);
        let known = self.state.epochs.last().map(|epoch| (epoch.id, epoch.start));
        if known == Some((parent.epoch, parent.start)) {
            let root = self.root(parent.length);
            let epoch = self.state.epochs.last_mut().expect("just seen");
            if root.is_some_and(|root| root != parent.root) {
                epoch.tree = PagedTree::default();
                epoch.tree.break_off();
                let cause = Cause::RootDiffers(parent.epoch);
                self.report.report(Damage { segment, offset: 0, bytes: 0, lost: 0..0, cause });
            }
        } else if known.is_none_or(|(_, start)| start < parent.start) && parent.start < self.state.length() {
            // The entry that opened it is lost: its place is known from here, and that nothing of it can be proven.
            let mut tree = PagedTree::default();
            tree.break_off();
            self.state.epochs.push(Epoch { id: parent.epoch, start: parent.start, tree });
        } else {
            let cause = Cause::RootDiffers(parent.epoch);
            self.report.report(Damage { segment, offset: 0, bytes: 0, lost: 0..0, cause });
        }
    }

    /// The root of the newest epoch.
    fn root(&self, length: u64) -> Option<proof::Hash> {
        let epoch = self.state.epochs.last()?;
        let start = epoch.start;
        let mut fetch = |page: u64| {
            let leaves = leaves(&self.state, start + page * PAGE..start + (page + 1) * PAGE, true)?;
            Ok::<_, (u64, io::Error)>(Arc::new(leaves.into_iter().collect()))
        };
        epoch.tree.root(length, &mut fetch).ok().flatten()
    }

    /// Cuts the newest segment back to its last whole frame; returns where that ends, and how long the file is.
    fn cut(&mut self) -> Result<(u64, u64), OpenError> {
        let (Some(Tail { end, len, is_room }), Some(segment)) = (&self.tail, self.state.segments.last()) else {
            return Ok((0, 0));
        };
        let (end, len) = (*end, *len);
        if *is_room {
            return Ok((end, len));
        }
        {
            let place = self.storage.locate(&segment_path(segment.first));
            let cut = || {
                let file = segment.file()?;
                file.set_len(end)?;
                file.sync()
            };
            cut().map_err(|source| OpenError::io(place, source))?;
            self.report.cut = Some(Cut { segment: segment.first, offset: end, bytes: len - end });
        }
        Ok((end, end))
    }
}

/// Where the zeros at a file's end begin, at or after `from`; to the byte only if they are few.
fn data_end(file: &dyn StorageFile, from: u64, len: u64) -> io::Result<u64> {
    let mut end = len.max(from);
    let mut piece = Vec::new();
    while end - from > ROOM_STEP as u64 {
        piece.resize(ROOM_STEP, 0);
        let start = end - ROOM_STEP as u64;
        file.read_at(&mut piece, start)?;
        if !is_zero(&piece) {
            break;
        }
        end = start;
    }
    Ok(end)
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(4096).all(|chunk| chunk.iter().fold(0, |sum, byte| sum | byte) == 0)
}

/// The newest segment so far.
struct Tail {
    /// Where its whole frames end.
    end: u64,
    /// How long its file is.
    len: u64,
    /// Whether nothing but zeros, or nothing at all, is behind the frames.
    is_room: bool,
}
