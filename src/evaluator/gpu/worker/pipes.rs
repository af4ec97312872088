//! The node's ends of a worker's pipes, and how a thread waits for the worker or for a ring of the bell.
//!
//! On Linux an order that fits its pipe is written by whatever thread has it, without waiting ([`To::at_once`]), and the thread that reads answers
//! sleeps until there is one, or until somebody rings ([`Bell`]). Elsewhere the thread that reads writes too. Invariant: nothing waits here for a
//! worker but a thread whose worker a watchdog ends in time.

use std::fs::File;
use std::io::{self, BufReader, Write};
use std::process::{ChildStdin, ChildStdout};
use std::sync::Arc;
use std::time::Duration;

use crate::evaluator::gpu::device::Stopwatch;

/// Where answers come from; what is behind it says when there is one.
pub(super) type From = BufReader<Arc<File>>;

/// Where orders go to.
#[derive(Debug, Clone)]
pub(in crate::evaluator::gpu) struct To {
    pipe: Arc<File>,
    /// Bytes that the empty pipe takes at once, for sure.
    pub(in crate::evaluator::gpu) room: usize,
}

#[cfg(target_os = "linux")]
pub(super) fn take(stdin: ChildStdin, stdout: ChildStdout) -> io::Result<(To, From)> {
    use std::os::fd::OwnedFd;

    let (stdin, stdout) = (OwnedFd::from(stdin), OwnedFd::from(stdout));
    rustix::io::ioctl_fionbio(&stdin, true)?;
    let room = rustix::pipe::fcntl_getpipe_size(&stdin)?;
    Ok((To { pipe: Arc::new(stdin.into()), room }, BufReader::new(Arc::new(stdout.into()))))
}

#[cfg(all(unix, not(target_os = "linux")))]
pub(super) fn take(stdin: ChildStdin, stdout: ChildStdout) -> io::Result<(To, From)> {
    use std::os::fd::OwnedFd;

    let (stdin, stdout) = (OwnedFd::from(stdin), OwnedFd::from(stdout));
    Ok((To { pipe: Arc::new(stdin.into()), room: 0 }, BufReader::new(Arc::new(stdout.into()))))
}

#[cfg(windows)]
pub(super) fn take(stdin: ChildStdin, stdout: ChildStdout) -> io::Result<(To, From)> {
    use std::os::windows::io::OwnedHandle;

    let (stdin, stdout) = (OwnedHandle::from(stdin), OwnedHandle::from(stdout));
    Ok((To { pipe: Arc::new(stdin.into()), room: 0 }, BufReader::new(Arc::new(stdout.into()))))
}

/// Looks for so long whether something comes, awake, and says whether it did; other threads that want this processor have it meanwhile.
#[cfg(target_os = "linux")]
pub(super) fn comes_within(from: &From, patience: Duration) -> bool {
    let watch = Stopwatch::start();
    while from.buffer().is_empty() && !rustix::io::ioctl_fionread(from.get_ref()).is_ok_and(|bytes| bytes > 0) {
        if watch.elapsed() >= patience {
            return false;
        }
        std::thread::yield_now();
    }
    true
}

/// Nothing is known of what comes: whoever reads waits.
#[cfg(not(target_os = "linux"))]
pub(super) fn comes_within(_: &From, _: Duration) -> bool {
    false
}

/// Whether something can be read, or the other side is gone.
#[cfg(target_os = "linux")]
pub(super) fn has_spoken(from: &From) -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    let now = Timespec { tv_sec: 0, tv_nsec: 0 };
    let mut pipe = [PollFd::new(&**from.get_ref(), PollFlags::IN)];
    // One that cannot be asked is read, which tells.
    !from.buffer().is_empty() || poll(&mut pipe, Some(&now)).is_err() || !pipe[0].revents().is_empty()
}

/// That is seen by whoever reads.
#[cfg(not(target_os = "linux"))]
pub(super) fn has_spoken(_: &From) -> bool {
    true
}

impl To {
    /// Writes all of it without waiting; fails where the pipe does not take it.
    pub(in crate::evaluator::gpu) fn at_once(&self, bytes: &[u8]) -> io::Result<()> {
        match (&*self.pipe).write(bytes)? {
            written if written == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }
}

impl Write for To {
    /// Waits while the pipe is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match (&*self.pipe).write(bytes) {
                #[cfg(target_os = "linux")]
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    use rustix::event::{PollFd, PollFlags, poll};

                    poll(&mut [PollFd::new(&*self.pipe, PollFlags::OUT)], None)?;
                }
                written => return written,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Wakes the thread that waits for a worker.
#[cfg(target_os = "linux")]
#[derive(Debug)]
pub(in crate::evaluator::gpu) struct Bell {
    ring: io::PipeWriter,
    heard: io::PipeReader,
}

#[cfg(target_os = "linux")]
impl Bell {
    /// Whether others may write orders while the reading thread sleeps.
    pub(in crate::evaluator::gpu) const SHARED: bool = true;

    pub(in crate::evaluator::gpu) fn new() -> io::Result<Self> {
        let (heard, ring) = io::pipe()?;
        rustix::io::ioctl_fionbio(&heard, true)?;
        rustix::io::ioctl_fionbio(&ring, true)?;
        Ok(Self { ring, heard })
    }

    /// Wakes the thread that waits, or has its next wait end at once.
    pub(in crate::evaluator::gpu) fn ring(&self) {
        // If it takes no more it has been rung often enough.
        let _ = (&self.ring).write(&[1]);
    }

    /// Sleeps until it is rung, or the worker answers or ends, which `true` says.
    pub(in crate::evaluator::gpu) fn wait(&self, worker: Option<&File>) -> bool {
        use std::io::Read;

        use rustix::event::{PollFd, PollFlags, poll};

        let heard = PollFd::new(&self.heard, PollFlags::IN);
        let mut both = [heard.clone(), heard];
        let count = worker.map_or(1, |worker| {
            both[1] = PollFd::new(worker, PollFlags::IN);
            2
        });
        // A wait that is interrupted is one that ended early, which the caller looks after.
        let _ = poll(&mut both[..count], None);
        if !both[0].revents().is_empty() {
            let _ = (&self.heard).read(&mut [0; 64]);
        }
        count == 2 && !both[1].revents().is_empty()
    }
}

/// Wakes the thread that waits for work.
#[cfg(not(target_os = "linux"))]
#[derive(Debug, Default)]
pub(in crate::evaluator::gpu) struct Bell {
    rung: std::sync::Mutex<bool>,
    changed: std::sync::Condvar,
}

#[cfg(not(target_os = "linux"))]
impl Bell {
    pub(in crate::evaluator::gpu) const SHARED: bool = false;

    #[expect(clippy::unnecessary_wraps, reason = "elsewhere it takes something of the system")]
    pub(in crate::evaluator::gpu) fn new() -> io::Result<Self> {
        Ok(Self::default())
    }

    pub(in crate::evaluator::gpu) fn ring(&self) {
        *self.rung.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = true;
        self.changed.notify_one();
    }

    pub(in crate::evaluator::gpu) fn wait(&self, _: Option<&File>) -> bool {
        let mut rung = self.rung.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        while !std::mem::take(&mut *rung) {
            rung = self.changed.wait(rung).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        false
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::io::Read;
    use std::os::fd::OwnedFd;
    use std::thread;

    use super::*;

    fn pipe() -> (To, io::PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let room = rustix::pipe::fcntl_getpipe_size(&writer).unwrap();
        (To { pipe: Arc::new(OwnedFd::from(writer).into()), room }, reader)
    }

    #[test]
    fn an_empty_pipe_takes_its_room_at_once_and_a_full_one_is_waited_for() {
        let (mut to, mut reader) = pipe();
        to.at_once(&vec![1; to.room]).unwrap();
        assert_eq!(to.at_once(&[2]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        let room = to.room;
        let reads = thread::spawn(move || {
            thread::sleep(Duration::from_millis(20));
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            all
        });
        to.write_all(&[3; 10]).unwrap();
        drop(to);
        assert!(reads.join().unwrap() == [vec![1; room], vec![3; 10]].concat());
    }

    #[test]
    fn what_is_there_is_seen_at_once_and_what_is_not_is_not_waited_for() {
        let (to, reader) = pipe();
        let mut from = BufReader::new(Arc::new(File::from(OwnedFd::from(reader))));
        let moment = Duration::from_millis(1);
        assert!(!comes_within(&from, moment));
        to.at_once(&[1, 2]).unwrap();
        assert!(comes_within(&from, Duration::ZERO));
        from.read_exact(&mut [0]).unwrap();
        assert!(comes_within(&from, Duration::ZERO), "the rest was read ahead");
        from.read_exact(&mut [0]).unwrap();
        assert!(!has_spoken(&from));
        to.at_once(&[3]).unwrap();
        assert!(has_spoken(&from));
        from.read_exact(&mut [0]).unwrap();
        drop(to);
        assert!(!comes_within(&from, moment), "the end is left to whoever reads");
        assert!(has_spoken(&from), "and the end is something to be read");
    }

    #[test]
    fn nobody_is_left_to_read() {
        let (mut to, reader) = pipe();
        drop(reader);
        assert!(to.at_once(&[1]).is_err() && to.write(&[1]).is_err());
    }

    #[test]
    fn a_wait_ends_with_a_ring_or_with_the_worker() {
        let bell = Bell::new().unwrap();
        bell.ring();
        assert!(!bell.wait(None), "rung before");
        let (to, reader) = pipe();
        let ears = File::from(OwnedFd::from(reader));
        for _ in 0..100_000 {
            bell.ring();
        }
        // However often it was rung, it is quiet in the end.
        while !bell.wait(Some(&ears)) {
            if rustix::io::ioctl_fionread(&bell.heard).unwrap() == 0 {
                to.at_once(&[1]).unwrap();
            }
        }
        thread::scope(|scope| {
            let waits = scope.spawn(|| bell.wait(None));
            bell.ring();
            assert!(!waits.join().unwrap());
        });
        (&ears).read_exact(&mut [0]).unwrap();
        drop(to);
        assert!(bell.wait(Some(&ears)), "it ended");
    }
}
