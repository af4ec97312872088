//! Keys of all nodes: made by real keys, each checked by everybody and computed once.
//!
//! All nodes see the same bytes, so they share one memory of checks; what a node of this simulation signed itself is in it from the begin.
//! Invariant: a signature that no key of this simulation made is really checked, so no lie gets through that would not elsewhere.

use std::sync::Arc;

use crate::id::NodeId;
use crate::identity::{Ed25519, Identity, MemoVerifier, Signature, Signer, Verifier};

/// The memory of checks.
#[derive(Debug, Clone, Default)]
pub(super) struct Checked(Arc<MemoVerifier<Ed25519>>);

impl Verifier for Checked {
    fn verify(&self, node: NodeId, message: &[u8], signature: &Signature) -> bool {
        self.0.verify(node, message, signature)
    }
}

/// A node's key.
#[derive(Debug, Clone)]
pub(super) struct Key {
    identity: Identity,
    checked: Checked,
}

impl Key {
    pub(super) fn new(seed: [u8; 32], checked: &Checked) -> Self {
        Self { identity: Identity::from_seed(seed), checked: checked.clone() }
    }

    /// What must not get out.
    pub(super) fn seed(&self) -> [u8; 32] {
        self.identity.seed()
    }
}

impl Signer for Key {
    fn node(&self) -> NodeId {
        self.identity.node()
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let signature = self.identity.sign(message);
        self.checked.0.vouch(self.node(), message, &signature);
        signature
    }
}

/// Whether a secret is anywhere in these bytes. Its first eight bytes are looked for first: they are a number.
pub(super) fn contains(bytes: &[u8], secret: &[u8; 32]) -> bool {
    let head = |part: &[u8]| part.first_chunk().map(|head| u64::from_le_bytes(*head));
    let wanted = head(secret);
    bytes.windows(secret.len()).any(|window| head(window) == wanted && window == secret)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_here_holds_and_what_was_not_is_really_checked() {
        let checked = Checked::default();
        let (alice, bob) = (Key::new([1; 32], &checked), Key::new([2; 32], &checked));
        let signature = alice.sign(b"message");
        assert!(checked.verify(alice.node(), b"message", &signature));
        assert!(Ed25519.verify(alice.node(), b"message", &signature), "it is a real one");
        assert!(!checked.verify(bob.node(), b"message", &signature));
        assert!(!checked.verify(alice.node(), b"another", &signature));
        let elsewhere = Identity::from_seed([3; 32]);
        assert!(checked.verify(elsewhere.node(), b"message", &elsewhere.sign(b"message")));
        assert!(!checked.verify(elsewhere.node(), b"message", &Signature::from_bytes([9; 64])));
    }

    #[test]
    fn a_secret_is_found_wherever_it_is() {
        let secret: [u8; 32] = std::array::from_fn(|n| u8::try_from(n).expect("small"));
        for before in [0, 1, 7, 100] {
            let whole = [&vec![0; before][..], &secret, &[9]].concat();
            assert!(contains(&whole, &secret), "{before} bytes before it");
            assert!(!contains(&whole[..whole.len() - 2], &secret));
        }
        assert!(!contains(&[], &secret));
    }
}
