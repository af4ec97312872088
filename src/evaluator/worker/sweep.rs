//! Notes of running workers, so that those of a process that was killed are found and ended.
//!
//! A worker ends by itself when its parent does, unless it is stuck; this is for those. A note is a file named by the process number that holds
//! when that process began, since numbers are used again. Invariant: only a process that is provably the noted one is killed.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A note that is removed with its worker.
#[derive(Debug)]
pub(in crate::evaluator) struct Registered(PathBuf);

impl Drop for Registered {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.0));
    }
}

/// Notes a worker, where the system tells when it began.
pub(super) fn register(folder: &Path, pid: u32) -> Option<Registered> {
    let path = folder.join(pid.to_string());
    fs::write(&path, began(pid)?).ok()?;
    Some(Registered(path))
}

/// Ends noted workers that still run, and forgets all notes.
pub(super) fn sweep(folder: &Path) -> io::Result<usize> {
    fs::create_dir_all(folder)?;
    let mut ended = 0;
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let pid = path.file_name().and_then(|name| name.to_str()).and_then(|name| name.parse::<u32>().ok());
        let Some(pid) = pid else { continue };
        let noted = fs::read_to_string(&path).unwrap_or_default();
        if began(pid).is_some_and(|began| began == noted) && kill(pid) {
            tracing::info!(pid, "ended a worker that an earlier process left behind");
            ended += 1;
        }
        fs::remove_file(&path)?;
    }
    Ok(ended)
}

/// When a process began, in ticks since the machine did.
fn began(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in the second field may hold anything, so fields are counted from the last parenthesis.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_owned)
}

#[cfg(unix)]
fn kill(pid: u32) -> bool {
    use rustix::process::{Pid, Signal, kill_process};

    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    pid.is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
}

#[cfg(not(unix))]
fn kill(_: u32) -> bool {
    false
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::Command;

    use super::*;

    #[test]
    fn a_left_over_is_ended_and_a_stranger_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let mut left_over = Command::new("sleep").arg("60").spawn().unwrap();
        let mut stranger = Command::new("sleep").arg("60").spawn().unwrap();
        std::mem::forget(register(folder.path(), left_over.id()).unwrap());
        fs::write(folder.path().join(stranger.id().to_string()), "another time").unwrap();
        fs::write(folder.path().join("notes.txt"), "not ours").unwrap();
        assert_eq!(sweep(folder.path()).unwrap(), 1);
        assert!(!left_over.wait().unwrap().success(), "it was killed");
        assert_eq!(stranger.try_wait().unwrap(), None, "it still runs");
        stranger.kill().unwrap();
        stranger.wait().unwrap();
        let left: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
        let mut gone = Command::new("true").spawn().unwrap();
        let note = register(folder.path(), gone.id());
        gone.wait().unwrap();
        drop(note);
        assert_eq!(sweep(folder.path()).unwrap(), 0);
    }
}
