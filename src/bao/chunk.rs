//! A chunk with the chaining values beside it: making the proof, and holding it against a digest.

use std::ops::Range;

use blake3::hazmat::{Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{LEAF, is_whole_leaves, leaf_value};
use crate::id::Digest;
use crate::proof::Hash;
use crate::reply::BlobRef;

/// Bytes that are said to be part of a payload, and what shall prove it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkClaim {
    /// The payload.
    pub blob: BlobRef,
    /// Where in it the bytes are; a multiple of [`LEAF`].
    pub offset: u64,
    /// The bytes: whole leaves, and as many as the proof is for.
    pub bytes: Bytes,
    /// The chaining values of the subtrees beside them, from left to right; none if the bytes are the whole payload.
    pub siblings: Vec<Hash>,
}

/// Bytes that are part of a payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenChunk {
    pub(super) blob: BlobRef,
    pub(super) offset: u64,
    pub(super) bytes: Bytes,
}

/// Why a chunk is not believed. Every one of these is the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unproven {
    /// The bytes are not whole leaves of the payload.
    #[error("a chunk is not made of whole leaves of its payload")]
    Misplaced,
    /// There are more or fewer chaining values than this chunk needs.
    #[error("the proof of a chunk has another length than it needs")]
    Length,
    /// Bytes and chaining values do not lead to the digest.
    #[error("a chunk is not part of the payload that the record names ({0:?})")]
    Differs(Digest),
}

impl ChunkClaim {
    /// Holds the bytes against the payload's digest.
    pub fn prove(self) -> Result<ProvenChunk, Unproven> {
        let Self { blob, offset, bytes, siblings } = self;
        let end = offset.checked_add(bytes.len() as u64).ok_or(Unproven::Misplaced)?;
        if !is_whole_leaves(&(offset..end), blob.len) {
            return Err(Unproven::Misplaced);
        }
        if bytes.len() as u64 == blob.len {
            let holds = Digest::of(&bytes) == blob.digest;
            return match (holds, siblings.is_empty()) {
                (true, true) => Ok(ProvenChunk { blob, offset, bytes }),
                (true, false) => Err(Unproven::Length),
                (false, _) => Err(Unproven::Differs(blob.digest)),
            };
        }
        Proof { range: offset..end, inside: Inside::Bytes(&bytes), siblings: siblings.iter() }.leads_to(blob)?;
        Ok(ProvenChunk { blob, offset, bytes })
    }
}

/// What proves a chunk: the chaining values of the subtrees beside it, and of its own leaves if the payload has more than one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkProof {
    /// Beside it, from left to right; none if it is the whole payload.
    pub siblings: Vec<Hash>,
    /// Its leaves, from left to right.
    pub leaves: Vec<Hash>,
}

/// What proves whole leaves of a payload that is here.
#[must_use]
pub fn proof_of(payload: &[u8], range: &Range<u64>) -> ChunkProof {
    let mut proof = ChunkProof::default();
    let len = payload.len() as u64;
    if len > LEAF {
        let middle = left_subtree_len(len);
        collect(payload, 0..middle, range, &mut proof);
        collect(payload, middle..len, range, &mut proof);
    }
    proof
}

fn collect(payload: &[u8], span: Range<u64>, range: &Range<u64>, proof: &mut ChunkProof) {
    let outside = span.end <= range.start || range.end <= span.start;
    if outside || span.end - span.start <= LEAF {
        let value = subtree_of(payload, &span);
        if outside { proof.siblings.push(value) } else { proof.leaves.push(value) }
    } else {
        let middle = span.start + left_subtree_len(span.end - span.start);
        collect(payload, span.start..middle, range, proof);
        collect(payload, middle..span.end, range, proof);
    }
}

/// The chaining value of a subtree of a payload that is here.
fn subtree_of(payload: &[u8], span: &Range<u64>) -> Hash {
    let place = |at: u64| usize::try_from(at).map_or(payload.len(), |at| at.min(payload.len()));
    leaf_value(span.start, &payload[place(span.start)..place(span.end)])
}

/// A chunk and its siblings, on the way to the root that they make.
pub(super) struct Proof<'a> {
    pub(super) range: Range<u64>,
    pub(super) inside: Inside<'a>,
    pub(super) siblings: std::slice::Iter<'a, Hash>,
}

/// What is known of the chunk itself.
pub(super) enum Inside<'a> {
    Bytes(&'a [u8]),
    Leaves(&'a [Hash]),
}

impl Proof<'_> {
    /// Whether all of it leads to the digest of a payload that has more than the chunk's own subtree, or more than one leaf of it.
    pub(super) fn leads_to(mut self, blob: BlobRef) -> Result<(), Unproven> {
        let root = self.children(0..blob.len).map(|(left, right)| merge_subtrees_root(&left, &right, Mode::Hash));
        match root {
            None => Err(Unproven::Length),
            Some(_) if self.siblings.len() > 0 => Err(Unproven::Length),
            Some(root) if root.as_bytes() != blob.digest.as_bytes() => Err(Unproven::Differs(blob.digest)),
            Some(_) => Ok(()),
        }
    }

    /// The chaining values of both halves of a subtree that has the chunk and more; `None` if there are too few siblings.
    fn children(&mut self, span: Range<u64>) -> Option<(Hash, Hash)> {
        let middle = span.start + left_subtree_len(span.end - span.start);
        Some((self.subtree(span.start..middle)?, self.subtree(middle..span.end)?))
    }

    fn subtree(&mut self, span: Range<u64>) -> Option<Hash> {
        if span.end <= self.range.start || self.range.end <= span.start {
            return self.siblings.next().copied();
        }
        if self.range.start <= span.start && span.end <= self.range.end {
            let place = |at: u64| usize::try_from(at - self.range.start).ok();
            match self.inside {
                Inside::Bytes(bytes) => {
                    return Some(leaf_value(span.start, bytes.get(place(span.start)?..place(span.end)?)?));
                }
                Inside::Leaves(leaves) if span.end - span.start <= LEAF => {
                    return leaves.get(usize::try_from((span.start - self.range.start) / LEAF).ok()?).copied();
                }
                Inside::Leaves(_) => {}
            }
        }
        let (left, right) = self.children(span)?;
        Some(merge_subtrees_non_root(&left, &right, Mode::Hash))
    }
}

impl ProvenChunk {
    /// The payload that it is part of.
    #[must_use]
    pub fn blob(&self) -> BlobRef {
        self.blob
    }

    /// Where in the payload it is.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many bytes it has.
    #[expect(clippy::len_without_is_empty, reason = "a chunk has at least one byte")]
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Its bytes.
    #[must_use]
    pub fn into_bytes(self) -> Bytes {
        self.bytes
    }
}
