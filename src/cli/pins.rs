//! `evalmesh pin`, `unpin` and `pins`: answers that are never dropped to make room. Works beside a running node.

use std::collections::BTreeSet;

use crate::cli::{DataDir, Failure, exit, print_bytes};
use crate::id::ContentId;
use crate::ledger::{FileStorage, OpenError, pins};

#[derive(Debug, clap::Args)]
pub(super) struct ChangeArgs {
    /// Ids of questions, as `eval` prints them.
    #[arg(required = true, value_name = "ID")]
    ids: Vec<ContentId>,
    #[command(flatten)]
    data: DataDir,
}

#[derive(Debug, clap::Args)]
pub(super) struct ListArgs {
    #[command(flatten)]
    data: DataDir,
}

pub(super) fn pin(args: &ChangeArgs) -> Result<u8, Failure> {
    change(args, &mut |pins, id| {
        pins.insert(id);
    })
}

pub(super) fn unpin(args: &ChangeArgs) -> Result<u8, Failure> {
    change(args, &mut |pins, id| {
        pins.remove(&id);
    })
}

pub(super) fn list(args: &ListArgs) -> Result<u8, Failure> {
    let storage = open(&args.data)?;
    let pins = pins::load(&storage).map_err(|error| failed(&error))?;
    let text = pins.iter().fold(String::new(), |text, id| text + &id.to_string() + "\n");
    print_bytes(text.as_bytes())?;
    Ok(exit::OK)
}

fn change(args: &ChangeArgs, change: &mut dyn FnMut(&mut BTreeSet<ContentId>, ContentId)) -> Result<u8, Failure> {
    let storage = open(&args.data)?;
    let mut pins = pins::load(&storage).map_err(|error| failed(&error))?;
    args.ids.iter().for_each(|id| change(&mut pins, *id));
    pins::store(&storage, &pins).map_err(|error| failed(&error))?;
    Ok(exit::OK)
}

fn open(data: &DataDir) -> Result<FileStorage, Failure> {
    let refused = |error: OpenError| Failure::new(exit::DATA_DIR, error.to_string(), error.hint());
    FileStorage::beside(data.resolve()?).map_err(refused)
}

fn failed(error: &std::io::Error) -> Failure {
    let hint = "the file `pins` holds one id a line; mend it or remove it";
    Failure::new(exit::DATA_DIR, format!("the pins cannot be read or written: {error}"), hint)
}
