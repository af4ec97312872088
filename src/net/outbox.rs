//! Notices on their way to the events channel, which may be full.
//!
//! Invariants:
//! 1. For each peer, `Up` and `Down` alternate; a lane that comes and goes while nobody looks leaves no trace. So there are at most two
//!    of them per peer here.
//! 2. A lane is started when, and only when, its `Up` is in the channel; one for bulk is started later, and there is one per peer here.

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::sync::mpsc::Permit;

use super::NetEvent;
use super::error::DownReason;
use super::lane::Lane;
use super::limits::MAX_WAITING_NOTICES;

#[derive(Debug)]
enum Notice {
    Up(NetEvent, Arc<Lane>),
    Down(NetEvent),
    /// A second connection, whose frames go in behind the `Up` of its peer.
    Start(Arc<Lane>),
    Other(NetEvent),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    notices: VecDeque<Notice>,
    /// How many of them are `Other`.
    others: usize,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.notices.is_empty()
    }

    /// A lane came up; `event` says so.
    pub(super) fn up(&mut self, event: NetEvent, lane: Arc<Lane>) {
        self.notices.push_back(Notice::Up(event, lane));
    }

    /// A lane went down. If nobody has heard of it yet, nobody will.
    pub(super) fn down(&mut self, lane: &Arc<Lane>, reason: DownReason) {
        let unheard =
            self.notices.iter().position(|notice| matches!(notice, Notice::Up(_, up) if Arc::ptr_eq(up, lane)));
        if let Some(at) = unheard {
            self.notices.remove(at);
        } else {
            self.notices.push_back(Notice::Down(NetEvent::Down { peer: lane.peer(), reason }));
        }
    }

    /// A second connection of a peer came up, whose lane did before.
    pub(super) fn start(&mut self, bulk: Arc<Lane>) {
        self.notices.push_back(Notice::Start(bulk));
    }

    /// A second connection went down.
    pub(super) fn never_start(&mut self, bulk: &Arc<Lane>) {
        self.notices.retain(|notice| !matches!(notice, Notice::Start(waiting) if Arc::ptr_eq(waiting, bulk)));
    }

    /// Anything else; dropped when too many wait.
    pub(super) fn other(&mut self, event: NetEvent) {
        if self.others >= MAX_WAITING_NOTICES {
            tracing::warn!(?event, "the events channel is full; a notice is dropped");
            return;
        }
        self.others += 1;
        self.notices.push_back(Notice::Other(event));
    }

    /// Moves the first notice into the channel.
    pub(super) fn deliver(&mut self, permit: Permit<'_, NetEvent>) {
        match self.notices.pop_front() {
            Some(Notice::Up(event, lane)) => {
                permit.send(event);
                lane.start();
            }
            Some(Notice::Down(event)) => permit.send(event),
            Some(Notice::Start(bulk)) => bulk.start(),
            Some(Notice::Other(event)) => {
                self.others -= 1;
                permit.send(event);
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::id::NodeId;
    use crate::net::Carrier;
    use crate::net::lane::Kind;

    fn lane() -> Arc<Lane> {
        Arc::new(Lane::new(NodeId::from_bytes([1; 32]), Kind::Main))
    }

    fn up(lane: &Lane) -> NetEvent {
        NetEvent::Up { peer: lane.peer(), addr: "127.0.0.1:1".parse().unwrap(), carrier: Carrier::Tcp, outbound: true }
    }

    #[test]
    fn a_lane_that_nobody_heard_of_leaves_no_trace() {
        let (mut outbox, first, second) = (Outbox::default(), lane(), lane());
        outbox.up(up(&first), Arc::clone(&first));
        outbox.down(&first, DownReason::Closed);
        assert!(outbox.is_empty());
        outbox.up(up(&second), Arc::clone(&second));
        let (sender, mut receiver) = mpsc::channel(4);
        outbox.deliver(sender.try_reserve().unwrap());
        outbox.down(&second, DownReason::Silent);
        outbox.deliver(sender.try_reserve().unwrap());
        assert!(matches!(receiver.try_recv(), Ok(NetEvent::Up { .. })));
        assert!(matches!(receiver.try_recv(), Ok(NetEvent::Down { reason: DownReason::Silent, .. })));
        assert!(outbox.is_empty());
    }

    #[test]
    fn other_notices_are_bounded() {
        let mut outbox = Outbox::default();
        for _ in 0..2 * MAX_WAITING_NOTICES {
            outbox.other(NetEvent::Listening { addr: "127.0.0.1:1".parse().unwrap() });
        }
        assert_eq!(outbox.notices.len(), MAX_WAITING_NOTICES);
    }
}
