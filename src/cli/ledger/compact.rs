//! `evalmesh ledger compact`: gives back the disk that retracted answers, left-over files and, with a budget, old payloads take.

use std::sync::Arc;

use super::{Place, failed, steps};
use crate::cassette::{CassetteOptions, CassetteWriter};
use crate::cli::{DataDir, Failure, exit, print_bytes, size};
use crate::id::EpochId;
use crate::ledger::{FileStorage, LedgerError, OpenError, Opening};
use crate::node::{random, unix_micros};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Also drop payloads, oldest first, and then whole segments, until the ledger takes at most this much disk: bytes, or with a unit, as in
    /// 20GiB. Pinned answers stay (see `evalmesh pin`).
    #[arg(long, value_name = "SIZE", value_parser = size)]
    budget: Option<u64>,
    /// Also drop the segments that lie wholly before this entry, and forget their answers. Everything after it stays provable; pinned
    /// answers stay.
    #[arg(long, value_name = "SEQ")]
    drop_below: Option<u64>,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let place = Place::of(&args.data)?;
    let node = place.survey()?.node();
    let storage = FileStorage::open(&place.directory).map_err(|error| match error {
        OpenError::Locked { .. } => Failure::new(exit::LOCKED, error.to_string(), error.hint()),
        error => failed(error),
    })?;
    let epoch = random().map_err(|error| Failure::new(exit::FAILED, format!("no randomness: {error}"), None))?;
    let now = unix_micros();
    let opening = Opening::new(node, EpochId::from_bytes(epoch), now);
    let (mut writer, _) =
        CassetteWriter::open(Arc::new(storage), &opening, CassetteOptions::default()).map_err(failed)?;
    let refused = |error: LedgerError| Failure::new(exit::LEDGER, error.to_string(), error.hint());
    let bar = steps();
    let mut freed = writer
        .compact(now, &mut |done, all| {
            bar.set_length(all as u64);
            bar.set_position(done as u64);
        })
        .map_err(refused)?;
    if let Some(below) = args.drop_below {
        freed += writer.raise_floor(below, None, now).map_err(refused)?;
    }
    if let Some(budget) = args.budget {
        freed += writer.make_room(budget, now).map_err(refused)?;
    }
    writer.close().map_err(refused)?;
    bar.finish_and_clear();
    let text = format!(
        "{} bytes freed: {} payloads dropped, {} segments rewritten, {} segments dropped\n",
        freed.bytes, freed.payloads, freed.segments, freed.dropped
    );
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}
