//! `nexd proxy`: one node, as a command.
//!
//! [`plan`] checks the command line without touching anything. [`node`] then takes the directories, serves the control
//! socket and Envoy's resources, and hands over to [`supervisor`], which keeps Envoy running. [`changes`] makes rules
//! come and go meanwhile, [`recovery`] looks after those that cannot be active yet.

pub mod activation;
pub mod admin;
pub mod backoff;
pub mod bootstrap;
pub mod changes;
pub mod cli;
pub mod debug;
pub mod envoy;
pub mod error;
pub mod log_line;
pub mod module;
pub mod node;
pub mod paths;
pub mod ping;
pub mod plan;
pub mod ports;
pub mod probe;
pub mod recovery;
mod reload;
pub mod runtime_dir;
pub mod service;
pub mod supervisor;
pub mod view;

use std::{
    ffi::OsString,
    io::{IsTerminal as _, Write as _},
    process::ExitCode,
};

use clap::{CommandFactory as _, FromArgMatches as _};
use tracing_subscriber::EnvFilter;

use self::{
    cli::{Arguments, EnvoyLogLevel},
    debug::Debug,
    error::StartError,
    paths::Environment,
    plan::Plan,
};
use crate::argv;

/// Runs nexd with these arguments, the program's name first.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments: Vec<_> = arguments.into_iter().collect();
    if let [_, first, rest @ ..] = arguments.as_slice()
        && first == envoy::EXEC
    {
        return envoy::exec(rest);
    }
    let command = argv::without_empty_variables(Arguments::command());
    let arguments = argv::normalize(&command, arguments);
    let arguments = match command
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches))
    {
        Ok(arguments) => arguments,
        Err(error) => error.exit(),
    };
    let debug = start_log(arguments.envoy_log_level);
    match run(arguments, debug) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            error.exit().into()
        }
    }
}

fn run(arguments: Arguments, debug: Debug) -> Result<(), StartError> {
    let check = arguments.check;
    let plan = Plan::new(arguments, &Environment::current())?;
    if check {
        return show(&plan).map_err(StartError::io("standard output"));
    }
    // One thread is enough for a control plane; and Envoy's life hangs on the thread that starts it.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(StartError::io("runtime"))?;
    runtime.block_on(node::run(plan, debug))
}

fn show(plan: &Plan) -> std::io::Result<()> {
    for warning in &plan.warnings {
        tracing::warn!("{warning}");
    }
    let mut out = std::io::stdout().lock();
    plan.rules.iter().try_for_each(|rule| writeln!(out, "{rule}"))?;
    out.flush()
}

fn start_log(envoy: EnvoyLogLevel) -> Debug {
    let debug = std::env::var_os("NEXD_LOGLEVEL").is_some_and(|level| !level.is_empty());
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(debug::filter(debug, envoy)))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // It would say so on standard error, and panic when that is what failed.
        .log_internal_errors(false)
        .with_filter_reloading();
    let filter = log.reload_handle();
    // A second log in one process is refused; the first one goes on.
    let _ = log.try_init();
    Debug::new(debug, envoy, move |directives| {
        filter.reload(EnvFilter::new(directives)).map_err(|error| error.to_string())
    })
}
