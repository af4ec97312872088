//! The Merkle tree of one epoch, in little memory: the hash of every full page of 256 leaves, and the leaves of the last page.
//!
//! The shape is that of [`crate::proof::Tree`] (RFC 6962); leaves of full pages lie in the index files and are fetched when a proof needs
//! them. Invariant: page `i` covers leaves `i * 256 .. (i + 1) * 256`; `tail` are the leaves after the last full page.

use std::sync::Arc;

use crate::proof::{self, Hash, Tree, node_hash};

/// Leaves of one page.
pub(super) const PAGE: u64 = 256;

/// The growing tree of an epoch.
#[derive(Debug, Clone, Default)]
pub(super) struct PagedTree {
    /// Its leaves are the pages' hashes.
    pages: Tree,
    tail: Tree,
    /// An entry is lost: no leaf behind it has a place any more.
    broken: bool,
}

impl PagedTree {
    pub(super) fn len(&self) -> u64 {
        self.pages.len() * PAGE + self.tail.len()
    }

    /// From now on nothing more is taken.
    pub(super) fn break_off(&mut self) {
        self.broken = true;
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    pub(super) fn push(&mut self, leaf: Hash) {
        if self.broken {
            return;
        }
        self.tail.push(leaf);
        if let Some(page) = self.tail.subtree(0, PAGE) {
            self.pages.push(page);
            self.tail = Tree::default();
        }
    }

    /// Takes over a stretch of leaves of which only the pages that it completes and the leaves after the last of them are given.
    pub(super) fn extend(&mut self, pages: &[Hash], tail: Vec<Hash>) {
        if !self.broken {
            for page in pages {
                self.pages.push(*page);
            }
            self.tail = tail.into_iter().collect();
        }
    }

    /// Bytes of it in memory.
    pub(super) fn bytes(&self) -> usize {
        usize::try_from(self.pages.len() + self.tail.len()).unwrap_or(0) * 2 * size_of::<Hash>()
    }

    pub(super) fn tail(&self) -> &[Hash] {
        self.tail.leaves()
    }

    /// The hashes of the pages that are completed by leaves `from..to`.
    pub(super) fn pages_between(&self, from: u64, to: u64) -> impl Iterator<Item = Hash> + '_ {
        (from / PAGE..to / PAGE).map_while(|page| self.pages.leaf(page))
    }

    /// The root over the first `length` leaves. `fetch` gives a page, with as many leaves as there are.
    pub(super) fn root<E>(
        &self,
        length: u64,
        fetch: &mut dyn FnMut(u64) -> Result<Arc<Tree>, E>,
    ) -> Result<Option<Hash>, E> {
        if length > self.len() {
            return Ok(None);
        }
        if length == 0 {
            return Ok(Some(proof::empty_root()));
        }
        let edge = if length.is_multiple_of(PAGE) { Page::None } else { self.page(length / PAGE, fetch)? };
        Ok(self.range(0, length, &|_| edge.tree()))
    }

    /// The audit path of leaf `index` in the tree of the first `length` leaves; see [`Tree::path`].
    pub(super) fn path<E>(
        &self,
        index: u64,
        length: u64,
        fetch: &mut dyn FnMut(u64) -> Result<Arc<Tree>, E>,
    ) -> Result<Option<Vec<Hash>>, E> {
        if index >= length || length > self.len() {
            return Ok(None);
        }
        let own = self.page(index / PAGE, fetch)?;
        let edge = if length.is_multiple_of(PAGE) { Page::None } else { self.page(length / PAGE, fetch)? };
        let leaves = |page: u64| if page == index / PAGE { own.tree() } else { edge.tree() };
        let (mut lo, mut hi) = (0, length);
        let mut path = Vec::new();
        while hi - lo > 1 {
            let middle = lo + proof::split(hi - lo);
            let sibling =
                if index < middle { self.range(middle, hi, &leaves) } else { self.range(lo, middle, &leaves) };
            let Some(sibling) = sibling else { return Ok(None) };
            path.push(sibling);
            (lo, hi) = if index < middle { (lo, middle) } else { (middle, hi) };
        }
        path.reverse();
        Ok(Some(path))
    }

    /// A page: from memory, or fetched and then checked against its hash.
    fn page<E>(&self, page: u64, fetch: &mut dyn FnMut(u64) -> Result<Arc<Tree>, E>) -> Result<Page<'_>, E> {
        let Some(hash) = self.pages.leaf(page) else { return Ok(Page::Tail(&self.tail)) };
        let fetched = fetch(page)?;
        Ok(if fetched.subtree(0, PAGE) == Some(hash) { Page::Full(fetched) } else { Page::None })
    }

    /// The hash over leaves `lo..hi`, where `lo` is a multiple of the largest power of two that fits; `None` if a leaf is not known.
    fn range<'a>(&self, lo: u64, hi: u64, page: &dyn Fn(u64) -> Option<&'a Tree>) -> Option<Hash> {
        let size = hi - lo;
        if size.is_power_of_two() && size >= PAGE && hi <= self.pages.len() * PAGE {
            return self.pages.subtree(lo / PAGE, hi / PAGE);
        }
        if size.is_power_of_two() && size < PAGE {
            return page(lo / PAGE)?.subtree(lo % PAGE, lo % PAGE + size);
        }
        let middle = lo + proof::split(size);
        Some(node_hash(&self.range(lo, middle, page)?, &self.range(middle, hi, page)?))
    }
}

/// A page of leaves, and where it is.
enum Page<'a> {
    Full(Arc<Tree>),
    Tail(&'a Tree),
    /// It was not what was hashed, or is not needed.
    None,
}

impl Page<'_> {
    fn tree(&self) -> Option<&Tree> {
        match self {
            Self::Full(tree) => Some(tree),
            Self::Tail(tree) => Some(tree),
            Self::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;
    use crate::proof::{OBSERVED, leaf_hash};

    #[test]
    fn roots_and_paths_are_those_of_the_plain_tree() {
        let leaves: Vec<Hash> = (0..1500u64).map(|n| leaf_hash(OBSERVED, &n.to_le_bytes())).collect();
        let (mut plain, mut paged) = (Tree::default(), PagedTree::default());
        let mut fetch = |page: u64| {
            let at = usize::try_from(page * PAGE).expect("small");
            Ok::<_, Infallible>(Arc::new(leaves[at..(at + 256).min(leaves.len())].iter().copied().collect()))
        };
        for leaf in &leaves {
            plain.push(*leaf);
            paged.push(*leaf);
        }
        let lengths = (0..40).chain(250..262).chain(505..520).chain(1020..1030).chain([1280, 1499, 1500]);
        for length in lengths {
            assert_eq!(paged.root(length, &mut fetch), Ok(plain.root(length)), "{length}");
            for index in (0..length).step_by(37).chain(length.checked_sub(1)) {
                assert_eq!(paged.path(index, length, &mut fetch), Ok(plain.path(index, length)), "{index} of {length}");
            }
        }
        assert_eq!(paged.root(1501, &mut fetch), Ok(None));
        assert_eq!(paged.path(5, 5, &mut fetch), Ok(None));
        // A page that is not what was hashed proves nothing.
        let mut wrong = |_: u64| Ok::<_, Infallible>(Arc::new([[0; 32]; 256].into_iter().collect()));
        assert_eq!(paged.path(3, 1500, &mut wrong), Ok(None));
    }

    #[test]
    fn a_stretch_of_pages_is_as_good_as_its_leaves() {
        let leaves: Vec<Hash> = (0..1000u64).map(|n| leaf_hash(OBSERVED, &n.to_le_bytes())).collect();
        let (mut whole, mut resumed) = (PagedTree::default(), PagedTree::default());
        for leaf in &leaves {
            whole.push(*leaf);
        }
        for leaf in &leaves[..300] {
            resumed.push(*leaf);
        }
        let pages: Vec<_> = whole.pages_between(300, 900).collect();
        assert_eq!(pages.len(), 2);
        resumed.extend(&pages, leaves[768..900].to_vec());
        for leaf in &leaves[900..] {
            resumed.push(*leaf);
        }
        let mut fetch = |_: u64| Ok::<_, Infallible>(Arc::default());
        assert_eq!((resumed.len(), resumed.root(1000, &mut fetch)), (1000, whole.root(1000, &mut fetch)));
        resumed.break_off();
        resumed.push(leaves[0]);
        assert_eq!(resumed.len(), 1000);
    }
}
