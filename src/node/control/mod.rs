//! The control socket: how other processes of this machine's user talk to a running node.
//!
//! A request and its answer are one length-prefixed frame each: a version byte and the postcard form of `Command` or `Reaction`.
//! Whoever can open the socket may ask: it lies in the data directory and is readable by its owner only (see `endpoint`).
//! Invariant: a connection that closes abandons what it asked; it never holds anything up.

mod client;
mod endpoint;
mod server;

use std::io;

#[cfg(feature = "wasm")]
use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

pub use self::client::{Client, ClientError};
pub(crate) use self::server::ControlServer;
#[cfg(all(feature = "cli", feature = "wasm"))]
pub(crate) use self::server::serve;
use crate::error::EvalError;
use crate::eval::Answer;
#[cfg(feature = "wasm")]
use crate::evaluator::slots::{Registration, SlotError, SlotKind};
use crate::id::ContentId;
use crate::limits::MAX_PAYLOAD;
#[cfg(feature = "wasm")]
use crate::node::status::SlotStatus;
use crate::node::status::{HolderStatus, Status};
#[cfg(feature = "wasm")]
use crate::request::Name;
use crate::request::Request;

/// The first byte of every frame.
const FRAME_V1: u8 = 1;
/// The largest frame: all payloads of one request or reply, and some room for the rest.
const MAX_FRAME: u64 = MAX_PAYLOAD + 16 * 1024 * 1024;
/// A frame is read in pieces of this size, so that memory grows with what came and not with what was claimed.
const PIECE: usize = 1024 * 1024;

/// What a client may ask a node. Append-only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    /// The secret of an endpoint without file permissions; first, where one is needed.
    Prove([u8; 32]),
    /// Answer a request.
    Eval(Box<Request>),
    /// Whether a request would be admitted.
    Admit(Box<Request>),
    /// Give a held answer.
    Get(ContentId),
    /// How are you?
    Status,
    /// Who is said to hold an answer?
    Holders(ContentId),
    /// Register a program under a name.
    #[cfg(feature = "wasm")]
    SlotSet(Box<Registration>),
    /// Forget a slot.
    #[cfg(feature = "wasm")]
    SlotEvict(Name),
    /// List the slots.
    #[cfg(feature = "wasm")]
    Slots,
    /// Call a slot, as this kind if one is given, with this input.
    #[cfg(feature = "wasm")]
    SlotCall(Name, Option<SlotKind>, Bytes),
    /// What GPUs are there?
    #[cfg(feature = "gpu")]
    Devices,
}

/// What a node answers. Append-only.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Reaction {
    Eval(Result<Box<Answer>, EvalError>),
    Admit(Result<(), EvalError>),
    Status(Box<Status>),
    Holders(Result<Vec<HolderStatus>, EvalError>),
    #[cfg(feature = "wasm")]
    SlotSet(Result<Box<SlotStatus>, SlotError>),
    #[cfg(feature = "wasm")]
    SlotEvict(Result<bool, SlotError>),
    #[cfg(feature = "wasm")]
    Slots(Vec<SlotStatus>),
    #[cfg(feature = "wasm")]
    SlotCall(Result<Box<Answer>, SlotError>),
    #[cfg(feature = "gpu")]
    Devices(Result<Box<crate::evaluator::gpu::Devices>, EvalError>),
}

async fn write_frame(stream: &mut (impl AsyncWrite + Unpin), value: &impl Serialize) -> io::Result<()> {
    let body = postcard::to_extend(value, vec![0, 0, 0, 0, 0, 0, 0, 0, FRAME_V1]).map_err(io::Error::other)?;
    let mut frame = body;
    let len = frame.len() as u64 - 8;
    if len > MAX_FRAME {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("{len} bytes, the bound is {MAX_FRAME}")));
    }
    frame[..8].copy_from_slice(&len.to_le_bytes());
    stream.write_all(&frame).await?;
    stream.flush().await
}

/// Reads one frame; `None` if the other side closed before its first byte.
async fn read_frame<T: DeserializeOwned>(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<T>> {
    let bad = |what: String| io::Error::new(io::ErrorKind::InvalidData, what);
    let mut len = [0; 8];
    match stream.read_exact(&mut len[..1]).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        result => result?,
    };
    stream.read_exact(&mut len[1..]).await?;
    let len = u64::from_le_bytes(len);
    if len == 0 || len > MAX_FRAME {
        return Err(bad(format!("a frame of {len} bytes, the bound is {MAX_FRAME}")));
    }
    let mut frame = Vec::new();
    let mut left = usize::try_from(len).map_err(io::Error::other)?;
    while left > 0 {
        let start = frame.len();
        let piece = left.min(PIECE);
        frame.resize(start + piece, 0);
        stream.read_exact(&mut frame[start..]).await?;
        left -= piece;
    }
    match frame.split_first() {
        Some((&FRAME_V1, body)) => postcard::from_bytes(body).map(Some).map_err(|error| bad(error.to_string())),
        _ => Err(bad("the other side speaks another version; use the same evalmesh on both".to_owned())),
    }
}
