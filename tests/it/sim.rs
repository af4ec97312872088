//! `evalmesh sim` as a person uses it.

use std::fs;
use std::process::{Command, Output};

fn sim(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evalmesh")).arg("sim").args(args).output().expect("it runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn list_names_scenarios_checks_and_planted_bugs() {
    let listed = text(&sim(&["list"]).stdout);
    for named in ["storm", "thousand", "durable survives", "skip-sync"] {
        assert!(listed.contains(named), "{named}: {listed}");
    }
    let json: serde_json::Value = serde_json::from_slice(&sim(&["list", "--format", "json"]).stdout).expect("JSON");
    assert_eq!(json[0]["name"], "bulk");
}

#[test]
fn a_sound_run_ends_with_0_and_replays_with_the_same_digest() {
    let run = sim(&["run", "calm", "--seeds", "2", "--format", "json"]);
    assert_eq!(run.status.code(), Some(0), "{}", text(&run.stderr));
    let reports: serde_json::Value = serde_json::from_slice(&run.stdout).expect("JSON");
    assert_eq!(reports.as_array().map(Vec::len), Some(2));
    let replay = sim(&["replay", "1", "--scenario", "calm", "--format", "json"]);
    let report: serde_json::Value = serde_json::from_slice(&replay.stdout).expect("JSON");
    assert_eq!((&report, &report["violations"]), (&reports[1], &serde_json::json!([])));
    let traced = text(&sim(&["replay", "1", "--scenario", "calm", "--until", "12.1s", "--trace", "node=1"]).stdout);
    assert!(traced.lines().filter(|line| line.contains("0 -> 1 ")).count() > 5, "{traced}");
}

#[test]
fn a_planted_bug_ends_with_40_and_shrinks_to_a_command_that_shows_it_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let page = folder.path().join("page.html");
    let run = sim(&["run", "storm", "--seeds", "1", "--plant", "skip-sync", "--html", &page.to_string_lossy()]);
    assert_eq!(run.status.code(), Some(40), "{}", text(&run.stdout));
    assert!(text(&run.stdout).contains("evalmesh sim replay 0 --scenario storm --plant skip-sync"));
    assert!(fs::read_to_string(page).expect("a page").contains("Something wrong happened"));
    let stuck = sim(&["run", "storm", "--seeds", "1", "--plant", "lose-deliveries"]);
    assert_eq!(stuck.status.code(), Some(41), "{}", text(&stuck.stdout));
}

#[test]
fn bad_input_has_its_exit_code_and_a_hint() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("written");
        path.to_string_lossy().into_owned()
    };
    let (bad, wrong) = (file("bad.toml", "nodez = 3"), file("wrong.toml", "nodes = 0"));
    let baseline = file("baseline.json", "{");
    let cases: [(&[&str], i32); 6] = [
        (&["run", "nothing"], 44),
        (&["run", "/nowhere.toml"], 10),
        (&["run", &bad], 44),
        (&["replay", "1", "--scenario", &wrong], 44),
        (&["compare", "calm", "--baseline", &baseline], 44),
        (&["run", "calm", "--plant", "nothing"], 2),
    ];
    for (args, code) in cases {
        let output = sim(args);
        let told = text(&output.stderr);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {told}");
        assert!(code == 2 || told.contains("hint: "), "{args:?}: {told}");
    }
}

#[test]
fn a_worse_version_ends_with_43() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("baseline.json").to_string_lossy().into_owned();
    let written = sim(&["compare", "calm", "--seeds", "1", "--write", &path]);
    assert_eq!(written.status.code(), Some(0), "{}", text(&written.stdout));
    let same = sim(&["compare", "--seeds", "1", "--baseline", &path]);
    assert_eq!(same.status.code(), Some(0), "{}", text(&same.stdout));
    let better = fs::read_to_string(&path)
        .expect("written")
        .replace("\"evaluations_per_mille\": ", "\"evaluations_per_mille\": 0");
    let better = better.replace("\"evaluations_per_mille\": 0500", "\"evaluations_per_mille\": 100");
    fs::write(&path, better).expect("written");
    let worse = sim(&["compare", "--seeds", "1", "--baseline", &path]);
    assert_eq!(worse.status.code(), Some(43), "{}", text(&worse.stdout));
    assert!(text(&worse.stdout).contains("WORSE"));
}
