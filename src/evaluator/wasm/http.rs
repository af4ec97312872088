//! Read-through over HTTPS: `BASE/HEX.bin`, one pooled client, every failure a miss with its reason.
//!
//! Redirects are not followed and plain HTTP is for this machine alone: what comes back is checked in any case, but who asks for what is nobody's
//! business. Invariant: no answer is waited for longer, and none is read further, than its bound.

use std::time::Duration;

use super::remote::{Fetch, file_name, read_bounded};
use crate::evaluator::artifacts::Miss;
use crate::id::Digest;

/// One fetch as a whole: 40 MB within a data centre, with room.
const PATIENCE: Duration = Duration::from_secs(30);
/// Getting a connection; a server that is down must not hold up a compilation that could have begun.
const CONNECT: Duration = Duration::from_secs(3);

/// A server of published copies.
#[derive(Debug, Clone)]
pub struct Https {
    base: String,
    client: ureq::Agent,
}

/// An address that copies cannot be read from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an https:// address (plain http:// is for this machine alone)")]
pub struct AddressError(String);

impl Https {
    /// Reads copies below this address.
    pub fn new(base: &str) -> Result<Self, AddressError> {
        let base = base.trim_end_matches('/');
        let local = ["http://127.0.0.1:", "http://[::1]:", "http://localhost:"];
        if !base.starts_with("https://") && !local.iter().any(|prefix| base.starts_with(prefix)) {
            return Err(AddressError(base.to_owned()));
        }
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(PATIENCE))
            .timeout_connect(Some(CONNECT))
            .max_redirects(0)
            .http_status_as_error(false)
            .build();
        Ok(Self { base: base.to_owned(), client: config.into() })
    }
}

impl Fetch for Https {
    fn fetch(&self, name: &Digest) -> Result<Vec<u8>, Miss> {
        let response = self.client.get(format!("{}/{}", self.base, file_name(name))).call();
        let mut response = response.map_err(|_| Miss::Transport)?;
        match response.status().as_u16() {
            200 => read_bounded(response.body_mut().as_reader()).map_err(|_| Miss::Transport)?.ok_or(Miss::TooLarge),
            404 | 410 => Err(Miss::Absent),
            _ => Err(Miss::Server),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// Answers each connection with the next of these, and says what was asked.
    fn serve(answers: Vec<&'static [u8]>) -> (String, thread::JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/copies/", listener.local_addr().unwrap());
        let server = thread::spawn(move || {
            let answer = |bytes: &&[u8]| {
                let (mut stream, _) = listener.accept().unwrap();
                let mut asked = [0; 2048];
                let len = stream.read(&mut asked).unwrap();
                stream.write_all(bytes).unwrap();
                String::from_utf8_lossy(&asked[..len]).lines().next().unwrap_or_default().to_owned()
            };
            answers.iter().map(answer).collect()
        });
        (base, server)
    }

    #[test]
    fn every_answer_is_a_hit_or_a_miss_with_its_reason() {
        let (base, server) = serve(vec![
            b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\ncopy",
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\nConnection: close\r\n\r\nbroken off",
            b"not HTTP",
        ]);
        let (source, name) = (Https::new(&base).unwrap(), Digest::of(b"x"));
        let found: Vec<_> = (0..6).map(|_| source.fetch(&name)).collect();
        let transport = || Err(Miss::Transport);
        let expected =
            [Ok(b"copy".to_vec()), Err(Miss::Absent), Err(Miss::Server), Err(Miss::Server), transport(), transport()];
        assert_eq!(found, expected);
        let asked = server.join().unwrap();
        assert!(asked.iter().all(|line| *line == format!("GET /copies/{name}.bin HTTP/1.1")), "{asked:?}");
        assert_eq!(source.fetch(&name), transport(), "nobody listens any more");
    }

    #[test]
    fn plain_http_is_for_this_machine_alone() {
        for address in ["http://example.org/", "ftp://x", "", "https:/example.org", "http://127.0.0.1.example.org/"] {
            assert!(Https::new(address).is_err(), "{address}");
        }
        assert!(Https::new("https://example.org/copies").is_ok());
    }
}
