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

/// How much a relay may send at once after a pause, as time: it is not always on a processor when a piece is due.
const DEPTH: Duration = Duration::from_millis(20);
const PIECE: usize = 16 << 10;

/// When what was sent so far is paid for.
struct Bucket {
    rate: u64,
    paid: Mutex<Instant>,
}

impl Bucket {
    async fn take(&self, bytes: usize) {
        let mut paid = self.paid.lock().await;
        let now = Instant::now();
        *paid = (*paid).max(now - DEPTH) + Duration::from_secs_f64(bytes as f64 / self.rate as f64);
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
    while let Ok(read @ 1..) = from.read(&mut piece).await {
        if let Some(bucket) = &bucket {
            bucket.take(read).await;
        }
        if to.write_all(&piece[..read]).await.is_err() {
            return;
        }
    }
}
