//! A tool of an agent process, remembered: the second call with the same input is answered from memory, in this run and in the next.
//!
//! ```sh
//! cargo run --example agent_tool            # a throw-away ledger
//! cargo run --example agent_tool -- DIR     # run it twice: the second run computes nothing
//! ```
//!
//! A tool's result is an observation: nobody can compute it again, so it is on disk before the agent sees it.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use evalmesh::error::EvalError;
use evalmesh::eval::Eval;
use evalmesh::evaluator::Job;
use evalmesh::evaluator::host::HostEvaluator;
use evalmesh::evaluator::pool::Pool;
use evalmesh::node::Node;
use evalmesh::reply::Reply;
use evalmesh::request::{Class, Program, Request};

type Failure = Box<dyn std::error::Error>;

/// The tool: counts the lines and words of its input. Imagine a web search or a test run here.
fn count(job: &Job) -> Result<Reply, EvalError> {
    let bytes = job.stdin().cloned().unwrap_or_default();
    let text =
        std::str::from_utf8(&bytes).map_err(|error| EvalError::Failed(format!("the input is no text: {error}")))?;
    Ok(Reply::ok(format!("{} lines, {} words", text.lines().count(), text.split_whitespace().count())))
}

fn main() -> Result<(), Failure> {
    let temporary = tempfile::tempdir()?;
    let directory = std::env::args_os().nth(1).map_or_else(|| temporary.path().to_owned(), PathBuf::from);

    let calls = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&calls);
    let tools =
        HostEvaluator::new(Pool::start("tools", 2)?).function("count".parse()?, 1, Class::Observed, move |job| {
            counted.fetch_add(1, Ordering::Relaxed);
            count(job)
        });
    let node = Node::builder().data_dir(directory).evaluator(tools).start()?;

    let question = Request::new(Program::host("count", 1)?).class(Class::Observed).stdin(include_str!("agent_tool.rs"));
    let runtime = tokio::runtime::Builder::new_current_thread().build()?;
    for _ in 0..3 {
        let answer = runtime.block_on(node.eval(question.clone()))?;
        let said = answer.reply.stdout.as_ref().and_then(|payload| payload.bytes()).cloned().unwrap_or_default();
        println!("{:<9} {}  {}", answer.origin.to_string(), answer.id.short(), String::from_utf8_lossy(&said));
    }
    println!("the tool ran {} time(s)", calls.load(Ordering::Relaxed));
    assert!(calls.load(Ordering::Relaxed) <= 1, "what was answered once is never computed again");
    node.shutdown();
    Ok(())
}
