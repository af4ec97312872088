//! `evalmesh sim replay`: one seed again, told as it happens.

use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use super::{Format, code, json, mutation, scenario, simulation, text, write};
use crate::cli::{Failure, print_bytes};
use crate::fabric::Time;
use crate::sim::{Mutation, Place, html, moment};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The seed.
    seed: u64,
    /// The scenario: a name (see `sim list`) or a file that ends in .toml.
    #[arg(long, default_value = "storm")]
    scenario: String,
    /// Stop at this time, for example `4.5s`.
    #[arg(long, value_name = "TIME", value_parser = crate::sim::span::parse)]
    until: Option<Duration>,
    /// Print every event: `all`, or those of one node, `node=7`.
    #[arg(long, value_name = "all|node=N", value_parser = trace)]
    trace: Option<Trace>,
    /// Leave out these episodes of faults (numbers, with commas).
    #[arg(long, value_delimiter = ',', value_name = "N,..")]
    skip: Vec<usize>,
    /// Plant a bug.
    #[arg(long, value_name = "BUG", value_parser = mutation)]
    plant: Option<Mutation>,
    /// Write a page with pictures to this file.
    #[arg(long, value_name = "FILE.html")]
    html: Option<PathBuf>,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Whose events are printed.
#[derive(Debug, Clone, Copy)]
enum Trace {
    All,
    Node(Place),
}

fn trace(text: &str) -> Result<Trace, String> {
    let node = text.strip_prefix("node=").and_then(|node| node.parse().ok()).map(Trace::Node);
    let all = (text == "all").then_some(Trace::All);
    node.or(all).ok_or_else(|| "expected `all` or `node=7`".to_owned())
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let scenario = scenario(&args.scenario)?.with_seed(args.seed);
    let mut out = io::BufWriter::new(io::stdout().lock());
    let mut print = |at: Time, place: Option<Place>, what: &dyn fmt::Display| {
        let wanted = match args.trace {
            None => false,
            Some(Trace::All) => true,
            Some(Trace::Node(node)) => place == Some(node),
        };
        if wanted {
            let place = place.map_or("-".to_owned(), |place| place.to_string());
            // A reader that went away is no failure; the verdict still counts.
            let _ = writeln!(out, "{} {place:>3}  {what}", moment(at.0));
        }
    };
    let mut simulation = simulation(scenario.clone(), args.plant).skip(args.skip.iter().copied());
    if let Some(until) = args.until {
        simulation = simulation.until(until);
    }
    if args.html.is_some() {
        simulation = simulation.draw();
    }
    let run = simulation.watch(&mut print).run()?;
    drop(out);
    let printed = match args.format {
        Format::Json => json(&run.report)?,
        Format::Text => text::story(&run),
    };
    print_bytes(printed.as_bytes())?;
    if let Some(path) = &args.html {
        write(path, &html::page(&scenario, &run))?;
    }
    Ok(code(&[run.report]))
}
