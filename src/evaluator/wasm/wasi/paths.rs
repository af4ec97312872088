//! The `path_*` functions: opening, asking, making, moving and removing by name.
//!
//! Links do not exist here, so reading one is `EINVAL` (it is no link) and making one is `ENOTSUP` (see the list of functions).

use super::Wasi;
use super::abi::{Errno, Memory, Outcome, oflags, rights};
use super::fds::{Fd, Kind, entry_stat};
use super::fs::Entry;

impl Wasi {
    /// The clean path that a guest names, and whether it must be a directory.
    fn resolve(&self, memory: &Memory<'_>, fd: u32, path: u32, len: u32) -> Result<(String, bool), super::abi::Fault> {
        let from = self.directory(fd)?;
        Ok(self.files.resolve(from, memory.path(path, len)?)?)
    }

    #[expect(clippy::too_many_arguments, reason = "the signature is WASI's")]
    pub(super) fn path_open(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        _lookup: u32,
        path: u32,
        len: u32,
        oflags: u32,
        base: u64,
        _inheriting: u64,
        flags: u32,
        result: u32,
    ) -> Outcome {
        let (path, must_be_directory) = self.resolve(memory, fd, path, len)?;
        let oflags = u16::try_from(oflags).map_err(|_| Errno::Inval)?;
        let flags = u16::try_from(flags).map_err(|_| Errno::Inval)?;
        let has = |flag| oflags & flag != 0;
        let must_be_directory = must_be_directory || has(oflags::DIRECTORY);
        if must_be_directory && has(oflags::CREAT) {
            return Err(Errno::Inval.into());
        }
        // Where the result goes is checked before anything changes.
        memory.put_u32(result, 0)?;
        let opened = match self.files.get(&path) {
            Some(_) if has(oflags::CREAT) && has(oflags::EXCL) => return Err(Errno::Exist.into()),
            Some(Entry::Directory(_)) if has(oflags::TRUNC) || has(oflags::CREAT) => return Err(Errno::Isdir.into()),
            Some(Entry::Directory(_)) => Fd::directory(path),
            Some(Entry::File(_)) if must_be_directory => return Err(Errno::Notdir.into()),
            Some(Entry::File(id)) => {
                if has(oflags::TRUNC) {
                    self.files.resize(id, 0, &mut self.budget)?;
                }
                Fd { kind: Kind::File { id, at: 0 }, rights: base & rights::FILE, flags }
            }
            None if has(oflags::CREAT) => {
                let id = self.files.create(&path)?;
                Fd { kind: Kind::File { id, at: 0 }, rights: base & rights::FILE, flags }
            }
            None => return Err(Errno::Noent.into()),
        };
        let fd = self.open(opened)?;
        memory.put_u32(result, fd)
    }

    pub(super) fn path_filestat_get(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        _lookup: u32,
        path: u32,
        len: u32,
        result: u32,
    ) -> Outcome {
        let (path, must_be_directory) = self.resolve(memory, fd, path, len)?;
        let entry = self.files.get(&path).ok_or(Errno::Noent)?;
        let size = match entry {
            Entry::File(_) if must_be_directory => return Err(Errno::Notdir.into()),
            Entry::File(id) => self.files.len(id),
            Entry::Directory(_) => 0,
        };
        memory.put(result, &entry_stat(entry, size))
    }

    /// Times are fixed, so there is nothing to set.
    #[expect(clippy::too_many_arguments, reason = "the signature is WASI's")]
    pub(super) fn path_filestat_set_times(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        _lookup: u32,
        path: u32,
        len: u32,
        _: u64,
        _: u64,
        _: u32,
    ) -> Outcome {
        let (path, _) = self.resolve(memory, fd, path, len)?;
        self.files.get(&path).ok_or(Errno::Noent)?;
        Ok(())
    }

    pub(super) fn path_create_directory(&mut self, memory: &mut Memory<'_>, fd: u32, path: u32, len: u32) -> Outcome {
        let (path, _) = self.resolve(memory, fd, path, len)?;
        Ok(self.files.create_directory(&path)?)
    }

    pub(super) fn path_remove_directory(&mut self, memory: &mut Memory<'_>, fd: u32, path: u32, len: u32) -> Outcome {
        let (path, _) = self.resolve(memory, fd, path, len)?;
        Ok(self.files.remove_directory(&path)?)
    }

    pub(super) fn path_unlink_file(&mut self, memory: &mut Memory<'_>, fd: u32, path: u32, len: u32) -> Outcome {
        match self.resolve(memory, fd, path, len)? {
            (_, true) => Err(Errno::Isdir.into()),
            (path, false) => Ok(self.files.unlink(&path, &mut self.budget)?),
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the signature is WASI's")]
    pub(super) fn path_rename(
        &mut self,
        memory: &mut Memory<'_>,
        from_fd: u32,
        from: u32,
        from_len: u32,
        to_fd: u32,
        to: u32,
        to_len: u32,
    ) -> Outcome {
        let (from, from_directory) = self.resolve(memory, from_fd, from, from_len)?;
        let (to, to_directory) = self.resolve(memory, to_fd, to, to_len)?;
        if (from_directory || to_directory) && matches!(self.files.get(&from), Some(Entry::File(_))) {
            return Err(Errno::Notdir.into());
        }
        self.files.rename(&from, &to, &mut self.budget)
    }

    #[expect(clippy::too_many_arguments, reason = "the signature is WASI's")]
    pub(super) fn path_readlink(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        path: u32,
        len: u32,
        _buffer: u32,
        _size: u32,
        _used: u32,
    ) -> Outcome {
        let (path, _) = self.resolve(memory, fd, path, len)?;
        self.files.get(&path).ok_or(Errno::Noent)?;
        Err(Errno::Inval.into())
    }
}
