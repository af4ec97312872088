//! A running node: the public door [`Node::eval`], and everything that makes it run.
//!
//! A node owns one ledger, one loop (`driver`) whose thread shares its turns with others (`turns`), its compute threads and its lanes. Handles
//! are cheap to clone; the node stops when [`Node::shutdown`] is called or the last handle is dropped. A hit in the cassette is answered on
//! the caller's own thread and never reaches the loop. This module is tokio's place; decisions are the fabric's.

mod addresses;
mod alarm;
mod blocking;
mod builder;
mod clock;
pub mod control;
mod desk;
mod driver;
mod evaluators;
#[cfg(feature = "gpu")]
mod gpu;
mod hands;
mod keyfile;
mod lanes;
mod nested;
#[cfg(test)]
#[cfg(feature = "wasm")]
mod nested_tests;
mod placement;
mod placing;
#[cfg(test)]
#[cfg(all(feature = "gpu", feature = "net"))]
mod placing_tests;
mod resolve;
mod shared;
#[cfg(feature = "wasm")]
mod slots;
pub mod status;
mod turns;

use std::future::poll_fn;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::Poll;
use std::thread;

use futures_channel::oneshot;
use tokio::sync::mpsc;

#[cfg(feature = "net")]
pub use self::builder::Network;
pub use self::builder::{NodeBuilder, StartError};
use self::clock::Clock;
pub use self::clock::{random, unix_micros};
#[cfg(all(feature = "cli", feature = "wasm"))]
pub(crate) use self::control::serve;
use self::desk::Desks;
use self::driver::Event;
use self::evaluators::Evaluators;
pub use self::keyfile::KeyError;
use self::shared::Shared;
use self::status::{AnswerCounts, HolderStatus, LedgerStatus, Status, TrafficCounts};
use self::turns::Turns;
use crate::cassette::{Cassette, Lookup, Tier};
use crate::error::{EvalError, NotHeld, Refusal};
use crate::eval::{Answer, Eval, Origin};
use crate::fabric::{Ask, Input, JobId};
use crate::id::{ContentId, NodeId};
use crate::request::{AnswerFrom, Name, Request};

/// A handle on a running node. See the module's front page.
#[derive(Clone)]
pub struct Node {
    inner: Arc<Inner>,
    /// Stops the node with the last user's handle; the node's own handles (the control socket's) have none.
    _guard: Option<Arc<StopOnDrop>>,
}

struct Inner {
    me: NodeId,
    data_dir: Option<PathBuf>,
    grants: Vec<Name>,
    cassette: Cassette,
    evaluators: Arc<Evaluators>,
    events: mpsc::Sender<Event>,
    turns: Arc<Turns>,
    desks: Arc<Desks>,
    shared: Arc<Shared>,
    clock: Clock,
    next_job: AtomicU64,
    #[cfg(feature = "wasm")]
    wasm: crate::evaluator::wasm::WasmEvaluator,
    #[cfg(feature = "wasm")]
    slots: slots::NodeSlots,
    #[cfg(feature = "gpu")]
    gpu: Option<crate::evaluator::gpu::GpuEvaluator>,
    /// The loop thread, until somebody joins it.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

struct StopOnDrop(Arc<Inner>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.stop();
    }
}

impl Inner {
    /// Tells the loop to stop and waits until everything is written and closed.
    fn stop(&self) {
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return };
        self.desks.close();
        let mut stop = Event::Stop;
        // The queue is drained by the loop all the time; `blocking_send` would panic inside somebody's runtime.
        while let Err(mpsc::error::TrySendError::Full(back)) = self.events.try_send(stop) {
            stop = back;
            thread::sleep(std::time::Duration::from_millis(1));
        }
        if thread.thread().id() != thread::current().id() && thread.join().is_err() {
            tracing::error!("the node's loop panicked");
        }
    }
}

impl Node {
    /// A node with default settings; see [`NodeBuilder`].
    #[must_use]
    pub fn builder() -> NodeBuilder {
        NodeBuilder::default()
    }

    /// This node's name.
    #[must_use]
    pub fn id(&self) -> NodeId {
        self.inner.me
    }

    /// The cassette: this node's memory.
    #[must_use]
    pub fn cassette(&self) -> &Cassette {
        &self.inner.cassette
    }

    /// Stops the node: callers get [`EvalError::Closed`], peers are told, everything acknowledged is on disk when this returns.
    pub fn shutdown(self) {
        self.inner.stop();
    }

    /// A held answer to a question of which only the id is known, from this node or its peers.
    pub async fn get(&self, id: ContentId) -> Result<Answer, EvalError> {
        let why = match self.look_up(id)? {
            Ok(answer) => return Ok(answer),
            Err(why) => why,
        };
        self.ask(id, None, AnswerFrom::HeldOnly, None, why).await
    }

    /// The nodes that are said to hold an answer to this question, the quickest first; this one is not among them.
    pub async fn holders(&self, id: ContentId) -> Result<Vec<HolderStatus>, EvalError> {
        let (found, holders) = oneshot::channel();
        self.inner.events.send(Event::Holders(id, found)).await.map_err(|_| EvalError::Closed)?;
        holders.await.map_err(|_| EvalError::Closed)
    }

    /// How many facts of other nodes this one knows, as in [`Status::index_facts`]; costs so little that one may ask all the time.
    #[must_use]
    pub fn index_facts(&self) -> u64 {
        self.inner.shared.facts.load(Ordering::Relaxed)
    }

    /// How the node is.
    #[must_use]
    pub fn status(&self) -> Status {
        let inner = &*self.inner;
        let view = inner.shared.view();
        let ledger = inner.cassette.ledger();
        let cassette = inner.cassette.stats();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: inner.me,
            pid: std::process::id(),
            uptime: inner.clock.now().0,
            data_dir: inner.data_dir.clone(),
            addresses: view.addresses,
            evaluators: inner.evaluators.versions(),
            peers: view.peers.into_values().collect(),
            refused: view.refused.into_values().collect(),
            in_flight: view.in_flight,
            index_facts: view.index_facts,
            index: view.index,
            answers: AnswerCounts {
                ram: load(&inner.shared.ram),
                disk: load(&inner.shared.disk),
                fetched: view.counters.fetched,
                computed: view.counters.computed,
                joined: view.counters.joined,
            },
            traffic: TrafficCounts {
                asks_sent: view.counters.asks_sent,
                hedged: view.counters.hedged,
                served: view.counters.served,
                batches: view.counters.batches,
                disbelieved: view.counters.disbelieved,
                wasted: view.counters.wasted,
                dropped: load(&inner.shared.dropped),
            },
            ledger: LedgerStatus {
                entries: ledger.length(),
                durable: ledger.durable(),
                epochs: ledger.lineage().len() as u64,
                answers: cassette.records,
                damaged: cassette.damaged,
            },
            #[cfg(feature = "wasm")]
            wasm: Some(self.wasm_status()),
            #[cfg(feature = "gpu")]
            gpu: self.gpu_summary(),
            #[cfg(feature = "gpu")]
            device_classes: self.device_classes(),
            #[cfg(feature = "gpu")]
            pipelines: self.inner.gpu.as_ref().map(crate::evaluator::gpu::GpuEvaluator::pipelines),
        }
    }

    #[cfg(feature = "wasm")]
    fn wasm_status(&self) -> status::WasmStatus {
        let gauges = self.inner.wasm.gauges();
        status::WasmStatus {
            instances: gauges.instances,
            memories: gauges.memories,
            slots: self.inner.slots.list().len() as u64,
            artifacts: self.inner.wasm.artifacts(),
        }
    }

    /// Answers a request that may itself be an input of another one; `waits` says that the thread that polls this has nothing else to do.
    async fn eval_at(&self, request: Request, depth: usize, waits: bool) -> Result<Answer, EvalError> {
        let resolved = resolve::resolve(self, request, depth, waits).await?;
        Eval::admit(self, &resolved.request)?;
        let id = resolved.request.id()?;
        let options = &resolved.request.options;
        let (answer_from, timeout) = (options.answer_from, options.timeout);
        let mut why = NotHeld::NeverSeen;
        if answer_from != AnswerFrom::ComputedOnly && resolved.request.class.is_memoised() {
            match self.look_up(id)? {
                Ok(answer) => return Ok(answer),
                Err(miss) => why = miss,
            }
            #[cfg(feature = "gpu")]
            if options.approximate
                && let Some(answer) = self.of_another_class(&resolved.request, id).await?
            {
                return Ok(answer);
            }
        }
        let resolved = (answer_from != AnswerFrom::HeldOnly).then(|| Arc::new(resolved));
        self.ask_resolved(Ask { job: self.fresh_job(), id, request: resolved, answer_from, timeout }, why, waits).await
    }

    fn look_up(&self, id: ContentId) -> Result<Result<Answer, NotHeld>, EvalError> {
        let looked_up = self.inner.cassette.lookup(id).map_err(|error| EvalError::Ledger(error.to_string()))?;
        Ok(match looked_up {
            Lookup::Miss(why) => Err(why),
            Lookup::Hit(held) => {
                let (origin, counter) = match held.tier {
                    Tier::Ram => (Origin::Ram, &self.inner.shared.ram),
                    Tier::Disk => (Origin::Disk, &self.inner.shared.disk),
                };
                counter.fetch_add(1, Ordering::Relaxed);
                Ok(Answer { id, reply: held.into_reply(), origin, recorded: true })
            }
        })
    }

    async fn ask(
        &self,
        id: ContentId,
        request: Option<Arc<crate::record::Resolved>>,
        answer_from: AnswerFrom,
        timeout: Option<std::time::Duration>,
        why: NotHeld,
    ) -> Result<Answer, EvalError> {
        self.ask_resolved(Ask { job: self.fresh_job(), id, request, answer_from, timeout }, why, false).await
    }

    fn fresh_job(&self) -> JobId {
        JobId(self.inner.next_job.fetch_add(1, Ordering::Relaxed))
    }

    /// Puts a question to the loop and waits; dropping the future abandons it there. A thread that `waits` does what it can until then.
    async fn ask_resolved(&self, ask: Ask, why: NotHeld, waits: bool) -> Result<Answer, EvalError> {
        let (id, job, at_most) = (ask.id, ask.job, ask.timeout.unwrap_or(std::time::Duration::MAX));
        let Inner { events, desks, turns, .. } = &*self.inner;
        let (caller, outcome) = oneshot::channel();
        let mut question = Some((ask, caller));
        let at_desk = poll_fn(|cx| {
            let left = question.take().map_or(Ok(()), |question| desks.put(question, cx.waker(), events));
            Poll::Ready(left)
        });
        let mut errands = Vec::new();
        if let Err((ask, caller)) = at_desk.await {
            match turns.take_for(Event::Ask(ask, caller), waits) {
                Ok(given) => errands = given,
                Err(event) => events.send(*event).await.map_err(|_| EvalError::Closed)?,
            }
        }
        let mut abandon = AbandonOnDrop { events: &self.inner.events, job: Some(job) };
        for errand in errands {
            errand.run(at_most);
        }
        let outcome = outcome.await.unwrap_or(Err(EvalError::Closed));
        abandon.job = None;
        match outcome {
            Ok(delivery) => {
                Ok(Answer { id, reply: delivery.reply, origin: delivery.origin, recorded: delivery.recorded })
            }
            // The cassette knows better than the fabric why there is no answer here.
            Err(EvalError::NotHeld { id, why: NotHeld::NeverSeen }) => Err(EvalError::NotHeld { id, why }),
            Err(error) => Err(error),
        }
    }
}

impl Eval for Node {
    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        if let Some(refused) = request.capabilities.iter().find(|capability| !self.inner.grants.contains(capability)) {
            return Err(Refusal::Capability(refused.to_string()).into());
        }
        self.inner.evaluators.admit(request)
    }

    async fn eval(&self, request: Request) -> Result<Answer, EvalError> {
        self.eval_at(request, 0, false).await
    }
}

/// The identity of the node with this data directory; made if there is none yet.
pub fn identity(data_dir: &std::path::Path) -> Result<crate::identity::Identity, StartError> {
    std::fs::create_dir_all(data_dir).map_err(|source| StartError::System { what: "data directory", source })?;
    Ok(keyfile::load_or_make(data_dir)?)
}

struct AbandonOnDrop<'a> {
    events: &'a mpsc::Sender<Event>,
    job: Option<JobId>,
}

impl Drop for AbandonOnDrop<'_> {
    fn drop(&mut self) {
        if let Some(job) = self.job {
            // If the queue is full the answer goes nowhere, which is what the caller wanted.
            let _ = self.events.try_send(Event::Fabric(Input::Abandon(job)));
        }
    }
}
