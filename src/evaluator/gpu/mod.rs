//! The GPU evaluator: WGSL compute programs on devices that proved themselves.
//!
//! A program (`program`) is a shader with its buffers and dispatches. Whatever touches a driver does so in a child process (`worker`) that can be
//! ended: it finds adapters, tests them, admits and rewrites shaders (`shader`), and runs them (`device`). In the node's own process each device
//! that passed its tests has a queue and a thread (`lane`), and the portable programs have a memory of whether they agreed with
//! themselves (`proofs`), and of what drivers compiled (`compiled`). Invariants: a device that failed a test answers nothing; a reply for one device class comes from a device of that
//! class; what ran over a limit is an error and never a reply. `docs/gpu.md` is the contract in full. Knows nothing of ledgers or peers.

#[cfg(feature = "gpu")]
mod compiled;
#[cfg(feature = "gpu")]
mod device;
#[cfg(feature = "gpu")]
mod evaluation;
#[cfg(feature = "gpu")]
mod hub;
#[cfg(feature = "gpu")]
mod lane;
#[cfg_attr(not(feature = "gpu"), expect(dead_code, reason = "the bounds of devices stand beside those of programs"))]
mod limits;
#[cfg(feature = "gpu")]
mod manifests;
mod program;
#[cfg(feature = "gpu")]
mod proofs;
#[cfg(feature = "gpu")]
mod report;
#[cfg(feature = "gpu")]
mod scan;
#[cfg(feature = "gpu")]
mod shader;
#[cfg(feature = "gpu")]
pub(in crate::evaluator) mod worker;

#[cfg(feature = "gpu")]
pub use self::compiled::{PipelineData, PipelineReport};
#[cfg(feature = "gpu")]
pub use self::hub::{GpuConfig, GpuEvaluator, GpuLimits};
pub use self::program::{Binding, Dispatch, GpuProgram, Groups, Kind, Size, Stage};
#[cfg(feature = "gpu")]
pub use self::report::{AdapterFacts, DeviceLimits, DeviceReport, Devices, Speed, Verdict};

/// The contract between programs and this evaluator; part of every request's id.
#[cfg(feature = "gpu")]
const ABI: u32 = 1;
/// What records say of the evaluator, before the device class.
#[cfg(feature = "gpu")]
const VERSION: &str = "wgpu 30";
