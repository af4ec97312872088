//! Names and addresses at the border: [`NodeId`] and `PeerId`, [`SocketAddr`] and `Multiaddr`, and the text form of a peer.
//!
//! Invariant: both conversions of a name are inverse to each other, so the rest of the crate never sees a `PeerId`.

use std::fmt;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::str::FromStr;

use libp2p::identity::{PublicKey, ed25519};
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::id::NodeId;

/// Multihash code of a key that is contained in its own name.
const IDENTITY_HASH: u64 = 0;

/// The libp2p name of a node; `None` if the id is no point of the curve, so that no such node can exist.
pub(super) fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node behind a libp2p name; `None` if that name is no inline Ed25519 key.
pub(super) fn node_id(peer: PeerId) -> Option<NodeId> {
    let hash = peer.as_ref();
    if hash.code() != IDENTITY_HASH {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(NodeId::from_bytes(key.to_bytes()))
}

/// What carries lanes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Carrier {
    /// TCP with noise and yamux.
    #[default]
    Tcp,
    /// QUIC where the other side speaks it too, else TCP; this node listens for both on the same ports.
    #[cfg(feature = "quic")]
    Quic,
}

/// An address in libp2p's form.
pub(super) fn multiaddr(addr: SocketAddr, carrier: Carrier) -> Multiaddr {
    let host = Multiaddr::from(addr.ip());
    match carrier {
        Carrier::Tcp => host.with(Protocol::Tcp(addr.port())),
        #[cfg(feature = "quic")]
        Carrier::Quic => host.with(Protocol::Udp(addr.port())).with(Protocol::QuicV1),
    }
}

/// The address that a multiaddr names; `None` if it is of a kind that carries no lanes.
pub(super) fn socket_addr(address: &Multiaddr) -> Option<(SocketAddr, Carrier)> {
    let mut parts = address.iter();
    let ip: IpAddr = match parts.next()? {
        Protocol::Ip4(ip) => ip.into(),
        Protocol::Ip6(ip) => ip.into(),
        _ => return None,
    };
    let (port, carrier) = match parts.next()? {
        Protocol::Tcp(port) => (port, Carrier::Tcp),
        #[cfg(feature = "quic")]
        Protocol::Udp(port) if parts.next() == Some(Protocol::QuicV1) => (port, Carrier::Quic),
        _ => return None,
    };
    match parts.next() {
        None | Some(Protocol::P2p(_)) => Some((SocketAddr::new(ip, port), carrier)),
        Some(_) => None,
    }
}

/// Where a peer listens and, if it is known, which node has to answer there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerAddr {
    /// The address to dial.
    pub addr: SocketAddr,
    /// The only node that is accepted there; anybody of the fleet if `None`.
    pub node: Option<NodeId>,
}

/// A text that names no peer.
#[derive(Debug, thiserror::Error)]
pub enum ParsePeerError {
    /// The part before `@` is no node id.
    #[error("`{text}` does not begin with a node id")]
    Node {
        /// The text.
        text: String,
        /// What is wrong with the id.
        source: crate::id::ParseIdError,
    },
    /// The part after `@` is no address, or its host name has none.
    #[error("`{text}` is no address")]
    Address {
        /// The text.
        text: String,
        /// What the resolver said.
        source: std::io::Error,
    },
}

impl ParsePeerError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Node { .. } => {
                "a node id is 64 hexadecimal digits; leave it and the `@` out to accept any node of the fleet"
            }
            Self::Address { .. } => {
                "write host:port, 192.0.2.1:7117 or [2001:db8::1]:7117, and check that the host name resolves"
            }
        }
    }
}

impl FromStr for PeerAddr {
    type Err = ParsePeerError;

    /// Parses `host:port` or `NODEID@host:port`. A host name is resolved now, which may block, and its first address is taken.
    fn from_str(text: &str) -> Result<Self, ParsePeerError> {
        let (node, host) = match text.split_once('@') {
            Some((id, host)) => {
                let node = id.parse().map_err(|source| ParsePeerError::Node { text: text.to_owned(), source })?;
                (Some(node), host)
            }
            None => (None, text),
        };
        let first = host.to_socket_addrs().and_then(|mut all| {
            all.next().ok_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "the host has no address"))
        });
        let addr = first.map_err(|source| ParsePeerError::Address { text: text.to_owned(), source })?;
        Ok(Self { addr, node })
    }
}

impl fmt::Display for PeerAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.node {
            Some(node) => write!(f, "{node}@{}", self.addr),
            None => self.addr.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use libp2p::identity::Keypair;

    use super::*;
    use crate::identity::{Identity, Signer};

    #[test]
    fn names_convert_both_ways_and_keep_their_order() {
        let mut nodes: Vec<NodeId> = (0..20).map(|seed| Identity::from_seed([seed; 32]).node()).collect();
        for (seed, node) in (0..20).zip(&nodes) {
            let peer = Keypair::ed25519_from_bytes([seed; 32]).unwrap().public().to_peer_id();
            assert_eq!(peer_id(*node), Some(peer));
            assert_eq!(node_id(peer), Some(*node));
        }
        nodes.sort();
        let peers: Vec<PeerId> = nodes.iter().map(|node| peer_id(*node).unwrap()).collect();
        assert!(peers.is_sorted());
    }

    #[test]
    fn a_name_without_an_inline_key_is_no_node() {
        assert_eq!(node_id(PeerId::random()), None);
    }

    const CARRIERS: &[Carrier] = &[
        Carrier::Tcp,
        #[cfg(feature = "quic")]
        Carrier::Quic,
    ];

    #[test]
    fn socket_addresses_convert_both_ways() {
        for text in ["127.0.0.1:7117", "[::1]:7117", "[2001:db8::5]:1"] {
            let addr: SocketAddr = text.parse().unwrap();
            for carrier in CARRIERS.iter().copied() {
                let long = multiaddr(addr, carrier);
                assert_eq!(socket_addr(&long), Some((addr, carrier)));
                assert_eq!(socket_addr(&long.with(Protocol::P2p(PeerId::random()))), Some((addr, carrier)));
            }
        }
        for other in ["/ip4/127.0.0.1/udp/1", "/dns/localhost/tcp/1", "/ip4/127.0.0.1/tcp/1/ws"] {
            assert_eq!(socket_addr(&other.parse().unwrap()), None, "{other}");
        }
    }

    #[test]
    fn a_peer_is_an_address_with_or_without_a_node() {
        let node = Identity::from_seed([1; 32]).node();
        for text in ["127.0.0.1:7117", "[::1]:7117", &format!("{node}@127.0.0.1:7117")] {
            assert_eq!(text.parse::<PeerAddr>().unwrap().to_string(), text);
        }
        assert_eq!("localhost:7117".parse::<PeerAddr>().unwrap().addr.port(), 7117);
        for wrong in ["", "127.0.0.1", "127.0.0.1:70000", ":7117:", "@"] {
            assert!(wrong.parse::<PeerAddr>().is_err(), "{wrong}");
        }
        assert!(matches!("abc@127.0.0.1:1".parse::<PeerAddr>(), Err(ParsePeerError::Node { .. })));
    }
}
