//! Virtual time and seeded randomness: nothing here comes from the machine.
//!
//! Every evaluation begins at the same instant, each look at a clock moves it on by one fixed step, and waiting moves it at once. Random bytes
//! are BLAKE3's output stream keyed by the request's id, so a question has one sequence and different questions have unrelated ones.

use super::super::limits::{RANDOM_BYTES, SUBSCRIPTIONS};
use super::Wasi;
use super::abi::{Errno, Memory, Outcome};
use super::fds::Kind;
use crate::id::ContentId;

/// 2026-01-01T00:00:00Z in nanoseconds: when every evaluation begins.
pub(super) const START: u64 = 1_767_225_600_000_000_000;
/// What one look at a clock costs, and the resolution of all clocks: a microsecond.
const STEP: u64 = 1_000;
/// The derive-key context of guests' randomness.
const RANDOM_CONTEXT: &str = "evalmesh 2026-11-21 wasi randomness v1";

const REALTIME: u32 = 0;
const LAST_CLOCK: u32 = 3;

/// The random stream of a question.
fn random(id: &ContentId) -> blake3::OutputReader {
    blake3::Hasher::new_derive_key(RANDOM_CONTEXT).update(id.as_bytes()).finalize_xof()
}

/// One thing that a poll waits for.
struct Subscription {
    user: u64,
    kind: u8,
    wait: Wait,
}

enum Wait {
    /// Until this much virtual time went by since the start.
    Until(u64),
    /// A descriptor, of which this many bytes are ready.
    Ready(u64),
    /// It cannot be waited for.
    Never(Errno),
}

impl Wasi {
    /// One look at the clock, for components: nanoseconds since 1970.
    #[cfg(feature = "component")]
    pub(in super::super) fn look(&mut self) -> u64 {
        self.now = self.now.saturating_add(STEP);
        START.saturating_add(self.now)
    }

    /// Random bytes, for components.
    #[cfg(feature = "component")]
    pub(in super::super) fn fill(&mut self, bytes: &mut [u8]) {
        self.randomness().fill(bytes);
    }

    #[expect(clippy::unused_self, reason = "one signature for all host functions")]
    pub(super) fn clock_res_get(&mut self, memory: &mut Memory<'_>, clock: u32, result: u32) -> Outcome {
        if clock > LAST_CLOCK {
            return Err(Errno::Inval.into());
        }
        memory.put_u64(result, STEP)
    }

    pub(super) fn clock_time_get(
        &mut self,
        memory: &mut Memory<'_>,
        clock: u32,
        _precision: u64,
        result: u32,
    ) -> Outcome {
        if clock > LAST_CLOCK {
            return Err(Errno::Inval.into());
        }
        self.now = self.now.saturating_add(STEP);
        let time = if clock == REALTIME { START.saturating_add(self.now) } else { self.now };
        memory.put_u64(result, time)
    }

    pub(super) fn random_get(&mut self, memory: &mut Memory<'_>, buffer: u32, len: u32) -> Outcome {
        if len > RANDOM_BYTES {
            return Err(Errno::Inval.into());
        }
        let buffer = memory.bytes_mut(buffer, len)?;
        self.randomness().fill(buffer);
        Ok(())
    }

    fn randomness(&mut self) -> &mut blake3::OutputReader {
        self.random.get_or_insert_with(|| random(&self.id))
    }

    #[expect(clippy::unnecessary_wraps, reason = "one signature for all host functions")]
    pub(super) fn sched_yield(&mut self, _: &mut Memory<'_>) -> Outcome {
        self.now = self.now.saturating_add(STEP);
        Ok(())
    }

    /// Descriptors are always ready; with clocks alone, time moves to the earliest of them.
    pub(super) fn poll_oneoff(
        &mut self,
        memory: &mut Memory<'_>,
        subscriptions: u32,
        events: u32,
        count: u32,
        result: u32,
    ) -> Outcome {
        if count == 0 || count > SUBSCRIPTIONS {
            return Err(Errno::Inval.into());
        }
        // The guest's tables are checked whole, before time moves.
        memory.bytes(subscriptions, count * 48)?;
        memory.bytes(events, count * 32)?;
        let wanted = (0..count).map(|i| self.subscription(memory, subscriptions + i * 48));
        let wanted: Vec<Subscription> = wanted.collect::<Result<_, _>>()?;
        if wanted.iter().all(|one| matches!(one.wait, Wait::Until(_))) {
            let until = wanted.iter().map(|one| if let Wait::Until(at) = one.wait { at } else { 0 });
            self.now = self.now.max(until.min().unwrap_or(0));
        }
        let mut happened = 0;
        for one in wanted {
            let (errno, ready) = match one.wait {
                Wait::Until(at) if at > self.now => continue,
                Wait::Until(_) => (0, 0),
                Wait::Ready(bytes) => (0, bytes),
                Wait::Never(errno) => (errno as u16, 0),
            };
            let mut event = [0; 32];
            event[0..8].copy_from_slice(&one.user.to_le_bytes());
            event[8..10].copy_from_slice(&errno.to_le_bytes());
            event[10] = one.kind;
            event[16..24].copy_from_slice(&ready.to_le_bytes());
            memory.put(events + happened * 32, &event)?;
            happened += 1;
        }
        memory.put_u32(result, happened)
    }

    fn subscription(&mut self, memory: &Memory<'_>, at: u32) -> Result<Subscription, super::abi::Fault> {
        let kind = memory.u8(at + 8)?;
        let wait = match kind {
            0 => {
                let (clock, timeout) = (memory.u32(at + 16)?, memory.u64(at + 24)?);
                let absolute = memory.u16(at + 40)? & 1 != 0;
                match (clock, absolute) {
                    (clock, _) if clock > LAST_CLOCK => Wait::Never(Errno::Inval),
                    (REALTIME, true) => Wait::Until(timeout.saturating_sub(START)),
                    (_, true) => Wait::Until(timeout),
                    (_, false) => Wait::Until(self.now.saturating_add(timeout)),
                }
            }
            1 | 2 => match self.fd(memory.u32(at + 16)?) {
                Err(errno) => Wait::Never(errno),
                Ok(fd) => match fd.kind {
                    Kind::Stdin => Wait::Ready((self.stdin.len() - self.stdin_at) as u64),
                    Kind::File { id, at } => Wait::Ready(self.files.len(id).saturating_sub(at)),
                    _ => Wait::Ready(0),
                },
            },
            _ => return Err(Errno::Inval.into()),
        };
        Ok(Subscription { user: memory.u64(at)?, kind, wait })
    }
}
