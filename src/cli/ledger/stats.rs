//! `evalmesh ledger stats`: what a ledger consists of, in numbers.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::json;

use super::{Format, Place, entry, failed, progress};
use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::ledger::Sight;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// How to print it.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let place = Place::of(&args.data)?;
    let survey = place.survey()?;
    let bar = progress(survey.bytes(0));
    let (mut kinds, mut damages, mut payload, mut newest) = (BTreeMap::<_, u64>::new(), 0_u64, 0, None);
    let visit = &mut |sight: Sight<'_>| match sight {
        Sight::Entry { stored, .. } => {
            *kinds.entry(entry::kind(&stored.entry)).or_default() += 1;
            payload += stored.entry.record().map_or(0, |record| record.blobs().map(|blob| blob.len).sum::<u64>());
            newest = newest.max(entry::at(&stored.entry));
        }
        Sight::Progress(bytes) => bar.inc(bytes),
        Sight::Finding(finding) => damages += u64::from(finding.is_damage()),
    };
    survey.walk(0, visit).map_err(failed)?;
    bar.finish_and_clear();
    let segments = survey.segments().len();
    let entries: u64 = kinds.values().sum();
    let newest = newest.map(entry::moment);
    let text = match args.format {
        Format::Json => {
            let value = json!({
                "node": survey.node().to_string(),
                "entries": entries,
                "floor": survey.floor(),
                "kinds": kinds,
                "segments": segments,
                "segment_bytes": survey.bytes(0),
                "payload_bytes": payload,
                "newest": newest,
                "damaged": damages,
            });
            format!("{value:#}\n")
        }
        Format::Text => {
            let mut text = String::new();
            let mut line = |name: &str, value: String| {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{name:<11}{value}");
            };
            line("node", survey.node().to_string());
            line("data", place.directory.display().to_string());
            let kinds: Vec<_> = kinds.iter().map(|(kind, count)| format!("{count} {kind}")).collect();
            line("entries", format!("{entries} ({})", kinds.join(", ")));
            if survey.floor() > 0 {
                line("floor", format!("entry {}: what came before was dropped", survey.floor()));
            }
            line("segments", format!("{segments}, {} bytes", survey.bytes(0)));
            line("payloads", format!("{payload} bytes named, equal ones counted each time"));
            line("newest", newest.unwrap_or_default());
            line("damaged", damages.to_string());
            text
        }
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}
