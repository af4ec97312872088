//! Asks to one peer that go together when many are under way, as small packets do in Nagle's algorithm (RFC 896).
//!
//! Every group of frames costs several system calls and a wake-up on both sides, whatever is in it. A caller that asks few questions at a time is
//! never held up; of many, as many go as are under way already, so that two groups alternate and neither side waits for the other.
//! Invariant: no ask is held longer than [`HELD`].

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;

use crate::fabric::{Fabric, Time};
use crate::id::NodeId;

/// With fewer asks than this under way to a peer, the next one goes at once.
const FEW: usize = 16;
/// How long an ask waits for company at most: about as long as the clock of the loop is fine.
const HELD: Duration = Duration::from_millis(1);

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Cork {
    held: BTreeMap<NodeId, Held>,
}

/// The asks to one peer that wait.
#[derive(Debug)]
struct Held {
    frames: Vec<Bytes>,
    since: Time,
}

impl Cork {
    /// Keeps an ask back until the burst is over, at least.
    pub(super) fn hold(&mut self, to: NodeId, frame: Bytes, now: Time) {
        self.held.entry(to).or_insert_with(|| Held { frames: Vec::new(), since: now }).frames.push(frame);
    }

    /// Sends what has waited long enough, or for enough others.
    pub(super) fn open(&mut self, fabric: &Fabric, now: Time, send: impl Fn(NodeId, Bytes)) {
        self.release(now, |peer| fabric.asks_to(peer), send);
    }

    fn release(&mut self, now: Time, asks_to: impl Fn(NodeId) -> usize, send: impl Fn(NodeId, Bytes)) {
        self.held.retain(|peer, held| {
            let under_way = asks_to(*peer).saturating_sub(held.frames.len());
            let waits = under_way >= FEW && held.frames.len() < under_way && now < held.since + HELD;
            if !waits {
                held.frames.drain(..).for_each(|frame| send(*peer, frame));
            }
            waits
        });
    }

    /// When the first of them has waited long enough.
    pub(super) fn due_at(&self) -> Option<Time> {
        self.held.values().map(|held| held.since + HELD).min()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    const PEER: NodeId = NodeId::from_bytes([1; 32]);

    /// How many of `ask` more asks go at this time, with so many under way before them.
    fn goes(cork: &mut Cork, ask: usize, under_way: usize, at: Time) -> usize {
        for _ in 0..ask {
            cork.hold(PEER, Bytes::from_static(b"ask"), at);
        }
        let held = cork.held.get(&PEER).map_or(0, |held| held.frames.len());
        let sent = RefCell::new(0);
        cork.release(at, |_| under_way + held, |_, _| *sent.borrow_mut() += 1);
        sent.into_inner()
    }

    #[test]
    fn few_go_at_once_and_many_in_two_groups() {
        let (mut cork, at) = (Cork::default(), Time::default());
        assert_eq!(goes(&mut cork, 1, 0, at), 1);
        assert_eq!(goes(&mut cork, 1, FEW - 1, at), 1);
        assert_eq!(cork.due_at(), None);
        assert_eq!(goes(&mut cork, 5, 32, at), 0);
        assert_eq!(cork.due_at(), Some(at + HELD));
        assert_eq!(goes(&mut cork, 26, 32, at), 0);
        assert_eq!(goes(&mut cork, 1, 32, at), 32, "as many as are under way");
        assert_eq!(goes(&mut cork, 1, 32, at), 0);
        assert_eq!(goes(&mut cork, 0, FEW - 1, at), 1, "answers came");
    }

    #[test]
    fn nothing_is_held_for_long() {
        let (mut cork, at) = (Cork::default(), Time::default());
        assert_eq!(goes(&mut cork, 1, 1000, at), 0);
        let due = cork.due_at().expect("held");
        assert_eq!(goes(&mut cork, 1, 1000, due), 2);
        assert_eq!(goes(&mut cork, 1, 1000, due), 0, "what comes then waits from then on");
        assert_eq!(cork.due_at(), Some(due + HELD));
    }
}
