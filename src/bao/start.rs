//! A payload that grows: proven chunks in the order of their offsets, put together as they come.
//!
//! So the copying, and the system's clearing of fresh memory, which costs several times as much, are done while the rest is on its way.

use bytes::{Bytes, BytesMut};

use super::chunk::ProvenChunk;
use crate::reply::BlobRef;

/// Once so many bytes are proven there is room for all of the payload at once. That is address space: memory is what bytes have come for.
const EARNEST: usize = 1024 * 1024;

/// The first bytes of a payload, up to all of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProvenStart {
    blob: BlobRef,
    bytes: Grown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Grown {
    /// What came as one chunk is not copied.
    Whole(Bytes),
    Part(BytesMut),
}

impl ProvenStart {
    /// Nothing of it yet.
    #[must_use]
    pub fn new(blob: BlobRef) -> Self {
        Self { blob, bytes: Grown::Part(BytesMut::new()) }
    }

    /// The payload.
    #[must_use]
    pub fn blob(&self) -> BlobRef {
        self.blob
    }

    /// How many of its bytes are here.
    #[must_use]
    pub fn len(&self) -> u64 {
        match &self.bytes {
            Grown::Whole(bytes) => bytes.len() as u64,
            Grown::Part(bytes) => bytes.len() as u64,
        }
    }

    /// Whether nothing of it is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Adds the chunk behind what is here; gives back any other one.
    pub fn push(&mut self, chunk: ProvenChunk) -> Result<(), ProvenChunk> {
        if chunk.blob() != self.blob || chunk.offset() != self.len() {
            return Err(chunk);
        }
        match &mut self.bytes {
            Grown::Part(bytes) if bytes.is_empty() && chunk.len() as u64 == self.blob.len => {
                self.bytes = Grown::Whole(chunk.into_bytes());
            }
            Grown::Part(bytes) => {
                let left = usize::try_from(self.blob.len).unwrap_or(usize::MAX).saturating_sub(bytes.len());
                if bytes.capacity() - bytes.len() < chunk.len() && bytes.len() >= EARNEST {
                    bytes.reserve(left);
                }
                bytes.extend_from_slice(&chunk.into_bytes());
            }
            Grown::Whole(_) => return Err(chunk),
        }
        Ok(())
    }

    /// All of the payload; `None` if something is missing.
    #[must_use]
    pub fn whole(self) -> Option<Bytes> {
        let whole = self.len() == self.blob.len;
        whole.then(|| match self.bytes {
            Grown::Whole(bytes) => bytes,
            Grown::Part(bytes) => bytes.freeze(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bao::{ChunkClaim, LEAF, proof_of};
    use crate::id::Digest;

    fn chunk(payload: &[u8], leaf: u64) -> ProvenChunk {
        let blob = BlobRef { digest: Digest::of(payload), len: payload.len() as u64 };
        let range = leaf * LEAF..blob.len.min((leaf + 1) * LEAF);
        let index = |at: u64| usize::try_from(at).unwrap();
        let bytes = Bytes::copy_from_slice(&payload[index(range.start)..index(range.end)]);
        let siblings = proof_of(payload, &range).siblings;
        ChunkClaim { blob, offset: range.start, bytes, siblings }.prove().unwrap()
    }

    #[test]
    fn chunks_make_a_payload_in_their_order_and_in_no_other() {
        let payload: Vec<u8> = (0..3 * LEAF + 5).map(|at| (at % 251) as u8).collect();
        let blob = chunk(&payload, 0).blob();
        let mut start = ProvenStart::new(blob);
        assert!(start.push(chunk(&payload, 1)).is_err() && start.is_empty());
        for leaf in 0..4 {
            assert_eq!(start.clone().whole(), None);
            start.push(chunk(&payload, leaf)).unwrap();
            assert!(start.push(chunk(&payload, leaf)).is_err(), "once is enough");
        }
        let mut other = payload.clone();
        other[0] ^= 1;
        assert!(ProvenStart::new(blob).push(chunk(&other, 0)).is_err(), "another payload's");
        assert_eq!(start.whole().unwrap(), payload);
    }

    #[test]
    fn a_payload_of_one_chunk_is_not_copied() {
        let only = chunk(b"one leaf", 0);
        let (at, mut start) = (only.clone().into_bytes().as_ptr(), ProvenStart::new(only.blob()));
        start.push(only).unwrap();
        assert!(start.push(chunk(b"one leaf", 0)).is_err());
        assert_eq!(start.whole().unwrap().as_ptr(), at);
    }
}
