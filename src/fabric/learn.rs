//! Learning what others hold: rows of version vectors, pulls, announcements, manifests and their segments.
//!
//! Gossip alone loses messages: whoever sees a gap, or hears in a heartbeat that it is behind, pulls, at most once per log and heartbeat.
//! Invariant 1: nothing is merged whose author did not sign it. Invariant 2: signatures are checked only for what would be new, and only
//! a few at a time for each peer, so a flood or a replay costs next to nothing.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::ops::RangeInclusive;
use std::sync::Arc;

use bytes::Bytes;

use super::holders::Merge;
use super::{Fabric, Output, Step};
use crate::id::NodeId;
use crate::identity::Verifier;
use crate::limits::{
    MAX_CHECKS_PER_PEER, MAX_FETCHES, MAX_LOGS, MAX_PULLS, PULL_ROUNDS, PULL_WINDOW, SEGMENTS_IN_FLIGHT,
};
use crate::message::{Announcement, AskId, BatchDigest, EpochStart, Manifest, Message, Row, SegmentName};

/// A manifest whose segments are on their way.
#[derive(Debug)]
pub(super) struct Fetch {
    from: NodeId,
    /// Who does not have all of it.
    without: BTreeSet<NodeId>,
    manifest: Arc<Manifest>,
    wanted: VecDeque<SegmentName>,
    /// Asked for, or being checked. Invariant: `Learning::asks` names exactly these.
    in_flight: BTreeMap<AskId, SegmentName>,
    /// Whether something came since the last heartbeat.
    moved: bool,
}

/// A log that was asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pull {
    /// Who was asked last.
    via: NodeId,
    /// How many were asked before.
    before: usize,
}

/// What is under way to learn the logs of others.
#[derive(Debug, Default)]
pub(super) struct Learning {
    /// How long logs are, by hearsay. Says what to pull, never what is known.
    heard_of: HashMap<NodeId, u64, foldhash::fast::RandomState>,
    /// Logs asked for since the last heartbeat.
    pulls: BTreeMap<NodeId, Pull>,
    /// Logs to be asked for as soon as what came from that peer is checked; the peer first.
    later: BTreeSet<(NodeId, NodeId)>,
    /// By author.
    fetches: BTreeMap<NodeId, Fetch>,
    asks: BTreeMap<AskId, NodeId>,
    /// Announcements being checked, by author and first position: who sent each, and where it ends.
    checking: BTreeMap<(NodeId, u64), (NodeId, u64)>,
    /// Announcements that hold, while what comes before them is being checked; who sent each. They still count as being checked for that peer.
    ready: BTreeMap<(NodeId, u64), (NodeId, Arc<Announcement>, BatchDigest)>,
}

impl Learning {
    /// Logs that are being fetched by manifest.
    pub(super) fn fetches(&self) -> usize {
        self.fetches.len()
    }

    /// Whether `asks` names exactly what the fetches wait for.
    pub(super) fn is_consistent(&self) -> bool {
        let waited: usize = self.fetches.values().map(|fetch| fetch.in_flight.len()).sum();
        let known = |(ask, author): (&AskId, &NodeId)| {
            self.fetches.get(author).is_some_and(|fetch| fetch.in_flight.contains_key(ask))
        };
        waited == self.asks.len() && self.asks.iter().all(known)
    }

    /// Whether nothing waits for a check or its turn.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.checking.is_empty() && self.ready.is_empty()
    }

    /// Whether something of this author is being checked.
    fn is_checking(&self, author: NodeId) -> bool {
        self.checking.range((author, 0)..=(author, u64::MAX)).next().is_some()
    }

    /// Whether an announcement was taken already and waits for its check or its turn.
    fn has_taken(&self, author: NodeId, first: u64) -> bool {
        self.checking.contains_key(&(author, first)) || self.ready.contains_key(&(author, first))
    }

    /// Whether what waits for its check or its turn leads up to this position.
    fn leads_to(&self, author: NodeId, first: u64) -> bool {
        let before = (author, 0)..(author, first);
        self.checking.range(before.clone()).any(|(_, (_, end))| *end == first)
            || self.ready.range(before).any(|(_, (_, announcement, _))| announcement.batch.end() == first)
    }

    pub(super) fn heard_of(&self, node: NodeId) -> u64 {
        self.heard_of.get(&node).copied().unwrap_or(0)
    }
}

/// What came of checking an announcement's signature.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Its author signed it; what its batch is made of.
    Signed(BatchDigest),
    /// Its author did not.
    Forged,
    /// There was no time to check it.
    NotNow,
}

impl Verdict {
    /// Checks an announcement.
    #[must_use]
    pub fn of(announcement: &Announcement, verifier: &dyn Verifier) -> Self {
        announcement.verify(verifier).map_or(Self::Forged, Self::Signed)
    }
}

/// All pairs that begin with this peer.
fn of_peer(peer: NodeId) -> RangeInclusive<(NodeId, NodeId)> {
    (peer, NodeId::from_bytes([0; 32]))..=(peer, NodeId::from_bytes([0xff; 32]))
}

impl Fabric {
    /// Takes an author's own description of its log, from its hello.
    pub(super) fn on_described_by_author(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        lineage: Vec<EpochStart>,
        length: u64,
    ) {
        self.holders.describe(from, lineage);
        // A restored copy may be shorter than what was heard before.
        self.learning.heard_of.remove(&from);
        self.hear_of(from, length);
        self.pull_if_behind(step, from, from);
    }

    pub(super) fn hear_of(&mut self, node: NodeId, length: u64) {
        let room = self.learning.heard_of.len() < MAX_LOGS;
        if let Some(heard) = self.learning.heard_of.get_mut(&node) {
            *heard = length.max(*heard);
        } else if room {
            self.learning.heard_of.insert(node, length);
        }
    }

    /// Whether a row tells of something that is not known here.
    pub(super) fn is_news(&self, row: &Row) -> bool {
        row.node != self.config.me
            && match self.holders.newest(row.node) {
                Some((epoch, known)) if epoch.epoch == row.epoch => row.length > known,
                // Of two epochs nobody but their author can say which is newer; both are worth asking about.
                _ => row.length > 0,
            }
    }

    /// Asks `via` for what is not known of a log yet, unless somebody was asked already.
    pub(super) fn pull_if_behind(&mut self, step: &mut Step<'_>, author: NodeId, via: NodeId) {
        if self.learning.heard_of(author) > self.holders.known(author) {
            self.pull(step, author, via);
        }
    }

    pub(super) fn pull(&mut self, step: &mut Step<'_>, author: NodeId, via: NodeId) {
        self.pull_again(step, author, Pull { via, before: 0 });
    }

    fn pull_again(&mut self, step: &mut Step<'_>, author: NodeId, pull: Pull) {
        // What is being checked may be all that is missing; once it is merged, what is still missing is pulled.
        let busy = self.learning.pulls.contains_key(&author)
            || self.learning.fetches.contains_key(&author)
            || self.learning.is_checking(author);
        if busy || self.learning.pulls.len() + self.learning.later.len() >= MAX_PULLS {
            return;
        }
        if !self.has_room(pull.via) {
            self.learning.later.insert((pull.via, author));
        } else if self.is_live(pull.via) {
            self.learning.pulls.insert(author, pull);
            step.out.push(Output::Send(pull.via, Message::Pull { node: author, from: self.holders.known(author) }));
        }
    }

    /// Whether all that an answer to one more pull may bring could be checked: what is beyond that would come for nothing.
    fn has_room(&self, via: NodeId) -> bool {
        let checking = self.peers.get(&via).map_or(0, |peer| peer.checking);
        let asked = self.learning.pulls.values().filter(|pull| pull.via == via).count();
        checking + (asked + 1) * PULL_WINDOW <= MAX_CHECKS_PER_PEER
    }

    /// Asks a peer for the logs that had to wait.
    fn pull_waiting(&mut self, step: &mut Step<'_>, via: NodeId) {
        while self.has_room(via)
            && let Some(&next) = self.learning.later.range(of_peer(via)).next()
        {
            self.learning.later.remove(&next);
            self.pull_if_behind(step, next.1, via);
        }
    }

    /// With every heartbeat: what was lost is asked for again.
    pub(super) fn renew_pulls(&mut self, step: &mut Step<'_>) {
        let unanswered = std::mem::take(&mut self.learning.pulls);
        for (author, Pull { via, before }) in unanswered {
            if self.learning.heard_of(author) <= self.holders.known(author) || self.peers.contains_key(&author) {
                // A peer's own log is asked for with its heartbeats.
                continue;
            }
            let (before, neighbours) = (before + 1, self.neighbours());
            if before >= neighbours {
                self.go_to_author(step, author);
            }
            if before < PULL_ROUNDS * neighbours
                && let Some(via) = self.next_neighbour(via, &BTreeSet::new())
            {
                self.pull_again(step, author, Pull { via, before });
            }
        }
        let waiting: BTreeSet<_> = self.learning.later.iter().map(|(via, _)| *via).collect();
        for via in waiting {
            self.pull_waiting(step, via);
        }
        let stuck = |fetch: &mut Fetch| !std::mem::replace(&mut fetch.moved, false);
        let stuck: Vec<_> =
            self.learning.fetches.iter_mut().filter_map(|(author, fetch)| stuck(fetch).then_some(*author)).collect();
        for author in stuck {
            self.fetch_elsewhere(step, author);
        }
    }

    /// Whoever segments were asked of does not have them: the next neighbour may, and the author does.
    fn fetch_elsewhere(&mut self, step: &mut Step<'_>, author: NodeId) {
        let Some(fetch) = self.learning.fetches.get_mut(&author) else { return };
        fetch.without.insert(fetch.from);
        for (ask, name) in std::mem::take(&mut fetch.in_flight) {
            self.learning.asks.remove(&ask);
            fetch.wanted.push_front(name);
        }
        let (from, without) = (fetch.from, fetch.without.clone());
        let wanted: Vec<_> = fetch.wanted.iter().copied().collect();
        let is_source = |node: &NodeId| self.is_live(*node) && !without.contains(node);
        match Some(author).filter(is_source).or_else(|| self.next_neighbour(from, &without)) {
            Some(next) => {
                if let Some(fetch) = self.learning.fetches.get_mut(&author) {
                    (fetch.from, fetch.moved) = (next, true);
                }
                self.continue_fetch(step, author);
            }
            // What is missing is only missing for neighbours.
            None if !wanted.iter().any(|name| self.holders.lacks_segment(author, name)) => {
                self.learning.fetches.get_mut(&author).into_iter().for_each(|fetch| fetch.wanted.clear());
                self.continue_fetch(step, author);
            }
            None => {
                self.give_up_fetch(author);
                if self.learning.heard_of(author) > self.holders.known(author) {
                    self.go_to_author(step, author);
                }
            }
        }
    }

    pub(super) fn give_up_fetch(&mut self, author: NodeId) {
        for ask in self.learning.fetches.remove(&author).into_iter().flat_map(|fetch| fetch.in_flight.into_keys()) {
            self.learning.asks.remove(&ask);
        }
    }

    /// Forgets what a peer that is gone was asked for.
    pub(super) fn forget_source(&mut self, step: &mut Step<'_>, peer: NodeId) {
        let waiting: Vec<_> = self.learning.later.range(of_peer(peer)).copied().collect();
        for (via, author) in waiting {
            self.learning.later.remove(&(via, author));
            if let Some(via) = self.next_neighbour(via, &BTreeSet::from([via])) {
                self.pull_if_behind(step, author, via);
            }
        }
        self.learning.pulls.retain(|_, pull| pull.via != peer);
        self.learning.checking.retain(|_, (via, _)| *via != peer);
        let fetches = self.learning.fetches.iter();
        let lost: Vec<_> = fetches.filter(|(_, fetch)| fetch.from == peer).map(|(author, _)| *author).collect();
        for author in lost {
            self.fetch_elsewhere(step, author);
        }
    }

    pub(super) fn on_pull(&mut self, step: &mut Step<'_>, from: NodeId, node: NodeId, position: u64) {
        if node == self.config.me {
            return self.answer_pull(step, from, position);
        }
        let known = self.relay.log_from(node, position);
        step.out.extend(known.into_iter().map(|message| Output::Send(from, message)));
    }

    pub(super) fn on_announcement(&mut self, step: &mut Step<'_>, from: NodeId, announcement: Arc<Announcement>) {
        let (author, first) = (announcement.author(), announcement.batch.first);
        if author == self.config.me {
            return;
        }
        let row = Row { node: author, epoch: announcement.batch.head.epoch, length: announcement.batch.end() };
        self.show(from, &row);
        let taken = self.learning.has_taken(author, first);
        match self.holders.foresee(&announcement) {
            Merge::Merged | Merge::Gap if taken => {
                self.counters.duplicates += 1;
                return self.on_duplicate(step, from);
            }
            Merge::Merged => {}
            // What comes before it is being checked: announcements are sent faster than signatures are verified.
            Merge::Gap if self.learning.leads_to(author, first) => {}
            Merge::Known => {
                self.counters.duplicates += 1;
                return self.on_duplicate(step, from);
            }
            Merge::Gap => {
                self.hear_of(author, first.saturating_add(1));
                return self.pull(step, author, from);
            }
            Merge::Foreign | Merge::Equivocal => {
                return self.disbelieve(step, from, "a batch that is not of the log it names".to_owned());
            }
        }
        if self.may_check(from) {
            self.learning.checking.insert((author, first), (from, announcement.batch.end()));
            step.out.push(Output::CheckAnnouncement(from, announcement));
        }
    }

    /// Room for one more check of what a peer sent; the rest of a flood is dropped and, if it was real, pulled later.
    fn may_check(&mut self, from: NodeId) -> bool {
        let Some(peer) = self.peers.get_mut(&from) else { return false };
        let room = peer.checking < MAX_CHECKS_PER_PEER;
        peer.checking += usize::from(room);
        self.counters.flooded += u64::from(!room);
        room
    }

    fn checked(&mut self, from: NodeId) {
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.checking = peer.checking.saturating_sub(1);
        }
    }

    pub(super) fn on_announcement_checked(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        announcement: Arc<Announcement>,
        verdict: Verdict,
    ) {
        let (author, first) = (announcement.author(), announcement.batch.first);
        self.learning.checking.remove(&(author, first));
        if let Verdict::Signed(digest) = verdict
            && first > self.holders.known(author)
            && self.learning.leads_to(author, first)
        {
            self.learning.ready.insert((author, first), (from, announcement, digest));
            return;
        }
        self.checked(from);
        match verdict {
            Verdict::Signed(digest) => self.merge_announcement(step, from, announcement, digest),
            Verdict::Forged => self.disbelieve(step, from, "an announcement that its author did not sign".to_owned()),
            Verdict::NotNow => {}
        }
        self.take_turns(step, author);
        self.pull_if_behind(step, author, from);
        self.pull_waiting(step, from);
    }

    /// Merges what waited for its turn, and lets go of what will have none because something before it did not hold.
    fn take_turns(&mut self, step: &mut Step<'_>, author: NodeId) {
        while let Some((from, next, digest)) = self.learning.ready.remove(&(author, self.holders.known(author))) {
            self.checked(from);
            self.merge_announcement(step, from, next, digest);
        }
        let waiting: Vec<_> =
            self.learning.ready.range((author, 0)..=(author, u64::MAX)).map(|(key, _)| *key).collect();
        for key in waiting {
            if !self.learning.leads_to(author, key.1)
                && let Some((from, stranded, _)) = self.learning.ready.remove(&key)
            {
                self.checked(from);
                self.hear_of(author, stranded.batch.end());
            }
        }
    }

    /// An announcement that its author did sign.
    fn merge_announcement(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        announcement: Arc<Announcement>,
        digest: BatchDigest,
    ) {
        let (author, end) = (announcement.author(), announcement.batch.end());
        match self.holders.merge(&announcement, digest) {
            Merge::Merged => {
                self.hear_of(author, end);
                self.learning.pulls.remove(&author);
                let row = Row { node: author, epoch: announcement.batch.head.epoch, length: end };
                self.spread(step, Some(from), row, announcement);
            }
            Merge::Known => {}
            Merge::Gap => self.pull(step, author, from),
            Merge::Foreign => self.disbelieve(step, from, "a batch that is not of the log it names".to_owned()),
            Merge::Equivocal => {
                // Both signatures are the author's, so it is the author who lied, whoever brought it.
                self.counters.equivocations += 1;
                self.disbelieve(step, author, "it signed two histories of one epoch".to_owned());
            }
        }
    }

    pub(super) fn on_manifest(&mut self, step: &mut Step<'_>, from: NodeId, manifest: Arc<Manifest>) {
        let author = manifest.node;
        let news = manifest.end > self.holders.known(author)
            || self.holders.epoch(author).is_none()
            || (self.is_overlay() && self.relay.lacks(&manifest));
        let room = self.learning.fetches.len() < MAX_FETCHES && !self.learning.fetches.contains_key(&author);
        if author == self.config.me || !news || !room {
            self.counters.duplicates += 1;
            return;
        }
        if !manifest.is_whole() {
            return self.disbelieve(step, from, "a manifest that does not add up".to_owned());
        }
        if self.may_check(from) {
            step.out.push(Output::CheckManifest(from, manifest));
        }
    }

    pub(super) fn on_manifest_checked(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        manifest: Arc<Manifest>,
        holds: Option<bool>,
    ) {
        self.checked(from);
        match holds {
            Some(true) => {}
            Some(false) => return self.disbelieve(step, from, "a manifest that its author did not sign".to_owned()),
            None => return,
        }
        let author = manifest.node;
        if self.learning.fetches.contains_key(&author) || !self.describe_by_manifest(from, &manifest) {
            return;
        }
        self.hear_of(author, manifest.end);
        self.learning.pulls.remove(&author);
        let mut wanted: VecDeque<_> = self.holders.lacks(author, &manifest).into();
        if self.is_overlay() {
            // Neighbours will want those from here that came as announcements.
            let more = self.relay.unserved(&manifest).into_iter().filter(|name| !wanted.contains(name));
            wanted.extend(more.collect::<Vec<_>>());
        }
        let (without, in_flight) = (BTreeSet::new(), BTreeMap::new());
        let fetch = Fetch { from, without, manifest, wanted, in_flight, moved: true };
        self.learning.fetches.insert(author, fetch);
        self.continue_fetch(step, author);
        self.pull_waiting(step, from);
    }

    /// Whether a manifest tells of the log that is known here or of its continuation. Only the author itself may take a history back.
    fn describe_by_manifest(&mut self, from: NodeId, manifest: &Manifest) -> bool {
        let known = self.holders.lineage(manifest.node);
        let continues = manifest.lineage.starts_with(known);
        (continues || from == manifest.node) && self.holders.describe(manifest.node, manifest.lineage.clone())
    }

    fn continue_fetch(&mut self, step: &mut Step<'_>, author: NodeId) {
        let Some(fetch) = self.learning.fetches.get_mut(&author) else { return };
        while fetch.in_flight.len() < SEGMENTS_IN_FLIGHT
            && let Some(name) = fetch.wanted.pop_front()
        {
            self.next_id += 1;
            let ask = AskId(self.next_id);
            fetch.in_flight.insert(ask, name);
            self.learning.asks.insert(ask, author);
            let SegmentName { number, end, digest, .. } = name;
            step.out.push(Output::Send(fetch.from, Message::GetSegment { ask, node: author, number, end, digest }));
        }
        if fetch.in_flight.is_empty()
            && let Some(Fetch { from, manifest, .. }) = self.learning.fetches.remove(&author)
        {
            self.holders.catch_up(author, &manifest);
            let epoch = manifest.lineage.last().map(|epoch| epoch.epoch);
            let row = epoch.map(|epoch| Row { node: author, epoch, length: manifest.end });
            self.relay_manifest(step, from, row, manifest);
            self.pull_if_behind(step, author, from);
        }
    }

    pub(super) fn on_segment(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId, bytes: Bytes) {
        let author = self.learning.asks.get(&ask);
        let Some(fetch) = author.and_then(|author| self.learning.fetches.get_mut(author)) else { return };
        if let Some(name) = fetch.in_flight.get(&ask).filter(|_| fetch.from == from) {
            fetch.moved = true;
            step.out.push(Output::CheckSegment(from, ask, *name, bytes));
        }
    }

    /// The error says why it is not the segment that was asked for; `None` if it could not be checked now.
    pub(super) fn on_segment_checked(
        &mut self,
        step: &mut Step<'_>,
        from: NodeId,
        ask: AskId,
        checked: Option<Result<(Vec<u64>, Bytes), String>>,
    ) {
        let Some(&author) = self.learning.asks.get(&ask) else { return };
        match checked {
            Some(Ok((keys, bytes))) => {
                self.learning.asks.remove(&ask);
                let Some(fetch) = self.learning.fetches.get_mut(&author) else { return };
                let Some(name) = fetch.in_flight.remove(&ask) else { return };
                self.counters.segments += 1;
                if self.holders.lacks_segment(author, &name) {
                    self.holders.merge_segment(author, &name, &keys);
                }
                self.relay_segment(name.digest, bytes);
                self.continue_fetch(step, author);
            }
            Some(Err(why)) => {
                self.give_up_fetch(author);
                self.disbelieve(step, from, why);
            }
            None => self.give_up_fetch(author),
        }
    }

    /// Whose log a segment is of that was asked for.
    #[cfg(feature = "sim")]
    pub(crate) fn fetching(&self, ask: AskId) -> Option<NodeId> {
        self.learning.asks.get(&ask).copied()
    }

    /// Neighbours who cannot help leave the author itself.
    fn go_to_author(&self, step: &mut Step<'_>, author: NodeId) {
        if !self.peers.contains_key(&author) {
            step.out.push(Output::Connect(author));
        }
    }

    /// A "not held" that may be about a segment.
    pub(super) fn segment_not_held(&mut self, step: &mut Step<'_>, from: NodeId, ask: AskId) {
        let author = self.learning.asks.get(&ask).copied();
        let asked = |author: &NodeId| self.learning.fetches.get(author).is_some_and(|fetch| fetch.from == from);
        if let Some(author) = author.filter(asked) {
            self.fetch_elsewhere(step, author);
        }
    }
}
