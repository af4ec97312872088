//! Modules that nobody wrote.

#![no_main]

#[path = "../../tests/it/fuzz_wasm.rs"]
mod fuzz_wasm;

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| fuzz_wasm::module(bytes));
