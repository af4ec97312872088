//! The cassette: the local view over the ledger. It answers "what is the reply to this question?" from memory or disk.
//!
//! [`Cassette`] is the reading side, shared by everybody; [`CassetteWriter`] the writing side, a state machine that owns the ledger;
//! [`Recorder`] runs it on a thread of its own with group commit; [`Memo`] puts cassette-first, write-through memory around anything that
//! answers questions.
//!
//! Invariants: what a lookup returns was appended first, and is as durable as its [`Durability`] demands; the first live record of a
//! question wins; a damaged payload is a typed miss and never wrong bytes; volatile and effectful replies are recorded and never served.
//!
//! Not known here: peers, evaluators, async runtimes and clocks (the recorder's thread reads one, to bound a batch's delay).

mod clock;
mod finder;
mod index;
pub mod limits;
mod memo;
mod recorder;
mod room;
#[cfg(test)]
mod tests;
mod view;
mod writer;

use std::{sync, thread};

pub use memo::Memo;
pub use recorder::{Adoption, Done, OnDurable, Recorder, RecorderHandle};
pub use view::{Cassette, CassetteError, Held, Lookup, Proven, Stats, Tier};
pub use writer::{CassetteOptions, CassetteWriter, Durability, Recorded, Ticket, payloads};
