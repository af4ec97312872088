//! Sealed segments: the questions of a run of log positions as one Golomb-coded set, named by the digest of its bytes.
//!
//! Sorted keys become differences, differences become Rice codes: a unary quotient and `shift` low bits. One set has one encoding, whoever
//! makes it: the shift follows from the count, keys are strictly increasing, padding is zero. Decoding refuses everything else and allocates
//! no more than the bound. Byte layout: `1`, the count as four little-endian bytes, then the codes, low bits first.

use crate::id::Digest;
use crate::identity::Signer;
use crate::limits::{MAX_SEGMENTS, SEGMENT};
use crate::message::{Batch, LogItem, Manifest, SegmentName};

/// Bits of a question's fingerprint that the index keeps. At 10^8 facts one look-up in 1,400 suggests a holder wrongly, which costs an ask.
pub const KEY_BITS: u32 = 37;
const KEY_MASK: u64 = (1 << KEY_BITS) - 1;
const SEGMENT_V1: u8 = 1;
const HEADER: usize = 5;

/// The key of a question's fingerprint.
#[must_use]
pub fn key(question: u64) -> u64 {
    question & KEY_MASK
}

/// Why bytes are not a segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// A format that is not known here.
    #[error("a segment format that is not known here")]
    Version,
    /// It claims more keys than a segment has positions.
    #[error("a segment of {0} keys, the bound is {SEGMENT}")]
    TooMany(u64),
    /// The codes are cut short, leave the key space, or go on after the last key.
    #[error("a segment whose codes are damaged")]
    Codes,
}

/// The segment of these keys, in any order.
#[must_use]
pub fn encode_keys(mut keys: Vec<u64>) -> Vec<u8> {
    keys.sort_unstable();
    keys.dedup();
    let shift = shift_for(keys.len() as u64);
    let mut bits = BitWriter { bytes: vec![SEGMENT_V1], pending: 0, count: 0 };
    bits.bytes.extend_from_slice(&u32::try_from(keys.len()).unwrap_or(u32::MAX).to_le_bytes());
    let mut next = 0;
    for key in keys {
        let gap = key - next;
        for _ in 0..gap >> shift {
            bits.put(1, 1);
        }
        bits.put(0, 1);
        bits.put(gap & ((1 << shift) - 1), shift);
        next = key + 1;
    }
    bits.finish()
}

/// The keys of a segment, in order.
pub fn decode(bytes: &[u8]) -> Result<Vec<u64>, SegmentError> {
    let (codes, count) = header(bytes)?;
    // A key takes at least two bits, so the claim is bounded by what came.
    if count > codes.len() as u64 * 4 {
        return Err(SegmentError::Codes);
    }
    let shift = shift_for(count);
    let mut bits = BitReader { bytes: codes, at: 0 };
    let mut keys = Vec::with_capacity(usize::try_from(count).unwrap_or(0));
    let mut next: u64 = 0;
    for _ in 0..count {
        let quotient = bits.unary().ok_or(SegmentError::Codes)?;
        let low = bits.take(shift).ok_or(SegmentError::Codes)?;
        let key = next + ((quotient << shift) | low);
        if key > KEY_MASK {
            return Err(SegmentError::Codes);
        }
        keys.push(key);
        next = key + 1;
    }
    bits.is_at_end().then_some(keys).ok_or(SegmentError::Codes)
}

/// The codes of a segment, and how many keys it claims to have.
fn header(bytes: &[u8]) -> Result<(&[u8], u64), SegmentError> {
    let Some((&[version, a, b, c, d], codes)) = bytes.split_first_chunk::<HEADER>() else {
        return Err(SegmentError::Codes);
    };
    if version != SEGMENT_V1 {
        return Err(SegmentError::Version);
    }
    let count = u64::from(u32::from_le_bytes([a, b, c, d]));
    if count > SEGMENT { Err(SegmentError::TooMany(count)) } else { Ok((codes, count)) }
}

/// The bytes of one segment of a log, up to a position; `read` gives the log from a position on, at most so many items.
/// `None` if the log does not reach that far.
pub fn read(number: u64, end: u64, mut read: impl FnMut(u64, usize) -> Option<Batch>) -> Option<Vec<u8>> {
    let end = end.min((number + 1).checked_mul(SEGMENT)?);
    let mut at = number * SEGMENT;
    let mut keys = Vec::new();
    while at < end {
        let batch = read(at, usize::try_from(end - at).ok()?).filter(|batch| batch.first == at && batch.end() > at)?;
        for item in &batch.items {
            if let LogItem::Fact { question, .. } = item
                && at < end
            {
                keys.push(key(u64::from_le_bytes(*question)));
            }
            at = at.saturating_add(item.positions());
        }
    }
    Some(encode_keys(keys))
}

/// Names the segments that a manifest of this node's own log lacks, and signs it.
pub fn complete(
    mut manifest: Manifest,
    signer: &dyn Signer,
    mut log: impl FnMut(u64, usize) -> Option<Batch>,
) -> Option<Manifest> {
    while (manifest.segments.len() as u64) < manifest.end.div_ceil(SEGMENT).min(MAX_SEGMENTS as u64) {
        let bytes = read(manifest.segments.len() as u64, manifest.end, &mut log)?;
        let (_, count) = header(&bytes).ok()?;
        manifest.segments.push((u32::try_from(count).ok()?, Digest::of(&bytes)));
    }
    manifest.is_whole().then(|| manifest.sign(signer))
}

/// The keys of a segment that was asked for by name, or why these bytes are not that segment.
pub fn check(name: &SegmentName, bytes: &[u8]) -> Result<Vec<u64>, String> {
    if Digest::of(bytes) != name.digest {
        return Err("a segment that is not the one asked for".to_owned());
    }
    let keys = decode(bytes).map_err(|error| error.to_string())?;
    if keys.len() == name.facts as usize {
        Ok(keys)
    } else {
        Err("a segment with another count than its name".to_owned())
    }
}

/// The low bits of a code: those of the mean gap times ln 2, which is within 0.03 bits of the best for uniform keys.
fn shift_for(count: u64) -> u32 {
    let mean = (1_u64 << KEY_BITS) / count.max(1);
    (mean.saturating_mul(710) / 1024).checked_ilog2().unwrap_or(1).clamp(1, KEY_BITS)
}

struct BitWriter {
    bytes: Vec<u8>,
    pending: u64,
    count: u32,
}

impl BitWriter {
    fn put(&mut self, value: u64, len: u32) {
        // At most 7 bits wait and no code part is longer than KEY_BITS.
        self.pending |= value << self.count;
        self.count += len;
        while self.count >= 8 {
            self.bytes.push((self.pending & 0xff) as u8);
            self.pending >>= 8;
            self.count -= 8;
        }
    }

    fn finish(mut self) -> Vec<u8> {
        if self.count > 0 {
            self.bytes.push((self.pending & 0xff) as u8);
        }
        self.bytes
    }
}

struct BitReader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl BitReader<'_> {
    /// The next 57 bits or more, zeros beyond the end.
    fn window(&self) -> u64 {
        let rest = self.bytes.get(self.at / 8..).unwrap_or_default();
        let word = match rest.first_chunk::<8>() {
            Some(eight) => u64::from_le_bytes(*eight),
            None => rest.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte)),
        };
        word >> (self.at % 8)
    }

    fn left(&self) -> usize {
        (self.bytes.len() * 8).saturating_sub(self.at)
    }

    fn unary(&mut self) -> Option<u64> {
        let mut ones = 0;
        loop {
            let run = self.window().trailing_ones().min(56);
            if run as usize >= self.left() {
                return None;
            }
            self.at += run as usize;
            ones += u64::from(run);
            if run < 56 {
                self.at += 1;
                // A longer quotient would leave the key space whatever the shift.
                return (ones <= KEY_MASK >> 1).then_some(ones);
            }
        }
    }

    fn take(&mut self, len: u32) -> Option<u64> {
        if len as usize > self.left() {
            return None;
        }
        let value = self.window() & ((1 << len) - 1);
        self.at += len as usize;
        Some(value)
    }

    /// Whether only zero padding of the last byte is left.
    fn is_at_end(&self) -> bool {
        self.left() < 8 && self.window() == 0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Keys as uniform as those of real questions.
    fn keys(count: u64) -> Vec<u64> {
        let hash = |n: u64| *blake3::hash(&n.to_le_bytes()).as_bytes();
        (0..count).map(|n| key(u64::from_le_bytes(hash(n)[..8].try_into().expect("eight bytes")))).collect()
    }

    #[test]
    fn a_set_of_ten_thousand_takes_less_than_three_and_a_third_bytes_a_key() {
        for count in [10_000, SEGMENT] {
            let bytes = encode_keys(keys(count));
            assert!(bytes.len() as u64 * 100 < count * 330, "{} bytes for {count} keys", bytes.len());
        }
    }

    #[test]
    fn whatever_is_not_the_one_encoding_is_refused() {
        let bytes = encode_keys(keys(100));
        assert_eq!(decode(&bytes[..bytes.len() - 1]), Err(SegmentError::Codes));
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), Err(SegmentError::Codes));
        assert_eq!(decode(&[&[2], &bytes[1..]].concat()), Err(SegmentError::Version));
        assert_eq!(decode(&[1, 255, 255, 255, 255]), Err(SegmentError::TooMany(u64::from(u32::MAX))));
        assert_eq!(decode(&[1, 0, 16, 0, 0, 0]), Err(SegmentError::Codes), "a claim of 4,096 keys in one byte");
        assert_eq!(decode(&[]), Err(SegmentError::Codes));
        assert_eq!(decode(&[&[1, 1, 0, 0, 0][..], &[0xff; 4096]].concat()), Err(SegmentError::Codes));
    }

    #[test]
    fn golden_bytes() {
        assert_eq!(encode_keys(vec![]), [1, 0, 0, 0, 0]);
        assert_eq!(encode_keys(vec![5, 0x15_5555_5555, 5]), [1, 2, 0, 0, 0, 10, 0, 0, 0, 176, 167, 170, 170, 170, 2]);
    }

    proptest! {
        #[test]
        fn any_set_round_trips(mut keys in proptest::collection::vec(0..=KEY_MASK, 0..300), dense in any::<bool>()) {
            if dense {
                for key in &mut keys {
                    *key %= 400;
                }
            }
            let bytes = encode_keys(keys.clone());
            keys.sort_unstable();
            keys.dedup();
            prop_assert_eq!(decode(&bytes), Ok(keys));
        }

        #[test]
        fn garbage_never_panics_and_decodes_to_one_encoding(mut bytes in proptest::collection::vec(any::<u8>(), 5..200)) {
            bytes[0] = SEGMENT_V1;
            bytes[2..5].fill(0);
            if let Ok(keys) = decode(&bytes) {
                prop_assert_eq!(encode_keys(keys), bytes);
            }
        }
    }
}
