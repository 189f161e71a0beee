//! `bench wan`: TCP over links that are not a cable.
//!
//! A link in this process joins a Linux namespace (TUN device, CUBIC) or a stack without I/O on its left with another on
//! its right. It has a rate, a delay, a queue of one bandwidth-delay product that drops what does not fit, and losses or
//! reordering of the data by a seed; acknowledgements travel back over an equal link without faults. The columns of a row
//! share link, seeds and run, one after another.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use crate::Result;

mod kernel;
mod link;
mod measure;
mod ours;
mod report;
mod rig;
mod rows;
mod smoltcp;
mod stack;

/// How much to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds of each run.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
    /// Runs of each cell; the median counts.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=99))]
    runs: u64,
    /// Only rows whose name contains this, for example "200 Mbit/s, 20 ms".
    #[arg(long, default_value = "")]
    rows: String,
    /// Only these columns, for example linux_to_linux,ours_to_linux.
    #[arg(long, value_delimiter = ',')]
    columns: Vec<String>,
    /// Leave out the rows of two senders on one queue.
    #[arg(long)]
    no_pairs: bool,
    /// Where the result goes as JSON; rows of another run that were not measured now are kept.
    #[arg(long, default_value = "bench/results/wan.json")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let Some(unknown) =
        arguments.columns.iter().find(|name| rows::COLUMNS.iter().all(|column| column.name != **name))
    {
        let known = rows::COLUMNS.map(|column| column.name).join(", ");
        return Err(format!("no column {unknown:?}; there are {known}").into());
    }
    if let Err(missing) = e2e::namespaces() {
        return Err(format!("the kernel's TCP needs network namespaces: {missing}").into());
    }
    let mut report = report::Report::load(&arguments.output)?;
    let time = Duration::from_secs(arguments.seconds);
    let effort = |run| measure::Effort { time, seed: run + 1 };

    for row in rows::all().iter().filter(|row| row.name.contains(&arguments.rows)) {
        let mut cells = Vec::new();
        for column in rows::COLUMNS {
            if !arguments.columns.is_empty() && !arguments.columns.iter().any(|name| name == column.name) {
                continue;
            }
            let mut runs = Vec::new();
            for run in 0..arguments.runs {
                let (mbps, counters) = measure::cell(row, column, effort(run))?;
                runs.push(mbps);
                eprintln!("{}: {}: {mbps:.1} Mbit/s ({counters:?})", row.name, column.name);
            }
            cells.push((column, runs));
        }
        report.row(row, arguments.seconds, &cells);
        report.save(&arguments.output)?;
    }
    for pair in rows::PAIRS.iter().filter(|pair| !arguments.no_pairs && pair.name.contains(&arguments.rows)) {
        let mut runs = Vec::new();
        for run in 0..arguments.runs {
            let rates = measure::pair(pair, effort(run))?;
            eprintln!("{}: {:.1} and {:.1} Mbit/s", pair.name, rates[0], rates[1]);
            runs.push(rates);
        }
        report.pair(pair, arguments.seconds, &runs);
        report.save(&arguments.output)?;
    }
    report.print();
    Ok(())
}
