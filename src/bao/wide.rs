//! Large payloads, hashed by several threads: the halves of the tree know nothing of each other.
//!
//! Invariant: digest and outboard are those that one thread makes.

use std::sync::LazyLock;
use std::thread;

use blake3::hazmat::{Mode, left_subtree_len, merge_subtrees_non_root, merge_subtrees_root};

use super::{LEAF, PARENT, leaf_value};
use crate::id::Digest;
use crate::proof::Hash;

/// From this size on another thread's start costs less than what it saves.
pub(crate) const WIDE: usize = 2 * 1024 * 1024;
/// More threads than this wait for memory.
const THREADS: usize = 8;

/// Asking the system takes longer than hashing a small payload.
static AVAILABLE: LazyLock<usize> =
    LazyLock::new(|| thread::available_parallelism().map_or(1, std::num::NonZero::get).min(THREADS));

/// What is made of a subtree: its chaining value, and its parents where they are wanted.
trait Make: Sync {
    fn alone(&self, bytes: &[u8], offset: u64, parents: &mut Vec<u8>) -> Hash;
    fn join(&self, left: &Hash, right: &Hash, parents: &mut Vec<u8>);
}

struct WithParents;

impl Make for WithParents {
    fn alone(&self, bytes: &[u8], offset: u64, parents: &mut Vec<u8>) -> Hash {
        if bytes.len() as u64 <= LEAF {
            return leaf_value(offset, bytes);
        }
        let (left, right) = halves(bytes);
        let left_value = self.alone(left, offset, parents);
        let right_value = self.alone(right, offset + left.len() as u64, parents);
        self.join(&left_value, &right_value, parents);
        merge_subtrees_non_root(&left_value, &right_value, Mode::Hash)
    }

    fn join(&self, left: &Hash, right: &Hash, parents: &mut Vec<u8>) {
        parents.extend_from_slice(left);
        parents.extend_from_slice(right);
    }
}

struct ValueAlone;

impl Make for ValueAlone {
    fn alone(&self, bytes: &[u8], offset: u64, _: &mut Vec<u8>) -> Hash {
        leaf_value(offset, bytes)
    }

    fn join(&self, _: &Hash, _: &Hash, _: &mut Vec<u8>) {}
}

/// The digest of a payload of at least two leaves.
pub(crate) fn digest(bytes: &[u8]) -> Digest {
    root(&ValueAlone, bytes, *AVAILABLE, &mut Vec::new())
}

/// The digest of a payload of at least two leaves, and its outboard.
pub(super) fn of(bytes: &[u8]) -> (Digest, Vec<u8>) {
    with_threads(bytes, *AVAILABLE)
}

fn with_threads(bytes: &[u8], threads: usize) -> (Digest, Vec<u8>) {
    let parents = (bytes.len() as u64).div_ceil(LEAF) * PARENT;
    let mut parents = Vec::with_capacity(usize::try_from(parents).unwrap_or(0));
    (root(&WithParents, bytes, threads, &mut parents), parents)
}

fn root(make: &impl Make, bytes: &[u8], threads: usize, parents: &mut Vec<u8>) -> Digest {
    let (left, right) = both(make, bytes, 0, threads, parents);
    Digest::from_bytes(*merge_subtrees_root(&left, &right, Mode::Hash).as_bytes())
}

fn halves(bytes: &[u8]) -> (&[u8], &[u8]) {
    bytes.split_at(usize::try_from(left_subtree_len(bytes.len() as u64)).expect("shorter than the bytes"))
}

/// The values of both halves, whose parents and their own come after each other.
fn both(make: &impl Make, bytes: &[u8], offset: u64, threads: usize, parents: &mut Vec<u8>) -> (Hash, Hash) {
    let (left, right) = halves(bytes);
    let middle = offset + left.len() as u64;
    // A small right half is no work for a thread: the left one gets them all.
    let (beside, here) = if right.len() < left.len() / 2 { (0, threads) } else { (threads / 2, threads - threads / 2) };
    let (left, right) = thread::scope(|scope| {
        let apart = || {
            let mut of_right = Vec::new();
            let value = subtree(make, right, middle, beside, &mut of_right);
            (value, of_right)
        };
        let spawned = (beside > 0).then(|| thread::Builder::new().spawn_scoped(scope, apart).ok()).flatten();
        let left = subtree(make, left, offset, here, parents);
        let right = match spawned.map(thread::ScopedJoinHandle::join) {
            Some(right) => {
                let (right, of_right) = right.expect("hashing does not panic");
                parents.extend(of_right);
                right
            }
            // A small one, or there is no thread to be had.
            None => subtree(make, right, middle, 1, parents),
        };
        (left, right)
    });
    make.join(&left, &right, parents);
    (left, right)
}

fn subtree(make: &impl Make, bytes: &[u8], offset: u64, threads: usize, parents: &mut Vec<u8>) -> Hash {
    if threads < 2 || bytes.len() < WIDE {
        return make.alone(bytes, offset, parents);
    }
    let (left, right) = both(make, bytes, offset, threads, parents);
    merge_subtrees_non_root(&left, &right, Mode::Hash)
}

#[cfg(test)]
mod tests {
    use super::super::TreeHasher;
    use super::super::tests::noise;
    use super::*;

    #[test]
    fn any_number_of_threads_makes_what_one_makes() {
        let leaf = usize::try_from(LEAF).unwrap();
        let bytes = noise(6 * WIDE + 1);
        for len in [2 * leaf, 2 * leaf + 1, WIDE, WIDE + 1, 2 * WIDE, 2 * WIDE + leaf, 3 * WIDE - 7, 6 * WIDE + 1] {
            let bytes = &bytes[..len];
            let mut hasher = TreeHasher::default();
            hasher.update(bytes);
            let expected = hasher.finish();
            assert_eq!(expected.0.as_bytes(), blake3::hash(bytes).as_bytes());
            for threads in [1, 2, 3, 8] {
                assert!(with_threads(bytes, threads) == expected, "{len} bytes, {threads} threads");
                assert_eq!(root(&ValueAlone, bytes, threads, &mut Vec::new()), expected.0, "{len}, {threads}");
            }
        }
    }
}
