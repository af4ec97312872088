//! Which entries answer a question, and the replies that are kept in memory.
//!
//! A question's fingerprint leads to candidates ([`Finder`]); where one is not enough - several answers, retractions, losses - the entries are
//! read and what they say is kept exactly. Invariant: a reply in memory belongs to the first live entry of its question, so a retraction or a
//! loss can never be outlived by it: every change is counted first, and what was read before a change is not kept.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use bytes::Bytes;
use dashmap::DashMap;

use crate::error::NotHeld;
use crate::id::{ContentId, Digest};
use crate::ledger::{Entry, LedgerReader, ReadError, Stored, Table};
use crate::record::Record;
use crate::reply::{Payload, Reply};

use super::finder::{Candidates, Finder};
use super::limits::{EXACT_QUESTIONS, RAM_OVERHEAD, RAM_SHARE};

/// A reply in memory. What a hit touches lies together.
#[derive(Debug)]
#[repr(C)]
pub(super) struct Hot {
    /// Set by every hit, cleared by the sweep that would drop it: a second chance.
    used: AtomicBool,
    pub(super) seq: u64,
    pub(super) reply: Reply,
    /// The record, or the entry to read it from: few who ask want it.
    record: OnceLock<Record>,
    source: Option<Source>,
    /// Whether this node observed it itself.
    own: bool,
}

/// Where a record can be read again: the kind and body of its entry.
#[derive(Debug)]
struct Source(u8, Bytes);

impl Hot {
    /// What another node observed.
    pub(super) fn adopted(seq: u64, record: Record, reply: Reply) -> Arc<Self> {
        let used = AtomicBool::new(false);
        Arc::new(Self { used, seq, reply, record: OnceLock::from(record), source: None, own: false })
    }

    /// What this node observed itself: peers get the bytes of its record, which are those of the entry.
    pub(super) fn observed(seq: u64, (kind, body): (u8, Bytes), reply: Reply) -> Arc<Self> {
        let (used, source) = (AtomicBool::new(false), Some(Source(kind, body)));
        Arc::new(Self { used, seq, reply, record: OnceLock::new(), source, own: true })
    }

    /// The bytes of the record, if this node observed it itself.
    pub(super) fn own_record(&self) -> Option<Bytes> {
        self.own.then(|| match &self.source {
            Some(Source(_, body)) => body.clone(),
            None => self.record().encode().into(),
        })
    }

    /// What was read from disk, with the payloads of its record; `None` if it holds no record.
    pub(super) fn read(stored: Stored, payloads: impl IntoIterator<Item = Payload>) -> Option<Arc<Self>> {
        let (used, seq) = (AtomicBool::new(false), stored.seq);
        let own = matches!(stored.entry, Entry::Observed(_));
        let (kind, body) = stored.source();
        let reply = stored.into_record()?.into_reply(payloads);
        Some(Arc::new(Self { used, seq, reply, record: OnceLock::new(), source: Some(Source(kind, body)), own }))
    }

    pub(super) fn record(&self) -> &Record {
        self.record.get_or_init(|| {
            let Some(Source(kind, body)) = &self.source else { unreachable!("made with the one or the other") };
            let entry = Entry::decode(*kind, body).expect("it was decoded when it was read");
            entry.record().expect("it has a record").into_owned()
        })
    }

    fn cost(&self) -> usize {
        usize::try_from(self.reply.len()).unwrap_or(usize::MAX).saturating_add(RAM_OVERHEAD)
    }
}

#[derive(Debug, Clone, Copy)]
struct Answer {
    seq: u64,
    /// `None` if the entry could not be read.
    answer: Option<Digest>,
}

/// Exactly what the entries say about a question.
#[derive(Debug, Clone, Default)]
struct Answers {
    /// In order of their positions.
    live: Vec<Answer>,
    /// Entries whose bytes turned out to be lost.
    gone: Vec<Answer>,
    retracted: Vec<Digest>,
}

impl Answers {
    fn hold(&mut self, seq: u64, answer: Digest) {
        let known = |all: &[Answer]| all.iter().any(|other| other.seq == seq);
        if !known(&self.live) && !known(&self.gone) {
            let at = self.live.partition_point(|other| other.seq < seq);
            self.live.insert(at, Answer { seq, answer: Some(answer) });
        }
    }

    fn retract(&mut self, seq: u64, answer: Digest) {
        let standing = |other: &Answer| other.answer != Some(answer) || other.seq > seq;
        self.live.retain(standing);
        self.gone.retain(standing);
        if !self.retracted.contains(&answer) {
            self.retracted.push(answer);
        }
    }

    fn known(&self) -> Known {
        match self.live.first() {
            Some(first) => Known::Cold(first.seq),
            None if !self.gone.is_empty() => Known::Not(NotHeld::PayloadGone),
            None if !self.retracted.is_empty() => Known::Not(NotHeld::Retracted),
            None => Known::Not(NotHeld::NeverSeen),
        }
    }
}

/// What is known about a question.
pub(super) enum Known {
    Hot(Arc<Hot>),
    /// Its first live entry, if that is about this question at all.
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

/// How often what is known about a question's shard had changed when something was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Version(u64);

/// Ids are hashes already: their first bytes are as good as any hash of them, and so is the sum of those of several.
#[derive(Default)]
pub(super) struct IdHasher(u64);

/// A map by what is a hash already.
pub(super) type ByHash<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        if let Some(first) = bytes.first_chunk() {
            self.0 = self.0.wrapping_add(u64::from_le_bytes(*first));
        }
    }

    fn write_usize(&mut self, _: usize) {}
}

type ById<V> = DashMap<ContentId, V, BuildHasherDefault<IdHasher>>;

pub(super) struct Index {
    ledger: LedgerReader,
    questions: Finder,
    /// Where payloads are that have no file of their own.
    names: Finder,
    exact: ById<Answers>,
    hot: ById<Arc<Hot>>,
    /// By the question's shard.
    changes: Vec<AtomicU64>,
    asked: AtomicU64,
    queue: Mutex<VecDeque<(ContentId, u64)>>,
    ram: AtomicUsize,
    ram_bound: usize,
}

impl Index {
    pub(super) fn new(ledger: LedgerReader, ram_bound: usize) -> Self {
        Self {
            questions: Finder::new(ledger.clone(), Table::Questions),
            names: Finder::new(ledger.clone(), Table::Names),
            asked: AtomicU64::new(ledger.sums().answers),
            ledger,
            exact: DashMap::default(),
            hot: DashMap::default(),
            changes: (0..=u8::MAX).map(|_| AtomicU64::new(0)).collect(),
            queue: Mutex::default(),
            ram: AtomicUsize::new(0),
            ram_bound,
        }
    }

    pub(super) fn ram(&self) -> usize {
        self.ram.load(Ordering::Relaxed)
    }

    /// Bytes of the tables that lead from fingerprints to entries.
    pub(super) fn bytes(&self) -> usize {
        self.questions.bytes() + self.names.bytes()
    }

    pub(super) fn questions(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    pub(super) fn version(&self, id: &ContentId) -> Version {
        Version(self.change_counter(id).load(Ordering::SeqCst))
    }

    fn change_counter(&self, id: &ContentId) -> &AtomicU64 {
        &self.changes[usize::from(LedgerReader::shard_of(id.fingerprint()))]
    }

    pub(super) fn apply(&self, change: Change) {
        match change {
            Change::Hold { id, answer, seq, hot } => {
                self.change_counter(&id).fetch_add(1, Ordering::SeqCst);
                let alone = self.questions.insert(id.fingerprint(), seq);
                if let Some(mut answers) = self.exact.get_mut(&id) {
                    answers.hold(seq, answer);
                }
                if let Some((_, old)) = self.hot.remove_if(&id, |_, old| old.seq > seq) {
                    self.release(&old);
                }
                if alone.as_ref().is_ok_and(|alone| *alone) {
                    self.asked.fetch_add(1, Ordering::Relaxed);
                    if let Some(hot) = hot {
                        self.warm(id, &hot, self.version(&id));
                    }
                } else if let Some(hot) = hot
                    && self
                        .exact
                        .get(&id)
                        .is_some_and(|answers| answers.live.first().is_some_and(|first| first.seq == seq))
                {
                    self.warm(id, &hot, self.version(&id));
                }
            }
            Change::Retract { id, answer, seq } => {
                self.change_counter(&id).fetch_add(1, Ordering::SeqCst);
                if let Err(error) = self.questions.insert(id.fingerprint(), seq) {
                    tracing::warn!(%error, "the index cannot be read");
                }
                if let Some(mut answers) = self.exact.get_mut(&id) {
                    answers.retract(seq, answer);
                }
                if let Some((_, old)) = self.hot.remove(&id) {
                    self.release(&old);
                }
            }
        }
    }

    /// The reply to a question, if it is in memory.
    pub(super) fn hot(&self, id: &ContentId) -> Option<Arc<Hot>> {
        let hot = self.hot.get(id)?;
        if !hot.used.load(Ordering::Relaxed) {
            hot.used.store(true, Ordering::Relaxed);
        }
        Some(hot.clone())
    }

    pub(super) fn known(&self, id: &ContentId) -> Result<Known, ReadError> {
        if let Some(hot) = self.hot(id) {
            return Ok(Known::Hot(hot));
        }
        if let Some(answers) = self.exact.get(id) {
            return Ok(answers.known());
        }
        let version = self.version(id);
        Ok(match self.questions.find(id.fingerprint())? {
            Candidates::None => Known::Not(NotHeld::NeverSeen),
            Candidates::One(seq) => Known::Cold(seq),
            Candidates::Many(seqs) => {
                let answers = self.read(id, &seqs)?;
                let known = answers.known();
                self.keep(*id, answers, version);
                known
            }
        })
    }

    /// What these entries say about a question.
    fn read(&self, id: &ContentId, seqs: &[u64]) -> Result<Answers, ReadError> {
        let mut answers = Answers::default();
        for &seq in seqs {
            match self.ledger.read(seq) {
                Ok(Some(stored)) => match &stored.entry {
                    Entry::Retracted { request, answer, .. } if request == id => answers.retract(seq, *answer),
                    entry => {
                        if let Some(record) = entry.record().filter(|record| record.request == *id) {
                            answers.hold(seq, record.answer());
                        }
                    }
                },
                Ok(None) => {}
                Err(error) if error.is_loss() => answers.gone.push(Answer { seq, answer: None }),
                Err(error) => return Err(error),
            }
        }
        Ok(answers)
    }

    /// Keeps what was read, unless something has changed since `version`.
    fn keep(&self, id: ContentId, answers: Answers, version: Version) {
        if self.exact.len() >= EXACT_QUESTIONS {
            self.exact.clear();
        }
        let place = self.exact.entry(id);
        if self.version(&id) == version {
            place.insert(answers);
        }
    }

    fn answers(&self, id: &ContentId) -> Result<Answers, ReadError> {
        if let Some(answers) = self.exact.get(id) {
            return Ok(answers.clone());
        }
        self.read(id, self.questions.find(id.fingerprint())?.as_slice())
    }

    /// The live entries of a question.
    pub(super) fn live(&self, id: &ContentId) -> Result<Vec<u64>, ReadError> {
        Ok(self.answers(id)?.live.iter().map(|live| live.seq).collect())
    }

    pub(super) fn standing(&self, id: &ContentId, answer: &Digest) -> Result<Standing, ReadError> {
        let answers = self.answers(id)?;
        Ok(match answers.live.iter().find(|live| live.answer == Some(*answer)) {
            Some(live) => Standing::Held(live.seq),
            None if answers.retracted.contains(answer) => Standing::Retracted,
            None => Standing::Unknown,
        })
    }

    /// This entry's bytes are lost: it no longer answers. Whether that was news.
    pub(super) fn lose(&self, id: &ContentId, seq: u64) -> Result<bool, ReadError> {
        let version = self.version(id);
        let mut answers = self.answers(id)?;
        let news = match answers.live.iter().position(|live| live.seq == seq) {
            Some(at) => {
                let lost = answers.live.remove(at);
                answers.gone.push(lost);
                true
            }
            None => !self.exact.contains_key(id) && answers.gone.iter().any(|gone| gone.seq == seq),
        };
        if news {
            self.keep(*id, answers, version);
            if let Some((_, old)) = self.hot.remove_if(id, |_, hot| hot.seq == seq) {
                self.release(&old);
            }
        }
        Ok(news)
    }

    pub(super) fn note_inline(&self, digest: Digest, seq: u64) {
        if let Err(error) = self.names.insert(digest.fingerprint(), seq) {
            tracing::warn!(%error, "the index cannot be read");
        }
    }

    /// The entries that may have these bytes in their frames.
    pub(super) fn inline(&self, digest: &Digest) -> Result<Candidates, ReadError> {
        self.names.find(digest.fingerprint())
    }

    /// Whether a reply of so many bytes would be kept in memory.
    pub(super) fn has_room_for(&self, bytes: usize) -> bool {
        bytes.saturating_add(RAM_OVERHEAD) <= self.ram_bound / RAM_SHARE
    }

    /// Keeps a reply of the first live entry in memory, unless something has changed since `version`.
    pub(super) fn warm(&self, id: ContentId, hot: &Arc<Hot>, version: Version) {
        if hot.cost() > self.ram_bound / RAM_SHARE {
            return;
        }
        {
            let dashmap::Entry::Vacant(place) = self.hot.entry(id) else { return };
            if self.version(&id) != version {
                return;
            }
            place.insert(hot.clone());
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
            let again = self
                .hot
                .get(&id)
                .is_some_and(|hot| hot.seq == seq && chances > 0 && hot.used.swap(false, Ordering::Relaxed));
            if again {
                chances -= 1;
                queue.push_back((id, seq));
            } else if let Some((_, old)) = self.hot.remove_if(&id, |_, hot| hot.seq == seq) {
                self.release(&old);
            }
        }
    }

    fn release(&self, hot: &Hot) {
        self.ram.fetch_sub(hot.cost(), Ordering::Relaxed);
    }
}
