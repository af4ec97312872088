//! Tests of the wasm evaluator: every kind of guest, every limit, every refusal, and guests that mean harm.

mod artifacts;
mod bombs;
#[cfg(feature = "component")]
mod components;
mod guests;
mod hostile;
mod interleavings;
mod limits;
mod plain;
mod pooling;
mod refusals;
mod wasi;

use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, sync_channel};

use super::{WasmEvaluator, WasmLimits};
use crate::error::EvalError;
use crate::evaluator::pool::Pool;
use crate::evaluator::{Cancel, Evaluator, Job};
use crate::reply::Reply;
use crate::request::{Program, Request};

/// A fresh evaluator under small limits, so that reaching them takes no time.
fn evaluator() -> WasmEvaluator {
    WasmEvaluator::new(Pool::start("test", 2).unwrap(), limits()).unwrap()
}

fn limits() -> WasmLimits {
    WasmLimits {
        fuel: 2_000_000_000,
        memory: 16 << 20,
        table_elements: 1_000,
        output: 1 << 20,
        time: std::time::Duration::from_secs(20),
        cpu: None,
        compiled_bytes: 64 << 20,
        instances: 8,
    }
}

/// The one that most tests share: its cache saves them compiling.
static SHARED: LazyLock<WasmEvaluator> = LazyLock::new(evaluator);

fn start(evaluator: &WasmEvaluator, request: Request) -> (Cancel, Receiver<Result<Reply, EvalError>>) {
    let (done, outcome) = sync_channel(1);
    let job = match Job::inline(request) {
        Ok(job) => job,
        Err(error) => {
            done.send(Err(error)).unwrap();
            return (Cancel::default(), outcome);
        }
    };
    let cancel = job.cancel.clone();
    evaluator.start(job, Box::new(move |result| done.send(result).unwrap()));
    (cancel, outcome)
}

fn run_on(evaluator: &WasmEvaluator, request: Request) -> Result<Reply, EvalError> {
    start(evaluator, request).1.recv().unwrap()
}

fn run(request: Request) -> Result<Reply, EvalError> {
    run_on(&SHARED, request)
}

/// A request to a program in text form.
fn wat(text: &str) -> Request {
    Request::new(Program::wasm(wat::parse_str(text).unwrap()))
}

/// The same at another entry.
fn call(text: &str, entry: &str) -> Request {
    Request::new(Program::wasm(wat::parse_str(text).unwrap()).entry(entry))
}

/// A command in text form whose `_start` is `body`; some host functions are at hand as `$name`.
fn command(body: &str) -> Request {
    wat(&format!(
        r#"(module
            (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "random_get" (func $random_get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "poll_oneoff" (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "args_get" (func $args_get (param i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_readdir" (func $fd_readdir (param i32 i32 i32 i64 i32) (result i32)))
            (import "wasi_snapshot_preview1" "path_open"
              (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
            (import "wasi_snapshot_preview1" "fd_filestat_set_size" (func $set_size (param i32 i64) (result i32)))
            (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
            (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
            (memory (export "memory") 1)
            (table 4 funcref)
            (data (i32.const 1024) "some text that is written again and again")
            (func (export "_start") {body}))"#
    ))
}

fn stdout(reply: &Reply) -> String {
    String::from_utf8(reply.stdout.as_ref().unwrap().bytes().unwrap().to_vec()).unwrap()
}

fn stderr(reply: &Reply) -> String {
    reply.stderr.as_ref().map_or_else(String::new, |log| String::from_utf8_lossy(log.bytes().unwrap()).into_owned())
}
