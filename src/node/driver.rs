//! The node's loop: one thread, one small runtime, and the fabric in the middle.
//!
//! Each turn takes a burst: what callers, other threads and lanes have for it by now; in between other threads may take turns with a single event
//! (`turns`). Taking it is synchronous. Whatever may block (disk, long hashing, signatures, programs) runs on other threads and comes back as an
//! event. What a burst leads to on other threads is handed over when it is over, with one wake-up for each of them: for the recorder, and for each
//! desk of callers. Invariant: nothing is awaited here but the next burst.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_channel::oneshot;
use tokio::sync::mpsc;

use crate::error::EvalError;
use crate::eval::Origin;
use crate::fabric::{Ask, Delivery, Effects, Fabric, FlightId, Input, Output, Time, perform};
use crate::id::{ContentId, NodeId};
use crate::message::Message;
use crate::node::alarm::Alarm;
use crate::node::clock::Clock;
use crate::node::desk::{Caller, Desk, Waiting};
use crate::node::hands::Hands;
use crate::node::lanes::{LaneEvent, Lanes};
use crate::node::status::HolderStatus;
use crate::node::turns::{After, Turns};
use crate::record::Resolved;
use crate::reply::Reply;
use crate::request::AnswerFrom;
#[cfg(feature = "gpu")]
use crate::request::Name;

/// Events that may wait for the loop. Callers wait when it is full; completions come from a bounded number of threads.
pub(super) const EVENTS: usize = 16 * 1024;
/// Events and frames, each, of one burst: enough to share a wake-up among many, few enough that the first of them is not held up for long.
const BURST: usize = 64;
/// How long a loop that ends waits for events that are on their way.
const LAST_EVENTS: Duration = Duration::from_millis(200);

/// What happens to the loop.
pub(super) enum Event {
    /// A caller asks.
    Ask(Ask, Caller),
    /// Callers at a desk ask.
    Asks(Option<Arc<Desk>>, Vec<(Ask, Caller)>),
    /// Something for the fabric.
    Fabric(Input),
    /// An evaluation ended on this node.
    Computed(FlightId, Arc<Resolved>, Result<Reply, EvalError>),
    /// What is to be sent to a peer, if it is still there.
    Send(NodeId, Message),
    /// The device classes of this node are known, or are others than before.
    #[cfg(feature = "gpu")]
    Offer(Vec<Name>),
    /// Somebody wants to know which classes peers offer.
    #[cfg(feature = "gpu")]
    Offered(oneshot::Sender<std::collections::BTreeSet<Name>>),
    /// Somebody wants to know who holds an answer.
    Holders(ContentId, oneshot::Sender<Vec<HolderStatus>>),
    /// Shut down.
    Stop,
}

/// Everything that the loop owns.
pub(super) struct Driver {
    clock: Clock,
    fabric: Fabric,
    pub(super) hands: Hands,
    /// Room for the outputs of one input.
    outputs: Vec<Output>,
    /// Wakes the loop's own thread, and the time at which that wakes by itself.
    waker: Option<Waker>,
    wakes_at: Option<Time>,
    broken: bool,
}

/// What waits for the loop.
#[derive(Default)]
struct Burst {
    events: Vec<Event>,
    frames: Vec<LaneEvent>,
    /// The time that was asked for has come.
    due: bool,
    /// There are no events any more.
    over: bool,
}

impl Driver {
    pub(super) fn new(clock: Clock, fabric: Fabric, hands: Hands) -> Self {
        Self { clock, fabric, hands, outputs: Vec::new(), waker: None, wakes_at: None, broken: false }
    }

    /// Runs until it is told to stop, then ends callers and evaluations. Lanes and recorder are closed by their owner: that blocks.
    pub(super) async fn run(self, turns: Arc<Turns>, mut events: mpsc::Receiver<Event>) -> Lanes {
        let clock = self.clock;
        let seated = turns.seat(self);
        let mut alarm = Alarm::new();
        let mut burst = Burst { due: true, ..Burst::default() };
        loop {
            let (go_on, after) = seated.with(|driver| (driver.take(&mut burst), driver.finish()));
            after.run();
            if !go_on {
                break;
            }
            // Lanes send what there is, and read, before the next one begins.
            tokio::task::yield_now().await;
            poll_fn(|cx| seated.with(|driver| driver.poll_burst(cx, clock, &mut events, &mut alarm, &mut burst))).await;
        }
        let mut hands = seated.leave().hands;
        hands.end();
        // Whoever has a place in the queue and is about to fill it is waited for: what comes after the receiver is gone would stay there as long as
        // the node does, and its caller would wait for ever. But not for long: a clerk whose runtime rests may have a place and no hurry.
        events.close();
        let emptied = async { while events.recv().await.is_some() {} };
        drop(tokio::time::timeout(LAST_EVENTS, emptied).await);
        hands.lanes
    }

    /// Gathers what there is by now; pending if there is nothing.
    fn poll_burst(
        &mut self,
        cx: &mut Context<'_>,
        clock: Clock,
        events: &mut mpsc::Receiver<Event>,
        alarm: &mut Alarm,
        burst: &mut Burst,
    ) -> Poll<()> {
        burst.over = events.poll_recv_many(cx, &mut burst.events, BURST) == Poll::Ready(0);
        self.hands.lanes.poll_many(cx, &mut burst.frames, BURST);
        burst.due = alarm.poll(cx, clock, self.hands.wake_at);
        self.wakes_at = alarm.set_for();
        if !self.waker.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        let nothing = burst.events.is_empty() && burst.frames.is_empty() && !burst.due && !burst.over;
        if nothing { Poll::Pending } else { Poll::Ready(()) }
    }

    /// The turn of another thread: what is to be done after it, and the loop's thread if that must set its alarm anew.
    pub(super) fn turn(&mut self, event: Event) -> (After, Option<Waker>) {
        self.one(event);
        let too_late = self.hands.wake_at.is_some_and(|at| self.wakes_at.is_none_or(|set| at < set));
        let waker = self.waker.clone().filter(|_| too_late);
        (self.finish(), waker)
    }

    /// Ends a turn.
    fn finish(&mut self) -> After {
        self.hands.finish_burst(&self.fabric, self.clock.now())
    }

    /// A turn panicked: the loop's own thread is to end.
    pub(super) fn broken(&mut self) -> Option<Waker> {
        self.broken = true;
        self.waker.clone()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Takes a burst; whether to go on.
    fn take(&mut self, burst: &mut Burst) -> bool {
        for event in burst.events.drain(..) {
            if matches!(event, Event::Stop) {
                return false;
            }
            self.one(event);
        }
        for frame in burst.frames.drain(..) {
            if let Some(input) = self.hands.on_lane(frame, self.clock.now()) {
                self.apply(input);
            }
        }
        if std::mem::take(&mut burst.due) {
            self.hands.wake_at = None;
            self.apply(Input::Wake);
        }
        !burst.over
    }

    fn one(&mut self, event: Event) {
        match event {
            // It is for the loop's own thread, which ends.
            Event::Stop => {}
            Event::Ask(ask, caller) => self.ask(ask, Waiting { caller, desk: None }),
            Event::Asks(desk, asks) => {
                for (ask, caller) in asks {
                    self.ask(ask, Waiting { caller, desk: desk.clone() });
                }
            }
            Event::Fabric(input) => self.apply(input),
            Event::Computed(flight, resolved, result) => {
                if let Some(input) = self.hands.computed(flight, &resolved, result) {
                    self.apply(input);
                }
            }
            Event::Send(peer, message) => self.hands.send(peer, message),
            #[cfg(feature = "gpu")]
            Event::Offer(classes) => self.hands.offer(classes),
            #[cfg(feature = "gpu")]
            Event::Offered(found) => {
                // Whoever asked may be gone.
                let _ = found.send(self.hands.placing.classes());
            }
            Event::Holders(id, found) => {
                // Whoever asked may be gone.
                let _ = found.send(self.holders(id));
            }
        }
    }

    fn ask(&mut self, ask: Ask, waiting: Waiting) {
        if waiting.caller.is_canceled() {
            // Word of that may have come before the question.
            return;
        }
        if let Some(delivery) = self.answered_meanwhile(&ask) {
            return self.hands.after.outcomes.push((waiting, Ok(delivery)));
        }
        self.hands.waiting.insert(ask.job, waiting);
        self.apply(Input::Eval(ask));
    }

    /// The answer, if it was recorded after the caller had looked for it and nobody waits for it any more: what is in flight is joined, and what
    /// is not in flight would be computed twice.
    fn answered_meanwhile(&self, ask: &Ask) -> Option<Delivery> {
        let memoised = ask.request.as_ref().is_none_or(|resolved| resolved.request.class.is_memoised());
        let wanted = memoised && ask.answer_from != AnswerFrom::ComputedOnly;
        let held = wanted.then(|| self.hands.cassette.at_hand(ask.id)).flatten()?;
        self.hands.shared.ram.fetch_add(1, Ordering::Relaxed);
        Some(Delivery { reply: held.into_reply(), origin: Origin::Ram, recorded: true })
    }

    fn holders(&self, id: ContentId) -> Vec<HolderStatus> {
        let now = self.clock.now();
        let status = |node| HolderStatus {
            node,
            state: self.fabric.liveness(now, node).into(),
            hit_ratio: self.fabric.hit_ratio(node),
            answers_in: self.fabric.answer_latency(node),
        };
        let mut holders: Vec<_> = self.fabric.holders().holders(id.fingerprint()).into_iter().map(status).collect();
        holders.sort_by_key(|holder| (holder.state, holder.answers_in.unwrap_or(Duration::MAX)));
        holders
    }

    /// Gives the fabric an input, and whatever the loop itself makes of its outputs.
    fn apply(&mut self, input: Input) {
        let mut next = Some(input);
        while let Some(input) = next {
            if let Input::Computed(flight, outcome) = &input {
                self.hands.running.remove(flight);
                if outcome.is_err() {
                    self.hands.askers.remove(flight);
                }
            }
            if let Input::Abandon(job) = &input {
                self.hands.waiting.remove(job);
            }
            self.hands.touched.extend(input.about().filter(|peer| !self.hands.touched.contains(peer)));
            self.fabric.handle(self.clock.now(), input, &mut self.outputs);
            perform(&mut self.outputs, &mut self.hands);
            next = self.hands.made_here.pop_front();
        }
    }
}
