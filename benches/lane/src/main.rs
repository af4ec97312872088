//! What one small request costs on a lane, on raw TCP with the same framing, and through Redis.
//!
//! ```sh
//! cargo run --release --manifest-path benches/lane/Cargo.toml [-- ROW..]    # redis-server on the path adds its row
//! ```
//!
//! Client and server are two processes on loopback. A request is 256 bytes and so is its answer (an echo; Redis: a GET of 256 bytes).
//! Time: one request at a time, the median of 20,000. CPU: 500,000 requests with 64 in flight, what the kernel counted for all threads of
//! client and server, and how often these were put off a processor. Each row is measured five times, in turns, and the medians are shown: ratios are what counts, machines differ. All
//! of our processes and the client of Redis use mimalloc, as the released binary does; `redis-server` brings its own allocator.
//!
//! `whole hit` is what an answer costs that another node holds: see `hit`; `floor` is what no such answer can cost less than: see `floor`. It has fewer requests, each of them another question.

mod floor;
mod hit;
mod lane;
mod redis_get;
mod tcp;

use std::collections::BTreeMap;
use std::ops::Range;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// That of the `evalmesh` program.
#[path = "../../../src/allocator.rs"]
mod allocator;

type Failure = Box<dyn std::error::Error + Send + Sync>;

const SIZE: usize = 256;
const SIZES: Sizes = Sizes { warm: 2_000, alone: 20_000, together: 500_000, many: 20_000 };
const IN_FLIGHT: usize = 64;
const MANY_IN_FLIGHT: usize = 1024;
const ROUNDS: usize = 5;

/// How many requests each part of a measurement has.
#[derive(Clone, Copy)]
struct Sizes {
    warm: usize,
    alone: usize,
    together: usize,
    many: usize,
}

/// A connected client of one system.
trait Client {
    /// Does `count` requests with `in_flight` of them under way; calls `each` with the time of every one if there is one at a time.
    async fn requests(&mut self, count: usize, in_flight: usize) -> Result<Vec<Duration>, Failure>;

    /// The process that serves.
    fn server(&self) -> u32;
}

/// What a task asks with.
trait Asker: Clone + Send + 'static {
    /// Asks the question of this number and checks the answer.
    fn ask(&mut self, number: usize) -> impl Future<Output = Result<(), Failure>> + Send;
}

/// Asks all these questions, from as many tasks as are to be under way; how long each took if there is one at a time.
async fn ask_all(asker: &impl Asker, numbers: Range<usize>, in_flight: usize) -> Result<Vec<Duration>, Failure> {
    let mut tasks = tokio::task::JoinSet::new();
    for first in numbers.clone().take(in_flight) {
        let (mut asker, end) = (asker.clone(), numbers.end);
        tasks.spawn(async move {
            let mut times = Vec::new();
            for number in (first..end).step_by(in_flight) {
                let sent_at = Instant::now();
                asker.ask(number).await?;
                if in_flight == 1 {
                    times.push(sent_at.elapsed());
                }
            }
            Ok::<_, Failure>(times)
        });
    }
    let mut times = Vec::new();
    while let Some(done) = tasks.join_next().await {
        times.extend(done??);
    }
    Ok(times)
}

#[derive(Clone, Copy)]
struct Figures {
    alone_us: f64,
    client_us: f64,
    server_us: f64,
    /// Of both.
    switches: f64,
}

async fn measure(client: &mut impl Client, sizes: Sizes) -> Result<Figures, Failure> {
    client.requests(sizes.warm, IN_FLIGHT).await?;
    let mut alone = client.requests(sizes.alone, 1).await?;
    alone.sort_unstable();
    let (me, server) = (std::process::id(), client.server());
    let before = (cpu(me)?, cpu(server)?, switches(me)? + switches(server)?);
    client.requests(sizes.together, IN_FLIGHT).await?;
    let after = (cpu(me)?, cpu(server)?, switches(me)? + switches(server)?);
    client.requests(sizes.many, MANY_IN_FLIGHT).await?;
    let each = |spent: Duration| spent.as_secs_f64() * 1e6 / sizes.together as f64;
    Ok(Figures {
        alone_us: alone[alone.len() / 2].as_secs_f64() * 1e6,
        client_us: each(after.0 - before.0),
        server_us: each(after.1 - before.1),
        switches: (after.2 - before.2) as f64 / sizes.together as f64,
    })
}

/// What a node of a whole hit takes, and half as much again.
const TOUCHED: usize = 512 * 1024 * 1024;

/// Has this process use memory and give it back to its allocator, which keeps it for a while, as that of a node that has run for some time does. The
/// first use of memory is about the machine: a virtual one may have to get it back from its host, which takes ten times what clearing a page does.
fn touch_memory() {
    drop(std::hint::black_box(vec![1_u8; TOUCHED]));
}

/// Time on a processor of all live threads of a process, in nanoseconds by the kernel's scheduler.
fn cpu(pid: u32) -> Result<Duration, Failure> {
    let mut nanos = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let stat = std::fs::read_to_string(task?.path().join("schedstat"))?;
        nanos += stat.split(' ').next().unwrap_or_default().parse::<u64>()?;
    }
    Ok(Duration::from_nanos(nanos))
}

/// How often a thread of a process gave up a processor or lost it.
fn switches(pid: u32) -> Result<u64, Failure> {
    let mut sum = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let status = std::fs::read_to_string(task?.path().join("status"))?;
        let counts = status.lines().filter(|line| line.contains("ctxt_switches"));
        sum += counts.filter_map(|line| line.rsplit('\t').next()?.parse::<u64>().ok()).sum::<u64>();
    }
    Ok(sum)
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn run(wanted: &[String]) -> Result<(), Failure> {
    let is_wanted = |name: &str| wanted.is_empty() || wanted.iter().any(|wanted| wanted == name);
    let names = ["raw tcp", "lane", "floor", "whole hit", "redis get"];
    let mut rows = names.map(|name| (name, Vec::<Figures>::new()));
    for _ in 0..ROUNDS {
        for (name, figures) in rows.iter_mut().filter(|(name, _)| is_wanted(name)) {
            figures.extend(match *name {
                "raw tcp" => Some(measure(&mut tcp::client().await?, SIZES).await?),
                "lane" => Some(measure(&mut lane::client().await?, SIZES).await?),
                "floor" => Some(measure(&mut floor::client().await?, SIZES).await?),
                "whole hit" => Some(measure(&mut hit::client().await?, hit::SIZES).await?),
                _ => match redis_get::client().await? {
                    Some(mut client) => Some(measure(&mut client, SIZES).await?),
                    None => None,
                },
            });
        }
    }
    println!("{SIZE} bytes each way, {ROUNDS} rounds, medians; microseconds");
    println!("{:<10} {:>14} {:>12} {:>12} {:>8} {:>10}", "", "one at a time", "cpu client", "cpu server", "sum", "switches");
    let mut sums = BTreeMap::new();
    for (name, figures) in rows.iter().filter(|(_, figures)| !figures.is_empty()) {
        let of = |pick: fn(&Figures) -> f64| median(figures.iter().map(pick).collect());
        let (alone, client, server) = (of(|f| f.alone_us), of(|f| f.client_us), of(|f| f.server_us));
        let (sum, switches) = (client + server, of(|f| f.switches));
        println!("{name:<10} {alone:>14.1} {client:>12.2} {server:>12.2} {sum:>8.2} {switches:>10.3}");
        sums.insert(*name, (alone, client + server));
    }
    if let (Some(lane), Some(tcp)) = (sums.get("lane"), sums.get("raw tcp")) {
        println!("lane / raw tcp, one at a time: {:.2} (at most 2)", lane.0 / tcp.0);
    }
    for (name, wanted) in [("lane", "at most 0.9"), ("floor", "of a whole hit"), ("whole hit", "at most 2")] {
        if let (Some(ours), Some(redis)) = (sums.get(name), sums.get("redis get")) {
            println!("{name} / redis, cpu: {:.2} ({wanted})", ours.1 / redis.1);
        }
    }
    if is_wanted("redis get") && !sums.contains_key("redis get") {
        println!("no redis-server on the path: its row is left out");
    }
    println!("no request failed at {MANY_IN_FLIGHT} in flight");
    Ok(())
}

/// Ends a run that hangs.
async fn within<T>(limit: Duration, what: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::time::timeout(limit, what).await.map_err(|_| Failure::from(format!("no end after {limit:?}")))?
}

fn main() -> ExitCode {
    allocator::keep_memory();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let limit = Duration::from_secs(600);
    let args: Vec<String> = std::env::args().skip(1).collect();
    let result = match args.first().map(String::as_str) {
        Some("tcp-server") => runtime.block_on(tcp::serve()),
        Some("lane-server") => runtime.block_on(lane::serve()),
        Some("floor-server") => runtime.block_on(floor::serve()),
        Some("hit-server") => runtime.block_on(hit::serve()),
        _ => runtime.block_on(within(limit, run(&args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs requests over something that takes one frame and gives back one frame, in order.
struct Window {
    left: usize,
    under_way: usize,
    sent_at: Instant,
    times: Vec<Duration>,
}

impl Window {
    fn new(count: usize) -> Self {
        Self { left: count, under_way: 0, sent_at: Instant::now(), times: Vec::new() }
    }

    /// Whether to send one more now.
    fn send(&mut self, in_flight: usize) -> bool {
        let more = self.left > 0 && self.under_way < in_flight;
        if more {
            self.left -= 1;
            self.under_way += 1;
            if in_flight == 1 {
                self.sent_at = Instant::now();
            }
        }
        more
    }

    fn received(&mut self, in_flight: usize) {
        self.under_way -= 1;
        if in_flight == 1 {
            self.times.push(self.sent_at.elapsed());
        }
    }

    fn done(&self) -> bool {
        self.left == 0 && self.under_way == 0
    }
}

/// A server in a process of its own, which is ended with this handle.
struct Server(tokio::process::Child);

impl Server {
    /// Starts this program again as a server; gives back its first line of output.
    async fn start(role: &str) -> Result<(Self, String), Failure> {
        use tokio::io::{AsyncBufReadExt, BufReader};

        let mut child = tokio::process::Command::new(std::env::current_exe()?)
            .arg(role)
            .stdout(std::process::Stdio::piped())
            .stdin(std::process::Stdio::null())
            .kill_on_drop(true)
            .spawn()?;
        let stdout = child.stdout.take().ok_or("no output")?;
        let line = BufReader::new(stdout).lines().next_line().await?.ok_or("the server said nothing")?;
        Ok((Self(child), line))
    }

    fn pid(&self) -> u32 {
        self.0.id().unwrap_or_default()
    }
}
