//! A chunk that comes leaf by leaf: first the chaining values of its leaves, which lead to the digest, then whatever is held against one of them.

use bytes::Bytes;

use super::chunk::{ChunkProof, Inside, Proof, ProvenChunk, Unproven};
use super::{LEAF, is_whole_leaves, leaf_value};
use crate::proof::Hash;
use crate::reply::BlobRef;

/// Chaining values that are said to be those of the leaves of a chunk, and what shall prove them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeavesClaim {
    /// The payload; it has more than one leaf.
    pub blob: BlobRef,
    /// Where in it the chunk is; a multiple of [`LEAF`].
    pub offset: u64,
    /// How long it is.
    pub len: u32,
    /// The proof.
    pub proof: ChunkProof,
}

/// The leaves of a chunk, known by their chaining values: whatever comes can be held against them, one leaf at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenLeaves {
    blob: BlobRef,
    offset: u64,
    len: u32,
    leaves: Vec<Hash>,
}

impl LeavesClaim {
    /// Holds the chaining values against the payload's digest.
    pub fn prove(self) -> Result<ProvenLeaves, Unproven> {
        let Self { blob, offset, len, proof: ChunkProof { siblings, leaves } } = self;
        let end = offset.checked_add(u64::from(len)).ok_or(Unproven::Misplaced)?;
        if !is_whole_leaves(&(offset..end), blob.len) || blob.len <= LEAF {
            return Err(Unproven::Misplaced);
        }
        if leaves.len() as u64 != u64::from(len).div_ceil(LEAF) {
            return Err(Unproven::Length);
        }
        Proof { range: offset..end, inside: Inside::Leaves(&leaves), siblings: siblings.iter() }.leads_to(blob)?;
        Ok(ProvenLeaves { blob, offset, len, leaves })
    }
}

impl ProvenLeaves {
    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.leaves.len()
    }

    /// Holds bytes against one of the leaves.
    pub fn prove(&self, number: u32, bytes: Bytes) -> Result<ProvenChunk, Unproven> {
        let leaf = usize::try_from(number).ok().and_then(|number| self.leaves.get(number));
        let expected = leaf.ok_or(Unproven::Misplaced)?;
        let start = u64::from(number) * LEAF;
        if bytes.len() as u64 != LEAF.min(u64::from(self.len) - start) {
            return Err(Unproven::Misplaced);
        }
        let offset = self.offset + start;
        if leaf_value(offset, &bytes) != *expected {
            return Err(Unproven::Differs(self.blob.digest));
        }
        Ok(ProvenChunk { blob: self.blob, offset, bytes })
    }
}
