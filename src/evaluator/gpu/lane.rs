//! One device of a node: a queue, a thread that feeds the device's worker, and a spare worker for when that one ends.
//!
//! Small evaluations that wait together go to the worker together. Invariants: (1) every evaluation ends exactly once, with a reply or a typed
//! error; (2) one that makes its worker end is retried at most once, and takes no other one with it; (3) nothing is answered that a worker
//! did not answer whole.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::evaluation::{Evaluation, Layout, Pending};
use super::limits::{BATCH, QUEUE};
use super::proofs::Proofs;
use super::report::DeviceReport;
use super::worker::shared::Place;
use super::worker::{Ended, Guard, Ran, Setup, Trouble, Wanted, Why, Worker};
use crate::error::{EvalError, LimitHit};
use crate::evaluator::Cancel;
use crate::reply::Reply;

/// A device that answers.
#[derive(Clone)]
pub(super) struct Lane(Arc<Shared>);

struct Shared {
    report: DeviceReport,
    /// Which of those that say the same of themselves it is.
    place: u32,
    setup: Setup,
    memory: u64,
    with_spare: bool,
    proofs: Arc<Proofs>,
    queue: Mutex<Queue>,
    changed: Condvar,
    /// Raised when the lane closes: whatever runs is ended.
    stop: Cancel,
    /// A worker that has the device open and waits.
    spare: Mutex<Spare>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Pending>,
    running: usize,
    closed: bool,
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
}

impl Lane {
    /// A lane for a sound device, with the worker that examined it.
    pub(super) fn start(report: DeviceReport, place: u32, worker: Worker, how: LaneSetup) -> std::io::Result<Self> {
        let LaneSetup { setup, memory, spare: with_spare, proofs } = how;
        let (queue, changed, spare) = (Mutex::default(), Condvar::new(), Mutex::default());
        let shared = Arc::new(Shared {
            report,
            place,
            setup,
            memory,
            with_spare,
            proofs,
            queue,
            changed,
            stop: Cancel::default(),
            spare,
        });
        let lane = Self(Arc::clone(&shared));
        thread::Builder::new().name("evalmesh-gpu".to_owned()).spawn(move || work(&shared, Some(worker)))?;
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

    /// Takes an evaluation, unless too many wait.
    pub(super) fn add(&self, pending: Pending) {
        let mut queue = self.0.queue();
        if queue.waiting.len() >= QUEUE {
            drop(queue);
            let what = "evaluations that wait for the device".to_owned();
            return pending.finish(Err(EvalError::Busy { what, bound: QUEUE as u64 }));
        }
        queue.waiting.push_back(pending);
        drop(queue);
        self.0.changed.notify_one();
    }

    /// Ends the thread and the worker; what waits hears that the node stops.
    pub(super) fn close(&self) {
        let waiting = {
            let mut queue = self.0.queue();
            queue.closed = true;
            std::mem::take(&mut queue.waiting)
        };
        self.0.stop.cancel();
        self.0.changed.notify_all();
        for pending in waiting {
            pending.finish(Err(EvalError::Closed));
        }
    }
}

impl Shared {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next evaluations: one, or several small ones.
    fn next(&self) -> Option<Vec<Evaluation>> {
        let mut queue = self.queue();
        queue.running = 0;
        loop {
            if queue.closed {
                return None;
            }
            let mut batch: Vec<Evaluation> = Vec::new();
            while let Some(pending) = queue.waiting.pop_front() {
                // What is not a program, or is not asked well, or has nobody waiting, is answered without the worker.
                match Evaluation::begin(pending, &self.proofs) {
                    Ok(evaluation) if batch.is_empty() || evaluation.may_share() => batch.push(evaluation),
                    Ok(evaluation) => {
                        queue.waiting.push_front(evaluation.into_pending());
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
            if !batch.is_empty() {
                queue.running = batch.len();
                return Some(batch);
            }
            queue = self.changed.wait(queue).unwrap_or_else(PoisonError::into_inner);
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

/// The lane's thread.
fn work(shared: &Arc<Shared>, mut worker: Option<Worker>) {
    while let Some(batch) = shared.next() {
        let mut left = batch;
        // Together first; what that did not settle is run one by one, so that nobody pays for another's shader.
        if left.len() > 1 {
            left = run(shared, &mut worker, left);
        }
        for evaluation in left {
            let mut again = run(shared, &mut worker, vec![evaluation]);
            if let Some(evaluation) = again.pop() {
                for evaluation in run(shared, &mut worker, vec![evaluation]) {
                    evaluation.finish(Err(EvalError::Failed("the device was lost twice".to_owned())));
                }
            }
        }
        if let Some(worker) = &mut worker {
            worker.trim();
        }
    }
    drop(worker);
    *shared.spare.lock().unwrap_or_else(PoisonError::into_inner) = Spare::None;
}

/// Runs evaluations together and ends those that are settled; returns those that want another try.
fn run(shared: &Arc<Shared>, slot: &mut Option<Worker>, batch: Vec<Evaluation>) -> Vec<Evaluation> {
    let taken = if let Some(worker) = slot.take() {
        Ok(worker)
    } else {
        let worker = shared.worker();
        shared.prepare_spare();
        worker
    };
    let mut worker = match taken {
        Ok(worker) => worker,
        Err(error) => {
            for evaluation in batch {
                evaluation.finish(Err(error.clone()));
            }
            return Vec::new();
        }
    };
    let twice = batch.iter().any(Evaluation::is_twice);
    let first = ask(&mut worker, &batch, &shared.stop);
    let second = if twice && first.as_ref().is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
        Some(ask(&mut worker, &batch, &shared.stop))
    } else {
        None
    };
    let (ended, answers, again) = match (first, second) {
        (Err(ended), _) | (_, Some(Err(ended))) => (Some(ended), Vec::new(), None),
        (Ok(first), None) => (None, first, None),
        (Ok(first), Some(Ok(second))) => (None, first, Some(second)),
    };
    if let Some(ended) = ended {
        drop(worker);
        return after_end(batch, &ended);
    }
    let mut left = Vec::new();
    let mut again = again.into_iter().flatten();
    let mut lost = false;
    for (evaluation, answer) in batch.into_iter().zip(answers) {
        match (answer, again.next().transpose()) {
            (Err(Trouble::Lost(why)), _) | (Ok(_), Err(Trouble::Lost(why))) => {
                tracing::warn!(why, "a GPU was lost");
                lost = true;
                left.push(evaluation);
            }
            (Err(Trouble::Unknown), _) | (Ok(_), Err(Trouble::Unknown)) => left.push(evaluation),
            (Err(Trouble::Error(error)), _) | (Ok(_), Err(Trouble::Error(error))) => evaluation.finish(Err(error)),
            (Ok(reply), Ok(again)) => evaluation.settle(reply, again.as_ref(), &shared.proofs, &shared.report),
        }
    }
    if lost {
        drop(worker);
    } else {
        *slot = Some(worker);
    }
    left
}

/// What becomes of evaluations whose worker ended.
fn after_end(batch: Vec<Evaluation>, ended: &Ended) -> Vec<Evaluation> {
    let alone = batch.len() == 1;
    let mut left = Vec::new();
    for evaluation in batch {
        match ended {
            _ if evaluation.is_cancelled() => evaluation.finish(Err(EvalError::Cancelled)),
            // Whose time was over is known; of the others in its batch each gets what is left of its own.
            Ended::Killed(Why::Deadline) if alone || evaluation.left().is_zero() => {
                let ms = u64::try_from(evaluation.time().as_millis()).unwrap_or(u64::MAX);
                evaluation.finish(Err(LimitHit::Deadline { ms }.into()));
            }
            Ended::Killed(_) | Ended::Died(_) => left.push(evaluation),
        }
    }
    left
}

/// Asks the worker for a batch and takes the outputs over.
fn ask(worker: &mut Worker, batch: &[Evaluation], stop: &Cancel) -> Result<Vec<Result<Reply, Trouble>>, Ended> {
    let room: u64 = batch.iter().map(Evaluation::arena_bytes).sum();
    let died = |error: std::io::Error| Ended::Died(format!("shared memory: {error}"));
    let arena = if room == 0 { None } else { worker.arena(room) };
    let mut layout = Layout::new(arena.as_deref());
    let mut wanted: Vec<Wanted> = Vec::new();
    for evaluation in batch {
        let code = (!worker.known.contains(&evaluation.program())).then(|| evaluation.code());
        wanted.push(evaluation.wanted(code, &mut layout).map_err(died)?);
    }
    let places: Vec<_> = wanted.iter().map(|wanted| wanted.outputs.clone()).collect();
    let left = batch.iter().map(Evaluation::left).min().unwrap_or(Duration::ZERO);
    let guard = Guard::within(left).unless(batch.iter().map(Evaluation::cancel).collect(), stop);
    let answers = worker.run(wanted, guard)?;
    let take = |((evaluation, places), answer): ((&Evaluation, &Vec<Place>), Result<Ran, Trouble>)| match answer {
        Ok(ran) => {
            worker.known.insert(evaluation.program());
            evaluation.reply(ran, places, arena.as_deref()).map(Ok).map_err(died)
        }
        Err(Trouble::Unknown) => {
            worker.known.remove(&evaluation.program());
            Ok(Err(Trouble::Unknown))
        }
        Err(trouble) => Ok(Err(trouble)),
    };
    batch.iter().zip(&places).zip(answers).map(take).collect()
}
