//! The evaluators of a node, by engine, and what the node grants to programs.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{EvalError, Refusal};
use crate::evaluator::{Done, Errand, Evaluator, Job};
use crate::request::{Engine, Request};

/// Which evaluator runs which engine's programs.
#[derive(Default)]
pub(super) struct Evaluators {
    by_engine: BTreeMap<u8, Arc<dyn Evaluator>>,
}

impl Evaluators {
    pub(super) fn add(&mut self, evaluator: Arc<dyn Evaluator>) {
        self.by_engine.insert(evaluator.engine() as u8, evaluator);
    }

    pub(super) fn versions(&self) -> Vec<String> {
        self.by_engine.values().map(|evaluator| evaluator.version()).collect()
    }

    /// What an evaluator refuses is refused, wherever an answer might come from. A missing evaluator is no refusal: a holder may answer.
    pub(super) fn admit(&self, request: &Request) -> Result<(), EvalError> {
        self.get(request.program.engine).map_or(Ok(()), |evaluator| evaluator.admit(request))
    }

    pub(super) fn start(&self, job: Job, done: Done) {
        let engine = job.request.program.engine;
        match self.get(engine) {
            Some(evaluator) => evaluator.start(job, done),
            None => done(Err(Refusal::NoEvaluator(engine).into())),
        }
    }

    /// As [`Self::start`], by a thread that is about to wait for the outcome and may get something to do until then.
    pub(super) fn start_for_waiting(&self, job: Job, done: Done) -> Option<Errand> {
        if let Some(evaluator) = self.get(job.request.program.engine) {
            return evaluator.start_for_waiting(job, done);
        }
        self.start(job, done);
        None
    }

    fn get(&self, engine: Engine) -> Option<&Arc<dyn Evaluator>> {
        self.by_engine.get(&(engine as u8))
    }
}
