//! This node's own log: announcing what became durable, and answering whoever pulls.
//!
//! The writer pushes to everybody it has a link with. Whoever pulls from a recent position gets announcements, from further back a manifest
//! whose segments it fetches by digest. Invariant 1: only the durable prefix is ever announced. Invariant 2: announcements of one epoch are
//! one chain, each signed once; `chain` is that chain at `announced`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::{Config, Fabric, Output, Step, Time, Timer};
use crate::id::{Digest, EpochId, NodeId};
use crate::identity::Signature;
use crate::limits::{BATCH_DELAY, BATCH_FACTS, PULL_WINDOW, RECENT_BATCHES, SEGMENT};
use crate::message::{Announcement, AskId, LogItem, Manifest, Message, Row, chain_start};
use crate::proof::Hash;

/// How far this node's own log is announced.
#[derive(Debug)]
pub(super) struct OwnLog {
    pub(super) epoch: EpochId,
    pub(super) durable: u64,
    pub(super) announced: u64,
    /// Entries before this position are dropped.
    pub(super) floor: u64,
    /// Whether it is known to have facts.
    pub(super) has_facts: bool,
    chain: Hash,
    /// Whether a flush is set or a read is under way, and when the last one was due to begin.
    flushing: bool,
    flushed: Option<Time>,
    /// The last announcements, without a gap up to `announced`.
    recent: VecDeque<Arc<Announcement>>,
    /// The last manifest made.
    manifest: Option<Arc<Manifest>>,
    /// Names of full segments: they never change.
    sealed: Vec<(u32, Digest)>,
    /// Whether a manifest is being made, and who waits for it.
    describing: bool,
    waiting: BTreeSet<NodeId>,
}

impl OwnLog {
    pub(super) fn new(config: &Config) -> Self {
        let epoch = config.lineage.last();
        let name = epoch.map_or(EpochId::from_bytes([0; 16]), |epoch| epoch.epoch);
        Self {
            epoch: name,
            durable: config.length,
            // What lies before this epoch is in segments.
            announced: epoch.map_or(config.length, |epoch| epoch.start),
            floor: 0,
            has_facts: false,
            chain: chain_start(config.me, name),
            flushing: false,
            flushed: None,
            recent: VecDeque::new(),
            manifest: None,
            sealed: Vec::new(),
            describing: false,
            waiting: BTreeSet::new(),
        }
    }
}

impl Fabric {
    pub(super) fn on_durable(&mut self, step: &mut Step<'_>, length: u64) {
        self.own_log.durable = self.own_log.durable.max(length);
        let fresh = self.own_log.durable - self.own_log.announced;
        if fresh > 0 && !self.own_log.flushing {
            self.own_log.flushing = true;
            // What comes after a pause has no company to expect. What follows has, so a burst costs one batch more and nothing is late.
            let company = self.own_log.flushed.map_or(step.now, |flushed| step.now.max(flushed + BATCH_DELAY));
            let at = if fresh >= BATCH_FACTS as u64 { step.now } else { company };
            self.own_log.flushed = Some(at);
            self.timers.set(at, Timer::Announce);
        }
    }

    pub(super) fn on_announce(&mut self, step: &mut Step<'_>) {
        step.out.push(Output::ReadLog(self.own_log.announced, self.own_log.chain));
    }

    pub(super) fn on_log_read(&mut self, step: &mut Step<'_>, announcement: Option<Announcement>) {
        self.own_log.flushing = false;
        // What could not be read now is read again after the next heartbeat.
        let Some(announcement) = announcement.filter(|read| read.batch.first == self.own_log.announced) else { return };
        let log = &mut self.own_log;
        log.announced = announcement.batch.end();
        // What could be read is durable, even where word of that comes later.
        log.durable = log.durable.max(log.announced);
        log.chain = announcement.chain;
        if log.recent.len() == RECENT_BATCHES {
            log.recent.pop_front();
        }
        let announcement = Arc::new(announcement);
        log.recent.push_back(Arc::clone(&announcement));
        let row = Row { node: self.config.me, epoch: log.epoch, length: log.announced };
        self.spread(step, None, row, Arc::clone(&announcement));
        self.own_log.has_facts |= announcement.batch.items.iter().any(|item| matches!(item, LogItem::Fact { .. }));
        self.on_durable(step, self.own_log.durable);
    }

    /// The ledger dropped everything before this position.
    pub(super) fn on_dropped(&mut self, floor: u64) {
        self.own_log.floor = self.own_log.floor.max(floor);
    }

    pub(super) fn answer_pull(&mut self, step: &mut Step<'_>, to: NodeId, from: u64) {
        let log = &mut self.own_log;
        if let Some(at) = log.recent.iter().position(|announcement| announcement.batch.first == from) {
            let wanted = log.recent.iter().skip(at).take(PULL_WINDOW);
            return step.out.extend(wanted.map(|found| Output::Send(to, Message::Announce(Arc::clone(found)))));
        }
        if from >= log.announced {
            return;
        }
        self.describe_to(step, to);
    }

    /// Sends a manifest of this node's log that leads on to what is announced now; makes it first if there is none.
    pub(super) fn describe_to(&mut self, step: &mut Step<'_>, to: NodeId) {
        let log = &mut self.own_log;
        let leads_on = |end: u64| end == log.announced || log.recent.iter().any(|recent| recent.batch.first == end);
        if let Some(manifest) = log.manifest.as_ref().filter(|manifest| leads_on(manifest.end)) {
            return step.out.push(Output::Send(to, Message::Manifest(Arc::clone(manifest))));
        }
        log.waiting.insert(to);
        if !log.describing {
            log.describing = true;
            let manifest = Manifest {
                node: self.config.me,
                lineage: self.config.lineage.clone(),
                segments: log.sealed.clone(),
                end: log.announced,
                chain: log.chain,
                signature: Signature::from_bytes([0; 64]),
            };
            step.out.push(Output::Describe(manifest));
        }
    }

    pub(super) fn on_described(&mut self, step: &mut Step<'_>, manifest: Option<Manifest>) {
        let log = &mut self.own_log;
        log.describing = false;
        let waiting = std::mem::take(&mut log.waiting);
        let Some(manifest) = manifest.map(Arc::new) else { return };
        let full = usize::try_from(manifest.end / SEGMENT).unwrap_or(usize::MAX);
        log.has_facts |= manifest.names().any(|name| name.facts > 0);
        log.sealed = manifest.segments.iter().take(full).copied().collect();
        let greeted = waiting.into_iter().filter(|peer| self.peers.contains_key(peer));
        step.out.extend(greeted.map(|peer| Output::Send(peer, Message::Manifest(Arc::clone(&manifest)))));
        log.manifest = Some(manifest);
    }

    pub(super) fn on_get_segment(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        (node, number, end): (NodeId, u64, u64),
        digest: Digest,
    ) {
        let mine = node == self.config.me && number < end.div_ceil(SEGMENT) && end <= self.own_log.announced;
        if mine && self.may_serve(from, ask, 0) {
            return step.out.push(Output::ReadSegment(from, ask, number, end));
        }
        let message = match self.relay.segment(&digest) {
            Some(bytes) => Message::Segment { ask, bytes },
            None => Message::NotHeld { ask },
        };
        step.out.push(Output::Send(from, message));
    }

    pub(super) fn on_found_segment(&mut self, step: &mut Step<'_>, to: NodeId, ask: AskId, bytes: Option<Bytes>) {
        let message = match bytes {
            Some(bytes) => Message::Segment { ask, bytes },
            None => Message::NotHeld { ask },
        };
        self.served(step, to, ask, message);
    }
}
