//! How much a driver will have to compile, and how much memory of a workgroup and an invocation the shader takes: known before anybody tries.
//!
//! Drivers expand calls, so a few lines that call each other twice are minutes of work and gigabytes; what counts is the size after expansion.

use std::collections::BTreeMap;

use naga::valid::ModuleInfo;
use naga::{AddressSpace, Function, Handle, Module, ShaderStage, Statement};

use super::super::limits;
use super::operands::walk;
use crate::error::Refusal;

/// What one function costs with every call in it expanded.
#[derive(Debug, Clone, Copy, Default)]
struct Weight {
    /// Statements and expressions.
    size: u64,
    /// Bytes of local variables.
    locals: u64,
}

/// Refuses a shader that is too heavy; returns its compute entry points with their workgroup sizes.
pub(super) fn weigh(module: &Module, info: &ModuleInfo) -> Result<Vec<(String, [u32; 3])>, Refusal> {
    let bytes = |handle: Handle<naga::Type>| u64::from(module.types[handle].inner.size(module.to_ctx()));
    let mut functions = BTreeMap::new();
    // A function stands after those that it calls, so one pass is enough; a validator has seen that none calls itself.
    for (handle, function) in module.functions.iter() {
        functions.insert(handle.index(), weight(function, &functions, bytes));
    }
    let globals = |space: AddressSpace, used: &dyn Fn(Handle<naga::GlobalVariable>) -> bool| -> u64 {
        let of_space =
            module.global_variables.iter().filter(|(handle, variable)| variable.space == space && used(*handle));
        of_space.map(|(_, variable)| bytes(variable.ty)).sum()
    };
    let mut entries = Vec::new();
    for (index, entry) in module.entry_points.iter().enumerate() {
        if entry.stage != ShaderStage::Compute {
            return Err(Refusal::Shader(format!("`{}` is no compute entry point", entry.name)));
        }
        let entry_info = info.get_entry_point(index);
        let used = |handle: Handle<naga::GlobalVariable>| !entry_info[handle].is_empty();
        let own = weight(&entry.function, &functions, bytes);
        within("size of an entry point with its calls expanded", own.size, limits::EXPANDED)?;
        within(
            "bytes of local and private variables",
            own.locals + globals(AddressSpace::Private, &used),
            limits::PRIVATE_BYTES,
        )?;
        within("bytes of workgroup memory", globals(AddressSpace::WorkGroup, &used), limits::WORKGROUP_BYTES)?;
        let [x, y, z] = entry.workgroup_size.map(u64::from);
        let invocations = x.saturating_mul(y).saturating_mul(z);
        within("invocations of a workgroup", invocations, u64::from(limits::WORKGROUP_INVOCATIONS))?;
        within("depth of a workgroup", z, 64)?;
        if invocations == 0 {
            return Err(Refusal::Shader(format!("`{}` has a workgroup of no invocation", entry.name)));
        }
        entries.push((entry.name.clone(), entry.workgroup_size));
    }
    Ok(entries)
}

fn weight(function: &Function, called: &BTreeMap<usize, Weight>, bytes: impl Fn(Handle<naga::Type>) -> u64) -> Weight {
    let mut weight = Weight { size: function.expressions.len() as u64, locals: 0 };
    weight.locals =
        function.local_variables.iter().map(|(_, variable)| bytes(variable.ty)).fold(0, u64::saturating_add);
    walk(&function.body, &mut |statement| {
        weight.size = weight.size.saturating_add(1);
        if let Statement::Call { function, .. } = statement {
            let inner = called.get(&function.index()).copied().unwrap_or_default();
            weight.size = weight.size.saturating_add(inner.size);
            weight.locals = weight.locals.saturating_add(inner.locals);
        }
    });
    weight
}

fn within(rule: &str, found: u64, bound: u64) -> Result<(), Refusal> {
    if found <= bound { Ok(()) } else { Err(Refusal::TooLarge { rule: rule.to_owned(), found, bound }) }
}
