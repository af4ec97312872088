//! Slots under many orders of their threads: `table.rs` itself, on shuttle's locks.

use shuttle::thread;

use super::{filter, name};
use crate::evaluator::slots::{MAX_SLOTS, Reconciled, Registration, SlotError, SlotKind, Version};
use crate::id::Digest;
use crate::interleavings::explore;

#[expect(clippy::duplicate_mod, reason = "the same file on other locks is the point")]
#[expect(dead_code, reason = "the model changes and lists; calls by kind are tested on the whole")]
#[path = "../table.rs"]
mod table;

use self::sync::Arc;
use self::table::Table;

mod sync {
    pub(super) use shuttle::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
}

fn digest(wanted: &Registration) -> Digest {
    Digest::of(&wanted.code)
}

/// Names and versions, as somebody sees them who looks once.
fn look(table: &Table) -> Vec<(String, u64, Digest)> {
    table.list().iter().map(|version| (version.name.to_string(), version.number, version.digest)).collect()
}

#[test]
fn no_change_is_lost_and_each_has_its_own_number() {
    let contents: Vec<_> = (1..=3).map(|len| filter("f", len)).collect();
    explore(move || {
        let table = Arc::new(Table::default());
        let changes = contents.iter().map(|wanted| {
            let (table, wanted) = (table.clone(), wanted.clone());
            thread::spawn(move || {
                let version = table.register(&wanted, digest(&wanted)).expect("there is room");
                assert_eq!(version.digest, digest(&wanted));
                assert!(table.register(&filter(&format!("own-{}", version.number), 1), version.digest).is_ok());
                version.number
            })
        });
        let changes: Vec<_> = changes.collect();
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                let mut last = 0;
                for _ in 0..4 {
                    let now = table.get(&name("f"), SlotKind::Filter).map_or(0, |version| version.number);
                    assert!(now >= last, "version {now} after version {last}");
                    last = now;
                }
            })
        };
        let mut numbers: Vec<_> = changes.into_iter().map(|change| change.join().expect("it does not panic")).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, [1, 2, 3], "two changes got one number, or one was lost");
        reader.join().expect("it does not panic");
        assert_eq!(look(&table).len(), 4);
    });
}

#[test]
fn a_pass_is_seen_whole_and_takes_nothing_away_before_the_new_is_there() {
    let [old, new, kept] = [filter("old", 1), filter("new", 1), filter("kept", 1)];
    explore(move || {
        let table = Arc::new(Table::default());
        let pass = |wanted: &[Registration]| {
            let digests = wanted.iter().map(digest).collect();
            table.reconcile(wanted, digests).expect("nothing is wrong with it")
        };
        pass(&[old.clone(), kept.clone()]);
        let reader = {
            let table = table.clone();
            thread::spawn(move || {
                for _ in 0..4 {
                    let seen: Vec<_> = look(&table).into_iter().map(|(name, ..)| name).collect();
                    let whole: [&[&str]; 3] = [&["kept", "old"], &["kept", "new", "old"], &["kept", "new"]];
                    assert!(whole.iter().any(|view| seen == *view), "half of a pass: {seen:?}");
                }
            })
        };
        let other = {
            let (table, kept) = (table.clone(), kept.clone());
            thread::spawn(move || table.register(&kept, digest(&kept)).expect("it is there").number)
        };
        let done = pass(&[new.clone(), kept.clone()]);
        assert_eq!((done.added, done.evicted), (vec![name("new")], vec![name("old")]));
        reader.join().expect("it does not panic");
        assert_eq!(other.join().expect("it does not panic"), 1, "the same content is no change");
        assert!(!table.evict(&name("old")) && table.evict(&name("new")));
    });
}
