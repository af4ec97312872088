//! The shipped guests against their Rust references, on real text.

use super::{SHARED, evaluator, run, run_on, stderr, stdout};
use crate::evaluator::{Evaluator, reference};
use crate::reply::{Reply, Status};
use crate::request::{Program, Request};

const WORDFREQ: &[u8] = include_bytes!("../../../../examples/guests/wordfreq.wasm");
const CRC32C: &[u8] = include_bytes!("../../../../examples/guests/crc32c.wasm");
const MANDELBROT: &[u8] = include_bytes!("../../../../examples/guests/mandelbrot.wasm");
const COMPRESS: &[u8] = include_bytes!("../../../../examples/guests/compress.wasm");
const QUEENS: &[u8] = include_bytes!("../../../../examples/guests/queens.wasm");
const ROT13: &[u8] = include_bytes!("../../../../examples/guests/rot13.wasm");
pub(super) const WORLD: &[u8] = include_bytes!("../../../../examples/guests/world.wasm");

/// Real text of some size: sources of this crate.
const TEXT: &str = concat!(
    include_str!("../../../request.rs"),
    include_str!("../../../error.rs"),
    include_str!("../wasi/fs.rs"),
    include_str!("../wasi/fds.rs")
);

pub(super) fn guest(module: &'static [u8], args: &[&str]) -> Request {
    args.iter().fold(Request::new(Program::wasm(module)), |request, arg| request.arg(*arg))
}

fn output(reply: &Reply) -> &[u8] {
    assert_eq!(reply.status, Status::Exit(0), "{}", stderr(reply));
    reply.stdout.as_ref().unwrap().bytes().unwrap()
}

#[test]
fn wordfreq_agrees_with_its_reference() {
    for (text, wanted) in [(TEXT, 25), (TEXT, 100_000), ("", 3), ("Ab aB, ba;ab b'a", 9)] {
        let reply = run(guest(WORDFREQ, &[&wanted.to_string()]).stdin(text)).unwrap();
        assert_eq!(output(&reply), reference::wordfreq(text.as_bytes(), wanted));
    }
    assert_eq!(reference::wordfreq(b"Ab aB, ba;ab b'a", 2), b"3 ab\n1 a\n");
}

#[test]
fn crc32c_agrees_with_its_reference() {
    let files: [(&str, &[u8]); 4] =
        [("src/request.rs", TEXT.as_bytes()), ("empty", b""), ("a b/c", b"123456789"), ("guest.wasm", CRC32C)];
    let paths: Vec<&str> = files.iter().map(|(path, _)| *path).collect();
    let mut request = guest(CRC32C, &paths);
    for (path, bytes) in files {
        request = request.file(path, bytes).unwrap();
    }
    let reply = run(request).unwrap();
    assert_eq!(output(&reply), reference::crc32c(&files));
    assert!(stdout(&reply).contains("e3069283  9  a b/c\n"), "the check value of CRC-32C");
    assert!(reply.files.is_empty(), "inputs that were only read are no outputs");
    let missing = run(guest(CRC32C, &["none"])).unwrap();
    assert_eq!((missing.status, stdout(&missing)), (Status::Exit(1), "-  -  none\n".to_owned()));
}

#[test]
fn mandelbrot_agrees_with_its_reference() {
    let reply = run(guest(MANDELBROT, &["60", "45", "80"])).unwrap();
    assert_eq!(output(&reply), reference::mandelbrot(60, 45, 80));
    let usage = run(guest(MANDELBROT, &["60"])).unwrap();
    assert_eq!(usage.status, Status::Exit(64));
    assert!(stderr(&usage).starts_with("usage: "));
}

#[test]
fn queens_agrees_with_its_reference() {
    for n in [1, 2, 6, 8] {
        let request = Request::new(Program::wasm(QUEENS).entry("queens")).arg(n.to_string());
        assert_eq!(output(&run(request).unwrap()), reference::queens(n));
    }
    assert_eq!(reference::queens(8), b"92\n");
}

#[test]
fn rot13_is_a_filter_and_its_own_inverse() {
    let once = run(guest(ROT13, &[]).stdin("Hello, Wasm! 123")).unwrap();
    assert_eq!(output(&once), b"Uryyb, Jnfz! 123");
    let twice = run(guest(ROT13, &[]).stdin(output(&once).to_vec())).unwrap();
    assert_eq!(output(&twice), b"Hello, Wasm! 123");
    let large = TEXT.repeat(4);
    let reply = run(guest(ROT13, &[]).stdin(large.clone())).unwrap();
    assert_eq!(output(&reply).len(), large.len(), "an input of several pages makes it grow its memory");
    assert_eq!(output(&run(guest(ROT13, &[])).unwrap()), b"", "no input is an empty input");
}

#[test]
fn compress_round_trips_through_output_files() {
    let packed = run(guest(COMPRESS, &["pack", "packed.lz"]).stdin(TEXT)).unwrap();
    output(&packed);
    let [file] = &packed.files[..] else { panic!("one file, not {:?}", packed.files) };
    assert_eq!((file.path.as_str(), file.executable), ("packed.lz", false));
    let bytes = file.data.bytes().unwrap();
    assert!(bytes.len() * 2 < TEXT.len(), "{} of {}", bytes.len(), TEXT.len());
    let request =
        guest(COMPRESS, &["unpack", "in/packed.lz", "plain.txt"]).file("in/packed.lz", bytes.clone()).unwrap();
    let plain = run(request).unwrap();
    output(&plain);
    assert_eq!(plain.files.len(), 1, "the input is not listed again");
    assert_eq!(plain.files[0].data.bytes().unwrap(), TEXT.as_bytes());
    let damaged = run(guest(COMPRESS, &["unpack", "x", "y"]).file("x", b"\xff\xff".as_slice()).unwrap()).unwrap();
    assert_eq!(damaged.status, Status::Exit(65));
}

#[test]
fn the_same_request_gives_the_same_answer_everywhere() {
    let other = evaluator();
    let requests = [
        guest(WORLD, &["x"]).stdin(TEXT),
        guest(WORDFREQ, &["10"]).stdin(TEXT),
        guest(COMPRESS, &["pack", "out"]).stdin(TEXT),
        Request::new(Program::wasm(QUEENS).entry("queens")).arg("7"),
        guest(ROT13, &[]).stdin(TEXT),
    ];
    for request in requests {
        let first = run(request.clone()).unwrap();
        assert!(first.facts.fuel.unwrap() > 0);
        for again in [run(request.clone()).unwrap(), run_on(&other, request).unwrap()] {
            assert_eq!(again.answer(), first.answer());
            assert_eq!(again.facts.fuel, first.facts.fuel);
            assert_eq!(again.stderr, first.stderr);
        }
    }
    assert_eq!(SHARED.version(), other.version());
}

/// Prints what the shipped guests cost: `cargo test -- --ignored --nocapture guest_times`.
#[test]
#[ignore = "measures, asserts nothing"]
fn guest_times() {
    let evaluator =
        super::WasmEvaluator::new(crate::evaluator::pool::Pool::start("t", 1).unwrap(), super::WasmLimits::default());
    let evaluator = evaluator.unwrap();
    let rows = [
        ("mandelbrot 640x480x500", guest(MANDELBROT, &["640", "480", "500"])),
        ("wordfreq 4 MiB", guest(WORDFREQ, &["10"]).stdin(TEXT.repeat(4 * 1024 * 1024 / TEXT.len()))),
        ("crc32c 16 MiB", guest(CRC32C, &["a"]).file("a", vec![7; 16 << 20]).unwrap()),
        ("compress 4 MiB", guest(COMPRESS, &["pack", "a"]).stdin(TEXT.repeat(4 * 1024 * 1024 / TEXT.len()))),
        ("queens 12", Request::new(Program::wasm(QUEENS).entry("queens")).arg("12")),
        ("queens 1", Request::new(Program::wasm(QUEENS).entry("queens")).arg("1")),
        ("rot13 16 B", guest(ROT13, &[]).stdin("Hello, Wasm! 123")),
        ("wordfreq 16 B", guest(WORDFREQ, &["3"]).stdin("Hello, Wasm! 123")),
    ];
    for (name, request) in rows {
        let timed = || {
            let watch = super::super::engine::Stopwatch::start();
            let reply = run_on(&evaluator, request.clone()).unwrap();
            (watch.elapsed(), reply)
        };
        let (cold, reply) = timed();
        let mut warm: Vec<_> = (0..if cold.as_millis() > 150 { 3 } else { 200 }).map(|_| timed().0).collect();
        warm.sort();
        let (run, fuel) = (reply.facts.duration, reply.facts.fuel.unwrap());
        println!("{name}: cold {cold:?}, warm {:?}, first run alone {run:?}, fuel {fuel}", warm[warm.len() / 2]);
    }
}
