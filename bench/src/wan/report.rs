//! The results as tables.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use super::plan::Cell;
use super::results::{Results, Run, jain, median};
use super::rows::{COLUMNS, Column, PAIRS, Row, all};
use crate::Result;

/// The part of a document that is ours.
const BEGIN: &str = "<!-- tables of `wan`, written by `cargo xtask bench wan --table` -->\n";
const END: &str = "<!-- end of the tables of `wan` -->\n";

/// A run with more late packets than this, in percent, says something about this machine too.
pub(super) const DISTURBED: f64 = 2.0;

/// Puts the tables into a document, in the place of those that are there.
pub(super) fn write_into(path: &Path, results: &Results) -> Result<()> {
    let error = |what: &dyn std::fmt::Display| format!("{}: {what}", path.display());
    let text = fs::read_to_string(path).map_err(|cause| error(&cause))?;
    let (before, rest) = text.split_once(BEGIN).ok_or_else(|| error(&"no mark where the tables begin"))?;
    let (_, after) = rest.split_once(END).ok_or_else(|| error(&"no mark where the tables end"))?;
    fs::write(path, format!("{before}{BEGIN}{}{END}{after}", tables(results)))
        .map_err(|cause| error(&cause))?;
    Ok(())
}

/// Markdown: a table for each link without and with a tunnel, and one for pairs.
pub(super) fn tables(results: &Results) -> String {
    let mut out = String::new();
    let mut paths: Vec<_> = all().iter().map(|row| row.path).collect();
    paths.dedup();
    for path in paths {
        let rows: Vec<_> = all().into_iter().filter(|row| row.path == path).collect();
        for wireguard in [false, true] {
            let columns: Vec<_> =
                COLUMNS.into_iter().filter(|column| column.wireguard == wireguard).collect();
            table(&mut out, &rows, &columns, results);
        }
    }
    pairs(&mut out, results);
    out
}

fn table(out: &mut String, rows: &[Row], columns: &[Column], results: &Results) {
    let measured = |column: &Column| rows.iter().any(|row| !results.runs(&row.name, column.name).is_empty());
    let columns: Vec<_> = columns.iter().filter(|column| measured(column)).collect();
    let (Some(reference), Some(path)) = (columns.first(), rows.first().map(|row| row.path)) else { return };
    let name = |column: &&&Column| column.name.trim_start_matches("wireguard_").replace('_', " ");
    let names: Vec<_> = columns.iter().map(|column| name(&column)).collect();
    let tunnel = if reference.wireguard { ", through WireGuard" } else { "" };
    let _ = write!(out, "\n| {} Mbit/s, {} ms{tunnel} | ", path.rate_mbps, path.rtt_ms);
    let _ = writeln!(out, "{} | runs |\n|---|{}---|", names.join(" | "), "---|".repeat(names.len()));
    for row in rows {
        let runs: Vec<_> = columns.iter().map(|column| results.runs(&row.name, column.name)).collect();
        if runs.iter().all(|runs| runs.is_empty()) {
            continue;
        }
        let rate = |index: usize| {
            let mut rates: Vec<_> = runs[index].iter().filter_map(|run| run.mbps.first().copied()).collect();
            rates.sort_by(f64::total_cmp);
            median(&rates)
        };
        let cell = |index: usize| match (rate(index), rate(0)) {
            (None, _) => String::new(),
            (Some(rate), Some(reference)) if index > 0 => format!("{rate:.1} ({:.2})", rate / reference),
            (Some(rate), _) => format!("{rate:.1}"),
        };
        let cells: Vec<_> = (0..columns.len()).map(cell).collect();
        let fault = row.name.rsplit(", ").next().unwrap_or_default();
        let effort = effort(&names.iter().map(String::as_str).zip(runs).collect::<Vec<_>>());
        let _ = writeln!(out, "| {fault} | {} | {effort} |", cells.join(" | "));
    }
}

fn pairs(out: &mut String, results: &Results) {
    let measured = |name: &str| !results.runs(name, Cell::PAIR).is_empty();
    if !PAIRS.iter().any(|pair| measured(pair.name)) {
        return;
    }
    out.push_str("\n| two senders on one queue, 200 Mbit/s | first | second | Jain's index | runs |\n|---|---|---|---|---|\n");
    for pair in PAIRS.iter().filter(|pair| measured(pair.name)) {
        let runs = results.runs(pair.name, Cell::PAIR);
        let middle = |value: &dyn Fn(&[f64]) -> f64| {
            let mut values: Vec<_> = runs.iter().map(|run| value(&run.mbps)).collect();
            values.sort_by(f64::total_cmp);
            median(&values).unwrap_or_default()
        };
        let of = |index: usize| middle(&|rates| rates.get(index).copied().unwrap_or_default());
        let _ = writeln!(
            out,
            "| {} | {:.1} | {:.1} | {:.3} | {} |",
            pair.name,
            of(0),
            of(1),
            middle(&jain),
            effort(&[("", runs)])
        );
    }
}

/// `5 x 60 s; ours to ours 1`: what the first column has, and those that have another number of runs. Disturbed runs are told.
fn effort(columns: &[(&str, &[Run])]) -> String {
    let measured: Vec<_> = columns.iter().filter(|(_, runs)| !runs.is_empty()).collect();
    let count = measured.first().map_or(0, |(_, runs)| runs.len());
    let runs = || measured.iter().flat_map(|(_, runs)| runs.iter());
    let seconds = runs().map(|run| run.seconds).min().unwrap_or_default();
    let others = measured.iter().filter(|(_, runs)| runs.len() != count);
    let others: Vec<_> = others.map(|(name, runs)| format!("{name} {}", runs.len())).collect();
    let others = if others.is_empty() { String::new() } else { format!("; {}", others.join(", ")) };
    let disturbed = runs().filter(|run| run.late_pct > DISTURBED).count();
    let note = if disturbed > 0 { format!("; {disturbed} of all disturbed") } else { String::new() };
    format!("{count} x {seconds} s{others}{note}")
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a failure is a failed test")]
mod tests {
    use super::*;

    /// What is committed is what was measured.
    #[test]
    fn the_tables_of_the_readme_are_those_of_the_results() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR"));
        let results = Results::load(&directory.join("results/wan.json")).expect("the committed results");
        let readme = fs::read_to_string(directory.join("README.md")).expect("the README");
        let copy = tempfile::NamedTempFile::new().expect("a file");
        fs::write(copy.path(), &readme).expect("written");
        write_into(copy.path(), &results).expect("the marks are there");
        let written = fs::read_to_string(copy.path()).expect("read");
        assert_eq!(readme, written, "cargo xtask bench wan --table writes it");
    }
}
