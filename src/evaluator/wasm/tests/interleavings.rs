//! Single flight under many orders of its threads: `cache.rs` itself, on shuttle's locks.
//!
//! Refusals stand for programs here: they are remembered in the same way, and take no compiler to make.

use shuttle::rand::Rng;
use shuttle::sync::Mutex;
use shuttle::thread;

use crate::error::{EvalError, Refusal};
use crate::evaluator::artifacts::Counters;
use crate::evaluator::wasm::engine::Flavour;
use crate::evaluator::wasm::{engine, limits, program};
use crate::id::Digest;
use crate::interleavings::explore;

#[expect(clippy::duplicate_mod, reason = "the same file on other locks is the point")]
#[expect(dead_code, reason = "the model has no bytes to name")]
#[path = "../cache.rs"]
mod cache;

use self::cache::{Key, Programs};
use self::sync::Arc;

mod sync {
    pub(super) use shuttle::sync::{Arc, Condvar, Mutex, PoisonError};
}

const ASKERS: usize = 3;

fn key() -> Key {
    Key { digest: Digest::of(b"program"), flavour: Flavour::Portable }
}

fn refusal(made: usize) -> EvalError {
    Refusal::Malformed(format!("making {made}")).into()
}

/// How a making ends.
#[derive(Debug, Clone, Copy, PartialEq)]
enum End {
    /// With what is remembered.
    Kept,
    /// With what only this moment refuses.
    Busy,
    /// Nobody took it.
    Dropped,
}

/// Several ask for one program while others make it; returns how many makings began, and what the askers that stayed were told.
fn race(end: End, impatient: bool) -> (usize, Vec<EvalError>) {
    let (programs, begun) = (Programs::new(1 << 20), Arc::new(Mutex::new(0)));
    let askers = (0..ASKERS).map(|asker| {
        let (programs, begun) = (programs.clone(), begun.clone());
        thread::spawn(move || {
            let gives_up = impatient && asker == 0;
            let go_on = || if gives_up { Err(EvalError::Cancelled) } else { Ok(()) };
            let make = |making: cache::Making| {
                let number = {
                    let mut begun = begun.lock().unwrap();
                    *begun += 1;
                    *begun
                };
                thread::spawn(move || match end {
                    End::Kept => making.finish(Err(refusal(number))),
                    End::Busy => making.finish(Err(EvalError::Cancelled)),
                    End::Dropped => drop(making),
                });
            };
            programs.get(key(), 7, &Counters::default(), go_on, make).err().expect("no program is ever made here")
        })
    });
    let askers: Vec<_> = askers.collect();
    let told: Vec<_> = askers.into_iter().map(|asker| asker.join().expect("it does not panic")).collect();
    let begun = *begun.lock().unwrap();
    (begun, told)
}

#[test]
fn one_is_made_however_many_ask() {
    explore(|| {
        let (begun, told) = race(End::Kept, false);
        assert_eq!(begun, 1, "made more than once");
        assert_eq!(told, vec![refusal(1); ASKERS]);
    });
}

#[test]
fn who_gives_up_disturbs_nobody() {
    explore(|| {
        let (begun, told) = race(End::Kept, true);
        assert_eq!(begun, 1, "made more than once");
        assert!(told[0] == EvalError::Cancelled || told[0] == refusal(1));
        assert_eq!(told[1..], vec![refusal(1); ASKERS - 1]);
    });
}

#[test]
fn nobody_waits_for_ever_for_what_nobody_makes() {
    explore(|| {
        let end = if shuttle::rand::thread_rng().gen_bool(0.5) { End::Dropped } else { End::Busy };
        let (begun, told) = race(end, false);
        assert!((1..=ASKERS).contains(&begun), "{begun}");
        let busy = EvalError::Busy { what: "compile queue".to_owned(), bound: 7 };
        let expected = if end == End::Dropped { busy } else { EvalError::Cancelled };
        assert_eq!(told, vec![expected; ASKERS]);
    });
}
