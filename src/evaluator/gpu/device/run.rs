//! Evaluations on a device: buffers filled, dispatches submitted together, outputs read back.
//!
//! Small evaluations come in batches and share one submission. Invariants: an output that is given out was written by shaders none of which ran
//! over its steps; a buffer is all zeros, or the input, before the first dispatch sees it, whoever had it before.
//!
//! Where the device can use the memory that is shared with the node, a large payload is used where it lies and copied nowhere. That way is tested
//! like the device itself, when it is first wanted; a device that does not pass goes on without it.

use std::collections::BTreeMap;
use std::io;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use wgpu::{Buffer, BufferTransition, BufferUses, CommandEncoder, MapMode};

use super::super::limits;
use super::super::program::{Binding, GpuProgram};
use super::super::shader::Access;
use super::buffers::Buffers;
use super::cache::Cache;
use super::pipelines::{Prepared, overrun};
use super::seat::{CONTROL_BYTES, Seat, Spot, room};
use super::{Fault, Gpu, Stopwatch, selftest};
use crate::error::{EvalError, Refusal};
use crate::evaluator::gpu::worker::shared::{Data, Place, Shared};
use crate::evaluator::gpu::worker::{Code, Made};
use crate::id::Digest;

/// Buffers of this size together stay with their bind groups for the next evaluation of the same sizes.
const SEAT_BYTES: u64 = 1024 * 1024;
/// One evaluation.
pub(in crate::evaluator::gpu) struct Task<'a> {
    pub(in crate::evaluator::gpu) program: Digest,
    /// Whether the program must be proven portable.
    pub(in crate::evaluator::gpu) portable: bool,
    /// Steps of each invocation in each dispatch.
    pub(in crate::evaluator::gpu) steps: u32,
    /// The inputs, in the order of the bindings.
    pub(in crate::evaluator::gpu) inputs: &'a [Data],
    /// Where the outputs go, in the order of the bindings.
    pub(in crate::evaluator::gpu) outputs: &'a [Place],
}

/// What came of one evaluation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::evaluator::gpu) struct Outcome {
    pub(in crate::evaluator::gpu) outputs: Vec<Data>,
    /// From the submission to the outputs; of a batch as a whole.
    pub(in crate::evaluator::gpu) took: Duration,
}

/// Runs programs on one device.
pub(in crate::evaluator::gpu) struct Runner {
    pub(super) gpu: Gpu,
    buffers: Buffers,
    programs: BTreeMap<Digest, Prepared>,
    runs: u64,
    in_place: InPlace,
}

/// Whether payloads are used where they lie in the shared memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum InPlace {
    Untested,
    Yes,
    No,
}

/// An evaluation on its way.
struct Under<'a> {
    task: &'a Task<'a>,
    seat: Seat,
}

impl Runner {
    pub(super) fn new(gpu: Gpu) -> Self {
        let in_place = if gpu.importer.is_some() && gpu.mappable { InPlace::Untested } else { InPlace::No };
        Self { gpu, buffers: Buffers::default(), programs: BTreeMap::new(), runs: 0, in_place }
    }

    /// Whether this program is ready.
    pub(in crate::evaluator::gpu) fn knows(&self, program: &Digest) -> bool {
        self.programs.contains_key(program)
    }

    /// Makes a program ready.
    pub(in crate::evaluator::gpu) fn load(&mut self, digest: Digest, code: &Code) -> Result<(), Fault> {
        if self.knows(&digest) {
            return Ok(());
        }
        let program = GpuProgram::decode(&code.bytes)?;
        let cache = (self.gpu.caches && code.keep).then(|| Cache::new(&self.gpu, code.compiled.as_deref()));
        let prepared = Prepared::new(&self.gpu, program, cache)?;
        if self.programs.len() >= limits::PIPELINES {
            let oldest = self.programs.iter().min_by_key(|(_, prepared)| prepared.used).map(|(digest, _)| *digest);
            if let Some(dropped) = oldest.and_then(|oldest| self.programs.remove(&oldest)) {
                dropped.idle.into_iter().for_each(|seat| seat.leave(&mut self.buffers));
            }
        }
        self.programs.insert(digest, prepared);
        Ok(())
    }

    /// What came of making a program's pipelines, once.
    pub(in crate::evaluator::gpu) fn compiled(&mut self, program: &Digest) -> Option<Made> {
        self.programs.get_mut(program)?.cache.take().map(Cache::made)
    }

    /// Runs evaluations of loaded programs, together where there are several; one that fails takes no other with it.
    pub(in crate::evaluator::gpu) fn run(
        &mut self,
        tasks: &[Task<'_>],
        shared: &mut Shared,
    ) -> Vec<Result<Outcome, Fault>> {
        let seats: Vec<_> = tasks.iter().map(|task| self.seat(task, shared)).collect();
        let mut failed = BTreeMap::new();
        let mut under = Vec::new();
        for (at, (task, seat)) in tasks.iter().zip(seats).enumerate() {
            match seat {
                Ok(seat) => under.push((at, Under { task, seat })),
                Err(fault) => drop(failed.insert(at, fault)),
            }
        }
        let places: Vec<_> = under.iter().map(|(at, _)| *at).collect();
        let mut under: Vec<_> = under.into_iter().map(|(_, under)| under).collect();
        let done = self.together(&mut under, shared);
        for under in under {
            if done.is_ok() {
                self.leave(under);
            } else {
                // Some of its buffers may still be mapped, and what is in use on the device is not known.
                under.seat.discard(&mut self.buffers);
            }
        }
        let mut results: BTreeMap<_, _> = failed.into_iter().map(|(at, fault)| (at, Err(fault))).collect();
        match done {
            Ok(outcomes) => results.extend(places.into_iter().zip(outcomes)),
            // Whose fault it was is seen when each runs alone.
            Err(Fault::Error(_)) if places.len() > 1 => {
                for at in places {
                    results.insert(at, self.run(&tasks[at..=at], shared).pop().unwrap_or_else(|| Err(gone())));
                }
            }
            Err(fault) => results.extend(places.into_iter().map(|at| (at, Err(fault.clone())))),
        }
        results.into_values().collect()
    }

    /// Checks an evaluation and takes buffers for it.
    fn seat(&mut self, task: &Task<'_>, shared: &Shared) -> Result<Seat, Fault> {
        self.runs += 1;
        let prepared = self.programs.get_mut(&task.program).ok_or_else(gone)?;
        prepared.used = self.runs;
        if let Some(why) = prepared.not_portable.as_ref().filter(|_| task.portable) {
            return Err(Refusal::ClassNotProven(format!("this shader is not portable: {why}")).into());
        }
        let named = prepared.program.bindings.iter().filter(|binding| binding.is_input());
        let inputs = named.zip(task.inputs).map(|(binding, data)| (binding.name.as_str(), data.len())).collect();
        let sizes = prepared.sizes(&inputs)?;
        if let Some(at) = prepared.idle.iter().position(|seat| seat.sizes == sizes) {
            return Ok(prepared.idle.swap_remove(at));
        }
        prepared.dispatches(&sizes)?;
        let given = self.in_place(task, &sizes, shared)?;
        let prepared = self.programs.get(&task.program).ok_or_else(gone)?;
        match Seat::take(&self.gpu, &mut self.buffers, prepared, sizes.clone(), &given) {
            Err(Fault::Error(EvalError::Limit(_))) => {
                for prepared in self.programs.values_mut() {
                    for seat in std::mem::take(&mut prepared.idle) {
                        seat.leave(&mut self.buffers);
                    }
                }
                let prepared = self.programs.get(&task.program).ok_or_else(gone)?;
                Seat::take(&self.gpu, &mut self.buffers, prepared, sizes, &given)
            }
            seat => seat,
        }
    }

    /// Whether payloads are used where they lie in the shared memory; tests that if nobody did.
    pub(super) fn uses_payloads_in_place(&mut self) -> bool {
        if self.in_place == InPlace::Untested {
            // The test goes this way too.
            self.in_place = InPlace::Yes;
            if selftest::in_place(self).is_err() {
                self.in_place = InPlace::No;
            }
        }
        self.in_place == InPlace::Yes
    }

    /// For each binding a buffer that is made of its place in the shared memory, where there can be one.
    fn in_place(&mut self, task: &Task<'_>, sizes: &[u64], shared: &Shared) -> Result<Vec<Option<Buffer>>, Fault> {
        let prepared = || self.programs.get(&task.program).ok_or_else(gone);
        let (mut inputs, mut outputs) = (task.inputs.iter(), task.outputs.iter());
        let places: Vec<_> = prepared()?
            .program
            .bindings
            .iter()
            .zip(&prepared()?.resources)
            .zip(sizes)
            .map(|((binding, resource), size)| {
                let input = binding.is_input().then(|| inputs.next()).flatten();
                let output = binding.is_output().then(|| outputs.next()).flatten();
                place(input, output).filter(|_| *size >= limits::PAGED && resource.access != Access::Uniform)
            })
            .collect();
        let large = sizes.iter().sum::<u64>() > SEAT_BYTES;
        if !large || places.iter().all(Option::is_none) || !self.uses_payloads_in_place() {
            return Ok(vec![None; sizes.len()]);
        }
        let buffer = |(at, size): (Option<u64>, &u64)| {
            let importer = self.gpu.importer.as_ref()?;
            let aligned = importer.aligned();
            let at = at.filter(|at| *size <= self.gpu.limits.buffer && at.is_multiple_of(aligned))?;
            let part = shared.part(at, size.checked_next_multiple_of(aligned)?).ok()?;
            importer.buffer(&self.gpu.device, part, *size)
        };
        self.gpu.guarded(|| Ok(places.into_iter().zip(sizes).map(buffer).collect()))
    }

    fn leave(&mut self, under: Under<'_>) {
        let Under { task, seat } = under;
        match self.programs.get_mut(&task.program) {
            Some(prepared) if is_small(&seat) && prepared.idle.len() < limits::BATCH => prepared.idle.push(seat),
            _ => seat.leave(&mut self.buffers),
        }
    }

    fn together(&self, under: &mut [Under<'_>], shared: &mut Shared) -> Result<Vec<Result<Outcome, Fault>>, Fault> {
        if under.is_empty() {
            return Ok(Vec::new());
        }
        self.gpu.guarded(|| {
            self.fill(under, shared)?;
            let watch = Stopwatch::start();
            let mut encoder = self.gpu.device.create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
            under.iter().try_for_each(|one| self.encode(one, &mut encoder))?;
            self.gpu.queue.submit([encoder.finish()]);
            self.read(under, shared, &watch)
        })
    }

    fn prepared(&self, one: &Under<'_>) -> Result<&Prepared, Fault> {
        self.programs.get(&one.task.program).ok_or_else(gone)
    }

    /// What is written by this process before the first dispatch: for each buffer the place and the bytes.
    fn fill(&self, under: &[Under<'_>], shared: &mut Shared) -> Result<(), Fault> {
        let mut writes: Vec<(&Buffer, u64, Source<'_>)> = Vec::new();
        let controls: Vec<[u8; 8]> = under.iter().map(|one| u64::from(one.task.steps).to_le_bytes()).collect();
        for (one, control) in under.iter().zip(&controls) {
            let prepared = self.prepared(one)?;
            let mut inputs = one.task.inputs.iter();
            let Some((upload, _)) = &one.seat.staging else {
                writes.push((&one.seat.control, 0, Source::Bytes(control)));
                let bound = prepared.program.bindings.iter().zip(&one.seat.spots).zip(&one.seat.sizes);
                writes.extend(bound.filter_map(|((binding, spot), size)| {
                    let source = match binding.is_input().then(|| inputs.next()).flatten() {
                        _ if spot.in_place => return None,
                        Some(data) => Source::Data(data),
                        None if spot.is_with_control() => Source::Zeros(*size),
                        None => return None,
                    };
                    Some((&spot.buffer, spot.at, source))
                }));
                continue;
            };
            let mut at = CONTROL_BYTES;
            writes.push((&upload.buffer, 0, Source::Bytes(control)));
            for data in inputs {
                writes.push((&upload.buffer, at, Source::Data(data)));
                at += room(padded(data.len()));
            }
        }
        let (mapped, unmapped): (Vec<_>, Vec<_>) = under.iter().partition(|one| one.seat.mapped);
        let mut parts = Vec::new();
        for one in unmapped {
            let written = one.seat.written(self.prepared(one)?);
            parts.extend(written.into_iter().map(|(buffer, len)| (buffer, len, MapMode::Write)));
        }
        self.map(&parts)?;
        write(&writes, shared)?;
        for one in under {
            fill_in_place(&self.prepared(one)?.program.bindings, one, shared)
                .map_err(|error| Fault::Lost(format!("shared memory: {error}")))?;
        }
        for (buffer, ..) in parts {
            buffer.unmap();
        }
        for one in mapped {
            for (buffer, _) in one.seat.seen(self.prepared(one)?) {
                buffer.unmap();
            }
        }
        Ok(())
    }

    /// Maps the beginnings of buffers, and waits until that and everything that was submitted is done.
    fn map(&self, parts: &[(&Buffer, u64, MapMode)]) -> Result<(), Fault> {
        if parts.is_empty() {
            return Ok(());
        }
        let (done, mapped) = sync_channel(parts.len());
        for (buffer, len, mode) in parts {
            let done = done.clone();
            buffer.map_async(*mode, 0..*len, move |result| drop(done.try_send(result)));
        }
        drop(done);
        self.gpu.wait()?;
        for result in mapped {
            result.map_err(|error| Fault::Lost(format!("a buffer cannot be mapped: {error}")))?;
        }
        Ok(())
    }

    fn encode(&self, one: &Under<'_>, encoder: &mut CommandEncoder) -> Result<(), Fault> {
        let (prepared, seat) = (self.prepared(one)?, &one.seat);
        let bound = || prepared.program.bindings.iter().zip(&seat.spots).zip(&seat.sizes);
        // What lies with the control bytes was cleared with them.
        let is_cleared =
            |binding: &Binding, spot: &Spot| !binding.is_input() && !spot.is_with_control() && !spot.in_place;
        for ((_, spot), size) in bound().filter(|((binding, spot), _)| is_cleared(binding, spot)) {
            encoder.clear_buffer(&spot.buffer, 0, Some(*size));
        }
        if let Some((upload, _)) = &seat.staging {
            encoder.copy_buffer_to_buffer(&upload.buffer, 0, &seat.control, 0, CONTROL_BYTES);
            let mut at = CONTROL_BYTES;
            for ((_, spot), size) in bound().filter(|((binding, _), _)| binding.is_input()) {
                encoder.copy_buffer_to_buffer(&upload.buffer, at, &spot.buffer, 0, *size);
                at += room(*size);
            }
        }
        let mut pass = encoder.begin_compute_pass(&wgpu::ComputePassDescriptor::default());
        for (group, bound) in &seat.groups {
            pass.set_bind_group(*group, bound, &[]);
        }
        for (pipeline, [x, y, z]) in prepared.dispatches(&seat.sizes)? {
            pass.set_pipeline(pipeline);
            pass.dispatch_workgroups(x, y, z);
        }
        drop(pass);
        // Outputs that nobody copies are to be seen by this process.
        let seen = bound().filter(|((binding, spot), _)| binding.is_output() && spot.in_place);
        let seen = seen.map(|((_, spot), _)| BufferTransition { buffer: &spot.buffer, state: BufferUses::MAP_READ });
        encoder.transition_resources(seen, std::iter::empty());
        if let Some((_, download)) = &seat.staging {
            encoder.copy_buffer_to_buffer(&seat.control, 0, &download.buffer, 0, CONTROL_BYTES);
            let mut at = CONTROL_BYTES;
            for ((_, spot), size) in bound().filter(|((binding, _), _)| binding.is_output()) {
                encoder.copy_buffer_to_buffer(&spot.buffer, 0, &download.buffer, at, *size);
                at += room(*size);
            }
        }
        Ok(())
    }

    /// Reads what came out: the control buffer first, then the outputs.
    fn read(
        &self,
        under: &mut [Under<'_>],
        shared: &mut Shared,
        watch: &Stopwatch,
    ) -> Result<Vec<Result<Outcome, Fault>>, Fault> {
        let mut parts = Vec::new();
        for one in &*under {
            let prepared = self.prepared(one)?;
            // For the next evaluation, and meanwhile it shows what this one left.
            let stays = self.stays_mapped(&one.seat);
            let mode = if stays { MapMode::Write } else { MapMode::Read };
            let seen = if stays { one.seat.seen(prepared) } else { beginnings(&one.seat.reads(prepared)) };
            parts.extend(seen.into_iter().map(|(buffer, len)| (buffer, len, mode)));
        }
        self.map(&parts)?;
        let took = watch.elapsed();
        let mut outcomes = Vec::new();
        for one in under {
            let prepared = self.programs.get(&one.task.program).ok_or_else(gone)?;
            let reads = one.seat.reads(prepared);
            let bound = prepared.program.bindings.iter().zip(&one.seat.spots).zip(&one.seat.sizes);
            let outputs = bound.filter(|((binding, _), _)| binding.is_output());
            let outputs: Vec<_> = outputs.map(|((_, spot), size)| spot.in_place.then_some(*size)).collect();
            outcomes.push(collect(one.task, &reads, &outputs, shared, took));
            let stays = self.stays_mapped(&one.seat);
            for (buffer, _) in if stays { Vec::new() } else { beginnings(&reads) } {
                buffer.unmap();
            }
            one.seat.mapped = stays;
        }
        Ok(outcomes)
    }

    /// Whether the buffers of a seat are mapped from one evaluation to the next one.
    fn stays_mapped(&self, seat: &Seat) -> bool {
        self.gpu.is_processor && seat.staging.is_none() && is_small(seat)
    }
}

/// Whether buffers are kept with their bind groups.
fn is_small(seat: &Seat) -> bool {
    seat.sizes.iter().sum::<u64>() <= SEAT_BYTES
}

/// For each buffer that is read its beginning, with all that is read of it.
fn beginnings<'a>(reads: &[(&'a Buffer, u64, u64)]) -> Vec<(&'a Buffer, u64)> {
    let mut parts: Vec<(&Buffer, u64)> = Vec::new();
    for (buffer, at, len) in reads {
        match parts.iter_mut().find(|(other, _)| other == buffer) {
            Some((_, end)) => *end = (*end).max(at + len),
            None => parts.push((buffer, at + len)),
        }
    }
    parts
}

/// Fills parts of mapped buffers.
fn write(writes: &[(&Buffer, u64, Source<'_>)], shared: &mut Shared) -> Result<(), Fault> {
    for (buffer, at, source) in writes {
        let len = source.len();
        let view = buffer.get_mapped_range_mut(*at..*at + padded(len));
        let mut view = view.map_err(|error| Fault::Lost(error.to_string()))?;
        let whole = usize::try_from(len).map_err(|_| gone())?;
        match source {
            Source::Bytes(bytes) => view.slice(..whole).copy_from_slice(bytes),
            Source::Zeros(_) => view.slice(..whole).fill(0),
            Source::Data(data) => {
                let bytes = shared.input(data).map_err(|error| Fault::Lost(format!("shared memory: {error}")))?;
                view.slice(..whole).copy_from_slice(bytes);
            }
        }
        let padding = view.len() - whole;
        view.slice(whole..).copy_from_slice(&[0; 4][..padding]);
    }
    Ok(())
}

/// Where a payload lies in the shared memory, from the beginning to the end of the evaluation.
fn place(input: Option<&Data>, output: Option<&Place>) -> Option<u64> {
    match (input, output) {
        // What is changed is changed where it is to be in the end, so that the input stays as it is.
        (_, Some(Place::Shared { at })) | (Some(Data::Shared { at, .. }), None) => Some(*at),
        _ => None,
    }
}

/// Sees to what is in the buffers that are made of the shared memory: inputs are there, outputs begin as zeros.
fn fill_in_place(bindings: &[Binding], one: &Under<'_>, shared: &Shared) -> io::Result<()> {
    let (mut inputs, mut outputs) = (one.task.inputs.iter(), one.task.outputs.iter());
    for ((binding, spot), size) in bindings.iter().zip(&one.seat.spots).zip(&one.seat.sizes) {
        let input = binding.is_input().then(|| inputs.next()).flatten();
        let output = binding.is_output().then(|| outputs.next()).flatten();
        let Some(at) = place(input, output).filter(|_| spot.in_place) else { continue };
        let filled = match (input, output) {
            (Some(Data::Shared { at: from, len }), Some(_)) => {
                shared.copy_within(*from, at, *len)?;
                *len
            }
            (Some(input), None) => input.len(),
            _ => 0,
        };
        shared.zero(at + filled, size.saturating_sub(filled))?;
    }
    Ok(())
}

/// What is written into a buffer.
enum Source<'a> {
    Bytes(&'a [u8]),
    Zeros(u64),
    Data(&'a Data),
}

impl Source<'_> {
    fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Zeros(len) => *len,
            Self::Data(data) => data.len(),
        }
    }
}

/// What came of an evaluation; of outputs that are in their place already the length is given.
fn collect(
    task: &Task<'_>,
    reads: &[(&Buffer, u64, u64)],
    in_place: &[Option<u64>],
    shared: &Shared,
    took: Duration,
) -> Result<Outcome, Fault> {
    let view = |(buffer, at, len): &(&Buffer, u64, u64)| {
        buffer.get_mapped_range(*at..*at + *len).map_err(|error| Fault::Lost(error.to_string()))
    };
    let (control, outputs) = reads.split_first().ok_or_else(gone)?;
    if view(control)?[4..] != [0; 4] {
        return Err(overrun(task.steps));
    }
    let mut reads = outputs.iter();
    let output = |(place, in_place): (&Place, &Option<u64>)| match (*place, *in_place) {
        (Place::Shared { at }, Some(len)) => Ok(Data::Shared { at, len }),
        (place, _) => {
            let bytes = view(reads.next().ok_or_else(gone)?)?;
            shared.output(place, &bytes).map_err(|error| Fault::Lost(format!("shared memory: {error}")))
        }
    };
    let outputs = task.outputs.iter().zip(in_place).map(output).collect::<Result<_, Fault>>()?;
    Ok(Outcome { outputs, took })
}

fn padded(len: u64) -> u64 {
    len.next_multiple_of(4)
}

fn gone() -> Fault {
    EvalError::Failed("a program of the worker is gone".to_owned()).into()
}
