//! What a node knows of its devices; plain data that crosses pipes and the control socket and is printed as text or JSON.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::request::Name;

/// What a driver says of an adapter. Two equal machines say the same, whatever slot the card is in.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct AdapterFacts {
    /// Its name.
    pub name: String,
    /// `discrete`, `integrated`, `virtual`, `software` or `other`.
    pub kind: String,
    /// The interface it is driven through, for example `vulkan`.
    pub backend: String,
    /// The driver.
    pub driver: String,
    /// The driver's version, in the driver's own words.
    pub driver_version: String,
    /// The vendor's number.
    pub vendor: u32,
    /// The vendor's number of the device.
    pub device: u32,
    /// The smallest and the largest subgroup.
    pub subgroups: (u32, u32),
}

impl AdapterFacts {
    /// All that is known of a driver that shows no adapters: where the system says it is.
    #[cfg(feature = "gpu")]
    pub(super) fn of_driver(manifest: &std::path::Path) -> Self {
        let name = manifest.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (kind, backend) = ("unknown".to_owned(), "vulkan".to_owned());
        let driver = manifest.display().to_string();
        Self { name, kind, backend, driver, driver_version: String::new(), vendor: 0, device: 0, subgroups: (0, 0) }
    }
}

impl fmt::Display for AdapterFacts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}; {} {})", self.name, self.kind, self.driver, self.driver_version)
    }
}

/// An adapter and what was found out about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceReport {
    /// What its driver says of it.
    pub adapter: AdapterFacts,
    /// Whether it may answer.
    pub verdict: Verdict,
    /// Its device class; devices of one class give the same bits. None, if it may not answer.
    pub class: Option<Name>,
    /// What it has room for.
    pub limits: DeviceLimits,
    /// How fast it is, if it may answer.
    pub speed: Option<Speed>,
    /// Whether it uses large payloads where they lie in memory that is shared with the node, and copies none of them.
    pub in_place: bool,
}

impl DeviceReport {
    /// Whether it may answer.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        self.verdict == Verdict::Sound && self.class.is_some()
    }
}

/// Whether a device may answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It passed every test.
    Sound,
    /// It may not answer.
    Refused {
        /// The test that it failed.
        test: String,
        /// What it did.
        why: String,
        /// What to do about it.
        advice: String,
    },
}

/// What a device has room for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct DeviceLimits {
    /// Bytes of one buffer.
    pub buffer: u64,
    /// Bytes of all buffers that this node uses at one time.
    pub memory: u64,
    /// Invocations of one workgroup.
    pub workgroup: u32,
    /// Bytes of workgroup memory.
    pub workgroup_bytes: u32,
    /// Whether it has subgroups.
    pub subgroups: bool,
}

/// How fast a device was when it was tested.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speed {
    /// An evaluation of four kilobytes, from bytes to bytes.
    pub round_trip: Duration,
    /// Bytes that a shader writes in a second.
    pub written: u64,
    /// Rounds of an integer hash in a second.
    pub hashed: u64,
}

/// The devices of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Devices {
    /// Every adapter that a driver showed, the fastest sound one first.
    pub devices: Vec<DeviceReport>,
    /// Why none could be looked for, or what went wrong while looking.
    pub trouble: Option<String>,
}

impl Devices {
    /// The devices that may answer.
    pub fn sound(&self) -> impl Iterator<Item = &DeviceReport> {
        self.devices.iter().filter(|device| device.is_sound())
    }

    /// The class of the fastest device that may answer.
    #[must_use]
    pub fn best_class(&self) -> Option<&Name> {
        self.sound().find_map(|device| device.class.as_ref())
    }

    /// In a few words why nothing here may answer, or how many devices may.
    #[must_use]
    pub fn summary(&self) -> String {
        let (sound, all) = (self.sound().count(), self.devices.len());
        match (&self.trouble, sound, all) {
            (Some(trouble), 0, _) => trouble.clone(),
            (_, 0, 0) => "no adapter: no GPU, or no Vulkan driver for it".to_owned(),
            (_, 0, all) => format!("none of {all} adapters passed its tests"),
            (_, sound, all) => format!("{sound} of {all} adapters may answer"),
        }
    }
}
