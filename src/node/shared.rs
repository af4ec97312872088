//! What the loop lets others see of it: peers, addresses and counts, for `status`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::fabric::{Counters, Fabric, Time};
use crate::id::NodeId;
use crate::node::status::{IndexStatus, PeerState, PeerStatus, RefusedPeer};

/// Refusals remembered for `status`, the latest of each address.
const MAX_REFUSED: usize = 64;
/// How often all peers and the whole index are looked at again, for each peer, and at least and at most. In between a burst costs the peers that
/// it is about: with hundreds of peers, looking at all of them would cost more than most inputs do.
const LOOK_EVERY: Duration = Duration::from_millis(10);
const LOOK_AFTER: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(1);

#[derive(Debug, Default, Clone)]
pub(super) struct View {
    pub(super) addresses: Vec<SocketAddr>,
    pub(super) peers: BTreeMap<NodeId, PeerStatus>,
    pub(super) refused: BTreeMap<SocketAddr, RefusedPeer>,
    pub(super) counters: Counters,
    pub(super) in_flight: u64,
    pub(super) index_facts: u64,
    pub(super) index: IndexStatus,
    /// When everything was looked at last.
    looked: Option<Time>,
}

/// Written by the loop, read by everybody.
#[derive(Debug, Default)]
pub(super) struct Shared {
    view: Mutex<View>,
    /// Facts in the holder index.
    pub(super) facts: AtomicU64,
    pub(super) dropped: AtomicU64,
    pub(super) ram: AtomicU64,
    pub(super) disk: AtomicU64,
}

impl Shared {
    pub(super) fn view(&self) -> View {
        self.with(|view| view.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut View) -> T) -> T {
        change(&mut self.view.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn listening(&self, address: SocketAddr) {
        self.with(|view| {
            if !view.addresses.contains(&address) {
                view.addresses.push(address);
            }
        });
    }

    pub(super) fn peer_up(&self, node: NodeId, address: SocketAddr) {
        tracing::info!(peer = %node.short(), %address, "peer joined");
        self.with(|view| {
            view.refused.remove(&address);
            let fresh = PeerStatus {
                node,
                address,
                round_trip: None,
                log_known: 0,
                lag: 0,
                state: PeerState::Alive,
                hit_ratio: 1.0,
                answers_in: None,
            };
            view.peers.insert(node, fresh);
        });
    }

    pub(super) fn peer_down(&self, node: NodeId) {
        self.with(|view| view.peers.remove(&node));
    }

    pub(super) fn peer_refused(&self, refused: RefusedPeer) {
        self.with(|view| {
            let known = view.refused.get(&refused.address).is_some_and(|known| *known == refused);
            if !known {
                tracing::warn!(address = %refused.address, reason = refused.reason, "a peer cannot be joined");
            }
            if known || view.refused.len() < MAX_REFUSED {
                view.refused.insert(refused.address, refused);
            }
        });
    }

    pub(super) fn count_dropped(&self) {
        self.dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Takes over what the fabric knows after a burst of inputs about these peers.
    pub(super) fn note(&self, fabric: &Fabric, now: Time, about: &[NodeId]) {
        self.with(|view| {
            view.counters = fabric.counters();
            view.in_flight = fabric.in_flight() as u64;
            view.index_facts = fabric.holders().len() as u64;
            let peers = u32::try_from(view.peers.len()).unwrap_or(u32::MAX);
            let rest = LOOK_EVERY.saturating_mul(peers).clamp(*LOOK_AFTER.start(), *LOOK_AFTER.end());
            if view.looked.is_some_and(|looked| now - looked < rest) {
                for node in about {
                    if let Some(peer) = view.peers.get_mut(node) {
                        look(fabric, now, *node, peer);
                    }
                }
                return;
            }
            view.looked = Some(now);
            let index = fabric.holders().stats();
            view.index = IndexStatus {
                bytes: index.bytes,
                budget: index.budget,
                bytes_per_fact: index.bytes_per_fact(),
                dropped: index.dropped,
                corrected: index.corrected,
            };
            view.peers.iter_mut().for_each(|(node, peer)| look(fabric, now, *node, peer));
        });
        self.facts.store(fabric.holders().len() as u64, Ordering::Relaxed);
    }
}

fn look(fabric: &Fabric, now: Time, node: NodeId, peer: &mut PeerStatus) {
    peer.round_trip = fabric.round_trip(node);
    peer.log_known = fabric.holders().known(node);
    peer.lag = fabric.lag(node);
    peer.state = fabric.liveness(now, node).into();
    peer.hit_ratio = fabric.hit_ratio(node);
    peer.answers_in = fabric.answer_latency(node);
}
