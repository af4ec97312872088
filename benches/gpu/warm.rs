//! Memory that was used a moment ago, for whoever needs some next.
//!
//! In a virtual machine memory that nobody used for a while may be the host's again, and what gets it pays for its return: several times what a copy
//! costs, and now for the one, now for the other of what is compared. Memory is taken in small and in large pages, as both are.

#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "memory in large pages has no safe interface")]
pub(crate) fn touch(bytes: usize) {
    use rustix::mm::{Advice, MapFlags, ProtFlags, madvise, mmap_anonymous, munmap};

    small(bytes);
    let (len, protection) = (2 * bytes.max(2 << 20), ProtFlags::READ | ProtFlags::WRITE);
    // SAFETY: new memory, at an address that the system chooses; nobody but these lines knows of it.
    unsafe {
        let begin = mmap_anonymous(std::ptr::null_mut(), len, protection, MapFlags::PRIVATE).expect("memory");
        // Where there are no large pages it is small ones once more.
        let _ = madvise(begin, len, Advice::LinuxHugepage);
        begin.cast::<u8>().write_bytes(1, len);
        munmap(begin, len).expect("it is ours");
    }
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn touch(bytes: usize) {
    small(bytes);
}

fn small(bytes: usize) {
    drop(std::hint::black_box(vec![1_u8; 2 * bytes]));
}
