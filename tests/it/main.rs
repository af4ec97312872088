//! Integration tests, one binary with a module per topic: linking wasmtime and libp2p once is enough.

mod cli;
mod conformance;
#[cfg(unix)]
mod fleet;
mod formats;
mod fuzz;
mod fuzz_bodies;
mod fuzz_wasm;
mod ledger;
#[cfg(unix)]
mod ledger_disk;
mod ledger_model;
mod network;
mod request_id;
mod sim;
