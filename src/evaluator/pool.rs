//! Compute threads: a fixed number that works, a bounded queue in front of them, and a typed answer when it is full.
//!
//! A task that waits for the reply to another request lends its place to a spare thread ([`Pool::blocking`]), so what it waits for can run. What
//! is nested deepest runs first, so that what was begun is ended before more is begun. Invariants: (1) no more tasks run at one time
//! than there are places, but for those that come back from waiting; (2) a bounded number waits, the next one is refused.

use std::cell::Cell;
use std::collections::{BTreeMap, VecDeque};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::EvalError;
use crate::evaluator::Done;
use crate::reply::Reply;

/// Evaluations that may wait for a compute thread; the next one is refused as `Busy`. Enough for a burst, little enough to drain in seconds.
pub const QUEUE: usize = 1024;
/// Tasks that may wait for replies to requests of their own; each holds a thread and, if it is a program, an instance.
pub const BLOCKED: usize = 48;
/// While this many wait, nothing new is begun unless nothing nested comes for a while: the places left belong to what they wait for.
const CROWDED: usize = BLOCKED / 2;
/// How long a free place waits for nested work before it begins something new although many wait.
const RELUCTANCE: Duration = Duration::from_millis(20);
/// How long a spare thread stays when there is nothing to do.
const LINGER: Duration = Duration::from_secs(1);
/// Stack of a compute thread: Cranelift and validators recurse.
const STACK: usize = 16 * 1024 * 1024;

type Task = Box<dyn FnOnce() + Send>;

thread_local! {
    /// The pool that this thread works for, by the address of what its threads share.
    static OF: Cell<usize> = const { Cell::new(0) };
}

/// A fixed set of compute threads.
#[derive(Debug, Clone)]
pub struct Pool(Arc<Handle>);

/// Closes the queue with the last of the pool's users.
#[derive(Debug)]
struct Handle(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    name: String,
    /// Tasks that may run at one time.
    places: usize,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By depth of nesting, 0 for what nobody here waits for.
    queues: BTreeMap<usize, VecDeque<Task>>,
    running: usize,
    blocked: usize,
    alive: usize,
    started: usize,
    closed: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let queued: usize = self.queues.values().map(VecDeque::len).sum();
        f.debug_struct("State")
            .field("queued", &queued)
            .field("running", &self.running)
            .field("blocked", &self.blocked)
            .finish_non_exhaustive()
    }
}

impl Pool {
    /// Starts `threads` threads (at least one) whose names begin with `name`.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let places = threads.max(1);
        let shared =
            Arc::new(Shared { name: name.to_owned(), places, state: Mutex::default(), changed: Condvar::new() });
        let pool = Self(Arc::new(Handle(Arc::clone(&shared))));
        let mut state = shared.state();
        for _ in 0..places {
            shared.add_thread(&mut state)?;
        }
        drop(state);
        Ok(pool)
    }

    /// Runs `work` on a compute thread and hands its result to `done`. Where that cannot be, because the queue is full, `done` hears so at once;
    /// a panic inside `work` is the evaluator's failure and not this process' end. `depth` says how many evaluations wait for this one, in a row.
    pub fn run<W>(&self, depth: usize, work: W, done: Done)
    where
        W: FnOnce() -> Result<Reply, EvalError> + Send + 'static,
    {
        // Both this call and the task may have to answer, so they share the one `done`.
        let done = Arc::new(Mutex::new(Some(done)));
        let answer = |done: &Mutex<Option<Done>>, result| {
            let done = done.lock().unwrap_or_else(PoisonError::into_inner).take();
            if let Some(done) = done {
                done(result);
            }
        };
        let in_task = Arc::clone(&done);
        let task = move || {
            let result = catch_unwind(AssertUnwindSafe(work));
            answer(&in_task, result.unwrap_or_else(|_| Err(EvalError::Failed("it panicked".to_owned()))));
        };
        if let Err(error) = self.queue(depth, Box::new(task)) {
            answer(&done, Err(error));
        }
    }

    /// Runs a task on one of the threads, unless the queue is full. The task must not panic.
    pub fn spawn(&self, task: impl FnOnce() + Send + 'static) -> Result<(), EvalError> {
        self.queue(0, Box::new(task))
    }

    fn queue(&self, depth: usize, task: Task) -> Result<(), EvalError> {
        let mut state = self.0.0.state();
        let queue = state.queues.entry(depth).or_default();
        if queue.len() >= QUEUE {
            return Err(EvalError::Busy { what: "compute queue".to_owned(), bound: QUEUE as u64 });
        }
        queue.push_back(task);
        drop(state);
        self.0.0.changed.notify_one();
        Ok(())
    }

    /// Waits for something that may need one of these threads: while `wait` runs, another thread works in this one's place.
    pub fn blocking<R>(&self, wait: impl FnOnce() -> R) -> Result<R, EvalError> {
        let shared = &self.0.0;
        if OF.get() != shared.address() {
            // Not one of these threads: it takes nobody's place.
            return Ok(wait());
        }
        let mut state = shared.state();
        if state.blocked >= BLOCKED {
            let what = "evaluations that wait for others".to_owned();
            return Err(EvalError::Busy { what, bound: BLOCKED as u64 });
        }
        if state.alive < shared.places + state.blocked + 1
            && let Err(error) = shared.add_thread(&mut state)
        {
            return Err(EvalError::Failed(format!("no spare compute thread: {error}")));
        }
        state.blocked += 1;
        state.running -= 1;
        drop(state);
        shared.changed.notify_one();
        let _back = Back(shared);
        Ok(wait())
    }
}

/// Takes the place again, also when the waiting panics.
struct Back<'a>(&'a Shared);

impl Drop for Back<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.blocked -= 1;
        state.running += 1;
        drop(state);
        // One thread is too many now and looks at how long it may stay.
        self.0.changed.notify_one();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.state().closed = true;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing below panics half-way through a change, so a poisoned lock still guards a whole state.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn address(&self) -> usize {
        std::ptr::from_ref(self) as usize
    }

    fn add_thread(self: &Arc<Self>, state: &mut State) -> std::io::Result<()> {
        let this = Arc::clone(self);
        let work = move || {
            OF.set(this.address());
            while let Some(task) = this.next() {
                // Tasks catch their own panics; whatever else happens, the place is given back.
                let _place = Place(&this);
                task();
            }
        };
        let name = format!("{}-{}", self.name, state.started);
        thread::Builder::new().name(name).stack_size(STACK).spawn(work)?;
        state.started += 1;
        state.alive += 1;
        Ok(())
    }

    /// The next task of a free thread, which then has a place; `None` ends the thread.
    fn next(&self) -> Option<Task> {
        let mut state = self.state();
        let mut waited = Duration::ZERO;
        loop {
            let roots_too = state.blocked < CROWDED || waited >= RELUCTANCE;
            if state.running < self.places
                && let Some(task) = state.take(roots_too)
            {
                state.running += 1;
                return Some(task);
            }
            let surplus = state.alive > self.places + state.blocked;
            if state.closed && state.queues.is_empty() || surplus && waited >= LINGER {
                state.alive -= 1;
                if state.closed {
                    self.changed.notify_all();
                }
                return None;
            }
            let crowded = state.blocked >= CROWDED && !state.queues.is_empty();
            state = if crowded || surplus {
                waited += RELUCTANCE;
                self.changed.wait_timeout(state, RELUCTANCE).unwrap_or_else(PoisonError::into_inner).0
            } else {
                self.changed.wait(state).unwrap_or_else(PoisonError::into_inner)
            };
        }
    }
}

/// A running task's place.
struct Place<'a>(&'a Shared);

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.state().running -= 1;
        self.0.changed.notify_one();
    }
}

impl State {
    /// The oldest of the deepest tasks.
    fn take(&mut self, roots_too: bool) -> Option<Task> {
        let mut deepest = self.queues.last_entry().filter(|entry| roots_too || *entry.key() > 0)?;
        let task = deepest.get_mut().pop_front();
        if deepest.get().is_empty() {
            deepest.remove();
        }
        task
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;

    use super::*;

    #[test]
    fn what_a_task_waits_for_runs_in_its_place() {
        // One place, and a chain of tasks that each wait for the next one.
        fn chain(pool: &Pool, left: usize) -> usize {
            if left == 0 {
                return 0;
            }
            let (done, result) = sync_channel(1);
            let again = pool.clone();
            pool.queue(64 - left, Box::new(move || done.send(chain(&again, left - 1)).unwrap())).unwrap();
            pool.blocking(|| result.recv().unwrap()).unwrap() + 1
        }
        let pool = Pool::start("test", 1).unwrap();
        assert_eq!(chain(&pool, BLOCKED), BLOCKED);
        let state = pool.0.0.state();
        assert_eq!((state.blocked, state.queues.len()), (0, 0));
        assert!(state.alive <= 1 + BLOCKED, "{}", state.alive);
    }

    #[test]
    fn one_more_than_may_wait_is_refused_and_the_others_go_on() {
        let pool = Pool::start("test", 1).unwrap();
        let (refused, refusals) = sync_channel(1);
        let (release, released) = sync_channel::<()>(BLOCKED);
        let released = Arc::new(Mutex::new(released));
        for _ in 0..=BLOCKED {
            let (again, refused, released) = (pool.clone(), refused.clone(), Arc::clone(&released));
            let wait = move || drop(again.blocking(|| released.lock().unwrap().recv()).map_err(|e| refused.send(e)));
            pool.spawn(wait).unwrap();
        }
        let busy = refusals.recv().unwrap();
        assert!(matches!(busy, EvalError::Busy { bound, .. } if bound == BLOCKED as u64), "{busy:?}");
        for _ in 0..BLOCKED {
            release.send(()).unwrap();
        }
        let (done, ended) = sync_channel(1);
        pool.spawn(move || done.send(()).unwrap()).unwrap();
        ended.recv().unwrap();
    }

    #[test]
    fn the_deepest_runs_first_and_a_full_queue_is_busy() {
        let pool = Pool::start("test", 1).unwrap();
        let (release, released) = sync_channel::<()>(0);
        pool.spawn(move || released.recv().unwrap()).unwrap();
        while pool.0.0.state().running == 0 {
            thread::yield_now();
        }
        let (order, seen) = sync_channel(4);
        for depth in [0, 2, 1, 2] {
            let order = order.clone();
            pool.queue(depth, Box::new(move || order.send(depth).unwrap())).unwrap();
        }
        for _ in 1..QUEUE {
            pool.spawn(|| ()).unwrap();
        }
        assert!(matches!(pool.spawn(|| ()), Err(EvalError::Busy { .. })));
        release.send(()).unwrap();
        drop(order);
        assert_eq!(seen.iter().collect::<Vec<_>>(), [2, 2, 1, 0]);
    }

    #[test]
    fn threads_end_with_the_last_user_and_after_the_last_task() {
        let pool = Pool::start("test", 2).unwrap();
        let shared = Arc::clone(&pool.0.0);
        let (done, ended) = sync_channel(10);
        for _ in 0..10 {
            let done = done.clone();
            pool.spawn(move || done.send(()).unwrap()).unwrap();
        }
        drop((pool, done));
        assert_eq!(ended.iter().count(), 10);
        while shared.state().alive > 0 {
            thread::yield_now();
        }
    }
}
