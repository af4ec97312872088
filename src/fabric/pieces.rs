//! Which chunk of a large reply is asked of which holder: the book that a transfer keeps.
//!
//! Every holder has a window of its own, so a faster one gets more. When everything is asked for, a holder with room takes over what another one
//! would bring much later: the chunk is asked of both, and the first copy that is proven counts. What a lost holder did not bring is asked of the
//! others first. Invariant: every chunk is either still to be asked for, asked of one or two holders, or here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::Time;
use crate::bao::ProvenChunk;
use crate::id::NodeId;
use crate::limits::{CHUNK, CHUNKS_IN_FLIGHT, SOURCE_STALL};
use crate::message::AskId;
use crate::record::Record;
use crate::reply::BlobRef;

/// Where a chunk is: which payload, from which byte.
pub(super) type Place = (usize, u64);

/// A chunk that a holder was asked for.
#[derive(Debug)]
struct Asked {
    of: NodeId,
    place: Place,
    at: Time,
    /// It came and is being held against the digest.
    checking: bool,
}

/// A holder that chunks are asked of.
#[derive(Debug)]
struct Source {
    /// When it last brought a chunk, or was first asked after it had brought everything.
    since: Time,
    /// The smoothed time in which it brings one; a guess before the first.
    pace: Duration,
    /// Chunks of it that hold.
    brought: u64,
}

/// What is asked for next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) of: NodeId,
    pub(super) place: Place,
    /// Whether somebody slower was asked for it before.
    pub(super) stolen: bool,
}

#[derive(Debug)]
pub(super) struct Pieces {
    blobs: Vec<BlobRef>,
    /// The first chunk that was never asked for.
    next: Place,
    /// Chunks whose holders were lost.
    back: BTreeSet<Place>,
    asked: BTreeMap<AskId, Asked>,
    here: BTreeMap<Place, ProvenChunk>,
    sources: BTreeMap<NodeId, Source>,
}

impl Pieces {
    pub(super) fn new(record: &Record) -> Self {
        Self {
            blobs: record.blobs().collect(),
            next: (0, 0),
            back: BTreeSet::new(),
            asked: BTreeMap::new(),
            here: BTreeMap::new(),
            sources: BTreeMap::new(),
        }
    }

    /// Whether a record names the same payloads.
    pub(super) fn are_of(&self, record: &Record) -> bool {
        record.blobs().eq(self.blobs.iter().copied())
    }

    /// Whether one holder's window has room for all of it.
    pub(super) fn fit_one_window(&self) -> bool {
        let chunks = self.blobs.iter().map(|blob| blob.len.div_ceil(u64::from(CHUNK)));
        chunks.fold(0, u64::saturating_add) <= CHUNKS_IN_FLIGHT as u64
    }

    pub(super) fn in_flight(&self) -> usize {
        self.asked.len()
    }

    pub(super) fn asks(&self) -> impl Iterator<Item = AskId> {
        self.asked.keys().copied()
    }

    /// Whether this holder is asked for this.
    pub(super) fn awaits(&self, ask: AskId, of: NodeId) -> bool {
        self.asked.get(&ask).is_some_and(|asked| asked.of == of)
    }

    pub(super) fn sources(&self) -> impl Iterator<Item = NodeId> {
        self.sources.keys().copied()
    }

    pub(super) fn has_source(&self, node: NodeId) -> bool {
        self.sources.contains_key(&node)
    }

    /// The holders that brought something.
    pub(super) fn bringers(&self) -> impl Iterator<Item = NodeId> {
        self.sources.iter().filter(|(_, source)| source.brought > 0).map(|(node, _)| *node)
    }

    pub(super) fn add_source(&mut self, node: NodeId, guess: Duration, now: Time) {
        let source = || Source { since: now, pace: guess.max(Duration::from_micros(1)), brought: 0 };
        self.sources.entry(node).or_insert_with(source);
    }

    /// Takes a holder out; what it did not bring is asked of others. Returns its asks.
    pub(super) fn remove_source(&mut self, node: NodeId) -> Vec<AskId> {
        self.sources.remove(&node);
        let gone: Vec<_> = self.asked.extract_if(.., |_, asked| asked.of == node).collect();
        for (_, asked) in &gone {
            self.give_back(asked.place);
        }
        gone.into_iter().map(|(ask, _)| ask).collect()
    }

    fn give_back(&mut self, place: Place) {
        if !self.here.contains_key(&place) && self.asked.values().all(|asked| asked.place != place) {
            self.back.insert(place);
        }
    }

    /// The payload of a place, and how long its chunk is.
    pub(super) fn chunk(&self, (index, offset): Place) -> (BlobRef, u32) {
        let blob = self.blobs[index];
        (blob, u32::try_from(blob.len - offset).map_or(CHUNK, |left| left.min(CHUNK)))
    }

    /// What to ask for next and of whom, while a window has room; it counts only once it [was asked](Self::was_asked).
    pub(super) fn next(&mut self, now: Time) -> Option<Next> {
        let unasked = self.unasked();
        let room = |of: &NodeId| self.waiting(*of).count() < CHUNKS_IN_FLIGHT;
        let expected = |of: &NodeId| self.done_in(*of, 1, now);
        let of = self.sources.keys().filter(|of| room(of)).min_by_key(|of| (expected(of), **of)).copied()?;
        if let Some(place) = unasked {
            return Some(Next { of, place, stolen: false });
        }
        self.to_steal(of, expected(&of), now).map(|place| Next { of, place, stolen: true })
    }

    fn waiting(&self, of: NodeId) -> impl Iterator<Item = (&AskId, &Asked)> {
        self.asked.iter().filter(move |(_, asked)| asked.of == of)
    }

    /// In what time a holder is expected to have brought what it is asked for and so many chunks more: never less than it was silent.
    fn done_in(&self, of: NodeId, more: usize, now: Time) -> Duration {
        let (source, owed) = (&self.sources[&of], self.waiting(of).count());
        let silent = if owed > 0 { now - source.since } else { Duration::ZERO };
        (source.pace * u32::try_from(owed + more).expect("a window")).max(silent)
    }

    /// The first chunk that nobody is asked for.
    fn unasked(&mut self) -> Option<Place> {
        if let Some(place) = self.back.first() {
            return Some(*place);
        }
        let (mut index, mut offset) = self.next;
        while self.blobs.get(index)?.len == offset {
            (index, offset) = (index + 1, 0);
        }
        self.next = (index, offset);
        Some(self.next)
    }

    /// The last chunk of the holder that will be done last, if a holder that expects to bring it within `expected` saves half of the time.
    fn to_steal(&self, thief: NodeId, expected: Duration, now: Time) -> Option<Place> {
        let late = |of: &NodeId| self.done_in(*of, 0, now);
        let others = self.sources.keys().filter(|of| **of != thief && self.lone(**of).next().is_some());
        let victim = others.max_by_key(|of| (late(of), Reverse(**of)))?;
        if late(victim) <= expected * 2 {
            return None;
        }
        self.lone(*victim).last()
    }

    /// The chunks that only this holder is asked for and that did not come, in the order in which they were asked for.
    fn lone(&self, of: NodeId) -> impl Iterator<Item = Place> {
        let twice = |place: Place| self.asked.values().filter(|asked| asked.place == place).count() > 1;
        self.waiting(of)
            .map(|(_, asked)| asked)
            .filter(move |asked| !asked.checking && !twice(asked.place))
            .map(|a| a.place)
    }

    /// Whether a holder has room for what another one did not bring yet.
    pub(super) fn may_steal(&self) -> bool {
        let room = |of: &&NodeId| self.waiting(**of).count() < CHUNKS_IN_FLIGHT;
        let wants = |thief: &NodeId| self.sources.keys().any(|of| of != thief && self.lone(*of).next().is_some());
        self.sources.len() > 1 && self.sources.keys().filter(room).any(wants)
    }

    /// Takes note that a holder was asked for this.
    pub(super) fn was_asked(&mut self, ask: AskId, next: &Next, now: Time) {
        if !next.stolen && !self.back.remove(&next.place) {
            let (_, len) = self.chunk(next.place);
            self.next = (next.place.0, next.place.1 + u64::from(len));
        }
        let idle = self.waiting(next.of).next().is_none();
        if let Some(source) = self.sources.get_mut(&next.of).filter(|_| idle) {
            source.since = now;
        }
        self.asked.insert(ask, Asked { of: next.of, place: next.place, at: now, checking: false });
    }

    /// A chunk came: its place, unless it came before.
    pub(super) fn came(&mut self, ask: AskId, now: Time) -> Option<Place> {
        let asked = self.asked.get_mut(&ask).filter(|asked| !asked.checking)?;
        asked.checking = true;
        if let Some(source) = self.sources.get_mut(&asked.of) {
            let took = now - source.since.max(asked.at);
            let smoothed = if source.brought == 0 { took } else { source.pace * 3 / 4 + took / 4 };
            source.pace = smoothed.max(Duration::from_micros(1));
            source.since = now;
        }
        Some(asked.place)
    }

    /// A chunk holds. Returns the asks that end with it: its own and that of a slower holder.
    pub(super) fn proven(&mut self, ask: AskId, chunk: ProvenChunk) -> Vec<AskId> {
        let Some(asked) = self.asked.get(&ask) else { return Vec::new() };
        let (of, place) = (asked.of, asked.place);
        if let Some(source) = self.sources.get_mut(&of) {
            source.brought += 1;
        }
        self.here.insert(place, chunk);
        self.asked.extract_if(.., |_, asked| asked.place == place).map(|(ask, _)| ask).collect()
    }

    /// A chunk could not be checked: it is asked for again.
    pub(super) fn unchecked(&mut self, ask: AskId) {
        if let Some(asked) = self.asked.remove(&ask) {
            self.give_back(asked.place);
        }
    }

    /// The holders that owe chunks and brought none for that long.
    pub(super) fn silent(&self, after: Duration, now: Time) -> Vec<NodeId> {
        let owes = |of: &NodeId| self.waiting(*of).any(|(_, asked)| !asked.checking);
        let silent = self.sources.iter().filter(|(of, source)| now - source.since >= after && owes(of));
        silent.map(|(of, _)| *of).collect()
    }

    /// The holders that have to be done without: silent too long while others are not.
    pub(super) fn stalled(&self, now: Time) -> Vec<NodeId> {
        let silent = self.silent(SOURCE_STALL, now);
        if silent.len() < self.sources.len() { silent } else { Vec::new() }
    }

    /// All chunks, in the order of the payloads, once the last one is here.
    pub(super) fn take_all(&mut self) -> Option<Vec<ProvenChunk>> {
        let complete = self.asked.is_empty() && self.unasked().is_none();
        complete.then(|| std::mem::take(&mut self.here).into_values().collect())
    }
}
