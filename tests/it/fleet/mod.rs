//! Fleets of real processes under real faults, judged by the simulator's own checks over the recorded history.
//!
//! On loopback: `kill -9`, SIGSTOP, restarts. In network namespaces, where this process may make them: cut links, a rate limit, a disk that is
//! too small. What can be seen from outside is written down as in a simulation: who asked what, how it ended, what every ledger holds in the end.

mod halves;
mod holes;
mod namespaces;
mod process;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evalmesh::cassette::{CassetteOptions, CassetteWriter, Lookup};
use evalmesh::error::{EvalError, NotHeld};
use evalmesh::fabric::Time;
use evalmesh::id::{ContentId, Digest, EpochId};
use evalmesh::ledger::{FileStorage, Opening};
use evalmesh::request::{AnswerFrom, Class};
use evalmesh::sim::check::{self, Check};
use evalmesh::sim::history::{Asked, End, Evaluated, Final, Found, History, Missing, Opened, Source, Story};

use self::halves::Halves;
use self::namespaces::Namespaces;
use self::process::{Answer, Fleet, FoundBy, wait_for};

/// The checks that can be made of what is seen from outside.
const SEEN_FROM_OUTSIDE: [&str; 8] = [
    "ends at most once",
    "ends at least once",
    "delivered is evaluated",
    "errors are asked for",
    "one evaluation at a time",
    "computed when asked for",
    "durable survives",
    "the healed fleet answers",
];

/// How long after an answer its record is durable at the latest: far more than the batch delay of a busy machine.
const DURABLE: Duration = Duration::from_secs(2);

/// Writes a history while a fleet works.
struct Recording {
    history: History,
    begin: Instant,
    /// What was answered where and when: durable some time later.
    answered: Vec<(usize, ContentId, Instant)>,
    /// What had become durable before its node was killed, or the run ended.
    durable: Vec<(usize, ContentId)>,
}

impl Recording {
    #[expect(clippy::disallowed_methods, reason = "real processes take real time")]
    fn new(fleet: &Fleet) -> Self {
        let nodes = fleet.nodes.iter().map(|node| Story::new(node.name())).collect();
        let history = History { nodes, ..History::default() };
        Self { history, begin: Instant::now(), answered: Vec::new(), durable: Vec::new() }
    }

    fn now(&self) -> Time {
        Time(self.begin.elapsed())
    }

    /// Asks a node for the number of ways to place `n` queens, and writes down how it ended. An answer must come if it is a probe.
    fn ask(&mut self, fleet: &Fleet, node: usize, n: u32, probe: bool) {
        let at = self.now();
        let answer = fleet.nodes[node].ask(n, AnswerFrom::Anywhere);
        self.ended(at, node, n, probe, AnswerFrom::Anywhere, answer);
    }

    /// Waits until a node has what others hold, or holds it itself, without computing it: a busy machine would do that beside its asks.
    fn find(&mut self, fleet: &Fleet, node: usize, n: u32) {
        wait_for(&format!("node {node} to find the answer for {n} queens"), || {
            let at = self.now();
            let answer = fleet.nodes[node].ask(n, AnswerFrom::HeldOnly);
            let found = matches!(answer, Answer::Given { .. });
            if found {
                self.ended(at, node, n, true, AnswerFrom::HeldOnly, answer);
            }
            found
        });
    }

    #[expect(clippy::disallowed_methods, reason = "real processes take real time")]
    fn ended(&mut self, at: Time, node: usize, n: u32, probe: bool, answer_from: AnswerFrom, answer: Answer) {
        let ended = self.now();
        let (id, end) = match answer {
            Answer::Given { id, stdout, source } => {
                let answer = Digest::of(stdout.as_bytes());
                assert_eq!(stdout, format!("{}\n", WAYS[n as usize]), "{n} queens on node {node}");
                if source == Source::Computed {
                    let evaluated = Evaluated {
                        node,
                        id,
                        class: Class::Portable,
                        from: at,
                        to: Some(ended),
                        result: Some(Ok(answer)),
                    };
                    self.history.evaluations.push(evaluated);
                }
                self.answered.push((node, id, Instant::now()));
                (id, End::Answered { answer, source })
            }
            Answer::Failed(why) => {
                let id = ContentId::of(&n.to_le_bytes());
                assert!(!probe, "node {node} does not answer: {why}");
                (id, End::Error(EvalError::NotHeld { id, why: NotHeld::NeverSeen }))
            }
        };
        let (class, timeout, ends) = (Class::Portable, None, vec![(ended, end)]);
        self.history.asks.push(Asked { at, node, id, class, answer_from, timeout, expected: None, probe, ends });
    }

    /// A node was killed: what it had answered long enough ago must be there when it comes back.
    fn killed(&mut self, node: usize) {
        self.durable.extend(
            self.answered
                .extract_if(.., |(place, _, at)| *place == node && at.elapsed() > DURABLE)
                .map(|(place, id, _)| (place, id)),
        );
        self.answered.retain(|(place, ..)| *place != node);
    }

    /// Stops everything, reads every ledger, and holds the history against the checks.
    fn judge(mut self, mut fleet: Fleet) {
        // A clean stop makes everything durable.
        self.durable.extend(self.answered.iter().map(|(place, id, _)| (*place, *id)));
        self.history.end = self.now();
        let asked: Vec<ContentId> = self.history.asks.iter().map(|ask| ask.id).collect();
        for place in 0..fleet.nodes.len() {
            fleet.nodes[place].stop();
            let durable = self.durable.iter().filter(|(node, _)| *node == place).map(|(_, id)| *id);
            let opened = read(fleet.nodes[place].data(), &self.history, place, durable);
            self.history.openings.push(opened);
            self.history.finals.push(Final { up: true, ..Final::default() });
        }
        assert!(!asked.is_empty());
        let due: Vec<Check> =
            check::ALL.iter().filter(|check| SEEN_FROM_OUTSIDE.contains(&check.name)).copied().collect();
        assert_eq!(due.len(), SEEN_FROM_OUTSIDE.len(), "every name is that of a check");
        assert_eq!(check::judge(&due, &self.history, true), []);
    }
}

/// In how many ways 0 to 8 queens stand on a board of their size.
const WAYS: [u32; 9] = [1, 1, 0, 0, 2, 10, 4, 40, 92];

/// Opens a stopped node's ledger and looks for what must be in it.
fn read(folder: &Path, history: &History, node: usize, durable: impl Iterator<Item = ContentId>) -> Opened {
    let storage = Arc::new(FileStorage::open(folder).expect("the process is gone"));
    let opening = Opening::new(history.nodes[node].name, EpochId::from_bytes([0xEE; 16]), 1);
    let (writer, recovery) = CassetteWriter::open(storage, &opening, CassetteOptions::default()).expect("it opens");
    let cassette = writer.cassette();
    let held = |id: &ContentId| matches!(cassette.lookup(*id), Ok(Lookup::Hit(_)));
    let missing = durable.filter(|id| !held(id)).map(|id| Missing { seq: 0, id, durable: true, found: Found::Nothing });
    let missing = missing.collect();
    let (restored, torn, rotten, reported) = (false, false, false, !recovery.is_clean());
    Opened { node, at: history.end, restored, torn, rotten, reported, missing }
}

#[test]
fn killed_stopped_and_restarted_processes_keep_their_promises() {
    let mut fleet = Fleet::on_loopback(3);
    let mut recording = Recording::new(&fleet);
    for (node, n) in [(0, 4), (1, 5), (2, 6), (1, 4), (0, 6)] {
        recording.ask(&fleet, node, n, false);
    }
    // Stopped in the middle of it: the others answer all the same, by asking each other or by computing.
    fleet.nodes[0].signal("STOP");
    let before = recording.now();
    recording.ask(&fleet, 1, 6, false);
    recording.ask(&fleet, 2, 4, false);
    recording.ask(&fleet, 2, 7, false);
    assert!(recording.now() - before < Duration::from_secs(20), "nobody waits for a node that stands still");
    fleet.nodes[0].signal("CONT");
    // Killed: what was answered long ago is durable.
    std::thread::sleep(DURABLE + Duration::from_millis(200));
    fleet.nodes[1].kill();
    recording.killed(1);
    recording.ask(&fleet, 0, 7, false);
    recording.ask(&fleet, 2, 8, false);
    fleet.restart(1);
    fleet.settle(5);
    for node in 0..3 {
        for n in 4..9 {
            recording.find(&fleet, node, n);
        }
    }
    let (asks, evaluations) = (recording.history.asks.len(), recording.history.evaluations.len());
    assert!(evaluations <= 10 && asks == 25, "{evaluations} evaluations for {asks} asks, 15 of which compute nothing");
    recording.judge(fleet);
}

/// A fleet in namespaces, or a word about why there is none.
fn in_namespaces(nodes: usize, found_by: FoundBy) -> Option<Fleet> {
    let namespaces = Namespaces::new(nodes).map_err(skipped).ok()?;
    let names: Vec<_> = (0..nodes).map(|number| namespaces.name(number)).collect();
    let place = |number: usize| (format!("{}:7000", Namespaces::address(number)), Some(names[number].clone()));
    Some(Fleet::start(nodes, &place, Some(namespaces), found_by))
}

#[expect(clippy::needless_pass_by_value, reason = "an error's end")]
fn skipped(why: String) {
    println!("skipped: no network namespaces here ({why}); run it as root on Linux with iproute2");
}

#[test]
fn five_nodes_find_each_other_by_mdns_and_again_after_a_cut() {
    let Some(fleet) = in_namespaces(5, FoundBy::Mdns) else { return };
    let mut recording = Recording::new(&fleet);
    // Nobody was told of anybody, and yet what one computed the others fetch.
    recording.ask(&fleet, 0, 4, false);
    recording.ask(&fleet, 1, 3, false);
    fleet.settle(1);
    for node in 0..5 {
        for n in 3..5 {
            recording.find(&fleet, node, n);
        }
    }
    // Two nodes are cut off until the others have let them go; all go on alone.
    for node in [3, 4] {
        fleet.cut(node, true);
    }
    wait_for("the lanes to go down", || fleet.peers() == [2, 2, 2, 0, 0]);
    recording.ask(&fleet, 0, 5, false);
    recording.ask(&fleet, 3, 6, false);
    recording.ask(&fleet, 4, 7, false);
    for node in [3, 4] {
        fleet.cut(node, false);
    }
    wait_for("everybody to find everybody again", || fleet.peers() == [4; 5]);
    fleet.settle(4);
    for node in 0..5 {
        for n in 3..8 {
            recording.find(&fleet, node, n);
        }
    }
    // One lane for each pair, whoever dialed.
    assert_eq!(fleet.peers(), [4; 5]);
    recording.judge(fleet);
}

#[test]
fn a_fleet_in_namespaces_survives_cuts_a_narrow_link_and_a_full_disk() {
    let Some(fleet) = in_namespaces(3, FoundBy::Configuration) else { return };
    let mut recording = Recording::new(&fleet);
    recording.ask(&fleet, 0, 4, false);
    fleet.limit(1, "2mbit");
    recording.ask(&fleet, 1, 5, false);
    recording.ask(&fleet, 2, 4, false);
    // Both sides of a cut go on alone, and agree afterwards.
    fleet.cut(2, true);
    recording.ask(&fleet, 2, 6, false);
    recording.ask(&fleet, 0, 6, false);
    recording.ask(&fleet, 1, 7, false);
    fleet.cut(2, false);
    fleet.settle(4);
    for node in 0..3 {
        for n in 4..8 {
            recording.find(&fleet, node, n);
        }
    }
    // What anybody can compute again is answered although the disk is full.
    if fleet.nodes[1].fill_disk() {
        recording.ask(&fleet, 1, 8, true);
        fleet.nodes[1].free_disk();
        recording.answered.retain(|(place, ..)| *place != 1);
    }
    recording.judge(fleet);
}

#[test]
fn sixteen_nodes_know_the_same_after_a_partition() {
    agree_after_a_partition(16);
}

#[test]
#[ignore = "five thousand handshakes: wants an optimised build; `benches/fleet` compares the same"]
fn a_hundred_nodes_know_the_same_after_a_partition() {
    agree_after_a_partition(100);
}

/// By how little is measured by `benches/fleet`: one round trip and two milliseconds. Here it shows that nobody waits for a timeout, which are seconds.
#[test]
fn black_holes_do_not_hold_a_miss_up() {
    let Some(waits) = holes::waits(Duration::from_secs(3)).map_err(skipped).ok() else { return };
    for times in [waits.holes, waits.nobody] {
        let p99 = times[times.len() * 99 / 100];
        assert!(p99 < Duration::from_millis(500), "{p99:?}, round trips of {:?}", waits.round_trip);
    }
}

/// How fast that goes is measured by `benches/fleet`.
fn agree_after_a_partition(nodes: usize) {
    let Some(mut halves) = Halves::start(nodes).map_err(skipped).ok() else { return };
    halves.meet();
    for node in 0..nodes {
        halves.compute(node);
    }
    halves.know_everything();
    halves.cut(true);
    for node in 0..nodes {
        halves.compute(node);
    }
    // Each half learns of its own and of nothing else.
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(halves.know_own_half(), Ok(()));
    halves.cut(false);
    halves.know_everything();
    assert_eq!(halves.differences(), Vec::<String>::new());
    assert_eq!(halves.lanes(), vec![nodes - 1; nodes], "one lane for each pair");
}

#[test]
fn the_checks_find_what_a_recorded_history_shows() {
    let id = ContentId::of(b"q");
    let name = evalmesh::id::NodeId::from_bytes([1; 32]);
    let mut history = History { nodes: vec![Story::new(name)], ..History::default() };
    let missing = vec![Missing { seq: 0, id, durable: true, found: Found::Nothing }];
    let at = Time(Duration::from_secs(1));
    history.openings.push(Opened {
        node: 0,
        at,
        restored: false,
        torn: false,
        rotten: false,
        reported: false,
        missing,
    });
    let answer = Digest::of(b"1");
    let ends = vec![(at, End::Answered { answer, source: Source::Memory })];
    let (class, answer_from) = (Class::Portable, AnswerFrom::Anywhere);
    history.asks.push(Asked { at, node: 0, id, class, answer_from, timeout: None, expected: None, probe: false, ends });
    let found: Vec<_> = check::judge(check::ALL, &history, true).into_iter().map(|violation| violation.check).collect();
    assert_eq!(found, ["delivered is evaluated", "durable survives"]);
    wait_for("nothing", || true);
}
