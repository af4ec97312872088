//! What is known of portable programs: that two runs gave the same, or that two runs once did not.
//!
//! The IR proves everything but the absence of races between plain loads and stores; those show as runs that differ. So a program is run twice
//! when it is admitted, again every so often, and an answer that was seen before is compared. Invariant: a program that once differed is
//! demoted for good, over restarts too where there is a file for it, and is refused from then on.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::{self, Write};
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::limits::{CHECK_EVERY, REMEMBERED};
use crate::error::{EvalError, Refusal};
use crate::id::{ContentId, Digest};

/// The memory of all devices of a node.
#[derive(Debug, Default)]
pub(super) struct Proofs {
    state: Mutex<State>,
    /// Where demoted programs are kept, a line each.
    file: Option<PathBuf>,
}

#[derive(Debug, Default)]
struct State {
    demoted: BTreeSet<Digest>,
    /// Evaluations of programs that were proven here.
    proven: Bounded<Digest, u64>,
    answers: Bounded<ContentId, Digest>,
}

impl Proofs {
    /// The memory of a node, with what an earlier life of it found out.
    pub(super) fn open(file: Option<PathBuf>) -> Self {
        let text = file.as_ref().and_then(|path| fs::read_to_string(path).ok()).unwrap_or_default();
        let demoted = text.lines().filter_map(|line| line.trim().parse().ok()).collect();
        Self { state: Mutex::new(State { demoted, ..State::default() }), file }
    }

    /// Whether this evaluation must be run twice.
    pub(super) fn begin(&self, program: Digest) -> Result<bool, EvalError> {
        let mut state = self.state();
        if state.demoted.contains(&program) {
            return Err(demoted());
        }
        Ok(match state.proven.get_mut(&program) {
            None => true,
            Some(runs) => {
                *runs += 1;
                runs.is_multiple_of(CHECK_EVERY)
            }
        })
    }

    /// Takes note of what an evaluation gave, if that is small enough to be remembered, and whether a second run was alike, if there was one. The
    /// answer may be given if this says so.
    pub(super) fn end(
        &self,
        program: Digest,
        id: ContentId,
        answer: Option<Digest>,
        alike: Option<bool>,
    ) -> Result<(), EvalError> {
        let mut state = self.state();
        let before = state.answers.get_mut(&id).copied();
        let differs = before.zip(answer).is_some_and(|(before, answer)| before != answer);
        if differs || alike == Some(false) {
            self.demote(&mut state, program);
            return Err(demoted());
        }
        if alike == Some(true) && state.proven.get_mut(&program).is_none() {
            state.proven.insert(program, 0);
        }
        if let (None, Some(answer)) = (before, answer) {
            state.answers.insert(id, answer);
        }
        Ok(())
    }

    fn demote(&self, state: &mut State, program: Digest) {
        tracing::warn!(%program, "a shader that was taken for portable gave different answers and is demoted");
        state.demoted.insert(program);
        let kept = self.file.as_ref().map_or(Ok(()), |path| -> io::Result<()> {
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            writeln!(fs::File::options().create(true).append(true).open(path)?, "{program}")
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "that it is demoted cannot be kept for the next start");
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn demoted() -> EvalError {
    let why = "two runs of this program gave different answers, so invocations race: ask for a device class";
    Refusal::ClassNotProven(why.to_owned()).into()
}

/// A table that forgets what came first.
#[derive(Debug)]
struct Bounded<K, V> {
    table: BTreeMap<K, V>,
    order: VecDeque<K>,
}

impl<K, V> Default for Bounded<K, V> {
    fn default() -> Self {
        Self { table: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<K: Ord + Copy, V> Bounded<K, V> {
    fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.table.get_mut(key)
    }

    fn insert(&mut self, key: K, value: V) {
        if self.order.len() >= REMEMBERED
            && let Some(first) = self.order.pop_front()
        {
            self.table.remove(&first);
        }
        if self.table.insert(key, value).is_none() {
            self.order.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    #[test]
    fn a_program_is_run_twice_at_first_and_now_and_then() {
        let proofs = Proofs::default();
        let (program, id) = (digest("program"), ContentId::of(b"question"));
        assert_eq!(proofs.begin(program), Ok(true));
        assert_eq!(proofs.begin(program), Ok(true), "until it was");
        proofs.end(program, id, Some(digest("a")), Some(true)).unwrap();
        let twice = (0..CHECK_EVERY * 3).filter(|_| proofs.begin(program) == Ok(true)).count();
        assert_eq!(twice, 3);
    }

    #[test]
    fn whatever_differs_demotes_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("gpu").join("demoted");
        let open = || Proofs::open(Some(file.clone()));
        let proofs = open();
        let (id, [racy, late, good]) = (ContentId::of(b"question"), ["racy", "late", "good"].map(digest));
        assert!(proofs.end(racy, id, Some(digest("a")), Some(false)).is_err(), "two runs at admission");
        proofs.end(late, id, Some(digest("a")), Some(true)).unwrap();
        assert!(proofs.end(late, id, Some(digest("b")), None).is_err(), "a later run of the same question");
        assert_eq!(proofs.begin(good), Ok(true));
        for proofs in [proofs, open()] {
            for program in [racy, late] {
                assert!(matches!(proofs.begin(program), Err(EvalError::Refused(Refusal::ClassNotProven(_)))));
            }
        }
    }

    #[test]
    fn the_memory_is_bounded() {
        let mut table = Bounded::default();
        (0..REMEMBERED + 10).for_each(|key| table.insert(key, ()));
        assert_eq!((table.table.len(), table.order.len()), (REMEMBERED, REMEMBERED));
        assert!(table.get_mut(&9).is_none() && table.get_mut(&10).is_some());
    }
}
