//! The other side: wasmtime by itself, with the settings of the evaluator's engine, a pool of the same size, fuel and epochs.
//!
//! It does what an embedder has to do for the same call and nothing else: a fresh store, an instance from an `InstancePre`, typed calls, drop.

use std::hint::black_box;

use wasmtime::{Config, Enabled, Engine, InstancePre, Linker, Module, PoolingAllocationConfig, Store};

pub(crate) struct Bare {
    engine: Engine,
    filter: InstancePre<()>,
    queens: InstancePre<()>,
    command: InstancePre<()>,
}

impl Bare {
    pub(crate) fn new() -> Self {
        let pagemap = PoolingAllocationConfig::is_pagemap_scan_available();
        let mut pool = PoolingAllocationConfig::new();
        pool.total_core_instances(64)
            .total_memories(64)
            .total_tables(64 * 16)
            .max_tables_per_module(16)
            .max_memory_size(1 << 30)
            .table_elements(1 << 20)
            .linear_memory_keep_resident(if pagemap { 1 << 20 } else { 64 << 10 })
            .table_keep_resident(64 << 10)
            .pagemap_scan(if pagemap { Enabled::Yes } else { Enabled::No });
        let mut config = Config::new();
        config
            .cranelift_nan_canonicalization(true)
            .consume_fuel(true)
            .epoch_interruption(true)
            .max_wasm_stack(1 << 20)
            .wasm_backtrace_max_frames(None)
            .allocation_strategy(pool);
        let engine = Engine::new(&config).expect("an engine");
        let mut linker = Linker::new(&engine);
        let pre = |linker: &mut Linker<()>, bytes: &[u8]| {
            let module = Module::new(&engine, bytes).expect("a module");
            linker.define_unknown_imports_as_traps(&module).expect("imports");
            linker.instantiate_pre(&module).expect("linked")
        };
        Self {
            filter: pre(&mut linker, super::ROT13),
            queens: pre(&mut linker, super::QUEENS),
            command: pre(&mut linker, super::WORDFREQ),
            engine,
        }
    }

    fn store(&self) -> Store<()> {
        let mut store = Store::new(&self.engine, ());
        store.set_fuel(200_000_000_000).expect("fuel is on");
        store.set_epoch_deadline(1);
        store
    }

    pub(crate) fn filter(&self, input: &[u8]) {
        let mut store = self.store();
        let instance = self.filter.instantiate(&mut store).expect("an instance");
        let alloc = instance.get_typed_func::<u32, u32>(&mut store, "alloc").expect("alloc");
        let run = instance.get_typed_func::<(u32, u32), u64>(&mut store, "run").expect("run");
        let memory = instance.get_memory(&mut store, "memory").expect("memory");
        let len = u32::try_from(input.len()).expect("small");
        let at = alloc.call(&mut store, len).expect("room");
        memory.write(&mut store, at as usize, input).expect("inside");
        let result = run.call(&mut store, (at, len)).expect("a result");
        let mut output = vec![0; usize::try_from(result & 0xffff_ffff).expect("small")];
        memory.read(&store, usize::try_from(result >> 32).expect("small"), &mut output).expect("inside");
        black_box(output);
    }

    pub(crate) fn call(&self, n: i32) {
        let mut store = self.store();
        let instance = self.queens.instantiate(&mut store).expect("an instance");
        let queens = instance.get_typed_func::<i32, i64>(&mut store, "queens").expect("queens");
        black_box(queens.call(&mut store, n).expect("a result").to_string());
    }

    pub(crate) fn instantiate_command(&self) {
        let mut store = self.store();
        black_box(self.command.instantiate(&mut store).expect("an instance"));
    }
}
