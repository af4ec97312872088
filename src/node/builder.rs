//! How a node is put together: directory and key, ledger and cassette, evaluators, lanes, loop, control socket - in that order, so that
//! whatever fails leaves nothing half-started.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use tokio::sync::mpsc;
use tracing::{info, warn};

use super::addresses::Exchange;
use super::clock::{Clock, random, unix_micros};
use super::control::ControlServer;
use super::driver::{Driver, EVENTS, Event};
use super::evaluators::Evaluators;
use super::hands::Hands;
use super::keyfile::{self, KeyError};
use super::lanes::Lanes;
use super::shared::Shared;
#[cfg(feature = "wasm")]
use super::slots::NodeSlots;
use super::turns::{After, Turns};
use super::{Inner, Node, StopOnDrop};
use crate::cassette::{CassetteOptions, CassetteWriter, Recorder, RecorderHandle};
use crate::error::EvalError;
use crate::evaluator::Evaluator;
use crate::evaluator::pool::Pool;
use crate::fabric::{Config, Fabric, Input};
use crate::id::{EpochId, NodeId};
use crate::identity::{Identity, MemoVerifier, Signer};
use crate::ledger::{FileStorage, MemoryStorage, OpenError, Opening, Recovery, Storage};
use crate::request::Name;

/// Compiled programs in the data directory: native code and pipelines.
#[cfg(any(feature = "gpu", feature = "wasm"))]
const AOT: &str = "aot";

/// Threads for disk, hashing and signatures: two, so that one slow disk read does not hold up every check.
const IO_THREADS: usize = 2;

/// Why a node did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StartError {
    /// The data directory or its ledger cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The node's key cannot be read or made.
    #[error("node key: {0}")]
    Key(#[from] KeyError),
    /// The network did not start.
    #[cfg(feature = "net")]
    #[error(transparent)]
    Net(#[from] crate::net::NetError),
    /// An evaluator did not start.
    #[error("evaluator: {0}")]
    Evaluator(EvalError),
    /// The control socket, a thread or the system's randomness failed.
    #[error("{what}: {source}")]
    System {
        /// What was being started.
        what: &'static str,
        /// The system's words.
        source: io::Error,
    },
}

impl StartError {
    /// One line that tells a person what to do next.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Open(error) => error.hint(),
            Self::Key(KeyError::Malformed(_)) => {
                "restore the key from a copy, or move the directory away and start anew"
            }
            Self::Key(_) => "check the owner and permissions of the data directory",
            #[cfg(feature = "net")]
            Self::Net(error) => error.hint(),
            Self::Evaluator(_) => "this build or machine lacks what the evaluator needs",
            Self::System { .. } => "check permissions and limits of this process",
        }
    }
}

/// Settings of a node. The default keeps everything in memory, talks to nobody and runs wasm programs.
#[derive(Default)]
pub struct NodeBuilder {
    data_dir: Option<PathBuf>,
    control: bool,
    cassette: CassetteOptions,
    patience: Option<Duration>,
    grants: Vec<Name>,
    evaluators: Vec<Arc<dyn Evaluator>>,
    #[cfg(feature = "wasm")]
    compilation: Option<crate::evaluator::wasm::Compilation>,
    #[cfg(feature = "wasm")]
    remotes: Vec<crate::evaluator::wasm::RemoteConfig>,
    #[cfg(feature = "gpu")]
    gpu: GpuUse,
    #[cfg(feature = "net")]
    network: Option<Network>,
}

/// What a node does with GPUs.
#[cfg(feature = "gpu")]
#[derive(Default)]
enum GpuUse {
    /// It uses what is there.
    #[default]
    Usual,
    As(crate::evaluator::gpu::GpuConfig),
    Off,
}

/// How a node joins its fleet.
#[cfg(feature = "net")]
#[derive(Debug)]
pub struct Network {
    /// What all nodes of the fleet know and nobody else.
    pub secret: crate::net::FleetSecret,
    /// Where to listen; port 0 takes any free one.
    pub listen: Vec<SocketAddr>,
    /// Peers that are always dialled.
    pub peers: Vec<crate::net::PeerAddr>,
    /// Whether to look for peers on the local network.
    pub mdns: bool,
    /// What carries the lanes.
    pub carrier: crate::net::Carrier,
}

impl NodeBuilder {
    /// Keeps ledger and key in this directory, which is made if it is not there. One process at a time may have it open.
    #[must_use]
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Opens the control socket in the data directory, so that `evalmesh eval` and other processes find this node.
    #[must_use]
    pub fn control(mut self) -> Self {
        self.control = true;
        self
    }

    /// Bytes of disk that the ledger may take. Beyond them payloads are dropped, least recently used first, and only then the oldest
    /// segments as a whole; pinned answers stay. Without it nothing is ever dropped.
    #[must_use]
    pub fn disk_budget(mut self, bytes: u64) -> Self {
        self.cassette.disk_bytes = Some(bytes);
        self
    }

    /// Bytes of replies kept in memory. Without it: [`RAM_BYTES`](crate::cassette::limits::RAM_BYTES).
    #[must_use]
    pub fn memory_budget(mut self, bytes: usize) -> Self {
        self.cassette.ram_bytes = bytes;
        self
    }

    /// Joins a fleet.
    #[cfg(feature = "net")]
    #[must_use]
    pub fn network(mut self, network: Network) -> Self {
        self.network = Some(network);
        self
    }

    /// How long to wait for a known holder before computing beside it. Without it: one measured round trip and 2 ms.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    /// Grants a capability to programs that ask for it.
    #[must_use]
    pub fn grant(mut self, capability: Name) -> Self {
        self.grants.push(capability);
        self
    }

    /// Adds an evaluator; it replaces another one of the same engine.
    #[must_use]
    pub fn evaluator(mut self, evaluator: impl Evaluator + 'static) -> Self {
        self.evaluators.push(Arc::new(evaluator));
        self
    }

    /// Where wasm programs are compiled. Without it: in worker processes if this process called
    /// [`enter_worker_role`](crate::evaluator::wasm::worker::enter_worker_role) first in its `main`, else in this process.
    #[cfg(feature = "wasm")]
    #[must_use]
    pub fn compilation(mut self, compilation: crate::evaluator::wasm::Compilation) -> Self {
        self.compilation = Some(compilation);
        self
    }

    /// Takes compiled code that a listed signer made from a remote, after its own disk and before compiling. May be called again for another one.
    #[cfg(feature = "wasm")]
    #[must_use]
    pub fn artifacts(mut self, remote: crate::evaluator::wasm::RemoteConfig) -> Self {
        self.remotes.push(remote);
        self
    }

    /// How GPUs are used. Without it: every device that passes its tests, from when the first GPU program comes or somebody asks for the devices, in
    /// worker processes of this executable if it called [`enter_worker_role`](crate::evaluator::worker::enter_worker_role).
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn gpu(mut self, config: crate::evaluator::gpu::GpuConfig) -> Self {
        self.gpu = GpuUse::As(config);
        self
    }

    /// Leaves the GPUs alone: GPU programs are answered from memory and by other nodes.
    #[cfg(feature = "gpu")]
    #[must_use]
    pub fn without_gpu(mut self) -> Self {
        self.gpu = GpuUse::Off;
        self
    }

    /// Starts the node. Returns when it answers; listening sockets are bound by then.
    pub fn start(self) -> Result<Node, StartError> {
        let system = |what| move |source| StartError::System { what, source };
        let clock = Clock::start();
        let (storage, identity) = open_directory(self.data_dir.as_deref())?;
        let signer: Arc<dyn Signer> = Arc::new(identity.clone());
        let (events, inbox) = mpsc::channel(EVENTS);
        let turns = Turns::new(events.clone());
        let recorder = self.open_ledger(storage, signer.node(), &turns)?;
        let cassette = recorder.cassette().clone();

        let mut evaluators = Evaluators::default();
        #[cfg(feature = "wasm")]
        let wasm = self.start_wasm(&identity)?;
        #[cfg(feature = "wasm")]
        evaluators.add(Arc::new(wasm.clone()));
        #[cfg(feature = "gpu")]
        let gpu = self.add_gpu(&identity, &events, &mut evaluators);
        for evaluator in &self.evaluators {
            evaluators.add(Arc::clone(evaluator));
        }
        let evaluators = Arc::new(evaluators);
        #[cfg(feature = "wasm")]
        let slots = NodeSlots::open(wasm.clone(), self.data_dir.as_ref().map(|directory| directory.join("slots")));
        let usual = Config::new(signer.node(), cassette.ledger().lineage(), cassette.ledger().durable());
        let config = Config { patience: self.patience, ..usual };
        #[cfg(feature = "net")]
        let exchange = Exchange::new(self.network.iter().flat_map(|network| &network.peers).map(|peer| peer.addr));
        #[cfg(feature = "net")]
        let (lanes, addresses) = start_lanes(self.network, &identity)?;
        #[cfg(not(feature = "net"))]
        let (lanes, addresses, exchange): (_, Vec<SocketAddr>, _) = (Lanes::none(), Vec::new(), Exchange::new([]));
        let shared = Arc::new(Shared::default());
        for address in addresses {
            shared.listening(address);
        }

        let inner = Arc::new(Inner {
            me: signer.node(),
            data_dir: self.data_dir.clone(),
            grants: self.grants,
            cassette: cassette.clone(),
            evaluators: Arc::clone(&evaluators),
            events: events.clone(),
            turns: Arc::clone(&turns),
            desks: Arc::default(),
            shared: Arc::clone(&shared),
            clock,
            next_job: AtomicU64::new(1),
            #[cfg(feature = "wasm")]
            wasm,
            #[cfg(feature = "wasm")]
            slots,
            #[cfg(feature = "gpu")]
            gpu,
            thread: Mutex::new(None),
        });
        let own_handle = Node { inner: Arc::clone(&inner), _guard: None };
        let asking_handle = own_handle.clone();
        let control = match &self.data_dir {
            Some(directory) if self.control => {
                Some(ControlServer::start(own_handle, directory).map_err(system("control socket"))?)
            }
            _ => None,
        };
        let hands = Hands {
            clock,
            signer,
            verifier: Arc::new(MemoVerifier::default()),
            proven: crate::proof::ProvenNodes::default(),
            cassette,
            recorder: recorder.clone(),
            evaluators,
            lanes,
            exchange,
            shared,
            io: Pool::start("evalmesh-io", IO_THREADS).map_err(system("I/O threads"))?,
            events,
            turns: Arc::clone(&turns),
            waiting: std::collections::BTreeMap::new(),
            made_here: std::collections::VecDeque::new(),
            touched: Vec::new(),
            adoptions: Vec::new(),
            after: After::default(),
            running: std::collections::BTreeMap::new(),
            node: asking_handle,
            waits: Arc::default(),
            askers: std::collections::BTreeMap::new(),
            wake_at: None,
            placing: super::placing::Placing::default(),
            checked_here: None,
        };
        let driver = Driver::new(clock, Fabric::new(config), hands);
        let thread = spawn_loop(driver, turns, inbox, control, recorder)?;
        *inner.thread.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(thread);
        Ok(Node { _guard: Some(Arc::new(StopOnDrop(Arc::clone(&inner)))), inner })
    }

    /// The ledger, and the thread that writes it.
    fn open_ledger(
        &self,
        storage: Arc<dyn Storage>,
        node: NodeId,
        turns: &Arc<Turns>,
    ) -> Result<RecorderHandle, StartError> {
        let epoch = random().map_err(|source| StartError::System { what: "randomness", source })?;
        let opening = Opening::new(node, EpochId::from_bytes(epoch), unix_micros());
        let (writer, recovery) = CassetteWriter::open(storage, &opening, self.cassette)?;
        report(&recovery);
        let turns = Arc::clone(turns);
        let on_durable = move |length| turns.put(Event::Fabric(Input::Durable(length)));
        Recorder::start(writer, Some(Box::new(on_durable)))
            .map_err(|source| StartError::System { what: "ledger thread", source })
    }

    #[cfg(feature = "gpu")]
    fn add_gpu(
        &self,
        identity: &Identity,
        events: &mpsc::Sender<Event>,
        evaluators: &mut Evaluators,
    ) -> Option<crate::evaluator::gpu::GpuEvaluator> {
        use crate::evaluator::artifacts::AotConfig;
        use crate::evaluator::gpu::{GpuConfig, GpuEvaluator, PipelineData};

        let mut config = match &self.gpu {
            GpuUse::Usual => GpuConfig::default(),
            GpuUse::As(config) => config.clone(),
            GpuUse::Off => return None,
        };
        if let Some(directory) = &self.data_dir {
            config.folder.get_or_insert_with(|| directory.join("gpu"));
            let store = || AotConfig::new(directory.join(AOT), &identity.seed());
            config.pipelines.get_or_insert_with(|| PipelineData::new(store()));
        }
        let gpu = GpuEvaluator::new(config);
        let events = events.clone();
        gpu.when_ready(move |devices| {
            let classes = devices.sound().filter_map(|device| device.class.clone()).take(crate::limits::MAX_OFFERED);
            // A node that stops offers nothing.
            drop(events.blocking_send(Event::Offer(classes.collect())));
        });
        evaluators.add(Arc::new(gpu.clone()));
        Some(gpu)
    }

    #[cfg(feature = "wasm")]
    fn start_wasm(&self, identity: &Identity) -> Result<crate::evaluator::wasm::WasmEvaluator, StartError> {
        use crate::evaluator::wasm::{AotConfig, Compilation, WasmEvaluator, WasmSetup};

        let threads = thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let pool = Pool::start("evalmesh-wasm", threads)
            .map_err(|source| StartError::System { what: "compute threads", source })?;
        let mut setup = WasmSetup {
            compilation: self.compilation.clone().unwrap_or_default(),
            remotes: self.remotes.clone(),
            ..WasmSetup::default()
        };
        if let Some(directory) = &self.data_dir {
            setup.aot = Some(AotConfig::new(directory.join(AOT), &identity.seed()));
            if let Compilation::Worker(worker) = &mut setup.compilation {
                worker.folder.get_or_insert_with(|| directory.join("workers"));
            }
        }
        WasmEvaluator::with(pool, setup).map_err(StartError::Evaluator)
    }
}

/// The loop's thread: runs until it is told to stop, then closes lanes, control socket and ledger.
fn spawn_loop(
    driver: Driver,
    turns: Arc<Turns>,
    inbox: mpsc::Receiver<Event>,
    control: Option<ControlServer>,
    recorder: RecorderHandle,
) -> Result<thread::JoinHandle<()>, StartError> {
    let system = |what| move |source| StartError::System { what, source };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(system("runtime"))?;
    let run = move || {
        let ended = match driver.hands.lanes.runtime() {
            // Beside the lanes, so that a frame is handled on the thread on which it arrives.
            Some(network) => runtime.block_on(network.spawn(driver.run(turns, inbox))),
            None => Ok(runtime.block_on(driver.run(turns, inbox))),
        };
        match ended {
            Ok(mut lanes) => lanes.close(),
            Err(error) => tracing::error!(%error, "the node's loop did not end well"),
        }
        drop(control);
        if let Err(error) = recorder.close() {
            tracing::error!(%error, "the ledger did not close well");
        }
    };
    thread::Builder::new().name("evalmesh-node".to_owned()).spawn(run).map_err(system("loop thread"))
}

/// The storage and identity of a node; without a directory both live and die with the process.
fn open_directory(data_dir: Option<&Path>) -> Result<(Arc<dyn Storage>, Identity), StartError> {
    if let Some(directory) = data_dir {
        // The lock comes first: a second process must not even make a key.
        let storage = FileStorage::open(directory)?;
        let identity = keyfile::load_or_make(directory)?;
        Ok((Arc::new(storage), identity))
    } else {
        let seed = random().map_err(|source| StartError::System { what: "randomness", source })?;
        Ok((Arc::new(MemoryStorage::volatile()), Identity::from_seed(seed)))
    }
}

#[cfg(feature = "net")]
fn start_lanes(network: Option<Network>, identity: &Identity) -> Result<(Lanes, Vec<SocketAddr>), StartError> {
    use crate::net::{Net, NetConfig};

    let Some(network) = network else { return Ok((Lanes::none(), Vec::new())) };
    let (sender, events) = mpsc::channel(super::lanes::LANE_EVENTS);
    let config = NetConfig {
        identity: identity.clone(),
        secret: network.secret,
        listen: network.listen,
        peers: network.peers,
        mdns: network.mdns,
        carrier: network.carrier,
    };
    let net = Net::start(config, sender)?;
    let addresses = net.local_addrs();
    Ok((Lanes::over(net, events), addresses))
}

fn report(recovery: &Recovery) {
    if recovery.is_clean() {
        info!(entries = recovery.entries, "ledger replayed");
    } else {
        warn!(?recovery, "the ledger was damaged; what could be read is served");
    }
}
