//! Room ahead: bytes that are allocated and zero before they are needed, so that a sync has no metadata to write.
//!
//! A helper thread makes it; without one everything works and syncs cost more. Invariant: zeros are only ever written at or behind the
//! *frontier*, which the writer moves, under the same lock, before it writes a frame.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard};

use super::limits::ROOM_STEP;
use super::storage::{Storage, StorageFile};

/// A segment that is prepared before it is needed; removed at every opening.
pub(super) const SPARE: &str = "spare.seg";

/// Where the writer is in a file that room is made in.
#[derive(Debug, Clone, Default)]
pub(super) struct Frontier(Arc<Mutex<u64>>);

impl Frontier {
    fn lock(&self) -> MutexGuard<'_, u64> {
        self.0.lock().expect("no code panics while it holds the frontier")
    }

    /// The writer is about to write up to here.
    pub(super) fn advance(&self, to: u64) {
        let mut frontier = self.lock();
        *frontier = to.max(*frontier);
    }
}

/// Work for a helper thread; see [`super::Ledger::wants_room`].
pub struct Room {
    pub(super) storage: Arc<dyn Storage>,
    /// Up to which offset.
    pub(super) end: u64,
    pub(super) place: Where,
}

pub(super) enum Where {
    /// At the end of the segment that is written to.
    Newest { file: Arc<dyn StorageFile>, frontier: Frontier, from: u64 },
    /// In the next segment.
    Spare { stop: Frontier },
}

/// Room that was made, or the failure to make it.
pub struct Made(pub(super) io::Result<Option<Arc<dyn StorageFile>>>);

impl Room {
    /// Makes it; takes as long as the disk takes. A failure costs speed and nothing else.
    #[must_use]
    pub fn make(self) -> Made {
        Made(match self.place {
            Where::Newest { file, frontier, from } => extend(&*file, &frontier, from, self.end).map(|()| None),
            Where::Spare { stop } => spare(&*self.storage, &stop, self.end).map(Some),
        })
    }
}

fn spare(storage: &dyn Storage, stop: &Frontier, end: u64) -> io::Result<Arc<dyn StorageFile>> {
    match storage.remove(SPARE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = storage.create_new(SPARE)?;
    extend(&*file, stop, 0, end)?;
    Ok(file)
}

fn extend(file: &dyn StorageFile, frontier: &Frontier, from: u64, end: u64) -> io::Result<()> {
    let zeros = vec![0; ROOM_STEP];
    let mut at = from;
    while at < end {
        let len = ROOM_STEP.min(usize::try_from(end - at).unwrap_or(ROOM_STEP));
        {
            let reached = frontier.lock();
            if *reached > at {
                at = *reached;
                continue;
            }
            file.write_at(&zeros[..len], at)?;
        }
        at += len as u64;
        file.sync()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::storage::{MemoryStorage, read_all};

    #[test]
    fn zeros_never_cover_what_the_writer_has_reached() {
        let storage = MemoryStorage::new();
        let file = storage.create_new("f").expect("new");
        let frontier = Frontier::default();
        std::thread::scope(|scope| {
            scope.spawn(|| extend(&*file, &frontier, 100, 4 * ROOM_STEP as u64).expect("extends"));
            for at in 0..40_000u64 {
                frontier.advance(100 + (at + 1) * 8);
                file.write_at(&[7; 8], 100 + at * 8).expect("writes");
            }
        });
        let bytes = read_all(&*file).expect("reads");
        assert!(bytes[100..100 + 40_000 * 8].iter().all(|byte| *byte == 7));
        assert!(bytes[100 + 40_000 * 8..].iter().all(|byte| *byte == 0) && bytes.len() == 4 * ROOM_STEP);
    }
}
