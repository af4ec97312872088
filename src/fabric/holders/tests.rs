//! The index against announcements, segments, restarts and a budget.

use std::collections::BTreeMap;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::fabric::segment::{check, complete, encode_keys};
use crate::id::{Digest, EpochId};
use crate::identity::{Identity, Signature, Signer};
use crate::message::{Batch, Message};
use crate::proof::Head;

const PLENTY: u64 = 1 << 30;

fn node(n: u64) -> NodeId {
    NodeId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes())
}

fn question(n: u64) -> u64 {
    let hash = blake3::hash(&[&b"question"[..], &n.to_le_bytes()].concat());
    u64::from_le_bytes(hash.as_bytes()[..8].try_into().expect("eight bytes"))
}

fn epoch(n: u8, start: u64) -> EpochStart {
    EpochStart { epoch: EpochId::from_bytes([n; 16]), start }
}

/// A log of facts and skips (`None`) in one epoch, with the announcements that its author makes of it.
struct Author {
    me: Identity,
    epoch: EpochStart,
    chain: Hash,
    items: Vec<LogItem>,
}

impl Author {
    fn new(n: u8, epoch: EpochStart) -> Self {
        let me = Identity::from_seed([n; 32]);
        let chain = chain_start(me.node(), epoch.epoch);
        Self { me, epoch, chain, items: vec![LogItem::Skip(1); usize::try_from(epoch.start).expect("small")] }
    }

    fn node(&self) -> NodeId {
        self.me.node()
    }

    fn batch(&self, first: u64, items: Vec<LogItem>) -> Batch {
        let positions: u64 = items.iter().map(LogItem::positions).sum();
        let head = Head {
            node: self.node(),
            epoch: self.epoch.epoch,
            length: first + positions - self.epoch.start,
            root: [0; 32],
        };
        Batch { first, items, head }
    }

    fn announce(&mut self, questions: &[Option<u64>]) -> Announcement {
        let items: Vec<_> = questions
            .iter()
            .map(|question| match question {
                Some(q) => LogItem::Fact { question: q.to_le_bytes(), answer: [7; 8] },
                None => LogItem::Skip(1),
            })
            .collect();
        let batch = self.batch(self.items.len() as u64, items.clone());
        self.items.extend(items);
        let announcement = Announcement::sign(&self.me, &self.chain, batch);
        self.chain = announcement.chain;
        announcement
    }

    fn manifest(&self, lineage: Vec<EpochStart>) -> Manifest {
        let manifest = Manifest {
            node: self.node(),
            lineage,
            segments: Vec::new(),
            end: self.items.len() as u64,
            chain: self.chain,
            signature: Signature::from_bytes([0; 64]),
        };
        complete(manifest, &self.me, |at, max| self.read(at, max)).expect("all of it is there")
    }

    fn read(&self, at: u64, max: usize) -> Option<Batch> {
        let items: Vec<_> = self.items.iter().skip(usize::try_from(at).ok()?).take(max).copied().collect();
        (!items.is_empty()).then(|| self.batch(at, items))
    }

    fn segment(&self, name: &SegmentName) -> Vec<u64> {
        let bytes = crate::fabric::segment::read(name.number, name.end, |at, max| self.read(at, max)).expect("there");
        check(name, &bytes).expect("the segment of that name")
    }

    fn keys(&self) -> Vec<u64> {
        let questions = self.items.iter().filter_map(|item| match item {
            LogItem::Fact { question, .. } => Some(key(u64::from_le_bytes(*question))),
            LogItem::Skip(_) => None,
        });
        let mut keys: Vec<_> = questions.collect();
        keys.sort_unstable();
        keys.dedup();
        keys
    }
}

/// Merges what its author signed.
fn merge(index: &mut HolderIndex, announcement: &Announcement) -> Merge {
    index.merge(announcement, announcement.batch.digest())
}

/// What a late joiner does.
fn join(index: &mut HolderIndex, author: &Author, manifest: &Manifest) -> usize {
    index.describe(author.node(), manifest.lineage.clone());
    let lacks = index.lacks(author.node(), manifest);
    for name in &lacks {
        index.merge_segment(author.node(), name, &author.segment(name));
    }
    index.catch_up(author.node(), manifest);
    lacks.len()
}

#[test]
fn announcements_merge_once_and_in_order() {
    let (first, mut index) = (epoch(1, 0), HolderIndex::new(PLENTY));
    let mut author = Author::new(1, first);
    let peer = author.node();
    let one = author.announce(&[None, Some(5)]);
    let two = author.announce(&[Some(6)]);
    assert_eq!(index.foresee(&one), Merge::Gap, "no description yet");
    assert!(index.describe(peer, vec![first]));
    assert_eq!((index.foresee(&two), merge(&mut index, &two)), (Merge::Gap, Merge::Gap));
    assert_eq!((index.foresee(&one), merge(&mut index, &one)), (Merge::Merged, Merge::Merged));
    assert_eq!((index.foresee(&one), merge(&mut index, &one)), (Merge::Known, Merge::Known), "a replay");
    assert_eq!(merge(&mut index, &two), Merge::Merged);
    assert_eq!((index.known(peer), index.facts_of(peer)), (3, vec![5, 6]));
    assert_eq!((index.holders(5), index.holders(7)), (vec![peer], vec![]));
    let mut greedy = author.announce(&[Some(9), Some(10)]);
    greedy.batch.head.length -= 1;
    assert_eq!(index.foresee(&greedy), Merge::Foreign, "claims more than its head covers");
}

#[test]
fn two_histories_of_one_epoch_are_an_equivocation() {
    let first = epoch(1, 0);
    let (mut author, mut liar) = (Author::new(1, first), Author::new(1, first));
    let mut index = HolderIndex::new(PLENTY);
    index.describe(author.node(), vec![first]);
    let (one, other) = (author.announce(&[Some(1)]), liar.announce(&[Some(2)]));
    assert_eq!(merge(&mut index, &one), Merge::Merged);
    assert_eq!(index.foresee(&other), Merge::Merged, "worth checking who signed it");
    assert_eq!(merge(&mut index, &other), Merge::Equivocal, "the same position, something else");
    assert_eq!(merge(&mut index, &liar.announce(&[Some(3)])), Merge::Equivocal, "its continuation");
    assert_eq!(merge(&mut index, &author.announce(&[Some(3)])), Merge::Merged);
    assert_eq!(index.facts_of(author.node()), [1, 3]);
}

#[test]
fn a_restored_copy_masks_what_it_never_appended() {
    let (a, b, c) = (epoch(1, 0), epoch(2, 3), epoch(3, 2));
    let mut index = HolderIndex::new(PLENTY);
    let mut author = Author::new(1, a);
    let peer = author.node();
    index.describe(peer, vec![a]);
    merge(&mut index, &author.announce(&[None, Some(5), Some(6)]));
    let mut later = Author { epoch: b, chain: chain_start(peer, b.epoch), ..Author::new(1, b) };
    index.describe(peer, vec![a, b]);
    assert_eq!(
        merge(&mut index, &later.announce(&[None, Some(7)])),
        Merge::Merged,
        "a new epoch goes on where the old one ended"
    );
    index.describe(peer, vec![a, b]);
    assert_eq!(
        (index.known(peer), index.facts_of(peer)),
        (5, vec![5, 6, 7]),
        "the same history again keeps everything"
    );
    index.describe(peer, vec![a, b, epoch(4, 5)]);
    assert_eq!(index.known(peer), 5, "a restart keeps everything");
    index.describe(peer, vec![a, c]);
    assert_eq!(
        (index.known(peer), index.facts_of(peer)),
        (0, vec![]),
        "what is shared may be more than was known, and comes again"
    );
    let mut restored = Author::new(1, c);
    restored.items = vec![LogItem::Skip(1), author.items[1]];
    restored.announce(&[None, Some(8)]);
    let manifest = restored.manifest(vec![a, c]);
    assert_eq!(join(&mut index, &restored, &manifest), 1);
    assert_eq!((index.known(peer), index.facts_of(peer)), (4, vec![5, 8]));
    index.describe(peer, vec![epoch(9, 0)]);
    assert_eq!((index.known(peer), index.holders(5)), (0, vec![]), "another ledger altogether");
    index.tidy(1000);
    assert!(index.is_empty(), "masked runs are swept");
}

/// The length of a message's frame: a version byte and its postcard form.
fn weight(message: &Message) -> usize {
    1 + postcard::to_extend(message, Vec::new()).expect("plain values into memory always encode").len()
}

#[test]
fn a_late_joiner_ends_with_the_same_index_for_less_than_three_and_a_third_bytes_a_fact() {
    let first = epoch(1, 0);
    let mut author = Author::new(1, first);
    let (mut live, mut late) = (HolderIndex::new(PLENTY), HolderIndex::new(PLENTY));
    live.describe(author.node(), vec![first]);
    let (mut facts, mut wire) = (0, 0);
    for round in 0..40 {
        let questions: Vec<_> = (0..1000).map(|n| (n % 10 != 3).then(|| question(round * 1000 + n))).collect();
        facts += questions.iter().flatten().count();
        let announcement = author.announce(&questions);
        wire += weight(&Message::Announce(Arc::new(announcement.clone())));
        assert_eq!(merge(&mut live, &announcement), Merge::Merged);
    }
    assert!(wire * 10 <= facts * 180, "{wire} bytes for {facts} live facts");
    let manifest = author.manifest(vec![first]);
    assert_eq!(manifest.segments.len(), 3);
    let bytes = |name: SegmentName| encode_keys(author.segment(&name)).len();
    let fetched: usize = manifest.names().map(bytes).sum();
    let named = weight(&Message::Manifest(Arc::new(manifest.clone())));
    assert!((fetched + named) * 10 <= facts * 33, "{fetched} + {named} bytes for {facts} facts");
    assert_eq!(join(&mut late, &author, &manifest), 3);
    assert_eq!(late.facts_of(author.node()), live.facts_of(author.node()));
    assert_eq!(late.facts_of(author.node()), author.keys());
    assert_eq!(join(&mut live, &author, &manifest), 0, "who was there needs nothing");
    // What is announced next follows the manifest's chain.
    let next = author.announce(&[Some(1)]);
    assert_eq!((merge(&mut late, &next), merge(&mut live, &next)), (Merge::Merged, Merge::Merged));
}

#[test]
fn a_floor_masks_whole_segments() {
    let first = epoch(1, 0);
    let mut author = Author::new(1, first);
    for round in 0..20 {
        author.announce(&(0..1000).map(|n| Some(question(round * 1000 + n))).collect::<Vec<_>>());
    }
    let mut index = HolderIndex::new(PLENTY);
    join(&mut index, &author, &author.manifest(vec![first]));
    index.raise_floor(author.node(), SEGMENT - 1);
    assert_eq!(index.holders(question(0)), [author.node()], "a part of a segment cannot be told apart");
    index.raise_floor(author.node(), SEGMENT);
    assert_eq!((index.holders(question(0)), index.holders(question(SEGMENT))), (vec![], vec![author.node()]));
    assert_eq!(index.known(author.node()), 20_000, "what is gone is not asked for again");
}

/// Facts of many nodes as a table takes them, without signatures.
fn fill(index: &mut HolderIndex, peer: NodeId, questions: impl Iterator<Item = u64>) {
    index.describe(peer, vec![epoch(1, 0)]);
    let keys: Vec<_> = questions.map(key).collect();
    for (number, keys) in keys.chunks(usize::try_from(SEGMENT).expect("small")).enumerate() {
        let number = number as u64;
        let facts = u32::try_from(keys.len()).expect("small");
        let name = SegmentName { number, end: (number + 1) * SEGMENT, facts, digest: Digest::of(b"") };
        index.merge_segment(peer, &name, keys);
    }
}

#[test]
fn the_budget_is_never_exceeded_and_what_is_nearest_stays() {
    let budget = 1 << 20;
    let mut index = HolderIndex::new(budget);
    let (near, far, farther) = (node(1), node(2), node(3));
    for (distance, peer) in [(1, near), (5, far), (9, farther)] {
        index.describe(peer, vec![epoch(1, 0)]);
        index.set_distance(peer, Duration::from_millis(distance));
    }
    let mut at = 0;
    for (peer, count) in [(farther, 150_000), (near, 100_000), (far, 150_000), (near, 20_000), (farther, 1000)] {
        for _ in 0..count / 1000 {
            let segment = at / SEGMENT;
            let name = SegmentName { number: segment, end: at + 1000, facts: 1000, digest: Digest::of(b"") };
            let keys: Vec<_> = (at..at + 1000).map(|n| key(question(n))).collect();
            index.merge_segment(peer, &name, &keys);
            assert!(index.stats().bytes <= budget, "{:?}", index.stats());
            at += 1000;
        }
    }
    let kept = |peer| index.stats_of(peer).facts;
    assert_eq!(kept(near), 120_000, "the nearest lost nothing");
    assert!(kept(far) > 50_000, "the second nearest has what is left: {}", kept(far));
    assert!(index.stats_of(farther).dropped >= 150_000, "the farthest made room, whatever of it came first");
    let all: u64 = [near, far, farther].into_iter().map(|peer| kept(peer) + index.stats_of(peer).dropped).sum();
    assert_eq!(all, 421_000, "every fact is kept or counted");
    assert_eq!(index.stats().dropped, 421_000 - kept(near) - kept(far) - kept(farther));
}

#[test]
fn a_correction_forgets_one_fact_of_one_holder() {
    let mut index = HolderIndex::new(PLENTY);
    fill(&mut index, node(1), [7, 8].into_iter());
    fill(&mut index, node(2), [7].into_iter());
    index.forget(node(1), 7);
    index.forget(node(1), 99);
    assert_eq!((index.holders(7), index.holders(8)), (vec![node(2)], vec![node(1)]));
    assert_eq!(index.stats_of(node(1)), LogStats { facts: 1, corrected: 1, ..LogStats::default() });
}

#[test]
fn a_million_facts_of_a_hundred_holders_take_less_than_six_bytes_each() {
    let mut index = HolderIndex::new(PLENTY);
    for holder in 0..100 {
        fill(&mut index, node(holder), (0..1000).map(|n| question(holder * 1000 + n)));
    }
    assert_eq!(index.len(), 100_000);
    // A tenth of it, where the fixed part weighs ten times as much; `benches/holders` measures the whole.
    assert!(index.stats().bytes_per_fact() < 6.0, "{:?}", index.stats());
}

#[test]
fn generations_do_not_make_the_index_grow() {
    let mut index = HolderIndex::new(PLENTY);
    let mut largest = 0;
    for generation in 1..=200 {
        index.describe(node(1), vec![epoch(generation, 0)]);
        let keys: Vec<_> = (0..2000).map(|n| key(question(u64::from(generation) * 2000 + n))).collect();
        let name = SegmentName { number: 0, end: 2000, facts: 2000, digest: Digest::of(b"") };
        index.merge_segment(node(1), &name, &keys);
        index.tidy(crate::limits::SWEEP_PAGES);
        assert_eq!(index.stats_of(node(1)).facts, 2000);
        largest = index.stats().bytes.max(largest);
        if generation == 10 {
            largest *= 2;
        }
    }
    assert!(index.stats().bytes < largest, "{:?}", index.stats());
    assert!(index.runs.len() < 5, "numbers of runs are used again");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Merging is a union with a bound per key: whatever the order, the same facts stay.
    #[test]
    fn the_order_of_merging_does_not_matter(
        facts in proptest::collection::vec((0..14_u64, 0..6_u64), 1..200),
        turn in 0..200_usize,
    ) {
        let mut logs: BTreeMap<u64, Vec<u64>> = BTreeMap::new();
        for (holder, question) in &facts {
            logs.entry(*holder).or_default().push(*question);
        }
        let build = |order: Vec<u64>| {
            let mut index = HolderIndex::new(PLENTY);
            for holder in &order {
                fill(&mut index, node(*holder), logs[holder].iter().copied());
            }
            index
        };
        let order: Vec<_> = logs.keys().copied().collect();
        let mut other = order.clone();
        other.rotate_left(turn % order.len());
        other.reverse();
        let (one, two) = (build(order.clone()), build(other));
        for holder in order {
            prop_assert_eq!(one.facts_of(node(holder)), two.facts_of(node(holder)));
        }
        for question in 0..6 {
            let (mut a, mut b) = (one.holders(question), two.holders(question));
            prop_assert!(a.len() <= MAX_HOLDERS);
            a.sort_unstable();
            b.sort_unstable();
            prop_assert_eq!(a, b);
        }
    }
}
