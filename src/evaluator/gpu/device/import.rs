//! Payloads that a device uses where they lie: parts of the shared memory as buffers of the device, through `VK_EXT_external_memory_host`.
//!
//! That leaves out a copy of every large payload on its way to the device and one on its way back. It is used where the device is this processor, so
//! that its memory and ours are one: nothing has to be made visible to anybody. What the extension cannot do, or does not want to do, is done with
//! buffers of the device's own. Invariants: (1) a part stays mapped until wgpu is done with the buffer that was made of it; (2) wgpu takes such a
//! buffer for one that was written, so whoever has it made sees to what is in it before a dispatch does; (3) buffers that are used at the same time
//! are made of parts that have no byte in common.

#![expect(unsafe_code, reason = "Vulkan is told addresses, and wgpu is told objects of Vulkan")]

use std::sync::Arc;

use ash::{ext, vk};
use wgpu::hal::api::Vulkan;
use wgpu::hal::vulkan;
use wgpu::{Adapter, Buffer, BufferDescriptor, BufferUsages, Device, DeviceDescriptor, Queue};

use crate::evaluator::gpu::worker::memory::Part;

/// What is imported, in Vulkan's words.
const HANDLE: vk::ExternalMemoryHandleTypeFlags = vk::ExternalMemoryHandleTypeFlags::HOST_ALLOCATION_EXT;
const USAGE: vk::BufferUsageFlags = vk::BufferUsageFlags::STORAGE_BUFFER;
/// Memory in which either side sees at once what the other one wrote.
const COHERENT: vk::MemoryPropertyFlags = vk::MemoryPropertyFlags::from_raw(
    vk::MemoryPropertyFlags::HOST_VISIBLE.as_raw() | vk::MemoryPropertyFlags::HOST_COHERENT.as_raw(),
);

/// Makes buffers of parts of the shared memory.
pub(in crate::evaluator::gpu) struct Importer {
    raw: Arc<Raw>,
    aligned: u64,
    /// The types of memory that are [`COHERENT`], a bit for each.
    coherent: u32,
}

struct Raw {
    device: ash::Device,
    host: ext::external_memory_host::Device,
}

/// Opens a device that can be given memory. Nothing, if it cannot be, or is not opened that way: then it is opened as any other one.
pub(super) fn open(adapter: &Adapter, wanted: &DeviceDescriptor<'_>) -> Option<(Device, Queue, Importer)> {
    // SAFETY: nothing of the adapter is destroyed.
    let hal = unsafe { adapter.as_hal::<Vulkan>() }?;
    let aligned = can_import(&hal)?;
    let with_extension: Box<vulkan::CreateDeviceCallback<'_>> =
        Box::new(|args| args.extensions.push(ext::external_memory_host::NAME));
    // SAFETY: features and limits are the adapter's, as for a device that is opened without; the extension is there and takes nothing away.
    let opened = unsafe {
        hal.open_with_callback(
            wanted.required_features,
            &wanted.required_limits,
            &wanted.memory_hints,
            Some(with_extension),
        )
    };
    let opened = opened.ok()?;
    let instance = hal.shared_instance().raw_instance();
    let device = opened.device.raw_device().clone();
    let host = ext::external_memory_host::Device::new(instance, &device);
    // SAFETY: the physical device is the adapter's.
    let memory = unsafe { instance.get_physical_device_memory_properties(hal.raw_physical_device()) };
    let types = memory.memory_types_as_slice().iter().enumerate();
    let coherent = types.filter(|(_, kind)| kind.property_flags.contains(COHERENT)).map(|(at, _)| 1 << at).sum();
    drop(hal);
    // SAFETY: the device was opened from this adapter, with what is asked for here.
    let (device_and_queue, raw) =
        unsafe { (adapter.create_device_from_hal(opened, wanted).ok()?, Raw { device, host }) };
    let (device, queue) = device_and_queue;
    Some((device, queue, Importer { raw: Arc::new(raw), aligned, coherent }))
}

/// Whether storage buffers may be made of memory of this process, and what that has to be aligned to.
fn can_import(adapter: &vulkan::Adapter) -> Option<u64> {
    if !adapter.physical_device_capabilities().supports_extension(ext::external_memory_host::NAME) {
        return None;
    }
    let (instance, device) = (adapter.shared_instance().raw_instance(), adapter.raw_physical_device());
    let wanted = vk::PhysicalDeviceExternalBufferInfo::default().usage(USAGE).handle_type(HANDLE);
    let mut found = vk::ExternalBufferProperties::default();
    let mut host = vk::PhysicalDeviceExternalMemoryHostPropertiesEXT::default();
    let mut about = vk::PhysicalDeviceProperties2::default().push_next(&mut host);
    // SAFETY: the physical device is the instance's, both calls are of Vulkan 1.1, which every adapter here has, and what they write is ours.
    unsafe {
        instance.get_physical_device_external_buffer_properties(device, &wanted, &mut found);
        instance.get_physical_device_properties2(device, &mut about);
    }
    let features = found.external_memory_properties.external_memory_features;
    let can = features.contains(vk::ExternalMemoryFeatureFlags::IMPORTABLE)
        && !features.contains(vk::ExternalMemoryFeatureFlags::DEDICATED_ONLY);
    let aligned = host.min_imported_host_pointer_alignment;
    (can && aligned.is_power_of_two()).then_some(aligned)
}

impl Importer {
    /// What a part's place and length must be multiples of.
    pub(super) fn aligned(&self) -> u64 {
        self.aligned
    }

    /// The first so many bytes of this part as a buffer for shaders; nothing, if the device does not take it.
    pub(super) fn buffer(&self, device: &Device, part: Part, bytes: u64) -> Option<Buffer> {
        let (begin, room) = (part.begin(), part.len() as u64);
        let fits = |alignment: u64| (begin.addr() as u64).is_multiple_of(alignment);
        if bytes == 0 || bytes > room || !fits(self.aligned) || !room.is_multiple_of(self.aligned) {
            return None;
        }
        let raw = Arc::clone(&self.raw);
        let mut external = vk::ExternalMemoryBufferCreateInfo::default().handle_types(HANDLE);
        let wanted = vk::BufferCreateInfo::default().size(bytes).usage(USAGE).push_next(&mut external);
        // SAFETY: the device is open, and can be given such memory.
        let buffer = unsafe { raw.device.create_buffer(&wanted, None) }.ok()?;
        // From here on whatever was made is given back, whichever way this ends.
        let mut made = Made { raw, buffer, memory: vk::DeviceMemory::null(), _part: part };
        let (raw, buffer) = (&made.raw, made.buffer);
        // SAFETY: the buffer was made just now.
        let needs = unsafe { raw.device.get_buffer_memory_requirements(buffer) };
        let mut about = vk::MemoryHostPointerPropertiesEXT::default();
        let get = raw.host.fp().get_memory_host_pointer_properties_ext;
        // SAFETY: the address is that of mapped memory and aligned as it must be.
        let told = unsafe { get(raw.host.device(), HANDLE, begin.cast(), &raw mut about) };
        let types = needs.memory_type_bits & about.memory_type_bits & self.coherent;
        if told != vk::Result::SUCCESS || types == 0 || needs.size > room || !fits(needs.alignment) {
            return None;
        }
        let mut import = vk::ImportMemoryHostPointerInfoEXT::default().handle_type(HANDLE).host_pointer(begin.cast());
        let wanted = vk::MemoryAllocateInfo::default()
            .allocation_size(room)
            .memory_type_index(types.trailing_zeros())
            .push_next(&mut import);
        // SAFETY: the memory is mapped for reading and writing as long as the part lives, which is longer than this object; address and length are
        // multiples of what they must be multiples of.
        let memory = unsafe { raw.device.allocate_memory(&wanted, None) }.ok()?;
        made.memory = memory;
        // SAFETY: the memory is as large as the buffer needs, of a type that it takes, and belongs to nothing else.
        unsafe { made.raw.device.bind_buffer_memory(buffer, memory, 0) }.ok()?;
        let usage = BufferUsages::STORAGE;
        let description = BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false };
        // SAFETY: the buffer lives until wgpu says that it is done with it; it is of this device, of that size and use, and its bytes are somebody's
        // who wrote them (invariant 2). It is never mapped through wgpu.
        Some(unsafe {
            let hal = vulkan::Buffer::from_raw_externally_owned(buffer, Box::new(move || drop(made)));
            device.create_buffer_from_hal::<Vulkan>(hal, &description)
        })
    }
}

/// A buffer with its memory and the part that this is.
struct Made {
    raw: Arc<Raw>,
    buffer: vk::Buffer,
    memory: vk::DeviceMemory,
    _part: Part,
}

impl Drop for Made {
    fn drop(&mut self) {
        // SAFETY: both were made of this device, which wgpu keeps as long as it has buffers of it, and nothing uses them any more: wgpu is done with
        // the buffer, or was never told of it. Null is nothing to free.
        unsafe {
            self.raw.device.destroy_buffer(self.buffer, None);
            self.raw.device.free_memory(self.memory, None);
        }
    }
}
