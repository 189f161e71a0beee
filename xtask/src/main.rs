//! The project's tasks. `cargo xtask demo` shows the whole thing, `cargo xtask test` checks it.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod bench;
mod ci;
mod demo;
mod fuzz;
mod peers;
mod run;
mod setup;
mod test;
mod workspace;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// The project's tasks.
#[derive(Parser)]
#[command(bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Two nodes on this machine, no privileges: an HTTP request travels through the tunnel.
    Demo,
    /// Every test: unit, property, end to end, network namespaces.
    Test {
        /// Handed to the test runner, for example a test's name.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// What continuous integration runs: format, lints, dependency rules, documentation, then `test`.
    Ci {
        /// Stop before the tests.
        #[arg(long)]
        checks_only: bool,
    },
    /// Run the benchmarks (`bench/README.md`).
    Bench {
        /// A benchmark's name and what is handed to it; without, all that need no rig.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Run the fuzzer on the network stack (`filter/netstack/fuzz`); `test` replays what it has collected.
    Fuzz(fuzz::Arguments),
    /// Get what the tests and the demo need: Envoy, and as root the packages of the namespace tests.
    Setup,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo => demo::run(),
        Task::Test { arguments } => test::run(&arguments),
        Task::Ci { checks_only } => ci::run(checks_only),
        Task::Bench { arguments } => bench::run(&arguments),
        Task::Fuzz(arguments) => fuzz::run(&arguments),
        Task::Setup => setup::envoy().and_then(|_| setup::packages().map(|_| ())),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
