//! The one byte form of evidence, by hand: postcard's, but hashes are moved whole instead of byte by byte. Evidence is most of what travels with a
//! small answer, and of what an adopted one takes in the ledger.
//!
//! Invariant: [`write`] gives what postcard gives, and [`read`] takes exactly what [`write`] gives.

use bytes::Bytes;

use super::{Evidence, Hash, SignedHead};
use crate::id::{EpochId, NodeId};
use crate::identity::Signature;
use crate::limits::{MAX_PROOF, MAX_RECORD};
use crate::record::form::{Rest, number};

/// Appends the form of evidence.
pub(crate) fn write(evidence: &Evidence, out: &mut Vec<u8>) {
    let Evidence { record, index, path, head } = evidence;
    number(out, record.len() as u64);
    out.extend_from_slice(record);
    number(out, *index);
    number(out, path.len() as u64);
    out.extend_from_slice(path.as_flattened());
    out.extend_from_slice(head.node.as_bytes());
    out.extend_from_slice(head.epoch.as_bytes());
    number(out, head.length);
    out.extend_from_slice(&head.root);
    out.extend_from_slice(head.signature.as_bytes());
}

/// Reads the form of evidence from the front of `rest`, which lies in `whole`: the record stays where it is. `None` if these bytes are not
/// exactly that, or more than a bound allows.
pub(crate) fn read(rest: &mut Rest<'_>, whole: &Bytes) -> Option<Evidence> {
    let len = usize::try_from(rest.number()?).ok().filter(|len| *len <= MAX_RECORD)?;
    let record = whole.slice_ref(rest.take(len)?);
    let index = rest.number()?;
    let count = usize::try_from(rest.number()?).ok().filter(|count| *count <= MAX_PROOF)?;
    let path: &[Hash] = rest.take(count * size_of::<Hash>())?.as_chunks().0;
    let head = SignedHead {
        node: NodeId::from_bytes(rest.array()?),
        epoch: EpochId::from_bytes(rest.array()?),
        length: rest.number()?,
        root: rest.array()?,
        signature: Signature::from_bytes(rest.array()?),
    };
    Some(Evidence { record, index, path: path.to_vec(), head })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    prop_compose! {
        fn evidence()(
            record in prop::collection::vec(any::<u8>(), 0..300),
            (index, length) in any::<(u64, u64)>(),
            path in prop::collection::vec(any::<Hash>(), 0..20),
            (node, epoch, root) in any::<(Hash, [u8; 16], Hash)>(),
            (r, s) in any::<(Hash, Hash)>(),
        ) -> Evidence {
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&r);
            signature[32..].copy_from_slice(&s);
            let (node, epoch) = (NodeId::from_bytes(node), EpochId::from_bytes(epoch));
            let head = SignedHead { node, epoch, length, root, signature: Signature::from_bytes(signature) };
            Evidence { record: record.into(), index, path, head }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn the_form_is_postcards(evidence in evidence()) {
            let mut bytes = Vec::new();
            write(&evidence, &mut bytes);
            prop_assert_eq!(&bytes, &postcard::to_allocvec(&evidence).expect("encodes"));
            let whole = Bytes::from(bytes);
            let mut rest = Rest(&whole);
            prop_assert_eq!(read(&mut rest, &whole), Some(evidence));
            prop_assert!(rest.0.is_empty());
            for end in 0..whole.len() {
                prop_assert_eq!(read(&mut Rest(&whole[..end]), &whole), None);
            }
        }

        #[test]
        fn what_is_read_has_this_form(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let whole = Bytes::from(bytes);
            let mut rest = Rest(&whole);
            if let Some(evidence) = read(&mut rest, &whole) {
                let mut again = Vec::new();
                write(&evidence, &mut again);
                prop_assert_eq!(&again[..], &whole[..whole.len() - rest.0.len()]);
            }
        }
    }
}
