//! The heat map: how much each node missed of each other one's log, summed over the samples of the run.

use std::collections::BTreeMap;
use std::fmt::Write;

use crate::sim::simulation::Run;

/// More rows than this are no picture any more.
const MAX_ROWS: usize = 100;
const LEFT: usize = 30;

pub(super) fn figure(run: &Run) -> String {
    let nodes = run.history.nodes.len();
    let rows = nodes.min(MAX_ROWS);
    let cell = (900 / rows.max(1)).clamp(8, 40);
    let missed: BTreeMap<_, _> = run.missed.iter().map(|(who, whom, sum)| ((*who, *whom), *sum)).collect();
    let most = missed.values().max().copied().unwrap_or(0).max(1);
    let size = LEFT + rows * cell + 2;
    let mut svg = String::new();
    // Writing to a string cannot fail.
    let _ = write!(svg, "<svg width='{size}' height='{size}' role=img aria-label='heat map'>");
    for row in 0..rows {
        let middle = LEFT + row * cell + cell / 2;
        if rows <= 40 || row % 10 == 0 {
            let _ =
                write!(svg, "<text x='2' y='{}'>{row}</text><text x='{}' y='20'>{row}</text>", middle + 4, middle - 4);
        }
        for column in 0..rows {
            let (x, y) = (LEFT + column * cell, LEFT + row * cell);
            let sum = missed.get(&(row, column)).copied().unwrap_or(0);
            let share = if sum == 0 { 0 } else { 15 + 85 * sum / most };
            let fill = if row == column { "var(--line)" } else { "var(--bad)" };
            let opacity = if row == column { 100 } else { share };
            let _ = write!(
                svg,
                "<rect x='{x}' y='{y}' width='{0}' height='{0}' fill='{fill}' fill-opacity='{opacity}%' stroke='var(--line)' stroke-width='.5'>\
                 <title>node {row} missed {sum} of node {column}</title></rect>",
                cell - 1,
            );
        }
    }
    svg.push_str("</svg><figcaption>A row misses what its column announced: log positions not known, summed over all samples. Darkest: ");
    let _ = write!(svg, "{}.", if missed.is_empty() { 0 } else { most });
    if nodes > rows {
        let _ = write!(svg, " The first {rows} of {nodes} nodes.");
    }
    svg.push_str("</figcaption>");
    svg
}
