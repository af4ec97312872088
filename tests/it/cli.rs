//! The command line as a person uses it: real processes, real sockets on loopback, every documented failure with its exit code.

use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use evalmesh::id::{ContentId, Digest};

const PATIENCE: Duration = Duration::from_secs(30);

fn evalmesh(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evalmesh")).args(args).env_remove("EVALMESH_DATA").output().expect("it runs")
}

fn guest(name: &str) -> String {
    format!("{}/examples/guests/{name}.wasm", env!("CARGO_MANIFEST_DIR"))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A fleet's folder: data directories and the secret.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        Self(tempfile::tempdir().expect("a temporary folder"))
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).to_string_lossy().into_owned()
    }

    fn up(&self, name: &str, secret: &str, more: &[&str]) -> Up {
        let (data, secret) = (self.path(name), self.path(secret));
        let mut command = Command::new(env!("CARGO_BIN_EXE_evalmesh"));
        command.args(["up", "--data", &data, "--listen", "127.0.0.1:0", "--no-mdns", "--patience", "5s"]);
        command.args(["--secret", &secret]).args(more);
        if !Path::new(&secret).exists() {
            command.arg("--new-secret");
        }
        let process = command.stderr(Stdio::null()).spawn().expect("it starts");
        let up = Up { data, process };
        wait_for("the node to answer", || evalmesh(&["status", "--data", &up.data]).status.success());
        up
    }
}

struct Up {
    data: String,
    process: Child,
}

impl Drop for Up {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Up {
    fn status(&self) -> String {
        text(&evalmesh(&["status", "--data", &self.data]).stdout)
    }

    fn line(&self, name: &str) -> String {
        let status = self.status();
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    }

    #[cfg(unix)]
    fn stop(mut self) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().expect("kill runs").success());
        assert!(self.process.wait().expect("it ends").success(), "Ctrl-C is a clean end");
    }
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(Duration::from_millis(20));
    }
}

fn eval(data: &str, more: &[&str]) -> (String, String, Option<i32>) {
    let program = guest("queens");
    let mut args = vec!["eval", &program, "--entry", "queens", "--arg", "6", "--data", data];
    args.extend(more);
    let output = evalmesh(&args);
    (text(&output.stdout), text(&output.stderr), output.status.code())
}

#[cfg(unix)]
#[test]
fn computed_on_a_then_peer_on_b_then_disk_on_b_alone() {
    let folder = Folder::new();
    let a = folder.up("a", "secret", &[]);
    let b = folder.up("b", "secret", &["--peer", &a.line("listening")]);
    wait_for("the two to meet", || !a.line("peer").is_empty() && !b.line("peer").is_empty());
    let (out, line, code) = eval(&a.data, &[]);
    assert_eq!((out.as_str(), code), ("4\n", Some(0)));
    assert!(line.starts_with("computed ") && line.lines().count() == 1, "{line}");
    let id = line.split(' ').nth(1).expect("the id").to_owned();
    wait_for("B to hear of it", || b.line("index").starts_with("1 "));
    let (out, line, _) = eval(&b.data, &[]);
    let name = a.line("node")[..10].to_owned();
    assert_eq!((out.as_str(), line.split(' ').take(2).collect::<Vec<_>>()), ("4\n", vec!["peer", name.as_str()]));
    let holders = evalmesh(&["holders", &id, "--data", &b.data, "--format", "json"]);
    assert!(text(&holders.stdout).contains(&a.line("node")[..64]), "{}", text(&holders.stderr));
    assert_eq!(evalmesh(&["holders", &"0".repeat(64), "--data", &b.data]).status.code(), Some(13));
    let peers = text(&evalmesh(&["peers", "--data", &b.data]).stdout);
    assert!(peers.lines().any(|line| line.contains(&name) && line.contains("alive")), "{peers}");
    assert!(eval(&b.data, &[]).1.starts_with("ram "));
    assert!(eval(&b.data, &["--fresh"]).1.starts_with("computed "), "--fresh computes although it is held");
    assert_eq!(text(&evalmesh(&["get", &id, "--data", &b.data]).stdout), "4\n");
    a.stop();
    b.stop();
    let b = folder.up("b", "secret", &[]);
    assert!(eval(&b.data, &[]).1.starts_with("disk "));
    assert!(eval(&b.data, &["--cached-only"]).1.starts_with("ram "));
}

/// Where the newest entry about this question lies in a segment: its id in the body, and the payload `4` behind the payload table.
fn places(segment: &[u8], id: &str) -> (usize, usize) {
    let last = |needle: &[u8]| segment.windows(needle.len()).rposition(|window| window == needle).expect("there");
    let id: ContentId = id.parse().expect("an id");
    (last(id.as_bytes()), last(Digest::of(b"4\n").as_bytes()) + 36)
}

#[cfg(unix)]
#[test]
fn what_is_damaged_on_a_disk_is_healed_from_a_holder() {
    for harm_payload in [true, false] {
        let folder = Folder::new();
        let a = folder.up("a", "secret", &[]);
        let b = folder.up("b", "secret", &["--peer", &a.line("listening")]);
        wait_for("the two to meet", || !a.line("peer").is_empty() && !b.line("peer").is_empty());
        let id = eval(&a.data, &[]).1.split(' ').nth(1).expect("the id").to_owned();
        // The end of a ledger looks torn, not damaged: something comes after it.
        let other = ["eval", &guest("queens"), "--entry", "queens", "--arg", "5", "--data", &a.data];
        assert!(evalmesh(&other).status.success());
        wait_for("B to hear of both", || b.line("index").starts_with("2 "));
        assert!(eval(&b.data, &[]).1.starts_with("peer "));
        let data = a.data.clone();
        a.stop();
        let path = format!("{data}/segments/{:020}.seg", 0);
        let mut bytes = fs::read(&path).expect("there");
        let (body, payload) = places(&bytes, &id);
        bytes[if harm_payload { payload } else { body }] ^= 1;
        fs::write(&path, bytes).expect("writes");
        let verified = evalmesh(&["ledger", "verify", "--data", &data]);
        assert_eq!(verified.status.code(), Some(26), "{}", text(&verified.stdout));

        let a = folder.up("a", "secret", &["--peer", &b.line("listening")]);
        wait_for("the two to meet again", || !a.line("peer").is_empty() && !b.line("peer").is_empty());
        wait_for("A to hear that B holds it", || !a.line("index").starts_with("0 "));
        let (out, line, _) = eval(&a.data, &["--cached-only"]);
        assert_eq!(out, "4\n", "{line}");
        assert!(line.starts_with("peer "), "{line}");
        a.stop();
        b.stop();
        let a = folder.up("a", "secret", &[]);
        assert!(eval(&a.data, &["--cached-only"]).1.starts_with("disk "), "it holds it again");
    }
}

#[test]
fn two_nodes_that_know_a_third_one_find_each_other() {
    let folder = Folder::new();
    let seed = folder.up("seed", "secret", &[]);
    let peers = folder.path("peers.txt");
    fs::write(&peers, format!("# the seed\n\n{}\n", seed.line("listening"))).expect("written");
    let b = folder.up("b", "secret", &["--peers-file", &peers]);
    let c = folder.up("c", "secret", &["--peer", &seed.line("listening")]);
    let name = |node: &Up| node.line("node")[..10].to_owned();
    wait_for("B to meet C", || b.status().contains(&format!("peer       {}", name(&c))));
    wait_for("C to meet B", || c.status().contains(&format!("peer       {}", name(&b))));
    fs::write(&peers, "127.0.0.1:1\nnonsense\n").expect("written");
    let output =
        evalmesh(&["up", "--data", &folder.path("d"), "--secret", &folder.path("secret"), "--peers-file", &peers]);
    assert_eq!(output.status.code(), Some(10));
    assert!(text(&output.stderr).contains("peers.txt:2: "), "{}", text(&output.stderr));
}

#[test]
fn without_a_running_node_eval_remembers_too() {
    let folder = Folder::new();
    let data = folder.path("alone");
    assert!(eval(&data, &[]).1.starts_with("computed "));
    assert!(eval(&data, &[]).1.starts_with("disk "));
    let input = Command::new(env!("CARGO_BIN_EXE_evalmesh"))
        .args(["eval", &guest("rot13"), "--input", "-", "--data", &data])
        .stdin(fs::File::open(concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-MIT")).expect("a file"))
        .output()
        .expect("it runs");
    assert!(text(&input.stdout).contains("Crezvffvba"), "{}", text(&input.stderr));
}

#[test]
fn every_bad_input_has_its_exit_code_and_one_line_with_a_hint() {
    let folder = Folder::new();
    let data = folder.path("data");
    let file = |name: &str, bytes: &[u8]| {
        fs::write(folder.path(name), bytes).expect("written");
        folder.path(name)
    };
    let garbage = file("garbage.wasm", b"this is no module");
    let trap = file("trap.wasm", &wat::parse_str(r#"(module (func (export "f") unreachable))"#).expect("wat"));
    let endless = file("endless.wasm", &wat::parse_str(r#"(module (func (export "f") (loop br 0)))"#).expect("wat"));
    let import = file("import.wasm", &wat::parse_str(r#"(module (import "env" "x" (func)))"#).expect("wat"));
    let not_a_folder = file("plain-file", b"");
    let nobody = "0".repeat(64);
    let cases: &[(&str, &[&str], i32)] = &[
        ("missing module", &["eval", "/nowhere.wasm", "--data", &data], 10),
        ("malformed module", &["eval", &garbage, "--data", &data], 11),
        ("unknown import", &["eval", &import, "--data", &data], 11),
        ("a trap", &["eval", &trap, "--entry", "f", "--data", &data], 3),
        ("endless", &["eval", &endless, "--entry", "f", "--timeout", "300ms", "--data", &data], 12),
        ("nobody holds it", &["get", &nobody, "--data", &data], 13),
        (
            "not held",
            &["eval", &guest("queens"), "--entry", "queens", "--arg", "4", "--cached-only", "--data", &data],
            13,
        ),
        ("no node", &["status", "--data", &data], 15),
        ("not a directory", &["eval", &trap, "--entry", "f", "--data", &not_a_folder], 20),
        ("a missing secret", &["up", "--data", &data, "--secret", "/nowhere/secret"], 24),
        ("a malformed secret", &["up", "--data", &data, "--secret", &garbage], 24),
        ("usage", &["eval"], 2),
    ];
    for (what, args, code) in cases {
        let output = evalmesh(args);
        let stderr = text(&output.stderr);
        assert_eq!(output.status.code(), Some(*code), "{what}: {stderr}");
        assert!(output.stdout.is_empty(), "{what}: nothing on stdout");
        if *code >= 10 {
            let last = stderr.lines().last().unwrap_or_default();
            assert!(last.starts_with("evalmesh: ") && last.contains("hint: "), "{what}: {stderr}");
        }
    }
}

#[test]
fn a_port_in_use_a_second_node_and_another_fleet() {
    let folder = Folder::new();
    let a = folder.up("a", "secret", &[]);
    let address = a.line("listening");
    let secret = folder.path("secret");
    let second = evalmesh(&["up", "--data", &a.data, "--secret", &secret, "--no-mdns"]);
    assert_eq!(second.status.code(), Some(21), "{}", text(&second.stderr));
    assert!(text(&second.stderr).contains(&a.process.id().to_string()), "names the process");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = taken.local_addr().map(|address| (taken, address.to_string())).expect("bound");
    let other = folder.path("other");
    let third = evalmesh(&["up", "--data", &other, "--secret", &secret, "--no-mdns", "--listen", &taken.1]);
    assert_eq!(third.status.code(), Some(22), "{}", text(&third.stderr));
    let wrong = folder.path("wrong");
    fs::write(&wrong, "ab".repeat(32)).expect("written");
    let stranger = eval(&folder.path("stranger"), &["--peer", &address, "--secret", &wrong]);
    assert_eq!(stranger.2, Some(23), "{}", stranger.1);
    assert!(a.line("peer").is_empty(), "a stranger is no peer");
    let friend = eval(&folder.path("friend"), &["--peer", &address, "--secret", &secret]);
    assert_eq!(friend.2, Some(0), "the same without the mistake: {}", friend.1);
    let left: Vec<PathBuf> = fs::read_dir(folder.0.path()).expect("readable").flatten().map(|e| e.path()).collect();
    assert!(left.iter().all(|path| path.extension().is_none_or(|end| !end.to_string_lossy().starts_with("tmp"))));
}

#[test]
fn the_demo_is_right() {
    let output = evalmesh(&["demo"]);
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert!(output.status.success(), "{out}{err}");
    assert!(out.contains("8 computed, 10 fetched") && out.contains("8 replayed") && out.contains("0 wrong"), "{out}");
}

#[test]
fn programs_have_names_that_outlive_the_node() {
    let folder = Folder::new();
    let data = folder.path("data");
    let (rot13, wordfreq, licence) =
        (guest("rot13"), guest("wordfreq"), concat!(env!("CARGO_MANIFEST_DIR"), "/LICENSE-MIT"));
    let ran = |args: &[&str]| {
        let output = evalmesh(&[args, &["--data", &data]].concat());
        (text(&output.stdout), text(&output.stderr), output.status.code())
    };
    // Without a running node first.
    let set = ran(&["slot", "set", "text/rot13", &rot13, "--kind", "shape", "--probe", licence]);
    assert!(set.2 == Some(0) && set.1.contains("version 1 of text/rot13"), "{}", set.1);
    assert!(ran(&["slot", "set", "text/rot13", &rot13, "--kind", "shape"]).1.contains("version 1"), "nothing changed");
    let called = ran(&["call", "text/rot13", "--input", licence]);
    assert!(called.0.contains("Crezvffvba") && called.1.starts_with("computed "), "{}", called.1);
    // Then with one, which finds it.
    let node = folder.up("data", "secret", &[]);
    assert!(ran(&["call", "text/rot13", "--as", "shape", "--input", licence]).1.starts_with("disk "));
    assert!(ran(&["slot", "set", "text/rot13", &rot13, "--kind", "shape", "--fuel", "10"]).1.contains("version 2"));
    assert_eq!(ran(&["call", "text/rot13", "--input", &rot13]).2, Some(12), "ten units of fuel are too few");
    assert_eq!(ran(&["slot", "set", "words", &wordfreq, "--kind", "command"]).2, Some(0));
    assert!(node.line("wasm pool").contains("; 2 slots"), "{}", node.status());
    let json = ran(&["slot", "list", "--format", "json"]).0;
    assert!(json.contains("\"text/rot13\"") && json.contains("\"number\": 2"), "{json}");
    for (args, why) in [
        (&["call", "nothing"][..], "no slot `nothing` is registered"),
        (&["call", "words", "--as", "filter"], "slot `words` is of kind command and was called as filter"),
        (
            &["slot", "set", "words", &wordfreq, "--kind", "shape"],
            "slot `words` is of kind command and cannot become shape",
        ),
        (&["slot", "set", "new", &wordfreq, "--kind", "filter"], "slot `new` of kind filter: "),
    ] {
        let refused = ran(args);
        assert!(refused.2 == Some(11) && refused.1.contains(why), "{args:?}: {}", refused.1);
    }
    assert!(ran(&["slot", "evict", "words"]).1.contains("is gone"));
    assert!(ran(&["slot", "evict", "words"]).1.contains("was not there"));
    assert_eq!(ran(&["slot", "list"]).0.lines().count(), 1);
}

#[test]
fn published_code_is_run_by_those_who_list_its_signer() {
    let folder = Folder::new();
    let (maker, copies, queens) = (folder.path("maker"), folder.path("copies"), guest("queens"));
    let published = evalmesh(&["publish", &queens, "--to", &copies, "--source", "examples", "--data", &maker]);
    assert!(published.status.success(), "{}", text(&published.stderr));
    let file = text(&published.stdout).trim().to_owned();
    assert!(
        file.starts_with(&copies)
            && Path::new(&file).extension().is_some_and(|end| end == "bin")
            && Path::new(&file).is_file(),
        "{file}"
    );
    let said = text(&published.stderr);
    let signer = said.split_whitespace().nth(2).expect("a name").trim_end_matches(':').to_owned();
    let other = "ab".repeat(32);
    for (name, signer, source, line) in [
        ("lists", signer.as_str(), "examples", "hits: ram 0, disk 0, remote 1; compiled 0"),
        ("lists-another", &other, "examples", "miss: remote: signer not listed: 1"),
        ("wants-another", &signer, "elsewhere", "miss: remote: other provenance: 1"),
    ] {
        let node = folder.up(
            name,
            "secret",
            &["--artifacts", &copies, "--artifact-signer", signer, "--artifact-source", source],
        );
        assert_eq!(eval(&node.data, &[]).0, "4\n");
        assert!(node.status().contains(line), "{name}: {}", node.status());
    }
    let alone = evalmesh(&["up", "--artifacts", &copies, "--data", &folder.path("none")]);
    assert_eq!(alone.status.code(), Some(2), "nobody's code is run without a listed signer");
}

#[test]
fn a_program_asks_with_the_capability_and_limits_are_the_callers() {
    let folder = Folder::new();
    let lattice = guest("lattice");
    let ask = |data: &str, more: &[&str]| {
        let args = ["eval", &lattice, "--arg", "5", "--arg", "5", "--data", data];
        let output = evalmesh(&[&args[..], more].concat());
        (text(&output.stdout), text(&output.stderr), output.status.code())
    };
    let granting = folder.up("granting", "secret", &["--grant", "eval"]);
    assert_eq!(ask(&granting.data, &["--capability", "eval"]).0, "252\n");
    assert!(granting.line("answered").contains("35 computed"), "{}", granting.line("answered"));
    assert_eq!(ask(&granting.data, &[]).2, Some(11), "it did not ask for it");
    let strict = folder.up("strict", "secret", &[]);
    let refused = ask(&strict.data, &["--capability", "eval"]);
    assert!(refused.2 == Some(11) && refused.1.contains("capability `eval` is not granted here"), "{}", refused.1);
    let alone = folder.path("alone");
    assert_eq!(ask(&alone, &["--capability", "eval"]).0, "252\n", "one's own process grants what one asks for");
    for limit in [["--fuel", "100"], ["--memory", "65536"], ["--output", "1"]] {
        let limited = ask(&folder.path("limited"), &["--capability", "eval", limit[0], limit[1]]);
        assert_eq!(limited.2, Some(12), "{limit:?}: {}", limited.1);
    }
}
