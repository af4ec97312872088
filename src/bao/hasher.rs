//! The digest and the outboard of bytes while they stream past.

use blake3::hazmat::{HasherExt, Mode, merge_subtrees_non_root, merge_subtrees_root};

use super::{LEAF, wide};
use crate::id::Digest;
use crate::proof::Hash;

/// Makes the digest and the outboard of bytes that come in pieces.
#[derive(Debug)]
pub struct TreeHasher {
    /// The chaining values of complete subtrees, largest first.
    stack: Vec<Hash>,
    /// Complete leaves that are in the stack.
    leaves: u64,
    /// The leaf under way.
    leaf: blake3::Hasher,
    filled: u64,
    /// Parents that were not taken yet.
    parents: Vec<u8>,
}

impl Default for TreeHasher {
    fn default() -> Self {
        Self { stack: Vec::new(), leaves: 0, leaf: blake3::Hasher::new(), filled: 0, parents: Vec::new() }
    }
}

impl TreeHasher {
    /// Takes in the next bytes.
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.filled == LEAF {
                // More follows, so this leaf is not the last one and every subtree that ends with it is complete.
                let leaf = self.leaf.finalize_non_root();
                self.complete(leaf);
            }
            let free = usize::try_from(LEAF - self.filled).expect("16 KiB");
            let (now, later) = bytes.split_at(free.min(bytes.len()));
            self.leaf.update(now);
            self.filled += now.len() as u64;
            bytes = later;
        }
    }

    fn complete(&mut self, leaf: Hash) {
        self.leaves += 1;
        let (mut subtree, mut size) = (leaf, self.leaves);
        while size.is_multiple_of(2) {
            let left = self.stack.pop().expect("as many as there are bits in the number of leaves");
            self.put(&left, &subtree);
            subtree = merge_subtrees_non_root(&left, &subtree, Mode::Hash);
            size /= 2;
        }
        self.stack.push(subtree);
        self.leaf = blake3::Hasher::new();
        self.leaf.set_input_offset(self.leaves * LEAF);
        self.filled = 0;
    }

    fn put(&mut self, left: &Hash, right: &Hash) {
        self.parents.extend_from_slice(left);
        self.parents.extend_from_slice(right);
    }

    /// The parents that were completed since this was last asked.
    pub fn take_parents(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.parents)
    }

    /// How many bytes of parents wait to be taken.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.parents.len()
    }

    /// The digest of everything, and the parents that were not taken yet.
    #[must_use]
    pub fn finish(mut self) -> (Digest, Vec<u8>) {
        let Some(mut left) = self.stack.pop() else {
            return (Digest::from_bytes(*self.leaf.finalize().as_bytes()), self.parents);
        };
        let mut right = self.leaf.finalize_non_root();
        loop {
            self.put(&left, &right);
            let Some(next) = self.stack.pop() else { break };
            right = merge_subtrees_non_root(&left, &right, Mode::Hash);
            left = next;
        }
        let root = merge_subtrees_root(&left, &right, Mode::Hash);
        (Digest::from_bytes(*root.as_bytes()), self.parents)
    }
}

/// The digest of these bytes, and their outboard.
#[must_use]
pub fn of(bytes: &[u8]) -> (Digest, Vec<u8>) {
    if bytes.len() >= wide::WIDE {
        return wide::of(bytes);
    }
    let mut hasher = TreeHasher::default();
    hasher.update(bytes);
    hasher.finish()
}
