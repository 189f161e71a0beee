//! `bench profile`: where our Envoy process spends its time under each kind of load, as perf samples it.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use clap::Args;

use super::bulk::Direction::{Down, Up};
use super::world::{Cable, Side, World};
use super::{Load, UDP_SMALL, machine};
use crate::Result;

/// What is profiled, and what a reader calls it.
const LOADS: [(&str, Load); 7] = [
    ("one stream up", Load::Bulk(Up, 1)),
    ("one stream down", Load::Bulk(Down, 1)),
    ("one byte there and back", Load::Pingpong),
    ("requests over 50 connections", Load::Http(50)),
    ("connections, 64 at once", Load::Connections(64)),
    ("64-byte datagrams up", Load::Udp(Up, UDP_SMALL)),
    ("64-byte datagrams down", Load::Udp(Down, UDP_SMALL)),
];

/// Samples per second of processor time; not a divisor of any timer's.
const FREQUENCY: &str = "997";

/// Symbols with less are left out, in percent.
const LEAST: &str = "1";

/// From the start of a load to the first sample: everything has grown.
const BEFORE: Duration = Duration::from_secs(1);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Seconds of each load.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// Where it goes.
    #[arg(long, default_value = "bench/results/profile.txt")]
    output: PathBuf,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    e2e::namespaces().map_err(|missing| format!("the rig needs {missing}"))?;
    let products = e2e::products().map_err(|missing| format!("the rig needs {missing}"))?;
    let time = Duration::from_secs(arguments.seconds);
    let cable = Cable::new()?;
    let world = World::new(Side::Ours, &cable, &products)?;
    let directory = tempfile::tempdir()?;
    let mut text = format!(
        "Where the processor time of our node's Envoy goes (`cargo xtask bench profile`, at {}): the far end is\nwireguard-go, the clients are near. Percent of samples, {FREQUENCY} for each second of processor time.\n",
        machine::commit()
    );
    for (name, load) in LOADS {
        eprintln!("    {name}");
        let samples = directory.path().join("samples");
        let figures = std::thread::scope(|scope| {
            let recorder = scope.spawn(|| {
                std::thread::sleep(BEFORE);
                record(world.process, time, &samples)
            });
            let figures = load.run(&world, BEFORE + time);
            recorder.join().map_err(|_| "the recorder panicked")??;
            figures
        })?;
        let figures =
            figures.iter().map(|figure| format!("{} {:.3} {}", figure.name, figure.value, figure.unit));
        let _ = write!(text, "\n== {name}\n   {}\n", figures.collect::<Vec<_>>().join(", "));
        for sort in ["comm", "dso", "dso,symbol"] {
            let _ = write!(text, "\n{}", report(&samples, sort)?);
        }
    }
    fs::write(&arguments.output, text)
        .map_err(|error| format!("{}: {error}", arguments.output.display()).into())
}

fn record(process: u32, time: Duration, samples: &Path) -> Result<()> {
    let mut command = Command::new("perf");
    command.args(["record", "--quiet", "--event", "cpu-clock", "--freq", FREQUENCY]);
    command.args(["--pid", &process.to_string(), "--output"]).arg(samples);
    command.args(["--", "sleep", &time.as_secs_f64().to_string()]);
    perf(&mut command).map(drop)
}

/// The lines of perf's report without what is around them, columns without content included.
fn report(samples: &Path, sort: &str) -> Result<String> {
    let mut command = Command::new("perf");
    command.args(["report", "--stdio", "--no-inline", "--percent-limit", LEAST, "--sort", sort, "--input"]);
    let text = perf(command.arg(samples))?;
    let lines = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    let line = |line: &str| {
        let words: Vec<_> = line.split_whitespace().filter(|word| *word != "-").collect();
        let (percent, what) = words.split_first().unwrap_or((&"", &[]));
        format!("{percent:>8}  {}\n", what.join(" "))
    };
    Ok(lines.map(line).collect())
}

fn perf(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("perf: {error}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        return Err(format!("perf ended with {}: {said}", output.status).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
