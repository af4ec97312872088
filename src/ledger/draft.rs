//! An entry that is ready to be appended: its bytes, its leaf and what the index keeps of it are made on the thread of whoever wants it
//! recorded, so that the one writer has only to put it in its place.

use bytes::Bytes;

use crate::id::Digest;

use super::entry::Entry;
use super::error::LedgerError;
use super::limits::MAX_BODY;
use super::row::Row;
use crate::limits::MAX_RECORD;
use crate::proof::Evidence;
use crate::record::Record;

/// An entry with its bytes and hashes. Invariant: they are made from the entry, which cannot be changed any more.
#[derive(Debug)]
pub struct Draft {
    entry: Entry,
    /// The record that the evidence of an adopted entry holds.
    adopted: Option<Record>,
    body: Bytes,
    /// With everything but its place, and not announced.
    row: Row,
    answer: Option<Digest>,
}

impl Draft {
    /// Encodes and hashes an entry.
    pub fn new(entry: Entry) -> Result<Self, LedgerError> {
        if let Entry::Adopted(evidence) = entry {
            let record = Record::decode(&evidence.record).map_err(|_| LedgerError::Evidence)?;
            return Self::adopted(evidence, record, None);
        }
        let body = within_bounds(&entry)?;
        let answer = entry.record().map(|record| record.answer());
        let row = Row::answering(&entry, &body, false, 0, answer);
        Ok(Self { entry, adopted: None, body, row, answer })
    }

    /// As [`Self::new`], of what another node observed: `record` is the one that the evidence holds, `answer` its answer digest where it is
    /// known.
    pub fn adopted(evidence: Evidence, record: Record, answer: Option<Digest>) -> Result<Self, LedgerError> {
        debug_assert_eq!(Record::decode(&evidence.record).as_ref(), Ok(&record), "the record of the evidence");
        let entry = Entry::Adopted(evidence);
        let body = within_bounds(&entry)?;
        let answer = answer.unwrap_or_else(|| record.answer());
        let row = Row::about(&entry, &body, &record, answer);
        Ok(Self { entry, adopted: Some(record), body, row, answer: Some(answer) })
    }

    /// The entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The record that it is about, if there is one.
    #[must_use]
    pub fn record(&self) -> Option<&Record> {
        match &self.entry {
            Entry::Observed(record) => Some(record),
            _ => self.adopted.as_ref(),
        }
    }

    /// The record that it is about, to keep.
    #[must_use]
    pub fn into_record(self) -> Option<Record> {
        match self.entry {
            Entry::Observed(record) => Some(record),
            _ => self.adopted,
        }
    }

    /// The answer digest of its record, if it has one.
    #[must_use]
    pub fn answer(&self) -> Option<Digest> {
        self.answer
    }

    /// The kind of its entry and its bytes, from which the entry can be read again.
    #[must_use]
    pub fn source(&self) -> (u8, Bytes) {
        (self.entry.kind(), self.body.clone())
    }

    pub(super) fn body(&self) -> &Bytes {
        &self.body
    }

    /// What the index keeps of it at this place.
    pub(super) fn row(&self, offset: u32, announced: bool) -> Row {
        let announced = announced && self.row.sort == super::row::Sort::Record;
        Row { offset, announced, ..self.row }
    }
}

/// The entry's bytes, if they are no more than an entry may have.
fn within_bounds(entry: &Entry) -> Result<Bytes, LedgerError> {
    let body = entry.body();
    let bound = if matches!(entry, Entry::Observed(_)) { MAX_RECORD } else { MAX_BODY };
    if body.len() > bound {
        let what = "an entry's length";
        return Err(LedgerError::TooLarge { what, found: body.len() as u64, bound: bound as u64 });
    }
    Ok(body)
}
