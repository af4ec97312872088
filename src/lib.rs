//! A peer-to-peer, content-addressed **eval fabric**: a fleet of nodes that behaves like one memo table that can also compute.
//!
//! Ask any node a question (a wasm program or a function of the host process, with its inputs). It answers from its own memory, else from
//! a node that already holds the answer, else it computes the answer, records it, announces it, and becomes a holder too.
//!
//! ```
//! # #[cfg(all(feature = "node", feature = "wasm"))] {
//! use evalmesh::eval::{Eval, Origin};
//! use evalmesh::node::Node;
//! use evalmesh::request::{Program, Request};
//!
//! let node = Node::builder().start().expect("a node in memory");
//! let rot13 = include_bytes!(concat!(env!("CARGO_MANIFEST_DIR"), "/examples/guests/rot13.wasm"));
//! let question = Request::new(Program::wasm(&rot13[..])).stdin("Uryyb!");
//! let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
//! let answer = runtime.block_on(node.eval(question)).expect("an answer");
//! assert_eq!(answer.origin, Origin::Computed);
//! assert_eq!(answer.reply.stdout.unwrap().bytes().unwrap(), "Hello!");
//! # }
//! ```
//!
//! # The nouns
//!
//! - [`Request`](request::Request): a question. Its canonical bytes hash to the [`ContentId`](id::ContentId); who asks, by when, and whether
//!   inputs are given by value or by digest is no part of it.
//! - [`Reply`](reply::Reply): an answer. What is reproducible in it hashes to the answer digest; duration, fuel and producer are facts beside it.
//! - [`Record`](record::Record): "this producer saw this request give this reply", covered by the producer's signature.
//! - [`Eval`](eval::Eval): the public door. A node, a client of a running node, each evaluator, and memory around any of them have it.
//! - [`Evaluator`](evaluator::Evaluator): what computes when nobody holds the answer.
//! - [`Ledger`](ledger::Ledger): the append-only file of records; recovery is its replay. [`Cassette`](cassette::Cassette): the look-up over it.
//! - [`Fabric`](fabric::Fabric): who holds what and whom to ask, as a state machine without I/O, clock or randomness.
//!
//! # The walk of one question
//!
//! `node` canonicalises the request and checks capabilities; `cassette` looks it up; on a miss `fabric` joins the evaluation in flight, asks
//! the best holder, or has it computed by an `evaluator`; the recorder appends the record to the `ledger`; once it is durable it is
//! announced to all peers over `net`. `sim` drives the same core under a virtual clock, network and disk.
//!
//! # Features
//!
//! `default` is everything for the main job (`cli`, `net`, `wasm`, `sim`). Without features the crate is the values and the core alone: no
//! tokio, libp2p, wasmtime or wgpu. `node` adds a running node, `net` its lanes to peers, `wasm` the wasm evaluator (`component` and
//! `artifacts-http` widen it), `sim` the simulator.

pub mod bao;
pub mod cassette;
#[cfg(feature = "cli")]
pub mod cli;
pub mod error;
pub mod eval;
pub mod evaluator;
pub mod fabric;
pub mod id;
pub mod identity;
#[cfg(test)]
mod interleavings;
pub mod ledger;
pub mod limits;
pub mod message;
#[cfg(feature = "net")]
pub mod net;
#[cfg(feature = "node")]
pub mod node;
pub mod proof;
pub mod record;
pub mod reply;
pub mod request;
#[cfg(feature = "sim")]
pub mod sim;
pub mod verified;
pub mod wire;

#[cfg(all(doctest, feature = "cli"))]
#[doc = include_str!("../README.md")]
struct ReadmeIsRun;
