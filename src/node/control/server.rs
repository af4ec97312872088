//! The node's side of the control socket, on a thread and runtime of its own: a large reply to a client never delays a peer.

use std::io;
use std::path::Path;
use std::thread;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tracing::{debug, warn};

use super::endpoint::{Listener, Stream};
use super::{Command, Reaction, read_frame, write_frame};
use crate::eval::Eval;
#[cfg(feature = "wasm")]
use crate::evaluator::slots::{Registration, SlotError};
use crate::node::Node;
#[cfg(feature = "wasm")]
use crate::node::status::SlotStatus;

/// Clients at a time; further ones wait to be accepted.
const MAX_CLIENTS: usize = 256;

/// The listening control socket. Dropping it closes the socket and ends its clients.
pub(crate) struct ControlServer {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl ControlServer {
    pub(crate) fn start(node: Node, data_dir: &Path) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = {
            let _inside = runtime.enter();
            Listener::bind(data_dir)?
        };
        let (stop, stopped) = oneshot::channel();
        let serve = move || runtime.block_on(listen(node, listener, stopped));
        let thread = thread::Builder::new().name("evalmesh-control".to_owned()).spawn(serve)?;
        Ok(Self { stop: Some(stop), thread: Some(thread) })
    }
}

impl Drop for ControlServer {
    fn drop(&mut self) {
        drop(self.stop.take());
        // Joining from the control thread itself (the last handle went away there) would wait for ever.
        if let Some(thread) = self.thread.take().filter(|thread| thread.thread().id() != thread::current().id())
            && thread.join().is_err()
        {
            warn!("the control thread panicked");
        }
    }
}

async fn listen(node: Node, listener: Listener, mut stopped: oneshot::Receiver<()>) {
    let mut clients = JoinSet::new();
    loop {
        tokio::select! {
            _ = &mut stopped => break,
            Some(_) = clients.join_next(), if !clients.is_empty() => {}
            accepted = listener.accept(), if clients.len() < MAX_CLIENTS => match accepted {
                Ok(stream) => drop(clients.spawn(client(node.clone(), stream, listener.secret))),
                Err(error) => {
                    warn!(%error, "cannot accept a client");
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                }
            },
        }
    }
}

async fn client(node: Node, mut stream: Box<dyn Stream>, secret: Option<[u8; 32]>) {
    if let Err(error) = converse(&node, &mut stream, secret).await {
        debug!(%error, "a client's connection ended");
    }
}

async fn converse(node: &Node, stream: &mut Box<dyn Stream>, secret: Option<[u8; 32]>) -> io::Result<()> {
    let mut trusted = secret.is_none();
    while let Some(command) = read_frame::<Command>(stream).await? {
        let reaction = match command {
            Command::Prove(proof) => {
                // Comparing hashes takes the same time whatever the first difference is.
                trusted |= secret.is_some_and(|secret| blake3::hash(&secret) == blake3::hash(&proof));
                continue;
            }
            _ if !trusted => return Err(io::ErrorKind::PermissionDenied.into()),
            command => unless_closed(stream, serve(node, command)).await?,
        };
        write_frame(stream, &reaction).await?;
    }
    Ok(())
}

/// Carries out one command.
pub(crate) async fn serve(node: &Node, command: Command) -> Reaction {
    match command {
        // Proven or not needed, by whoever serves.
        Command::Prove(_) => Reaction::Admit(Ok(())),
        Command::Eval(request) => Reaction::Eval(node.eval(*request).await.map(Box::new)),
        Command::Get(id) => Reaction::Eval(node.get(id).await.map(Box::new)),
        Command::Admit(request) => Reaction::Admit(node.admit(&request)),
        Command::Holders(id) => Reaction::Holders(node.holders(id).await),
        #[cfg(feature = "gpu")]
        Command::Devices => Reaction::Devices(node.devices().await.map(Box::new)),
        Command::Status => Reaction::Status(Box::new(node.status())),
        #[cfg(feature = "wasm")]
        Command::SlotSet(wanted) => Reaction::SlotSet(slot_set(node, *wanted).await.map(Box::new)),
        #[cfg(feature = "wasm")]
        Command::SlotEvict(name) => Reaction::SlotEvict(node.evict_slot(&name)),
        #[cfg(feature = "wasm")]
        Command::Slots => Reaction::Slots(node.slots()),
        #[cfg(feature = "wasm")]
        Command::SlotCall(name, kind, input) => {
            Reaction::SlotCall(node.call_slot(&name, kind, input).await.map(Box::new))
        }
    }
}

/// Registers a slot on a thread of its own: compiling takes a while, and others use this runtime.
#[cfg(feature = "wasm")]
async fn slot_set(node: &Node, wanted: Registration) -> Result<SlotStatus, SlotError> {
    let (node, name) = (node.clone(), wanted.name.clone());
    let registered = tokio::task::spawn_blocking(move || Ok((&*node.register_slot(&wanted)?).into()));
    registered.await.unwrap_or_else(|error| Err(SlotError::NotKept { slot: name, why: error.to_string() }))
}

/// Waits for `work` unless the client goes away first; dropping the work abandons it.
async fn unless_closed<T>(stream: &mut Box<dyn Stream>, work: impl Future<Output = T>) -> io::Result<T> {
    use tokio::io::AsyncReadExt;

    let mut byte = [0];
    tokio::select! {
        result = work => Ok(result),
        read = stream.read(&mut byte) => Err(match read {
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Ok(_) => io::Error::new(io::ErrorKind::InvalidData, "a second request before the first was answered"),
            Err(error) => error,
        }),
    }
}
