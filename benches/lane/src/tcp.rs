//! Raw tokio TCP with the lane's framing: a length as `u32` little-endian, then the bytes. The floor.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{Client, Failure, SIZE, Server, Window};

const FRAME: usize = 4 + SIZE;

/// Echoes everything, on one connection after the other.
pub(super) async fn serve() -> Result<(), Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("{}", listener.local_addr()?);
    loop {
        let (mut stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (mut input, mut out) = (vec![0; 64 << 10], Vec::new());
        let mut have = 0;
        loop {
            let read = stream.read(&mut input[have..]).await?;
            if read == 0 {
                break;
            }
            have += read;
            let mut at = 0;
            while have - at >= 4 {
                let len = u32::from_le_bytes(input[at..at + 4].try_into()?) as usize;
                if have - at < 4 + len {
                    break;
                }
                out.extend_from_slice(&input[at..at + 4 + len]);
                at += 4 + len;
            }
            input.copy_within(at..have, 0);
            have -= at;
            stream.write_all(&out).await?;
            out.clear();
        }
    }
}

pub(super) struct Tcp {
    stream: TcpStream,
    server: Server,
}

pub(super) async fn client() -> Result<Tcp, Failure> {
    let (server, address) = Server::start("tcp-server").await?;
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(Tcp { stream, server })
}

impl Client for Tcp {
    async fn requests(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>, Failure> {
        let mut request = (SIZE as u32).to_le_bytes().to_vec();
        request.resize(FRAME, 7);
        let mut window = Window::new(count);
        let (mut input, mut out) = (vec![0; 64 << 10], Vec::new());
        let mut have = 0;
        while !window.done() {
            while window.send(in_flight) {
                out.extend_from_slice(&request);
            }
            self.stream.write_all(&out).await?;
            out.clear();
            let read = self.stream.read(&mut input[have..]).await?;
            if read == 0 {
                return Err("the server hung up".into());
            }
            have += read;
            (0..have / FRAME).for_each(|_| window.received(in_flight));
            input.copy_within(have / FRAME * FRAME..have, 0);
            have %= FRAME;
        }
        Ok(window.times)
    }

    fn server(&self) -> u32 {
        self.server.pid()
    }
}
