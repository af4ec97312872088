//! The second layer: native code on this node's own disk, so that a restart compiles nothing.
//!
//! The files are those of `artifacts`. Invariant: no file is mapped before its keyed hash held and its fingerprint matched exactly.

use std::io;

use wasmtime::Engine;

use super::admit::Shape;
use super::code::{self, Compiled};
use super::limits::ARTIFACT_BYTES;
use crate::evaluator::artifacts::{AotConfig, Counters, Fingerprint, Form, Miss, Store};
use crate::id::Digest;

/// What a trailer begins with; the last byte is its version.
const MAGIC: [u8; 8] = *b"EMAOT\0\0\x01";
/// Magic, program, engine, policy, memory maximum, bits of the shape, length of the code.
const FACTS: usize = 8 + 32 + 32 + 4 + 8 + 1 + 8;

/// Native code that was made for a fingerprint, with what the scan found out about its program.
#[derive(Debug)]
pub(super) struct Artifact {
    pub(super) shape: Shape,
    pub(super) code: Vec<u8>,
}

/// The store.
#[derive(Debug)]
pub(super) struct AotStore(Store);

impl AotStore {
    /// Opens the store and removes what a killed process left unfinished.
    pub(super) fn open(config: AotConfig, counters: &Counters) -> io::Result<Self> {
        Store::open(config, Form { name: "wasm", facts: FACTS, most: ARTIFACT_BYTES }, counters).map(Self)
    }

    /// Maps the code of this fingerprint.
    pub(super) fn load(
        &self,
        engine: &Engine,
        wanted: &Fingerprint,
        counters: &Counters,
    ) -> Result<(Compiled, Shape), Miss> {
        self.0.load(&wanted.name(), counters, |found| {
            let shape = parse(&found.facts, wanted, found.len)?;
            code::map(engine, found.file, found.len, shape.component).map(|compiled| (compiled, shape))
        })
    }

    /// Keeps code under its fingerprint. The file appears whole or not at all.
    pub(super) fn store(&self, made_for: &Fingerprint, artifact: &Artifact, counters: &Counters) -> io::Result<()> {
        let facts = facts(made_for, &artifact.shape, artifact.code.len() as u64);
        self.0.store(&made_for.name(), &artifact.code, &facts, counters)
    }
}

fn facts(made_for: &Fingerprint, shape: &Shape, code_len: u64) -> Vec<u8> {
    let mut facts = Vec::with_capacity(FACTS);
    facts.extend(MAGIC);
    facts.extend(made_for.program.as_bytes());
    facts.extend(made_for.engine.as_bytes());
    facts.extend(made_for.policy.to_le_bytes());
    facts.extend(shape.memory_maximum.to_le_bytes());
    facts.push(shape.bits());
    facts.extend(code_len.to_le_bytes());
    facts
}

/// Reads the facts of an authentic trailer, which may still be about another program or engine.
fn parse(facts: &[u8], wanted: &Fingerprint, code_len: u64) -> Result<Shape, Miss> {
    let mut rest = facts;
    let mut take = |len: usize| {
        let (part, tail) = rest.split_at_checked(len).ok_or(Miss::Truncated)?;
        rest = tail;
        Ok::<_, Miss>(part)
    };
    if take(8)? != MAGIC {
        return Err(Miss::Truncated);
    }
    let digest = |part: &[u8]| part.try_into().map(Digest::from_bytes).map_err(|_| Miss::Truncated);
    let (program, engine) = (digest(take(32)?)?, digest(take(32)?)?);
    let policy = u32::from_le_bytes(take(4)?.try_into().map_err(|_| Miss::Truncated)?);
    let memory_maximum = u64::from_le_bytes(take(8)?.try_into().map_err(|_| Miss::Truncated)?);
    let bits = take(1)?[0];
    let found_len = u64::from_le_bytes(take(8)?.try_into().map_err(|_| Miss::Truncated)?);
    if (Fingerprint { program, engine, policy }) != *wanted || found_len != code_len {
        return Err(Miss::OtherFingerprint);
    }
    Shape::of(memory_maximum, bits).ok_or(Miss::Truncated)
}
