//! One evaluation on its way through a lane: checked against its program, laid out for the worker, and made a reply of.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use smol_str::SmolStr;

use super::device::Stopwatch;
use super::limits::{INLINE, MAILBOX, PAGE, PAGED, PIPELINES, PROGRAM_BYTES, SMALL, STEPS};
use super::program::{Binding, GpuProgram};
use super::proofs::Proofs;
use super::scan::scan;
use super::worker::memory::Arena;
use super::worker::shared::{Data, Place};
use super::worker::{Code, Ran, Wanted};
use super::{GpuLimits, VERSION};
use crate::error::{EvalError, LimitHit, Refusal};
use crate::evaluator::{Cancel, Done, Job};
use crate::id::Digest;
use crate::limits::MAX_PAYLOAD;
use crate::reply::{Facts, OutputFile, Payload, Reply, Status};
use crate::request::{self, Class, Slot};

/// Where evaluations run.
static HOST: LazyLock<String> = LazyLock::new(|| format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS));

/// Small payloads in the arena begin at multiples of this, a cache line of most processors.
const ALIGNED: u64 = 64;
/// Answers of this size are remembered, so that a later run of the same question can be held against them.
const REMEMBERED_BYTES: u64 = 1024 * 1024;

/// Programs that were taken apart and looked through.
#[derive(Default)]
pub(super) struct Programs {
    all: Mutex<BTreeMap<Digest, Arc<GpuProgram>>>,
    /// The bytes that were named last: most come again, and to compare them takes less than to hash them.
    named: Mutex<(Bytes, Option<Digest>)>,
}

impl Programs {
    /// The digest of a job's program.
    pub(super) fn name(&self, job: &Job) -> Digest {
        if let request::Code::Bytes(Payload::Stored(blob)) = &job.request.program.code {
            return blob.digest;
        }
        let named = || self.named.lock().unwrap_or_else(PoisonError::into_inner);
        let before = named().clone();
        if let (code, Some(digest)) = before
            && code == job.code
        {
            return digest;
        }
        let digest = Digest::of(&job.code);
        if job.code.len() <= PROGRAM_BYTES {
            *named() = (job.code.clone(), Some(digest));
        }
        digest
    }

    fn has(&self, digest: &Digest) -> bool {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).contains_key(digest)
    }

    fn get(&self, digest: Digest, code: &[u8]) -> Result<Arc<GpuProgram>, EvalError> {
        let table = || self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(program) = table().get(&digest) {
            return Ok(Arc::clone(program));
        }
        let program = Arc::new(GpuProgram::decode(code)?);
        scan(&program.shader)?;
        let mut table = table();
        if table.len() >= PIPELINES {
            // They are made anew in microseconds, so which ones go does not matter.
            table.clear();
        }
        table.insert(digest, Arc::clone(&program));
        Ok(program)
    }
}

/// An evaluation that waits.
pub(super) struct Pending {
    pub(super) job: Job,
    /// The digest of the program's bytes.
    pub(super) program: Digest,
    pub(super) done: Done,
    pub(super) arrived: Stopwatch,
    pub(super) limits: Arc<GpuLimits>,
    pub(super) programs: Arc<Programs>,
}

impl Pending {
    /// Whether its program was looked through before, so that to begin it takes a few microseconds.
    pub(super) fn is_quick(&self) -> bool {
        self.programs.has(&self.program)
    }

    pub(super) fn finish(self, result: Result<Reply, EvalError>) {
        (self.done)(result);
    }
}

/// An evaluation that may run.
pub(super) struct Evaluation {
    pending: Pending,
    program: Arc<GpuProgram>,
    digest: Digest,
    portable: bool,
    twice: bool,
    sizes: Vec<u64>,
}

impl Evaluation {
    /// Checks what can be checked without a device.
    pub(super) fn begin(pending: Pending, proofs: &Proofs) -> Result<Self, Box<(Pending, EvalError)>> {
        match Self::check(&pending, proofs) {
            Ok((program, digest, twice, sizes)) => {
                let portable = pending.job.request.class == Class::Portable;
                Ok(Self { pending, program, digest, portable, twice, sizes })
            }
            Err(error) => Err(Box::new((pending, error))),
        }
    }

    fn check(pending: &Pending, proofs: &Proofs) -> Result<(Arc<GpuProgram>, Digest, bool, Vec<u64>), EvalError> {
        let job = &pending.job;
        if job.cancel.is_cancelled() {
            return Err(EvalError::Cancelled);
        }
        if pending.left().is_zero() {
            return Err(LimitHit::Deadline { ms: u64::try_from(pending.time().as_millis()).unwrap_or(u64::MAX) }.into());
        }
        let digest = pending.program;
        let program = pending.programs.get(digest, &job.code)?;
        let names: Vec<_> =
            program.bindings.iter().filter(|binding| binding.is_input()).map(|binding| binding.name.as_str()).collect();
        if let Some((slot, _)) = job.inputs.iter().find(|(slot, _)| !names.contains(&name(slot))) {
            return Err(Refusal::Binding {
                name: name(slot).to_owned(),
                why: "the program has no such input".to_owned(),
            }
            .into());
        }
        let sizes = program.sizes(|wanted| input(job, wanted).map(|bytes| bytes.len() as u64))?;
        let output: u64 =
            program.bindings.iter().zip(&sizes).filter(|(binding, _)| binding.is_output()).map(|(_, size)| *size).sum();
        let bound = job.request.options.output.unwrap_or(MAX_PAYLOAD).min(MAX_PAYLOAD);
        if output > bound {
            return Err(LimitHit::Output { bound }.into());
        }
        let memory = sizes.iter().copied().fold(0_u64, u64::saturating_add);
        let bound = job.request.options.memory.unwrap_or(u64::MAX).min(pending.limits.memory);
        if memory > bound {
            return Err(LimitHit::DeviceMemory { bound }.into());
        }
        let twice = job.request.class == Class::Portable && proofs.begin(digest)?;
        Ok((program, digest, twice, sizes))
    }

    pub(super) fn finish(self, result: Result<Reply, EvalError>) {
        self.pending.finish(result);
    }

    /// What [`Self::begin`] would have given with this error.
    pub(super) fn refused(self, error: EvalError) -> Box<(Pending, EvalError)> {
        Box::new((self.pending, error))
    }

    /// Whether it may run together with others.
    pub(super) fn may_share(&self) -> bool {
        !self.twice && self.sizes.iter().sum::<u64>() <= SMALL
    }

    /// Whether it must be run twice, to see whether both runs agree.
    pub(super) fn is_twice(&self) -> bool {
        self.twice
    }

    pub(super) fn program(&self) -> Digest {
        self.digest
    }

    pub(super) fn code(&self) -> Bytes {
        self.pending.job.code.clone()
    }

    pub(super) fn cancel(&self) -> Cancel {
        self.pending.job.cancel.clone()
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.pending.job.cancel.is_cancelled()
    }

    /// The time that it has in all, and what is left of it.
    pub(super) fn time(&self) -> Duration {
        self.pending.time()
    }

    pub(super) fn left(&self) -> Duration {
        self.pending.left()
    }

    /// Room in the arena that its payloads take.
    pub(super) fn arena_bytes(&self) -> u64 {
        let of_binding = |(binding, size): (&Binding, &u64)| {
            let times = u64::from(binding.is_input()) + u64::from(binding.is_output());
            // A page's beginning may be up to a page away.
            let skipped = if *size >= PAGED { PAGE } else { 0 };
            if *size > INLINE { (room(*size).saturating_add(skipped)).saturating_mul(times) } else { 0 }
        };
        self.program.bindings.iter().zip(&self.sizes).map(of_binding).fold(0, u64::saturating_add)
    }

    /// What the worker is asked, with inputs put into the arena.
    pub(super) fn wanted(&self, code: Option<Code>, layout: &mut Layout<'_>) -> io::Result<Wanted> {
        let job = &self.pending.job;
        let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
        for (binding, size) in self.program.bindings.iter().zip(&self.sizes) {
            if binding.is_input() {
                let bytes = input(job, binding.name.as_str()).cloned().unwrap_or_default();
                inputs.push(match layout.take(*size) {
                    Some((arena, at)) => {
                        arena.write(at, &bytes)?;
                        Data::Shared { at, len: bytes.len() as u64 }
                    }
                    None => Data::Inline(bytes),
                });
            }
            if binding.is_output() {
                outputs.push(layout.take(*size).map_or(Place::Inline, |(_, at)| Place::Shared { at }));
            }
        }
        let steps = job.request.options.fuel.and_then(|fuel| u32::try_from(fuel).ok()).unwrap_or(STEPS).min(STEPS);
        Ok(Wanted { program: self.digest, code, portable: self.portable, steps, inputs, outputs })
    }

    /// The reply, from what the worker gave; a worker that gives something else than was wanted is not believed.
    pub(super) fn reply(&self, ran: Ran, places: &[Place], arena: Option<&Arena>) -> io::Result<Reply> {
        let odd = || io::Error::new(io::ErrorKind::InvalidData, "other outputs than were wanted");
        let wanted: Vec<_> =
            self.program.bindings.iter().zip(&self.sizes).filter(|(binding, _)| binding.is_output()).collect();
        if ran.outputs.len() != wanted.len() || places.len() != wanted.len() {
            return Err(odd());
        }
        let mut reply = Reply {
            status: Status::Exit(0),
            stdout: None,
            stderr: None,
            files: Vec::new(),
            facts: Facts {
                duration: Duration::from_nanos(ran.nanos),
                fuel: None,
                host: HOST.as_str().into(),
                evaluator: VERSION.into(),
            },
        };
        for (((binding, size), place), data) in wanted.into_iter().zip(places).zip(ran.outputs) {
            if data.len() != *size {
                return Err(odd());
            }
            let bytes = match (data, *place, arena) {
                (Data::Inline(bytes), ..) => bytes,
                (Data::Shared { .. }, Place::Shared { at }, Some(arena)) => arena.read(at, *size)?,
                _ => return Err(odd()),
            };
            let data = Payload::Inline(bytes);
            if binding.name.as_str() == "stdout" {
                reply.stdout = Some(data);
            } else {
                reply.files.push(OutputFile { path: binding.name.clone(), executable: false, data });
            }
        }
        reply.files.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(reply)
    }

    /// Ends well, unless it is portable and something does not agree.
    pub(super) fn settle(self, mut reply: Reply, again: Option<&Reply>, proofs: &Proofs, evaluator: &SmolStr) {
        reply.facts.evaluator = evaluator.clone();
        let agrees = if self.portable {
            let alike = again.map(|again| again.files == reply.files && again.stdout == reply.stdout);
            let answer = (reply.len() <= REMEMBERED_BYTES).then(|| reply.answer());
            proofs.end(self.digest, self.pending.job.id, answer, alike)
        } else {
            Ok(())
        };
        self.finish(agrees.map(|()| reply));
    }
}

impl Pending {
    fn time(&self) -> Duration {
        self.job.budget.unwrap_or(self.limits.time)
    }

    fn left(&self) -> Duration {
        self.time().saturating_sub(self.arrived.elapsed())
    }
}

/// Hands out places in the arena.
pub(super) struct Layout<'a> {
    arena: Option<&'a Arena>,
    /// Where it is free.
    at: u64,
}

impl<'a> Layout<'a> {
    pub(super) fn new(arena: Option<&'a Arena>) -> Self {
        Self { arena, at: MAILBOX }
    }

    /// A place for a payload that is not to travel inside the message.
    fn take(&mut self, size: u64) -> Option<(&'a Arena, u64)> {
        let arena = self.arena.filter(|_| size > INLINE)?;
        let at = self.at.next_multiple_of(alignment(size));
        self.at = at + room(size);
        Some((arena, at))
    }
}

/// What the place of a payload in the arena is a multiple of.
fn alignment(size: u64) -> u64 {
    if size >= PAGED { PAGE } else { ALIGNED }
}

/// Bytes of the arena that no other payload has.
fn room(size: u64) -> u64 {
    size.checked_next_multiple_of(alignment(size)).unwrap_or(u64::MAX)
}

fn input<'a>(job: &'a Job, wanted: &str) -> Option<&'a Bytes> {
    job.inputs.iter().find(|(slot, _)| name(slot) == wanted).map(|(_, bytes)| bytes)
}

/// What a program calls an input.
fn name(slot: &Slot) -> &str {
    match slot {
        Slot::Stdin => "stdin",
        Slot::File(path) => path.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::{Program, Request};

    #[test]
    fn a_program_is_named_by_its_own_bytes() {
        let programs = Programs::default();
        let job = |code: &[u8]| Job::inline(Request::new(Program::gpu(code.to_vec()))).unwrap();
        // Again, another one, the first again, one of the same length, and one that is too long to be kept.
        let long = vec![7; PROGRAM_BYTES + 1];
        for code in [&b"one"[..], b"one", b"other", b"one", b"two", &long, &long, b"two"] {
            assert_eq!(programs.name(&job(code)), Digest::of(code));
        }
        assert_eq!(programs.named.lock().unwrap().0, &b"two"[..], "what is long was not kept");
    }
}
