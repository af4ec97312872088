//! The conformance guests of this folder: one small program for each kind, trap, limit and refusal, with what must come of it.
//!
//! The first lines of a guest are its request and its outcome, as comments `;; key: value`: entry, arg, env, stdin, file (`path=text`),
//! capability, feature, fuel, memory, output, files-made, timeout and cpu (ms) on the one side; on the other `ends` (how it ended), `stdout`, `files`
//! (their paths) and `answer` (the digest, which must be the same in every build and run), or `error` (the beginning of the refusal or limit).

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use evalmesh::error::EvalError;
use evalmesh::reply::{Payload, Reply};
use evalmesh::request::{Program, Request};

/// One guest.
pub(crate) struct Guest {
    pub(crate) name: String,
    head: Vec<(String, String)>,
    pub(crate) request: Request,
}

/// All guests that this build can run, in the order of their names.
pub(crate) fn guests() -> Vec<Guest> {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/conformance");
    let entries = fs::read_dir(folder).expect("the folder").map(|entry| entry.expect("an entry").path());
    let mut paths: Vec<_> = entries.filter(|path| path.extension().is_some_and(|ending| ending == "wat")).collect();
    paths.sort();
    assert!(paths.len() > 60, "{} guests are too few to be all", paths.len());
    let guests = paths.iter().map(|path| Guest::parse(path.file_stem().expect("a name"), path));
    guests
        .filter(|guest| {
            guest.get("feature").is_none_or(|feature| feature == "component" && cfg!(feature = "component"))
        })
        .collect()
}

/// A line of a guest's head; other comments have spaces before their first colon, or none.
fn pair(line: &str) -> Option<(&str, &str)> {
    let (key, value) = line.strip_prefix(";; ")?.split_once(':')?;
    (!key.contains(' ')).then(|| (key, value.strip_prefix(' ').unwrap_or(value)))
}

impl Guest {
    fn parse(name: &std::ffi::OsStr, path: &std::path::Path) -> Self {
        let text = fs::read_to_string(path).expect("a guest");
        let head: Vec<_> = text
            .lines()
            .map_while(|line| line.starts_with(";; ").then_some(line))
            .filter_map(|line| pair(line).map(|(key, value)| (key.to_owned(), value.replace("\\n", "\n"))))
            .collect();
        let mut guest = Self {
            name: name.to_string_lossy().into_owned(),
            head,
            request: Request::new(Program::wasm(wat::parse_str(&text).expect("wat"))),
        };
        for (key, value) in guest.head.clone() {
            guest.set(&key, value);
        }
        guest
    }

    fn set(&mut self, key: &str, value: String) {
        let number = || value.parse().unwrap_or_else(|_| panic!("{}: `{value}` is no number", self.name));
        let request = &mut self.request;
        match key {
            "entry" => request.program.entry = value,
            "arg" => request.args.push(value),
            "env" => drop(value.split_once('=').map(|(name, value)| request.env.insert(name.into(), value.into()))),
            "stdin" => *request = request.clone().stdin(value),
            "file" => {
                let (path, text) = value.split_once('=').expect("path=text");
                *request = request.clone().file(path, text.to_owned()).expect("a path");
            }
            "capability" => drop(request.capabilities.insert(value.parse().expect("a name"))),
            "fuel" => request.options.fuel = Some(number()),
            "memory" => request.options.memory = Some(number()),
            "output" => request.options.output = Some(number()),
            "files-made" => request.options.files = Some(number()),
            "timeout" => request.options.timeout = Some(Duration::from_millis(number())),
            "cpu" => request.options.cpu = Some(Duration::from_millis(number())),
            "feature" | "ends" | "stdout" | "files" | "answer" | "error" => {}
            other => panic!("{}: what is `{other}`?", self.name),
        }
    }

    fn get(&self, key: &str) -> Option<&str> {
        self.head.iter().find(|(one, _)| one == key).map(|(_, value)| value.as_str())
    }

    /// What is wrong with an outcome, if anything is.
    pub(crate) fn check(&self, outcome: &Result<Reply, EvalError>) -> Option<String> {
        let wrong = |what: &str, wanted: &str, found: &str| {
            Some(format!("{}: {what}: wanted `{wanted}`, found `{found}`", self.name))
        };
        match (outcome, self.get("error")) {
            (Err(error), Some(wanted)) => {
                let found = error.to_string();
                let inner = found.split_once(": ").map_or(found.as_str(), |(_, inner)| inner);
                if found.starts_with(wanted) || inner.starts_with(wanted) {
                    None
                } else {
                    wrong("error", wanted, &found)
                }
            }
            (Err(error), None) => wrong("outcome", "an answer", &error.to_string()),
            (Ok(reply), Some(wanted)) => wrong("outcome", wanted, &reply.status.to_string()),
            (Ok(reply), None) => {
                let paths: Vec<_> = reply.files.iter().map(|file| file.path.as_str()).collect();
                let stdout = reply.stdout.as_ref().and_then(Payload::bytes).map_or(&[][..], |bytes| bytes);
                let found = [
                    ("ends", reply.status.to_string()),
                    ("stdout", String::from_utf8_lossy(stdout).into_owned()),
                    ("files", paths.join(" ")),
                    ("answer", reply.answer().to_string()),
                ];
                let differs = |(key, found): &&(&str, String)| match self.get(key) {
                    Some(wanted) => wanted != found,
                    None => matches!(*key, "ends" | "answer") || *key == "files" && !found.is_empty(),
                };
                let (key, found) = found.iter().find(differs)?;
                wrong(key, self.get(key).unwrap_or("(nothing)"), found)
            }
        }
    }
}
