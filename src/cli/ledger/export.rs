//! `evalmesh ledger export`: all entries as JSON lines, for programs.

use std::io::{self, BufWriter, Write};

use super::{Place, entry, failed};
use crate::cli::{DataDir, Failure, exit};
use crate::ledger::Sight;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// The first sequence number wanted.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    from: u64,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let place = Place::of(&args.data)?;
    let mut out = BufWriter::new(io::stdout().lock());
    let (mut written, mut damages) = (Ok(()), 0_u64);
    let visit = &mut |sight: Sight<'_>| match sight {
        Sight::Entry { stored, .. } if stored.seq >= args.from && written.is_ok() => {
            written = writeln!(out, "{}", entry::json(stored));
        }
        Sight::Finding(finding) => damages += u64::from(finding.is_damage()),
        _ => {}
    };
    place.survey()?.walk(args.from, visit).map_err(failed)?;
    match written.and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            return Err(Failure::new(exit::FAILED, format!("cannot write to stdout: {error}"), None));
        }
        _ => {}
    }
    if damages > 0 {
        let message = format!("{damages} damages: not all entries are there");
        return Err(Failure::new(exit::DAMAGED, message, "`evalmesh ledger verify` lists them"));
    }
    Ok(exit::OK)
}
