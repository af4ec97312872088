//! `evalmesh ledger show SEQ`: one entry, everything it says.

use super::{Place, entry, failed};
use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::ledger::{Finding, Sight};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    /// The entry's sequence number.
    seq: u64,
    #[command(flatten)]
    data: DataDir,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let place = Place::of(&args.data)?;
    let (mut found, mut lost, mut length) = (None, None, 0);
    let visit = &mut |sight: Sight<'_>| match sight {
        Sight::Entry { stored, segment, place } => {
            length = stored.seq + 1;
            if stored.seq == args.seq {
                let mut value = entry::json(stored);
                value["segment"] = segment.into();
                value["offset"] = place.start.into();
                value["frame_bytes"] = (place.end - place.start).into();
                found = Some(value);
            }
        }
        Sight::Finding(Finding::Damage(damage)) if damage.lost.contains(&args.seq) => {
            lost = Some(Finding::Damage(damage));
        }
        _ => {}
    };
    place.survey()?.walk(args.seq, visit).map_err(failed)?;
    match (found, lost) {
        (Some(value), _) => print_bytes(format!("{value:#}\n").as_bytes()).map(|()| exit::OK),
        (None, Some(finding)) => {
            Err(Failure::new(exit::DAMAGED, finding.to_string(), "`evalmesh ledger verify` lists all damages"))
        }
        (None, None) => {
            let message = format!("there is no entry {}; the ledger ends before {length}", args.seq);
            Err(Failure::new(exit::NOT_HELD, message, "`evalmesh ledger tail` shows the newest ones"))
        }
    }
}
