//! The outboard of a payload (see [`bao`](crate::bao)) as the ledger stores it: held against the digest, range by range.
//!
//! Invariant: an outboard is a copy of what the payload says: it is believed only as far as it leads to the payload's digest, and made anew
//! otherwise.

use std::io;
use std::ops::Range;

use blake3::hazmat::{Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use crate::bao::{ChunkProof, LEAF, PARENT, leaf_value, outboard_len as len};
use crate::id::Digest;
use crate::proof::Hash;

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
    /// Which of its bytes these are, as [`leaves`](crate::bao::leaves) gives it.
    pub(super) range: Range<u64>,
    /// The bytes; without them only the outboard is held against the digest.
    pub(super) bytes: Option<&'a [u8]>,
    /// Gets what proves the range to others.
    pub(super) proof: &'a mut ChunkProof,
    /// Reads from the outboard: fills the buffer from an offset on, as far as there is something.
    pub(super) outboard: &'a mut dyn FnMut(&mut [u8], u64) -> io::Result<usize>,
}

impl Check<'_> {
    /// Whether these are the bytes of that payload.
    pub(super) fn against(mut self, digest: &Digest) -> io::Result<Verdict> {
        if self.len <= LEAF {
            let whole = self.bytes.is_none_or(|bytes| bytes.len() as u64 == self.len && Digest::of(bytes) == *digest);
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
            self.proof.siblings.push(expected);
            return Ok(Verdict::Holds);
        }
        if self.range.start <= span.start && span.end <= self.range.end {
            if let Some(bytes) = self.bytes {
                let holds = self.hashed(bytes, span) == Some(expected);
                return Ok(if holds { Verdict::Holds } else { Verdict::Differs });
            }
            // The parents of a subtree lie side by side.
            let size = usize::try_from(len(span.end - span.start)).map_err(|_| io::ErrorKind::OutOfMemory)?;
            let mut parents = vec![0; size];
            let read = if size == 0 { 0 } else { (self.outboard)(&mut parents, at)? };
            let holds = read == size && self.told(&parents, span, expected);
            return Ok(if holds { Verdict::Holds } else { Verdict::Outboard });
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

impl Check<'_> {
    /// The chaining value of a subtree of the range, by its bytes.
    fn hashed(&mut self, bytes: &[u8], span: Range<u64>) -> Option<Hash> {
        if span.end - span.start > LEAF {
            let middle = span.start + left_subtree_len(span.end - span.start);
            let left = self.hashed(bytes, span.start..middle)?;
            let right = self.hashed(bytes, middle..span.end)?;
            return Some(merge_subtrees_non_root(&left, &right, Mode::Hash));
        }
        let place = |offset: u64| usize::try_from(offset - self.range.start).ok();
        let value = leaf_value(span.start, bytes.get(place(span.start)?..place(span.end)?)?);
        self.proof.leaves.push(value);
        Some(value)
    }

    /// Whether these parents are those of a subtree of the range.
    fn told(&mut self, parents: &[u8], span: Range<u64>, expected: Hash) -> bool {
        let Some((rest, parent)) = parents.split_last_chunk() else {
            self.proof.leaves.push(expected);
            return true;
        };
        let (left, right) = halves(parent);
        let middle = span.start + left_subtree_len(span.end - span.start);
        let first = usize::try_from(len(middle - span.start)).unwrap_or(usize::MAX);
        let Some((before, behind)) = rest.split_at_checked(first) else { return false };
        merge_subtrees_non_root(&left, &right, Mode::Hash) == expected
            && self.told(before, span.start..middle, left)
            && self.told(behind, middle..span.end, right)
    }
}

fn halves(parent: &[u8; 64]) -> (Hash, Hash) {
    let (left, right) = parent.split_at(32);
    (left.try_into().expect("32 bytes"), right.try_into().expect("32 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bao::tests::noise;
    use crate::bao::{ChunkClaim, LeavesClaim, leaves, of};
    use crate::reply::BlobRef;

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
        let mut without = ChunkProof::default();
        let outboard_holds = Check { len, range: place.clone(), bytes: None, proof: &mut without, outboard: &mut read }
            .against(digest)
            .expect("memory");
        let mut proof = ChunkProof::default();
        let whole = Check { len, range: place.clone(), bytes: Some(part), proof: &mut proof, outboard: &mut read };
        let verdict = whole.against(digest).expect("memory");
        match verdict {
            Verdict::Holds => {
                assert_eq!((outboard_holds, &without), (Verdict::Holds, &proof));
                let (blob, offset) = (BlobRef { digest: *digest, len }, place.start);
                let siblings = proof.siblings.clone();
                let claim = ChunkClaim { blob, offset, bytes: part.to_vec().into(), siblings };
                assert!(claim.prove().is_ok(), "what is served is believed");
                if len > crate::bao::LEAF {
                    let claim = LeavesClaim { blob, offset, len: u32::try_from(part.len()).expect("small"), proof };
                    assert!(claim.prove().is_ok(), "so are its leaves");
                }
            }
            Verdict::Differs => assert_eq!(outboard_holds, Verdict::Holds),
            Verdict::Outboard => assert_eq!(outboard_holds, Verdict::Outboard),
        }
        verdict
    }

    const SIZES: [usize; 13] =
        [0, 1, 1024, 16_383, 16_384, 16_385, 32_768, 32_769, 49_152, 65_536, 81_920, 131_072, 1_000_003];

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
