//! The holder index: who holds which question, as learned from the announcement logs of peers.
//!
//! A peer's log is its ledger order, so what is known of it is "everything up to position n". What is live comes in chained batches, what is
//! older in sealed segments; both end in one table of (key, run), where a run is the part of one log in one segment. Liveness, restored
//! copies and eviction mask runs and never touch what others said. A key *suggests* a holder, asking it decides.
//!
//! Invariant 1: `known` of a log never passes what came without a gap. Invariant 2: memory stays within the budget; what did not fit is
//! counted. Invariant 3: of the holders of one key those K stay whose rank is lowest, so the order of merging does not matter.

mod page;
mod runs;
mod table;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use self::runs::Runs;
use self::table::Table;
use super::segment::key;
use crate::id::NodeId;
use crate::limits::{MAX_HOLDERS, MAX_LOGS, SEGMENT, SWEEP_EVERY};
use crate::message::{Announcement, BatchDigest, EpochStart, LogItem, Manifest, SegmentName, chain_start};
use crate::proof::Hash;

/// Memory of one place for a log's number by its owner's name: the pair and its tag, in tables of which an eighth stays empty.
const NAME_BYTES: usize = (size_of::<(NodeId, u32)>() + 1) * 8 / 7 + 1;

/// What is known of one peer's log.
#[derive(Debug)]
struct Log {
    node: NodeId,
    lineage: Vec<EpochStart>,
    /// Everything before this position is known.
    known: u64,
    /// The current epoch's chain at `known`, if it is known.
    chain: Option<Hash>,
    /// Where the last batch began and what the chain was after it: another one there is an equivocation.
    last: Option<(u64, Hash)>,
    /// The run of each segment that has facts.
    runs: BTreeMap<u64, u32>,
    /// How far away its owner is.
    distance: Duration,
    stats: LogStats,
}

/// One log in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LogStats {
    /// Facts in the index.
    pub facts: u64,
    /// Facts that the memory budget left no room for, or took back.
    pub dropped: u64,
    /// Facts not kept because enough others hold the same.
    pub beyond_k: u64,
    /// Facts that turned out not to be held.
    pub corrected: u64,
}

/// The index in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Logs that something is known of.
    pub logs: u64,
    /// Facts in the table, those of masked runs that are not swept yet included.
    pub facts: u64,
    /// Memory in bytes.
    pub bytes: u64,
    /// The most that `bytes` may become.
    pub budget: u64,
    /// Facts that the budget left no room for.
    pub dropped: u64,
    /// Facts not kept because enough others hold the same.
    pub beyond_k: u64,
    /// Facts that turned out not to be held.
    pub corrected: u64,
}

impl IndexStats {
    /// Bytes of memory for each fact.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    pub fn bytes_per_fact(&self) -> f64 {
        if self.facts == 0 { 0.0 } else { self.bytes as f64 / self.facts as f64 }
    }
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// It was merged.
    Merged,
    /// Nothing in it is new.
    Known,
    /// It begins beyond what is known, or is of an epoch that was not described yet.
    Gap,
    /// It claims more than its head covers, or names another log.
    Foreign,
    /// It is signed and contradicts what the same author signed before.
    Equivocal,
}

/// Who holds which question.
#[derive(Debug)]
pub struct HolderIndex {
    logs: Vec<Log>,
    by_node: HashMap<NodeId, u32, foldhash::fast::RandomState>,
    runs: Runs,
    table: Table,
    budget: usize,
    /// Memory of all lineages.
    lineages: usize,
    /// Insertions since the last page was swept.
    since_sweep: u32,
    /// The log of the current merge, once there is no room for it: nobody is farther away.
    refused: Option<usize>,
}

impl HolderIndex {
    /// An empty index that takes at most this much memory.
    #[must_use]
    pub fn new(budget: u64) -> Self {
        Self {
            logs: Vec::new(),
            by_node: HashMap::default(),
            runs: Runs::default(),
            table: Table::default(),
            budget: usize::try_from(budget).unwrap_or(usize::MAX),
            lineages: 0,
            since_sweep: 0,
            refused: None,
        }
    }

    /// Takes a peer's description of its log. If it departs from the earlier description, what was known is masked and learnt anew: the peer was
    /// restored from an older copy, or lost its ledger. `false` if there is no room for one more log.
    pub fn describe(&mut self, peer: NodeId, lineage: Vec<EpochStart>) -> bool {
        let spare = self.logs.capacity() * size_of::<Log>() + epochs_bytes(&lineage);
        let is_full = self.find(peer).is_none() && self.bytes() + spare > self.budget;
        let Some(at) = (!is_full).then(|| self.log_or_new(peer)).flatten() else { return false };
        let log = &mut self.logs[at];
        if log.lineage == lineage {
            return true;
        }
        // What a copy shares with the log it replaces may differ all the same: the log may have lost entries that the copy still has.
        let keep = if lineage.starts_with(&log.lineage) { lineage[log.lineage.len()].start } else { 0 };
        self.lineages = self.lineages - epochs_bytes(&log.lineage) + epochs_bytes(&lineage);
        log.lineage = lineage;
        (log.chain, log.last) = (None, None);
        log.known = log.known.min(keep);
        let beyond = log.runs.iter().filter(|(_, run)| self.runs.end(**run) > keep);
        let beyond: Vec<_> = beyond.map(|(segment, run)| (*segment, *run)).collect();
        for (segment, run) in beyond {
            // The part of it that is still valid comes again with its segment.
            self.logs[at].known = self.logs[at].known.min(segment * SEGMENT);
            self.kill(at, segment, run);
        }
        true
    }

    /// Masks what lies in segments wholly below a floor: the holder dropped it.
    pub fn raise_floor(&mut self, peer: NodeId, floor: u64) {
        let first = floor / SEGMENT;
        let Some(at) = (first > 0).then(|| self.find(peer)).flatten() else { return };
        let below: Vec<_> = self.logs[at].runs.range(..first).map(|(segment, run)| (*segment, *run)).collect();
        for (segment, run) in below {
            self.kill(at, segment, run);
        }
    }

    /// The first log position of a peer that is not known yet.
    #[must_use]
    pub fn known(&self, peer: NodeId) -> u64 {
        self.log(peer).map_or(0, |log| log.known)
    }

    /// The current epoch of a peer's log, as it was described.
    #[must_use]
    pub fn epoch(&self, peer: NodeId) -> Option<EpochStart> {
        self.log(peer)?.lineage.last().copied()
    }

    /// The current epoch of a peer's log, as it was described, and the first position that is not known yet.
    #[must_use]
    pub fn newest(&self, peer: NodeId) -> Option<(EpochStart, u64)> {
        let log = self.log(peer)?;
        Some((*log.lineage.last()?, log.known))
    }

    /// Whether anything that is known of a peer's log is a fact.
    #[must_use]
    pub fn has_facts(&self, peer: NodeId) -> bool {
        let LogStats { facts, dropped, beyond_k, corrected } = self.stats_of(peer);
        facts > 0 || dropped > 0 || beyond_k > 0 || corrected > 0
    }

    /// The epochs of a peer's log, as they were described.
    #[must_use]
    pub fn lineage(&self, peer: NodeId) -> &[EpochStart] {
        self.log(peer).map_or(&[], |log| &log.lineage)
    }

    /// What an announcement would lead to, as far as can be told before its signatures and its chain are checked.
    #[must_use]
    pub fn foresee(&self, announcement: &Announcement) -> Merge {
        let batch = &announcement.batch;
        let Some(log) = self.log(batch.head.node) else { return Merge::Gap };
        let Some(at) = log.lineage.iter().position(|epoch| epoch.epoch == batch.head.epoch) else { return Merge::Gap };
        let start = log.lineage[at].start;
        if batch.first < start || batch.end() > start.saturating_add(batch.head.length) {
            return Merge::Foreign;
        }
        if log.contradicts(announcement) {
            return Merge::Merged;
        }
        if at + 1 < log.lineage.len() || batch.end() <= log.known {
            return Merge::Known;
        }
        if batch.first == log.known && log.chain_at_known().is_some() { Merge::Merged } else { Merge::Gap }
    }

    /// Merges an announcement whose signature was checked; the digest is its batch's.
    pub fn merge(&mut self, announcement: &Announcement, digest: BatchDigest) -> Merge {
        let outcome = self.foresee(announcement);
        let batch = &announcement.batch;
        let Some(at) = self.find(batch.head.node).filter(|_| outcome == Merge::Merged) else { return outcome };
        let log = &self.logs[at];
        let follows = log.chain_at_known().is_some_and(|chain| announcement.follows(&chain, digest));
        if log.contradicts(announcement) || !follows {
            return Merge::Equivocal;
        }
        self.refused = None;
        let mut position = batch.first;
        for item in &batch.items {
            if let LogItem::Fact { question, .. } = item {
                self.add(at, (position / SEGMENT, position + 1), key(u64::from_le_bytes(*question)));
            }
            position = position.saturating_add(item.positions());
        }
        let log = &mut self.logs[at];
        log.known = position;
        log.chain = Some(announcement.chain);
        log.last = Some((batch.first, announcement.chain));
        Merge::Merged
    }

    /// The segments of a checked manifest that hold something that is not known here.
    #[must_use]
    pub fn lacks(&self, peer: NodeId, manifest: &Manifest) -> Vec<SegmentName> {
        manifest.names().filter(|name| self.lacks_segment(peer, name)).collect()
    }

    /// Whether a segment says something that is not known.
    #[must_use]
    pub fn lacks_segment(&self, peer: NodeId, name: &SegmentName) -> bool {
        let Some(log) = self.log(peer) else { return false };
        let has = || log.runs.get(&name.number).is_some_and(|run| self.runs.end(*run) >= name.end);
        name.facts > 0 && name.end > log.known && !has()
    }

    /// Merges a segment whose digest was checked.
    pub fn merge_segment(&mut self, peer: NodeId, name: &SegmentName, keys: &[u64]) {
        self.refused = None;
        if let Some(at) = self.find(peer) {
            for key in keys {
                self.add(at, (name.number, name.end), *key);
            }
        }
    }

    /// Everything that a checked manifest names is merged.
    pub fn catch_up(&mut self, peer: NodeId, manifest: &Manifest) {
        if let Some(at) = self.find(peer)
            && self.logs[at].lineage == manifest.lineage
            && self.logs[at].known <= manifest.end
        {
            let log = &mut self.logs[at];
            log.known = manifest.end;
            log.chain = Some(manifest.chain);
            log.last = None;
        }
    }

    /// The peers that said they hold this question, each once.
    #[must_use]
    pub fn holders(&self, question: u64) -> Vec<NodeId> {
        let mut found = Vec::new();
        for run in self.table.runs(key(question)) {
            if let Some(log) = self.runs.log(run) {
                let node = self.logs[log].node;
                if !found.contains(&node) {
                    found.push(node);
                }
            }
        }
        found
    }

    /// Corrects the index: this peer said that it does not hold the question.
    pub fn forget(&mut self, peer: NodeId, question: u64) {
        let Some(at) = self.find(peer) else { return };
        let runs = &mut self.runs;
        let gone: Vec<_> = self.table.runs(key(question)).filter(|run| runs.log(*run) == Some(at)).collect();
        for run in &gone {
            runs.count(*run, false);
            self.logs[at].stats.facts -= 1;
            self.logs[at].stats.corrected += 1;
        }
        if !gone.is_empty() {
            self.table.remove(key(question), |run| gone.contains(&run));
        }
    }

    /// How far away a peer is; what is far goes first when memory is short.
    pub fn set_distance(&mut self, peer: NodeId, distance: Duration) {
        if let Some(at) = self.find(peer) {
            self.logs[at].distance = distance;
        }
    }

    /// Does a bounded piece of the work that masked runs leave behind.
    pub fn tidy(&mut self, pages: usize) {
        for _ in 0..pages {
            if !self.runs.sweep(&mut self.table) {
                break;
            }
        }
    }

    /// Facts in the table.
    #[must_use]
    pub fn len(&self) -> usize {
        self.table.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.table.len() == 0
    }

    /// Memory in bytes: table, runs and logs.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.table.bytes() + self.fixed_bytes()
    }

    /// The index in numbers.
    #[must_use]
    pub fn stats(&self) -> IndexStats {
        let sum = |of: fn(&LogStats) -> u64| self.logs.iter().map(|log| of(&log.stats)).sum();
        IndexStats {
            logs: self.logs.len() as u64,
            facts: self.len() as u64,
            bytes: self.bytes() as u64,
            budget: self.budget as u64,
            dropped: sum(|stats| stats.dropped),
            beyond_k: sum(|stats| stats.beyond_k),
            corrected: sum(|stats| stats.corrected),
        }
    }

    /// One log in numbers.
    #[must_use]
    pub fn stats_of(&self, peer: NodeId) -> LogStats {
        self.log(peer).map_or_else(LogStats::default, |log| log.stats)
    }

    /// Every log that something is known of: whose, which epoch, up to where.
    pub fn logs(&self) -> impl Iterator<Item = (NodeId, EpochStart, u64)> {
        self.logs.iter().filter_map(|log| log.lineage.last().map(|epoch| (log.node, *epoch, log.known)))
    }

    /// The keys known of every peer, in order and each once: for checkers that want all live indexes to be equal.
    #[must_use]
    pub fn facts(&self) -> BTreeMap<NodeId, Vec<u64>> {
        let mut of = vec![Vec::new(); self.logs.len()];
        for (key, run) in self.table.iter() {
            if let Some(at) = self.runs.log(run) {
                of[at].push(key);
            }
        }
        let sorted = of.into_iter().zip(&self.logs).map(|(mut keys, log)| {
            keys.sort_unstable();
            keys.dedup();
            (log.node, keys)
        });
        sorted.collect()
    }

    /// The keys known of one peer; see [`Self::facts`].
    #[must_use]
    pub fn facts_of(&self, peer: NodeId) -> Vec<u64> {
        self.facts().remove(&peer).unwrap_or_default()
    }

    fn find(&self, peer: NodeId) -> Option<usize> {
        self.by_node.get(&peer).map(|at| *at as usize)
    }

    fn log(&self, peer: NodeId) -> Option<&Log> {
        self.find(peer).map(|at| &self.logs[at])
    }

    fn log_or_new(&mut self, peer: NodeId) -> Option<usize> {
        if let Some(at) = self.find(peer) {
            return Some(at);
        }
        let at = u32::try_from(self.logs.len()).ok().filter(|at| (*at as usize) < MAX_LOGS)?;
        self.by_node.insert(peer, at);
        self.logs.push(Log {
            node: peer,
            lineage: Vec::new(),
            known: 0,
            chain: None,
            last: None,
            runs: BTreeMap::new(),
            distance: Duration::MAX,
            stats: LogStats::default(),
        });
        Some(at as usize)
    }

    /// Adds a fact of a segment, which now reaches at least to `end`.
    fn add(&mut self, at: usize, (segment, end): (u64, u64), key: u64) {
        let known = self.logs[at].runs.get(&segment).copied();
        let mut holders = [(0, 0); MAX_HOLDERS];
        let mut count = 0;
        for other in self.table.runs(key) {
            if Some(other) == known {
                return;
            }
            if let Some(log) = self.runs.log(other)
                && count < MAX_HOLDERS
            {
                holders[count] = (rank(key, self.logs[log].node), other);
                count += 1;
            }
        }
        if count == MAX_HOLDERS {
            let worst = holders.iter().copied().max().unwrap_or_default();
            if rank(key, self.logs[at].node) >= worst.0 {
                self.logs[at].stats.beyond_k += 1;
                return;
            }
            self.table.remove(key, |other| other == worst.1);
            self.runs.count(worst.1, false);
            if let Some(loser) = self.runs.log(worst.1) {
                self.logs[loser].stats.facts -= 1;
                self.logs[loser].stats.beyond_k += 1;
            }
        }
        if self.runs.is_sweeping() {
            self.since_sweep += 1;
            if self.since_sweep >= SWEEP_EVERY {
                self.since_sweep = 0;
                self.runs.sweep(&mut self.table);
            }
        }
        if !self.has_room_for(at) {
            self.logs[at].stats.dropped += 1;
            return;
        }
        let run = known.unwrap_or_else(|| self.runs.start(at));
        self.logs[at].runs.insert(segment, run);
        self.runs.extend(run, end);
        self.table.insert(key, run);
        self.runs.count(run, true);
        self.logs[at].stats.facts += 1;
    }

    /// Whether one more fact of this log fits; near the budget, makes room at the cost of logs that are farther away.
    fn has_room_for(&mut self, at: usize) -> bool {
        // The last sixteenth is what comes in while masked runs are swept.
        if self.bytes() > self.budget - self.budget / 16 && !self.runs.is_sweeping() {
            if self.refused == Some(at) {
                return false;
            }
            let mine = (self.logs[at].distance, self.logs[at].node);
            let farther = |log: &&Log| log.stats.facts > 0 && (log.distance, log.node) > mine;
            let victim = self.logs.iter().filter(farther).max_by_key(|log| (log.distance, log.node));
            let Some(victim) = victim.and_then(|log| self.find(log.node)) else {
                self.refused = Some(at);
                return false;
            };
            // The oldest of it goes, as much as makes the spare room good again.
            let mut freed = 0;
            while freed < self.budget / 16
                && let Some((&segment, &run)) = self.logs[victim].runs.first_key_value()
            {
                let facts = self.runs.facts(run);
                freed += facts as usize * 5;
                self.logs[victim].stats.dropped += u64::from(facts);
                self.kill(victim, segment, run);
            }
        }
        self.bytes() + self.table.growth() + self.runs.growth() <= self.budget
    }

    /// Memory of runs and logs. A run's place in its log's map costs about 18 bytes, a log's place in the map of all about 54.
    fn fixed_bytes(&self) -> usize {
        let logs = self.logs.capacity() * size_of::<Log>() + self.by_node.capacity() * NAME_BYTES;
        self.runs.bytes() + self.runs.len() * 18 + logs + self.lineages
    }

    fn kill(&mut self, at: usize, segment: u64, run: u32) {
        self.logs[at].runs.remove(&segment);
        self.logs[at].stats.facts -= u64::from(self.runs.facts(run));
        self.runs.kill(run);
    }
}

impl Log {
    fn chain_at_known(&self) -> Option<Hash> {
        let epoch = self.lineage.last()?;
        self.chain.or_else(|| (self.known == epoch.start).then(|| chain_start(self.node, epoch.epoch)))
    }

    /// Whether it claims another history than the last one did.
    fn contradicts(&self, announcement: &Announcement) -> bool {
        let current = self.lineage.last().is_some_and(|epoch| epoch.epoch == announcement.batch.head.epoch);
        let other = |(first, chain)| first == announcement.batch.first && chain != announcement.chain;
        current && self.last.is_some_and(other)
    }
}

fn epochs_bytes(lineage: &[EpochStart]) -> usize {
    size_of_val(lineage)
}

/// Which holders of a key stay when there are too many; every node computes the same.
fn rank(key: u64, node: NodeId) -> u64 {
    let bytes = node.as_bytes();
    let tag = u64::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3], bytes[4], bytes[5], bytes[6], bytes[7]]);
    // Two rounds of the splitmix64 finaliser: keys and names are uniform already, only their sum must not be monotonic.
    let mut mixed = (key ^ tag).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}
