//! Which version is current under which name: read by many while one changes it.
//!
//! Whoever looks takes the published view, which never changes; whoever changes something makes the next view and publishes it as a whole.
//! Knows nothing of evaluators: what is registered here was prepared before. Its locks come from the module above, so that
//! `tests/interleavings` runs this very file under many orders of its threads.

use std::collections::{BTreeMap, BTreeSet};

use super::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use super::{MAX_SLOTS, Reconciled, Registration, SlotError, SlotKind, Version};
use crate::id::Digest;
use crate::request::Name;

type View = BTreeMap<Name, Arc<Version>>;

/// Current versions by name.
#[derive(Debug, Default)]
pub(super) struct Table {
    /// Replaced as a whole; the lock is held for as long as it takes to copy a pointer.
    view: RwLock<Arc<View>>,
    /// Held by whoever makes the next view.
    changing: Mutex<()>,
}

impl Table {
    /// Makes a prepared program current.
    pub(super) fn register(&self, wanted: &Registration, digest: Digest) -> Result<Arc<Version>, SlotError> {
        let _changing = self.change();
        let mut view = View::clone(&self.view());
        let version = put(&mut view, wanted, digest)?;
        self.publish(view);
        Ok(version)
    }

    /// Makes a version current that was so in an earlier life of this process.
    pub(super) fn restore(&self, version: Version) -> Result<Arc<Version>, SlotError> {
        let _changing = self.change();
        let mut view = View::clone(&self.view());
        if view.len() >= MAX_SLOTS && !view.contains_key(&version.name) {
            return Err(SlotError::Full { bound: MAX_SLOTS });
        }
        let version = Arc::new(version);
        view.insert(version.name.clone(), Arc::clone(&version));
        self.publish(view);
        Ok(version)
    }

    /// Forgets a name. Says whether it was there.
    pub(super) fn evict(&self, name: &Name) -> bool {
        let _changing = self.change();
        let mut view = View::clone(&self.view());
        let was_there = view.remove(name).is_some();
        if was_there {
            self.publish(view);
        }
        was_there
    }

    /// Makes the table exactly these prepared programs, or changes nothing. What is new is there before what is gone is not.
    pub(super) fn reconcile(&self, wanted: &[Registration], digests: Vec<Digest>) -> Result<Reconciled, SlotError> {
        let _changing = self.change();
        let before = self.view();
        let mut view = View::clone(&before);
        let mut done = Reconciled::default();
        let mut named = BTreeSet::new();
        for (one, digest) in wanted.iter().zip(digests) {
            if !named.insert(one.name.clone()) {
                return Err(SlotError::Twice { slot: one.name.clone() });
            }
            let version = put(&mut view, one, digest)?;
            let list = match before.get(&one.name) {
                None => &mut done.added,
                Some(old) if old.number == version.number => &mut done.unchanged,
                Some(_) => &mut done.replaced,
            };
            list.push(one.name.clone());
        }
        self.publish(view.clone());
        done.evicted = view.keys().filter(|name| !named.contains(*name)).cloned().collect();
        view.retain(|name, _| named.contains(name));
        self.publish(view);
        Ok(done)
    }

    /// All current versions, by name.
    pub(super) fn list(&self) -> Vec<Arc<Version>> {
        self.view().values().cloned().collect()
    }

    /// The current version under a name, whatever its kind.
    pub(super) fn find(&self, name: &Name) -> Option<Arc<Version>> {
        self.view().get(name).cloned()
    }

    /// The current version under a name that is called as this kind.
    pub(super) fn get(&self, name: &Name, wanted: SlotKind) -> Result<Arc<Version>, SlotError> {
        match self.view().get(name) {
            Some(version) if version.kind == wanted => Ok(Arc::clone(version)),
            Some(version) => Err(SlotError::OtherKind { slot: name.clone(), kind: version.kind, wanted }),
            None => Err(SlotError::Missing { slot: name.clone(), wanted }),
        }
    }

    /// Refuses a program early that could not be registered because the name has another kind.
    pub(super) fn accepts(&self, wanted: &Registration) -> Result<(), SlotError> {
        match self.view().get(&wanted.name) {
            Some(version) if version.kind != wanted.kind => Err(kind_change(version, wanted)),
            _ => Ok(()),
        }
    }

    fn view(&self) -> Arc<View> {
        Arc::clone(&self.view.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, view: View) {
        *self.view.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(view);
    }

    fn change(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Puts a prepared program into the next view.
fn put(view: &mut View, wanted: &Registration, digest: Digest) -> Result<Arc<Version>, SlotError> {
    let number = match view.get(&wanted.name) {
        Some(version) if version.kind != wanted.kind => return Err(kind_change(version, wanted)),
        Some(version) if version.is(wanted, digest) => return Ok(Arc::clone(version)),
        Some(version) => version.number + 1,
        None if view.len() >= MAX_SLOTS => return Err(SlotError::Full { bound: MAX_SLOTS }),
        None => 1,
    };
    let version = Arc::new(wanted.version(digest, number));
    view.insert(version.name.clone(), Arc::clone(&version));
    Ok(version)
}

fn kind_change(version: &Version, wanted: &Registration) -> SlotError {
    SlotError::KindChange { slot: version.name.clone(), kind: version.kind, wanted: wanted.kind }
}
