//! The guest's files: inputs and scratch, in memory, as one flat map of clean paths.
//!
//! The root is the empty path and no path holds `.`, `..` or an empty part, so there is nothing to escape to; links do not exist. Inputs are
//! shared bytes until the guest changes them. Invariant: every byte that the guest added is charged to its output budget before it exists.
//! Knows nothing of descriptors or of a guest's memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::super::limits::{DIRECTORIES, NAME_BYTES};
use super::super::store::Stop;
use super::abi::{Errno, Fault};
use crate::error::{LimitHit, Refusal};
use crate::limits::{MAX_OUTPUT_FILES, MAX_PATH};
use crate::request::RelPath;

/// Bytes that the guest may still produce: stdout, stderr and its own file contents share them.
#[derive(Debug)]
pub(in super::super) struct Budget {
    bound: u64,
    used: u64,
}

impl Budget {
    pub(in super::super) fn new(bound: u64) -> Self {
        Self { bound, used: 0 }
    }

    /// Ends the evaluation where the budget does not suffice: an output is never cut.
    pub(in super::super) fn take(&mut self, bytes: u64) -> Result<(), Fault> {
        self.used = self.used.saturating_add(bytes);
        if self.used > self.bound {
            return Err(Stop::from(LimitHit::Output { bound: self.bound }).into());
        }
        Ok(())
    }

    /// Nothing is held any more.
    #[cfg(feature = "component")]
    pub(in super::super) fn reset(&mut self) {
        self.used = 0;
    }

    pub(in super::super) fn give_back(&mut self, bytes: u64) {
        self.used = self.used.saturating_sub(bytes);
    }
}

/// Names a file's contents, which outlive its path while a descriptor is open.
pub(super) type FileId = usize;

/// What a path names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Entry {
    /// A directory, by its inode.
    Directory(u64),
    /// A file.
    File(FileId),
}

#[derive(Debug)]
enum Data {
    Input(Bytes),
    Own(Vec<u8>),
}

#[derive(Debug)]
struct File {
    data: Data,
    /// The path and every open descriptor hold one.
    holders: usize,
    /// Whether it counts as one of the guest's own: made, changed or moved by it.
    own: bool,
}

/// The files.
#[derive(Debug)]
pub(super) struct Files {
    entries: BTreeMap<String, Entry>,
    slots: Vec<File>,
    /// Places in `slots` that nothing holds any more.
    free: Vec<FileId>,
    inputs: BTreeMap<String, Bytes>,
    /// Inodes of directories; the root is 1.
    last_inode: u64,
    /// How many directories, and how many own files, the guest may still make.
    directories_left: usize,
    own_left: usize,
    /// How many own files this evaluation may have, where that is fewer than any may.
    bound: u64,
}

impl Files {
    pub(super) fn new<'a>(inputs: impl Iterator<Item = (&'a RelPath, &'a Bytes)>, bound: u64) -> Result<Self, Refusal> {
        let mut this = Self {
            entries: BTreeMap::from([(String::new(), Entry::Directory(1))]),
            slots: Vec::new(),
            free: Vec::new(),
            inputs: BTreeMap::new(),
            last_inode: 1,
            directories_left: DIRECTORIES,
            own_left: MAX_OUTPUT_FILES,
            bound,
        };
        for (path, bytes) in inputs {
            let path = path.as_str();
            let clash = || Refusal::Arguments(format!("input `{path}` is both a file and a directory"));
            for (end, _) in path.match_indices('/') {
                this.last_inode += 1;
                let inode = this.last_inode;
                let entry = this.entries.entry(path[..end].to_owned()).or_insert(Entry::Directory(inode));
                if matches!(entry, Entry::File(_)) {
                    return Err(clash());
                }
            }
            let id = this.slots.len();
            this.slots.push(File { data: Data::Input(bytes.clone()), holders: 1, own: false });
            if this.entries.insert(path.to_owned(), Entry::File(id)).is_some() {
                return Err(clash());
            }
            this.inputs.insert(path.to_owned(), bytes.clone());
        }
        Ok(this)
    }

    /// The clean form of `path` as seen from a directory, and whether it must be a directory. Every part but the last has to exist.
    pub(super) fn resolve(&self, from: &str, path: &str) -> Result<(String, bool), Errno> {
        if path.is_empty() {
            return Err(Errno::Noent);
        }
        if path.starts_with('/') {
            return Err(Errno::Notcapable);
        }
        let mut clean = from.to_owned();
        for part in path.split('/') {
            if part.is_empty() || part == "." {
                continue;
            }
            match self.get(&clean) {
                Some(Entry::Directory(_)) => {}
                Some(Entry::File(_)) => return Err(Errno::Notdir),
                None => return Err(Errno::Noent),
            }
            if part == ".." {
                let parent = parent(&clean).ok_or(Errno::Notcapable)?.len();
                clean.truncate(parent);
                continue;
            }
            if part.contains(['\0', '\\']) {
                return Err(Errno::Ilseq);
            }
            if !clean.is_empty() {
                clean.push('/');
            }
            clean.push_str(part);
            if part.len() > NAME_BYTES || clean.len() > MAX_PATH {
                return Err(Errno::Nametoolong);
            }
        }
        let directory =
            path.ends_with('/') || path.ends_with("/.") || path.ends_with("/..") || path == "." || path == "..";
        Ok((clean, directory))
    }

    pub(super) fn get(&self, path: &str) -> Option<Entry> {
        self.entries.get(path).copied()
    }

    /// The names in a directory, sorted, with what they name.
    pub(super) fn list(&self, path: &str) -> Vec<(String, Entry)> {
        let below = |(full, entry): (&String, &Entry)| {
            let name = child(path, full)?;
            (!name.contains('/')).then(|| (name.to_owned(), *entry))
        };
        self.subtree(path).filter_map(below).collect()
    }

    /// Everything strictly below a directory, in order.
    fn subtree(&self, path: &str) -> impl Iterator<Item = (&String, &Entry)> {
        let prefix = if path.is_empty() { String::new() } else { format!("{path}/") };
        let from = self.entries.range(prefix.clone()..);
        from.take_while(move |(full, _)| full.starts_with(&prefix)).filter(|(full, _)| !full.is_empty())
    }

    /// Makes an empty file where nothing is yet.
    pub(super) fn create(&mut self, path: &str) -> Result<FileId, Fault> {
        let id = self.free.pop().unwrap_or(self.slots.len());
        let file = File { data: Data::Own(Vec::new()), holders: 1, own: false };
        match self.slots.get_mut(id) {
            Some(place) => *place = file,
            None => self.slots.push(file),
        }
        if let Err(fault) = self.count_own(id) {
            self.free.push(id);
            return Err(fault);
        }
        self.entries.insert(path.to_owned(), Entry::File(id));
        Ok(id)
    }

    fn count_own(&mut self, id: FileId) -> Result<(), Fault> {
        if !self.slots[id].own {
            let own = MAX_OUTPUT_FILES - self.own_left;
            if own as u64 >= self.bound && own < MAX_OUTPUT_FILES {
                return Err(Stop::from(LimitHit::Files { bound: self.bound }).into());
            }
            self.own_left = self.own_left.checked_sub(1).ok_or(Errno::Nospc)?;
            self.slots[id].own = true;
        }
        Ok(())
    }

    pub(super) fn create_directory(&mut self, path: &str) -> Result<(), Errno> {
        if self.get(path).is_some() {
            return Err(Errno::Exist);
        }
        self.directories_left = self.directories_left.checked_sub(1).ok_or(Errno::Nospc)?;
        self.last_inode += 1;
        self.entries.insert(path.to_owned(), Entry::Directory(self.last_inode));
        Ok(())
    }

    pub(super) fn remove_directory(&mut self, path: &str) -> Result<(), Errno> {
        match self.get(path) {
            None => Err(Errno::Noent),
            Some(Entry::File(_)) => Err(Errno::Notdir),
            Some(Entry::Directory(_)) if path.is_empty() => Err(Errno::Perm),
            Some(Entry::Directory(_)) if self.subtree(path).next().is_some() => Err(Errno::Notempty),
            Some(Entry::Directory(_)) => {
                self.entries.remove(path);
                self.directories_left += 1;
                Ok(())
            }
        }
    }

    pub(super) fn unlink(&mut self, path: &str, budget: &mut Budget) -> Result<(), Errno> {
        match self.get(path) {
            None => Err(Errno::Noent),
            Some(Entry::Directory(_)) => Err(Errno::Isdir),
            Some(Entry::File(id)) => {
                self.entries.remove(path);
                self.release(id, budget);
                Ok(())
            }
        }
    }

    pub(super) fn rename(&mut self, from: &str, to: &str, budget: &mut Budget) -> Result<(), Fault> {
        let moved = self.get(from).ok_or(Errno::Noent)?;
        if from == to {
            return Ok(());
        }
        if from.is_empty() || to.is_empty() {
            return Err(Errno::Perm.into());
        }
        if matches!(moved, Entry::Directory(_)) && child(from, to).is_some() {
            return Err(Errno::Inval.into());
        }
        let mut all: Vec<(String, Entry)> = vec![(from.to_owned(), moved)];
        if matches!(moved, Entry::Directory(_)) {
            all.extend(self.subtree(from).map(|(path, entry)| (path.clone(), *entry)));
        }
        if all.iter().any(|(path, _)| path.len() - from.len() + to.len() > MAX_PATH) {
            return Err(Errno::Nametoolong.into());
        }
        // A moved input is an output under its new path.
        for (_, entry) in &all {
            if let Entry::File(id) = entry {
                self.count_own(*id)?;
            }
        }
        match (moved, self.get(to)) {
            (Entry::Directory(_), Some(Entry::File(_))) => return Err(Errno::Notdir.into()),
            (Entry::File(_), Some(Entry::Directory(_))) => return Err(Errno::Isdir.into()),
            (Entry::Directory(_), Some(Entry::Directory(_))) => self.remove_directory(to)?,
            (Entry::File(_), Some(Entry::File(_))) => self.unlink(to, budget)?,
            (_, None) => {}
        }
        for (path, entry) in all {
            self.entries.remove(&path);
            self.entries.insert(format!("{to}{}", &path[from.len()..]), entry);
        }
        Ok(())
    }

    /// One more descriptor of a file.
    pub(super) fn hold(&mut self, id: FileId) {
        self.slots[id].holders += 1;
    }

    /// One holder less; contents that nothing names any more are dropped and their bytes given back.
    pub(super) fn release(&mut self, id: FileId, budget: &mut Budget) {
        let file = &mut self.slots[id];
        file.holders -= 1;
        if file.holders > 0 {
            return;
        }
        self.own_left += usize::from(std::mem::take(&mut file.own));
        if let Data::Own(bytes) = std::mem::replace(&mut file.data, Data::Input(Bytes::new())) {
            budget.give_back(bytes.len() as u64);
        }
        self.free.push(id);
    }

    pub(super) fn contents(&self, id: FileId) -> &[u8] {
        match &self.slots[id].data {
            Data::Input(bytes) => bytes,
            Data::Own(bytes) => bytes,
        }
    }

    pub(super) fn len(&self, id: FileId) -> u64 {
        self.contents(id).len() as u64
    }

    /// Sets a file's length; what is added is zero.
    pub(super) fn resize(&mut self, id: FileId, len: u64, budget: &mut Budget) -> Result<(), Fault> {
        let before = self.len(id);
        let own = self.own(id, before.min(len), budget)?;
        budget.take(len.saturating_sub(before))?;
        let kept = own.len();
        // The budget was taken, so the length is one that this machine holds.
        let len = usize::try_from(len).map_err(|_| Errno::Nospc)?;
        own.resize(len, 0);
        budget.give_back(kept.saturating_sub(len) as u64);
        Ok(())
    }

    /// Writes at a position; a gap before it is zero.
    pub(super) fn write(&mut self, id: FileId, at: u64, bytes: &[u8], budget: &mut Budget) -> Result<(), Fault> {
        let end = at.saturating_add(bytes.len() as u64);
        if end > self.len(id) {
            self.resize(id, end, budget)?;
        }
        let own = self.own(id, u64::MAX, budget)?;
        // The file reaches to `end` now, so both fit.
        let at = usize::try_from(at).map_err(|_| Errno::Nospc)?;
        own[at..at + bytes.len()].copy_from_slice(bytes);
        Ok(())
    }

    /// The guest's own copy of a file's contents, of which at most `keep` bytes are wanted if it is still an input.
    fn own(&mut self, id: FileId, keep: u64, budget: &mut Budget) -> Result<&mut Vec<u8>, Fault> {
        if let Data::Input(bytes) = &self.slots[id].data {
            let bytes = bytes.slice(..usize::try_from(keep).unwrap_or(usize::MAX).min(bytes.len()));
            self.count_own(id)?;
            budget.take(bytes.len() as u64)?;
            self.slots[id].data = Data::Own(bytes.to_vec());
        }
        match &mut self.slots[id].data {
            Data::Own(bytes) => Ok(bytes),
            Data::Input(_) => Err(Errno::Nospc.into()),
        }
    }

    /// The files that differ from the inputs, by path.
    pub(super) fn into_changed(mut self) -> Vec<(RelPath, Bytes)> {
        let mut changed = Vec::new();
        for (path, entry) in &self.entries {
            let Entry::File(id) = entry else { continue };
            let data = std::mem::replace(&mut self.slots[*id].data, Data::Input(Bytes::new()));
            let bytes = match data {
                Data::Input(bytes) => bytes,
                Data::Own(bytes) => bytes.into(),
            };
            if self.inputs.get(path) == Some(&bytes) {
                continue;
            }
            changed.push((path.parse().expect("every path in the map was made by `resolve`"), bytes));
        }
        changed
    }
}

/// The part of `full` below the directory `path`, if it is below it.
fn child<'a>(path: &str, full: &'a str) -> Option<&'a str> {
    let name = if path.is_empty() { full } else { full.strip_prefix(path)?.strip_prefix('/')? };
    (!name.is_empty()).then_some(name)
}

/// The directory that holds this path; the root has none.
fn parent(path: &str) -> Option<&str> {
    if path.is_empty() { None } else { Some(path.rsplit_once('/').map_or("", |(parent, _)| parent)) }
}
