//! Cassette-first, write-through memory around anything that answers questions.
//!
//! Invariant: the inner one's admission is asked first, so a hit never bypasses its capability checks.

use std::fmt;

use futures_channel::oneshot;

use crate::error::{EvalError, NotHeld, RequestError};
use crate::eval::{Answer, Eval, Origin};
use crate::id::{ContentId, NodeId};
use crate::ledger::LedgerError;
use crate::record::Observation;
use crate::request::{AnswerFrom, Class, Request};

use super::recorder::RecorderHandle;
use super::view::{Lookup, Tier};
use super::writer::Recorded;

/// Memory around an [`Eval`].
pub struct Memo<I> {
    inner: I,
    recorder: RecorderHandle,
    producer: NodeId,
    clock: Box<dyn Fn() -> u64 + Send + Sync>,
}

impl<I: fmt::Debug> fmt::Debug for Memo<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Memo").field("inner", &self.inner).field("producer", &self.producer).finish_non_exhaustive()
    }
}

impl<I: Eval> Memo<I> {
    /// Wraps `inner`. Its replies are recorded as observed by `producer`, at the time `clock` gives (microseconds since 1970).
    pub fn new(
        inner: I,
        recorder: RecorderHandle,
        producer: NodeId,
        clock: impl Fn() -> u64 + Send + Sync + 'static,
    ) -> Self {
        Self { inner, recorder, producer, clock: Box::new(clock) }
    }

    /// The held answer, or why there is none.
    fn held(&self, id: ContentId, class: &Class) -> Result<Result<Answer, NotHeld>, EvalError> {
        match self.recorder.cassette().lookup(id) {
            Ok(Lookup::Miss(why)) => Ok(Err(why)),
            Ok(Lookup::Hit(held)) => {
                let origin = match held.tier {
                    Tier::Ram => Origin::Ram,
                    Tier::Disk => Origin::Disk,
                };
                Ok(Ok(Answer { id, reply: held.into_reply(), origin, recorded: true }))
            }
            // A disk that cannot be read is not a miss; but what can be computed again may be.
            Err(error) if class.is_reproducible() => {
                tracing::warn!(id = %id.short(), %error, "computing because the cassette cannot be read");
                Ok(Err(NotHeld::PayloadGone))
            }
            Err(error) => Err(EvalError::Ledger(error.to_string())),
        }
    }

    async fn record(&self, id: ContentId, request: &Request, answer: &Answer) -> Result<Recorded, LedgerError> {
        let about = Observation {
            request: id,
            kind: request.kind(),
            class: request.class.clone(),
            observed_at: (self.clock)(),
            trace: None,
            upstream: Vec::new(),
        };
        let (done, recorded) = oneshot::channel();
        // Whoever asked may be gone by then; the record is made all the same.
        self.recorder.observe(about, &answer.reply, self.producer, move |result| drop(done.send(result)));
        recorded.await.unwrap_or(Err(LedgerError::Closed))
    }
}

impl<I: Eval> Eval for Memo<I> {
    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        self.inner.admit(request)
    }

    async fn eval(&self, request: Request) -> Result<Answer, EvalError> {
        self.inner.admit(&request)?;
        let id = match request.id() {
            Ok(id) => id,
            // A graph has no id here. If the inner one can resolve it, it does so without this memory.
            Err(RequestError::Unresolved) => return self.inner.eval(request).await,
            Err(error) => return Err(error.into()),
        };
        let answer_from = request.options.answer_from;
        if answer_from != AnswerFrom::ComputedOnly {
            match self.held(id, &request.class)? {
                Ok(answer) => return Ok(answer),
                Err(why) if answer_from == AnswerFrom::HeldOnly => return Err(EvalError::NotHeld { id, why }),
                Err(_) => {}
            }
        }
        let answer = self.inner.eval(request.clone()).await?;
        match self.record(id, &request, &answer).await {
            Ok(_) => Ok(Answer { recorded: true, ..answer }),
            Err(error) if request.class == Class::Observed => Err(EvalError::Ledger(error.to_string())),
            Err(error) => {
                tracing::warn!(id = %id.short(), %error, "answering without a record");
                Ok(Answer { recorded: false, ..answer })
            }
        }
    }
}
