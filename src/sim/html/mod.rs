//! A run as one self-contained page: verdict, figures, faults, a space-time diagram, curves, and who missed what of whom.
//!
//! Invariant: the page needs nothing from elsewhere, and everything that came from a run is escaped.

mod curves;
mod heat;
mod space_time;

use std::fmt::Write;

use super::check::{self, Phase};
use super::report::Report;
use super::scenario::Scenario;
use super::simulation::Run;
use super::timeline::clock;

const STYLE: &str = "
:root{color-scheme:light dark;--ink:#1c2530;--dim:#66717e;--line:#d5dbe1;--page:#fff;--card:#f6f8fa;--good:#1a7f4b;--bad:#c62f3b;\
--a:#2563c9;--b:#c2700c;--c:#7a3fc0;--d:#0d8a8a}
@media(prefers-color-scheme:dark){:root{--ink:#e4e9ee;--dim:#95a1ae;--line:#36404b;--page:#12171d;--card:#1b222a;--good:#4cc38a;--bad:#ff6b76;\
--a:#6ea3ff;--b:#f0a450;--c:#b98cf5;--d:#4cc9c9}}
body{margin:2rem auto;max-width:76rem;padding:0 1.5rem;font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page)}
h1{font-size:1.6rem;margin:0}h2{font-size:1.1rem;margin:2rem 0 .5rem}p.dim,figcaption{color:var(--dim);margin:.2rem 0}
.verdict{display:inline-block;margin:1rem 0;padding:.3rem .8rem;border-radius:.4rem;font-weight:600;color:#fff}
.good{background:var(--good)}.bad{background:var(--bad)}
.cards{display:grid;grid-template-columns:repeat(auto-fill,minmax(10rem,1fr));gap:.6rem}
.card{background:var(--card);border:1px solid var(--line);border-radius:.5rem;padding:.6rem .8rem}
.card b{display:block;font-size:1.25rem;font-variant-numeric:tabular-nums}.card span{color:var(--dim);font-size:.85rem}
table{border-collapse:collapse;width:100%;font-size:.9rem}td,th{text-align:left;padding:.25rem .6rem;border-bottom:1px solid var(--line)}
figure{margin:0;overflow-x:auto;border:1px solid var(--line);border-radius:.5rem;padding:.5rem;background:var(--card)}
svg text{font:11px system-ui,sans-serif;fill:var(--dim)}code{font-size:.85rem;overflow-wrap:anywhere}
.key i{display:inline-block;width:1.1rem;height:.25rem;margin:0 .3rem 0 .9rem;vertical-align:middle}
";

/// The page of one run. It shows more if the run was drawn (see `Simulation::draw`).
#[must_use]
pub fn page(scenario: &Scenario, run: &Run) -> String {
    let mut page = String::new();
    let report = &run.report;
    // Writing to a string cannot fail.
    let _ = write!(
        page,
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>\
         <title>{name}, seed {seed}</title><style>{STYLE}</style><body><h1>{name}, seed {seed}</h1><p class=dim>{about}</p>{verdict}",
        name = escape(&report.scenario),
        seed = report.seed,
        about = escape(&scenario.about),
        verdict = verdict(report),
    );
    cards(&mut page, report);
    violations(&mut page, report);
    section(&mut page, "Space and time", &space_time::figure(run));
    section(&mut page, "How far honest nodes are behind each other", &curves::convergence(run));
    section(&mut page, "Answers that needed no evaluation", &curves::hit_ratio(run));
    section(&mut page, "Who missed what of whom", &heat::figure(run));
    faults(&mut page, run);
    let _ = write!(
        page,
        "<h2>Again</h2><p><code>evalmesh sim replay {} --scenario {}</code></p><p class=dim>Trace digest <code>{}</code></p></body></html>",
        report.seed,
        escape(&report.scenario),
        report.trace_digest
    );
    page
}

fn verdict(report: &Report) -> String {
    let (class, text) = match (report.violations.is_empty(), report.is_unsafe()) {
        (true, _) => ("good", format!("All {} checks hold", check::ALL.len())),
        (false, true) => ("bad", "Something wrong happened".to_owned()),
        (false, false) => ("bad", "Something right did not happen".to_owned()),
    };
    format!("<div class='verdict {class}'>{text}</div>")
}

fn cards(page: &mut String, report: &Report) {
    let outcomes = report.outcomes;
    let answered = outcomes.hits + outcomes.fetched + outcomes.computed;
    let ms = |micros: u64| format!("{}.{} ms", micros / 1000, micros % 1000 / 100);
    let all = [
        ("nodes", report.nodes.to_string()),
        ("answers", answered.to_string()),
        ("from memory", outcomes.hits.to_string()),
        ("from a peer", outcomes.fetched.to_string()),
        ("evaluations", report.evaluations.to_string()),
        ("of them again", report.duplicates.to_string()),
        ("errors", outcomes.errors.to_string()),
        ("callers or nodes gone", (outcomes.abandoned + outcomes.crashed).to_string()),
        ("median wait", ms(report.latency.p50)),
        ("99th percentile", ms(report.latency.p99)),
        ("frames (lost)", format!("{} ({})", report.frames, report.lost)),
        ("settled after faults", report.settled.map_or("never".to_owned(), |after| format!("{after} ms"))),
    ];
    page.push_str("<div class=cards>");
    for (name, value) in all {
        let _ = write!(page, "<div class=card><b>{value}</b><span>{name}</span></div>");
    }
    page.push_str("</div>");
}

fn violations(page: &mut String, report: &Report) {
    if report.violations.is_empty() {
        return;
    }
    page.push_str("<h2>What does not hold</h2><table><tr><th>check<th>phase<th>what</tr>");
    for violation in &report.violations {
        let phase = if violation.phase == Phase::Safety { "safety" } else { "liveness" };
        let _ = write!(page, "<tr><td>{}<td>{phase}<td>{}</tr>", escape(violation.check), escape(&violation.what));
    }
    page.push_str("</table>");
}

fn section(page: &mut String, title: &str, figure: &str) {
    let _ = write!(page, "<h2>{title}</h2><figure>{figure}</figure>");
}

fn faults(page: &mut String, run: &Run) {
    page.push_str("<h2>Faults</h2><table><tr><th>#<th>kind<th>nodes<th>from<th>to</tr>");
    let mut episodes: Vec<_> = run.episodes.iter().filter(|episode| episode.is_played()).collect();
    episodes.sort_by_key(|episode| (episode.from, episode.number));
    for episode in episodes {
        let nodes: Vec<_> = episode.nodes.iter().map(ToString::to_string).collect();
        let (from, to) = (clock(episode.from), clock(episode.to));
        let _ = write!(
            page,
            "<tr><td>{}<td>{:?}<td>{}<td>{from}<td>{to}</tr>",
            episode.number,
            episode.kind,
            nodes.join(", ")
        );
    }
    page.push_str("</table>");
}

/// Text as HTML shows it.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sim::report::Violation;
    use crate::sim::simulation::Simulation;

    #[test]
    fn a_page_shows_every_part_and_escapes_what_it_is_given() {
        let scenario = Scenario { name: "<b>".to_owned(), about: "a & b".to_owned(), ..Scenario::stormy(3) };
        let mut run = Simulation::new(scenario.clone()).draw().run().expect("valid");
        let what = "<script>alert('x')</script>".to_owned();
        run.report.violations.push(Violation { check: "c", phase: Phase::Safety, what });
        let page = page(&scenario, &run);
        for part in
            ["Space and time", "behind each other", "needed no evaluation", "Who missed", "Faults", "wrong happened"]
        {
            assert!(page.contains(part), "{part}");
        }
        assert!(page.contains("&lt;b&gt;, seed 3") && page.contains("a &amp; b") && !page.contains("<script"));
        assert!(page.matches("<line").count() > 100, "frames are drawn");
        assert_eq!(page.matches("<svg").count(), 4);
        assert_eq!(page.matches("<svg").count(), page.matches("</svg>").count());
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("src="), "self-contained");
        assert!(!page.contains("NaN") && !page.contains("inf"));
    }
}
