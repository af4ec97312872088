//! The evaluator itself: finds the devices once, and gives each evaluation to one that may answer it.
//!
//! Drivers are loaded when the first program comes, or somebody asks for the devices; until then a GPU costs a node nothing. What comes while
//! devices are still being tested waits.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use super::compiled::{PipelineData, PipelineReport, Pipelines};
use super::device::Stopwatch;
use super::device::adapters::unopened;
use super::evaluation::{Pending, Programs};
use super::lane::{Lane, LaneSetup};
use super::limits::QUEUE;
use super::manifests;
use super::proofs::Proofs;
use super::report::{AdapterFacts, DeviceReport, Devices, Speed};
use super::worker::{Setup, Worker};
use super::{ABI, VERSION};
use crate::error::{EvalError, Refusal};
use crate::evaluator::{Done, Errand, Evaluator, Job};
use crate::request::{Class, Code, Engine, Request};

/// What the evaluator gives to one evaluation, and keeps.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuLimits {
    /// Wall time of one evaluation, from when it comes until its reply, unless its request says less.
    pub time: Duration,
    /// Bytes of all buffers on one device at one time.
    pub memory: u64,
    /// Bytes that one worker process may make of its own.
    pub process_memory: u64,
    /// How long a worker may take to start, to list adapters, or to open and test one.
    pub start: Duration,
}

impl Default for GpuLimits {
    fn default() -> Self {
        let time = Duration::from_mins(1);
        Self { time, memory: 4 << 30, process_memory: 16 << 30, start: Duration::from_secs(30) }
    }
}

/// How the evaluator is set up. The default uses every device, in workers of this executable if it offered itself as one.
#[derive(Debug, Clone)]
pub struct GpuConfig {
    /// What it gives and keeps.
    pub limits: GpuLimits,
    /// A program that calls [`enter_worker_role`](crate::evaluator::worker::enter_worker_role) first in its `main`; without it this one, if it did.
    pub worker_exe: Option<PathBuf>,
    /// Variables of the workers' environment, in place of those that this process has; `VK_DRIVER_FILES` names drivers.
    pub env: Vec<(OsString, OsString)>,
    /// Whether each device has a second worker that waits, so that a shader that had to be ended costs nobody else time.
    pub spare: bool,
    /// Where what drivers compiled is kept over restarts, if at all.
    pub pipelines: Option<PipelineData>,
    /// A folder for what is to be known after a restart: demoted programs, and workers that a killed process left behind.
    pub folder: Option<PathBuf>,
}

impl Default for GpuConfig {
    fn default() -> Self {
        let (limits, env) = (GpuLimits::default(), Vec::new());
        Self { limits, worker_exe: None, env, spare: true, pipelines: None, folder: None }
    }
}

/// Runs WGSL compute programs on the devices of this machine.
#[derive(Clone)]
pub struct GpuEvaluator(Arc<Hub>);

/// Closes the lanes with the last of the evaluator's users.
struct Hub(Arc<Shared>);

struct Shared {
    config: GpuConfig,
    limits: Arc<GpuLimits>,
    setup: Setup,
    programs: Arc<Programs>,
    proofs: Arc<Proofs>,
    pipelines: Arc<Pipelines>,
    state: Mutex<State>,
    changed: Condvar,
    /// Called when the devices were tested.
    then: Mutex<Option<Then>>,
}

type Then = Box<dyn FnOnce(&Devices) + Send>;

#[derive(Default)]
enum State {
    #[default]
    Idle,
    /// Devices are being tested; these wait for them.
    Looking(Vec<Pending>),
    Ready(Devices, Vec<Lane>),
    Closed,
}

impl GpuEvaluator {
    /// An evaluator; nothing is started yet.
    #[must_use]
    pub fn new(config: GpuConfig) -> Self {
        let setup = Setup {
            exe: config.worker_exe.clone(),
            env: config.env.clone(),
            process_memory: config.limits.process_memory,
            start: config.limits.start,
            folder: config.folder.as_ref().map(|folder| folder.join("workers")),
        };
        let proofs = Arc::new(Proofs::open(config.folder.as_ref().map(|folder| folder.join("demoted"))));
        let limits = Arc::new(config.limits.clone());
        let pipelines = Arc::new(Pipelines::open(config.pipelines.clone()));
        let shared = Shared {
            config,
            limits,
            setup,
            programs: Arc::default(),
            proofs,
            pipelines,
            state: Mutex::default(),
            changed: Condvar::new(),
            then: Mutex::default(),
        };
        Self(Arc::new(Hub(Arc::new(shared))))
    }

    /// Begins to find and test the devices, if that is not done yet. Returns at once.
    pub fn prepare(&self) {
        drop(self.0.0.look(None, false));
    }

    /// The devices of this machine with what their tests gave. Waits until that is known.
    #[must_use]
    pub fn devices(&self) -> Devices {
        self.prepare();
        let shared = &self.0.0;
        let mut state = shared.state();
        while matches!(*state, State::Looking(_)) {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.devices().unwrap_or_default()
    }

    /// Has this called, once, when the devices were tested.
    pub fn when_ready(&self, then: impl FnOnce(&Devices) + Send + 'static) {
        *self.0.0.then.lock().unwrap_or_else(PoisonError::into_inner) = Some(Box::new(then));
    }

    /// What became of compiled pipelines since this evaluator started.
    #[must_use]
    pub fn pipelines(&self) -> PipelineReport {
        self.0.0.pipelines.report()
    }

    /// The devices, if that is known already.
    #[must_use]
    pub fn devices_so_far(&self) -> Option<Devices> {
        self.0.0.state().devices()
    }
}

impl fmt::Debug for GpuEvaluator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GpuEvaluator").field("limits", &self.0.0.limits).finish_non_exhaustive()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let state = std::mem::replace(&mut *self.0.state(), State::Closed);
        self.0.changed.notify_all();
        match state {
            State::Ready(_, lanes) => lanes.iter().for_each(Lane::close),
            State::Looking(waiting) => waiting.into_iter().for_each(|pending| pending.finish(Err(EvalError::Closed))),
            State::Idle | State::Closed => {}
        }
    }
}

impl State {
    fn devices(&self) -> Option<Devices> {
        match self {
            Self::Ready(devices, _) => Some(devices.clone()),
            Self::Idle | Self::Looking(_) | Self::Closed => None,
        }
    }
}

impl Evaluator for GpuEvaluator {
    fn engine(&self) -> Engine {
        Engine::Gpu
    }

    fn version(&self) -> String {
        VERSION.to_owned()
    }

    fn admit(&self, request: &Request) -> Result<(), EvalError> {
        let program = &request.program;
        if program.engine != Engine::Gpu {
            return Err(Refusal::NoEvaluator(program.engine).into());
        }
        if program.abi != ABI {
            return Err(Refusal::Shader(format!("it speaks ABI {}, this evaluator speaks {ABI}", program.abi)).into());
        }
        if matches!(program.code, Code::Opaque { .. }) {
            return Err(Refusal::Shader("a GPU program is shipped, not named".to_owned()).into());
        }
        if !program.entry.is_empty() {
            let why = "a GPU program names its entry points itself".to_owned();
            return Err(Refusal::Entry { entry: program.entry.clone(), why }.into());
        }
        if !request.args.is_empty() || !request.env.is_empty() {
            return Err(
                Refusal::Arguments("a GPU program has inputs, and no arguments and no environment".to_owned()).into()
            );
        }
        if let Some(capability) = request.capabilities.first() {
            return Err(Refusal::Capability(capability.to_string()).into());
        }
        match &request.class {
            Class::Portable => Ok(()),
            // Of a class that is not here a holder may have the answer.
            Class::Device(name) if name.as_str().starts_with("gpu:") => Ok(()),
            other => {
                Err(Refusal::ClassNotProven(format!("a GPU program is portable or of a device class, not {other}"))
                    .into())
            }
        }
    }

    fn start(&self, job: Job, done: Done) {
        drop(self.begin(job, done, false));
    }

    fn start_for_waiting(&self, job: Job, done: Done) -> Option<Errand> {
        self.begin(job, done, true)
    }
}

impl GpuEvaluator {
    fn begin(&self, job: Job, done: Done, waits: bool) -> Option<Errand> {
        if let Err(error) = Evaluator::admit(self, &job.request) {
            done(Err(error));
            return None;
        }
        let shared = &self.0.0;
        let (limits, programs) = (Arc::clone(&shared.limits), Arc::clone(&shared.programs));
        let arrived = Stopwatch::start();
        let pending = Pending { program: programs.name(&job), job, done, arrived, limits, programs };
        shared.look(Some(pending), waits)
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives an evaluation to a device; where none was looked for yet, that is begun. Whoever `waits` may get something to do.
    fn look(self: &Arc<Self>, pending: Option<Pending>, waits: bool) -> Option<Errand> {
        let mut state = self.state();
        match &mut *state {
            State::Ready(devices, lanes) => {
                let pending = pending?;
                let lane = choose(devices, lanes, &pending.job.request.class);
                drop(state);
                match lane {
                    Ok(lane) => return lane.add(pending, waits),
                    Err(error) => pending.finish(Err(error)),
                }
            }
            State::Closed => {
                drop(state);
                if let Some(pending) = pending {
                    pending.finish(Err(EvalError::Closed));
                }
            }
            State::Looking(waiting) if waiting.len() < QUEUE => waiting.extend(pending),
            State::Looking(_) => {
                drop(state);
                let what = "evaluations that wait for devices to be tested".to_owned();
                if let Some(pending) = pending {
                    pending.finish(Err(EvalError::Busy { what, bound: QUEUE as u64 }));
                }
            }
            State::Idle => {
                *state = State::Looking(pending.into_iter().collect());
                drop(state);
                let this = Arc::clone(self);
                let find = move || {
                    let (devices, lanes) = this.find();
                    this.found(devices, lanes);
                };
                if let Err(error) = thread::Builder::new().name("evalmesh-gpu-find".to_owned()).spawn(find) {
                    let trouble = Some(format!("no thread to look for devices: {error}"));
                    self.found(Devices { devices: Vec::new(), trouble }, Vec::new());
                }
            }
        }
        None
    }

    /// Takes over what was found, and lets go on what waited for it.
    fn found(self: &Arc<Self>, devices: Devices, lanes: Vec<Lane>) {
        let mut state = self.state();
        if matches!(*state, State::Closed) {
            drop(state);
            return lanes.iter().for_each(Lane::close);
        }
        let found = devices.clone();
        let before = std::mem::replace(&mut *state, State::Ready(devices, lanes));
        drop(state);
        self.changed.notify_all();
        let then = self.then.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(then) = then {
            then(&found);
        }
        if let State::Looking(waiting) = before {
            for pending in waiting {
                drop(self.look(Some(pending), false));
            }
        }
    }

    /// Lists the adapters and tests each in a worker of its own, all at the same time.
    fn find(&self) -> (Devices, Vec<Lane>) {
        let mut devices = Devices::default();
        if let Some(folder) = &self.setup.folder
            && let Err(error) = crate::evaluator::worker::sweep_folder(folder)
        {
            tracing::warn!(%error, "left-over GPU workers cannot be looked for");
        }
        let (setup, adapters) = match list(&self.setup) {
            Ok(adapters) => (self.setup.clone(), adapters),
            Err(trouble) => self.list_apart(trouble, &mut devices),
        };
        let mut alike = BTreeMap::new();
        let place = |facts: AdapterFacts| {
            let next = alike.entry(facts.clone()).or_insert(0_u32);
            *next += 1;
            (facts, *next - 1)
        };
        let placed: Vec<_> = adapters.into_iter().map(place).collect();
        let mut lanes = Vec::new();
        let examined: Vec<_> = thread::scope(|scope| {
            let threads: Vec<_> =
                placed.iter().map(|(facts, place)| scope.spawn(|| self.examine(&setup, facts, *place))).collect();
            threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
        });
        for ((facts, place), examined) in placed.into_iter().zip(examined) {
            let failed = |why: String| (unopened(&facts, "opening it", why), None);
            let (mut report, worker) =
                examined.unwrap_or_else(|_| failed("the thread that tests it panicked".to_owned()));
            if let Some(worker) = worker.filter(|_| report.is_sound()) {
                let how = LaneSetup {
                    setup: setup.clone(),
                    memory: self.limits.memory,
                    spare: self.config.spare,
                    proofs: Arc::clone(&self.proofs),
                    pipelines: Arc::clone(&self.pipelines),
                };
                match Lane::start(report.clone(), place, worker, how) {
                    Ok(lane) => lanes.push(lane),
                    Err(error) => report = failed(format!("no thread for it: {error}")).0,
                }
            }
            devices.devices.push(report);
        }
        let hashed = |speed: Option<Speed>| std::cmp::Reverse(speed.map_or(0, |speed| speed.hashed));
        devices.devices.sort_by_key(|device| (!device.is_sound(), hashed(device.speed)));
        lanes.sort_by_key(|lane| hashed(lane.report().speed));
        (devices, lanes)
    }

    /// Asks each driver in a worker of its own, since one of them brings down whoever asks all; what the others show is used without that one.
    fn list_apart(&self, trouble: Trouble, devices: &mut Devices) -> (Setup, Vec<AdapterFacts>) {
        let mut setup = self.setup.clone();
        let why = match trouble {
            Trouble::Worker(why) => {
                devices.trouble = Some(why);
                return (setup, Vec::new());
            }
            Trouble::Driver(why) => why,
        };
        let all = manifests::all(|name| setup.variable(name));
        let narrowed = |manifests: &[PathBuf]| manifests::only(manifests).map(|env| self.setup.with(env));
        let (mut kept, mut adapters) = (Vec::new(), Vec::new());
        for manifest in all {
            let Some(alone) = narrowed(std::slice::from_ref(&manifest)) else { continue };
            match list(&alone) {
                Ok(found) => {
                    adapters.extend(found);
                    kept.push(manifest);
                }
                Err(Trouble::Driver(why) | Trouble::Worker(why)) => {
                    tracing::warn!(manifest = %manifest.display(), why, "a driver fails when its devices are listed");
                    devices.devices.push(unopened(&AdapterFacts::of_driver(&manifest), "listing its devices", why));
                }
            }
        }
        if devices.devices.is_empty() {
            // Each alone does no harm, or none was found: nothing can be told apart.
            devices.trouble = Some(format!("a driver brings the search for adapters down: {why}"));
            return (setup, Vec::new());
        }
        setup = narrowed(&kept).unwrap_or(setup);
        adapters.sort();
        (setup, adapters)
    }

    fn examine(&self, setup: &Setup, facts: &AdapterFacts, place: u32) -> (DeviceReport, Option<Worker>) {
        let failed = |why: String| (unopened(facts, "opening it", why), None);
        let mut worker = match Worker::start(setup) {
            Ok(worker) => worker,
            Err(error) => return failed(error.to_string()),
        };
        match worker.open(setup, (facts, place), self.limits.memory, true) {
            Ok(Ok(Some(report))) => (*report, Some(worker)),
            Ok(Ok(None)) => failed("its tests gave nothing".to_owned()),
            Ok(Err(why)) => failed(why),
            Err(ended) => failed(format!("its worker ended: {}", ended.text())),
        }
    }
}

fn list(setup: &Setup) -> Result<Vec<AdapterFacts>, Trouble> {
    let mut worker = Worker::start(setup).map_err(|error| Trouble::Worker(error.to_string()))?;
    worker.list(setup).map_err(|ended| Trouble::Driver(ended.text()))
}

/// Why adapters could not be listed.
enum Trouble {
    /// There is no worker.
    Worker(String),
    /// It ended over it.
    Driver(String),
}

/// The device for an evaluation: of the class that is named, or for portable programs the one with the least to do.
fn choose(devices: &Devices, lanes: &[Lane], class: &Class) -> Result<Lane, EvalError> {
    let fits = |lane: &&Lane| match class {
        Class::Device(name) => lane.report().class.as_ref() == Some(name),
        _ => true,
    };
    let none = || Refusal::NoDevice { wanted: class.to_string(), why: devices.summary() };
    // Of several with as little to do the first, which is the fastest.
    Ok(lanes.iter().filter(fits).min_by_key(|lane| lane.load()).cloned().ok_or_else(none)?)
}
