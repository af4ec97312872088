//! The demo's questions: small real programs on real files, each with its answer computed natively in Rust.

use bytes::Bytes;

use crate::evaluator::reference;
use crate::request::{Program, Request};

const WORDFREQ: &[u8] = include_bytes!("../../../examples/guests/wordfreq.wasm");
const CRC32C: &[u8] = include_bytes!("../../../examples/guests/crc32c.wasm");
const MANDELBROT: &[u8] = include_bytes!("../../../examples/guests/mandelbrot.wasm");
const QUEENS: &[u8] = include_bytes!("../../../examples/guests/queens.wasm");
const APACHE: &[u8] = include_bytes!("../../../LICENSE-APACHE");
const MIT: &[u8] = include_bytes!("../../../LICENSE-MIT");

/// One question with the only right answer.
pub(super) struct Question {
    pub(super) name: String,
    pub(super) request: Request,
    pub(super) right: Bytes,
}

/// The whole batch.
pub(super) fn questions() -> Vec<Question> {
    let question =
        |name: &str, request: Request, right: Vec<u8>| Question { name: name.to_owned(), request, right: right.into() };
    let files = [("licences/apache.txt", APACHE), ("licences/mit.txt", MIT)];
    let with_files = files.into_iter().fold(Request::new(Program::wasm(CRC32C)), |request, (path, bytes)| {
        request.file(path, bytes).expect("a clean path").arg(path)
    });
    let mut all = vec![
        question(
            "word counts of the Apache licence",
            Request::new(Program::wasm(WORDFREQ)).arg("10").stdin(APACHE),
            reference::wordfreq(APACHE, 10),
        ),
        question(
            "word counts of the MIT licence",
            Request::new(Program::wasm(WORDFREQ)).arg("10").stdin(MIT),
            reference::wordfreq(MIT, 10),
        ),
        question("checksums of both licence files", with_files, reference::crc32c(&files)),
    ];
    for (width, height, depth) in [(320, 240, 300), (640, 480, 200)] {
        let request = Request::new(Program::wasm(MANDELBROT)).arg(width.to_string());
        let request = request.arg(height.to_string()).arg(depth.to_string());
        all.push(question(
            &format!("Mandelbrot picture {width}x{height}"),
            request,
            reference::mandelbrot(width, height, depth),
        ));
    }
    for n in [8, 10, 11] {
        let request = Request::new(Program::wasm(QUEENS).entry("queens")).arg(n.to_string());
        all.push(question(&format!("{n} queens"), request, reference::queens(n)));
    }
    all
}
