//! `evalmesh demo`: three real node processes, a real batch, and a table of who answered what.
//!
//! Round one computes on node A; round two asks B and C, which fetch; then B is killed and restarted, and round three replays from its
//! ledger. Every answer is compared with one computed natively; a single wrong one is exit code 30.

mod batch;
mod fleet;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use comfy_table::{CellAlignment, LineStyle, Table, presets};

use self::batch::{Question, questions};
use self::fleet::{NodeProcess, settled};
use crate::cli::{Failure, exit, print_bytes, runtime};
use crate::eval::{Answer, Origin};
use crate::id::NodeId;
use crate::node::control::Client;
use crate::reply::Payload;

#[derive(Debug, clap::Args)]
pub(super) struct Args {}

struct Row {
    round: &'static str,
    question: String,
    asked: &'static str,
    source: String,
    origin: Origin,
    took: Duration,
    bytes: u64,
    right: bool,
}

pub(super) fn run(_: &Args) -> Result<u8, Failure> {
    let folder = tempfile::Builder::new()
        .prefix("evalmesh-demo-")
        .tempdir()
        .map_err(|error| Failure::new(exit::FAILED, format!("cannot make a temporary folder: {error}"), None))?;
    let rows = runtime()?.block_on(rounds(folder.path()))?;
    print_bytes(table(&rows).as_bytes())?;
    print_bytes(summary(&rows).as_bytes())?;
    Ok(if rows.iter().all(|row| row.right) { exit::OK } else { exit::WRONG_ANSWER })
}

async fn rounds(folder: &std::path::Path) -> Result<Vec<Row>, Failure> {
    let questions = questions();
    let facts = questions.len() as u64;
    eprintln!("starting three nodes on this machine ..");
    let mut a = NodeProcess::start("A", folder, &[])?;
    let client_a = a.client().await?;
    let mut names = BTreeMap::new();
    let at_a = join(&client_a, "A", &mut names).await?;
    let mut b = NodeProcess::start("B", folder, &at_a)?;
    let client_b = b.client().await?;
    let at_b = join(&client_b, "B", &mut names).await?;
    let both: Vec<_> = at_a.iter().chain(&at_b).copied().collect();
    let mut c = NodeProcess::start("C", folder, &both)?;
    let client_c = c.client().await?;
    join(&client_c, "C", &mut names).await?;
    for client in [&client_a, &client_b, &client_c] {
        settled(client, 2, 0).await?;
    }
    let mut rows = Vec::new();
    eprintln!("round 1: ask A ..");
    ask_all(&mut rows, "1", "A", &client_a, &questions, &names).await?;
    settled(&client_b, 2, facts).await?;
    settled(&client_c, 2, facts).await?;
    eprintln!("round 2: ask B and C the same ..");
    ask_all(&mut rows, "2", "B", &client_b, &questions, &names).await?;
    ask_all(&mut rows, "2", "C", &client_c, &questions[..2], &names).await?;
    // What was fetched is delivered at once and adopted in the background: it is durable some milliseconds later.
    tokio::time::sleep(Duration::from_millis(200)).await;
    eprintln!("round 3: kill B, start it again alone, ask it the same ..");
    b.kill();
    drop(client_b);
    let mut b = NodeProcess::start("B", folder, &[])?;
    let client_b = b.client().await?;
    ask_all(&mut rows, "3", "B", &client_b, &questions, &names).await?;
    Ok(rows)
}

/// Learns a node's name and where it listens.
async fn join(
    client: &Client,
    name: &'static str,
    names: &mut BTreeMap<NodeId, &'static str>,
) -> Result<Vec<std::net::SocketAddr>, Failure> {
    let status = client.status().await?;
    names.insert(status.node, name);
    Ok(status.addresses)
}

#[expect(clippy::disallowed_methods, reason = "the times that the table shows")]
async fn ask_all(
    rows: &mut Vec<Row>,
    round: &'static str,
    asked: &'static str,
    client: &Client,
    questions: &[Question],
    names: &BTreeMap<NodeId, &'static str>,
) -> Result<(), Failure> {
    for question in questions {
        let start = Instant::now();
        let answer: Answer = client.ask_eval(question.request.clone()).await??;
        let took = start.elapsed();
        let right = answer.reply.stdout.as_ref().and_then(Payload::bytes) == Some(&question.right);
        let source = match answer.origin {
            Origin::Peer(peer) => format!("peer {}", names.get(&peer).copied().unwrap_or("?")),
            other => other.to_string(),
        };
        let (question, bytes) = (question.name.clone(), answer.reply.len());
        rows.push(Row { round, question, asked, source, origin: answer.origin, took, bytes, right });
    }
    Ok(())
}

fn millis(time: Duration) -> String {
    format!("{:.1} ms", time.as_secs_f64() * 1e3)
}

fn table(rows: &[Row]) -> String {
    let mut table = Table::new();
    let rule = LineStyle::none().fill('─').junction('─');
    table.load_style(presets::NOTHING.header_separator(rule).bottom_border(rule));
    table.set_header(["round", "question", "asked on", "answered by", "time", "answer"]);
    if let Some(times) = table.column_mut(4) {
        times.set_cell_alignment(CellAlignment::Right);
    }
    for row in rows {
        let right = if row.right { "right" } else { "WRONG" };
        table.add_row([row.round, &row.question, row.asked, &row.source, &millis(row.took), right]);
    }
    format!("{table}\n")
}

fn summary(rows: &[Row]) -> String {
    let count = |fits: fn(&Origin) -> bool| rows.iter().filter(|row| fits(&row.origin)).count();
    let computed = count(|origin| *origin == Origin::Computed);
    let fetched = count(|origin| matches!(origin, Origin::Peer(_)));
    let replayed = count(|origin| matches!(origin, Origin::Disk | Origin::Ram));
    let bytes: u64 = rows.iter().filter(|row| matches!(row.origin, Origin::Peer(_))).map(|row| row.bytes).sum();
    // What each answer took when it was computed, less what it took when it was not.
    let cost: BTreeMap<_, _> =
        rows.iter().filter(|row| row.origin == Origin::Computed).map(|row| (&row.question, row.took)).collect();
    let again = rows.iter().filter(|row| row.origin != Origin::Computed);
    let saved: Duration =
        again.filter_map(|row| cost.get(&row.question).map(|cost| cost.saturating_sub(row.took))).sum();
    let wrong = rows.iter().filter(|row| !row.right).count();
    format!(
        "{} asked: {computed} computed, {fetched} fetched ({bytes} bytes), {replayed} replayed from a ledger; {} saved; {wrong} wrong\n",
        rows.len(),
        millis(saved),
    )
}
