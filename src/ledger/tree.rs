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

    /// The root over the first `length` leaves; see [`Self::edge`].
    pub(super) fn root<E>(
        &self,
        length: u64,
        fetch: &mut dyn FnMut(u64) -> Result<Arc<Tree>, E>,
    ) -> Result<Option<Hash>, E> {
        Ok(self.edge(length, fetch)?.map(|edge| edge.root()))
    }

    /// The right edge of the tree of the first `length` leaves; `None` if there are fewer, or one is not known. `fetch` gives a page, with as many
    /// leaves as there are.
    pub(super) fn edge<E>(
        &self,
        length: u64,
        fetch: &mut dyn FnMut(u64) -> Result<Arc<Tree>, E>,
    ) -> Result<Option<Edge>, E> {
        if length > self.len() {
            return Ok(None);
        }
        let page = if length.is_multiple_of(PAGE) { Page::None } else { self.page(length / PAGE, fetch)? };
        Ok(self.edge_of(length, page.tree()))
    }

    fn edge_of(&self, length: u64, page: Option<&Tree>) -> Option<Edge> {
        let (mut starts, mut lo) = (Vec::new(), 0);
        while lo < length {
            starts.push(lo);
            let size = length - lo;
            lo = if size.is_power_of_two() { length } else { lo + proof::split(size) };
        }
        let mut parts: Vec<(u64, Hash)> = Vec::with_capacity(starts.len());
        for lo in starts.into_iter().rev() {
            let hash = match parts.last() {
                None => self.range(lo, length, page)?,
                Some((middle, right)) => node_hash(&self.range(lo, *middle, page)?, right),
            };
            parts.push((lo, hash));
        }
        Some(Edge { length, parts })
    }

    /// The audit path of leaf `index` in the tree with this right edge; see [`Tree::path`].
    pub(super) fn path<E>(
        &self,
        index: u64,
        edge: &Edge,
        fetch: &mut dyn FnMut(u64) -> Result<Arc<Tree>, E>,
    ) -> Result<Option<Vec<Hash>>, E> {
        let length = edge.length;
        if index >= length || length > self.len() {
            return Ok(None);
        }
        let own = self.page(index / PAGE, fetch)?;
        let (mut lo, mut hi) = (0, length);
        let mut path = Vec::with_capacity(length.ilog2() as usize + 1);
        while hi - lo > 1 {
            let middle = lo + proof::split(hi - lo);
            let (from, to) = if index < middle { (middle, hi) } else { (lo, middle) };
            // Beside the edge, a sibling that is less than a page is in the leaf's own one.
            let at_edge = if to == length { edge.part(from) } else { None };
            let sibling = at_edge.or_else(|| self.range(from, to, own.tree()));
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

    /// The hash over leaves `lo..hi`, a complete subtree of whole pages, or of one that is given; `None` if a leaf is not known.
    fn range(&self, lo: u64, hi: u64, page: Option<&Tree>) -> Option<Hash> {
        let size = hi - lo;
        if size >= PAGE && hi <= self.pages.len() * PAGE {
            return self.pages.subtree(lo / PAGE, hi / PAGE);
        }
        page?.subtree(lo % PAGE, lo % PAGE + size)
    }
}

/// The subtrees at the right edge of a tree of some length, each as far as it exists. All paths under one head end in them.
#[derive(Debug)]
pub(super) struct Edge {
    length: u64,
    /// Where each begins and its hash, from the right; the last one is the root.
    parts: Vec<(u64, Hash)>,
}

impl Edge {
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    pub(super) fn root(&self) -> Hash {
        self.parts.last().map_or_else(proof::empty_root, |(_, root)| *root)
    }

    /// The hash over the leaves from here on.
    fn part(&self, from: u64) -> Option<Hash> {
        self.parts.iter().find(|(start, _)| *start == from).map(|(_, hash)| *hash)
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
            let edge = paged.edge(length, &mut fetch).expect("pages").expect("long enough");
            assert_eq!(Some(edge.root()), plain.root(length), "{length}");
            for index in (0..length).step_by(37).chain(length.checked_sub(1)) {
                assert_eq!(paged.path(index, &edge, &mut fetch), Ok(plain.path(index, length)), "{index} of {length}");
            }
        }
        assert!(paged.edge(1501, &mut fetch).expect("pages").is_none());
        let edge = paged.edge(5, &mut fetch).expect("pages").expect("long enough");
        assert_eq!(paged.path(5, &edge, &mut fetch), Ok(None));
        // A page that is not what was hashed proves nothing.
        let mut wrong = |_: u64| Ok::<_, Infallible>(Arc::new([[0; 32]; 256].into_iter().collect()));
        let edge = paged.edge(1500, &mut wrong).expect("the tail").expect("long enough");
        assert_eq!(paged.path(3, &edge, &mut wrong), Ok(None));
        assert!(paged.edge(257, &mut wrong).expect("pages").is_none());
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
        let mut root = |tree: &PagedTree| tree.edge(1000, &mut fetch).expect("the tail").map(|edge| edge.root());
        assert_eq!((resumed.len(), root(&resumed)), (1000, root(&whole)));
        resumed.break_off();
        resumed.push(leaves[0]);
        assert_eq!(resumed.len(), 1000);
    }
}
