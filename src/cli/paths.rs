//! Default places: the node's data directory and the user's fleet secret.

use std::path::PathBuf;

use etcetera::BaseStrategy;

use crate::cli::{DataDir, Failure, exit};
use crate::net::{FleetSecret, SecretError};
use crate::node::random;

impl DataDir {
    /// The directory that was named, else the user's own.
    pub(super) fn resolve(&self) -> Result<PathBuf, Failure> {
        match &self.data {
            Some(directory) => Ok(directory.clone()),
            None => Ok(base()?.data_dir().join("evalmesh")),
        }
    }
}

/// The fleet secret in the named file, which must be there, or in the user's own, which is made at first use.
pub(super) fn fleet_secret(named: Option<PathBuf>) -> Result<FleetSecret, Failure> {
    if let Some(path) = named {
        return Ok(FleetSecret::load(&path)?);
    }
    let path = base()?.config_dir().join("evalmesh").join("fleet.secret");
    match FleetSecret::load(&path) {
        Err(SecretError::Missing { .. }) => {
            eprintln!("evalmesh: made a fleet secret at {}; copy it to the other nodes of the fleet", path.display());
            make_secret(&path)
        }
        result => Ok(result?),
    }
}

/// Makes a fleet secret in a new file.
pub(super) fn make_secret(path: &std::path::Path) -> Result<FleetSecret, Failure> {
    let random = random().map_err(|error| Failure::new(exit::FAILED, format!("no randomness: {error}"), None))?;
    Ok(FleetSecret::generate(path, random)?)
}

fn base() -> Result<impl BaseStrategy, Failure> {
    let hint = "set HOME, or name the places with --data and --secret";
    etcetera::choose_base_strategy()
        .map_err(|error| Failure::new(exit::DATA_DIR, format!("no home directory: {error}"), hint))
}
