//! The ledger's workload: records with 1 KiB payloads, callers that each wait for their answer before they ask again.
//!
//! Shared by `benches/ledger.rs` and the excluded package `benches/peers`, so that every store does the same work. All randomness has one
//! seed. Keys are 32-byte hashes, values are 1 KiB of noise that does not compress.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use evalmesh::cassette::{Cassette, CassetteOptions, CassetteWriter, Durability, Lookup, Recorder, RecorderHandle};
use evalmesh::id::{ContentId, EpochId};
use evalmesh::identity::{Identity, Signer};
use evalmesh::ledger::{FileStorage, Opening};
use evalmesh::record::Observation;
use evalmesh::reply::Reply;
use evalmesh::request::Class;

/// That of the `evalmesh` program; whatever is compared with it has it too.
#[path = "../src/allocator.rs"]
pub(crate) mod allocator;

/// Bytes of a value.
pub(crate) const VALUE: usize = 1024;

/// What is called when an append is as durable as was asked.
pub(crate) type Done = Box<dyn FnOnce() + Send>;

/// A store that appends in the background.
pub(crate) trait Store {
    /// Appends the `n`-th pair.
    fn append(&self, n: u64, done: Done);
}

/// A small generator: splitmix64.
#[derive(Debug)]
pub(crate) struct Rng(pub u64);

impl Rng {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// The `n`-th key.
pub(crate) fn key(n: u64) -> ContentId {
    ContentId::of(&n.to_le_bytes())
}

/// The `n`-th value.
pub(crate) fn value(n: u64) -> Bytes {
    static NOISE: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let mut rng = Rng(0x5eed);
        (0..64 * VALUE).flat_map(|_| rng.next().to_le_bytes()).collect()
    });
    let at = usize::try_from(n % (63 * 8)).expect("small") * VALUE / 8;
    let mut value = NOISE[at..at + VALUE].to_vec();
    value[..8].copy_from_slice(&n.to_le_bytes());
    value.into()
}

#[expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]
pub(crate) fn now() -> Instant {
    Instant::now()
}

/// Appends `count` pairs from `first` on, with so many callers; returns how many a second.
pub(crate) fn appends(store: &dyn Store, callers: u64, first: u64, count: u64) -> f64 {
    let (free, idle) = sync_channel(usize::try_from(callers).expect("few"));
    let begun = now();
    for n in first..first + count {
        if n - first >= callers {
            idle.recv().expect("an append is done");
        }
        let free = free.clone();
        store.append(
            n,
            Box::new(move || {
                let _ = free.send(());
            }),
        );
    }
    for _ in 0..callers.min(count) {
        idle.recv().expect("an append is done");
    }
    count as f64 / begun.elapsed().as_secs_f64()
}

/// Microseconds of this thread's CPU time that one of `count` random gets below `bound` takes.
pub(crate) fn gets(count: u64, bound: u64, mut get: impl FnMut(u64) -> usize) -> f64 {
    let mut rng = Rng(42);
    let mut bytes = 0;
    let begun = thread_cpu();
    for _ in 0..count {
        bytes += get(rng.next() % bound);
    }
    let spent = thread_cpu().saturating_sub(begun);
    assert_eq!(bytes as u64, count * VALUE as u64, "every key is there");
    spent.as_secs_f64() * 1e6 / count as f64
}

/// CPU time of this thread.
pub(crate) fn thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number"))
}

/// CPU time of this process so far, all threads that still run or ran.
pub(crate) fn process_cpu() -> Duration {
    let text = fs::read_to_string("/proc/self/stat").expect("Linux");
    let fields = text.rsplit(')').next().expect("a name in parentheses").split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Bytes that this process has caused to be written to disks.
pub(crate) fn written() -> u64 {
    let text = fs::read_to_string("/proc/self/io").expect("Linux");
    let line = text.lines().find_map(|line| line.strip_prefix("write_bytes: ")).expect("a line");
    line.parse().expect("a number")
}

/// The middle of three and more.
pub(crate) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Our ledger behind its recorder.
pub(crate) struct Ours {
    pub(crate) recorder: RecorderHandle,
    identity: Identity,
}

impl Ours {
    pub(crate) fn open(path: &Path, durability: Durability, ram_bytes: usize) -> Self {
        let identity = Identity::from_seed([7; 32]);
        let storage = FileStorage::open(path).expect("opens");
        let epoch = Rng(u64::from(std::process::id()) ^ now().elapsed().as_nanos() as u64 ^ written()).next();
        let mut name = [0; 16];
        name[..8].copy_from_slice(&epoch.to_le_bytes());
        name[8..].copy_from_slice(&fs::read_dir(path).map_or(0, Iterator::count).to_le_bytes());
        let opening = Opening::new(identity.node(), EpochId::from_bytes(name), 1);
        let options = CassetteOptions { ram_bytes, durability: Some(durability), disk_bytes: None };
        let (writer, _) = CassetteWriter::open(Arc::new(storage), &opening, options).expect("opens");
        Self { recorder: Recorder::start(writer, None).expect("a thread"), identity }
    }

    pub(crate) fn cassette(&self) -> &Cassette {
        self.recorder.cassette()
    }

    /// Length of the `n`-th value, read.
    pub(crate) fn get(&self, n: u64) -> usize {
        let Ok(Lookup::Hit(held)) = self.cassette().lookup(key(n)) else { return 0 };
        black_box(&held).reply().stdout.as_ref().and_then(|payload| payload.bytes()).map_or(0, Bytes::len)
    }
}

impl Store for Ours {
    fn append(&self, n: u64, done: Done) {
        let about = Observation {
            request: key(n),
            kind: "bench".parse().expect("a name"),
            class: Class::Portable,
            observed_at: 1_700_000_000_000_000 + n,
            trace: None,
            upstream: Vec::new(),
        };
        let reply = Reply::ok(value(n));
        self.recorder.observe(about, &reply, self.identity.node(), move |result| {
            result.expect("records");
            done();
        });
    }
}
