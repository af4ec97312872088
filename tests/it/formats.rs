//! Golden bytes: canonical forms that are frozen. A failure here means that every id, record or ledger out there would stop being readable;
//! the answer is a new version byte beside the old one, never a new expectation.

use std::time::Duration;

use evalmesh::id::{ContentId, Digest, NodeId};
use evalmesh::record::{Observation, Record, RecordError, Root, RootKind, Trace, Upstream};
use evalmesh::reply::{Facts, OutputFile, Payload, Reply, Status, TrapCode};
use evalmesh::request::{Class, Engine, Program, Request, Slot, Source};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |text, byte| text + &format!("{byte:02x}"))
}

fn request() -> Request {
    Request::new(Program::wasm(&b"\0asm"[..]).entry("run"))
        .stdin(&b"standard input"[..])
        .file("data/words.txt", &b"some words"[..])
        .expect("a clean path")
        .arg("-n")
        .arg("10")
        .env("LANG", "C")
        .capability("eval".parse().expect("a name"))
        .class(Class::Device("llvmpipe:25.0.7".parse().expect("a name")))
        .scope("team-a".parse().expect("a name"))
}

fn reply() -> Reply {
    Reply {
        status: Status::Exit(3),
        stdout: Some(Payload::from(&b"standard output"[..])),
        stderr: None,
        files: vec![OutputFile {
            path: "out/tool".parse().expect("a clean path"),
            executable: true,
            data: Payload::from(&b"#!"[..]),
        }],
        facts: Facts {
            duration: Duration::from_micros(1500),
            fuel: Some(12345),
            host: "x86_64-linux".into(),
            evaluator: "wasmtime 48.0.8".into(),
        },
    }
}

fn record() -> Record {
    let about = Observation {
        request: request().id().expect("a valid request"),
        kind: "wasm".parse().expect("a name"),
        class: Class::Observed,
        observed_at: 1_790_000_000_000_000,
        trace: Some(Trace {
            roots: vec![Root {
                kind: RootKind::Absent,
                name: "src/lib.rs".to_owned(),
                fingerprint: Digest::of(b"absent"),
            }],
        }),
        upstream: vec![Upstream { request: ContentId::of(b"upstream"), answer: Digest::of(b"its answer") }],
    };
    Record::observe(about, &reply(), NodeId::from_bytes([7; 32]))
}

#[test]
fn golden_request() {
    assert_eq!(hex(&request().canonical().expect("valid")), include_str!("../golden/request-v1.hex").trim());
    assert_eq!(request().id().expect("valid").to_string(), include_str!("../golden/request-v1.id").trim());
}

#[test]
fn golden_host_request() {
    let request = Request::new(Program::host("git-status", 2).expect("a name"));
    assert_eq!(
        hex(&request.canonical().expect("valid")),
        "0102010100".to_owned() + "0a6769742d73746174757302" + "0000000000" + "0200"
    );
}

#[test]
fn golden_gpu_request() {
    use evalmesh::evaluator::gpu::{Binding, Dispatch, GpuProgram, Groups, Kind, Size, Stage};

    let binding =
        |group, binding, name: &str, kind| Binding { group, binding, name: name.parse().expect("a name"), kind };
    let program = GpuProgram {
        shader: "// WGSL".to_owned(),
        bindings: vec![
            binding(0, 0, "in", Kind::Input),
            binding(1, 300, "out", Kind::Output(Size::Bytes(4096))),
            binding(0, 2, "both", Kind::InOut),
            binding(0, 3, "tmp", Kind::Scratch(Size::Of { binding: 0, times: 3, over: 2 })),
        ],
        stages: vec![Stage {
            repeat: 7,
            dispatches: vec![
                Dispatch { entry: "main".to_owned(), groups: Groups::Fixed([1, 2, 3]) },
                Dispatch { entry: "next".to_owned(), groups: Groups::Cover { binding: 0, stride: 4 } },
            ],
        }],
    };
    let golden = "01".to_owned()
        + "072f2f205747534c"
        + "04"
        + "000002696e00"
        + "01ac02036f7574010080"
        + "20"
        + "000204626f746802"
        + "000303746d700301000302"
        + "010702"
        + "046d61696e00010203"
        + "046e657874010004";
    let bytes = program.encode().expect("in bounds");
    assert_eq!(hex(&bytes), golden);
    assert_eq!(GpuProgram::decode(&bytes), Ok(program.clone()));
    let request =
        program.request().expect("in bounds").class(Class::Device("gpu:a:0123456789abcdef".parse().expect("a name")));
    let canonical = hex(&request.canonical().expect("valid"));
    let blob = hex(Digest::of(&bytes).as_bytes());
    assert_eq!(
        canonical,
        "01010100".to_owned() + &blob + "42" + "0000000000" + "01166770753a613a30313233343536373839616263646566" + "00"
    );
}

#[test]
fn golden_reply() {
    assert_eq!(reply().answer().to_string(), include_str!("../golden/reply-v1.answer").trim());
    assert_eq!(hex(&postcard::to_stdvec(&reply()).expect("encodes")), include_str!("../golden/reply-v1.hex").trim());
}

#[test]
fn golden_record() {
    let golden = include_str!("../golden/record-v1.hex").trim();
    assert_eq!(hex(&record().encode()), golden);
    assert_eq!(Record::decode(&record().encode()), Ok(record()));
    assert_eq!(record().answer(), reply().answer(), "a record certifies the reply that it records");
}

#[test]
fn every_change_of_a_record_byte_is_refused_or_seen() {
    let bytes = record().encode();
    for index in 0..bytes.len() {
        for bit in 0..8 {
            let mut changed = bytes.clone();
            changed[index] ^= 1 << bit;
            if let Ok(other) = Record::decode(&changed) {
                assert_ne!(other, record(), "byte {index} bit {bit} is not covered");
                assert_eq!(other.encode(), changed, "two forms of one record");
            }
        }
        assert!(Record::decode(&bytes[..index]).is_err(), "a prefix of {index} bytes");
    }
    assert!(Record::decode(&[&bytes[..], &[0]].concat()).is_err(), "a tail");
    let mut newer = bytes;
    newer[0] = 2;
    assert_eq!(Record::decode(&newer), Err(RecordError::Version(2)));
}

#[test]
fn the_answer_covers_status_and_outputs_and_nothing_else() {
    let base = reply();
    let same = [
        Reply { facts: Facts::default(), ..base.clone() },
        Reply { stderr: Some(Payload::from(&b"a log line"[..])), ..base.clone() },
        Reply { stdout: base.stdout.as_ref().map(|payload| Payload::Stored(payload.blob_ref())), ..base.clone() },
    ];
    for reply in same {
        assert_eq!(reply.answer(), base.answer());
    }
    let mut renamed = base.clone();
    renamed.files[0].path = "out/other".parse().expect("a clean path");
    let mut plain = base.clone();
    plain.files[0].executable = false;
    let others = [
        Reply { status: Status::Exit(0), ..base.clone() },
        Reply { status: Status::Trap(TrapCode::Unreachable), ..base.clone() },
        Reply { stdout: None, ..base.clone() },
        Reply { stdout: Some(Payload::from(&b""[..])), ..base.clone() },
        Reply { files: Vec::new(), ..base.clone() },
        renamed,
        plain,
    ];
    for (index, reply) in others.iter().enumerate() {
        assert_ne!(reply.answer(), base.answer(), "case {index}");
    }
    assert_ne!(others[2].answer(), others[3].answer(), "absent is not empty");
}

#[test]
fn engines_and_slots_keep_their_positions() {
    for (engine, position) in [(Engine::Wasm, 0), (Engine::Gpu, 1), (Engine::Host, 2)] {
        assert_eq!(postcard::to_stdvec(&engine).expect("encodes"), [position]);
    }
    assert_eq!(postcard::to_stdvec(&Slot::Stdin).expect("encodes"), [0]);
    let stored = Source::Payload(Payload::from(&b"x"[..]));
    assert_eq!(request().input(Slot::Stdin, stored).inputs.len(), 2, "a slot is filled once");
}
