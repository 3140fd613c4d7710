//! Results as Markdown.

use std::time::Duration;

use crate::manager::Manager;
use crate::stalls::{Case, Measurement};

/// A number for a table; what has no end is `never`.
pub(crate) fn milliseconds(time: Option<Duration>) -> String {
    time.map_or_else(|| "never".to_owned(), |time| time.as_millis().to_string())
}

/// A row for each failure and traffic, columns for each path manager.
pub(crate) fn stalls(managers: &[Manager], cases: &[Case], measurements: &[Measurement]) -> String {
    let columns = |what: &str| managers.iter().map(|manager| format!("{manager}: {what}")).collect::<Vec<_>>();
    let mut heading = vec!["failure".to_owned(), "traffic".to_owned()];
    for what in ["stall", "used again", "bytes right"] {
        heading.extend(columns(what));
    }
    let mut rows = vec![heading];
    for chunk in cases.chunks(managers.len()) {
        rows.push(row(chunk, measurements));
    }
    markdown(&rows)
}

fn row(cases: &[Case], measurements: &[Measurement]) -> Vec<String> {
    let runs = |case: &Case| measurements.iter().filter(|one| one.case == *case).collect::<Vec<_>>();
    let column = |cell: fn(&[&Measurement]) -> String| cases.iter().map(move |case| cell(&runs(case)));
    let first = cases.first().expect("a path manager");
    let mut row = vec![first.failure.name().to_owned(), first.traffic.name().to_owned()];
    row.extend(column(|runs| both(runs.iter().map(|run| run.stall).collect())));
    row.extend(column(|runs| both(runs.iter().map(|run| run.used_again).collect())));
    row.extend(column(|runs| {
        format!("{} of {}", runs.iter().filter(|run| run.outcome.is_right()).count(), runs.len())
    }));
    row
}

fn both(times: Vec<Option<Duration>>) -> String {
    let (median, maximum) = median_and_maximum(times);
    if median == maximum { median } else { format!("{median} / {maximum}") }
}

/// Of times, as text; one that is `None` is longer than any other.
pub(crate) fn median_and_maximum(mut times: Vec<Option<Duration>>) -> (String, String) {
    times.sort_by_key(|time| time.unwrap_or(Duration::MAX));
    let text = |time: Option<&Option<Duration>>| time.map_or_else(|| "-".to_owned(), |time| milliseconds(*time));
    (text(times.get(times.len() / 2)), text(times.last()))
}

/// Cells in columns, the first row as the heading.
pub(crate) fn markdown(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max();
    let widths: Vec<_> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    let line = |cells: &[String]| {
        let padded = cells.iter().zip(&widths).map(|(cell, width)| format!(" {cell:width$} |"));
        format!("|{}\n", padded.collect::<String>())
    };
    let rule = widths.iter().map(|width| format!("{}|", "-".repeat(width + 2))).collect::<String>();
    let mut lines = rows.iter().map(|row| line(row));
    let heading = lines.next().unwrap_or_default();
    format!("{heading}|{rule}\n{}", lines.collect::<String>())
}
