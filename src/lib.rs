//! A peer-to-peer, content-addressed eval fabric.

pub mod id;
pub mod identity;
#[cfg(feature = "net")]
pub mod net;
