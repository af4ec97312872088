//! Honest proofs of every shape, and every lie about them.

use blake3::hazmat::left_subtree_len;
use bytes::Bytes;

use super::*;
use crate::id::Digest;
use crate::reply::BlobRef;

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
    for (size, start, leaves) in [(16_384, 0, 1), (70_000, 0, 1), (70_000, 4, 1), (300_000, 6, 3), (1_000_003, 16, 16)]
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
