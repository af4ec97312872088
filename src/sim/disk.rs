//! The virtual disk of one node: the real cassette writer on storage in memory.
//!
//! It outlives the node. Invariant: `promised` names everything that was ever acknowledged as durable.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::rng::Rng;
use crate::cassette::{Cassette, CassetteOptions, CassetteWriter, Ticket, payloads};
use crate::fabric::FlightId;
use crate::id::{ContentId, EpochId};
use crate::identity::{Identity, Signer};
use crate::ledger::{LedgerError, MemoryStorage, Opening, Storage};
use crate::record::Record;
use crate::reply::Reply;
use crate::verified::VerifiedReply;

/// What survives a crash.
#[derive(Debug, Default)]
pub(super) struct Disk {
    storage: MemoryStorage,
    pub(super) promised: BTreeMap<u64, ContentId>,
}

impl Disk {
    /// Opens the cassette in a new epoch.
    pub(super) fn open(&self, identity: &Identity, epochs: &mut Rng, now: u64) -> Result<Writing, String> {
        let opening = Opening::new(identity.node(), EpochId::from_bytes(epochs.bytes()), now);
        let storage: Arc<dyn Storage> = Arc::new(self.storage.clone());
        let (writer, _) =
            CassetteWriter::open(storage, &opening, CassetteOptions::default()).map_err(|error| error.to_string())?;
        Ok(Writing { writer, appended: Vec::new(), acknowledging: Vec::new() })
    }

    /// The power fails; of what was written and not synced, the first `torn` bytes survive.
    pub(super) fn crash(&self, torn: usize) {
        self.storage.crash_torn(torn);
    }
}

/// The open cassette of a running node.
pub(super) struct Writing {
    writer: CassetteWriter,
    /// Appended and not yet durable: position and question.
    appended: Vec<(u64, ContentId)>,
    /// Flights that wait for the next write.
    acknowledging: Vec<(FlightId, Result<(), LedgerError>)>,
}

impl Writing {
    pub(super) fn cassette(&self) -> Cassette {
        self.writer.cassette()
    }

    pub(super) fn record(&mut self, flight: FlightId, record: Record, reply: &Reply) {
        let id = record.request;
        let ticket = self.writer.record(record, payloads(reply).unwrap_or_default());
        let result = ticket.map(|ticket| self.note(ticket, id));
        self.acknowledging.push((flight, result));
    }

    pub(super) fn adopt(&mut self, reply: VerifiedReply, announce: bool) -> Result<(), LedgerError> {
        let (record, payloads, evidence) = reply.into_parts();
        let id = record.request;
        let ticket = self.writer.adopt(evidence, record, payloads, announce)?;
        self.note(ticket, id);
        Ok(())
    }

    fn note(&mut self, ticket: Ticket, id: ContentId) {
        if ticket.fresh {
            self.appended.push((ticket.seq, id));
        }
    }

    /// Writes what was appended; returns whose records are written.
    pub(super) fn write_out(&mut self) -> Vec<(FlightId, Result<(), String>)> {
        let written = self.writer.write_out().map(drop);
        let done = std::mem::take(&mut self.acknowledging).into_iter();
        done.map(|(flight, result)| (flight, written.clone().and(result).map_err(|error| error.to_string()))).collect()
    }

    /// Makes what was appended durable; returns the durable length.
    pub(super) fn commit(&mut self, disk: &mut Disk) -> Result<u64, String> {
        let length = self.writer.commit().map_err(|error| error.to_string())?;
        disk.promised.extend(self.appended.extract_if(.., |(seq, _)| *seq < length));
        Ok(length)
    }
}
