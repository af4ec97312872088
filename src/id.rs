//! Names: of questions, of bytes, of nodes and of ledger epochs.
//!
//! A [`ContentId`] names a *question* and certifies nothing; a [`Digest`] names *bytes* and certifies them. They are different types so that
//! one can never stand in for the other. This module knows nothing about what is hashed: canonical bytes are made beside each value.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::LazyLock;

use serde::de::{Error as _, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

use crate::bao::wide;

/// The BLAKE3 derive-key context of every [`ContentId`]; changing it is a new id space.
static CONTENT_ID: LazyLock<blake3::Hasher> =
    LazyLock::new(|| blake3::Hasher::new_derive_key("evalmesh 2026-11-21 content id v1"));

/// A text that should have been the lower- or upper-case hexadecimal form of an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not {expected} hexadecimal digits")]
pub struct ParseIdError {
    text: String,
    expected: usize,
}

/// Reads an array byte by byte, in the form that serde gives arrays. Unlike serde's own way it is one plain loop: names are most of what is read.
pub(crate) fn plain_bytes<'de, const LEN: usize, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; LEN], D::Error> {
    struct Bytes<const LEN: usize>;

    impl<'de, const LEN: usize> Visitor<'de> for Bytes<LEN> {
        type Value = [u8; LEN];

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "{LEN} bytes")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut bytes = [0; LEN];
            for (at, byte) in bytes.iter_mut().enumerate() {
                *byte = list.next_element()?.ok_or_else(|| A::Error::invalid_length(at, &self))?;
            }
            Ok(bytes)
        }
    }

    deserializer.deserialize_tuple(LEN, Bytes)
}

/// Declares a fixed-size byte name that prints and parses as hexadecimal.
macro_rules! byte_name {
    ($(#[$meta:meta])* $name:ident, $len:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
        pub struct $name(#[serde(deserialize_with = "plain_bytes")] [u8; $len]);

        impl $name {
            /// Wraps bytes that already are such a name.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The raw bytes of the name.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }

            /// The first ten hexadecimal digits: for people, never for lookup.
            #[must_use]
            pub fn short(&self) -> String {
                self.to_string()[..10].to_owned()
            }
        }

        /// By their bytes. Names are keys of most maps, and two nearly always are equal or differ in their first eight bytes: neither takes a call.
        impl Ord for $name {
            fn cmp(&self, other: &Self) -> Ordering {
                let head = |name: &Self| u64::from_be_bytes(*name.0.first_chunk().expect("names are longer"));
                match head(self).cmp(&head(other)) {
                    Ordering::Equal if self == other => Ordering::Equal,
                    Ordering::Equal => self.0.cmp(&other.0),
                    different => different,
                }
            }
        }

        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
                Some(self.cmp(other))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                let error = || ParseIdError { text: text.to_owned(), expected: 2 * $len };
                let mut bytes = [0; $len];
                if text.len() != 2 * $len || !text.is_ascii() {
                    return Err(error());
                }
                for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
                    let digit = |c: u8| char::from(c).to_digit(16).ok_or_else(error);
                    *byte = u8::try_from(digit(pair[0])? * 16 + digit(pair[1])?).map_err(|_| error())?;
                }
                Ok(Self(bytes))
            }
        }
    };
}

byte_name! {
    /// Names a question: BLAKE3 (derive-key mode) of a request's canonical bytes. It cannot certify an answer.
    ContentId, 32
}
byte_name! {
    /// Names bytes and certifies them: plain BLAKE3.
    Digest, 32
}
byte_name! {
    /// Names a node: its Ed25519 public key.
    NodeId, 32
}
byte_name! {
    /// Names one opening of a ledger for writing: 128 random bits.
    EpochId, 16
}

impl ContentId {
    /// The id of a question with these canonical bytes (see `Request::canonical`).
    #[must_use]
    pub fn of(canonical: &[u8]) -> Self {
        Self(*CONTENT_ID.clone().update(canonical).finalize().as_bytes())
    }

    /// The first eight bytes, little-endian: what announcements carry. Two ids may share one, so it only ever *suggests* a holder.
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.0)
    }
}

impl Digest {
    /// The digest of these bytes; several threads make it where there are many.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        if bytes.len() >= wide::WIDE {
            return wide::digest(bytes);
        }
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The first eight bytes, little-endian; see [`ContentId::fingerprint`].
    #[must_use]
    pub fn fingerprint(&self) -> u64 {
        fingerprint(&self.0)
    }
}

fn fingerprint(name: &[u8; 32]) -> u64 {
    let mut first = [0; 8];
    first.copy_from_slice(&name[..8]);
    u64::from_le_bytes(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hex_round_trips_and_rejects_everything_else() {
        let id = ContentId::of(b"a question");
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.to_string().to_uppercase().parse(), Ok(id));
        for wrong in ["", "00", "zz", &"g".repeat(64), &"0".repeat(63), &"é".repeat(32)] {
            assert!(wrong.parse::<ContentId>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_in_the_order_of_their_bytes() {
        let mut names: Vec<_> = (0..200_u32).map(|n| Digest::of(&n.to_le_bytes())).collect();
        names.extend((0..32).map(|at| Digest::from_bytes(std::array::from_fn(|n| u8::from(n == at)))));
        let mut bytes: Vec<_> = names.iter().map(|name| *name.as_bytes()).collect();
        names.sort();
        bytes.sort_unstable();
        assert!(names.iter().map(|name| *name.as_bytes()).eq(bytes));
    }

    #[test]
    fn a_question_and_the_same_bytes_have_different_names() {
        assert_ne!(ContentId::of(b"x").as_bytes(), Digest::of(b"x").as_bytes());
    }

    #[test]
    fn golden_names() {
        assert_eq!(Digest::of(b"").to_string(), "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(ContentId::of(b"").to_string(), "7a0c8c93f8a61952dfe1bca7cf6900acfe8c8c19a2c79ef2268b3145b45c0517");
    }
}
