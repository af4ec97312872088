//! Buffers that are used again: kept by what they are for and by size class, within one budget.
//!
//! Invariant: all buffers together, in use or not, never take more than the budget; what is not in use goes first.

use std::collections::BTreeMap;

use wgpu::{Buffer, BufferDescriptor, BufferUsages};

use super::{Fault, Gpu};
use crate::error::LimitHit;

/// The smallest buffer.
const SMALLEST: u64 = 256;
/// From here on size classes are steps of this size, so that a large buffer wastes little.
const STEP: u64 = 16 * 1024 * 1024;

/// What a buffer is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Purpose {
    Storage,
    Uniform,
    /// Written by this process and copied from.
    Upload,
    /// Copied to and read by this process.
    Download,
}

/// A buffer that is taken out.
pub(super) struct Taken {
    pub(super) buffer: Buffer,
    purpose: Purpose,
    class: u64,
}

/// All buffers of a device.
#[derive(Default)]
pub(super) struct Buffers {
    free: BTreeMap<(Purpose, u64), Vec<Buffer>>,
    /// Bytes of all buffers, in use or free.
    bytes: u64,
}

impl Buffers {
    /// A buffer of at least so many bytes, with anything in it.
    pub(super) fn take(&mut self, gpu: &Gpu, purpose: Purpose, bytes: u64) -> Result<Taken, Fault> {
        let limit = || Fault::from(LimitHit::DeviceMemory { bound: gpu.limits.memory });
        if bytes > gpu.limits.buffer {
            return Err(LimitHit::DeviceMemory { bound: gpu.limits.buffer }.into());
        }
        let class = class(bytes).ok_or_else(limit)?.min(gpu.limits.buffer.max(bytes));
        if let Some(buffer) = self.free.get_mut(&(purpose, class)).and_then(Vec::pop) {
            return Ok(Taken { buffer, purpose, class });
        }
        if self.bytes.saturating_add(class) > gpu.limits.memory {
            self.drop_free();
        }
        let after = self.bytes.checked_add(class).filter(|after| *after <= gpu.limits.memory).ok_or_else(limit)?;
        let description =
            BufferDescriptor { label: None, size: class, usage: usage(gpu, purpose), mapped_at_creation: false };
        let buffer = gpu.guarded(|| Ok(gpu.device.create_buffer(&description)))?;
        self.bytes = after;
        Ok(Taken { buffer, purpose, class })
    }

    /// Puts a buffer back, unmapped.
    pub(super) fn give_back(&mut self, taken: Taken) {
        self.free.entry((taken.purpose, taken.class)).or_default().push(taken.buffer);
    }

    /// Gives up a buffer.
    pub(super) fn discard(&mut self, taken: Taken) {
        let Taken { buffer, class, .. } = taken;
        buffer.destroy();
        self.bytes = self.bytes.saturating_sub(class);
    }

    fn drop_free(&mut self) {
        for ((_, class), buffers) in std::mem::take(&mut self.free) {
            for buffer in buffers {
                buffer.destroy();
                self.bytes = self.bytes.saturating_sub(class);
            }
        }
    }
}

fn usage(gpu: &Gpu, purpose: Purpose) -> BufferUsages {
    let seen = if gpu.mappable { BufferUsages::MAP_READ | BufferUsages::MAP_WRITE } else { BufferUsages::empty() };
    match purpose {
        Purpose::Storage => BufferUsages::STORAGE | BufferUsages::COPY_SRC | BufferUsages::COPY_DST | seen,
        Purpose::Uniform => BufferUsages::UNIFORM | BufferUsages::COPY_DST | seen,
        Purpose::Upload => BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC,
        Purpose::Download => BufferUsages::MAP_READ | BufferUsages::COPY_DST,
    }
}

/// The size class of a size.
fn class(bytes: u64) -> Option<u64> {
    if bytes <= STEP { Some(bytes.max(SMALLEST).next_power_of_two()) } else { bytes.checked_next_multiple_of(STEP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_waste_less_than_what_they_hold() {
        assert_eq!([1, 256, 257, 4096, 65_540].map(class), [256, 256, 512, 4096, 131_072].map(Some));
        assert_eq!(class(STEP + 1), Some(2 * STEP));
        assert_eq!(class(u64::MAX), None);
    }
}
