//! Every bound of the wasm evaluator, with its reason.
//!
//! Two kinds, never mixed. [`WasmLimits`] is one node's affair: crossing one is an error and never an answer, so nodes may differ in them.
//! The constants are part of the contract: what a guest can see of them (an errno, a refusal) is the same on every node of this version.

use std::time::Duration;

/// What one node gives to one evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WasmLimits {
    /// Fuel of a request that does not say; roughly instructions. A request may ask for more, since `time` bounds it all the same.
    pub fuel: u64,
    /// Bytes of linear memory. A request may only lower it.
    pub memory: u64,
    /// Elements of all tables together.
    pub table_elements: u64,
    /// Bytes of stdout, stderr and changed files together. A request may only lower it.
    pub output: u64,
    /// Wall time of a job without a budget of its own.
    pub time: Duration,
    /// Machine code that the cache of compiled modules keeps.
    pub compiled_bytes: u64,
}

impl Default for WasmLimits {
    fn default() -> Self {
        Self {
            fuel: 200_000_000_000,
            memory: 1 << 30,
            table_elements: 1 << 20,
            output: 256 << 20,
            time: Duration::from_mins(5),
            compiled_bytes: 256 << 20,
        }
    }
}

/// How often running programs look at their deadline and at cancellation: well under the 20 ms in which a cancel must be heard.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// Stack of wasm code. A compute thread has 16 MiB, and host functions run below this.
pub(super) const STACK: usize = 1 << 20;
/// Compiled modules that the cache keeps, however small; finding the least recently used one is a scan.
pub(super) const CACHED_MODULES: usize = 256;

/// Bytes of a module: the largest language runtimes stay below.
pub(super) const MODULE_BYTES: u64 = 64 << 20;
/// Bytes of the code section. Compilation cannot be cancelled in this process, and costs about a second of one core per MiB.
pub(super) const CODE_BYTES: u64 = 24 << 20;
/// Functions of a module; esbuild has some 20,000.
pub(super) const FUNCTIONS: u64 = 100_000;
/// Bytes of one function: register allocation is worse than linear. Interpreter loops reach 300 KiB.
pub(super) const BODY_BYTES: u64 = 512 << 10;
/// Parameters, or results, of one function type: each call site pays for all of them.
pub(super) const TYPE_VALUES: u64 = 128;
/// Types of a module.
pub(super) const TYPES: u64 = 20_000;
/// Locals of one function, parameters included.
pub(super) const LOCALS: u64 = 8_192;
/// Depth of nested blocks: a switch compiles to one block per case, and bytecode interpreters have several hundred.
pub(super) const NESTING: u64 = 1_024;
/// Depth of nested loops: nobody writes 24, and compile time grows with a power of it.
pub(super) const LOOP_NESTING: u64 = 24;
/// Loops of one function times its locals: each pair can become a value that the compiler carries through the whole loop.
pub(super) const LOOPS_BY_LOCALS: u64 = 1_000_000;
/// Imports of a module: preview 1 has fewer than 50 functions.
pub(super) const IMPORTS: u64 = 1_000;
/// Exports of a module.
pub(super) const EXPORTS: u64 = 10_000;
/// Globals of a module.
pub(super) const GLOBALS: u64 = 10_000;
/// Tables of a module.
pub(super) const TABLES: u64 = 16;
/// Data segments, and element segments, of a module.
pub(super) const SEGMENTS: u64 = 100_000;
/// Exports that a refusal names, so that its text stays a line or two.
pub(super) const NAMED_EXPORTS: usize = 12;

/// Descriptors that a guest may have open: `EMFILE` beyond, on every node.
pub(super) const OPEN_FILES: usize = 1_024;
/// Bytes of one name in a path: `ENAMETOOLONG` beyond.
pub(super) const NAME_BYTES: usize = 255;
/// Buffers of one read or write: `EINVAL` beyond, like `IOV_MAX` elsewhere.
pub(super) const IO_VECTORS: u32 = 1_024;
/// Subscriptions of one poll: `EINVAL` beyond.
pub(super) const SUBSCRIPTIONS: u32 = 1_024;
/// Random bytes of one call: `EINVAL` beyond, since a host call cannot be interrupted.
pub(super) const RANDOM_BYTES: u32 = 16 << 20;
/// Directories that a guest may have made besides those of its inputs: `ENOSPC` beyond.
pub(super) const DIRECTORIES: usize = 4_096;
/// Bytes of the text that a trap appends to the log.
pub(super) const TRAP_TEXT: usize = 4_096;
