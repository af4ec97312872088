//! What the loop does about evaluations that one node does for another: sends offers and work, runs what others placed here.
//!
//! Who is asked is decided in `placement`; here is what that takes of lanes, threads and the cassette. Knows of the fabric only its inputs.

use std::sync::Arc;

use crate::error::EvalError;
use crate::eval::Eval;
use crate::fabric::{Effects, FlightId, Input};
use crate::id::NodeId;
use crate::message::{AskId, Message, Placement, Work};
use crate::node::driver::Event;
use crate::node::hands::Hands;
use crate::node::nested::block_on;
use crate::node::placement::{self, ForOthers, Next, Placements};
use crate::record::Resolved;
use crate::reply::Reply;
use crate::request::Name;

/// What peers do for this node, and this node for peers.
#[derive(Default)]
pub(super) struct Placing {
    /// What peers compute for this node.
    placements: Placements,
    /// What this node computes for peers.
    for_others: ForOthers,
    /// The device classes of this node.
    offered: Vec<Name>,
}

impl Placing {
    /// What a new peer is told, if there is anything to offer.
    pub(super) fn offer(&self) -> Option<Message> {
        (!self.offered.is_empty()).then(|| Message::Placement(Placement::Offer(self.offered.clone())))
    }

    /// The classes that peers offer.
    #[cfg(feature = "gpu")]
    pub(super) fn classes(&self) -> std::collections::BTreeSet<Name> {
        self.placements.classes()
    }

    /// A peer no longer needs what it placed here. Others who wait for the same question go on waiting for it.
    pub(super) fn cancelled(&self, from: NodeId, ask: AskId) {
        self.for_others.cancel(from, ask);
    }
}

impl Hands {
    /// An evaluation ended; what this node cannot another one may.
    pub(super) fn computed(
        &mut self,
        flight: FlightId,
        resolved: &Resolved,
        result: Result<Reply, EvalError>,
    ) -> Option<Input> {
        let wants_place = |error: &EvalError| placement::may_place(&resolved.request, error);
        match result {
            Err(error) if self.running.contains_key(&flight) && wants_place(&error) => {
                let next = match placement::work(&self.cassette, resolved) {
                    Some(work) => self.placing.placements.begin(flight, work, error),
                    None => Next::End(flight, error),
                };
                self.place(next)
            }
            result => Some(Input::Computed(flight, result)),
        }
    }

    /// Nobody here waits for this any more: whoever computes it is told so.
    pub(super) fn no_longer_placed(&mut self, flight: FlightId) {
        for (peer, ask) in self.placing.placements.forget(flight) {
            self.send(peer, Message::Cancel { ask });
        }
    }

    /// A peer is gone: what it did for this node another one may, and what this one does for it nobody waits for.
    pub(super) fn placing_down(&mut self, peer: NodeId) -> Vec<Input> {
        self.placing.for_others.down(peer);
        let moved = self.placing.placements.down(peer);
        moved.into_iter().filter_map(|next| self.place(next)).collect()
    }

    /// A peer said something about placement.
    pub(super) fn on_placement(&mut self, from: NodeId, said: Placement) -> Option<Input> {
        match said {
            Placement::Offer(classes) => {
                self.placing.placements.offered(from, classes);
                None
            }
            Placement::Work(ask, work) => {
                self.work_for(from, ask, work);
                None
            }
            Placement::Done(ask, result) => {
                let next = self.placing.placements.done(from, ask, result)?;
                self.place(next)
            }
        }
    }

    /// Does what is next about a placed evaluation.
    fn place(&mut self, next: Next) -> Option<Input> {
        match next {
            Next::Send(peer, ask, work) => {
                self.send(peer, Message::Placement(Placement::Work(ask, *work)));
                None
            }
            Next::HeldBy(flight, peer, error) => {
                self.running.remove(&flight);
                Some(Input::Placed(flight, peer, error))
            }
            Next::End(flight, error) => Some(Input::Computed(flight, Err(error))),
        }
    }

    /// Evaluates for another node, on a thread that waits for it.
    fn work_for(&mut self, peer: NodeId, ask: AskId, work: Work) {
        let done = move |result| Message::Placement(Placement::Done(ask, result));
        let seat = match self.placing.for_others.take(peer, ask) {
            Ok(seat) => seat,
            Err(busy) => return self.send(peer, done(Err(busy))),
        };
        let (node, events) = (self.node.clone(), self.events.clone());
        let (cassette, signer) = (self.cassette.clone(), Arc::clone(&self.signer));
        let evaluate = move || {
            let request = placement::request(work);
            // Once it is cancelled the question is asked no more, which ends the evaluation unless somebody else asks the same.
            let answer = Eval::admit(&node, &request).and_then(|()| block_on(node.eval(request), &|| seat.go_on()));
            let answer = answer.and_then(|answer| placement::until_servable(&cassette, &*signer, answer.id, &seat));
            let wanted = seat.go_on().is_ok();
            drop(seat);
            if wanted {
                drop(events.blocking_send(Event::Send(peer, done(answer))));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("evalmesh-placed".to_owned()).spawn(evaluate) {
            self.send(peer, done(Err(EvalError::Failed(error.to_string()))));
        }
    }

    /// Tells all peers what this node computes.
    #[cfg(feature = "gpu")]
    pub(super) fn offer(&mut self, classes: Vec<Name>) {
        self.placing.offered = classes;
        for peer in self.shared.view().peers.into_keys() {
            self.send(peer, Message::Placement(Placement::Offer(self.placing.offered.clone())));
        }
    }
}
