//! Descriptors: reading, writing, seeking, and what a descriptor says about itself.
//!
//! Descriptors 0 to 2 are streams, 3 is the one preopened directory `/`; the lowest free number is given out next. A directory's listing is
//! taken when it is first read, so that removing what was listed skips nothing.

use super::abi::{APPEND, Errno, Fault, Memory, Outcome, filetype, rights};
use super::clock::START;
use super::fs::{Entry, FileId};
use super::{super::limits::OPEN_FILES, Wasi};

/// The preopened directory.
const PREOPEN: u32 = 3;
/// Its name.
const PREOPEN_NAME: &[u8] = b"/";
/// Inodes of files begin here; those of directories stay below.
const FILE_INODES: u64 = 1 << 32;

/// One descriptor.
#[derive(Debug)]
pub(super) struct Fd {
    pub(super) kind: Kind,
    pub(super) rights: u64,
    pub(super) flags: u16,
}

/// What a descriptor stands for.
#[derive(Debug)]
pub(super) enum Kind {
    Stdin,
    Stdout,
    Stderr,
    File { id: FileId, at: u64 },
    Directory { path: String, listing: Vec<(String, Entry)> },
}

/// The descriptors that every command begins with.
pub(super) fn initial() -> Vec<Option<Fd>> {
    let stream = |kind, right| Some(Fd { kind, rights: right | rights::POLL, flags: 0 });
    vec![
        stream(Kind::Stdin, rights::FD_READ),
        stream(Kind::Stdout, rights::FD_WRITE),
        stream(Kind::Stderr, rights::FD_WRITE),
        Some(Fd::directory(String::new())),
    ]
}

impl Fd {
    pub(super) fn directory(path: String) -> Self {
        Self { kind: Kind::Directory { path, listing: Vec::new() }, rights: rights::DIRECTORY, flags: 0 }
    }

    fn filetype(&self) -> u8 {
        match self.kind {
            // Not a character device: a C library would take that for a terminal and flush every line.
            Kind::Stdin | Kind::Stdout | Kind::Stderr => filetype::UNKNOWN,
            Kind::File { .. } => filetype::REGULAR_FILE,
            Kind::Directory { .. } => filetype::DIRECTORY,
        }
    }
}

impl Entry {
    fn inode(self) -> u64 {
        match self {
            Self::Directory(inode) => inode,
            Self::File(id) => FILE_INODES + id as u64,
        }
    }

    fn filetype(self) -> u8 {
        match self {
            Self::Directory(_) => filetype::DIRECTORY,
            Self::File(_) => filetype::REGULAR_FILE,
        }
    }
}

impl Wasi {
    pub(super) fn fd(&self, fd: u32) -> Result<&Fd, Errno> {
        self.fds.get(fd as usize).and_then(Option::as_ref).ok_or(Errno::Badf)
    }

    fn fd_mut(&mut self, fd: u32) -> Result<&mut Fd, Errno> {
        self.fds.get_mut(fd as usize).and_then(Option::as_mut).ok_or(Errno::Badf)
    }

    /// The path of a directory descriptor.
    pub(super) fn directory(&self, fd: u32) -> Result<&str, Errno> {
        match &self.fd(fd)?.kind {
            Kind::Directory { path, .. } => Ok(path),
            _ => Err(Errno::Notdir),
        }
    }

    /// A regular file that may be used in this way, and its position.
    fn file(&self, fd: u32, right: u64) -> Result<(FileId, u64), Errno> {
        let fd = self.fd(fd)?;
        match &fd.kind {
            Kind::File { id, at } if fd.rights & right == right => Ok((*id, *at)),
            Kind::File { .. } => Err(Errno::Badf),
            Kind::Directory { .. } => Err(Errno::Isdir),
            Kind::Stdin | Kind::Stdout | Kind::Stderr => Err(Errno::Spipe),
        }
    }

    fn set_position(&mut self, fd: u32, position: u64) -> Result<(), Errno> {
        if let Kind::File { at, .. } = &mut self.fd_mut(fd)?.kind {
            *at = position;
        }
        Ok(())
    }

    /// Gives out the lowest free descriptor.
    pub(super) fn open(&mut self, fd: Fd) -> Result<u32, Errno> {
        let at = self.fds.iter().position(Option::is_none).unwrap_or(self.fds.len());
        if at >= OPEN_FILES {
            return Err(Errno::Mfile);
        }
        if let Kind::File { id, .. } = fd.kind {
            self.files.hold(id);
        }
        if at == self.fds.len() {
            self.fds.push(Some(fd));
        } else {
            self.fds[at] = Some(fd);
        }
        u32::try_from(at).map_err(|_| Errno::Mfile)
    }

    pub(super) fn fd_close(&mut self, _: &mut Memory<'_>, fd: u32) -> Outcome {
        self.fd(fd)?;
        if let Some(Fd { kind: Kind::File { id, .. }, .. }) = self.fds[fd as usize].take() {
            self.files.release(id, &mut self.budget);
        }
        Ok(())
    }

    pub(super) fn fd_renumber(&mut self, memory: &mut Memory<'_>, from: u32, to: u32) -> Outcome {
        self.fd(from)?;
        self.fd(to)?;
        if from != to {
            self.fd_close(memory, to)?;
            self.fds[to as usize] = self.fds[from as usize].take();
        }
        Ok(())
    }

    pub(super) fn fd_read(&mut self, memory: &mut Memory<'_>, fd: u32, iovs: u32, count: u32, nread: u32) -> Outcome {
        let vectors = memory.vectors(iovs, count)?;
        if let Kind::Stdin = self.fd(fd)?.kind {
            let Self { stdin, stdin_at, .. } = self;
            let total = memory.scatter(&vectors, |buffer| copy(buffer, stdin, stdin_at))?;
            return memory.put_u32(nread, total);
        }
        let (id, at) = self.readable(fd)?;
        let total = self.read_at(memory, id, at, &vectors)?;
        self.set_position(fd, at + u64::from(total))?;
        memory.put_u32(nread, total)
    }

    pub(super) fn fd_pread(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        at: u64,
        nread: u32,
    ) -> Outcome {
        let vectors = memory.vectors(iovs, count)?;
        let (id, _) = self.readable(fd)?;
        let total = self.read_at(memory, id, at, &vectors)?;
        memory.put_u32(nread, total)
    }

    fn readable(&self, fd: u32) -> Result<(FileId, u64), Errno> {
        match self.fd(fd)?.kind {
            Kind::Stdout | Kind::Stderr => Err(Errno::Badf),
            _ => self.file(fd, rights::FD_READ),
        }
    }

    fn read_at(&self, memory: &mut Memory<'_>, id: FileId, at: u64, vectors: &[(u32, u32)]) -> Result<u32, Fault> {
        let contents = self.files.contents(id);
        let mut at = usize::try_from(at).unwrap_or(usize::MAX).min(contents.len());
        memory.scatter(vectors, |buffer| copy(buffer, contents, &mut at))
    }

    pub(super) fn fd_write(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        nwritten: u32,
    ) -> Outcome {
        let vectors = memory.vectors(iovs, count)?;
        let total = u32::try_from(Memory::gathered(&vectors)).map_err(|_| Errno::Inval)?;
        match self.fd(fd)?.kind {
            Kind::Stdin => return Err(Errno::Badf.into()),
            Kind::Stdout | Kind::Stderr => {
                self.budget.take(total.into())?;
                let error = matches!(self.fd(fd)?.kind, Kind::Stderr);
                let stream = if error { &mut self.stderr } else { &mut self.stdout };
                for (at, len) in vectors {
                    stream.extend_from_slice(memory.bytes(at, len)?);
                }
            }
            Kind::Directory { .. } | Kind::File { .. } => {
                let (id, mut at) = self.file(fd, rights::FD_WRITE)?;
                if self.fd(fd)?.flags & APPEND != 0 {
                    at = self.files.len(id);
                }
                let end = self.write_at(memory, id, at, &vectors)?;
                self.set_position(fd, end)?;
            }
        }
        memory.put_u32(nwritten, total)
    }

    pub(super) fn fd_pwrite(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        iovs: u32,
        count: u32,
        at: u64,
        nwritten: u32,
    ) -> Outcome {
        let vectors = memory.vectors(iovs, count)?;
        let total = u32::try_from(Memory::gathered(&vectors)).map_err(|_| Errno::Inval)?;
        let (id, _) = self.file(fd, rights::FD_WRITE)?;
        self.write_at(memory, id, at, &vectors)?;
        memory.put_u32(nwritten, total)
    }

    fn write_at(&mut self, memory: &Memory<'_>, id: FileId, mut at: u64, vectors: &[(u32, u32)]) -> Result<u64, Fault> {
        for (from, len) in vectors {
            let bytes = memory.bytes(*from, *len)?;
            if !bytes.is_empty() {
                self.files.write(id, at, bytes, &mut self.budget)?;
                at += bytes.len() as u64;
            }
        }
        Ok(at)
    }

    pub(super) fn fd_seek(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        delta: i64,
        whence: u32,
        result: u32,
    ) -> Outcome {
        let (id, at) = self.file(fd, 0)?;
        let base = match whence {
            0 => 0,
            1 => at,
            2 => self.files.len(id),
            _ => return Err(Errno::Inval.into()),
        };
        let position = base.checked_add_signed(delta).filter(|at| i64::try_from(*at).is_ok()).ok_or(Errno::Inval)?;
        self.set_position(fd, position)?;
        memory.put_u64(result, position)
    }

    pub(super) fn fd_tell(&mut self, memory: &mut Memory<'_>, fd: u32, result: u32) -> Outcome {
        let (_, at) = self.file(fd, 0)?;
        memory.put_u64(result, at)
    }

    pub(super) fn fd_fdstat_get(&mut self, memory: &mut Memory<'_>, fd: u32, result: u32) -> Outcome {
        let fd = self.fd(fd)?;
        let inheriting = if let Kind::Directory { .. } = fd.kind { rights::DIRECTORY | rights::FILE } else { 0 };
        let mut stat = [0; 24];
        stat[0] = fd.filetype();
        stat[2..4].copy_from_slice(&fd.flags.to_le_bytes());
        stat[8..16].copy_from_slice(&fd.rights.to_le_bytes());
        stat[16..24].copy_from_slice(&inheriting.to_le_bytes());
        memory.put(result, &stat)
    }

    pub(super) fn fd_fdstat_set_flags(&mut self, _: &mut Memory<'_>, fd: u32, flags: u32) -> Outcome {
        let flags = u16::try_from(flags).map_err(|_| Errno::Inval)?;
        self.fd_mut(fd)?.flags = flags;
        Ok(())
    }

    pub(super) fn fd_fdstat_set_rights(&mut self, _: &mut Memory<'_>, fd: u32, base: u64, _inheriting: u64) -> Outcome {
        let fd = self.fd_mut(fd)?;
        if base & !fd.rights != 0 {
            return Err(Errno::Notcapable.into());
        }
        fd.rights = base;
        Ok(())
    }

    pub(super) fn fd_filestat_get(&mut self, memory: &mut Memory<'_>, fd: u32, result: u32) -> Outcome {
        let (inode, size) = match &self.fd(fd)?.kind {
            Kind::Stdin | Kind::Stdout | Kind::Stderr => (u64::from(fd), 0),
            Kind::File { id, .. } => (Entry::File(*id).inode(), self.files.len(*id)),
            Kind::Directory { path, .. } => (self.files.get(path).ok_or(Errno::Noent)?.inode(), 0),
        };
        memory.put(result, &filestat(self.fd(fd)?.filetype(), inode, size))
    }

    pub(super) fn fd_filestat_set_size(&mut self, _: &mut Memory<'_>, fd: u32, size: u64) -> Outcome {
        let (id, _) = self.file(fd, rights::FD_WRITE)?;
        self.files.resize(id, size, &mut self.budget)
    }

    /// Times are fixed, so there is nothing to set.
    pub(super) fn fd_filestat_set_times(&mut self, _: &mut Memory<'_>, fd: u32, _: u64, _: u64, _: u32) -> Outcome {
        self.fd(fd)?;
        Ok(())
    }

    pub(super) fn fd_allocate(&mut self, _: &mut Memory<'_>, fd: u32, at: u64, len: u64) -> Outcome {
        let (id, _) = self.file(fd, rights::FD_WRITE)?;
        let end = at.checked_add(len).ok_or(Errno::Inval)?;
        if end > self.files.len(id) {
            self.files.resize(id, end, &mut self.budget)?;
        }
        Ok(())
    }

    pub(super) fn fd_advise(&mut self, _: &mut Memory<'_>, fd: u32, _: u64, _: u64, _advice: u32) -> Outcome {
        self.file(fd, 0)?;
        Ok(())
    }

    pub(super) fn fd_sync(&mut self, _: &mut Memory<'_>, fd: u32) -> Outcome {
        self.fd(fd)?;
        Ok(())
    }

    pub(super) fn fd_datasync(&mut self, memory: &mut Memory<'_>, fd: u32) -> Outcome {
        self.fd_sync(memory, fd)
    }

    pub(super) fn fd_prestat_get(&mut self, memory: &mut Memory<'_>, fd: u32, result: u32) -> Outcome {
        self.preopen(fd)?;
        // The tag of a directory, then the length of its name.
        memory.put_u32(result, 0)?;
        memory.put_len(result.wrapping_add(4), PREOPEN_NAME.len())
    }

    pub(super) fn fd_prestat_dir_name(&mut self, memory: &mut Memory<'_>, fd: u32, path: u32, len: u32) -> Outcome {
        self.preopen(fd)?;
        if (len as usize) < PREOPEN_NAME.len() {
            return Err(Errno::Nametoolong.into());
        }
        memory.put(path, PREOPEN_NAME)
    }

    fn preopen(&self, fd: u32) -> Outcome {
        match self.fd(fd)?.kind {
            Kind::Directory { .. } if fd == PREOPEN => Ok(()),
            _ => Err(Errno::Badf.into()),
        }
    }

    pub(super) fn fd_readdir(
        &mut self,
        memory: &mut Memory<'_>,
        fd: u32,
        buffer: u32,
        len: u32,
        cookie: u64,
        used: u32,
    ) -> Outcome {
        let path = self.directory(fd)?.to_owned();
        if cookie == 0 {
            let own = self.files.get(&path).ok_or(Errno::Noent)?;
            let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
            let parent = self.files.get(parent).ok_or(Errno::Noent)?;
            let mut fresh = vec![(".".to_owned(), own), ("..".to_owned(), parent)];
            fresh.extend(self.files.list(&path));
            if let Kind::Directory { listing, .. } = &mut self.fd_mut(fd)?.kind {
                *listing = fresh;
            }
        }
        let Kind::Directory { listing, .. } = &self.fd(fd)?.kind else { return Err(Errno::Notdir.into()) };
        let buffer = memory.bytes_mut(buffer, len)?;
        let mut at = 0;
        let from = usize::try_from(cookie).unwrap_or(usize::MAX);
        for (index, (name, entry)) in listing.iter().enumerate().skip(from) {
            let mut dirent = [0; 24];
            dirent[0..8].copy_from_slice(&(index as u64 + 1).to_le_bytes());
            dirent[8..16].copy_from_slice(&entry.inode().to_le_bytes());
            dirent[16..20].copy_from_slice(&u32::try_from(name.len()).unwrap_or(u32::MAX).to_le_bytes());
            dirent[20] = entry.filetype();
            // A record that does not fit is cut: a full buffer tells the guest to ask again from the last whole one.
            for part in [&dirent[..], name.as_bytes()] {
                let fits = part.len().min(buffer.len() - at);
                buffer[at..at + fits].copy_from_slice(&part[..fits]);
                at += fits;
            }
            if at == buffer.len() {
                break;
            }
        }
        memory.put_len(used, at)
    }
}

/// Copies what is left of `from` behind `at`, and moves `at`.
fn copy(buffer: &mut [u8], from: &[u8], at: &mut usize) -> usize {
    let rest = &from[*at..];
    let len = rest.len().min(buffer.len());
    buffer[..len].copy_from_slice(&rest[..len]);
    *at += len;
    len
}

/// The 64 bytes of a file status.
pub(super) fn filestat(filetype: u8, inode: u64, size: u64) -> [u8; 64] {
    let mut stat = [0; 64];
    // One device, one link, and the instant at which every evaluation begins.
    let words = [(0, 1), (8, inode), (24, 1), (32, size), (40, START), (48, START), (56, START)];
    for (at, word) in words {
        stat[at..at + 8].copy_from_slice(&u64::to_le_bytes(word));
    }
    stat[16] = filetype;
    stat
}

/// The status of what a path names.
pub(super) fn entry_stat(entry: Entry, size: u64) -> [u8; 64] {
    filestat(entry.filetype(), entry.inode(), size)
}
