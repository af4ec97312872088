//! A program made ready for one device: admitted, held against its bindings, compiled.

use std::collections::BTreeMap;

use wgpu::{
    BindGroupLayout, BindGroupLayoutDescriptor, BindGroupLayoutEntry, BindingType, BufferBindingType, ComputePipeline,
    ComputePipelineDescriptor, PipelineLayoutDescriptor, ShaderModuleDescriptor, ShaderSource, ShaderStages,
};

use super::super::limits;
use super::super::program::{Binding, Dispatch, GpuProgram, Groups, Kind};
use super::super::shader::{self, Access, Admitted, CONTROL_GROUP, Resource};
use super::cache::Cache;
use super::seat::Seat;
use super::{Fault, Gpu};
use crate::error::{EvalError, LimitHit, Refusal};

/// A program with its pipelines.
pub(super) struct Prepared {
    pub(super) program: GpuProgram,
    /// For every binding what the shader does with it.
    pub(super) resources: Vec<Resource>,
    /// Layouts of the bind groups that are used, the control group last.
    pub(super) layouts: Vec<(u32, BindGroupLayout)>,
    pub(super) pipelines: BTreeMap<String, (ComputePipeline, [u32; 3])>,
    pub(super) not_portable: Option<String>,
    /// What the pipelines were made with, until somebody asks for it.
    pub(super) cache: Option<Cache>,
    /// Buffers with their bind groups that wait for the next evaluation.
    pub(super) idle: Vec<Seat>,
    /// When it was last used, in evaluations of this worker.
    pub(super) used: u64,
}

impl Prepared {
    /// With a cache the driver may find there what it made before, and what it makes is put there.
    pub(super) fn new(gpu: &Gpu, program: GpuProgram, cache: Option<Cache>) -> Result<Self, Fault> {
        let Admitted { module, resources, entries, not_portable } =
            shader::admit(&program.shader, gpu.limits.subgroups)?;
        let resources = fit(&program, &resources)?;
        let entry = |name: &str| {
            let found = entries.iter().find(|(entry, _)| entry == name);
            let why = || format!("the shader has {}", named(&entries));
            found.cloned().ok_or_else(|| Refusal::Entry { entry: name.to_owned(), why: why() })
        };
        let wanted = program.entries().map(entry).collect::<Result<Vec<_>, Refusal>>()?;
        let layouts = layouts(gpu, &resources)?;
        let pipelines = gpu.guarded(|| {
            let source = ShaderSource::Naga(std::borrow::Cow::Owned(module));
            let module = gpu.device.create_shader_module(ShaderModuleDescriptor { label: None, source });
            let by_group = |group| layouts.iter().find(|(number, _)| *number == group).map(|(_, layout)| layout);
            let groups: Vec<_> = (0..=CONTROL_GROUP).map(by_group).collect();
            let description = PipelineLayoutDescriptor { label: None, bind_group_layouts: &groups, immediate_size: 0 };
            let layout = gpu.device.create_pipeline_layout(&description);
            let pipeline = |(name, size): (String, [u32; 3])| {
                let description = ComputePipelineDescriptor {
                    label: None,
                    layout: Some(&layout),
                    module: &module,
                    entry_point: Some(&name),
                    compilation_options: wgpu::PipelineCompilationOptions::default(),
                    cache: cache.as_ref().and_then(Cache::get),
                };
                let pipeline = gpu.device.create_compute_pipeline(&description);
                (name, (pipeline, size))
            };
            Ok(wanted.into_iter().map(pipeline).collect())
        })?;
        Ok(Self { program, resources, layouts, pipelines, not_portable, cache, idle: Vec::new(), used: 0 })
    }

    /// The bytes of every buffer; each is large enough for the shader.
    pub(super) fn sizes(&self, inputs: &BTreeMap<&str, u64>) -> Result<Vec<u64>, EvalError> {
        let sizes = self.program.sizes(|name| inputs.get(name).copied())?;
        for ((binding, resource), size) in self.program.bindings.iter().zip(&self.resources).zip(&sizes) {
            let refuse = |why: String| Refusal::Binding { name: binding.name.as_str().to_owned(), why };
            if *size < resource.bytes {
                return Err(refuse(format!("it has {size} bytes, the shader's variable {}", resource.bytes)).into());
            }
            if resource.access == Access::Uniform && *size > limits::UNIFORM_BYTES {
                return Err(refuse(format!("it has {size} bytes, a uniform at most {}", limits::UNIFORM_BYTES)).into());
            }
        }
        Ok(sizes)
    }

    /// What is dispatched, in order, with repeats; every dispatch is within its bounds.
    pub(super) fn dispatches(&self, sizes: &[u64]) -> Result<Vec<(&ComputePipeline, [u32; 3])>, EvalError> {
        let mut all = Vec::new();
        let mut invocations = 0_u64;
        for stage in &self.program.stages {
            let once = stage
                .dispatches
                .iter()
                .map(|dispatch| self.dispatch(dispatch, sizes))
                .collect::<Result<Vec<_>, _>>()?;
            for (_, _, count) in &once {
                invocations = invocations.saturating_add(count.saturating_mul(u64::from(stage.repeat)));
            }
            let bound = limits::INVOCATIONS;
            if invocations > bound {
                return Err(Refusal::TooLarge {
                    rule: "invocations of all dispatches".to_owned(),
                    found: invocations,
                    bound,
                }
                .into());
            }
            for _ in 0..stage.repeat {
                all.extend(once.iter().map(|(pipeline, groups, _)| (*pipeline, *groups)));
            }
        }
        Ok(all)
    }

    fn dispatch(&self, dispatch: &Dispatch, sizes: &[u64]) -> Result<(&ComputePipeline, [u32; 3], u64), EvalError> {
        let missing = || Refusal::Entry { entry: dispatch.entry.clone(), why: "it was not compiled".to_owned() };
        let (pipeline, size) = self.pipelines.get(&dispatch.entry).ok_or_else(missing)?;
        let groups = match dispatch.groups {
            Groups::Fixed(groups) => groups,
            Groups::Cover { binding, stride } => {
                let bytes = sizes.get(binding as usize).copied().unwrap_or(0);
                let groups = bytes.div_ceil(u64::from(stride)).div_ceil(u64::from(size[0])).max(1);
                let bound = u64::from(limits::WORKGROUPS);
                let too_large =
                    || Refusal::TooLarge { rule: "workgroups that cover a buffer".to_owned(), found: groups, bound };
                let within = u32::try_from(groups).ok().filter(|groups| *groups <= limits::WORKGROUPS);
                [within.ok_or_else(too_large)?, 1, 1]
            }
        };
        let count = groups.iter().chain(size).fold(1_u64, |product, count| product.saturating_mul(u64::from(*count)));
        Ok((pipeline, groups, count))
    }
}

/// Finds the shader's variable for every binding, and sees that none is left.
fn fit(program: &GpuProgram, resources: &[Resource]) -> Result<Vec<Resource>, Refusal> {
    let unbound = resources.iter().find(|resource| !program.bindings.iter().any(|binding| is_for(binding, resource)));
    if let Some(resource) = unbound {
        let name = format!("@group({}) @binding({})", resource.group, resource.binding);
        return Err(Refusal::Binding {
            name,
            why: "the shader has this variable and nothing is bound to it".to_owned(),
        });
    }
    let storage = resources.iter().filter(|resource| resource.access != Access::Uniform).count();
    if storage > limits::STORAGE_BINDINGS {
        let bound = limits::STORAGE_BINDINGS as u64;
        return Err(Refusal::TooLarge { rule: "storage buffers".to_owned(), found: storage as u64, bound });
    }
    let fits = |binding: &Binding| {
        let refuse = |why: &str| Refusal::Binding { name: binding.name.as_str().to_owned(), why: why.to_owned() };
        let mut found = resources.iter().filter(|resource| is_for(binding, resource));
        let resource = found.next().ok_or_else(|| {
            refuse(&format!("the shader has no variable at @group({}) @binding({})", binding.group, binding.binding))
        })?;
        if found.next().is_some() {
            return Err(refuse("the shader has two variables there"));
        }
        match (&binding.kind, resource.access) {
            (Kind::Input, _) | (_, Access::ReadWrite) => Ok(resource.clone()),
            (_, Access::Read | Access::Uniform) => {
                Err(refuse("the shader only reads it: say `var<storage, read_write>`"))
            }
        }
    };
    program.bindings.iter().map(fits).collect()
}

fn is_for(binding: &Binding, resource: &Resource) -> bool {
    (binding.group, binding.binding) == (resource.group, resource.binding)
}

fn layouts(gpu: &Gpu, resources: &[Resource]) -> Result<Vec<(u32, BindGroupLayout)>, Fault> {
    let mut entries: BTreeMap<u32, Vec<BindGroupLayoutEntry>> = BTreeMap::new();
    let control = Resource { group: CONTROL_GROUP, binding: 0, access: Access::ReadWrite, bytes: 8 };
    for resource in resources.iter().chain([&control]) {
        let ty = match resource.access {
            Access::Uniform => BufferBindingType::Uniform,
            Access::Read => BufferBindingType::Storage { read_only: true },
            Access::ReadWrite => BufferBindingType::Storage { read_only: false },
        };
        entries.entry(resource.group).or_default().push(BindGroupLayoutEntry {
            binding: resource.binding,
            visibility: ShaderStages::COMPUTE,
            ty: BindingType::Buffer {
                ty,
                has_dynamic_offset: false,
                min_binding_size: std::num::NonZeroU64::new(resource.bytes),
            },
            count: None,
        });
    }
    let layout = |(group, entries): (u32, Vec<BindGroupLayoutEntry>)| {
        (group, gpu.device.create_bind_group_layout(&BindGroupLayoutDescriptor { label: None, entries: &entries }))
    };
    gpu.guarded(|| Ok(entries.into_iter().map(layout).collect()))
}

fn named(entries: &[(String, [u32; 3])]) -> String {
    match entries {
        [] => "no compute entry point".to_owned(),
        entries => {
            entries.iter().take(8).map(|(name, _)| format!("`{}`", shader::clip(name))).collect::<Vec<_>>().join(", ")
        }
    }
}

/// What an overrun of the loop counter means.
pub(super) fn overrun(steps: u32) -> Fault {
    LimitHit::Steps { bound: u64::from(steps) }.into()
}
