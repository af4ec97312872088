//! Where the control socket is: a Unix socket in the data directory, or, where that cannot be, a loopback port with a secret.
//!
//! A Unix socket's path may have about 100 bytes, and other systems have none at all. Then the node listens on a loopback port and writes
//! the port and a random secret to a private file beside where the socket would be; a client proves that it could read the file.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
#[cfg(unix)]
use tokio::net::{UnixListener, UnixStream};

use crate::id::Digest;
use crate::node::clock;
use crate::node::keyfile::write_private;

const SOCKET: &str = "node.sock";
const PORT_FILE: &str = "node.port";
/// The shortest bound of `sockaddr_un` among systems (macOS: 104 with the final NUL).
#[cfg(unix)]
const MAX_SOCKET_PATH: usize = 103;

/// A stream to or from a client.
pub(super) trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// A listening control endpoint. Its file is removed on drop.
pub(super) struct Listener {
    kind: Kind,
    file: PathBuf,
    /// What a client must prove first, where file permissions do not protect the endpoint.
    pub(super) secret: Option<[u8; 32]>,
}

enum Kind {
    #[cfg(unix)]
    Unix(UnixListener),
    Tcp(TcpListener),
}

impl Listener {
    /// Listens in this data directory. The caller holds the directory's lock, so a socket that is there is a left-over and replaced.
    pub(super) fn bind(data_dir: &Path) -> io::Result<Self> {
        for left_over in [SOCKET, PORT_FILE] {
            remove_if_there(&data_dir.join(left_over))?;
        }
        #[cfg(unix)]
        if let Some(listener) = Self::bind_unix(data_dir)? {
            return Ok(listener);
        }
        Self::bind_tcp(data_dir)
    }

    #[cfg(unix)]
    fn bind_unix(data_dir: &Path) -> io::Result<Option<Self>> {
        use std::os::unix::fs::PermissionsExt;

        let file = data_dir.join(SOCKET);
        if file.as_os_str().len() > MAX_SOCKET_PATH {
            return Ok(None);
        }
        let listener = UnixListener::bind(&file)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600))?;
        Ok(Some(Self { kind: Kind::Unix(listener), file, secret: None }))
    }

    fn bind_tcp(data_dir: &Path) -> io::Result<Self> {
        let listener = std::net::TcpListener::bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        listener.set_nonblocking(true)?;
        let port = listener.local_addr()?.port();
        let secret: [u8; 32] = clock::random()?;
        let file = data_dir.join(PORT_FILE);
        write_private(&file, &format!("{port} {}", Digest::from_bytes(secret)))?;
        Ok(Self { kind: Kind::Tcp(TcpListener::from_std(listener)?), file, secret: Some(secret) })
    }

    pub(super) async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match &self.kind {
            #[cfg(unix)]
            Kind::Unix(listener) => Ok(Box::new(listener.accept().await?.0)),
            Kind::Tcp(listener) => Ok(Box::new(listener.accept().await?.0)),
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A left-over is replaced at the next start; nobody is there to hear about it now.
        let _ = fs::remove_file(&self.file);
    }
}

/// Connects to the node of this data directory; the secret is what must be proven first.
pub(super) async fn connect(data_dir: &Path) -> io::Result<(Box<dyn Stream>, Option<[u8; 32]>)> {
    #[cfg(unix)]
    {
        let file = data_dir.join(SOCKET);
        if file.as_os_str().len() <= MAX_SOCKET_PATH && file.exists() {
            return Ok((Box::new(UnixStream::connect(file).await?), None));
        }
    }
    let text = fs::read_to_string(data_dir.join(PORT_FILE))?;
    let bad = || io::Error::new(io::ErrorKind::InvalidData, format!("{PORT_FILE} is damaged"));
    let (port, secret) = text.trim().split_once(' ').ok_or_else(bad)?;
    let port: u16 = port.parse().map_err(|_| bad())?;
    let secret: Digest = secret.parse().map_err(|_| bad())?;
    Ok((Box::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?), Some(*secret.as_bytes())))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}
