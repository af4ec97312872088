//! Curves over time: how far nodes are behind each other, and the share of answers that needed no evaluation.

use std::fmt::Write;

use crate::sim::simulation::Run;
use crate::sim::timeline::millis;

const WIDTH: f64 = 1100.0;
const HEIGHT: f64 = 180.0;
const LEFT: f64 = 46.0;
/// Room for the last label of the axis, which begins at its second.
const RIGHT: f64 = 36.0;
const BOTTOM: f64 = 20.0;

/// One curve: its colour, its name, and a value for each sample that has one.
struct Curve {
    colour: &'static str,
    name: &'static str,
    points: Vec<(u64, f64)>,
}

/// Counts of one run stay far below where floating point loses whole numbers.
#[expect(clippy::cast_precision_loss, reason = "a picture needs no more than 52 bits")]
fn float(count: u64) -> f64 {
    count as f64
}

pub(super) fn convergence(run: &Run) -> String {
    let points = |of: fn(&crate::sim::Sample) -> u64| run.samples.iter().map(|s| (s.at, float(of(s)))).collect();
    let curves = [
        Curve { colour: "var(--a)", name: "log positions not known", points: points(|sample| sample.behind) },
        Curve { colour: "var(--b)", name: "pairs behind", points: points(|sample| sample.pairs_behind) },
    ];
    draw(run, &curves, "")
}

/// The share among the answers of each stretch between two samples.
pub(super) fn hit_ratio(run: &Run) -> String {
    let stretch = |pair: &[crate::sim::Sample]| {
        let answered = pair[1].answered - pair[0].answered;
        (answered > 0).then(|| (pair[1].at, float(pair[1].hits - pair[0].hits) * 100.0 / float(answered)))
    };
    let so_far = |sample: &crate::sim::Sample| {
        (sample.answered > 0).then(|| (sample.at, float(sample.hits) * 100.0 / float(sample.answered)))
    };
    let curves = [
        Curve {
            colour: "var(--good)",
            name: "in each half second",
            points: run.samples.windows(2).filter_map(stretch).collect(),
        },
        Curve { colour: "var(--a)", name: "so far", points: run.samples.iter().filter_map(so_far).collect() },
    ];
    draw(run, &curves, " %")
}

fn draw(run: &Run, curves: &[Curve], unit: &str) -> String {
    let end = float(millis(run.history.end).max(1));
    let top = curves.iter().flat_map(|curve| &curve.points).map(|(_, value)| *value).fold(1.0_f64, f64::max);
    let x = |at: u64| LEFT + float(at) / end * (WIDTH - LEFT - RIGHT);
    let y = |value: f64| 10.0 + (1.0 - value / top) * (HEIGHT - BOTTOM - 10.0);
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(svg, "<svg width='100%' viewBox='0 0 {WIDTH} {HEIGHT}' role=img aria-label='curves over time'>");
    for share in [0.0, 0.5, 1.0] {
        let at = y(top * share);
        let _ = write!(svg, "<line x1='{LEFT}' y1='{at:.1}' x2='{WIDTH}' y2='{at:.1}' stroke='var(--line)'/>");
        let _ = write!(svg, "<text x='0' y='{:.1}'>{:.0}{unit}</text>", at + 4.0, top * share);
    }
    let seconds = millis(run.history.end) / 1000;
    for second in (0..=seconds).step_by(usize::try_from((seconds / 10).max(1)).unwrap_or(1)) {
        let _ = write!(svg, "<text x='{:.1}' y='{HEIGHT}'>{second} s</text>", x(second * 1000));
    }
    if let Some(calm) = run.history.calm {
        let at = x(millis(calm));
        let _ = write!(
            svg,
            "<line x1='{at:.1}' y1='0' x2='{at:.1}' y2='{:.0}' stroke='var(--good)' stroke-dasharray='6 3'/>",
            HEIGHT - BOTTOM
        );
    }
    for curve in curves {
        let points: Vec<_> = curve.points.iter().map(|(at, value)| format!("{:.1},{:.1}", x(*at), y(*value))).collect();
        let _ = write!(
            svg,
            "<polyline fill='none' stroke='{}' stroke-width='1.6' points='{}'/>",
            curve.colour,
            points.join(" ")
        );
    }
    svg.push_str("</svg><figcaption class=key>");
    for curve in curves {
        let _ = write!(svg, "<i style='background:{}'></i>{}", curve.colour, curve.name);
    }
    svg.push_str("</figcaption>");
    svg
}
