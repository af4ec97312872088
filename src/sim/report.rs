//! What came of a run, in figures: plain data that is printed, compared and kept as a baseline.

use serde::Serialize;

use super::check::Phase;
use super::history::{End, History, Source};
use super::network::Traffic;
use super::scenario::Scenario;
use super::timeline::{Sample, millis};
use crate::id::Digest;

/// How the callers' waits ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Outcomes {
    /// Answered from the asked node's own cassette.
    pub hits: u64,
    /// Answered by a peer.
    pub fetched: u64,
    /// Answered by an evaluation.
    pub computed: u64,
    /// Ended with an error, such as a timeout.
    pub errors: u64,
    /// The caller went away first.
    pub abandoned: u64,
    /// The node went away first.
    pub crashed: u64,
}

/// How long answered callers waited, in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Latency {
    /// Half of them at most this long.
    pub p50: u64,
    /// 99 of 100 at most this long.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// How long after an entry became durable other nodes knew of it, in microseconds. Counted are nodes that ran all that time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
pub struct Spread {
    /// How often some node got to know what another one had made durable.
    pub learned: u64,
    /// Half of them at most this long.
    pub p50: u64,
    /// 99 of 100 at most this long.
    pub p99: u64,
    /// The longest.
    pub max: u64,
}

/// Something that must hold and did not.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Violation {
    /// The check that found it.
    pub check: &'static str,
    /// The phase that it is about.
    pub phase: Phase,
    /// What did not hold.
    pub what: String,
}

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The scenario.
    pub scenario: String,
    /// The seed.
    pub seed: u64,
    /// How many nodes.
    pub nodes: usize,
    /// The digest of every event in order; equal for equal runs.
    pub trace_digest: String,
    /// How many events there were.
    pub events: u64,
    /// How the callers' waits ended.
    pub outcomes: Outcomes,
    /// Evaluations started.
    pub evaluations: u64,
    /// Of these, evaluations of reproducible questions beyond the first of each.
    pub duplicates: u64,
    /// How long answered callers waited.
    pub latency: Latency,
    /// How long it took until others knew what was new.
    pub news: Spread,
    /// Frames sent.
    pub frames: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Of the frames, those that were lost.
    pub lost: u64,
    /// How long after the faults ended the last live index was equal to the logs, in milliseconds, to within half a second; absent if they never were.
    pub settled: Option<u64>,
    /// What did not hold; empty if all is well.
    pub violations: Vec<Violation>,
}

impl Report {
    pub(super) fn new(
        scenario: &Scenario,
        (digest, events): (Digest, u64),
        history: &History,
        samples: &[Sample],
        traffic: Traffic,
        violations: Vec<Violation>,
    ) -> Self {
        Self {
            scenario: scenario.name.clone(),
            seed: scenario.seed,
            nodes: scenario.nodes,
            trace_digest: digest.to_string(),
            events,
            outcomes: outcomes(history),
            evaluations: history.evaluations.len() as u64,
            duplicates: duplicates(history),
            latency: latency(history),
            news: Spread::default(),
            frames: traffic.frames,
            bytes: traffic.bytes,
            lost: traffic.lost,
            settled: settled(history, samples),
            violations,
        }
    }

    /// Whether something wrong happened, as opposed to something right that did not.
    #[must_use]
    pub fn is_unsafe(&self) -> bool {
        self.violations.iter().any(|violation| violation.phase == Phase::Safety)
    }

    /// The share of answered callers who were answered without an evaluation of their own, per thousand.
    #[must_use]
    pub fn hit_ratio(&self) -> u64 {
        let Outcomes { hits, fetched, computed, .. } = self.outcomes;
        ((hits + fetched) * 1000).checked_div(hits + fetched + computed).unwrap_or_default()
    }
}

fn outcomes(history: &History) -> Outcomes {
    let mut counts = Outcomes::default();
    for (_, end) in history.asks.iter().filter_map(|ask| ask.ends.first()) {
        let count = match end {
            End::Answered { source: Source::Memory, .. } => &mut counts.hits,
            End::Answered { source: Source::Peer(_), .. } => &mut counts.fetched,
            End::Answered { source: Source::Computed, .. } => &mut counts.computed,
            End::Error(_) => &mut counts.errors,
            End::Abandoned => &mut counts.abandoned,
            End::Crashed => &mut counts.crashed,
        };
        *count += 1;
    }
    counts
}

fn duplicates(history: &History) -> u64 {
    let mut seen = std::collections::BTreeSet::new();
    let reproducible = history.evaluations.iter().filter(|evaluation| evaluation.class.is_reproducible());
    reproducible.filter(|evaluation| !seen.insert(evaluation.id)).count() as u64
}

fn latency(history: &History) -> Latency {
    let answered = |ask: &super::history::Asked| match ask.ends.first() {
        Some((at, End::Answered { .. })) => u64::try_from((*at - ask.at).as_micros()).ok(),
        _ => None,
    };
    let mut waits: Vec<_> = history.asks.iter().filter_map(answered).collect();
    waits.sort_unstable();
    let [p50, p99, max] = [50, 99, 100].map(|percent| rank(&waits, percent));
    Latency { p50, p99, max }
}

/// The smallest of these, which are in order, that so many of a hundred do not exceed.
pub(super) fn rank<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    sorted.get((sorted.len() * percent).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
}

/// The first sample after the faults from which on nobody was behind.
fn settled(history: &History, samples: &[Sample]) -> Option<u64> {
    let calm = millis(history.calm?);
    let after: Vec<_> = samples.iter().filter(|sample| sample.at > calm).collect();
    let last_behind = after.iter().rposition(|sample| sample.behind > 0);
    let settled = after.get(last_behind.map_or(0, |last| last + 1))?;
    Some(settled.at - calm)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fabric::Time;
    use crate::id::{ContentId, NodeId};
    use crate::request::{AnswerFrom, Class};
    use crate::sim::history::{Asked, Evaluated};
    use std::time::Duration;

    fn ask(at: u64, took: u64, end: End) -> Asked {
        let ms = |n| Time(Duration::from_millis(n));
        let (class, answer_from, ends) = (Class::Portable, AnswerFrom::Anywhere, vec![(ms(at + took), end)]);
        let id = ContentId::of(b"q");
        Asked { at: ms(at), node: 0, id, class, answer_from, timeout: None, expected: None, probe: false, ends }
    }

    #[test]
    fn the_figures_of_a_known_history_are_right() {
        let answered = |source| End::Answered { answer: Digest::of(b"a"), source };
        let mut history = History { calm: Some(Time(Duration::from_secs(10))), ..History::default() };
        history.asks = vec![
            ask(0, 30, answered(Source::Memory)),
            ask(5, 10, answered(Source::Computed)),
            ask(7, 20, answered(Source::Peer(NodeId::from_bytes([1; 32])))),
            ask(9, 99, End::Abandoned),
        ];
        let evaluation = |class| Evaluated {
            node: 0,
            id: ContentId::of(b"q"),
            class,
            from: Time::default(),
            to: None,
            result: None,
        };
        history.evaluations =
            vec![evaluation(Class::Portable), evaluation(Class::Portable), evaluation(Class::Observed)];
        let sample = |at, behind| Sample { at, behind, ..Sample::default() };
        let samples = [sample(9_500, 0), sample(10_500, 3), sample(11_000, 1), sample(11_500, 0), sample(12_000, 0)];
        let traffic = Traffic { frames: 7, bytes: 70, lost: 1 };
        let report = Report::new(&Scenario::default(), (Digest::of(b"t"), 9), &history, &samples, traffic, Vec::new());
        assert_eq!((report.latency.p50, report.latency.p99, report.latency.max), (20_000, 30_000, 30_000));
        assert_eq!((report.evaluations, report.duplicates, report.settled), (3, 1, Some(1_500)));
        assert_eq!(report.outcomes, Outcomes { hits: 1, fetched: 1, computed: 1, abandoned: 1, ..Outcomes::default() });
        assert_eq!((report.hit_ratio(), report.frames, report.bytes, report.lost), (666, 7, 70, 1));
        assert!(!report.is_unsafe());
        let never =
            Report::new(&Scenario::default(), (Digest::of(b"t"), 9), &history, &samples[..3], traffic, Vec::new());
        assert_eq!(never.settled, None);
    }
}
