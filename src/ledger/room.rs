//! Room ahead: bytes that are allocated and zero before they are needed, so that a sync has no metadata to write.
//!
//! The writer makes it behind what it writes, a step at a time; a helper thread makes the next segment as a whole. Without the one or the other
//! everything works and syncs cost more. Invariant: zeros are only ever written behind the last frame, by whoever writes the frames, or to a
//! file that is no segment yet.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use super::limits::{FAST_STEP, ROOM_STEP, TRIED_STEPS};
use super::storage::{Storage, StorageFile, remove_if_there};

/// A segment that is prepared before it is needed; removed at every opening.
pub(super) const SPARE: &str = "spare.seg";

/// One step of room.
pub(super) static ZEROS: [u8; ROOM_STEP] = [0; ROOM_STEP];

/// Tells a helper thread that what it makes is not needed any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Stop(Arc<AtomicBool>);

impl Stop {
    pub(super) fn stop(&self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Work for a helper thread; see [`super::Ledger::wants_room`].
pub struct Room {
    pub(super) storage: Arc<dyn Storage>,
    /// How long the segment is to be.
    pub(super) end: u64,
    pub(super) stop: Stop,
    /// Whether to give up on a disk that has no bandwidth to spare.
    pub(super) only_if_fast: bool,
}

/// Room that was made, or the failure to make it.
pub struct Made {
    /// `None` if the disk is too slow for it.
    pub(super) spare: io::Result<Option<Arc<dyn StorageFile>>>,
    /// Whether it was only to be made on a fast disk.
    pub(super) tried: bool,
}

impl Room {
    /// Makes it; takes as long as the disk takes. A failure costs speed and nothing else.
    #[must_use]
    pub fn make(self) -> Made {
        Made { spare: self.spare(), tried: self.only_if_fast }
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "whether a disk is fast is a matter of real time; nothing that is written depends on it"
    )]
    fn spare(&self) -> io::Result<Option<Arc<dyn StorageFile>>> {
        remove_if_there(&*self.storage, SPARE)?;
        let file = self.storage.create_new(SPARE)?;
        let (mut at, mut steps, begun) = (0, 0, Instant::now());
        while at < self.end && !self.stop.0.load(Ordering::Relaxed) {
            let len = ROOM_STEP.min(usize::try_from(self.end - at).unwrap_or(ROOM_STEP));
            file.write_at(&ZEROS[..len], at)?;
            file.sync()?;
            at += len as u64;
            steps += 1;
            if self.only_if_fast && steps == TRIED_STEPS && begun.elapsed() > FAST_STEP * TRIED_STEPS {
                self.storage.remove(SPARE)?;
                return Ok(None);
            }
        }
        Ok(Some(file))
    }
}
