//! The same work with wgpu alone: one shader, buffers that are used again, upload, dispatch, read back.

use wgpu::{BufferUsages, MapMode};

pub(crate) struct Bare {
    device: wgpu::Device,
    queue: wgpu::Queue,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
    input: wgpu::Buffer,
    output: wgpu::Buffer,
    upload: wgpu::Buffer,
    download: wgpu::Buffer,
    groups: u32,
}

fn now<T>(future: impl Future<Output = T>) -> T {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(value) => value,
        std::task::Poll::Pending => panic!("wgpu's futures are ready outside of browsers"),
    }
}

impl Bare {
    /// The adapter of this name, with buffers of so many bytes.
    pub(crate) fn new(name: &str, shader: &str, bytes: u64, groups: u32) -> Self {
        let (device, queue) = Self::open(name, wgpu::Features::empty()).expect("a device");
        Self::on(device, queue, shader, bytes, groups, None)
    }

    /// The adapter of this name, if it has these features.
    pub(crate) fn open(name: &str, features: wgpu::Features) -> Option<(wgpu::Device, wgpu::Queue)> {
        let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
            flags: wgpu::InstanceFlags::ALLOW_UNDERLYING_NONCOMPLIANT_ADAPTER,
            ..wgpu::InstanceDescriptor::new_without_display_handle()
        });
        let adapters = now(instance.enumerate_adapters(wgpu::Backends::PRIMARY));
        let adapter = adapters.into_iter().find(|adapter| adapter.get_info().name == name).expect("the same adapter");
        if !adapter.features().contains(features) {
            return None;
        }
        let (required_limits, required_features) = (wgpu::Limits::default(), features);
        let description =
            wgpu::DeviceDescriptor { required_limits, required_features, ..wgpu::DeviceDescriptor::default() };
        Some(now(adapter.request_device(&description)).expect("a device"))
    }

    /// This device, with buffers of so many bytes.
    pub(crate) fn on(
        device: wgpu::Device,
        queue: wgpu::Queue,
        shader: &str,
        bytes: u64,
        groups: u32,
        cache: Option<&wgpu::PipelineCache>,
    ) -> Self {
        let source = wgpu::ShaderSource::Wgsl(shader.into());
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor { label: None, source });
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: None,
            layout: None,
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions::default(),
            cache,
        });
        let buffer = |usage| {
            device.create_buffer(&wgpu::BufferDescriptor { label: None, size: bytes, usage, mapped_at_creation: false })
        };
        let input = buffer(BufferUsages::STORAGE | BufferUsages::COPY_DST);
        let output = buffer(BufferUsages::STORAGE | BufferUsages::COPY_SRC);
        let upload = buffer(BufferUsages::MAP_WRITE | BufferUsages::COPY_SRC);
        let download = buffer(BufferUsages::MAP_READ | BufferUsages::COPY_DST);
        let entries = [&input, &output].into_iter().zip(0..);
        let entries: Vec<_> = entries
            .map(|(buffer, binding)| wgpu::BindGroupEntry { binding, resource: buffer.as_entire_binding() })
            .collect();
        let layout = pipeline.get_bind_group_layout(0);
        let group =
            device.create_bind_group(&wgpu::BindGroupDescriptor { label: None, layout: &layout, entries: &entries });
        Self { device, queue, pipeline, group, input, output, upload, download, groups }
    }

    fn map(&self, buffer: &wgpu::Buffer, mode: MapMode) {
        buffer.map_async(mode, .., |result| result.expect("mapped"));
        self.device.poll(wgpu::PollType::wait_indefinitely()).expect("a device");
    }

    /// From bytes to bytes.
    pub(crate) fn run(&self, input: &[u8]) -> Vec<u8> {
        self.map(&self.upload, MapMode::Write);
        self.upload.get_mapped_range_mut(..).expect("mapped").copy_from_slice(input);
        self.upload.unmap();
        let mut encoder = self.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        encoder.copy_buffer_to_buffer(&self.upload, 0, &self.input, 0, input.len() as u64);
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        pass.set_pipeline(&self.pipeline);
        pass.set_bind_group(0, &self.group, &[]);
        pass.dispatch_workgroups(self.groups, 1, 1);
        drop(pass);
        encoder.copy_buffer_to_buffer(&self.output, 0, &self.download, 0, input.len() as u64);
        self.queue.submit([encoder.finish()]);
        self.map(&self.download, MapMode::Read);
        let bytes = self.download.get_mapped_range(..).expect("mapped").to_vec();
        self.download.unmap();
        bytes
    }
}
