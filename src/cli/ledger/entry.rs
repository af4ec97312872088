//! How an entry is shown: one line for people, one JSON object for programs.

use std::fmt::Write;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::ledger::{Entry, Stored};
use crate::record::Record;

/// The name of an entry's kind.
pub(super) fn kind(entry: &Entry) -> &'static str {
    match entry {
        Entry::Epoch { .. } => "epoch",
        Entry::Observed(_) => "observed",
        Entry::Adopted(_) => "adopted",
        Entry::Retracted { .. } => "retracted",
        Entry::Checkpoint { .. } => "checkpoint",
        Entry::Evicted { .. } => "evicted",
        Entry::Unknown { .. } => "unknown",
    }
}

/// A moment as RFC 3339; microseconds since 1970 come in.
pub(super) fn moment(micros: u64) -> String {
    let time = SystemTime::UNIX_EPOCH.checked_add(Duration::from_micros(micros));
    // The formatter knows years up to 9999.
    let known = time.filter(|_| micros < 253_402_300_800_000_000);
    known.map_or_else(|| format!("{micros} us"), |time| humantime::format_rfc3339_micros(time).to_string())
}

/// When an entry was made, by the clock of whoever made it.
pub(super) fn at(entry: &Entry) -> Option<u64> {
    match entry {
        Entry::Epoch { opened_at, .. } => Some(*opened_at),
        Entry::Retracted { at, .. } | Entry::Checkpoint { at, .. } | Entry::Evicted { at, .. } => Some(*at),
        Entry::Observed(_) | Entry::Adopted(_) => entry.record().map(|record| record.observed_at),
        Entry::Unknown { .. } => None,
    }
}

/// One line about an entry.
pub(super) fn line(stored: &Stored) -> String {
    let entry = &stored.entry;
    let what = match entry {
        Entry::Epoch { epoch, .. } => format!("{epoch}"),
        Entry::Observed(record) => about(record),
        Entry::Adopted(evidence) => {
            let record = entry.record().map(|record| about(&record)).unwrap_or_default();
            format!("{record} from {}", evidence.head.node.short())
        }
        Entry::Retracted { request, answer, .. } => format!("{} answer {}", request.short(), answer.short()),
        Entry::Checkpoint { floor, .. } => format!("floor {floor}"),
        Entry::Evicted { payloads, .. } => format!("{} payloads", payloads.len()),
        Entry::Unknown { kind, body } => format!("kind {kind}, {} bytes", body.len()),
    };
    let when = at(entry).map(moment).unwrap_or_default();
    format!("{:>8}  {when}  {:<10} {what}\n", stored.seq, kind(entry))
}

fn about(record: &Record) -> String {
    let bytes: u64 = record.blobs().map(|blob| blob.len).sum();
    let took = record.duration.as_secs_f64() * 1e3;
    format!("{} {} {}, {bytes} bytes, {took:.1} ms", record.request.short(), record.kind, record.status)
}

/// Everything an entry says.
pub(super) fn json(stored: &Stored) -> Value {
    let entry = &stored.entry;
    let mut value = json!({ "seq": stored.seq, "kind": kind(entry), "announced": stored.announced });
    let more = match entry {
        Entry::Epoch { epoch, start, parent, node, .. } => json!({
            "epoch": epoch.to_string(),
            "start": start,
            "node": node.to_string(),
            "parent": parent.map(|parent| json!({
                "epoch": parent.epoch.to_string(),
                "start": parent.start,
                "length": parent.length,
                "root": hex(&parent.root),
            })),
        }),
        Entry::Observed(record) => json!({ "record": record_json(record) }),
        Entry::Adopted(evidence) => json!({
            "record": entry.record().map(|record| record_json(&record)),
            "proof": {
                "index": evidence.index,
                "path": evidence.path.iter().map(|hash| hex(hash)).collect::<Vec<_>>(),
                "epoch": evidence.head.epoch.to_string(),
                "length": evidence.head.length,
                "root": hex(&evidence.head.root),
            },
        }),
        Entry::Retracted { request, answer, .. } => {
            json!({ "request": request.to_string(), "answer": answer.to_string() })
        }
        Entry::Checkpoint { floor, head, .. } => json!({
            "floor": floor,
            "head": head.as_ref().map(|head| json!({
                "epoch": head.epoch.to_string(),
                "length": head.length,
                "root": hex(&head.root),
            })),
        }),
        Entry::Evicted { payloads, .. } => {
            json!({ "payloads": payloads.iter().map(ToString::to_string).collect::<Vec<_>>() })
        }
        Entry::Unknown { kind, body } => json!({ "kind_byte": kind, "body": hex(body) }),
    };
    if let (Some(fields), Value::Object(more)) = (value.as_object_mut(), more) {
        fields.extend(at(entry).map(|micros| ("at".to_owned(), moment(micros).into())));
        fields.extend(more);
    }
    value
}

fn record_json(record: &Record) -> Value {
    let blob = |blob: &crate::reply::BlobRef| json!({ "digest": blob.digest.to_string(), "bytes": blob.len });
    json!({
        "request": record.request.to_string(),
        "answer": record.answer().to_string(),
        "kind": record.kind.to_string(),
        "class": record.class.to_string(),
        "status": record.status.to_string(),
        "stdout": record.stdout.as_ref().map(blob),
        "stderr": record.stderr.as_ref().map(blob),
        "files": record.files.iter().map(|file| json!({
            "path": file.path.to_string(),
            "executable": file.executable,
            "digest": file.data.digest.to_string(),
            "bytes": file.data.len,
        })).collect::<Vec<_>>(),
        "duration_us": u64::try_from(record.duration.as_micros()).unwrap_or(u64::MAX),
        "fuel": record.fuel,
        "observed_at": moment(record.observed_at),
        "producer": record.producer.to_string(),
        "host": record.host,
        "evaluator": record.evaluator,
        "upstream": record.upstream.iter().map(|upstream| upstream.request.to_string()).collect::<Vec<_>>(),
    })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
