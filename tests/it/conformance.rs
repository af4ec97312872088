//! Every guest of `tests/conformance` on two nodes: the same answers, those that are written down, and nothing recorded of what is no answer.

use evalmesh::eval::Eval;
use evalmesh::node::Node;
use evalmesh::request::AnswerFrom;

#[path = "../conformance/mod.rs"]
mod bodies;

#[test]
fn every_guest_ends_as_it_must_on_every_node_and_again() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let mut wrong = Vec::new();
    for round in 0..2 {
        let node = Node::builder().grant("eval".parse().expect("a name")).grant("network".parse().expect("a name"));
        let node = node.start().expect("a node in memory");
        for guest in bodies::guests() {
            for answer_from in [AnswerFrom::Anywhere, AnswerFrom::ComputedOnly, AnswerFrom::HeldOnly] {
                // The second time it is run anew, the third time it comes from memory, where nothing but answers are.
                let asked = guest.request.clone().answer_from(answer_from);
                let outcome = runtime.block_on(node.eval(asked)).map(|answer| answer.reply);
                if answer_from == AnswerFrom::HeldOnly && outcome.is_err() {
                    let fails =
                        guest.check(&runtime.block_on(node.eval(guest.request.clone())).map(|answer| answer.reply));
                    assert!(fails.is_none(), "{}: held nothing of an answer", guest.name);
                    continue;
                }
                wrong.extend(guest.check(&outcome).map(|what| format!("round {round}, {answer_from:?}: {what}")));
            }
        }
        node.shutdown();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
