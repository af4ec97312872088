//! Buffers of one evaluation with their bind groups, kept for the next one of the same sizes.
//!
//! Every buffer that is mapped costs a moment, whatever its size, and so does every one that the device clears. So where this process sees the device's
//! memory, what shaders write lies in one buffer with the control bytes if it is small, and is cleared here.
//!
//! Where the device is this processor itself, buffers are mapped once for each evaluation and not twice: after the run for writing, which here shows
//! what is in them too. They stay so until the next evaluation has put its inputs there.
//!
//! A large payload may be used where it lies in the memory that is shared with the node (`import`): a buffer is made of it for this evaluation, which
//! is neither mapped nor kept.

use wgpu::{BindGroup, BindGroupDescriptor, BindGroupEntry, BindingResource, Buffer, BufferBinding};

use super::super::program::Binding;
use super::super::shader::{Access, CONTROL_GROUP, Resource};
use super::buffers::{Buffers, Purpose, Taken};
use super::pipelines::Prepared;
use super::{Fault, Gpu};

/// Bytes of the evaluator's own buffer: steps allowed, mark of an overrun.
pub(super) const CONTROL_BYTES: u64 = 8;
/// What is written by shaders and takes no more than this lies in one buffer: to clear it here takes about a microsecond.
const TOGETHER_BYTES: u64 = 32 * 1024;

/// See the module's front page.
pub(super) struct Seat {
    pub(super) sizes: Vec<u64>,
    /// For every binding where it lies.
    pub(super) spots: Vec<Spot>,
    /// Has the control bytes at its beginning, and what lies with them behind; and how long that is.
    pub(super) control: Buffer,
    control_end: u64,
    pub(super) groups: Vec<(u32, BindGroup)>,
    /// On devices with memory of their own: what goes there and comes back.
    pub(super) staging: Option<(Taken, Taken)>,
    /// Whether the parts that this process sees are mapped for writing while the seat waits.
    pub(super) mapped: bool,
    /// Every buffer but those of `staging`.
    taken: Vec<Taken>,
}

/// Where a binding lies.
pub(super) struct Spot {
    pub(super) buffer: Buffer,
    /// Behind the control bytes, or at the beginning of a buffer of its own.
    pub(super) at: u64,
    /// Whether the buffer is made of the payload's own place in the shared memory.
    pub(super) in_place: bool,
}

impl Spot {
    /// Whether it shares the buffer of the control bytes.
    pub(super) fn is_with_control(&self) -> bool {
        self.at > 0
    }
}

impl Seat {
    /// With a buffer for each binding that has one given.
    pub(super) fn take(
        gpu: &Gpu,
        buffers: &mut Buffers,
        prepared: &Prepared,
        sizes: Vec<u64>,
        given: &[Option<Buffer>],
    ) -> Result<Self, Fault> {
        let mut taken = Vec::new();
        let seat = Self::fill(gpu, buffers, prepared, sizes, given, &mut taken);
        match seat {
            Ok(seat) => Ok(Self { taken, ..seat }),
            Err(fault) => {
                for one in taken {
                    buffers.give_back(one);
                }
                Err(fault)
            }
        }
    }

    /// The seat without what was taken for it.
    fn fill(
        gpu: &Gpu,
        buffers: &mut Buffers,
        prepared: &Prepared,
        sizes: Vec<u64>,
        given: &[Option<Buffer>],
        taken: &mut Vec<Taken>,
    ) -> Result<Self, Fault> {
        let mut take = |buffers: &mut Buffers, purpose, bytes| -> Result<Buffer, Fault> {
            let one = buffers.take(gpu, purpose, bytes)?;
            let buffer = one.buffer.clone();
            taken.push(one);
            Ok(buffer)
        };
        let (places, together) = together(gpu, prepared, &sizes);
        let control = take(buffers, Purpose::Storage, together)?;
        let mut spots = Vec::new();
        for (((resource, size), place), given) in prepared.resources.iter().zip(&sizes).zip(places).zip(given) {
            let purpose = if resource.access == Access::Uniform { Purpose::Uniform } else { Purpose::Storage };
            let (buffer, at) = match (given, place) {
                (Some(buffer), _) => (buffer.clone(), 0),
                (None, Some(at)) => (control.clone(), at),
                (None, None) => (take(buffers, purpose, *size)?, 0),
            };
            spots.push(Spot { buffer, at, in_place: given.is_some() });
        }
        let groups = groups(gpu, prepared, &control, &spots, &sizes)?;
        let staging = if gpu.mappable { None } else { Some(staging(gpu, buffers, prepared, &sizes)?) };
        Ok(Self { sizes, spots, control, control_end: together, groups, staging, mapped: false, taken: Vec::new() })
    }

    /// Where the control bytes and the outputs are read, but for outputs that are in their place already.
    pub(super) fn reads(&self, prepared: &Prepared) -> Vec<(&Buffer, u64, u64)> {
        let outputs = prepared.program.bindings.iter().zip(&self.spots).zip(&self.sizes);
        let outputs = outputs.filter(|((binding, spot), _)| binding.is_output() && !spot.in_place);
        match &self.staging {
            None => {
                let outputs = outputs.map(|((_, spot), size)| (&spot.buffer, spot.at, *size));
                [(&self.control, 0, CONTROL_BYTES)].into_iter().chain(outputs).collect()
            }
            Some((_, download)) => {
                let mut at = 0;
                let mut next = |len| {
                    at += room(len);
                    (&download.buffer, at - room(len), len)
                };
                [CONTROL_BYTES].into_iter().chain(outputs.map(|(_, len)| *len)).map(&mut next).collect()
            }
        }
    }

    /// What this process writes before the run: the first so many bytes of these buffers.
    pub(super) fn written(&self, prepared: &Prepared) -> Vec<(&Buffer, u64)> {
        match &self.staging {
            None => self.parts_where(prepared, Binding::is_input),
            Some((upload, _)) => {
                let inputs =
                    prepared.program.bindings.iter().zip(&self.sizes).filter(|(binding, _)| binding.is_input());
                vec![(&upload.buffer, CONTROL_BYTES + inputs.map(|(_, size)| room(*size)).sum::<u64>())]
            }
        }
    }

    /// All that is mapped while a seat waits that is to stay mapped.
    pub(super) fn seen(&self, prepared: &Prepared) -> Vec<(&Buffer, u64)> {
        self.parts_where(prepared, |binding| binding.is_input() || binding.is_output())
    }

    /// The buffer of the control bytes, and the own buffers of these bindings.
    fn parts_where(&self, prepared: &Prepared, wanted: fn(&Binding) -> bool) -> Vec<(&Buffer, u64)> {
        let own = prepared.program.bindings.iter().zip(&self.spots).zip(&self.sizes);
        let own = own.filter(|((binding, spot), _)| !spot.is_with_control() && !spot.in_place && wanted(binding));
        let own = own.map(|((_, spot), size)| (&spot.buffer, *size));
        [(&self.control, self.control_end)].into_iter().chain(own).collect()
    }

    /// Gives its buffers to whoever comes next; mapped ones are of no use to them.
    pub(super) fn leave(self, buffers: &mut Buffers) {
        self.let_go();
        if self.mapped {
            return self.discard(buffers);
        }
        self.all().for_each(|one| buffers.give_back(one));
    }

    pub(super) fn discard(self, buffers: &mut Buffers) {
        self.let_go();
        self.all().for_each(|one| buffers.discard(one));
    }

    /// Gives up what was made for this evaluation alone.
    fn let_go(&self) {
        self.spots.iter().filter(|spot| spot.in_place).for_each(|spot| spot.buffer.destroy());
    }

    fn all(self) -> impl Iterator<Item = Taken> {
        let staging = self.staging.into_iter().flat_map(|(upload, download)| [upload, download]);
        self.taken.into_iter().chain(staging)
    }
}

/// For every binding its place behind the control bytes, if it has one there, and how long that buffer is.
fn together(gpu: &Gpu, prepared: &Prepared, sizes: &[u64]) -> (Vec<Option<u64>>, u64) {
    let aligned = u64::from(gpu.device.limits().min_storage_buffer_offset_alignment).max(CONTROL_BYTES);
    let mut end = CONTROL_BYTES;
    let mut place = |(resource, size): (&Resource, &u64)| {
        let at = end.next_multiple_of(aligned);
        (resource.access == Access::ReadWrite).then(|| {
            end = at.saturating_add(*size);
            at
        })
    };
    let places: Vec<_> = prepared.resources.iter().zip(sizes).map(&mut place).collect();
    if gpu.mappable && end <= TOGETHER_BYTES { (places, end) } else { (vec![None; sizes.len()], CONTROL_BYTES) }
}

fn groups(
    gpu: &Gpu,
    prepared: &Prepared,
    control: &Buffer,
    spots: &[Spot],
    sizes: &[u64],
) -> Result<Vec<(u32, BindGroup)>, Fault> {
    gpu.guarded(|| {
        let group = |(number, layout): &(u32, wgpu::BindGroupLayout)| {
            let entries: Vec<_> = if *number == CONTROL_GROUP {
                vec![BindGroupEntry { binding: 0, resource: bound(control, 0, CONTROL_BYTES) }]
            } else {
                let all = prepared.resources.iter().zip(spots).zip(sizes);
                let of_group = all.filter(|((resource, _), _)| resource.group == *number);
                of_group
                    .map(|((resource, spot), size)| BindGroupEntry {
                        binding: resource.binding,
                        resource: bound(&spot.buffer, spot.at, *size),
                    })
                    .collect()
            };
            (*number, gpu.device.create_bind_group(&BindGroupDescriptor { label: None, layout, entries: &entries }))
        };
        Ok(prepared.layouts.iter().map(group).collect())
    })
}

/// What goes to the device and comes back, the control bytes first.
fn staging(gpu: &Gpu, buffers: &mut Buffers, prepared: &Prepared, sizes: &[u64]) -> Result<(Taken, Taken), Fault> {
    let sum = |wanted: fn(&Binding) -> bool| -> u64 {
        let wanted = prepared.program.bindings.iter().zip(sizes).filter(|(binding, _)| wanted(binding));
        wanted.map(|(_, size)| room(*size)).sum::<u64>() + CONTROL_BYTES
    };
    let upload = buffers.take(gpu, Purpose::Upload, sum(Binding::is_input))?;
    match buffers.take(gpu, Purpose::Download, sum(Binding::is_output)) {
        Ok(download) => Ok((upload, download)),
        Err(fault) => {
            buffers.give_back(upload);
            Err(fault)
        }
    }
}

fn bound(buffer: &Buffer, offset: u64, size: u64) -> BindingResource<'_> {
    BindingResource::Buffer(BufferBinding { buffer, offset, size: std::num::NonZeroU64::new(size) })
}

/// What a part of a staging buffer takes there: mapped ranges begin at multiples of eight.
pub(super) fn room(len: u64) -> u64 {
    len.next_multiple_of(8)
}
