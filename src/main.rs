//! The `evalmesh` command; see `evalmesh --help`.

use std::process::ExitCode;

/// What one thread allocates and another frees is most of what a record costs the system's allocator.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    evalmesh::cli::main()
}
