//! The host evaluator: functions of the embedding process, called by name and version.
//!
//! A function gets the request and its inputs and returns a reply. Its determinism is the embedder's word, so its class defaults to
//! `Observed`; a function registered as `Portable` promises that any process would return the same bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::error::{EvalError, Refusal};
use crate::evaluator::pool::Pool;
use crate::evaluator::{Done, Evaluator, Job};
use crate::reply::Reply;
use crate::request::{Class, Code, Engine, Name, Request};

type Function = Arc<dyn Fn(&Job) -> Result<Reply, EvalError> + Send + Sync>;

/// Calls registered functions on compute threads.
pub struct HostEvaluator {
    functions: BTreeMap<(Name, u32), (Class, Function)>,
    pool: Pool,
}

impl HostEvaluator {
    /// An evaluator without functions that runs them on this pool.
    #[must_use]
    pub fn new(pool: Pool) -> Self {
        Self { functions: BTreeMap::new(), pool }
    }

    /// Registers a function; requests must declare the class given here. Registering a name and version again replaces it.
    #[must_use]
    pub fn function<F>(mut self, name: Name, version: u32, class: Class, function: F) -> Self
    where
        F: Fn(&Job) -> Result<Reply, EvalError> + Send + Sync + 'static,
    {
        self.functions.insert((name, version), (class, Arc::new(function)));
        self
    }

    fn find(&self, request: &Request) -> Result<&(Class, Function), EvalError> {
        match &request.program.code {
            Code::Opaque { kind, version, .. } => self
                .functions
                .get(&(kind.clone(), *version))
                .ok_or_else(|| Refusal::NoFunction { name: kind.to_string(), version: *version }.into()),
            Code::Bytes(_) => Err(Refusal::Malformed("a host function is named, not shipped".to_owned()).into()),
        }
    }
}

impl Evaluator for HostEvaluator {
    fn engine(&self) -> Engine {
        Engine::Host
    }

    fn version(&self) -> String {
        concat!("host ", env!("CARGO_PKG_VERSION")).to_owned()
    }

    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        let (class, _) = self.find(request)?;
        if *class != request.class {
            let why = format!("the function is registered as {class}, the request says {}", request.class);
            return Err(Refusal::ClassNotProven(why).into());
        }
        Ok(())
    }

    fn start(&self, job: Job, done: Done) {
        let function = match self.find(&job.request) {
            Ok((_, function)) => Arc::clone(function),
            Err(error) => return done(Err(error)),
        };
        self.pool.run(job.depth(), move || function(&job), done);
    }
}
