//! A narrow way to a node: passes on every connection, and no more than so many bytes a second out of the node, all connections together.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Failure;

/// How much a relay may send at once after a time in which nothing came, as time.
const DEPTH: Duration = Duration::from_millis(5);
const PIECE: usize = 16 << 10;

/// When what was sent so far is paid for.
struct Bucket {
    rate: u64,
    paid: Mutex<Instant>,
}

impl Bucket {
    /// Waits until so many bytes may pass. While something waits to be passed on, time in which this process was not on a processor is made up
    /// for, as a link is never idle then.
    async fn take(&self, bytes: usize, idle: bool) {
        let mut paid = self.paid.lock().await;
        if idle {
            *paid = (*paid).max(Instant::now() - DEPTH);
        }
        *paid += Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        // Others wait behind this one, which is what a narrow link does.
        tokio::time::sleep_until(*paid).await;
    }
}

/// Relays to `to` in the background; returns where.
pub(crate) async fn start(to: SocketAddr, rate: u64) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let at = listener.local_addr()?;
    let bucket = Arc::new(Bucket { rate, paid: Mutex::new(Instant::now()) });
    tokio::spawn(async move {
        while let Ok((inbound, _)) = listener.accept().await {
            let Ok(outbound) = TcpStream::connect(to).await else { continue };
            for stream in [&inbound, &outbound] {
                let _ = stream.set_nodelay(true);
            }
            let ((from_client, to_client), (from_node, to_node)) = (inbound.into_split(), outbound.into_split());
            tokio::spawn(pass(from_client, to_node, None));
            tokio::spawn(pass(from_node, to_client, Some(Arc::clone(&bucket))));
        }
    });
    Ok(at)
}

async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, bucket: Option<Arc<Bucket>>) {
    let mut piece = vec![0; PIECE];
    loop {
        let (read, idle) = match from.try_read(&mut piece) {
            Ok(read) => (read, false),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => match from.read(&mut piece).await {
                Ok(read) => (read, true),
                Err(_) => return,
            },
            Err(_) => return,
        };
        if read == 0 {
            return;
        }
        if let Some(bucket) = &bucket {
            bucket.take(read, idle).await;
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
