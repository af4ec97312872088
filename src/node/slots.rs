//! The slots of a node: named programs whose calls go through the node's memory, kept in its data directory.
//!
//! One file for each slot, `DATA/slots/HEX.slot`, where HEX is the digest of the name: a version byte, the postcard form of what is registered
//! and its number, and BLAKE3 of both. A change is on disk before it is seen. A damaged file is reported and left alone, and its slot is not there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use super::Node;
use crate::error::EvalError;
use crate::eval::{Answer, Eval};
use crate::evaluator::slots::{Registration, SlotError, SlotKind, Slots, Version};
use crate::evaluator::wasm::WasmEvaluator;
use crate::id::Digest;
use crate::node::status::SlotStatus;
use crate::request::Name;

/// The first byte of a file.
const SLOT_V1: u8 = 1;
/// The ending of finished files.
const ENDING: &str = "slot";

/// Slots, and where they are kept.
pub(super) struct NodeSlots {
    slots: Slots,
    folder: Option<PathBuf>,
    /// Held by whoever changes slots and files together.
    changing: Mutex<()>,
}

#[derive(Serialize, Deserialize)]
struct Kept {
    registration: Registration,
    number: u64,
}

impl NodeSlots {
    /// The slots that an earlier life of this node left.
    pub(super) fn open(evaluator: WasmEvaluator, folder: Option<PathBuf>) -> Self {
        let slots = Slots::new(evaluator);
        for path in folder.iter().filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten() {
            let path = path.path();
            if path.extension().is_none_or(|ending| ending != ENDING) {
                continue;
            }
            let restored = fs::read(&path)
                .and_then(|bytes| decode(&bytes))
                .and_then(|kept| slots.restore(&kept.registration, kept.number).map_err(io::Error::other));
            if let Err(error) = restored {
                tracing::warn!(file = %path.display(), %error, "a slot cannot be read and is not there");
            }
        }
        Self { slots, folder, changing: Mutex::new(()) }
    }

    /// Registers a program; see [`Slots::register`].
    pub(super) fn register(&self, wanted: &Registration) -> Result<Arc<Version>, SlotError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        let before = self.slots.find(&wanted.name);
        let version = self.slots.register(wanted)?;
        if before.as_ref().is_some_and(|before| before.number == version.number) {
            return Ok(version);
        }
        if let Err(error) = self.keep(&version) {
            // What was there before is there again.
            match before {
                Some(before) => drop(self.slots.restore(&before.registration(), before.number)),
                None => drop(self.slots.evict(&wanted.name)),
            }
            return Err(SlotError::NotKept { slot: wanted.name.clone(), why: error.to_string() });
        }
        Ok(version)
    }

    /// Forgets a slot. Says whether it was there.
    pub(super) fn evict(&self, name: &Name) -> Result<bool, SlotError> {
        let _changing = self.changing.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = &self.folder {
            match fs::remove_file(file(folder, name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(SlotError::NotKept { slot: name.clone(), why: error.to_string() });
                }
                _ => {}
            }
        }
        Ok(self.slots.evict(name))
    }

    pub(super) fn list(&self) -> Vec<Arc<Version>> {
        self.slots.list()
    }

    /// The version that a call means: of this kind, if the caller says one.
    fn get(&self, name: &Name, wanted: Option<SlotKind>) -> Result<Arc<Version>, SlotError> {
        match (wanted, self.slots.find(name)) {
            (None, Some(version)) => Ok(version),
            (wanted, _) => self.slots.get(name, wanted.unwrap_or(SlotKind::Command)),
        }
    }

    fn keep(&self, version: &Version) -> io::Result<()> {
        let Some(folder) = &self.folder else { return Ok(()) };
        fs::create_dir_all(folder)?;
        let kept = Kept { registration: version.registration(), number: version.number };
        let mut bytes = postcard::to_extend(&kept, vec![SLOT_V1]).map_err(io::Error::other)?;
        let hash = Digest::of(&bytes);
        bytes.extend(hash.as_bytes());
        let path = file(folder, &version.name);
        let unfinished = path.with_extension("unfinished");
        fs::write(&unfinished, bytes)?;
        fs::File::open(&unfinished)?.sync_all()?;
        fs::rename(&unfinished, path)
    }
}

fn file(folder: &Path, name: &Name) -> PathBuf {
    folder.join(format!("{}.{ENDING}", Digest::of(name.as_str().as_bytes())))
}

fn decode(bytes: &[u8]) -> io::Result<Kept> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let (body, hash) = bytes.split_last_chunk::<32>().ok_or_else(|| bad("too short"))?;
    if Digest::of(body).as_bytes() != hash {
        return Err(bad("damaged"));
    }
    match body.split_first() {
        Some((&SLOT_V1, kept)) => postcard::from_bytes(kept).map_err(io::Error::other),
        _ => Err(bad("of another version")),
    }
}

impl Node {
    /// Registers a program under a name, or replaces the one that is there; kept in the data directory, if there is one. Compiles, so it may take
    /// a while. See [`Slots::register`].
    pub fn register_slot(&self, wanted: &Registration) -> Result<Arc<Version>, SlotError> {
        self.inner.slots.register(wanted)
    }

    /// Forgets a slot. Says whether it was there.
    pub fn evict_slot(&self, name: &Name) -> Result<bool, SlotError> {
        self.inner.slots.evict(name)
    }

    /// The slots of this node, by name.
    #[must_use]
    pub fn slots(&self) -> Vec<SlotStatus> {
        self.inner.slots.list().iter().map(|one| one.as_ref().into()).collect()
    }

    /// Calls a program by its slot's name, as this kind if one is given. The call is a question like any other: held, fetched or computed.
    pub async fn call_slot(
        &self,
        name: &Name,
        kind: Option<SlotKind>,
        input: bytes::Bytes,
    ) -> Result<Answer, SlotError> {
        let version = self.inner.slots.get(name, kind)?;
        let called = |source: EvalError| SlotError::Call { slot: name.clone(), kind: version.kind, source };
        self.eval(version.request(input)).await.map_err(called)
    }
}

#[cfg(test)]
mod tests {
    use super::super::nested::block_on;
    use super::*;
    use crate::eval::Origin;

    fn registration(slot: &str, result: u32) -> Registration {
        let text = format!(
            r#"(module (memory (export "memory") 1) (func (export "alloc") (param i32) (result i32) (i32.const 64))
              (func (export "run") (param i32 i32) (result i64) (i64.const {result})))"#
        );
        let code = wat::parse_str(text).unwrap().into();
        let (kind, limits) = (SlotKind::Shape, crate::evaluator::slots::SlotLimits::default());
        Registration { name: slot.parse().unwrap(), kind, code, limits, probe: None }
    }

    fn call(node: &Node, slot: &str, kind: Option<SlotKind>) -> Result<Answer, SlotError> {
        let name = slot.parse().unwrap();
        let called = node.call_slot(&name, kind, b"x".as_slice().into());
        block_on(async { Ok(called.await) }, &|| Ok(())).unwrap()
    }

    #[test]
    fn slots_outlive_the_node_and_calls_are_remembered() {
        let folder = tempfile::tempdir().unwrap();
        let start = || Node::builder().data_dir(folder.path()).start().unwrap();
        let node = start();
        assert_eq!(node.register_slot(&registration("a/b", 1)).unwrap().number, 1);
        assert_eq!(node.register_slot(&registration("a/b", 2)).unwrap().number, 2);
        assert_eq!(node.register_slot(&registration("a/b", 2)).unwrap().number, 2);
        node.register_slot(&registration("gone", 1)).unwrap();
        assert_eq!(call(&node, "a/b", None).unwrap().origin, Origin::Computed);
        assert_eq!(call(&node, "a/b", Some(SlotKind::Shape)).unwrap().origin, Origin::Ram);
        assert_eq!(
            (node.evict_slot(&"gone".parse().unwrap()), node.evict_slot(&"gone".parse().unwrap())),
            (Ok(true), Ok(false))
        );
        node.shutdown();
        let node = start();
        let [slot] = &node.slots()[..] else { panic!("one slot") };
        assert_eq!((slot.name.as_str(), slot.number, slot.kind), ("a/b", 2, SlotKind::Shape));
        assert_eq!(call(&node, "a/b", None).unwrap().origin, Origin::Disk);
        assert!(matches!(call(&node, "a/b", Some(SlotKind::Filter)), Err(SlotError::OtherKind { .. })));
        assert!(matches!(call(&node, "gone", None), Err(SlotError::Missing { .. })));
        node.shutdown();
        let file = file(&folder.path().join("slots"), &"a/b".parse().unwrap());
        let mut bytes = fs::read(&file).unwrap();
        bytes[20] ^= 1;
        fs::write(&file, bytes).unwrap();
        let node = start();
        assert!(node.slots().is_empty() && file.exists(), "a damaged file is no slot, and is left alone");
        node.shutdown();
    }

    #[test]
    fn what_cannot_be_kept_is_not_registered() {
        let folder = tempfile::tempdir().unwrap();
        let node = Node::builder().data_dir(folder.path()).start().unwrap();
        fs::write(folder.path().join("slots"), "in the way").unwrap();
        assert!(matches!(node.register_slot(&registration("a", 1)), Err(SlotError::NotKept { .. })));
        assert!(node.slots().is_empty());
        node.shutdown();
    }
}
