//! Lets a disk begin with bytes before anybody waits for them.
//!
//! Linux leaves written pages in memory until there are very many or a sync asks for them, so a bulk load and its disk would work in turns.
//! Nothing depends on it: what has to be durable is synced all the same.

use std::fs::File;

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "sync_file_range has no safe interface")]
pub(super) fn begin(file: &File, offset: u64, len: u64) {
    use std::os::fd::AsRawFd;

    let (Ok(offset), Ok(len)) = (offset.try_into(), len.try_into()) else { return };
    // SAFETY: the file is open as long as it is borrowed; no memory is handed over. A failure of the disk is told by the sync to come, and that
    // a file system does not know the call harms nothing.
    unsafe { libc::sync_file_range(file.as_raw_fd(), offset, len, libc::SYNC_FILE_RANGE_WRITE) };
}

#[cfg(not(target_os = "linux"))]
pub(super) fn begin(_: &File, _: u64, _: u64) {}
