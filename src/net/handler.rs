//! The lane's side of one connection: opening it, taking it, running it, reporting its end.
//!
//! The dialer opens a stream and greets (see `greeting`); the listener asks the behaviour, which may take the lane or close the connection.
//! Invariant: at most one stream is used per connection, and a connection that has no lane when `open_lane` is over is reported as failed.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures::FutureExt;
use futures::future::BoxFuture;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::swarm::handler::{ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound};
use libp2p::swarm::{
    ConnectionHandler, ConnectionHandlerEvent, Stream, StreamProtocol, StreamUpgradeError, SubstreamProtocol,
};
use tokio::sync::mpsc::Sender;
use tokio::time::Sleep;

use super::error::{DownReason, Refusal};
use super::greeting::{self, Greeted, Versions};
use super::lane::{Kind, Lane, LaneIo};
use super::limits::Timings;
use super::{LANE_PROTOCOL, NetEvent};
use crate::id::NodeId;

/// The behaviour takes the lane that was offered.
#[derive(Debug)]
pub(super) struct Take;

/// What a connection reports.
#[derive(Debug)]
pub(super) enum Report {
    /// The peer, which dialed, offers a lane of this kind.
    Offered(Kind),
    /// The lane works in both directions.
    Open(Arc<Lane>),
    /// The lane is over.
    Over(DownReason),
    /// There will be no lane.
    Failed(Refusal),
}

enum State {
    /// Dialer: nothing asked yet.
    Fresh,
    /// Dialer: the stream is being negotiated. Listener: no stream has come yet.
    Idle,
    /// Dialer: waiting for the peer to take the lane. Listener: waiting for the peer's greeting.
    Greeting(BoxFuture<'static, io::Result<Greeted<Stream>>>),
    /// Listener: waiting for the behaviour to take the lane.
    Offered(Stream, Kind),
    Running(Box<LaneIo<Stream>>),
    Done,
}

/// One connection.
pub(super) struct Handler {
    peer: NodeId,
    events: Sender<NetEvent>,
    timings: Timings,
    /// What the lane is for, if this node dialed.
    dialed: Option<Kind>,
    state: State,
    reports: VecDeque<Report>,
    deadline: Pin<Box<Sleep>>,
}

impl Handler {
    pub(super) fn new(peer: NodeId, dialed: Option<Kind>, events: Sender<NetEvent>, timings: Timings) -> Self {
        Self {
            peer,
            events,
            timings,
            dialed,
            state: if dialed.is_some() { State::Fresh } else { State::Idle },
            reports: VecDeque::new(),
            deadline: Box::pin(tokio::time::sleep(timings.open_lane)),
        }
    }

    fn run(&mut self, stream: Stream, kind: Kind, first: &[u8]) {
        let lane = Arc::new(Lane::new(self.peer, kind));
        self.reports.push_back(Report::Open(Arc::clone(&lane)));
        let io = LaneIo::new(stream, lane, self.events.clone(), &self.timings, (self.dialed.is_some(), first));
        self.state = State::Running(Box::new(io));
    }

    fn fail(&mut self, refusal: Refusal) {
        self.state = State::Done;
        self.reports.push_back(Report::Failed(refusal));
    }

    fn poll_greeting(&mut self, cx: &mut Context<'_>) {
        let State::Greeting(exchange) = &mut self.state else { return };
        let Poll::Ready(exchanged) = exchange.poll_unpin(cx) else { return };
        let ours = Versions::OURS;
        match exchanged {
            Ok(Greeted { theirs, .. }) if ours.common(theirs).is_none() => {
                tracing::warn!(peer = %self.peer.short(), %ours, %theirs, "a peer speaks other versions of the lane");
                self.fail(Refusal::OtherVersion { ours, theirs });
            }
            Ok(Greeted { stream, kind, .. }) if self.dialed.is_some() => self.run(stream, kind, &[]),
            Ok(Greeted { stream, kind, .. }) => {
                self.state = State::Offered(stream, kind);
                self.reports.push_back(Report::Offered(kind));
            }
            Err(error) if error.kind() == io::ErrorKind::InvalidData => self.fail(Refusal::NotEvalmesh),
            Err(_) => self.fail(Refusal::HungUp),
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Take;
    type ToBehaviour = Report;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(LANE_PROTOCOL), ()).with_timeout(self.timings.open_lane)
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Self::ToBehaviour>> {
        if let State::Fresh = self.state {
            self.state = State::Idle;
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol: self.listen_protocol() });
        }
        self.poll_greeting(cx);
        if let State::Running(io) = &mut self.state {
            // The report that it is open goes first.
            if self.reports.is_empty()
                && let Poll::Ready(reason) = io.poll(cx)
            {
                self.state = State::Done;
                self.reports.push_back(Report::Over(reason));
            }
        } else if !matches!(self.state, State::Done) && self.deadline.poll_unpin(cx).is_ready() {
            self.fail(Refusal::TimedOut);
        }
        match self.reports.pop_front() {
            Some(report) => Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(report)),
            None => Poll::Pending,
        }
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<Option<Self::ToBehaviour>> {
        if let State::Running(io) = &mut self.state {
            io.finish(cx);
        }
        self.state = State::Done;
        Poll::Ready(None)
    }

    fn on_behaviour_event(&mut self, Take: Take) {
        match std::mem::replace(&mut self.state, State::Done) {
            State::Offered(stream, kind) => self.run(stream, kind, &Versions::OURS.encode(kind)),
            other => self.state = other,
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol>) {
        match event {
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                if let (State::Idle, Some(kind)) = (&self.state, self.dialed) {
                    self.state = State::Greeting(greeting::offer(protocol, kind).boxed());
                }
            }
            // Only the dialer opens a lane, and only one; any further stream is dropped, which resets it.
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. }) => {
                if let (State::Idle, None) = (&self.state, self.dialed) {
                    self.state = State::Greeting(greeting::hear(protocol).boxed());
                }
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { error, .. }) => self.fail(match error {
                StreamUpgradeError::Timeout => Refusal::TimedOut,
                StreamUpgradeError::NegotiationFailed => Refusal::NotEvalmesh,
                StreamUpgradeError::Io(_) => Refusal::HungUp,
                StreamUpgradeError::Apply(never) => match never {},
            }),
            _ => {}
        }
    }
}
