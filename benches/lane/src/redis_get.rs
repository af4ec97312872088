//! A GET through redis-rs on one multiplexed connection, as an application would do it.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use redis::AsyncCommands;
use redis::aio::MultiplexedConnection;

use super::{Client, Failure, SIZE};

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

impl Client for Redis {
    async fn requests(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>, Failure> {
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..in_flight {
            let mut connection = self.connection.clone();
            tasks.spawn(async move {
                let mut times = Vec::new();
                for _ in 0..count.div_ceil(in_flight) {
                    let sent_at = Instant::now();
                    let value: Vec<u8> = connection.get("key").await?;
                    if in_flight == 1 {
                        times.push(sent_at.elapsed());
                    }
                    if value.len() != SIZE {
                        return Err(Failure::from("a value of another length"));
                    }
                }
                Ok(times)
            });
        }
        let mut times = Vec::new();
        while let Some(done) = tasks.join_next().await {
            times.extend(done??);
        }
        Ok(times)
    }

    fn server(&self) -> u32 {
        self.server.id().unwrap_or_default()
    }
}
