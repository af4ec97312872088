//! `evalmesh ledger` as a person uses it: on a sound ledger, beside a running node, and on one that was damaged on purpose.

use std::fs::{self, OpenOptions};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;
use std::process::{Command, Output};

fn evalmesh(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evalmesh")).args(args).env_remove("EVALMESH_DATA").output().expect("it runs")
}

fn out(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A data directory with four answers, one of them in a blob file: eight entries with the four epochs.
fn build(data: &str) {
    let guest = |name: &str| format!("{}/examples/guests/{name}.wasm", env!("CARGO_MANIFEST_DIR"));
    for n in ["4", "5", "6"] {
        let asked = evalmesh(&["eval", &guest("queens"), "--entry", "queens", "--arg", n, "--data", data]);
        assert!(asked.status.success(), "{asked:?}");
    }
    let picture = ["eval", &guest("mandelbrot"), "--arg", "200", "--arg", "200", "--arg", "20", "--data", data];
    assert!(evalmesh(&picture).status.success());
}

fn segment(data: &str) -> String {
    format!("{data}/segments/00000000000000000000.seg")
}

fn blob(data: &str) -> String {
    let only = |folder: &Path| {
        let mut entries = fs::read_dir(folder).expect("there").map(|entry| entry.expect("readable").path());
        entries.next().expect("one")
    };
    only(&only(Path::new(&format!("{data}/blobs")))).to_string_lossy().into_owned()
}

fn flip(path: &str, at: u64) {
    let mut file = OpenOptions::new().read(true).write(true).open(path).expect("there");
    let mut byte = [0];
    file.seek(SeekFrom::Start(at)).and_then(|_| file.read_exact(&mut byte)).expect("reads");
    file.seek(SeekFrom::Start(at)).and_then(|_| file.write_all(&[byte[0] ^ 1])).expect("writes");
}

#[test]
fn a_sound_ledger_is_sound_and_can_be_read() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("node").to_string_lossy().into_owned();
    build(&data);
    let verified = evalmesh(&["ledger", "verify", "--data", &data]);
    assert_eq!(verified.status.code(), Some(0));
    assert!(out(&verified).starts_with("sound: 8 entries, "), "{}", out(&verified));
    let stats = out(&evalmesh(&["ledger", "stats", "--data", &data]));
    assert!(stats.contains("8 (4 epoch, 4 observed)"), "{stats}");
    let tail = out(&evalmesh(&["ledger", "tail", "-n", "3", "--data", &data]));
    assert_eq!(tail.lines().count(), 3);
    assert!(
        tail.lines().last().is_some_and(|line| line.contains("observed") && line.contains("40015 bytes")),
        "{tail}"
    );
    let export = out(&evalmesh(&["ledger", "export", "--from", "2", "--data", &data]));
    let lines: Vec<serde_json::Value> = export.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(lines.iter().map(|line| line["seq"].as_u64()).collect::<Vec<_>>(), (2..8).map(Some).collect::<Vec<_>>());
    let shown = out(&evalmesh(&["ledger", "show", "3", "--data", &data]));
    let shown: serde_json::Value = serde_json::from_str(&shown).expect("JSON");
    assert_eq!(shown["record"], lines[1]["record"]);
    assert_eq!(evalmesh(&["ledger", "show", "99", "--data", &data]).status.code(), Some(13));
    assert_eq!(evalmesh(&["ledger", "verify", "--data", "/nowhere"]).status.code(), Some(20));
}

#[test]
fn every_damage_is_named_and_nothing_is_changed_by_looking() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("node").to_string_lossy().into_owned();
    build(&data);
    let shown = out(&evalmesh(&["ledger", "show", "3", "--data", &data]));
    let offset = serde_json::from_str::<serde_json::Value>(&shown).expect("JSON")["offset"].as_u64().expect("a place");
    flip(&segment(&data), offset + 40);
    flip(&blob(&data), 100);
    let before = fs::read(segment(&data)).expect("there");
    let verified = evalmesh(&["ledger", "verify", "--data", &data]);
    let text = out(&verified);
    assert_eq!(verified.status.code(), Some(26), "{text}");
    assert!(text.contains(&format!("damage: segment 0, byte {offset}: no whole frame")), "{text}");
    assert!(text.contains("entry 3 is lost") && text.contains("damage: entry 7: payload "), "{text}");
    assert!(text.contains("DAMAGED: 7 entries, ") && text.contains(" 2 damages "), "{text}");
    let lost = evalmesh(&["ledger", "show", "3", "--data", &data]);
    assert_eq!(lost.status.code(), Some(26));
    assert_eq!(evalmesh(&["ledger", "export", "--data", &data]).status.code(), Some(26));
    assert_eq!(fs::read(segment(&data)).expect("there"), before);
}

#[test]
fn pins_are_kept_and_compaction_with_a_budget_drops_everything_else() {
    let folder = tempfile::tempdir().expect("a folder");
    let data = folder.path().join("node").to_string_lossy().into_owned();
    build(&data);
    let ids: Vec<String> = out(&evalmesh(&["ledger", "export", "--data", &data]))
        .lines()
        .filter_map(|line| {
            serde_json::from_str::<serde_json::Value>(line).ok()?["record"]["request"].as_str().map(str::to_owned)
        })
        .collect();
    assert_eq!(ids.len(), 4, "{ids:?}");
    let picture = ids.last().expect("four");
    assert_eq!(evalmesh(&["pin", "not-an-id", "--data", &data]).status.code(), Some(2));
    assert!(evalmesh(&["pin", picture, &ids[0], "--data", &data]).status.success());
    assert!(evalmesh(&["unpin", &ids[0], "--data", &data]).status.success());
    assert_eq!(out(&evalmesh(&["pins", "--data", &data])), format!("{picture}\n"));
    let compact = |budget: &str| evalmesh(&["ledger", "compact", "--budget", budget, "--data", &data]);
    let kept = compact("0");
    assert_eq!(out(&kept), "0 bytes freed: 0 payloads dropped, 0 segments rewritten, 0 segments dropped\n", "{kept:?}");
    assert!(evalmesh(&["unpin", picture, "--data", &data]).status.success());
    let dropped = out(&compact("0"));
    assert!(
        dropped.ends_with("bytes freed: 1 payloads dropped, 0 segments rewritten, 0 segments dropped\n"),
        "{dropped}"
    );
    assert_eq!(
        evalmesh(&["ledger", "verify", "--data", &data]).status.code(),
        Some(0),
        "dropped on purpose is no damage"
    );
}
