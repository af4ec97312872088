//! `evalmesh ledger`: looking at a node's ledger. Nothing here but `compact` changes it, and a running node is no obstacle.

mod compact;
mod entry;
mod export;
mod show;
mod stats;
mod tail;
mod verify;

use std::io::IsTerminal;
use std::path::{Path, PathBuf};

use clap::Subcommand;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{DataDir, Failure, Format, exit};
use crate::ledger::{LookStorage, OpenError, Survey};

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Count entries, epochs, segments, payloads and bytes.
    Stats(stats::Args),
    /// Make every checksum, hash, proof and signature again, and say exactly what is wrong.
    Verify(verify::Args),
    /// Print the newest entries, a line each, and go on with those that come if asked to.
    Tail(tail::Args),
    /// Print one entry with everything it says.
    Show(show::Args),
    /// Print all entries as JSON, a line each.
    Export(export::Args),
    /// Give back the disk that retracted answers and left-over files take. The node must not run.
    Compact(compact::Args),
}

pub(super) fn run(command: &Command) -> Result<u8, Failure> {
    match command {
        Command::Stats(args) => stats::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Tail(args) => tail::run(args),
        Command::Show(args) => show::run(args),
        Command::Export(args) => export::run(args),
        Command::Compact(args) => compact::run(args),
    }
}

/// The directory of a ledger that is looked at.
struct Place {
    directory: PathBuf,
    storage: LookStorage,
}

impl Place {
    fn of(data: &DataDir) -> Result<Self, Failure> {
        let directory = data.resolve()?;
        Ok(Self { storage: LookStorage::new(&directory), directory })
    }

    fn survey(&self) -> Result<Survey<'_>, Failure> {
        Survey::open(&self.storage).map_err(failed)?.ok_or_else(|| none(&self.directory))
    }
}

#[expect(clippy::needless_pass_by_value, reason = "the shape that map_err wants")]
fn failed(error: OpenError) -> Failure {
    Failure::new(exit::DATA_DIR, error.to_string(), error.hint())
}

fn none(directory: &Path) -> Failure {
    let message = format!("there is no ledger in {}", directory.display());
    Failure::new(exit::DATA_DIR, message, "name a node's data directory with --data")
}

/// A bar over bytes on stderr, if a person is there to see it.
fn progress(bytes: u64) -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(bytes), target).with_style(style)
}

/// A bar over steps on stderr, if a person is there to see it.
fn steps() -> ProgressBar {
    let target =
        if std::io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let style = ProgressStyle::with_template("{wide_bar} {pos}/{len} segments {eta}")
        .unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(0), target).with_style(style)
}
