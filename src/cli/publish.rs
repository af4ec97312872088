//! `evalmesh publish`: compiles a program and puts the signed code where other nodes read it.

use std::path::PathBuf;

use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::evaluator::pool::Pool;
use crate::evaluator::wasm::{WasmEvaluator, WasmSetup};
use crate::identity::Signer;
use crate::node::identity;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The program.
    program: PathBuf,
    /// The folder that other nodes read: on a shared disk, or one that is uploaded as it is.
    #[arg(long, value_name = "DIR")]
    to: PathBuf,
    /// Where the program is from, word for word as the readers ask for it.
    #[arg(long, value_name = "TEXT")]
    source: String,
    #[command(flatten)]
    data: DataDir,
}

/// Signs with the node's key; prints the file's path, and on stderr which signer the readers must list.
pub(super) fn run(args: &Args) -> Result<u8, Failure> {
    let program = super::ask::read(&args.program)?;
    let signer = identity(&args.data.resolve()?)?;
    let failed = |what: &str, error: &std::io::Error| Failure::new(exit::FAILED, format!("{what}: {error}"), None);
    let pool = Pool::start("evalmesh-wasm", 1).map_err(|error| failed("no thread", &error))?;
    let evaluator = WasmEvaluator::with(pool, WasmSetup::default())?;
    let publication = evaluator.publish(&program.into(), &args.source, &signer)?;
    let path = publication.write(&args.to).map_err(|error| failed("cannot write the copy", &error))?;
    print_bytes(format!("{}\n", path.display()).as_bytes())?;
    eprintln!("signed by {}: readers start with --artifacts PLACE --artifact-signer {0}", signer.node());
    Ok(exit::OK)
}
