//! `evalmesh sim shrink`: the fewest faults with which a failing seed still fails.

use super::{code, mutation, progress, scenario, simulation, text};
use crate::cli::{Failure, exit, print_bytes};
use crate::sim::{Mutation, shrink};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The seed.
    seed: u64,
    /// The scenario: a name (see `sim list`) or a file that ends in .toml.
    #[arg(long, default_value = "storm")]
    scenario: String,
    /// Plant a bug.
    #[arg(long, value_name = "BUG", value_parser = mutation)]
    plant: Option<Mutation>,
}

pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let scenario = scenario(&args.scenario)?.with_seed(args.seed);
    let bar = progress(0);
    let plant = args.plant;
    let shrunk = shrink(
        &scenario,
        &|simulation| plant.into_iter().fold(simulation, crate::sim::Simulation::mutate),
        &mut |run, left| {
            bar.set_length(run as u64 + left as u64);
            bar.set_position(run as u64);
            bar.set_message(format!("{left} faults left"));
        },
    )?;
    bar.finish_and_clear();
    let Some(shrunk) = shrunk else {
        print_bytes(
            format!("{}, seed {}: everything holds, there is nothing to shrink\n", args.scenario, args.seed).as_bytes(),
        )?;
        return Ok(exit::OK);
    };
    let small = simulation(shrunk.scenario.clone(), plant).skip(shrunk.skip.iter().copied()).run()?;
    let toml = toml::to_string(&shrunk.scenario)
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot print the scenario: {error}"), None))?;
    let skip: Vec<_> = shrunk.skip.iter().map(ToString::to_string).collect();
    let told = format!(
        "{}after {} runs {} episodes of faults are left. The scenario, to be saved as small.toml:\n\n{toml}\n\
         evalmesh sim replay {} --scenario small.toml{}{}\n",
        text::story(&small),
        shrunk.runs,
        shrunk.left,
        args.seed,
        if skip.is_empty() { String::new() } else { format!(" --skip {}", skip.join(",")) },
        plant.map_or_else(String::new, |mutation| format!(" --plant {mutation}")),
    );
    print_bytes(told.as_bytes())?;
    Ok(code(&[small.report]))
}
