//! `evalmesh up`: a node until Ctrl-C.

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;
#[cfg(feature = "wasm")]
use std::sync::Arc;
use std::time::Duration;

use tracing::info;
use tracing_subscriber::EnvFilter;

use crate::cli::{DataDir, Failure, exit, paths, runtime, size};
#[cfg(feature = "wasm")]
use crate::evaluator::wasm::{Fetch, Folder, RemoteConfig};
#[cfg(feature = "wasm")]
use crate::id::NodeId;
use crate::net::{Carrier, ParsePeerError, PeerAddr};
use crate::node::{Network, Node, NodeBuilder};
use crate::request::Name;

/// How a node joins a fleet; shared by `up` and by an `eval` without a running node.
#[derive(Debug, Clone, clap::Args)]
pub(super) struct Fleet {
    /// A peer to join, `HOST:PORT` or `NODE@HOST:PORT`; may be repeated.
    #[arg(long = "peer", value_name = "ADDR")]
    pub(super) peers: Vec<PeerAddr>,
    /// A file with peers to join, one to a line; a line that begins with `#` is a comment.
    #[arg(long, value_name = "FILE", env = "EVALMESH_PEERS_FILE")]
    pub(super) peers_file: Option<PathBuf>,
    /// The file with the fleet secret [default: the user's, made at first use].
    #[arg(long, value_name = "FILE", env = "EVALMESH_SECRET")]
    pub(super) secret: Option<PathBuf>,
}

impl Fleet {
    /// The peers of the command line and of the peers file.
    pub(super) fn all_peers(&self) -> Result<Vec<PeerAddr>, Failure> {
        let mut peers = self.peers.clone();
        let Some(path) = &self.peers_file else { return Ok(peers) };
        let text = std::fs::read_to_string(path).map_err(|error| Failure::unreadable(path, &error))?;
        for (number, line) in text.lines().map(str::trim).enumerate() {
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let wrong = |error: ParsePeerError| {
                Failure::new(exit::INPUT, format!("{}:{}: {error}", path.display(), number + 1), error.hint())
            };
            peers.push(line.parse().map_err(wrong)?);
        }
        Ok(peers)
    }
}

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    fleet: Fleet,
    /// Where to listen for peers; port 0 takes any free one. May be repeated.
    #[arg(long, value_name = "IP:PORT", default_values = ["0.0.0.0:0"])]
    listen: Vec<SocketAddr>,
    /// Do not look for peers on the local network.
    #[arg(long)]
    no_mdns: bool,
    /// Speak QUIC with peers that do so too, and TCP with the others; listens for both on the same ports.
    #[cfg(feature = "quic")]
    #[arg(long)]
    quic: bool,
    /// Make a new fleet secret in the file named by --secret, which must not exist yet.
    #[arg(long, requires = "secret")]
    new_secret: bool,
    /// Grant a capability to programs that ask for it, for example `eval`: to ask for other replies. May be repeated.
    #[arg(long = "grant", value_name = "NAME")]
    grants: Vec<Name>,
    /// Where signed compiled code is read from: a folder, or with the feature `artifacts-http` an address. May be repeated.
    #[cfg(feature = "wasm")]
    #[arg(long, value_name = "PLACE", requires = "artifact_signers")]
    artifacts: Vec<String>,
    /// A node whose compiled code is run here: 64 hexadecimal digits, as `publish` prints them. May be repeated.
    #[cfg(feature = "wasm")]
    #[arg(long = "artifact-signer", value_name = "NODE", requires = "artifacts")]
    artifact_signers: Vec<NodeId>,
    /// The provenance that compiled code must state, word for word [default: any].
    #[cfg(feature = "wasm")]
    #[arg(long, value_name = "TEXT", requires = "artifacts")]
    artifact_source: Option<String>,
    /// Leave the GPUs of this machine alone.
    #[cfg(feature = "gpu")]
    #[arg(long)]
    no_gpu: bool,
    /// How long to wait for a known holder before computing beside it [default: one measured round trip and 2 ms].
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    patience: Option<Duration>,
    /// Disk that the ledger may take, as in 20GiB: beyond it payloads are dropped, least recently used first; pinned ones stay (see `evalmesh
    /// pin`) [default: no bound].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    disk_budget: Option<u64>,
    /// Replies kept in memory, as in 512MiB [default: 64MiB].
    #[arg(long, value_name = "SIZE", value_parser = size)]
    memory: Option<u64>,
}

pub(super) fn run(args: Args) -> Result<u8, Failure> {
    let filter = EnvFilter::try_from_env("EVALMESH_LOG").unwrap_or_else(|_| EnvFilter::new("evalmesh=info"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false)
        .init();
    let directory = args.data.resolve()?;
    let peers = args.fleet.all_peers()?;
    let secret = match args.fleet.secret {
        Some(path) if args.new_secret => paths::make_secret(&path)?,
        named => paths::fleet_secret(named)?,
    };
    #[cfg(feature = "wasm")]
    let remotes = remotes(&args.artifacts, &args.artifact_signers, args.artifact_source.as_ref())?;
    let carrier = Carrier::default();
    #[cfg(feature = "quic")]
    let carrier = if args.quic { Carrier::Quic } else { carrier };
    let network = Network { secret, listen: args.listen, peers, mdns: !args.no_mdns, carrier };
    let mut builder = Node::builder().data_dir(&directory).control().network(network);
    builder = args.grants.into_iter().fold(builder, NodeBuilder::grant);
    #[cfg(feature = "wasm")]
    {
        builder = remotes.into_iter().fold(builder, NodeBuilder::artifacts);
    }
    #[cfg(feature = "gpu")]
    if args.no_gpu {
        builder = builder.without_gpu();
    }
    if let Some(patience) = args.patience {
        builder = builder.patience(patience);
    }
    if let Some(bytes) = args.disk_budget {
        builder = builder.disk_budget(bytes);
    }
    if let Some(bytes) = args.memory {
        builder = builder.memory_budget(usize::try_from(bytes).unwrap_or(usize::MAX));
    }
    let node = builder.start()?;
    #[cfg(feature = "gpu")]
    node.prepare_devices();
    let addresses: Vec<_> = node.status().addresses.iter().map(ToString::to_string).collect();
    info!(node = %node.id().short(), data = %directory.display(), listening = addresses.join(" "), "up; Ctrl-C stops");
    let runtime = runtime()?;
    let code = runtime.block_on(async {
        stop_signal().await?;
        info!("stopping; Ctrl-C again stops at once");
        let stopping = tokio::task::spawn_blocking(move || node.shutdown());
        // Whatever is acknowledged survives the impatient way too: that is what the ledger is for.
        tokio::select! {
            _ = stopping => Ok(exit::OK),
            again = stop_signal() => again.map(|()| exit::INTERRUPTED),
        }
    });
    runtime.shutdown_background();
    let code = code.map_err(|error: std::io::Error| {
        Failure::new(exit::FAILED, format!("cannot wait for Ctrl-C: {error}"), None)
    })?;
    info!("stopped");
    Ok(code)
}

/// The places that compiled code is read from.
#[cfg(feature = "wasm")]
fn remotes(places: &[String], signers: &[NodeId], source: Option<&String>) -> Result<Vec<RemoteConfig>, Failure> {
    let remote = |place: &String| {
        let fetch: Arc<dyn Fetch> =
            if place.contains("://") { over_http(place)? } else { Arc::new(Folder(place.into())) };
        Ok(RemoteConfig { signers: signers.to_vec(), source: source.cloned(), fetch })
    };
    places.iter().map(remote).collect()
}

#[cfg(feature = "artifacts-http")]
fn over_http(place: &str) -> Result<Arc<dyn Fetch>, Failure> {
    let https = crate::evaluator::wasm::Https::new(place);
    let https = https.map_err(|error| Failure::new(exit::USAGE, error.to_string(), "name an https:// address"))?;
    Ok(Arc::new(https))
}

#[cfg(all(feature = "wasm", not(feature = "artifacts-http")))]
fn over_http(place: &str) -> Result<Arc<dyn Fetch>, Failure> {
    let message = format!("`{place}` is an address, and this build reads from folders alone");
    Err(Failure::new(exit::USAGE, message, "build evalmesh with the feature `artifacts-http`"))
}

#[cfg(unix)]
async fn stop_signal() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};

    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        result = tokio::signal::ctrl_c() => result,
        _ = terminate.recv() => Ok(()),
    }
}

#[cfg(not(unix))]
async fn stop_signal() -> std::io::Result<()> {
    tokio::signal::ctrl_c().await
}
