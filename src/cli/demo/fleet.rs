//! The demo's nodes: separate processes of this very program, on loopback, found through their data directories.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::cli::{Failure, exit};
use crate::node::control::Client;

/// How long a node may take to start or to hear of its peers; generous, since machines are busy.
const PATIENCE: Duration = Duration::from_secs(30);
const STEP: Duration = Duration::from_millis(20);

/// A node process. It is killed when this is dropped.
pub(super) struct NodeProcess {
    pub(super) name: &'static str,
    pub(super) data: PathBuf,
    process: Child,
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        self.kill();
    }
}

impl NodeProcess {
    /// Starts a node that joins these peers.
    pub(super) fn start(name: &'static str, folder: &Path, peers: &[SocketAddr]) -> Result<Self, Failure> {
        let data = folder.join(name);
        let secret = folder.join("fleet.secret");
        let failed = |what: &str, error: &std::io::Error| Failure::new(exit::FAILED, format!("{what}: {error}"), None);
        let program = std::env::current_exe().map_err(|error| failed("cannot find this program", &error))?;
        let log_path = folder.join(format!("{name}.log"));
        let log = std::fs::File::create(&log_path).map_err(|error| failed("cannot write a log", &error))?;
        let mut command = Command::new(program);
        command.arg("up").arg("--data").arg(&data).args(["--listen", "127.0.0.1:0", "--no-mdns", "--patience", "5s"]);
        command.arg("--secret").arg(&secret);
        if !secret.exists() {
            command.arg("--new-secret");
        }
        for peer in peers {
            command.arg("--peer").arg(peer.to_string());
        }
        let process = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .map_err(|error| failed("cannot start a node", &error))?;
        Ok(Self { name, data, process })
    }

    /// Ends the process at once, as a crash would.
    pub(super) fn kill(&mut self) {
        // A process that is gone already is what was wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }

    /// A client, as soon as the node listens.
    pub(super) async fn client(&mut self) -> Result<Client, Failure> {
        for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
            if let Ok(client) = Client::connect(&self.data).await {
                return Ok(client);
            }
            if let Ok(Some(status)) = self.process.try_wait() {
                let log = self.data.with_extension("log");
                let message = format!("node {} ended with {status}; its log is {}", self.name, log.display());
                return Err(Failure::new(exit::FAILED, message, None));
            }
            tokio::time::sleep(STEP).await;
        }
        Err(Failure::new(exit::FAILED, format!("node {} did not start in time", self.name), None))
    }
}

/// Waits until the node sees this many peers and knows at least this many facts of theirs.
pub(super) async fn settled(client: &Client, peers: usize, facts: u64) -> Result<(), Failure> {
    let mut status = client.status().await?;
    for _ in 0..PATIENCE.as_millis() / STEP.as_millis() {
        status = client.status().await?;
        if status.peers.len() >= peers && status.index_facts >= facts {
            return Ok(());
        }
        tokio::time::sleep(STEP).await;
    }
    let message = format!(
        "node {} has {} of {peers} peers and {} of {facts} facts: the fleet did not settle in time",
        status.node.short(),
        status.peers.len(),
        status.index_facts
    );
    tracing::debug!(?status, "not settled");
    Err(Failure::new(exit::FAILED, message, None))
}
