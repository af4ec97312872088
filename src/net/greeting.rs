//! The greeting: the first eight bytes in both directions of a lane, before any frame. It settles which version of the lane is spoken.
//!
//! `b"EVMH"` (`b"EVMB"` on a second connection for what is large), the oldest version that the sender speaks, the newest one (each `u16`, little-endian). The dialer greets first. A listener
//! greets back in any case, so that both sides can say who has to be upgraded; its greeting is also its word that the lane is taken.
//! Both sides then speak the newest version that both know. These eight bytes never change; everything after them may.

use std::fmt;
use std::io;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::lane::Kind;

/// The length of a greeting.
pub(super) const LEN: usize = 8;

/// The versions of the lane that a node speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Versions {
    /// The oldest one.
    pub oldest: u16,
    /// The newest one.
    pub newest: u16,
}

impl Versions {
    /// What this build speaks.
    pub const OURS: Self = Self { oldest: 1, newest: 1 };

    /// The newest version that both speak, if there is one.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u16> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }

    pub(super) fn encode(self, kind: Kind) -> [u8; LEN] {
        let mut bytes = [0; LEN];
        bytes[..4].copy_from_slice(magic(kind));
        bytes[4..6].copy_from_slice(&self.oldest.to_le_bytes());
        bytes[6..].copy_from_slice(&self.newest.to_le_bytes());
        bytes
    }

    fn decode(bytes: [u8; LEN]) -> Option<(Kind, Self)> {
        let [found @ .., old_low, old_high, new_low, new_high] = bytes;
        let (oldest, newest) = (u16::from_le_bytes([old_low, old_high]), u16::from_le_bytes([new_low, new_high]));
        let kind = [Kind::Main, Kind::Bulk].into_iter().find(|kind| found == *magic(*kind))?;
        (oldest <= newest).then_some((kind, Self { oldest, newest }))
    }
}

fn magic(kind: Kind) -> &'static [u8; 4] {
    match kind {
        Kind::Main => b"EVMH",
        Kind::Bulk => b"EVMB",
    }
}

impl fmt::Display for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.oldest, self.newest) {
            (oldest, newest) if oldest == newest => write!(f, "{newest}"),
            (oldest, newest) => write!(f, "{oldest} to {newest}"),
        }
    }
}

/// A stream on which the other side greeted.
pub(super) struct Greeted<S> {
    pub(super) stream: S,
    /// What the dialer wants it for.
    pub(super) kind: Kind,
    pub(super) theirs: Versions,
}

/// The dialer's side: greets, and reads the answer. A stream that answers with something else is `InvalidData`.
pub(super) async fn offer<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, kind: Kind) -> io::Result<Greeted<S>> {
    stream.write_all(&Versions::OURS.encode(kind)).await?;
    stream.flush().await?;
    let (answered, theirs) = read(&mut stream).await?;
    if answered == kind { Ok(Greeted { stream, kind, theirs }) } else { Err(no_greeting()) }
}

/// The listener's side: reads the greeting. If there is no common version the answer is sent here; else it goes out with the first frames,
/// once the lane is taken.
pub(super) async fn hear<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> io::Result<Greeted<S>> {
    let (kind, theirs) = read(&mut stream).await?;
    if Versions::OURS.common(theirs).is_none() {
        stream.write_all(&Versions::OURS.encode(kind)).await?;
        stream.close().await?;
        // The dialer hangs up when it has read that; hanging up first could take the answer away from it.
        let mut rest = [0];
        let _ = stream.read(&mut rest).await;
    }
    Ok(Greeted { stream, kind, theirs })
}

async fn read(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<(Kind, Versions)> {
    let mut bytes = [0; LEN];
    stream.read_exact(&mut bytes).await?;
    Versions::decode(bytes).ok_or_else(no_greeting)
}

fn no_greeting() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "no greeting")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn versions(oldest: u16, newest: u16) -> Versions {
        Versions { oldest, newest }
    }

    #[test]
    fn the_newest_common_version_is_spoken() {
        assert_eq!(versions(1, 3).common(versions(2, 5)), Some(3));
        assert_eq!(versions(2, 5).common(versions(1, 3)), Some(3));
        assert_eq!(versions(1, 1).common(versions(1, 1)), Some(1));
        assert_eq!(versions(1, 2).common(versions(3, 4)), None);
        assert_eq!(versions(3, 4).common(versions(1, 2)), None);
    }

    #[test]
    fn the_bytes_are_frozen_and_read_strictly() {
        for (kind, golden) in [(Kind::Main, b"EVMH\x01\x00\x03\x02"), (Kind::Bulk, b"EVMB\x01\x00\x03\x02")] {
            assert_eq!(versions(1, 0x0203).encode(kind), *golden);
            assert_eq!(Versions::decode(*golden), Some((kind, versions(1, 0x0203))));
        }
        assert_eq!(Versions::decode(*b"EVMX\x01\x00\x03\x02"), None);
        assert_eq!(Versions::decode(*b"EVMH\x02\x00\x01\x00"), None, "the oldest is newer than the newest");
    }
}
