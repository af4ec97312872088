//! One arbiter and what a script tells it.

use super::*;

pub(super) const LOW: NodeId = NodeId::from_bytes([1; 32]);
pub(super) const HIGH: NodeId = NodeId::from_bytes([2; 32]);
pub(super) const AT: (SocketAddr, Carrier) =
    (SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1), Carrier::Tcp);

pub(super) fn conn(id: usize) -> ConnectionId {
    ConnectionId::new_unchecked(id)
}

/// An arbiter with these connections to `peer`, as (number, dialed).
fn arbiter(me: NodeId, peer: NodeId, conns: &[(usize, bool)]) -> Arbiter {
    let mut arbiter = Arbiter::new(me);
    for (id, dialed) in conns {
        arbiter.connected(peer, conn(*id), *dialed, AT);
    }
    arbiter
}

fn open(arbiter: &mut Arbiter, peer: NodeId, id: usize) {
    arbiter.reported(peer, conn(id), Report::Open(Arc::new(Lane::new(peer, Kind::Main))));
}

/// What it decided, in short.
fn verdicts(arbiter: &mut Arbiter) -> Vec<String> {
    std::iter::from_fn(|| arbiter.next())
        .map(|verdict| match verdict {
            Verdict::Take(_, id) => format!("take {id}"),
            Verdict::Close(_, id) => format!("close {id}"),
            Verdict::Up { outbound, .. } => format!("up {}", if outbound { "out" } else { "in" }),
            Verdict::Down { reason, .. } => format!("down {reason:?}"),
            Verdict::BulkUp(_) => "bulk up".to_owned(),
            Verdict::BulkDown(_) => "bulk down".to_owned(),
            Verdict::Failed { conn, refusal } => format!("failed {conn} {refusal:?}"),
            Verdict::Gone(id) => format!("gone {id}"),
        })
        .collect()
}

#[test]
fn the_lower_node_stays_with_its_own_dial() {
    let mut low = arbiter(LOW, HIGH, &[(1, true), (2, false)]);
    low.reported(HIGH, conn(2), Report::Offered(Kind::Main));
    assert_eq!(verdicts(&mut low), ["close 2"]);
    open(&mut low, HIGH, 1);
    assert_eq!(verdicts(&mut low), ["up out"]);
    assert!(!low.wants(HIGH, Some(Kind::Main)) && !low.wants(HIGH, None));
}

#[test]
fn the_lower_node_takes_what_it_is_offered_first() {
    let mut low = arbiter(LOW, HIGH, &[(1, false)]);
    low.reported(HIGH, conn(1), Report::Offered(Kind::Main));
    open(&mut low, HIGH, 1);
    assert_eq!(verdicts(&mut low), ["take 1", "up in"]);
    assert!(!low.wants(HIGH, Some(Kind::Main)));
}

#[test]
fn the_higher_node_goes_along() {
    let mut high = arbiter(HIGH, LOW, &[(1, true), (2, false)]);
    high.reported(LOW, conn(2), Report::Offered(Kind::Main));
    open(&mut high, LOW, 2);
    assert_eq!(verdicts(&mut high), ["take 2", "up in", "close 1"]);
    high.disconnected(LOW, conn(1), DownReason::Closed);
    assert_eq!(verdicts(&mut high), ["gone 1"]);
}

#[test]
fn a_newer_lane_replaces_a_dead_one() {
    for (me, peer) in [(HIGH, LOW), (LOW, HIGH)] {
        let mut arbiter = arbiter(me, peer, &[(1, false)]);
        arbiter.reported(peer, conn(1), Report::Offered(Kind::Main));
        open(&mut arbiter, peer, 1);
        assert!(arbiter.wants(peer, None));
        arbiter.connected(peer, conn(2), false, AT);
        arbiter.reported(peer, conn(2), Report::Offered(Kind::Main));
        open(&mut arbiter, peer, 2);
        assert_eq!(verdicts(&mut arbiter), ["take 1", "up in", "down Replaced", "close 1", "take 2", "up in"]);
    }
}

fn open_bulk(arbiter: &mut Arbiter, peer: NodeId, id: usize) {
    arbiter.reported(peer, conn(id), Report::Open(Arc::new(Lane::new(peer, Kind::Bulk))));
}

/// A node that dialed its peer, and has a second connection.
fn with_bulk(me: NodeId, peer: NodeId) -> Arbiter {
    let mut arbiter = arbiter(me, peer, &[(1, true)]);
    assert!(!arbiter.wants(peer, Some(Kind::Bulk)), "not without a lane");
    open(&mut arbiter, peer, 1);
    assert!(arbiter.wants(peer, Some(Kind::Bulk)));
    arbiter.dialing_for_bulk(conn(2));
    arbiter.connected(peer, conn(2), true, AT);
    assert!(!arbiter.wants(peer, Some(Kind::Bulk)), "one is enough");
    open_bulk(&mut arbiter, peer, 2);
    assert_eq!(verdicts(&mut arbiter), ["up out", "bulk up"]);
    arbiter
}

#[test]
fn a_second_connection_comes_and_goes_beside_the_lane() {
    for (me, peer) in [(LOW, HIGH), (HIGH, LOW)] {
        let mut arbiter = with_bulk(me, peer);
        arbiter.reported(peer, conn(2), Report::Over(DownReason::Idle));
        arbiter.disconnected(peer, conn(2), DownReason::Closed);
        assert_eq!(verdicts(&mut arbiter), ["bulk down", "close 2", "gone 2"]);
        assert!(arbiter.wants(peer, Some(Kind::Bulk)));
    }
}

#[test]
fn a_second_connection_goes_with_the_lane_and_before_it() {
    let mut low = with_bulk(LOW, HIGH);
    low.disconnected(HIGH, conn(1), DownReason::Closed);
    assert_eq!(verdicts(&mut low), ["bulk down", "close 2", "down Closed", "gone 1"]);
    let mut low = with_bulk(LOW, HIGH);
    let garbage = DownReason::BadFrame(crate::net::FrameError::Empty);
    low.reported(HIGH, conn(2), Report::Over(garbage));
    assert_eq!(verdicts(&mut low)[..2], ["bulk down", "close 2"]);
    assert!(low.wants(HIGH, Some(Kind::Main)), "who breaks the framing of one loses both");
}

#[test]
fn a_second_connection_is_taken_from_whoever_dialed_the_lane_and_from_nobody_else() {
    let mut high = arbiter(HIGH, LOW, &[(1, false), (2, false)]);
    high.reported(LOW, conn(2), Report::Offered(Kind::Bulk));
    assert_eq!(verdicts(&mut high), ["close 2"], "there is no lane yet");
    high.reported(LOW, conn(1), Report::Offered(Kind::Main));
    open(&mut high, LOW, 1);
    for id in [3, 4] {
        high.connected(LOW, conn(id), false, AT);
        high.reported(LOW, conn(id), Report::Offered(Kind::Bulk));
        open_bulk(&mut high, LOW, id);
    }
    let expected = ["take 1", "up in", "take 3", "bulk up", "bulk down", "close 3", "take 4", "bulk up"];
    assert_eq!(verdicts(&mut high), expected, "a newer one replaces a dead one");
    let mut low = with_bulk(LOW, HIGH);
    low.connected(HIGH, conn(3), false, AT);
    low.reported(HIGH, conn(3), Report::Offered(Kind::Bulk));
    assert_eq!(verdicts(&mut low), ["close 3"], "it did not dial the lane");
}

#[test]
fn second_connections_are_bounded_in_number() {
    let mut arbiter = Arbiter::new(LOW);
    for n in 0..=MAX_BULK {
        let mut name = [9; 32];
        name[..8].copy_from_slice(&n.to_be_bytes());
        let peer = NodeId::from_bytes(name);
        for id in [2 * n, 2 * n + 1] {
            arbiter.connected(peer, conn(id), false, AT);
        }
        arbiter.reported(peer, conn(2 * n), Report::Offered(Kind::Main));
        open(&mut arbiter, peer, 2 * n);
        arbiter.connected(peer, conn(2 * n + 1), false, AT);
        verdicts(&mut arbiter);
        arbiter.reported(peer, conn(2 * n + 1), Report::Offered(Kind::Bulk));
        let expected = if n < MAX_BULK { "take" } else { "close" };
        assert_eq!(verdicts(&mut arbiter), [format!("{expected} {}", 2 * n + 1)]);
    }
}

#[test]
fn the_end_is_reported_once() {
    let mut low = arbiter(LOW, HIGH, &[(1, true)]);
    open(&mut low, HIGH, 1);
    low.reported(HIGH, conn(1), Report::Over(DownReason::Silent));
    low.disconnected(HIGH, conn(1), DownReason::Closed);
    assert_eq!(verdicts(&mut low), ["up out", "down Silent", "close 1", "gone 1"]);
    assert!(low.wants(HIGH, Some(Kind::Main)) && low.peers.is_empty());
}

#[test]
fn a_dial_without_a_lane_is_reported_once() {
    let mut low = arbiter(LOW, HIGH, &[(1, true)]);
    low.reported(HIGH, conn(1), Report::Failed(Refusal::NotEvalmesh));
    low.disconnected(HIGH, conn(1), DownReason::Closed);
    assert_eq!(verdicts(&mut low), ["failed 1 NotEvalmesh", "close 1", "gone 1"]);
    for (me, peer) in [(HIGH, LOW), (LOW, HIGH)] {
        let mut arbiter = arbiter(me, peer, &[(1, true)]);
        arbiter.disconnected(peer, conn(1), DownReason::Closed);
        assert_eq!(verdicts(&mut arbiter), ["failed 1 HungUp", "gone 1"]);
    }
}
