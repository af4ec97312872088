//! What a thread does that waits for its evaluation: hears the answer and settles it, as the lane's thread would.
//!
//! Invariant: while the worker is away the lane does nothing with it, and whichever way an errand ends the worker is back, or is the lane's
//! thread's to hear.

use std::sync::Arc;
use std::time::Duration;

use super::{Shared, Under, work};
use crate::evaluator::Errand;
use crate::evaluator::gpu::device::Stopwatch;
use crate::evaluator::gpu::limits::LOOK;

/// An evaluation with the worker that has its order, outside the lane.
struct Away {
    shared: Arc<Shared>,
    under: Option<Under>,
}

/// What is done about an evaluation whose order is about to be written.
pub(super) fn errand(shared: Arc<Shared>, under: Under) -> Errand {
    let away = Away { shared, under: Some(under) };
    Errand::new(move |at_most| away.run(at_most))
}

impl Away {
    fn run(mut self, at_most: Duration) {
        if let Some(under) = self.under.as_ref()
            && comes_within(&self.shared, under, at_most)
            && let Some(under) = self.under.take()
        {
            work::hear_and_settle(&self.shared, under);
        }
    }
}

impl Drop for Away {
    /// Nobody waits here any more: the lane's thread goes on with it.
    fn drop(&mut self) {
        if let Some(under) = self.under.take() {
            let mut queue = self.shared.queue();
            queue.away = None;
            queue.posted = Some(under);
            let wake = std::mem::take(&mut queue.sleeping);
            drop(queue);
            if wake {
                self.shared.bell.ring();
            }
        }
    }
}

/// Waits until there is an answer, or the worker has ended; not when nobody wants it any more, nor longer than that.
fn comes_within(shared: &Shared, under: &Under, at_most: Duration) -> bool {
    if under.awake && work::answers_soon(shared, under) {
        return true;
    }
    let watch = Stopwatch::start();
    while !under.evaluation.is_cancelled() {
        let left = at_most.saturating_sub(watch.elapsed());
        if under.worker.wait_for_letter(left.min(LOOK)) {
            return true;
        }
        if left.is_zero() {
            return false;
        }
    }
    false
}
