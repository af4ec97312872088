//! The ledger: an append-only, tamper-evident history of effects with one writer and any number of readers.
//!
//! A ledger is a directory of segment files full of framed [`Entry`]s, plus files for large payloads. Positions ("sequence numbers") are
//! contiguous over the whole life of the directory; each opening for writing starts a new epoch with a Merkle tree of its own, so that
//! a restored old copy never claims one (epoch, index) twice. [`Ledger`] is the writer, a synchronous state machine: `append` buffers,
//! `write_out` writes, `commit` makes durable. [`LedgerReader`] is a cheap handle on the same state for everybody else.
//!
//! Invariants: what `commit` returned survives any crash; recovery yields whole entries and names every one that it lost; nothing
//! is read without its checksum, no payload is returned without its checksum or digest; after a failed write nothing is written until
//! reopened; an index file is a copy, believed as far as its checksums hold and never synced.
//!
//! All disk access goes through [`Storage`]. Time, randomness and identity are arguments. This module does not know what a lookup is (see
//! `cassette`), who is told about an entry (see `fabric`), or what a record means. The bytes are specified in `docs/ledger-format.md`.

mod blobs;
mod block;
mod compact;
mod draft;
mod entry;
mod error;
mod floor;
mod frame;
mod intake;
mod lanes;
pub mod limits;
mod outboard;
pub mod pins;
mod reader;
mod recovery;
mod room;
mod row;
mod run;
mod scan;
mod seal;
mod state;
mod storage;
mod survey;
#[cfg(test)]
mod tests;
mod tree;
mod writer;

pub use blobs::Blob;
pub use block::Table;
pub use compact::Freed;
pub use draft::Draft;
pub use entry::{Entry, EntryError, Parent};
pub use error::{Cause, Cut, Damage, LedgerError, OpenError, ReadError, Recovery};
pub use intake::{Intake, PayloadReader};
pub(crate) use reader::range as payload_window;
pub use reader::{LedgerReader, Stored};
pub use room::{Made, Room};
pub use state::Sums;
pub use storage::{DirLock, FaultyStorage, FileStorage, LookStorage, MemoryStorage, Op, Storage, StorageFile};
pub use survey::{Finding, Sight, Survey};
pub use writer::{Ledger, Opening};
