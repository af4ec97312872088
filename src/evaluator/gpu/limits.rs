//! Every bound of the GPU evaluator, with its reason.

use std::time::Duration;

/// WGSL text of one program. The largest kernels in use are a tenth of it; what is parsed is quadratic in nothing at this size.
pub(super) const SHADER_BYTES: usize = 256 * 1024;
/// Canonical bytes of one program: its text and room for names.
pub(super) const PROGRAM_BYTES: usize = SHADER_BYTES + 64 * 1024;
/// Buffers of one program. Seven of them may be storage, as every device offers eight and one is this evaluator's own.
pub(super) const BINDINGS: usize = 16;
/// Storage buffers of one program.
pub(super) const STORAGE_BINDINGS: usize = 7;
/// Bind groups that a program may use; the fourth, which every device has, is this evaluator's own.
pub(super) const GROUPS: u32 = 3;
/// Binding numbers go up to what every device offers.
pub(super) const BINDING_NUMBER: u32 = 1000;
/// Stages of one program, and dispatches written down in all of them.
pub(super) const STAGES: usize = 256;
/// Dispatches of one evaluation, repeats included: a command buffer stays in the tens of megabytes.
pub(super) const DISPATCHES: u64 = 16 * 1024;
/// Invocations of one evaluation, all dispatches together: minutes of a large card with an empty kernel.
pub(super) const INVOCATIONS: u64 = 1 << 36;
/// Workgroups of one dispatch in one direction, as every device offers.
pub(super) const WORKGROUPS: u32 = 65_535;
/// Invocations of one workgroup, as every device offers.
pub(super) const WORKGROUP_INVOCATIONS: u32 = 256;
/// Memory of one workgroup in bytes, as every device offers.
pub(super) const WORKGROUP_BYTES: u64 = 16 * 1024;
/// Private and local variables of one invocation in bytes, counted as if every call were expanded: drivers do expand them.
pub(super) const PRIVATE_BYTES: u64 = 64 * 1024;
/// Statements and expressions of one entry point with every call expanded, which is what drivers compile.
pub(super) const EXPANDED: u64 = 128 * 1024;
/// Brackets within brackets in the text. The parser and drivers recurse.
pub(super) const NESTING: usize = 48;
/// Operators of one statement: `x + x + ..` nests as deep as it is long.
pub(super) const OPERATORS: usize = 1024;
/// Branches of one chain of `else if`: each nests in the one before.
pub(super) const ELSE_IFS: usize = 64;
/// Loop iterations of one invocation in one dispatch, unless the request's `fuel` says less.
pub(super) const STEPS: u32 = 1 << 28;
/// Bytes of one uniform buffer, as every device offers.
pub(super) const UNIFORM_BYTES: u64 = 64 * 1024;

/// Payloads up to this size travel inside a worker's messages; larger ones lie in shared memory, where there is some: a message copies what it carries
/// four times on its way, and memory that both see is written once and read once.
pub(super) const INLINE: u64 = 256;
/// Payloads of this size begin a page of the shared memory and have its pages for themselves, so that a device may use them there.
pub(super) const PAGED: u64 = 64 * 1024;
/// Bytes of a page, or several of them: what devices want of memory that they are given.
pub(super) const PAGE: u64 = 4096;
/// Buffers of an evaluation that may share a submission with others, all together. Where there is no shared memory a few of these fit a pipe, so
/// neither side waits for the other half-way through a message.
pub(super) const SMALL: u64 = 16 * 1024;
/// Evaluations of one batch: enough to share the cost of a submission, few enough to answer the first one soon.
pub(super) const BATCH: usize = 16;
/// How long the thread that hears an answer stays awake for it: a small evaluation on a quick device takes less.
pub(super) const AWAKE: Duration = Duration::from_micros(400);
/// Answers that are waited for asleep after one that did not come so soon.
pub(super) const ASLEEP: u32 = 64;
/// Evaluations that may wait for one device; the next one is refused as `Busy`.
pub(super) const QUEUE: usize = 1024;
/// Programs whose pipelines a worker keeps; beyond it the least recently used is dropped. A pipeline is tens of kilobytes.
pub(super) const PIPELINES: usize = 256;
/// What a driver compiled of one program, as it is kept: several times what any gives; those of a batch fit one message.
pub(super) const PIPELINE_DATA: u64 = 2 * 1024 * 1024;
/// A message of a worker: a batch of inline payloads and their programs.
pub(super) const MESSAGE_BYTES: u64 = 64 * 1024 * 1024;
/// Where payloads begin in an arena: the page before is the mailbox.
pub(super) const MAILBOX: u64 = PAGE;
/// How often whoever waits for a letter looks whether its worker ended, or its caller does not wait any more.
pub(super) const LOOK: Duration = Duration::from_millis(20);
/// The smallest arena: what is not touched takes no memory.
pub(super) const ARENA: u64 = 16 * 1024 * 1024;
/// Shared memory that stays with an idle worker; what a large evaluation took beyond it is given back.
pub(super) const SHARED_KEPT: u64 = 256 * 1024 * 1024;
/// Evaluations of one portable program between two that are run twice to see whether it still answers alike.
pub(super) const CHECK_EVERY: u64 = 64;
/// Portable programs that are remembered as proven or demoted, and answers that later ones are compared with.
pub(super) const REMEMBERED: usize = 4096;
/// Stack of the thread that parses: the scan bounds how deep it goes, and this is several times what that takes.
pub(super) const PARSE_STACK: usize = 64 * 1024 * 1024;
