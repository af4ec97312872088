//! `evalmesh eval` and `evalmesh get`: one question, through the running node if there is one, else through a node of this process.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[cfg(feature = "gpu")]
use crate::cli::gpu;
use crate::cli::limits::{LIMITS, Limits};
use crate::cli::up::Fleet;
use crate::cli::{DataDir, Failure, exit, paths, print_bytes, runtime};
use crate::eval::{Answer, Eval};
use crate::id::ContentId;
use crate::node::control::{Client, ClientError};
use crate::node::{Network, Node, NodeBuilder};
use crate::reply::Payload;
use crate::request::{AnswerFrom, Name, Program, Request};

#[derive(Debug, clap::Args)]
pub(super) struct EvalArgs {
    /// The program: a WASI preview 1 command or a plain WebAssembly module, or a GPU program: a `.wgsl` file or its `.toml` manifest.
    program: PathBuf,
    /// An argument for the program; may be repeated.
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// Its standard input; `-` is this command's.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
    /// A file that the program sees under its own path or under NAME; may be repeated.
    #[arg(long = "file", value_name = "[NAME=]PATH")]
    files: Vec<String>,
    /// An environment variable for the program; may be repeated.
    #[arg(long = "env", value_name = "NAME=VALUE")]
    env: Vec<String>,
    /// The exported function to call in a plain module.
    #[arg(long, value_name = "NAME", default_value = "")]
    entry: String,
    /// How long to wait, for example `500ms` or `2m`.
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    timeout: Option<Duration>,
    /// Something that the program may do beyond computing, for example `eval`: ask for other replies. May be repeated.
    #[arg(long = "capability", value_name = "NAME")]
    capabilities: Vec<Name>,
    #[cfg(feature = "gpu")]
    #[command(flatten)]
    gpu: gpu::GpuArgs,
    #[command(flatten)]
    limits: Limits,
    /// Files that it may make or change.
    #[arg(long, value_name = "N", help_heading = LIMITS)]
    files_made: Option<u64>,
    /// Compute even if the answer is held, and record it again.
    #[arg(long, conflicts_with = "cached_only")]
    fresh: bool,
    /// Take a held answer or none: never compute.
    #[arg(long)]
    cached_only: bool,
    /// Write the files that the program made into this folder.
    #[arg(long, value_name = "DIR")]
    output_dir: Option<PathBuf>,
    /// Show the program's log (its stderr).
    #[arg(long)]
    log: bool,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    fleet: Fleet,
}

#[derive(Debug, clap::Args)]
pub(super) struct GetArgs {
    /// The id of the question: 64 hexadecimal digits.
    id: ContentId,
    #[command(flatten)]
    data: DataDir,
    #[command(flatten)]
    fleet: Fleet,
}

enum Question {
    Eval(Box<Request>),
    /// In the class of the best device of whoever answers.
    #[cfg(feature = "gpu")]
    OnDevice(Box<Request>),
    Get(ContentId),
}

pub(super) fn eval(args: EvalArgs) -> Result<u8, Failure> {
    let question = question(&args)?;
    let (answer, took) = ask(question, &args.data.resolve()?, args.fleet)?;
    let log = answer.reply.stderr.as_ref().and_then(Payload::bytes).filter(|_| args.log);
    if let Some(log) = log {
        eprint!("{}", String::from_utf8_lossy(log));
    }
    if let Some(folder) = &args.output_dir {
        write_files(&answer, folder)?;
    }
    show(&answer, took)
}

pub(super) fn get(args: GetArgs) -> Result<u8, Failure> {
    let (answer, took) = ask(Question::Get(args.id), &args.data.resolve()?, args.fleet)?;
    show(&answer, took)
}

fn question(args: &EvalArgs) -> Result<Question, Failure> {
    #[cfg(feature = "gpu")]
    if gpu::is_gpu(&args.program) {
        let (wanted, class) = gpu::request(&args.program, &args.entry, &args.gpu)?;
        let wanted = Box::new(request(args, wanted)?);
        return Ok(if class == gpu::WantedClass::BestDevice {
            Question::OnDevice(wanted)
        } else {
            Question::Eval(wanted)
        });
    }
    let module = read(&args.program)?;
    let wanted = Request::new(Program::wasm(module).entry(args.entry.as_str()));
    Ok(Question::Eval(Box::new(request(args, wanted)?)))
}

/// What the command line says beyond the program.
fn request(args: &EvalArgs, mut request: Request) -> Result<Request, Failure> {
    request.args.clone_from(&args.args);
    if let Some(input) = &args.input {
        request = request.stdin(read(input)?);
    }
    for file in &args.files {
        let (name, path) = file.split_once('=').unwrap_or((file, file));
        request = request.file(name, read(Path::new(path))?).map_err(crate::error::EvalError::from)?;
    }
    for variable in &args.env {
        let (name, value) = variable.split_once('=').ok_or_else(|| {
            Failure::new(exit::USAGE, format!("`{variable}` is not NAME=VALUE"), "write --env NAME=VALUE")
        })?;
        request = request.env(name, value);
    }
    request.capabilities.extend(args.capabilities.iter().cloned());
    let Limits { cpu, fuel, memory, output } = args.limits;
    let options = &mut request.options;
    (options.timeout, options.files) = (args.timeout, args.files_made);
    (options.cpu, options.fuel, options.memory, options.output) = (cpu, fuel, memory, output);
    Ok(request.answer_from(match (args.fresh, args.cached_only) {
        (true, _) => AnswerFrom::ComputedOnly,
        (_, true) => AnswerFrom::HeldOnly,
        _ => AnswerFrom::Anywhere,
    }))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    if path == Path::new("-") {
        let mut bytes = Vec::new();
        return match std::io::stdin().lock().read_to_end(&mut bytes) {
            Ok(_) => Ok(bytes),
            Err(error) => Err(Failure::unreadable(path, &error)),
        };
    }
    std::fs::read(path).map_err(|error| Failure::unreadable(path, &error))
}

/// Asks the running node of the data directory, or a node of this process that uses the same directory.
#[expect(clippy::disallowed_methods, reason = "the time shown to the person at the terminal")]
fn ask(question: Question, directory: &Path, fleet: Fleet) -> Result<(Answer, Duration), Failure> {
    runtime()?.block_on(async {
        let start = Instant::now();
        let answer = match Client::connect(directory).await {
            Ok(client) => match question {
                #[cfg(feature = "gpu")]
                Question::OnDevice(request) => {
                    let devices = client.devices().await?;
                    client.ask_eval(gpu::on_best(*request, &devices)?).await??
                }
                Question::Eval(request) => client.ask_eval(*request).await??,
                Question::Get(id) => client.get(id).await??,
            },
            Err(ClientError::NotRunning(_)) => ask_here(question, directory, fleet).await?,
            Err(error) => return Err(error.into()),
        };
        Ok((answer, start.elapsed()))
    })
}

/// How long a node of this process waits for the peers that it was told to join.
const JOIN: Duration = Duration::from_secs(5);

async fn ask_here(question: Question, directory: &Path, fleet: Fleet) -> Result<Answer, Failure> {
    let mut builder = Node::builder().data_dir(directory);
    if let Question::Eval(request) = &question {
        // Whoever asks a node of its own process says with the request what is granted.
        builder = request.capabilities.iter().cloned().fold(builder, NodeBuilder::grant);
    }
    let peers = fleet.all_peers()?;
    let wanted = peers.len();
    if wanted > 0 {
        let secret = paths::fleet_secret(fleet.secret)?;
        builder = builder.network(Network {
            secret,
            listen: Vec::new(),
            peers,
            mdns: false,
            carrier: crate::net::Carrier::default(),
        });
    }
    let node = builder.start()?;
    if wanted > 0 {
        join(&node, wanted).await?;
    }
    let answer = match question {
        #[cfg(feature = "gpu")]
        Question::OnDevice(request) => {
            let devices = node.devices().await?;
            node.eval(gpu::on_best(*request, &devices)?).await
        }
        Question::Eval(request) => node.eval(*request).await,
        Question::Get(id) => node.get(id).await,
    };
    node.shutdown();
    Ok(answer?)
}

/// Waits until all peers are joined and their logs are known; a peer of another fleet is a failure, one that is away is not.
async fn join(node: &Node, peers: usize) -> Result<(), Failure> {
    let step = Duration::from_millis(5);
    for _ in 0..(JOIN.as_millis() / step.as_millis()) {
        let status = node.status();
        if let Some(refused) = status.refused.iter().find(|refused| refused.other_secret) {
            let message = format!("the peer at {} has another fleet secret", refused.address);
            return Err(Failure::new(
                exit::OTHER_FLEET,
                message,
                "copy its fleet secret's file and name it with --secret",
            ));
        }
        let known = status.peers.iter().filter(|peer| peer.log_known > 0).count();
        if known + status.refused.len() >= peers {
            break;
        }
        tokio::time::sleep(step).await;
    }
    Ok(())
}

/// The reply's bytes on stdout, one line about it on stderr.
pub(super) fn show(answer: &Answer, took: Duration) -> Result<u8, Failure> {
    // A GPU program's only output is what was asked for, whatever its name is.
    let only = match &answer.reply.files[..] {
        [file] if answer.reply.stdout.is_none() => Some(&file.data),
        _ => None,
    };
    if let Some(bytes) = answer.reply.stdout.as_ref().or(only).and_then(Payload::bytes) {
        print_bytes(bytes)?;
    }
    let status = if answer.reply.status.is_ok() { String::new() } else { format!(" [{}]", answer.reply.status) };
    let unrecorded = if answer.recorded { "" } else { " [not recorded]" };
    eprintln!("{}{status}{unrecorded} {} in {:.1} ms", answer.origin, answer.id, took.as_secs_f64() * 1e3);
    Ok(if answer.reply.status.is_ok() { exit::OK } else { exit::PROGRAM_STATUS })
}

fn write_files(answer: &Answer, folder: &Path) -> Result<(), Failure> {
    for file in &answer.reply.files {
        let path = folder.join(file.path.as_str());
        let bytes = file.data.bytes().map_or(&[][..], |bytes| bytes);
        let written = path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(&path, bytes));
        written
            .map_err(|error| Failure::new(exit::FAILED, format!("cannot write {}: {error}", path.display()), None))?;
    }
    Ok(())
}
