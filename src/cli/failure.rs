//! How a command fails: one line, one hint, one exit code.

use std::fmt;
use std::path::Path;

use crate::cli::exit;
use crate::error::EvalError;
use crate::ledger::OpenError;
use crate::net::{NetError, SecretError};
use crate::node::StartError;
use crate::node::control::ClientError;

/// What is printed and returned when a command fails.
#[derive(Debug)]
pub struct Failure {
    /// The exit code; see `exit`.
    pub code: u8,
    message: String,
    hint: Option<String>,
}

impl Failure {
    /// A failure with this code, message and hint.
    pub fn new(code: u8, message: impl Into<String>, hint: impl Into<Option<&'static str>>) -> Self {
        Self { code, message: message.into(), hint: hint.into().map(str::to_owned) }
    }

    /// A file that cannot be read.
    #[must_use]
    pub fn unreadable(path: &Path, error: &std::io::Error) -> Self {
        Self::new(exit::INPUT, format!("cannot read {}: {error}", path.display()), "check the path and its permissions")
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "evalmesh: {}", self.message)?;
        self.hint.iter().try_for_each(|hint| write!(f, " (hint: {hint})"))
    }
}

impl From<EvalError> for Failure {
    fn from(error: EvalError) -> Self {
        let code = match &error {
            EvalError::Request(_) | EvalError::Refused(_) => exit::REFUSED,
            EvalError::Limit(_) => exit::LIMIT,
            EvalError::NotHeld { .. } | EvalError::InputMissing(_) => exit::NOT_HELD,
            EvalError::Busy { .. } => exit::BUSY,
            EvalError::Closed => exit::NO_NODE,
            EvalError::Ledger(_) => exit::LEDGER,
            EvalError::Cancelled | EvalError::Failed(_) => exit::FAILED,
        };
        Self::new(code, error.to_string(), error.hint())
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        let code = match &error {
            StartError::Open(OpenError::Locked { .. }) => exit::LOCKED,
            StartError::Open(_) | StartError::Key(_) => exit::DATA_DIR,
            StartError::Net(NetError::AddressInUse { .. } | NetError::Bind { .. }) => exit::ADDRESS,
            _ => exit::FAILED,
        };
        Self::new(code, error.to_string(), error.hint())
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(exit::NO_NODE, error.to_string(), error.hint())
    }
}

impl From<SecretError> for Failure {
    fn from(error: SecretError) -> Self {
        Self::new(exit::SECRET, error.to_string(), error.hint())
    }
}
