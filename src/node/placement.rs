//! Who computes what this node cannot: GPU programs go to a peer that offers their device class.
//!
//! Every node tells its peers which classes it has. What is refused here for want of a device goes to the offering peer with the least to do for this
//! node; what that one refuses for the same reason, or has no time for, goes on to the next. The peer records and signs the answer as its own, and
//! is then asked for it as any holder is, so nothing is believed that would not be believed otherwise. Invariant: an evaluation is at one peer at a
//! time, each peer is tried once, and what was placed here is never placed again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use bytes::Bytes;

use crate::cassette::Cassette;
use crate::error::{EvalError, Refusal};
use crate::fabric::FlightId;
use crate::id::{ContentId, NodeId};
use crate::identity::Signer;
use crate::limits::{MAX_PLACED, PLACED_BYTES};
use crate::message::{AskId, Work};
use crate::node::resolve::load;
use crate::record::Resolved;
use crate::reply::Payload;
use crate::request::{Class, Engine, Name, Program, Request};

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
pub(super) fn until_servable(cassette: &Cassette, signer: &dyn Signer, id: ContentId) -> Result<(), EvalError> {
    const LOOK: Duration = Duration::from_millis(1);
    const LOOKS: u32 = 5000;

    for _ in 0..LOOKS {
        match cassette.evidence(id, signer) {
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

    /// Nobody waits for this any more.
    pub(super) fn forget(&mut self, flight: FlightId) {
        self.placed.retain(|_, placed| placed.flight != flight);
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
        let ask = AskId(self.next);
        placed.peer = peer;
        placed.tried.insert(peer);
        let work = Box::new(placed.work.clone());
        self.placed.insert(ask, placed);
        Next::Send(peer, ask, work)
    }
}

/// Counts what is done for others.
#[derive(Clone, Default)]
pub(super) struct ForOthers(Arc<AtomicUsize>);

/// One evaluation for another node.
pub(super) struct Seat(Arc<AtomicUsize>);

impl ForOthers {
    /// A seat for one more, unless all are taken.
    pub(super) fn take(&self) -> Result<Seat, EvalError> {
        let taken = self
            .0
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |taken| (taken < MAX_PLACED).then_some(taken + 1));
        let busy = |_| EvalError::Busy { what: "evaluations for other nodes".to_owned(), bound: MAX_PLACED as u64 };
        taken.map(|_| Seat(Arc::clone(&self.0))).map_err(busy)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
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
    fn only_so_many_are_done_for_others() {
        let seats = ForOthers::default();
        let taken: Vec<_> = (0..MAX_PLACED).map(|_| seats.take().map_err(|error| panic!("{error}"))).collect();
        assert!(matches!(seats.take(), Err(EvalError::Busy { .. })));
        drop(taken);
        assert!(seats.take().is_ok());
    }
}
