//! Frames on a lane: a length as `u32`, little-endian, and that many bytes.
//!
//! Invariant: a length is checked before anything is kept for it, and beyond the size of a usual
//! frame memory grows with the bytes that came, not with the length claimed.
//! An empty frame is refused: it would cost its receiver an event and its sender almost nothing. This module knows nothing of sockets.

use std::collections::VecDeque;

use bytes::Bytes;

use super::limits::{MAX_FRAME, MAX_QUEUED_BYTES, MAX_QUEUED_FRAMES};

/// Bytes of a frame's length.
const HEADER: usize = 4;
/// What a claim alone may reserve: a leaf of a large reply and what goes with it.
const USUAL_FRAME: usize = 17 << 10;

/// A frame that is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Its length is more than `MAX_FRAME`.
    #[error("a frame of {len} bytes is more than the {MAX_FRAME} allowed")]
    TooLarge {
        /// The length claimed.
        len: usize,
    },
    /// Its length is zero.
    #[error("an empty frame")]
    Empty,
}

/// Whether a frame may have this length.
pub(super) fn check_len(len: usize) -> Result<(), FrameError> {
    match len {
        0 => Err(FrameError::Empty),
        len if len > MAX_FRAME => Err(FrameError::TooLarge { len }),
        _ => Ok(()),
    }
}

/// Cuts incoming bytes into frames.
#[derive(Debug, Default)]
pub(super) struct Decoder {
    /// The length of the frame under way, once its header is complete.
    len: Option<usize>,
    /// What came of the header, or of the body.
    part: Vec<u8>,
}

impl Decoder {
    /// Takes bytes from the front of `input`, at most up to the end of one frame. `None` means that `input` is used up.
    /// After an error the decoder is of no further use.
    pub(super) fn next(&mut self, input: &mut &[u8]) -> Result<Option<Bytes>, FrameError> {
        let len = match self.len {
            Some(len) => len,
            None => match self.header(input)? {
                Some(len) => len,
                None => return Ok(None),
            },
        };
        if self.part.is_empty() && input.len() >= len {
            let (frame, rest) = input.split_at(len);
            *input = rest;
            self.len = None;
            return Ok(Some(Bytes::copy_from_slice(frame)));
        }
        if self.part.is_empty() {
            // A frame of a usual size is gathered without moving it.
            self.part.reserve_exact(len.min(USUAL_FRAME));
        }
        self.take(input, len);
        if self.part.len() < len {
            return Ok(None);
        }
        self.len = None;
        Ok(Some(std::mem::take(&mut self.part).into()))
    }

    fn header(&mut self, input: &mut &[u8]) -> Result<Option<usize>, FrameError> {
        self.take(input, HEADER);
        let Ok(header) = <[u8; HEADER]>::try_from(self.part.as_slice()) else { return Ok(None) };
        self.part.clear();
        let len = usize::try_from(u32::from_le_bytes(header)).unwrap_or(usize::MAX);
        check_len(len)?;
        self.len = Some(len);
        Ok(Some(len))
    }

    /// Moves input to `part` until that holds `want` bytes.
    fn take(&mut self, input: &mut &[u8], want: usize) {
        let (more, rest) = input.split_at(input.len().min(want - self.part.len()));
        self.part.extend_from_slice(more);
        *input = rest;
    }
}

/// A queue that takes no further frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Full;

/// Outgoing frames in order.
///
/// 1. `frames.len() <= MAX_QUEUED_FRAMES`.
/// 2. `bytes` is the sum of their lengths, and at most `MAX_QUEUED_BYTES`.
/// 3. `written` counts bytes of the first frame, header included, that have left; it is 0 when there is none.
#[derive(Debug, Default)]
pub(super) struct Queue {
    frames: VecDeque<Bytes>,
    bytes: usize,
    written: usize,
}

impl Queue {
    /// Appends a frame that [`check_len`] accepted.
    pub(super) fn push(&mut self, frame: Bytes) -> Result<(), Full> {
        if self.frames.len() >= MAX_QUEUED_FRAMES || self.bytes + frame.len() > MAX_QUEUED_BYTES {
            return Err(Full);
        }
        self.bytes += frame.len();
        self.frames.push_back(frame);
        Ok(())
    }

    /// Moves bytes to the end of `out` until that holds `limit` bytes or nothing waits.
    pub(super) fn fill(&mut self, out: &mut Vec<u8>, limit: usize) {
        while let Some(frame) = self.frames.front() {
            if self.written < HEADER {
                let len = u32::try_from(frame.len()).expect("check_len bounds a frame");
                // A header is never split here: `limit` is approximate by its four bytes.
                out.extend_from_slice(&len.to_le_bytes());
                self.written = HEADER;
            }
            let rest = &frame[self.written - HEADER..];
            let part = rest.len().min(limit.saturating_sub(out.len()));
            out.extend_from_slice(&rest[..part]);
            if part < rest.len() {
                self.written += part;
                return;
            }
            self.bytes -= frame.len();
            self.written = 0;
            self.frames.pop_front();
            if out.len() >= limit {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(sizes: &[usize]) -> Vec<Bytes> {
        sizes.iter().enumerate().map(|(i, len)| vec![i.to_le_bytes()[0]; *len].into()).collect()
    }

    /// Through a queue and a decoder, in writes of about `limit` and reads of `chunk` bytes.
    fn carried(sent: &[Bytes], limit: usize, chunk: usize) -> Vec<Bytes> {
        let (mut queue, mut decoder, mut received) = (Queue::default(), Decoder::default(), Vec::new());
        for frame in sent {
            queue.push(frame.clone()).unwrap();
        }
        while !queue.frames.is_empty() {
            let mut wire = Vec::new();
            queue.fill(&mut wire, limit);
            assert!(wire.len() <= limit + HEADER, "{} bytes", wire.len());
            for mut part in wire.chunks(chunk) {
                while let Some(frame) = decoder.next(&mut part).unwrap() {
                    received.push(frame);
                }
                assert!(part.is_empty());
            }
        }
        assert_eq!(queue.bytes, 0);
        received
    }

    proptest! {
        #[test]
        fn frames_arrive_whole_and_in_order(
            sizes in prop::collection::vec(1..300_usize, 0..40),
            limit in 1..500_usize,
            chunk in 1..500_usize,
        ) {
            let sent = frames(&sizes);
            prop_assert_eq!(carried(&sent, limit, chunk), sent);
        }
    }

    #[test]
    fn the_largest_frame_passes_and_one_byte_more_does_not() {
        let sent = frames(&[1, MAX_FRAME, 256]);
        assert_eq!(carried(&sent, 64 << 10, 16 << 10), sent);
        let len = MAX_FRAME + 1;
        assert_eq!(check_len(len), Err(FrameError::TooLarge { len }));
        let claim = u32::try_from(len).unwrap().to_le_bytes();
        assert_eq!(Decoder::default().next(&mut claim.as_slice()), Err(FrameError::TooLarge { len }));
    }

    #[test]
    fn a_claim_costs_no_more_memory_than_a_usual_frame() {
        let mut decoder = Decoder::default();
        let claim = u32::try_from(MAX_FRAME).unwrap().to_le_bytes();
        assert_eq!(decoder.next(&mut claim.as_slice()), Ok(None));
        assert_eq!(decoder.next(&mut [1; 100].as_slice()), Ok(None));
        assert!(decoder.part.capacity() <= USUAL_FRAME);
    }

    #[test]
    fn an_empty_frame_is_refused() {
        assert_eq!(check_len(0), Err(FrameError::Empty));
        assert_eq!(Decoder::default().next(&mut [0; 4].as_slice()), Err(FrameError::Empty));
    }

    #[test]
    fn a_queue_is_bounded_in_frames_and_in_bytes() {
        let mut queue = Queue::default();
        for _ in 0..MAX_QUEUED_FRAMES {
            queue.push(Bytes::from_static(b"x")).unwrap();
        }
        assert_eq!(queue.push(Bytes::from_static(b"x")), Err(Full));
        let mut queue = Queue::default();
        let large = Bytes::from(vec![0; MAX_FRAME]);
        queue.push(large.clone()).unwrap();
        queue.push(large).unwrap();
        assert_eq!(queue.push(Bytes::from_static(b"x")), Err(Full));
    }
}
