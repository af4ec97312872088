//! `evalmesh sim list`: scenarios, checks and planted bugs.

use comfy_table::Table;

use super::{Format, json, scenario};
use crate::cli::{Failure, exit, print_bytes};
use crate::sim::{Mutation, Scenario, check, library};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let all = library::SCENARIOS.iter().map(|(name, _)| scenario(name)).collect::<Result<Vec<_>, _>>()?;
    let text = match args.format {
        Format::Json => json(&all)?,
        Format::Text => text(&all)?,
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

fn text(all: &[Scenario]) -> Result<String, Failure> {
    let mut scenarios = Table::new();
    scenarios.set_header(["scenario", "nodes", "seeds", "about"]);
    for scenario in all {
        let (nodes, seeds) = (scenario.nodes.to_string(), scenario.seeds.to_string());
        scenarios.add_row([&scenario.name, &nodes, &seeds, &scenario.about]);
    }
    let mut checks = Table::new();
    checks.set_header(["check", "phase", "what must hold"]);
    for check in check::ALL {
        let phase = format!("{:?}", check.phase).to_lowercase();
        checks.add_row([check.name, &phase, check.about]);
    }
    let failed = library::regressions(library::REGRESSIONS)?.len();
    let bugs = Mutation::ALL.map(|mutation| mutation.to_string()).join(", ");
    Ok(format!(
        "{scenarios}\n\n{checks}\n\n{failed} seeds that once failed run with every test.\nPlanted bugs: {bugs}.\n"
    ))
}
