//! A disk in memory that can crash.
//!
//! Invariant: after [`MemoryStorage::crash`] exactly what was synced is there: file contents by `sync`, names by `sync_dir`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use super::{Storage, StorageFile};

/// A file of a volatile disk is long from here on, and gets so much room at a time: a whole segment.
const LONG: usize = 1024 * 1024;
const ROOM: usize = 64 * 1024 * 1024;

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Default)]
pub struct MemoryStorage {
    disk: Arc<Mutex<Disk>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Node {
    Dir,
    File(u64),
}

/// What a file holds.
#[derive(Clone)]
enum Live {
    Own(Vec<u8>),
    /// Bytes that were given whole and are somebody else's too.
    Given(Bytes),
}

impl Default for Live {
    fn default() -> Self {
        Self::Own(Vec::new())
    }
}

impl Deref for Live {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Own(bytes) => bytes,
            Self::Given(bytes) => bytes,
        }
    }
}

impl Live {
    /// The bytes as the file's own, to be changed.
    fn own(&mut self) -> &mut Vec<u8> {
        if let Self::Given(bytes) = self {
            *self = Self::Own(bytes.to_vec());
        }
        match self {
            Self::Own(bytes) => bytes,
            Self::Given(_) => unreachable!("it was made its own"),
        }
    }
}

#[derive(Clone, Default)]
struct Content {
    live: Live,
    synced: Vec<u8>,
    /// Ranges of `live` that may differ from `synced`.
    dirty: Vec<Range<usize>>,
}

#[derive(Clone, Default)]
struct Disk {
    live: BTreeMap<String, Node>,
    synced: BTreeMap<String, Node>,
    files: BTreeMap<u64, Content>,
    next_file: u64,
    /// Rises with every crash: a handle from before it is dead.
    boot: u64,
    /// Nothing outlives the process anyway: no second copy is kept of what would.
    volatile: bool,
}

/// The directory part of a path.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(dir, _)| dir)
}

impl Disk {
    fn file(&self, path: &str) -> io::Result<u64> {
        match self.live.get(path) {
            Some(Node::File(id)) => Ok(*id),
            Some(Node::Dir) => Err(io::ErrorKind::IsADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn require_dir(&self, path: &str) -> io::Result<()> {
        match self.live.get(path) {
            _ if path.is_empty() => Ok(()),
            Some(Node::Dir) => Ok(()),
            Some(Node::File(_)) => Err(io::ErrorKind::NotADirectory.into()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Forgets files that no name leads to.
    fn sweep(&mut self) {
        let named: BTreeSet<Node> = self.live.values().chain(self.synced.values()).copied().collect();
        self.files.retain(|id, _| named.contains(&Node::File(*id)));
    }
}

impl MemoryStorage {
    /// An empty disk.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty disk for what lives no longer than the process: a sync costs nothing, and a crash leaves nothing.
    #[must_use]
    pub fn volatile() -> Self {
        let disk = Disk { volatile: true, ..Disk::default() };
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// An independent copy of this disk, as a backup tool would make one: everything written, synced or not, becomes durable in it.
    #[must_use]
    pub fn fork(&self) -> Self {
        let mut disk = self.lock().clone();
        disk.synced = disk.live.clone();
        for content in disk.files.values_mut() {
            content.synced = content.live.to_vec();
            content.dirty.clear();
        }
        disk.sweep();
        Self { disk: Arc::new(Mutex::new(disk)) }
    }

    /// An independent disk as this one would be if the power failed now; see [`Self::crash_torn`].
    #[must_use]
    pub fn after_crash(&self, torn: usize) -> Self {
        let copy = Self { disk: Arc::new(Mutex::new(self.lock().clone())) };
        copy.crash_torn(torn);
        copy
    }

    /// The power fails: everything unsynced is gone and every open handle is dead.
    pub fn crash(&self) {
        self.crash_torn(0);
    }

    /// As [`Self::crash`], but of bytes appended to a file since its last sync, the first `torn` survive.
    pub fn crash_torn(&self, torn: usize) {
        let mut disk = self.lock();
        disk.boot += 1;
        // A name survives only if the names of all directories above it do.
        let mut names: BTreeMap<String, Node> = BTreeMap::new();
        for (path, node) in &disk.synced {
            if parent(path).is_empty() || names.contains_key(parent(path)) {
                names.insert(path.clone(), *node);
            }
        }
        disk.synced.clone_from(&names);
        disk.live = names;
        for content in disk.files.values_mut() {
            let kept = content.synced.len();
            let tail = content.live.get(kept..).unwrap_or_default();
            content.synced.extend_from_slice(&tail[..torn.min(tail.len())]);
            content.live = Live::Own(content.synced.clone());
            content.dirty.clear();
        }
        disk.sweep();
    }

    /// As [`Self::crash`], but of what was written to a file since its last sync each block of so many bytes survives or not, as `survives` says:
    /// a disk writes blocks whole and in any order.
    pub fn crash_blocks(&self, block: usize, survives: &mut dyn FnMut() -> bool) {
        let mut disk = self.lock();
        for content in disk.files.values_mut() {
            for range in std::mem::take(&mut content.dirty) {
                let end = range.end.min(content.live.len());
                let mut at = range.start;
                while at < end {
                    let next = (at - at % block.max(1)).saturating_add(block.max(1)).min(end);
                    if survives() {
                        if content.synced.len() < next {
                            content.synced.resize(next, 0);
                        }
                        content.synced[at..next].copy_from_slice(&content.live[at..next]);
                    }
                    at = next;
                }
            }
        }
        drop(disk);
        self.crash();
    }

    fn lock(&self) -> MutexGuard<'_, Disk> {
        self.disk.lock().expect("no code panics while it holds the disk")
    }
}

impl fmt::Debug for MemoryStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStorage").finish_non_exhaustive()
    }
}

impl Storage for MemoryStorage {
    fn is_volatile(&self) -> bool {
        self.lock().volatile
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let disk = self.lock();
        disk.require_dir(dir)?;
        let inside = disk.live.keys().filter(|path| parent(path) == dir);
        Ok(inside.map(|path| path.rsplit('/').next().unwrap_or(path).to_owned()).collect())
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        let mut disk = self.lock();
        disk.require_dir(parent(path))?;
        if disk.live.contains_key(path) {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        let id = disk.next_file;
        disk.next_file += 1;
        disk.files.insert(id, Content::default());
        disk.live.insert(path.to_owned(), Node::File(id));
        Ok(Arc::new(Handle { disk: self.disk.clone(), id, boot: disk.boot }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        let disk = self.lock();
        Ok(Arc::new(Handle { disk: self.disk.clone(), id: disk.file(path)?, boot: disk.boot }))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.file(path)?;
        disk.live.remove(path);
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut disk = self.lock();
        let id = disk.file(from)?;
        disk.require_dir(parent(to))?;
        if disk.live.get(to) == Some(&Node::Dir) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        disk.live.remove(from);
        disk.live.insert(to.to_owned(), Node::File(id));
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.require_dir(parent(path))?;
        match disk.live.get(path) {
            Some(Node::File(_)) => Err(io::ErrorKind::AlreadyExists.into()),
            Some(Node::Dir) => Ok(()),
            None => {
                disk.live.insert(path.to_owned(), Node::Dir);
                Ok(())
            }
        }
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut disk = self.lock();
        disk.require_dir(path)?;
        if disk.volatile {
            return Ok(());
        }
        let Disk { live, synced, .. } = &mut *disk;
        synced.retain(|name, _| parent(name) != path);
        let inside = live.iter().filter(|(name, _)| parent(name) == path);
        synced.extend(inside.map(|(name, node)| (name.clone(), *node)));
        Ok(())
    }
}

struct Handle {
    disk: Arc<Mutex<Disk>>,
    id: u64,
    boot: u64,
}

impl Handle {
    fn with<T>(&self, act: impl FnOnce(&mut Content) -> T) -> io::Result<T> {
        let mut disk = self.disk.lock().expect("no code panics while it holds the disk");
        if disk.boot != self.boot {
            return Err(io::Error::other("the machine has crashed since this file was opened"));
        }
        // A removed file lives on while it is open.
        Ok(act(disk.files.entry(self.id).or_default()))
    }

    fn is_volatile(&self) -> bool {
        self.disk.lock().expect("no code panics while it holds the disk").volatile
    }
}

fn index(value: u64) -> io::Result<usize> {
    usize::try_from(value).map_err(|_| io::ErrorKind::FileTooLarge.into())
}

impl StorageFile for Handle {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let offset = index(offset)?;
        self.with(|content| {
            let available = content.live.get(offset..).unwrap_or_default();
            let count = available.len().min(buffer.len());
            buffer[..count].copy_from_slice(&available[..count]);
            count
        })
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let (offset, volatile) = (index(offset)?, self.is_volatile());
        self.with(|content| {
            let old = content.live.len();
            if offset > old {
                content.live.own().resize(offset, 0);
            }
            let (inside, beyond) = bytes.split_at(bytes.len().min(content.live.len() - offset));
            let live = content.live.own();
            live[offset..offset + inside.len()].copy_from_slice(inside);
            if volatile && live.len() + beyond.len() > live.capacity().max(LONG) {
                // Room that is not touched costs nothing; to move a long file again and again costs more than all that is written to it.
                live.reserve_exact(beyond.len().max(ROOM));
            }
            live.extend_from_slice(beyond);
            if !volatile {
                content.dirty.push(offset.min(old)..offset + bytes.len());
            }
        })
    }

    fn write_shared(&self, bytes: &Bytes, offset: u64) -> io::Result<()> {
        // Where no second copy is kept and the file is empty, it can be these very bytes.
        let given = self.is_volatile()
            && offset == 0
            && self.with(|content| {
                let empty = content.live.is_empty();
                if empty {
                    content.live = Live::Given(bytes.clone());
                }
                empty
            })?;
        if given { Ok(()) } else { self.write_at(bytes, offset) }
    }

    fn len(&self) -> io::Result<u64> {
        self.with(|content| content.live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let len = index(len)?;
        self.with(|content| {
            let old = content.live.len();
            content.live.own().resize(len, 0);
            content.dirty.push(old.min(len)..len.max(old));
        })
    }

    fn sync(&self) -> io::Result<()> {
        let volatile = self.is_volatile();
        self.with(|content| {
            if volatile {
                return content.dirty.clear();
            }
            let len = content.live.len();
            content.synced.resize(len, 0);
            for range in std::mem::take(&mut content.dirty) {
                let range = range.start.min(len)..range.end.min(len);
                content.synced[range.clone()].copy_from_slice(&content.live[range]);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(disk: &MemoryStorage, path: &str) -> Option<String> {
        let file = disk.open(path).ok()?;
        Some(String::from_utf8(super::super::read_all(&*file).expect("reads")).expect("text"))
    }

    #[test]
    fn a_volatile_disk_keeps_what_was_written_and_no_second_copy() {
        let disk = MemoryStorage::volatile();
        let file = disk.create_new("a").expect("new");
        file.write_at(b"hello", 0).expect("writes");
        file.write_at(b"p me", 3).expect("writes");
        file.write_at(b"!", 9).expect("writes");
        file.sync().expect("syncs");
        let given = Bytes::from_static(b"given");
        let kept = disk.create_new("b").expect("new");
        kept.write_shared(&given, 0).expect("writes");
        let is_kept =
            |disk: &MemoryStorage| disk.lock().files.values().any(|content| content.live.as_ptr() == given.as_ptr());
        assert!(is_kept(&disk), "the very bytes");
        assert_eq!(text(&disk, "b").as_deref(), Some("given"));
        kept.write_shared(&given, 5).expect("writes");
        kept.write_at(b"d", 0).expect("writes");
        assert_eq!((text(&disk, "b").as_deref(), &given[..]), (Some("divengiven"), &b"given"[..]));
        kept.set_len(4).expect("cuts");
        assert_eq!(text(&disk, "b").as_deref(), Some("dive"));
        kept.sync().expect("syncs");
        assert_eq!(text(&disk, "a").as_deref(), Some("help me\0\0!"));
        assert!(disk.lock().files.values().all(|content| content.synced.is_empty() && content.dirty.is_empty()));
    }

    #[test]
    fn exactly_what_was_synced_survives_a_crash() {
        let disk = MemoryStorage::new();
        disk.create_dir("a").expect("new");
        let kept = disk.create_new("a/kept").expect("new");
        kept.write_at(b"hello", 0).expect("writes");
        kept.sync().expect("syncs");
        disk.sync_dir("a").expect("syncs");
        disk.sync_dir("").expect("syncs");
        kept.write_at(b"J", 0).expect("writes");
        kept.write_at(b" world", 5).expect("writes");
        disk.create_new("a/lost").expect("new").sync().expect("syncs");
        let copy = disk.fork();
        let torn = disk.fork();
        torn.open("a/kept").expect("there").write_at(b"!!", 11).expect("writes");

        disk.crash();
        assert_eq!(text(&disk, "a/kept").as_deref(), Some("hello"));
        assert_eq!(disk.list("a").expect("there"), ["kept"]);
        assert!(kept.write_at(b"x", 0).is_err(), "a handle from before the crash is dead");
        assert_eq!(text(&copy, "a/kept").as_deref(), Some("Jello world"));
        assert_eq!(copy.list("a").expect("there"), ["kept", "lost"]);
        torn.crash_torn(1);
        assert_eq!(text(&torn, "a/kept").as_deref(), Some("Jello world!"));
    }

    #[test]
    fn unsynced_blocks_survive_one_by_one() {
        let disk = MemoryStorage::new();
        let file = disk.create_new("f").expect("new");
        disk.sync_dir("").expect("syncs");
        file.write_at(b"aa", 0).expect("writes");
        file.sync().expect("syncs");
        file.write_at(b"bbccdd", 2).expect("writes");
        let mut turn = [false, true, false].into_iter();
        disk.crash_blocks(2, &mut || turn.next().unwrap_or_default());
        assert_eq!(text(&disk, "f").as_deref(), Some("aa\0\0cc"));
        assert_eq!(turn.next(), None, "every block was asked about");
    }

    #[test]
    fn a_name_below_an_unsynced_directory_is_lost() {
        let disk = MemoryStorage::new();
        disk.create_dir("d").expect("new");
        disk.create_new("d/f").expect("new").sync().expect("syncs");
        disk.sync_dir("d").expect("syncs");
        disk.crash();
        assert!(disk.list("d").is_err());
        assert!(disk.open("d/f").is_err());
    }

    #[test]
    fn a_rename_is_durable_after_its_directory_is() {
        let disk = MemoryStorage::new();
        let file = disk.create_new("t").expect("new");
        file.write_at(b"1", 0).expect("writes");
        file.sync().expect("syncs");
        disk.sync_dir("").expect("syncs");
        disk.rename("t", "u").expect("renames");
        let before = disk.clone();
        assert_eq!(text(&before, "u").as_deref(), Some("1"));
        disk.crash();
        assert_eq!(disk.list("").expect("root"), ["t"]);
        disk.rename("t", "u").expect("renames");
        disk.sync_dir("").expect("syncs");
        disk.crash();
        assert_eq!(text(&disk, "u").as_deref(), Some("1"));
    }

    #[test]
    fn cutting_and_growing_again_leaves_zeros() {
        let disk = MemoryStorage::new();
        let file = disk.create_new("f").expect("new");
        disk.sync_dir("").expect("syncs");
        file.write_at(b"abcdef", 0).expect("writes");
        file.sync().expect("syncs");
        file.set_len(2).expect("cuts");
        file.write_at(b"z", 4).expect("writes");
        file.sync().expect("syncs");
        disk.crash();
        assert_eq!(text(&disk, "f").as_deref(), Some("ab\0\0z"));
    }
}
