//! GPU programs through a node: memory, records, graphs, the command line.

use std::path::Path;
use std::process::Command;

use evalmesh::error::{EvalError, LimitHit, Refusal};
use evalmesh::eval::{Answer, Eval, Origin};
use evalmesh::net::{FleetSecret, PeerAddr};
use evalmesh::node::{Network, Node};
use evalmesh::request::{Class, OutputName, Request, Slot, Source};

use crate::Check;
use crate::drivers::{COMMON, Driver, class, config, out, program, request, shader};

pub(crate) const CHECKS: &[Check] = &[
    ("a node remembers answers and no errors", a_node_remembers),
    ("the output of a program is the input of the next one", a_graph),
    ("another class's answer is given only to those who ask for it", approximate),
    ("a node without a device asks one that has it", placed),
    ("what was placed and is not wanted any more ends", placed_for_nobody),
    ("the command line asks a shader, a manifest, and for devices", the_command_line),
];

fn node(drivers: &[Driver]) -> Node {
    Node::builder().gpu(config(drivers)).start().expect("a node in memory")
}

fn ask(node: &Node, request: Request) -> Result<Answer, EvalError> {
    tokio::runtime::Builder::new_current_thread().build().expect("a runtime").block_on(node.eval(request))
}

fn a_node_remembers() {
    let node = node(&[Driver::SwiftShader]);
    let before = node.status().ledger.answers;
    assert_eq!(node.status().gpu, "not looked for yet");
    let good = request(&program(&shader("b[id.x] = a[id.x] * 2u;"), 64, 1), &[21; 64]);
    let first = ask(&node, good.clone()).expect("an answer");
    assert_eq!((first.origin, first.recorded, out(&first.reply)), (Origin::Computed, true, vec![42; 64]));
    assert_eq!(ask(&node, good.clone()).expect("an answer").origin, Origin::Ram);
    let status = node.status();
    assert_eq!(
        (status.gpu.as_str(), status.device_classes.len(), status.ledger.answers - before),
        ("1 of 1 adapters may answer", 1, 1)
    );
    let mut endless = request(&program(&shader("loop { b[0] = 1u; }"), 64, 1), &[1]);
    endless.options.fuel = Some(100);
    assert_eq!(ask(&node, endless), Err(EvalError::Limit(LimitHit::Steps { bound: 100 })));
    let unbound = program(&shader("b[0] = missing;"), 64, 1);
    assert!(matches!(ask(&node, request(&unbound, &[1])), Err(EvalError::Refused(Refusal::Shader(_)))));
    assert_eq!(node.status().ledger.answers - before, 1, "an error is never recorded");
    node.shutdown();
    let without = Node::builder().without_gpu().start().expect("a node");
    assert!(matches!(ask(&without, good), Err(EvalError::Refused(Refusal::NoEvaluator(_)))));
    assert_eq!(without.status().gpu, "off");
    without.shutdown();
}

fn a_graph() {
    let node = node(&[Driver::Lavapipe]);
    let double = program(&shader("b[id.x] = a[id.x] * 2u;"), 64, 1);
    let first = request(&double, &[5; 64]);
    let output = Source::Output(Box::new(first), OutputName::File("out".parse().expect("a name")));
    let second = double.request().expect("a program").input(Slot::File("in".parse().expect("a name")), output);
    assert_eq!(out(&ask(&node, second).expect("an answer").reply), [20; 64]);
    node.shutdown();
}

fn approximate() {
    let node = node(&[Driver::Lavapipe, Driver::SwiftShader]);
    let sines = request(&program(&shader("b[id.x] = bitcast<u32>(sin(f32(id.x) + f32(a[0])));"), 64, 1), &[1]);
    let [one, other] = [Driver::Lavapipe, Driver::SwiftShader]
        .map(|driver| sines.clone().class(Class::Device(class(&COMMON, driver))));
    let tokio = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    tokio.block_on(node.devices()).expect("devices");
    let computed = ask(&node, one).expect("an answer");
    let mut approximate = other.clone();
    approximate.options.approximate = true;
    let near = ask(&node, approximate.clone()).expect("an answer");
    assert_eq!((near.origin, near.id), (Origin::Ram, computed.id), "the other question's answer, under its name");
    let exact = ask(&node, other).expect("an answer");
    assert_eq!(exact.origin, Origin::Computed, "whoever does not ask for it never gets it");
    assert_eq!(ask(&node, approximate).expect("an answer").id, exact.id, "its own comes first");
    node.shutdown();
}

/// Waits until a node has an answer itself, in its tier or in its ledger: what comes from a peer is delivered at once and adopted in the background.
fn comes_to_hold(node: &Node, request: &Request) -> bool {
    let start = std::time::Instant::now();
    while start.elapsed() < std::time::Duration::from_secs(20) {
        if matches!(ask(node, request.clone()).expect("an answer").origin, Origin::Ram | Origin::Disk) {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    false
}

/// A node with a device, and one without that knows of it.
fn able_and_unable() -> (Node, Node) {
    let network = |peers| Network {
        secret: FleetSecret::from_bytes([7; 32]),
        listen: vec!["127.0.0.1:0".parse().expect("an address")],
        peers,
        mdns: false,
        carrier: evalmesh::net::Carrier::default(),
    };
    let able =
        Node::builder().gpu(config(&[Driver::SwiftShader])).network(network(Vec::new())).start().expect("a node");
    let address = able.status().addresses[0];
    let unable = Node::builder()
        .without_gpu()
        .network(network(vec![PeerAddr { addr: address, node: None }]))
        .start()
        .expect("a node");
    able.prepare_devices();
    (able, unable)
}

/// Asks until the offer of a device came, which is when it was tested.
fn ask_a_peer(unable: &Node, wanted: &Request) -> Answer {
    let start = std::time::Instant::now();
    loop {
        match ask(unable, wanted.clone()) {
            Ok(answer) => return answer,
            Err(EvalError::Refused(Refusal::NoEvaluator(_))) => {
                std::thread::sleep(std::time::Duration::from_millis(50));
            }
            Err(error) => panic!("{error}"),
        }
        assert!(start.elapsed() < std::time::Duration::from_secs(20), "no offer came");
    }
}

fn placed() {
    let (able, unable) = able_and_unable();
    let wanted = request(&program(&shader("b[id.x] = a[id.x] + 7u;"), 64, 1), &[1; 64]);
    let answer = ask_a_peer(&unable, &wanted);
    assert_eq!((answer.origin, out(&answer.reply)), (Origin::Peer(able.id()), vec![8; 64]));
    assert!(comes_to_hold(&unable, &wanted));
    assert!(comes_to_hold(&able, &wanted), "whoever computed it holds it");
    let sines = request(&program(&shader("b[id.x] = bitcast<u32>(cos(f32(id.x)));"), 64, 1), &[1]);
    let own = sines.clone().class(Class::Device(class(&COMMON, Driver::SwiftShader)));
    assert_eq!(ask(&unable, own).expect("an answer").origin, Origin::Peer(able.id()));
    let other = sines.clone().class(Class::Device(class(&COMMON, Driver::Lavapipe)));
    assert!(
        matches!(ask(&unable, other.clone()), Err(EvalError::Refused(Refusal::NoEvaluator(_)))),
        "nobody offers it"
    );
    let mut near = other;
    near.options.approximate = true;
    assert!(comes_to_hold(&unable, &near), "of a class that a peer offers");
    assert!(
        matches!(ask(&unable, sines), Err(EvalError::Refused(Refusal::ClassNotProven(_)))),
        "the peer's refusal is the caller's"
    );
    let mut here = request(&program(&shader("b[id.x] = a[id.x] + 9u;"), 64, 1), &[1; 64]);
    here.options.here = true;
    assert!(matches!(ask(&unable, here), Err(EvalError::Refused(Refusal::NoEvaluator(_)))));
    unable.shutdown();
    able.shutdown();
}

fn placed_for_nobody() {
    let (able, unable) = able_and_unable();
    ask_a_peer(&unable, &request(&program(&shader("b[id.x] = a[id.x] + 7u;"), 64, 1), &[1; 64]));
    let long = "var x = a[0]; for (var i = 0u; i < 250000000u; i++) { x = x * 1664525u + i; } b[id.x & 63u] = x;";
    let long = program(&shader(long), 64, 60_000);
    let start = std::time::Instant::now();
    // One runs there, the others wait for it.
    std::thread::scope(|scope| {
        for n in 0..4 {
            let (unable, wanted) = (&unable, request(&long, &[n]).timeout(std::time::Duration::from_secs(1)));
            scope.spawn(move || {
                let late = ask(unable, wanted);
                assert!(matches!(late, Err(EvalError::Limit(LimitHit::Deadline { .. }))), "{late:?}");
            });
        }
    });
    let next = request(&program(&shader("b[id.x] = a[id.x] + 8u;"), 64, 1), &[1; 64]);
    assert_eq!(out(&ask(&unable, next).expect("an answer").reply), [9; 64]);
    // It would have had a minute.
    assert!(start.elapsed() < std::time::Duration::from_secs(20), "{:?}", start.elapsed());
    unable.shutdown();
    able.shutdown();
}

fn evalmesh(folder: &Path, args: &[&str]) -> (i32, Vec<u8>, String) {
    let config = config(&[Driver::Lavapipe, Driver::Old]);
    let output = Command::new(env!("CARGO_BIN_EXE_evalmesh"))
        .args(args)
        .env("EVALMESH_DATA", folder.join("data"))
        .envs(config.env)
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("it runs");
    (output.status.code().unwrap_or(-1), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

fn the_command_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let (code, text, _) = evalmesh(folder.path(), &["devices"]);
    let text = String::from_utf8_lossy(&text);
    assert_eq!(code, 0);
    for wanted in
        ["sound", "class     gpu:llvmpipe", "fails the test `flat loop`", "install Mesa 25", "1 of 2 adapters"]
    {
        assert!(text.contains(wanted), "no `{wanted}` in\n{text}");
    }
    let (_, json, _) = evalmesh(folder.path(), &["devices", "--format", "json"]);
    let value: serde_json::Value = serde_json::from_slice(&json).expect("JSON");
    assert_eq!(value["devices"].as_array().map(Vec::len), Some(2), "{value}");

    let text = folder.path().join("double.wgsl");
    std::fs::write(&text, shader("b[id.x] = a[id.x] * 2u;")).expect("a file");
    let text = text.to_str().expect("UTF-8");
    let (code, bytes, said) = evalmesh(folder.path(), &["eval", text, "--bind", "0=u32:1,2,3", "--bind", "1=out:12"]);
    assert_eq!((code, crate::drivers::words(&bytes)), (0, vec![2, 4, 6]), "{said}");
    let (code, _, said) = evalmesh(folder.path(), &["eval", text, "--bind", "0=u32:1,2,3"]);
    assert_eq!(code, 2, "{said}");
    let (code, _, said) =
        evalmesh(folder.path(), &["eval", text, "--bind", "0=u32:1", "--bind", "1=out:12", "--class", "gpu:none:0"]);
    assert!(code == 11 && said.contains("no device for"), "{code} {said}");

    let (code, cells, said) = evalmesh(folder.path(), &["eval", "examples/gpu/automaton.toml"]);
    assert!(code == 0 && cells.len() == 65_536 && said.starts_with("computed"), "{code} {said}");
    let out = folder.path().join("stars");
    let (code, _, said) =
        evalmesh(folder.path(), &["eval", "examples/gpu/nbody.toml", "--output-dir", out.to_str().expect("UTF-8")]);
    assert!(code == 0 && out.join("places").is_file(), "{code} {said}");
    let (code, _, said) = evalmesh(folder.path(), &["eval", "examples/gpu/nbody.toml", "--class", "portable"]);
    assert!(code == 11 && said.contains("floating-point"), "{code} {said}");
}
