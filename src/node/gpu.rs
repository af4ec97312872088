//! The GPUs of a node, as its owner and its callers see them.

use std::collections::BTreeSet;

use futures_channel::oneshot;

use super::Node;
use super::driver::Event;
use crate::error::EvalError;
use crate::eval::Answer;
use crate::evaluator::gpu::{Devices, GpuEvaluator};
use crate::id::ContentId;
use crate::request::{Class, Name, Request};

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

    /// A held answer to a question of a device class: of its own class, wherever it is held, else of another class that is known here.
    pub(super) async fn of_another_class(&self, request: &Request, id: ContentId) -> Result<Option<Answer>, EvalError> {
        let Class::Device(own) = &request.class else { return Ok(None) };
        let held = |result: Result<Answer, EvalError>| match result {
            Ok(answer) => Ok(Some(answer)),
            Err(EvalError::NotHeld { .. }) => Ok(None),
            Err(error) => Err(error),
        };
        if let Some(answer) = held(self.get(id).await)? {
            return Ok(Some(answer));
        }
        for class in self.classes_around().await?.into_iter().filter(|class| class != own) {
            let id = request.clone().class(Class::Device(class)).id()?;
            if let Some(answer) = held(self.get(id).await)? {
                return Ok(Some(answer));
            }
        }
        Ok(None)
    }

    /// Device classes that this node or a peer has.
    async fn classes_around(&self) -> Result<BTreeSet<Name>, EvalError> {
        let (found, offered) = oneshot::channel();
        self.inner.events.send(Event::Offered(found)).await.map_err(|_| EvalError::Closed)?;
        let mut classes = offered.await.map_err(|_| EvalError::Closed)?;
        classes.extend(self.known_classes());
        Ok(classes)
    }

    /// The device classes of this node, as far as that is known.
    fn known_classes(&self) -> Vec<Name> {
        let devices = self.inner.gpu.as_ref().and_then(GpuEvaluator::devices_so_far).unwrap_or_default();
        devices.sound().filter_map(|device| device.class.clone()).collect()
    }

    pub(super) fn gpu_summary(&self) -> String {
        match self.inner.gpu.as_ref().map(GpuEvaluator::devices_so_far) {
            None => "off".to_owned(),
            Some(None) => "not looked for yet".to_owned(),
            Some(Some(devices)) => devices.summary(),
        }
    }

    pub(super) fn device_classes(&self) -> Vec<String> {
        self.known_classes().into_iter().map(String::from).collect()
    }
}
