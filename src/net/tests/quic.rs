//! Lanes over QUIC: the same lanes, the same secret, both families of addresses, and TCP for whoever does not speak it.

use super::*;
use crate::net::limits::BULK_FROM;

fn by(carrier: Carrier, seed: u8, listen: SocketAddr, peers: &[SocketAddr]) -> Node {
    Node::with(NetConfig { carrier, ..config(seed, listen, peers) }, QUICK, 1024)
}

impl Node {
    /// What carries the lane that comes up next.
    async fn up_by(&mut self) -> Carrier {
        loop {
            match self.next().await {
                NetEvent::Up { carrier, .. } => return carrier,
                NetEvent::Refused { .. } => {}
                other => panic!("{other:?}"),
            }
        }
    }
}

#[tokio::test]
async fn lanes_work_over_quic_in_both_families() {
    for listen in [local(), "[::1]:0".parse().unwrap()] {
        let mut a = by(Carrier::Quic, 1, listen, &[]);
        let mut b = by(Carrier::Quic, 2, listen, &[a.addr]);
        assert_eq!((a.up_by().await, b.up_by().await), (Carrier::Quic, Carrier::Quic));
        for len in [1, 256, 1 << 20, MAX_FRAME] {
            a.net.send(b.id, bytes(len, 3)).unwrap();
            b.net.send(a.id, bytes(len, 4)).unwrap();
            assert!(b.frame(a.id).await == bytes(len, 3), "{len}");
            assert!(a.frame(b.id).await == bytes(len, 4), "{len}");
        }
        // The second connection is a QUIC one too.
        b.net.expect_bulk(a.id, BULK_FROM);
        let start = Instant::now();
        while !a.net.has_bulk(b.id) {
            assert!(start.elapsed() < PATIENCE, "no second connection");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        a.net.send_bulk(b.id, bytes(1 << 20, 5)).unwrap();
        assert!(b.frame(a.id).await == bytes(1 << 20, 5));
        a.net.disconnect(b.id, "enough");
        assert_eq!(a.down(b.id).await, DownReason::Disconnected("enough".to_owned()));
    }
}

#[tokio::test]
async fn another_secret_is_refused_over_quic_and_harms_nobody() {
    let mut a = by(Carrier::Quic, 1, local(), &[]);
    let secret = FleetSecret::from_bytes([8; 32]);
    let stranger = NetConfig { secret, carrier: Carrier::Quic, ..config(2, local(), &[a.addr]) };
    let mut stranger = Node::with(stranger, QUICK, 64);
    // By QUIC, then by TCP, then by QUIC again.
    for _ in 0..3 {
        assert_eq!(stranger.refused().await, Refusal::OtherSecret);
    }
    let mut b = by(Carrier::Quic, 3, local(), &[a.addr]);
    a.up(b.id).await;
    b.up(a.id).await;
    a.net.send(b.id, bytes(5, 5)).unwrap();
    assert_eq!(b.frame(a.id).await, bytes(5, 5));
}

#[tokio::test]
async fn who_speaks_only_tcp_is_met_over_tcp() {
    let mut quiet = by(Carrier::Tcp, 1, local(), &[]);
    let mut dialer = by(Carrier::Quic, 2, local(), &[quiet.addr]);
    assert_eq!((quiet.up_by().await, dialer.up_by().await), (Carrier::Tcp, Carrier::Tcp));
    let mut listener = by(Carrier::Quic, 3, local(), &[]);
    let mut old = by(Carrier::Tcp, 4, local(), &[listener.addr]);
    assert_eq!((listener.up_by().await, old.up_by().await), (Carrier::Tcp, Carrier::Tcp));
}

#[tokio::test]
async fn garbage_on_the_port_does_not_disturb_a_listener() {
    let mut a = by(Carrier::Quic, 1, local(), &[]);
    let socket = tokio::net::UdpSocket::bind(local()).await.unwrap();
    for len in [1, 20, 1200, 1472] {
        for fill in [0, 0x40, 0xc3, 0xff] {
            socket.send_to(&vec![fill; len], a.addr).await.unwrap();
        }
    }
    let mut b = by(Carrier::Quic, 2, local(), &[a.addr]);
    assert_eq!((a.up_by().await, b.up_by().await), (Carrier::Quic, Carrier::Quic));
}
