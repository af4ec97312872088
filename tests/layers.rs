//! House rules as tests: which layer may know which (the table of ARCHITECTURE.md), and what the bare crate contains.
//!
//! Reads `src/` as text and links nothing, so it is cheap; a violation is named by file and line.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The value layer: every layer may use these.
const VALUES: &[&str] =
    &["bao", "error", "eval", "id", "identity", "limits", "message", "proof", "record", "reply", "request", "verified"];

/// What the tests of every layer may use.
const TESTS: &str = "interleavings";

/// A layer and the crate modules that it may name besides the values and itself.
const MAY_USE: &[(&str, &[&str])] = &[
    ("wire", &[]),
    ("ledger", &[]),
    ("evaluator", &[]),
    ("fabric", &[]),
    ("cassette", &["ledger"]),
    ("net", &["wire", "fabric"]),
    ("sim", &["wire", "ledger", "evaluator", "fabric", "cassette"]),
    ("node", &["wire", "ledger", "evaluator", "fabric", "cassette", "net"]),
    ("cli", &["wire", "ledger", "evaluator", "fabric", "cassette", "net", "node", "sim"]),
];

/// External crates and the only layers that may name them.
const ONLY_IN: &[(&str, &[&str])] = &[
    ("tokio", &["net", "node", "cli"]),
    ("libp2p", &["net"]),
    ("wasmtime", &["evaluator"]),
    ("wgpu", &["evaluator"]),
    ("naga", &["evaluator"]),
    ("clap", &["cli"]),
];

#[test]
fn every_layer_names_only_what_the_table_allows() {
    let mut wrong = Vec::new();
    for file in rust_files(Path::new("src")) {
        let layer = layer_of(&file);
        for (number, line) in code_lines(&file) {
            for used in crate_paths(&line) {
                let allowed = layer == "lib"
                    || used == layer
                    || used == TESTS
                    || VALUES.contains(&used.as_str())
                    || MAY_USE.iter().any(|(name, uses)| *name == layer && uses.contains(&used.as_str()));
                if !allowed {
                    wrong.push(format!("{}:{number}: `{layer}` must not know `{used}`", file.display()));
                }
            }
            for (package, layers) in ONLY_IN {
                let named = line.contains(&format!("{package}::")) || line.contains(&format!("use {package};"));
                if named && !layers.contains(&layer.as_str()) && layer != "main" {
                    wrong.push(format!("{}:{number}: `{package}` belongs to {layers:?} only", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "the layer table is broken:\n{}", wrong.join("\n"));
}

#[test]
fn the_bare_crate_has_no_runtime_network_engine_or_gpu() {
    let output = Command::new(env!("CARGO"))
        .args(["tree", "--no-default-features", "--edges", "normal", "--prefix", "none", "--offline", "--locked"])
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8_lossy(&output.stdout);
    assert!(tree.contains("blake3"), "the tree was listed");
    for package in ["tokio", "libp2p", "wasmtime", "wgpu", "naga"] {
        let found = tree.lines().find(|line| line.split(' ').next().is_some_and(|name| name.starts_with(package)));
        assert_eq!(found, None, "the bare crate must not contain {package}");
    }
}

#[test]
fn every_layer_of_the_table_exists() {
    for name in VALUES {
        assert!(
            Path::new("src").join(format!("{name}.rs")).is_file(),
            "the table names `{name}`, src/ has no such file"
        );
    }
    for (name, _) in MAY_USE {
        assert!(Path::new("src").join(name).is_dir(), "the table names `{name}`, src/ has no such folder");
    }
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("src is readable") {
        let path = entry.expect("src is readable").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

/// The first part of the path below `src`: a folder, or a file without its ending; value files all count as `values`.
fn layer_of(file: &Path) -> String {
    let below = file.strip_prefix("src").expect("below src");
    let first = below.components().next().expect("not empty").as_os_str().to_string_lossy();
    let name = first.trim_end_matches(".rs");
    if VALUES.contains(&name) { "values".to_owned() } else { name.to_owned() }
}

/// Lines with code, without comments.
fn code_lines(file: &Path) -> Vec<(usize, String)> {
    let text = fs::read_to_string(file).expect("source is UTF-8");
    let code = |line: &str| line.split("//").next().unwrap_or_default().to_owned();
    text.lines().enumerate().map(|(index, line)| (index + 1, code(line))).collect()
}

/// The modules named right after `crate::` (or in a `crate::{..}` group on the line).
fn crate_paths(line: &str) -> Vec<String> {
    let word = |text: &str| text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect::<String>();
    let mut names = Vec::new();
    for rest in line.split("crate::").skip(1) {
        match rest.strip_prefix('{') {
            Some(group) => {
                names.extend(group.split([',', '}']).map(|part| word(part.trim())).filter(|w| !w.is_empty()));
            }
            None => names.push(word(rest)),
        }
    }
    names.retain(|name| name.chars().next().is_some_and(char::is_lowercase));
    names
}
