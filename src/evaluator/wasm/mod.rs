//! The wasm evaluator.
