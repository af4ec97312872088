//! Compiled code of either kind, and the two places where native code is trusted.

use std::fs::File;
#[cfg(feature = "component")]
use std::io::{Read, Seek};

#[cfg(feature = "component")]
use wasmtime::component::Component;
use wasmtime::{Engine, Module};

#[cfg(feature = "component")]
use super::admit::is_component;
use crate::evaluator::artifacts::Miss;

/// A compiled program that is not linked yet.
pub(super) enum Compiled {
    /// A core module.
    Module(Module),
    /// A component.
    #[cfg(feature = "component")]
    Component(Component),
}

impl Compiled {
    /// Compiles in this process.
    pub(super) fn here(engine: &Engine, program: &[u8]) -> wasmtime::Result<Self> {
        #[cfg(feature = "component")]
        if is_component(program) {
            return Component::from_binary(engine, program).map(Self::Component);
        }
        Module::from_binary(engine, program).map(Self::Module)
    }
}

/// Compiles to bytes that can be kept.
pub(super) fn precompile(engine: &Engine, program: &[u8]) -> wasmtime::Result<Vec<u8>> {
    #[cfg(feature = "component")]
    if is_component(program) {
        return engine.precompile_component(program);
    }
    engine.precompile_module(program)
}

/// Loads a whole copy of code that this process, its worker or a listed signer has just vouched for.
pub(super) fn load_bytes(engine: &Engine, code: &[u8], component: bool) -> Result<Compiled, Miss> {
    #[cfg(feature = "component")]
    if component {
        #[expect(unsafe_code, reason = "native code can only be loaded by trusting whoever made it")]
        // SAFETY: as below.
        let loaded = unsafe { Component::deserialize(engine, code) };
        return loaded.map(Compiled::Component).map_err(|error| not_loadable(&error));
    }
    debug_assert!(!component || cfg!(feature = "component"), "the scan and `Shape::of` refuse them");
    #[expect(unsafe_code, reason = "native code can only be loaded by trusting whoever made it")]
    // SAFETY: the bytes are what this node's own compiler returned through a private pipe, what a signer whom the operator listed has signed, or
    // what was read from a file of the store whose keyed hash held over these very bytes.
    let loaded = unsafe { Module::deserialize(engine, code) };
    loaded.map(Compiled::Module).map_err(|error| not_loadable(&error))
}

/// Maps a file of this node's store whose keyed hash held a moment ago.
pub(super) fn map(engine: &Engine, file: File, len: u64, component: bool) -> Result<Compiled, Miss> {
    #[cfg(feature = "component")]
    if component {
        // Components are small, and wasmtime maps them by path alone.
        let mut file = file;
        let mut code = Vec::new();
        let read = file.rewind().and_then(|()| file.take(len).read_to_end(&mut code));
        read.map_err(|_| Miss::Unreadable)?;
        return load_bytes(engine, &code, true);
    }
    let _ = (len, component);
    #[expect(unsafe_code, reason = "native code can only be loaded by trusting whoever made it")]
    // SAFETY: the keyed hash over the whole file held a moment ago, so this node wrote these bytes, which its own compiler made. Finished files
    // are never written again, only replaced or unlinked, and the folder is this user's alone, so the mapping stays what was checked.
    let loaded = unsafe { Module::deserialize_open_file(engine, file) };
    loaded.map(Compiled::Module).map_err(|error| not_loadable(&error))
}

fn not_loadable(error: &wasmtime::Error) -> Miss {
    tracing::warn!("the engine refuses compiled code: {error:#}");
    Miss::NotLoadable
}
