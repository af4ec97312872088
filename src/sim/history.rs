//! What happened, written down as plain data while it happens: all that checkers ever see.
//!
//! A simulation fills it from inside; a fleet of real processes fills in what can be seen from outside. Invariant: nothing here is a judgement;
//! those are made in `check`.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Place;
use crate::error::EvalError;
use crate::fabric::{JobId, Time};
use crate::id::{ContentId, Digest, EpochId, NodeId};
use crate::reply::{Payload, Reply};
use crate::request::{AnswerFrom, Class};

/// A whole run.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// The nodes, by place.
    pub nodes: Vec<Story>,
    /// Callers' questions; the n-th is `JobId(n)`.
    pub asks: Vec<Asked>,
    /// Evaluations started.
    pub evaluations: Vec<Evaluated>,
    /// Records appended to ledgers.
    pub appended: Vec<Appended>,
    /// Records acknowledged as durable.
    pub acknowledged: Vec<Acknowledged>,
    /// What was found of the ledgers when they were opened again.
    pub openings: Vec<Opened>,
    /// Batches of log entries that nodes announced.
    pub announced: Vec<Announced>,
    /// Answers that were never to be served again.
    pub retracted: Vec<Retracted>,
    /// Connections ended because of what the other side had sent.
    pub accused: Vec<Accused>,
    /// Chunks of large replies that came and were held against their payloads.
    pub chunks: Vec<Chunk>,
    /// The highest counts seen.
    pub peaks: Peaks,
    /// When faults ended; `None` if the run did not get that far.
    pub calm: Option<Time>,
    /// When the run ended.
    pub end: Time,
    /// How everything is at the end.
    pub finals: Vec<Final>,
    /// Deliveries to callers who did not wait (any more).
    pub strays: Vec<JobId>,
    /// What a sound disk or encoder refused; always a bug.
    pub broken: Vec<String>,
}

/// A node.
#[derive(Debug, Clone)]
pub struct Story {
    /// Its name.
    pub name: NodeId,
    /// Whether it keeps to the rules.
    pub honest: bool,
    /// Whether bits flipped on its disk.
    pub rotten: bool,
    /// Whether it was restored from an older image.
    pub restored: bool,
    /// When it stood still, and for how long.
    pub pauses: Vec<(Time, Duration)>,
    /// When a disk operation may have failed.
    pub disk_failed: Vec<Time>,
    /// When it came up.
    pub starts: Vec<Time>,
    /// When its secret key was seen outside.
    pub leaks: Vec<String>,
}

impl Story {
    /// An honest node of which nothing is known yet.
    #[must_use]
    pub fn new(name: NodeId) -> Self {
        Self {
            name,
            honest: true,
            rotten: false,
            restored: false,
            pauses: Vec::new(),
            disk_failed: Vec::new(),
            starts: Vec::new(),
            leaks: Vec::new(),
        }
    }
}

/// A caller's question.
#[derive(Debug, Clone)]
pub struct Asked {
    /// When.
    pub at: Time,
    /// Which node.
    pub node: Place,
    /// The question.
    pub id: ContentId,
    /// Its class.
    pub class: Class,
    /// Where the answer may come from.
    pub answer_from: AnswerFrom,
    /// How long the caller waits.
    pub timeout: Option<Duration>,
    /// The answer that it must have, where that is known from elsewhere: files of the asker's workspace as they were then.
    pub expected: Option<Digest>,
    /// Whether it was asked to see that the healed fleet answers.
    pub probe: bool,
    /// How it ended; once, if all is well.
    pub ends: Vec<(Time, End)>,
}

/// How a caller's wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum End {
    /// With an answer.
    Answered {
        /// The digest of status and outputs, made from the delivered bytes.
        answer: Digest,
        /// Where it came from.
        source: Source,
    },
    /// With an error.
    Error(EvalError),
    /// The caller went away.
    Abandoned,
    /// The node went away.
    Crashed,
}

/// Where an answer came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The asked node's cassette.
    Memory,
    /// An evaluation on the asked node.
    Computed,
    /// A peer.
    Peer(NodeId),
}

/// An evaluation.
#[derive(Debug, Clone)]
pub struct Evaluated {
    /// Which node.
    pub node: Place,
    /// The question.
    pub id: ContentId,
    /// Its class.
    pub class: Class,
    /// When it started.
    pub from: Time,
    /// When it ended or was cancelled; `None` while it runs.
    pub to: Option<Time>,
    /// What it gave, unless it was cancelled.
    pub result: Option<Result<Digest, EvalError>>,
}

/// A record appended to a node's ledger.
#[derive(Debug, Clone, Copy)]
pub struct Appended {
    /// Whose ledger.
    pub node: Place,
    /// When.
    pub at: Time,
    /// At which position.
    pub seq: u64,
    /// The question.
    pub id: ContentId,
    /// The answer.
    pub answer: Digest,
    /// Who observed it, by the record's own word.
    pub producer: NodeId,
    /// Whether this node evaluated it, as opposed to adopting it.
    pub own: bool,
}

/// A record acknowledged as durable.
#[derive(Debug, Clone, Copy)]
pub struct Acknowledged {
    /// By which node.
    pub node: Place,
    /// When.
    pub at: Time,
    /// At which position.
    pub seq: u64,
    /// The question.
    pub id: ContentId,
}

/// A ledger that was opened again, or read at the end.
#[derive(Debug, Clone)]
pub struct Opened {
    /// Whose.
    pub node: Place,
    /// When.
    pub at: Time,
    /// Whether it is an older image.
    pub restored: bool,
    /// Whether unsynced blocks survived the crash before it in any order.
    pub torn: bool,
    /// Whether bits flipped.
    pub rotten: bool,
    /// Whether recovery reported that something is damaged or cut.
    pub reported: bool,
    /// Of the records appended before, those that are not there as they were.
    pub missing: Vec<Missing>,
}

/// A record that is not there as it was appended.
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    /// Where it was.
    pub seq: u64,
    /// The question.
    pub id: ContentId,
    /// Whether it had been acknowledged as durable.
    pub durable: bool,
    /// What is there instead.
    pub found: Found,
}

/// What is where a record was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// The log ends before.
    Nothing,
    /// A place that is known to be damaged.
    Quarantined,
    /// Something else.
    Other,
}

/// A batch that a node announced to all its peers.
#[derive(Debug, Clone)]
pub struct Announced {
    /// Which node.
    pub node: Place,
    /// When.
    pub at: Time,
    /// In which epoch.
    pub epoch: EpochId,
    /// Position and question of each fact.
    pub facts: Vec<(u64, u64)>,
}

/// An answer that is never to be served again.
#[derive(Debug, Clone, Copy)]
pub struct Retracted {
    /// By which node.
    pub node: Place,
    /// When that was durable.
    pub at: Time,
    /// The question.
    pub id: ContentId,
    /// The answer.
    pub answer: Digest,
    /// Whether it was acknowledged; if not, the disk failed, and it may have been written all the same.
    pub sure: bool,
}

/// A chunk of a large reply that was sent.
#[derive(Debug, Clone)]
pub struct Chunk {
    /// To whom.
    pub to: Place,
    /// By whom.
    pub from: Place,
    /// Of which payload.
    pub blob: Digest,
}

/// A connection ended because of what the other side had sent.
#[derive(Debug, Clone)]
pub struct Accused {
    /// By whom.
    pub node: Place,
    /// When.
    pub at: Time,
    /// Whose.
    pub peer: Place,
    /// Why.
    pub why: String,
}

/// The highest counts seen.
#[derive(Debug, Clone, Copy, Default)]
pub struct Peaks {
    /// Questions in flight on one node.
    pub flights: usize,
    /// Bytes of one frame.
    pub frame: usize,
    /// Facts of one batch.
    pub batch: usize,
}

/// How a node is at the end.
#[derive(Debug, Clone, Default)]
pub struct Final {
    /// Whether it runs.
    pub up: bool,
    /// Questions still in flight.
    pub in_flight: usize,
    /// The questions that its log announces, in order.
    pub log: Vec<u64>,
    /// The durable length of its log.
    pub durable: u64,
    /// Of the announced questions, those that it cannot serve with evidence.
    pub unserved: Vec<ContentId>,
    /// Per connected peer, what it knows of that one's log: keys of the holder index, in order and each once.
    pub known: BTreeMap<Place, Vec<u64>>,
    /// Per connected peer, facts of its log that the index gave up: corrected, held by enough others, or beyond its memory.
    pub given_up: BTreeMap<Place, u64>,
}

impl History {
    /// Notes how a caller's wait ended.
    pub(super) fn ended(&mut self, job: JobId, at: Time, end: End) {
        let index = usize::try_from(job.0).unwrap_or(usize::MAX);
        match self.asks.get_mut(index) {
            Some(ask) => ask.ends.push((at, end)),
            None => self.strays.push(job),
        }
    }

    /// Whether a disk operation of this node may have failed by then.
    #[must_use]
    pub fn disk_may_have_failed(&self, node: Place, by: Time) -> bool {
        self.nodes.get(node).is_some_and(|story| story.disk_failed.iter().any(|at| *at <= by))
    }

    /// Whether this node keeps to the rules.
    #[must_use]
    pub fn is_honest(&self, node: Place) -> bool {
        self.nodes.get(node).is_some_and(|story| story.honest)
    }
}

/// The digest of what was really delivered: status and bytes. A payload that is only named is not delivered.
#[must_use]
pub fn delivered(reply: &Reply) -> Digest {
    let inline = reply.payloads().all(|payload| matches!(payload, Payload::Inline(_)));
    if inline { reply.answer() } else { Digest::from_bytes([0; 32]) }
}
