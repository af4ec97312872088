//! Frames that many nodes pass on: an announcement or a manifest is encoded, decoded and checked once, and all nodes share what comes of it.
//!
//! Ten thousand nodes that keep the same announcement would be ten thousand copies of it. Invariant: what is shared is what the wire format
//! and the verifier made of exactly these bytes; every other frame is encoded and decoded where it is sent and received.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use crate::fabric::Verdict;
use crate::id::Digest;
use crate::message::{Announcement, Message};
use crate::wire::{self, WireError};

/// Frames that are remembered: more than travel at the same time.
const MAX_FRAMES: usize = 16 * 1024;
/// Segments that are shared.
const MAX_SEGMENTS: usize = 64 * 1024;

/// A value that is shared. As long as it is kept here, no other one can be at its place in memory.
struct Known {
    message: Message,
    bytes: Bytes,
    /// What came of checking it, once that was asked.
    verdict: Option<Verdict>,
}

/// What all nodes share.
#[derive(Default)]
pub(super) struct Frames {
    /// By where the value is.
    known: BTreeMap<usize, Known>,
    /// Where the value is that these bytes, which are there, mean.
    meanings: BTreeMap<usize, usize>,
    /// In order of their coming: the places of the value that was sent, of the one that was decoded, and of the bytes.
    order: VecDeque<[usize; 3]>,
    segments: BTreeMap<Digest, Bytes>,
}

/// Where the value is that a message shares with others, if it does.
fn place(message: &Message) -> Option<usize> {
    match message {
        Message::Announce(told) => Some(Arc::as_ptr(told).addr()),
        Message::Manifest(manifest) => Some(Arc::as_ptr(manifest).addr()),
        _ => None,
    }
}

impl Frames {
    /// The frame of a message.
    pub(super) fn encode(&mut self, message: &Message) -> Result<Bytes, WireError> {
        let Some(sent) = place(message) else { return wire::encode(message) };
        if let Some(known) = self.known.get(&sent) {
            return Ok(known.bytes.clone());
        }
        let bytes = wire::encode(message)?;
        // What does not come back as a message is the receiver's to refuse.
        if let Ok(decoded) = wire::decode(&bytes)
            && let Some(meant) = place(&decoded)
        {
            let known = |message: &Message| Known { message: message.clone(), bytes: bytes.clone(), verdict: None };
            self.known.insert(sent, known(message));
            self.known.insert(meant, known(&decoded));
            self.meanings.insert(bytes.as_ptr().addr(), meant);
            self.order.push_back([sent, meant, bytes.as_ptr().addr()]);
        }
        if self.order.len() > MAX_FRAMES
            && let Some([sent, meant, at]) = self.order.pop_front()
        {
            self.known.remove(&sent);
            self.known.remove(&meant);
            self.meanings.remove(&at);
        }
        Ok(bytes)
    }

    /// The message that a frame means.
    pub(super) fn decode(&self, bytes: &Bytes) -> Result<Message, WireError> {
        let known = self.meanings.get(&bytes.as_ptr().addr()).and_then(|meant| self.known.get(meant));
        match known.filter(|known| known.bytes.len() == bytes.len()) {
            Some(known) => Ok(known.message.clone()),
            None => wire::decode(bytes),
        }
    }

    /// What comes of checking an announcement: asked of `check` once for all who share it.
    pub(super) fn verdict(&mut self, told: &Arc<Announcement>, check: impl FnOnce() -> Verdict) -> Verdict {
        match self.known.get_mut(&Arc::as_ptr(told).addr()) {
            Some(known) => *known.verdict.get_or_insert_with(check),
            None => check(),
        }
    }

    /// The bytes of a segment that was checked, shared with all who have the same one.
    pub(super) fn segment(&mut self, name: Digest, bytes: Bytes) -> Bytes {
        if self.segments.len() >= MAX_SEGMENTS {
            self.segments.clear();
        }
        self.segments.entry(name).or_insert(bytes).clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{EpochId, NodeId};
    use crate::identity::{Identity, Signer};
    use crate::message::{Batch, LogItem, chain_start};
    use crate::proof::Head;

    fn announcement(first: u64) -> Arc<Announcement> {
        let me = Identity::from_seed([1; 32]);
        let (node, epoch) = (me.node(), EpochId::from_bytes([2; 16]));
        let head = Head { node, epoch, length: first + 1, root: [0; 32] };
        let batch = Batch { first, items: vec![LogItem::Skip(1)], head };
        Arc::new(Announcement::sign(&me, &chain_start(node, epoch), batch))
    }

    #[test]
    fn what_is_passed_on_is_one_value_and_one_frame() {
        let mut frames = Frames::default();
        let told = Message::Announce(announcement(0));
        let frame = frames.encode(&told).expect("a frame");
        assert_eq!(frame, wire::encode(&told).expect("the same"));
        let [one, other] = [(); 2].map(|()| frames.decode(&frame).expect("a message"));
        assert_eq!((&one, place(&one)), (&told, place(&other)));
        let passed_on = frames.encode(&one).expect("a frame");
        assert_eq!(passed_on.as_ptr(), frame.as_ptr());
        let Message::Announce(one) = one else { panic!("{one:?}") };
        let mut asked = 0;
        for _ in 0..3 {
            let verdict = frames.verdict(&one, || {
                asked += 1;
                Verdict::Forged
            });
            assert_eq!(verdict, Verdict::Forged);
        }
        assert_eq!(asked, 1);
    }

    #[test]
    fn other_bytes_mean_something_else_however_alike_they_are() {
        let mut frames = Frames::default();
        let told = Message::Announce(announcement(0));
        let frame = frames.encode(&told).expect("a frame");
        assert!(frames.decode(&frame.slice(..frame.len() - 1)).is_err(), "a part of it, at the same place");
        let mut twisted = frame.to_vec();
        *twisted.last_mut().expect("bytes") ^= 1;
        let twisted = frames.decode(&twisted.into()).expect("only the signature is another");
        assert_ne!(twisted, told);
        let Message::Announce(twisted) = twisted else { panic!("{twisted:?}") };
        assert_eq!(frames.verdict(&twisted, || Verdict::NotNow), Verdict::NotNow);
        let elsewhere: NodeId = NodeId::from_bytes([9; 32]);
        let graft = Message::Graft { node: elsewhere, from: 3 };
        let frame = frames.encode(&graft).expect("a frame");
        assert_eq!(frames.decode(&frame), Ok(graft));
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let mut frames = Frames::default();
        for first in 0..MAX_FRAMES as u64 + 10 {
            // Unsigned ones are quicker to make.
            let mut told = announcement(0).as_ref().clone();
            if first > 20 {
                told.batch.items.clear();
            }
            told.batch.first = first;
            frames.encode(&Message::Announce(Arc::new(told))).expect("a frame");
        }
        assert_eq!(frames.order.len(), MAX_FRAMES);
        assert!(frames.known.len() <= 2 * MAX_FRAMES && frames.meanings.len() <= MAX_FRAMES);
    }
}
