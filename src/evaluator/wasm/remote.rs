//! The third layer: code that a listed signer made, fetched by name from a folder or a server.
//!
//! Native code can do whatever this process can, so it is taken from nobody by default, and from a remote only under a signature of a key that the
//! operator listed. Invariant: a copy is a hit only if it says for what, by whom, from what source, and for which machine and engine it was made,
//! none of that is empty, all of it is what is wanted here, and the signature covers it together with every byte of the code. Anything
//! else is a miss with its reason. This layer only reads; writing to a remote is an explicit act ([`Publication`]).

use std::collections::BTreeMap;
use std::env::consts::{ARCH, OS};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::admit::Shape;
use super::aot::Artifact;
use super::engine::VERSION;
use super::limits::{ARTIFACT_BYTES, METADATA_BYTES};
use crate::evaluator::artifacts::{Fingerprint, Miss};
use crate::id::{Digest, NodeId};
use crate::identity::{Ed25519, Signature, Signer, Verifier};

/// What a copy begins with; the last byte is its version.
const MAGIC: [u8; 8] = *b"EMART\0\0\x01";
/// Magic, length of the metadata, signature.
const HEAD: usize = 8 + 4 + 64;
/// The derive-key context of what is signed.
const SIGNED_CONTEXT: &str = "evalmesh 2026-11-21 signed artifact v1";

/// The keys of the metadata; each must be there and hold something.
const FINGERPRINT: &str = "fingerprint";
const SIGNER: &str = "signer";
const SOURCE: &str = "source";
const DEVICE: &str = "device";
const ENGINE: &str = "engine";
const MEMORY: &str = "memory-maximum";
const SHAPE: &str = "shape";

/// Gets copies by name.
pub trait Fetch: fmt::Debug + Send + Sync {
    /// The bytes that are kept as `HEX.bin` for this name; whatever they are, they are checked by the caller.
    fn fetch(&self, name: &Digest) -> Result<Vec<u8>, Miss>;
}

/// A remote that this node reads from.
#[derive(Debug, Clone)]
pub struct RemoteConfig {
    /// Whose code is run here.
    pub signers: Vec<NodeId>,
    /// The provenance that copies must state, word for word; without it, any that is not empty.
    pub source: Option<String>,
    /// Where copies are.
    pub fetch: Arc<dyn Fetch>,
}

impl RemoteConfig {
    /// The code of this fingerprint, if the remote has an authentic copy of it.
    pub(super) fn load(&self, wanted: &Fingerprint) -> Result<Artifact, Miss> {
        let copy = self.fetch.fetch(&wanted.name())?;
        let (metadata, signature, code) = split(&copy)?;
        let shape = self.check(&parse(metadata)?, wanted)?;
        let signer =
            parse(metadata)?.get(SIGNER).and_then(|signer| signer.parse().ok()).ok_or(Miss::SignerNotListed)?;
        if !Ed25519.verify(signer, &signed(metadata, code), &signature) {
            return Err(Miss::NotAuthentic);
        }
        Ok(Artifact { shape, code: code.to_vec() })
    }

    /// What must be said, and said right, before the signature is worth checking.
    fn check(&self, metadata: &BTreeMap<String, String>, wanted: &Fingerprint) -> Result<Shape, Miss> {
        let get = |key: &str| metadata.get(key).filter(|value| !value.trim().is_empty()).ok_or(Miss::MetadataMissing);
        let (fingerprint, signer, source) = (get(FINGERPRINT)?, get(SIGNER)?, get(SOURCE)?);
        let (device, engine, memory, bits) = (get(DEVICE)?, get(ENGINE)?, get(MEMORY)?, get(SHAPE)?);
        if *fingerprint != wanted.name().to_string() {
            return Err(Miss::OtherFingerprint);
        }
        if !self.signers.iter().any(|listed| listed.to_string() == *signer) {
            return Err(Miss::SignerNotListed);
        }
        if self.source.as_ref().is_some_and(|wanted| wanted != source) {
            return Err(Miss::OtherProvenance);
        }
        if *device != own_device() || *engine != own_engine(wanted) {
            return Err(Miss::OtherMachine);
        }
        let memory_maximum = memory.parse().map_err(|_| Miss::Truncated)?;
        bits.parse().ok().and_then(|bits| Shape::of(memory_maximum, bits)).ok_or(Miss::Truncated)
    }
}

/// A signed copy of compiled code, ready to be put where others read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Publication {
    /// What the copy is called: `HEX.bin`.
    pub name: Digest,
    /// The copy.
    pub bytes: Vec<u8>,
}

impl Publication {
    /// Signs code that this node's compiler made. `source` says where the program is from, and must say something.
    pub(super) fn sign(made_for: &Fingerprint, artifact: &Artifact, source: &str, signer: &dyn Signer) -> Self {
        let metadata = [
            (FINGERPRINT, made_for.name().to_string()),
            (SIGNER, signer.node().to_string()),
            (SOURCE, source.to_owned()),
            (DEVICE, own_device()),
            (ENGINE, own_engine(made_for)),
            (MEMORY, artifact.shape.memory_maximum.to_string()),
            (SHAPE, artifact.shape.bits().to_string()),
        ];
        Self::of(made_for.name(), &metadata, &artifact.code, signer)
    }

    fn of(name: Digest, metadata: &[(&str, String)], code: &[u8], signer: &dyn Signer) -> Self {
        let metadata: String =
            metadata.iter().map(|(key, value)| [key, ": ", &value.replace('\n', " "), "\n"].concat()).collect();
        let signature = signer.sign(&signed(metadata.as_bytes(), code));
        let len = u32::try_from(metadata.len()).unwrap_or(u32::MAX).to_le_bytes();
        let bytes = [&MAGIC[..], &len, signature.as_bytes(), metadata.as_bytes(), code].concat();
        Self { name, bytes }
    }

    /// Writes the copy into a folder that others read, whole or not at all.
    pub fn write(&self, folder: &std::path::Path) -> io::Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let path = folder.join(file_name(&self.name));
        let unfinished = folder.join(format!("{}.{}.unfinished", self.name, std::process::id()));
        fs::write(&unfinished, &self.bytes)?;
        fs::rename(&unfinished, &path)?;
        Ok(path)
    }
}

/// A folder that somebody publishes to: a network mount, or a checked-out bucket.
#[derive(Debug, Clone)]
pub struct Folder(
    /// The folder.
    pub PathBuf,
);

impl Fetch for Folder {
    fn fetch(&self, name: &Digest) -> Result<Vec<u8>, Miss> {
        let file = File::open(self.0.join(file_name(name))).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Miss::Absent,
            _ => Miss::Unreadable,
        })?;
        read_bounded(file).map_err(|_| Miss::Unreadable)?.ok_or(Miss::TooLarge)
    }
}

/// What a copy is called in a folder or below an address.
pub(super) fn file_name(name: &Digest) -> String {
    format!("{name}.bin")
}

/// Reads to the end, unless that is further than any copy goes.
pub(super) fn read_bounded(reader: impl Read) -> io::Result<Option<Vec<u8>>> {
    let bound = ARTIFACT_BYTES + HEAD as u64 + METADATA_BYTES as u64;
    let mut bytes = Vec::new();
    reader.take(bound + 1).read_to_end(&mut bytes)?;
    Ok((bytes.len() as u64 <= bound).then_some(bytes))
}

fn own_device() -> String {
    format!("{ARCH}-{OS}")
}

fn own_engine(made_for: &Fingerprint) -> String {
    format!("{VERSION} {}", made_for.engine)
}

fn signed(metadata: &[u8], code: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key(SIGNED_CONTEXT);
    hasher.update(&(metadata.len() as u64).to_le_bytes()).update(metadata).update(code);
    *hasher.finalize().as_bytes()
}

fn split(copy: &[u8]) -> Result<(&[u8], Signature, &[u8]), Miss> {
    let (head, rest) = copy.split_at_checked(HEAD).ok_or(Miss::Truncated)?;
    let rest = head.strip_prefix(&MAGIC).map(|head| (head, rest)).ok_or(Miss::Truncated)?;
    let ((len, signature), body) = (rest.0.split_at(4), rest.1);
    let len = u32::from_le_bytes(len.try_into().map_err(|_| Miss::Truncated)?) as usize;
    if len > METADATA_BYTES {
        return Err(Miss::TooLarge);
    }
    let (metadata, code) = body.split_at_checked(len).ok_or(Miss::Truncated)?;
    let signature = signature.try_into().map(Signature::from_bytes).map_err(|_| Miss::Truncated)?;
    Ok((metadata, signature, code))
}

/// Lines of `key: value`.
fn parse(metadata: &[u8]) -> Result<BTreeMap<String, String>, Miss> {
    let text = str::from_utf8(metadata).map_err(|_| Miss::Truncated)?;
    let pair = |line: &str| line.split_once(':').map(|(key, value)| (key.to_owned(), value.trim().to_owned()));
    text.lines().map(pair).collect::<Option<_>>().ok_or(Miss::Truncated)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::Identity;

    #[derive(Debug)]
    struct Served(Result<Vec<u8>, Miss>);

    impl Fetch for Served {
        fn fetch(&self, _: &Digest) -> Result<Vec<u8>, Miss> {
            self.0.clone()
        }
    }

    fn wanted() -> Fingerprint {
        Fingerprint { program: Digest::of(b"program"), engine: Digest::of(b"engine"), policy: 1 }
    }

    fn signer() -> Identity {
        Identity::from_seed([3; 32])
    }

    fn right() -> Vec<(&'static str, String)> {
        vec![
            (FINGERPRINT, wanted().name().to_string()),
            (SIGNER, signer().node().to_string()),
            (SOURCE, "the fleet's builder".to_owned()),
            (DEVICE, own_device()),
            (ENGINE, own_engine(&wanted())),
            (MEMORY, "65536".to_owned()),
            (SHAPE, "1".to_owned()),
        ]
    }

    fn load(copy: Vec<u8>, source: Option<&str>) -> Result<Artifact, Miss> {
        let fetch = Arc::new(Served(Ok(copy)));
        RemoteConfig { signers: vec![signer().node()], source: source.map(str::to_owned), fetch }.load(&wanted())
    }

    fn copy(metadata: &[(&str, String)]) -> Vec<u8> {
        Publication::of(wanted().name(), metadata, b"native code", &signer()).bytes
    }

    #[test]
    fn what_says_everything_right_is_a_hit() {
        for source in [None, Some("the fleet's builder")] {
            let artifact = load(copy(&right()), source).unwrap();
            assert_eq!((&artifact.code[..], artifact.shape.memory_maximum), (&b"native code"[..], 65_536));
            assert!(artifact.shape.imports);
        }
        let artifact = Artifact {
            shape: Shape { memory_maximum: 1, imports: false, asks: false, component: false },
            code: b"native code".to_vec(),
        };
        let published = Publication::sign(&wanted(), &artifact, "a\nb", &signer());
        assert_eq!(load(published.bytes, Some("a b")).unwrap().shape, artifact.shape);
    }

    #[test]
    fn whatever_is_absent_or_empty_is_a_miss_even_where_nothing_is_configured() {
        for left_out in 0..right().len() {
            let mut metadata = right();
            metadata[left_out].1 = "  ".to_owned();
            assert_eq!(
                load(copy(&metadata), None).unwrap_err(),
                Miss::MetadataMissing,
                "empty {}",
                metadata[left_out].0
            );
            metadata.remove(left_out);
            assert_eq!(load(copy(&metadata), None).unwrap_err(), Miss::MetadataMissing);
        }
    }

    #[test]
    fn whatever_does_not_match_exactly_is_a_miss() {
        let other = Identity::from_seed([4; 32]);
        let cases = [
            (FINGERPRINT, Digest::of(b"x").to_string(), Miss::OtherFingerprint),
            (SIGNER, other.node().to_string(), Miss::SignerNotListed),
            (SIGNER, "somebody".to_owned(), Miss::SignerNotListed),
            (SOURCE, "the fleet's Builder".to_owned(), Miss::OtherProvenance),
            (DEVICE, "vax-vms".to_owned(), Miss::OtherMachine),
            (ENGINE, VERSION.to_owned(), Miss::OtherMachine),
            (MEMORY, "much".to_owned(), Miss::Truncated),
        ];
        for (key, value, why) in cases {
            let metadata: Vec<_> =
                right().into_iter().map(|(k, v)| (k, if k == key { value.clone() } else { v })).collect();
            assert_eq!(load(copy(&metadata), Some("the fleet's builder")).unwrap_err(), why, "{key}: {value}");
        }
        // Signed by another key than the one it names.
        let forged = Publication::of(wanted().name(), &right(), b"native code", &other).bytes;
        assert_eq!(load(forged, None).unwrap_err(), Miss::NotAuthentic);
    }

    #[test]
    fn every_byte_is_covered_and_every_cut_is_noticed() {
        let sound = copy(&right());
        for at in 0..sound.len() {
            let mut damaged = sound.clone();
            damaged[at] ^= 1;
            assert!(load(damaged, None).is_err(), "byte {at}");
            assert!(load(sound[..at].to_vec(), None).is_err(), "cut at {at}");
        }
        let longer = [&sound[..], b"x"].concat();
        assert_eq!(load(longer, None).unwrap_err(), Miss::NotAuthentic);
    }

    #[test]
    fn a_folder_is_read_and_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let published = Publication::of(wanted().name(), &right(), b"native code", &signer());
        let remote = Folder(folder.path().join("public"));
        assert_eq!(remote.fetch(&wanted().name()), Err(Miss::Absent));
        let path = published.write(&remote.0).unwrap();
        assert!(path.to_string_lossy().ends_with(&format!("{}.bin", wanted().name())));
        assert_eq!(remote.fetch(&wanted().name()), Ok(published.bytes));
        assert_eq!(fs::read_dir(&remote.0).unwrap().count(), 1);
    }
}
