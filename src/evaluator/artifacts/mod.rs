//! What evaluators compiled, kept on this node's own disk: native code of wasm programs and what drivers made of GPU programs.
//!
//! One folder with one budget (`store`), and one account of what was found where, and why not (`report`). Invariant: nothing is loaded that
//! this node did not write for exactly this fingerprint. Knows nothing of what compiled code is; how it is loaded is its evaluator's affair.

mod report;
mod store;

pub(in crate::evaluator) use self::report::Counters;
pub use self::report::{ArtifactReport, Layer, Miss};
pub use self::store::AotConfig;
pub(in crate::evaluator) use self::store::{Form, Found, Store};
use crate::id::Digest;

/// What compiled code is made for; all of it must match before a byte of it is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::evaluator) struct Fingerprint {
    /// The program's bytes.
    pub(in crate::evaluator) program: Digest,
    /// The engine: compiler version, settings, processor features.
    pub(in crate::evaluator) engine: Digest,
    /// The rules that the program was admitted under.
    pub(in crate::evaluator) policy: u32,
}

impl Fingerprint {
    /// What the artifact is called wherever it is kept.
    pub(in crate::evaluator) fn name(&self) -> Digest {
        let mut hasher = blake3::Hasher::new_derive_key("evalmesh 2026-11-21 artifact name v1");
        hasher.update(self.program.as_bytes()).update(self.engine.as_bytes()).update(&self.policy.to_le_bytes());
        Digest::from_bytes(*hasher.finalize().as_bytes())
    }
}
