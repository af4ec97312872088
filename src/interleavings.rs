//! Runs threaded code under many orders of its threads, chosen by seeds instead of by luck (tests only; shuttle does the work).
//!
//! A file that shall run so takes its locks, channels and threads from the module above it (`super::sync`, `super::thread`). A test includes
//! the very same file once more below a module in which these names are shuttle's, so no copy can drift from what ships. Everyday tests
//! run a few hundred orders of each; a long run is
//!
//! `INTERLEAVINGS=100000 cargo test --release --lib interleavings`
//!
//! A failing order is printed as a schedule; `INTERLEAVING=<schedule> cargo test --lib NAME_OF_THE_TEST` plays it again.

use shuttle::scheduler::{PctScheduler, RandomScheduler, ReplayScheduler};
use shuttle::{Config, Runner};

/// Orders of each kind that everyday tests run.
const EVERYDAY: usize = 150;
/// Stack of a thread: hashing and signatures want more than shuttle's own default.
const STACK: usize = 512 * 1024;
/// Preemptions that one order is made to depend on (Burckhardt et al. 2010).
const DEPTH: usize = 3;
const SEED: u64 = 0x5EED;

/// Runs a test under many orders: half of them with a random thread at every step, half of them with few, well-placed changes of thread.
pub(crate) fn explore(test: impl Fn() + Send + Sync + 'static) {
    let config = || {
        let mut config = Config::new();
        config.stack_size = STACK;
        config
    };
    if let Ok(schedule) = std::env::var("INTERLEAVING") {
        Runner::new(ReplayScheduler::new_from_encoded(&schedule), config()).run(test);
        return;
    }
    let orders = std::env::var("INTERLEAVINGS").ok().and_then(|orders| orders.parse().ok()).unwrap_or(EVERYDAY);
    let test = std::sync::Arc::new(test);
    let again = test.clone();
    Runner::new(RandomScheduler::new_from_seed(SEED, orders), config()).run(move || test());
    Runner::new(PctScheduler::new_from_seed(SEED, DEPTH, orders), config()).run(move || again());
}

/// Shuttle's channels, whose waits with a limit really end early now and then.
pub(crate) mod mpsc {
    use std::time::Duration;

    use shuttle::rand::Rng;
    pub(crate) use shuttle::sync::mpsc::{RecvTimeoutError, SyncSender, TryRecvError, TrySendError};

    pub(crate) struct Receiver<T>(shuttle::sync::mpsc::Receiver<T>);

    pub(crate) fn sync_channel<T>(bound: usize) -> (SyncSender<T>, Receiver<T>) {
        let (sender, receiver) = shuttle::sync::mpsc::sync_channel(bound);
        (sender, Receiver(receiver))
    }

    impl<T> Receiver<T> {
        pub(crate) fn recv(&self) -> Result<T, shuttle::sync::mpsc::RecvError> {
            self.0.recv()
        }

        pub(crate) fn try_iter(&self) -> impl Iterator<Item = T> {
            self.0.try_iter()
        }

        /// The limit has passed whenever chance says so.
        pub(crate) fn recv_timeout(&self, _: Duration) -> Result<T, RecvTimeoutError> {
            if shuttle::rand::thread_rng().gen_bool(0.5) {
                return self.0.recv().map_err(|_| RecvTimeoutError::Disconnected);
            }
            self.0.try_recv().map_err(|error| match error {
                TryRecvError::Empty => RecvTimeoutError::Timeout,
                TryRecvError::Disconnected => RecvTimeoutError::Disconnected,
            })
        }
    }

    impl<T> IntoIterator for Receiver<T> {
        type Item = T;
        type IntoIter = shuttle::sync::mpsc::IntoIter<T>;

        fn into_iter(self) -> Self::IntoIter {
            self.0.into_iter()
        }
    }
}
