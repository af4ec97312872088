//! The id of a request covers everything that can change the answer and nothing else.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use evalmesh::error::RequestError;
use evalmesh::reply::Payload;
use evalmesh::request::{
    AnswerFrom, Class, Code, Engine, Name, Options, OutputName, Program, RelPath, Request, Slot, Source,
};
use proptest::prelude::*;

fn names() -> impl Strategy<Value = Name> {
    "[a-z][a-z0-9./:_-]{0,12}".prop_map(|text| text.parse().expect("matches the rule"))
}

fn paths() -> impl Strategy<Value = RelPath> {
    "[a-z]{1,8}(/[a-z]{1,8}){0,2}".prop_map(|text| text.parse().expect("matches the rule"))
}

fn bytes() -> impl Strategy<Value = Bytes> {
    proptest::collection::vec(any::<u8>(), 0..64).prop_map(Bytes::from)
}

fn payloads() -> impl Strategy<Value = Payload> {
    (bytes(), any::<bool>()).prop_map(|(bytes, inline)| {
        let payload = Payload::Inline(bytes);
        if inline { payload } else { Payload::Stored(payload.blob_ref()) }
    })
}

fn programs() -> impl Strategy<Value = Program> {
    let engine = prop_oneof![Just(Engine::Wasm), Just(Engine::Gpu), Just(Engine::Host)];
    let opaque = (bytes(), names(), any::<u32>()).prop_map(|(key, kind, version)| Code::Opaque { key, kind, version });
    let code = prop_oneof![payloads().prop_map(Code::Bytes), opaque];
    (engine, 0..4_u32, code, "[a-z]{0,8}").prop_map(|(engine, abi, code, entry)| Program { engine, abi, code, entry })
}

fn classes() -> impl Strategy<Value = Class> {
    prop_oneof![
        Just(Class::Portable),
        names().prop_map(Class::Device),
        Just(Class::Observed),
        Just(Class::Volatile),
        Just(Class::Effectful),
    ]
}

fn slots() -> impl Strategy<Value = Slot> {
    prop_oneof![Just(Slot::Stdin), paths().prop_map(Slot::File)]
}

prop_compose! {
    fn requests()(
        program in programs(),
        inputs in proptest::collection::btree_map(slots(), payloads().prop_map(Source::Payload), 0..4),
        args in proptest::collection::vec("[ -~]{0,12}", 0..4),
        env in proptest::collection::btree_map("[A-Z]{1,6}", "[ -~]{0,12}", 0..4),
        capabilities in proptest::collection::btree_set(names(), 0..4),
        class in classes(),
        scope in proptest::option::of(names()),
    ) -> Request {
        Request { program, inputs, args, env, capabilities, class, scope, options: Options::default() }
    }
}

/// Every way to change what the answer may depend on.
fn relevant_changes(request: &Request) -> Vec<(&'static str, Request)> {
    let changed = |name, change: &dyn Fn(&mut Request)| {
        let mut other = request.clone();
        change(&mut other);
        (name, other)
    };
    let more = |payload: &Payload| match payload {
        Payload::Inline(bytes) => Payload::Inline([bytes.as_ref(), b"+"].concat().into()),
        Payload::Stored(blob) => {
            let mut blob = *blob;
            blob.len += 1;
            Payload::Stored(blob)
        }
    };
    let mut all = vec![
        changed("engine", &|r| {
            r.program.engine = if r.program.engine == Engine::Wasm { Engine::Gpu } else { Engine::Wasm };
        }),
        changed("abi", &|r| r.program.abi += 1),
        changed("code", &|r| match &mut r.program.code {
            Code::Bytes(payload) => *payload = more(payload),
            Code::Opaque { version, .. } => *version = version.wrapping_add(1),
        }),
        changed("code kind", &|r| {
            r.program.code = match &r.program.code {
                Code::Bytes(_) => Code::Opaque { key: Bytes::new(), kind: "kind".parse().expect("a name"), version: 0 },
                Code::Opaque { .. } => Code::Bytes(Payload::Inline(Bytes::new())),
            };
        }),
        changed("entry", &|r| r.program.entry.push('x')),
        changed("one more argument", &|r| r.args.push(String::new())),
        changed("one more variable", &|r| drop(r.env.insert("lower".to_owned(), String::new()))),
        changed("one more capability", &|r| _ = r.capabilities.insert("zz:not-generated-zz".parse().expect("a name"))),
        changed("class", &|r| {
            r.class = if r.class == Class::Portable { Class::Observed } else { Class::Portable };
        }),
        changed("scope", &|r| {
            r.scope = match r.scope {
                Some(_) => None,
                None => Some("scope".parse().expect("a name")),
            };
        }),
        changed("one more input", &|r| {
            let slot = Slot::File("not/generated/by/the/strategy".parse().expect("a path"));
            r.inputs.insert(slot, Source::Payload(Payload::Inline(Bytes::new())));
        }),
    ];
    if !request.args.is_empty() {
        all.push(changed("an argument", &|r| r.args[0].push('x')));
        all.push(changed("argument split", &|r| {
            let last = r.args.pop().expect("not empty");
            r.args.extend([last, String::new()]);
        }));
    }
    if let Some((slot, Source::Payload(payload))) = request.inputs.first_key_value() {
        all.push(changed("an input's bytes", &|r| {
            drop(r.inputs.insert(slot.clone(), Source::Payload(more(payload))));
        }));
        all.push(changed("an input's slot", &|r| {
            let source = r.inputs.remove(slot).expect("it is there");
            r.inputs.insert(Slot::File("not/generated/by/the/strategy".parse().expect("a path")), source);
        }));
    }
    if let Some(name) = request.env.keys().next() {
        all.push(changed("a variable's value", &|r| r.env.get_mut(name).expect("it is there").push('x')));
    }
    all
}

/// Every way to ask the same question differently.
fn irrelevant_changes(request: &Request) -> Vec<(&'static str, Request)> {
    let by_reference = |payload: &Payload| Payload::Stored(payload.blob_ref());
    let mut stored = request.clone();
    if let Code::Bytes(payload) = &mut stored.program.code {
        *payload = by_reference(payload);
    }
    for source in stored.inputs.values_mut() {
        if let Source::Payload(payload) = source {
            *payload = by_reference(payload);
        }
    }
    let with = |options: Options| Request { options, ..request.clone() };
    let reversed: BTreeSet<Name> = request.capabilities.iter().rev().cloned().collect();
    let environment: BTreeMap<String, String> =
        request.env.iter().rev().map(|(name, value)| (name.clone(), value.clone())).collect();
    vec![
        ("inputs by digest", stored),
        ("capability order", Request { capabilities: reversed, ..request.clone() }),
        ("environment order", Request { env: environment, ..request.clone() }),
        ("deadline", with(Options { timeout: Some(Duration::from_secs(1)), ..Options::default() })),
        ("stream flag", with(Options { stream: true, ..Options::default() })),
        ("fuel", with(Options { fuel: Some(1), ..Options::default() })),
        ("memory", with(Options { memory: Some(1), ..Options::default() })),
        ("output bound", with(Options { output: Some(1), ..Options::default() })),
        ("processor time", with(Options { cpu: Some(Duration::from_secs(1)), ..Options::default() })),
        ("files", with(Options { files: Some(1), ..Options::default() })),
        ("held only", with(Options { answer_from: AnswerFrom::HeldOnly, ..Options::default() })),
        ("computed only", with(Options { answer_from: AnswerFrom::ComputedOnly, ..Options::default() })),
    ]
}

proptest! {
    #[test]
    fn any_relevant_change_changes_the_id(request in requests()) {
        let id = request.id().expect("a valid request");
        for (what, changed) in relevant_changes(&request) {
            prop_assert_ne!(changed.id().expect("still valid"), id, "{}", what);
        }
    }

    #[test]
    fn no_other_change_does(request in requests()) {
        let id = request.id().expect("a valid request");
        for (what, changed) in irrelevant_changes(&request) {
            prop_assert_eq!(changed.id().expect("still valid"), id, "{}", what);
        }
    }

    #[test]
    fn different_requests_have_different_ids(a in requests(), b in requests()) {
        let same = a.canonical().expect("valid") == b.canonical().expect("valid");
        prop_assert_eq!(same, a.id().expect("valid") == b.id().expect("valid"));
    }
}

#[test]
fn what_is_malformed_has_no_id() {
    let request = || Request::new(Program::wasm(&b"\0asm"[..]));
    {
        let (wrong, text) = ("nul", "a\0b");
        assert_eq!(request().arg(text).id(), Err(RequestError::Text(text.to_owned())), "{wrong}");
        assert!(matches!(request().env(text, "v").id(), Err(RequestError::Text(_))), "{wrong}");
        assert!(matches!(request().env("N", text).id(), Err(RequestError::Text(_))), "{wrong}");
    }
    assert!(matches!(request().env("A=B", "v").id(), Err(RequestError::Text(_))));
    assert!(matches!(request().env("", "v").id(), Err(RequestError::Text(_))));
    for path in ["", "/abs", "a//b", "./a", "a/..", "a\\b", "a\0b", "a/"] {
        assert!(matches!(request().file(path, &b""[..]), Err(RequestError::Path(_))), "{path}");
    }
    for name in ["", "Upper", "sp ace", "ü"] {
        assert!(matches!(name.parse::<Name>(), Err(RequestError::Name(_))), "{name}");
    }
    let huge = request().arg("x".repeat(300 * 1024));
    assert!(matches!(huge.id(), Err(RequestError::TooLarge { .. })));
    let graph = request().input(Slot::Stdin, Source::Output(Box::new(request()), OutputName::Stdout));
    assert_eq!(graph.id(), Err(RequestError::Unresolved));
}
