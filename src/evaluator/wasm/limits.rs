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
    /// Processor time of one evaluation; absent leaves it to `time`. A request may only lower it.
    pub cpu: Option<Duration>,
    /// Machine code that the cache of compiled modules keeps.
    pub compiled_bytes: u64,
    /// Instances that may exist at one time. Each reserves 4 GiB of address space and no memory.
    pub instances: u32,
}

impl Default for WasmLimits {
    fn default() -> Self {
        Self {
            fuel: 200_000_000_000,
            memory: 1 << 30,
            table_elements: 1 << 20,
            output: 256 << 20,
            time: Duration::from_mins(5),
            cpu: None,
            compiled_bytes: 256 << 20,
            instances: 64,
        }
    }
}

/// How often running programs look at their deadline and at cancellation: well under the 20 ms in which a cancel must be heard.
pub(super) const TICK: Duration = Duration::from_millis(5);
/// Stack of wasm code. A compute thread has 16 MiB, and host functions run below this.
pub(super) const STACK: usize = 1 << 20;
/// Evaluations that may wait for an instance; the next one is refused as busy. They hold a compute thread each, so few will ever wait.
pub(super) const WAITING: usize = 256;
/// Programs whose digest is remembered by where their bytes lie, so that asking again hashes nothing.
pub(super) const KNOWN_PROGRAMS: usize = 64;
/// Bytes of these programs together.
pub(super) const KNOWN_BYTES: usize = 256 << 20;
/// Bytes of one instance's tables of functions and globals: 100,000 functions need 4 MiB.
pub(super) const INSTANCE_BYTES: usize = 8 << 20;
/// The largest memory that 32 bits address.
pub(super) const MEMORY_BYTES: usize = 1 << 32;
/// The largest table that the pool reserves room for: 128 MiB of address space.
pub(super) const TABLE_ELEMENTS: usize = 16 << 20;
/// Bytes of a used slot that are wiped by hand instead of given back to the system: wiping 64 KiB is cheaper than a page fault each.
pub(super) const KEPT_RESIDENT: usize = 64 << 10;
/// The same where the system tells which pages were written: only those are wiped, so more of them may stay.
pub(super) const KEPT_RESIDENT_PAGEMAP: usize = 1 << 20;
/// Compiled modules that the cache keeps, however small; finding the least recently used one is a scan.
pub(super) const CACHED_MODULES: usize = 256;

/// Bytes of a module: the largest language runtimes stay below.
pub(super) const MODULE_BYTES: u64 = 64 << 20;
/// Bytes of the code section: it costs a second or two of one core per MiB to compile, and a database engine has 35 MB.
pub(super) const CODE_BYTES: u64 = 48 << 20;
/// Functions of a module; esbuild has some 20,000.
pub(super) const FUNCTIONS: u64 = 100_000;
/// Bytes of one function: register allocation is worse than linear. Interpreter loops reach 300 KiB.
pub(super) const BODY_BYTES: u64 = 1 << 20;
/// Parameters, or results, of one function type: each call site pays for all of them.
pub(super) const TYPE_VALUES: u64 = 128;
/// Types of a module.
pub(super) const TYPES: u64 = 20_000;
/// Locals of one function, parameters included.
pub(super) const LOCALS: u64 = 8_192;
/// Depth of nested blocks: a switch compiles to one block per case, and bytecode interpreters have several hundred.
pub(super) const NESTING: u64 = 4_096;
/// Depth of nested loops: nobody writes 24, and compile time grows with a power of it.
pub(super) const LOOP_NESTING: u64 = 24;
/// Loops of one function, nested or not: 5,000 take half a minute to compile. A database engine has 586 in one function.
pub(super) const LOOPS: u64 = 2_000;
/// Pairs of a block and a value that may be alive there, in one function: ten times the heaviest one of the large programs that were tried.
pub(super) const FUNCTION_WEIGHT: u64 = 2_000_000;
/// The same in all functions together: four times the heaviest program, a database engine of 40 MB.
pub(super) const MODULE_WEIGHT: u64 = 60_000_000;
/// Imports of a module: preview 1 has fewer than 50 functions.
pub(super) const IMPORTS: u64 = 1_000;
/// Exports of a module.
pub(super) const EXPORTS: u64 = 20_000;
/// Globals of a module.
pub(super) const GLOBALS: u64 = 10_000;
/// Tables of a module.
pub(super) const TABLES: u32 = 16;
/// Core modules of a component: bindings add two or three to a program's own.
pub(super) const CORE_MODULES: u64 = 16;
/// Core instances of a running component.
pub(super) const CORE_INSTANCES: u32 = 16;
/// Components inside a component: bindings add one for each exported interface.
pub(super) const INNER_COMPONENTS: u64 = 4;
/// Types of a component; our own world has some twenty.
pub(super) const COMPONENT_TYPES: u64 = 1_000;
/// Imports, exports, types, instances, aliases and lifted or lowered functions of a component together.
pub(super) const COMPONENT_ITEMS: u64 = 10_000;
/// Data segments, and element segments, of a module.
pub(super) const SEGMENTS: u64 = 100_000;
/// Exports that a refusal names, so that its text stays a line or two.
pub(super) const NAMED_EXPORTS: usize = 12;

/// The rules of admission; raised with every change of what the scan or the compiler admits. Keys stored code and never an id.
pub(super) const POLICY: u32 = 2;
/// Native code of one program: the largest admitted modules stay below.
pub(super) const ARTIFACT_BYTES: u64 = 1 << 30;
/// Bytes of what a published copy says about itself: seven short lines.
pub(super) const METADATA_BYTES: usize = 16 << 10;
/// How much longer than its processor time a compilation may take on the wall, for machines that are busy with other things.
pub(super) const COMPILE_PATIENCE: u32 = 4;
/// How long a worker may take to get ready.
pub(super) const WORKER_START: Duration = Duration::from_secs(20);

/// Imports, exports and notes that an inspection shows, and bytes of each: a report is for reading.
pub(super) const SHOWN: usize = 1_000;

/// Questions that one evaluation may ask: a build with a thousand steps, and one record still names all of them.
pub(super) const ASKS: usize = 1_024;

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
