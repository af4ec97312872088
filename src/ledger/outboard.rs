//! The part of a payload's BLAKE3 tree that lies above leaves of 16 KiB: it proves any range of the payload without reading the rest.
//!
//! After the "outboard" encoding of the [Bao specification], with 16 chunks for a leaf and the parents in post order, so that it can be written
//! while the payload streams past. A parent is two chaining values, 64 bytes. Invariant: an outboard is a copy of what the payload says: it is
//! believed only as far as it leads to the payload's digest, and made anew otherwise.
//!
//! [Bao specification]: https://github.com/oconnor663/bao/blob/master/docs/spec.md

use std::io;
use std::ops::Range;

use blake3::hazmat::{HasherExt, Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::id::Digest;
use crate::proof::Hash;

/// Bytes of one leaf: 16 chunks, so that one leaf is hashed with all lanes of the processor.
pub(super) const LEAF: u64 = 16 * 1024;
/// Bytes of one parent.
const PARENT: u64 = 64;

/// Makes the digest and the outboard of bytes that come in pieces.
pub(super) struct TreeHasher {
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
    pub(super) fn update(&mut self, mut bytes: &[u8]) {
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
    pub(super) fn take_parents(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.parents)
    }

    /// How many bytes of parents wait to be taken.
    pub(super) fn waiting(&self) -> usize {
        self.parents.len()
    }

    /// The digest of everything, and the parents that were not taken yet.
    pub(super) fn finish(mut self) -> (Digest, Vec<u8>) {
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
pub(super) fn of(bytes: &[u8]) -> (Digest, Vec<u8>) {
    let mut hasher = TreeHasher::default();
    hasher.update(bytes);
    hasher.finish()
}

/// How long the outboard of a payload is.
pub(super) fn len(payload: u64) -> u64 {
    (payload.div_ceil(LEAF).max(1) - 1) * PARENT
}

/// The smallest range of whole leaves that has these bytes of a payload.
pub(super) fn leaves(range: &Range<u64>, payload: u64) -> Range<u64> {
    range.start / LEAF * LEAF..range.end.next_multiple_of(LEAF).min(payload)
}

/// What holding a range against the digest has shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The bytes are the payload's.
    Holds,
    /// They are not.
    Differs,
    /// A parent is not what the one above it says: the outboard is damaged.
    Outboard,
}

/// Bytes of a payload that are held against its digest.
pub(super) struct Check<'a> {
    /// The payload's length.
    pub(super) len: u64,
    /// Which of its bytes these are, as [`leaves`] gives it.
    pub(super) range: Range<u64>,
    /// The bytes.
    pub(super) bytes: &'a [u8],
    /// Reads from the outboard: fills the buffer from an offset on, as far as there is something.
    pub(super) outboard: &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
}

impl Check<'_> {
    /// Whether these are the bytes of that payload.
    pub(super) fn against(mut self, digest: &Digest) -> io::Result<Verdict> {
        if self.len <= LEAF {
            let whole = self.bytes.len() as u64 == self.len && Digest::of(self.bytes) == *digest;
            return Ok(if whole { Verdict::Holds } else { Verdict::Differs });
        }
        let mut parent = [0; 64];
        let last = len(self.len) - PARENT;
        if (self.outboard)(&mut parent, last)? < parent.len() {
            return Ok(Verdict::Outboard);
        }
        let (left, right) = halves(&parent);
        if merge_subtrees_root(&left, &right, Mode::Hash).as_bytes() != digest.as_bytes() {
            return Ok(Verdict::Outboard);
        }
        self.children(0..self.len, 0, (left, right))
    }

    /// Checks both halves of the subtree over `span`, whose parents begin at `at` in the outboard.
    fn children(&mut self, span: Range<u64>, at: u64, (left, right): (Hash, Hash)) -> io::Result<Verdict> {
        let middle = span.start + left_subtree_len(span.end - span.start);
        match self.subtree(span.start..middle, at, left)? {
            Verdict::Holds => self.subtree(middle..span.end, at + len(middle - span.start), right),
            other => Ok(other),
        }
    }

    /// Checks the subtree over `span`, whose parents begin at `at` in the outboard.
    fn subtree(&mut self, span: Range<u64>, at: u64, expected: Hash) -> io::Result<Verdict> {
        if span.end <= self.range.start || self.range.end <= span.start {
            return Ok(Verdict::Holds);
        }
        if self.range.start <= span.start && span.end <= self.range.end {
            let place = |offset: u64| usize::try_from(offset - self.range.start).ok();
            let bytes = place(span.start).zip(place(span.end)).and_then(|(from, to)| self.bytes.get(from..to));
            let Some(bytes) = bytes else { return Ok(Verdict::Differs) };
            let mut hasher = blake3::Hasher::new();
            hasher.set_input_offset(span.start).update(bytes);
            return Ok(if hasher.finalize_non_root() == expected { Verdict::Holds } else { Verdict::Differs });
        }
        let mut parent = [0; 64];
        let own = at + len(span.end - span.start) - PARENT;
        let read = (self.outboard)(&mut parent, own)?;
        let (left, right) = halves(&parent);
        if read < parent.len() || merge_subtrees_non_root(&left, &right, Mode::Hash) != expected {
            return Ok(Verdict::Outboard);
        }
        self.children(span, at, (left, right))
    }
}

fn halves(parent: &[u8; 64]) -> (Hash, Hash) {
    let (left, right) = parent.split_at(32);
    (left.try_into().expect("32 bytes"), right.try_into().expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        blake3::Hasher::new().finalize_xof().fill(&mut bytes);
        bytes
    }

    fn check(bytes: &[u8], outboard: &[u8], range: Range<u64>, digest: &Digest) -> Verdict {
        let len = bytes.len() as u64;
        let place = leaves(&range, len);
        let part = &bytes[usize::try_from(place.start).expect("small")..usize::try_from(place.end).expect("small")];
        let mut read = |buffer: &mut [u8], at: u64| {
            let rest = outboard.get(usize::try_from(at).expect("small")..).unwrap_or_default();
            let count = rest.len().min(buffer.len());
            buffer[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        };
        Check { len, range: place, bytes: part, outboard: &mut read }.against(digest).expect("memory")
    }

    const SIZES: [usize; 13] =
        [0, 1, 1024, 16_383, 16_384, 16_385, 32_768, 32_769, 49_152, 65_536, 81_920, 131_072, 1_000_003];

    #[test]
    fn the_digest_is_that_of_the_bytes_however_they_come() {
        for size in SIZES {
            let bytes = noise(size);
            let (digest, outboard) = of(&bytes);
            assert_eq!(digest, Digest::of(&bytes), "{size}");
            assert_eq!(outboard.len() as u64, len(size as u64), "{size}");
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
    fn every_range_holds_and_no_flipped_bit_does() {
        for size in SIZES.into_iter().filter(|size| *size > 0) {
            let bytes = noise(size);
            let (digest, outboard) = of(&bytes);
            let size = size as u64;
            for range in
                [0..1, size - 1..size, 0..size, size / 2..(size / 2 + 20_000).min(size), size / 3..size / 2 + 1]
            {
                assert_eq!(check(&bytes, &outboard, range.clone(), &digest), Verdict::Holds, "{size} {range:?}");
                let place = leaves(&range, size);
                for at in [place.start, range.start, place.end - 1] {
                    let mut wrong = bytes.clone();
                    wrong[usize::try_from(at).expect("small")] ^= 4;
                    assert_eq!(check(&wrong, &outboard, range.clone(), &digest), Verdict::Differs, "{size} {range:?}");
                }
            }
            for at in 0..outboard.len() {
                let mut wrong = outboard.clone();
                wrong[at] ^= 1;
                assert_ne!(check(&bytes, &wrong, size / 2..size / 2 + 1, &digest), Verdict::Differs, "{size} {at}");
            }
            if !outboard.is_empty() {
                let short = &outboard[..outboard.len() - 1];
                assert_eq!(check(&bytes, short, 0..1, &digest), Verdict::Outboard, "{size}");
            }
        }
    }
}
