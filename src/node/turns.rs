//! Turns at the node's loop: whoever has an event for it takes the turn, if nobody else is at it.
//!
//! To wake the loop's thread costs more than most turns do, and whoever would wake it is awake. So the loop's state lies behind a lock, and a
//! thread that finds the lock free and no event waiting takes its event itself; otherwise the event goes into the queue, and the loop's own thread,
//! which lanes and timers need anyway, takes it in a burst. What a turn leads to elsewhere (evaluations that begin, callers that are woken) comes
//! after the lock is given back, since it may take the processor away from whoever holds it.
//!
//! Invariants: (1) nothing waits for the lock but the loop's own thread, and nothing blocks while it has it; (2) events that one thread brings one
//! after the other may change places only if both are under way at once, as they might in the queue of another thread; (3) a turn that panics
//! ends the loop, wherever it was taken.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::mpsc;

use crate::evaluator::Errand;
use crate::node::desk::{Outcome, Waiting, hand_out};
use crate::node::driver::{Driver, Event};

/// See the module's front page.
pub(super) struct Turns {
    pub(super) events: mpsc::Sender<Event>,
    /// The loop's state, from when it begins until it ends.
    state: Mutex<Option<Driver>>,
}

/// Begins something, on a thread that is about to wait for it or on any other one; the former may get something to do.
pub(super) type Start = Box<dyn FnOnce(bool) -> Option<Errand> + Send>;

/// What is done once the turn is over.
#[derive(Default)]
pub(super) struct After {
    /// Evaluations and records that begin.
    pub(super) starts: Vec<Start>,
    /// What callers are told.
    pub(super) outcomes: Vec<(Waiting, Outcome)>,
}

impl After {
    pub(super) fn run(self) {
        drop(self.run_for(false));
    }

    /// As [`Self::run`]; what a thread that waits for it may do is for the caller, if this is one.
    fn run_for(self, waits: bool) -> Vec<Errand> {
        let Self { starts, mut outcomes } = self;
        hand_out(&mut outcomes);
        starts.into_iter().filter_map(|start| start(waits)).collect()
    }
}

/// The loop's state while the loop runs; taken away whichever way it ends.
pub(super) struct Seated(Arc<Turns>);

impl Turns {
    pub(super) fn new(events: mpsc::Sender<Event>) -> Arc<Self> {
        Arc::new(Self { events, state: Mutex::default() })
    }

    /// Lets others take turns, until what is returned is dropped.
    pub(super) fn seat(self: Arc<Self>, driver: Driver) -> Seated {
        *self.lock() = Some(driver);
        Seated(self)
    }

    /// Takes a turn with this event; gives it back if somebody has one, or other events wait.
    pub(super) fn take(&self, event: Event) -> Option<Event> {
        self.take_for(event, false).err().map(|event| *event)
    }

    /// As [`Self::take`], by a thread that is about to wait for what comes of it (`waits`) and gets what it may do until then.
    pub(super) fn take_for(&self, event: Event, waits: bool) -> Result<Vec<Errand>, Box<Event>> {
        let nothing_waits = || self.events.capacity() == self.events.max_capacity();
        if !nothing_waits() {
            return Err(Box::new(event));
        }
        let Ok(mut state) = self.state.try_lock() else { return Err(Box::new(event)) };
        let Some(driver) = state.as_mut().filter(|driver| !driver.is_broken() && nothing_waits()) else {
            return Err(Box::new(event));
        };
        let taken = catch_unwind(AssertUnwindSafe(|| driver.turn(event)));
        let (after, waker) = taken.unwrap_or_else(|_| (After::default(), driver.broken()));
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
        Ok(after.run_for(waits))
    }

    /// Tells the loop something, from any thread, in a turn of this one where that can be.
    pub(super) fn tell(&self, event: Event) {
        if let Some(event) = self.take(event) {
            self.put(event);
        }
    }

    /// Leaves something for the loop's own thread, from any thread that does not have a turn.
    pub(super) fn put(&self, event: Event) {
        match self.events.try_send(event) {
            Err(mpsc::error::TrySendError::Full(event)) => match tokio::runtime::Handle::try_current() {
                // The loop cannot wait for itself; at most as many such tasks wait as there are evaluations under way.
                Ok(runtime) => {
                    let events = self.events.clone();
                    drop(runtime.spawn(async move { drop(events.send(event).await) }));
                }
                Err(_) => drop(self.events.blocking_send(event)),
            },
            // A loop that has ended needs no news.
            Ok(()) | Err(mpsc::error::TrySendError::Closed(_)) => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Driver>> {
        // A turn that panics says so itself.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seated {
    /// A look at the state from the loop's own thread, between turns of others.
    pub(super) fn with<T>(&self, what: impl FnOnce(&mut Driver) -> T) -> T {
        let mut state = self.0.lock();
        let driver = state.as_mut().expect("it is there until this is dropped");
        assert!(!driver.is_broken(), "a turn of the node's loop panicked on another thread");
        what(driver)
    }

    /// Takes the state away: there are no turns from now on.
    pub(super) fn leave(self) -> Driver {
        self.0.lock().take().expect("it is there until this is dropped")
    }
}

impl Drop for Seated {
    fn drop(&mut self) {
        let state = self.0.lock().take();
        drop(state);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::thread::{self, ThreadId};

    use super::*;
    use crate::error::EvalError;
    use crate::eval::{Eval, Origin};
    use crate::evaluator::{Done, Evaluator, Job};
    use crate::node::Node;
    use crate::node::nested::block_on;
    use crate::reply::Reply;
    use crate::request::{Class, Engine, Program, Request};

    /// Answers on the thread on which it is started, and remembers that.
    #[derive(Clone, Default)]
    struct Here(Arc<Mutex<Vec<ThreadId>>>, Arc<AtomicUsize>);

    impl Evaluator for Here {
        fn engine(&self) -> Engine {
            Engine::Host
        }

        fn version(&self) -> String {
            "here".to_owned()
        }

        fn admit(&self, _: &Request) -> Result<(), EvalError> {
            Ok(())
        }

        fn start(&self, job: Job, done: Done) {
            self.0.lock().unwrap().push(thread::current().id());
            self.1.fetch_add(1, Ordering::Relaxed);
            done(Ok(Reply::ok(job.stdin().cloned().unwrap_or_default())));
        }
    }

    fn question(n: u32) -> Request {
        let program = Program::host("test.here", 1).unwrap();
        Request::new(program).stdin(n.to_le_bytes().to_vec()).class(Class::Portable)
    }

    fn ask(node: &Node, n: u32) -> Result<crate::eval::Answer, EvalError> {
        block_on(node.eval(question(n)), &|| Ok(()))
    }

    #[test]
    fn an_idle_loop_costs_a_caller_no_other_thread() {
        let here = Here::default();
        let node = Node::builder().evaluator(here.clone()).start().unwrap();
        // The loop itself may be at it now and then, at its beginning for one.
        for n in 0..200 {
            assert_eq!(ask(&node, n).unwrap().reply.stdout, Reply::ok(n.to_le_bytes().to_vec()).stdout);
        }
        let own = here.0.lock().unwrap().iter().filter(|thread| **thread == thread::current().id()).count();
        assert!(own > 50, "{own} of 200");
        assert_eq!(ask(&node, 7).unwrap().origin, Origin::Ram, "it was recorded before it was delivered");
        node.shutdown();
    }

    #[test]
    fn many_callers_take_turns_and_none_is_forgotten() {
        let here = Here::default();
        let node = Node::builder().evaluator(here.clone()).start().unwrap();
        thread::scope(|scope| {
            for caller in 0..8_u32 {
                let node = &node;
                scope.spawn(move || {
                    for n in 0..300 {
                        // Each is asked by two.
                        let n = (caller / 2) * 1000 + n;
                        assert_eq!(ask(node, n).unwrap().reply.stdout, Reply::ok(n.to_le_bytes().to_vec()).stdout);
                    }
                });
            }
        });
        let (computed, status) = (here.1.load(Ordering::Relaxed), node.status());
        assert_eq!(computed, 1200, "whoever comes too late to join finds the answer");
        assert_eq!((status.answers.computed, status.in_flight), (computed as u64, 0));
        node.shutdown();
    }

    #[test]
    fn whoever_asks_while_the_loop_ends_hears_something() {
        for round in 0..20 {
            let node = Node::builder().evaluator(Here::default()).start().unwrap();
            thread::scope(|scope| {
                for caller in 0..3_u32 {
                    let node = &node;
                    scope.spawn(move || {
                        for n in 0..200 {
                            match ask(node, caller * 1000 + n) {
                                Ok(_) => {}
                                Err(EvalError::Closed) => return,
                                Err(error) => panic!("{error}"),
                            }
                        }
                    });
                }
                thread::sleep(std::time::Duration::from_millis(round));
                node.clone().shutdown();
            });
            assert_eq!(ask(&node, 1_000_000).unwrap_err(), EvalError::Closed);
        }
    }
}
