//! Pins: questions whose payloads are never dropped to make room. One file, `pins`, an id in hexadecimal a line, in order.
//!
//! It is replaced as a whole, so it may be changed beside a running node, which reads it whenever it makes room.

use std::collections::BTreeSet;
use std::io;

use crate::id::ContentId;

use super::storage::{Storage, read_all};

/// The file's name.
pub const FILE: &str = "pins";
const TEMP: &str = "pins.tmp";

/// The pinned questions.
pub fn load(storage: &dyn Storage) -> io::Result<BTreeSet<ContentId>> {
    let file = match storage.open(FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        other => other?,
    };
    let text = String::from_utf8(read_all(&*file)?).map_err(io::Error::other)?;
    text.lines().map(|line| line.trim().parse().map_err(io::Error::other)).collect()
}

/// Replaces the pinned questions; durable when it returns.
pub fn store(storage: &dyn Storage, pins: &BTreeSet<ContentId>) -> io::Result<()> {
    match storage.remove(TEMP) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut text = String::new();
    for id in pins {
        text.push_str(&id.to_string());
        text.push('\n');
    }
    let file = storage.create_new(TEMP)?;
    file.write_at(text.as_bytes(), 0)?;
    file.sync()?;
    storage.rename(TEMP, FILE)?;
    storage.sync_dir("")
}
