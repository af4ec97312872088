//! Fewer system calls below a connection: what is written in cuts leaves together, and what has come is read in one piece.
//!
//! A lane writes in cuts ([`CUT`]), and the multiplexer flushes after every one, so a burst of answers would be a system call, a packet and a wake-up
//! of the other side for each; and the layer above reads eight KiB at a time. Here the flush of a whole cut is put off until the next flush, or until
//! the connection is read from, which is what its task does last: by then everything that it had to send is here. Small writes, every handshake
//! among them, leave with their flush as ever.
//!
//! Invariants: (1) bytes keep their order, and none is dropped while the stream is neither closed nor broken; (2) whoever writes is held up while
//! more than [`GATHERED`] bytes wait; (3) a connection at rest keeps no buffer: that for reading is dropped once the stream was read empty without it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};

use super::limits::{CUT, GATHERED, READ_AT_ONCE};

/// A stream below encryption and multiplexer. See the module's front page.
#[derive(Debug)]
pub(super) struct Gathering<S> {
    stream: S,
    /// Bytes to be written, of which `sent` are gone.
    out: Vec<u8>,
    sent: usize,
    /// Bytes that came in since the last flush.
    since_flush: usize,
    /// What was read and not asked for yet: `taken..filled` of it.
    input: Vec<u8>,
    taken: usize,
    filled: usize,
    /// The last read brought all that it could: there is more, and it is read in a large piece.
    more: bool,
    /// Large pieces were read since the stream was last empty.
    used: bool,
}

impl<S> Gathering<S> {
    pub(super) fn new(stream: S) -> Self {
        let (out, input) = Default::default();
        Self { stream, out, sent: 0, since_flush: 0, input, taken: 0, filled: 0, more: false, used: false }
    }
}

impl<S: AsyncRead + Unpin> Gathering<S> {
    /// Reads once, into here or into the room for large pieces.
    fn poll_some(&mut self, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let stream = Pin::new(&mut self.stream);
        let large = self.more && into.len() < READ_AT_ONCE;
        let (read, room) = if large {
            self.used = true;
            self.input.resize(READ_AT_ONCE, 0);
            (stream.poll_read(cx, &mut self.input), READ_AT_ONCE)
        } else {
            (stream.poll_read(cx, into), into.len())
        };
        self.more = matches!(read, Poll::Ready(Ok(read)) if read == room && read > 0);
        if read.is_pending() && !std::mem::take(&mut self.used) {
            self.input = Vec::new();
        }
        if large && let Poll::Ready(Ok(read)) = read {
            (self.taken, self.filled) = (0, read);
            return Poll::Ready(Ok(self.take(into)));
        }
        read
    }

    /// Hands out what was read before.
    fn take(&mut self, into: &mut [u8]) -> usize {
        let taken = into.len().min(self.filled - self.taken);
        into[..taken].copy_from_slice(&self.input[self.taken..self.taken + taken]);
        self.taken += taken;
        taken
    }
}

impl<S: AsyncWrite + Unpin> Gathering<S> {
    /// Ready when everything is with the system.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.sent < self.out.len() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.sent..]))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sent += sent;
        }
        self.out = Vec::new();
        self.sent = 0;
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.out.len() - this.sent >= GATHERED {
            ready!(this.poll_send(cx))?;
        }
        if this.sent >= GATHERED {
            this.out.drain(..this.sent);
            this.sent = 0;
        }
        let taken = bytes.len().min(GATHERED);
        if this.out.is_empty() {
            // Once for all cuts of a burst, unless this is a small one.
            this.out.reserve(if taken < CUT { taken } else { GATHERED + CUT });
        }
        this.out.extend_from_slice(&bytes[..taken]);
        this.since_flush += taken;
        Poll::Ready(Ok(taken))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if std::mem::take(&mut this.since_flush) >= CUT {
            return Poll::Ready(Ok(()));
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.stream).poll_close(cx)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Gathering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if let Poll::Ready(Err(error)) = this.poll_send(cx) {
            return Poll::Ready(Err(error));
        }
        if this.taken < this.filled { Poll::Ready(Ok(this.take(into))) } else { this.poll_some(cx, into) }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use futures::AsyncWriteExt;
    use futures::task::noop_waker_ref;
    use proptest::prelude::*;

    use super::*;

    /// A system that takes and gives so many bytes with each call, sometimes none, and keeps account of the calls.
    #[derive(Debug, Default)]
    struct Pipe {
        written: Vec<u8>,
        writes: Vec<usize>,
        reads: usize,
        to_read: VecDeque<u8>,
        /// How many bytes each call may move; 0 is "not now".
        moves: VecDeque<usize>,
        closed: bool,
    }

    impl Pipe {
        fn may_move(&mut self, wanted: usize) -> usize {
            self.moves.pop_front().map_or(wanted, |most| wanted.min(most))
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            let moved = self.may_move(bytes.len());
            if moved == 0 && !bytes.is_empty() {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.written.extend_from_slice(&bytes[..moved]);
            self.writes.push(moved);
            Poll::Ready(Ok(moved))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.closed = true;
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Pipe {
        fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            self.reads += 1;
            let wanted = into.len().min(self.to_read.len());
            let moved = self.may_move(wanted);
            if moved == 0 {
                return Poll::Pending;
            }
            for (to, from) in into.iter_mut().zip(self.to_read.drain(..moved)) {
                *to = from;
            }
            Poll::Ready(Ok(moved))
        }
    }

    fn pattern(len: usize) -> Vec<u8> {
        (0..len).map(|at| u8::try_from(at % 251).expect("less than 251")).collect()
    }

    /// Reads what there is now in pieces of this size.
    fn read_now(stream: &mut Gathering<Pipe>, piece: usize) -> Vec<u8> {
        let (mut all, mut into) = (Vec::new(), vec![0; piece]);
        let cx = &mut Context::from_waker(noop_waker_ref());
        while let Poll::Ready(read) = Pin::new(&mut *stream).poll_read(cx, &mut into) {
            all.extend_from_slice(&into[..read.expect("it reads")]);
        }
        all
    }

    #[tokio::test]
    async fn what_is_cut_leaves_together_and_what_is_small_at_once() {
        let mut stream = Gathering::new(Pipe::default());
        stream.write_all(b"hello").await.expect("writes");
        stream.flush().await.expect("flushes");
        assert_eq!(stream.stream.writes, [5], "a handshake waits for nobody");
        for cut in [CUT, CUT + 18, 300] {
            stream.write_all(&pattern(cut)).await.expect("writes");
            stream.flush().await.expect("flushes");
        }
        assert_eq!(stream.stream.writes, [5, 2 * CUT + 318], "a burst is one write");
        stream.write_all(&pattern(CUT)).await.expect("writes");
        stream.flush().await.expect("flushes");
        assert_eq!(stream.stream.writes.len(), 2, "more may come");
        assert!(read_now(&mut stream, 100).is_empty());
        assert_eq!(stream.stream.writes[2..], [CUT], "nothing more came");
        assert_eq!((stream.out.capacity(), stream.input.capacity()), (0, 0), "at rest");
    }

    #[tokio::test]
    async fn what_waits_is_written_before_the_end() {
        let mut stream = Gathering::new(Pipe::default());
        stream.write_all(&pattern(CUT)).await.expect("writes");
        stream.flush().await.expect("flushes");
        stream.close().await.expect("closes");
        assert!(stream.stream.closed && stream.stream.written == pattern(CUT));
    }

    #[test]
    fn a_stream_that_takes_nothing_holds_up_whoever_writes() {
        let mut stream = Gathering::new(Pipe { moves: vec![0; 64].into(), ..Pipe::default() });
        let cx = &mut Context::from_waker(noop_waker_ref());
        let mut taken = 0;
        while let Poll::Ready(written) = Pin::new(&mut stream).poll_write(cx, &pattern(CUT)) {
            taken += written.expect("writes");
        }
        assert!((GATHERED..GATHERED + CUT).contains(&taken), "{taken}");
    }

    #[test]
    fn a_slow_stream_costs_no_more_than_what_waits() {
        let mut stream = Gathering::new(Pipe { moves: [1000, 0].repeat(4000).into(), ..Pipe::default() });
        let cx = &mut Context::from_waker(noop_waker_ref());
        let (mut sent, piece) = (Vec::new(), pattern(CUT));
        while sent.len() < 3_000_000 {
            if let Poll::Ready(written) = Pin::new(&mut stream).poll_write(cx, &piece) {
                sent.extend_from_slice(&piece[..written.expect("writes")]);
            }
            assert!(stream.out.len() <= 3 * GATHERED, "{}", stream.out.len());
        }
        stream.stream.moves.clear();
        assert!(read_now(&mut stream, 100).is_empty() && stream.stream.written == sent);
    }

    #[test]
    fn a_burst_is_read_in_two_calls_and_word_that_there_is_no_more() {
        let mut stream = Gathering::new(Pipe { to_read: pattern(50_000).into(), ..Pipe::default() });
        assert_eq!(read_now(&mut stream, 8192), pattern(50_000));
        assert_eq!(stream.stream.reads, 3);
        let room = stream.input.as_ptr();
        stream.stream.to_read = pattern(50_000).into();
        assert_eq!(read_now(&mut stream, 8192), pattern(50_000));
        assert_eq!(stream.input.as_ptr(), room, "the next burst finds the same room");
        stream.stream.to_read = pattern(100).into();
        assert_eq!(read_now(&mut stream, 8192), pattern(100));
        assert_eq!(stream.input.capacity(), 0, "at rest");
    }

    proptest! {
        #[test]
        fn bytes_keep_their_order_whatever_the_system_does(
            sizes in proptest::collection::vec(0..40_000_usize, 0..12),
            moves in proptest::collection::vec(0..30_000_usize, 0..200),
            piece in 1..20_000_usize,
            incoming in 0..200_000_usize,
        ) {
            let mut stream = Gathering::new(Pipe { moves: moves.into(), to_read: pattern(incoming).into(), ..Pipe::default() });
            let (mut sent, mut came) = (Vec::new(), Vec::new());
            futures::executor::block_on(async {
                for size in sizes {
                    let bytes = pattern(size);
                    stream.write_all(&bytes).await.expect("writes");
                    sent.extend_from_slice(&bytes);
                    stream.flush().await.expect("flushes");
                    came.extend(read_now(&mut stream, piece));
                }
                stream.close().await.expect("closes");
            });
            came.extend(read_now(&mut stream, piece));
            while came.len() < incoming {
                came.extend(read_now(&mut stream, piece));
            }
            prop_assert!(stream.stream.written == sent && came == pattern(incoming));
        }
    }
}
