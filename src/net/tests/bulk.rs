//! The second connection of a pair: it comes when there is something large, carries nothing else, and goes.

use super::*;
use crate::net::limits::BULK_FROM;

const CHUNK: usize = 256 << 10;

impl Node {
    /// Waits until there is a second connection with that peer, or none.
    async fn bulk(&self, peer: NodeId, there: bool) {
        let start = Instant::now();
        while self.net.has_bulk(peer) != there {
            assert!(start.elapsed() < PATIENCE, "second connection: {there}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Sends so many large frames and waits for them, in any order.
async fn carry(from: &Node, to: &mut Node, frames: u8) {
    for n in 0..frames {
        from.net.send_bulk(to.id, bytes(CHUNK, n)).unwrap();
    }
    let mut missing: BTreeSet<u8> = (0..frames).collect();
    while !missing.is_empty() {
        let frame = to.frame(from.id).await;
        assert!(frame.len() == CHUNK && missing.remove(&frame[0]));
    }
}

#[tokio::test]
async fn what_is_large_gets_a_second_connection_that_goes_when_it_is_idle() {
    let (mut a, mut b) = pair().await;
    carry(&b, &mut a, u8::try_from(BULK_FROM / CHUNK - 1).unwrap()).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!a.net.has_bulk(b.id) && !b.net.has_bulk(a.id), "a little is no reason");
    for round in 0..2 {
        // `b` dialed the lane; it has to be told of what it will receive, and sees what it sends.
        b.net.expect_bulk(a.id, BULK_FROM);
        a.bulk(b.id, true).await;
        b.bulk(a.id, true).await;
        carry(&a, &mut b, 20).await;
        carry(&b, &mut a, 20).await;
        // Small frames go their own way, and keep their order.
        for number in 0..100 {
            a.net.send(b.id, bytes(3, number)).unwrap();
        }
        for number in 0..100 {
            assert_eq!(b.frame(a.id).await, bytes(3, number), "round {round}");
        }
        a.bulk(b.id, false).await;
        b.bulk(a.id, false).await;
    }
    // The lane never went down.
    a.quiet(Duration::from_millis(50)).await;
    b.quiet(Duration::from_millis(50)).await;
}

#[tokio::test]
async fn a_second_connection_that_is_expected_to_carry_something_stays() {
    let (a, b) = pair().await;
    b.net.expect_bulk(a.id, BULK_FROM);
    b.bulk(a.id, true).await;
    for _ in 0..15 {
        tokio::time::sleep(QUICK.bulk_idle / 5).await;
        b.net.expect_bulk(a.id, 1);
        assert!(b.net.has_bulk(a.id));
    }
    b.bulk(a.id, false).await;
}

#[tokio::test]
async fn small_frames_overtake_large_ones() {
    let (a, mut b) = pair().await;
    b.net.expect_bulk(a.id, BULK_FROM);
    a.bulk(b.id, true).await;
    for n in 0..60 {
        a.net.send_bulk(b.id, bytes(CHUNK, n)).unwrap();
    }
    a.net.send(b.id, bytes(8, 99)).unwrap();
    let mut before = 0;
    while b.frame(a.id).await != bytes(8, 99) {
        before += 1;
    }
    assert!(before < 50, "{before} of 60 large frames came first");
}

/// Passes on one connection to `to`, and hangs up on all later ones.
async fn only_one(to: SocketAddr, addr: tokio::sync::oneshot::Sender<SocketAddr>) {
    let listener = TcpListener::bind(local()).await.unwrap();
    addr.send(listener.local_addr().unwrap()).unwrap();
    let (mut inbound, _) = listener.accept().await.unwrap();
    let mut outbound = TcpStream::connect(to).await.unwrap();
    let refuse = async {
        loop {
            drop(listener.accept().await.unwrap());
        }
    };
    tokio::select! { () = refuse => {}, _ = tokio::io::copy_bidirectional(&mut inbound, &mut outbound) => {} }
}

#[tokio::test]
async fn without_a_second_connection_the_lane_carries_what_is_large() {
    let mut a = Node::start(1, local(), &[]);
    let (send, addr) = tokio::sync::oneshot::channel();
    let to = a.addr;
    let talk = async {
        let mut b = Node::start(2, local(), &[addr.await.unwrap()]);
        a.up(b.id).await;
        b.up(a.id).await;
        for _ in 0..3 {
            carry(&b, &mut a, 20).await;
            carry(&a, &mut b, 20).await;
            assert!(!a.net.has_bulk(b.id) && !b.net.has_bulk(a.id));
            tokio::time::sleep(QUICK.bulk_retry).await;
        }
    };
    tokio::select! { () = only_one(to, send) => panic!("the lane broke"), () = talk => {} }
}

#[tokio::test]
async fn a_second_connection_ends_with_the_lane() {
    let (mut a, mut b) = pair().await;
    b.net.expect_bulk(a.id, BULK_FROM);
    a.bulk(b.id, true).await;
    a.net.disconnect(b.id, "it misbehaved");
    assert_eq!(a.down(b.id).await, DownReason::Disconnected("it misbehaved".to_owned()));
    assert_eq!(b.down(a.id).await, DownReason::Closed);
    assert_eq!(a.net.send_bulk(b.id, bytes(CHUNK, 1)), Err(SendError::NotConnected));
    a.up(b.id).await;
    b.up(a.id).await;
    assert!(!a.net.has_bulk(b.id) && !b.net.has_bulk(a.id));
}

#[tokio::test]
async fn a_peer_that_does_not_read_what_is_large_costs_a_bounded_queue() {
    let mut a = Node::start(1, local(), &[]);
    let mut b = Node::with(config(2, local(), &[a.addr]), QUICK, 1);
    a.up(b.id).await;
    b.up(a.id).await;
    b.net.expect_bulk(a.id, BULK_FROM);
    a.bulk(b.id, true).await;
    let mut queued = 0;
    while a.net.send_bulk(b.id, bytes(CHUNK, 1)).is_ok() {
        queued += CHUNK;
        assert!(queued < 10 * MAX_QUEUED_BYTES, "no bound");
        tokio::task::yield_now().await;
    }
    assert_eq!(a.net.send_bulk(b.id, bytes(CHUNK, 1)), Err(SendError::QueueFull));
    a.bulk(b.id, false).await;
}
