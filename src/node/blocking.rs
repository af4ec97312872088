//! The door for callers that wait with their thread: [`Node::eval_blocking`].
//!
//! A thread that waits has nothing else to do, so what an evaluator would do on a thread of its own until there is an answer (hearing a GPU worker,
//! settling what it says, taking the loop's turns with it) is done here: what wakes one thread after the other otherwise. Nothing depends on that.
//! Where there is nothing to be done, or somebody else does it, the thread sleeps until it is woken, like any other caller's.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

use super::Node;
use crate::error::EvalError;
use crate::eval::Answer;
use crate::request::Request;

impl Node {
    /// As [`Eval::eval`](crate::eval::Eval::eval), for callers without an async runtime: this thread waits, and hears a small GPU evaluation's answer
    /// from the device's worker itself, which is quicker than to be told of it.
    ///
    /// Inside an async runtime use `eval`: this holds up the thread that calls it, and every task that it would run meanwhile, though never the
    /// node. The answer is the same, and so are the bounds: a request's timeout ends the waiting (and may do so some 20 ms late).
    pub fn eval_blocking(&self, request: Request) -> Result<Answer, EvalError> {
        wait(self.eval_at(request, 0, true))
    }
}

/// Wakes the thread that this is called on.
pub(super) fn this_thread() -> Waker {
    struct Unpark(Thread);

    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }

    Waker::from(Arc::new(Unpark(thread::current())))
}

/// Waits for a future on this thread.
fn wait<T>(future: impl Future<Output = T>) -> T {
    let waker = this_thread();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        thread::park();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::mpsc::{SyncSender, sync_channel};
    use std::time::Duration;

    use super::*;
    use crate::eval::Eval;
    use crate::evaluator::{Done, Errand, Evaluator, Job};
    use crate::reply::Reply;
    use crate::request::{Class, Engine, Program};

    /// Has whoever waits answer, if it does, and answers on a thread of its own otherwise.
    struct Errands(Mutex<SyncSender<(bool, thread::ThreadId)>>);

    /// An answer that is on its way, whatever becomes of who was to bring it.
    struct Way(Option<(Job, Done)>, SyncSender<(bool, thread::ThreadId)>);

    impl Way {
        fn end(&mut self, by_caller: bool) {
            if let Some((job, done)) = self.0.take() {
                self.1.send((by_caller, thread::current().id())).unwrap();
                done(Ok(Reply::ok(job.stdin().cloned().unwrap_or_default())));
            }
        }
    }

    impl Drop for Way {
        fn drop(&mut self) {
            if self.0.is_some() {
                let mut way = Self(self.0.take(), self.1.clone());
                thread::spawn(move || way.end(false));
            }
        }
    }

    impl Evaluator for Errands {
        fn engine(&self) -> Engine {
            Engine::Host
        }

        fn version(&self) -> String {
            "errands".to_owned()
        }

        fn admit(&self, _: &Request) -> Result<(), EvalError> {
            Ok(())
        }

        fn start(&self, job: Job, done: Done) {
            drop(self.start_for_waiting(job, done));
        }

        fn start_for_waiting(&self, job: Job, done: Done) -> Option<Errand> {
            let mut way = Way(Some((job, done)), self.0.lock().unwrap().clone());
            Some(Errand::new(move |at_most| {
                if at_most > Duration::from_secs(1) {
                    way.end(true);
                }
            }))
        }
    }

    fn question(n: u32) -> Request {
        let program = Program::host("test.errands", 1).unwrap();
        Request::new(program).stdin(n.to_le_bytes().to_vec()).class(Class::Portable)
    }

    #[test]
    fn whoever_waits_does_the_errand_and_whoever_does_not_has_it_done() {
        let (sender, told) = sync_channel(4);
        let node = Node::builder().evaluator(Errands(Mutex::new(sender))).start().unwrap();
        let here = thread::current().id();
        let mut own = 0;
        // The loop itself may be at it now and then.
        for n in 0..100 {
            let answer = node.eval_blocking(question(n)).unwrap();
            assert_eq!(answer.reply.stdout, Reply::ok(n.to_le_bytes().to_vec()).stdout);
            let (by_caller, thread) = told.recv().unwrap();
            assert_eq!(by_caller, thread == here);
            own += u32::from(by_caller);
        }
        assert!(own > 25, "{own} of 100");
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        for n in 100..120 {
            runtime.block_on(node.eval(question(n))).unwrap();
            assert!(!told.recv().unwrap().0, "an async caller is given nothing to do");
        }
        // With little time left it is given back, and somebody else answers.
        for n in 120..140 {
            node.eval_blocking(question(n).timeout(Duration::from_millis(900))).unwrap();
            assert!(!told.recv().unwrap().0);
        }
        // On a runtime's own thread it answers too, though nobody should do that.
        runtime.block_on(async { node.eval_blocking(question(140)).unwrap() });
        assert!(told.try_iter().count() == 1);
        node.clone().shutdown();
        assert_eq!(node.eval_blocking(question(1000)).unwrap_err(), EvalError::Closed);
    }
}
