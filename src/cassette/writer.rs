//! The write side as a state machine: ledger append, then written or durable, then shown. No thread, clock or randomness, so that the
//! simulator drives the same code as the recorder's thread.

use std::sync::Arc;

use super::{Cassette, Held, Tier};
use crate::id::{ContentId, Digest};
use crate::ledger::{Blob, Entry, Ledger, LedgerError, OpenError, Opening, Recovery, Storage};
use crate::proof::Evidence;
use crate::record::Record;
use crate::reply::{OutputFile, Payload};

/// An append on its way: its position, or that there was nothing to append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ticket {
    /// It is at this position once written.
    At(u64),
    /// The answer is held already.
    Held,
}

enum Shown {
    Held(Box<Held>),
    Hidden(ContentId, Digest),
}

/// The one writer of a cassette.
pub struct CassetteWriter {
    ledger: Ledger,
    cassette: Cassette,
    /// Appended and not written.
    pending: Vec<Shown>,
}

impl CassetteWriter {
    /// Opens the ledger for writing and replays it into a cassette.
    pub fn open(storage: Arc<dyn Storage>, opening: &Opening) -> Result<(Self, Recovery), OpenError> {
        let mut entries = Vec::new();
        let (ledger, recovery) = Ledger::open_visiting(storage, opening, &mut |stored| match &stored.entry {
            Entry::Retracted { request, answer, .. } => entries.push((stored.seq, Err((*request, *answer)))),
            entry => entries
                .extend(entry.record().map(|record| (stored.seq, Ok((record, stored.inline().collect::<Vec<_>>()))))),
        })?;
        let cassette = Cassette::new(ledger.reader());
        for (seq, entry) in entries {
            match entry {
                Ok((record, inline)) => cassette.show(seq, &record, inline.into_iter()),
                Err((id, answer)) => cassette.hide(id, answer),
            }
        }
        Ok((Self { ledger, cassette, pending: Vec::new() }, recovery))
    }

    /// The view that this writer writes to.
    #[must_use]
    pub fn cassette(&self) -> Cassette {
        self.cassette.clone()
    }

    /// Appends a record of this node, with its payloads in the order of `Record::blobs`.
    pub fn record(&mut self, record: Record, payloads: Vec<Blob>) -> Result<Ticket, LedgerError> {
        let seq = self.ledger.append(&Entry::Observed(record.clone()), &payloads, true)?;
        self.pend(seq, record, payloads);
        Ok(Ticket::At(seq))
    }

    /// Appends a believed record of another node. What is held is not taken twice, what was retracted here not at all.
    pub fn adopt(
        &mut self,
        evidence: Evidence,
        record: Record,
        payloads: Vec<Blob>,
        announce: bool,
    ) -> Result<Ticket, LedgerError> {
        let (request, answer) = (record.request, record.answer());
        if self.cassette.is_retracted(request, answer) {
            return Err(LedgerError::Retracted { request, answer });
        }
        let pends = |shown: &Shown| matches!(shown, Shown::Held(held) if held.record.request == request);
        if self.cassette.holds(request, answer) || self.pending.iter().any(pends) {
            return Ok(Ticket::Held);
        }
        let seq = self.ledger.append(&Entry::Adopted(evidence), &payloads, announce)?;
        self.pend(seq, record, payloads);
        Ok(Ticket::At(seq))
    }

    /// Appends "never serve this answer again".
    pub fn retract(&mut self, request: ContentId, answer: Digest, at: u64) -> Result<Ticket, LedgerError> {
        let seq = self.ledger.append(&Entry::Retracted { request, answer, at }, &[], true)?;
        self.pending.push(Shown::Hidden(request, answer));
        Ok(Ticket::At(seq))
    }

    /// Writes and shows what was appended; returns the ledger's length. It may be lost in a crash of the machine.
    pub fn write_out(&mut self) -> Result<u64, LedgerError> {
        let length = self.ledger.write_out()?;
        self.show_pending();
        Ok(length)
    }

    /// Writes, makes durable and shows what was appended; returns the durable length.
    pub fn commit(&mut self) -> Result<u64, LedgerError> {
        let length = self.ledger.commit()?;
        self.show_pending();
        Ok(length)
    }

    fn pend(&mut self, seq: u64, record: Record, payloads: Vec<Blob>) {
        let mut bytes = payloads.into_iter().map(|blob| Payload::Inline(blob.bytes().clone()));
        let mut reply = record.reply();
        reply.stdout = record.stdout.and_then(|_| bytes.next());
        reply.stderr = record.stderr.and_then(|_| bytes.next());
        let file = |file: OutputFile| bytes.next().map(|data| OutputFile { data, ..file });
        reply.files = std::mem::take(&mut reply.files).into_iter().filter_map(file).collect();
        self.pending.push(Shown::Held(Box::new(Held { record, reply, tier: Tier::Disk, seq })));
    }

    fn show_pending(&mut self) {
        for shown in self.pending.drain(..) {
            match shown {
                Shown::Held(held) => {
                    let inline = self.cassette.inner.ledger.read(held.seq).ok().flatten();
                    let inline: Vec<_> = inline.iter().flat_map(|stored| stored.inline()).collect();
                    self.cassette.show(held.seq, &held.record, inline.into_iter());
                    let first = self.cassette.inner.index.get(&held.record.request);
                    let is_first =
                        first.is_some_and(|known| known.live.first().is_some_and(|live| live.seq == held.seq));
                    if is_first {
                        self.cassette.inner.hot.put(held.record.request, &held);
                    }
                }
                Shown::Hidden(id, answer) => self.cassette.hide(id, answer),
            }
        }
    }
}
