//! A reply from elsewhere that was checked: bytes, proof and signature. There is no other way to make one than to check.

use bytes::Bytes;

use crate::bao::ProvenStart;
use crate::id::{ContentId, Digest};
use crate::identity::Verifier;
use crate::proof::{Evidence, EvidenceError, ProvenNodes};
use crate::record::Record;
use crate::reply::{BlobRef, OutputFile, Payload, Reply};

/// A believed record with all its payloads: invariant, every byte of `reply` matches the digest that the signed record names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedReply {
    record: Record,
    reply: Reply,
    payloads: Vec<Bytes>,
    evidence: Evidence,
    answer: Digest,
}

/// What checking an answer led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Checked {
    /// Everything is here and holds.
    Complete(Box<VerifiedReply>),
    /// The record holds; its payloads did not travel with it and are to be fetched in its name. And what makes it believable.
    RecordOnly(Box<(Record, Evidence)>),
}

/// Why an answer is not believed. Every one of these is the sender's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Disbelief {
    /// Record, proof or signature do not hold.
    #[error(transparent)]
    Evidence(#[from] EvidenceError),
    /// The record answers another question.
    #[error("the record answers {0:?}, which was not asked")]
    OtherQuestion(ContentId),
    /// A payload's bytes are not the ones that the record names.
    #[error("a payload is not the one that the record names ({0:?})")]
    Payload(Digest),
    /// There are more or fewer payloads than the record names.
    #[error("{found} payloads where the record names {wanted}")]
    Count {
        /// How many came.
        found: usize,
        /// How many the record names.
        wanted: usize,
    },
}

impl VerifiedReply {
    /// Checks an answer to `id`. `payloads` are all of the record's in the order of `Record::blobs`, or none at all.
    pub fn check(
        id: ContentId,
        evidence: Evidence,
        payloads: Vec<Bytes>,
        verifier: &dyn Verifier,
    ) -> Result<Checked, Disbelief> {
        let record = evidence.verify(verifier)?;
        Self::holding(id, record, evidence, payloads)
    }

    /// As [`Self::check`], without hashing or checking again what was proven before.
    pub fn check_among(
        id: ContentId,
        evidence: Evidence,
        payloads: Vec<Bytes>,
        verifier: &dyn Verifier,
        proven: &mut ProvenNodes,
    ) -> Result<Checked, Disbelief> {
        let record = evidence.verify_among(verifier, proven)?;
        Self::holding(id, record, evidence, payloads)
    }

    /// Holds payloads against a record that is believed.
    fn holding(id: ContentId, record: Record, evidence: Evidence, payloads: Vec<Bytes>) -> Result<Checked, Disbelief> {
        if record.request != id {
            return Err(Disbelief::OtherQuestion(record.request));
        }
        let wanted = record.blobs().count();
        if payloads.is_empty() && wanted > 0 {
            return Ok(Checked::RecordOnly(Box::new((record, evidence))));
        }
        if payloads.len() != wanted {
            return Err(Disbelief::Count { found: payloads.len(), wanted });
        }
        for (blob, bytes) in record.blobs().zip(&payloads) {
            if bytes.len() as u64 != blob.len || Digest::of(bytes) != blob.digest {
                return Err(Disbelief::Payload(blob.digest));
            }
        }
        Ok(Self::complete(record, payloads, evidence))
    }

    /// Puts together an answer to `id` whose payloads came in chunks, in the order of `Record::blobs`. What was proven already is not hashed again.
    pub fn assemble(
        id: ContentId,
        evidence: Evidence,
        proven: Vec<ProvenStart>,
        verifier: &dyn Verifier,
    ) -> Result<Checked, Disbelief> {
        let record = evidence.verify(verifier)?;
        if record.request != id {
            return Err(Disbelief::OtherQuestion(record.request));
        }
        let (found, wanted) = (proven.len(), record.blobs().count());
        if found != wanted {
            return Err(Disbelief::Count { found, wanted });
        }
        let whole = |(blob, proven): (BlobRef, ProvenStart)| {
            // Nothing has no chunk that could have been proven.
            let fits = proven.blob() == blob && (blob.len > 0 || Digest::of(b"") == blob.digest);
            proven.whole().filter(|_| fits).ok_or(Disbelief::Payload(blob.digest))
        };
        let payloads = record.blobs().zip(proven).map(whole).collect::<Result<_, _>>()?;
        Ok(Self::complete(record, payloads, evidence))
    }

    fn complete(record: Record, payloads: Vec<Bytes>, evidence: Evidence) -> Checked {
        let reply = with_payloads(&record, &payloads);
        let answer = record.answer();
        Checked::Complete(Box::new(Self { record, reply, payloads, evidence, answer }))
    }

    /// The record.
    #[must_use]
    pub fn record(&self) -> &Record {
        &self.record
    }

    /// The reply, every payload inline.
    #[must_use]
    pub fn reply(&self) -> &Reply {
        &self.reply
    }

    /// What makes it believable to others.
    #[must_use]
    pub fn evidence(&self) -> &Evidence {
        &self.evidence
    }

    /// Bytes of all payloads.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        self.payloads.iter().map(Bytes::len).sum()
    }

    /// The digest of its answer; see [`Record::answer`].
    #[must_use]
    pub fn answer(&self) -> Digest {
        self.answer
    }

    /// Takes it apart: record, its payloads in the order of `Record::blobs`, and what makes it believable to others.
    #[must_use]
    pub fn into_parts(self) -> (Record, Vec<Bytes>, Evidence) {
        (self.record, self.payloads, self.evidence)
    }
}

/// The reply that a record names, with these payloads in the order of `Record::blobs`.
fn with_payloads(record: &Record, payloads: &[Bytes]) -> Reply {
    let mut payloads = payloads.iter().cloned();
    let mut next = |_: BlobRef| payloads.next().map(Payload::Inline);
    let mut reply = record.reply();
    reply.stdout = record.stdout.and_then(&mut next);
    reply.stderr = record.stderr.and_then(&mut next);
    reply.files = record
        .files
        .iter()
        .filter_map(|file| {
            let data = next(file.data)?;
            Some(OutputFile { path: file.path.clone(), executable: file.executable, data })
        })
        .collect();
    reply
}
