//! From a WGSL text to an IR that may run: parsed, validated, weighed, judged and rewritten.
//!
//! All of it happens in a worker process, since even a parser can be brought down. Invariant: an [`Admitted`] shader ends - every loop counts, and
//! one that counts too far says so - and touches no memory but its own, whatever the driver makes of out-of-bounds indices. Whether it is
//! portable is proven here or not at all (`portable`).

mod operands;
mod portable;
mod rewrite;
#[cfg(test)]
mod tests;
mod uniform;
mod weigh;

use naga::valid::{Capabilities, ModuleInfo, ValidationFlags, Validator};
use naga::{AddressSpace, ArraySize, Module, StorageAccess, TypeInner};

use super::limits;
use super::scan::scan;
use crate::error::Refusal;

/// A shader that may run.
pub(super) struct Admitted {
    /// The rewritten IR.
    pub(super) module: Module,
    /// The variables that buffers are bound to.
    pub(super) resources: Vec<Resource>,
    /// The compute entry points with their workgroup sizes.
    pub(super) entries: Vec<(String, [u32; 3])>,
    /// Why it is not portable, if it is not.
    pub(super) not_portable: Option<String>,
}

/// A variable that a buffer is bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Resource {
    pub(super) group: u32,
    pub(super) binding: u32,
    pub(super) access: Access,
    /// The fewest bytes that a buffer for it has; one element, for an array of any length.
    pub(super) bytes: u64,
}

/// What a shader does with a buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Uniform,
    Read,
    ReadWrite,
}

/// The bind group and binding of this evaluator's own buffer: the steps that each invocation may take, and whether one took more.
pub(super) const CONTROL_GROUP: u32 = limits::GROUPS;

/// Admits a shader; `subgroups` says whether the device has them. Recurses, so it wants `limits::PARSE_STACK`.
pub(super) fn admit(text: &str, subgroups: bool) -> Result<Admitted, Refusal> {
    scan(text)?;
    let mut module = naga::front::wgsl::parse_str(text).map_err(|error| {
        let at = error.location(text).map_or_else(String::new, |at| format!(" in line {}", at.line_number));
        Refusal::Shader(clip(&format!("{}{at}", error.message())))
    })?;
    if !module.overrides.is_empty() {
        return Err(Refusal::Shader("`override` has no value here: use `const`, or a uniform".to_owned()));
    }
    let info = validate(&module, subgroups)?;
    let entries = weigh::weigh(&module, &info)?;
    uniform::check(&module)?;
    let resources = resources(&module)?;
    let not_portable = portable::prove(&module, &info).err();
    rewrite::rewrite(&mut module, &info)?;
    Ok(Admitted { module, resources, entries, not_portable })
}

fn validate(module: &Module, subgroups: bool) -> Result<ModuleInfo, Refusal> {
    let capabilities =
        if subgroups { Capabilities::SUBGROUP | Capabilities::SUBGROUP_BARRIER } else { Capabilities::empty() };
    let mut validator = Validator::new(ValidationFlags::all(), capabilities);
    if subgroups {
        validator.subgroup_stages(naga::valid::ShaderStages::COMPUTE);
        validator.subgroup_operations(naga::valid::SubgroupOperationSet::all());
    }
    validator.validate(module).map_err(|error| {
        let mut text = error.to_string();
        let mut source = std::error::Error::source(error.as_inner());
        while let Some(error) = source {
            text = format!("{text}: {error}");
            source = error.source();
        }
        Refusal::Shader(clip(&text))
    })
}

fn resources(module: &Module) -> Result<Vec<Resource>, Refusal> {
    let mut layouter = naga::proc::Layouter::default();
    layouter.update(module.to_ctx()).map_err(|error| Refusal::Shader(clip(&error.to_string())))?;
    let mut resources = Vec::new();
    for (_, variable) in module.global_variables.iter() {
        let Some(at) = variable.binding else { continue };
        let name = || variable.name.clone().unwrap_or_else(|| format!("{}.{}", at.group, at.binding));
        let refuse = |why: &str| Refusal::Binding { name: name(), why: why.to_owned() };
        let access = match variable.space {
            AddressSpace::Uniform => Access::Uniform,
            AddressSpace::Storage { access } if access == StorageAccess::LOAD => Access::Read,
            AddressSpace::Storage { .. } => Access::ReadWrite,
            _ => return Err(refuse("only storage and uniform buffers can be bound, no textures and no samplers")),
        };
        if at.group >= limits::GROUPS {
            return Err(refuse(&format!("groups go up to {}", limits::GROUPS - 1)));
        }
        let size = u64::from(layouter[variable.ty].size);
        let element = match &module.types[variable.ty].inner {
            TypeInner::Array { size: ArraySize::Dynamic, stride, .. } => u64::from(*stride),
            TypeInner::BindingArray { .. } => return Err(refuse("arrays of buffers cannot be bound")),
            _ => 0,
        };
        resources.push(Resource { group: at.group, binding: at.binding, access, bytes: size.max(element).max(4) });
    }
    Ok(resources)
}

/// The beginning of a text that a program may have made as long as it likes.
pub(super) fn clip(text: &str) -> String {
    const TEXT: usize = 500;
    text[..text.floor_char_boundary(TEXT)].to_owned()
}
