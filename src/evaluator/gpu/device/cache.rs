//! Drivers' pipeline caches: one for each program, so that what comes of it is that program's alone.

use wgpu::{AdapterInfo, PipelineCache, PipelineCacheDescriptor};

use super::Gpu;
use crate::evaluator::gpu::limits::PIPELINE_DATA;
use crate::evaluator::gpu::worker::{CacheFacts, Given, Made};

/// The cache that a program's pipelines were made with.
pub(super) struct Cache {
    cache: Option<PipelineCache>,
    given: Given,
}

/// What caches of this device are called, and how large an empty one is; nothing where its driver has none.
pub(super) fn facts(gpu: &Gpu, info: &AdapterInfo) -> Option<CacheFacts> {
    let key = wgpu::util::pipeline_cache_key(info).filter(|_| gpu.caches)?;
    let empty = Cache::new(gpu, None).cache?.get_data()?;
    Some(CacheFacts { key, empty: empty.len() as u64 })
}

impl Cache {
    /// A cache that begins with what was given, or empty if the device does not want that. One that cannot be made is done without.
    pub(super) fn new(gpu: &Gpu, given: Option<&[u8]>) -> Self {
        let make = |data: Option<&[u8]>| gpu.guarded(|| Ok(create(gpu, data))).ok();
        let with = given.map(|data| make(Some(data)));
        match with {
            Some(Some(cache)) => Self { cache: Some(cache), given: Given::Taken },
            Some(None) => Self { cache: make(None), given: Given::Refused },
            None => Self { cache: make(None), given: Given::Nothing },
        }
    }

    pub(super) fn get(&self) -> Option<&PipelineCache> {
        self.cache.as_ref()
    }

    /// What came of it; data only where they are not those that were given.
    pub(super) fn made(self) -> Made {
        let own = self.cache.filter(|_| self.given != Given::Taken);
        let data = own.and_then(|cache| cache.get_data()).filter(|data| data.len() as u64 <= PIPELINE_DATA);
        Made { given: self.given, data: data.map(Into::into) }
    }
}

fn create(gpu: &Gpu, data: Option<&[u8]>) -> PipelineCache {
    let description = PipelineCacheDescriptor { label: None, data, fallback: false };
    #[expect(unsafe_code, reason = "data of a pipeline cache can only be used by trusting whoever made them")]
    // SAFETY: the data are none, or what the node read from its own store: the keyed hash held, so this node wrote them, as a worker of its own gave
    // them, which had them from a cache of the same program on the same device class, driver version and cache key.
    unsafe {
        gpu.device.create_pipeline_cache(&description)
    }
}
