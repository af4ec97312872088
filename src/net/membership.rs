//! Proving the fleet secret over a carrier whose handshake has no place for it (QUIC): the first frames of a connection, before anything else of
//! it is read.
//!
//! The dialer opens a stream and sends `b"EVMQ"`, a version byte and a nonce. The listener answers with its own nonce and a keyed hash over both
//! nonces and both names, under a key derived from the secret; the dialer checks that and answers with its own hash. So whoever has another
//! secret learns nothing from it, no proof can be played back (both nonces are fresh) or carried over to another pair (both names are in it, and
//! TLS proved these), and the two proofs differ by who gives them. Invariant: every frame has one fixed length, and a connection whose proof
//! does not hold is never handed on.

use std::io;
use std::pin::Pin;
use std::task::Poll;

use futures::future::{Either, poll_fn, select};
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox};

use super::secret::FleetSecret;
use super::transport::HandshakeError;
use crate::id::NodeId;

const MAGIC: [u8; 5] = *b"EVMQ\x01";
/// What the secret is used for here; changing it is a new fleet.
const KEY_CONTEXT: &str = "evalmesh 2026-11-21 membership proof v1";
const HASH: usize = 32;

/// One side of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    Dialer,
    Listener,
}

/// Both names of a connection and the key of the fleet.
pub(super) struct Membership {
    key: [u8; HASH],
    me: NodeId,
}

impl Membership {
    pub(super) fn new(secret: &FleetSecret, me: NodeId) -> Self {
        Self { key: secret.derive(KEY_CONTEXT), me }
    }

    /// Proves this node's membership to a peer and has it prove its own.
    pub(super) async fn prove(
        &self,
        mut muxer: StreamMuxerBox,
        peer: NodeId,
        side: Side,
    ) -> Result<StreamMuxerBox, HandshakeError> {
        let opened = match side {
            Side::Dialer => poll_fn(|cx| Pin::new(&mut muxer).poll_outbound(cx)).await,
            Side::Listener => poll_fn(|cx| Pin::new(&mut muxer).poll_inbound(cx)).await,
        };
        let stream = opened.map_err(|error| HandshakeError::in_io(&error))?;
        // The muxer has to be driven meanwhile, and ends only with the connection.
        let drive = poll_fn(|cx| match Pin::new(&mut muxer).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(error),
            Poll::Ready(Ok(_)) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        });
        let proved = match select(Box::pin(self.exchange(stream, peer, side, fresh()?)), drive).await {
            Either::Left((proved, _)) => proved,
            Either::Right((error, _)) => Err(HandshakeError::in_io(&error)),
        };
        proved.map(|()| muxer)
    }

    async fn exchange<S>(
        &self,
        mut stream: S,
        peer: NodeId,
        side: Side,
        nonce: [u8; HASH],
    ) -> Result<(), HandshakeError>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let io = |error: io::Error| HandshakeError::in_io(&error);
        let mut frame = [0; 2 * HASH];
        match side {
            Side::Dialer => {
                stream.write_all(&[&MAGIC[..], &nonce].concat()).await.map_err(io)?;
                stream.flush().await.map_err(io)?;
                stream.read_exact(&mut frame).await.map_err(io)?;
                let (theirs, proof) = frame.split_at(HASH);
                let names = (self.me, peer);
                check(&self.proof(Side::Listener, names, (&nonce, theirs)), proof)?;
                let mine = self.proof(Side::Dialer, names, (&nonce, theirs));
                stream.write_all(mine.as_bytes()).await.map_err(io)?;
                stream.close().await.map_err(io)
            }
            Side::Listener => {
                let mut first = [0; MAGIC.len() + HASH];
                stream.read_exact(&mut first).await.map_err(io)?;
                let (magic, theirs) = first.split_at(MAGIC.len());
                if magic != MAGIC {
                    return Err(HandshakeError::OtherProtocol);
                }
                let names = (peer, self.me);
                let mine = self.proof(Side::Listener, names, (theirs, &nonce));
                stream.write_all(&[&nonce[..], mine.as_bytes()].concat()).await.map_err(io)?;
                stream.flush().await.map_err(io)?;
                let mut proof = [0; HASH];
                stream.read_exact(&mut proof).await.map_err(io)?;
                check(&self.proof(Side::Dialer, names, (theirs, &nonce)), &proof)
            }
        }
    }

    /// The proof of one side; names and nonces are those of the dialer and the listener, in this order.
    fn proof(&self, of: Side, names: (NodeId, NodeId), nonces: (&[u8], &[u8])) -> blake3::Hash {
        let side = match of {
            Side::Dialer => b"dialer..",
            Side::Listener => b"listener",
        };
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(side).update(names.0.as_bytes()).update(names.1.as_bytes());
        hasher.update(nonces.0).update(nonces.1);
        hasher.finalize()
    }
}

/// Compares in constant time.
fn check(expected: &blake3::Hash, found: &[u8]) -> Result<(), HandshakeError> {
    let found = blake3::Hash::from_slice(found).map_err(|_| HandshakeError::OtherProtocol)?;
    if *expected == found { Ok(()) } else { Err(HandshakeError::OtherSecret) }
}

#[expect(clippy::disallowed_methods, reason = "a nonce is made where a socket is, never in the core")]
fn fresh() -> Result<[u8; HASH], HandshakeError> {
    let mut nonce = [0; HASH];
    getrandom::fill(&mut nonce).map_err(|error| HandshakeError::Failed(error.to_string()))?;
    Ok(nonce)
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::future::join;

    use super::*;

    const A: NodeId = NodeId::from_bytes([1; 32]);
    const B: NodeId = NodeId::from_bytes([2; 32]);

    fn of(secret: u8, me: NodeId) -> Membership {
        Membership::new(&FleetSecret::from_bytes([secret; 32]), me)
    }

    /// Two pipes, so that a test can see and change what is under way: `tamper` gets every frame of the dialer (0, 1) and of the listener (2).
    fn talk(
        dialer: &Membership,
        listener: &Membership,
        names: (NodeId, NodeId),
        tamper: impl Fn(usize, &mut Vec<u8>),
    ) -> (Result<(), HandshakeError>, Result<(), HandshakeError>) {
        block_on(async {
            let (one, near) = tokio::io::duplex(1024);
            let (two, far) = tokio::io::duplex(1024);
            let compat = |stream| Pipe(stream);
            let middle = async {
                let (mut near, mut far) = (compat(near), compat(far));
                for (number, len) in [(0, MAGIC.len() + HASH), (2, 2 * HASH), (1, HASH)] {
                    let mut frame = vec![0; len];
                    let (from, to) = if number == 2 { (&mut far, &mut near) } else { (&mut near, &mut far) };
                    if from.read_exact(&mut frame).await.is_err() {
                        return;
                    }
                    tamper(number, &mut frame);
                    let _ = to.write_all(&frame).await;
                }
            };
            let both = join(
                dialer.exchange(compat(one), names.0, Side::Dialer, [3; HASH]),
                listener.exchange(compat(two), names.1, Side::Listener, [4; HASH]),
            );
            join(both, middle).await.0
        })
    }

    /// A tokio pipe with the traits of `futures`.
    struct Pipe(tokio::io::DuplexStream);

    impl AsyncRead for Pipe {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            buffer: &mut [u8],
        ) -> Poll<io::Result<usize>> {
            let mut filled = tokio::io::ReadBuf::new(buffer);
            std::task::ready!(tokio::io::AsyncRead::poll_read(Pin::new(&mut self.0), cx, &mut filled))?;
            Poll::Ready(Ok(filled.filled().len()))
        }
    }

    impl AsyncWrite for Pipe {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut std::task::Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            tokio::io::AsyncWrite::poll_write(Pin::new(&mut self.0), cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
            tokio::io::AsyncWrite::poll_flush(Pin::new(&mut self.0), cx)
        }

        fn poll_close(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> Poll<io::Result<()>> {
            tokio::io::AsyncWrite::poll_shutdown(Pin::new(&mut self.0), cx)
        }
    }

    #[test]
    fn who_has_the_secret_is_believed_on_both_sides() {
        let (dialed, heard) = talk(&of(7, A), &of(7, B), (B, A), |_, _| {});
        assert!(dialed.is_ok() && heard.is_ok());
    }

    #[test]
    fn another_secret_and_another_name_are_refused_by_both() {
        for (listener, names) in [(of(8, B), (B, A)), (of(7, B), (A, A)), (of(7, B), (B, B))] {
            let (dialed, heard) = talk(&of(7, A), &listener, names, |_, _| {});
            assert!(matches!(dialed, Err(HandshakeError::OtherSecret)), "{dialed:?}");
            assert!(heard.is_err(), "the dialer hung up");
        }
    }

    #[test]
    fn no_byte_of_the_exchange_may_change() {
        for (number, len) in [(0, MAGIC.len() + HASH), (1, HASH), (2, 2 * HASH)] {
            for at in 0..len {
                let (dialed, heard) = talk(&of(7, A), &of(7, B), (B, A), |n, frame| {
                    if n == number {
                        frame[at] ^= 1;
                    }
                });
                assert!(dialed.is_err() || heard.is_err(), "byte {at} of frame {number}");
                assert!(number == 1 || dialed.is_err() || heard.is_err());
            }
        }
    }

    #[test]
    fn a_proof_sent_back_to_its_maker_is_none() {
        let one = of(7, A);
        let nonces = (&[3; HASH][..], &[4; HASH][..]);
        assert_ne!(one.proof(Side::Dialer, (A, B), nonces), one.proof(Side::Listener, (A, B), nonces));
        assert_ne!(one.proof(Side::Dialer, (A, B), nonces), one.proof(Side::Dialer, (B, A), nonces));
        assert_ne!(one.proof(Side::Dialer, (A, B), nonces), one.proof(Side::Dialer, (A, B), (nonces.1, nonces.0)));
        assert_ne!(fresh().unwrap(), fresh().unwrap());
    }
}
