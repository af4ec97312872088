//! Who is told what: everybody while there are few lanes, beyond that the links of an overlay.
//!
//! Every node chooses a few neighbours, and is chosen by about as many. New entries go at once over eager links; lazy ones only say that
//! they are there, and whoever does not get them within three round trips asks. A link over which something comes twice turns lazy: what
//! stays eager is a tree. Heartbeats carry the rows of the version vector that the neighbour has not confirmed, so that whatever gets lost
//! is found. Invariant: relayed logs, manifests and segments are caches with bounds; what is not in them is fetched from the author.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound;

use bytes::Bytes;

use super::{Fabric, Output, Step, Timer};
use crate::id::{Digest, EpochId, NodeId};
use crate::limits::{
    FIRST_RTT, GRAFT_ROUND_TRIPS, LINKS_CHOSEN, MAX_PULLS, MAX_ROWS, PULL_WINDOW, RELAYED_BATCHES, RELAYED_MANIFESTS,
    RELAYED_PER_LOG, RELAYED_SEGMENTS,
};
use crate::message::{Announcement, Manifest, Message, Row, SegmentName};

/// This side's view of the link to a peer.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Link {
    /// This node chose the peer.
    chosen: bool,
    /// The peer chose this node.
    chose_me: bool,
    /// Only what there is goes over it, not the entries.
    lazy: bool,
    /// The version up to which the peer confirmed to have got this node's rows.
    told: u64,
}

impl Link {
    pub(super) fn is_on(self) -> bool {
        self.chosen || self.chose_me
    }
}

/// What a node of an overlay keeps for its neighbours.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// The versions of rows: which log changed at which version, and when each changed last.
    changes: BTreeMap<u64, NodeId>,
    changed: BTreeMap<NodeId, u64>,
    version: u64,
    batches: BTreeMap<(NodeId, u64), Announcement>,
    order: VecDeque<(NodeId, u64)>,
    manifests: BTreeMap<NodeId, Manifest>,
    segments: BTreeMap<Digest, Bytes>,
    segment_order: VecDeque<Digest>,
    /// Logs that a lazy link told of, and which.
    missing: BTreeMap<NodeId, NodeId>,
}

impl Relay {
    pub(super) fn segment(&self, digest: &Digest) -> Option<Bytes> {
        self.segments.get(digest).cloned()
    }

    /// What is here of a log from a position on: announcements if they lead on from there, else the manifest.
    pub(super) fn log_from(&self, node: NodeId, from: u64) -> Vec<Message> {
        let manifest = self.manifests.get(&node).filter(|manifest| manifest.end >= from);
        let begins =
            self.manifests.get(&node).and_then(|manifest| manifest.lineage.last()).map_or(0, |epoch| epoch.start);
        // Announcements of an earlier epoch lead nowhere.
        let leads_on = from >= begins && self.batches.contains_key(&(node, from));
        // Whoever stands where an epoch begins may not know of that epoch yet.
        let named = manifest.filter(|_| !leads_on || from == begins);
        let mut found: Vec<_> = named.cloned().map(Message::Manifest).into_iter().collect();
        let mut at = from;
        while leads_on
            && let Some(batch) = self.batches.get(&(node, at))
            && found.len() <= PULL_WINDOW
        {
            found.push(Message::Announce(batch.clone()));
            at = batch.batch.end();
        }
        found
    }

    /// The segments of a manifest that neighbours could not have from here: of a long log only the newest.
    pub(super) fn unserved(&self, manifest: &Manifest) -> Vec<SegmentName> {
        let names: Vec<_> = manifest.names().collect();
        let newest = names.into_iter().rev().take(RELAYED_PER_LOG);
        newest.filter(|name| name.facts > 0 && !self.segments.contains_key(&name.digest)).collect()
    }

    /// Whether a manifest names an epoch that neighbours could not learn of from here.
    pub(super) fn lacks(&self, manifest: &Manifest) -> bool {
        self.manifests.get(&manifest.node).is_none_or(|known| known.lineage.len() < manifest.lineage.len())
    }

    /// Whether neighbours could not learn from here what this epoch of a log is.
    pub(super) fn lacks_epoch(&self, node: NodeId, epoch: EpochId) -> bool {
        let known = self.manifests.get(&node).and_then(|manifest| manifest.lineage.last());
        known.is_none_or(|known| known.epoch != epoch)
    }

    fn keep_manifest(&mut self, manifest: Manifest) {
        let better = match self.manifests.get(&manifest.node) {
            None => self.manifests.len() < RELAYED_MANIFESTS,
            // A newer one of which less can be had from here is of no use to neighbours, unless it tells of another epoch.
            Some(known) => {
                known.lineage != manifest.lineage || self.unserved(&manifest).len() <= self.unserved(known).len()
            }
        };
        if better {
            self.manifests.insert(manifest.node, manifest);
        }
    }

    fn note_change(&mut self, node: NodeId) {
        self.version += 1;
        if let Some(before) = self.changed.insert(node, self.version) {
            self.changes.remove(&before);
        }
        self.changes.insert(self.version, node);
    }

    fn keep_batch(&mut self, announcement: Announcement) {
        let key = (announcement.author(), announcement.batch.first);
        if self.batches.insert(key, announcement).is_none() {
            self.order.push_back(key);
        }
        if self.order.len() > RELAYED_BATCHES
            && let Some(oldest) = self.order.pop_front()
        {
            self.batches.remove(&oldest);
        }
    }
}

impl Fabric {
    /// Whether new entries go over the overlay's links instead of to everybody.
    pub(super) fn is_overlay(&self) -> bool {
        self.peers.len() > self.config.mesh_lanes
    }

    /// Passes new entries on, this node's own or those of another.
    pub(super) fn spread(&mut self, step: &mut Step<'_>, from: Option<NodeId>, row: Row, announcement: Announcement) {
        if !self.is_overlay() {
            if from.is_none() {
                let live: Vec<_> = self.live_peers().collect();
                self.counters.batches += live.len() as u64;
                for peer in live {
                    self.note_informed(step.now, peer);
                    step.out.push(Output::Send(peer, Message::Announce(announcement.clone())));
                }
            }
            return;
        }
        self.relay.note_change(row.node);
        for (peer, link) in self.links([from, Some(row.node)]) {
            let message =
                if link.lazy { Message::Have { rows: vec![row] } } else { Message::Announce(announcement.clone()) };
            step.out.push(Output::Send(peer, message));
            self.counters.batches += u64::from(!link.lazy);
        }
        if from.is_some() {
            self.relay.keep_batch(announcement);
        }
    }

    pub(super) fn relay_manifest(&mut self, step: &mut Step<'_>, from: NodeId, row: Option<Row>, manifest: Manifest) {
        let Some(row) = row.filter(|_| self.is_overlay()) else { return };
        // Nobody has to follow a log without facts: whoever gets the first of them asks for what comes before it.
        if manifest.names().any(|name| name.facts > 0) {
            self.relay.note_change(row.node);
            for (peer, _) in self.links([Some(from), Some(row.node)]) {
                step.out.push(Output::Send(peer, Message::Have { rows: vec![row] }));
            }
        }
        self.relay.keep_manifest(manifest);
    }

    pub(super) fn relay_segment(&mut self, name: Digest, bytes: Bytes) {
        if self.is_overlay() && self.relay.segments.insert(name, bytes).is_none() {
            self.relay.segment_order.push_back(name);
            if self.relay.segment_order.len() > RELAYED_SEGMENTS
                && let Some(oldest) = self.relay.segment_order.pop_front()
            {
                self.relay.segments.remove(&oldest);
            }
        }
    }

    /// The neighbour after this one, of those that may be asked in turns; the first one after the last.
    pub(super) fn next_neighbour(&self, after: NodeId, except: &BTreeSet<NodeId>) -> Option<NodeId> {
        let on = |(node, peer): (&NodeId, &super::Peer)| (peer.is_greeted() && peer.link.is_on()).then_some(*node);
        let later = self.peers.range((Bound::Excluded(after), Bound::Unbounded)).filter_map(on);
        later.chain(self.peers.range(..=after).filter_map(on)).find(|node| !except.contains(node))
    }

    /// How many neighbours there are.
    pub(super) fn neighbours(&self) -> usize {
        self.peers.values().filter(|peer| peer.is_greeted() && peer.link.is_on()).count()
    }

    /// The links over which something is passed on that is not sent back to where it came from.
    fn links(&self, except: [Option<NodeId>; 2]) -> Vec<(NodeId, Link)> {
        let on = self.peers.iter().filter(|(_, peer)| peer.is_greeted() && peer.link.is_on());
        on.filter(|(node, _)| !except.contains(&Some(**node))).map(|(node, peer)| (*node, peer.link)).collect()
    }

    /// Keeps the chosen neighbours at their number: the live peers with the lowest rank, which differs from node to node.
    pub(super) fn choose_links(&mut self, step: &mut Step<'_>) {
        let me = self.config.me;
        let overlay = self.is_overlay();
        let fit = |peer: &NodeId| overlay && !self.is_suspect(step.now, *peer);
        let mut chosen: Vec<_> = self.live_peers().filter(fit).collect();
        chosen.sort_by_cached_key(|peer| link_rank(me, *peer));
        chosen.truncate(LINKS_CHOSEN);
        for (node, peer) in &mut self.peers {
            let on = chosen.contains(node);
            if peer.is_greeted() && peer.link.chosen != on {
                peer.link.chosen = on;
                peer.link.lazy = false;
                step.out.push(Output::Send(*node, Message::Link { on }));
            }
        }
    }

    pub(super) fn on_link(&mut self, step: &mut Step<'_>, from: NodeId, on: bool) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.link.chose_me = on;
        peer.link.lazy = false;
        if on {
            self.describe_to(step, from);
        }
    }

    /// Something came over this link that was here already.
    pub(super) fn on_duplicate(&mut self, step: &mut Step<'_>, from: NodeId) {
        let overlay = self.is_overlay();
        if let Some(peer) = self.peers.get_mut(&from).filter(|peer| overlay && peer.link.is_on() && !peer.link.lazy) {
            peer.link.lazy = true;
            step.out.push(Output::Send(from, Message::Prune));
        }
    }

    pub(super) fn on_prune(&mut self, from: NodeId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.link.lazy = true;
        }
    }

    pub(super) fn on_graft(&mut self, step: &mut Step<'_>, from: NodeId, node: NodeId, position: u64) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.link.lazy = false;
        }
        self.on_pull(step, from, node, position);
    }

    /// A lazy link told of entries: they get three round trips to come by another way.
    pub(super) fn on_have(&mut self, step: &mut Step<'_>, from: NodeId, rows: &[Row]) {
        for row in rows {
            let waiting = self.relay.missing.contains_key(&row.node) || self.relay.missing.len() >= MAX_PULLS;
            if self.is_news(row) && !waiting {
                self.hear_of(row.node, row.length);
                self.relay.missing.insert(row.node, from);
                let wait = self.round_trip(from).unwrap_or(FIRST_RTT) * GRAFT_ROUND_TRIPS;
                self.timers.set(step.now + wait, Timer::Graft(row.node));
            }
        }
    }

    pub(super) fn on_graft_due(&mut self, step: &mut Step<'_>, author: NodeId) {
        let Some(via) = self.relay.missing.remove(&author) else { return };
        let known = self.holders.known(author);
        if self.learning.heard_of(author) > known && self.is_live(via) {
            if let Some(peer) = self.peers.get_mut(&via) {
                peer.link.lazy = false;
            }
            self.counters.grafts += 1;
            step.out.push(Output::Send(via, Message::Graft { node: author, from: known }));
        }
    }

    /// The rows that a neighbour has not confirmed, and the version that they bring it to.
    pub(super) fn rows_for(&self, to: NodeId) -> (Vec<Row>, u64) {
        let link = self.peers.get(&to).map(|peer| peer.link).unwrap_or_default();
        if !self.is_overlay() || !link.is_on() {
            return (Vec::new(), link.told);
        }
        let changes = self.relay.changes.range(link.told + 1..).take(MAX_ROWS);
        let (mut rows, mut version) = (Vec::new(), link.told);
        for (at, node) in changes {
            version = *at;
            let row = self.holders.epoch(*node).map(|epoch| (epoch.epoch, self.holders.known(*node)));
            rows.extend(row.filter(|_| *node != to).map(|(epoch, length)| Row { node: *node, epoch, length }));
        }
        (rows, version)
    }

    pub(super) fn rows_confirmed(&mut self, by: NodeId, version: u64) {
        if let Some(peer) = self.peers.get_mut(&by) {
            peer.link.told = peer.link.told.max(version);
        }
    }

    /// Rows of a neighbour's version vector: what they tell of is pulled at once.
    pub(super) fn on_rows(&mut self, step: &mut Step<'_>, from: NodeId, rows: &[Row]) {
        for row in rows.iter().filter(|row| row.node != from) {
            if self.is_news(row) {
                self.hear_of(row.node, row.length);
                self.pull(step, row.node, from);
            }
        }
    }
}

/// How near two nodes are in the overlay: an order that differs from node to node, so that the choices of all make a random graph.
fn link_rank(me: NodeId, peer: NodeId) -> [u8; 32] {
    *blake3::Hasher::new().update(me.as_bytes()).update(peer.as_bytes()).finalize().as_bytes()
}
