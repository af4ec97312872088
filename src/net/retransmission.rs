//! How soon a connection goes on once the network is back.
//!
//! TCP sends what was lost again after ever longer waits: after three seconds without a network the next attempt may be three seconds away. Linux
//! (6.15 and newer) lets a connection bound that wait, by the socket option `TCP_RTO_MAX_MS`. Elsewhere lanes work and heal later.

use libp2p::tcp::tokio::TcpStream;

/// The option's number in `linux/tcp.h`, which no library has yet.
#[cfg(target_os = "linux")]
const TCP_RTO_MAX_MS: libc::c_int = 44;
/// The least that it takes.
#[cfg(target_os = "linux")]
const LONGEST_WAIT_MS: libc::c_int = 1000;

/// Bounds the wait between two attempts to send the same bytes.
#[cfg(target_os = "linux")]
#[expect(unsafe_code, reason = "the option has no safe interface")]
pub(super) fn hasten(stream: &TcpStream) {
    use std::os::fd::AsRawFd;

    let wait = LONGEST_WAIT_MS;
    let len = libc::socklen_t::try_from(size_of_val(&wait)).expect("four");
    // SAFETY: the socket is open as long as it is borrowed, and the option is read from `wait`, whose length is given. An older system does not
    // know the option, and says so to nobody.
    unsafe {
        libc::setsockopt(stream.0.as_raw_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, (&raw const wait).cast(), len);
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) fn hasten(_: &TcpStream) {}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::os::fd::AsRawFd;

    use super::*;

    /// What the system says the bound is; `None` if it knows of none.
    #[expect(unsafe_code, reason = "the option has no safe interface")]
    fn bound(stream: &TcpStream) -> Option<libc::c_int> {
        let (mut wait, mut len) = (0, 4);
        // SAFETY: the option is an integer and `wait` has room for one.
        let outcome = unsafe {
            let to = (&raw mut wait).cast();
            libc::getsockopt(stream.0.as_raw_fd(), libc::IPPROTO_TCP, TCP_RTO_MAX_MS, to, &raw mut len)
        };
        (outcome == 0).then_some(wait)
    }

    #[tokio::test]
    async fn the_wait_is_bounded_where_the_system_can() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let stream = tokio::net::TcpStream::connect(listener.local_addr().expect("bound")).await.expect("connects");
        let stream = TcpStream(stream);
        let Some(before) = bound(&stream) else {
            hasten(&stream);
            return;
        };
        assert!(before > LONGEST_WAIT_MS, "the system's own bound is two minutes");
        hasten(&stream);
        assert_eq!(bound(&stream), Some(LONGEST_WAIT_MS));
    }
}
