//! Who is told what: everybody while there are few lanes, beyond that the links of an overlay.
//!
//! Every node chooses a few neighbours, and is chosen by about as many. New entries go at once over eager links; lazy ones only say that
//! they are there, and whoever does not get them within three round trips asks. A link over which something comes twice turns lazy: what
//! stays eager is a tree. Heartbeats carry the rows of the version vector that the neighbour has not confirmed, so that whatever gets lost
//! is found. Whoever has shown that it has something is not told of it, and a log without facts is passed on to nobody: of ten thousand nodes most
//! may have nothing to say. Invariant: whatever is not pushed is found by rows, and what rows do not tell of has no fact in it.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use bytes::Bytes;

use super::{Fabric, Output, Peer, Step, Timer};
use crate::id::{Digest, EpochId, NodeId};
use crate::limits::{FIRST_RTT, LINKS_CHOSEN, MAX_ROWS, PUSHED_SEGMENTS};
use crate::message::{Announcement, LogItem, Manifest, Message, Row};

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
    /// The peer's bit in what neighbours have shown to have. Invariant: 0 while the link is not on.
    bit: u64,
    /// The epoch of its log of which neighbours can learn from here.
    described: Option<EpochId>,
}

impl Link {
    pub(super) fn is_on(self) -> bool {
        self.chosen || self.chose_me
    }
}

impl Fabric {
    /// Whether new entries go over the overlay's links instead of to everybody.
    pub(super) fn is_overlay(&self) -> bool {
        self.peers.len() > self.config.mesh_lanes
    }

    /// Passes new entries on, this node's own or those of another.
    pub(super) fn spread(
        &mut self,
        step: &mut Step<'_>,
        from: Option<NodeId>,
        row: Row,
        announcement: Arc<Announcement>,
    ) {
        if !self.is_overlay() {
            if from.is_none() {
                let live: Vec<_> = self.live_peers().collect();
                self.counters.batches += live.len() as u64;
                for peer in live {
                    self.note_informed(step.now, peer);
                    step.out.push(Output::Send(peer, Message::Announce(Arc::clone(&announcement))));
                }
            }
            return;
        }
        if let Some(from) = from {
            self.show(from, &row);
            if let Some(due) = self.relay.came(&row, step.now) {
                self.timers.clear(due);
            }
        }
        if self.is_worth_telling(&announcement) {
            self.relay.note_change(&row);
            for (peer, link) in self.links(from, &row) {
                let message = if link.lazy {
                    Message::Have { rows: vec![row] }
                } else {
                    Message::Announce(Arc::clone(&announcement))
                };
                step.out.push(Output::Send(peer, message));
                self.counters.batches += u64::from(!link.lazy);
            }
        }
        if from.is_some() {
            self.relay.keep_batch(announcement);
        }
    }

    /// Whether a log has facts up to the end of this announcement. Nobody has to follow one without: whoever gets the first of them asks for
    /// what comes before it.
    fn is_worth_telling(&self, announcement: &Announcement) -> bool {
        let author = announcement.author();
        let before = if author == self.config.me { self.own_log.has_facts } else { self.holders.has_facts(author) };
        before || announcement.batch.items.iter().any(|item| matches!(item, LogItem::Fact { .. }))
    }

    pub(super) fn relay_manifest(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        row: Option<Row>,
        manifest: Arc<Manifest>,
    ) {
        let Some(row) = row.filter(|_| self.is_overlay()) else { return };
        // It is worth telling of if it has facts.
        if manifest.names().any(|name| name.facts > 0) {
            self.relay.note_change(&row);
            for (peer, link) in self.links(Some(from), &row) {
                let message = if link.lazy || manifest.segments.len() > PUSHED_SEGMENTS {
                    Message::Have { rows: vec![row] }
                } else {
                    Message::Manifest(Arc::clone(&manifest))
                };
                step.out.push(Output::Send(peer, message));
            }
        }
        self.relay.keep_manifest(manifest);
    }

    pub(super) fn relay_segment(&mut self, name: Digest, bytes: Bytes) {
        if self.is_overlay() {
            self.relay.keep_segment(name, bytes);
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

    /// The links over which something is passed on: to whoever has not shown that it has it.
    fn links(&self, from: Option<NodeId>, row: &Row) -> Vec<(NodeId, Link)> {
        let on = self.peers.iter().filter(|(_, peer)| peer.is_greeted() && peer.link.is_on());
        let needs = |node: NodeId, bit: u64| node != row.node && Some(node) != from && !self.relay.has(bit, row);
        on.filter(|(node, peer)| needs(**node, peer.link.bit)).map(|(node, peer)| (*node, peer.link)).collect()
    }

    /// A peer showed that it has a log up to there; says whether that is known here for sure.
    pub(super) fn show(&mut self, peer: NodeId, row: &Row) -> bool {
        let bit = self.peers.get(&peer).map_or(0, |peer| peer.link.bit);
        self.relay.shown(bit, row)
    }

    /// A peer whose link is on has a bit, another one has none.
    fn settle_bit(&mut self, peer: NodeId) {
        let Some(Peer { link, .. }) = self.peers.get_mut(&peer) else { return };
        if link.is_on() && link.bit == 0 {
            link.bit = self.relay.take_bit();
        } else if !link.is_on() && link.bit != 0 {
            self.relay.give_back_bit(std::mem::take(&mut link.bit));
        }
    }

    /// A peer is gone, and with it what it has shown.
    pub(super) fn forget_link(&mut self, link: Link) {
        if link.bit != 0 {
            self.relay.give_back_bit(link.bit);
        }
    }

    /// Keeps the chosen neighbours at their number: the live peers with the lowest rank, which differs from node to node.
    pub(super) fn choose_links(&mut self, step: &mut Step<'_>) {
        let me = self.config.me;
        let overlay = self.is_overlay();
        let fit = |peer: &NodeId| overlay && !self.is_suspect(step.now, *peer);
        let mut chosen: Vec<_> = self.live_peers().filter(fit).collect();
        chosen.sort_by_cached_key(|peer| link_rank(me, *peer));
        chosen.truncate(LINKS_CHOSEN);
        let mut changed = Vec::new();
        for (node, peer) in &mut self.peers {
            let on = chosen.contains(node);
            if peer.is_greeted() && peer.link.chosen != on {
                peer.link.chosen = on;
                peer.link.lazy = false;
                step.out.push(Output::Send(*node, Message::Link { on }));
                changed.push(*node);
            }
        }
        for node in changed {
            self.settle_bit(node);
        }
    }

    /// Asks a peer for its manifest where neighbours could not learn of its epoch from here: the one that came after its hello may have been lost.
    pub(super) fn describe_if_unknown(&mut self, step: &mut Step<'_>, from: NodeId, epoch: EpochId) {
        let overlay = self.is_overlay();
        let Some(peer) = self.peers.get_mut(&from).filter(|peer| overlay && peer.link.described != Some(epoch)) else {
            return;
        };
        if self.relay.lacks_epoch(from, epoch) {
            step.out.push(Output::Send(from, Message::Describe));
        } else {
            peer.link.described = Some(epoch);
        }
    }

    pub(super) fn on_link(&mut self, step: &mut Step<'_>, from: NodeId, on: bool) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        peer.link.chose_me = on;
        peer.link.lazy = false;
        self.settle_bit(from);
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

    /// A lazy link told of entries: they get some time to come by another way.
    pub(super) fn on_have(&mut self, step: &mut Step<'_>, from: NodeId, rows: &[Row]) {
        for row in rows {
            if !self.show(from, row) && self.is_news(row) && !self.relay.waits_for(row.node) {
                self.hear_of(row.node, row.length);
                let wait = self.relay.patience(self.round_trip(from).unwrap_or(FIRST_RTT));
                let due = self.timers.set(step.now + wait, Timer::Graft(row.node));
                self.relay.wait_for(row, from, step.now, due);
            }
        }
    }

    pub(super) fn on_graft_due(&mut self, step: &mut Step<'_>, author: NodeId) {
        let Some(missing) = self.relay.give_up_waiting(author) else { return };
        let known = self.holders.known(author);
        if self.learning.heard_of(author) > known && self.is_live(missing.via) {
            if let Some(peer) = self.peers.get_mut(&missing.via) {
                peer.link.lazy = false;
            }
            self.relay.was_impatient(&missing, step.now);
            self.counters.grafts += 1;
            step.out.push(Output::Send(missing.via, Message::Graft { node: author, from: known }));
        }
    }

    /// The rows that a neighbour has neither confirmed nor shown itself, and the version that they bring it to.
    pub(super) fn rows_for(&mut self, to: NodeId) -> (Vec<Row>, u64) {
        let link = self.peers.get(&to).map(|peer| peer.link).unwrap_or_default();
        if !self.is_overlay() || !link.is_on() {
            return (Vec::new(), link.told);
        }
        let (mut rows, mut version) = (Vec::new(), link.told);
        for (at, node) in self.relay.changes_after(link.told).take(MAX_ROWS) {
            version = at;
            let row = self.holders.newest(node).map(|(epoch, length)| Row { node, epoch: epoch.epoch, length });
            rows.extend(row.filter(|row| node != to && !self.relay.has(link.bit, row)));
        }
        if rows.is_empty() {
            self.rows_confirmed(to, version);
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
            if !self.show(from, row) && self.is_news(row) {
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
