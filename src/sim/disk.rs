//! The virtual disk of one node: the real cassette writer on storage in memory that tears, rots, fills up, fails and goes back in time.
//!
//! It outlives the node. What it is told is written into the history as the ledger says it: appended, acknowledged as durable, read back.
//! Invariant: an entry is noted as durable only after the ledger said so.

use std::sync::Arc;

use super::Place;
use super::history::{Acknowledged, Appended, History};
use super::mutate::{LyingStorage, Mutation};
use super::rng::Rng;
use super::scenario;
use crate::cassette::{Cassette, CassetteOptions, CassetteWriter, Durability, Ticket, payloads};
use crate::fabric::{FlightId, Time};
use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::ledger::{
    FaultyStorage, LedgerError, MemoryStorage, Op, OpenError, Opening, Recovery, Storage, StorageFile,
};
use crate::record::Record;
use crate::reply::Reply;
use crate::verified::VerifiedReply;

/// A disk writes blocks of this size whole.
const BLOCK: usize = 512;

/// What survives of unsynced bytes when the power fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Torn {
    Nothing,
    /// Of each file's appended tail the first so many bytes.
    Prefix(usize),
    /// Any blocks; the number fixes which.
    Blocks(u64),
}

/// What survives a crash.
#[derive(Debug)]
pub(super) struct Disk {
    memory: MemoryStorage,
    faulty: FaultyStorage,
    how: scenario::Disk,
    image: Option<MemoryStorage>,
    mutation: Option<Mutation>,
    /// Whether an operation may have failed that a sound disk would have done.
    pub(super) failing: bool,
}

impl Disk {
    pub(super) fn new(how: scenario::Disk, mutation: Option<Mutation>) -> Self {
        let memory = MemoryStorage::new();
        let faulty = FaultyStorage::new(Arc::new(memory.clone()));
        Self { memory, faulty, how, image: None, mutation, failing: false }
    }

    /// Opens the cassette in a new epoch.
    pub(super) fn open(&self, me: NodeId, epoch: EpochId, now: u64) -> Result<(Writing, Recovery), OpenError> {
        let opening = Opening { segment_bytes: self.how.segment * 1024, ..Opening::new(me, epoch, now) };
        let storage: Arc<dyn Storage> = match self.mutation {
            Some(Mutation::SkipSync) => Arc::new(LyingStorage(Arc::new(self.faulty.clone()))),
            _ => Arc::new(self.faulty.clone()),
        };
        let options = CassetteOptions { ram_bytes: self.how.ram * 1024, ..CassetteOptions::default() };
        let (writer, recovery) = CassetteWriter::open(storage, &opening, options)?;
        let mutation = self.mutation;
        Ok((Writing { writer, appended: Vec::new(), acknowledging: Vec::new(), mutation }, recovery))
    }

    /// The power fails.
    pub(super) fn crash(&self, torn: Torn) {
        match torn {
            Torn::Nothing => self.memory.crash(),
            Torn::Prefix(bytes) => self.memory.crash_torn(bytes),
            Torn::Blocks(seed) => {
                let mut rng = Rng::new(seed);
                self.memory.crash_blocks(BLOCK, &mut || rng.happens(500));
            }
        }
    }

    pub(super) fn fail(&mut self, op: Op, after: u64) {
        self.failing = true;
        self.faulty.fail(Some(op), after, std::io::ErrorKind::Other);
    }

    pub(super) fn fill(&mut self, after: u64, torn: usize) {
        self.failing = true;
        self.faulty.fill(after, torn);
    }

    pub(super) fn heal(&mut self) {
        self.faulty.heal();
    }

    /// Keeps an image of the disk as a backup tool would make one.
    pub(super) fn keep_image(&mut self) {
        self.image = Some(self.memory.fork());
    }

    /// Puts the image in the disk's place; says whether there was one.
    pub(super) fn restore_image(&mut self) -> bool {
        let Some(image) = self.image.take() else { return false };
        self.faulty = FaultyStorage::new(Arc::new(image.clone()));
        self.memory = image;
        true
    }

    /// Flips a bit of some file; says whether there was one.
    pub(super) fn rot(&self, which: u64) -> bool {
        let mut rng = Rng::new(which);
        let files = self.files();
        let Some((_, file)) = rng.pick(&files) else { return false };
        let len = file.len().unwrap_or_default();
        let (at, mut byte) = (rng.below(len), [0]);
        if file.read_at(&mut byte, at).ok() != Some(1) {
            return false;
        }
        byte[0] ^= 1 << rng.below(8);
        file.write_at(&byte, at).and_then(|()| file.sync()).is_ok()
    }

    /// Whether these bytes are anywhere on the disk.
    pub(super) fn contains(&self, secret: &[u8; 32]) -> bool {
        self.files().iter().any(|(_, file)| {
            let mut bytes = vec![0; usize::try_from(file.len().unwrap_or_default()).unwrap_or_default()];
            file.read_at(&mut bytes, 0).is_ok() && super::signatures::contains(&bytes, secret)
        })
    }

    /// All files, in order of their paths.
    fn files(&self) -> Vec<(String, Arc<dyn StorageFile>)> {
        let mut files = Vec::new();
        let mut dirs = vec![String::new()];
        while let Some(dir) = dirs.pop() {
            for name in self.memory.list(&dir).unwrap_or_default() {
                let path = if dir.is_empty() { name } else { format!("{dir}/{name}") };
                match self.memory.open(&path) {
                    Ok(file) => files.push((path, file)),
                    Err(_) => dirs.push(path),
                }
            }
        }
        files.sort_by(|(a, _), (b, _)| a.cmp(b));
        files
    }
}

/// The open cassette of a running node.
pub(super) struct Writing {
    writer: CassetteWriter,
    /// Appended and not yet durable: position and question.
    appended: Vec<(u64, ContentId)>,
    /// Flights that wait for the next write.
    acknowledging: Vec<(FlightId, Result<Ticket, LedgerError>)>,
    mutation: Option<Mutation>,
}

/// A flight, and whether its record is as durable as it has to be.
pub(super) type Told = (FlightId, Result<(), String>);

/// Who writes, for the history.
#[derive(Clone, Copy)]
pub(super) struct Who {
    pub(super) place: Place,
    pub(super) me: NodeId,
    pub(super) now: Time,
}

impl Writing {
    pub(super) fn cassette(&self) -> Cassette {
        self.writer.cassette()
    }

    pub(super) fn record(&mut self, who: Who, flight: FlightId, record: Record, reply: &Reply, history: &mut History) {
        let (id, answer) = (record.request, record.answer());
        let ticket = self.writer.record(record, payloads(reply).unwrap_or_default());
        if let Ok(ticket) = &ticket {
            self.note(who, *ticket, (id, answer, who.me), true, history);
        }
        self.acknowledging.push((flight, ticket));
    }

    pub(super) fn adopt(
        &mut self,
        who: Who,
        reply: VerifiedReply,
        announce: bool,
        history: &mut History,
    ) -> Result<(), LedgerError> {
        let about = (reply.record().request, reply.answer(), reply.record().producer);
        let ticket = self.writer.adopt_believed(reply, announce)?;
        self.note(who, ticket, about, false, history);
        Ok(())
    }

    /// Retracts at once and durably.
    pub(super) fn retract(&mut self, id: ContentId, answer: Digest, at: u64) -> Result<u64, LedgerError> {
        self.writer.retract(id, answer, at)?;
        self.writer.commit()
    }

    fn note(
        &mut self,
        who: Who,
        ticket: Ticket,
        (id, answer, producer): (ContentId, Digest, NodeId),
        own: bool,
        history: &mut History,
    ) {
        if ticket.fresh {
            self.appended.push((ticket.seq, id));
            let Who { place: node, now: at, .. } = who;
            history.appended.push(Appended { node, at, seq: ticket.seq, id, answer, producer, own });
        }
    }

    /// Pays for what was appended once, as the recorder's thread does: one write, and one sync if anything in it demands so.
    /// Returns the durable length if it synced, and whose records are as durable as they have to be.
    pub(super) fn write_out(&mut self, who: Who, history: &mut History) -> (Option<u64>, Vec<Told>) {
        let durable = |result: &Result<Ticket, LedgerError>| {
            result.as_ref().is_ok_and(|ticket| ticket.durability == Durability::Durable)
        };
        let must_sync = self.acknowledging.iter().any(|(_, result)| durable(result));
        let mut length = None;
        let written = if must_sync {
            self.commit(who, history).map(|durable| length = Some(durable))
        } else {
            self.writer.write_out().map(drop)
        };
        let done = std::mem::take(&mut self.acknowledging).into_iter();
        let told = |(flight, result): (FlightId, Result<Ticket, LedgerError>)| {
            (flight, written.clone().and(result.map(drop)).map_err(|error| error.to_string()))
        };
        (length, done.map(told).collect())
    }

    /// Makes what was appended durable; returns the durable length.
    pub(super) fn commit(&mut self, who: Who, history: &mut History) -> Result<u64, LedgerError> {
        let Who { place: node, now: at, .. } = who;
        let promise = |(seq, id): (u64, ContentId)| Acknowledged { node, at, seq, id };
        if self.mutation == Some(Mutation::AcknowledgeEarly) {
            history.acknowledged.extend(self.appended.drain(..).map(promise));
            return self.writer.write_out();
        }
        let length = self.writer.commit()?;
        history.acknowledged.extend(self.appended.extract_if(.., |(seq, _)| *seq < length).map(promise));
        Ok(length)
    }
}
