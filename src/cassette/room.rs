//! Keeping within a disk budget, and giving back what retracted answers take.
//!
//! Payloads go, facts stay. Files go first, in the order of their records with a second chance for those that were served lately; then the
//! payloads in the frames of the oldest segments. Only if facts alone are too many are the oldest segments dropped as a whole. Invariants: what a
//! pinned question names stays, and so does its record; an answer that was retracted stays retracted.

use std::collections::BTreeSet;

use crate::id::{ContentId, Digest};
use crate::identity::Signer;
use crate::ledger::{Entry, Freed, LedgerError, Stored, pins};
use crate::reply::BlobRef;

use super::index::Standing;
use super::writer::CassetteWriter;

impl CassetteWriter {
    /// Drops payloads until the ledger takes at most `budget` bytes of disk, or nothing more may go. `at` is in microseconds since 1970.
    pub fn make_room(&mut self, budget: u64, at: u64) -> Result<Freed, LedgerError> {
        let mut freed = Freed::default();
        self.commit()?;
        let used = self.disk_bytes()?;
        if used <= budget {
            return Ok(freed);
        }
        let pinned = self.pinned()?;
        let victims = self.old_files(used - budget, &pinned)?;
        if !victims.is_empty() {
            freed += self.ledger.evict(&victims, at)?;
        }
        for segment in self.ledger.full_segments() {
            if self.disk_bytes()? <= budget {
                break;
            }
            let mut refuse = |_: &Self, _: &Stored, blob: BlobRef| Ok(!pinned.contains(&blob.digest));
            freed += self.thin(&segment, &mut refuse, at)?;
        }
        for segment in self.ledger.full_segments() {
            if self.disk_bytes()? <= budget {
                break;
            }
            let dropped = self.raise_floor(segment.end, None, at)?;
            if dropped.dropped == 0 {
                break;
            }
            freed += dropped;
        }
        Ok(freed)
    }

    /// Drops the full segments that lie wholly below position `below` and hold no record of a pinned question; see [`Ledger::drop_below`].
    ///
    /// [`Ledger::drop_below`]: crate::ledger::Ledger::drop_below
    pub fn raise_floor(&mut self, below: u64, signer: Option<&dyn Signer>, at: u64) -> Result<Freed, LedgerError> {
        self.commit()?;
        let cassette = self.cassette();
        let mut below = below;
        for id in self.pins()? {
            below = below.min(cassette.inner.index.live(&id)?.first().copied().unwrap_or(below));
        }
        let segments = self.ledger.full_segments();
        let dropped = segments.into_iter().take_while(|segment| segment.end <= below);
        for seq in dropped.flatten() {
            let entry = match cassette.ledger().read(seq) {
                Ok(stored) => stored.map(|stored| stored.entry),
                Err(error) if error.is_loss() => None,
                Err(error) => return Err(error.into()),
            };
            if let Some(Entry::Retracted { request, answer, .. }) = entry
                && cassette.inner.index.standing(&request, &answer)? == Standing::Retracted
            {
                self.retract(request, answer, at)?;
            }
        }
        self.commit()?;
        let freed = self.ledger.drop_below(below, signer, at)?;
        self.hand = self.hand.max(cassette.ledger().floor());
        Ok(freed)
    }

    fn pins(&self) -> Result<BTreeSet<ContentId>, LedgerError> {
        self.ledger.pins().map_err(|error| self.ledger.io_error(pins::FILE, error))
    }

    /// Rewrites full segments without the payloads of retracted answers, and removes files that no entry names. `progress` is told how many
    /// segments of how many are done.
    pub fn compact(&mut self, at: u64, progress: &mut dyn FnMut(usize, usize)) -> Result<Freed, LedgerError> {
        self.commit()?;
        let mut freed = Freed::default();
        let segments = self.ledger.full_segments();
        for (done, segment) in segments.iter().enumerate() {
            progress(done, segments.len());
            let mut refuse = |writer: &Self, stored: &Stored, _: BlobRef| {
                let Some(record) = stored.entry.record() else { return Ok(false) };
                let standing = writer.cassette().inner.index.standing(&record.request, &record.answer())?;
                Ok(standing == Standing::Retracted)
            };
            freed += self.thin(segment, &mut refuse, at)?;
        }
        freed += self.ledger.sweep()?;
        progress(segments.len(), segments.len());
        Ok(freed)
    }

    fn disk_bytes(&self) -> Result<u64, LedgerError> {
        self.ledger.disk_bytes().map_err(|error| self.ledger.io_error("", error))
    }

    /// What the records of pinned questions name.
    fn pinned(&self) -> Result<BTreeSet<Digest>, LedgerError> {
        let (cassette, mut digests) = (self.cassette(), BTreeSet::new());
        for id in self.pins()? {
            for seq in cassette.inner.index.live(&id)? {
                let stored = cassette.ledger().read(seq)?;
                let record = stored.as_ref().and_then(|stored| stored.entry.record());
                digests.extend(record.iter().flat_map(|record| record.blobs()).map(|blob| blob.digest));
            }
        }
        Ok(digests)
    }

    /// Files that together are at least `bytes` long, from where the last turn ended. One that was served since then gets a second chance.
    fn old_files(&mut self, bytes: u64, pinned: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, LedgerError> {
        let (cassette, length) = (self.cassette(), self.ledger.next_seq());
        let (mut victims, mut sum) = (BTreeSet::new(), 0);
        for _ in 0..2 * length {
            if sum >= bytes {
                break;
            }
            let seq = if self.hand < length { self.hand } else { cassette.ledger().floor() };
            self.hand = seq + 1;
            let stored = match cassette.ledger().read(seq) {
                Ok(Some(stored)) => stored,
                Err(error) if !error.is_loss() => return Err(error.into()),
                _ => continue,
            };
            let inline: BTreeSet<BlobRef> = stored.inline().collect();
            let Some(record) = stored.entry.record() else { continue };
            for blob in record.blobs().filter(|blob| !inline.contains(blob)) {
                let digest = blob.digest;
                if pinned.contains(&digest) || cassette.inner.served.take(&digest) {
                    continue;
                }
                let there = self.ledger.has_file(digest).map_err(|error| self.ledger.io_error("blobs", error))?;
                if there {
                    sum += if victims.insert(digest) { blob.len } else { 0 };
                }
            }
        }
        Ok(victims)
    }

    /// Rewrites a segment without the inline payloads that are refused, after saying so.
    fn thin(
        &mut self,
        segment: &std::ops::Range<u64>,
        refuse: &mut dyn FnMut(&Self, &Stored, BlobRef) -> Result<bool, LedgerError>,
        at: u64,
    ) -> Result<Freed, LedgerError> {
        let reader = self.cassette().ledger().clone();
        let mut refused = BTreeSet::new();
        for seq in segment.clone() {
            let stored = match reader.read(seq) {
                Ok(Some(stored)) => stored,
                Err(error) if !error.is_loss() => return Err(error.into()),
                _ => continue,
            };
            for blob in stored.inline() {
                if refuse(self, &stored, blob)? {
                    refused.insert((seq, blob));
                }
            }
        }
        if refused.is_empty() {
            return Ok(Freed::default());
        }
        self.ledger.note_evicted(&refused.iter().map(|(_, blob)| blob.digest).collect(), at)?;
        self.ledger.compact(segment, &mut |stored, blob| !refused.contains(&(stored.seq, blob)))
    }
}
