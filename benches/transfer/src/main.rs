//! What a large reply costs between two nodes beside iroh-blobs, what it does to small ones, and what four narrow holders deliver together.
//!
//! ```sh
//! cargo run --release --manifest-path benches/transfer/Cargo.toml [-- PART]      # parts: cpu, small, holders, all
//! ```
//!
//! Every server and every client is a process of its own on loopback and keeps everything in memory.
//!
//! - `cpu`: a reply of 64 MiB is fetched by a fresh client, verified, kept and announced; what the kernel counted for all threads of client and
//!   server, beside a blob of 64 MiB that is fetched by iroh-blobs into its memory store. Both in turns, medians of seven.
//! - `small`: the time of small questions (256 bytes, each one new to the asker, one at a time), alone and while such a fetch runs.
//! - `holders`: four nodes that hold the same 64 MiB, each in a network namespace of its own whose link sends 20 MiB/s, headers included (tc's token
//!   bucket). Where namespaces are not allowed each is behind a relay in this process instead, which takes a processor's time from the rest.
//!
//! Both sides use mimalloc, as the released binary does. Ratios are what counts, machines differ.

#[cfg(feature = "blobs")]
mod blobs;
#[path = "../../../tests/it/fleet/namespaces.rs"]
#[expect(dead_code, reason = "a part of it is for fleets of processes")]
mod namespaces;
mod node;
mod relay;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use namespaces::Namespaces;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout};

/// That of the `evalmesh` program.
#[path = "../../../src/allocator.rs"]
mod allocator;

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is fetched.
pub(crate) const LARGE: usize = 64 << 20;
/// What each holder's relay passes in a second.
const NARROW: u64 = 20 << 20;
const HOLDERS: usize = 4;
const ROUNDS: usize = 7;

/// Time on a processor of all live threads of a process, in nanoseconds by the kernel's scheduler.
pub(crate) fn cpu(pid: u32) -> Result<Duration, Failure> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// This program in another role, ended with this handle.
pub(crate) struct Role {
    process: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Role {
    pub(crate) fn start(args: &[&str]) -> Result<Self, Failure> {
        Self::spawn(tokio::process::Command::new(std::env::current_exe()?).args(args))
    }

    /// The same in a network namespace.
    fn start_in(namespace: &str, args: &[&str]) -> Result<Self, Failure> {
        let program = std::env::current_exe()?;
        Self::spawn(tokio::process::Command::new("ip").args(["netns", "exec", namespace]).arg(program).args(args))
    }

    fn spawn(command: &mut tokio::process::Command) -> Result<Self, Failure> {
        let mut process = command
            .stdout(std::process::Stdio::piped())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = process.stdout.take().ok_or("no output")?;
        Ok(Self { process, lines: BufReader::new(stdout).lines() })
    }

    /// Its next line of output.
    pub(crate) async fn line(&mut self) -> Result<String, Failure> {
        Ok(self.lines.next_line().await?.ok_or("it said nothing")?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id().unwrap_or_default()
    }
}

/// One fetch: milliseconds of wall time, and of CPU on both sides.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Fetch {
    wall: f64,
    client: f64,
    server: f64,
}

impl Fetch {
    /// Runs a fetch in this process from the server `pid`, and prints it as a line.
    pub(crate) async fn print(pid: u32, fetch: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
        let (me, begin) = (std::process::id(), Instant::now());
        let before = (cpu(me)?, cpu(pid)?);
        fetch.await?;
        let wall = begin.elapsed();
        // What goes on in the background (keeping what was fetched) belongs to it.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let after = (cpu(me)?, cpu(pid)?);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        println!("{} {} {}", ms(wall), ms(after.0 - before.0), ms(after.1 - before.1));
        Ok(())
    }

    fn parse(line: &str) -> Result<Self, Failure> {
        let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        match numbers[..] {
            [wall, client, server] => Ok(Self { wall, client, server }),
            _ => Err(format!("no fetch: {line}").into()),
        }
    }
}

async fn fetched(client: &[&str]) -> Result<Fetch, Failure> {
    Fetch::parse(&Role::start(client)?.line().await?)
}

fn row(name: &str, fetches: &[Fetch]) -> f64 {
    let of = |pick: fn(&Fetch) -> f64| median(fetches.iter().map(pick).collect());
    let sums: Vec<f64> = fetches.iter().map(|fetch| fetch.client + fetch.server).collect();
    let (least, most) = (sums.iter().copied().fold(f64::MAX, f64::min), sums.iter().copied().fold(0.0, f64::max));
    let sum = median(sums);
    let (wall, client, server) = (of(|f| f.wall), of(|f| f.client), of(|f| f.server));
    println!("{name:<12} {wall:>9.0} {client:>12.0} {server:>12.0} {sum:>8.0}   {least:.0} to {most:.0}");
    sum
}

async fn cpu_part() -> Result<(), Failure> {
    let mut node = Role::start(&["node-server", "large"])?;
    let (node_at, node_pid) = (node.line().await?, node.pid().to_string());
    #[cfg(feature = "blobs")]
    let mut peer = Role::start(&["blobs-server"])?;
    #[cfg(feature = "blobs")]
    let (peer_at, peer_pid) = (peer.line().await?, peer.pid().to_string());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        ours.push(fetched(&["node-client", "fetch", &node_pid, &node_at]).await?);
        #[cfg(feature = "blobs")]
        theirs.push(fetched(&["blobs-client", &peer_pid, &peer_at]).await?);
    }
    println!("64 MiB verified, {ROUNDS} rounds, medians; milliseconds");
    println!("{:<12} {:>9} {:>12} {:>12} {:>8}   {}", "", "wall", "cpu client", "cpu server", "sum", "sums");
    let ours = row("evalmesh", &ours);
    if !theirs.is_empty() {
        let theirs = row("iroh-blobs", &theirs);
        println!("evalmesh / iroh-blobs, cpu: {:.2} (at most 0.7)", ours / theirs);
    }
    Ok(())
}

async fn small_part() -> Result<(), Failure> {
    let mut node = Role::start(&["node-server", "both"])?;
    let (at, pid) = (node.line().await?, node.pid().to_string());
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    println!("small questions, microseconds; each line is one fresh client");
    println!("{:>12} {:>12} {:>12} {:>12} {:>10}", "p50 alone", "p99 alone", "p50 beside", "p99 beside", "requests");
    for _ in 0..ROUNDS {
        let line = Role::start(&["node-client", "small", &pid, &at])?.line().await?;
        let numbers: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        println!(
            "{:>12.0} {:>12.0} {:>12.0} {:>12.0} {:>10.0}",
            numbers[0], numbers[1], numbers[2], numbers[3], numbers[4]
        );
        alone.push(numbers[0]);
        beside.push(numbers[2]);
    }
    println!(
        "median of the p50: {:.0} alone, {:.0} while 64 MiB are fetched (at most 1,000)",
        median(alone),
        median(beside)
    );
    Ok(())
}

/// Where holders and askers of the part `holders` are.
enum Place {
    /// The last namespace is the asker's.
    Namespaces(Namespaces),
    /// Behind relays.
    Loopback,
}

impl Place {
    fn new() -> Result<Self, Failure> {
        let namespaces = match Namespaces::new(HOLDERS + 1) {
            Ok(namespaces) => namespaces,
            Err(why) => {
                println!("no network namespaces here ({why}): relays instead");
                return Ok(Self::Loopback);
            }
        };
        for holder in 0..HOLDERS {
            let (name, rate) = (namespaces.name(holder), format!("{}bit", NARROW * 8));
            let shape = ["-n", &name, "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", &rate, "burst", "128kb", "latency", "400ms"];
            if !std::process::Command::new("tc").args(shape).status()?.success() {
                return Err("tc does not make a link narrow".into());
            }
        }
        Ok(Self::Namespaces(namespaces))
    }

    /// A holder, and where the asker finds it.
    async fn holder(&self, number: usize) -> Result<(Role, String), Failure> {
        let seed = number.to_string();
        match self {
            Self::Namespaces(namespaces) => {
                let listen = format!("{}:0", Namespaces::address(number));
                let mut holder = Role::start_in(&namespaces.name(number), &["node-server", "large", &seed, &listen])?;
                let at = holder.line().await?;
                Ok((holder, at))
            }
            Self::Loopback => {
                let mut holder = Role::start(&["node-server", "large", &seed])?;
                let at = holder.line().await?;
                let (node, address) = at.split_once('@').ok_or("no address")?;
                let at = format!("{node}@{}", relay::start(address.parse()?, NARROW).await?);
                Ok((holder, at))
            }
        }
    }

    fn asker(&self, args: &[&str]) -> Result<Role, Failure> {
        match self {
            Self::Namespaces(namespaces) => Role::start_in(&namespaces.name(HOLDERS), args),
            Self::Loopback => Role::start(args),
        }
    }
}

async fn holders_part() -> Result<(), Failure> {
    let place = Place::new()?;
    let (mut holders, mut addresses) = (Vec::new(), Vec::new());
    for number in 0..HOLDERS {
        let (holder, at) = place.holder(number).await?;
        holders.push(holder);
        addresses.push(at);
    }
    let mut rates = Vec::new();
    for count in [1, HOLDERS, HOLDERS, HOLDERS] {
        let pid = holders[0].pid().to_string();
        let mut args = vec!["node-client", "fetch", &pid];
        args.extend(addresses[..count].iter().map(String::as_str));
        let fetch = Fetch::parse(&place.asker(&args)?.line().await?)?;
        let rate = LARGE as f64 / (1 << 20) as f64 / (fetch.wall / 1e3);
        println!("{count} holders of 20 MiB/s each: {rate:.1} MiB/s, {:.0} ms of CPU at the asker", fetch.client);
        if count == HOLDERS {
            rates.push(rate);
        }
    }
    println!("four holders, median of three: {:.1} MiB/s (at least 72)", median(rates));
    // Processes before the namespaces that they are in.
    drop(holders);
    Ok(())
}

async fn run(part: &str) -> Result<(), Failure> {
    if matches!(part, "cpu" | "all") {
        cpu_part().await?;
    }
    if matches!(part, "small" | "all") {
        small_part().await?;
    }
    if matches!(part, "holders" | "all") {
        holders_part().await?;
    }
    Ok(())
}

fn main() -> ExitCode {
    allocator::keep_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let args: Vec<String> = std::env::args().skip(1).collect();
    let rest: Vec<&str> = args.iter().skip(1).map(String::as_str).collect();
    let result = match args.first().map_or("all", String::as_str) {
        "node-server" => runtime.block_on(node::serve(&rest)),
        "node-client" => runtime.block_on(node::client(&rest)),
        #[cfg(feature = "blobs")]
        "blobs-server" => blobs::runtime().block_on(blobs::serve()),
        #[cfg(feature = "blobs")]
        "blobs-client" => blobs::runtime().block_on(blobs::client(&rest)),
        part => runtime.block_on(run(part)),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
