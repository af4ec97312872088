//! A seat for a node, whether it runs or not: its key, its disk, its neighbours, and what its ledger should hold.

use std::collections::BTreeMap;

use super::Place;
use super::disk::Disk;
use super::history::{Final, Found, History, Missing, Opened};
use super::node::Node;
use super::rng::Rng;
use super::signatures::Key;
use crate::cassette::Cassette;
use crate::fabric::Time;
use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::identity::Signer;
use crate::ledger::{ReadError, Recovery};
use crate::limits::BATCH_FACTS;
use crate::message::LogItem;

/// What a ledger position should hold.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: ContentId,
    answer: Digest,
    durable: bool,
}

pub(super) struct Seat {
    pub(super) identity: Key,
    pub(super) name: NodeId,
    pub(super) disk: Disk,
    pub(super) peers: Vec<Place>,
    /// Nodes whose logs it should know in the end.
    follows: Vec<Place>,
    pub(super) lives: u64,
    pub(super) node: Option<Node>,
    /// Whether unsynced blocks survived in any order since the last opening.
    pub(super) torn: bool,
    /// Whether an older image was put in place since the last opening.
    pub(super) restored: bool,
    /// Whether an opening failed since the last one: what it found and mended, it could not report.
    pub(super) failed: bool,
    epochs: Rng,
    epoch: Option<EpochId>,
    /// The epoch when the image was taken.
    imaged: Option<EpochId>,
    log: BTreeMap<u64, Entry>,
    /// How much of the history's appended and acknowledged records `log` knows.
    seen: (usize, usize),
}

impl Seat {
    pub(super) fn new(identity: Key, disk: Disk, (peers, follows): (Vec<Place>, Vec<Place>), epochs: Rng) -> Self {
        let name = identity.node();
        let (lives, node, torn, restored, failed, epoch, imaged) = (0, None, false, false, false, None, None);
        let (log, seen) = (BTreeMap::new(), (0, 0));
        Self {
            identity,
            name,
            disk,
            peers,
            follows,
            lives,
            node,
            torn,
            restored,
            failed,
            epochs,
            epoch,
            imaged,
            log,
            seen,
        }
    }

    /// A fresh name for the next epoch. A node with that bug goes on in the epoch that a restored image knows nothing of.
    pub(super) fn next_epoch(&mut self, reuse: bool) -> EpochId {
        let fresh = EpochId::from_bytes(self.epochs.bytes());
        let reused = self.epoch.filter(|last| reuse && self.restored && Some(*last) != self.imaged);
        *self.epoch.insert(reused.unwrap_or(fresh))
    }

    pub(super) fn keep_image(&mut self) {
        self.disk.keep_image();
        self.imaged = self.epoch;
    }

    /// Takes what was appended and acknowledged since the last time.
    fn catch_up(&mut self, place: Place, history: &History) {
        let (appended, acknowledged) = self.seen;
        for entry in history.appended[appended..].iter().filter(|entry| entry.node == place) {
            self.log.insert(entry.seq, Entry { id: entry.id, answer: entry.answer, durable: false });
        }
        for entry in history.acknowledged[acknowledged..].iter().filter(|entry| entry.node == place) {
            if let Some(known) = self.log.get_mut(&entry.seq).filter(|known| known.id == entry.id) {
                known.durable = true;
            }
        }
        self.seen = (history.appended.len(), history.acknowledged.len());
    }

    /// Holds a ledger that was opened against what was appended to it.
    pub(super) fn read_back(
        &mut self,
        node: &Node,
        recovery: &Recovery,
        place: Place,
        at: Time,
        history: &History,
    ) -> Opened {
        self.catch_up(place, history);
        let cassette = &node.hands.cassette;
        let mut missing = Vec::new();
        for (&seq, entry) in &self.log {
            // From there on are the entries of this opening.
            let found = if seq < recovery.entries { look(cassette, seq, entry) } else { Some(Found::Nothing) };
            if let Some(found) = found {
                missing.push(Missing { seq, id: entry.id, durable: entry.durable, found });
            }
        }
        self.log.retain(|seq, _| missing.iter().all(|gone| gone.seq != *seq));
        let (restored, torn) = (std::mem::take(&mut self.restored), std::mem::take(&mut self.torn));
        let reported = std::mem::take(&mut self.failed) || !recovery.is_clean();
        let rotten = history.nodes[place].rotten;
        Opened { node: place, at, restored, torn, rotten, reported, missing }
    }

    /// How it is at the end.
    pub(super) fn finish(
        &mut self,
        place: Place,
        names: &[NodeId],
        history: &History,
        asked: &[ContentId],
    ) -> (Final, Option<Opened>) {
        self.catch_up(place, history);
        let Some(node) = self.node.take() else { return (Final::default(), None) };
        let cassette = &node.hands.cassette;
        let log = facts(cassette);
        let announced: std::collections::BTreeSet<_> = log.iter().collect();
        let held = asked.iter().filter(|id| announced.contains(&id.fingerprint()));
        let unserved = held
            .filter(|id| !matches!(cassette.evidence(**id, u64::MAX, &self.identity), Ok(Some(_))))
            .copied()
            .collect();
        let mut facts = node.fabric.holders().facts();
        let known = self.follows.iter().map(|peer| (*peer, facts.remove(&names[*peer]).unwrap_or_default())).collect();
        let given_up = |peer: &Place| {
            let stats = node.fabric.holders().stats_of(names[*peer]);
            (*peer, stats.corrected + stats.beyond_k + stats.dropped)
        };
        let given_up = self.follows.iter().map(given_up).collect();
        let (in_flight, durable) = (node.fabric.in_flight(), cassette.ledger().durable());
        let all = Recovery { entries: u64::MAX, ..Recovery::default() };
        let opened = self.read_back(&node, &all, place, history.end, history);
        let opened = Opened { reported: cassette.stats().damaged > 0 || opened.rotten, ..opened };
        (Final { up: true, in_flight, log, durable, unserved, known, given_up }, Some(opened))
    }
}

/// What is wrong with a ledger position, if anything is.
fn look(cassette: &Cassette, seq: u64, entry: &Entry) -> Option<Found> {
    match cassette.ledger().read(seq) {
        Ok(None) => Some(Found::Nothing),
        // The log ended before: an opening that failed afterwards began its epoch there.
        Ok(Some(stored)) if matches!(stored.entry, crate::ledger::Entry::Epoch { .. }) => Some(Found::Nothing),
        Ok(Some(stored)) => {
            let same = stored.entry.record().is_some_and(|r| r.request == entry.id && r.answer() == entry.answer);
            (!same).then_some(Found::Other)
        }
        // The disk did not answer: nothing is known.
        Err(ReadError::Io { .. }) => None,
        Err(_) => Some(Found::Quarantined),
    }
}

/// The questions that a node's own log announces, in order.
fn facts(cassette: &Cassette) -> Vec<u64> {
    let mut facts = Vec::new();
    let mut from = 0;
    while let Some(batch) = cassette.ledger().batch(from, BATCH_FACTS) {
        facts.extend(batch.items.iter().filter_map(|item| match item {
            LogItem::Fact { question, .. } => Some(u64::from_le_bytes(*question)),
            LogItem::Skip(_) => None,
        }));
        if batch.end() <= from {
            break;
        }
        from = batch.end();
    }
    facts
}
