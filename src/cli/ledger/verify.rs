//! `evalmesh ledger verify`: is all of it as it was written? One line for each finding; exit code 26 if something is damaged.

use std::time::Instant;

use super::{Place, failed, progress};
use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::identity::{Ed25519, MemoVerifier};
use crate::ledger::Sight;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
}

#[expect(clippy::disallowed_methods, reason = "the speed that the summary shows")]
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let place = Place::of(&args.data)?;
    let survey = place.survey()?;
    let bar = progress(survey.bytes(0));
    let start = Instant::now();
    let (mut entries, mut bytes, mut findings) = (0_u64, 0_u64, Vec::new());
    // Many adopted records share a signed head.
    let verifier: MemoVerifier<Ed25519> = MemoVerifier::default();
    let visit = &mut |sight: Sight<'_>| match sight {
        Sight::Entry { .. } => entries += 1,
        Sight::Progress(more) => {
            bytes += more;
            bar.inc(more);
        }
        Sight::Finding(finding) => findings.push(finding),
    };
    survey.verify(&verifier, visit).map_err(failed)?;
    bar.finish_and_clear();
    let took = start.elapsed();
    for finding in &findings {
        let sort = if finding.is_damage() { "damage" } else { "remark" };
        print_bytes(format!("{sort}: {finding}\n").as_bytes())?;
    }
    let damaged = findings.iter().filter(|finding| finding.is_damage()).count();
    // Bytes in a microsecond are megabytes in a second.
    let rate = u128::from(bytes) / took.as_micros().max(1);
    let verdict = if damaged == 0 { "sound" } else { "DAMAGED" };
    let summary = format!(
        "{verdict}: {entries} entries, {bytes} bytes, {damaged} damages in {:.2} s ({rate} MB/s)\n",
        took.as_secs_f64()
    );
    print_bytes(summary.as_bytes())?;
    Ok(if damaged == 0 { exit::OK } else { exit::DAMAGED })
}
