//! Reading the frames of a stretch of a segment one after another, and going on behind damage.

use std::ops::Range;

use bytes::Bytes;

use crate::id::NodeId;

use super::entry::Entry;
use super::error::Cause;
use super::frame::{Frame, Salt, resync};
use super::reader::Stored;
use super::row::{Row, Sort};

/// Where the bytes that are scanned lie, and what is expected there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub(super) salt: Salt,
    /// Their offset in the segment.
    pub(super) base: u64,
    /// The sequence number of the first entry.
    pub(super) next: u64,
    /// Whose ledger it is.
    pub(super) owner: NodeId,
    /// Whether they are the end of the newest segment: then a frame at their end whose payloads are not whole may never have been.
    pub(super) torn: bool,
}

/// An entry whose frame is whole.
pub(super) struct Seen<'a> {
    pub(super) stored: &'a Stored,
    /// Where its frame begins.
    offset: u32,
    /// Where its frame ends.
    pub(super) end: u64,
    owner: NodeId,
}

impl Seen<'_> {
    /// What the index keeps of it.
    pub(super) fn row(&self) -> Row {
        let (stored, (_, body)) = (self.stored, self.stored.source());
        let mut row = Row::new(&stored.entry, &body, stored.announced, self.offset);
        if matches!(stored.entry, Entry::Epoch { start, node, .. } if start != stored.seq || node != self.owner) {
            row.sort = Sort::Unknown;
        }
        row
    }
}

/// What was found; offsets are those in the segment.
pub(super) enum Found<'a> {
    Entry(Seen<'a>),
    /// Bytes that are no frame, with entries after them.
    Lost {
        place: Range<u64>,
        seqs: Range<u64>,
        cause: Cause,
    },
    /// Inline payloads that do not match their checksum; their entry follows.
    Payload {
        place: Range<u64>,
    },
}

/// Hands what it finds to `visit`, in order; returns where the last whole frame ends, in `bytes`.
pub(super) fn scan(bytes: &Bytes, place: Place, visit: &mut dyn FnMut(Found<'_>)) -> usize {
    let Place { salt, base, mut next, owner, torn } = place;
    let mut at = 0;
    while at < bytes.len() {
        let offset = base + at as u64;
        let rest = bytes.slice(at..);
        let Some(frame) = Frame::parse(&rest, salt, offset).filter(|frame| frame.seq == next) else {
            let Some(found) = resync(bytes, salt, base, at, |seq| seq > next) else { break };
            let seq = Frame::parse(&bytes[found..], salt, base + found as u64).map_or(next, |frame| frame.seq);
            visit(Found::Lost { place: offset..base + found as u64, seqs: next..seq, cause: Cause::Frame });
            (at, next) = (found, seq);
            continue;
        };
        let end = at + frame.len;
        if !frame.payloads_whole {
            if torn && resync(bytes, salt, base, end, |seq| seq > next).is_none() {
                break;
            }
            visit(Found::Payload { place: offset..base + end as u64 });
        }
        let frame_bytes = rest.slice(..frame.len.min(rest.len()));
        let stored = Stored::new(frame, &frame_bytes);
        let offset = u32::try_from(offset).expect("longer segments are quarantined");
        at += frame_bytes.len();
        visit(Found::Entry(Seen { stored: &stored, offset, end: base + at as u64, owner }));
        next += 1;
    }
    at.min(bytes.len())
}
