//! The compute threads: a fixed number of them, one bounded queue, no job ever lost in silence.
//!
//! Evaluations are long and synchronous; they never run on an async runtime. Dropping the pool lets running jobs end and drops queued ones.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use crate::error::EvalError;
use crate::evaluator::Done;
use crate::reply::Reply;

/// Jobs that may wait for a compute thread; the next one is refused as `Busy`. Enough for a burst, little enough to drain in seconds.
pub const QUEUE: usize = 1024;
/// Stack of a compute thread: Cranelift and validators recurse.
const STACK: usize = 16 * 1024 * 1024;

type Task = Box<dyn FnOnce() + Send>;

/// A fixed set of compute threads.
#[derive(Debug, Clone)]
pub struct Pool {
    queue: SyncSender<Task>,
}

impl Pool {
    /// Starts `threads` threads (at least one) whose names begin with `name`.
    pub fn start(name: &str, threads: usize) -> std::io::Result<Self> {
        let (queue, tasks) = sync_channel::<Task>(QUEUE);
        let tasks = Arc::new(Mutex::new(tasks));
        for index in 0..threads.max(1) {
            let tasks = Arc::clone(&tasks);
            let work = move || {
                loop {
                    // The guard is held while waiting, so one idle thread waits in `recv` and the others for the lock.
                    let next = tasks.lock().unwrap_or_else(PoisonError::into_inner).recv();
                    let Ok(task) = next else { break };
                    task();
                }
            };
            thread::Builder::new().name(format!("{name}-{index}")).stack_size(STACK).spawn(work)?;
        }
        Ok(Self { queue })
    }

    /// Runs `work` on a compute thread and hands its result to `done`. Where that cannot be, because the queue is full, `done` hears so at once;
    /// a panic inside `work` is the evaluator's failure and not this process' end.
    pub fn run<W>(&self, work: W, done: Done)
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
        if let Err(error) = self.spawn(task) {
            answer(&done, Err(error));
        }
    }

    /// Runs a task on one of the threads, unless the queue is full. The task must not panic.
    pub fn spawn(&self, task: impl FnOnce() + Send + 'static) -> Result<(), EvalError> {
        self.queue.try_send(Box::new(task)).map_err(|error| match error {
            TrySendError::Full(_) => EvalError::Busy { what: "compute queue".to_owned(), bound: QUEUE as u64 },
            TrySendError::Disconnected(_) => EvalError::Closed,
        })
    }
}
