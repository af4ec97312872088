//! What was proven before: signed heads that were checked, and nodes of their trees that led to their roots.
//!
//! Consecutive records of one producer share most of their paths. A later path is hashed only up to the first node that is known to lie below
//! the head's root; above it every sibling is compared with the proven one, so that evidence which is believed here is believed anywhere.
//! Invariant: what is in the table was hashed up to the root of its head, whose signature was checked. A node that is forgotten costs its
//! hash again, nothing else.

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::{Climb, Evidence, Hash, Place, SignedHead, climbs};
use crate::limits::MAX_PROOF;

/// Heads that are remembered: one or two of each producer whose answers come in at one time.
const HEADS: usize = 64;
/// Nodes that are remembered, of all heads together: half a mebibyte.
const NODES: usize = 8 * 1024;

/// Names a head in the table; never used twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct HeadNumber(u64);

#[derive(Debug, Clone, Copy)]
struct Node {
    head: HeadNumber,
    place: Place,
    hash: Hash,
}

/// See the module.
#[derive(Debug, Default)]
pub struct ProvenNodes {
    /// The newest first.
    heads: VecDeque<(HeadNumber, SignedHead)>,
    learned: u64,
    /// Each place has one slot, which it shares with others: the last one stays. Empty until something is proven.
    slots: Vec<Option<Node>>,
}

impl ProvenNodes {
    /// Whether this very head was checked before.
    #[must_use]
    pub fn knows(&self, head: &SignedHead) -> bool {
        self.find(head).is_some()
    }

    pub(super) fn find(&self, head: &SignedHead) -> Option<HeadNumber> {
        self.heads.iter().find(|(_, known)| known == head).map(|(number, _)| *number)
    }

    /// Takes note of a head whose signature was checked.
    pub(super) fn learn(&mut self, head: &SignedHead) -> HeadNumber {
        let number = HeadNumber(self.learned);
        self.learned += 1;
        self.heads.truncate(HEADS - 1);
        self.heads.push_front((number, head.clone()));
        self.slots.resize(NODES, None);
        number
    }

    /// Whether a path leads from the leaf to the root of the evidence's head, which has this number. If so, its nodes are known from now on.
    pub(super) fn leads(&mut self, number: HeadNumber, leaf: Hash, evidence: &Evidence) -> bool {
        let Evidence { index, path, head, .. } = evidence;
        if *index >= head.length || path.len() > MAX_PROOF {
            return false;
        }
        let steps: SmallVec<[Climb; 32]> = climbs(*index, head.length).collect();
        if steps.len() != path.len() {
            return false;
        }
        let mut nodes: SmallVec<[Hash; 32]> = SmallVec::new();
        let (mut hash, mut known) = (leaf, None);
        for (at, (step, sibling)) in steps.iter().zip(path).enumerate() {
            if self.get(number, step.at) == Some(&hash) {
                known = self.are_siblings(number, &steps[at..], &path[at..]);
            }
            if known.is_some() {
                break;
            }
            nodes.push(hash);
            hash = step.join(&hash, sibling);
        }
        let leads = known.unwrap_or(hash == head.root);
        if leads {
            for ((step, hash), sibling) in steps.iter().zip(nodes).zip(path) {
                self.put(Node { head: number, place: step.at, hash });
                self.put(Node { head: number, place: step.sibling, hash: *sibling });
            }
        }
        leads
    }

    /// Whether these siblings, from a proven node upwards, are the proven ones; `None` if one of those is forgotten.
    fn are_siblings(&self, number: HeadNumber, steps: &[Climb], siblings: &[Hash]) -> Option<bool> {
        steps.iter().zip(siblings).try_fold(true, |same, (step, sibling)| {
            let proven = self.get(number, step.sibling)?;
            Some(same && proven == sibling)
        })
    }

    fn get(&self, head: HeadNumber, place: Place) -> Option<&Hash> {
        let node = self.slots.get(slot(head, place))?.as_ref()?;
        (node.head == head && node.place == place).then_some(&node.hash)
    }

    fn put(&mut self, node: Node) {
        if let Some(slot) = self.slots.get_mut(slot(node.head, node.place)) {
            *slot = Some(node);
        }
    }
}

/// Neighbours on a level have slots side by side; levels and heads lie apart.
fn slot(head: HeadNumber, place: Place) -> usize {
    let apart = (head.0 << 8 | u64::from(place.level)).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    usize::try_from(apart.wrapping_add(place.index) % NODES as u64).expect("fewer than there are addresses")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::{OBSERVED, Tree, leaf_hash, root_from};
    use super::*;
    use crate::id::EpochId;
    use crate::identity::{Ed25519, Identity};

    /// A tree of so many leaves and its head.
    fn tree(length: u64) -> (Tree, SignedHead) {
        let tree: Tree = (0..length).map(leaf).collect();
        let identity = Identity::from_seed([3; 32]);
        let head = SignedHead::sign(&identity, EpochId::from_bytes([9; 16]), &tree, length).expect("long enough");
        assert!(head.verify(&Ed25519));
        (tree, head)
    }

    fn leaf(n: u64) -> Hash {
        leaf_hash(OBSERVED, &n.to_le_bytes())
    }

    fn evidence(tree: &Tree, head: &SignedHead, index: u64) -> Evidence {
        let path = tree.path(index, head.length).expect("inside");
        Evidence { record: bytes::Bytes::new(), index, path, head: head.clone() }
    }

    #[test]
    fn neighbours_are_proven_with_few_hashes() {
        let (tree, head) = tree(1000);
        let mut proven = ProvenNodes::default();
        let number = proven.learn(&head);
        assert_eq!(proven.find(&head), Some(number));
        let other = SignedHead { length: 999, ..head.clone() };
        assert!(!proven.knows(&other), "another head");
        for index in 0..1000 {
            let mut evidence = evidence(&tree, &head, index);
            assert!(proven.leads(number, leaf(index), &evidence), "{index}");
            assert!(!proven.leads(number, leaf(index + 1), &evidence), "{index}");
            for at in 0..evidence.path.len() {
                evidence.path[at][7] ^= 1;
                assert!(!proven.leads(number, leaf(index), &evidence), "{index}, wrong at {at}");
                evidence.path[at][7] ^= 1;
            }
            let last = evidence.path.pop().expect("a path");
            assert!(!proven.leads(number, leaf(index), &evidence), "{index}, too short");
            evidence.path.extend([last, last]);
            assert!(!proven.leads(number, leaf(index), &evidence), "{index}, too long");
        }
        let known = (0..1000).filter(|index| proven.get(number, Place { level: 0, index: *index }).is_some()).count();
        assert!(known > 800, "{known} of 1000: a leaf is its neighbour's sibling, and few share a slot");
    }

    #[test]
    fn heads_are_bounded_and_their_nodes_are_not_mixed_up() {
        let mut proven = ProvenNodes::default();
        let trees: Vec<_> = (50..50 + HEADS as u64 + 5).map(tree).collect();
        for (tree, head) in &trees {
            let number = proven.learn(head);
            assert!(proven.leads(number, leaf(7), &evidence(tree, head, 7)));
        }
        assert_eq!(proven.heads.len(), HEADS);
        assert!(!proven.knows(&trees[0].1) && proven.knows(&trees[5].1));
        let (tree, head) = &trees[20];
        let number = proven.find(head).expect("kept");
        let of_another = Evidence { head: head.clone(), ..evidence(&trees[21].0, &trees[21].1, 7) };
        assert!(proven.leads(number, leaf(7), &evidence(tree, head, 7)));
        assert!(!proven.leads(number, leaf(7), &of_another));
        assert_eq!(proven.slots.len(), NODES);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn it_believes_what_hashing_all_the_way_believes(
            length in 1..3000_u64,
            asked in prop::collection::vec((any::<u64>(), 0..40_usize, any::<bool>()), 1..60),
        ) {
            let (tree, head) = tree(length);
            let mut proven = ProvenNodes::default();
            let number = proven.learn(&head);
            for (index, at, wrong) in asked {
                let index = index % length;
                let mut evidence = evidence(&tree, &head, index);
                if wrong && let Some(sibling) = evidence.path.get_mut(at) {
                    sibling[0] ^= 1;
                }
                let holds = root_from(leaf(index), index, length, &evidence.path) == Some(head.root);
                prop_assert_eq!(proven.leads(number, leaf(index), &evidence), holds);
            }
        }
    }
}
