//! What must hold, each as one small function that looks at results and not at how they came about.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;

use crate::cassette::{Cassette, Lookup};
use crate::error::{EvalError, LimitHit};
use crate::fabric::{Delivery, Fabric, FlightId, JobId, segment};
use crate::id::{ContentId, NodeId};
use crate::identity::{Identity, Signer};
use crate::limits::{BATCH_FACTS, INLINE_REPLY};
use crate::message::LogItem;
use crate::reply::{Payload, Reply};
use crate::request::AnswerFrom;

/// One question in this many has a reply too large to travel with its record.
const LARGE_ONE_IN: u8 = 16;

/// The reply to a question, as every evaluation of it makes it.
pub(super) fn reply_to(id: ContentId) -> Reply {
    let name = id.as_bytes();
    let len = match name[0] % LARGE_ONE_IN {
        0 => INLINE_REPLY + usize::from(name[1]),
        _ => usize::from(name[1]) * 4,
    };
    let mut bytes = vec![0; len];
    blake3::Hasher::new_derive_key("evalmesh simulated reply").update(name).finalize_xof().fill(&mut bytes);
    Reply::ok(Bytes::from(bytes))
}

/// How a caller's wait ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum End {
    Outcome(Result<Delivery, EvalError>),
    /// It was answered from the cassette.
    Hit(Reply),
    /// The caller went away.
    Abandoned,
    /// The node went away.
    Crashed,
}

/// One caller's question.
#[derive(Debug)]
pub(super) struct Job {
    pub(super) id: ContentId,
    pub(super) answer_from: AnswerFrom,
    pub(super) timed: bool,
    pub(super) ends: Vec<End>,
}

type Jobs = BTreeMap<JobId, Job>;

/// Every job ends in exactly one outcome.
pub(super) fn every_job_ends_once(jobs: &Jobs) -> Vec<String> {
    let wrong = jobs.iter().filter(|(_, job)| job.ends.len() != 1);
    wrong.map(|(id, job)| format!("{id:?} ended {} times", job.ends.len())).collect()
}

/// Whatever is delivered is the reply to the question.
pub(super) fn delivered_is_right(jobs: &Jobs) -> Vec<String> {
    let is_wrong = |job: &Job, end: &End| match end {
        End::Outcome(Ok(Delivery { reply, .. })) | End::Hit(reply) => !same(reply, &reply_to(job.id)),
        _ => false,
    };
    let wrong = jobs.iter().filter(|(_, job)| job.ends.iter().any(|end| is_wrong(job, end)));
    wrong.map(|(id, job)| format!("{id:?} was delivered something else than the reply to {}", job.id.short())).collect()
}

/// Nobody hears an error but whoever set a limit or refused to have it computed.
pub(super) fn errors_are_asked_for(jobs: &Jobs) -> Vec<String> {
    let asked_for = |job: &Job, error: &EvalError| match error {
        EvalError::NotHeld { .. } => job.answer_from == AnswerFrom::HeldOnly,
        EvalError::Limit(LimitHit::Deadline { .. }) => job.timed,
        _ => false,
    };
    let errors = jobs.iter().flat_map(|(id, job)| job.ends.iter().map(move |end| (id, job, end)));
    let wrong = errors.filter_map(|(id, job, end)| match end {
        End::Outcome(Err(error)) if !asked_for(job, error) => Some(format!("{id:?} ended in error: {error}")),
        _ => None,
    });
    wrong.collect()
}

/// No question is evaluated twice at the same time on one node.
pub(super) fn one_evaluation(running: &BTreeMap<FlightId, ContentId>) -> Option<String> {
    let mut seen = BTreeSet::new();
    let twice = running.values().find(|id| !seen.insert(**id))?;
    Some(format!("{} is evaluated twice at the same time", twice.short()))
}

/// What was acknowledged as durable is still there.
pub(super) fn promises_are_kept(promised: &BTreeMap<u64, ContentId>, cassette: &Cassette) -> Vec<String> {
    let kept = |seq: u64, id: ContentId| {
        let stored = cassette
            .ledger()
            .read(seq)
            .ok()
            .flatten()
            .and_then(|stored| stored.entry.record().map(std::borrow::Cow::into_owned));
        stored.is_some_and(|record| record.request == id)
            && matches!(cassette.lookup(id), Ok(Lookup::Hit(held)) if same(held.reply(), &reply_to(id)))
    };
    let broken = promised.iter().filter(|(seq, id)| !kept(**seq, **id));
    broken.map(|(seq, id)| format!("the durable answer to {} at {seq} is gone", id.short())).collect()
}

/// What a node knows of another one's log is that log.
pub(super) fn index_is_the_log(fabric: &Fabric, peer: NodeId, log: &[u64]) -> Option<String> {
    let known = fabric.holders().facts_of(peer);
    let log: BTreeSet<_> = log.iter().map(|question| segment::key(*question)).collect();
    let same = known.iter().eq(&log);
    (!same).then(|| format!("of {}'s {} facts {} are known elsewhere", peer.short(), log.len(), known.len()))
}

/// The facts of a node's own log: fingerprints of questions.
pub(super) fn facts_of_log(cassette: &Cassette, identity: &Identity) -> Vec<u64> {
    let mut facts = Vec::new();
    let mut from = 0;
    while let Some(batch) = cassette.ledger().batch(from, BATCH_FACTS, identity) {
        facts.extend(batch.items.iter().filter_map(|item| match item {
            LogItem::Fact { question, .. } => Some(u64::from_le_bytes(*question)),
            LogItem::Skip(_) => None,
        }));
        if batch.end() <= from {
            break;
        }
        from = batch.end();
    }
    facts
}

/// A node can serve what it announces, with evidence.
pub(super) fn announced_is_served(
    log: &[u64],
    questions: &[ContentId],
    cassette: &Cassette,
    identity: &Identity,
) -> Vec<String> {
    let announced = questions.iter().filter(|id| log.contains(&id.fingerprint()));
    let unserved = announced.filter(|id| !matches!(cassette.evidence(**id, identity), Ok(Some(_))));
    unserved.map(|id| format!("{} announces {} and cannot serve it", identity.node().short(), id.short())).collect()
}

fn same(left: &Reply, right: &Reply) -> bool {
    let bytes = |reply: &Reply| reply.payloads().map(|payload| payload.bytes().cloned()).collect::<Vec<_>>();
    left.status == right.status
        && bytes(left) == bytes(right)
        && left.payloads().all(|p| matches!(p, Payload::Inline(_)))
}
