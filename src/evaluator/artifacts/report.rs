//! Where compiled code was found, and why not: the report of the layers RAM, disk and remote.
//!
//! Every look that ends without code has a reason, and every reason is counted. Knows nothing of the layers themselves.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Where code may be kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Layer {
    /// This process' memory.
    Ram,
    /// This node's own store on disk.
    Disk,
    /// A listed signer's copy.
    Remote,
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ram => "ram",
            Self::Disk => "disk",
            Self::Remote => "remote",
        })
    }
}

/// Why a layer had no code to give.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Miss {
    /// Nothing is kept under this name.
    #[error("absent")]
    Absent,
    /// It cannot be read.
    #[error("unreadable")]
    Unreadable,
    /// It ends too early, or does not say what it is.
    #[error("truncated")]
    Truncated,
    /// Its keyed hash or signature does not hold: damaged, forged, or another node's.
    #[error("not authentic")]
    NotAuthentic,
    /// It was made for another program, engine or policy.
    #[error("other fingerprint")]
    OtherFingerprint,
    /// The engine refused to load it.
    #[error("not loadable")]
    NotLoadable,
    /// It does not say who made it, from what, or for which machine.
    #[error("metadata missing")]
    MetadataMissing,
    /// Who made it is not listed here.
    #[error("signer not listed")]
    SignerNotListed,
    /// Its provenance is not the one that is asked for here.
    #[error("other provenance")]
    OtherProvenance,
    /// It was made for another machine or engine version.
    #[error("other machine")]
    OtherMachine,
    /// It is longer than code may be.
    #[error("too large")]
    TooLarge,
    /// The server could not be reached, or broke off.
    #[error("transport failed")]
    Transport,
    /// The server answered with a failure.
    #[error("server failed")]
    Server,
}

/// Counts what the layers did.
#[derive(Debug, Default)]
pub(in crate::evaluator) struct Counters {
    ram: AtomicU64,
    others: Mutex<ArtifactReport>,
}

impl Counters {
    /// Code was found in RAM: the one count on the path of every call.
    #[cfg(feature = "wasm")]
    pub(in crate::evaluator) fn ram_hit(&self) {
        self.ram.fetch_add(1, Ordering::Relaxed);
    }

    pub(in crate::evaluator) fn count(&self, change: impl FnOnce(&mut ArtifactReport)) {
        change(&mut self.others.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub(in crate::evaluator) fn missed(&self, layer: Layer, why: Miss) {
        self.count(|report| *report.misses.entry((layer, why)).or_default() += 1);
    }

    pub(in crate::evaluator) fn report(&self) -> ArtifactReport {
        let others = self.others.lock().unwrap_or_else(PoisonError::into_inner).clone();
        ArtifactReport { ram_hits: self.ram.load(Ordering::Relaxed), ..others }
    }
}

/// What the layers of compiled code did since the evaluator started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ArtifactReport {
    /// Calls whose code was in RAM.
    pub ram_hits: u64,
    /// Programs whose code came from this node's disk.
    pub disk_hits: u64,
    /// Programs whose code came from a listed signer.
    pub remote_hits: u64,
    /// Programs that were compiled here.
    pub compiled: u64,
    /// Copies put into a nearer layer: remote to disk, and disk to RAM.
    pub promoted: u64,
    /// Copies written to disk after compiling.
    pub stored: u64,
    /// Copies that could not be written to disk.
    pub not_stored: u64,
    /// Copies removed from disk: unusable, of another engine, or least recently used when the store was full.
    pub removed: u64,
    /// Why layers had no code, and how often.
    #[serde(with = "rows")]
    pub misses: BTreeMap<(Layer, Miss), u64>,
}

/// A map whose keys are pairs, as rows: not every format has such keys.
mod rows {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use super::{BTreeMap, Layer, Miss};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<(Layer, Miss), u64>, to: S) -> Result<S::Ok, S::Error> {
        map.iter().map(|((layer, why), count)| (*layer, *why, *count)).collect::<Vec<_>>().serialize(to)
    }

    pub(super) fn deserialize<'a, D: Deserializer<'a>>(from: D) -> Result<BTreeMap<(Layer, Miss), u64>, D::Error> {
        let rows = Vec::<(Layer, Miss, u64)>::deserialize(from)?;
        Ok(rows.into_iter().map(|(layer, why, count)| ((layer, why), count)).collect())
    }
}

impl fmt::Display for ArtifactReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { ram_hits, disk_hits, remote_hits, compiled, promoted, stored, not_stored, removed, misses } = self;
        writeln!(f, "hits: ram {ram_hits}, disk {disk_hits}, remote {remote_hits}; compiled {compiled}")?;
        write!(f, "promoted {promoted}, stored {stored}, not stored {not_stored}, removed {removed}")?;
        misses.iter().try_for_each(|((layer, why), count)| write!(f, "\nmiss: {layer}: {why}: {count}"))
    }
}
