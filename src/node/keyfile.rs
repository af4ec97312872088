//! The node's key in its data directory: 32 secret bytes as hexadecimal text, mode 0600, made once.
//!
//! Invariant: the file is written whole under another name and then linked into place, so a crash leaves either no key or the key.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crate::id::Digest;
use crate::identity::Identity;
use crate::node::clock;

/// The name of the key file in the data directory.
const FILE: &str = "node.key";

/// Why a node has no identity.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The file is there and is no key.
    #[error("{} is not a node key", .0.display())]
    Malformed(PathBuf),
    /// The file cannot be read or written.
    #[error("{}: {source}", path.display())]
    Io {
        /// The key file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// The identity that is kept in this directory; made if there is none.
pub(crate) fn load_or_make(data_dir: &Path) -> Result<Identity, KeyError> {
    let path = data_dir.join(FILE);
    let failed = |source| KeyError::Io { path: path.clone(), source };
    match fs::read_to_string(&path) {
        // A key has the text form of a digest: 64 hexadecimal digits.
        Ok(text) => match text.trim().parse::<Digest>() {
            Ok(seed) => Ok(Identity::from_seed(*seed.as_bytes())),
            Err(_) => Err(KeyError::Malformed(path)),
        },
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let seed: [u8; 32] = clock::random().map_err(failed)?;
            write_private(&path, &Digest::from_bytes(seed).to_string()).map_err(failed)?;
            Ok(Identity::from_seed(seed))
        }
        Err(source) => Err(failed(source)),
    }
}

/// Writes a file that only its owner may read, whole or not at all; refuses to replace one.
pub(crate) fn write_private(path: &Path, text: &str) -> io::Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let written = options.open(&temporary).and_then(|mut file| {
        file.write_all(text.as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()
    });
    let linked = written.and_then(|()| fs::hard_link(&temporary, path));
    fs::remove_file(&temporary)?;
    linked?;
    // The name must be as durable as the bytes: losing the key is losing the identity.
    path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Signer;

    #[test]
    fn a_key_is_made_once_and_kept_private() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let first = load_or_make(folder.path()).expect("made");
        let again = load_or_make(folder.path()).expect("read");
        assert_eq!(first.node(), again.node());
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            let mode = fs::metadata(folder.path().join(FILE)).expect("it is there").permissions().mode();
            assert_eq!(mode & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(folder.path()).expect("readable").count(), 1, "nothing else is left behind");
    }

    #[test]
    fn a_damaged_key_is_refused_and_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::write(folder.path().join(FILE), "not a key").expect("written");
        assert!(matches!(load_or_make(folder.path()), Err(KeyError::Malformed(_))));
        assert_eq!(fs::read_to_string(folder.path().join(FILE)).expect("still there"), "not a key");
    }
}
