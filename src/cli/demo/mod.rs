//! `evalmesh demo`.
use crate::cli::Failure;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Result<u8, Failure> {
    Ok(0)
}
