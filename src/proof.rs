//! How a record is believed: Merkle leaves, signed heads, inclusion proofs.
//!
//! The tree has the shape of RFC 6962 section 2.1 (a left-filled binary tree), with BLAKE3 in derive-key mode in place of its prefixed SHA-256.
//! Leaf `i` of an epoch is the hash of the `i`-th ledger entry of that epoch; a [`SignedHead`] signs (epoch, length, root) once for any number
//! of entries. [`Evidence`] is a record with its path to such a head: whoever has it can check it without asking anybody.

pub(crate) mod form;
mod proven;

use std::sync::LazyLock;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use self::proven::ProvenNodes;
use crate::id::{EpochId, NodeId, plain_bytes};
use crate::identity::{Signature, Signer, Verifier};
use crate::limits::MAX_PROOF;
use crate::record::{Record, RecordError};

/// A hash inside the tree.
pub type Hash = [u8; 32];

/// The entry kind byte of an observed record; see `ledger::Entry`. The only kind that [`Evidence`] is about.
pub const OBSERVED: u8 = 1;

/// Domain of a head's signature.
const HEAD_CONTEXT: &[u8] = b"evalmesh 2026-11-21 ledger head v1\0";

static LEAF: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("evalmesh 2026-11-21 ledger leaf v1"));
static NODE: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("evalmesh 2026-11-21 ledger node v1"));
static EMPTY: LazyLock<Hash> = LazyLock::new(|| blake3::derive_key("evalmesh 2026-11-21 ledger empty v1", &[]));

/// The leaf of a ledger entry: its kind byte and its body, payloads by digest.
#[must_use]
pub fn leaf_hash(kind: u8, body: &[u8]) -> Hash {
    *LEAF.clone().update(&[kind]).update(body).finalize().as_bytes()
}

pub(crate) fn node_hash(left: &Hash, right: &Hash) -> Hash {
    *NODE.clone().update(left).update(right).finalize().as_bytes()
}

/// The tree of one epoch, growing at its right edge.
///
/// Keeps the hash of every complete subtree (about 64 bytes a leaf), so that roots and proofs of *any* earlier length cost O(log n).
#[derive(Debug, Clone, Default)]
pub struct Tree {
    /// Invariant: `levels[k][i]` covers leaves `i << k .. (i + 1) << k`, all of which exist.
    levels: Vec<Vec<Hash>>,
}

impl Tree {
    /// Leaves so far.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.levels.first().map_or(0, |leaves| leaves.len() as u64)
    }

    /// Whether there is no leaf.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends a leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        for level in 0.. {
            if self.levels.len() == level {
                self.levels.push(Vec::new());
            }
            let nodes = &mut self.levels[level];
            nodes.push(hash);
            if nodes.len() % 2 == 1 {
                break;
            }
            hash = node_hash(&nodes[nodes.len() - 2], &nodes[nodes.len() - 1]);
        }
    }

    /// All leaves.
    pub(crate) fn leaves(&self) -> &[Hash] {
        self.levels.first().map_or(&[], Vec::as_slice)
    }

    /// The leaf at `index`.
    pub(crate) fn leaf(&self, index: u64) -> Option<Hash> {
        self.levels.first()?.get(usize::try_from(index).ok()?).copied()
    }

    /// The hash over leaves `lo..hi`, a complete subtree.
    pub(crate) fn subtree(&self, lo: u64, hi: u64) -> Option<Hash> {
        (hi <= self.len() && (hi - lo).is_power_of_two() && lo.is_multiple_of(hi - lo)).then(|| self.range(lo, hi))
    }

    /// The root over the first `length` leaves; `None` if there are fewer.
    #[must_use]
    pub fn root(&self, length: u64) -> Option<Hash> {
        match length {
            _ if length > self.len() => None,
            0 => Some(*EMPTY),
            _ => Some(self.range(0, length)),
        }
    }

    /// The audit path of leaf `index` in the tree of the first `length` leaves, from the leaf upwards (RFC 6962 section 2.1.1).
    #[must_use]
    pub fn path(&self, index: u64, length: u64) -> Option<Vec<Hash>> {
        if index >= length || length > self.len() {
            return None;
        }
        let (mut lo, mut hi) = (0, length);
        let mut path = Vec::new();
        while hi - lo > 1 {
            let middle = lo + split(hi - lo);
            if index < middle {
                path.push(self.range(middle, hi));
                hi = middle;
            } else {
                path.push(self.range(lo, middle));
                lo = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The hash over leaves `lo..hi`, where `lo` is a multiple of the largest power of two that fits.
    fn range(&self, lo: u64, hi: u64) -> Hash {
        let size = hi - lo;
        if size.is_power_of_two() {
            let level = size.trailing_zeros();
            let index = usize::try_from(lo >> level).expect("a leaf in memory has a usize index");
            return self.levels[level as usize][index];
        }
        let middle = lo + split(size);
        node_hash(&self.range(lo, middle), &self.range(middle, hi))
    }
}

impl FromIterator<Hash> for Tree {
    fn from_iter<T: IntoIterator<Item = Hash>>(leaves: T) -> Self {
        let mut tree = Self::default();
        leaves.into_iter().for_each(|leaf| tree.push(leaf));
        tree
    }
}

/// The largest power of two below `n`, for `n > 1`.
pub(crate) fn split(n: u64) -> u64 {
    1 << (n - 1).ilog2()
}

/// The root of a tree without leaves.
pub(crate) fn empty_root() -> Hash {
    *EMPTY
}

/// A place in a tree of some length: the subtree of height `level` that is number `index` from the left, as far as it exists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    level: u8,
    index: u64,
}

/// One step on the way from a leaf to the root: the subtree that was reached, and the one beside it.
#[derive(Debug, Clone, Copy)]
struct Climb {
    at: Place,
    sibling: Place,
}

impl Climb {
    /// The hash over both.
    fn join(&self, hash: &Hash, sibling: &Hash) -> Hash {
        if self.sibling.index < self.at.index >> (self.sibling.level - self.at.level) {
            node_hash(sibling, hash)
        } else {
            node_hash(hash, sibling)
        }
    }
}

/// The steps from leaf `index` to the root of a tree of `length` leaves (RFC 9162 section 2.1.3.2).
fn climbs(index: u64, length: u64) -> impl Iterator<Item = Climb> {
    let (mut node, mut last, mut level) = (index, length.saturating_sub(1), 0);
    std::iter::from_fn(move || {
        if last == 0 {
            return None;
        }
        let at = Place { level, index: node };
        // A subtree at the right edge that has nothing beside it is its own parent.
        while node == last && node % 2 == 0 {
            (node, last, level) = (node >> 1, last >> 1, level + 1);
        }
        let sibling = Place { level, index: node ^ 1 };
        (node, last, level) = (node >> 1, last >> 1, level + 1);
        Some(Climb { at, sibling })
    })
}

/// The root that `leaf` at `index` leads to by this path in a tree of `length` leaves; `None` if the path does not fit.
#[must_use]
pub fn root_from(leaf: Hash, index: u64, length: u64, path: &[Hash]) -> Option<Hash> {
    if index >= length || path.len() > MAX_PROOF {
        return None;
    }
    let mut climbs = climbs(index, length);
    let root = path.iter().try_fold(leaf, |hash, sibling| Some(climbs.next()?.join(&hash, sibling)))?;
    climbs.next().is_none().then_some(root)
}

/// The state of one epoch's tree at some length, as the node that owns the ledger says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    /// Whose ledger it is.
    pub node: NodeId,
    /// Which epoch.
    pub epoch: EpochId,
    /// Entries covered.
    pub length: u64,
    /// The tree's root over them.
    #[serde(deserialize_with = "plain_bytes")]
    pub root: Hash,
}

/// The state of one epoch's tree at some length, signed by the node that owns the ledger.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedHead {
    /// Who signed.
    pub node: NodeId,
    /// Which epoch.
    pub epoch: EpochId,
    /// Entries covered.
    pub length: u64,
    /// The tree's root over them.
    #[serde(deserialize_with = "plain_bytes")]
    pub root: Hash,
    /// The signature over all of the above.
    pub signature: Signature,
}

impl SignedHead {
    /// Signs the first `length` leaves of an epoch's tree; `None` if there are fewer.
    #[must_use]
    pub fn sign(signer: &dyn Signer, epoch: EpochId, tree: &Tree, length: u64) -> Option<Self> {
        Some(Self::over(signer, epoch, length, tree.root(length)?))
    }

    /// Signs a root that the caller vouches for.
    #[must_use]
    pub fn over(signer: &dyn Signer, epoch: EpochId, length: u64, root: Hash) -> Self {
        let signature = signer.sign(&head_message(epoch, length, &root));
        Self { node: signer.node(), epoch, length, root, signature }
    }

    /// Whether the named node signed exactly this.
    #[must_use]
    pub fn verify(&self, verifier: &dyn Verifier) -> bool {
        verifier.verify(self.node, &head_message(self.epoch, self.length, &self.root), &self.signature)
    }
}

fn head_message(epoch: EpochId, length: u64, root: &Hash) -> Vec<u8> {
    [HEAD_CONTEXT, epoch.as_bytes(), &length.to_le_bytes(), root].concat()
}

/// A record as it travels: its exact bytes, its place in its producer's epoch, and a signed head that covers it. Not yet believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// The canonical bytes of the record.
    pub record: Bytes,
    /// Its leaf index in the epoch.
    pub index: u64,
    /// Its audit path to the head's root.
    pub path: Vec<Hash>,
    /// The head, signed by the record's producer.
    pub head: SignedHead,
}

/// Why evidence is not believed. Every one of these is the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EvidenceError {
    /// The record's bytes are not a record.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The head was signed by another node than the record names as its producer.
    #[error("the head is not the producer's")]
    OtherProducer,
    /// The path does not lead from the record to the head's root.
    #[error("the inclusion proof does not hold")]
    Inclusion,
    /// The signature is not the producer's.
    #[error("the head's signature does not hold")]
    Signature,
}

impl Evidence {
    /// About how many bytes it takes.
    #[must_use]
    pub fn size(&self) -> usize {
        size_of::<Self>() + self.record.len() + self.path.len() * size_of::<Hash>()
    }

    /// Checks bytes, proof and signature; the record is believed if all hold.
    pub fn verify(&self, verifier: &dyn Verifier) -> Result<Record, EvidenceError> {
        let (record, leaf) = self.producers()?;
        if root_from(leaf, self.index, self.head.length, &self.path) != Some(self.head.root) {
            return Err(EvidenceError::Inclusion);
        }
        if !self.head.verify(verifier) {
            return Err(EvidenceError::Signature);
        }
        Ok(record)
    }

    /// As [`Self::verify`], without hashing or checking again what was proven before.
    pub fn verify_among(&self, verifier: &dyn Verifier, proven: &mut ProvenNodes) -> Result<Record, EvidenceError> {
        let Some(head) = proven.find(&self.head) else {
            let record = self.verify(verifier)?;
            let head = proven.learn(&self.head);
            let leads = proven.leads(head, leaf_hash(OBSERVED, &self.record), self);
            debug_assert!(leads, "it led there a moment ago");
            return Ok(record);
        };
        let (record, leaf) = self.producers()?;
        if proven.leads(head, leaf, self) { Ok(record) } else { Err(EvidenceError::Inclusion) }
    }

    /// The record and its leaf, if it names the head's signer as its producer.
    fn producers(&self) -> Result<(Record, Hash), EvidenceError> {
        let record = Record::decode(&self.record)?;
        if record.producer != self.head.node {
            return Err(EvidenceError::OtherProducer);
        }
        Ok((record, leaf_hash(OBSERVED, &self.record)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::{Ed25519, Identity};

    fn leaf(n: u64) -> Hash {
        leaf_hash(OBSERVED, &n.to_le_bytes())
    }

    fn tree(n: u64) -> Tree {
        let mut tree = Tree::default();
        (0..n).for_each(|n| tree.push(leaf(n)));
        tree
    }

    /// RFC 6962's definition, word for word, as the reference.
    fn reference(leaves: &[Hash]) -> Hash {
        if leaves.len() == 1 {
            return leaves[0];
        }
        let k = leaves.len().next_power_of_two() / 2;
        node_hash(&reference(&leaves[..k]), &reference(&leaves[k..]))
    }

    #[test]
    fn every_root_and_path_up_to_70_leaves_holds_and_no_other() {
        let tree = tree(70);
        let leaves: Vec<_> = (0..70).map(leaf).collect();
        for length in 1..=70 {
            let root = tree.root(length).expect("long enough");
            assert_eq!(root, reference(&leaves[..usize::try_from(length).expect("small")]));
            for index in 0..length {
                let path = tree.path(index, length).expect("inside");
                assert_eq!(root_from(leaf(index), index, length, &path), Some(root));
                assert_ne!(root_from(leaf(index + 1), index, length, &path), Some(root));
                if index + 1 < length {
                    assert_ne!(root_from(leaf(index), index + 1, length, &path), Some(root));
                }
                let mut long = path.clone();
                long.push(root);
                assert_eq!(root_from(leaf(index), index, length, &long), None);
            }
        }
        assert_eq!(tree.root(71), None);
        assert_eq!(tree.path(70, 70), None);
    }

    #[test]
    fn a_head_is_the_signers_and_covers_all_of_its_fields() {
        let identity = Identity::from_seed([3; 32]);
        let head = SignedHead::sign(&identity, EpochId::from_bytes([9; 16]), &tree(5), 4).expect("long enough");
        assert!(head.verify(&Ed25519));
        for change in [
            SignedHead { length: 5, ..head.clone() },
            SignedHead { epoch: EpochId::from_bytes([8; 16]), ..head.clone() },
            SignedHead { root: [0; 32], ..head.clone() },
            SignedHead { node: Identity::from_seed([4; 32]).node(), ..head.clone() },
        ] {
            assert!(!change.verify(&Ed25519), "{change:?}");
        }
    }
}
