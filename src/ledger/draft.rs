//! An entry that is ready to be appended: its bytes, its leaf and what the index keeps of it are made on the thread of whoever wants it
//! recorded, so that the one writer has only to put it in its place.

use bytes::Bytes;

use crate::id::Digest;

use super::entry::Entry;
use super::error::LedgerError;
use super::limits::MAX_BODY;
use super::row::Row;
use crate::limits::MAX_RECORD;

/// An entry with its bytes and hashes. Invariant: they are made from the entry, which cannot be changed any more.
#[derive(Debug)]
pub struct Draft {
    entry: Entry,
    body: Bytes,
    /// With everything but its place, and not announced.
    row: Row,
    answer: Option<Digest>,
}

impl Draft {
    /// Encodes and hashes an entry.
    pub fn new(entry: Entry) -> Result<Self, LedgerError> {
        let body = entry.body();
        let bound = if matches!(entry, Entry::Observed(_)) { MAX_RECORD } else { MAX_BODY };
        if body.len() > bound {
            let what = "an entry's length";
            return Err(LedgerError::TooLarge { what, found: body.len() as u64, bound: bound as u64 });
        }
        let answer = entry.record().map(|record| record.answer());
        let row = Row::answering(&entry, &body, false, 0, answer);
        Ok(Self { entry, body, row, answer })
    }

    /// The entry.
    #[must_use]
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// The entry, to keep.
    #[must_use]
    pub fn into_entry(self) -> Entry {
        self.entry
    }

    /// The answer digest of its record, if it has one.
    #[must_use]
    pub fn answer(&self) -> Option<Digest> {
        self.answer
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
