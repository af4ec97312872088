//! Memory around anything that answers: cassette first, write-through.
//!
//! Invariant: a hit never bypasses the inner one's admission.

use futures_channel::oneshot;

use super::{Cassette, Lookup, RecorderHandle, Tier};
use crate::error::{EvalError, NotHeld};
use crate::eval::{Answer, Eval, Origin};
use crate::id::{ContentId, NodeId};
use crate::record::{Observation, Record};
use crate::reply::Payload;
use crate::request::{AnswerFrom, Class, Request};

/// Cassette-first, write-through memory around an inner [`Eval`].
pub struct Memo<I> {
    inner: I,
    cassette: Cassette,
    recorder: RecorderHandle,
    producer: NodeId,
    /// Microseconds since 1970.
    clock: fn() -> u64,
}

impl<I: Eval> Memo<I> {
    /// Memory around `inner`, whose records are signed as `producer`'s.
    pub fn new(inner: I, cassette: Cassette, recorder: RecorderHandle, producer: NodeId, clock: fn() -> u64) -> Self {
        Self { inner, cassette, recorder, producer, clock }
    }

    fn look_up(&self, id: ContentId) -> Result<Result<Answer, NotHeld>, EvalError> {
        Ok(match self.cassette.lookup(id).map_err(|error| EvalError::Ledger(error.to_string()))? {
            Lookup::Miss(why) => Err(why),
            Lookup::Hit(held) => {
                let origin = if held.tier == Tier::Ram { Origin::Ram } else { Origin::Disk };
                Ok(Answer { id, reply: held.reply, origin, recorded: true })
            }
        })
    }

    async fn record(&self, about: Observation, answer: &Answer) -> Result<(), EvalError> {
        let record = Record::observe(about, &answer.reply, self.producer);
        let payloads = answer.reply.payloads().filter_map(Payload::bytes).cloned().collect();
        let (done, recorded) = oneshot::channel();
        self.recorder.record(record, payloads, Box::new(move |result| drop(done.send(result))));
        match recorded.await {
            Ok(result) => result.map(drop).map_err(|error| EvalError::Ledger(error.to_string())),
            Err(_) => Err(EvalError::Closed),
        }
    }
}

impl<I: Eval> Eval for Memo<I> {
    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        self.inner.admit(request)
    }

    async fn eval(&self, request: Request) -> Result<Answer, EvalError> {
        self.inner.admit(&request)?;
        let id = request.id()?;
        let memoised = request.class.is_memoised();
        let from = request.options.answer_from;
        if memoised && from != AnswerFrom::ComputedOnly {
            match self.look_up(id)? {
                Ok(answer) => return Ok(answer),
                Err(why) if from == AnswerFrom::HeldOnly => return Err(EvalError::NotHeld { id, why }),
                Err(_) => {}
            }
        }
        let (kind, class) = (request.kind(), request.class.clone());
        let mut answer = self.inner.eval(request).await?;
        if class == Class::Volatile {
            return Ok(answer);
        }
        let reproducible = class.is_reproducible();
        let observed_at = (self.clock)();
        let about = Observation { request: id, kind, class, observed_at, trace: None, upstream: Vec::new() };
        answer.recorded = match self.record(about, &answer).await {
            Ok(()) => true,
            Err(_) if reproducible => false,
            Err(error) => return Err(error),
        };
        Ok(answer)
    }
}
