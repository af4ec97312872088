//! A node's identity: an Ed25519 key pair (RFC 8032), the signatures it makes and how anybody checks them.
//!
//! Signing and checking are *effects* (the [`Signer`] and [`Verifier`] traits), so that a simulation may memoise them: at a thousand nodes
//! everybody checks the same bytes. Key files live with the node (`node::keyfile`); this module never touches a disk.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::id::NodeId;

/// Checks that a [`MemoVerifier`] remembers before it starts over: about 4 MiB.
const MAX_REMEMBERED_CHECKS: usize = 16 * 1024;

/// An Ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Signature(#[serde(with = "halves")] [u8; 64]);

impl Signature {
    /// Wraps bytes that claim to be a signature.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The raw bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    fn prefix(&self) -> u64 {
        u64::from_le_bytes(*self.0.first_chunk().expect("a signature has 64 bytes"))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signature({:02x}{:02x}..)", self.0[0], self.0[1])
    }
}

/// serde stops at arrays of 32; a signature travels as its two halves, R and s.
mod halves {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    use crate::id::plain_bytes;

    #[derive(Deserialize)]
    struct Half(#[serde(deserialize_with = "plain_bytes")] [u8; 32]);

    pub(super) fn serialize<S: Serializer>(bytes: &[u8; 64], serializer: S) -> Result<S::Ok, S::Error> {
        let (r, s): (&[u8], &[u8]) = bytes.split_at(32);
        let half = |part: &[u8]| <[u8; 32]>::try_from(part).map_err(serde::ser::Error::custom);
        (half(r)?, half(s)?).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 64], D::Error> {
        let (Half(r), Half(s)) = Deserialize::deserialize(deserializer)?;
        let mut bytes = [0; 64];
        bytes[..32].copy_from_slice(&r);
        bytes[32..].copy_from_slice(&s);
        Ok(bytes)
    }
}

/// Makes signatures in the name of one node.
pub trait Signer: Send + Sync {
    /// Whose signatures these are.
    fn node(&self) -> NodeId;
    /// Signs a message. The caller puts a domain in front of it.
    fn sign(&self, message: &[u8]) -> Signature;
}

/// Checks signatures.
pub trait Verifier: Send + Sync {
    /// Whether `node` signed exactly this message.
    fn verify(&self, node: NodeId, message: &[u8], signature: &Signature) -> bool;
}

/// A node's key pair. The secret half is wiped from memory on drop and never printed.
#[derive(Clone)]
pub struct Identity {
    key: SigningKey,
}

impl Identity {
    /// The identity that belongs to a 32-byte seed (the private key of RFC 8032). Whoever has the seed *is* the node.
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { key: SigningKey::from_bytes(&seed) }
    }

    /// The secret seed, for the key file and for the transport handshake.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.key.to_bytes()
    }
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Identity({})", self.node().short())
    }
}

impl Signer for Identity {
    fn node(&self) -> NodeId {
        NodeId::from_bytes(self.key.verifying_key().to_bytes())
    }

    fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.key.sign(message).to_bytes())
    }
}

/// Real Ed25519 checking, in the strict form that refuses small-order keys and malleable signatures.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ed25519;

impl Verifier for Ed25519 {
    fn verify(&self, node: NodeId, message: &[u8], signature: &Signature) -> bool {
        VerifyingKey::from_bytes(node.as_bytes()).is_ok_and(|key| {
            key.verify_strict(message, &ed25519_dalek::Signature::from_bytes(signature.as_bytes())).is_ok()
        })
    }
}

/// Remembers what was checked before: one signed head vouches for many records and comes with each of them.
#[derive(Debug, Default)]
pub struct MemoVerifier<V> {
    inner: V,
    /// By the signature's first bytes, which an honest signer does not choose; of two that agree in them the newer one is remembered.
    seen: Mutex<BTreeMap<u64, Seen>>,
}

/// One check and how it ended.
#[derive(Debug)]
struct Seen {
    node: NodeId,
    signature: Signature,
    message: Box<[u8]>,
    holds: bool,
}

impl<V> MemoVerifier<V> {
    /// Remembers that a signature holds because this process made it, with the key of that node.
    pub fn vouch(&self, node: NodeId, message: &[u8], signature: &Signature) {
        self.remember(node, message, signature, true);
    }

    fn remember(&self, node: NodeId, message: &[u8], signature: &Signature, holds: bool) {
        let mut seen = self.seen();
        if seen.len() >= MAX_REMEMBERED_CHECKS {
            seen.clear();
        }
        seen.insert(signature.prefix(), Seen { node, signature: *signature, message: message.into(), holds });
    }

    fn recall(&self, node: NodeId, message: &[u8], signature: &Signature) -> Option<bool> {
        let seen = self.seen();
        let seen = seen.get(&signature.prefix())?;
        let same = seen.signature == *signature && seen.node == node && *seen.message == *message;
        same.then_some(seen.holds)
    }

    /// Believes what was found to hold before, and nothing else: never more than a look-up.
    pub fn remembered(&self) -> Remembered<'_, V> {
        Remembered(self)
    }

    fn seen(&self) -> MutexGuard<'_, BTreeMap<u64, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V: Verifier> Verifier for MemoVerifier<V> {
    fn verify(&self, node: NodeId, message: &[u8], signature: &Signature) -> bool {
        self.recall(node, message, signature).unwrap_or_else(|| {
            let holds = self.inner.verify(node, message, signature);
            self.remember(node, message, signature, holds);
            holds
        })
    }
}

/// See [`MemoVerifier::remembered`].
#[derive(Debug)]
pub struct Remembered<'a, V>(&'a MemoVerifier<V>);

impl<V: Send + Sync> Verifier for Remembered<'_, V> {
    fn verify(&self, node: NodeId, message: &[u8], signature: &Signature) -> bool {
        self.0.recall(node, message, signature) == Some(true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_holds_for_its_message_and_node_only() {
        let (alice, bob) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let signature = alice.sign(b"message");
        assert!(Ed25519.verify(alice.node(), b"message", &signature));
        assert!(!Ed25519.verify(alice.node(), b"messagf", &signature));
        assert!(!Ed25519.verify(bob.node(), b"message", &signature));
        let mut bytes = *signature.as_bytes();
        bytes[63] ^= 1;
        assert!(!Ed25519.verify(alice.node(), b"message", &Signature::from_bytes(bytes)));
    }

    #[test]
    fn what_is_remembered_is_one_node_s_signature_over_one_message() {
        let (alice, bob) = (Identity::from_seed([1; 32]), Identity::from_seed([2; 32]));
        let memo = MemoVerifier::<Ed25519>::default();
        let signature = alice.sign(b"message");
        assert!(!memo.remembered().verify(alice.node(), b"message", &signature), "not seen yet");
        memo.vouch(alice.node(), b"message", &signature);
        assert!(memo.remembered().verify(alice.node(), b"message", &signature));
        assert!(!memo.remembered().verify(bob.node(), b"message", &signature));
        let mut other = *signature.as_bytes();
        other[63] ^= 1;
        for _ in 0..2 {
            assert!(memo.verify(alice.node(), b"message", &signature));
            assert!(!memo.verify(alice.node(), b"messagf", &signature));
            assert!(!memo.verify(bob.node(), b"message", &signature));
            assert!(!memo.verify(alice.node(), b"message", &Signature::from_bytes(other)));
        }
        let counting = Counting::default();
        let memo = MemoVerifier { inner: &counting, seen: Mutex::default() };
        let many = u64::try_from(MAX_REMEMBERED_CHECKS).expect("few") + 10;
        for n in (0..many).chain(many - 5..many) {
            let mut bytes = [0; 64];
            bytes[..8].copy_from_slice(&n.to_le_bytes());
            assert!(memo.verify(alice.node(), b"message", &Signature::from_bytes(bytes)));
        }
        assert_eq!(counting.0.load(std::sync::atomic::Ordering::Relaxed), many, "the newest are remembered");
        assert!(memo.seen().len() <= MAX_REMEMBERED_CHECKS);
    }

    /// Takes everything, and counts.
    #[derive(Debug, Default)]
    struct Counting(std::sync::atomic::AtomicU64);

    impl Verifier for &Counting {
        fn verify(&self, _: NodeId, _: &[u8], _: &Signature) -> bool {
            self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            true
        }
    }

    #[test]
    fn rfc_8032_test_1() {
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse::<NodeId>().expect("hex");
        let identity = Identity::from_seed(*seed.as_bytes());
        assert_eq!(identity.node().to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        assert_eq!(identity.sign(b"").as_bytes()[..4], [0xe5, 0x56, 0x43, 0x00]);
    }

    #[test]
    fn a_secret_is_not_printed() {
        let identity = Identity::from_seed([7; 32]);
        assert!(!format!("{identity:?}").contains("0707"));
    }
}
