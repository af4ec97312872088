//! The space-time diagram: a lane per node, frames as lines from sender to receiver, faults as bars, callers as dots.

use std::fmt::Write;
use std::time::Duration;

use super::escape;
use crate::fabric::Time;
use crate::sim::faults::Kind;
use crate::sim::history::{End, Source};
use crate::sim::simulation::Run;
use crate::sim::timeline::Hop;

/// Pixels of a second.
const SECOND: f64 = 110.0;
/// Pixels between two lanes.
const LANE: f64 = 34.0;
const LEFT: f64 = 46.0;
/// Room for the last label of the axis, which begins at its second.
const RIGHT: f64 = 36.0;
const TOP: f64 = 20.0;
/// More lanes than this cannot be told apart.
const MAX_LANES: usize = 60;

/// Kinds of frames by colour.
const COLOURS: [(&str, &str, &[&str]); 4] = [
    ("asks", "var(--a)", &["ask", "get-chunk", "cancel"]),
    ("answers", "var(--good)", &["held", "not-held", "chunk"]),
    ("announcements", "var(--c)", &["batch", "pull"]),
    ("greetings", "var(--dim)", &["hello"]),
];

fn x(at: Duration) -> f64 {
    LEFT + at.as_secs_f64() * SECOND
}

fn y(place: usize) -> f64 {
    TOP + LANE * (f64::from(u32::try_from(place).unwrap_or(u32::MAX)) + 0.5)
}

pub(super) fn figure(run: &Run) -> String {
    let lanes = run.history.nodes.len().min(MAX_LANES);
    let end = run.history.end.0;
    let (width, bottom) = (x(end) + RIGHT, y(lanes));
    let mut svg = String::new();
    let _ =
        write!(svg, "<svg width='{width:.0}' height='{:.0}' role=img aria-label='space-time diagram'>", bottom + 10.0);
    for second in 0..=end.as_secs() {
        let at = x(Duration::from_secs(second));
        let _ = write!(
            svg,
            "<line x1='{at:.0}' y1='{TOP}' x2='{at:.0}' y2='{bottom:.0}' stroke='var(--line)' stroke-width='.5'/>"
        );
        let _ = write!(svg, "<text x='{at:.0}' y='12'>{second} s</text>");
    }
    for place in 0..lanes {
        let (lane, liar) = (y(place), if run.history.nodes[place].honest { "" } else { " liar" });
        let _ = write!(svg, "<text x='2' y='{:.0}'>{place}{liar}</text>", lane + 4.0);
        let _ = write!(svg, "<line x1='{LEFT}' y1='{lane:.0}' x2='{width:.0}' y2='{lane:.0}' stroke='var(--line)'/>");
    }
    bars(&mut svg, run, lanes);
    run.hops.iter().filter(|hop| hop.between.0 < lanes && hop.between.1 < lanes).for_each(|hop| line(&mut svg, hop));
    dots(&mut svg, run, lanes);
    if let Some(calm) = run.history.calm {
        let at = x(calm.0);
        let _ = write!(
            svg,
            "<line x1='{at:.0}' y1='{TOP}' x2='{at:.0}' y2='{bottom:.0}' stroke='var(--good)' stroke-dasharray='6 3'/>"
        );
        let _ = write!(svg, "<text x='{:.0}' y='{:.0}'>nothing fails from here on</text>", at + 4.0, bottom + 6.0);
    }
    svg.push_str("</svg><figcaption class=key>");
    for (name, colour, _) in COLOURS {
        let _ = write!(svg, "<i style='background:{colour}'></i>{name}");
    }
    svg.push_str("<i style='background:var(--bad)'></i>lost &nbsp; bars: faults &nbsp; dots: callers (filled: answered, hollow: not). Heartbeats are left out.");
    if run.history.nodes.len() > lanes {
        let _ = write!(svg, " The first {lanes} of {} nodes.", run.history.nodes.len());
    }
    svg.push_str("</figcaption>");
    svg
}

fn line(svg: &mut String, hop: &Hop) {
    let (from, to) = hop.between;
    let sent = x(hop.sent.0);
    let what = hop.what;
    let Some(arrives) = hop.arrives else {
        // A stump in the direction of where it did not arrive.
        let stump = y(from) + (y(to) - y(from)).clamp(-LANE, LANE) * 0.4;
        let _ = write!(
            svg,
            "<line x1='{sent:.1}' y1='{:.0}' x2='{sent:.1}' y2='{stump:.0}' stroke='var(--bad)' stroke-dasharray='2 2'>\
             <title>{what} {from} to {to}, lost</title></line>",
            y(from),
        );
        return;
    };
    let colour = COLOURS.iter().find(|(.., kinds)| kinds.contains(&what)).map_or("var(--b)", |colour| colour.1);
    let _ = write!(
        svg,
        "<line x1='{sent:.1}' y1='{:.0}' x2='{:.1}' y2='{:.0}' stroke='{colour}' stroke-width='.7'><title>{what} {from} to {to}</title></line>",
        y(from),
        x(arrives.0),
        y(to),
    );
}

fn bars(svg: &mut String, run: &Run, lanes: usize) {
    for episode in run.episodes.iter().filter(|episode| episode.is_played()) {
        let colour = match episode.kind {
            Kind::Crash | Kind::Rollback => "var(--bad)",
            Kind::Pause | Kind::Jump | Kind::Edit => "var(--b)",
            Kind::Full | Kind::Error | Kind::Slow | Kind::Rot => "var(--d)",
            _ => "var(--c)",
        };
        let (from, to) = (x(episode.from), x(episode.to));
        for place in episode.nodes.iter().filter(|place| **place < lanes) {
            let _ = write!(
                svg,
                "<rect x='{from:.1}' y='{:.0}' width='{:.1}' height='12' rx='2' fill='{colour}' opacity='.35'><title>{}</title></rect>",
                y(*place) - 6.0,
                (to - from).max(3.0),
                escape(&episode.describe()),
            );
        }
    }
}

fn dots(svg: &mut String, run: &Run, lanes: usize) {
    for ask in run.history.asks.iter().filter(|ask| ask.node < lanes) {
        let end = ask.ends.first().map(|(_, end)| end);
        let (fill, what) = match end {
            Some(End::Answered { source: Source::Memory, .. }) => ("var(--d)", "answered from memory"),
            Some(End::Answered { source: Source::Peer(_), .. }) => ("var(--good)", "answered by a peer"),
            Some(End::Answered { source: Source::Computed, .. }) => ("var(--b)", "computed"),
            Some(End::Error(_)) => ("none", "ended in an error"),
            Some(End::Abandoned | End::Crashed) => ("none", "gone"),
            None => ("var(--bad)", "never ended"),
        };
        let at: Time = ask.at;
        let _ = write!(
            svg,
            "<circle cx='{:.1}' cy='{:.0}' r='3' fill='{fill}' stroke='var(--ink)' stroke-width='.6'><title>{} {what}</title></circle>",
            x(at.0),
            y(ask.node),
            ask.id.short(),
        );
    }
}
