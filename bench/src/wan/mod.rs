//! `bench wan`: TCP over links that are not a cable.
//!
//! A link in this process joins a namespace (TUN device; Linux's TCP with CUBIC, or a node) or a stack without I/O on its
//! left with another on its right. It has a rate, a delay, a queue of one bandwidth-delay product that drops what does not
//! fit, and losses or reordering of the data by a seed; the other direction is an equal link without faults. Packets are
//! TCP's own, or those of a WireGuard tunnel around it.
//!
//! Every run has a link, namespaces and threads of its own, so runs take place side by side, within a budget of what the
//! machine carries. Whether it did is measured: each link counts the packets that it handed out too late.

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use clap::Args;

use crate::Result;
use plan::{Choice, Task};
use results::{Results, Run};
use rows::COLUMNS;

mod kernel;
mod link;
mod measure;
mod ours;
mod plan;
mod report;
mod results;
mod rig;
mod rows;
mod schedule;
mod smoltcp;
mod stack;
mod tunnelled;

/// How often a run is tried that fails or is disturbed. The least disturbed one counts, and says so.
const ATTEMPTS: u32 = 3;

/// How much to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds of each run.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Runs of each cell; the median counts. Those that are in the output already are not made again.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Only rows whose name contains this, for example "200 Mbit/s, 20 ms"; may be repeated.
    #[arg(long)]
    rows: Vec<String>,
    /// Only these columns, for example linux_to_linux,ours_to_linux.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Leave out the rows of two senders on one queue.
    #[arg(long)]
    no_pairs: bool,
    /// Mbit/s that all runs at a time may have together; a tunnel counts double.
    #[arg(long, default_value_t = 450.0)]
    budget: f64,
    /// Make the chosen runs again.
    #[arg(long)]
    again: bool,
    /// Measure nothing: write the tables into bench/README.md.
    #[arg(long)]
    table: bool,
    /// Where the result goes as JSON; what is there and not measured now is kept.
    #[arg(long, default_value = "bench/results/wan.json")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut results = Results::load(&arguments.output)?;
    if arguments.table {
        return report::write_into("bench/README.md".as_ref(), &results);
    }
    if let Some(unknown) =
        arguments.columns.iter().find(|name| COLUMNS.iter().all(|column| column.name != **name))
    {
        let known = COLUMNS.map(|column| column.name).join(", ");
        return Err(format!("no column {unknown:?}; there are {known}").into());
    }
    if let Err(missing) = e2e::namespaces() {
        return Err(format!("the kernel's TCP needs network namespaces: {missing}").into());
    }
    let choice = Choice { rows: &arguments.rows, columns: &arguments.columns, pairs: !arguments.no_pairs };
    let mut tasks = choice.tasks(arguments.runs);
    if arguments.again {
        tasks.iter().for_each(|task| results.forget(&task.cell));
    }
    tasks.retain(|task| !results.has(task, arguments.seconds));
    measure(arguments, tasks, &mut results)?;
    println!("{}", report::tables(&results));
    Ok(())
}

fn measure(arguments: &Arguments, tasks: Vec<Task>, results: &mut Results) -> Result<()> {
    let products = e2e::products().ok();
    let (commit, begin, all) = (commit()?, Instant::now(), tasks.len());
    let time = Duration::from_secs(arguments.seconds);
    let mut failed = Vec::new();
    let mut disturbed = HashMap::<String, Run>::new();
    let execute = |task: &Task| measure::run(task, time, products.as_ref());
    schedule::run(tasks, arguments.budget, execute, |mut task, outcome, left| {
        task.attempts += 1;
        let name = format!("{} #{}", task.cell.name(), task.seed);
        let seconds = begin.elapsed().as_secs() + 1;
        let rest = plan::time_left(left, arguments.budget, time).as_secs();
        let progress = format!(
            "{:>4} of {all}, {}:{:02}, about {}:{:02} left",
            all - left.len(),
            seconds / 60,
            seconds % 60,
            rest / 60,
            rest % 60
        );
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(error) => {
                eprintln!("{progress}: {name}: {error}");
                if task.attempts < ATTEMPTS {
                    return Ok(Some(task));
                }
                failed.push(name);
                return Ok(None);
            }
        };
        let late_pct = outcome.late.percent();
        let rates: Vec<_> = outcome.mbps.iter().map(|rate| format!("{rate:.1}")).collect();
        eprintln!(
            "{progress}: {name}: {} Mbit/s, {late_pct:.2} % late, {:?}",
            rates.join(" and "),
            outcome.counters
        );
        let run = Run {
            seed: task.seed,
            seconds: arguments.seconds,
            mbps: outcome.mbps,
            late_pct,
            commit: commit.clone(),
        };
        let again = late_pct > report::DISTURBED && task.attempts < ATTEMPTS;
        let least = disturbed.get(&name).filter(|least| least.late_pct <= late_pct).cloned().unwrap_or(run);
        if again {
            disturbed.insert(name, least);
            return Ok(Some(task));
        }
        results.add(&task.cell, least);
        results.save()?;
        Ok(None)
    })?;
    if failed.is_empty() { Ok(()) } else { Err(format!("without a result: {}", failed.join("; ")).into()) }
}

/// What is measured: the commit, with a `+` when there are changes on top.
fn commit() -> Result<String> {
    let git = |arguments: &[&str]| -> Result<String> {
        let output = Command::new("git").args(arguments).output()?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    };
    let changes = git(&["status", "--porcelain", "--", "filter", "envoy-config", "bench/src", "tests/src"])?;
    Ok(git(&["rev-parse", "--short", "HEAD"])? + if changes.is_empty() { "" } else { "+" })
}
