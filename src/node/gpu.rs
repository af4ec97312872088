//! The GPUs of a node, as its owner and its callers see them.

use futures_channel::oneshot;

use super::Node;
use crate::error::EvalError;
use crate::evaluator::gpu::Devices;

impl Node {
    /// The GPUs of this node, with what their tests gave. The first call finds and tests them, which takes a second or two.
    pub async fn devices(&self) -> Result<Devices, EvalError> {
        let Some(gpu) = self.inner.gpu.clone() else {
            return Ok(Devices {
                devices: Vec::new(),
                trouble: Some("this node was started without its GPUs".to_owned()),
            });
        };
        let (found, devices) = oneshot::channel();
        let wait = move || drop(found.send(gpu.devices()));
        let thread = std::thread::Builder::new().name("evalmesh-devices".to_owned()).spawn(wait);
        thread.map_err(|error| EvalError::Failed(format!("no thread to look for devices: {error}")))?;
        devices.await.map_err(|_| EvalError::Closed)
    }

    /// Begins to find and test the GPUs, so that they are ready when they are asked, and other nodes know of them. Returns at once.
    pub fn prepare_devices(&self) {
        if let Some(gpu) = &self.inner.gpu {
            gpu.prepare();
        }
    }

    pub(super) fn gpu_summary(&self) -> String {
        match self.inner.gpu.as_ref().map(|gpu| gpu.devices_so_far()) {
            None => "off".to_owned(),
            Some(None) => "not looked for yet".to_owned(),
            Some(Some(devices)) => devices.summary(),
        }
    }

    pub(super) fn device_classes(&self) -> Vec<String> {
        let devices = self.inner.gpu.as_ref().and_then(|gpu| gpu.devices_so_far()).unwrap_or_default();
        devices.sound().filter_map(|device| device.class.as_ref()).map(|class| class.as_str().to_owned()).collect()
    }
}
