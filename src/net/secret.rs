//! The fleet secret: 32 bytes that every node of a fleet has and nobody else.
//!
//! It is a text file of 64 hexadecimal digits. Invariant: the bytes leave this module only as a key derived for one purpose, and no
//! message or `Debug` form shows them. Randomness comes in as an argument.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::path::{Path, PathBuf};

use crate::id::Digest;

/// Longer files are no secret: 64 digits and generous whitespace.
const MAX_FILE: u64 = 1024;

/// What makes a node a member of the fleet.
#[derive(Clone, PartialEq, Eq)]
pub struct FleetSecret([u8; 32]);

/// A fleet secret that could not be read or made.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// There is no such file.
    #[error("no fleet secret at {}", path.display())]
    Missing {
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file holds something else.
    #[error("{} does not hold 64 hexadecimal digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
    },
    /// There already is a file, and it stays as it is.
    #[error("{} exists already", path.display())]
    Exists {
        /// The file.
        path: PathBuf,
    },
    /// The disk said no.
    #[error("cannot use {}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl SecretError {
    /// What a person can do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "make one on the first node, then copy the file to every other node of the fleet",
            Self::Malformed { .. } => "copy the file again from a node that works",
            Self::Exists { .. } => {
                "use the one that is there, or move it away first: nodes that still have it would be shut out"
            }
            Self::Io { .. } => "check the path and its permissions",
        }
    }

    fn io(path: &Path, source: std::io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            ErrorKind::NotFound => Self::Missing { path },
            ErrorKind::AlreadyExists => Self::Exists { path },
            _ => Self::Io { path, source },
        }
    }
}

impl FleetSecret {
    /// Wraps bytes that already are a secret.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads a secret; whitespace around the digits is ignored. A file that others can read is used, with a warning.
    pub fn load(path: &Path) -> Result<Self, SecretError> {
        let malformed = || SecretError::Malformed { path: path.to_owned() };
        let file = File::open(path).map_err(|source| SecretError::io(path, source))?;
        warn_if_open(path, &file);
        let mut text = String::new();
        file.take(MAX_FILE).read_to_string(&mut text).map_err(|source| match source.kind() {
            ErrorKind::InvalidData => malformed(),
            _ => SecretError::io(path, source),
        })?;
        // Any 32-byte name parses the same digits.
        let name: Digest = text.trim().parse().map_err(|_| malformed())?;
        Ok(Self(*name.as_bytes()))
    }

    /// Writes these random bytes as a new secret that only this user can read, parent folders included, and gives it back.
    /// An existing file is never replaced, and a file that could not be written in full is taken away again.
    pub fn generate(path: &Path, random: [u8; 32]) -> Result<Self, SecretError> {
        let error = |source| SecretError::io(path, source);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(error)?;
        }
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut file = options.open(path).map_err(error)?;
        let written = writeln!(file, "{}", Digest::from_bytes(random)).and_then(|()| file.sync_all());
        if let Err(source) = written {
            drop(std::fs::remove_file(path));
            return Err(error(source));
        }
        Ok(Self(random))
    }

    /// A key for one purpose; nothing can be learnt from it about another one.
    pub(super) fn derive(&self, purpose: &str) -> [u8; 32] {
        blake3::derive_key(purpose, &self.0)
    }
}

impl fmt::Debug for FleetSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FleetSecret(..)")
    }
}

#[cfg(unix)]
fn warn_if_open(path: &Path, file: &File) {
    use std::os::unix::fs::PermissionsExt;
    if file.metadata().is_ok_and(|metadata| metadata.permissions().mode() & 0o077 != 0) {
        tracing::warn!(path = %path.display(), "the fleet secret is open to other users; chmod 600 it");
    }
}

#[cfg(not(unix))]
fn warn_if_open(_: &Path, _: &File) {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_round_trips_and_is_never_replaced() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/fleet.secret");
        assert!(matches!(FleetSecret::load(&path), Err(SecretError::Missing { .. })));
        let made = FleetSecret::generate(&path, [0xab; 32]).unwrap();
        assert_eq!(FleetSecret::load(&path).unwrap(), made);
        assert!(matches!(FleetSecret::generate(&path, [1; 32]), Err(SecretError::Exists { .. })));
        assert_eq!(FleetSecret::load(&path).unwrap(), made);
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        }
    }

    #[test]
    fn whitespace_is_tolerated_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("secret");
        let digits = "5a".repeat(32);
        std::fs::write(&path, format!(" \t{digits}\r\n\n")).unwrap();
        assert_eq!(FleetSecret::load(&path).unwrap(), FleetSecret::from_bytes([0x5a; 32]));
        for wrong in [String::new(), digits.repeat(2), digits[1..].to_owned(), "zz".repeat(32)] {
            std::fs::write(&path, &wrong).unwrap();
            assert!(matches!(FleetSecret::load(&path), Err(SecretError::Malformed { .. })), "{wrong}");
        }
        std::fs::write(&path, [0xff; 64]).unwrap();
        assert!(matches!(FleetSecret::load(&path), Err(SecretError::Malformed { .. })));
    }

    #[test]
    fn a_secret_is_not_printed() {
        assert_eq!(format!("{:?}", FleetSecret::from_bytes([7; 32])), "FleetSecret(..)");
        let secret = FleetSecret::from_bytes([7; 32]);
        assert_ne!(secret.derive("one"), secret.derive("two"));
    }
}
