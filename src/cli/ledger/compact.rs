//! `evalmesh ledger compact`: gives back the disk that retracted answers, left-over files and, with a budget, old payloads take.

use std::sync::Arc;

use super::{Place, failed, steps};
use crate::cassette::{CassetteOptions, CassetteWriter};
use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::id::EpochId;
use crate::ledger::{FileStorage, LedgerError, OpenError, Opening};
use crate::node::{random, unix_micros};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Also drop payloads, oldest first, until the ledger takes at most this many bytes of disk. Pinned answers stay (see `evalmesh pin`).
    #[arg(long, value_name = "BYTES")]
    budget: Option<u64>,
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
    if let Some(budget) = args.budget {
        let more = writer.make_room(budget, now).map_err(refused)?;
        freed.bytes += more.bytes;
        freed.payloads += more.payloads;
        freed.segments += more.segments;
    }
    writer.close().map_err(refused)?;
    bar.finish_and_clear();
    let text = format!(
        "{} bytes freed: {} payloads dropped, {} segments rewritten\n",
        freed.bytes, freed.payloads, freed.segments
    );
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}
