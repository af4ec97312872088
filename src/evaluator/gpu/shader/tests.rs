//! Admission, the proof and the rewriting, on shaders as texts. What they do on devices is `tests/gpu`'s.

use super::*;

const HEAD: &str = "@group(0) @binding(0) var<storage, read> a: array<u32>;
    @group(0) @binding(1) var<storage, read_write> b: array<u32>;
    @group(0) @binding(2) var<storage, read_write> sums: array<atomic<u32>, 4>;
    @group(0) @binding(3) var<storage, read_write> f: array<f32>;
    var<workgroup> w: array<u32, 64>;
    var<workgroup> v: atomic<u32>;
";

/// Whether a body is portable; what is admitted is valid after it was rewritten, too.
fn judged(text: &str) -> Result<(), String> {
    let admitted = on_a_large_stack(text.to_owned()).unwrap_or_else(|refusal| panic!("{refusal}: {text}"));
    if let Err(refusal) = validate(&admitted.module, true) {
        panic!("the rewriting of this is not valid: {refusal}\n{text}");
    }
    admitted.not_portable.map_or(Ok(()), Err)
}

fn on_a_large_stack(text: String) -> Result<Admitted, Refusal> {
    let thread = std::thread::Builder::new().stack_size(limits::PARSE_STACK).spawn(move || admit(&text, true));
    thread.expect("a thread").join().expect("it does not panic")
}

fn main(body: &str) -> String {
    // Only what is used is declared, as the types of what is not would count as well.
    let lines = HEAD.lines().map(str::trim).filter(|line| {
        let name = line.split("> ").nth(1).and_then(|rest| rest.split(':').next()).unwrap_or("?");
        body.split(|letter: char| !letter.is_alphanumeric()).any(|word| word == name)
    });
    let head: String = lines.collect();
    format!(
        "{head} @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3u, @builtin(local_invocation_index) at: u32) {{ {body} }}"
    )
}

#[test]
fn integers_are_portable() {
    let portable = [
        "b[id.x] = a[id.x] * 3u + (a[id.x] >> (id.x & 7u));",
        "for (var i = 0u; i < 10u; i++) { b[id.x] += a[i]; }",
        "var i = 0u; loop { if (i > 9u) { break; } b[i] = i; continuing { i++; } }",
        "var i = 0; while (i < 10) { i += 1; if (a[i] == 3u) { continue; } switch a[i] { case 1u: { b[i] = 1u; } default: { break; } } }",
        "w[at] = a[id.x]; workgroupBarrier(); b[id.x] = w[63u - at];",
        "b[id.x] = u32(dot(vec3i(1, 2, 3), vec3i(4, 5, i32(a[id.x])))) + countOneBits(a[id.x]) + extractBits(a[id.x], 3u, 5u);",
        "atomicAdd(&sums[id.x & 3u], 1u);",
        "atomicAdd(&sums[0], 1u); atomicSub(&sums[1], a[id.x]);",
        "b[id.x] = atomicLoad(&sums[0]);",
        "let x = vec4u(a[0], a[1], a[2], a[3]); b[id.x] = x[a[id.x]] + (x << vec4u(a[0]))[a[1] & 3u];",
        "var t = array<vec2u, 4>(); t[a[0]][a[1]] = 4u; b[id.x] = t[a[1]].y + select(1u, 2u, any(t[0] == t[1]));",
        "let p = &b[a[0]]; *p = 4u; b[5] = pack4xU8(vec4u(1u, 2u, 3u, 4u));",
        "b[id.x] = workgroupUniformLoad(&w[3]);",
    ];
    for body in portable {
        assert_eq!(judged(&main(body)), Ok(()), "{body}");
    }
    let calls = "fn twice(p: ptr<function, array<u32, 4>>, i: u32) -> u32 { return (*p)[i] * 2u; }
        fn many(n: u32) -> u32 { var x = n; for (var i = 0u; i < n; i++) { x += i; } return x; }";
    assert_eq!(
        judged(&(calls.to_owned() + &main("var t = array<u32, 4>(); b[id.x] = twice(&t, a[0]) + many(a[1]);"))),
        Ok(())
    );
}

#[test]
fn what_devices_may_do_differently_is_not() {
    let not = [
        ("f[id.x] = 1.0;", "float"),
        ("b[id.x] = u32(f32(a[id.x]) * 0.5);", "float"),
        ("b[id.x] = bitcast<u32>(f32(1));", "float"),
        ("b[id.x] = pack4x8unorm(unpack4x8unorm(a[0]));", "integers alone"),
        ("b[id.x] = atomicAdd(&sums[0], 1u);", "result of an atomic"),
        ("let old = atomicMax(&sums[0], 1u); if (old > 3u) { b[0] = 1u; }", "result of an atomic"),
        ("atomicAdd(&sums[0], 1u); atomicMax(&sums[1], 1u);", "different things"),
        ("atomicAdd(&sums[0], 1u); b[0] = atomicLoad(&sums[0]);", "different things"),
        ("atomicStore(&sums[0], id.x); atomicAdd(&sums[0], 1u);", "different things"),
        ("b[0] = atomicExchange(&sums[0], 1u);", "exchanges"),
        ("b[0] = atomicCompareExchangeWeak(&sums[0], 1u, 2u).old_value;", "exchanges"),
        ("atomicAdd(&v, 1u); workgroupBarrier(); b[id.x] = atomicLoad(&v);", "different things"),
        ("b[id.x] = subgroupAdd(a[id.x]);", "subgroups"),
        ("b[id.x] = subgroupBallot(a[id.x] > 3u).x;", "subgroups"),
        ("subgroupBarrier(); b[0] = 1u;", "subgroups"),
    ];
    for (body, why) in not {
        let judged = judged(&main(body));
        assert!(judged.as_ref().is_err_and(|found| found.contains(why)), "{judged:?}: {body}");
    }
    let in_function = "fn f(p: ptr<storage, atomic<u32>, read_write>) { atomicAdd(p, 1u); }";
    let text = in_function.to_owned() + &main("f(&sums[0]);");
    if let Ok(admitted) = on_a_large_stack(text) {
        assert!(admitted.not_portable.is_some());
    }
    let builtin = "@group(0) @binding(1) var<storage, read_write> b: array<u32>;
        @compute @workgroup_size(64) fn main(@builtin(subgroup_size) size: u32) { b[0] = size; }";
    assert!(judged(builtin).is_err_and(|why| why.contains("subgroups")));
}

fn refusal(text: &str) -> String {
    match on_a_large_stack(text.to_owned()) {
        Ok(_) => panic!("it is admitted: {text}"),
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn hostile_texts_are_refused_in_no_time() {
    let watch = std::time::Duration::from_secs(2);
    let long = |count: usize, one: &str| one.repeat(count);
    let call = |n: u32| format!("fn f{n}(x: u32) -> u32 {{ return f{}(x) + f{}(x + 1u); }}\n", n - 1, n - 1);
    let first = "fn f0(x: u32) -> u32 { return x * 3u; }\n".to_owned();
    let doubling = (1..30).map(call).fold(first, |text, line| text + &line);
    let cases = [
        (main(&format!("b[0] = a[0]{};", long(20_000, " + a[0]"))), "operators"),
        (main(&format!("b[0] = {}a[0]{};", long(5000, "("), long(5000, ")"))), "brackets"),
        (main(&format!("b[0] = {}a[0];", long(5000, "~"))), "operators"),
        (main(&format!("{} {}", long(5000, "if (a[0] > 1u) {"), long(5000, "}"))), "brackets"),
        (main(&format!("if (a[0] > 1u) {{}} {}", long(5000, "else if (a[0] > 2u) {}"))), "else if"),
        (doubling + &main("b[0] = f29(a[0]);"), "calls expanded"),
        (main("w2[at] = 1u; b[0] = w2[at + 1u];") + "var<workgroup> w2: array<u32, 1000000>;", "workgroup memory"),
        (main("p[at] = 1u; b[0] = p[at + 1u];") + "var<private> p: array<u32, 1000000>;", "private"),
        (main("var p: array<u32, 1000000>; p[at] = 1u; b[0] = p[at + 1u];"), "private"),
        ("@compute @workgroup_size(1024) fn main() {}".to_owned(), "invocations"),
        ("@vertex fn main() -> @builtin(position) vec4f { return vec4f(); }".to_owned(), "no compute"),
        ("override n: u32 = 4; @compute @workgroup_size(n) fn main() {}".to_owned(), "override"),
        ("@group(0) @binding(0) var t: texture_2d<f32>; @compute @workgroup_size(1) fn main() { _ = textureLoad(t, vec2u(), 0); }".to_owned(), ""),
        ("@group(3) @binding(0) var<storage, read_write> b: array<u32>; @compute @workgroup_size(1) fn main() { b[0] = 1u; }".to_owned(), "groups"),
        ("fn main() {".to_owned(), ""),
        ("\u{0}".to_owned(), ""),
        (main("b[0] = 1 / 0;"), ""),
        (main("let t = array<u32, 4>(); b[0] = t[9];"), ""),
        ("const big = array<array<array<u32, 1000>, 1000>, 1000>(); ".to_owned() + &main("b[0] = big[a[0]][1][2];"), ""),
    ];
    for (text, why) in cases {
        let start = super::super::device::Stopwatch::start();
        let found = refusal(&text);
        assert!(found.contains(why), "{found}, not `{why}`: {}", clip(&text));
        assert!(start.elapsed() < watch, "{:?}: {}", start.elapsed(), clip(&text));
        assert!(found.len() < 1500, "an error is short: {}", found.len());
    }
}

#[test]
fn every_loop_counts_and_every_index_is_clamped() {
    let text = main(
        "for (var i = 0u; i < a[0]; i++) { var j = 0; loop { j++; if (j > 4) { break; } } b[a[i]] = 1u << a[1]; }",
    );
    let admitted = on_a_large_stack(text).unwrap();
    let function = &admitted.module.entry_points[0].function;
    let count =
        |wanted: fn(&naga::Expression) -> bool| function.expressions.iter().filter(|(_, one)| wanted(one)).count();
    assert_eq!(
        count(|one| matches!(one, naga::Expression::Math { fun: naga::MathFunction::Min, .. })),
        4,
        "a[0], a[i], b[..] and a[1]; the members of id are no indices"
    );
    let mut breaks = 0;
    operands::walk(&function.body, &mut |statement| breaks += usize::from(matches!(statement, naga::Statement::Break)));
    assert!(breaks >= 4, "two of the shader's own, two of the counter: {breaks}");
    assert_eq!(admitted.resources.len(), 2, "the evaluator's own buffer is none of the program's");
}

/// What naga itself says of a shader.
fn naga_takes(text: &str) -> bool {
    let module = naga::front::wgsl::parse_str(text).unwrap_or_else(|error| panic!("{}: {text}", error.message()));
    validate(&module, true).is_ok()
}

#[test]
fn barriers_that_only_some_reach_are_taken_by_naga_and_refused_here() {
    let apart = [
        ("if (at < 32u) { workgroupBarrier(); } b[id.x] = 1u;", BRANCH),
        ("if (at >= 32u) { b[0] = 1u; } else { storageBarrier(); }", BRANCH),
        ("if (b[0] == 1u) { workgroupBarrier(); }", BRANCH),
        ("w[at] = a[id.x]; if (w[0] == 1u) { workgroupBarrier(); }", BRANCH),
        ("switch at { case 0u: { workgroupBarrier(); } default: {} } b[id.x] = 1u;", BRANCH),
        ("if (id.x >= 1000u) { return; } workgroupBarrier(); b[id.x] = 1u;", LEFT),
        ("for (var i = 0u; i < a[0]; i++) { if (at == i) { return; } } workgroupBarrier();", LEFT),
        ("for (var i = 0u; i < at; i++) { workgroupBarrier(); }", ROUND),
        ("for (var i = at; i < 64u; i += 64u) { workgroupBarrier(); }", ROUND),
        ("loop { workgroupBarrier(); if (b[id.x] == 0u) { break; } }", ROUND),
        ("for (var i = 0u; i < 4u; i++) { if (at == i) { continue; } workgroupBarrier(); }", ROUND),
        ("var i = 0u; loop { workgroupBarrier(); continuing { i++; break if i > at; } }", ROUND),
        ("var n = 4u; if (at == 3u) { n = 5u; } for (var i = 0u; i < n; i++) { workgroupBarrier(); }", ROUND),
        // Put in later than it is read.
        ("var n = 0u; for (var i = 0u; i < 9u; i++) { if (n == 1u) { workgroupBarrier(); } n = at; }", BRANCH),
        ("var t = array<u32, 4>(); t[at & 3u] = 1u; if (t[2] == 1u) { workgroupBarrier(); }", BRANCH),
        ("if (at == 0u) { b[0] = workgroupUniformLoad(&w[3]); }", BRANCH),
        ("let p = atomicAdd(&sums[0], 1u); if (p == 0u) { workgroupBarrier(); }", BRANCH),
    ];
    for (body, why) in apart {
        let text = main(body);
        assert!(naga_takes(&text), "{body}");
        let refused = on_a_large_stack(text).map(drop);
        assert!(matches!(&refused, Err(Refusal::Shader(said)) if said.contains(why)), "{body}: {refused:?}");
    }
    let calls = "fn wait(n: u32) -> u32 { if (n == 1u) { workgroupBarrier(); } return n; }
        fn early(n: u32) -> u32 { if (n == 1u) { return 2u; } return 3u; }
        fn put(p: ptr<function, u32>, n: u32) { *p = n; }
        fn through(p: ptr<function, u32>, n: u32) { *p = n; if (*p == 1u) { workgroupBarrier(); } }";
    for (body, refused) in [
        ("b[id.x] = wait(a[0]);", None),
        ("b[id.x] = wait(at);", Some(BRANCH)),
        ("if (at == 0u) { b[id.x] = wait(2u); }", Some(BRANCH)),
        ("if (early(a[1]) == 2u) { workgroupBarrier(); } b[0] = early(at);", None),
        ("if (early(at) == 2u) { workgroupBarrier(); }", Some(BRANCH)),
        ("var x = 1u; put(&x, at); if (x == 1u) { workgroupBarrier(); }", Some(BRANCH)),
        ("var x = 1u; through(&x, at);", Some(BRANCH)),
    ] {
        let found = on_a_large_stack(format!("{calls} {}", main(body))).map(drop);
        match refused {
            None => assert_eq!(found, Ok(()), "{body}"),
            Some(why) => {
                assert!(matches!(&found, Err(Refusal::Shader(said)) if said.contains(why)), "{body}: {found:?}");
            }
        }
    }
}

const BRANCH: &str = "where a value decides";
const LEFT: &str = "after a `return`";
const ROUND: &str = "in a loop that some";

#[test]
fn barriers_that_all_reach_are_admitted() {
    let together = [
        "for (var s = 32u; s > 0u; s >>= 1u) { if (at < s) { w[at] += w[at + s]; } workgroupBarrier(); } b[id.x] = w[0];",
        "for (var i = 0u; i < a[0]; i++) { w[at] = i; workgroupBarrier(); if (w[0] == 7u) { b[id.x] = i; } workgroupBarrier(); }",
        "var i = 0u; loop { if (i >= arrayLength(&a)) { break; } workgroupBarrier(); if (i == 3u) { continue; } continuing { i++; } }",
        "for (var i = 0u; i < at; i++) { b[i] = i; } workgroupBarrier();",
        "loop { if (at > 3u) { break; } b[0] = at; } workgroupBarrier();",
        "for (var i = 0u; i < 4u; i++) { if (at == i) { continue; } b[i] = 1u; } workgroupBarrier();",
        "for (var i = 0u; i < 4u; i++) { for (var j = 0u; j < 4u; j++) { if (at == j) { break; } } workgroupBarrier(); }",
        "switch a[0] { case 1u: { workgroupBarrier(); } default: { if (at == 1u) { break; } b[0] = 1u; } } workgroupBarrier();",
        "let n = workgroupUniformLoad(&w[3]); if (n == 2u) { workgroupBarrier(); }",
        "var t = array<u32, 4>(1u, 2u, 3u, 4u); if (t[a[0] & 3u] == 1u) { storageBarrier(); }",
        "if (a[0] == 1u) { return; } workgroupBarrier(); b[id.x] = 1u;",
        "workgroupBarrier(); if (id.x >= 1000u) { return; } b[id.x] = 1u;",
    ];
    for body in together {
        assert_eq!(on_a_large_stack(main(body)).map(drop), Ok(()), "{body}");
    }
    let members = "struct In { @builtin(workgroup_id) group: vec3u, @builtin(local_invocation_index) at: u32 }
        @compute @workgroup_size(64) fn main(in: In) { if (in.group.x == 1u) { workgroupBarrier(); } }";
    assert_eq!(on_a_large_stack(members.to_owned()).map(drop), Ok(()));
    assert!(on_a_large_stack(members.replace("in.group.x", "in.at")).is_err());
    // Many ways to call, deep loops, and variables that lead to each other: a moment all the same.
    let chain: Vec<_> = (0..400).map(|n| format!("v{n} = v{};", n + 1)).collect();
    let variables: Vec<_> = (0..=400).map(|n| format!("var v{n} = 0u;")).collect();
    let (chain, variables) = (chain.concat(), variables.concat());
    let loops = format!("{}{chain} v400 = at;{}", "loop { if (b[0] == 1u) { break; } ".repeat(20), "}".repeat(20));
    assert!(on_a_large_stack(main(&format!("{variables} {loops} if (v0 == 1u) {{ workgroupBarrier(); }}"))).is_err());
}
