//! What a lane's thread does: hears the answers to what others posted, runs what waits, and settles both.
//!
//! Invariant: whatever comes out of a worker, each evaluation that went in is finished here, or handed back for its one more try.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::{Next, Shared, Spare, Under};
use crate::error::{EvalError, LimitHit};
use crate::evaluator::gpu::evaluation::{Evaluation, Layout};
use crate::evaluator::gpu::limits::{ASLEEP, AWAKE};
use crate::evaluator::gpu::worker::memory::Arena;
use crate::evaluator::gpu::worker::shared::Place;
use crate::evaluator::gpu::worker::{Ended, Guard, Ran, Trouble, Wanted, Why, Worker};
use crate::reply::Reply;

/// The lane's thread, until the lane is closed.
pub(super) fn work(shared: &Arc<Shared>) {
    while let Some(next) = shared.next() {
        match next {
            Next::Hear(under) => {
                if under.awake {
                    answers_soon(shared, &under);
                }
                hear_and_settle(shared, *under);
            }
            Next::Run(worker, batch) => {
                let (mut worker, mut left) = (worker.map(|worker| *worker), batch);
                // Together first; what that did not settle is run one by one, so that nobody pays for another's shader.
                if left.len() > 1 {
                    left = run(shared, &mut worker, left);
                }
                for evaluation in left {
                    for evaluation in run(shared, &mut worker, vec![evaluation]) {
                        again(shared, &mut worker, evaluation);
                    }
                }
                shared.rest(worker);
            }
        }
    }
    let worker = shared.queue().worker.take();
    drop(worker);
    *shared.spare.lock().unwrap_or_else(PoisonError::into_inner) = Spare::None;
}

/// The second and last try of an evaluation whose worker ended, or did not know its program.
fn again(shared: &Arc<Shared>, worker: &mut Option<Worker>, evaluation: Evaluation) {
    for evaluation in run(shared, worker, vec![evaluation]) {
        evaluation.finish(Err(EvalError::Failed("the device was lost twice".to_owned())));
    }
}

/// Looks awake for an answer; the next ones are waited for asleep if it does not come so soon.
pub(super) fn answers_soon(shared: &Shared, under: &Under) -> bool {
    let worker = &under.worker;
    let soon = if under.mailed { worker.writes_within(AWAKE) } else { worker.answers_within(AWAKE) };
    if !soon {
        shared.queue().asleep = ASLEEP;
    }
    soon
}

/// Hears what came of an evaluation that was posted, and ends it; a worker that is as well as before may have the next one before this one ends.
pub(super) fn hear_and_settle(shared: &Arc<Shared>, under: Under) {
    let Under { mut worker, evaluation, places, arena, awake: _, mailed } = under;
    let back = Back(Some(shared));
    let (batch, places) = (vec![evaluation], [places]);
    let heard = if mailed { worker.fetch() } else { worker.hear_of(1) };
    let answers = heard.and_then(|ran| take(&mut worker, &batch, &places, arena.as_deref(), ran));
    let (mut worker, left) = match answers {
        Err(ended) => {
            drop(worker);
            (None, after_end(batch, &ended))
        }
        Ok(answers) if answers.iter().all(Result::is_ok) => {
            back.with(Some(worker));
            settle(shared, batch, answers, None);
            return;
        }
        Ok(answers) => {
            let (left, lost) = settle(shared, batch, answers, None);
            ((!lost).then_some(worker), left)
        }
    };
    for evaluation in left {
        again(shared, &mut worker, evaluation);
    }
    back.with(worker);
}

/// Gives the worker back, or word that there is none any more: a lane whose worker is away waits for that, whatever happens to whoever has it.
struct Back<'a>(Option<&'a Shared>);

impl Back<'_> {
    fn with(mut self, worker: Option<Worker>) {
        if let Some(shared) = self.0.take() {
            shared.rest(worker);
        }
    }
}

impl Drop for Back<'_> {
    fn drop(&mut self) {
        if let Some(shared) = self.0.take() {
            shared.rest(None);
        }
    }
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
    let unknown = shared.unknown(&worker, &batch);
    let first = ask(shared, &mut worker, &batch);
    let second = if twice && first.as_ref().is_ok_and(|answers| answers.iter().all(Result::is_ok)) {
        Some(ask(shared, &mut worker, &batch))
    } else {
        None
    };
    let (answers, second) = match (first, second) {
        (Err(ended), _) | (_, Some(Err(ended))) => {
            drop(worker);
            return after_end(batch, &ended);
        }
        (Ok(first), None) => (first, None),
        (Ok(first), Some(Ok(second))) => (first, Some(second)),
    };
    let (left, lost) = settle(shared, batch, answers, second);
    if !lost && shared.compiled(&mut worker, unknown).is_ok() {
        *slot = Some(worker);
    }
    left
}

/// What a worker gave for each evaluation.
type Answers = Vec<Result<Reply, Trouble>>;

/// Ends the evaluations that are settled; returns those that want another try, and whether the device was lost.
fn settle(
    shared: &Shared,
    batch: Vec<Evaluation>,
    answers: Answers,
    again: Option<Answers>,
) -> (Vec<Evaluation>, bool) {
    let (mut left, mut lost) = (Vec::new(), false);
    let mut again = again.into_iter().flatten();
    for (evaluation, answer) in batch.into_iter().zip(answers) {
        match (answer, again.next().transpose()) {
            (Err(Trouble::Lost(why)), _) | (Ok(_), Err(Trouble::Lost(why))) => {
                tracing::warn!(why, "a GPU was lost");
                lost = true;
                left.push(evaluation);
            }
            (Err(Trouble::Unknown), _) | (Ok(_), Err(Trouble::Unknown)) => left.push(evaluation),
            (Err(Trouble::Error(error)), _) | (Ok(_), Err(Trouble::Error(error))) => evaluation.finish(Err(error)),
            (Ok(reply), Ok(again)) => evaluation.settle(reply, again.as_ref(), &shared.proofs, &shared.evaluator),
        }
    }
    (left, lost)
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
fn ask(shared: &Shared, worker: &mut Worker, batch: &[Evaluation]) -> Result<Answers, Ended> {
    let room: u64 = batch.iter().map(Evaluation::arena_bytes).sum();
    let died = |error: std::io::Error| Ended::Died(format!("shared memory: {error}"));
    let arena = if room == 0 { None } else { worker.arena(room) };
    let mut layout = Layout::new(arena.as_deref());
    let mut wanted: Vec<Wanted> = Vec::new();
    for evaluation in batch {
        let code = (!worker.known.contains(&evaluation.program())).then(|| shared.code(evaluation));
        wanted.push(evaluation.wanted(code, &mut layout).map_err(died)?);
    }
    let places: Vec<_> = wanted.iter().map(|wanted| wanted.outputs.clone()).collect();
    let left = batch.iter().map(Evaluation::left).min().unwrap_or(Duration::ZERO);
    let guard = Guard::within(left).unless(batch.iter().map(Evaluation::cancel).collect(), &shared.stop);
    let ran = worker.run(wanted, guard)?;
    take(worker, batch, &places, arena.as_deref(), ran)
}

/// Takes over what a worker gave.
fn take(
    worker: &mut Worker,
    batch: &[Evaluation],
    places: &[Vec<Place>],
    arena: Option<&Arena>,
    ran: Vec<Result<Ran, Trouble>>,
) -> Result<Answers, Ended> {
    let died = |error: std::io::Error| Ended::Died(format!("shared memory: {error}"));
    let take = |((evaluation, places), answer): ((&Evaluation, &Vec<Place>), Result<Ran, Trouble>)| match answer {
        Ok(ran) => {
            worker.known.insert(evaluation.program());
            evaluation.reply(ran, places, arena).map(Ok).map_err(died)
        }
        Err(Trouble::Unknown) => {
            worker.known.remove(&evaluation.program());
            Ok(Err(Trouble::Unknown))
        }
        Err(trouble) => Ok(Err(trouble)),
    };
    batch.iter().zip(places).zip(ran).map(take).collect()
}
