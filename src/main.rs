//! The `evalmesh` command; see `evalmesh --help`.

use std::process::ExitCode;

fn main() -> ExitCode {
    evalmesh::cli::main()
}
