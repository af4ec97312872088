//! `evalmesh slot` and `evalmesh call`: programs by name, on the running node or on a node of this process with the same data directory.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::ask::{read, show};
use super::limits::Limits;
use crate::cli::{DataDir, Failure, Format, exit, print_bytes, runtime};
use crate::error::EvalError;
use crate::evaluator::slots::{Registration, SlotError, SlotKind, SlotLimits};
use crate::node::control::{Client, ClientError, Command as Asked, Reaction};
use crate::node::status::SlotStatus;
use crate::node::{Node, serve};
use crate::request::Name;

#[derive(Debug, clap::Subcommand)]
pub(super) enum Command {
    /// Register a program under a name, or replace the one that is there.
    Set(SetArgs),
    /// List the slots.
    List(ListArgs),
    /// Forget a slot.
    Evict(EvictArgs),
}

#[derive(Debug, clap::Args)]
pub(super) struct SetArgs {
    /// The slot's name: lower-case letters, digits and `-_./:`.
    name: Name,
    /// The program.
    program: PathBuf,
    /// What it promises: `filter` (bytes in, a verdict out), `shape` (bytes in, bytes out), `observe` (bytes in), `command` (WASI).
    #[arg(long)]
    kind: SlotKind,
    /// A file that the program must take as its input, without a trap and within the limits, before it is registered.
    #[arg(long, value_name = "FILE")]
    probe: Option<PathBuf>,
    /// How long one call may take, for example `500ms`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    #[command(flatten)]
    limits: Limits,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    /// Text for people, JSON for programs.
    #[arg(long, value_enum, default_value_t = Format::Text)]
    format: Format,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, clap::Args)]
pub(super) struct EvictArgs {
    /// The slot's name.
    name: Name,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, clap::Args)]
pub(super) struct CallArgs {
    /// The slot's name.
    name: Name,
    /// The program's input; `-` is this command's.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// The kind that the slot must have.
    #[arg(long = "as", value_name = "KIND")]
    kind: Option<SlotKind>,
    #[command(flatten)]
    data: DataDir,
}

pub(super) fn run(command: Command) -> Result<u8, Failure> {
    match command {
        Command::Set(args) => set(args),
        Command::List(args) => list(&args),
        Command::Evict(args) => evict(&args),
    }
}

fn set(args: SetArgs) -> Result<u8, Failure> {
    let Limits { cpu, fuel, memory, output } = args.limits;
    let limits = SlotLimits { fuel, memory, output, time: args.timeout, cpu };
    let probe = args.probe.as_deref().map(read).transpose()?.map(Into::into);
    let code = read(&args.program)?.into();
    let wanted = Registration { name: args.name, kind: args.kind, code, limits, probe };
    match ask(&args.data.resolve()?, Asked::SlotSet(Box::new(wanted)))? {
        Reaction::SlotSet(result) => {
            let slot = result?;
            eprintln!("{} is version {} of {} ({})", slot.digest, slot.number, slot.name, slot.kind);
            Ok(exit::OK)
        }
        other => Err(unexpected(&other)),
    }
}

fn list(args: &ListArgs) -> Result<u8, Failure> {
    let slots = match ask(&args.data.resolve()?, Asked::Slots)? {
        Reaction::Slots(slots) => slots,
        other => return Err(unexpected(&other)),
    };
    let text = match args.format {
        Format::Text => slots.iter().fold(String::new(), |mut text, slot| {
            // Writing to a string cannot fail.
            let _ = writeln!(
                text,
                "{:<24} {:<8} v{:<4} {} bytes, {}",
                slot.name, slot.kind, slot.number, slot.bytes, slot.digest
            );
            text
        }),
        Format::Json => json(&slots)?,
    };
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

fn json(slots: &[SlotStatus]) -> Result<String, Failure> {
    let failed = |error| Failure::new(exit::FAILED, format!("cannot print the slots: {error}"), None);
    let mut value = serde_json::to_value(slots).map_err(failed)?;
    // Names are bytes inside and hexadecimal outside.
    for (slot, shown) in slots.iter().zip(value.as_array_mut().into_iter().flatten()) {
        shown["digest"] = slot.digest.to_string().into();
    }
    Ok(format!("{value:#}\n"))
}

fn evict(args: &EvictArgs) -> Result<u8, Failure> {
    match ask(&args.data.resolve()?, Asked::SlotEvict(args.name.clone()))? {
        Reaction::SlotEvict(result) => {
            let was_there = result?;
            eprintln!("{} {}", args.name, if was_there { "is gone" } else { "was not there" });
            Ok(exit::OK)
        }
        other => Err(unexpected(&other)),
    }
}

#[expect(clippy::disallowed_methods, reason = "the time shown to the person at the terminal")]
pub(super) fn call(args: CallArgs) -> Result<u8, Failure> {
    let input = args.input.as_deref().map(read).transpose()?.unwrap_or_default().into();
    let start = std::time::Instant::now();
    match ask(&args.data.resolve()?, Asked::SlotCall(args.name, args.kind, input))? {
        Reaction::SlotCall(answer) => show(&*answer?, start.elapsed()),
        other => Err(unexpected(&other)),
    }
}

/// Asks the running node of the data directory, or a node of this process that uses the same directory.
fn ask(directory: &Path, command: Asked) -> Result<Reaction, Failure> {
    runtime()?.block_on(async {
        match Client::connect(directory).await {
            Ok(client) => Ok(client.ask(&command).await?),
            Err(ClientError::NotRunning(_)) => {
                let node = Node::builder().data_dir(directory).start()?;
                let reaction = serve(&node, command).await;
                node.shutdown();
                Ok(reaction)
            }
            Err(error) => Err(error.into()),
        }
    })
}

fn unexpected(reaction: &Reaction) -> Failure {
    Failure::new(exit::FAILED, format!("an answer of another kind: {reaction:?}"), None)
}

impl From<SlotError> for Failure {
    fn from(error: SlotError) -> Self {
        let (code, hint) = match &error {
            SlotError::Refused { source, .. } | SlotError::Call { source, .. } => (code_of(source), source.hint()),
            SlotError::Missing { .. } => {
                (exit::REFUSED, Some("`evalmesh slot list` shows the slots; `slot set` makes one"))
            }
            SlotError::OtherKind { .. } => (exit::REFUSED, Some("leave out --as, or call another slot")),
            SlotError::KindChange { .. } => (exit::REFUSED, Some("evict it first: a slot's kind is for good")),
            SlotError::NotKept { .. } => {
                (exit::DATA_DIR, Some("check the owner, the permissions and the space of the data directory"))
            }
            _ => (exit::REFUSED, None),
        };
        Self::new(code, error.to_string(), hint)
    }
}

fn code_of(error: &EvalError) -> u8 {
    Failure::from(error.clone()).code
}
