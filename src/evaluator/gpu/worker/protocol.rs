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

/// Room for a message that carries a small payload.
const SMALL: usize = 8 * 1024;

/// What this executable is: a worker of another one is of no use.
pub(super) const BUILD: &str = concat!("evalmesh ", env!("CARGO_PKG_VERSION"), " gpu worker 4");

/// What a node asks.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Order {
    /// Which adapters are there?
    List,
    /// Open this adapter, the `place`-th of those that say the same of themselves; and examine it, if `examine`.
    Open { facts: AdapterFacts, place: u32, memory: u64, examine: bool },
    /// Run these, whose payloads lie within so many bytes of the shared memory.
    Run(Vec<Wanted>, u64),
    /// The same for one, whose answer somebody waits for at the mailbox.
    Mail(Wanted, u64),
    /// What came of making this program's pipelines? Asked once, after it was sent along.
    Compiled(Digest),
}

/// One evaluation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) struct Wanted {
    pub(in crate::evaluator::gpu) program: Digest,
    /// The program, where the worker may not know it.
    pub(in crate::evaluator::gpu) code: Option<Code>,
    pub(in crate::evaluator::gpu) portable: bool,
    pub(in crate::evaluator::gpu) steps: u32,
    pub(in crate::evaluator::gpu) inputs: Vec<Data>,
    pub(in crate::evaluator::gpu) outputs: Vec<Place>,
}

/// A program on its way to a worker.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) struct Code {
    pub(in crate::evaluator::gpu) bytes: Bytes,
    /// What the driver made of it some other time.
    pub(in crate::evaluator::gpu) compiled: Option<Bytes>,
    /// Whether somebody will ask what it makes of it now.
    pub(in crate::evaluator::gpu) keep: bool,
}

/// What there is to know of a device's pipeline caches.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) struct CacheFacts {
    /// What data must have been made under.
    pub(in crate::evaluator::gpu) key: String,
    /// Bytes of an empty one.
    pub(in crate::evaluator::gpu) empty: u64,
}

/// What became of data that were made before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) enum Given {
    /// There were none.
    Nothing,
    /// The device took them.
    Taken,
    /// The device did not want them.
    Refused,
}

/// What came of making a program's pipelines.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::evaluator::gpu) struct Made {
    pub(in crate::evaluator::gpu) given: Given,
    /// What the driver made, where it gives that.
    pub(in crate::evaluator::gpu) data: Option<Bytes>,
}

/// What a worker answers.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Reply {
    /// First of all: what it is.
    Hello(String),
    /// The adapters, in a fixed order.
    Adapters(Vec<AdapterFacts>),
    /// The device is open; with what was found out, if that was asked for, and its caches, if it has such.
    Opened(Option<Box<DeviceReport>>, Option<CacheFacts>),
    /// The device cannot be opened.
    NotOpened(String),
    /// What came of each evaluation.
    Ran(Vec<Result<Ran, Trouble>>),
    /// What came of making pipelines; nothing, if it does not know.
    Compiled(Option<Made>),
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
    // Room for a small payload: to grow a buffer step by step costs more than to fill it.
    let mut frame = Vec::with_capacity(SMALL);
    frame.extend([0; 8]);
    let mut frame = postcard::to_extend(message, frame).map_err(io::Error::other)?;
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
    body_of(&body)
}

/// A message that came as one piece, as [`frame`] made it.
pub(super) fn whole<T: DeserializeOwned>(frame: &[u8]) -> io::Result<T> {
    match frame.split_first_chunk() {
        Some((len, body)) if u64::from_le_bytes(*len) == body.len() as u64 => body_of(body),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

fn body_of<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    postcard::from_bytes(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error.to_string()))
}
