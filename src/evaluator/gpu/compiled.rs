//! What drivers made of programs, kept on this node's own disk over restarts: the data of their pipeline caches.
//!
//! The layer below a worker's live pipelines, in the folder and under the rules of compiled wasm (`artifacts`). A driver's data are code that its process
//! trusts, so nothing is handed to a worker but what this node wrote itself, for this very program, device class, driver and cache key. Many
//! drivers have nothing to give, or keep it themselves: what is not larger than their empty cache by a sensible amount is not kept. Invariant: data
//! that a device does not want cost a file and a count, never an answer.

use std::fmt;
use std::io::Read;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::limits::PIPELINE_DATA;
use super::report::DeviceReport;
use super::worker::{CacheFacts, Given, Made};
use crate::evaluator::artifacts::{AotConfig, ArtifactReport, Counters, Fingerprint, Form, Found, Layer, Miss, Store};
use crate::id::Digest;

/// What a trailer begins with; the last byte is its version.
const MAGIC: [u8; 8] = *b"EMGPU\0\0\x01";
/// Magic, program, device, policy, digest of the data.
const FACTS: usize = 8 + 32 + 32 + 4 + 32;
/// The rules under which programs are rewritten before a driver sees them; also part of every device class.
const POLICY: u32 = 1;
/// Less than this beyond an empty cache holds no compiled shader.
const LEAST: u64 = 1024;

/// Where this node keeps what drivers compiled.
#[derive(Debug, Clone)]
pub struct PipelineData {
    /// The folder, which may be that of compiled wasm: the budget is then for both.
    pub store: AotConfig,
    /// Bytes beyond those of a driver's empty cache from which on its data are kept.
    pub least: u64,
}

impl PipelineData {
    /// Data are kept there if they are worth it.
    #[must_use]
    pub fn new(store: AotConfig) -> Self {
        Self { store, least: LEAST }
    }
}

/// What became of drivers' data since the evaluator started.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineReport {
    /// Where data came from. A program counts as compiled whenever a worker made pipelines of it without data.
    pub artifacts: ArtifactReport,
    /// Programs whose data were not worth keeping.
    pub useless: u64,
}

impl fmt::Display for PipelineReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ArtifactReport { disk_hits, compiled, stored, not_stored, removed, misses, .. } = &self.artifacts;
        write!(f, "hits: disk {disk_hits}; compiled {compiled}; stored {stored}, not worth it {}, ", self.useless)?;
        write!(f, "not stored {not_stored}, removed {removed}")?;
        misses.iter().try_for_each(|((layer, why), count)| write!(f, "\nmiss: {layer}: {why}: {count}"))
    }
}

/// The data of all devices of a node.
#[derive(Debug)]
pub(super) struct Pipelines {
    store: Option<Store>,
    least: u64,
    counters: Counters,
    useless: AtomicU64,
}

/// A device's share of it.
#[derive(Debug)]
pub(super) struct OfDevice {
    /// What names the device.
    device: Digest,
    /// Bytes of its driver's empty cache.
    empty: u64,
}

impl OfDevice {
    /// Nothing, if the driver has no caches.
    pub(super) fn new(report: &DeviceReport, cache: Option<&CacheFacts>) -> Option<Self> {
        let (class, cache) = (report.class.as_ref()?, cache?);
        let device = format!("evalmesh pipelines v1\n{class}\n{:?}\n{}", report.adapter, cache.key);
        Some(Self { device: Digest::of(device.as_bytes()), empty: cache.empty })
    }

    fn fingerprint(&self, program: Digest) -> Fingerprint {
        Fingerprint { program, engine: self.device, policy: POLICY }
    }
}

impl Pipelines {
    /// Opens the store, if there is to be one. One that cannot be opened is done without.
    pub(super) fn open(config: Option<PipelineData>) -> Self {
        let counters = Counters::default();
        let least = config.as_ref().map_or(LEAST, |config| config.least);
        let form = Form { name: "gpu", facts: FACTS, most: PIPELINE_DATA };
        let store = config.and_then(|config| {
            let opened = Store::open(config.store, form, &counters);
            opened.inspect_err(|error| tracing::warn!(%error, "no store for compiled pipelines")).ok()
        });
        Self { store, least, counters, useless: AtomicU64::new(0) }
    }

    /// Whether data are kept at all.
    pub(super) fn is_on(&self) -> bool {
        self.store.is_some()
    }

    /// The data for a program on a device.
    pub(super) fn load(&self, device: &OfDevice, program: Digest) -> Option<Bytes> {
        let wanted = device.fingerprint(program);
        let loaded = self.store.as_ref()?.load(&wanted.name(), &self.counters, |found| take(found, &wanted));
        loaded.map_err(|why| self.counters.missed(Layer::Disk, why)).ok()
    }

    /// Takes note of what a worker made of a program, and keeps what is worth it.
    pub(super) fn made(&self, device: &OfDevice, program: Digest, made: Made) {
        let Some(store) = &self.store else { return };
        let made_for = device.fingerprint(program);
        match made.given {
            Given::Taken => return self.counters.count(|report| report.disk_hits += 1),
            Given::Nothing => {}
            Given::Refused => {
                self.counters.missed(Layer::Disk, Miss::NotLoadable);
                store.forget(&made_for.name(), &self.counters);
            }
        }
        self.counters.count(|report| report.compiled += 1);
        let worth = |data: &Bytes| {
            let len = data.len() as u64;
            (device.empty.saturating_add(self.least)..=PIPELINE_DATA).contains(&len)
        };
        let Some(data) = made.data.filter(worth) else {
            self.useless.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let kept = store.store(&made_for.name(), &data, &facts(&made_for, &data), &self.counters);
        self.counters.count(|report| match kept {
            Ok(()) => report.stored += 1,
            Err(_) => report.not_stored += 1,
        });
        if let Err(error) = kept {
            tracing::warn!(%error, "compiled pipelines were not kept");
        }
    }

    pub(super) fn report(&self) -> PipelineReport {
        PipelineReport { artifacts: self.counters.report(), useless: self.useless.load(Ordering::Relaxed) }
    }
}

fn facts(made_for: &Fingerprint, data: &[u8]) -> Vec<u8> {
    let Fingerprint { program, engine, policy } = made_for;
    [&MAGIC[..], program.as_bytes(), engine.as_bytes(), &policy.to_le_bytes(), Digest::of(data).as_bytes()].concat()
}

/// Reads the data of an authentic file, which may still be about another program or device.
fn take(found: Found, wanted: &Fingerprint) -> Result<Bytes, Miss> {
    let mut data = Vec::with_capacity(usize::try_from(found.len).map_err(|_| Miss::TooLarge)?);
    found.file.take(found.len).read_to_end(&mut data).map_err(|_| Miss::Unreadable)?;
    // Facts that end in another digest than that of what was read are no less wrong than those of another program.
    if found.facts == facts(wanted, &data) { Ok(data.into()) } else { Err(Miss::OtherFingerprint) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::evaluator::gpu::report::{AdapterFacts, DeviceLimits, Verdict};

    fn report(driver_version: &str) -> DeviceReport {
        let adapter = AdapterFacts {
            name: "card".to_owned(),
            kind: "discrete".to_owned(),
            backend: "vulkan".to_owned(),
            driver: "driver".to_owned(),
            driver_version: driver_version.to_owned(),
            vendor: 1,
            device: 2,
            subgroups: (32, 32),
        };
        let (verdict, class) = (Verdict::Sound, Some("gpu:card:1".parse().unwrap()));
        DeviceReport { adapter, verdict, class, limits: DeviceLimits::default(), speed: None, in_place: false }
    }

    fn device(driver_version: &str, key: &str) -> OfDevice {
        let cache = CacheFacts { key: key.to_owned(), empty: 96 };
        OfDevice::new(&report(driver_version), Some(&cache)).unwrap()
    }

    fn open(folder: &std::path::Path, secret: &[u8]) -> Pipelines {
        Pipelines::open(Some(PipelineData::new(AotConfig::new(folder, secret))))
    }

    fn made(given: Given, len: usize) -> Made {
        Made { given, data: Some(vec![7; len].into()) }
    }

    #[test]
    fn what_is_worth_it_is_found_again_by_its_own_device_alone() {
        let folder = tempfile::tempdir().unwrap();
        let (own, program) = (device("1.0", "key"), Digest::of(b"program"));
        let first = open(folder.path(), b"secret");
        assert_eq!(first.load(&own, program), None);
        first.made(&own, program, made(Given::Nothing, 96 + 1023));
        assert_eq!((first.report().useless, first.load(&own, program)), (1, None), "an empty cache and a little");
        first.made(&own, program, made(Given::Nothing, usize::try_from(PIPELINE_DATA).unwrap() + 1));
        assert_eq!(first.report().useless, 2, "more than is kept");
        first.made(&own, program, made(Given::Nothing, 4096));
        let again = open(folder.path(), b"secret");
        assert_eq!(again.load(&own, program), Some(vec![7; 4096].into()));
        for other in [device("1.1", "key"), device("1.0", "other key")] {
            assert_eq!(again.load(&other, program), None);
        }
        assert_eq!(again.load(&own, Digest::of(b"other")), None);
        let misses = again.report().artifacts.misses;
        assert_eq!(misses.into_iter().collect::<Vec<_>>(), [((Layer::Disk, Miss::Absent), 3)]);
    }

    #[test]
    fn what_is_not_this_nodes_or_not_of_this_device_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let (own, newer, program) = (device("1.0", "key"), device("1.1", "key"), Digest::of(b"program"));
        let path = |device: &OfDevice| folder.path().join(format!("{}.aot", device.fingerprint(program).name()));
        let pipelines = open(folder.path(), b"secret");
        let keep = || pipelines.made(&own, program, made(Given::Nothing, 4096));
        let refused = |store: &Pipelines, device: &OfDevice, why: Miss| {
            assert_eq!(store.load(device, program), None);
            assert_eq!(store.report().artifacts.misses.get(&(Layer::Disk, why)), Some(&1), "{why}");
            assert!(!path(device).exists());
        };
        keep();
        refused(&open(folder.path(), b"other secret"), &own, Miss::NotAuthentic);
        keep();
        let mut bytes = std::fs::read(path(&own)).unwrap();
        bytes[100] ^= 1;
        std::fs::write(path(&own), bytes).unwrap();
        refused(&open(folder.path(), b"secret"), &own, Miss::NotAuthentic);
        keep();
        std::fs::write(path(&own), [1; 60]).unwrap();
        refused(&open(folder.path(), b"secret"), &own, Miss::Truncated);
        keep();
        std::fs::rename(path(&own), path(&newer)).unwrap();
        refused(&open(folder.path(), b"secret"), &newer, Miss::OtherFingerprint);
        keep();
        pipelines.made(&own, program, made(Given::Refused, 100));
        assert!(!path(&own).exists(), "the driver did not want it");
        let report = pipelines.report();
        assert_eq!((report.artifacts.compiled, report.artifacts.stored, report.useless), (6, 5, 1));
        assert!(report.to_string().ends_with("miss: disk: not loadable: 1"), "{report}");
    }
}
