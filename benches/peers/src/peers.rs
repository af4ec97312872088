//! The peers behind one small interface, each with settings that suit this workload.

use std::path::Path;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use bytes::Bytes;
use redb::ReadableDatabase;

use crate::workload::{Done, Store, key, value};

/// Pairs that one batch takes at most; the same bound as our recorder's.
const BATCH: usize = 4096;

/// An embedded store.
pub(crate) trait Peer: Send {
    /// Writes all pairs; durable when it returns if the store was opened so.
    fn put(&self, pairs: &[([u8; 32], Bytes)]);
    /// Length of the value, which is read and copied out.
    fn get(&self, key: &[u8; 32]) -> usize;
    /// Makes everything durable.
    fn close(&self);
}

/// Group commit around a peer.
pub(crate) struct Batched {
    queue: Option<SyncSender<([u8; 32], Bytes, Done)>>,
    thread: Option<JoinHandle<()>>,
}

impl Batched {
    pub(crate) fn start(peer: Box<dyn Peer>) -> Self {
        let (queue, waiting) = sync_channel(16 * 1024);
        let thread = thread::spawn(move || run(&*peer, &waiting));
        Self { queue: Some(queue), thread: Some(thread) }
    }

    pub(crate) fn close(mut self) {
        drop(self.queue.take());
        self.thread.take().map(JoinHandle::join).expect("closed once").expect("no panic");
    }
}

fn run(peer: &dyn Peer, waiting: &Receiver<([u8; 32], Bytes, Done)>) {
    while let Ok(first) = waiting.recv() {
        let (mut pairs, mut done) = (Vec::new(), Vec::new());
        for (key, value, when) in std::iter::once(first).chain(waiting.try_iter()).take(BATCH) {
            pairs.push((key, value));
            done.push(when);
        }
        peer.put(&pairs);
        done.into_iter().for_each(|done| done());
    }
    peer.close();
}

impl Store for Batched {
    fn append(&self, n: u64, done: Done) {
        let queue = self.queue.as_ref().expect("open");
        queue.send((*key(n).as_bytes(), value(n), done)).expect("it runs");
    }
}

/// The limit: the same bytes appended to a plain file, one write and one sync for each batch; it can find nothing again.
pub(crate) struct Raw {
    file: std::sync::Mutex<std::fs::File>,
    sync: bool,
}

impl Raw {
    pub(crate) fn open(path: &Path, sync: bool) -> Self {
        let file = std::fs::File::create(path.join("raw")).expect("creates");
        Self { file: std::sync::Mutex::new(file), sync }
    }
}

impl Peer for Raw {
    fn put(&self, pairs: &[([u8; 32], Bytes)]) {
        let mut bytes = Vec::with_capacity(pairs.len() * 1100);
        for (key, value) in pairs {
            bytes.extend_from_slice(key);
            bytes.extend_from_slice(value);
        }
        let mut file = self.file.lock().expect("one thread");
        std::io::Write::write_all(&mut *file, &bytes).expect("writes");
        if self.sync {
            file.sync_data().expect("syncs");
        }
    }

    fn get(&self, _: &[u8; 32]) -> usize {
        0
    }

    fn close(&self) {}
}

pub(crate) struct Fjall {
    db: fjall::Database,
    keys: fjall::Keyspace,
    sync: bool,
}

impl Fjall {
    pub(crate) fn open(path: &Path, sync: bool) -> Self {
        let db = fjall::Database::builder(path).cache_size(256 << 20).open().expect("opens");
        let keys = db.keyspace("k", fjall::KeyspaceCreateOptions::default).expect("opens");
        Self { db, keys, sync }
    }
}

impl Peer for Fjall {
    fn put(&self, pairs: &[([u8; 32], Bytes)]) {
        let mut batch = self.db.batch();
        for (key, value) in pairs {
            batch.insert(&self.keys, &key[..], &value[..]);
        }
        batch.commit().expect("commits");
        if self.sync {
            self.db.persist(fjall::PersistMode::SyncData).expect("syncs");
        }
    }

    fn get(&self, key: &[u8; 32]) -> usize {
        self.keys.get(key).expect("reads").map_or(0, |value| std::hint::black_box(value).len())
    }

    fn close(&self) {
        self.db.persist(fjall::PersistMode::SyncAll).expect("syncs");
    }
}

#[cfg(feature = "rocksdb")]
pub(crate) struct Rocks {
    db: rocksdb::DB,
    sync: bool,
}

#[cfg(feature = "rocksdb")]
impl Rocks {
    pub(crate) fn open(path: &Path, sync: bool) -> Self {
        let mut options = rocksdb::Options::default();
        options.create_if_missing(true);
        options.set_write_buffer_size(64 << 20);
        options.increase_parallelism(2);
        Self { db: rocksdb::DB::open(&options, path).expect("opens"), sync }
    }
}

#[cfg(feature = "rocksdb")]
impl Peer for Rocks {
    fn put(&self, pairs: &[([u8; 32], Bytes)]) {
        let mut batch = rocksdb::WriteBatch::default();
        pairs.iter().for_each(|(key, value)| batch.put(key, value));
        let mut options = rocksdb::WriteOptions::default();
        options.set_sync(self.sync);
        self.db.write_opt(batch, &options).expect("commits");
    }

    fn get(&self, key: &[u8; 32]) -> usize {
        self.db.get(key).expect("reads").map_or(0, |value| std::hint::black_box(value).len())
    }

    fn close(&self) {
        self.db.flush_wal(true).expect("syncs");
        self.db.flush().expect("flushes");
    }
}

pub(crate) struct Lmdb {
    env: heed::Env,
    db: heed::Database<heed::types::Bytes, heed::types::Bytes>,
}

impl Lmdb {
    pub(crate) fn open(path: &Path, sync: bool) -> Self {
        let mut options = heed::EnvOpenOptions::new();
        options.map_size(8 << 30);
        if !sync {
            // SAFETY: the flag risks the store after a crash, and nobody reads this one after a crash.
            unsafe { options.flags(heed::EnvFlags::NO_SYNC) };
        }
        // SAFETY: the directory is this process' own.
        let env = unsafe { options.open(path) }.expect("opens");
        let mut txn = env.write_txn().expect("begins");
        let db = env.create_database(&mut txn, None).expect("opens");
        txn.commit().expect("commits");
        Self { env, db }
    }
}

impl Peer for Lmdb {
    fn put(&self, pairs: &[([u8; 32], Bytes)]) {
        let mut txn = self.env.write_txn().expect("begins");
        for (key, value) in pairs {
            self.db.put(&mut txn, key, value).expect("puts");
        }
        txn.commit().expect("commits");
    }

    fn get(&self, key: &[u8; 32]) -> usize {
        let txn = self.env.read_txn().expect("begins");
        let value = self.db.get(&txn, key).expect("reads");
        value.map_or(0, |value| std::hint::black_box(value.to_vec()).len())
    }

    fn close(&self) {
        self.env.force_sync().expect("syncs");
    }
}

pub(crate) struct Redb {
    db: redb::Database,
    sync: bool,
}

const TABLE: redb::TableDefinition<'_, &[u8], &[u8]> = redb::TableDefinition::new("k");

impl Redb {
    pub(crate) fn open(path: &Path, sync: bool) -> Self {
        let db = redb::Builder::new().set_cache_size(1 << 30).create(path.join("redb")).expect("opens");
        Self { db, sync }
    }

    fn commit(&self, pairs: &[([u8; 32], Bytes)], durability: redb::Durability) {
        let mut txn = self.db.begin_write().expect("begins");
        txn.set_durability(durability).expect("sets");
        {
            let mut table = txn.open_table(TABLE).expect("opens");
            for (key, value) in pairs {
                table.insert(&key[..], &value[..]).expect("puts");
            }
        }
        txn.commit().expect("commits");
    }
}

impl Peer for Redb {
    fn put(&self, pairs: &[([u8; 32], Bytes)]) {
        self.commit(pairs, if self.sync { redb::Durability::Immediate } else { redb::Durability::None });
    }

    fn get(&self, key: &[u8; 32]) -> usize {
        let txn = self.db.begin_read().expect("begins");
        let table = txn.open_table(TABLE).expect("opens");
        let value = table.get(&key[..]).expect("reads");
        value.map_or(0, |value| std::hint::black_box(value.value().to_vec()).len())
    }

    fn close(&self) {
        self.commit(&[], redb::Durability::Immediate);
    }
}
