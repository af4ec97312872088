//! Which chunk of a large reply is asked of which holder: the book that a transfer keeps.
//!
//! Every holder has a window of its own, so a faster one gets more. When everything is asked for, a holder with room takes over what another one
//! would bring much later: the chunk is asked of both, and the first copy of each leaf that is proven counts. What a lost holder did not bring is
//! asked of the others first; what it did bring is kept, leaf by leaf. Invariant: every leaf is either still to be asked for, asked of one or
//! two holders, or here.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;

use super::Time;
use crate::bao::{ChunkProof, LEAF, LeavesClaim, ProvenChunk, ProvenLeaves, ProvenStart, Unproven};
use crate::id::NodeId;
use crate::limits::{CHUNK, CHUNKS_IN_FLIGHT, SOURCE_STALL};
use crate::message::AskId;
use crate::record::Record;
use crate::reply::BlobRef;

/// A holder that brings a chunk in less is a fast one: 128 MiB/s.
const FAST: Duration = Duration::from_millis(2);

/// Where a leaf is: which payload, from which byte.
type Place = (usize, u64);

/// Whole leaves of one payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) blob: usize,
    pub(super) offset: u64,
    pub(super) len: u32,
}

impl Run {
    fn end(self) -> u64 {
        self.offset + u64::from(self.len)
    }

    fn has(self, (blob, offset): Place) -> bool {
        self.blob == blob && self.offset <= offset && offset < self.end()
    }

    fn leaves(self) -> impl Iterator<Item = Place> {
        (self.offset..self.end()).step_by(usize::try_from(LEAF).unwrap_or(usize::MAX)).map(move |at| (self.blob, at))
    }
}

/// A chunk that a holder was asked for.
#[derive(Debug)]
struct Asked {
    of: NodeId,
    run: Run,
    at: Time,
    /// What its leaves are, once the holder said so and it held.
    leaves: Option<ProvenLeaves>,
    /// How many of its bytes are not here.
    missing: u64,
}

/// A holder that chunks are asked of.
#[derive(Debug)]
struct Source {
    /// When it last brought a chunk, or was first asked after it had brought everything.
    since: Time,
    /// The same of anything that holds.
    heard: Time,
    /// How far away it was before chunks kept it busy.
    round_trip: Duration,
    /// The smoothed time in which it brings a chunk; a guess before the first.
    pace: Duration,
    /// Chunks that it brought to their end.
    chunks: u64,
    /// Whether a leaf of it counts.
    brought: bool,
}

/// What is asked for next.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Next {
    pub(super) of: NodeId,
    pub(super) run: Run,
    /// Whether somebody slower was asked for it before.
    pub(super) stolen: bool,
}

/// What came of bytes that hold.
#[derive(Debug, Default)]
pub(super) struct Came {
    /// Whether they were not here yet.
    pub(super) fresh: bool,
    /// Whether its own chunk is complete now.
    pub(super) complete: bool,
    /// The asks that end with it: its own, and that of a slower holder.
    pub(super) ended: Vec<AskId>,
}

#[derive(Debug)]
pub(super) struct Pieces {
    blobs: Vec<BlobRef>,
    /// Of each payload what is here without a gap.
    starts: Vec<ProvenStart>,
    /// The first byte that was never asked for.
    next: Place,
    /// What lost holders did not bring.
    back: BTreeMap<Place, u32>,
    asked: BTreeMap<AskId, Asked>,
    /// Leaves that are here behind a gap.
    beyond: BTreeMap<Place, ProvenChunk>,
    sources: BTreeMap<NodeId, Source>,
}

impl Pieces {
    pub(super) fn new(record: &Record) -> Self {
        Self {
            blobs: record.blobs().collect(),
            starts: record.blobs().map(ProvenStart::new).collect(),
            next: (0, 0),
            back: BTreeMap::new(),
            asked: BTreeMap::new(),
            beyond: BTreeMap::new(),
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
        self.sources.iter().filter(|(_, source)| source.brought).map(|(node, _)| *node)
    }

    /// Chunks are asked of this holder from now on; `guess` is its round trip.
    pub(super) fn add_source(&mut self, node: NodeId, guess: Duration, now: Time) {
        let round_trip = guess.max(Duration::from_micros(1));
        let source = || Source { since: now, heard: now, round_trip, pace: round_trip, chunks: 0, brought: false };
        self.sources.entry(node).or_insert_with(source);
    }

    /// Takes a holder out; what it did not bring is asked of others. Returns its asks.
    pub(super) fn remove_source(&mut self, node: NodeId) -> Vec<AskId> {
        self.sources.remove(&node);
        let gone: Vec<_> = self.asked.extract_if(.., |_, asked| asked.of == node).collect();
        for (_, asked) in &gone {
            self.give_back(asked.run);
        }
        gone.into_iter().map(|(ask, _)| ask).collect()
    }

    /// Leaves that are neither here nor asked of somebody are asked for again, as few runs as they make.
    fn give_back(&mut self, run: Run) {
        let mut open: Option<Run> = None;
        for (blob, at) in run.leaves() {
            let len = u32::try_from(LEAF.min(run.end() - at)).expect("a leaf");
            let found = self.has((blob, at)) || self.asked.values().any(|asked| asked.run.has((blob, at)));
            open = match open {
                Some(before) if !found => Some(Run { len: before.len + len, ..before }),
                None if !found => Some(Run { blob, offset: at, len }),
                before => {
                    self.back.extend(before.map(|before| ((before.blob, before.offset), before.len)));
                    None
                }
            };
        }
        self.back.extend(open.map(|run| ((run.blob, run.offset), run.len)));
    }

    /// The payload that a run is of.
    pub(super) fn blob(&self, run: Run) -> BlobRef {
        self.blobs[run.blob]
    }

    /// What this was asked for.
    pub(super) fn run_of(&self, ask: AskId) -> Option<Run> {
        self.asked.get(&ask).map(|asked| asked.run)
    }

    /// What to ask for next and of whom, while a window has room; it counts only once it [was asked](Self::was_asked).
    pub(super) fn next(&mut self, now: Time) -> Option<Next> {
        let unasked = self.unasked();
        let room = |of: &NodeId| self.has_room(*of);
        let expected = |of: &NodeId| self.done_in(*of, 1, now);
        let of = self.sources.keys().filter(|of| room(of)).min_by_key(|of| (expected(of), **of)).copied()?;
        if let Some(mut run) = unasked {
            if (run.blob, run.offset) == self.next {
                run.len = run.len.min(self.portion(of));
            }
            return Some(Next { of, run, stolen: false });
        }
        self.to_steal(of, expected(&of), now).map(|run| Next { of, run, stolen: true })
    }

    /// Whether a holder's window has room: as many chunks as it brings in a round trip, and one that it is about to send. More would bring nothing
    /// sooner, and everything else that is asked of the holder would wait behind them.
    fn has_room(&self, of: NodeId) -> bool {
        let window = self.sources.get(&of).filter(|source| source.chunks > 0).map_or(CHUNKS_IN_FLIGHT, |source| {
            let brought = source.round_trip.as_nanos().div_ceil(source.pace.as_nanos().max(1));
            usize::try_from(brought + 1).unwrap_or(CHUNKS_IN_FLIGHT).min(CHUNKS_IN_FLIGHT)
        });
        self.waiting(of).count() < window
    }

    /// How much a holder is asked for at once. Of a fast one less: what comes together is worked on together, and small questions wait for it.
    fn portion(&self, of: NodeId) -> u32 {
        let fast = self.sources.get(&of).is_some_and(|source| source.chunks > 0 && source.pace < FAST);
        if fast { CHUNK / 2 } else { CHUNK }
    }

    fn waiting(&self, of: NodeId) -> impl Iterator<Item = (&AskId, &Asked)> {
        self.asked.iter().filter(move |(_, asked)| asked.of == of)
    }

    /// In what time a holder is expected to have brought what it is asked for and so many chunks more: never less than it was silent.
    fn done_in(&self, of: NodeId, more: usize, now: Time) -> Duration {
        let (source, owed) = (&self.sources[&of], self.waiting(of).count());
        let silent = if owed > 0 { now - source.heard } else { Duration::ZERO };
        (source.pace * u32::try_from(owed + more).expect("a window")).max(silent)
    }

    /// The first chunk that nobody is asked for.
    fn unasked(&mut self) -> Option<Run> {
        if let Some((&(blob, offset), &len)) = self.back.first_key_value() {
            return Some(Run { blob, offset, len });
        }
        let (mut blob, mut offset) = self.next;
        while self.blobs.get(blob)?.len == offset {
            (blob, offset) = (blob + 1, 0);
        }
        self.next = (blob, offset);
        let len = u32::try_from(self.blobs[blob].len - offset).map_or(CHUNK, |left| left.min(CHUNK));
        Some(Run { blob, offset, len })
    }

    /// The last chunk of the holder that will be done last, as far as it is not here, if a holder that expects to bring it within `expected`
    /// saves half of the time.
    fn to_steal(&self, thief: NodeId, expected: Duration, now: Time) -> Option<Run> {
        let late = |of: &NodeId| self.done_in(*of, 0, now);
        let others = self.sources.keys().filter(|of| **of != thief && self.lone(**of).next().is_some());
        let victim = others.max_by_key(|of| (late(of), Reverse(**of)))?;
        if late(victim) <= expected * 2 {
            return None;
        }
        self.lone(*victim).last().and_then(|run| self.rest(run))
    }

    /// A run from its first leaf on that is not here.
    fn rest(&self, run: Run) -> Option<Run> {
        let (blob, offset) = run.leaves().find(|leaf| !self.has(*leaf))?;
        Some(Run { blob, offset, len: u32::try_from(run.end() - offset).ok()? })
    }

    /// The chunks that only this holder is asked for, in the order in which they were asked for.
    fn lone(&self, of: NodeId) -> impl Iterator<Item = Run> {
        let shared = move |run: Run| self.asked.values().any(|asked| asked.of != of && overlap(asked.run, run));
        self.waiting(of).map(|(_, asked)| asked.run).filter(move |run| !shared(*run))
    }

    /// Whether a holder has room for what another one did not bring yet.
    pub(super) fn may_steal(&self) -> bool {
        let room = |of: &&NodeId| self.has_room(**of);
        let wants = |thief: &NodeId| self.sources.keys().any(|of| of != thief && self.lone(*of).next().is_some());
        self.sources.len() > 1 && self.sources.keys().filter(room).any(wants)
    }

    /// Takes note that a holder was asked for this.
    pub(super) fn was_asked(&mut self, ask: AskId, next: &Next, now: Time) {
        let run = next.run;
        if !next.stolen && self.back.remove(&(run.blob, run.offset)).is_none() {
            self.next = (run.blob, run.end());
        }
        let idle = self.waiting(next.of).next().is_none();
        if let Some(source) = self.sources.get_mut(&next.of).filter(|_| idle) {
            (source.since, source.heard) = (now, now);
        }
        let missing = run.leaves().filter(|leaf| !self.has(*leaf)).map(|(_, at)| LEAF.min(run.end() - at)).sum();
        self.asked.insert(ask, Asked { of: next.of, run, at: now, leaves: None, missing });
    }

    /// The leaves of a chunk were told; once is enough.
    pub(super) fn told(&mut self, ask: AskId, proof: ChunkProof, now: Time) -> Result<(), Unproven> {
        let untold = |asked: &&mut Asked| asked.leaves.is_none();
        let Some(asked) = self.asked.get_mut(&ask).filter(untold) else { return Ok(()) };
        let Run { blob, offset, len } = asked.run;
        asked.leaves = Some(LeavesClaim { blob: self.blobs[blob], offset, len, proof }.prove()?);
        if let Some(source) = self.sources.get_mut(&asked.of) {
            source.heard = now;
        }
        Ok(())
    }

    /// Holds a leaf against what was told of its chunk; `None` if nothing was.
    pub(super) fn prove(&self, ask: AskId, number: u32, bytes: Bytes) -> Option<Result<ProvenChunk, Unproven>> {
        self.asked.get(&ask)?.leaves.as_ref().map(|leaves| leaves.prove(number, bytes))
    }

    /// Something came that holds.
    pub(super) fn proven(&mut self, ask: AskId, chunk: ProvenChunk, now: Time) -> Came {
        let Some(asked) = self.asked.get(&ask) else { return Came::default() };
        let (of, at, place, len) = (asked.of, asked.at, (asked.run.blob, chunk.offset()), chunk.len() as u64);
        let fresh = !self.has(place);
        if fresh {
            self.keep(place, chunk);
            let having = self.asked.values_mut().filter(|asked| asked.run.has(place));
            having.for_each(|asked| asked.missing -= len);
        }
        let gone = self.asked.extract_if(.., |_, asked| asked.missing == 0);
        let ended: Vec<_> = gone.map(|(ask, _)| ask).collect();
        let complete = ended.contains(&ask);
        if let Some(source) = self.sources.get_mut(&of) {
            source.heard = now;
            source.brought |= fresh;
            if complete {
                let took = now - source.since.max(at);
                let smoothed = if source.chunks == 0 { took } else { source.pace * 3 / 4 + took / 4 };
                source.pace = smoothed.max(Duration::from_micros(1));
                source.since = now;
                source.chunks += 1;
            }
        }
        Came { fresh, complete, ended }
    }

    /// The holders that owe chunks and brought nothing for that long.
    pub(super) fn silent(&self, after: Duration, now: Time) -> Vec<NodeId> {
        let owes = |of: &NodeId| self.waiting(*of).next().is_some();
        let silent = self.sources.iter().filter(|(of, source)| now - source.heard >= after && owes(of));
        silent.map(|(of, _)| *of).collect()
    }

    /// The holders that have to be done without: silent too long while others are not.
    pub(super) fn stalled(&self, now: Time) -> Vec<NodeId> {
        let silent = self.silent(SOURCE_STALL, now);
        if silent.len() < self.sources.len() { silent } else { Vec::new() }
    }

    /// Where every holder is silent for too long, asks or answers were lost: what they owe is asked for again. Returns the asks that are given up.
    pub(super) fn renew(&mut self, now: Time) -> Vec<AskId> {
        if self.silent(SOURCE_STALL, now).len() < self.sources.len() {
            return Vec::new();
        }
        let gone = std::mem::take(&mut self.asked);
        for asked in gone.values() {
            self.give_back(asked.run);
        }
        gone.into_keys().collect()
    }

    /// All payloads, once the last leaf is here.
    pub(super) fn take_all(&mut self) -> Option<Vec<ProvenStart>> {
        let complete = self.asked.is_empty() && self.unasked().is_none();
        complete.then(|| std::mem::take(&mut self.starts))
    }

    /// Whether a leaf is here.
    fn has(&self, place: Place) -> bool {
        self.starts.get(place.0).is_some_and(|start| place.1 < start.len()) || self.beyond.contains_key(&place)
    }

    /// Adds a leaf, and whatever has no gap before it any more.
    fn keep(&mut self, place: Place, chunk: ProvenChunk) {
        let Some(start) = self.starts.get_mut(place.0) else { return };
        if let Err(early) = start.push(chunk) {
            self.beyond.insert(place, early);
            return;
        }
        while let Some(chunk) = self.beyond.remove(&(place.0, start.len())) {
            if start.push(chunk).is_err() {
                debug_assert!(false, "it is the next one");
            }
        }
    }

    /// Whether every leaf is in exactly one of the three places; for tests and debug assertions.
    pub(super) fn is_consistent(&self) -> bool {
        let back: BTreeSet<Place> =
            self.back.iter().flat_map(|(&(blob, offset), &len)| Run { blob, offset, len }.leaves()).collect();
        back.iter().all(|leaf| !self.has(*leaf) && self.asked.values().all(|asked| !asked.run.has(*leaf)))
            && self.asked.values().all(|asked| asked.missing > 0)
    }
}

fn overlap(one: Run, other: Run) -> bool {
    one.blob == other.blob && one.offset < other.end() && other.offset < one.end()
}
