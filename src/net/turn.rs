//! How long one connection may keep the thread that all of them share.
//!
//! A connection is one task, which decrypts whatever its socket has. The runtime ends its turn after so many operations, but each of them may be
//! 8 KiB, so a turn with something large takes more than a millisecond, for which everything small waits. [`Paced`] makes bytes count;
//! [`give_way`] ends a turn so that the runtime looks at all sockets before the next one: of tasks that are just ready again it runs some
//! sixty before that.

use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};

use futures::{AsyncRead, AsyncWrite};
use tokio::task::coop::poll_proceed;

use super::limits::READ_PER_TURN;

/// What the runtime lets a task do in a turn, in its own units. If a later version of it has another number, turns are as much longer or shorter.
const UNITS: usize = 128;

/// Lets other tasks run, and the runtime look at its sockets, before this one goes on.
pub(super) fn give_way(cx: &mut Context<'_>) {
    let yielded = pin!(tokio::task::yield_now()).poll(cx);
    debug_assert!(yielded.is_pending(), "it is polled once");
}

/// A socket that ends the turn of its task when enough was read.
pub(super) struct Paced<S>(pub(super) S);

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        let turn = ready!(poll_proceed(cx));
        let read = ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        turn.made_progress();
        for _ in 0..read / (READ_PER_TURN / UNITS) {
            // The last one has the task go on in its next turn.
            match poll_proceed(cx) {
                Poll::Ready(turn) => turn.made_progress(),
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(read))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::task::JoinSet;

    use super::*;

    const PIECE: usize = 8 << 10;

    /// It always has something.
    struct Endless;

    impl AsyncRead for Endless {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Ok(buf.len()))
        }
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn a_turn_is_over_when_enough_was_read_and_another_one_follows() {
        let turns = async {
            let (mut socket, mut buf, mut turns) = (Paced(Endless), [0; PIECE], Vec::new());
            poll_fn(move |cx| {
                let mut read = 0;
                while let Poll::Ready(Ok(some)) = Pin::new(&mut socket).poll_read(cx, &mut buf) {
                    read += some;
                }
                turns.push(read);
                if turns.len() < 20 { Poll::Pending } else { Poll::Ready(std::mem::take(&mut turns)) }
            })
            .await
        };
        let mut tasks = JoinSet::new();
        let turns = runtime().block_on(async {
            tasks.spawn(turns);
            tasks.join_next().await.unwrap().unwrap()
        });
        assert!(turns.iter().all(|read| (READ_PER_TURN / 2..=READ_PER_TURN + PIECE).contains(read)), "{turns:?}");
    }

    #[test]
    fn a_task_that_is_always_ready_holds_up_no_socket() {
        runtime().block_on(async {
            let (mut near, mut far) = tokio::net::UnixStream::pair().unwrap();
            let turns = Arc::new(AtomicUsize::new(0));
            let mut tasks = JoinSet::new();
            let busy = Arc::clone(&turns);
            tasks.spawn(poll_fn(move |cx| {
                give_way(cx);
                if busy.fetch_add(1, Ordering::Relaxed) < 10_000 { Poll::Pending } else { Poll::Ready(usize::MAX) }
            }));
            let seen = Arc::clone(&turns);
            tasks.spawn(async move {
                let mut heard = 0;
                // What is sent is heard of before the busy task had more than a few turns.
                for _ in 0..20 {
                    let sent_at = usize::try_from(far.read_u64().await.unwrap()).unwrap();
                    heard = heard.max(seen.load(Ordering::Relaxed) - sent_at);
                }
                heard
            });
            for _ in 0..20 {
                near.write_u64(turns.load(Ordering::Relaxed) as u64).await.unwrap();
                for _ in 0..10 {
                    tokio::task::yield_now().await;
                }
            }
            let first = tasks.join_next().await.unwrap().unwrap();
            assert!(first < 8, "{first} turns");
        });
    }
}
