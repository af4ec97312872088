//! Bounds of the ledger, each with its reason.

use std::time::Duration;

/// A segment takes no further entry once it is this long: small enough to copy, verify or drop as one piece.
pub const SEGMENT_BYTES: u64 = 64 * 1024 * 1024;
/// Payloads up to this size live inside the frame of their entry (one read serves the reply); larger ones get a file of their own.
pub const INLINE_PAYLOAD: usize = 16 * 1024;
/// Inline payloads of one frame together; beyond it they get files even if they are small, so that a frame stays readable in one piece.
pub const INLINE_TOTAL: usize = 1024 * 1024;
/// Bytes of one entry's body: a record, its proof and head.
pub const MAX_BODY: usize = crate::limits::MAX_RECORD + 16 * 1024;
/// Payloads of one entry: every output file, standard output and log.
pub const MAX_PAYLOADS: usize = crate::limits::MAX_OUTPUT_FILES + 2;
/// Bytes that wait in memory before an append writes them out by itself.
pub const BUFFER_BYTES: usize = 8 * 1024 * 1024;
/// Damages that one recovery describes one by one; further ones are only counted.
pub const MAX_DAMAGES: usize = 1024;
/// A run of entries is sealed, and its index written, once its frames are this long: so much is read again after a crash.
pub const RUN_BYTES: u64 = 8 * 1024 * 1024;
/// A run is sealed once it has this many entries: their places in it take 16 bits.
pub const RUN_ENTRIES: usize = 60_000;
/// Pages of 256 leaves whose hashes are kept in memory for proofs: 16 KiB each.
pub const PAGES_KEPT: usize = 256;
/// Room ahead is made in steps of at most this size, so that a step never holds up a sync for long.
pub const ROOM_STEP: usize = 1024 * 1024;
/// The smallest step: two hundred records of a kilobyte.
pub const LEAST_ROOM: u64 = 256 * 1024;
/// A sync that writes no more than this takes most of its time for metadata; one that writes more takes it for the bytes, and room would only
/// double them unless the disk is fast.
pub const LITTLE: u64 = 32 * 1024;
/// A disk is fast that makes a step durable within this: 700 MB/s. Room saves a sync about a quarter of a millisecond of metadata, so zeros for 150 KiB
/// have to take less than that.
pub const FAST_STEP: Duration = Duration::from_micros(1500);
/// Steps after which it is clear whether the disk is fast, and not only its cache.
pub const TRIED_STEPS: u32 = 8;
/// A step has room for so many writes like the last one.
pub const ROOM_AHEAD: u64 = 64;
/// The next segment is made ahead once this part of the newest one, a so-manieth, is used.
pub const SPARE_AFTER: u64 = 4;
/// Syncs of one segment after which room ahead is worth its bytes; bulk loads never get there.
pub const ROOM_AFTER_SYNCS: u32 = 8;
/// So many bytes that no sync has asked for are given to the disk at once: many enough for its bandwidth, few enough that a sync finds little left.
pub const HASTEN_STEP: u64 = 512 * 1024;
/// What a file system writes as a piece.
pub const PAGE: u64 = 4096;
/// Payloads that one `Evicted` entry names at most: its body stays well below [`MAX_BODY`].
pub const EVICTED_AT_ONCE: usize = 16 * 1024;
/// Payloads from this size on have an outboard, so that a range of them is verified without the rest; hashing a smaller one takes microseconds.
pub const OUTBOARD_FROM: u64 = 64 * 1024;
/// What streams in or out is held in memory one piece of this size at a time.
pub const STREAM_PIECE: usize = 1024 * 1024;
/// A run whose frames are at most this long may be sealed again together with what follows it.
pub const SMALL_RUN: u32 = 256 * 1024;
