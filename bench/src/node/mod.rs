//! `bench node`: the whole node and its peers between the same two namespaces.
//!
//! Two namespaces are joined by a veth pair. In the far one a program serves behind a WireGuard peer; in the near one a
//! client reaches it through what is measured: `wireguard-go` with a TUN device, `onetun`, our node. Each of them has a pair
//! of namespaces of its own. All are up during a run and take turns, load by load, so that what is compared is measured
//! within seconds; every run builds them anew.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::Result;

mod bulk;
mod idle;
mod machine;
mod meter;
mod profile;
mod report;
mod rules;
mod samples;
mod service;
mod small;
mod svg;
mod syscalls;
mod table;
mod threads;
mod udp;
mod world;

pub(crate) use profile::{Arguments as ProfileArguments, run as profile};
use report::Report;
use samples::Figure;
use world::{Cable, Side, World};

/// How much to measure.
#[derive(Args)]
pub(crate) struct Arguments {
    /// Runs of each measure on each side; medians count.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=99))]
    runs: u32,
    /// Seconds of each load.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=60))]
    seconds: u64,
    /// How often the sides take turns at each load of a run; each turn counts as a run.
    ///
    /// On a machine whose speed changes from second to second, many short turns tell more than few long ones.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=99))]
    turns: u32,
    /// Only these sides.
    #[arg(long, value_delimiter = ',')]
    sides: Vec<Side>,
    /// Only these measures.
    #[arg(long, value_delimiter = ',')]
    measures: Vec<Measure>,
    /// Where node.json, node.md, summary.json and the plots go; measures that are not taken now are kept.
    #[arg(long, default_value = "bench/results")]
    results: PathBuf,
    /// Measure nothing: write node.md and the plots of the results that are there.
    #[arg(long)]
    table: bool,
}

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Measure {
    /// Bytes per second with 1, 4 and 16 streams, with what they cost the process under test.
    Bulk,
    /// How often the process under test enters the kernel for a megabyte.
    Syscalls,
    /// One byte there and back.
    Pingpong,
    /// Connect, request, response, close: 16 and 64 at once.
    Connections,
    /// HTTP requests over 50 and 200 connections that stay open.
    Http,
    /// Datagrams at 400 Mbit/s and as many as go.
    Udp,
    /// From the start of the near process to the first byte.
    FirstByte,
    /// From `nexctl proxy add` to the first byte, alone and beside 10,000 rules. Only our node.
    Rules,
    /// Bytes per second to four peers with one tunnel thread and with two. Only our node.
    Threads,
    /// Memory of nearly 10,000 idle connections, and what they cost one that is used. Only our node.
    Idle,
}

impl Measure {
    /// Its loads, each measured on every side before the next one.
    fn loads(self) -> Vec<Load> {
        use bulk::Direction::{Down, Up};
        let both = |streams: &[usize]| {
            let each = |direction| streams.iter().map(move |streams| (direction, *streams));
            each(Up).chain(each(Down)).collect::<Vec<_>>()
        };
        match self {
            Self::Bulk => both(&[1, 4, 16]).into_iter().map(|(to, count)| Load::Bulk(to, count)).collect(),
            Self::Syscalls => both(&[1]).into_iter().map(|(to, _)| Load::Syscalls(to)).collect(),
            Self::Pingpong => vec![Load::Pingpong],
            Self::Connections => [16, 64].map(Load::Connections).to_vec(),
            Self::Http => [50, 200].map(Load::Http).to_vec(),
            Self::Udp => [UDP_LARGE, UDP_SMALL]
                .into_iter()
                .flat_map(|stream| [Up, Down].map(|direction| Load::Udp(direction, stream)))
                .collect(),
            Self::FirstByte => vec![Load::FirstByte],
            Self::Rules => vec![Load::Rules],
            Self::Threads => vec![Load::Threads],
            Self::Idle => vec![Load::Idle],
        }
    }
}

/// What is done on one side for some seconds.
#[derive(Clone, Copy, Debug)]
enum Load {
    Bulk(bulk::Direction, usize),
    Syscalls(bulk::Direction),
    Pingpong,
    Connections(usize),
    Http(usize),
    Udp(bulk::Direction, udp::Stream),
    FirstByte,
    Rules,
    Threads,
    Idle,
}

/// IP packets of 1,400 bytes, which no MTU between here and there splits.
const UDP_LARGE: udp::Stream = udp::Stream { bytes: 1372, mbps: Some(400) };
const UDP_SMALL: udp::Stream = udp::Stream { bytes: 64, mbps: None };

impl Load {
    /// Whether there is anything to learn from it on this side.
    fn suits(self, side: Side) -> bool {
        !matches!(self, Self::Rules | Self::Threads | Self::Idle) || side == Side::Ours
    }

    /// Whether it can be done again and again in one rig.
    const fn takes_turns(self) -> bool {
        !matches!(self, Self::FirstByte | Self::Rules | Self::Threads | Self::Idle)
    }

    /// Whether the rig has to be one that has done nothing yet.
    const fn needs_new(self) -> bool {
        matches!(self, Self::Idle)
    }

    fn run(self, world: &World, time: Duration) -> Result<Vec<Figure>> {
        match self {
            Self::Bulk(direction, streams) => bulk::measure(world, direction, streams, time),
            Self::Syscalls(direction) => syscalls::measure(world, direction, time),
            Self::Pingpong => small::pingpong(world, time),
            Self::Connections(at_once) => small::connections(world, at_once, time),
            Self::Http(connections) => small::http(world, connections, time),
            Self::Udp(direction, stream) => udp::measure(world, direction, stream, time),
            Self::FirstByte => {
                Ok(vec![Figure::new("first_byte", "ms", world.first_byte.as_secs_f64() * 1e3)])
            }
            Self::Rules => rules::measure(world),
            Self::Threads => threads::measure(world, time),
            Self::Idle => idle::measure(world, time),
        }
    }
}

/// A part of the measure `idle` that runs in a process of its own.
#[derive(Args)]
pub(crate) struct Hold {
    target: SocketAddr,
}

pub(crate) fn hold(arguments: &Hold) -> Result<()> {
    idle::hold(arguments.target)
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.table {
        return report::draw(&arguments.results);
    }
    e2e::namespaces().map_err(|missing| format!("the rig needs {missing}"))?;
    let products = e2e::products().map_err(|missing| format!("the rig needs {missing}"))?;
    machine::check_peers()?;
    e2e::raise_file_limit();
    let sides = chosen(&arguments.sides);
    let loads: Vec<_> = chosen(&arguments.measures).into_iter().flat_map(Measure::loads).collect();
    let time = Duration::from_secs(arguments.seconds);

    let mut report = Report::new(&arguments.results)?;
    for run in 1..=arguments.runs {
        eprintln!("run {run} of {}", arguments.runs);
        let cables: Vec<_> = sides.iter().map(|_| Cable::new()).collect::<Result<_>>()?;
        let mut rigs = Vec::new();
        for (side, cable) in sides.iter().zip(&cables) {
            rigs.push((*side, cable, Some(World::new(*side, cable, &products)?)));
        }
        for (load, turn) in loads.iter().flat_map(|load| (0..arguments.turns).map(move |turn| (load, turn))) {
            for (side, cable, rig) in &mut rigs {
                if !load.suits(*side) || (turn > 0 && !load.takes_turns()) {
                    continue;
                }
                if load.needs_new() {
                    drop(rig.take());
                }
                let world = match rig {
                    Some(world) => world,
                    None => rig.insert(World::new(*side, cable, &products)?),
                };
                match load.run(world, time) {
                    Ok(figures) => report.add(*side, (run - 1) * arguments.turns + turn + 1, &figures),
                    // Some peers do not manage every load; that is a result too. They get a new start.
                    Err(error) => {
                        eprintln!("    {:<13}{load:?}: {error}", side.name());
                        drop(rig.take());
                    }
                }
            }
        }
        // A run that is cut off loses itself alone.
        report.save()?;
    }
    report.print();
    Ok(())
}

/// Those asked for, or all.
fn chosen<T: ValueEnum + Clone>(asked: &[T]) -> Vec<T> {
    if asked.is_empty() { T::value_variants().to_vec() } else { asked.to_vec() }
}
