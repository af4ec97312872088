//! A GET through redis-rs on one multiplexed connection, as an application would do it.

use std::io::ErrorKind;
use std::time::Duration;

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::{Asker, Client, Failure, SIZE, ask_all};

pub(super) struct Redis {
    connection: MultiplexedConnection,
    server: tokio::process::Child,
}

/// `None` if there is no Redis here.
pub(super) async fn client() -> Result<Option<Redis>, Failure> {
    let port = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let server = tokio::process::Command::new("redis-server")
        .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--port", &port.to_string()])
        .stdout(std::process::Stdio::null())
        .kill_on_drop(true)
        .spawn();
    let server = match server {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        server => server?,
    };
    let client = redis::Client::open(format!("redis://127.0.0.1:{port}/"))?;
    for _ in 0..500 {
        if let Ok(mut connection) = client.get_multiplexed_async_connection().await {
            let _: () = connection.set("key", vec![7_u8; SIZE]).await?;
            return Ok(Some(Redis { connection, server }));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Err("redis-server does not answer".into())
}

impl Asker for MultiplexedConnection {
    async fn ask(&mut self, _: usize) -> Result<(), Failure> {
        let value: Vec<u8> = self.get("key").await?;
        if value.len() == SIZE { Ok(()) } else { Err("a value of another length".into()) }
    }
}

impl Client for Redis {
    async fn requests(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>, Failure> {
        ask_all(&self.connection, 0..count, in_flight).await
    }

    fn server(&self) -> u32 {
        self.server.id().unwrap_or_default()
    }
}
