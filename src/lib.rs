//! A peer-to-peer, content-addressed eval fabric.

pub mod cassette;
#[cfg(feature = "cli")]
pub mod cli;
pub mod error;
pub mod eval;
pub mod evaluator;
pub mod fabric;
pub mod id;
pub mod identity;
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
