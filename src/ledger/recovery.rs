//! Opening: what is on the disk, what of it is whole, and what was lost.
//!
//! Reading comes first and changes nothing, so a refusal leaves the directory as it was. Then files that do not belong are moved to
//! `quarantine/`, and the torn tail of the newest segment is cut. Damage in the middle is left where it is and reported at every opening.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

use crate::id::NodeId;
use crate::proof;

use super::blobs;
use super::entry::{Entry, Parent};
use super::error::{Cause, Cut, Damage, OpenError, Recovery};
use super::frame::{ALIGN, FORMAT, Frame, HEADER, Header, Salt, resync};
use super::reader::Stored;
use super::state::{Epoch, QUARANTINE, SEGMENTS, Segment, Slot, State, log_item, segment_path};
use super::storage::{Storage, StorageFile, read_all, read_exact};

/// What recovery found.
pub(super) struct Recovered {
    pub(super) state: State,
    pub(super) report: Recovery,
    /// Where the next frame goes in the newest segment.
    pub(super) end: u64,
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
    visit: &'a mut dyn FnMut(&Stored),
    state: State,
    report: Recovery,
    /// Where the whole frames of the newest segment so far end, and how long its file is.
    tail: Option<(u64, u64)>,
    /// Names to move to quarantine.
    misplaced: Vec<String>,
}

/// Reads the whole ledger, hands every entry to `visit`, and mends what can be mended.
pub(super) fn recover(
    storage: &dyn Storage,
    node: NodeId,
    visit: &mut dyn FnMut(&Stored),
) -> Result<Recovered, OpenError> {
    let at = |path: &str| {
        let path = storage.locate(path);
        move |source| OpenError::io(path, source)
    };
    for dir in [SEGMENTS, blobs::DIR] {
        storage.create_dir(dir).map_err(at(dir))?;
    }
    storage.sync_dir("").map_err(at(""))?;
    let mut replay = Replay {
        storage,
        node,
        visit,
        state: State::default(),
        report: Recovery::default(),
        tail: None,
        misplaced: Vec::new(),
    };
    let candidates = replay.candidates()?;
    let count = candidates.len();
    let mut torn_creation = None;
    for (position, candidate) in candidates.into_iter().enumerate() {
        let last = position + 1 == count;
        if candidate.header.is_none() && last && candidate.len <= HEADER as u64 {
            torn_creation = Some((candidate.name, candidate.first, candidate.len));
            continue;
        }
        let path = segment_path(candidate.first);
        let bytes = Bytes::from(read_all(&*candidate.file).map_err(at(&path))?);
        replay.segment(candidate, &bytes, last);
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
    for name in storage.list(blobs::DIR).map_err(at(blobs::DIR))? {
        if name.starts_with(blobs::TEMP_PREFIX) {
            let path = format!("{}/{name}", blobs::DIR);
            storage.remove(&path).map_err(at(&path))?;
        }
    }
    let end = replay.cut()?;
    replay.report.entries = replay.state.length();
    replay.report.segments = replay.state.segments.len() as u64;
    Ok(Recovered { state: replay.state, report: replay.report, end })
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
            let file = self.storage.open(&path).map_err(io)?;
            let len = file.len().map_err(io)?;
            let head = read_exact(&*file, 0, len.min(HEADER as u64).try_into().unwrap_or(0)).map_err(io)?;
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

    /// Reads one segment, in order of their names.
    fn segment(&mut self, candidate: Candidate, bytes: &Bytes, last: bool) {
        let Candidate { name, first, file, len, header } = candidate;
        let salt = Salt::new(self.node, first);
        let next = self.state.length();
        if first < next {
            return self.misplaced(&name, first, len, Cause::DuplicateSegment);
        }
        if header.is_none() {
            // The header is durable before the first frame is written: without one, only frames can say that this is a segment.
            if resync(bytes, salt, HEADER, |seq| seq >= first).is_none() {
                return self.misplaced(&name, first, len, Cause::Misplaced);
            }
            let cause = Cause::Header;
            self.report.report(Damage { segment: first, offset: 0, bytes: HEADER as u64, lost: 0..0, cause });
        }
        self.close_tail(first);
        self.state.segments.push(Segment { first, file });
        let end = self.frames(bytes, salt, last);
        self.tail = Some((end, bytes.len() as u64));
    }

    /// The newest segment so far turns out not to be the last one: what its frames leave open up to `first` is lost.
    fn close_tail(&mut self, first: u64) {
        let next = self.state.length();
        let segment = self.state.segments.last().map_or(0, |segment| segment.first);
        match self.tail.take() {
            Some((end, len)) if end < len => self.lose(segment, end..len, next..first, Cause::Frame),
            _ if next < first => self.lose(segment, 0..0, next..first, Cause::MissingSegment),
            _ => {}
        }
    }

    fn lose(&mut self, segment: u64, place: Range<u64>, lost: Range<u64>, cause: Cause) {
        self.state.slots.extend(lost.clone().map(|_| Slot::LOST));
        self.report.report(Damage { segment, offset: place.start, bytes: place.end - place.start, lost, cause });
    }

    /// Reads the frames of the newest segment; returns where the whole ones end.
    fn frames(&mut self, bytes: &Bytes, salt: Salt, last: bool) -> u64 {
        let segment = self.state.segments.last().expect("just pushed").first;
        let mut at = HEADER.min(bytes.len());
        while at < bytes.len() {
            let next = self.state.length();
            let rest = bytes.slice(at..);
            let frame = Frame::parse(&rest, salt, at as u64).filter(|frame| frame.seq == next);
            let Some(frame) = frame else {
                let Some(found) = resync(bytes, salt, at + ALIGN, |seq| seq > next) else { break };
                let seq = Frame::parse(&bytes[found..], salt, found as u64).map_or(next, |frame| frame.seq);
                self.lose(segment, at as u64..found as u64, next..seq, Cause::Frame);
                at = found;
                continue;
            };
            let end = at + frame.len;
            if !frame.payloads_whole {
                if last && resync(bytes, salt, end, |seq| seq > next).is_none() {
                    break;
                }
                self.lose(segment, at as u64..end as u64, next..next, Cause::Payload);
            }
            let len = frame.len.min(rest.len());
            self.entry(&frame, &rest.slice(..len), at);
            at += len;
        }
        at as u64
    }

    fn entry(&mut self, frame: &Frame, bytes: &Bytes, offset: usize) {
        let stored = Stored::new(frame, bytes);
        match stored.entry {
            Entry::Epoch { epoch, start, parent, node, .. } if start == stored.seq && node == self.node => {
                if let Some(parent) = parent {
                    self.parent(&parent);
                }
                self.state.epochs.push(Epoch { id: epoch, start, tree: proof::Tree::default() });
            }
            Entry::Unknown { .. } | Entry::Epoch { .. } => self.report.unknown += 1,
            Entry::Observed(_) | Entry::Adopted(_) | Entry::Retracted { .. } => {}
        }
        let item = log_item(stored.entry.record().as_deref(), stored.announced);
        self.state.push_leaf(stored.seq, proof::leaf_hash(frame.kind, &frame.body(bytes)));
        let narrow = |n: usize| u32::try_from(n).expect("longer segments are quarantined");
        self.state.slots.push(Slot {
            segment: narrow(self.state.segments.len() - 1),
            offset: narrow(offset),
            len: narrow(bytes.len()),
            item,
        });
        (self.visit)(&stored);
    }

    /// Holds the history against what the next epoch says about it.
    fn parent(&mut self, parent: &Parent) {
        let segment = self.state.segments.last().map_or(0, |segment| segment.first);
        let known = self.state.epochs.last().map(|epoch| (epoch.id, epoch.start));
        if known == Some((parent.epoch, parent.start)) {
            let epoch = self.state.epochs.last_mut().expect("just seen");
            if epoch.tree.root(parent.length).is_some_and(|root| root != parent.root) {
                epoch.tree = proof::Tree::default();
                let cause = Cause::RootDiffers(parent.epoch);
                self.report.report(Damage { segment, offset: 0, bytes: 0, lost: 0..0, cause });
            }
        } else if known.is_none_or(|(_, start)| start < parent.start) && parent.start < self.state.length() {
            // The entry that opened it is lost: its place is known from here, and that nothing of it can be proven.
            let tree = proof::Tree::default();
            self.state.epochs.push(Epoch { id: parent.epoch, start: parent.start, tree });
        } else {
            let cause = Cause::RootDiffers(parent.epoch);
            self.report.report(Damage { segment, offset: 0, bytes: 0, lost: 0..0, cause });
        }
    }

    /// Cuts the newest segment back to its last whole frame; returns where that ends.
    fn cut(&mut self) -> Result<u64, OpenError> {
        let (Some((end, len)), Some(segment)) = (self.tail, self.state.segments.last()) else { return Ok(0) };
        if end < len {
            let place = self.storage.locate(&segment_path(segment.first));
            let cut = || {
                segment.file.set_len(end)?;
                segment.file.sync()
            };
            cut().map_err(|source| OpenError::io(place, source))?;
            self.report.cut = Some(Cut { segment: segment.first, offset: end, bytes: len - end });
        }
        Ok(end)
    }
}
