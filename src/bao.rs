//! The part of a payload's BLAKE3 tree that lies above leaves of 16 KiB: it proves any chunk of the payload without the rest of it.
//!
//! After the "outboard" encoding of the [Bao specification], with 16 of its chunks for a leaf and the parents in post order, so that it can be
//! written while the payload streams past. A parent is two chaining values, 64 bytes. What proves a chunk to somebody who has only the digest
//! is less: the chaining values of the subtrees beside it, from left to right. With those of its own leaves too ([`LeavesClaim`]) it may come
//! leaf by leaf, and each leaf is proven alone. Invariant: a [`ProvenChunk`] is made by proving it, and in no other way. This module knows
//! no I/O.
//!
//! [Bao specification]: https://github.com/oconnor663/bao/blob/master/docs/spec.md

mod chunk;
mod hasher;
mod leaves;
mod start;
#[cfg(test)]
pub(crate) mod tests;
pub(crate) mod wide;

use std::ops::Range;

use blake3::hazmat::HasherExt;

pub use self::chunk::{ChunkClaim, ChunkProof, ProvenChunk, Unproven, proof_of};
pub use self::hasher::{TreeHasher, of};
pub use self::leaves::{LeavesClaim, ProvenLeaves};
pub use self::start::ProvenStart;
use crate::proof::Hash;

/// Bytes of one leaf: 16 chunks, so that one leaf is hashed with all lanes of the processor.
pub const LEAF: u64 = 16 * 1024;
/// Bytes of one parent.
pub const PARENT: u64 = 64;

/// Payloads beyond this length have no proof: far more than can be stored, and its tree is within 64 bits.
const MAX_LEN: u64 = 1 << 60;

/// How long the outboard of a payload is.
#[must_use]
pub fn outboard_len(payload: u64) -> u64 {
    (payload.div_ceil(LEAF).max(1) - 1) * PARENT
}

/// The smallest range of whole leaves that has these bytes of a payload.
#[must_use]
pub fn leaves(range: &Range<u64>, payload: u64) -> Range<u64> {
    range.start / LEAF * LEAF..range.end.next_multiple_of(LEAF).min(payload)
}

/// Whether a range consists of whole leaves of a payload of that length, at least one.
#[must_use]
pub fn is_whole_leaves(range: &Range<u64>, payload: u64) -> bool {
    range.start < range.end
        && range.end <= payload
        && payload <= MAX_LEN
        && range.start.is_multiple_of(LEAF)
        && (range.end.is_multiple_of(LEAF) || range.end == payload)
}

/// The chaining value of these bytes at this place, which are one subtree and not all of their payload.
pub(crate) fn leaf_value(offset: u64, bytes: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}
