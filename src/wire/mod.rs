//! How messages become bytes between nodes, and back with every bound checked.
//!
//! A frame is a version byte and the postcard form of a [`Message`]. Invariant: nothing that crosses a bound leaves this folder; whatever
//! decodes is still a *claim*, believed only after `VerifiedReply::check`. This module knows nothing of sockets or decisions.

mod held;

use bytes::Bytes;

use crate::bao::LEAF;
use crate::limits::{
    BATCH_FACTS, CHUNK, INLINE_REPLY, MAX_INPUTS, MAX_LINEAGE, MAX_LISTEN_ADDRS, MAX_OFFERED, MAX_PROOF, MAX_RECORD,
    MAX_ROWS, MAX_SEGMENT_BYTES, MAX_SEGMENTS, MAX_SIBLINGS, MAX_TOLD_PEERS,
};
use crate::message::{AskId, Message, Placement};

/// The first byte of every frame.
const FRAME_V1: u8 = 1;
/// Room for everything in a frame that is not a payload or a record.
const OVERHEAD: usize = 256 * 1024;
/// Bytes of one leaf of a payload: nothing larger travels unproven.
const LEAF_BYTES: usize = 16 * 1024;
const _: () = assert!(LEAF_BYTES as u64 == LEAF);
/// Leaves of the largest chunk.
const LEAVES_IN_CHUNK: usize = CHUNK as usize / LEAF_BYTES;
/// Most frames are smaller: they are made without growing a buffer.
const SMALL: usize = 512;
/// The largest frame that is written or read.
pub const MAX_FRAME: usize = MAX_RECORD + INLINE_REPLY + OVERHEAD;

/// Why a frame is not a message. The sender is at fault, and its connection ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// Longer than any message.
    #[error("a frame of {0} bytes, the bound is {MAX_FRAME}")]
    TooLarge(usize),
    /// A frame format that is not known here.
    #[error("frame version {0} is not known here")]
    Version(u8),
    /// Not a message.
    #[error("not a message: {0}")]
    Encoding(String),
    /// A list or payload inside is longer than allowed.
    #[error("{what} of {found}, the bound is {bound}")]
    Bound {
        /// What is too long.
        what: &'static str,
        /// How long it is.
        found: usize,
        /// Its bound.
        bound: usize,
    },
}

/// The frame of a message.
pub fn encode(message: &Message) -> Result<Bytes, WireError> {
    if let Message::Held { ask, evidence, payloads, announce } = message {
        return within_bound(held::write(*ask, evidence, payloads, *announce));
    }
    let mut small = [FRAME_V1; SMALL];
    let error = match postcard::to_slice(message, &mut small[1..]) {
        Ok(body) => {
            let len = 1 + body.len();
            return Ok(Bytes::copy_from_slice(&small[..len]));
        }
        Err(postcard::Error::SerializeBufferFull) => None,
        Err(error) => Some(error),
    };
    let room = || {
        let mut frame = Vec::with_capacity(bulk(message) + SMALL);
        frame.push(FRAME_V1);
        frame
    };
    let bytes = error.map_or_else(|| postcard::to_extend(message, room()), Err);
    within_bound(bytes.map_err(|error| WireError::Encoding(error.to_string()))?)
}

fn within_bound(frame: Vec<u8>) -> Result<Bytes, WireError> {
    if frame.len() > MAX_FRAME { Err(WireError::TooLarge(frame.len())) } else { Ok(frame.into()) }
}

/// The variant of [`Message::Leaf`] on the wire.
const LEAF_TAG: u8 = 23;

/// The message in a frame, all bounds checked. The bytes of a leaf stay where they are, and so does what an answer mostly consists of.
pub fn take(frame: &Bytes) -> Result<Message, WireError> {
    if let Some(answer) = held::read(frame) {
        return Ok(answer);
    }
    if let [FRAME_V1, LEAF_TAG, body @ ..] = &frame[..]
        && let Ok(((ask, number, len), bytes)) = postcard::take_from_bytes::<(AskId, u32, u64)>(body)
        && bytes.len() as u64 == len
        && bytes.len() <= LEAF_BYTES
    {
        let start = frame.len() - bytes.len();
        return Ok(Message::Leaf { ask, number, bytes: frame.slice(start..) });
    }
    decode(frame)
}

/// The message in a frame, all bounds checked.
pub fn decode(frame: &[u8]) -> Result<Message, WireError> {
    if frame.len() > MAX_FRAME {
        return Err(WireError::TooLarge(frame.len()));
    }
    let (&version, body) = frame.split_first().ok_or_else(|| WireError::Encoding("an empty frame".to_owned()))?;
    if version != FRAME_V1 {
        return Err(WireError::Version(version));
    }
    let (message, rest) = postcard::take_from_bytes(body).map_err(|error| WireError::Encoding(error.to_string()))?;
    if !rest.is_empty() {
        return Err(WireError::Encoding(format!("{} bytes too many", rest.len())));
    }
    match bounds(&message).into_iter().find(|(_, found, bound)| found > bound) {
        Some((what, found, bound)) => Err(WireError::Bound { what, found, bound }),
        None => Ok(message),
    }
}

/// How many bytes of a message are those of a leaf.
fn bulk(message: &Message) -> usize {
    match message {
        Message::Chunk { bytes, .. } | Message::ProvenChunk { bytes, .. } | Message::Leaf { bytes, .. } => bytes.len(),
        _ => 0,
    }
}

/// What is bounded in a message, how long it is, and its bound.
fn bounds(message: &Message) -> [(&'static str, usize, usize); 3] {
    const NONE: (&str, usize, usize) = ("nothing", 0, 0);
    match message {
        Message::Hello { lineage, .. } => [("lineage", lineage.len(), MAX_LINEAGE), NONE, NONE],
        Message::Heads { rows, .. } | Message::Have { rows } => [("rows", rows.len(), MAX_ROWS), NONE, NONE],
        Message::Announce(announcement) => [("batch", announcement.batch.items.len(), BATCH_FACTS), NONE, NONE],
        Message::Manifest(manifest) => {
            let segments = ("segments", manifest.segments.len(), MAX_SEGMENTS);
            [("lineage", manifest.lineage.len(), MAX_LINEAGE), segments, NONE]
        }
        Message::Segment { bytes, .. } => [("segment", bytes.len(), MAX_SEGMENT_BYTES), NONE, NONE],
        Message::Held { evidence, payloads, .. } => [
            ("record", evidence.record.len(), MAX_RECORD),
            ("proof", evidence.path.len(), MAX_PROOF),
            ("inline reply", payloads.iter().map(Bytes::len).sum(), INLINE_REPLY),
        ],
        Message::GetChunk { len, .. } => [("chunk", *len as usize, CHUNK as usize), NONE, NONE],
        Message::Chunk { bytes, .. } => [("chunk", bytes.len(), LEAF_BYTES), NONE, NONE],
        Message::ProvenChunk { bytes, siblings, .. } => {
            [("chunk", bytes.len(), LEAF_BYTES), ("proof", siblings.len(), MAX_SIBLINGS), NONE]
        }
        Message::Leaves { proof, .. } => {
            let leaves = ("leaves", proof.leaves.len(), LEAVES_IN_CHUNK);
            [leaves, ("proof", proof.siblings.len(), MAX_SIBLINGS), NONE]
        }
        Message::Leaf { bytes, .. } => [("leaf", bytes.len(), LEAF_BYTES), NONE, NONE],
        Message::Addresses(told) => {
            let each = told.others.iter().map(|(_, addresses)| addresses.len()).max().unwrap_or(0);
            let listen = ("listen addresses", told.mine.len().max(each), MAX_LISTEN_ADDRS);
            [listen, ("peers told of", told.others.len(), MAX_TOLD_PEERS), NONE]
        }
        Message::Placement(Placement::Offer(classes)) => [("device classes", classes.len(), MAX_OFFERED), NONE, NONE],
        Message::Placement(Placement::Work(_, work)) => [("inputs", work.inputs.len(), MAX_INPUTS), NONE, NONE],
        Message::Placement(Placement::Done(..))
        | Message::Pong { .. }
        | Message::Pull { .. }
        | Message::Describe
        | Message::GetSegment { .. }
        | Message::Graft { .. }
        | Message::Prune
        | Message::Link { .. }
        | Message::Ask { .. }
        | Message::NotHeld { .. }
        | Message::Busy { .. }
        | Message::Cancel { .. }
        | Message::WhereIs { .. } => [NONE; 3],
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::bao::ChunkProof;
    use crate::id::{ContentId, Digest};
    use crate::message::Work;

    #[test]
    fn messages_round_trip_and_tails_are_refused() {
        let message = Message::GetChunk {
            ask: AskId(7),
            id: ContentId::of(b"q"),
            blob: Digest::of(b"b"),
            offset: 1 << 40,
            len: CHUNK,
        };
        let frame = encode(&message).expect("in bounds");
        assert_eq!(decode(&frame), Ok(message));
        let longer = [&frame[..], &[0]].concat();
        assert!(matches!(decode(&longer), Err(WireError::Encoding(_))));
        assert!(matches!(decode(&frame[..frame.len() - 1]), Err(WireError::Encoding(_))));
        assert_eq!(decode(&[9, 9]), Err(WireError::Version(9)));
    }

    #[test]
    fn the_bytes_of_chunks_are_frozen() {
        let chunk = Message::Chunk { ask: AskId(7), bytes: vec![1, 2].into() };
        let proven = Message::ProvenChunk { ask: AskId(300), bytes: vec![3].into(), siblings: vec![[4; 32], [5; 32]] };
        let golden = [&[1, 21, 0xac, 2, 1, 3, 2][..], &[4; 32], &[5; 32]].concat();
        assert_eq!(encode(&chunk).expect("in bounds")[..], [1, 18, 7, 2, 1, 2]);
        assert_eq!(encode(&proven).expect("in bounds")[..], golden);
        assert_eq!((decode(&[1, 18, 7, 2, 1, 2]), decode(&golden)), (Ok(chunk), Ok(proven)));
        let leaves = ChunkProof { siblings: vec![[4; 32]], leaves: vec![[5; 32], [6; 32]] };
        let leaves = Message::Leaves { ask: AskId(300), proof: leaves };
        let golden = [&[1, 22, 0xac, 2, 1][..], &[4; 32], &[2], &[5; 32], &[6; 32]].concat();
        assert_eq!((&encode(&leaves).expect("in bounds")[..], decode(&golden)), (&golden[..], Ok(leaves)));
        let leaf = Message::Leaf { ask: AskId(7), number: 200, bytes: vec![1, 2].into() };
        let golden = [1, 23, 7, 200, 1, 2, 1, 2];
        assert_eq!((&encode(&leaf).expect("in bounds")[..], decode(&golden)), (&golden[..], Ok(leaf.clone())));
        let (frame, short) = (
            Bytes::from_static(&[1, LEAF_TAG, 7, 200, 1, 2, 1, 2]),
            Bytes::from_static(&[1, LEAF_TAG, 7, 200, 1, 3, 1, 2]),
        );
        assert_eq!((take(&frame), take(&short)), (Ok(leaf), decode(&short)));
        let longer =
            Message::ProvenChunk { ask: AskId(1), bytes: Bytes::new(), siblings: vec![[0; 32]; MAX_SIBLINGS + 1] };
        let frame = encode(&longer).expect("fits a frame");
        assert!(matches!(decode(&frame), Err(WireError::Bound { what: "proof", .. })));
    }

    #[test]
    fn the_bytes_of_placement_are_frozen() {
        let name = |text: &str| text.parse().expect("a name");
        let work = Work {
            program: vec![1, 2].into(),
            inputs: vec![(crate::request::Slot::Stdin, vec![3].into())],
            class: crate::request::Class::Portable,
            scope: None,
            timeout: None,
        };
        let golden: [(Placement, &[u8]); 3] = [
            (Placement::Offer(vec![name("gpu:a")]), &[1, 25, 0, 1, 5, b'g', b'p', b'u', b':', b'a']),
            (Placement::Work(AskId(7), work), &[1, 25, 1, 7, 2, 1, 2, 1, 0, 1, 3, 0, 0, 0]),
            (Placement::Done(AskId(7), Ok(())), &[1, 25, 2, 7, 0]),
        ];
        for (placement, bytes) in golden {
            let message = Message::Placement(placement);
            assert_eq!(encode(&message).expect("in bounds")[..], *bytes);
            assert_eq!(decode(bytes), Ok(message));
        }
        let cancel = Message::Cancel { ask: AskId(1 << 63 | 1) };
        let golden = [1, 19, 0x81, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 1];
        assert_eq!((&encode(&cancel).expect("in bounds")[..], decode(&golden)), (&golden[..], Ok(cancel)));
        let many = Message::Placement(Placement::Offer(vec![name("gpu:a"); MAX_OFFERED + 1]));
        assert!(matches!(decode(&encode(&many).expect("fits")), Err(WireError::Bound { what: "device classes", .. })));
    }

    #[test]
    fn a_chunk_beyond_the_bound_is_refused() {
        let proof = |leaves, siblings| ChunkProof { siblings: vec![[0; 32]; siblings], leaves: vec![[0; 32]; leaves] };
        let (ask, bytes) = (AskId(1), Bytes::from(vec![0; LEAF_BYTES + 1]));
        for (message, part) in [
            (Message::Chunk { ask, bytes: bytes.clone() }, "chunk"),
            (Message::ProvenChunk { ask, bytes: bytes.clone(), siblings: Vec::new() }, "chunk"),
            (Message::Leaf { ask, number: 0, bytes }, "leaf"),
            (Message::Leaves { ask, proof: proof(LEAVES_IN_CHUNK + 1, 0) }, "leaves"),
            (Message::Leaves { ask, proof: proof(1, MAX_SIBLINGS + 1) }, "proof"),
        ] {
            let frame = encode(&message).expect("fits a frame");
            assert!(matches!(decode(&frame), Err(WireError::Bound { what, .. }) if what == part), "{part}");
        }
    }

    proptest! {
        #[test]
        fn garbage_never_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = decode(&bytes);
            prop_assert_eq!(take(&bytes.clone().into()), decode(&bytes));
            if let [version, tag, ..] = &mut bytes[..] {
                let before = (*version, *tag);
                (*version, *tag) = (FRAME_V1, held::TAG);
                prop_assert_eq!(take(&bytes.clone().into()), decode(&bytes));
                let [version, tag, ..] = &mut bytes[..] else { unreachable!("it has two bytes") };
                (*version, *tag) = before;
            }
            if let Some(first) = bytes.first_mut() {
                *first = FRAME_V1;
            }
            if let Some(tag) = bytes.get_mut(1).filter(|tag| **tag > 200) {
                *tag = LEAF_TAG;
            }
            prop_assert_eq!(take(&bytes.clone().into()), decode(&bytes));
            if let Ok(message) = decode(&bytes) {
                prop_assert_eq!(decode(&encode(&message).expect("was in bounds")), Ok(message));
            }
        }
    }
}
