//! The holder index: who holds which question, as learned from the announcement logs of peers.
//!
//! A peer's log is its ledger order, so what is known of it is "everything up to position n" and catching up is "send me your log from n".
//! Facts are 8-byte fingerprints: a hit *suggests* a holder, asking it decides. Invariant 1: `known` of a peer never passes what it sent
//! without a gap. Invariant 2: `by_question` names a peer only for facts in that peer's `facts`. Merging is a union: order does not matter.

use std::collections::BTreeMap;

use crate::id::NodeId;
use crate::limits::{MAX_FACTS_PER_PEER, MAX_HOLDERS};
use crate::message::{Batch, EpochStart, LogItem};

/// What is known of one peer's log.
#[derive(Debug, Default)]
struct PeerLog {
    lineage: Vec<EpochStart>,
    /// Everything before this position is known.
    known: u64,
    /// Position and question of every fact, in log order.
    facts: Vec<(u64, u64)>,
}

/// What became of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merge {
    /// It was merged, or was known already.
    Merged,
    /// It begins beyond what is known: pull from this position.
    Gap(u64),
    /// It does not belong to the log that the peer described, or claims more than its head covers.
    Foreign,
}

/// Who holds which question.
#[derive(Debug, Default)]
pub struct HolderIndex {
    logs: BTreeMap<NodeId, PeerLog>,
    by_question: BTreeMap<u64, Vec<NodeId>>,
}

impl HolderIndex {
    /// Takes a peer's description of its log. Facts beyond the point where it departs from the earlier description are forgotten: the peer
    /// was restored from an older copy and never appended them in this history.
    pub fn describe(&mut self, peer: NodeId, lineage: Vec<EpochStart>) {
        let log = self.logs.entry(peer).or_default();
        let common = log.lineage.iter().zip(&lineage).take_while(|(old, new)| old == new).count();
        // What is shared ends where either history began the epoch in which they differ.
        let shared =
            [log.lineage.get(common), lineage.get(common)].into_iter().flatten().map(|epoch| epoch.start).min();
        let keep = if common == 0 { 0 } else { shared.unwrap_or(u64::MAX) };
        log.lineage = lineage;
        log.known = log.known.min(keep);
        let cut = log.facts.partition_point(|(position, _)| *position < keep);
        let gone = log.facts.split_off(cut);
        for (_, question) in gone {
            self.forget(peer, question);
        }
    }

    /// The first log position of a peer that is not known yet.
    #[must_use]
    pub fn known(&self, peer: NodeId) -> u64 {
        self.logs.get(&peer).map_or(0, |log| log.known)
    }

    /// Merges a batch whose head was checked.
    pub fn merge(&mut self, peer: NodeId, batch: &Batch) -> Merge {
        let Some(log) = self.logs.get_mut(&peer) else { return Merge::Foreign };
        let Some(at) = log.lineage.iter().position(|epoch| epoch.epoch == batch.head.epoch) else {
            return Merge::Foreign;
        };
        let covered = log.lineage[at].start.saturating_add(batch.head.length);
        if batch.head.node != peer || batch.end() > covered {
            return Merge::Foreign;
        }
        if batch.first > log.known {
            return Merge::Gap(log.known);
        }
        let mut position = batch.first;
        for item in &batch.items {
            if let LogItem::Fact { question, .. } = item
                && position >= log.known
                && log.facts.len() < MAX_FACTS_PER_PEER
            {
                let question = u64::from_le_bytes(*question);
                log.facts.push((position, question));
                let holders = self.by_question.entry(question).or_default();
                if holders.len() < MAX_HOLDERS && !holders.contains(&peer) {
                    holders.push(peer);
                }
            }
            position += item.positions();
        }
        log.known = log.known.max(position);
        Merge::Merged
    }

    /// The peers that said they hold this question.
    #[must_use]
    pub fn holders(&self, question: u64) -> &[NodeId] {
        self.by_question.get(&question).map_or(&[], Vec::as_slice)
    }

    /// Corrects the index: this peer said that it does not hold the question.
    pub fn forget(&mut self, peer: NodeId, question: u64) {
        if let Some(holders) = self.by_question.get_mut(&question) {
            holders.retain(|holder| *holder != peer);
            if holders.is_empty() {
                self.by_question.remove(&question);
            }
        }
    }

    /// Questions that somebody holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.by_question.len()
    }

    /// Whether nothing is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.by_question.is_empty()
    }

    /// The index as one comparable value, in order: for checkers that want all live indexes to be equal.
    #[must_use]
    pub fn facts_of(&self, peer: NodeId) -> Vec<u64> {
        self.logs.get(&peer).map_or_else(Vec::new, |log| log.facts.iter().map(|(_, question)| *question).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::EpochId;
    use crate::identity::Signature;
    use crate::proof::SignedHead;

    const PEER: NodeId = NodeId::from_bytes([1; 32]);

    fn epoch(n: u8, start: u64) -> EpochStart {
        EpochStart { epoch: EpochId::from_bytes([n; 16]), start }
    }

    fn batch(epoch: EpochStart, first: u64, questions: &[u64]) -> Batch {
        let items: Vec<_> = questions
            .iter()
            .map(|question| match question {
                0 => LogItem::Skip(1),
                q => LogItem::Fact { question: q.to_le_bytes(), answer: [0; 8] },
            })
            .collect();
        let length = first + items.len() as u64 - epoch.start;
        let head = SignedHead {
            node: PEER,
            epoch: epoch.epoch,
            length,
            root: [0; 32],
            signature: Signature::from_bytes([0; 64]),
        };
        Batch { first, items, head }
    }

    #[test]
    fn batches_merge_once_and_gaps_are_named() {
        let mut index = HolderIndex::default();
        let first = epoch(1, 0);
        assert_eq!(index.merge(PEER, &batch(first, 0, &[0, 5])), Merge::Foreign, "no description yet");
        index.describe(PEER, vec![first]);
        assert_eq!(index.merge(PEER, &batch(first, 2, &[7])), Merge::Gap(0));
        assert_eq!(index.merge(PEER, &batch(first, 0, &[0, 5])), Merge::Merged);
        assert_eq!(index.merge(PEER, &batch(first, 0, &[0, 5])), Merge::Merged);
        assert_eq!(index.merge(PEER, &batch(first, 1, &[5, 6])), Merge::Merged);
        assert_eq!((index.known(PEER), index.facts_of(PEER)), (3, vec![5, 6]));
        assert_eq!(index.holders(5), [PEER]);
        let mut greedy = batch(first, 3, &[9, 9, 9]);
        greedy.head.length = 4;
        assert_eq!(index.merge(PEER, &greedy), Merge::Foreign, "claims more than its head covers");
    }

    #[test]
    fn a_restored_copy_masks_what_it_never_appended() {
        let (a, b, c) = (epoch(1, 0), epoch(2, 3), epoch(3, 2));
        let mut index = HolderIndex::default();
        index.describe(PEER, vec![a, b]);
        index.merge(PEER, &batch(a, 0, &[0, 5, 6]));
        index.merge(PEER, &batch(b, 3, &[0, 7]));
        index.describe(PEER, vec![a, b]);
        assert_eq!(index.known(PEER), 5, "the same history again keeps everything");
        index.describe(PEER, vec![a, b, epoch(4, 5)]);
        assert_eq!(index.known(PEER), 5, "a restart keeps everything");
        index.describe(PEER, vec![a, c]);
        assert_eq!(index.known(PEER), 2, "shared up to where the copy was taken");
        assert_eq!((index.holders(5), index.holders(6), index.holders(7)), (&[PEER][..], &[][..], &[][..]));
        index.describe(PEER, vec![epoch(9, 0)]);
        assert_eq!((index.known(PEER), index.len()), (0, 0), "another ledger altogether");
    }
}
