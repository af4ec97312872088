//! Invariants 2 and 8: an answer about files is what the program gives for them in the asker's workspace, whatever was edited meanwhile or elsewhere.

use super::{Check, Phase};
use crate::sim::history::End;

pub(super) const CHECK: Check = Check {
    name: "files are as they were asked about",
    phase: Phase::Safety,
    about: "an answer about files is what the program gives for them as they were in the asker's workspace when it asked",
    run: |history| {
        let asks = history.asks.iter().filter(|ask| history.is_honest(ask.node));
        let answers = asks.filter_map(|ask| Some((ask, ask.expected?, ask.ends.first()?)));
        let wrong = answers.filter_map(|(ask, expected, (_, end))| match end {
            End::Answered { answer, source } if *answer != expected => Some(format!(
                "node {} asked {} about files that give {}, and got {} ({source:?})",
                ask.node,
                ask.id.short(),
                expected.short(),
                answer.short()
            )),
            _ => None,
        });
        wrong.collect()
    },
};
