//! What a whole hit cannot do without, and nothing else: a lane that carries as many bytes each way, and the hashes that the asker needs before it
//! may believe an answer whose signed head and whose neighbours' proofs it has checked before. No index, no fabric, no cassette, no ledger, no caller
//! on another thread. Whoever wants to know what is left to be gained in `whole hit` finds it between the two rows.

use std::hint::black_box;

use bytes::Bytes;

use super::lane::{Exchange, Lane, serve_with};
use super::{Failure, SIZE};

/// Bytes of `Ask` and `Held` in the hits that are measured; with what encryption and TCP add they are the 1.15 KB a hit that cross the loopback interface.
const ASK: usize = 40;
const HELD: usize = 1080;
/// What is hashed of one answer: the question's canonical form, the record, one step up the tree, the payload, and status and outputs.
const HASHED: [usize; 5] = [110, 200, 64, SIZE, 70];

pub(super) async fn serve() -> Result<(), Failure> {
    serve_with(|_| Bytes::from(vec![7; HELD])).await
}

pub(super) async fn client() -> Result<Lane, Failure> {
    Lane::to("floor-server", Exchange { request: ASK, answer: HELD, each: believe }).await
}

fn believe(answer: &[u8]) {
    for len in HASHED {
        black_box(blake3::hash(&answer[..len]));
    }
}
