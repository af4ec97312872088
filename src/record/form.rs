//! The one byte form of a record, by hand: postcard's, but read and written many times faster than field by field through serde, for it is read at
//! every hit on disk, at every adoption, and for every entry that is verified.
//!
//! Invariant: [`write`] gives what postcard gives, and [`read`] takes exactly what [`write`] gives: a number in more bytes than it needs is
//! refused, so equal records have equal bytes. The format: <https://postcard.jamesmunns.com/wire-format>.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::id::{ContentId, Digest, NodeId};
use crate::limits::MAX_OUTPUT_FILES;
use crate::reply::{BlobRef, Status};
use crate::request::{Class, Name, RelPath};

use super::{FileRef, Record};

/// Appends the form of a record.
pub(super) fn write(record: &Record, out: &mut Vec<u8>) {
    let Record { request, kind, class, status, stdout, stderr, files, duration, fuel, observed_at, producer, .. } =
        record;
    out.extend_from_slice(request.as_bytes());
    text(out, kind.as_str());
    match class {
        Class::Portable => out.push(0),
        Class::Device(device) => {
            out.push(1);
            text(out, device.as_str());
        }
        Class::Observed => out.push(2),
        Class::Volatile => out.push(3),
        Class::Effectful => out.push(4),
    }
    match status {
        Status::Exit(code) => {
            out.push(0);
            number(out, u64::from(zigzag(*code)));
        }
        Status::Trap(code) => {
            out.push(1);
            plain(out, code);
        }
    }
    for blob in [stdout, stderr] {
        out.push(u8::from(blob.is_some()));
        if let Some(blob) = blob {
            write_blob(out, blob);
        }
    }
    number(out, files.len() as u64);
    for FileRef { path, executable, data } in files {
        text(out, path.as_str());
        out.push(u8::from(*executable));
        write_blob(out, data);
    }
    number(out, duration.as_secs());
    number(out, u64::from(duration.subsec_nanos()));
    out.push(u8::from(fuel.is_some()));
    if let Some(fuel) = fuel {
        number(out, *fuel);
    }
    number(out, *observed_at);
    out.extend_from_slice(producer.as_bytes());
    text(out, &record.host);
    text(out, &record.evaluator);
    plain(out, &record.trace);
    plain(out, &record.upstream);
}

/// Reads the form of a record; `None` if these bytes are not exactly that.
pub(super) fn read(bytes: &[u8]) -> Option<Record> {
    let mut rest = Rest(bytes);
    let record = Record {
        request: ContentId::from_bytes(rest.array()?),
        kind: rest.name()?,
        class: rest.class()?,
        status: rest.status()?,
        stdout: rest.option(Rest::blob)?,
        stderr: rest.option(Rest::blob)?,
        files: rest.files()?,
        duration: rest.duration()?,
        fuel: rest.option(Rest::number)?,
        observed_at: rest.number()?,
        producer: NodeId::from_bytes(rest.array()?),
        host: rest.text()?.into(),
        evaluator: rest.text()?.into(),
        trace: rest.plain()?,
        upstream: rest.plain()?,
    };
    rest.0.is_empty().then_some(record)
}

/// Appends a number in as few bytes as it needs.
pub(crate) fn number(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    out.push(value.to_le_bytes()[0]);
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

fn write_blob(out: &mut Vec<u8>, blob: &BlobRef) {
    out.extend_from_slice(blob.digest.as_bytes());
    number(out, blob.len);
}

/// What is rare, as postcard does it.
fn plain<T: Serialize>(out: &mut Vec<u8>, value: &T) {
    *out = postcard::to_extend(value, std::mem::take(out)).expect("plain values into memory always encode");
}

fn zigzag(value: i32) -> u32 {
    ((value << 1) ^ (value >> 31)).cast_unsigned()
}

/// The bytes of a form that are not read yet. Everything read is in its one byte form, or it is not read.
pub(crate) struct Rest<'a>(pub(crate) &'a [u8]);

impl<'a> Rest<'a> {
    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const LEN: usize>(&mut self) -> Option<[u8; LEN]> {
        let (taken, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*taken)
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*byte)
    }

    pub(crate) fn flag(&mut self) -> Option<bool> {
        match self.byte()? {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }

    #[expect(clippy::option_option, reason = "not the form, the form of nothing, the form of something")]
    fn option<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.flag()? { read(self).map(Some) } else { Some(None) }
    }

    pub(crate) fn number(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            value |= bits << shift;
            if byte < 0x80 {
                // The last byte of several says something, and nothing beyond the sixty-four bits.
                let fits = bits << shift >> shift == bits;
                return (fits && (byte != 0 || shift == 0)).then_some(value);
            }
        }
        None
    }

    fn text(&mut self) -> Option<&'a str> {
        let len = usize::try_from(self.number()?).ok()?;
        std::str::from_utf8(self.take(len)?).ok()
    }

    fn name(&mut self) -> Option<Name> {
        self.text()?.parse().ok()
    }

    fn blob(&mut self) -> Option<BlobRef> {
        Some(BlobRef { digest: Digest::from_bytes(self.array()?), len: self.number()? })
    }

    fn class(&mut self) -> Option<Class> {
        Some(match self.byte()? {
            0 => Class::Portable,
            1 => Class::Device(self.name()?),
            2 => Class::Observed,
            3 => Class::Volatile,
            4 => Class::Effectful,
            _ => return None,
        })
    }

    fn status(&mut self) -> Option<Status> {
        Some(match self.byte()? {
            0 => {
                let code = u32::try_from(self.number()?).ok()?;
                Status::Exit((code >> 1).cast_signed() ^ -(code & 1).cast_signed())
            }
            1 => Status::Trap(self.plain()?),
            _ => return None,
        })
    }

    fn files(&mut self) -> Option<Vec<FileRef>> {
        let count = usize::try_from(self.number()?).ok().filter(|count| *count <= MAX_OUTPUT_FILES)?;
        let mut files: Vec<FileRef> = Vec::new();
        for _ in 0..count {
            let path: RelPath = self.text()?.parse().ok()?;
            let file = FileRef { path, executable: self.flag()?, data: self.blob()? };
            if files.last().is_some_and(|last| last.path >= file.path) {
                return None;
            }
            files.push(file);
        }
        Some(files)
    }

    fn duration(&mut self) -> Option<Duration> {
        let (secs, nanos) = (self.number()?, self.number()?);
        let nanos = u32::try_from(nanos).ok().filter(|nanos| *nanos < 1_000_000_000)?;
        Some(Duration::new(secs, nanos))
    }

    /// What is rare, as postcard does it; the shortest of its forms only.
    fn plain<T: Serialize + DeserializeOwned>(&mut self) -> Option<T> {
        let (value, rest) = postcard::take_from_bytes(self.0).ok()?;
        let used = self.0.len() - rest.len();
        let shortest = postcard::serialize_with_flavor(&value, postcard::ser_flavors::Size::default()).ok()?;
        self.0 = rest;
        (shortest == used).then_some(value)
    }
}
