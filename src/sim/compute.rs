//! Evaluators on virtual time: the built-in one, whose replies follow from the question, and the seam for users' own.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;

use super::Place;
use super::rng::Rng;
use super::scenario::{Compute, Questions};
use crate::error::EvalError;
use crate::id::ContentId;
use crate::limits::INLINE_REPLY;
use crate::reply::{Reply, Status, TrapCode};
use crate::request::{Class, Request};

/// After this a watchdog ends an evaluation that hangs.
const WATCHDOG: Duration = Duration::from_secs(3);

/// What an evaluation does.
#[derive(Debug, Clone)]
pub struct Evaluation {
    /// How long it takes, in virtual time.
    pub takes: Duration,
    /// What it gives.
    pub result: Result<Reply, EvalError>,
}

/// Computes replies in a simulation. It must be a function of its arguments alone, or a seed no longer fixes a run.
pub trait Evaluator {
    /// Evaluates a request on a node. `run` counts all evaluations; a reply of a reproducible class must not depend on it, nor on the node
    /// or on `random`.
    fn evaluate(&mut self, node: Place, id: ContentId, request: &Request, run: u64, random: &mut Rng) -> Evaluation;
}

impl<F: FnMut(Place, &Request, &mut Rng) -> Evaluation> Evaluator for F {
    fn evaluate(&mut self, node: Place, _: ContentId, request: &Request, _: u64, random: &mut Rng) -> Evaluation {
        self(node, request, random)
    }
}

impl fmt::Debug for dyn Evaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Evaluator")
    }
}

/// The built-in evaluator.
#[derive(Debug, Clone, Copy)]
pub(super) struct Synthetic {
    pub(super) questions: Questions,
    pub(super) compute: Compute,
}

impl Evaluator for Synthetic {
    fn evaluate(&mut self, _: Place, id: ContentId, request: &Request, run: u64, random: &mut Rng) -> Evaluation {
        let takes = random.within(&self.compute.takes);
        let [hangs, fails] = [self.compute.hangs, self.compute.fails].map(|share| random.happens(share));
        if hangs {
            return Evaluation { takes: WATCHDOG, result: Err(EvalError::Failed("the program hung".to_owned())) };
        }
        if fails {
            return Evaluation { takes, result: Err(EvalError::Failed("the evaluator broke down".to_owned())) };
        }
        let seen = if matches!(request.class, Class::Portable | Class::Device(_)) { 0 } else { run + 1 };
        let about_files = super::workspace::reply(request);
        Evaluation { takes, result: Ok(about_files.unwrap_or_else(|| self.reply(id, seen))) }
    }
}

impl Synthetic {
    /// The reply to a question; observations differ by their number.
    fn reply(&self, id: ContentId, seen: u64) -> Reply {
        let name = id.as_bytes();
        let share = |at: usize| u32::from(u16::from_le_bytes([name[at], name[at + 1]])) % 1000;
        let len = if share(0) < self.questions.large {
            match self.questions.kilobytes as usize * 1000 {
                0 => INLINE_REPLY + usize::from(name[2]) * 1500,
                most => most / 2 + most / 2 * usize::from(name[2]) / 255,
            }
        } else {
            usize::from(name[2]) * 4
        };
        let mut bytes = vec![0; len];
        let mut hasher = blake3::Hasher::new_derive_key("evalmesh simulated reply");
        hasher.update(name).update(&seen.to_le_bytes()).finalize_xof().fill(&mut bytes);
        let mut reply = Reply::ok(Bytes::from(bytes));
        if share(4) < self.questions.trapping {
            reply.status = Status::Trap(TrapCode::Unreachable);
        }
        reply
    }
}
