//! Benchmarks that need a rig: namespaces, links with delay and loss, other people's stacks beside ours.
//!
//! `cargo xtask bench` runs them; what each measures and how to repeat it stands in `bench/README.md`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod node;
mod onetun;
mod wan;

type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Benchmarks of nexodus-envoy beside its peers.
#[derive(Parser)]
#[command(bin_name = "cargo xtask bench")]
struct Arguments {
    #[command(subcommand)]
    bench: Bench,
}

#[derive(Subcommand)]
enum Bench {
    /// The whole node beside wireguard-go and onetun, between two namespaces.
    Node(node::Arguments),
    /// Where our node's Envoy spends its time, in the same namespaces.
    Profile(node::ProfileArguments),
    /// What `node` starts as a process of its own.
    #[command(hide = true)]
    Hold(node::Hold),
    /// TCP over links with a rate, a delay, a queue and losses: the kernel's TCP, smoltcp's and ours.
    Wan(wan::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().bench {
        Bench::Node(arguments) => node::run(&arguments),
        Bench::Profile(arguments) => node::profile(&arguments),
        Bench::Hold(arguments) => node::hold(&arguments),
        Bench::Wan(arguments) => wan::run(&arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
