//! Where a worker leaves its answer for a thread that waits for that one evaluation: the first page of the shared memory.
//!
//! What comes through a pipe wakes whoever sleeps on it, and that is the lane's thread. A letter wakes who waits for it and nobody else. Invariants:
//! (1) there is at most one order under way, so at most one letter; it is taken out of the way before the next order goes; (2) the worker could
//! write here at any time, so a letter is copied first and judged then, and its length is bounded before that.

#![expect(unsafe_code, reason = "words that two processes share have no safe interface")]

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::thread::futex::{self, Flags, Timespec};

use super::memory::{Arena, Part};
use crate::evaluator::gpu::limits::MAILBOX;

/// What the first word says; the second one is the length of the letter, which begins behind it.
const NOTHING: u32 = 0;
const LETTER: u32 = 1;
const ELSEWHERE: u32 = 2;
/// Where a letter begins, and how long it may be.
const BEGIN: usize = 8;
const ROOM: usize = 4096 - BEGIN;
const _: () = assert!((BEGIN + ROOM) as u64 == MAILBOX, "it fills its page");

/// See the module's front page.
#[derive(Debug)]
pub(in crate::evaluator::gpu) struct Mailbox(Part);

/// What is found in it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Letter {
    Here(Vec<u8>),
    /// The answer is too long for it and comes through the pipe.
    Elsewhere,
}

impl Mailbox {
    /// That of a file of [`super::memory::make`].
    pub(super) fn of(file: &File) -> io::Result<Self> {
        Ok(Self(Arena::over(file.try_clone()?, MAILBOX)?.part(0, MAILBOX)?))
    }

    /// Takes what may be in it out of the way.
    pub(super) fn clear(&self) {
        self.state().store(NOTHING, Ordering::Release);
    }

    /// For the worker: leaves a letter, or word that it comes elsewhere (`false`).
    pub(super) fn leave(&self, letter: &[u8]) -> bool {
        let fits = letter.len() <= ROOM;
        if fits {
            // SAFETY: the target is inside the page, to which nobody has a reference.
            unsafe { self.0.begin().add(BEGIN).copy_from_nonoverlapping(letter.as_ptr(), letter.len()) };
            self.word(1).store(u32::try_from(letter.len()).expect("less than a page"), Ordering::Relaxed);
        }
        self.state().store(if fits { LETTER } else { ELSEWHERE }, Ordering::Release);
        self.wake();
        fits
    }

    /// What is in it, if there is anything.
    pub(super) fn look(&self) -> Option<Letter> {
        match self.state().load(Ordering::Acquire) {
            NOTHING => None,
            LETTER => {
                let len = usize::try_from(self.word(1).load(Ordering::Relaxed)).unwrap_or(usize::MAX).min(ROOM);
                let mut letter: Vec<u8> = Vec::with_capacity(len);
                // SAFETY: the source is inside the page, and the target is the vector's own room.
                unsafe {
                    letter.as_mut_ptr().copy_from_nonoverlapping(self.0.begin().add(BEGIN), len);
                    letter.set_len(len);
                }
                Some(Letter::Here(letter))
            }
            _ => Some(Letter::Elsewhere),
        }
    }

    /// Whether there is anything in it.
    pub(super) fn is_empty(&self) -> bool {
        self.state().load(Ordering::Relaxed) == NOTHING
    }

    /// Sleeps until there is something in it, for at most that time; it may end earlier.
    pub(super) fn wait(&self, at_most: Duration) {
        if let Ok(at_most) = Timespec::try_from(at_most) {
            // Whatever ends it, the caller looks for itself.
            let _ = futex::wait(self.state(), Flags::empty(), NOTHING, Some(&at_most));
        }
    }

    /// Has whoever waits look.
    pub(in crate::evaluator::gpu) fn wake(&self) {
        let _ = futex::wake(self.state(), Flags::empty(), 1);
    }

    fn state(&self) -> &AtomicU32 {
        self.word(0)
    }

    #[expect(clippy::cast_ptr_alignment, reason = "a page begins at a multiple of its size")]
    fn word(&self, number: usize) -> &AtomicU32 {
        // SAFETY: the first words of a page are inside it and aligned, the page stays as long as this does, and nobody touches them otherwise.
        unsafe { AtomicU32::from_ptr(self.0.begin().cast::<u32>().add(number)) }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::super::memory::make;
    use super::*;

    #[test]
    fn a_letter_is_found_once_it_is_left_and_one_that_is_too_long_is_announced() {
        let file = make().unwrap();
        let (own, theirs) = (Mailbox::of(&file).unwrap(), Mailbox::of(&file).unwrap());
        assert_eq!((own.look(), own.is_empty()), (None, true));
        own.wait(Duration::from_millis(1));
        for letter in [&b"a letter"[..], &[7; ROOM], b""] {
            thread::scope(|scope| {
                scope.spawn(|| assert!(theirs.leave(letter)));
                while own.is_empty() {
                    own.wait(Duration::from_mins(1));
                }
            });
            assert_eq!(own.look(), Some(Letter::Here(letter.to_vec())));
            own.clear();
            assert_eq!(own.look(), None);
        }
        assert!(!theirs.leave(&[7; ROOM + 1]));
        assert_eq!(own.look(), Some(Letter::Elsewhere));
    }

    #[test]
    fn a_letter_that_claims_to_be_longer_than_the_page_ends_with_it() {
        let file = make().unwrap();
        let mailbox = Mailbox::of(&file).unwrap();
        mailbox.leave(b"short");
        mailbox.word(1).store(u32::MAX, Ordering::Relaxed);
        assert!(matches!(mailbox.look(), Some(Letter::Here(letter)) if letter.len() == ROOM));
        mailbox.word(0).store(77, Ordering::Relaxed);
        assert_eq!(mailbox.look(), Some(Letter::Elsewhere), "the pipe says what it is then");
    }
}
