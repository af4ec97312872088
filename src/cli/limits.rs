//! The limits of one evaluation, as every command takes them. They are no part of a question: a limit that is hit is an error and never an answer.

use std::time::Duration;

/// Their heading in the help; given to each, or whatever follows them on a command would be under it too.
pub(super) const LIMITS: &str = "Limits";

#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Limits {
    /// Processor time, for example `500ms`.
    #[arg(long, help_heading = LIMITS, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(super) cpu: Option<Duration>,
    /// Fuel, roughly instructions.
    #[arg(long, help_heading = LIMITS, value_name = "N")]
    pub(super) fuel: Option<u64>,
    /// Bytes of memory.
    #[arg(long, help_heading = LIMITS, value_name = "BYTES")]
    pub(super) memory: Option<u64>,
    /// Bytes of output, log and files together.
    #[arg(long, help_heading = LIMITS, value_name = "BYTES")]
    pub(super) output: Option<u64>,
}
