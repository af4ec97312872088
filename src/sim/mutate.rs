//! Planted bugs, one of each kind: switches that make a simulated node do something wrong at one place.
//!
//! They show that checkers can fail. Each sits where the simulator carries out what the core wants, so the core itself stays as it ships. A
//! planted bug must be found within 200 seeds (see `tests`). Invariant: without a mutation nothing in this file runs.

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use crate::id::NodeId;
use crate::identity::{Signature, Verifier};
use crate::ledger::{Storage, StorageFile};
use crate::message::{EpochStart, LogItem, Message};

/// A planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Mutation {
    /// What was written is acknowledged as durable before it is synced.
    AcknowledgeEarly,
    /// The ledger's syncs do nothing.
    SkipSync,
    /// Every signature is taken for good.
    TrustEverybody,
    /// Every evaluation is started twice.
    EvaluateTwice,
    /// Every answer is delivered twice.
    DeliverTwice,
    /// Some answers are never delivered.
    LoseDeliveries,
    /// Nobody asks for what was lost.
    NeverPull,
    /// A node restored from an older image goes on in the epoch that it had.
    ReuseEpoch,
    /// An answer is fetched back although it was retracted.
    FetchRetracted,
    /// Who wants a held answer or nothing gets a computation.
    ComputeUnasked,
    /// Timeouts are forgotten.
    ForgetTimeouts,
    /// An evaluation's reply is given to the question that was asked before.
    SwapReplies,
    /// The secret key is in a message.
    LeakKey,
    /// After a restart a node forgets the older epochs of its log when it says hello.
    ForgetEpochs,
    /// A node announces what it does not hold.
    AnnounceUnheld,
    /// A file that was read once is not read again, though it was edited.
    TrustOldFiles,
}

impl Mutation {
    /// All of them.
    pub const ALL: [Self; 16] = [
        Self::AcknowledgeEarly,
        Self::SkipSync,
        Self::TrustEverybody,
        Self::EvaluateTwice,
        Self::DeliverTwice,
        Self::LoseDeliveries,
        Self::NeverPull,
        Self::ReuseEpoch,
        Self::FetchRetracted,
        Self::ComputeUnasked,
        Self::ForgetTimeouts,
        Self::SwapReplies,
        Self::LeakKey,
        Self::ForgetEpochs,
        Self::AnnounceUnheld,
        Self::TrustOldFiles,
    ];

    /// The bug of this name, such as `skip-sync`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutation| mutation.to_string() == name)
    }

    /// What a node with this bug sends in place of a message.
    pub(super) fn twist(self, mut message: Message, secret: &[u8; 32]) -> Option<Message> {
        let forget = |lineage: &mut Vec<EpochStart>| drop(lineage.drain(..lineage.len().saturating_sub(1)));
        match (self, &mut message) {
            (Self::NeverPull, Message::Pull { .. }) => return None,
            (Self::LeakKey, Message::Held { payloads, .. }) => payloads.push(secret.to_vec().into()),
            (Self::ForgetEpochs, Message::Hello { lineage, .. }) => forget(lineage),
            (Self::ForgetEpochs, Message::Manifest(manifest)) => forget(&mut Arc::make_mut(manifest).lineage),
            (Self::AnnounceUnheld, Message::Announce(told)) => {
                if let Some(LogItem::Fact { question, .. }) = Arc::make_mut(told).batch.items.last_mut() {
                    question[0] ^= 0xFF;
                }
            }
            _ => {}
        }
        Some(message)
    }
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, c) in format!("{self:?}").chars().enumerate() {
            let dash = if n > 0 && c.is_ascii_uppercase() { "-" } else { "" };
            write!(f, "{dash}{}", c.to_ascii_lowercase())?;
        }
        Ok(())
    }
}

/// Takes every signature for good.
#[derive(Debug)]
pub(super) struct Gullible;

impl Verifier for Gullible {
    fn verify(&self, _: NodeId, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Says that it synced, and did not.
pub(super) struct LyingStorage(pub(super) Arc<dyn Storage>);

impl fmt::Debug for LyingStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LyingStorage").field(&self.0).finish()
    }
}

impl Storage for LyingStorage {
    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.0.list(dir)
    }

    fn create_new(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(LyingFile { inner: self.0.create_new(path)?, synced: std::sync::atomic::AtomicU32::new(0) }))
    }

    fn open(&self, path: &str) -> io::Result<Arc<dyn StorageFile>> {
        Ok(Arc::new(LyingFile { inner: self.0.open(path)?, synced: std::sync::atomic::AtomicU32::new(0) }))
    }

    fn remove(&self, path: &str) -> io::Result<()> {
        self.0.remove(path)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.0.rename(from, to)
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.0.create_dir(path)
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        self.0.sync_dir(path)
    }

    fn locate(&self, path: &str) -> PathBuf {
        self.0.locate(path)
    }
}

struct LyingFile {
    inner: Arc<dyn StorageFile>,
    synced: std::sync::atomic::AtomicU32,
}

impl StorageFile for LyingFile {
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, offset)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_at(bytes, offset)
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        // The first one is real: a segment's header.
        match self.synced.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            0 => self.inner.sync(),
            _ => Ok(()),
        }
    }
}
