//! A lane: the stream that carries frames between two nodes. Beside it a pair may have a second one on a connection of its own, for what is
//! large ([`Kind::Bulk`]): a connection is one task, in which whatever is large holds up what is small.
//!
//! [`Lane`] is the half that other threads hold: a bounded queue, and a way to hang up. [`LaneIo`] is the half that lives in the
//! connection's task: it moves queued frames to the stream in few large writes, and what arrives to the events channel.
//!
//! Invariants:
//! 1. No frame reaches the events channel before [`Lane::start`] or after [`Lane::close`]: `Up` comes first and `Down` last.
//! 2. When the events channel is full the lane stops reading, so the peer's window fills and the peer is told; nothing piles up here.
//! 3. Two watchdogs count ticks without progress; the one for silence stands still while we ourselves do not read. A bulk lane that is silent
//!    is not broken but no longer needed, and what is sent counts as a sign of life too.
//!
//! It does not know which lane of a node is the right one; see `behaviour`.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::task::AtomicWaker;
use futures::{AsyncRead, AsyncWrite, FutureExt};
use tokio::sync::mpsc::error::{SendError as Gone, TrySendError};
use tokio::sync::mpsc::{OwnedPermit, Sender};
use tokio::time::{Instant, Interval, MissedTickBehavior};

use super::NetEvent;
use super::error::{DownReason, SendError};
use super::frame::{Decoder, Queue, check_len};
use super::limits::{
    BULK_ROUNDS_PER_POLL, CUT, IDLE_WRITE_BUFFER, READ_BUFFER, ROUNDS_PER_POLL, Timings, WRITE_BUFFER,
};
use super::turn::give_way;
use crate::id::NodeId;

/// What a lane is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// Everything, in order; a pair has it as long as both want.
    Main,
    /// What is large, while there is any.
    Bulk,
}

/// The half of a lane that other threads hold.
#[derive(Debug)]
pub(super) struct Lane {
    peer: NodeId,
    kind: Kind,
    queue: Mutex<Queue>,
    started: AtomicBool,
    closed: AtomicBool,
    hang_up: Mutex<Option<DownReason>>,
    /// Somebody has, or will soon have, a use for it.
    used: AtomicBool,
    waker: AtomicWaker,
}

impl Lane {
    pub(super) fn new(peer: NodeId, kind: Kind) -> Self {
        Self {
            peer,
            kind,
            queue: Mutex::default(),
            started: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            hang_up: Mutex::default(),
            used: AtomicBool::new(false),
            waker: AtomicWaker::new(),
        }
    }

    pub(super) fn peer(&self) -> NodeId {
        self.peer
    }

    pub(super) fn kind(&self) -> Kind {
        self.kind
    }

    /// It will be needed soon: an idle one stays open.
    pub(super) fn keep(&self) {
        self.used.store(true, Ordering::Relaxed);
    }

    /// Queues a frame; never waits.
    pub(super) fn push(&self, frame: Bytes) -> Result<(), SendError> {
        check_len(frame.len())?;
        if self.is_closed() {
            return Err(SendError::NotConnected);
        }
        lock(&self.queue).push(frame).map_err(|_| SendError::QueueFull)?;
        self.keep();
        self.waker.wake();
        Ok(())
    }

    /// Lets frames through to the events channel: `Up` is there now.
    pub(super) fn start(&self) {
        self.started.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// No further frame, in either direction: `Down` is on its way.
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::Release);
        self.waker.wake();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Asks the lane to end for this reason.
    pub(super) fn hang_up(&self, reason: DownReason) {
        lock(&self.hang_up).get_or_insert(reason);
        self.waker.wake();
    }
}

/// What these locks guard stays whole when a holder panics: every change is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A watchdog: how many ticks went by without progress.
#[derive(Debug)]
struct Watchdog {
    ticks: u32,
    limit: u32,
}

impl Watchdog {
    /// Barks after `limit` of `tick`s; the tick that is under way when progress was made does not count.
    fn new(limit: std::time::Duration, tick: std::time::Duration) -> Self {
        let ticks = limit.as_nanos() / tick.as_nanos().max(1);
        Self { ticks: 0, limit: u32::try_from(ticks).unwrap_or(u32::MAX).saturating_add(1) }
    }

    fn tick(&mut self, waiting: bool) -> bool {
        self.ticks = if waiting { self.ticks + 1 } else { 0 };
        self.ticks >= self.limit
    }
}

/// The half of a lane in the connection's task.
pub(super) struct LaneIo<S> {
    stream: S,
    lane: Arc<Lane>,
    events: Sender<NetEvent>,
    /// Bytes under way to the stream, of which `written` are there.
    out: Vec<u8>,
    written: usize,
    flushed: bool,
    decoder: Decoder,
    /// What was read: `unread.0..unread.1` is not decoded yet.
    input: Box<[u8]>,
    unread: (usize, usize),
    /// A frame that the events channel has no room for, and the wait for that room.
    waiting: Option<(Bytes, Room)>,
    clock: Interval,
    silence: Watchdog,
    stall: Watchdog,
}

type Room = BoxFuture<'static, Result<OwnedPermit<NetEvent>, Gone<()>>>;

impl<S: AsyncRead + AsyncWrite + Unpin> LaneIo<S> {
    /// A lane over this stream; `first` goes ahead of all frames.
    pub(super) fn new(
        stream: S,
        lane: Arc<Lane>,
        events: Sender<NetEvent>,
        timings: &Timings,
        (dialed, first): (bool, &[u8]),
    ) -> Self {
        let tick = timings.tick();
        let mut clock = tokio::time::interval_at(Instant::now() + tick, tick);
        // After a suspended laptop wakes, one tick is enough: a burst would bark for time in which nobody could write.
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let silent = match (lane.kind, dialed) {
            (Kind::Main, _) => timings.silent,
            // The dialer knows what is still to come, the listener does not: it is there for dialers that forget.
            (Kind::Bulk, true) => timings.bulk_idle,
            (Kind::Bulk, false) => timings.bulk_idle * 4,
        };
        Self {
            stream,
            lane,
            events,
            out: first.to_vec(),
            written: 0,
            flushed: first.is_empty(),
            decoder: Decoder::default(),
            input: vec![0; READ_BUFFER].into(),
            unread: (0, 0),
            waiting: None,
            clock,
            silence: Watchdog::new(silent, tick),
            stall: Watchdog::new(timings.stalled, tick),
        }
    }

    /// How long it may run before other connections are let in.
    fn rounds(&self) -> usize {
        match self.lane.kind {
            Kind::Main => ROUNDS_PER_POLL,
            Kind::Bulk => BULK_ROUNDS_PER_POLL,
        }
    }

    /// Moves frames both ways. Ready when the lane is over, and why; it must not be polled again then.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<DownReason> {
        self.lane.waker.register(cx.waker());
        if let Poll::Ready(Err(error)) = self.poll_write(cx) {
            return Poll::Ready(broken(&error));
        }
        if let Some(reason) = lock(&self.lane.hang_up).take() {
            return Poll::Ready(reason);
        }
        if self.lane.started.load(Ordering::Acquire)
            && let Poll::Ready(reason) = self.poll_read(cx)
        {
            return Poll::Ready(reason);
        }
        while self.clock.poll_tick(cx).is_ready() {
            let backed_up = self.waiting.is_some() || !self.lane.started.load(Ordering::Acquire);
            let used = self.lane.used.swap(false, Ordering::Relaxed) && self.lane.kind == Kind::Bulk;
            if self.silence.tick(!backed_up && !used) {
                return Poll::Ready(match self.lane.kind {
                    Kind::Main => DownReason::Silent,
                    Kind::Bulk => DownReason::Idle,
                });
            }
            if self.stall.tick(self.written < self.out.len()) {
                return Poll::Ready(DownReason::Stalled);
            }
        }
        Poll::Pending
    }

    /// What can still be moved without waiting, when the connection is about to close: farewells, in both directions.
    pub(super) fn finish(&mut self, cx: &mut Context<'_>) {
        if self.poll_write(cx).is_ready() {
            drop(Pin::new(&mut self.stream).poll_close(cx));
        }
        if self.lane.started.load(Ordering::Acquire) {
            drop(self.poll_read(cx));
        }
    }

    /// Ready when everything that was queued is with the stream.
    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        for _ in 0..self.rounds() {
            if self.written == self.out.len() {
                self.out.clear();
                self.written = 0;
                lock(&self.lane.queue).fill(&mut self.out, WRITE_BUFFER);
            }
            if self.out.is_empty() {
                if self.flushed {
                    return Poll::Ready(Ok(()));
                }
                self.out.shrink_to(IDLE_WRITE_BUFFER);
                std::task::ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
                self.flushed = true;
                continue;
            }
            self.flushed = false;
            let cut = &self.out[self.written..self.out.len().min(self.written + CUT)];
            let written = std::task::ready!(Pin::new(&mut self.stream).poll_write(cx, cut))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.written += written;
            self.stall.ticks = 0;
        }
        give_way(cx);
        Poll::Pending
    }

    fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<DownReason> {
        for _ in 0..self.rounds() {
            std::task::ready!(self.poll_deliver(cx));
            let read = match std::task::ready!(Pin::new(&mut self.stream).poll_read(cx, &mut self.input)) {
                Ok(0) => return Poll::Ready(DownReason::Closed),
                Ok(read) => read,
                Err(error) => return Poll::Ready(broken(&error)),
            };
            self.silence.ticks = 0;
            self.unread = (0, read);
            if let Err(reason) = self.decode() {
                return Poll::Ready(reason);
            }
        }
        give_way(cx);
        Poll::Pending
    }

    /// Delivers the frame that waits and everything read after it. Ready when nothing of it is left; a lane that may not deliver any more
    /// stays pending, since it is about to be closed.
    fn poll_deliver(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while let Some((frame, room)) = &mut self.waiting {
            let Ok(permit) = std::task::ready!(room.poll_unpin(cx)) else { return Poll::Pending };
            if self.lane.is_closed() {
                return Poll::Pending;
            }
            permit.send(NetEvent::Frame { from: self.lane.peer, bytes: std::mem::take(frame) });
            self.waiting = None;
            if let Err(reason) = self.decode() {
                // Reported at the next poll, through the same door as a request to hang up.
                self.lane.hang_up(reason);
                return Poll::Pending;
            }
        }
        Poll::Ready(())
    }

    /// Decodes what was read, until it is used up or a frame has to wait.
    fn decode(&mut self) -> Result<(), DownReason> {
        while self.waiting.is_none() && !self.lane.is_closed() {
            let mut rest = &self.input[self.unread.0..self.unread.1];
            let frame = self.decoder.next(&mut rest).map_err(DownReason::BadFrame)?;
            self.unread.0 = self.unread.1 - rest.len();
            let Some(bytes) = frame else { return Ok(()) };
            match self.events.try_send(NetEvent::Frame { from: self.lane.peer, bytes }) {
                Ok(()) => {}
                Err(TrySendError::Full(NetEvent::Frame { bytes, .. })) => {
                    self.waiting = Some((bytes, self.events.clone().reserve_owned().boxed()));
                }
                // Nobody listens any more: the network is about to end.
                Err(_) => return Ok(()),
            }
        }
        Ok(())
    }
}

fn broken(error: &io::Error) -> DownReason {
    match error.kind() {
        io::ErrorKind::UnexpectedEof | io::ErrorKind::WriteZero => DownReason::Closed,
        _ => DownReason::Lost(error.to_string()),
    }
}
