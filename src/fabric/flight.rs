//! One question in flight on this node: its waiters, its asks, its evaluation, and what happens next.
//!
//! Invariant: at most one evaluation per flight, at most one joinable flight per id. What happens next is decided in one place,
//! [`Fabric::settle`], from the state alone, whatever led to that state.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::ask::Asking;
use super::time::TimerKey;
use super::transfer::Transfer;
use super::{Ask, Delivery, Fabric, FlightId, JobId, Output, Step, Timer};
use crate::error::{EvalError, LimitHit, NotHeld};
use crate::eval::Origin;
use crate::id::{ContentId, NodeId};
use crate::limits::{MAX_FLIGHTS, MAX_WAITERS};
use crate::message::AskId;
use crate::record::Resolved;
use crate::reply::Reply;
use crate::request::{AnswerFrom, Class};

/// A caller that waits.
#[derive(Debug)]
pub(super) struct Waiter {
    accepts: AnswerFrom,
    deadline: Option<(TimerKey, Duration)>,
}

impl Waiter {
    pub(super) fn accepts(&self) -> AnswerFrom {
        self.accepts
    }
}

/// How far the evaluation of a flight is.
#[derive(Debug, PartialEq)]
pub(super) enum Computing {
    Idle,
    Running,
    /// The reply is being appended.
    Recording(Box<Reply>),
    Failed(EvalError),
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) id: ContentId,
    pub(super) request: Option<Arc<Resolved>>,
    pub(super) waiters: BTreeMap<JobId, Waiter>,
    pub(super) asks: BTreeMap<AskId, Asking>,
    /// The payloads of a believed record, while they are on their way.
    pub(super) transfer: Option<Transfer>,
    /// Holders still to be asked, the best first.
    pub(super) candidates: VecDeque<NodeId>,
    pub(super) computing: Computing,
    /// Set while computing beside the asks is put off.
    pub(super) beside: Option<TimerKey>,
    pub(super) hedge: Option<TimerKey>,
    /// Whether holders were looked for.
    pub(super) searched: bool,
}

impl Flight {
    fn new(ask: &Ask) -> Self {
        Self {
            id: ask.id,
            request: None,
            waiters: BTreeMap::new(),
            asks: BTreeMap::new(),
            transfer: None,
            candidates: VecDeque::new(),
            computing: Computing::Idle,
            beside: None,
            hedge: None,
            searched: false,
        }
    }

    pub(super) fn asks_in_flight(&self) -> usize {
        self.asks.len() + self.transfer.as_ref().map_or(0, Transfer::asks_in_flight)
    }

    pub(super) fn is_consistent(&self) -> bool {
        self.transfer.as_ref().is_none_or(Transfer::is_consistent)
    }

    fn anyone_accepts(&self, from: AnswerFrom) -> bool {
        self.waiters.values().any(|waiter| waiter.accepts == from)
    }

    /// Whether somebody would take an answer from memory or from a holder.
    pub(super) fn wants_held(&self) -> bool {
        self.waiters.values().any(|waiter| waiter.accepts != AnswerFrom::ComputedOnly)
    }

    fn class(&self) -> Option<&Class> {
        self.request.as_ref().map(|resolved| &resolved.request.class)
    }
}

impl Fabric {
    pub(super) fn on_eval(&mut self, step: &mut Step<'_>, ask: Ask) {
        self.counters.asked += 1;
        let joinable = ask.request.as_ref().is_none_or(|resolved| resolved.request.class.is_memoised());
        let running = joinable.then(|| self.by_id.get(&ask.id).copied()).flatten();
        let full = [
            ("waiting callers", self.jobs.len(), MAX_WAITERS),
            ("questions in flight", self.flights.len(), if running.is_some() { usize::MAX } else { MAX_FLIGHTS }),
        ];
        if let Some((what, _, bound)) = full.into_iter().find(|(_, found, bound)| found >= bound) {
            let busy = EvalError::Busy { what: what.to_owned(), bound: bound as u64 };
            return step.out.push(Output::Deliver(ask.job, Err(busy)));
        }
        let flight_id = running.unwrap_or_else(|| {
            let flight_id = FlightId(self.fresh_id());
            self.flights.insert(flight_id, Box::new(Flight::new(&ask)));
            if joinable {
                self.by_id.insert(ask.id, flight_id);
            }
            flight_id
        });
        self.counters.joined += u64::from(running.is_some());
        let deadline = ask.timeout.map(|timeout| {
            let key = self.timers.set(step.now + timeout, Timer::Deadline(ask.job));
            (key, timeout)
        });
        let flight = self.flights.get_mut(&flight_id).expect("found or inserted above");
        if flight.request.is_none() {
            flight.request = ask.request;
        }
        // What has no key must not be asked for: nobody else's observation is this caller's.
        let accepts = if joinable { ask.answer_from } else { AnswerFrom::ComputedOnly };
        flight.waiters.insert(ask.job, Waiter { accepts, deadline });
        self.jobs.insert(ask.job, flight_id);
        self.search(step, flight_id);
        self.settle(step, flight_id);
    }

    /// Decides what a flight needs next. Called after every change of a flight.
    pub(super) fn settle(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        if flight.waiters.is_empty() {
            return self.end_flight(step, flight_id);
        }
        let transferring = flight.transfer.is_some();
        let asking = !flight.asks.is_empty() || transferring;
        let patient = (asking && flight.beside.is_some()) || transferring;
        let wanted = flight.anyone_accepts(AnswerFrom::ComputedOnly)
            || (flight.anyone_accepts(AnswerFrom::Anywhere) && !patient);
        if wanted
            && flight.computing == Computing::Idle
            && let Some(request) = &flight.request
        {
            step.out.push(Output::Compute(flight_id, flight.id, Arc::clone(request)));
            flight.computing = Computing::Running;
            self.counters.computed += 1;
        }
        let error = match &flight.computing {
            Computing::Failed(error) => Some(error.clone()),
            _ => None,
        };
        let busy = matches!(flight.computing, Computing::Running | Computing::Recording(_));
        let id = flight.id;
        if let Some(error) = error {
            let hears = |accepts| match accepts {
                AnswerFrom::ComputedOnly => true,
                AnswerFrom::Anywhere => !asking,
                AnswerFrom::HeldOnly => false,
            };
            self.deliver_where(step, flight_id, hears, Err(error));
        }
        if !asking && !busy {
            // Whoever is left has no way to an answer.
            let miss = Err(EvalError::NotHeld { id, why: NotHeld::NeverSeen });
            self.deliver_where(step, flight_id, |_| true, miss);
        }
    }

    pub(super) fn on_computed(&mut self, step: &mut Step<'_>, flight_id: FlightId, result: Result<Reply, EvalError>) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        match result {
            Ok(reply) if flight.class() == Some(&Class::Volatile) => {
                flight.computing = Computing::Idle;
                let delivery = Delivery { reply, origin: Origin::Computed, recorded: false };
                self.deliver_where(step, flight_id, |_| true, Ok(delivery));
            }
            Ok(reply) => {
                let request = flight.request.clone().expect("what was computed had a request");
                step.out.push(Output::Record(flight_id, flight.id, request, reply.clone()));
                flight.computing = Computing::Recording(Box::new(reply));
            }
            Err(error) => {
                flight.computing = Computing::Failed(error);
                self.settle(step, flight_id);
            }
        }
    }

    /// What could not be computed here was computed by a peer, which is asked for the answer as any holder is.
    pub(super) fn on_placed(&mut self, step: &mut Step<'_>, flight_id: FlightId, peer: NodeId, error: EvalError) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        flight.computing = Computing::Failed(error);
        if flight.wants_held() {
            flight.candidates.push_front(peer);
            self.ask_next(step, flight_id);
        }
        self.settle(step, flight_id);
    }

    pub(super) fn on_recorded(&mut self, step: &mut Step<'_>, flight_id: FlightId, result: Result<(), String>) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        let Computing::Recording(reply) = std::mem::replace(&mut flight.computing, Computing::Idle) else { return };
        let reproducible = flight.class().is_some_and(Class::is_reproducible);
        let outcome = match result {
            // An answer that anybody can compute again is not withheld for a full disk; an observation would be lost in silence.
            Err(error) if !reproducible => Err(EvalError::Ledger(error)),
            recorded => Ok(Delivery { reply: *reply, origin: Origin::Computed, recorded: recorded.is_ok() }),
        };
        self.deliver_where(step, flight_id, |_| true, outcome);
    }

    /// Delivers one outcome to all waiters whose wish fits, and ends the flight when nobody is left.
    pub(super) fn deliver_where(
        &mut self,
        step: &mut Step<'_>,
        flight_id: FlightId,
        fits: impl Fn(AnswerFrom) -> bool,
        outcome: Result<Delivery, EvalError>,
    ) {
        let Some(flight) = self.flights.get_mut(&flight_id) else { return };
        let served: Vec<_> = flight.waiters.extract_if(.., |_, waiter| fits(waiter.accepts)).collect();
        // Most have one waiter: the outcome is its own.
        let mut outcomes = std::iter::repeat_n(outcome, served.len());
        for (job, waiter) in served {
            self.jobs.remove(&job);
            if let Some((key, _)) = waiter.deadline {
                self.timers.clear(key);
            }
            step.out.extend(outcomes.next().map(|outcome| Output::Deliver(job, outcome)));
        }
        if self.flights.get(&flight_id).is_some_and(|flight| flight.waiters.is_empty()) {
            self.end_flight(step, flight_id);
        }
    }

    pub(super) fn on_abandon(&mut self, step: &mut Step<'_>, job: JobId) {
        if let Some(flight_id) = self.drop_waiter(job) {
            self.settle(step, flight_id);
        }
    }

    pub(super) fn on_deadline(&mut self, step: &mut Step<'_>, job: JobId) {
        let Some(flight) = self.jobs.get(&job).and_then(|flight_id| self.flights.get(flight_id)) else { return };
        let timeout = flight.waiters.get(&job).and_then(|waiter| waiter.deadline).map_or(Duration::ZERO, |d| d.1);
        let ms = u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX);
        step.out.push(Output::Deliver(job, Err(LimitHit::Deadline { ms }.into())));
        self.on_abandon(step, job);
    }

    pub(super) fn on_compute_beside(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        if let Some(flight) = self.flights.get_mut(&flight_id) {
            flight.beside = None;
            self.settle(step, flight_id);
        }
    }

    fn drop_waiter(&mut self, job: JobId) -> Option<FlightId> {
        let flight_id = self.jobs.remove(&job)?;
        let waiter = self.flights.get_mut(&flight_id)?.waiters.remove(&job)?;
        if let Some((key, _)) = waiter.deadline {
            self.timers.clear(key);
        }
        Some(flight_id)
    }

    /// Ends a flight that nobody waits for: nothing of it stays behind here, on peers or on compute threads.
    fn end_flight(&mut self, step: &mut Step<'_>, flight_id: FlightId) {
        let asks: Vec<_> = self.flights.get(&flight_id).into_iter().flat_map(|f| f.asks.keys().copied()).collect();
        for ask in asks {
            self.drop_ask(step, ask, true);
        }
        self.drop_transfer(flight_id);
        let Some(flight) = self.flights.remove(&flight_id) else { return };
        if self.by_id.get(&flight.id) == Some(&flight_id) {
            self.by_id.remove(&flight.id);
        }
        for key in flight.beside.into_iter().chain(flight.hedge) {
            self.timers.clear(key);
        }
        if flight.computing == Computing::Running {
            step.out.push(Output::CancelCompute(flight_id));
        }
    }
}
