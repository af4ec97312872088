//! The bytes of a segment: its header and its frames. Pure functions; `docs/ledger-format.md` is the specification.
//!
//! Two checksums: one over what makes the entry (so that a damaged payload costs that payload and nothing else), one over the inline
//! payloads. Both are seeded with node, segment and offset, so that bytes copied from elsewhere never pass for a frame.

use std::ops::Range;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::id::{Digest, NodeId};
use crate::reply::BlobRef;

use super::limits::{INLINE_TOTAL, MAX_BODY, MAX_PAYLOADS};

/// Length of a segment header, and the offset of the first frame.
pub(super) const HEADER: usize = 64;
/// The format that is written here, and the newest that is read.
pub(super) const FORMAT: u32 = 1;

const SEGMENT_MAGIC: [u8; 8] = *b"EVMLEDGR";
const FRAME_MAGIC: [u8; 4] = *b"EVMf";
/// Length of a frame's fixed part.
pub(super) const FIXED: usize = 32;
/// Length of one row of a frame's payload table.
const ROW: usize = 36;
/// Frames begin at multiples of this.
pub(super) const ALIGN: usize = 8;
const ANNOUNCED: u8 = 1;

/// What a segment header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) format: u32,
    pub(super) node: NodeId,
    pub(super) first: u64,
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(&SEGMENT_MAGIC);
        bytes[8..12].copy_from_slice(&self.format.to_le_bytes());
        bytes[16..48].copy_from_slice(self.node.as_bytes());
        bytes[48..56].copy_from_slice(&self.first.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// `None` if this is no whole header. Magic, format and checksum keep their places in every format.
    pub(super) fn decode(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; HEADER] = bytes.get(..HEADER)?.try_into().ok()?;
        let sound = bytes[..8] == SEGMENT_MAGIC && u32_at(bytes, 60)? == crc32c::crc32c(&bytes[..60]);
        let node = NodeId::from_bytes(bytes[16..48].try_into().ok()?);
        sound.then_some(Self { format: u32_at(bytes, 8)?, node, first: u64_at(bytes, 48)? })
    }
}

/// What the checksums of a segment's frames start from.
#[derive(Debug, Clone, Copy)]
pub(super) struct Salt(u32);

impl Salt {
    pub(super) fn new(node: NodeId, first: u64) -> Self {
        Self(crc32c::crc32c_append(crc32c::crc32c(node.as_bytes()), &first.to_le_bytes()))
    }

    /// The checksum of an index block's bytes.
    pub(super) fn checksum(self, bytes: &[u8]) -> u32 {
        crc32c::crc32c_append(self.0, bytes)
    }

    fn at(self, offset: u64) -> u32 {
        crc32c::crc32c_append(self.0, &offset.to_le_bytes())
    }
}

/// What a frame is made of.
pub(super) struct Parts<'a> {
    pub(super) seq: u64,
    pub(super) kind: u8,
    pub(super) announced: bool,
    pub(super) body: &'a [u8],
    pub(super) payloads: &'a [(BlobRef, &'a Bytes)],
}

/// Appends a frame that will lie at `offset` of its segment; returns its length.
pub(super) fn encode(out: &mut Vec<u8>, salt: Salt, offset: u64, parts: &Parts<'_>) -> usize {
    let start = out.len();
    let length = |n: usize| u32::try_from(n).expect("bounded by MAX_BODY and INLINE_TOTAL").to_le_bytes();
    let payload_len: usize = parts.payloads.iter().map(|(_, bytes)| bytes.len()).sum();
    out.extend_from_slice(&FRAME_MAGIC);
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(&parts.seq.to_le_bytes());
    out.extend_from_slice(&length(parts.body.len()));
    out.extend_from_slice(&length(payload_len));
    out.extend_from_slice(&[0; 4]);
    out.push(parts.kind);
    out.push(if parts.announced { ANNOUNCED } else { 0 });
    out.extend_from_slice(&u16::try_from(parts.payloads.len()).expect("bounded by MAX_PAYLOADS").to_le_bytes());
    out.extend_from_slice(parts.body);
    for (name, bytes) in parts.payloads {
        out.extend_from_slice(name.digest.as_bytes());
        out.extend_from_slice(&length(bytes.len()));
    }
    let head_end = out.len();
    parts.payloads.iter().for_each(|(_, bytes)| out.extend_from_slice(bytes));
    out.resize(start + (out.len() - start).next_multiple_of(ALIGN), 0);

    let seed = salt.at(offset);
    let payload_checksum = crc32c::crc32c_append(seed, &out[head_end..]);
    out[start + 24..start + 28].copy_from_slice(&payload_checksum.to_le_bytes());
    let head_checksum = crc32c::crc32c_append(seed, &out[start + 8..head_end]);
    out[start + 4..start + 8].copy_from_slice(&head_checksum.to_le_bytes());
    out.len() - start
}

/// Names and places of inline payloads; most frames have one, and few more than two.
pub(super) type Inline = SmallVec<[(BlobRef, Range<usize>); 2]>;

/// A frame whose entry is whole. Ranges are relative to its start.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) seq: u64,
    pub(super) kind: u8,
    pub(super) announced: bool,
    pub(super) body: Range<usize>,
    /// Names and places of the inline payloads.
    pub(super) payloads: Inline,
    /// Length up to the next frame.
    pub(super) len: usize,
    /// Whether the inline payloads match their checksum.
    pub(super) payloads_whole: bool,
}

impl Frame {
    /// Reads the frame at the start of `bytes`, which lies at `offset` of its segment. `None` if its entry is not whole.
    pub(super) fn parse(bytes: &[u8], salt: Salt, offset: u64) -> Option<Self> {
        if bytes.get(..4)? != FRAME_MAGIC {
            return None;
        }
        let (body_len, payload_len) = (u32_at(bytes, 16)? as usize, u32_at(bytes, 20)? as usize);
        let count = usize::from(u16::from_le_bytes(bytes.get(30..32)?.try_into().ok()?));
        if body_len > MAX_BODY || payload_len > INLINE_TOTAL || count > MAX_PAYLOADS {
            return None;
        }
        let body = FIXED..FIXED + body_len;
        let head_end = body.end + count * ROW;
        let seed = salt.at(offset);
        if crc32c::crc32c_append(seed, bytes.get(8..head_end)?) != u32_at(bytes, 4)? {
            return None;
        }
        let mut payloads = Inline::with_capacity(count);
        let mut at = head_end;
        for row in bytes[body.end..head_end].chunks_exact(ROW) {
            let len = u32_at(row, 32)?;
            let end = at + len as usize;
            let name = BlobRef { digest: Digest::from_bytes(row[..32].try_into().ok()?), len: u64::from(len) };
            payloads.push((name, at..end));
            at = end;
        }
        if at != head_end + payload_len {
            return None;
        }
        let len = at.next_multiple_of(ALIGN);
        let rest = bytes.get(head_end..len);
        let payloads_whole =
            rest.is_some_and(|rest| crc32c::crc32c_append(seed, rest) == u32_at(bytes, 24).unwrap_or(0));
        let announced = bytes[29] & ANNOUNCED != 0;
        Some(Self { seq: u64_at(bytes, 8)?, kind: bytes[28], announced, body, payloads, len, payloads_whole })
    }

    /// The body, from the same bytes that the frame was parsed from.
    pub(super) fn body(&self, bytes: &Bytes) -> Bytes {
        bytes.slice(self.body.clone())
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

/// Whether these bytes are the fixed part of the frame with this sequence number and entry checksum.
pub(super) fn is_frame(fixed: &[u8], seq: u64, checksum: u32) -> bool {
    fixed.starts_with(&FRAME_MAGIC) && u32_at(fixed, 4) == Some(checksum) && u64_at(fixed, 8) == Some(seq)
}

/// The first place at or after `from` (a multiple of [`ALIGN`]) where a whole entry with an acceptable sequence number begins.
///
/// `bytes` lie at `base` of the segment; all places are relative to it.
pub(super) fn resync(bytes: &[u8], salt: Salt, base: u64, from: usize, accept: impl Fn(u64) -> bool) -> Option<usize> {
    (from..bytes.len())
        .step_by(ALIGN)
        .filter(|at| bytes[*at..].starts_with(&FRAME_MAGIC))
        .find(|at| Frame::parse(&bytes[*at..], salt, base + *at as u64).is_some_and(|frame| accept(frame.seq)))
}
