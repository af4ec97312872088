//! Who computes what this node cannot: GPU programs go to a peer that offers their device class.
//!
//! Every node tells its peers which classes it has. What is refused here for want of a device goes to the offering peer with the least to do for this
//! node; what that one refuses for the same reason, or has no time for, goes on to the next. The peer records and signs the answer as its own, and
//! is then asked for it as any holder is, so nothing is believed that would not be believed otherwise. Once nobody waits for it here the peer is told so, by
//! the message with which asks are cancelled: peers that know of no placed work to be cancelled take no notice of it. Invariants: an evaluation is at one
//! peer at a time, each peer is tried once, and what was placed here is never placed again; the numbers of placed work are no asks' numbers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::cassette::Cassette;
use crate::error::{EvalError, Refusal};
use crate::evaluator::Cancel;
use crate::fabric::FlightId;
use crate::id::{ContentId, NodeId};
use crate::identity::Signer;
use crate::limits::INLINE_REPLY;
use crate::limits::{MAX_PLACED, PLACED_BYTES};
use crate::message::{AskId, Work};
use crate::node::resolve::load;
use crate::record::Resolved;
use crate::reply::Payload;
use crate::request::{Class, Engine, Name, Program, Request};

/// Placed work is numbered from here on. The fabric counts its asks from the bottom, so one `Cancel` does for both.
const FIRST: u64 = 1 << 63;

/// What a node knows of others' offers, and what it has placed.
#[derive(Default)]
pub(super) struct Placements {
    offers: BTreeMap<NodeId, BTreeSet<Name>>,
    placed: BTreeMap<AskId, Placed>,
    next: u64,
}

/// An evaluation that a peer does for this node.
struct Placed {
    flight: FlightId,
    peer: NodeId,
    work: Work,
    tried: BTreeSet<NodeId>,
    /// Why this node could not.
    error: EvalError,
}

/// What is to be done next about an evaluation.
pub(super) enum Next {
    /// Send this work to that peer.
    Send(NodeId, AskId, Box<Work>),
    /// That peer holds the answer now; the error is why this node had none.
    HeldBy(FlightId, NodeId, EvalError),
    /// It ends with this.
    End(FlightId, EvalError),
}

/// Whether another node may be able to what this one is not.
pub(super) fn may_place(request: &Request, error: &EvalError) -> bool {
    let lacks = matches!(error, EvalError::Refused(Refusal::NoDevice { .. } | Refusal::NoEvaluator(Engine::Gpu)));
    lacks && request.program.engine == Engine::Gpu && !request.options.here && request.capabilities.is_empty()
}

/// A request with all its bytes, if that is not too much to send.
pub(super) fn work(cassette: &Cassette, resolved: &Resolved) -> Option<Work> {
    let request = &resolved.request;
    // Before anything is read: this runs on the loop.
    if request.payloads().map(Payload::len).fold(0, u64::saturating_add) > PLACED_BYTES as u64 {
        return None;
    }
    let (program, inputs) = load(cassette, request).ok()?;
    let (class, scope) = (request.class.clone(), request.scope.clone());
    Some(Work { program, inputs, class, scope, timeout: request.options.timeout })
}

/// The request that another node placed here.
pub(super) fn request(work: Work) -> Request {
    let mut request = Request::new(Program::gpu(work.program)).class(work.class);
    for (slot, bytes) in work.inputs {
        request = request.input(slot, crate::request::Source::Payload(Bytes::into(bytes)));
    }
    request.scope = work.scope;
    request.options.timeout = work.timeout;
    request.options.here = true;
    request
}

/// Waits until an answer that was just recorded can be given to others: a few milliseconds, until it is durable.
pub(super) fn until_servable(
    cassette: &Cassette,
    signer: &dyn Signer,
    id: ContentId,
    seat: &Seat,
) -> Result<(), EvalError> {
    const LOOK: Duration = Duration::from_millis(1);
    const LOOKS: u32 = 5000;

    for _ in 0..LOOKS {
        seat.go_on()?;
        match cassette.evidence(id, INLINE_REPLY as u64, signer) {
            Ok(Some(_)) => return Ok(()),
            Ok(None) => thread::sleep(LOOK),
            Err(error) => return Err(EvalError::Ledger(error.to_string())),
        }
    }
    Err(EvalError::Ledger("the answer does not become durable".to_owned()))
}

impl Placements {
    /// A peer said what it offers.
    pub(super) fn offered(&mut self, peer: NodeId, classes: Vec<Name>) {
        self.offers.insert(peer, classes.into_iter().collect());
    }

    /// The classes that peers offer.
    #[cfg(feature = "gpu")]
    pub(super) fn classes(&self) -> BTreeSet<Name> {
        self.offers.values().flatten().cloned().collect()
    }

    /// Places an evaluation that failed here, if somebody offers its class.
    pub(super) fn begin(&mut self, flight: FlightId, work: Work, error: EvalError) -> Next {
        self.place(Placed { flight, peer: NodeId::from_bytes([0; 32]), work, tried: BTreeSet::new(), error })
    }

    /// A peer is done, or will not.
    pub(super) fn done(&mut self, from: NodeId, ask: AskId, result: Result<(), EvalError>) -> Option<Next> {
        if self.placed.get(&ask).is_none_or(|placed| placed.peer != from) {
            return None;
        }
        let placed = self.placed.remove(&ask)?;
        Some(match result {
            Ok(()) => Next::HeldBy(placed.flight, from, placed.error),
            // Another one may have what this one lacks.
            Err(
                EvalError::Busy { .. }
                | EvalError::Closed
                | EvalError::Cancelled
                | EvalError::Failed(_)
                | EvalError::Ledger(_)
                | EvalError::Refused(Refusal::NoDevice { .. } | Refusal::NoEvaluator(_)),
            ) => self.place(placed),
            Err(error) => Next::End(placed.flight, error),
        })
    }

    /// A peer is gone, with all that it offered and did.
    pub(super) fn down(&mut self, peer: NodeId) -> Vec<Next> {
        self.offers.remove(&peer);
        let gone: Vec<_> = self.placed.extract_if(.., |_, placed| placed.peer == peer).collect();
        gone.into_iter().map(|(_, placed)| self.place(placed)).collect()
    }

    /// Nobody waits for this any more: who is to be told so.
    pub(super) fn forget(&mut self, flight: FlightId) -> Vec<(NodeId, AskId)> {
        self.placed
            .extract_if(.., |_, placed| placed.flight == flight)
            .map(|(ask, placed)| (placed.peer, ask))
            .collect()
    }

    fn place(&mut self, mut placed: Placed) -> Next {
        let fits = |classes: &BTreeSet<Name>| match &placed.work.class {
            Class::Device(name) => classes.contains(name),
            _ => !classes.is_empty(),
        };
        let load = |peer: &NodeId| self.placed.values().filter(|other| other.peer == *peer).count();
        let offering = self.offers.iter().filter(|(peer, classes)| fits(classes) && !placed.tried.contains(*peer));
        let Some(peer) = offering.map(|(peer, _)| *peer).min_by_key(|peer| (load(peer), *peer)) else {
            return Next::End(placed.flight, placed.error);
        };
        self.next += 1;
        let ask = AskId(FIRST + self.next);
        placed.peer = peer;
        placed.tried.insert(peer);
        let work = Box::new(placed.work.clone());
        self.placed.insert(ask, placed);
        Next::Send(peer, ask, work)
    }
}

/// Whether an ask is placed work, as nodes that can cancel it number that.
pub(super) fn is_placed(ask: AskId) -> bool {
    ask.0 >= FIRST
}

/// What is done for others, and how each of it is ended.
#[derive(Clone, Default)]
pub(super) struct ForOthers(Arc<Mutex<Seats>>);

#[derive(Default)]
struct Seats {
    taken: BTreeMap<u64, (NodeId, AskId, Cancel)>,
    next: u64,
}

/// One evaluation for another node.
pub(super) struct Seat {
    seats: ForOthers,
    number: u64,
    cancel: Cancel,
}

impl ForOthers {
    /// A seat for one more, unless all are taken.
    pub(super) fn take(&self, peer: NodeId, ask: AskId) -> Result<Seat, EvalError> {
        let mut seats = self.seats();
        if seats.taken.len() >= MAX_PLACED {
            return Err(EvalError::Busy { what: "evaluations for other nodes".to_owned(), bound: MAX_PLACED as u64 });
        }
        seats.next += 1;
        let (number, cancel) = (seats.next, Cancel::default());
        seats.taken.insert(number, (peer, ask, cancel.clone()));
        Ok(Seat { seats: self.clone(), number, cancel })
    }

    /// A peer no longer needs this; nothing, if it was done meanwhile.
    pub(super) fn cancel(&self, from: NodeId, ask: AskId) {
        self.cancel_where(|peer, other| peer == from && other == ask);
    }

    /// A peer is gone, and with it whoever waited there.
    pub(super) fn down(&self, gone: NodeId) {
        self.cancel_where(|peer, _| peer == gone);
    }

    fn cancel_where(&self, fits: impl Fn(NodeId, AskId) -> bool) {
        let seats = self.seats();
        seats.taken.values().filter(|(peer, ask, _)| fits(*peer, *ask)).for_each(|(_, _, cancel)| cancel.cancel());
    }

    fn seats(&self) -> MutexGuard<'_, Seats> {
        // Nothing here panics half-way through a change.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// Whether somebody still waits for it.
    pub(super) fn go_on(&self) -> Result<(), EvalError> {
        if self.cancel.is_cancelled() { Err(EvalError::Cancelled) } else { Ok(()) }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.seats().taken.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn work(class: Class) -> Work {
        Work { program: Bytes::new(), inputs: Vec::new(), class, scope: None, timeout: None }
    }

    fn none() -> EvalError {
        Refusal::NoEvaluator(Engine::Gpu).into()
    }

    #[test]
    fn refusals_move_on_and_each_peer_is_tried_once() {
        let class: Name = "gpu:a".parse().unwrap();
        let mut placements = Placements::default();
        placements.offered(node(1), vec![class.clone()]);
        placements.offered(node(2), vec!["gpu:b".parse().unwrap()]);
        placements.offered(node(3), vec![class.clone()]);
        let wanted = work(Class::Device(class));
        let Next::Send(first, ask, _) = placements.begin(FlightId(1), wanted.clone(), none()) else {
            panic!("it is placed")
        };
        assert_eq!(first, node(1));
        assert!(placements.done(node(3), ask, Ok(())).is_none(), "of another one than was asked");
        let Some(Next::Send(second, ask, _)) = placements.done(node(1), ask, Err(none())) else {
            panic!("it moves on")
        };
        assert_eq!(second, node(3));
        let [Next::End(FlightId(1), error)] = &placements.down(node(3))[..] else { panic!("nobody is left") };
        assert_eq!(*error, none());
        assert!(placements.done(node(3), ask, Ok(())).is_none());
        let Next::Send(_, ask, _) = placements.begin(FlightId(2), work(Class::Portable), none()) else {
            panic!("anybody")
        };
        assert!(
            matches!(placements.done(node(1), ask, Ok(())), Some(Next::HeldBy(FlightId(2), peer, _)) if peer == node(1))
        );
        let Next::Send(_, ask, _) = placements.begin(FlightId(3), wanted, none()) else { panic!("one is left") };
        let shader = EvalError::from(Refusal::Shader("no".to_owned()));
        assert!(
            matches!(placements.done(node(1), ask, Err(shader)), Some(Next::End(..))),
            "it would be refused everywhere"
        );
        assert!(placements.placed.is_empty());
    }

    #[test]
    fn whoever_does_it_is_told_that_nobody_waits_any_more() {
        let mut placements = Placements::default();
        placements.offered(node(1), vec!["gpu:a".parse().unwrap()]);
        let asks: Vec<_> = (1..=3)
            .map(|flight| match placements.begin(FlightId(flight), work(Class::Portable), none()) {
                Next::Send(_, ask, _) => ask,
                _ => panic!("it is placed"),
            })
            .collect();
        assert!(asks.iter().all(|ask| is_placed(*ask)) && !is_placed(AskId(7)), "none is an ask of the fabric");
        assert_eq!(placements.forget(FlightId(2)), [(node(1), asks[1])]);
        assert_eq!(placements.forget(FlightId(2)), []);
        assert!(placements.done(node(1), asks[1], Err(EvalError::Cancelled)).is_none(), "it is not placed once more");
        placements.done(node(1), asks[0], Ok(())).unwrap();
        assert_eq!(placements.forget(FlightId(1)), [], "it is done, and nothing is to be ended");
        assert_eq!(placements.forget(FlightId(3)), [(node(1), asks[2])]);
    }

    fn seat(seats: &ForOthers, peer: NodeId, ask: u64) -> Seat {
        seats.take(peer, AskId(ask)).map_err(|error| panic!("{error}")).unwrap()
    }

    #[test]
    fn only_so_many_are_done_for_others() {
        let seats = ForOthers::default();
        let taken: Vec<_> = (0..MAX_PLACED).map(|n| seat(&seats, node(1), n as u64)).collect();
        assert!(matches!(seats.take(node(2), AskId(1)), Err(EvalError::Busy { .. })));
        drop(taken);
        assert!(seats.take(node(2), AskId(1)).is_ok());
    }

    #[test]
    fn each_ends_only_what_it_asked_for_itself() {
        let seats = ForOthers::default();
        let (own, same, other, third) =
            (seat(&seats, node(1), 1), seat(&seats, node(2), 1), seat(&seats, node(1), 2), seat(&seats, node(2), 3));
        seats.cancel(node(1), AskId(1));
        seats.cancel(node(1), AskId(3));
        let on = || [&own, &same, &other, &third].map(|seat| seat.go_on().is_ok());
        assert_eq!(on(), [false, true, true, true]);
        seats.down(node(2));
        assert_eq!((on(), own.go_on()), ([false, false, true, false], Err(EvalError::Cancelled)));
        drop(other);
        seats.cancel(node(1), AskId(2));
        let fresh = seat(&seats, node(1), 2);
        assert!(fresh.go_on().is_ok(), "what was cancelled before says nothing of it");
    }
}
