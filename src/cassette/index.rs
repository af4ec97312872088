//! Which entries answer a question, and the replies that are kept in memory.
//!
//! Invariant: a reply in memory belongs to the first live entry of its question, so a retraction or a loss can never be outlived by it.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use dashmap::DashMap;

use crate::error::NotHeld;
use crate::id::{ContentId, Digest};
use crate::record::Record;
use crate::reply::Reply;

use super::limits::{RAM_OVERHEAD, RAM_SHARE};

/// A reply in memory.
#[derive(Debug)]
pub(super) struct Hot {
    pub(super) seq: u64,
    pub(super) record: Arc<Record>,
    pub(super) reply: Reply,
    /// Set by every hit, cleared by the sweep that would drop it: a second chance.
    used: AtomicBool,
}

impl Hot {
    pub(super) fn new(seq: u64, record: Arc<Record>, reply: Reply) -> Arc<Self> {
        Arc::new(Self { seq, record, reply, used: AtomicBool::new(false) })
    }

    fn cost(&self) -> usize {
        usize::try_from(self.reply.len()).unwrap_or(usize::MAX).saturating_add(RAM_OVERHEAD)
    }
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    seq: u64,
    answer: Digest,
}

#[derive(Default)]
struct Answers {
    /// In order of their positions.
    live: Vec<Answer>,
    /// Entries whose bytes turned out to be lost.
    gone: Vec<Answer>,
    retracted: Vec<Digest>,
    hot: Option<Arc<Hot>>,
}

/// What is known about a question.
pub(super) enum Known {
    Hot(Arc<Hot>),
    /// Its first live entry.
    Cold(u64),
    Not(NotHeld),
}

/// What is known about one answer to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Held(u64),
    Retracted,
    Unknown,
}

/// How an entry changes the view.
pub(super) enum Change {
    Hold { id: ContentId, answer: Digest, seq: u64, hot: Option<Arc<Hot>> },
    Retract { id: ContentId, answer: Digest, seq: u64 },
}

pub(super) struct Index {
    answers: DashMap<ContentId, Answers>,
    /// Where payloads are that have no file of their own.
    inline: DashMap<Digest, u64>,
    queue: Mutex<VecDeque<(ContentId, u64)>>,
    ram: AtomicUsize,
    ram_bound: usize,
}

impl Index {
    pub(super) fn new(ram_bound: usize) -> Self {
        Self {
            answers: DashMap::new(),
            inline: DashMap::new(),
            queue: Mutex::default(),
            ram: AtomicUsize::new(0),
            ram_bound,
        }
    }

    pub(super) fn ram(&self) -> usize {
        self.ram.load(Ordering::Relaxed)
    }

    pub(super) fn questions(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn apply(&self, change: Change) {
        match change {
            Change::Hold { id, answer, seq, hot } => {
                let mut answers = self.answers.entry(id).or_default();
                let at = answers.live.partition_point(|other| other.seq < seq);
                answers.live.insert(at, Answer { seq, answer });
                if at == 0
                    && let Some(old) = answers.hot.take()
                {
                    self.release(&old);
                }
                drop(answers);
                if let Some(hot) = hot {
                    self.warm(id, &hot);
                }
            }
            Change::Retract { id, answer, seq } => {
                let mut answers = self.answers.entry(id).or_default();
                let standing = |other: &Answer| other.answer != answer || other.seq > seq;
                answers.live.retain(standing);
                answers.gone.retain(standing);
                if !answers.retracted.contains(&answer) {
                    answers.retracted.push(answer);
                }
                self.check_hot(&mut answers);
            }
        }
    }

    pub(super) fn known(&self, id: &ContentId) -> Known {
        let Some(answers) = self.answers.get(id) else { return Known::Not(NotHeld::NeverSeen) };
        if let Some(hot) = &answers.hot {
            hot.used.store(true, Ordering::Relaxed);
            return Known::Hot(hot.clone());
        }
        match answers.live.first() {
            Some(first) => Known::Cold(first.seq),
            None if !answers.gone.is_empty() => Known::Not(NotHeld::PayloadGone),
            None if !answers.retracted.is_empty() => Known::Not(NotHeld::Retracted),
            None => Known::Not(NotHeld::NeverSeen),
        }
    }

    /// The live entries of a question.
    pub(super) fn live(&self, id: &ContentId) -> Vec<u64> {
        self.answers.get(id).map_or_else(Vec::new, |answers| answers.live.iter().map(|live| live.seq).collect())
    }

    pub(super) fn standing(&self, id: &ContentId, answer: &Digest) -> Standing {
        let Some(answers) = self.answers.get(id) else { return Standing::Unknown };
        match answers.live.iter().find(|live| live.answer == *answer) {
            Some(live) => Standing::Held(live.seq),
            None if answers.retracted.contains(answer) => Standing::Retracted,
            None => Standing::Unknown,
        }
    }

    /// This entry's bytes are lost: it no longer answers. Whether that was news.
    pub(super) fn lose(&self, id: &ContentId, seq: u64) -> bool {
        let Some(mut answers) = self.answers.get_mut(id) else { return false };
        let Some(at) = answers.live.iter().position(|live| live.seq == seq) else { return false };
        let lost = answers.live.remove(at);
        answers.gone.push(lost);
        self.check_hot(&mut answers);
        true
    }

    pub(super) fn note_inline(&self, digest: Digest, seq: u64) {
        self.inline.entry(digest).or_insert(seq);
    }

    pub(super) fn inline(&self, digest: &Digest) -> Option<u64> {
        self.inline.get(digest).map(|seq| *seq)
    }

    /// That entry does not have the payload any more; a later one may.
    pub(super) fn forget_inline(&self, digest: &Digest, seq: u64) {
        self.inline.remove_if(digest, |_, noted| *noted == seq);
    }

    /// Keeps a reply in memory if it is that of the first live entry.
    pub(super) fn warm(&self, id: ContentId, hot: &Arc<Hot>) {
        if hot.cost() > self.ram_bound / RAM_SHARE {
            return;
        }
        {
            let Some(mut answers) = self.answers.get_mut(&id) else { return };
            if answers.hot.is_some() || answers.live.first().is_none_or(|first| first.seq != hot.seq) {
                return;
            }
            answers.hot = Some(hot.clone());
            self.ram.fetch_add(hot.cost(), Ordering::Relaxed);
        }
        let mut queue = self.queue.lock().expect("no code panics while it holds the queue");
        queue.push_back((id, hot.seq));
        self.sweep(&mut queue);
    }

    /// Drops what was not used since it was last looked at, oldest first, until the bound holds. Takes map locks one at a time, and is the
    /// only place that takes one while it holds the queue.
    fn sweep(&self, queue: &mut VecDeque<(ContentId, u64)>) {
        let mut chances = queue.len();
        while self.ram() > self.ram_bound {
            let Some((id, seq)) = queue.pop_front() else { break };
            let Some(mut answers) = self.answers.get_mut(&id) else { continue };
            let Some(hot) = answers.hot.take_if(|hot| hot.seq == seq) else { continue };
            if chances > 0 && hot.used.swap(false, Ordering::Relaxed) {
                chances -= 1;
                answers.hot = Some(hot);
                queue.push_back((id, seq));
            } else {
                self.release(&hot);
            }
        }
    }

    fn check_hot(&self, answers: &mut Answers) {
        let first = answers.live.first().map(|first| first.seq);
        if let Some(stale) = answers.hot.take_if(|hot| Some(hot.seq) != first) {
            self.release(&stale);
        }
    }

    fn release(&self, hot: &Hot) {
        self.ram.fetch_sub(hot.cost(), Ordering::Relaxed);
    }
}
