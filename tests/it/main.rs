//! Integration tests, one binary with a module per topic: linking wasmtime and libp2p once is enough.

mod cli;
mod formats;
mod ledger;
mod request_id;
