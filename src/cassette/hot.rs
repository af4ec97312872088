//! The RAM tier: replies that were asked for lately, bounded in bytes. Payloads are shared, not copied.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use dashmap::DashMap;

use super::{Held, Tier};
use crate::id::ContentId;

/// Bytes of payloads that the tier keeps; past it the oldest go.
const MAX_BYTES: u64 = 256 * 1024 * 1024;
/// What an entry costs beside its payloads.
const OVERHEAD: u64 = 512;

#[derive(Debug, Default)]
pub(super) struct Hot {
    replies: DashMap<ContentId, Held>,
    /// In the order of coming.
    order: Mutex<VecDeque<ContentId>>,
    bytes: AtomicU64,
}

impl Hot {
    pub(super) fn get(&self, id: ContentId) -> Option<Held> {
        self.replies.get(&id).map(|held| held.clone())
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    pub(super) fn put(&self, id: ContentId, held: &Held) {
        let cost = held.reply.len() + OVERHEAD;
        if cost > MAX_BYTES / 4 {
            return;
        }
        let held = Held { tier: Tier::Ram, ..held.clone() };
        self.bytes.fetch_add(cost, Ordering::Relaxed);
        if let Some(old) = self.replies.insert(id, held) {
            self.bytes.fetch_sub(old.reply.len() + OVERHEAD, Ordering::Relaxed);
            return;
        }
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        order.push_back(id);
        while self.bytes() > MAX_BYTES {
            let Some(oldest) = order.pop_front() else { break };
            self.remove(oldest);
        }
    }

    pub(super) fn remove(&self, id: ContentId) {
        if let Some((_, held)) = self.replies.remove(&id) {
            self.bytes.fetch_sub(held.reply.len() + OVERHEAD, Ordering::Relaxed);
        }
    }
}
