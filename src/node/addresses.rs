//! Peer exchange: how a node that knows one peer gets to know the fleet, without discovery on the local network.
//!
//! Every node tells every peer where it listens. A node that was pointed at a peer by its person also asks that peer whom else it knows, and
//! dials them all; for a while it is told of those that come after it. Nodes that found each other this way do not ask again, so joining
//! costs each fleet one list per newcomer and not one per lane. Only first-hand addresses travel: where a connected peer itself said that
//! it listens. Invariant: everything kept here is bounded by the peers that are connected. Addresses that only this machine can reach are
//! told to peers on this machine only, and are believed of nobody else.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::fabric::Time;
use crate::id::NodeId;
use crate::limits::{MAX_LISTEN_ADDRS, MAX_TOLD_PEERS};
use crate::message::{Addresses, Message};

/// How long a newcomer is told of those that come after it: two that join in the same moment each miss the other in the first list.
const CURIOUS: Duration = Duration::from_secs(10);

/// A connected peer.
#[derive(Debug)]
struct Known {
    remote: IpAddr,
    /// Where it said that it listens, as far as that is believed.
    listening: Vec<SocketAddr>,
    /// Whether it was asked whom else it knows.
    asked: bool,
    /// Until when it wants to hear of others.
    curious_until: Option<Time>,
}

/// What a message from a peer leads to.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Consequences {
    pub(super) send: Vec<(NodeId, Message)>,
    pub(super) dial: Vec<(NodeId, SocketAddr)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Exchange {
    /// Addresses that this node's person configured: whoever answers there is asked for others.
    configured: BTreeSet<SocketAddr>,
    mine: Vec<SocketAddr>,
    peers: BTreeMap<NodeId, Known>,
}

impl Exchange {
    pub(super) fn new(configured: impl IntoIterator<Item = SocketAddr>) -> Self {
        Self { configured: configured.into_iter().collect(), ..Self::default() }
    }

    /// This node listens here too.
    pub(super) fn listening(&mut self, address: SocketAddr) {
        if !address.ip().is_unspecified() && !self.mine.contains(&address) && self.mine.len() < MAX_LISTEN_ADDRS {
            self.mine.push(address);
        }
    }

    /// There is a lane to this peer; returns what to tell it first.
    pub(super) fn up(&mut self, peer: NodeId, remote: SocketAddr) -> Message {
        let mine = reachable(&self.mine, remote.ip());
        let curious = self.configured.contains(&remote);
        let known = Known { remote: remote.ip(), listening: Vec::new(), asked: curious, curious_until: None };
        self.peers.insert(peer, known);
        Message::Addresses(Addresses { mine, others: Vec::new(), curious })
    }

    pub(super) fn down(&mut self, peer: NodeId) {
        self.peers.remove(&peer);
    }

    /// A peer told addresses.
    pub(super) fn heard(&mut self, from: NodeId, told: Addresses, now: Time) -> Consequences {
        let mut consequences = Consequences::default();
        let Some(known) = self.peers.get_mut(&from) else { return consequences };
        let remote = known.remote;
        let fresh = known.listening.is_empty() && !told.mine.is_empty();
        if fresh {
            known.listening = reachable(&told.mine, remote);
        }
        // A configured peer may have dialed first: then only its own word says that it is one.
        if !known.asked && told.mine.iter().any(|address| self.configured.contains(address)) {
            known.asked = true;
            let curious = Addresses { curious: true, ..Addresses::default() };
            consequences.send.push((from, Message::Addresses(curious)));
        }
        if told.curious {
            known.curious_until = Some(Time(now.0 + CURIOUS));
            let others = self.others(from, remote);
            if !others.is_empty() {
                consequences.send.push((from, tell(others)));
            }
        }
        if fresh {
            for (peer, known) in self.peers.iter().filter(|(peer, _)| **peer != from) {
                let news = reachable(&self.peers[&from].listening, known.remote);
                if known.curious_until.is_some_and(|until| now < until) && !news.is_empty() {
                    consequences.send.push((*peer, tell(vec![(from, news)])));
                }
            }
        }
        for (node, addresses) in told.others.into_iter().filter(|(node, _)| !self.peers.contains_key(node)) {
            consequences.dial.extend(reachable(&addresses, remote).into_iter().map(|address| (node, address)));
        }
        consequences
    }

    /// Where the other peers listen, as far as one at `remote` can use it.
    fn others(&self, except: NodeId, remote: IpAddr) -> Vec<(NodeId, Vec<SocketAddr>)> {
        let others = self.peers.iter().filter(|(peer, _)| **peer != except);
        let told = others.map(|(peer, known)| (*peer, reachable(&known.listening, remote)));
        told.filter(|(_, addresses)| !addresses.is_empty()).take(MAX_TOLD_PEERS).collect()
    }
}

fn tell(others: Vec<(NodeId, Vec<SocketAddr>)>) -> Message {
    Message::Addresses(Addresses { mine: Vec::new(), others, curious: false })
}

/// Those of the addresses that a node at `remote` can reach, or can speak of.
fn reachable(addresses: &[SocketAddr], remote: IpAddr) -> Vec<SocketAddr> {
    let usable = |address: &&SocketAddr| {
        address.port() != 0 && !address.ip().is_unspecified() && (!address.ip().is_loopback() || remote.is_loopback())
    };
    addresses.iter().filter(usable).copied().take(MAX_LISTEN_ADDRS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u8) -> NodeId {
        NodeId::from_bytes([n; 32])
    }

    fn addr(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    fn said(message: &Message) -> &Addresses {
        match message {
            Message::Addresses(told) => told,
            other => panic!("{other:?}"),
        }
    }

    fn listens(text: &str, curious: bool) -> Addresses {
        Addresses { mine: vec![addr(text)], others: Vec::new(), curious }
    }

    const AT: Time = Time(Duration::from_secs(1));

    #[test]
    fn a_newcomer_is_told_of_those_before_it_and_after_it() {
        let mut seed = Exchange::new([]);
        for (n, at) in [(1, "10.0.0.1:7"), (2, "10.0.0.2:7")] {
            seed.up(node(n), addr(&format!("10.0.0.{n}:50000")));
            let curious = n == 2;
            let consequences = seed.heard(node(n), listens(at, curious), AT);
            assert_eq!(consequences.send.len(), usize::from(curious));
        }
        seed.up(node(3), addr("10.0.0.3:50000"));
        let consequences = seed.heard(node(3), listens("10.0.0.3:7", true), AT);
        assert_eq!(consequences.dial, []);
        let told: Vec<_> = consequences.send.iter().map(|(to, message)| (*to, said(message).others.clone())).collect();
        assert_eq!(
            told,
            [
                (node(3), vec![(node(1), vec![addr("10.0.0.1:7")]), (node(2), vec![addr("10.0.0.2:7")])]),
                (node(2), vec![(node(3), vec![addr("10.0.0.3:7")])]),
            ]
        );
        let later = Time(AT.0 + CURIOUS);
        seed.up(node(4), addr("10.0.0.4:50000"));
        assert_eq!(seed.heard(node(4), listens("10.0.0.4:7", false), later).send, [], "curiosity ends");
    }

    #[test]
    fn only_who_was_configured_is_asked_and_what_it_tells_is_dialed_once() {
        let mut exchange = Exchange::new([addr("10.0.0.1:7")]);
        assert!(!said(&exchange.up(node(2), addr("10.0.0.2:7"))).curious);
        assert!(said(&exchange.up(node(1), addr("10.0.0.1:7"))).curious);
        let others = vec![(node(2), vec![addr("10.0.0.2:7")]), (node(3), vec![addr("10.0.0.3:7")])];
        let told = Addresses { mine: Vec::new(), others, curious: false };
        assert_eq!(exchange.heard(node(1), told, AT).dial, [(node(3), addr("10.0.0.3:7"))]);
        exchange.down(node(1));
        exchange.up(node(1), addr("10.0.0.1:50000"));
        let asked = exchange.heard(node(1), listens("10.0.0.1:7", false), AT).send;
        assert!(asked.len() == 1 && said(&asked[0].1).curious, "it dialed first and is asked all the same");
        exchange.down(node(1));
        assert_eq!(exchange.heard(node(1), listens("10.0.0.1:7", true), AT), Consequences::default());
    }

    #[test]
    fn addresses_of_one_machine_stay_on_it() {
        let mut exchange = Exchange::new([]);
        exchange.listening(addr("0.0.0.0:7"));
        exchange.listening(addr("127.0.0.1:7"));
        exchange.listening(addr("10.0.0.9:7"));
        assert_eq!(said(&exchange.up(node(1), addr("10.0.0.1:5"))).mine, [addr("10.0.0.9:7")]);
        assert_eq!(said(&exchange.up(node(2), addr("127.0.0.1:5"))).mine.len(), 2);
        let others = vec![(node(3), vec![addr("127.0.0.1:22"), addr("0.0.0.0:9"), addr("10.0.0.3:0")])];
        let told = |others| Addresses { mine: Vec::new(), others, curious: false };
        assert_eq!(exchange.heard(node(1), told(others.clone()), AT).dial, []);
        assert_eq!(exchange.heard(node(2), told(others), AT).dial, [(node(3), addr("127.0.0.1:22"))]);
    }
}
