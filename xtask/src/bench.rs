//! The benchmarks.

use std::process::Command;

use crate::run::{execute, note};
use crate::{Result, peers, setup, workspace};

/// Those of one crate, in memory: package and name.
const IN_MEMORY: &[(&str, &str)] = &[
    ("nexodus-netstack", "flow_scaling"),
    ("nexodus-netstack", "netstack_vs_ring"),
    ("nexodus-netstack", "tcp_cost"),
    ("nexodus-netstack", "udp_scaling"),
];

/// The one among them whose ratio stands in the summary of results.
const IN_SUMMARY: &str = "netstack_vs_ring";

/// Those that need a rig: subcommands of the `bench` program.
const RIGS: &[&str] = &["node", "profile", "wan"];

/// `arguments`: the name of a benchmark and what is for it; none for all that need no rig.
pub(crate) fn run(arguments: &[String]) -> Result<()> {
    let Some((name, rest)) = arguments.split_first() else {
        for (package, name) in IN_MEMORY {
            in_memory(package, name, &[])?;
        }
        note(format_args!("with a rig, as root: {}; see bench/README.md", RIGS.join(", ")));
        return Ok(());
    };
    if let Some((package, name)) = IN_MEMORY.iter().find(|(_, known)| known == name) {
        return in_memory(package, name, rest);
    }
    if RIGS.contains(&name.as_str()) {
        return rig(arguments);
    }
    let known: Vec<_> = IN_MEMORY.iter().map(|&(_, name)| name).chain(RIGS.iter().copied()).collect();
    Err(format!("no benchmark {name:?}; there are {}", known.join(", ")).into())
}

/// Runs the `bench` program, with optimized products and an Envoy for the nodes in its rigs, and the peers in its PATH.
fn rig(arguments: &[String]) -> Result<()> {
    setup::packages()?;
    setup::bench_packages()?;
    let peers = peers::get()?;
    let envoy = setup::envoy()?;
    let mut build = workspace::cargo()?;
    build.args(["build", "--release", "--locked"]);
    build.args(["--package", "bench", "--package", "nexodus-filter", "--package", "xds-server"]);
    execute("build", &mut build)?;
    let products = workspace::target()?.join("release");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::join_paths(peers.directories.into_iter().chain(std::env::split_paths(&path)))?;
    let mut bench = Command::new(products.join("bench"));
    bench
        .current_dir(workspace::root())
        .args(arguments)
        .env("PATH", path)
        .env("BENCH_PEERS", peers.description)
        .env("ENVOY_BIN", envoy)
        .env("NEXODUS_BIN_DIR", products);
    execute(&format!("bench: {}", arguments.join(" ")), &mut bench)
}

fn in_memory(package: &str, name: &str, arguments: &[String]) -> Result<()> {
    let mut cargo: Command = workspace::cargo()?;
    cargo.args(["bench", "--package", package, "--bench", name, "--"]).args(arguments);
    if name == IN_SUMMARY {
        cargo.arg("--summary").arg(workspace::root().join("bench/results/summary.json"));
    }
    execute(&format!("{package}: {name}"), &mut cargo)?;
    if name == IN_SUMMARY {
        let mut tables = workspace::cargo()?;
        tables.args(["run", "--locked", "--quiet", "--package", "bench", "--", "node", "--table"]);
        execute("tables", tables.current_dir(workspace::root()))?;
    }
    Ok(())
}
