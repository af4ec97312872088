//! `evalmesh inspect`: what a program is and whether a node would admit it. Registers, compiles and runs nothing.

use std::fmt::Write;
use std::path::PathBuf;

use crate::cli::{Failure, Format, exit, print_bytes};
use crate::error::EvalError;
use crate::evaluator::wasm::{Inspection, Item, WasmLimits, inspect};

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The program to look at.
    program: PathBuf,
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
}

/// Exit code 0 for a program that would be admitted, and that of a refused program otherwise.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let bytes = std::fs::read(&args.program).map_err(|error| Failure::unreadable(&args.program, &error))?;
    let found = inspect(&bytes, &WasmLimits::default());
    let text = match args.format {
        Format::Text => text(&found),
        Format::Json => serde_json::to_string_pretty(&found)
            .map(|text| text + "\n")
            .map_err(|error| Failure::new(exit::FAILED, format!("cannot print it: {error}"), None))?,
    };
    print_bytes(text.as_bytes())?;
    Ok(if found.refused.is_none() { exit::OK } else { exit::REFUSED })
}

fn text(found: &Inspection) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: &dyn std::fmt::Display| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name:<10}{value}");
    };
    line("kind", &found.kind);
    line("digest", &found.digest);
    line("size", &format_args!("{} bytes", found.bytes));
    let needs = &found.needs;
    let maximum = needs.memory_maximum.map_or_else(|| "unbounded".to_owned(), |bytes| format!("at most {bytes}"));
    line("memory", &format_args!("{} bytes, {maximum}", needs.memory));
    line("tables", &format_args!("{} elements", needs.table_elements));
    line("code", &format_args!("{} bytes in {} functions, {} bytes of data", needs.code, needs.functions, needs.data));
    let mut items = |name: &str, items: &[Item]| {
        for Item { name: item, what } in items {
            // A name may hold anything; what a terminal would obey is shown instead.
            line(name, &format_args!("{} {}", item.escape_debug(), what.escape_debug()));
        }
    };
    items("import", &found.imports);
    items("export", &found.exports);
    items("made with", &found.metadata);
    match &found.refused {
        None => line("admitted", &"yes"),
        Some(refusal) => {
            line("admitted", &format_args!("no: {}", refusal.to_string().escape_debug()));
            if let Some(hint) = EvalError::from(refusal.clone()).hint() {
                line("hint", &hint);
            }
        }
    }
    text
}
