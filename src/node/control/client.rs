//! A client of a running node: the same public door, in another process.

use std::io;
use std::path::{Path, PathBuf};

use tokio::sync::Mutex;

use super::endpoint::{self, Stream};
use super::{Command, Reaction, read_frame, write_frame};
use crate::error::EvalError;
use crate::eval::{Answer, Eval};
use crate::id::ContentId;
use crate::node::status::{HolderStatus, Status};
use crate::request::Request;

/// Why a running node could not be asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// No node runs on this data directory.
    #[error("no node is running on {}", .0.display())]
    NotRunning(PathBuf),
    /// The connection broke.
    #[error("the node on {} does not answer: {source}", path.display())]
    Broken {
        /// The data directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl ClientError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NotRunning(_) => "start one with `evalmesh up`, or name its data directory with --data",
            Self::Broken { .. } => "is the node stopping? look at its log, or start it again",
        }
    }
}

/// A connection to a running node. Requests on one client are answered one after the other; connect twice for two at a time.
pub struct Client {
    data_dir: PathBuf,
    stream: Mutex<Box<dyn Stream>>,
}

impl Client {
    /// Connects to the node that runs on this data directory.
    pub async fn connect(data_dir: &Path) -> Result<Self, ClientError> {
        let broken = |source| ClientError::Broken { path: data_dir.to_owned(), source };
        let (mut stream, secret) = endpoint::connect(data_dir).await.map_err(|source| match source.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory | io::ErrorKind::ConnectionRefused => {
                ClientError::NotRunning(data_dir.to_owned())
            }
            _ => broken(source),
        })?;
        if let Some(secret) = secret {
            write_frame(&mut stream, &Command::Prove(secret)).await.map_err(broken)?;
        }
        Ok(Self { data_dir: data_dir.to_owned(), stream: Mutex::new(stream) })
    }

    /// A held answer to this question, from the node or its peers.
    pub async fn get(&self, id: ContentId) -> Result<Result<Answer, EvalError>, ClientError> {
        match self.ask(&Command::Get(id)).await? {
            Reaction::Eval(result) => Ok(result.map(|answer| *answer)),
            other => Err(self.unexpected(&other)),
        }
    }

    /// How the node is.
    pub async fn status(&self) -> Result<Status, ClientError> {
        match self.ask(&Command::Status).await? {
            Reaction::Status(status) => Ok(*status),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The GPUs of the node.
    #[cfg(feature = "gpu")]
    pub async fn devices(&self) -> Result<crate::evaluator::gpu::Devices, ClientError> {
        match self.ask(&Command::Devices).await? {
            Reaction::Devices(Ok(devices)) => Ok(*devices),
            other => Err(self.unexpected(&other)),
        }
    }

    /// The other nodes that are said to hold an answer to this question.
    pub async fn holders(&self, id: ContentId) -> Result<Result<Vec<HolderStatus>, EvalError>, ClientError> {
        match self.ask(&Command::Holders(id)).await? {
            Reaction::Holders(result) => Ok(result),
            other => Err(self.unexpected(&other)),
        }
    }

    /// Answers one question; the outer error is the connection's.
    pub async fn ask_eval(&self, request: Request) -> Result<Result<Answer, EvalError>, ClientError> {
        match self.ask(&Command::Eval(Box::new(request))).await? {
            Reaction::Eval(result) => Ok(result.map(|answer| *answer)),
            other => Err(self.unexpected(&other)),
        }
    }

    pub(crate) async fn ask(&self, command: &Command) -> Result<Reaction, ClientError> {
        let broken = |source| ClientError::Broken { path: self.data_dir.clone(), source };
        let mut stream = self.stream.lock().await;
        write_frame(&mut *stream, command).await.map_err(broken)?;
        let reaction = read_frame(&mut *stream).await.map_err(broken)?;
        reaction.ok_or_else(|| broken(io::ErrorKind::UnexpectedEof.into()))
    }

    fn unexpected(&self, reaction: &Reaction) -> ClientError {
        let source = io::Error::new(io::ErrorKind::InvalidData, format!("an answer of another kind: {reaction:?}"));
        ClientError::Broken { path: self.data_dir.clone(), source }
    }
}

impl Eval for Client {
    /// Only the node knows; it checks again when asked. Here the request itself is checked.
    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        request.canonical().map(drop).map_err(Into::into)
    }

    async fn eval(&self, request: Request) -> Result<Answer, EvalError> {
        self.ask_eval(request).await.unwrap_or_else(|error| Err(EvalError::Failed(error.to_string())))
    }
}
