//! The command line: raw arguments, checked, then run. Data goes to stdout, people are spoken to on stderr.

mod ask;
pub mod demo;
pub mod exit;
mod failure;
#[cfg(feature = "gpu")]
mod gpu;
#[cfg(feature = "wasm")]
mod inspect;
mod ledger;
mod limits;
mod paths;
mod peers;
mod pins;
#[cfg(feature = "wasm")]
mod publish;
#[cfg(feature = "sim")]
mod sim;
#[cfg(feature = "wasm")]
mod slots;
mod status;
mod up;

use std::io;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

pub use self::failure::Failure;

/// A fleet of nodes that behaves like one memo table that can also compute.
///
/// Ask any node a question - a wasm program with its inputs. It answers from its own ledger, else from a node that already holds the
/// answer, else it computes the answer, records it and becomes a holder too.
#[derive(Debug, Parser)]
#[command(name = "evalmesh", version, after_long_help = exit::HELP)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run a node until Ctrl-C.
    Up(up::Args),
    /// Ask a question: run a wasm or GPU program, or get its answer from whoever holds it.
    Eval(ask::EvalArgs),
    /// Print a held answer by its id.
    Get(ask::GetArgs),
    /// Show how a running node is.
    Status(status::Args),
    /// Show the peers of a running node: how they are, and how much of their logs is known.
    Peers(peers::PeersArgs),
    /// Show the GPUs of this machine or of a running node: whether they may answer, their classes, limits and speed.
    #[cfg(feature = "gpu")]
    Devices(gpu::devices::Args),
    /// Show which other nodes are said to hold an answer.
    Holders(peers::HoldersArgs),
    /// Show what a program is, what it needs, and whether a node would admit it.
    #[cfg(feature = "wasm")]
    Inspect(inspect::Args),
    /// Compile a program and put the signed code where other nodes read it.
    #[cfg(feature = "wasm")]
    Publish(publish::Args),
    /// Programs under names: register, list, forget.
    #[cfg(feature = "wasm")]
    #[command(subcommand)]
    Slot(slots::Command),
    /// Call a program by its slot's name.
    #[cfg(feature = "wasm")]
    Call(slots::CallArgs),
    /// Look at a node's ledger - count, verify, show, export - or compact it.
    #[command(subcommand)]
    Ledger(ledger::Command),
    /// Never drop the answers to these questions to make room.
    Pin(pins::ChangeArgs),
    /// Let the answers to these questions be dropped again.
    Unpin(pins::ChangeArgs),
    /// Print the pinned questions.
    Pins(pins::ListArgs),
    /// Start three nodes on this machine, give them a real batch, and show who answered what.
    Demo(demo::Args),
    /// Simulate fleets: thousands of failures, each with a seed that plays it again.
    #[cfg(feature = "sim")]
    #[command(subcommand)]
    Sim(sim::Command),
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Format {
    /// For people.
    Text,
    /// For programs.
    Json,
}

/// Where a node keeps its ledger, key and socket.
#[derive(Debug, Clone, clap::Args)]
struct DataDir {
    /// The node's data directory [default: the user's data folder for evalmesh].
    #[arg(long = "data", value_name = "DIR", env = "EVALMESH_DATA")]
    data: Option<PathBuf>,
}

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    #[cfg(any(feature = "gpu", feature = "wasm"))]
    crate::evaluator::worker::enter_worker_role();
    let cli = Cli::parse();
    let result = match cli.command {
        Command::Up(args) => up::run(args),
        Command::Eval(args) => ask::eval(args),
        Command::Get(args) => ask::get(args),
        Command::Status(args) => status::run(&args),
        Command::Peers(args) => peers::peers(&args),
        Command::Holders(args) => peers::holders(&args),
        #[cfg(feature = "gpu")]
        Command::Devices(args) => gpu::devices::run(&args),
        #[cfg(feature = "wasm")]
        Command::Inspect(args) => inspect::run(&args),
        #[cfg(feature = "wasm")]
        Command::Publish(args) => publish::run(&args),
        #[cfg(feature = "wasm")]
        Command::Slot(command) => slots::run(command),
        #[cfg(feature = "wasm")]
        Command::Call(args) => slots::call(args),
        Command::Ledger(command) => ledger::run(&command),
        Command::Pin(args) => pins::pin(&args),
        Command::Unpin(args) => pins::unpin(&args),
        Command::Pins(args) => pins::list(&args),
        Command::Demo(args) => demo::run(&args),
        #[cfg(feature = "sim")]
        Command::Sim(command) => sim::run(&command),
    };
    match result {
        Ok(code) => ExitCode::from(code),
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Writes to stdout; a reader that went away is no failure.
fn print_bytes(bytes: &[u8]) -> Result<(), Failure> {
    use io::Write;

    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::new(exit::FAILED, format!("cannot write to stdout: {error}"), None))
        }
        _ => Ok(()),
    }
}

/// A small runtime for one command.
fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot start a runtime: {error}"), None))
}

/// A size of a command line: bytes, or with a unit.
fn size(text: &str) -> Result<u64, String> {
    text.parse::<bytesize::ByteSize>().map(|size| size.as_u64())
}
