//! The production thread around a [`CassetteWriter`]: group commit.
//!
//! It takes whatever waits in its queue, appends all of it, and pays one write and, if anything in it demands so, one sync. While a sync
//! runs the next group gathers. A caller that goes away changes nothing: its operation is done all the same. Where the ledger is in memory and the
//! thread has nothing to do, who observes something appends it at once ([`RecorderHandle::observe_here`]). Clock, channels and threads come
//! from the module above, so that `cassette/tests/interleavings` runs this very file under many orders of its threads.

use std::fmt;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::{ContentId, Digest, NodeId};
use crate::ledger::{Blob, Intake, LedgerError, Made, Room};
use crate::proof::Evidence;
use crate::record::{Observation, Record};
use crate::reply::Reply;
use crate::verified::VerifiedReply;

use super::clock::{micros, now};
use super::limits::{
    BUDGET_EVERY, COMPANY, COMPANY_SILENCE, COMPANY_WAIT, RECORDER_BYTES, RECORDER_GROUP, RECORDER_QUEUE,
};
use super::sync::atomic::{AtomicU64, Ordering};
use super::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use super::sync::{Arc, Mutex, RwLock};
use super::thread::{self, JoinHandle};
use super::view::Cassette;
use super::writer::{CassetteWriter, Durability, Prepared, Recorded, Ticket};

/// What is called when an operation is complete, on the recorder's thread: it must be quick.
pub type Done = Box<dyn FnOnce(Result<Recorded, LedgerError>) + Send>;

/// What is called with the durable length whenever it has grown, on the recorder's thread: it must be quick.
pub type OnDurable = Box<dyn Fn(u64) + Send>;

/// Starts recorder threads.
#[derive(Debug)]
pub struct Recorder;

/// A handle on a recorder thread. Cheap to clone; the last one to go away closes it.
#[derive(Clone)]
pub struct RecorderHandle {
    inner: Arc<Inner>,
    cassette: Cassette,
}

struct Inner {
    queue: RwLock<Option<SyncSender<Op>>>,
    /// Operations that were sent and are not appended yet, and bytes of payloads in the queue.
    sent: Arc<AtomicU64>,
    queued: Arc<AtomicU64>,
    /// Who has this writes. The thread has it for a group at a time, and takes it away when it ends.
    worker: Arc<Mutex<Option<Worker>>>,
    /// Whether writing takes no time.
    volatile: bool,
    thread: Mutex<Option<JoinHandle<Result<u64, LedgerError>>>>,
}

struct Op {
    what: What,
    done: Done,
}

/// A believed reply of another node, to be taken over in the background; nobody waits for it.
#[derive(Debug)]
pub struct Adoption {
    /// The reply.
    pub reply: Box<VerifiedReply>,
    /// Whether to announce it.
    pub announce: bool,
}

impl Adoption {
    /// Bytes of payloads and of what proves them: of many small replies these are most.
    fn len(&self) -> u64 {
        (self.reply.payload_bytes() + self.reply.evidence().size()) as u64
    }
}

enum What {
    Record(Box<Prepared>),
    Adoptions(Vec<Adoption>),
    Adopt { prepared: Box<Prepared>, announce: bool },
    Retract { id: ContentId, answer: Digest, at: u64 },
}

impl What {
    /// Bytes of payloads.
    fn len(&self) -> u64 {
        match self {
            Self::Record(prepared) | Self::Adopt { prepared, .. } => prepared.len(),
            Self::Adoptions(all) => all.iter().map(Adoption::len).sum(),
            Self::Retract { .. } => 0,
        }
    }
}

impl fmt::Debug for RecorderHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecorderHandle").field("cassette", &self.cassette).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Moves the writer to a thread of its own.
    pub fn start(writer: CassetteWriter, on_durable: Option<OnDurable>) -> io::Result<RecorderHandle> {
        let cassette = writer.cassette();
        let (queue, ops) = sync_channel(RECORDER_QUEUE);
        let (sent, queued) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let volatile = writer.is_volatile();
        let room = RoomMaker::start()?;
        let worker = Worker {
            told: writer.durable(),
            writer,
            on_durable,
            sent: sent.clone(),
            queued: queued.clone(),
            deadline: None,
            room,
            since_budget: BUDGET_EVERY,
            company: 0,
            sync_takes: Duration::ZERO,
        };
        let worker = Arc::new(Mutex::new(Some(worker)));
        let works = worker.clone();
        let thread = thread::Builder::new().name("recorder".to_owned()).spawn(move || run(&works, &ops))?;
        let (queue, thread) = (RwLock::new(Some(queue)), Mutex::new(Some(thread)));
        let inner = Inner { queue, sent, queued, worker, volatile, thread };
        Ok(RecorderHandle { inner: Arc::new(inner), cassette })
    }
}

impl RecorderHandle {
    /// The reading side.
    #[must_use]
    pub fn cassette(&self) -> &Cassette {
        &self.cassette
    }

    /// Records what this node observed; see [`CassetteWriter::record`]. Hashes the payloads on the calling thread.
    pub fn record(
        &self,
        record: Record,
        payloads: Vec<Bytes>,
        done: impl FnOnce(Result<Recorded, LedgerError>) + Send + 'static,
    ) {
        match Prepared::new(record, payloads) {
            Ok(prepared) => self.send(What::Record(Box::new(prepared)), Box::new(done)),
            Err(error) => done(Err(error)),
        }
    }

    /// Takes in a payload piece by piece, for [`Self::record_blobs`]; see [`Intake`].
    #[must_use]
    pub fn intake(&self) -> Intake {
        self.cassette.ledger().intake()
    }

    /// Records what this node observed, with payloads that are hashed already: in memory, or streamed in by [`Self::intake`].
    pub fn record_blobs(
        &self,
        record: Record,
        payloads: Vec<Blob>,
        done: impl FnOnce(Result<Recorded, LedgerError>) + Send + 'static,
    ) {
        match Prepared::with(record, payloads) {
            Ok(prepared) => self.send(What::Record(Box::new(prepared)), Box::new(done)),
            Err(error) => done(Err(error)),
        }
    }

    /// Records a reply that this node observed, all of whose payloads are inline. Hashes them, once, on the calling thread.
    pub fn observe(
        &self,
        about: Observation,
        reply: &Reply,
        producer: NodeId,
        done: impl FnOnce(Result<Recorded, LedgerError>) + Send + 'static,
    ) {
        match Prepared::observe(about, reply, producer) {
            Ok(prepared) => self.send(What::Record(Box::new(prepared)), Box::new(done)),
            Err(error) => done(Err(error)),
        }
    }

    /// As [`Self::observe`]; but where the ledger is in memory and nobody writes or waits to, it is recorded before this returns, durable as far as
    /// that goes, and the outcome is here: `done` and the durable callback are not called then.
    pub fn observe_here(
        &self,
        about: Observation,
        reply: &Reply,
        producer: NodeId,
        done: impl FnOnce(Result<Recorded, LedgerError>) + Send + 'static,
    ) -> Option<Result<Recorded, LedgerError>> {
        let prepared = match Prepared::observe(about, reply, producer) {
            Ok(prepared) => Box::new(prepared),
            Err(error) => return Some(Err(error)),
        };
        match self.inner.at_once(prepared) {
            Ok(result) => Some(result),
            Err(prepared) => {
                self.send(What::Record(prepared), Box::new(done));
                None
            }
        }
    }

    /// Takes over what another node observed; see [`CassetteWriter::adopt`]. Hashes the payloads on the calling thread.
    pub fn adopt(
        &self,
        evidence: Evidence,
        record: Record,
        payloads: Vec<Bytes>,
        announce: bool,
        done: impl FnOnce(Result<Recorded, LedgerError>) + Send + 'static,
    ) {
        match Prepared::adopted(evidence, record, payloads) {
            Ok(prepared) => self.send(What::Adopt { prepared: Box::new(prepared), announce }, Box::new(done)),
            Err(error) => done(Err(error)),
        }
    }

    /// Takes over believed replies of other nodes with one wake-up of the recorder, which makes their entries: hashing is paid there. Each
    /// is lost alone, and a lost one costs a fetch.
    pub fn adopt_all(&self, adoptions: Vec<Adoption>) {
        if !adoptions.is_empty() {
            self.send(What::Adoptions(adoptions), Box::new(|result| not_adopted(&result)));
        }
    }

    /// Says that an answer is never to be served again; see [`CassetteWriter::retract`].
    pub fn retract(
        &self,
        id: ContentId,
        answer: Digest,
        at: u64,
        done: impl FnOnce(Result<Recorded, LedgerError>) + Send + 'static,
    ) {
        self.send(What::Retract { id, answer, at }, Box::new(done));
    }

    /// Takes no more operations, finishes those that wait, makes everything durable and ends the thread. Returns the durable length.
    pub fn close(&self) -> Result<u64, LedgerError> {
        self.inner.close().unwrap_or(Err(LedgerError::Closed))
    }

    fn send(&self, what: What, done: Done) {
        let len = what.len();
        let op = Op { what, done };
        self.inner.sent.fetch_add(1, Ordering::SeqCst);
        let queued = self.inner.queued.fetch_add(len, Ordering::Relaxed);
        let too_much = queued > 0 && queued.saturating_add(len) > RECORDER_BYTES;
        let refused = match &*self.inner.queue.read().expect("no code panics while it holds the queue") {
            Some(_) if too_much => (op, LedgerError::Busy { what: "bytes", bound: RECORDER_BYTES }),
            Some(queue) => match queue.try_send(op) {
                Ok(()) => return,
                Err(TrySendError::Full(op)) => {
                    (op, LedgerError::Busy { what: "operations", bound: RECORDER_QUEUE as u64 })
                }
                Err(TrySendError::Disconnected(op)) => (op, LedgerError::Closed),
            },
            None => (op, LedgerError::Closed),
        };
        self.inner.queued.fetch_sub(len, Ordering::Relaxed);
        self.inner.sent.fetch_sub(1, Ordering::SeqCst);
        let (Op { done, .. }, error) = refused;
        done(Err(error));
    }
}

impl Inner {
    /// Records on this thread, unless that could take time or overtake what was sent before.
    fn at_once(&self, prepared: Box<Prepared>) -> Result<Result<Recorded, LedgerError>, Box<Prepared>> {
        if !self.volatile {
            return Err(prepared);
        }
        let Ok(mut worker) = self.worker.try_lock() else { return Err(prepared) };
        match &mut *worker {
            Some(worker) if self.sent.load(Ordering::SeqCst) == 0 => Ok(worker.at_once(prepared)),
            _ => Err(prepared),
        }
    }

    /// `None` if it was closed before.
    fn close(&self) -> Option<Result<u64, LedgerError>> {
        drop(self.queue.write().expect("no code panics while it holds the queue").take());
        let thread = self.thread.lock().expect("no code panics while it holds the thread").take()?;
        if thread.thread().id() == thread::current().id() {
            // The last handle went away inside a completion: the thread ends by itself once that returns.
            return None;
        }
        Some(thread.join().unwrap_or(Err(LedgerError::Closed)))
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(Err(error)) = self.close() {
            tracing::warn!(%error, "the recorder closed with a failure");
        }
    }
}

struct Worker {
    writer: CassetteWriter,
    on_durable: Option<OnDurable>,
    sent: Arc<AtomicU64>,
    queued: Arc<AtomicU64>,
    /// The durable length that was told last.
    told: u64,
    /// When something that was written must be durable.
    deadline: Option<Instant>,
    room: RoomMaker,
    /// How many waited for the last sync, and how long one takes.
    company: usize,
    sync_takes: Duration,
    /// Bytes of payloads since the disk budget was looked at.
    since_budget: u64,
}

/// Operations that one write serves.
#[derive(Default)]
struct Group {
    waiting: Vec<(Ticket, Done)>,
    /// Whether one of them is to be durable.
    sync: bool,
    delay: Option<Duration>,
}

impl Group {
    /// Something in it is to be as durable as this.
    fn demand(&mut self, durability: Durability) {
        match durability {
            Durability::Durable => self.sync = true,
            Durability::Batched(wait) => self.delay = Some(self.delay.map_or(wait, |other| other.min(wait))),
            Durability::Memory => {}
        }
    }
}

/// The thread that makes room ahead.
struct RoomMaker {
    wanted: Option<SyncSender<Room>>,
    made: Receiver<Made>,
    thread: Option<JoinHandle<()>>,
}

impl RoomMaker {
    fn start() -> io::Result<Self> {
        let (wanted, rooms) = sync_channel::<Room>(2);
        let (done, made) = sync_channel(2);
        let work = move || rooms.into_iter().map(Room::make).try_for_each(|made| done.send(made)).unwrap_or(());
        let thread = thread::Builder::new().name("room".to_owned()).spawn(work)?;
        Ok(Self { wanted: Some(wanted), made, thread: Some(thread) })
    }

    /// Hands work over and takes what is done; never waits.
    fn turn(&self, writer: &mut CassetteWriter) {
        self.made.try_iter().for_each(|made| writer.accept(made));
        if let Some(room) = writer.wants_room()
            && let Some(wanted) = &self.wanted
            && wanted.try_send(room).is_err()
        {
            tracing::warn!("the thread that makes room is behind; commits will be slower");
        }
    }
}

impl Drop for RoomMaker {
    fn drop(&mut self) {
        drop(self.wanted.take());
        self.made.try_iter().for_each(drop);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that makes room panicked");
        }
    }
}

/// The recorder's thread.
fn run(worker: &Mutex<Option<Worker>>, ops: &Receiver<Op>) -> Result<u64, LedgerError> {
    let mut deadline: Option<Instant> = None;
    loop {
        let first = match deadline {
            None => ops.recv().map_err(|_| RecvTimeoutError::Disconnected),
            Some(deadline) => ops.recv_timeout(deadline.saturating_duration_since(now())),
        };
        let mut place = worker.lock().expect("no code panics while it writes");
        let worker = place.as_mut().expect("only this thread takes it away");
        match first {
            Ok(first) => worker.group(first, ops),
            Err(RecvTimeoutError::Timeout) => drop(worker.commit()),
            Err(RecvTimeoutError::Disconnected) => break,
        }
        deadline = worker.deadline;
    }
    let worker = worker.lock().expect("no code panics while it writes").take();
    worker.expect("only this thread takes it away").close()
}

impl Worker {
    /// Appends one observation and has it durable, where neither takes time.
    fn at_once(&mut self, prepared: Box<Prepared>) -> Result<Recorded, LedgerError> {
        self.since_budget += prepared.len();
        let ticket = self.writer.record_prepared(prepared)?;
        self.deadline = None;
        self.writer.commit()?;
        self.told = self.writer.durable();
        self.keep_budget();
        Ok(self.writer.recorded(&ticket))
    }

    /// Appends what waits, pays for it once, and tells everybody.
    fn group(&mut self, first: Op, ops: &Receiver<Op>) {
        let mut group = Group::default();
        self.gather(&mut group, std::iter::once(first).chain(ops.try_iter()));
        if group.sync {
            self.await_company(&mut group, ops);
        }
        let Group { waiting, sync, delay } = group;
        if let Some(due) = delay.map(|delay| now() + delay) {
            self.deadline = Some(self.deadline.map_or(due, |other| other.min(due)));
        }
        let late = self.deadline.is_some_and(|deadline| deadline <= now());
        let outcome = if sync || late { self.commit() } else { self.writer.write_out() };
        if sync {
            self.company = waiting.len();
        }
        for (ticket, done) in waiting {
            debug_assert!(
                outcome.is_err() || self.writer.is_complete(&ticket),
                "{ticket:?} is complete after its group"
            );
            let result = outcome.clone().map(|_| self.writer.recorded(&ticket));
            complete(done, result);
        }
        self.tell();
        self.room.turn(&mut self.writer);
        self.keep_budget();
    }

    fn keep_budget(&mut self) {
        if self.since_budget >= BUDGET_EVERY {
            self.since_budget = 0;
            match self.writer.keep_budget(micros()) {
                Ok(freed) if freed.bytes > 0 => tracing::info!(?freed, "dropped payloads to keep the disk budget"),
                Ok(_) => {}
                Err(error) => tracing::warn!(%error, "the disk budget cannot be kept"),
            }
        }
    }

    fn gather(&mut self, group: &mut Group, ops: impl Iterator<Item = Op>) {
        for Op { what, done } in ops.take(RECORDER_GROUP.saturating_sub(group.waiting.len())) {
            self.sent.fetch_sub(1, Ordering::SeqCst);
            if let What::Adoptions(all) = what {
                self.adopt(all, group);
                continue;
            }
            match self.append(what) {
                Ok(ticket) => {
                    group.demand(ticket.durability);
                    group.waiting.push((ticket, done));
                }
                Err(error) => complete(done, Err(error)),
            }
        }
    }

    fn adopt(&mut self, all: Vec<Adoption>, group: &mut Group) {
        for adoption in all {
            let len = adoption.len();
            self.queued.fetch_sub(len, Ordering::Relaxed);
            self.since_budget += len;
            match self.writer.adopt_believed(*adoption.reply, adoption.announce) {
                Ok(ticket) => group.demand(ticket.durability),
                Err(error) => not_adopted(&Err(error)),
            }
        }
    }

    /// Those who waited for the last sync come back together, a moment after it: to wait for them costs less than a sync for the first of them
    /// alone. At most half of what a sync takes, and only as long as somebody comes. It gives way instead of sleeping, since many a system
    /// sleeps ten times longer than it was asked to.
    fn await_company(&mut self, group: &mut Group, ops: &Receiver<Op>) {
        let wanted = self.company;
        if wanted < COMPANY {
            return;
        }
        let mut came_at = now();
        let until = came_at + self.sync_takes.min(COMPANY_WAIT) / 2;
        while group.waiting.len() < wanted {
            thread::yield_now();
            let before = group.waiting.len();
            self.gather(group, ops.try_iter());
            let at = now();
            if group.waiting.len() > before {
                came_at = at;
            }
            if at >= until || at.saturating_duration_since(came_at) >= COMPANY_SILENCE {
                break;
            }
        }
    }

    fn append(&mut self, what: What) -> Result<Ticket, LedgerError> {
        self.queued.fetch_sub(what.len(), Ordering::Relaxed);
        self.since_budget += what.len();
        match what {
            What::Record(prepared) => self.writer.record_prepared(prepared),
            What::Adopt { prepared, announce } => self.writer.adopt_prepared(prepared, announce),
            What::Adoptions(_) => unreachable!("they have no ticket of their own"),
            What::Retract { id, answer, at } => self.writer.retract(id, answer, at),
        }
    }

    /// Commits, and leaves the ledger as a quick opening wants it.
    fn close(mut self) -> Result<u64, LedgerError> {
        let outcome = self.commit();
        let Self { mut writer, room, .. } = self;
        writer.stop_room();
        // Whatever room is being made is trimmed away only once nobody makes it any more.
        drop(room);
        outcome.and_then(|_| writer.close())
    }

    fn commit(&mut self) -> Result<u64, LedgerError> {
        self.deadline = None;
        let begun = now();
        let outcome = self.writer.commit();
        self.sync_takes = (self.sync_takes * 7 + now().saturating_duration_since(begun)) / 8;
        if let Err(error) = &outcome {
            tracing::error!(%error, "the ledger refuses to be written");
        }
        self.tell();
        outcome
    }

    fn tell(&mut self) {
        let durable = self.writer.durable();
        if durable > self.told
            && let Some(on_durable) = &self.on_durable
            && catch_unwind(AssertUnwindSafe(|| on_durable(durable))).is_err()
        {
            tracing::error!("the recorder's durable callback panicked");
        }
        self.told = durable;
    }
}

fn not_adopted(result: &Result<Recorded, LedgerError>) {
    if let Err(error) = result {
        tracing::debug!(%error, "a fetched reply was not adopted");
    }
}

/// A caller's bug is not the end of everybody's ledger.
fn complete(done: Done, result: Result<Recorded, LedgerError>) {
    if catch_unwind(AssertUnwindSafe(|| done(result))).is_err() {
        tracing::error!("a recorder completion panicked");
    }
}
