//! The part of a payload's BLAKE3 tree that lies above leaves of 16 KiB: it proves any chunk of the payload without the rest of it.
//!
//! After the "outboard" encoding of the [Bao specification], with 16 of its chunks for a leaf and the parents in post order, so that it can be
//! written while the payload streams past. A parent is two chaining values, 64 bytes. What proves a chunk to somebody who has only the digest
//! is less: the chaining values of the subtrees beside it, from left to right. With those of its own leaves too ([`LeavesClaim`]) it may come
//! leaf by leaf, and each leaf is proven alone. Invariant: a [`ProvenChunk`] is made by proving it, and in no other way. This module knows
//! no I/O.
//!
//! [Bao specification]: https://github.com/oconnor663/bao/blob/master/docs/spec.md

pub(crate) mod wide;

use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::Digest;
use crate::proof::Hash;
use crate::reply::BlobRef;

/// Bytes of one leaf: 16 chunks, so that one leaf is hashed with all lanes of the processor.
pub const LEAF: u64 = 16 * 1024;
/// Bytes of one parent.
pub const PARENT: u64 = 64;

/// Makes the digest and the outboard of bytes that come in pieces.
#[derive(Debug)]
pub struct TreeHasher {
    /// The chaining values of complete subtrees, largest first.
    stack: Vec<Hash>,
    /// Complete leaves that are in the stack.
    leaves: u64,
    /// The leaf under way.
    leaf: blake3::Hasher,
    filled: u64,
    /// Parents that were not taken yet.
    parents: Vec<u8>,
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self { stack: Vec::new(), leaves: 0, leaf: blake3::Hasher::new(), filled: 0, parents: Vec::new() }
    }
}

impl TreeHasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == LEAF {
                // More follows, so this leaf is not the last one and every subtree that ends with it is complete.
                let leaf = self.leaf.finalize_non_root();
                self.complete(leaf);
            }
            let free = usize::try_from(LEAF - self.filled).expect("16 KiB");
            let (now, later) = bytes.split_at(free.min(bytes.len()));
            self.leaf.update(now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    fn complete(&mut self, leaf: Hash) {
        self.leaves += 1;
        let (mut subtree, mut size) = (leaf, self.leaves);
        while size.is_multiple_of(2) {
            let left = self.stack.pop().expect("as many as there are bits in the number of leaves");
            self.put(&left, &subtree);
            subtree = merge_subtrees_non_root(&left, &subtree, Mode::Hash);
            size /= 2;
        }
        self.stack.push(subtree);
        self.leaf = blake3::Hasher::new();
        self.leaf.set_input_offset(self.leaves * LEAF);
        self.filled = 0;
    }

    fn put(&mut self, left: &Hash, right: &Hash) {
        self.parents.extend_from_slice(left);
        self.parents.extend_from_slice(right);
    }

    /// The parents that were completed since this was last asked.
    pub fn take_parents(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.parents)
    }

    /// How many bytes of parents wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.parents.len()
    }

    /// The digest of everything, and the parents that were not taken yet.
    #[must_use]
    pub fn finish(mut self) -> (Digest, Vec<u8>) {
        let Some(mut left) = self.stack.pop() else {
            return (Digest::from_bytes(*self.leaf.finalize().as_bytes()), self.parents);
        };
        let mut right = self.leaf.finalize_non_root();
        loop {
            self.put(&left, &right);
            let Some(next) = self.stack.pop() else { break };
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
            left = next;
        }
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        (Digest::from_bytes(*root.as_bytes()), self.parents)
    }
}

/// The digest of these bytes, and their outboard.
#[must_use]
pub fn of(bytes: &[u8]) -> (Digest, Vec<u8>) {
    if bytes.len() >= wide::WIDE {
        return wide::of(bytes);
    }
    let mut hasher = TreeHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

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

/// Payloads beyond this length have no proof: far more than can be stored, and its tree is within 64 bits.
const MAX_LEN: u64 = 1 << 60;

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
    blob: BlobRef,
    offset: u64,
    bytes: Bytes,
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

/// Whether a range consists of whole leaves of a payload of that length, at least one.
#[must_use]
pub fn is_whole_leaves(range: &Range<u64>, payload: u64) -> bool {
    range.start < range.end
        && range.end <= payload
        && payload <= MAX_LEN
        && range.start.is_multiple_of(LEAF)
        && (range.end.is_multiple_of(LEAF) || range.end == payload)
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

/// The chaining value of these bytes at this place, which are one subtree and not all of their payload.
pub(crate) fn leaf_value(offset: u64, bytes: &[u8]) -> Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.set_input_offset(offset).update(bytes);
    hasher.finalize_non_root()
}

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

/// A chunk and its siblings, on the way to the root that they make.
struct Proof<'a> {
    range: Range<u64>,
    inside: Inside<'a>,
    siblings: std::slice::Iter<'a, Hash>,
}

/// What is known of the chunk itself.
enum Inside<'a> {
    Bytes(&'a [u8]),
    Leaves(&'a [Hash]),
}

impl Proof<'_> {
    /// Whether all of it leads to the digest of a payload that has more than the chunk's own subtree, or more than one leaf of it.
    fn leads_to(mut self, blob: BlobRef) -> Result<(), Unproven> {
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A claim of whole leaves of a payload with the siblings that prove it, made by hashing the rest.
    pub(crate) fn claim(payload: &[u8], range: Range<u64>) -> ChunkClaim {
        fn walk(payload: &[u8], span: Range<u64>, range: &Range<u64>, siblings: &mut Vec<Hash>) {
            if span.end <= range.start || range.end <= span.start {
                let mut hasher = blake3::Hasher::new();
                hasher.set_input_offset(span.start).update(&payload[index(&span)]);
                siblings.push(hasher.finalize_non_root());
            } else if span.start < range.start || range.end < span.end {
                let middle = span.start + left_subtree_len(span.end - span.start);
                walk(payload, span.start..middle, range, siblings);
                walk(payload, middle..span.end, range, siblings);
            }
        }
        let len = payload.len() as u64;
        let mut siblings = Vec::new();
        walk(payload, 0..len, &range, &mut siblings);
        let bytes = Bytes::copy_from_slice(&payload[index(&range)]);
        ChunkClaim { blob: BlobRef { digest: Digest::of(payload), len }, offset: range.start, bytes, siblings }
    }

    fn index(range: &Range<u64>) -> Range<usize> {
        usize::try_from(range.start).expect("small")..usize::try_from(range.end).expect("small")
    }

    pub(crate) fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    const SIZES: [usize; 13] =
        [0, 1, 1024, 16_383, 16_384, 16_385, 32_768, 32_769, 49_152, 65_536, 81_920, 131_072, 1_000_003];

    #[test]
    fn the_digest_is_that_of_the_bytes_however_they_come() {
        for size in SIZES {
            let bytes = noise(size);
            let (digest, outboard) = of(&bytes);
            assert_eq!(digest, Digest::of(&bytes), "{size}");
            assert_eq!(outboard.len() as u64, outboard_len(size as u64), "{size}");
            let (mut hasher, mut parents) = (TreeHasher::default(), Vec::new());
            for piece in bytes.chunks(7919) {
                hasher.update(piece);
                parents.extend(hasher.take_parents());
            }
            let (again, rest) = hasher.finish();
            parents.extend(rest);
            assert_eq!((again, parents), (digest, outboard), "{size}");
        }
    }

    #[test]
    fn every_run_of_leaves_is_proven_by_as_few_siblings_as_its_path_has() {
        for size in SIZES.into_iter().filter(|size| *size > 0) {
            let (payload, len) = (noise(size), size as u64);
            let depth = usize::try_from(len.div_ceil(LEAF).next_power_of_two().ilog2()).expect("small");
            for start in (0..len).step_by(16 * 1024) {
                for leaves in [1, 2, 3, 4, 16, 64] {
                    let range = start..(start + leaves * LEAF).min(len);
                    let claim = claim(&payload, range.clone());
                    assert!(claim.siblings.len() <= 2 * depth, "{size} {range:?}");
                    assert!(leaves > 1 || claim.siblings.len() <= depth, "{size} {range:?}");
                    let proven = claim.prove().expect("it is part of it");
                    assert_eq!((proven.offset(), proven.into_bytes()), (start, payload[index(&range)].to_vec().into()));
                }
            }
        }
    }

    /// The leaves of a chunk of a payload.
    pub(crate) fn leaves_claim(payload: &[u8], range: Range<u64>) -> LeavesClaim {
        let blob = BlobRef { digest: Digest::of(payload), len: payload.len() as u64 };
        let len = u32::try_from(range.end - range.start).expect("small");
        LeavesClaim { blob, offset: range.start, len, proof: proof_of(payload, &range) }
    }

    #[test]
    fn a_chunk_may_come_leaf_by_leaf() {
        for size in SIZES.into_iter().filter(|size| *size > 2 * 16 * 1024) {
            let (payload, len) = (noise(size), size as u64);
            for start in (0..len).step_by(16 * 1024) {
                for leaves in [2, 3, 16, 64] {
                    let range = start..(start + leaves * LEAF).min(len);
                    let honest = leaves_claim(&payload, range.clone());
                    assert_eq!(honest.proof.siblings, claim(&payload, range.clone()).siblings, "{size} {range:?}");
                    let proven = honest.prove().expect("they are its leaves");
                    assert_eq!(proven.count() as u64, (range.end - range.start).div_ceil(LEAF));
                    for (number, bytes) in (0..).zip(payload[index(&range)].chunks(16 * 1024)) {
                        let chunk = proven.prove(number, Bytes::copy_from_slice(bytes)).expect("it is that leaf");
                        assert_eq!((chunk.offset(), &*chunk.bytes), (start + u64::from(number) * LEAF, bytes));
                    }
                }
            }
        }
    }

    #[test]
    fn a_lie_about_a_leaf_is_not_believed() {
        let payload = noise(300_000);
        let honest = leaves_claim(&payload, 4 * LEAF..8 * LEAF);
        let digest = honest.blob.digest;
        let with = |change: &dyn Fn(&mut LeavesClaim)| {
            let mut lie = honest.clone();
            change(&mut lie);
            lie.prove().map(|proven| proven.count()).expect_err("a lie")
        };
        for leaf in 0..4 {
            for byte in 0..32 {
                assert_eq!(with(&|lie| lie.proof.leaves[leaf][byte] ^= 1), Unproven::Differs(digest));
            }
        }
        with(&|lie| lie.proof.siblings[0][0] ^= 1);
        assert_eq!(with(&|lie| lie.proof.leaves.swap(1, 2)), Unproven::Differs(digest));
        assert_eq!(with(&|lie| lie.proof.leaves.truncate(3)), Unproven::Length);
        assert_eq!(with(&|lie| lie.proof.leaves.push([0; 32])), Unproven::Length);
        assert_eq!(with(&|lie| lie.proof.siblings.push([0; 32])), Unproven::Length);
        assert_eq!(with(&|lie| lie.offset += 1), Unproven::Misplaced);
        assert_eq!(with(&|lie| lie.offset = u64::MAX), Unproven::Misplaced);
        with(&|lie| lie.offset += LEAF);
        assert_eq!(with(&|lie| lie.len -= 1), Unproven::Misplaced);
        assert_eq!(with(&|lie| lie.blob.len = LEAF), Unproven::Misplaced);

        let proven = honest.prove().expect("they are its leaves");
        let leaf = |number: usize| Bytes::copy_from_slice(&payload[(4 + number) * 16 * 1024..(5 + number) * 16 * 1024]);
        assert!(proven.prove(2, leaf(2)).is_ok());
        assert_eq!(proven.prove(2, leaf(1)).map(|_| ()), Err(Unproven::Differs(digest)), "another leaf");
        assert_eq!(proven.prove(4, leaf(3)).map(|_| ()), Err(Unproven::Misplaced), "beyond the chunk");
        assert_eq!(proven.prove(u32::MAX, leaf(3)).map(|_| ()), Err(Unproven::Misplaced));
        assert_eq!(proven.prove(2, leaf(2).slice(1..)).map(|_| ()), Err(Unproven::Misplaced));
        for at in (0..16 * 1024).step_by(509) {
            let mut bytes = leaf(2).to_vec();
            bytes[at] ^= 1;
            assert_eq!(proven.prove(2, bytes.into()).map(|_| ()), Err(Unproven::Differs(digest)));
        }
    }

    #[test]
    fn a_lie_at_any_byte_of_a_proof_or_chunk_is_not_believed() {
        for (size, start, leaves) in
            [(16_384, 0, 1), (70_000, 0, 1), (70_000, 4, 1), (300_000, 6, 3), (1_000_003, 16, 16)]
        {
            let payload = noise(size);
            let range = start * LEAF..((start + leaves) * LEAF).min(size as u64);
            let honest = claim(&payload, range);
            for at in 0..honest.siblings.len() * 32 {
                for bit in [1, 0x80] {
                    let mut lie = honest.clone();
                    lie.siblings[at / 32][at % 32] ^= bit;
                    assert_eq!(lie.prove(), Err(Unproven::Differs(honest.blob.digest)), "{size}: sibling byte {at}");
                }
            }
            for at in (0..honest.bytes.len()).step_by(509) {
                let mut bytes = honest.bytes.to_vec();
                bytes[at] ^= 1;
                let lie = ChunkClaim { bytes: bytes.into(), ..honest.clone() };
                assert_eq!(lie.prove(), Err(Unproven::Differs(honest.blob.digest)), "{size}: byte {at}");
            }
        }
    }

    #[test]
    fn another_place_length_or_number_of_siblings_is_not_believed() {
        let payload = noise(300_000);
        let honest = claim(&payload, 4 * LEAF..8 * LEAF);
        let with = |change: &dyn Fn(&mut ChunkClaim)| {
            let mut lie = honest.clone();
            change(&mut lie);
            lie.prove().map(|proven| proven.offset()).expect_err("a lie")
        };
        let differs = Unproven::Differs(honest.blob.digest);
        for offset in (0..20).map(|leaf| leaf * LEAF).filter(|offset| *offset != honest.offset) {
            with(&|lie| lie.offset = offset);
        }
        for offset in [1, LEAF - 1, 4 * LEAF + 1, 300_000, u64::MAX, u64::MAX - 5, u64::MAX / LEAF * LEAF] {
            assert_eq!(with(&|lie| lie.offset = offset), Unproven::Misplaced, "{offset}");
        }
        for len in [0, 1, 4 * LEAF, 8 * LEAF - 1, u64::MAX, u64::MAX - 1, MAX_LEN + 1] {
            assert_eq!(with(&|lie| lie.blob.len = len), Unproven::Misplaced, "{len}");
        }
        // Lengths that give the same tree are the record's word; these give another one.
        for len in [8 * LEAF, 9 * LEAF, 16 * LEAF, 33 * LEAF, 1 << 40, MAX_LEN] {
            let why = with(&|lie| lie.blob.len = len);
            assert!(matches!(why, Unproven::Length | Unproven::Differs(_)), "{len}: {why}");
        }
        for len in [0, 1, honest.bytes.len() - 1] {
            assert_eq!(with(&|lie| lie.bytes.truncate(len)), Unproven::Misplaced, "{len}");
        }
        for leaves in 1..4 {
            with(&|lie| lie.bytes.truncate(leaves * 16 * 1024));
        }
        for count in 0..honest.siblings.len() {
            assert_eq!(with(&|lie| lie.siblings.truncate(count)), Unproven::Length, "{count}");
        }
        assert_eq!(with(&|lie| lie.siblings.push([0; 32])), Unproven::Length);
        assert_eq!(with(&|lie| lie.siblings.reverse()), differs);
        let mut whole = claim(&payload, 0..300_000);
        whole.siblings.push([0; 32]);
        assert_eq!(whole.prove(), Err(Unproven::Length));
    }

    proptest::proptest! {
        #[test]
        fn no_claim_panics_and_only_the_payload_is_believed(
            len in 0..u64::MAX, offset in 0..u64::MAX, aligned: bool, size in 0..70_000usize, siblings: Vec<Hash>
        ) {
            let offset = if aligned { offset / LEAF * LEAF } else { offset };
            let blob = BlobRef { digest: Digest::of(b"not it"), len };
            for (offset, len) in [(offset, len), (offset % (1 << 20) / LEAF * LEAF, len % (1 << 21)), (0, size as u64)] {
                let blob = BlobRef { len, ..blob };
                let claim = ChunkClaim { blob, offset, bytes: vec![0; size].into(), siblings: siblings.clone() };
                proptest::prop_assert!(claim.prove().is_err());
            }
        }
    }
}
