//! The recorder: one thread that owns the writer, with group commit.
//!
//! It drains its queue, appends all, writes once, syncs once if anything asked for it, and then answers. A caller that goes away loses
//! nothing: what was submitted is written. Only what is durable is reported as such.

use std::io;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use super::writer::{CassetteWriter, Ticket};
use crate::id::{ContentId, Digest};
use crate::ledger::{Blob, LedgerError};
use crate::proof::Evidence;
use crate::record::Record;
use crate::request::Class;

/// Appends that may wait; the next one is refused as `Busy`.
const QUEUE: usize = 16 * 1024;
/// Appends in one group, so that the first of them does not wait for ever.
const GROUP: usize = 4096;

/// What "acknowledged" means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    /// It survives any crash.
    Durable,
    /// It survives a crash of the process, and within this time any crash.
    Batched(Duration),
    /// It survives a crash of the process.
    Memory,
}

/// How records are made durable.
#[derive(Debug, Clone, Copy)]
pub struct RecorderOptions {
    /// For observations, which nobody can compute again.
    pub observed: Durability,
    /// For what any node can compute again.
    pub reproducible: Durability,
}

impl Default for RecorderOptions {
    fn default() -> Self {
        Self { observed: Durability::Durable, reproducible: Durability::Batched(Duration::from_millis(5)) }
    }
}

/// Called once with what became of an append.
pub type Completion = Box<dyn FnOnce(Result<Ticket, LedgerError>) + Send>;

enum Op {
    Record(Record, Vec<Bytes>),
    Adopt(Evidence, Record, Vec<Bytes>, bool),
    Retract(ContentId, Digest, u64),
    Close,
}

/// Starts the recorder's thread.
#[derive(Debug)]
pub struct Recorder;

/// Submits appends; clones share the thread.
#[derive(Clone)]
pub struct RecorderHandle {
    queue: SyncSender<(Op, Completion)>,
    thread: Arc<Mutex<Option<thread::JoinHandle<()>>>>,
}

impl Recorder {
    /// Moves the writer to a thread of its own. `on_durable` hears the durable length whenever it grows.
    pub fn start(
        writer: CassetteWriter,
        options: RecorderOptions,
        on_durable: Box<dyn Fn(u64) + Send>,
    ) -> io::Result<RecorderHandle> {
        let (queue, ops) = sync_channel(QUEUE);
        let run = move || run(writer, options, &ops, &*on_durable);
        let thread = thread::Builder::new().name("evalmesh-ledger".to_owned()).spawn(run)?;
        Ok(RecorderHandle { queue, thread: Arc::new(Mutex::new(Some(thread))) })
    }
}

impl RecorderHandle {
    /// Appends a record of this node with its payloads, in the order of `Record::blobs`. Never blocks.
    pub fn record(&self, record: Record, payloads: Vec<Bytes>, done: Completion) {
        self.submit(Op::Record(record, payloads), done);
    }

    /// Appends a believed record of another node. Never blocks.
    pub fn adopt(&self, evidence: Evidence, record: Record, payloads: Vec<Bytes>, announce: bool, done: Completion) {
        self.submit(Op::Adopt(evidence, record, payloads, announce), done);
    }

    /// Appends "never serve this answer again". Never blocks.
    pub fn retract(&self, request: ContentId, answer: Digest, at: u64, done: Completion) {
        self.submit(Op::Retract(request, answer, at), done);
    }

    fn submit(&self, op: Op, done: Completion) {
        match self.queue.try_send((op, done)) {
            Ok(()) => {}
            Err(TrySendError::Full((_, done))) => done(Err(LedgerError::Busy { bound: QUEUE })),
            Err(TrySendError::Disconnected((_, done))) => done(Err(LedgerError::Closed)),
        }
    }

    /// Writes everything that was submitted, makes it durable, and ends the thread.
    pub fn close(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        // Waits for room: closing must not be refused. An error means that the thread is gone already.
        let _ = self.queue.send((Op::Close, Box::new(drop)));
        if thread.join().is_err() {
            tracing::error!("the ledger thread panicked");
        }
    }
}

fn run(
    mut writer: CassetteWriter,
    options: RecorderOptions,
    ops: &Receiver<(Op, Completion)>,
    on_durable: &dyn Fn(u64),
) {
    // The longest time until what is written must be synced.
    let mut unsynced: Option<Duration> = None;
    loop {
        let first = match unsynced {
            None => ops.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(within) => ops.recv_timeout(within),
        };
        let mut closing = false;
        let mut group = Vec::new();
        match first {
            Ok(op) => group.push(op),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => closing = true,
        }
        let timed_out = group.is_empty();
        group.extend(ops.try_iter().take(GROUP));
        let mut sync = timed_out && unsynced.is_some();
        let mut waiting = Vec::with_capacity(group.len());
        for (op, done) in group {
            closing |= matches!(op, Op::Close);
            match wanted(&op, options) {
                Some(Durability::Durable) => sync = true,
                Some(Durability::Batched(within)) => unsynced = Some(unsynced.map_or(within, |old| old.min(within))),
                Some(Durability::Memory) | None => {}
            }
            waiting.push((append(&mut writer, op), done));
        }
        let written = if sync || closing { writer.commit() } else { writer.write_out() };
        if sync || closing || written.is_err() {
            unsynced = None;
        }
        for (ticket, done) in waiting {
            done(written.clone().and(ticket));
        }
        if let (Ok(length), true) = (&written, sync || closing) {
            on_durable(*length);
        }
        if closing {
            break;
        }
    }
}

fn append(writer: &mut CassetteWriter, op: Op) -> Result<Ticket, LedgerError> {
    let blobs = |payloads: Vec<Bytes>| payloads.into_iter().map(Blob::new).collect();
    match op {
        Op::Record(record, payloads) => writer.record(record, blobs(payloads)),
        Op::Adopt(evidence, record, payloads, announce) => writer.adopt(evidence, record, blobs(payloads), announce),
        Op::Retract(request, answer, at) => writer.retract(request, answer, at),
        Op::Close => Ok(Ticket::Held),
    }
}

fn wanted(op: &Op, options: RecorderOptions) -> Option<Durability> {
    match op {
        Op::Record(record, _) | Op::Adopt(_, record, ..) => Some(match record.class {
            Class::Portable | Class::Device(_) => options.reproducible,
            _ => options.observed,
        }),
        Op::Retract(..) => Some(Durability::Durable),
        Op::Close => None,
    }
}
