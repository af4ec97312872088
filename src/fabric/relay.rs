//! What a node of an overlay keeps for its neighbours: which log changed when, who knows that already, and what they may ask for.
//!
//! Whoever sends entries, word of them, or a row has them, and is told nothing of them. Invariant 1: a neighbour's bit stands at a length only if
//! the neighbour showed over its present lane that it has the log up to there. Invariant 2: relayed announcements, manifests and segments are
//! caches with bounds; what is not in them is fetched from the author.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;

use super::Time;
use super::standing::smooth;
use super::time::TimerKey;
use crate::id::{Digest, EpochId, NodeId};
use crate::limits::{
    GRAFT_ROUND_TRIPS, GRAFT_ROUND_TRIPS_AT_MOST, MAX_LOGS, MAX_PULLS, PULL_WINDOW, RELAYED_BATCHES, RELAYED_MANIFESTS,
    RELAYED_PER_LOG, RELAYED_SEGMENTS,
};
use crate::message::{Announcement, Manifest, Message, Row, SegmentName};

/// How far a log is known to neighbours.
#[derive(Debug)]
struct Told {
    epoch: EpochId,
    /// Up to where it was known here when it last changed.
    mine: u64,
    /// The greatest length that anybody has shown, or that is known here.
    length: u64,
    /// The version at which it last changed here; 0 if it never did.
    version: u64,
    /// The bits of neighbours who have it up to `length`.
    by: u64,
}

/// Entries that a lazy link told of and that did not come yet.
#[derive(Debug, Clone, Copy)]
pub(super) struct Missing {
    /// Who told of them first.
    pub(super) via: NodeId,
    length: u64,
    since: Time,
    due: TimerKey,
}

/// See the front page.
#[derive(Debug, Default)]
pub(super) struct Relay {
    /// Invariant: names exactly the logs of `told` whose version is not 0, by that version.
    changes: BTreeMap<u64, NodeId>,
    told: HashMap<NodeId, Told, RandomState>,
    version: u64,
    /// The bits that neighbours have.
    bits: u64,
    /// By author, in order of their positions.
    batches: HashMap<NodeId, VecDeque<Arc<Announcement>>, RandomState>,
    order: VecDeque<Arc<Announcement>>,
    manifests: HashMap<NodeId, Arc<Manifest>, RandomState>,
    segments: BTreeMap<Digest, Bytes>,
    segment_order: VecDeque<Digest>,
    missing: BTreeMap<NodeId, Missing>,
    /// How much later than word of them entries come: smoothed, and the mean deviation.
    lateness: Option<(Duration, Duration)>,
}

impl Relay {
    /// A bit for one more neighbour; 0 if none is left, and then it is told everything.
    pub(super) fn take_bit(&mut self) -> u64 {
        let bit = !self.bits & self.bits.wrapping_add(1);
        self.bits |= bit;
        bit
    }

    /// A neighbour is none any more.
    pub(super) fn give_back_bit(&mut self, bit: u64) {
        self.bits &= !bit;
        self.told.values_mut().for_each(|told| told.by &= !bit);
    }

    /// A neighbour showed that it has a log up to there; says whether that is known here for sure.
    pub(super) fn shown(&mut self, bit: u64, row: &Row) -> bool {
        if bit == 0 {
            return false;
        }
        let room = self.told.len() < MAX_LOGS;
        let Some(told) = self.told.get_mut(&row.node) else {
            if room {
                let told = Told { epoch: row.epoch, mine: 0, length: row.length, version: 0, by: bit };
                self.told.insert(row.node, told);
            }
            return false;
        };
        // Of two epochs nobody but the author can say which one is newer.
        if told.epoch != row.epoch {
            return false;
        }
        match row.length.cmp(&told.length) {
            Ordering::Equal => told.by |= bit,
            Ordering::Greater => (told.length, told.by) = (row.length, bit),
            Ordering::Less => {}
        }
        row.length <= told.mine
    }

    /// Whether a neighbour has shown that it has a log up to there.
    pub(super) fn has(&self, bit: u64, row: &Row) -> bool {
        let up_to_there = |told: &Told| told.by & bit != 0 && told.epoch == row.epoch && told.length >= row.length;
        self.told.get(&row.node).is_some_and(up_to_there)
    }

    /// More of a log is known here.
    pub(super) fn note_change(&mut self, row: &Row) {
        self.version += 1;
        let fresh = Told { epoch: row.epoch, mine: 0, length: row.length, version: 0, by: 0 };
        let told = self.told.entry(row.node).or_insert(fresh);
        if told.epoch != row.epoch || told.length < row.length {
            (told.epoch, told.length, told.by) = (row.epoch, row.length, 0);
        }
        self.changes.remove(&told.version);
        (told.mine, told.version) = (row.length, self.version);
        self.changes.insert(self.version, row.node);
    }

    /// The logs that changed after a version, in order of that.
    pub(super) fn changes_after(&self, version: u64) -> impl Iterator<Item = (u64, NodeId)> {
        self.changes.range(version + 1..).map(|(version, node)| (*version, *node))
    }

    /// Whether entries of a log are waited for already, or those of too many.
    pub(super) fn waits_for(&self, author: NodeId) -> bool {
        self.missing.contains_key(&author) || self.missing.len() >= MAX_PULLS
    }

    /// How long entries may take to come by another way: nearly as long as they ever did, and at least a few round trips.
    pub(super) fn patience(&self, round_trip: Duration) -> Duration {
        let nearly_all = self.lateness.map_or(Duration::ZERO, |(smoothed, deviation)| smoothed + deviation * 4);
        nearly_all.clamp(round_trip * GRAFT_ROUND_TRIPS, round_trip * GRAFT_ROUND_TRIPS_AT_MOST)
    }

    /// A lazy link told of entries that are not here.
    pub(super) fn wait_for(&mut self, row: &Row, via: NodeId, since: Time, due: TimerKey) {
        self.missing.insert(row.node, Missing { via, length: row.length, since, due });
    }

    /// Entries came; returns the timer of those that were waited for.
    pub(super) fn came(&mut self, row: &Row, now: Time) -> Option<TimerKey> {
        let missing = self.missing.get(&row.node).filter(|missing| missing.length <= row.length).copied()?;
        self.missing.remove(&row.node);
        self.lateness = Some(smooth(self.lateness, now - missing.since));
        Some(missing.due)
    }

    /// The time is up for entries of this log.
    pub(super) fn give_up_waiting(&mut self, author: NodeId) -> Option<Missing> {
        self.missing.remove(&author)
    }

    /// Entries did not come in time: had they been waited for longer, they might have.
    pub(super) fn was_impatient(&mut self, missing: &Missing, now: Time) {
        self.lateness = Some(smooth(self.lateness, (now - missing.since) * 2));
    }

    pub(super) fn segment(&self, digest: &Digest) -> Option<Bytes> {
        self.segments.get(digest).cloned()
    }

    /// What is here of a log from a position on: announcements if they lead on from there, else the manifest.
    pub(super) fn log_from(&self, node: NodeId, from: u64) -> Vec<Message> {
        let manifest = self.manifests.get(&node).filter(|manifest| manifest.end >= from);
        let begins =
            self.manifests.get(&node).and_then(|manifest| manifest.lineage.last()).map_or(0, |epoch| epoch.start);
        let batches = self.batches.get(&node);
        let first = batches.and_then(|all| all.binary_search_by_key(&from, |told| told.batch.first).ok());
        // Announcements of an earlier epoch lead nowhere.
        let first = first.filter(|_| from >= begins);
        // Whoever stands where an epoch begins may not know of that epoch yet.
        let named = manifest.filter(|_| first.is_none() || from == begins);
        let mut found: Vec<_> = named.cloned().map(Message::Manifest).into_iter().collect();
        let mut at = from;
        for told in batches.into_iter().zip(first).flat_map(|(all, first)| all.range(first..)) {
            if told.batch.first != at || found.len() > PULL_WINDOW {
                break;
            }
            found.push(Message::Announce(Arc::clone(told)));
            at = told.batch.end();
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

    pub(super) fn keep_manifest(&mut self, manifest: Arc<Manifest>) {
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

    pub(super) fn keep_batch(&mut self, announcement: Arc<Announcement>) {
        let of_author = self.batches.entry(announcement.author()).or_default();
        // What the author took back is not passed on any more.
        while of_author.back().is_some_and(|last| last.batch.first >= announcement.batch.first) {
            of_author.pop_back();
        }
        of_author.push_back(Arc::clone(&announcement));
        self.order.push_back(announcement);
        if self.order.len() > RELAYED_BATCHES
            && let Some(oldest) = self.order.pop_front()
            && let Some(of_author) = self.batches.get_mut(&oldest.author())
        {
            of_author.pop_front_if(|first| Arc::ptr_eq(first, &oldest));
            if of_author.is_empty() {
                self.batches.remove(&oldest.author());
            }
        }
    }

    pub(super) fn keep_segment(&mut self, name: Digest, bytes: Bytes) {
        if self.segments.insert(name, bytes).is_none() {
            self.segment_order.push_back(name);
            if self.segment_order.len() > RELAYED_SEGMENTS
                && let Some(oldest) = self.segment_order.pop_front()
            {
                self.segments.remove(&oldest);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(length: u64) -> Row {
        Row { node: NodeId::from_bytes([1; 32]), epoch: EpochId::from_bytes([1; 16]), length }
    }

    #[test]
    fn a_bit_stands_for_who_has_shown_the_newest_length() {
        let mut relay = Relay::default();
        let (a, b) = (relay.take_bit(), relay.take_bit());
        assert_eq!((a, b), (1, 2));
        assert!(!relay.shown(a, &row(3)));
        assert!(relay.has(a, &row(3)) && relay.has(a, &row(2)) && !relay.has(a, &row(4)) && !relay.has(b, &row(2)));
        relay.note_change(&row(3));
        assert!(relay.has(a, &row(3)), "it said so before it was known here");
        assert!(relay.shown(b, &row(2)) && relay.shown(a, &row(3)) && !relay.shown(0, &row(3)));
        assert!(!relay.has(b, &row(2)), "less is not kept apart");
        relay.note_change(&row(4));
        assert!(!relay.has(a, &row(4)));
        assert!(relay.shown(b, &row(4)));
        relay.give_back_bit(b);
        assert!(!relay.has(b, &row(4)));
        assert_eq!(relay.take_bit(), b, "and nothing of the one before");
        let other = Row { epoch: EpochId::from_bytes([2; 16]), ..row(9) };
        assert!(!relay.shown(a, &other) && !relay.has(a, &other), "which epoch is newer is not for neighbours to say");
        let all: u64 = (0..63).map(|_| relay.take_bit()).fold(0, |all, bit| all | bit);
        assert_eq!((all | 1 | b, relay.take_bit()), (u64::MAX, 0));
    }

    #[test]
    fn only_the_newest_change_of_a_log_is_told() {
        let mut relay = Relay::default();
        relay.note_change(&row(1));
        relay.note_change(&Row { node: NodeId::from_bytes([2; 32]), ..row(1) });
        relay.note_change(&row(2));
        let changes: Vec<_> = relay.changes_after(0).map(|(version, node)| (version, node.as_bytes()[0])).collect();
        assert_eq!(changes, [(2, 2), (3, 1)]);
        assert_eq!(relay.changes_after(2).count(), 1);
    }

    #[test]
    fn patience_follows_what_entries_take() {
        let (ms, at) = (Duration::from_millis, |n| Time(Duration::from_millis(n)));
        let mut timers = super::super::time::Timers::default();
        let mut relay = Relay::default();
        assert_eq!(relay.patience(ms(10)), ms(30));
        for n in 0..40 {
            relay.wait_for(&row(n + 1), NodeId::from_bytes([2; 32]), at(n * 1000), timers.set(at(0), ()));
            assert!(relay.waits_for(row(n).node));
            assert!(relay.came(&row(n), at(n * 1000 + 1)).is_none(), "older ones are not those");
            assert!(relay.came(&row(n + 1), at(n * 1000 + 80)).is_some());
        }
        assert!((ms(80)..ms(90)).contains(&relay.patience(ms(20))), "{:?}", relay.patience(ms(20)));
        for n in 0..20 {
            relay.wait_for(&row(99), NodeId::from_bytes([2; 32]), at(n), timers.set(at(0), ()));
            let missing = relay.give_up_waiting(row(0).node).expect("it is waited for");
            relay.was_impatient(&missing, at(n) + ms(10_000));
        }
        assert_eq!(relay.patience(ms(10)), ms(10) * GRAFT_ROUND_TRIPS_AT_MOST);
    }
}
