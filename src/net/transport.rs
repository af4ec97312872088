//! The stack below a lane: TCP without Nagle's delay, noise with the fleet secret in its prologue, yamux; or QUIC, with the secret proved in its
//! first frames (see `membership`).
//!
//! Invariant: whatever goes wrong before a connection is authenticated ends, in bounded time, as one [`HandshakeError`]. The secret costs
//! nothing per byte: over TCP it is hashed into the handshake, and with another one the first encrypted message cannot be read.

use std::error::Error;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::FutureExt;
use libp2p::core::muxing::{StreamMuxer, StreamMuxerBox, StreamMuxerEvent};
use libp2p::core::transport::Boxed;
use libp2p::core::transport::timeout::TransportTimeoutError;
use libp2p::core::upgrade::{NegotiationError, ProtocolError, Version};
use libp2p::identity::Keypair;
use libp2p::swarm::derive_prelude::Either;
use libp2p::{PeerId, Transport, noise, tcp, yamux};

use super::addr::Carrier;
use super::gather::Gathering;
use super::limits::{MAX_STREAMS, Timings};
use super::retransmission;
use super::secret::FleetSecret;
use super::turn::Paced;
use crate::identity::Identity;

/// What the secret is used for here; changing it is a new fleet.
const PROLOGUE_CONTEXT: &str = "evalmesh 2026-11-21 noise prologue v1";

/// Why there is no authenticated connection.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("no answer in time")]
    TimedOut,
    #[error("no connection")]
    Tcp(#[source] io::Error),
    #[error("another fleet secret")]
    OtherSecret,
    #[error("no common protocol")]
    OtherProtocol,
    #[error("hung up during the handshake")]
    HungUp,
    #[error("the handshake failed: {0}")]
    Failed(String),
}

impl HandshakeError {
    /// libp2p does not let us name the error of an upgrade, but its source is one of these.
    fn in_upgrade(error: &dyn Error) -> Self {
        let Some(source) = error.source() else { return Self::Failed(error.to_string()) };
        match (source.downcast_ref(), source.downcast_ref(), source.downcast_ref()) {
            (Some(error), _, _) => Self::in_negotiation(error),
            (_, Some(error), _) => Self::in_noise(error),
            (_, _, Some(error)) => Self::in_io(error),
            _ => Self::Failed(source.to_string()),
        }
    }

    fn in_negotiation(error: &NegotiationError) -> Self {
        match error {
            NegotiationError::ProtocolError(ProtocolError::IoError(error)) => Self::in_io(error),
            NegotiationError::ProtocolError(_) => Self::OtherProtocol,
            // An answer that speaks libp2p but not noise, or none at all before the end: the latter is far more common.
            NegotiationError::Failed => Self::HungUp,
        }
    }

    fn in_noise(error: &noise::Error) -> Self {
        match error {
            // The prologue is part of what the first encrypted message authenticates, so a decrypt error is how it shows.
            noise::Error::Io(error) if error.kind() == io::ErrorKind::InvalidData => Self::OtherSecret,
            noise::Error::Io(error) => Self::in_io(error),
            error => Self::Failed(error.to_string()),
        }
    }

    pub(super) fn in_io(error: &io::Error) -> Self {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof, WriteZero};
        match error.kind() {
            BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof | WriteZero => Self::HungUp,
            _ => Self::Failed(error.to_string()),
        }
    }
}

/// The libp2p form of the node's key.
pub(super) fn keypair(identity: &Identity) -> Result<Keypair, String> {
    Keypair::ed25519_from_bytes(identity.seed()).map_err(|error| error.to_string())
}

/// What this module makes. Its errors hold a [`HandshakeError`]; see [`handshake_error`].
pub(super) type Stack = Boxed<(PeerId, StreamMuxerBox)>;

/// The reason inside an error of the stack; each carrier's stack and the choice between them wrap it once.
pub(super) fn handshake_error(error: &io::Error) -> Option<&HandshakeError> {
    let inner = error.get_ref()?;
    inner.downcast_ref().or_else(|| handshake_error(inner.downcast_ref()?))
}

/// The whole stack, which dials and listens by every carrier up to this one.
pub(super) fn build(key: &Keypair, secret: &FleetSecret, carrier: Carrier, timings: &Timings) -> Result<Stack, String> {
    let over_tcp = tcp(key, secret, timings)?;
    match carrier {
        Carrier::Tcp => Ok(over_tcp),
        #[cfg(feature = "quic")]
        Carrier::Quic => Ok(over_tcp
            .or_transport(quic(key, secret, timings))
            .map(|either, _| either.into_inner())
            .map_err(|error| match error {
                Either::Left(error) | Either::Right(error) => error,
            })
            .boxed()),
    }
}

/// QUIC. A connection whose other side does not prove the secret goes no further than this.
#[cfg(feature = "quic")]
fn quic(key: &Keypair, secret: &FleetSecret, timings: &Timings) -> Stack {
    use libp2p::core::connection::ConnectedPoint;
    use libp2p::core::transport::timeout::TransportTimeout;
    use libp2p::quic;

    use super::addr::node_id;
    use super::membership::{Membership, Side};

    let mut config = quic::Config::new(key);
    config.handshake_timeout = timings.handshake.min(super::limits::QUIC_HANDSHAKE);
    config.max_concurrent_stream_limit = u32::try_from(MAX_STREAMS).unwrap_or(u32::MAX);
    let secret = secret.clone();
    let me = node_id(key.public().to_peer_id());
    let proved = quic::tokio::Transport::new(config)
        .map(|(peer, connection), _| (peer, StreamMuxerBox::new(connection)))
        .and_then(move |(peer, connection), point: ConnectedPoint| {
            let names = me.zip(node_id(peer));
            let side = if point.is_dialer() { Side::Dialer } else { Side::Listener };
            let secret = secret.clone();
            async move {
                let (me, node) = names.ok_or(HandshakeError::OtherProtocol)?;
                let proved = Membership::new(&secret, me).prove(connection, node, side).await;
                proved.map(|connection| (peer, connection))
            }
        });
    TransportTimeout::new(proved, timings.handshake)
        .map_err(|error| match error {
            TransportTimeoutError::Timeout
            | TransportTimeoutError::Other(Either::Left(quic::Error::HandshakeTimedOut)) => HandshakeError::TimedOut,
            TransportTimeoutError::TimerError(error) => HandshakeError::Failed(error.to_string()),
            TransportTimeoutError::Other(Either::Left(quic::Error::Io(error))) => HandshakeError::Tcp(error),
            TransportTimeoutError::Other(Either::Left(error)) => HandshakeError::Failed(error.to_string()),
            TransportTimeoutError::Other(Either::Right(error)) => error,
        })
        .boxed()
}

fn tcp(key: &Keypair, secret: &FleetSecret, timings: &Timings) -> Result<Stack, String> {
    let prologue = secret.derive(PROLOGUE_CONTEXT).to_vec();
    let noise = noise::Config::new(key).map_err(|error| error.to_string())?.with_prologue(prologue);
    let mut yamux = yamux::Config::default();
    yamux.set_max_num_streams(MAX_STREAMS);
    let close = timings.close;
    Ok(tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
        .map(|stream, _| {
            retransmission::hasten(&stream);
            Paced(Gathering::new(stream))
        })
        // Not the lazy version: with that, an answer in another protocol would show up as a failure of noise.
        .upgrade(Version::V1)
        .authenticate(noise)
        .multiplex(yamux)
        .timeout(timings.handshake)
        .map_err(|error| match error {
            TransportTimeoutError::Timeout => HandshakeError::TimedOut,
            TransportTimeoutError::TimerError(error) => HandshakeError::Failed(error.to_string()),
            TransportTimeoutError::Other(Either::Left(Either::Left(error))) => HandshakeError::Tcp(error),
            TransportTimeoutError::Other(Either::Left(Either::Right(error))) => HandshakeError::in_upgrade(&error),
            TransportTimeoutError::Other(Either::Right(error)) => HandshakeError::in_upgrade(&error),
        })
        .map(move |(peer, muxer), _| (peer, StreamMuxerBox::new(BoundedClose::new(muxer, close))))
        .boxed())
}

/// A multiplexer whose orderly close gives up after a while. Without it a peer that reads nothing keeps our half alive for ever.
struct BoundedClose<M> {
    inner: M,
    limit: Duration,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
}

impl<M> BoundedClose<M> {
    fn new(inner: M, limit: Duration) -> Self {
        Self { inner, limit, timer: None }
    }
}

impl<M> StreamMuxer for BoundedClose<M>
where
    M: StreamMuxer + Unpin,
    M::Error: Into<io::Error>,
{
    type Substream = M::Substream;
    type Error = io::Error;

    fn poll_inbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        Pin::new(&mut self.inner).poll_inbound(cx).map_err(Into::into)
    }

    fn poll_outbound(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<Self::Substream>> {
        Pin::new(&mut self.inner).poll_outbound(cx).map_err(Into::into)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(closed) = Pin::new(&mut self.inner).poll_close(cx) {
            return Poll::Ready(closed.map_err(Into::into));
        }
        let limit = self.limit;
        let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        timer.poll_unpin(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx).map_err(Into::into)
    }
}
