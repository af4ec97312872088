//! Where the callers of one runtime put their questions and get the outcomes: one wake-up each way for a burst of them.
//!
//! To wake a task on another thread is a system call, which costs more than all else about a small answer, and a runtime of one thread pays
//! it for every task that is woken. So each such runtime whose tasks ask has a desk with a clerk: a task to which they hand their questions
//! without leaving their thread, and which gets the outcomes of a burst together and hands them out there.
//!
//! Invariants:
//! 1. A desk takes a question only where its clerk is sure to run: from a task that the clerk's own runtime polls on the clerk's own thread.
//!    Everybody else (another executor, a future inside another one, a runtime of many threads) puts questions to the loop directly.
//! 2. Nobody waits for a clerk that is gone: what it leaves behind, and what comes for it later, goes the direct way.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::thread::{self, ThreadId};

use futures_channel::oneshot;
use tokio::runtime::{Handle, Id, RuntimeFlavor};
use tokio::sync::{Notify, mpsc};

use crate::error::EvalError;
use crate::fabric::{Ask, Delivery};
use crate::node::driver::Event;

/// Desks of one node; callers in further runtimes put their questions to the loop directly.
const MAX_DESKS: usize = 64;
/// Questions that may lie on a desk; callers beyond them wait for room in the loop's own queue.
const MAX_ASKS: usize = 4096;

/// How a caller's question ended.
pub(super) type Outcome = Result<Delivery, EvalError>;
/// The way to a caller. One that went away is told nothing.
pub(super) type Caller = oneshot::Sender<Outcome>;

/// Who waits for an outcome, and at which desk.
pub(super) struct Waiting {
    pub(super) caller: Caller,
    pub(super) desk: Option<Arc<Desk>>,
}

/// Where a task is polled: on which thread, and by which kind of executor (its wakers' functions).
#[derive(Clone, Copy, PartialEq, Eq)]
struct Seat {
    thread: ThreadId,
    executor: usize,
}

impl Seat {
    fn of(waker: &Waker) -> Self {
        Self { thread: thread::current().id(), executor: std::ptr::from_ref(waker.vtable()).addr() }
    }
}

/// See the module's front page.
#[derive(Default)]
pub(super) struct Desk {
    papers: Mutex<Papers>,
    bell: Notify,
}

#[derive(Default)]
struct Papers {
    /// Where the clerk sits, while there is one.
    clerk: Option<Seat>,
    /// The clerk is to go.
    closing: bool,
    asks: Vec<(Ask, Caller)>,
    outcomes: Vec<(Caller, Outcome)>,
}

/// All desks of a node.
#[derive(Default)]
pub(super) struct Desks {
    all: Mutex<Rooms>,
}

#[derive(Default)]
struct Rooms {
    desks: Vec<(Id, Arc<Desk>)>,
    closed: bool,
}

/// What these locks guard stays whole when a holder panics: every change is a single step.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Desks {
    /// Hands a question to the clerk of the runtime that polls this; gives it back if there is none, or not yet.
    pub(super) fn put(
        self: &Arc<Self>,
        question: (Ask, Caller),
        waker: &Waker,
        events: &mpsc::Sender<Event>,
    ) -> Result<(), (Ask, Caller)> {
        match self.here(events) {
            Some(desk) => desk.put(question, waker),
            None => Err(question),
        }
    }

    /// The desk of the runtime that runs this; a runtime that asks for the first time gets one.
    fn here(self: &Arc<Self>, events: &mpsc::Sender<Event>) -> Option<Arc<Desk>> {
        let runtime = Handle::try_current().ok()?;
        if runtime.runtime_flavor() != RuntimeFlavor::CurrentThread {
            return None;
        }
        let id = runtime.id();
        let mut rooms = lock(&self.all);
        if let Some((_, desk)) = rooms.desks.iter().find(|(known, _)| *known == id) {
            return Some(Arc::clone(desk));
        }
        if rooms.closed || rooms.desks.len() >= MAX_DESKS {
            return None;
        }
        let desk = Arc::new(Desk::default());
        rooms.desks.push((id, Arc::clone(&desk)));
        drop(rooms);
        let clerk = Clerk { desk, desks: Arc::downgrade(self), events: events.clone() };
        // It ends with the runtime or with the node, whichever comes first.
        drop(runtime.spawn(clerk.work()));
        None
    }

    /// Sends all clerks away: the node is about to stop.
    pub(super) fn close(&self) {
        let mut rooms = lock(&self.all);
        rooms.closed = true;
        for (_, desk) in rooms.desks.drain(..) {
            lock(&desk.papers).closing = true;
            desk.bell.notify_one();
        }
    }

    #[cfg(test)]
    fn open(&self) -> usize {
        lock(&self.all).desks.len()
    }
}

impl Desk {
    fn put(&self, question: (Ask, Caller), waker: &Waker) -> Result<(), (Ask, Caller)> {
        let mut papers = lock(&self.papers);
        let Some(clerk) = papers.clerk.filter(|_| !papers.closing && papers.asks.len() < MAX_ASKS) else {
            return Err(question);
        };
        let here = Seat::of(waker);
        if clerk == here {
            papers.asks.push(question);
            drop(papers);
            self.bell.notify_one();
            return Ok(());
        }
        drop(papers);
        if clerk.thread != here.thread {
            // The runtime goes on on another thread: its clerk takes note of that.
            self.bell.notify_one();
        }
        Err(question)
    }

    /// Leaves an outcome for the clerk, who is to be called when the burst is over; gives it back if there is no clerk.
    fn leave(&self, caller: Caller, outcome: Outcome) -> Result<(), (Caller, Outcome)> {
        let mut papers = lock(&self.papers);
        if papers.clerk.is_none() {
            return Err((caller, outcome));
        }
        papers.outcomes.push((caller, outcome));
        Ok(())
    }
}

/// Hands out the outcomes of a burst, with one wake-up for each desk.
pub(super) fn hand_out(outcomes: &mut Vec<(Waiting, Outcome)>) {
    let mut desks: Vec<Arc<Desk>> = Vec::new();
    for (Waiting { caller, desk }, outcome) in outcomes.drain(..) {
        let left = match desk {
            Some(desk) => desk.leave(caller, outcome).map(|()| desk),
            None => Err((caller, outcome)),
        };
        match left {
            Ok(desk) if desks.iter().any(|known| Arc::ptr_eq(known, &desk)) => {}
            Ok(desk) => desks.push(desk),
            // A caller that went away needs no answer.
            Err((caller, outcome)) => drop(caller.send(outcome)),
        }
    }
    for desk in desks {
        desk.bell.notify_one();
    }
}

/// The task at a desk.
struct Clerk {
    desk: Arc<Desk>,
    desks: Weak<Desks>,
    events: mpsc::Sender<Event>,
}

impl Clerk {
    async fn work(self) {
        loop {
            let seated = |waker: &Waker| lock(&self.desk.papers).clerk = Some(Seat::of(waker));
            poll_fn(|cx| Poll::Ready(seated(cx.waker()))).await;
            self.desk.bell.notified().await;
            let (outcomes, asked) = {
                let mut papers = lock(&self.desk.papers);
                (std::mem::take(&mut papers.outcomes), !papers.asks.is_empty())
            };
            for (caller, outcome) in outcomes {
                // A caller that went away needs no answer.
                drop(caller.send(outcome));
            }
            if asked {
                // Questions stay on the desk until there is room for them.
                let Ok(room) = self.events.reserve().await else { return };
                let asks = std::mem::take(&mut lock(&self.desk.papers).asks);
                room.send(Event::Asks(Some(Arc::clone(&self.desk)), asks));
            }
            if lock(&self.desk.papers).closing {
                return;
            }
        }
    }
}

impl Drop for Clerk {
    fn drop(&mut self) {
        if let Some(desks) = self.desks.upgrade() {
            lock(&desks.all).desks.retain(|(_, desk)| !Arc::ptr_eq(desk, &self.desk));
        }
        let Papers { asks, outcomes, .. } =
            std::mem::replace(&mut *lock(&self.desk.papers), Papers { closing: true, ..Papers::default() });
        for (caller, outcome) in outcomes {
            drop(caller.send(outcome));
        }
        if !asks.is_empty() {
            // The futures of a runtime that ends are dropped with it; one that was moved away and finds no room here ends as closed.
            drop(self.events.try_send(Event::Asks(None, asks)));
        }
    }
}
