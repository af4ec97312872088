//! Workspaces: files on every node that questions are about, and that somebody edits while those questions are on their way.
//!
//! All workspaces begin alike, and a file goes back to what it said before now and then, so that nodes have answers for each other. A question
//! carries the files as they are when it is asked. Invariant: an edit changes the files of one node and nothing else.

use bytes::Bytes;

use crate::id::Digest;
use crate::reply::{Payload, Reply};
use crate::request::{Program, Request, Slot, Source};

use super::rng::Rng;
use super::scenario;

/// What a question about files runs.
const PROGRAM: &[u8] = b"simulated reader of files";

/// The files of one node.
#[derive(Debug, Clone)]
pub(super) struct Workspace {
    /// Which of its texts each file has.
    files: Vec<u64>,
    /// What each file was when it was first read: only a mutation looks here.
    first_read: Vec<Option<u64>>,
    texts: u64,
}

impl Workspace {
    pub(super) fn new(how: scenario::Workspaces) -> Self {
        Self { files: vec![0; how.files], first_read: vec![None; how.files], texts: how.texts.max(1) }
    }

    /// Gives a file another text; the number says which file and which text.
    pub(super) fn edit(&mut self, which: u64) {
        let mut rng = Rng::new(which);
        let (file, text) = (rng.index(self.files.len()), rng.below(self.texts));
        if let Some(file) = self.files.get_mut(file) {
            *file = text;
        }
    }

    /// The question about some files as they are now, and what its answer must be. A caller with the planted bug `stale` trusts what it read
    /// before.
    pub(super) fn question(&mut self, reads: &[usize], stale: bool) -> (Request, Digest) {
        let request = reads.iter().fold(Request::new(Program::wasm(PROGRAM)), |request, &file| {
            let now = self.files[file];
            let first = *self.first_read[file].get_or_insert(now);
            let text = text(file, if stale { first } else { now });
            request.file(&path(file), text).expect("a short path is well-formed")
        });
        let texts = reads.iter().map(|&file| (path(file), text(file, self.files[file])));
        (request, answer(texts).answer())
    }
}

fn path(file: usize) -> String {
    format!("src/file{file:03}.txt")
}

fn text(file: usize, number: u64) -> String {
    format!("text {number} of file {file}\n")
}

/// What the program of such questions gives: something that depends on every path and every byte.
fn answer<B: AsRef<[u8]>>(texts: impl Iterator<Item = (String, B)>) -> Reply {
    let mut hasher = blake3::Hasher::new_derive_key("evalmesh simulated answer about files");
    for (path, text) in texts {
        let text = text.as_ref();
        hasher.update(path.as_bytes()).update(&[0]).update(&(text.len() as u64).to_le_bytes()).update(text);
    }
    Reply::ok(Bytes::copy_from_slice(hasher.finalize().as_bytes()))
}

/// The reply to a question about files, from the files that it carries; `None` of any other question.
pub(super) fn reply(request: &Request) -> Option<Reply> {
    let is_ours = request.program == Program::wasm(PROGRAM);
    let text = |(slot, source): (&Slot, &Source)| match (slot, source) {
        (Slot::File(path), Source::Payload(Payload::Inline(text))) => Some((path.to_string(), text.clone())),
        _ => None,
    };
    is_ours.then(|| answer(request.inputs.iter().filter_map(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace() -> Workspace {
        Workspace::new(scenario::Workspaces { files: 3, texts: 4, asks: 1000 })
    }

    /// A number whose edit gives this file this text.
    fn edit_to(file: u64, text: u64) -> u64 {
        let hits = |which: &u64| {
            let mut rng = Rng::new(*which);
            (rng.below(3), rng.below(4)) == (file, text)
        };
        (0..1_000_000).find(hits).expect("some number does")
    }

    #[test]
    fn a_question_is_about_the_files_as_they_are_and_comes_back_with_them() {
        let (mut mine, mut yours) = (workspace(), workspace());
        let before = mine.question(&[0, 2], false);
        assert_eq!(yours.question(&[0, 2], false), before, "all begin alike");
        mine.edit(edit_to(2, 3));
        let after = mine.question(&[0, 2], false);
        assert!(after.0 != before.0 && after.1 != before.1);
        assert_eq!(yours.question(&[0, 2], false), before, "another workspace is another's");
        assert_eq!(
            mine.question(&[0, 1], false),
            yours.question(&[0, 1], false),
            "a file that is not read does not count"
        );
        for (request, expected) in [&before, &after] {
            assert_eq!(reply(request).expect("its program").answer(), *expected);
        }
        mine.edit(edit_to(2, 0));
        assert_eq!(mine.question(&[0, 2], false), before);
    }

    #[test]
    fn who_trusts_what_was_read_before_asks_the_wrong_question() {
        let mut workspace = workspace();
        let before = workspace.question(&[1], true);
        workspace.edit(edit_to(1, 2));
        let (request, expected) = workspace.question(&[1], true);
        assert_eq!(request, before.0);
        assert_ne!(reply(&request).expect("its program").answer(), expected);
    }
}
