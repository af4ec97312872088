//! The worker's side of a device: adapters, tests, pipelines, buffers, runs. Nothing in here runs in a node's own process.
//!
//! Every call of wgpu that can fail stands within error scopes ([`Gpu::guarded`]), since an error outside of one ends the process. Whatever
//! else goes wrong - a driver that crashes, a shader that hangs - ends this process, or has it ended.

pub(super) mod adapters;
mod buffers;
mod cache;
#[cfg(target_os = "linux")]
mod import;
#[cfg(not(target_os = "linux"))]
#[path = "no_import.rs"]
mod import;
mod pipelines;
mod probe;
mod run;
mod seat;
mod selftest;

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use wgpu::Features;

use self::import::Importer;
pub(super) use self::run::Task;
use super::report::DeviceLimits;
use super::shader::clip;
use crate::error::{EvalError, LimitHit};

/// Why something did not come about on a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// The program's fault, or a bound.
    Error(EvalError),
    /// The device is gone; another process may find it again.
    Lost(String),
}

impl<E: Into<EvalError>> From<E> for Fault {
    fn from(error: E) -> Self {
        Self::Error(error.into())
    }
}

/// An open device.
pub(super) struct Gpu {
    pub(super) device: wgpu::Device,
    pub(super) queue: wgpu::Queue,
    pub(super) limits: DeviceLimits,
    /// Buffers that shaders use can be seen by this process too, as where both use one memory.
    pub(super) mappable: bool,
    /// The device is this processor: what is mapped is the memory itself, whatever it was mapped for.
    pub(super) is_processor: bool,
    /// The driver can be given what it compiled before.
    pub(super) caches: bool,
    /// Makes buffers of memory that is shared with the node, where the device can use that.
    pub(super) importer: Option<Importer>,
    /// What the driver said when it gave up the device.
    lost: Arc<Mutex<Option<String>>>,
}

impl Gpu {
    pub(super) fn new(
        device: wgpu::Device,
        queue: wgpu::Queue,
        limits: DeviceLimits,
        features: Features,
        is_processor: bool,
        importer: Option<Importer>,
    ) -> Self {
        let lost = Arc::new(Mutex::new(None));
        let (by_driver, by_error) = (Arc::clone(&lost), Arc::clone(&lost));
        device.set_device_lost_callback(move |reason, text| note(&by_driver, format!("{reason:?}: {text}")));
        // Nothing should get here. What does is a state that nobody understands, so the device is given up and not the process.
        device.on_uncaptured_error(Arc::new(move |error| note(&by_error, error.to_string())));
        let mappable = features.contains(Features::MAPPABLE_PRIMARY_BUFFERS);
        let caches = features.contains(Features::PIPELINE_CACHE);
        Self { device, queue, limits, mappable, is_processor, caches, importer, lost }
    }

    /// Does something with the device and hears every error of it.
    pub(super) fn guarded<T>(&self, what: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
        use wgpu::ErrorFilter;

        let internal = self.device.push_error_scope(ErrorFilter::Internal);
        let validation = self.device.push_error_scope(ErrorFilter::Validation);
        let memory = self.device.push_error_scope(ErrorFilter::OutOfMemory);
        let done = what();
        let errors = [ready(memory.pop()), ready(validation.pop()), ready(internal.pop())];
        if let Some(lost) = self.lost.lock().unwrap_or_else(PoisonError::into_inner).clone() {
            return Err(Fault::Lost(clip(&lost)));
        }
        match errors.into_iter().flatten().flatten().next() {
            None => done,
            Some(wgpu::Error::OutOfMemory { .. }) => Err(LimitHit::DeviceMemory { bound: self.limits.memory }.into()),
            // Whatever the caller made of an object that is not there comes second.
            Some(error) => {
                Err(EvalError::Failed(format!("the device refused it: {}", clip(&error.to_string()))).into())
            }
        }
    }

    /// Waits until everything that was submitted is done. How long that may take is the parent's to say.
    pub(super) fn wait(&self) -> Result<(), Fault> {
        match self.device.poll(wgpu::PollType::wait_indefinitely()) {
            Ok(_) => Ok(()),
            Err(error) => Err(Fault::Lost(error.to_string())),
        }
    }
}

fn note(lost: &Mutex<Option<String>>, text: String) {
    lost.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(text);
}

/// The value of a future that is ready, as all of wgpu's are outside of browsers.
fn ready<T>(future: impl Future<Output = T>) -> Option<T> {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

/// Measures what a device does.
pub(super) struct Stopwatch(std::time::Instant);

impl Stopwatch {
    #[expect(clippy::disallowed_methods, reason = "an evaluator is an edge: durations are measured here")]
    pub(super) fn start() -> Self {
        Self(std::time::Instant::now())
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }
}
