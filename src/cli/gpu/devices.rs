//! `evalmesh devices`: what GPUs are here, and whether they may answer.

use std::fmt::Write;

use crate::cli::{DataDir, Failure, Format, exit, print_bytes, runtime};
use crate::evaluator::gpu::{DeviceReport, Devices, GpuConfig, GpuEvaluator, Verdict};
use crate::node::control::{Client, ClientError};

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    data: DataDir,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// The running node's devices, or those of this machine, which are tested now.
pub(in crate::cli) fn run(args: &Args) -> Result<u8, Failure> {
    let directory = args.data.resolve()?;
    let asked = runtime()?.block_on(async { Client::connect(&directory).await?.devices().await });
    let devices = match asked {
        Ok(devices) => devices,
        Err(ClientError::NotRunning(_)) => {
            GpuEvaluator::new(GpuConfig { spare: false, ..GpuConfig::default() }).devices()
        }
        Err(error) => return Err(error.into()),
    };
    let text = match args.format {
        Format::Text => text(&devices),
        Format::Json => serde_json::to_string_pretty(&devices)
            .map(|text| text + "\n")
            .map_err(|error| Failure::new(exit::FAILED, format!("cannot print the devices: {error}"), None))?,
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

fn text(devices: &Devices) -> String {
    let mut text = String::new();
    for device in &devices.devices {
        one(&mut text, device);
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "{}", devices.summary());
    if devices.sound().count() == 0 {
        let _ = writeln!(text, "answers of GPU programs can still be had from nodes that hold them");
    }
    text
}

fn one(text: &mut String, device: &DeviceReport) {
    let mut line = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("device", device.adapter.to_string());
    match &device.verdict {
        Verdict::Sound => line("verdict", "sound".to_owned()),
        Verdict::Refused { test, why, advice } => {
            line("verdict", format!("refused: it fails the test `{test}`: {why}"));
            line("", advice.clone());
        }
    }
    if let Some(class) = &device.class {
        line("class", class.as_str().to_owned());
    }
    let limits = &device.limits;
    if limits.buffer > 0 {
        let size = |bytes: u64| bytesize::ByteSize::b(bytes).to_string();
        let subgroups = if limits.subgroups { ", subgroups" } else { "" };
        let (buffer, memory) = (size(limits.buffer), size(limits.memory));
        let workgroup = size(u64::from(limits.workgroup_bytes));
        line(
            "limits",
            format!(
                "buffers of {buffer}, {memory} in all; workgroups of {} with {workgroup}{subgroups}",
                limits.workgroup
            ),
        );
    }
    if device.in_place {
        line("payloads", "large ones are used in shared memory".to_owned());
    }
    if let Some(speed) = &device.speed {
        let giga = |count: u64| format!("{:.2} G", precise(count) / 1e9);
        let trip = speed.round_trip.as_secs_f64() * 1e3;
        line(
            "speed",
            format!(
                "{trip:.3} ms round trip, {}B/s written, {} hash rounds/s",
                giga(speed.written),
                giga(speed.hashed)
            ),
        );
    }
    let _ = writeln!(text);
}

#[expect(clippy::cast_precision_loss, reason = "two digits of it are shown")]
fn precise(count: u64) -> f64 {
    count as f64
}
