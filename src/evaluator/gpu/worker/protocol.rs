//! What a node and its GPU worker say to each other: frames of a length and a postcard body, over two pipes.
//!
//! Both ends are the same executable, which the worker's first message proves; so this form has no versions of its own. Lengths are bounded on both
//! sides, since the worker runs drivers and what they were made to do.

use std::io::{self, Read, Write};

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::super::limits::MESSAGE_BYTES;
use super::super::report::{AdapterFacts, DeviceReport};
use super::shared::{Data, Place};
use crate::error::EvalError;
use crate::id::Digest;

/// Room for a message at first.
const USUAL: usize = 64 * 1024;

/// What this executable is: a worker of another one is of no use.
pub(super) const BUILD: &str = concat!("evalmesh ", env!("CARGO_PKG_VERSION"), " gpu worker 2");

/// What a node asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Which adapters are there?
    List,
    /// Open this adapter, the `place`-th of those that say the same of themselves; and examine it, if `examine`.
    Open { facts: AdapterFacts, place: u32, memory: u64, examine: bool },
    /// Run these, whose large payloads lie within so many bytes of the shared memory.
    Run(Vec<Wanted>, u64),
}

/// One evaluation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) struct Wanted {
    pub(in crate::evaluator::gpu) program: Digest,
    /// The program, where the worker may not know it.
    pub(in crate::evaluator::gpu) code: Option<Bytes>,
    pub(in crate::evaluator::gpu) portable: bool,
    pub(in crate::evaluator::gpu) steps: u32,
    pub(in crate::evaluator::gpu) inputs: Vec<Data>,
    pub(in crate::evaluator::gpu) outputs: Vec<Place>,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// First of all: what it is.
    Hello(String),
    /// The adapters, in a fixed order.
    Adapters(Vec<AdapterFacts>),
    /// The device is open; with what was found out, if that was asked for.
    Opened(Option<Box<DeviceReport>>),
    /// The device cannot be opened.
    NotOpened(String),
    /// What came of each evaluation.
    Ran(Vec<Result<Ran, Trouble>>),
}

/// What came of an evaluation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) struct Ran {
    pub(in crate::evaluator::gpu) outputs: Vec<Data>,
    pub(in crate::evaluator::gpu) nanos: u64,
}

/// Why nothing came of an evaluation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) enum Trouble {
    /// The program's fault, or a bound.
    Error(EvalError),
    /// The worker does not know the program; send it along.
    Unknown,
    /// The device is gone, and the worker with it.
    Lost(String),
}

pub(super) fn write(to: &mut impl Write, message: &impl Serialize) -> io::Result<()> {
    to.write_all(&frame(message)?)?;
    to.flush()
}

/// A message as it crosses a pipe.
pub(super) fn frame(message: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut frame = postcard::to_extend(message, vec![0; 8]).map_err(io::Error::other)?;
    let len = frame.len() as u64 - 8;
    if len > MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("a message of {len} bytes")));
    }
    frame[..8].copy_from_slice(&len.to_le_bytes());
    Ok(frame)
}

pub(super) fn read<T: DeserializeOwned>(from: &mut impl Read) -> io::Result<T> {
    let mut len = [0; 8];
    from.read_exact(&mut len)?;
    let len = u64::from_le_bytes(len);
    if len > MESSAGE_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message of {len} bytes")));
    }
    // What was announced may not come.
    let mut body = Vec::with_capacity(usize::try_from(len).unwrap_or(usize::MAX).min(USUAL));
    from.by_ref().take(len).read_to_end(&mut body)?;
    if body.len() as u64 != len {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    postcard::from_bytes(&body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}
