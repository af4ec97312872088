//! Invariant 3: an honest author's entries were appended by that author.

use std::collections::{BTreeMap, BTreeSet};

use super::{Check, Phase};
use crate::sim::history::History;

pub(super) const CHECK: Check = Check {
    name: "authors are the authors",
    phase: Phase::Safety,
    about: "a record in anybody's ledger that names an honest node as its producer was appended by that node",
    run,
};

fn run(history: &History) -> Vec<String> {
    let places: BTreeMap<_, _> = history.nodes.iter().enumerate().map(|(place, story)| (story.name, place)).collect();
    let own = history.appended.iter().filter(|entry| entry.own && places.get(&entry.producer) == Some(&entry.node));
    let made: BTreeSet<_> = own.map(|entry| (entry.producer, entry.id, entry.answer)).collect();
    let mut wrong = Vec::new();
    for entry in history.appended.iter().filter(|entry| history.is_honest(entry.node)) {
        let (node, id) = (entry.node, entry.id.short());
        match places.get(&entry.producer) {
            None => wrong.push(format!("node {node} adopted a record of {id} from outside the fleet")),
            Some(author) if history.is_honest(*author) && !made.contains(&(entry.producer, entry.id, entry.answer)) => {
                wrong.push(format!("node {node} adopted a record of {id} that node {author} never made"));
            }
            Some(_) => {}
        }
    }
    wrong
}
