//! `evalmesh ledger tail`: the newest entries, and those that come.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::thread::sleep;
use std::time::Duration;

use super::{Place, entry, failed};
use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::ledger::Sight;

/// How often a followed ledger is looked at again.
const STEP: Duration = Duration::from_millis(200);

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// How many entries.
    #[arg(short = 'n', long, default_value_t = 10)]
    lines: usize,
    /// Go on with entries that come, until Ctrl-C.
    #[arg(short, long)]
    follow: bool,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let place = Place::of(&args.data)?;
    let mut next = first(&place, args.lines)?;
    if !args.follow {
        return Ok(exit::OK);
    }
    loop {
        sleep(STEP);
        let (from, mut lines) = (next, Vec::new());
        let visit = &mut |sight: Sight<'_>| {
            if let Sight::Entry { stored, .. } = sight
                && stored.seq >= from
            {
                next = stored.seq + 1;
                lines.push(entry::line(stored));
            }
        };
        place.survey()?.walk(from, visit).map_err(failed)?;
        let mut stdout = io::stdout().lock();
        match stdout.write_all(lines.concat().as_bytes()).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            // Nobody reads any more.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(exit::OK),
            Err(error) => return Err(Failure::new(exit::FAILED, format!("cannot write to stdout: {error}"), None)),
        }
    }
}

/// Prints the newest entries; returns the position after them.
fn first(place: &Place, wanted: usize) -> Result<u64, Failure> {
    let survey = place.survey()?;
    let (mut lines, mut next) = (VecDeque::new(), 0);
    // From the newest segment backwards until there are enough.
    for from in survey.segments().rev() {
        lines.clear();
        let visit = &mut |sight: Sight<'_>| {
            if let Sight::Entry { stored, .. } = sight {
                next = stored.seq + 1;
                lines.push_back(entry::line(stored));
                if lines.len() > wanted {
                    lines.pop_front();
                }
            }
        };
        survey.walk(from, visit).map_err(failed)?;
        if lines.len() >= wanted {
            break;
        }
    }
    print_bytes(lines.make_contiguous().concat().as_bytes())?;
    Ok(next)
}
