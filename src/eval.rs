//! The public door: one small trait that does not say where the answer comes from.
//!
//! A [`Node`](crate#features), a client of a running node, every evaluator, and memory wrapped around any of them implement [`Eval`].
//! Invariant: an implementation never answers, not even from memory, what its [`Eval::admit`] refuses.

use std::fmt;
use std::future::Future;

use serde::{Deserialize, Serialize};

use crate::error::EvalError;
use crate::id::{ContentId, NodeId};
use crate::reply::Reply;
use crate::request::Request;

/// Answers questions.
pub trait Eval: Send + Sync {
    /// Whether this request may be asked here at all: capabilities, class, a fitting evaluator. Cheap; compiles and runs nothing.
    fn admit(&self, request: &Request) -> Result<(), EvalError>;

    /// Answers one question. Dropping the future gives up waiting; work that others wait for goes on.
    fn eval(&self, request: Request) -> impl Future<Output = Result<Answer, EvalError>> + Send;
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// It was computed for this caller, or for another one that asked the same at the same time.
    Computed,
    /// It was in this node's memory.
    Ram,
    /// It was in this node's ledger.
    Disk,
    /// It was fetched from this peer.
    Peer(NodeId),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Computed => f.write_str("computed"),
            Self::Ram => f.write_str("ram"),
            Self::Disk => f.write_str("disk"),
            Self::Peer(node) => write!(f, "peer {}", node.short()),
        }
    }
}

/// A reply with what is known about how it was come by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The question.
    pub id: ContentId,
    /// The reply, with every payload inline.
    pub reply: Reply,
    /// Where it came from.
    pub origin: Origin,
    /// Whether a record of it is (or is about to be) in this node's ledger. `false` where there is no ledger or its disk refused.
    pub recorded: bool,
}
