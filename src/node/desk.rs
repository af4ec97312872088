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
    fn leave(&self, caller: Caller, outcome: Outcome) -> Option<(Caller, Outcome)> {
        let mut papers = lock(&self.papers);
        if papers.clerk.is_none() {
            return Some((caller, outcome));
        }
        papers.outcomes.push((caller, outcome));
        None
    }
}

/// Hands out the outcomes of a burst, with one wake-up for each desk.
pub(super) fn hand_out(outcomes: &mut Vec<(Waiting, Outcome)>) {
    let mut desks: Vec<Arc<Desk>> = Vec::new();
    for (Waiting { caller, desk }, outcome) in outcomes.drain(..) {
        let back = match desk {
            None => Some((caller, outcome)),
            Some(desk) => {
                let back = desk.leave(caller, outcome);
                if back.is_none() && !desks.iter().any(|known| Arc::ptr_eq(known, &desk)) {
                    desks.push(desk);
                }
                back
            }
        };
        if let Some((caller, outcome)) = back {
            // A caller that went away needs no answer.
            drop(caller.send(outcome));
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
            let seat = poll_fn(|cx| Poll::Ready(Seat::of(cx.waker()))).await;
            lock(&self.desk.papers).clerk = Some(seat);
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

#[cfg(test)]
mod tests {
    use tokio::runtime::Builder;
    use tokio::task::JoinSet;

    use super::*;
    use crate::fabric::JobId;
    use crate::id::ContentId;
    use crate::request::AnswerFrom;

    /// Puts a question to the desk, or to the loop as a node does it; says which of the two, and how it ended.
    async fn ask(desks: &Arc<Desks>, events: &mpsc::Sender<Event>, number: u64) -> (bool, Outcome) {
        let (caller, outcome) = oneshot::channel();
        let left = put(desks, events, number, caller).await;
        let at_desk = left.is_ok();
        if let Err((ask, caller)) = left {
            assert!(events.send(Event::Ask(ask, caller)).await.is_ok(), "somebody listens");
        }
        (at_desk, outcome.await.unwrap_or(Err(EvalError::Closed)))
    }

    async fn put(
        desks: &Arc<Desks>,
        events: &mpsc::Sender<Event>,
        number: u64,
        caller: Caller,
    ) -> Result<(), (Ask, Caller)> {
        let id = ContentId::of(&number.to_le_bytes());
        let ask = Ask { job: JobId(number), id, request: None, answer_from: AnswerFrom::HeldOnly, timeout: None };
        let mut question = Some((ask, caller));
        poll_fn(|cx| Poll::Ready(desks.put(question.take().expect("polled once"), cx.waker(), events))).await
    }

    fn told(number: u64) -> Outcome {
        Err(EvalError::Ledger(number.to_string()))
    }

    /// Tells everybody their number, as the loop hands out a burst; returns how many asked at once each time.
    fn answer(mut inbox: mpsc::Receiver<Event>) -> Vec<usize> {
        let mut bursts = Vec::new();
        while let Some(event) = inbox.blocking_recv() {
            let (desk, asks) = match event {
                Event::Ask(ask, caller) => (None, vec![(ask, caller)]),
                Event::Asks(desk, asks) => (desk, asks),
                Event::Stop => break,
                _ => unreachable!("nothing else is sent here"),
            };
            bursts.push(asks.len());
            let waiting = |caller| Waiting { caller, desk: desk.clone() };
            let mut outcomes = asks.into_iter().map(|(ask, caller)| (waiting(caller), told(ask.job.0))).collect();
            hand_out(&mut outcomes);
        }
        bursts
    }

    #[test]
    fn a_burst_of_one_runtime_goes_together_and_comes_back_to_each() {
        let (events, inbox) = mpsc::channel(64);
        let the_loop = thread::spawn(move || answer(inbox));
        let desks: Arc<Desks> = Arc::default();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            assert_eq!(ask(&desks, &events, 0).await, (false, told(0)), "the first one finds no clerk");
            tokio::task::yield_now().await;
            let mut tasks = JoinSet::new();
            for task in 1..=20 {
                let (desks, events) = (Arc::clone(&desks), events.clone());
                tasks.spawn(async move {
                    for number in (task * 100)..(task * 100 + 50) {
                        assert_eq!(ask(&desks, &events, number).await, (true, told(number)));
                    }
                });
            }
            while let Some(done) = tasks.join_next().await {
                done.expect("all are answered");
            }
            drop(events.send(Event::Stop).await);
        });
        let bursts = the_loop.join().expect("answers");
        assert_eq!(bursts.iter().sum::<usize>(), 1 + 20 * 50);
        assert!(bursts.contains(&20), "{bursts:?}");
        assert_eq!(desks.open(), 1);
        drop(runtime);
        assert_eq!(desks.open(), 0, "the clerk went with its runtime");
    }

    #[test]
    fn whoever_a_clerk_might_not_reach_asks_directly() {
        let (events, inbox) = mpsc::channel(64);
        let the_loop = thread::spawn(move || answer(inbox));
        let desks: Arc<Desks> = Arc::default();
        let here = |number| {
            let (desks, events) = (Arc::clone(&desks), events.clone());
            async move { assert_eq!(ask(&desks, &events, number).await, (false, told(number))) }
        };
        let many = Builder::new_multi_thread().worker_threads(1).build().expect("a runtime");
        many.block_on(many.spawn(here(1))).expect("answered");
        let one = Builder::new_current_thread().build().expect("a runtime");
        one.block_on(async {
            // One to have a clerk come, one that is no task, and one in a task that has an executor of its own and blocks its thread.
            here(2).await;
            tokio::task::yield_now().await;
            here(3).await;
            let blocking = here(4);
            let mut tasks = JoinSet::new();
            tasks.spawn(async move { Blocking::run(blocking) });
            tasks.join_next().await.expect("a task").expect("it is answered");
        });
        desks.close();
        drop((one, many));
        drop(events);
        assert_eq!(the_loop.join().expect("answers"), [1; 4]);
    }

    /// An executor that knows nothing of any runtime.
    struct Blocking(thread::Thread);

    impl std::task::Wake for Blocking {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    impl Blocking {
        fn run<T>(future: impl Future<Output = T>) -> T {
            let waker = Waker::from(Arc::new(Self(thread::current())));
            let mut future = std::pin::pin!(future);
            loop {
                match future.as_mut().poll(&mut std::task::Context::from_waker(&waker)) {
                    Poll::Ready(outcome) => return outcome,
                    Poll::Pending => thread::park(),
                }
            }
        }
    }

    #[test]
    fn what_a_clerk_leaves_behind_goes_the_direct_way() {
        let (events, mut inbox) = mpsc::channel(64);
        let desks: Arc<Desks> = Arc::default();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        let (caller, outcome) = oneshot::channel();
        let (late_caller, late_outcome) = oneshot::channel();
        runtime.block_on(async {
            drop(put(&desks, &events, 0, oneshot::channel().0).await);
            tokio::task::yield_now().await;
            let task = |number, caller| {
                let (desks, events) = (Arc::clone(&desks), events.clone());
                async move { assert!(put(&desks, &events, number, caller).await.is_ok()) }
            };
            let mut tasks = JoinSet::new();
            tasks.spawn(task(1, caller));
            tasks.join_next().await.expect("a task").expect("it has asked");
            tokio::task::yield_now().await;
            tasks.spawn(task(2, late_caller));
            tasks.join_next().await.expect("a task").expect("it has asked");
        });
        drop(runtime);
        let mut outcomes = Vec::new();
        while let Ok(Event::Asks(desk, asks)) = inbox.try_recv() {
            let waiting = |caller| Waiting { caller, desk: desk.clone() };
            outcomes.extend(asks.into_iter().map(|(ask, caller)| (waiting(caller), told(ask.job.0))));
        }
        hand_out(&mut outcomes);
        assert_eq!(Blocking::run(outcome), Ok(told(1)));
        assert_eq!(Blocking::run(late_outcome), Ok(told(2)));
        assert_eq!(desks.open(), 0);
        // A node that stops has no desks any more.
        desks.close();
        let runtime = Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            assert!(put(&desks, &events, 3, oneshot::channel().0).await.is_err());
            tokio::task::yield_now().await;
            assert!(put(&desks, &events, 4, oneshot::channel().0).await.is_err());
        });
        assert_eq!(desks.open(), 0);
    }
}
