//! Node processes: started, asked, stopped, killed, paused.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use evalmesh::id::{ContentId, NodeId};
use evalmesh::request::AnswerFrom;
use evalmesh::sim::history::Source;

use super::namespaces::Namespaces;

const PATIENCE: Duration = Duration::from_mins(1);

/// How an ask ended.
pub(super) enum Answer {
    Given { id: ContentId, stdout: String, source: Source },
    Failed(String),
}

/// How the nodes of a fleet get to know each other.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum FoundBy {
    /// Everybody is told where those are that started before.
    Configuration,
    /// Nobody is told anything.
    Mdns,
}

/// A node's place on this machine, and its process while it runs.
pub(super) struct Node {
    data: PathBuf,
    secret: PathBuf,
    listen: String,
    /// The namespace that it lives in.
    namespace: Option<String>,
    process: Option<Child>,
    name: Option<NodeId>,
}

pub(super) struct Fleet {
    pub(super) nodes: Vec<Node>,
    // Dropped after the nodes: a namespace and a folder outlive the processes in them.
    pub(super) namespaces: Option<Namespaces>,
    found_by: FoundBy,
    folder: tempfile::TempDir,
}

#[expect(clippy::disallowed_methods, reason = "real processes take real time")]
pub(super) fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "waited too long for {what}");
        sleep(Duration::from_millis(50));
    }
}

fn evalmesh(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_evalmesh")).args(args).env_remove("EVALMESH_DATA").output().expect("it runs")
}

impl Fleet {
    /// A fleet on loopback in which everybody knows each other.
    pub(super) fn on_loopback(nodes: usize) -> Self {
        Self::start(nodes, &|_| ("127.0.0.1:0".to_owned(), None), None, FoundBy::Configuration)
    }

    pub(super) fn start(
        nodes: usize,
        place: &dyn Fn(usize) -> (String, Option<String>),
        namespaces: Option<Namespaces>,
        found_by: FoundBy,
    ) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let secret = folder.path().join("secret");
        let mut fleet = Self { nodes: Vec::new(), namespaces, found_by, folder };
        for number in 0..nodes {
            let (listen, namespace) = place(number);
            let data = fleet.folder.path().join(format!("node{number}"));
            std::fs::create_dir(&data).expect("a folder");
            if namespace.is_some() {
                fleet.namespaces.as_mut().expect("a fleet in namespaces").small_disk(&data);
            }
            let (process, name) = (None, None);
            fleet.nodes.push(Node { data, secret: secret.clone(), listen, namespace, process, name });
            fleet.restart(number);
        }
        fleet.settle(0);
        fleet
    }

    /// Starts a node (again); it is told of all nodes that run.
    pub(super) fn restart(&mut self, number: usize) {
        let running = self.nodes.iter().filter(|node| node.process.is_some());
        let peers: Vec<_> = match self.found_by {
            FoundBy::Configuration => running.map(|node| node.line("listening")).collect(),
            FoundBy::Mdns => Vec::new(),
        };
        self.nodes[number].start(&peers, self.found_by);
    }

    /// How many peers each node has a lane to.
    pub(super) fn peers(&self) -> Vec<usize> {
        let count = |node: &Node| node.status().lines().filter(|line| line.starts_with("peer ")).count();
        self.nodes.iter().map(count).collect()
    }

    /// Waits until everybody knows everybody, and of so many questions.
    pub(super) fn settle(&self, questions: usize) {
        let others = self.nodes.len() - 1;
        for (number, node) in self.nodes.iter().enumerate() {
            wait_for(&format!("node {number} to know {others} peers"), || {
                node.status().lines().filter(|line| line.starts_with("peer ")).count() >= others
            });
        }
        // A heartbeat a second says how long a log is; two of them reach everybody.
        sleep(Duration::from_millis(2500));
        let known =
            |node: &Node| node.line("index").split(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0_usize);
        for (number, node) in self.nodes.iter().enumerate().filter(|_| questions > 0) {
            wait_for(&format!("node {number} to hear of what others hold"), || known(node) > 0);
        }
    }

    /// Cuts a node off the network, or connects it again.
    pub(super) fn cut(&self, node: usize, cut: bool) {
        self.namespaces.as_ref().expect("a fleet in namespaces").cut(node, cut);
    }

    /// Makes a node's link narrow.
    pub(super) fn limit(&self, node: usize, rate: &str) {
        self.namespaces.as_ref().expect("a fleet in namespaces").limit(node, rate);
    }
}

impl Node {
    fn start(&mut self, peers: &[String], found_by: FoundBy) {
        let program = env!("CARGO_BIN_EXE_evalmesh");
        let mut command = match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        };
        command.arg("up").arg("--data").arg(&self.data).arg("--secret").arg(&self.secret);
        command.args(["--listen", &self.listen]);
        if found_by == FoundBy::Configuration {
            command.arg("--no-mdns");
        }
        if !self.secret.exists() {
            command.arg("--new-secret");
        }
        for peer in peers {
            command.args(["--peer", peer]);
        }
        let process = command.env("EVALMESH_LOG", "off").stderr(Stdio::null()).spawn().expect("it starts");
        self.process = Some(process);
        wait_for("a node to answer", || !self.status().is_empty());
        self.name = self.line("node").split(' ').next().and_then(|name| name.parse().ok());
    }

    pub(super) fn name(&self) -> NodeId {
        self.name.expect("it told its name when it started")
    }

    pub(super) fn data(&self) -> &Path {
        &self.data
    }

    fn status(&self) -> String {
        let output = evalmesh(&["status", "--data", &self.data.to_string_lossy()]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    fn line(&self, name: &str) -> String {
        let status = self.status();
        status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim().to_owned()
    }

    /// In how many ways do `n` queens stand on their board? Whoever wants it held gets no computed answer.
    pub(super) fn ask(&self, n: u32, from: AnswerFrom) -> Answer {
        let program = format!("{}/examples/guests/queens.wasm", env!("CARGO_MANIFEST_DIR"));
        let (n, data) = (n.to_string(), self.data.to_string_lossy());
        let mut args = vec!["eval", &program, "--entry", "queens", "--arg", &n, "--timeout", "30s", "--data", &data];
        args.extend((from == AnswerFrom::HeldOnly).then_some("--cached-only"));
        let output = evalmesh(&args);
        let (stdout, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let line = told.lines().last().unwrap_or_default();
        let words: Vec<_> = line.split(' ').collect();
        let source = match words.first() {
            Some(&"computed") => Source::Computed,
            Some(&("ram" | "disk")) => Source::Memory,
            Some(&"peer") => Source::Peer(NodeId::from_bytes([0; 32])),
            _ => return Answer::Failed(told.into_owned()),
        };
        let id = words.iter().find_map(|word| word.parse().ok());
        match id {
            Some(id) if output.status.success() => Answer::Given { id, stdout: stdout.into_owned(), source },
            _ => Answer::Failed(told.into_owned()),
        }
    }

    /// Sends a signal by its name, to this process alone.
    pub(super) fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("it runs");
        let sent = Command::new("kill").args([&format!("-{name}"), &process.id().to_string()]).status();
        assert!(sent.expect("kill runs").success());
    }

    /// Ends it as a power failure of the process alone does.
    pub(super) fn kill(&mut self) {
        let mut process = self.process.take().expect("it runs");
        process.kill().expect("it can be killed");
        process.wait().expect("it ends");
    }

    /// Ends it as Ctrl-C does.
    pub(super) fn stop(&mut self) {
        if self.process.is_some() {
            self.signal("INT");
            self.process.take().expect("it runs").wait().expect("it ends");
        }
    }

    /// Fills the file system that its data is on, if that is a small one of its own.
    pub(super) fn fill_disk(&self) -> bool {
        let ballast = vec![0; 64 * 1024 * 1024];
        self.namespace.is_some() && std::fs::write(self.data.join("ballast"), ballast).is_err()
    }

    pub(super) fn free_disk(&self) {
        std::fs::remove_file(self.data.join("ballast")).expect("it was made");
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(mut process) = self.process.take() {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}
