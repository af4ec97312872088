//! The `evalmesh` command; see `evalmesh --help`.

mod allocator;

use std::process::ExitCode;

fn main() -> ExitCode {
    allocator::keep_memory();
    evalmesh::cli::main()
}
