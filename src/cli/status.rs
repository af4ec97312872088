//! `evalmesh status`: how a running node is, for people or as JSON.

use std::fmt::Write;

use crate::cli::{DataDir, Failure, Format, exit, print_bytes, runtime};
use crate::node::control::Client;
use crate::node::status::Status;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let directory = args.data.resolve()?;
    let status = runtime()?.block_on(async { Client::connect(&directory).await?.status().await })?;
    let text = match args.format {
        Format::Text => text(&status),
        Format::Json => json(&status)?,
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

fn json(status: &Status) -> Result<String, Failure> {
    let mut value = serde_json::to_value(status)
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot print the status: {error}"), None))?;
    // Names are bytes inside and hexadecimal outside.
    value["node"] = status.node.to_string().into();
    for (peer, shown) in status.peers.iter().zip(value["peers"].as_array_mut().into_iter().flatten()) {
        shown["node"] = peer.node.to_string().into();
    }
    Ok(format!("{value:#}\n"))
}

fn text(status: &Status) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<11}{value}");
    };
    line("node", format!("{} (pid {}, {})", status.node, status.pid, status.version));
    line("up", humantime::format_duration(std::time::Duration::from_secs(status.uptime.as_secs())).to_string());
    if let Some(directory) = &status.data_dir {
        line("data", directory.display().to_string());
    }
    line("listening", status.addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "));
    line("evaluators", status.evaluators.join(", "));
    #[cfg(feature = "gpu")]
    {
        line("gpu", status.gpu.clone());
        status.device_classes.iter().for_each(|class| line("", class.clone()));
        let code = status.pipelines.as_ref().map(ToString::to_string).unwrap_or_default();
        code.lines().for_each(|text| line("gpu code", text.to_owned()));
    }
    let ledger = &status.ledger;
    line(
        "ledger",
        format!(
            "{} answers, {} entries ({} durable) in {} epochs, {} damaged",
            ledger.answers, ledger.entries, ledger.durable, ledger.epochs, ledger.damaged
        ),
    );
    let answers = &status.answers;
    line(
        "answered",
        format!(
            "{} ram, {} disk, {} fetched, {} computed, {} joined",
            answers.ram, answers.disk, answers.fetched, answers.computed, answers.joined
        ),
    );
    let traffic = &status.traffic;
    line(
        "traffic",
        format!(
            "{} asks sent ({} hedged), {} served, {} batches, {} disbelieved, {} dropped, {} bytes wasted",
            traffic.asks_sent,
            traffic.hedged,
            traffic.served,
            traffic.batches,
            traffic.disbelieved,
            traffic.dropped,
            traffic.wasted
        ),
    );
    let index = &status.index;
    line(
        "index",
        format!(
            "{} facts in {} bytes of at most {} ({:.1} bytes a fact), {} left out, {} corrected",
            status.index_facts, index.bytes, index.budget, index.bytes_per_fact, index.dropped, index.corrected
        ),
    );
    #[cfg(feature = "wasm")]
    if let Some(wasm) = &status.wasm {
        line(
            "wasm pool",
            format!(
                "{:.2} of the instances, {:.2} of the memories in use; {} slots",
                wasm.instances, wasm.memories, wasm.slots
            ),
        );
        for text in wasm.artifacts.to_string().lines() {
            line("wasm code", text.to_owned());
        }
    }
    line("in flight", status.in_flight.to_string());
    for peer in &status.peers {
        let trip = peer.round_trip.map_or_else(|| "?".to_owned(), |trip| format!("{:.2} ms", trip.as_secs_f64() * 1e3));
        line("peer", format!("{} at {}, {trip}, log known to {}", peer.node.short(), peer.address, peer.log_known));
    }
    for refused in &status.refused {
        line("refused", format!("{}: {}", refused.address, refused.reason));
    }
    text
}
