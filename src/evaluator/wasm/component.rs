//! Components with the world of `wit/evalmesh.wit`: their host functions, and how one is asked.
//!
//! What a component hands to the host is read in place and charged before it is copied, so no list that it claims to have costs more than it may.
//! Invariant: clock, randomness, log and limits are those of commands, so a component is as deterministic as a command. Knows nothing of admission.

use bytes::Bytes;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentType, InstancePre, Lift, Linker, Lower, WasmList, WasmStr,
};
use wasmtime::{AsContextMut, Engine, Error, PoolConcurrencyLimitError, Result, Store, StoreContextMut, Trap};

use super::limits::RANDOM_BYTES;
use super::store::{self, Bounds, State, Stop};
use super::wasi::Wasi;
use super::wasi::abi::Fault;
use crate::error::{LimitHit, Refusal};
use crate::evaluator::Job;
use crate::limits::{MAX_INPUTS, MAX_OUTPUT_FILES, MAX_PATH};
use crate::reply::{OutputFile, Payload, Reply, Status, TrapCode};
use crate::request::{Request, Slot, Source};

/// The export that is asked.
pub(super) const EVALUATE: &str = "evaluate";
/// What components may import.
const TYPES: &str = "evalmesh:guest/types@1.0.0";
const HOST: &str = "evalmesh:guest/host@1.0.0";
/// The interface that asks.
pub(super) const FABRIC: &str = "evalmesh:guest/fabric@1.0.0";

/// Whether components may import an interface of this name.
pub(super) fn is_offered(name: &str) -> bool {
    [TYPES, HOST, FABRIC].contains(&name)
}

/// A component that is ready to be instantiated.
pub(super) struct Ready {
    pre: InstancePre<State>,
    evaluate: ComponentExportIndex,
}

impl Ready {
    pub(super) fn link(linker: &Linker<State>, component: &Component) -> std::result::Result<Self, Refusal> {
        let missing = || Refusal::Entry {
            entry: EVALUATE.to_owned(),
            why: "the component does not export it: its world is `evalmesh:guest/program`".to_owned(),
        };
        let malformed = |error: Error| Refusal::Malformed(format!("{error:#}"));
        let pre = linker.instantiate_pre(component).map_err(malformed)?;
        Ok(Self { pre, evaluate: component.get_export_index(None, EVALUATE).ok_or_else(missing)? })
    }

    pub(super) fn compiled_bytes(&self) -> u64 {
        let image = self.pre.component().image_range();
        (image.end as usize).saturating_sub(image.start as usize) as u64
    }

    /// Asks a fresh instance. What it answers is put where a command puts it: its files and its output.
    pub(super) fn evaluate(
        &self,
        store: &mut Store<State>,
        job: &Job,
        bounds: &Bounds,
    ) -> Result<(Status, Bytes, Vec<OutputFile>)> {
        // The host reads lists in place, so nothing is copied that this would have to bound.
        store.set_hostcall_fuel(usize::MAX);
        let instance = self.pre.instantiate(&mut *store)?;
        let evaluate = instance.get_typed_func::<(Question<'_>,), (Answer,)>(&mut *store, self.evaluate)?;
        let (answer,) = evaluate.call(&mut *store, (question(job),)).map_err(own_fault)?;
        read(store, &answer, bounds).map_err(own_fault)
    }
}

/// Reads an answer where it lies.
fn read(store: &mut Store<State>, answer: &Answer, bounds: &Bounds) -> Result<(Status, Bytes, Vec<OutputFile>)> {
    let mut store = store.as_context_mut();
    let output = bytes(&mut store, &answer.output)?;
    let mut files = Vec::new();
    for (path, data) in named(&mut store, &answer.files, MAX_OUTPUT_FILES)? {
        let path = path.parse().map_err(|_| broken("evaluate: a path that is not clean"))?;
        files.push(OutputFile { path, executable: false, data: Payload::Inline(data) });
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    if files.windows(2).any(|pair| pair[0].path == pair[1].path) {
        return Err(broken("evaluate: two files of one path"));
    }
    if files.len() as u64 > bounds.files {
        return Err(Error::new(Stop::from(LimitHit::Files { bound: bounds.files })));
    }
    Ok((Status::Exit(answer.status), output, files))
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Question<'a> {
    arguments: &'a [String],
    variables: Vec<Variable<'a>>,
    input: Option<&'a [u8]>,
    files: Vec<File<'a>>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Variable<'a> {
    name: &'a str,
    value: &'a str,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct File<'a> {
    path: &'a str,
    data: &'a [u8],
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct Answer {
    status: i32,
    output: WasmList<u8>,
    files: WasmList<GivenFile>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct GivenFile {
    path: WasmStr,
    data: WasmList<u8>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct GivenVariable {
    name: WasmStr,
    value: WasmStr,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct GivenQuestion {
    arguments: WasmList<WasmStr>,
    variables: WasmList<GivenVariable>,
    input: Option<WasmList<u8>>,
    files: WasmList<GivenFile>,
}

#[derive(ComponentType, Lift)]
#[component(record)]
struct GivenRequest {
    program: Option<WasmList<u8>>,
    entry: WasmStr,
    capabilities: WasmList<WasmStr>,
    question: GivenQuestion,
}

#[derive(ComponentType, Lower)]
#[component(variant)]
enum Ending {
    #[component(name = "exit")]
    Exit(i32),
    #[component(name = "trap")]
    Trap(u8),
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct Told {
    ending: Ending,
    output: Vec<u8>,
    files: Vec<ToldFile>,
}

#[derive(ComponentType, Lower)]
#[component(record)]
struct ToldFile {
    path: String,
    data: Vec<u8>,
}

/// All that components may import, ready to link them with.
pub(super) fn linker(engine: &Engine) -> Result<Linker<State>> {
    let mut linker = Linker::new(engine);
    let mut host = linker.instance(HOST)?;
    host.func_wrap("log", |mut store: StoreContextMut<'_, State>, (text,): (WasmStr,)| {
        let text = text.to_str(&store)?.into_owned();
        wasi(&mut store)?.log(text.as_bytes()).map_err(ended)
    })?;
    host.func_wrap("now", |mut store: StoreContextMut<'_, State>, (): ()| Ok((wasi(&mut store)?.look(),)))?;
    host.func_wrap("random", |mut store: StoreContextMut<'_, State>, (len,): (u32,)| {
        if len > RANDOM_BYTES {
            return Err(broken("random: more than 16 MiB at a time"));
        }
        let mut bytes = vec![0; len as usize];
        wasi(&mut store)?.fill(&mut bytes);
        Ok((bytes,))
    })?;
    linker.instance(FABRIC)?.func_wrap("ask", |store, (request,): (GivenRequest,)| ask(store, &request))?;
    Ok(linker)
}

fn ask(mut store: StoreContextMut<'_, State>, given: &GivenRequest) -> Result<(Told,)> {
    let program = given.program.as_ref().map(|list| copied(&mut store, list)).transpose()?;
    let asking = store.data_mut().asking.as_mut().ok_or_else(|| broken("ask: nobody to ask"))?;
    let request = asking.question(program);
    let request = fill(&mut store, request, given)?;
    let asking = store.data_mut().asking.as_mut().ok_or_else(|| broken("ask: nobody to ask"))?;
    let reply = asking.put_and_take(request).map_err(ended)?;
    Ok((told(reply),))
}

/// Puts what a component says into a request.
fn fill(store: &mut StoreContextMut<'_, State>, mut request: Request, given: &GivenRequest) -> Result<Request> {
    request.program.entry = text(store, &given.entry)?;
    for name in few(store, &given.capabilities)? {
        let name = text(store, &name)?.parse().map_err(|_| broken("ask: a capability that is not a name"))?;
        request.capabilities.insert(name);
    }
    let question = &given.question;
    for argument in few(store, &question.arguments)? {
        request.args.push(text(store, &argument)?);
    }
    for variable in few(store, &question.variables)? {
        request.env.insert(text(store, &variable.name)?, text(store, &variable.value)?);
    }
    if let Some(input) = &question.input {
        let input = copied(store, input)?;
        request.inputs.insert(Slot::Stdin, Source::Payload(Payload::Inline(input)));
    }
    for file in few(store, &question.files)? {
        let path = text(store, &file.path)?.parse().map_err(|_| broken("ask: a path that is not clean"))?;
        let data = copied(store, &file.data)?;
        request.inputs.insert(Slot::File(path), Source::Payload(Payload::Inline(data)));
    }
    Ok(request)
}

fn told(reply: Reply) -> Told {
    let bytes = |payload: Payload| payload.bytes().map(|bytes| bytes.to_vec()).unwrap_or_default();
    Told {
        ending: match reply.status {
            Status::Exit(code) => Ending::Exit(code),
            Status::Trap(code) => Ending::Trap(code as u8),
        },
        output: reply.stdout.map(bytes).unwrap_or_default(),
        files: reply
            .files
            .into_iter()
            .map(|file| ToldFile { path: file.path.into(), data: bytes(file.data) })
            .collect(),
    }
}

/// The request's inputs, as the component is told them.
fn question(job: &Job) -> Question<'_> {
    let request = &job.request;
    let files = job.inputs.iter().filter_map(|(slot, bytes)| match slot {
        Slot::File(path) => Some(File { path: path.as_str(), data: bytes }),
        Slot::Stdin => None,
    });
    Question {
        arguments: &request.args,
        variables: request.env.iter().map(|(name, value)| Variable { name, value }).collect(),
        input: job.stdin().map(|stdin| &stdin[..]),
        files: files.collect(),
    }
}

fn wasi<'a>(store: &'a mut StoreContextMut<'_, State>) -> Result<&'a mut Wasi> {
    store.data_mut().wasi.as_deref_mut().ok_or_else(|| broken("a component without a host"))
}

/// Bytes that become output, charged to its budget.
fn bytes(store: &mut StoreContextMut<'_, State>, list: &WasmList<u8>) -> Result<Bytes> {
    wasi(store)?.charge(list.len() as u64).map_err(ended)?;
    Ok(Bytes::copy_from_slice(list.as_le_slice(&*store)))
}

/// Bytes that become part of a question, charged to what questions may hold.
fn copied(store: &mut StoreContextMut<'_, State>, list: &WasmList<u8>) -> Result<Bytes> {
    if let Some(asking) = &mut store.data_mut().asking {
        asking.charge(list.len() as u64).map_err(ended)?;
    }
    Ok(Bytes::copy_from_slice(list.as_le_slice(&*store)))
}

/// A short text; names and arguments together are bounded where the request gets its id.
fn text(store: &mut StoreContextMut<'_, State>, text: &WasmStr) -> Result<String> {
    let text = text.to_str(&*store)?.into_owned();
    if let Some(asking) = &mut store.data_mut().asking {
        asking.charge(text.len() as u64).map_err(ended)?;
    }
    Ok(text)
}

/// The items of a list that no request may have many of.
fn few<T: Lift + 'static>(store: &mut StoreContextMut<'_, State>, list: &WasmList<T>) -> Result<Vec<T>> {
    if list.len() > MAX_INPUTS {
        return Err(broken("ask: a list of more than 4,096 items"));
    }
    list.iter(store)?.collect()
}

fn named(
    store: &mut StoreContextMut<'_, State>,
    list: &WasmList<GivenFile>,
    most: usize,
) -> Result<Vec<(String, Bytes)>> {
    if list.len() > most {
        return Err(broken("evaluate: more than 4,096 files"));
    }
    let given: Vec<_> = list.iter(&mut *store)?.collect::<Result<_>>()?;
    let mut files = Vec::with_capacity(given.len());
    for file in given {
        let path = file.path.to_str(&*store)?.into_owned();
        if path.len() > MAX_PATH {
            return Err(broken("evaluate: a path that is not clean"));
        }
        files.push((path, bytes(store, &file.data)?));
    }
    Ok(files)
}

fn broken(why: &'static str) -> Error {
    Error::new(Stop::Trap(TrapCode::Contract, why))
}

/// What the engine says of a component that breaks the rules of its calls is the component's trap. Other ends keep their reason.
fn own_fault(error: Error) -> Error {
    let has_reason = error.is::<Stop>() || error.is::<PoolConcurrencyLimitError>();
    let has_code = error.downcast_ref::<Trap>().is_some_and(|trap| store::is_known(*trap));
    if has_reason || has_code { error } else { broken("it broke the rules of component calls") }
}

/// A component sees no errno: what would be one ends it as its own fault.
fn ended(fault: Fault) -> Error {
    match fault {
        Fault::Stop(stop) => Error::new(stop),
        Fault::Errno(_) => broken("what it asked of its host cannot be"),
    }
}
