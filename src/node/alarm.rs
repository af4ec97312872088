//! The loop's alarm.
//!
//! The runtime's own timers count milliseconds and round up twice: one that is set for two goes off after up to four. What a question may wait for
//! its holder before it is computed beside is a round trip and two milliseconds, so on Linux the alarm is a timer of the kernel, which is
//! late by no more than it takes to wake a thread. Elsewhere, and where there is no descriptor left for it, it is the runtime's.
//!
//! Invariant: it is never set for later than asked. Set too early it is set again, which costs less than to set it with every change.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

#[cfg(target_os = "linux")]
use tokio::io::{Interest, unix::AsyncFd};
use tokio::time::Sleep;

use crate::fabric::Time;
use crate::node::clock::Clock;

/// See the module's front page.
pub(super) struct Alarm {
    timer: Timer,
    set_for: Option<Time>,
}

enum Timer {
    #[cfg(target_os = "linux")]
    Kernel(AsyncFd<std::os::fd::OwnedFd>),
    Runtime(Pin<Box<Sleep>>),
}

impl Alarm {
    /// Must be called inside the runtime that polls it.
    pub(super) fn new() -> Self {
        let timer = Timer::exact().unwrap_or_else(|error| {
            tracing::warn!(%error, "no timer of the kernel: questions may wait for their holders a few milliseconds longer");
            Timer::of_runtime()
        });
        Self { timer, set_for: None }
    }

    /// The time for which it is set; never later than the one that was last asked for.
    pub(super) fn set_for(&self) -> Option<Time> {
        self.set_for
    }

    /// Whether the time that is asked for has come.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, clock: Clock, asked: Option<Time>) -> bool {
        let Some(asked) = asked else { return false };
        loop {
            if self.set_for.is_none_or(|set_for| asked < set_for) {
                self.timer.set(clock, asked);
                self.set_for = Some(asked);
            }
            if self.timer.poll(cx).is_pending() {
                return false;
            }
            self.set_for = None;
            if asked <= clock.now() {
                return true;
            }
        }
    }
}

impl Timer {
    #[cfg(target_os = "linux")]
    fn exact() -> io::Result<Self> {
        use rustix::time::{TimerfdClockId, TimerfdFlags, timerfd_create};

        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags)?;
        // SAFETY: the descriptor is owned by what is registered, and is closed with it.
        #[expect(unsafe_code, reason = "a descriptor of another type than tokio's own has no safe interface")]
        let registered = unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE) };
        Ok(Self::Kernel(registered.map_err(io::Error::from)?))
    }

    #[cfg(not(target_os = "linux"))]
    #[expect(clippy::unnecessary_wraps, reason = "on Linux it may fail")]
    fn exact() -> io::Result<Self> {
        Ok(Self::of_runtime())
    }

    fn of_runtime() -> Self {
        Self::Runtime(Box::pin(tokio::time::sleep(Duration::ZERO)))
    }

    fn set(&mut self, clock: Clock, at: Time) {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel(timer) => {
                use rustix::time::{Itimerspec, TimerfdTimerFlags, Timespec, timerfd_settime};

                // Zero would disarm it.
                let wait = (at - clock.now()).max(Duration::from_nanos(1));
                let once = Itimerspec {
                    it_interval: Timespec { tv_sec: 0, tv_nsec: 0 },
                    it_value: Timespec::try_from(wait).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 }),
                };
                let set = timerfd_settime(timer.get_ref(), TimerfdTimerFlags::empty(), &once);
                set.expect("a timer of our own takes any time");
            }
            Self::Runtime(sleep) => sleep.as_mut().reset(tokio::time::Instant::from_std(clock.instant(at))),
        }
    }

    /// Ready once after it has gone off.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Kernel(timer) => loop {
                // An error says that the runtime is about to end.
                let Ok(mut ready) = std::task::ready!(timer.poll_read_ready(cx)) else { return Poll::Pending };
                let mut expirations = [0; 8];
                // Setting it anew takes back that it has gone off.
                if ready.try_io(|timer| Ok(rustix::io::read(timer, &mut expirations)?)).is_ok() {
                    // It goes off once; until it is set again there is nothing to read.
                    ready.clear_ready();
                    return Poll::Ready(());
                }
            },
            Self::Runtime(sleep) => sleep.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Both kinds.
    fn alarms() -> [Alarm; 2] {
        [Timer::exact().expect("a descriptor"), Timer::of_runtime()].map(|timer| Alarm { timer, set_for: None })
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    async fn has_gone_off(alarm: &mut Alarm, clock: Clock, asked: Option<Time>) -> bool {
        poll_fn(|cx| Poll::Ready(alarm.poll(cx, clock, asked))).await
    }

    async fn goes_off(alarm: &mut Alarm, clock: Clock, asked: Time) -> Time {
        poll_fn(|cx| if alarm.poll(cx, clock, Some(asked)) { Poll::Ready(()) } else { Poll::Pending }).await;
        clock.now()
    }

    #[test]
    fn it_is_never_early_and_goes_off_for_the_earlier_of_two() {
        runtime().block_on(async {
            for mut alarm in alarms() {
                let clock = Clock::start();
                let (late, early) = (clock.now() + 5000 * MS, clock.now() + 20 * MS);
                assert!(!has_gone_off(&mut alarm, clock, Some(late)).await);
                let at = goes_off(&mut alarm, clock, early).await;
                assert!(at >= early && at < late, "{at:?}, asked for {early:?}");
                assert_eq!(alarm.set_for(), None);
            }
        });
    }

    #[test]
    fn one_that_was_put_off_is_set_again() {
        runtime().block_on(async {
            for mut alarm in alarms() {
                let clock = Clock::start();
                let (early, late) = (clock.now() + 5 * MS, clock.now() + 40 * MS);
                assert!(!has_gone_off(&mut alarm, clock, Some(early)).await);
                let at = goes_off(&mut alarm, clock, late).await;
                assert!(at >= late, "{at:?}, asked for {late:?}");
                // What is past goes off at once, and nothing does without being asked for.
                let again = goes_off(&mut alarm, clock, early).await;
                assert!(again < late + 1000 * MS);
                assert!(!has_gone_off(&mut alarm, clock, None).await);
            }
        });
    }

    /// The least of many, since other programs may take the processor at any of them.
    #[cfg(target_os = "linux")]
    #[test]
    fn the_kernels_timer_is_exact() {
        runtime().block_on(async {
            let (clock, [mut alarm, _]) = (Clock::start(), alarms());
            let mut late = Vec::new();
            for number in 0..40 {
                // Anywhere between two milliseconds.
                let asked = clock.now() + Duration::from_micros(300 + number * 37);
                late.push(goes_off(&mut alarm, clock, asked).await - asked);
            }
            late.sort_unstable();
            assert!(late[4] < Duration::from_micros(300), "{late:?}");
        });
    }
}
