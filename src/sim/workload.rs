//! Who asks what when: all of it is fixed before a run begins.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Place;
use super::rng::{Purpose, Rng};
use super::scenario::{Pattern, Scenario};
use super::span::Span;
use crate::error::RequestError;
use crate::id::ContentId;
use crate::record::Resolved;
use crate::request::{AnswerFrom, Class, Program, Request};

/// How long after everything healed each node is asked to prove that it answers.
const PROBE: Duration = Duration::from_secs(1);
/// The most files that one question is about.
const MOST_READ: usize = 3;
/// The longest that an impatient caller waits, in milliseconds.
const IMPATIENT: u64 = 40;

/// One question that is asked.
#[derive(Debug, Clone)]
pub(super) struct Question {
    pub(super) id: ContentId,
    pub(super) resolved: Arc<Resolved>,
}

/// One ask of a plan. Timeout and whence the answer may come are options of the request.
#[derive(Debug, Clone)]
pub struct Ask {
    /// When, from the begin.
    pub at: Duration,
    /// On which node.
    pub node: Place,
    /// What.
    pub request: Request,
}

/// One ask, ready to be asked.
#[derive(Debug, Clone)]
pub(super) struct Asking {
    pub(super) at: Duration,
    pub(super) node: Place,
    /// What is asked, unless it is about files.
    pub(super) question: usize,
    /// The files that it is about.
    pub(super) reads: Vec<usize>,
    pub(super) answer_from: AnswerFrom,
    pub(super) timeout: Option<Duration>,
    /// After how long the caller goes away.
    pub(super) leaves: Option<Duration>,
    pub(super) probe: bool,
}

/// All questions and asks of a run.
#[derive(Debug, Clone, Default)]
pub(super) struct Workload {
    pub(super) questions: Vec<Question>,
    pub(super) asks: Vec<Asking>,
}

/// How long each node has to ask everything, for `turns`.
pub(super) const TURN: Duration = Duration::from_secs(12);

impl Workload {
    /// What the scenario says.
    pub(super) fn of(scenario: &Scenario) -> Self {
        let mut plan = Self::default();
        let mut rng = Rng::stream(scenario.seed, Purpose::Workload, 0);
        let common: Vec<_> = (0..scenario.questions.count).map(|number| plan.make(scenario, number as u64)).collect();
        let whole = Span { from: Duration::ZERO, to: scenario.faulty };
        let (asks, askers) = (&scenario.workload, scenario.askers());
        match asks.pattern {
            Pattern::Turns => {
                for (turn, node) in askers.into_iter().enumerate() {
                    let at = TURN * u32::try_from(turn + 1).unwrap_or(u32::MAX);
                    plan.asks.extend(common.iter().map(|question| Asking::plain(at, node, *question)));
                }
            }
            Pattern::Random => {
                for _ in 0..asks.asks {
                    let (at, node) = (rng.within(&whole), askers[rng.index(askers.len())]);
                    plan.asks.push(Asking::plain(at, node, common[rng.index(common.len())]));
                }
            }
            Pattern::Herd => {
                for _ in 0..asks.asks {
                    let (at, question) = (rng.within(&whole), common[rng.index(common.len())]);
                    plan.asks.extend(askers.iter().map(|node| Asking::plain(at, *node, question)));
                }
            }
            Pattern::Steady => plan.steady(scenario, &mut rng),
        }
        let mut callers = Rng::stream(scenario.seed, Purpose::Callers, 0);
        plan.asks.iter_mut().for_each(|ask| ask.wish(&mut callers, asks.special));
        let (mut readers, how) = (Rng::stream(scenario.seed, Purpose::Workspaces, 0), scenario.workspaces);
        for ask in &mut plan.asks {
            if !readers.happens(how.asks) {
                continue;
            }
            let mut files: Vec<_> = (0..how.files).collect();
            readers.shuffle(&mut files);
            files.truncate(1 + readers.index(MOST_READ));
            files.sort_unstable();
            ask.reads = files;
        }
        plan
    }

    /// Each node asks at its own pace: something new, or what somebody asked before.
    fn steady(&mut self, scenario: &Scenario, rng: &mut Rng) {
        let every = scenario.workload.every;
        let first = self.questions.len();
        let mut round = Duration::ZERO;
        while round < scenario.faulty {
            for node in scenario.askers() {
                let at = round
                    + rng.within(&Span { from: Duration::ZERO, to: every.min(scenario.faulty.saturating_sub(round)) });
                let old = self.questions.len() - first;
                let question = if old > 0 && rng.happens(scenario.workload.repeats) {
                    first + rng.index(old)
                } else {
                    self.make(scenario, self.questions.len() as u64)
                };
                self.asks.push(Asking::plain(at, node, question));
            }
            round += every;
        }
    }

    /// Adds a question; returns its position.
    fn make(&mut self, scenario: &Scenario, number: u64) -> usize {
        let mut rng = Rng::stream(scenario.seed, Purpose::Workload, number + 1);
        let [observed, volatile] =
            [scenario.questions.observed, scenario.questions.volatile].map(|share| rng.happens(share));
        let class = match (observed, volatile) {
            (_, true) => Class::Volatile,
            (true, false) => Class::Observed,
            (false, false) => Class::Portable,
        };
        let request = Request::new(Program::wasm(&b"simulated"[..])).arg(number.to_string()).class(class);
        self.add(request).expect("a short argument is well-formed")
    }

    fn add(&mut self, request: Request) -> Result<usize, RequestError> {
        let id = request.id()?;
        self.questions.push(Question { id, resolved: Arc::new(Resolved { request, upstream: Vec::new() }) });
        Ok(self.questions.len() - 1)
    }

    /// What a user's plan says.
    pub(super) fn of_asks(asks: Vec<Ask>) -> Result<Self, RequestError> {
        let mut plan = Self::default();
        let mut known = BTreeMap::new();
        for Ask { at, node, request } in asks {
            let options = request.options.clone();
            let id = request.id()?;
            let question = match known.get(&id) {
                Some(question) => *question,
                None => plan.add(request)?,
            };
            known.insert(id, question);
            let (answer_from, timeout) = (options.answer_from, options.timeout);
            plan.asks.push(Asking { answer_from, timeout, ..Asking::plain(at, node, question) });
        }
        Ok(plan)
    }

    /// Adds what proves that the healed fleet answers: every honest node is asked something new and something old.
    pub(super) fn probe(&mut self, calm: Duration, nodes: &[Place]) {
        let old = self.questions.iter().position(|question| question.resolved.request.class == Class::Portable);
        for &node in nodes {
            let request = Request::new(Program::wasm(&b"probe"[..])).arg(node.to_string());
            let fresh = self.add(request).expect("a short argument is well-formed");
            for question in [Some(fresh), old].into_iter().flatten() {
                let probe = Asking { probe: true, ..Asking::plain(calm + PROBE, node, question) };
                self.asks.push(probe);
            }
        }
    }
}

impl Asking {
    fn plain(at: Duration, node: Place, question: usize) -> Self {
        let (answer_from, timeout, leaves) = (AnswerFrom::Anywhere, None, None);
        Self { at, node, question, reads: Vec::new(), answer_from, timeout, leaves, probe: false }
    }

    /// Some callers want something special.
    fn wish(&mut self, rng: &mut Rng, share: u32) {
        let [held, fresh, timed, leaves] = [(); 4].map(|()| rng.happens(share));
        let wait = |rng: &mut Rng| Duration::from_millis(rng.below(IMPATIENT));
        let (timeout, patience) = (wait(rng), wait(rng));
        self.answer_from = match (held, fresh) {
            (true, _) => AnswerFrom::HeldOnly,
            (_, true) => AnswerFrom::ComputedOnly,
            _ => AnswerFrom::Anywhere,
        };
        self.timeout = timed.then_some(timeout);
        self.leaves = leaves.then_some(patience);
    }
}
