//! Requests that programs make while they run: asked through the same door as a caller's, bounded in depth, and told to the record.
//!
//! Who waits for whom is one graph over the questions of this node, since a question is evaluated once at a time. Invariant: it has no circle
//! and no path longer than the bound, so every nested request ends. Knows nothing of how a program asks.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use super::Node;
use super::blocking::this_thread;
use crate::error::{EvalError, LimitHit};
use crate::eval::{Answer, Eval};
use crate::evaluator::Asker;
use crate::id::ContentId;
use crate::limits::MAX_GRAPH_DEPTH;
use crate::record::Upstream;
use crate::request::Request;

/// How often a waiting program looks whether it still may.
const LOOK: Duration = Duration::from_millis(5);

/// Who waits for whom.
#[derive(Default)]
pub(super) struct Waits(Mutex<BTreeMap<ContentId, Waiting>>);

/// An evaluation that takes part.
#[derive(Debug, Default)]
struct Waiting {
    /// How many evaluations wait for this one, in a row.
    depth: usize,
    /// What it waits for, and how often: two evaluations of one question may overlap when it is asked for afresh.
    on: BTreeMap<ContentId, usize>,
    /// In how many waitings it takes part: gone at zero.
    users: usize,
}

impl Waits {
    fn table(&self) -> MutexGuard<'_, BTreeMap<ContentId, Waiting>> {
        // Nothing below panics half-way through a change, so a poisoned lock still guards a whole graph.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn depth(&self, id: ContentId) -> usize {
        self.table().get(&id).map_or(0, |waiting| waiting.depth)
    }

    /// Notes that one evaluation waits for another one, unless that could not end.
    fn wait(self: &Arc<Self>, from: ContentId, to: ContentId) -> Result<Edge, EvalError> {
        let mut table = self.table();
        let depth = table.get(&from).map_or(0, |waiting| waiting.depth) + 1;
        if depth > MAX_GRAPH_DEPTH || reaches(&table, to, from) {
            return Err(LimitHit::Depth { bound: MAX_GRAPH_DEPTH as u64 }.into());
        }
        let waiting = table.entry(from).or_default();
        *waiting.on.entry(to).or_default() += 1;
        waiting.users += 1;
        let wanted = table.entry(to).or_default();
        wanted.depth = wanted.depth.max(depth);
        wanted.users += 1;
        Ok(Edge { waits: Arc::clone(self), from, to })
    }
}

/// Whether a path leads from one question to the other.
fn reaches(table: &BTreeMap<ContentId, Waiting>, from: ContentId, to: ContentId) -> bool {
    let (mut seen, mut left) = (BTreeSet::new(), vec![from]);
    while let Some(id) = left.pop() {
        if id == to {
            return true;
        }
        if seen.insert(id) {
            left.extend(table.get(&id).iter().flat_map(|waiting| waiting.on.keys()));
        }
    }
    false
}

/// One waiting, taken out of the graph when it ends.
struct Edge {
    waits: Arc<Waits>,
    from: ContentId,
    to: ContentId,
}

impl Drop for Edge {
    fn drop(&mut self) {
        let mut table = self.waits.table();
        if let Some(waiting) = table.get_mut(&self.from)
            && let Some(count) = waiting.on.get_mut(&self.to)
        {
            *count -= 1;
            if *count == 0 {
                waiting.on.remove(&self.to);
            }
        }
        for id in [self.from, self.to] {
            if let Some(waiting) = table.get_mut(&id) {
                waiting.users -= 1;
                if waiting.users == 0 {
                    table.remove(&id);
                }
            }
        }
    }
}

/// Asks for one running evaluation.
pub(super) struct NodeAsker {
    pub(super) node: Node,
    pub(super) waits: Arc<Waits>,
    /// The question that is being evaluated.
    pub(super) id: ContentId,
    /// What it asked, in the order in which the answers came; each question once.
    pub(super) asked: Mutex<Vec<Upstream>>,
}

impl fmt::Debug for NodeAsker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeAsker").field("id", &self.id).finish_non_exhaustive()
    }
}

impl NodeAsker {
    /// What was asked so far.
    pub(super) fn asked(&self) -> Vec<Upstream> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Asker for NodeAsker {
    fn ask(&self, request: Request, go_on: &dyn Fn() -> Result<(), EvalError>) -> Result<Answer, EvalError> {
        Eval::admit(&self.node, &request)?;
        let _edge = self.waits.wait(self.id, request.id()?)?;
        let answer = block_on(self.node.eval(request), go_on)?;
        let upstream = Upstream { request: answer.id, answer: answer.reply.answer() };
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        if !asked.contains(&upstream) {
            asked.push(upstream);
        }
        Ok(answer)
    }

    fn depth(&self) -> usize {
        self.waits.depth(self.id)
    }
}

/// Waits for a future on this thread. Whatever it waits for is on other threads, so nothing is needed here but being woken.
pub(super) fn block_on<T>(
    future: impl Future<Output = Result<T, EvalError>>,
    go_on: &dyn Fn() -> Result<(), EvalError>,
) -> Result<T, EvalError> {
    let waker = this_thread();
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(result) = future.as_mut().poll(&mut Context::from_waker(&waker)) {
            return result;
        }
        go_on()?;
        thread::park_timeout(LOOK);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> ContentId {
        ContentId::of(&n.to_le_bytes())
    }

    #[test]
    fn a_circle_and_a_long_chain_are_refused_and_nothing_is_left() {
        let waits = Arc::new(Waits::default());
        let too_deep = EvalError::Limit(LimitHit::Depth { bound: MAX_GRAPH_DEPTH as u64 });
        let refused = |from, to| waits.wait(from, to).map(drop).unwrap_err();
        assert_eq!(refused(id(0), id(0)), too_deep, "itself");
        let chain: Vec<_> = (0..MAX_GRAPH_DEPTH).map(|n| waits.wait(id(n), id(n + 1)).unwrap()).collect();
        assert_eq!(waits.depth(id(MAX_GRAPH_DEPTH)), MAX_GRAPH_DEPTH);
        assert_eq!(refused(id(MAX_GRAPH_DEPTH), id(1_000)), too_deep, "one deeper");
        assert_eq!(refused(id(3), id(1)), too_deep, "a circle");
        let again = waits.wait(id(1), id(2)).unwrap();
        drop(again);
        assert_eq!(refused(id(2), id(1)), too_deep, "the other waiting is still there");
        drop(chain);
        assert!(waits.table().is_empty());
        drop(waits.wait(id(2), id(1)).unwrap());
    }
}
