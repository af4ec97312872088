//! Evaluators: what turns a question into a reply when nobody holds one.
//!
//! The seam is made of completions: [`Evaluator::start`] returns at once and calls back when the reply is there. So an evaluator may run on
//! threads of its own, on somebody's async runtime, or in a child process that can be killed, and nothing above it changes.
//! An evaluator knows values only: nothing of ledgers, peers or the fabric.

#[cfg(any(feature = "gpu", feature = "wasm"))]
pub mod artifacts;
pub mod gpu;
pub mod host;
pub mod pool;
#[cfg(any(all(test, feature = "wasm"), feature = "cli"))]
pub(crate) mod reference;
#[cfg(feature = "wasm")]
pub mod slots;
#[cfg(feature = "wasm")]
pub mod wasm;
#[cfg(any(feature = "gpu", feature = "wasm"))]
pub mod worker;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_channel::oneshot;

use crate::error::{EvalError, RequestError};
use crate::eval::{Answer, Eval, Origin};
use crate::id::ContentId;
use crate::reply::{Payload, Reply};
use crate::request::{Code, Engine, Request, Slot, Source};

/// Computes replies.
pub trait Evaluator: Send + Sync {
    /// The programs it runs.
    fn engine(&self) -> Engine;

    /// Its name and version, as records state it.
    fn version(&self) -> String;

    /// Whether it would run this request: cheap, compiles and runs nothing, needs no bytes.
    fn admit(&self, request: &Request) -> Result<(), EvalError>;

    /// Starts the evaluation and returns at once; `done` is called exactly once, on any thread. A full queue is `EvalError::Busy`.
    fn start(&self, job: Job, done: Done);

    /// As [`Self::start`], by a thread that is about to wait for the outcome: what it could do itself until then it may be given, and saves another
    /// thread's turn by doing it.
    fn start_for_waiting(&self, job: Job, done: Done) -> Option<Errand> {
        self.start(job, done);
        None
    }
}

/// What a thread does that would only wait otherwise. One that is dropped is done by the evaluator's own threads.
pub struct Errand(Box<dyn FnOnce(Duration) + Send>);

impl Errand {
    /// Something that is done once it is called, and given back to the evaluator's own threads after that time, or when the closure is dropped.
    #[must_use]
    pub fn new(run: impl FnOnce(Duration) + Send + 'static) -> Self {
        Self(Box::new(run))
    }

    /// Does it, for at most about that time: whatever has not come about by then is left to others.
    pub fn run(self, at_most: Duration) {
        (self.0)(at_most);
    }
}

impl fmt::Debug for Errand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Errand").finish_non_exhaustive()
    }
}

/// Called with the outcome of an evaluation.
pub type Done = Box<dyn FnOnce(Result<Reply, EvalError>) + Send>;

/// One evaluation: a resolved request with all its bytes at hand.
#[derive(Debug, Clone)]
pub struct Job {
    /// The question.
    pub id: ContentId,
    /// The request as it was asked; its sources name bytes that `code` and `inputs` hold.
    pub request: Arc<Request>,
    /// The program's bytes; empty for an opaque program.
    pub code: Bytes,
    /// The inputs' bytes, in the order of the request's slots.
    pub inputs: Vec<(Slot, Bytes)>,
    /// Wall time after which the evaluation is ended as a limit; `None` leaves it to the evaluator's own bound.
    pub budget: Option<Duration>,
    /// Raised when nobody waits any more.
    pub cancel: Cancel,
    /// Whom the program may ask for other replies, where it was granted [`NESTING`].
    pub asker: Option<Arc<dyn Asker>>,
}

/// The capability of programs that ask for other replies on their way.
pub const NESTING: &str = "eval";

/// Answers the requests that a running evaluation makes.
pub trait Asker: fmt::Debug + Send + Sync {
    /// Answers one request, on this thread, which waits. Gives up when `go_on` fails, which is asked every few milliseconds.
    fn ask(&self, request: Request, go_on: &dyn Fn() -> Result<(), EvalError>) -> Result<Answer, EvalError>;

    /// How many evaluations wait for this one, in a row.
    fn depth(&self) -> usize;
}

impl Job {
    /// The job of a request whose bytes are all inline.
    pub fn inline(request: Request) -> Result<Self, EvalError> {
        let id = request.id()?;
        let bytes = |payload: &Payload| match payload {
            Payload::Inline(bytes) => Ok(bytes.clone()),
            Payload::Stored(blob) => Err(EvalError::InputMissing(*blob)),
        };
        let code = match &request.program.code {
            Code::Bytes(payload) => bytes(payload)?,
            Code::Opaque { .. } => Bytes::new(),
        };
        let mut inputs = Vec::with_capacity(request.inputs.len());
        for (slot, source) in &request.inputs {
            match source {
                Source::Payload(payload) => inputs.push((slot.clone(), bytes(payload)?)),
                Source::Output(..) => return Err(RequestError::Unresolved.into()),
            }
        }
        let budget = request.options.timeout;
        let cancel = Cancel::default();
        Ok(Self { id, request: Arc::new(request), code, inputs, budget, cancel, asker: None })
    }

    /// How many evaluations wait for this one, in a row.
    #[must_use]
    pub fn depth(&self) -> usize {
        self.asker.as_ref().map_or(0, |asker| asker.depth())
    }

    /// The bytes of standard input, if it was given.
    #[must_use]
    pub fn stdin(&self) -> Option<&Bytes> {
        self.inputs.iter().find(|(slot, _)| *slot == Slot::Stdin).map(|(_, bytes)| bytes)
    }
}

/// A flag that an evaluation looks at while it runs.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the evaluation to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the evaluation should end.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// Cancels on drop unless disarmed: an abandoned future must not leave work behind.
struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.cancel();
    }
}

/// Every evaluator answers through the public door, without memory.
impl<E: Evaluator> Eval for E {
    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        Evaluator::admit(self, request)
    }

    async fn eval(&self, request: Request) -> Result<Answer, EvalError> {
        Evaluator::admit(self, &request)?;
        let job = Job::inline(request)?;
        let id = job.id;
        let _cancel = CancelOnDrop(job.cancel.clone());
        let (done, outcome) = oneshot::channel();
        self.start(job, Box::new(move |result| drop(done.send(result))));
        let reply = outcome.await.unwrap_or(Err(EvalError::Closed))?;
        Ok(Answer { id, reply, origin: Origin::Computed, recorded: false })
    }
}
