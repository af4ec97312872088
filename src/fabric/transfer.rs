//! Large replies: payloads fetched in chunks, in the name of a record that is already believed.
//!
//! Chunks are asked for with a small window and put together when all have come; the whole is then checked against the record's digests
//! before anybody sees it. Invariant: memory grows with the bytes that came, never with the length that somebody claimed.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};

use super::ask::Failure;
use super::{Fabric, FlightId, Output, Step, Timer};
use crate::id::NodeId;
use crate::limits::{CHUNK, CHUNKS_IN_FLIGHT, TRANSFER_STALL};
use crate::message::{AskId, Message};
use crate::record::Record;
use crate::reply::BlobRef;

/// The payloads of one record on their way from one holder.
#[derive(Debug)]
pub(super) struct Transfer {
    blobs: Vec<BlobRef>,
    /// The next chunk to ask for: which blob, from which byte.
    next: (usize, u64),
    in_flight: BTreeMap<AskId, (usize, u64)>,
    came: BTreeMap<(usize, u64), Bytes>,
}

impl Transfer {
    fn new(record: &Record) -> Self {
        Self { blobs: record.blobs().collect(), next: (0, 0), in_flight: BTreeMap::new(), came: BTreeMap::new() }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    pub(super) fn asks(&self) -> impl Iterator<Item = AskId> {
        self.in_flight.keys().copied()
    }

    pub(super) fn awaits(&self, ask: AskId) -> bool {
        self.in_flight.contains_key(&ask)
    }

    /// The next chunk to ask for, while the window has room.
    fn next_chunk(&mut self) -> Option<(usize, u64, u32)> {
        if self.in_flight.len() >= CHUNKS_IN_FLIGHT {
            return None;
        }
        loop {
            let (index, offset) = self.next;
            let left = self.blobs.get(index)?.len - offset;
            if left == 0 {
                self.next = (index + 1, 0);
                continue;
            }
            let len = u32::try_from(left).map_or(CHUNK, |left| left.min(CHUNK));
            self.next = (index, offset + u64::from(len));
            return Some((index, offset, len));
        }
    }

    /// Takes a chunk; `false` if it is not the one asked for.
    fn take(&mut self, ask: AskId, bytes: Bytes) -> bool {
        let Some((index, offset)) = self.in_flight.remove(&ask) else { return false };
        let wanted = (self.blobs[index].len - offset).min(u64::from(CHUNK));
        let fits = bytes.len() as u64 == wanted;
        self.came.insert((index, offset), bytes);
        fits
    }

    fn is_done(&self) -> bool {
        self.in_flight.is_empty() && self.blobs.get(self.next.0).is_none()
    }

    /// All payloads in the record's order; a single chunk is not copied.
    fn assemble(&mut self) -> Vec<Bytes> {
        let mut payloads: Vec<Vec<Bytes>> = vec![Vec::new(); self.blobs.len()];
        for ((index, _), bytes) in std::mem::take(&mut self.came) {
            payloads[index].push(bytes);
        }
        let join = |mut chunks: Vec<Bytes>| match chunks.len() {
            0 => Bytes::new(),
            1 => chunks.remove(0),
            _ => chunks
                .iter()
                .fold(BytesMut::new(), |mut all, chunk| {
                    all.extend_from_slice(chunk);
                    all
                })
                .freeze(),
        };
        payloads.into_iter().map(join).collect()
    }
}

impl Fabric {
    pub(super) fn start_transfer(&mut self, step: &mut Step<'_>, flight_id: FlightId, ask: AskId, record: &Record) {
        let asking = self.flights.get_mut(&flight_id).and_then(|flight| flight.asks.get_mut(&ask));
        let Some(asking) = asking else { return };
        if asking.transfer.is_some() {
            return;
        }
        asking.transfer = Some(Transfer::new(record));
        self.continue_transfer(step, flight_id, ask);
    }

    /// Fills the window, and has the whole checked when all chunks came.
    fn continue_transfer(&mut self, step: &mut Step<'_>, flight_id: FlightId, ask: AskId) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        let Some(asking) = flight.asks.get_mut(&ask) else { return };
        let Some(transfer) = &mut asking.transfer else { return };
        self.timers.clear(asking.timeout);
        asking.timeout = self.timers.set(step.now + TRANSFER_STALL, Timer::AskTimeout(ask));
        while let Some((index, offset, len)) = transfer.next_chunk() {
            self.next_id += 1;
            let chunk = AskId(self.next_id);
            transfer.in_flight.insert(chunk, (index, offset));
            self.asks.insert(chunk, flight_id);
            let blob = transfer.blobs[index].digest;
            step.out
                .push(Output::Send(asking.peer, Message::GetChunk { ask: chunk, id: flight.id, blob, offset, len }));
        }
        if transfer.is_done()
            && let Some(evidence) = asking.evidence.clone()
        {
            step.out.push(Output::Check(asking.peer, ask, flight.id, evidence, transfer.assemble()));
        }
    }

    pub(super) fn on_chunk(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, bytes: Bytes) {
        let Some((flight_id, parent)) = self.parent_of(from, ask) else { return };
        let asking = self.flights.get_mut(&flight_id).and_then(|flight| flight.asks.get_mut(&parent));
        let Some(transfer) = asking.and_then(|asking| asking.transfer.as_mut()) else { return };
        let fits = transfer.take(ask, bytes);
        self.asks.remove(&ask);
        if fits {
            self.continue_transfer(step, flight_id, parent);
        } else {
            self.fail_ask(step, parent, Failure::NotHeld);
            self.disbelieve(step, from, "a chunk of another length than asked for".to_owned());
        }
    }
}
