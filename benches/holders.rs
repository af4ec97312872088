//! The holder index in figures: memory per fact, look-up time, bytes on the wire for live facts and for a late joiner.
//!
//! `cargo bench --no-default-features --bench holders [-- FACTS HOLDERS]`: FACTS facts in all (default 1,000,000), spread evenly over HOLDERS
//! logs (default 100). Every bound is the one of the issue; the program fails if one does not hold.

#![expect(clippy::cast_precision_loss, reason = "figures for people")]

use std::hint::black_box;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use evalmesh::fabric::{HolderIndex, Merge, segment};
use evalmesh::id::{EpochId, NodeId};
use evalmesh::identity::{Identity, Signature, Signer};
use evalmesh::limits::{BATCH_FACTS, SEGMENT};
use evalmesh::message::{Announcement, AskId, Batch, EpochStart, LogItem, Manifest, Message, chain_start};
use evalmesh::proof::{Hash, Head};
use evalmesh::wire;

const LOOKUPS: u64 = 1_000_000;

/// A number that is as uniform as a question's fingerprint (the finaliser of splitmix64).
fn question(n: u64) -> u64 {
    let mut mixed = n.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The log of one holder, made up as it is read.
struct Log {
    me: Identity,
    first: u64,
    len: u64,
}

impl Log {
    const EPOCH: EpochStart = EpochStart { epoch: EpochId::from_bytes([1; 16]), start: 0 };

    fn node(&self) -> NodeId {
        self.me.node()
    }

    fn read(&self, at: u64, max: usize) -> Option<Batch> {
        let end = self.len.min(at + max as u64);
        let fact = |n: u64| LogItem::Fact { question: question(self.first + n).to_le_bytes(), answer: n.to_le_bytes() };
        let head = Head { node: self.node(), epoch: Self::EPOCH.epoch, length: self.len, root: [7; 32] };
        (at < end).then(|| Batch { first: at, items: (at..end).map(fact).collect(), head })
    }

    fn announce(&self, at: u64, chain: &Hash) -> Option<Announcement> {
        Some(Announcement::sign(&self.me, chain, self.read(at, BATCH_FACTS)?))
    }

    fn manifest(&self) -> Manifest {
        let unsigned = Manifest {
            node: self.node(),
            lineage: vec![Self::EPOCH],
            segments: Vec::new(),
            end: self.len,
            chain: [0; 32],
            signature: Signature::from_bytes([0; 64]),
        };
        segment::complete(unsigned, &self.me, |at, max| self.read(at, max)).expect("the whole log is there")
    }
}

/// What one log costs on the wire as it is announced, and merges it.
fn announce_all(index: &mut HolderIndex, log: &Log) -> u64 {
    index.describe(log.node(), vec![Log::EPOCH]);
    let (mut at, mut chain, mut bytes) = (0, chain_start(log.node(), Log::EPOCH.epoch), 0);
    while let Some(announcement) = log.announce(at, &chain) {
        (at, chain) = (announcement.batch.end(), announcement.chain);
        bytes += size(&Message::Announce(Arc::new(announcement.clone())));
        assert_eq!(index.merge(&announcement, announcement.batch.digest()), Merge::Merged);
    }
    bytes
}

/// What one log costs a late joiner on the wire, both directions, and merges it.
fn join(index: &mut HolderIndex, log: &Log) -> u64 {
    let manifest = log.manifest();
    index.describe(log.node(), vec![Log::EPOCH]);
    let mut bytes =
        size(&Message::Pull { node: log.node(), from: 0 }) + size(&Message::Manifest(Arc::new(manifest.clone())));
    for name in index.lacks(log.node(), &manifest) {
        let ask = AskId(name.number);
        let (number, end, digest) = (name.number, name.end, name.digest);
        bytes += size(&Message::GetSegment { ask, node: log.node(), number, end, digest });
        let found = segment::read(number, end, |at, max| log.read(at, max)).expect("the log reaches that far");
        let keys = segment::check(&name, &found).expect("the segment of that name");
        bytes += size(&Message::Segment { ask, bytes: found.into() });
        index.merge_segment(log.node(), &name, &keys);
    }
    index.catch_up(log.node(), &manifest);
    bytes
}

fn size(message: &Message) -> u64 {
    wire::encode(message).expect("in bounds").len() as u64
}

/// Time that this thread computed, in nanoseconds; where the system does not tell, time that passed.
#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
fn nanoseconds() -> u64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    let running = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let passed = || u64::try_from(START.elapsed().as_nanos()).unwrap_or(u64::MAX);
    running.split(' ').next().and_then(|text| text.parse().ok()).unwrap_or_else(passed)
}

fn nanoseconds_per_lookup(index: &HolderIndex, ask: impl Fn(u64) -> u64) -> (f64, u64) {
    let start = nanoseconds();
    let mut found = 0;
    for n in 0..LOOKUPS {
        found += black_box(index.holders(black_box(ask(question(n))))).len() as u64;
    }
    ((nanoseconds() - start) as f64 / LOOKUPS as f64, found)
}

/// Prints a figure with its bound; whether it holds.
fn row(what: &str, figure: f64, bound: f64) -> bool {
    let holds = figure <= bound;
    println!("{what:<46} {figure:>9.2}   at most {bound:>5}   {}", if holds { "holds" } else { "DOES NOT HOLD" });
    holds
}

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|arg| arg.parse().ok()).collect();
    let facts = numbers.first().copied().unwrap_or(1_000_000);
    let holders = numbers.get(1).copied().unwrap_or(100).max(1);
    let len = facts / holders;
    println!(
        "{facts} facts of {holders} holders, {len} each; segments of {SEGMENT}, keys of {} bits",
        segment::KEY_BITS
    );

    let mut index = HolderIndex::new(1 << 40);
    let (mut live, mut late, mut live_logs) = (0, 0, 0);
    for holder in 0..holders {
        let mut seed = [3; 32];
        seed[..8].copy_from_slice(&holder.to_le_bytes());
        let log = Log { me: Identity::from_seed(seed), first: holder * len, len };
        // Announcements are signed one by one: a tenth of the holders is enough to know what they cost.
        if holder % 10 == 0 {
            live += announce_all(&mut index, &log);
            live_logs += 1;
        } else {
            late += join(&mut index, &log);
        }
    }
    let stats = index.stats();
    let per = |bytes: u64, logs: u64| bytes as f64 / (logs * len).max(1) as f64;
    let (hit, found) = nanoseconds_per_lookup(&index, |q| question_of(q, facts));
    let (miss, wrong) = nanoseconds_per_lookup(&index, |q| !q);
    assert!(found >= LOOKUPS, "every fact is found");
    let rows = [
        row("memory, bytes per fact", stats.bytes_per_fact(), 6.0),
        row("look-up that finds a holder, ns", hit, 500.0),
        row("look-up that finds nothing, ns", miss, 500.0),
        row("on the wire, bytes per live fact and node", per(live, live_logs), 18.0),
        row("on the wire, bytes per fact for a late joiner", per(late, holders - live_logs), 3.3),
    ];
    println!("{wrong} of {LOOKUPS} look-ups of nothing suggested a holder; {} bytes of memory in all", stats.bytes);
    assert!(rows.into_iter().all(|holds| holds), "a bound does not hold");
}

/// A question that is among the facts, from a uniform number.
fn question_of(uniform: u64, facts: u64) -> u64 {
    question(uniform % facts.max(1))
}
