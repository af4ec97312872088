//! Every bound of the network layer, with its reason. Nothing here is a preference of the person who runs the node.

use std::time::Duration;

/// The largest frame either side may send: a 1 MiB blob range with its proof fits many times over, and one frame cannot hold a lane for
/// longer than some tens of milliseconds on a gigabit link.
pub const MAX_FRAME: usize = 8 << 20;

/// Frames that may wait for one peer; past it the sender is told `QueueFull`.
pub const MAX_QUEUED_FRAMES: usize = 4096;

/// Bytes that may wait for one peer: two of the largest frames.
pub const MAX_QUEUED_BYTES: usize = 2 * MAX_FRAME;

/// A lane writes at most so much at once, which is then copied, encrypted and copied again as one piece (the multiplexer itself would cut at
/// 16 KiB). From 8 KiB on, glibc before 2.39 copies on AMD's Zen 3 and 4 with an instruction that takes four times as long: with pieces of
/// 16 KiB, a fifth of what a lane cost.
pub(super) const CUT: usize = 7 << 10;

/// Bytes below the encryption that may wait for the system to take them: a few cuts, so that a burst of answers is one system call.
pub(super) const GATHERED: usize = 128 << 10;

/// How much is read at once where there is more than the layer above asks for.
pub(super) const READ_AT_ONCE: usize = 64 << 10;

/// How much a lane gathers into one write: a few cuts, which leave together.
pub(super) const WRITE_BUFFER: usize = 64 << 10;

/// What an idle lane may keep of its write buffer; a burst must not cost memory for ever.
pub(super) const IDLE_WRITE_BUFFER: usize = 4 << 10;

/// How much a lane reads at once: two cuts.
pub(super) const READ_BUFFER: usize = 2 * CUT;

/// Rounds of reading or writing before a lane lets other connections run.
pub(super) const ROUNDS_PER_POLL: usize = 32;

/// The same for a lane that carries what is large: a few cuts, so that a small frame waits for tens of microseconds.
pub(super) const BULK_ROUNDS_PER_POLL: usize = 4;

/// What a connection reads from its socket before others have their turn: it takes some 60 us to decrypt, and is the longest noise message.
pub(super) const READ_PER_TURN: usize = 64 << 10;

/// Large bytes sent to a peer, or asked of it, from which on a second connection is opened for them: a handshake costs as much CPU as
/// moving some hundreds of KiB.
pub(super) const BULK_FROM: usize = 1 << 20;

/// Second connections, in both directions together: as many transfers as one node has a use for at a time. Beyond it the first one does.
pub const MAX_BULK: usize = 64;

/// Established connections in all: a full mesh of 250 nodes, twice, and the second connections.
pub const MAX_CONNECTIONS: u32 = 512 + 64;
const _: () = assert!(MAX_CONNECTIONS as usize == 512 + MAX_BULK);

/// Established connections with one peer. One is the steady state, two while there is something large to carry; two dials that cross and
/// predecessors that are still closing add to it.
pub const MAX_CONNECTIONS_PER_PEER: u32 = 6;

/// Inbound handshakes under way, each of which costs a curve operation.
pub const MAX_INBOUND_HANDSHAKES: u32 = 64;

/// Dials under way.
pub const MAX_DIALS: usize = 16;

/// Addresses remembered from discovery.
pub const MAX_LEARNED: usize = 1024;

/// Attempts at an address that came from discovery before it is forgotten. Configured addresses are tried for ever.
pub const MAX_LEARNED_ATTEMPTS: u32 = 8;

/// `Refused` notices that wait for a consumer that is behind; further ones are dropped.
pub(super) const MAX_WAITING_NOTICES: usize = 256;

/// Streams of one connection. One lane is used; the rest is room for a peer that retries.
pub(super) const MAX_STREAMS: usize = 8;

/// How long a dial by QUIC waits for the other side, which may not speak it: nobody there says no. Then TCP has its turn.
#[cfg(feature = "quic")]
pub(super) const QUIC_HANDSHAKE: Duration = Duration::from_secs(2);

/// Every wait, so that tests can shorten them together.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timings {
    /// From connect to an authenticated connection, in either direction.
    pub(super) handshake: Duration,
    /// From an authenticated connection to an open lane.
    pub(super) open_lane: Duration,
    /// A lane that brings no byte for this long is `Silent`. The layer above sends something every second.
    pub(super) silent: Duration,
    /// A lane that has bytes to write and gets rid of none for this long is `Stalled`.
    pub(super) stalled: Duration,
    /// An orderly close that the peer does not follow becomes a hard one.
    pub(super) close: Duration,
    /// The first wait before dialing again; it doubles from there.
    pub(super) redial_first: Duration,
    /// The longest wait before dialing again.
    pub(super) redial_most: Duration,
    /// A lane that lived this long was a success: the next wait is the first one again.
    pub(super) stable: Duration,
    /// How long the node with the higher id leaves the dialing to the lower one.
    pub(super) other_side: Duration,
    /// A second connection that carries nothing for this long is closed by the node that dialed it.
    pub(super) bulk_idle: Duration,
    /// How long a second connection that did not come about is not tried again.
    pub(super) bulk_retry: Duration,
}

impl Timings {
    /// The waits of a real node.
    pub(super) const DEFAULT: Self = Self {
        handshake: Duration::from_secs(10),
        open_lane: Duration::from_secs(5),
        silent: Duration::from_secs(10),
        stalled: Duration::from_secs(10),
        close: Duration::from_secs(1),
        redial_first: Duration::from_millis(200),
        redial_most: Duration::from_secs(10),
        stable: Duration::from_secs(10),
        other_side: Duration::from_secs(5),
        bulk_idle: Duration::from_secs(5),
        bulk_retry: Duration::from_secs(5),
    };

    /// How often a lane looks at its two watchdogs: a tenth of the shorter one.
    pub(super) fn tick(&self) -> Duration {
        self.silent.min(self.stalled) / 10
    }
}

/// How long `Net::shutdown` waits for its thread: longer than an orderly close, shorter than a person's patience.
pub const SHUTDOWN_WAIT: Duration = Duration::from_millis(1900);

/// How long starting waits for the operating system to report the addresses of a listener.
pub(super) const LISTEN_WAIT: Duration = Duration::from_secs(5);

/// At most one warning about refused inbound connections in this time; the others are counted.
pub(super) const COMPLAINT_EVERY: Duration = Duration::from_secs(10);
