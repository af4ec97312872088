//! One device of a node: a queue, a thread that feeds the device's worker, and a spare worker for when that one ends.
//!
//! Small evaluations that wait together go to the worker together. A small one that comes while nothing is under way is sent by whoever brings it,
//! and the lane's thread only hears the answer: to wake that thread first would cost more than the device does. Where it does not take the processor
//! from anybody it is woken meanwhile, and is awake when the answer comes (`limits::AWAKE`). A thread that only waits for its evaluation hears the answer
//! itself (`errand`), and has the worker until then. Invariants: (1) every evaluation ends exactly once,
//! with a reply or a typed error; (2) one that makes its worker end is retried at most once, and takes no other one with it; (3) nothing is
//! answered that a worker did not answer whole; (4) one order is under way at a time.

mod errand;
mod work;

use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use std::thread;

use smol_str::SmolStr;

use super::VERSION;
use super::compiled::{OfDevice, Pipelines};
use super::evaluation::{Evaluation, Layout, Pending};
use super::limits::{ASLEEP, BATCH, QUEUE};
use super::proofs::Proofs;
use super::report::DeviceReport;
use super::worker::mailbox::Mailbox;
use super::worker::memory::Arena;
use super::worker::shared::Place;
use super::worker::{Bell, Code, Ended, Guard, Setup, Worker};
use crate::error::EvalError;
use crate::evaluator::{Cancel, Errand};
use crate::id::Digest;
use crate::reply::Reply;

/// Whether a thread may stay awake without keeping another one from working.
static SEVERAL_PROCESSORS: LazyLock<bool> =
    LazyLock::new(|| thread::available_parallelism().is_ok_and(|count| count.get() > 1));

/// A device that answers.
#[derive(Clone)]
pub(super) struct Lane(Arc<Shared>);

struct Shared {
    report: DeviceReport,
    /// What its replies say of where they come from.
    evaluator: SmolStr,
    /// Which of those that say the same of themselves it is.
    place: u32,
    setup: Setup,
    memory: u64,
    with_spare: bool,
    proofs: Arc<Proofs>,
    pipelines: Arc<Pipelines>,
    /// What names the device where pipelines are kept, if its driver gives them.
    kept_as: Option<OfDevice>,
    queue: Mutex<Queue>,
    /// Wakes the lane's thread.
    bell: Bell,
    /// Raised when the lane closes: whatever runs is ended.
    stop: Cancel,
    /// A worker that has the device open and waits.
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    running: usize,
    closed: bool,
    /// The worker, while nothing is under way.
    worker: Option<Worker>,
    /// What is under way without the lane's thread, which is to hear the answer.
    posted: Option<Under>,
    /// The worker is with a thread that waits for its evaluation, at this mailbox.
    away: Option<Arc<Mailbox>>,
    /// The lane's thread sleeps and would not hear a worker.
    deaf: bool,
    /// Whether the lane's thread sleeps until it is rung, or the worker says something.
    sleeping: bool,
    /// How many answers are waited for asleep before one is waited for awake again.
    asleep: u32,
}

/// An evaluation that waits.
enum Waiting {
    Fresh(Pending),
    Begun(Evaluation),
}

/// A small evaluation whose order was written by whoever brought it.
struct Under {
    worker: Worker,
    evaluation: Evaluation,
    places: Vec<Place>,
    arena: Option<Arc<Arena>>,
    /// Whether its answer is waited for awake.
    awake: bool,
    /// Whether its answer comes to the mailbox.
    mailed: bool,
}

/// What the lane's thread does next.
enum Next {
    /// Waits for an answer.
    Hear(Box<Under>),
    /// Runs these, with this worker or another one.
    Run(Option<Box<Worker>>, Vec<Evaluation>),
}

#[derive(Default)]
enum Spare {
    #[default]
    None,
    Starting,
    Ready(Box<Worker>),
}

/// How a lane works.
pub(super) struct LaneSetup {
    pub(super) setup: Setup,
    pub(super) memory: u64,
    pub(super) spare: bool,
    pub(super) proofs: Arc<Proofs>,
    pub(super) pipelines: Arc<Pipelines>,
}

impl Lane {
    /// A lane for a sound device, with the worker that examined it.
    pub(super) fn start(report: DeviceReport, place: u32, worker: Worker, how: LaneSetup) -> std::io::Result<Self> {
        let LaneSetup { setup, memory, spare: with_spare, proofs, pipelines } = how;
        let kept_as = OfDevice::new(&report, worker.cache.as_ref()).filter(|_| pipelines.is_on());
        let (queue, bell, spare) = (Mutex::default(), Bell::new()?, Mutex::default());
        let class = report.class.as_ref();
        let evaluator = class.map_or_else(|| VERSION.into(), |class| smol_str::format_smolstr!("{VERSION} {class}"));
        let shared = Arc::new(Shared {
            report,
            evaluator,
            place,
            setup,
            memory,
            with_spare,
            proofs,
            pipelines,
            kept_as,
            queue,
            bell,
            stop: Cancel::default(),
            spare,
        });
        let lane = Self(Arc::clone(&shared));
        shared.queue().worker = Some(worker);
        thread::Builder::new().name("evalmesh-gpu".to_owned()).spawn(move || work::work(&shared))?;
        lane.0.prepare_spare();
        Ok(lane)
    }

    pub(super) fn report(&self) -> &DeviceReport {
        &self.0.report
    }

    /// Evaluations that wait or run.
    pub(super) fn load(&self) -> usize {
        let queue = self.0.queue();
        queue.waiting.len() + queue.running
    }

    /// Takes an evaluation, unless too many wait. Who brings it and `waits` for it may be given the worker to hear.
    pub(super) fn add(&self, pending: Pending, waits: bool) -> Option<Errand> {
        let shared = &self.0;
        if !(Bell::SHARED && pending.is_quick() && shared.queue().is_free()) {
            shared.put(Waiting::Fresh(pending));
            return None;
        }
        match Evaluation::begin(pending, &shared.proofs) {
            Err(refused) => refused.0.finish(Err(refused.1)),
            Ok(evaluation) if evaluation.may_share() => match shared.post(evaluation, waits) {
                Ok(errand) => return errand,
                Err(evaluation) => shared.put(Waiting::Begun(*evaluation)),
            },
            Ok(evaluation) => shared.put(Waiting::Begun(evaluation)),
        }
        None
    }

    /// Ends the thread and the worker; what waits hears that the node stops.
    pub(super) fn close(&self) {
        let waiting = {
            let mut queue = self.0.queue();
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        };
        self.0.stop.cancel();
        self.0.bell.ring();
        for waiting in waiting {
            waiting.finish(Err(EvalError::Closed));
        }
    }
}

impl Waiting {
    fn is_cancelled(&self) -> bool {
        match self {
            Self::Fresh(pending) => pending.job.cancel.is_cancelled(),
            Self::Begun(evaluation) => evaluation.is_cancelled(),
        }
    }

    fn finish(self, result: Result<Reply, EvalError>) {
        match self {
            Self::Fresh(pending) => pending.finish(result),
            Self::Begun(evaluation) => evaluation.finish(result),
        }
    }
}

impl Queue {
    /// Whether a small evaluation may be sent at once.
    fn is_free(&self) -> bool {
        self.worker.is_some() && self.running == 0 && self.waiting.is_empty() && !self.closed
    }

    /// Takes out what nobody waits for any more.
    fn cancelled(&mut self) -> VecDeque<Waiting> {
        let waiting = std::mem::take(&mut self.waiting);
        let (cancelled, left) = waiting.into_iter().partition(Waiting::is_cancelled);
        self.waiting = left;
        cancelled
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has an evaluation wait for the lane's thread, unless too many do.
    fn put(&self, waiting: Waiting) {
        let mut queue = self.queue();
        if queue.waiting.len() >= QUEUE {
            // What was cancelled is answered when its turn comes, or when it is in the way of others.
            let cancelled = queue.cancelled();
            drop(queue);
            for waiting in cancelled {
                waiting.finish(Err(EvalError::Cancelled));
            }
            queue = self.queue();
        }
        let refused = if queue.closed {
            EvalError::Closed
        } else if queue.waiting.len() >= QUEUE {
            EvalError::Busy { what: "evaluations that wait for the device".to_owned(), bound: QUEUE as u64 }
        } else {
            queue.waiting.push_back(waiting);
            // While something is under way the thread looks here when that is done, or is woken then.
            let wake = queue.posted.is_none() && queue.away.is_none() && std::mem::take(&mut queue.sleeping);
            drop(queue);
            if wake {
                self.bell.ring();
            }
            return;
        };
        drop(queue);
        waiting.finish(Err(refused));
    }

    /// Sends a small evaluation to the worker, if that does nothing else; otherwise gives it back. The answer is for the lane's thread to hear, or for
    /// this one if it `waits` and the worker can leave it where only this one is woken.
    fn post(self: &Arc<Self>, evaluation: Evaluation, waits: bool) -> Result<Option<Errand>, Box<Evaluation>> {
        let mut queue = self.queue();
        let free = queue.is_free();
        let knows = |worker: &mut Worker| free && worker.known.contains(&evaluation.program());
        let Some(mut worker) = queue.worker.take_if(knows) else { return Err(Box::new(evaluation)) };
        let away = worker.mailbox.clone().filter(|_| waits);
        // Nothing is under way, so all of the arena is free.
        let arena = worker.arena(evaluation.arena_bytes());
        let posted = evaluation.wanted(None, &mut Layout::new(arena.as_deref())).ok().and_then(|wanted| {
            let places = wanted.outputs.clone();
            let guard = Guard::within(evaluation.left()).unless(vec![evaluation.cancel()], &self.stop);
            Some((worker.post(wanted, guard, away.is_some())?, places))
        });
        let Some((order, places)) = posted else {
            queue.worker = Some(worker);
            return Err(Box::new(evaluation));
        };
        queue.running = 1;
        // To wake the thread that hears the answer takes about as long as the device does, so both are done at once. Where there is one processor for
        // all of it, that would be in the way.
        queue.asleep = if *SEVERAL_PROCESSORS { queue.asleep.saturating_sub(1) } else { ASLEEP };
        let awake = queue.asleep == 0;
        let under = Under { worker, evaluation, places, arena, awake, mailed: away.is_some() };
        if away.is_some() {
            queue.away = away;
            drop(queue);
            let errand = errand::errand(Arc::clone(self), under);
            order.write();
            return Ok(Some(errand));
        }
        queue.posted = Some(under);
        let wake = awake && std::mem::take(&mut queue.sleeping);
        drop(queue);
        if wake {
            self.bell.ring();
        }
        // Last of all: the worker may take this processor over.
        order.write();
        Ok(None)
    }

    /// What the lane's thread does next; nothing once the lane is closed.
    fn next(&self) -> Option<Next> {
        let mut queue = self.queue();
        loop {
            if let Some(under) = queue.posted.take() {
                return Some(Next::Hear(Box::new(under)));
            }
            // Whoever has the worker brings it back first.
            if queue.away.is_none() {
                if queue.closed {
                    return None;
                }
                // From here on nobody else takes the worker.
                queue.running = queue.waiting.len().min(BATCH);
                let batch;
                (queue, batch) = self.batch(queue);
                queue.running = batch.len();
                if !batch.is_empty() {
                    return Some(Next::Run(queue.worker.take().map(Box::new), batch));
                }
            }
            let ears = queue.worker.as_ref().map(Worker::ears);
            (queue.sleeping, queue.deaf) = (true, ears.is_none());
            drop(queue);
            let spoken = self.bell.wait(ears.as_deref());
            queue = self.queue();
            (queue.sleeping, queue.deaf) = (false, false);
            if spoken && queue.posted.is_none() {
                if let Some(mailbox) = &queue.away {
                    // Whoever has the worker hears what it says, or that it ended.
                    mailbox.wake();
                    continue;
                }
                // Unasked it says nothing, so it has ended; unless that was said to somebody who had it meanwhile.
                let ended = queue.worker.take_if(|worker| worker.has_spoken());
                drop(queue);
                drop(ended);
                queue = self.queue();
            }
        }
    }

    /// The next evaluations: one, or several small ones.
    fn batch<'a>(&'a self, mut queue: MutexGuard<'a, Queue>) -> (MutexGuard<'a, Queue>, Vec<Evaluation>) {
        let mut batch: Vec<Evaluation> = Vec::new();
        while let Some(waiting) = queue.waiting.pop_front() {
            // What is not a program, or is not asked well, or has nobody waiting, is answered without the worker.
            let begun = match waiting {
                Waiting::Begun(evaluation) if evaluation.is_cancelled() => {
                    Err(evaluation.refused(EvalError::Cancelled))
                }
                Waiting::Begun(evaluation) => Ok(evaluation),
                Waiting::Fresh(pending) => Evaluation::begin(pending, &self.proofs),
            };
            match begun {
                Ok(evaluation) if batch.is_empty() || evaluation.may_share() => batch.push(evaluation),
                Ok(evaluation) => {
                    queue.waiting.push_front(Waiting::Begun(evaluation));
                    break;
                }
                Err(refused) => {
                    let (pending, error) = *refused;
                    drop(queue);
                    pending.finish(Err(error));
                    queue = self.queue();
                    continue;
                }
            }
            if batch.len() >= BATCH || !batch.iter().all(Evaluation::may_share) {
                break;
            }
        }
        (queue, batch)
    }

    /// A program for a worker that does not know it.
    fn code(&self, evaluation: &Evaluation) -> Code {
        let compiled = self.kept_as.as_ref().and_then(|device| self.pipelines.load(device, evaluation.program()));
        Code { bytes: evaluation.code(), compiled, keep: self.kept_as.is_some() }
    }

    /// The programs of a batch of which the worker is to say later what came of compiling them.
    fn unknown(&self, worker: &Worker, batch: &[Evaluation]) -> BTreeSet<Digest> {
        let programs = batch.iter().filter(|_| self.kept_as.is_some()).map(Evaluation::program);
        programs.filter(|program| !worker.known.contains(program)).collect()
    }

    /// Hears what came of compiling programs and keeps it: after their evaluations, so that nobody waits for it.
    fn compiled(&self, worker: &mut Worker, programs: BTreeSet<Digest>) -> Result<(), Ended> {
        let Some(device) = &self.kept_as else { return Ok(()) };
        for program in programs {
            if let Some(made) = worker.compiled(&self.setup, program)? {
                self.pipelines.made(device, program, made);
            }
        }
        Ok(())
    }

    /// Has the worker wait for whoever comes next; or there is none any more.
    fn rest(&self, mut worker: Option<Worker>) {
        worker.iter_mut().for_each(Worker::trim);
        let mut queue = self.queue();
        queue.running = 0;
        queue.worker = worker;
        // If it was away, the lane's thread has to be told of what came meanwhile, and of whom to listen to.
        let news = queue.away.take().is_some() && (!queue.waiting.is_empty() || queue.deaf || queue.closed);
        let wake = news && std::mem::take(&mut queue.sleeping);
        drop(queue);
        if wake {
            self.bell.ring();
        }
    }

    /// A worker that has the device open.
    fn worker(&self) -> Result<Worker, EvalError> {
        let spare = std::mem::take(&mut *self.spare.lock().unwrap_or_else(PoisonError::into_inner));
        match spare {
            Spare::Ready(worker) => Ok(*worker),
            // The one that is being started will be a spare again.
            Spare::Starting => {
                *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Spare::Starting;
                self.start_worker()
            }
            Spare::None => self.start_worker(),
        }
    }

    fn start_worker(&self) -> Result<Worker, EvalError> {
        let mut worker = Worker::start(&self.setup)?;
        let adapter = (&self.report.adapter, self.place);
        match worker.open(&self.setup, adapter, self.memory, false) {
            Ok(Ok(_)) => Ok(worker),
            Ok(Err(why)) => Err(EvalError::Failed(format!("the device cannot be opened again: {why}"))),
            Err(ended) => Err(EvalError::Failed(format!("the GPU worker: {}", ended.text()))),
        }
    }

    /// Has a spare worker started, unless there is one.
    fn prepare_spare(self: &Arc<Self>) {
        let mut spare = self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.with_spare || !matches!(*spare, Spare::None) {
            return;
        }
        *spare = Spare::Starting;
        drop(spare);
        let this = Arc::clone(self);
        let start = move || {
            let worker = this.start_worker();
            if let Err(error) = &worker {
                tracing::warn!(%error, "no spare GPU worker");
            }
            *this.spare.lock().unwrap_or_else(PoisonError::into_inner) =
                worker.map_or(Spare::None, |worker| Spare::Ready(Box::new(worker)));
        };
        if thread::Builder::new().name("evalmesh-gpu-spare".to_owned()).spawn(start).is_err() {
            *self.spare.lock().unwrap_or_else(PoisonError::into_inner) = Spare::None;
        }
    }
}
