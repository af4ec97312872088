//! The frame of an answer, by hand: postcard's form, but what it consists of is moved whole, and read without a copy. Of all frames of a fleet at
//! work it is the largest and among the most frequent.
//!
//! Invariant: [`write`] gives what postcard gives. [`read`] gives what decoding gives, or nothing: what is not in its usual form, or beyond a bound,
//! is left to the general way, which knows what is wrong with it.

use bytes::Bytes;

use super::{FRAME_V1, MAX_FRAME};
use crate::limits::INLINE_REPLY;
use crate::message::{AskId, Message};
use crate::proof::{Evidence, form};
use crate::record::form::{Rest, number};

/// The variant of [`Message::Held`] on the wire.
pub(super) const TAG: u8 = 14;
/// Version, variant, numbers and flag.
const AROUND: usize = 64;
/// A payload that is less than this part of its frame is copied, so that it does not keep all of that in memory.
const MOST: usize = 2;

pub(super) fn write(ask: AskId, evidence: &Evidence, payloads: &[Bytes], announce: bool) -> Vec<u8> {
    let bytes: usize = payloads.iter().map(|payload| payload.len() + size_of::<u32>()).sum();
    let mut frame = Vec::with_capacity(AROUND + evidence.size() + bytes);
    frame.extend_from_slice(&[FRAME_V1, TAG]);
    number(&mut frame, ask.0);
    form::write(evidence, &mut frame);
    number(&mut frame, payloads.len() as u64);
    for payload in payloads {
        number(&mut frame, payload.len() as u64);
        frame.extend_from_slice(payload);
    }
    frame.push(u8::from(announce));
    frame
}

pub(super) fn read(frame: &Bytes) -> Option<Message> {
    let [FRAME_V1, TAG, body @ ..] = &frame[..] else { return None };
    let mut rest = Rest(body);
    let ask = AskId(rest.number()?);
    let evidence = form::read(&mut rest, frame)?;
    let count = usize::try_from(rest.number()?).ok()?;
    let (mut payloads, mut total) = (Vec::new(), 0);
    for _ in 0..count {
        let len = usize::try_from(rest.number()?).ok()?;
        let payload = rest.take(len)?;
        total += payload.len();
        let is_most = payload.len() >= frame.len() / MOST;
        payloads.push(if is_most { frame.slice_ref(payload) } else { Bytes::copy_from_slice(payload) });
    }
    let announce = rest.flag()?;
    let fits = rest.0.is_empty() && total <= INLINE_REPLY && frame.len() <= MAX_FRAME;
    fits.then_some(Message::Held { ask, evidence, payloads, announce })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::id::{EpochId, NodeId};
    use crate::identity::Signature;
    use crate::proof::SignedHead;
    use crate::wire::{decode, encode, take};

    fn evidence(record: Vec<u8>, path: usize) -> Evidence {
        let head = SignedHead {
            node: NodeId::from_bytes([1; 32]),
            epoch: EpochId::from_bytes([2; 16]),
            length: 1 << 40,
            root: [3; 32],
            signature: Signature::from_bytes([4; 64]),
        };
        Evidence { record: record.into(), index: 300, path: vec![[5; 32]; path], head }
    }

    proptest! {
        #[test]
        fn an_answer_is_written_as_postcard_writes_it_and_read_the_same_both_ways(
            ask in any::<u64>(),
            record in prop::collection::vec(any::<u8>(), 0..400),
            path in 0..70_usize,
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..900), 0..4),
            announce in any::<bool>(),
        ) {
            let payloads = payloads.into_iter().map(Bytes::from).collect();
            let message = Message::Held { ask: AskId(ask), evidence: evidence(record, path), payloads, announce };
            let frame = encode(&message).expect("in bounds");
            let plain = postcard::to_extend(&message, vec![FRAME_V1]).expect("encodes");
            prop_assert_eq!(&frame[..], &plain[..]);
            prop_assert_eq!(take(&frame), decode(&frame));
            for end in (0..frame.len()).step_by(7) {
                let cut = frame.slice(..end);
                prop_assert_eq!(take(&cut), decode(&cut));
            }
        }
    }

    #[test]
    fn what_is_beyond_a_bound_is_refused_as_ever() {
        let payloads = vec![Bytes::from(vec![0; INLINE_REPLY + 1])];
        let large = Message::Held { ask: AskId(1), evidence: evidence(vec![1], 2), payloads, announce: false };
        let frame = encode(&large).expect("fits a frame");
        assert!(read(&frame).is_none());
        assert_eq!(take(&frame), decode(&frame));
        assert!(take(&frame).is_err());
    }
}
