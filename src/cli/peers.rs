//! `evalmesh peers` and `evalmesh holders`: who else is there, and who holds an answer.

use std::time::Duration;

use comfy_table::{LineStyle, Table, presets};
use serde_json::{Value, json};

use crate::cli::{DataDir, Failure, Format, exit, print_bytes, runtime};
use crate::id::ContentId;
use crate::node::control::Client;
use crate::node::status::{HolderStatus, PeerStatus};

#[derive(Debug, clap::Args)]
pub(super) struct PeersArgs {
    #[command(flatten)]
    data: DataDir,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

#[derive(Debug, clap::Args)]
pub(super) struct HoldersArgs {
    /// The id of the question: 64 hexadecimal digits.
    id: ContentId,
    #[command(flatten)]
    data: DataDir,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn peers(args: &PeersArgs) -> Result<u8, Failure> {
    let directory = args.data.resolve()?;
    let status = runtime()?.block_on(async { Client::connect(&directory).await?.status().await })?;
    let text = match args.format {
        Format::Json => lines(status.peers.iter().map(peer_json)),
        Format::Text => {
            let mut table =
                table(["peer", "address", "state", "round trip", "answers in", "served", "log known", "lag"]);
            for peer in &status.peers {
                let PeerStatus { node, address, state, .. } = peer;
                let (trip, answers) = (millis(peer.round_trip), millis(peer.answers_in));
                let (node, address, state) = (node.short(), address.to_string(), state.to_string());
                let (known, lag) = (peer.log_known.to_string(), peer.lag.to_string());
                table.add_row([node, address, state, trip, answers, percent(peer.hit_ratio), known, lag]);
            }
            format!("{table}\n")
        }
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

/// Exit code 0 if somebody else is said to hold it.
pub(super) fn holders(args: &HoldersArgs) -> Result<u8, Failure> {
    let directory = args.data.resolve()?;
    let holders = runtime()?.block_on(async { Client::connect(&directory).await?.holders(args.id).await })??;
    if holders.is_empty() {
        let message = format!("no other node is known to hold an answer to {}", args.id.short());
        return Err(Failure::new(exit::NOT_HELD, message, "`evalmesh get ID` asks this node itself"));
    }
    let text = match args.format {
        Format::Json => lines(holders.iter().map(holder_json)),
        Format::Text => {
            let mut table = table(["holder", "state", "answers in", "served"]);
            for HolderStatus { node, state, hit_ratio, answers_in } in &holders {
                table.add_row([node.to_string(), state.to_string(), millis(*answers_in), percent(*hit_ratio)]);
            }
            format!("{table}\n")
        }
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

fn table<const N: usize>(header: [&str; N]) -> Table {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(presets::NOTHING.header_separator(rule)).set_header(header);
    table
}

fn millis(time: Option<Duration>) -> String {
    time.map_or_else(|| "?".to_owned(), |time| format!("{:.2} ms", time.as_secs_f64() * 1e3))
}

fn percent(share: f64) -> String {
    format!("{:.0} %", share * 100.0)
}

fn lines(values: impl Iterator<Item = Value>) -> String {
    values.map(|value| value.to_string() + "\n").collect()
}

fn seconds(time: Option<Duration>) -> Value {
    time.map(|time| time.as_secs_f64()).into()
}

fn peer_json(peer: &PeerStatus) -> Value {
    json!({
        "node": peer.node.to_string(),
        "address": peer.address.to_string(),
        "state": peer.state.to_string(),
        "round_trip_s": seconds(peer.round_trip),
        "answers_in_s": seconds(peer.answers_in),
        "hit_ratio": peer.hit_ratio,
        "log_known": peer.log_known,
        "lag": peer.lag,
    })
}

fn holder_json(holder: &HolderStatus) -> Value {
    json!({
        "node": holder.node.to_string(),
        "state": holder.state.to_string(),
        "answers_in_s": seconds(holder.answers_in),
        "hit_ratio": holder.hit_ratio,
    })
}
