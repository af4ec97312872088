//! The writing side, as a state machine without thread, clock or randomness.
//!
//! Order: ledger append, then written or durable (as the record demands), then the view shows it, then its ticket is complete.

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::id::{ContentId, Digest, NodeId};
use crate::ledger::limits::INLINE_PAYLOAD;
use crate::ledger::{
    Blob, Draft, Entry, Freed, Ledger, LedgerError, Made, OpenError, Opening, Recovery, Room, Storage,
};
use crate::proof::Evidence;
use crate::record::{Observation, Record};
use crate::reply::{Payload, Reply};
use crate::request::Class;
use crate::verified::VerifiedReply;

use super::index::{ByHash, Change, Hot, Index, Standing};
use super::limits::{BATCHED, RAM_BYTES};
use super::view::{Cassette, Counts, count, inline_reply};

/// What "recorded" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives any crash.
    Durable,
    /// It survives a crash of the process, and any crash after at most this long.
    Batched(Duration),
    /// It survives a crash of the process.
    Memory,
}

/// How a cassette is set up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CassetteOptions {
    /// Bytes of replies kept in memory.
    pub ram_bytes: usize,
    /// One durability for all records; without it `Observed`, `Volatile` and `Effectful` ones are durable, because nobody can compute them
    /// again, and all others batched. Retractions are always durable.
    pub durability: Option<Durability>,
    /// Bytes of disk beyond which payloads are dropped, least recently used first; pinned ones stay. Without it nothing is dropped.
    pub disk_bytes: Option<u64>,
}

impl Default for CassetteOptions {
    fn default() -> Self {
        Self { ram_bytes: RAM_BYTES, durability: None, disk_bytes: None }
    }
}

/// A promise: the change is complete once [`CassetteWriter::is_complete`] says so.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    /// The position of its entry in the ledger.
    pub seq: u64,
    /// When it is complete.
    pub durability: Durability,
    /// Whether an entry was appended; `false` if the answer was held already.
    pub fresh: bool,
}

/// A change that is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The position of its entry in the ledger.
    pub seq: u64,
    /// Whether it survives any crash already.
    pub durable: bool,
    /// Whether an entry was appended; `false` if the answer was held already.
    pub fresh: bool,
}

/// An entry about a record with its payloads, checked against each other. Encoding and hashing are paid where it is made.
pub(super) struct Prepared {
    draft: Draft,
    blobs: Vec<Blob>,
}

impl Prepared {
    /// Bytes of the payloads that are in memory.
    pub(super) fn len(&self) -> u64 {
        self.blobs.iter().map(Blob::in_memory).sum()
    }

    /// The record of a reply whose payloads are all inline; each is hashed once.
    pub(super) fn observe(about: Observation, reply: &Reply, producer: NodeId) -> Result<Self, LedgerError> {
        let bytes = payloads(reply).ok_or(LedgerError::Payload { position: 0 })?;
        let blobs: Vec<Blob> = bytes.into_iter().map(Blob::new).collect();
        let record = Record::observe_named(about, reply, blobs.iter().map(Blob::name), producer);
        Ok(Self { draft: Draft::new(Entry::Observed(record))?, blobs })
    }

    /// Checks that these are the payloads of the record, in the order of `Record::blobs`.
    pub(super) fn new(record: Record, payloads: Vec<Bytes>) -> Result<Self, LedgerError> {
        Self::with(record, payloads.into_iter().map(Blob::new).collect())
    }

    /// As [`Self::new`], with payloads that are hashed already.
    pub(super) fn with(record: Record, blobs: Vec<Blob>) -> Result<Self, LedgerError> {
        check(&record, &blobs)?;
        Ok(Self { draft: Draft::new(Entry::Observed(record))?, blobs })
    }

    /// What another node observed, with payloads in the order of `Record::blobs`. The evidence holds this record.
    pub(super) fn adopted(evidence: Evidence, record: Record, payloads: Vec<Bytes>) -> Result<Self, LedgerError> {
        let blobs: Vec<Blob> = payloads.into_iter().map(Blob::new).collect();
        check(&record, &blobs)?;
        if evidence.record != record.encode() {
            return Err(LedgerError::Evidence);
        }
        Ok(Self { draft: Draft::adopted(evidence, record, None)?, blobs })
    }

    /// What another node observed and this one has checked already: nothing of that is hashed again.
    pub(super) fn believed(reply: VerifiedReply) -> Result<Self, LedgerError> {
        let answer = reply.answer();
        let (record, payloads, evidence) = reply.into_parts();
        let blobs = record.blobs().zip(payloads).map(|(name, bytes)| Blob::proven(name, bytes)).collect();
        Ok(Self { draft: Draft::adopted(evidence, record, Some(answer))?, blobs })
    }

    fn record(&self) -> &Record {
        self.draft.record().expect("prepared with a record")
    }

    fn answer(&self) -> Digest {
        self.draft.answer().expect("it has a record")
    }

    /// What is kept in memory of the entry at this position; `None` if a payload is in its file alone.
    fn into_hot(self, seq: u64) -> Option<Arc<Hot>> {
        let bytes: Vec<&Bytes> = self.blobs.iter().map(Blob::bytes).collect::<Option<_>>()?;
        let reply = inline_reply(self.record(), &bytes);
        Some(match self.draft.entry() {
            Entry::Observed(_) => Hot::observed(seq, self.draft.source(), reply),
            _ => Hot::adopted(seq, self.draft.into_record()?, reply),
        })
    }
}

fn check(record: &Record, blobs: &[Blob]) -> Result<(), LedgerError> {
    let mut given = blobs.iter().map(Blob::name);
    let wrong = record.blobs().position(|blob| given.next() != Some(blob));
    match wrong.or_else(|| given.next().map(|_| record.blobs().count())) {
        Some(position) => Err(LedgerError::Payload { position }),
        None => Ok(()),
    }
}

/// The payloads of a reply in the order of `Record::blobs`; `None` if one is not inline.
#[must_use]
pub fn payloads(reply: &Reply) -> Option<Vec<Bytes>> {
    let mut files: Vec<_> = reply.files.iter().collect();
    files.sort_by(|a, b| a.path.cmp(&b.path));
    let all = reply.stdout.iter().chain(&reply.stderr).chain(files.into_iter().map(|file| &file.data));
    all.map(|payload: &Payload| payload.bytes().cloned()).collect()
}

struct Pending {
    ticket: Ticket,
    change: Option<Change>,
    key: (ContentId, Digest),
}

#[derive(Clone, Copy)]
struct Staged {
    seq: u64,
    durability: Durability,
    /// Retracted, if not held.
    held: bool,
}

/// The one writer of a cassette; owns its ledger.
pub struct CassetteWriter {
    pub(super) ledger: Ledger,
    cassette: Cassette,
    options: CassetteOptions,
    volatile: bool,
    /// Entries written, as of the last `write_out` or `commit`.
    written: u64,
    /// Appended and not shown yet, in order.
    pending: VecDeque<Pending>,
    /// What the pending changes will lead to.
    staged: ByHash<(ContentId, Digest), Staged>,
    /// The position that is looked at next when room is made.
    pub(super) hand: u64,
}

impl fmt::Debug for CassetteWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CassetteWriter")
            .field("ledger", &self.ledger)
            .field("pending", &self.pending.len())
            .finish_non_exhaustive()
    }
}

impl CassetteWriter {
    /// Opens the ledger for writing and builds the view of it.
    pub fn open(
        storage: Arc<dyn Storage>,
        opening: &Opening,
        options: CassetteOptions,
    ) -> Result<(Self, Recovery), OpenError> {
        let volatile = storage.is_volatile();
        let (ledger, recovery) = Ledger::open(storage, opening)?;
        let (index, counts) = (Index::new(ledger.reader(), options.ram_bytes), Counts::default());
        let sums = ledger.reader().sums();
        count(&counts.records, sums.records);
        count(&counts.bytes, sums.payload);
        count(&counts.retracted, sums.retractions);
        let cassette = Cassette::new(ledger.reader(), index, counts, recovery.clone());
        let written = ledger.next_seq();
        let (pending, staged) = Default::default();
        Ok((Self { ledger, cassette, options, volatile, written, pending, staged, hand: 0 }, recovery))
    }

    /// The reading side.
    #[must_use]
    pub fn cassette(&self) -> Cassette {
        self.cassette.clone()
    }

    /// Records what this node observed. Payloads are in the order of `Record::blobs`.
    pub fn record(&mut self, record: Record, payloads: Vec<Bytes>) -> Result<Ticket, LedgerError> {
        self.record_prepared(Box::new(Prepared::new(record, payloads)?))
    }

    pub(super) fn record_prepared(&mut self, prepared: Box<Prepared>) -> Result<Ticket, LedgerError> {
        let durability = self.options.durability.unwrap_or(default_durability(&prepared.record().class));
        self.append(prepared, true, durability)
    }

    /// Takes over what another node observed; the caller has verified the evidence and it holds this record. An answer that is held already
    /// is left alone; one that was retracted here is refused.
    pub fn adopt(
        &mut self,
        evidence: Evidence,
        record: Record,
        payloads: Vec<Bytes>,
        announce: bool,
    ) -> Result<Ticket, LedgerError> {
        self.adopt_prepared(Box::new(Prepared::adopted(evidence, record, payloads)?), announce)
    }

    /// As [`Self::adopt`], of what was checked here: none of it is hashed again.
    pub fn adopt_believed(&mut self, reply: VerifiedReply, announce: bool) -> Result<Ticket, LedgerError> {
        self.adopt_prepared(Box::new(Prepared::believed(reply)?), announce)
    }

    pub(super) fn adopt_prepared(&mut self, prepared: Box<Prepared>, announce: bool) -> Result<Ticket, LedgerError> {
        let (request, answer) = (prepared.record().request, prepared.answer());
        if let Some(staged) = self.staged.get(&(request, answer)) {
            let Staged { seq, durability, held } = *staged;
            let refused = LedgerError::Retracted { request, answer };
            return if held { Ok(Ticket { seq, durability, fresh: false }) } else { Err(refused) };
        }
        match self.cassette.inner.index.standing(&request, &answer)? {
            Standing::Held(seq) => return Ok(Ticket { seq, durability: Durability::Memory, fresh: false }),
            Standing::Retracted => return Err(LedgerError::Retracted { request, answer }),
            Standing::Unknown => {}
        }
        // Whoever made it has it still: a lost adoption costs a fetch.
        let durability = self.options.durability.unwrap_or(Durability::Batched(BATCHED));
        self.append(prepared, announce, durability)
    }

    fn append(
        &mut self,
        prepared: Box<Prepared>,
        announce: bool,
        durability: Durability,
    ) -> Result<Ticket, LedgerError> {
        let announce = announce && prepared.record().class.is_memoised();
        let appended = self.ledger.append_draft(&prepared.draft, &prepared.blobs, announce);
        let seq = appended.map_err(|error| self.forget(error))?;
        Ok(self.hold(prepared, Ticket { seq, durability, fresh: true }))
    }

    /// Says that this answer to this question is never to be served again. Always durable.
    pub fn retract(&mut self, id: ContentId, answer: Digest, at: u64) -> Result<Ticket, LedgerError> {
        let appended = self.ledger.append(&Entry::Retracted { request: id, answer, at }, &[], false);
        let seq = appended.map_err(|error| self.forget(error))?;
        let ticket = Ticket { seq, durability: Durability::Durable, fresh: true };
        self.stage(ticket, (id, answer), false, Some(Change::Retract { id, answer, seq }));
        Ok(ticket)
    }

    /// Writes what was appended and shows what needs no more than that; returns how many entries are written.
    pub fn write_out(&mut self) -> Result<u64, LedgerError> {
        self.written = self.ledger.write_out().map_err(|error| self.forget(error))?;
        self.show();
        Ok(self.written)
    }

    /// Makes what was appended durable and shows it; returns how many entries are durable.
    pub fn commit(&mut self) -> Result<u64, LedgerError> {
        self.written = self.ledger.commit().map_err(|error| self.forget(error))?;
        self.show();
        Ok(self.written)
    }

    /// Makes everything durable and seals the ledger, so that the next opening is quick; see [`Ledger::close`].
    pub fn close(self) -> Result<u64, LedgerError> {
        self.ledger.close()
    }

    /// Keeps within the disk budget, if there is one; see [`Self::make_room`].
    pub fn keep_budget(&mut self, at: u64) -> Result<Freed, LedgerError> {
        self.options.disk_bytes.map_or(Ok(Freed::default()), |budget| self.make_room(budget, at))
    }

    /// See [`Ledger::wants_room`].
    pub fn wants_room(&mut self) -> Option<Room> {
        self.ledger.wants_room()
    }

    /// See [`Ledger::stop_room`].
    pub fn stop_room(&mut self) {
        self.ledger.stop_room();
    }

    /// See [`Ledger::accept`].
    pub fn accept(&mut self, made: Made) {
        self.ledger.accept(made);
    }

    /// Whether the ledger is in memory that ends with the process, so that nothing about it takes time.
    #[must_use]
    pub fn is_volatile(&self) -> bool {
        self.volatile
    }

    /// Entries that survive any crash.
    #[must_use]
    pub fn durable(&self) -> u64 {
        self.cassette.ledger().durable()
    }

    /// Whether the change that got this ticket is as durable as it has to be, and shown.
    #[must_use]
    pub fn is_complete(&self, ticket: &Ticket) -> bool {
        match ticket.durability {
            Durability::Durable => ticket.seq < self.durable(),
            Durability::Batched(_) | Durability::Memory => ticket.seq < self.written,
        }
    }

    /// What a complete ticket stands for.
    #[must_use]
    pub fn recorded(&self, ticket: &Ticket) -> Recorded {
        Recorded { seq: ticket.seq, durable: ticket.seq < self.durable(), fresh: ticket.fresh }
    }

    fn hold(&mut self, prepared: Box<Prepared>, ticket: Ticket) -> Ticket {
        let (answer, seq) = (prepared.answer(), ticket.seq);
        let (record, blobs) = (prepared.record(), &prepared.blobs);
        let id = record.request;
        tally(&self.cassette.inner.counts, record);
        // Large ones are found by their file's name; a position that is not written yet reads as nothing.
        for blob in blobs.iter().filter(|blob| blob.name().len <= INLINE_PAYLOAD as u64) {
            self.cassette.inner.index.note_inline(blob.name().digest, seq);
        }
        let memoised = record.class.is_memoised();
        let size: u64 = blobs.iter().map(|blob| blob.name().len).sum();
        let change = memoised.then(|| {
            let fits = self.cassette.inner.index.has_room_for(usize::try_from(size).unwrap_or(usize::MAX));
            let hot = fits.then(|| prepared.into_hot(seq)).flatten();
            Change::Hold { id, answer, seq, hot }
        });
        self.stage(ticket, (id, answer), true, change);
        ticket
    }

    fn stage(&mut self, ticket: Ticket, key: (ContentId, Digest), held: bool, change: Option<Change>) {
        let Ticket { seq, durability, .. } = ticket;
        if change.is_some() {
            self.staged.insert(key, Staged { seq, durability, held });
        }
        self.pending.push_back(Pending { ticket, change, key });
    }

    /// Shows what is complete, in order.
    fn show(&mut self) {
        for _ in 0..self.pending.len() {
            let Some(pending) = self.pending.pop_front() else { break };
            if !self.is_complete(&pending.ticket) {
                self.pending.push_back(pending);
                continue;
            }
            let Pending { ticket, change, key } = pending;
            if self.staged.get(&key).is_some_and(|staged| staged.seq == ticket.seq) {
                self.staged.remove(&key);
            }
            let inner = &self.cassette.inner;
            match change {
                Some(Change::Retract { .. }) => count(&inner.counts.retracted, 1),
                Some(Change::Hold { .. }) | None => {}
            }
            if let Some(change) = change {
                inner.index.apply(change);
            }
        }
    }

    /// A failed write leaves nothing that could still become complete.
    fn forget(&mut self, error: LedgerError) -> LedgerError {
        if matches!(error, LedgerError::Io { .. } | LedgerError::Poisoned { .. }) {
            self.pending.clear();
            self.staged.clear();
        }
        error
    }
}

fn tally(counts: &Counts, record: &Record) {
    count(&counts.records, 1);
    count(&counts.bytes, record.blobs().map(|blob| blob.len).sum());
}

fn default_durability(class: &Class) -> Durability {
    if class.is_reproducible() { Durability::Batched(BATCHED) } else { Durability::Durable }
}
