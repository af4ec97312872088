//! Digests of many short byte strings at once: as many side by side as the processor's vectors are wide.
//!
//! BLAKE3 hashes the chunks of one long string side by side, but a string of at most one chunk block after block. The whole blocks of several such
//! strings go side by side here, with the library's own vector code, which it offers without promise: hence the `~` in front of its version.
//! The last block of each has its own length and flags and is compressed alone. Invariant: the digests are those of [`Digest::of`].

use blake3::IncrementCounter;
use blake3::platform::Platform;

use crate::id::Digest;

/// Section 2.1 of the BLAKE3 specification.
const IV: [u32; 8] =
    [0x6A09_E667, 0xBB67_AE85, 0x3C6E_F372, 0xA54F_F53A, 0x510E_527F, 0x9B05_688C, 0x1F83_D9AB, 0x5BE0_CD19];
/// Domain flags, section 2.1 there.
const CHUNK_START: u8 = 1;
const CHUNK_END: u8 = 1 << 1;
const ROOT: u8 = 1 << 3;

const BLOCK: usize = blake3::BLOCK_LEN;
/// The lengths that gain something: more than one block, at most one chunk.
const SHORT: std::ops::RangeInclusive<usize> = BLOCK + 1..=blake3::CHUNK_LEN;
const GROUPS: usize = blake3::CHUNK_LEN / BLOCK;

/// The digest of each, in order.
pub(super) fn digests(inputs: &[&[u8]]) -> Vec<Digest> {
    let mut digests = vec![Digest::from_bytes([0; 32]); inputs.len()];
    // What has the same number of whole blocks before its last one goes together.
    let mut groups: [Vec<usize>; GROUPS] = Default::default();
    for (at, input) in inputs.iter().enumerate() {
        if SHORT.contains(&input.len()) {
            groups[(input.len() - 1) / BLOCK].push(at);
        } else {
            digests[at] = Digest::of(input);
        }
    }
    let platform = Platform::detect();
    for (blocks, group) in groups.iter().enumerate().filter(|(_, group)| !group.is_empty()) {
        let members: Vec<_> = group.iter().map(|at| inputs[*at]).collect();
        for (at, digest) in group.iter().zip(of_blocks(platform, blocks, &members)) {
            digests[*at] = digest;
        }
    }
    digests
}

/// The digests of strings with this many whole blocks before their last one.
fn of_blocks(platform: Platform, blocks: usize, inputs: &[&[u8]]) -> Vec<Digest> {
    macro_rules! side_by_side {
        ($($count:literal)*) => {
            match blocks {
                $($count => states::<{ $count * BLOCK }>(platform, inputs),)*
                _ => unreachable!("a chunk has sixteen blocks, and the last one is left out"),
            }
        };
    }
    let states = side_by_side!(1 2 3 4 5 6 7 8 9 10 11 12 13 14 15);
    let finish = |(state, input): (&[u8; 32], &&[u8])| {
        let rest = &input[blocks * BLOCK..];
        let mut block = [0; BLOCK];
        block[..rest.len()].copy_from_slice(rest);
        let mut state = blake3::platform::words_from_le_bytes_32(state);
        let len = u8::try_from(rest.len()).expect("at most a block");
        platform.compress_in_place(&mut state, &block, len, 0, CHUNK_END | ROOT);
        Digest::from_bytes(blake3::platform::le_bytes_from_words_32(&state))
    };
    states.as_chunks().0.iter().zip(inputs).map(finish).collect()
}

/// The states after the first `LEN` bytes, one after the other.
fn states<const LEN: usize>(platform: Platform, inputs: &[&[u8]]) -> Vec<u8> {
    let heads: Vec<&[u8; LEN]> = inputs.iter().map(|input| input.first_chunk().expect("it has these blocks")).collect();
    let mut states = vec![0; heads.len() * blake3::OUT_LEN];
    platform.hash_many(&heads, &IV, 0, IncrementCounter::No, 0, CHUNK_START, 0, &mut states);
    states
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hold(inputs: &[Vec<u8>]) -> bool {
        let slices: Vec<_> = inputs.iter().map(Vec::as_slice).collect();
        digests(&slices) == slices.iter().map(|input| Digest::of(input)).collect::<Vec<_>>()
    }

    #[test]
    fn every_length_has_its_digest() {
        let of_len = |len| (0..len).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let all: Vec<Vec<u8>> = (0..=2 * blake3::CHUNK_LEN).map(of_len).collect();
        assert!(hold(&all));
        assert!(all.iter().all(|one| hold(std::slice::from_ref(one))), "alone, too");
        assert!(hold(&[]));
    }

    proptest! {
        #[test]
        fn any_strings_have_their_digests(inputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..1100), 0..40)) {
            prop_assert!(hold(&inputs));
        }
    }
}
