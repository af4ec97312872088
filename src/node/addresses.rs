//! Peer exchange: how a node that knows one peer gets to know the fleet, without discovery on the local network.
//!
//! Every node tells every peer where it listens. A node that was pointed at a peer by its person also asks that peer whom else it knows, and
//! dials them all; for a while it is told of those that come after it. Nodes that found each other this way do not ask again, so joining
//! costs each fleet one list per newcomer and not one per lane. Only first-hand addresses travel: where a connected peer itself said that
//! it listens.
//!
//! A node that somebody wants to ask, and to which there is no lane, is looked for: at the addresses that it told while there was one, else at
//! those that a few peers know of it, who are asked in turns and ever less often. Invariant: everything kept here is bounded, by the peers
//! that are connected or by name. Addresses that only this machine can reach are told to peers on this machine only, and are believed of
//! nobody else.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::fabric::Time;
use crate::id::NodeId;
use crate::limits::{
    ASKED_WHERE, MAX_LISTEN_ADDRS, MAX_REMEMBERED, MAX_SOUGHT, MAX_TOLD_PEERS, SEEK_AGAIN, SEEK_AGAIN_AT_MOST,
};
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
    /// How many nodes it was told of since when.
    told: (Time, usize),
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
    /// Where peers that are gone said that they listen, and how they were reached themselves.
    remembered: BTreeMap<NodeId, (IpAddr, Vec<SocketAddr>)>,
    /// The same nodes, in the order in which they went.
    went: VecDeque<NodeId>,
    sought: BTreeMap<NodeId, Search>,
}

/// A node that somebody wants to ask.
#[derive(Debug, Clone, Copy)]
struct Search {
    /// Nothing is done for it before.
    next: Time,
    wait: Duration,
    /// Who was asked last where it is: the next ones come after.
    asked: Option<NodeId>,
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
        self.sought.remove(&peer);
        if self.remembered.remove(&peer).is_some() {
            self.went.retain(|gone| *gone != peer);
        }
        let mine = reachable(&self.mine, remote.ip());
        let curious = self.configured.contains(&remote);
        let known = Known {
            remote: remote.ip(),
            listening: Vec::new(),
            asked: curious,
            curious_until: None,
            told: Default::default(),
        };
        self.peers.insert(peer, known);
        Message::Addresses(Addresses { mine, others: Vec::new(), curious })
    }

    pub(super) fn down(&mut self, peer: NodeId) {
        let Some(known) = self.peers.remove(&peer) else { return };
        if known.listening.is_empty() {
            return;
        }
        if self.remembered.len() >= MAX_REMEMBERED
            && let Some(first) = self.went.pop_front()
        {
            self.remembered.remove(&first);
        }
        self.went.push_back(peer);
        self.remembered.insert(peer, (known.remote, known.listening));
    }

    /// Somebody wants to ask a node to which there is no lane. A search that comes too soon after the one before leads to nothing.
    pub(super) fn seek(&mut self, node: NodeId, now: Time) -> Consequences {
        let mut consequences = Consequences::default();
        let full = self.sought.len() >= MAX_SOUGHT && !self.sought.contains_key(&node);
        if full {
            // Those that nobody looked for again in all that time make room.
            self.sought.retain(|_, search| now < search.next + SEEK_AGAIN_AT_MOST);
        }
        if self.peers.contains_key(&node) || self.sought.len() >= MAX_SOUGHT && full {
            return consequences;
        }
        let search = self.sought.entry(node).or_insert(Search { next: now, wait: SEEK_AGAIN, asked: None });
        if now < search.next {
            return consequences;
        }
        (search.next, search.wait) = (now + search.wait, (search.wait * 2).min(SEEK_AGAIN_AT_MOST));
        if let Some((_, addresses)) = self.remembered.get(&node) {
            consequences.dial.extend(addresses.iter().map(|address| (node, *address)));
        }
        // It may listen elsewhere by now.
        let after = search.asked;
        let later = self.peers.keys().filter(|peer| after.is_none_or(|after| **peer > after));
        let first = self.peers.keys().filter(|peer| after.is_some_and(|after| **peer <= after));
        for peer in later.chain(first).take(ASKED_WHERE) {
            search.asked = Some(*peer);
            consequences.send.push((*peer, Message::WhereIs { node }));
        }
        consequences
    }

    /// The answer to a peer that looks for a node, if there is one. Whoever asks for more nodes than an honest node looks for gets no answer for a
    /// while, and makes no work that others would wait for.
    pub(super) fn where_is(&mut self, from: NodeId, node: NodeId, now: Time) -> Option<Message> {
        let asker = self.peers.get_mut(&from)?;
        let (since, told) = &mut asker.told;
        if now - *since >= SEEK_AGAIN {
            (*since, *told) = (now, 0);
        }
        *told += 1;
        if *told > MAX_SOUGHT {
            return None;
        }
        let remote = asker.remote;
        let connected = self.peers.get(&node).map(|known| &known.listening);
        let addresses = connected.or_else(|| self.remembered.get(&node).map(|(_, addresses)| addresses))?;
        let usable = reachable(addresses, remote);
        (!usable.is_empty()).then(|| tell(vec![(node, usable)]))
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
    fn a_node_that_is_looked_for_is_dialed_where_it_was_and_asked_for_ever_less_often() {
        let mut exchange = Exchange::new([]);
        for n in 1..=7 {
            exchange.up(node(n), addr(&format!("10.0.0.{n}:50000")));
            exchange.heard(node(n), listens(&format!("10.0.0.{n}:7"), false), AT);
        }
        assert_eq!(exchange.seek(node(1), AT), Consequences::default(), "there is a lane");
        exchange.down(node(1));
        let found = exchange.seek(node(1), AT);
        assert_eq!(found.dial, [(node(1), addr("10.0.0.1:7"))]);
        let asked = |found: &Consequences| found.send.iter().map(|(peer, _)| *peer).collect::<Vec<_>>();
        assert_eq!(asked(&found), [node(2), node(3), node(4)]);
        assert_eq!(found.send[0].1, Message::WhereIs { node: node(1) });
        assert_eq!(exchange.seek(node(1), AT), Consequences::default(), "too soon");
        let (mut now, mut times, mut whom) = (AT, Vec::new(), Vec::new());
        while now < Time(AT.0 + Duration::from_mins(5)) {
            now = now + Duration::from_millis(100);
            let found = exchange.seek(node(1), now);
            if found != Consequences::default() {
                times.push(now.0.as_secs() - 1);
                whom.extend(asked(&found));
            }
        }
        assert_eq!(times, [1, 3, 7, 15, 31, 63, 127, 191, 255]);
        assert_eq!(whom[..6], [5, 6, 7, 2, 3, 4].map(node), "in turns");
        exchange.up(node(1), addr("10.0.0.1:50000"));
        exchange.down(node(1));
        assert_ne!(exchange.seek(node(1), now), Consequences::default(), "what was found begins anew");
    }

    #[test]
    fn where_a_node_listens_is_told_first_hand_and_to_whom_it_is_of_use() {
        let mut exchange = Exchange::new([]);
        for (n, at) in [(1, "10.0.0.1:7"), (2, "127.0.0.1:7")] {
            let remote = if n == 2 { "127.0.0.1:50000" } else { "10.0.0.1:50000" };
            exchange.up(node(n), addr(remote));
            exchange.heard(node(n), listens(at, false), AT);
        }
        let other = Addresses { others: vec![(node(9), vec![addr("10.0.0.9:7")])], ..Addresses::default() };
        assert_eq!(exchange.heard(node(1), other, AT).dial, [(node(9), addr("10.0.0.9:7"))]);
        assert_eq!(exchange.where_is(node(1), node(9), AT), None, "hearsay");
        assert_eq!(exchange.where_is(node(1), node(2), AT), None, "that is another machine's loopback");
        let told = exchange.where_is(node(2), node(1), AT).expect("it is known");
        assert_eq!(said(&told).others, [(node(1), vec![addr("10.0.0.1:7")])]);
        exchange.down(node(1));
        assert_eq!(exchange.where_is(node(2), node(1), AT), Some(told), "it is remembered");
        assert_eq!(exchange.where_is(node(1), node(2), AT), None, "whoever asks has a lane");
    }

    #[test]
    fn a_flood_of_questions_where_nodes_are_is_answered_within_its_bound_and_others_at_once() {
        let mut exchange = Exchange::new([]);
        for n in 1..=3 {
            exchange.up(node(n), addr(&format!("10.0.0.{n}:50000")));
            exchange.heard(node(n), listens(&format!("10.0.0.{n}:7"), false), AT);
        }
        let flood = |exchange: &mut Exchange, now| {
            (0..100_000).filter(|_| exchange.where_is(node(1), node(3), now).is_some()).count()
        };
        assert_eq!(flood(&mut exchange, AT), MAX_SOUGHT, "as many as an honest node looks for");
        assert!(exchange.where_is(node(2), node(3), AT).is_some(), "somebody else is answered");
        let kept = (exchange.peers.len(), exchange.remembered.len(), exchange.sought.len());
        assert_eq!(kept, (3, 0, 0), "nothing is kept of it");
        assert_eq!(flood(&mut exchange, AT + SEEK_AGAIN / 2), 0);
        assert_eq!(flood(&mut exchange, AT + SEEK_AGAIN), MAX_SOUGHT);
        // What it asks of nodes that nobody knows counts too.
        let unknown = |exchange: &mut Exchange| exchange.where_is(node(2), node(9), AT + SEEK_AGAIN);
        (0..MAX_SOUGHT).for_each(|_| assert_eq!(unknown(&mut exchange), None));
        assert_eq!(exchange.where_is(node(2), node(3), AT + SEEK_AGAIN), None);
    }

    #[test]
    fn what_is_remembered_and_looked_for_is_bounded() {
        let name = |n: usize| {
            let mut name = [1; 32];
            name[..8].copy_from_slice(&n.to_be_bytes());
            NodeId::from_bytes(name)
        };
        let mut exchange = Exchange::new([]);
        for n in 0..2 * MAX_REMEMBERED {
            for _ in 0..2 {
                exchange.up(name(n), addr("10.0.0.1:50000"));
                exchange.heard(name(n), listens("10.0.0.1:7", false), AT);
                exchange.down(name(n));
            }
        }
        assert_eq!((exchange.remembered.len(), exchange.went.len()), (MAX_REMEMBERED, MAX_REMEMBERED));
        assert!(exchange.remembered.contains_key(&name(2 * MAX_REMEMBERED - 1)));
        for n in 0..2 * MAX_SOUGHT {
            exchange.seek(name(n), AT);
        }
        assert_eq!(exchange.sought.len(), MAX_SOUGHT);
        assert!(!exchange.sought.contains_key(&name(MAX_SOUGHT)));
        exchange.seek(name(MAX_SOUGHT), AT + SEEK_AGAIN_AT_MOST * 2);
        assert!(exchange.sought.contains_key(&name(MAX_SOUGHT)), "old searches make room");
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
