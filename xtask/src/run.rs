//! Running commands and saying so.

use std::fmt::Display;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;

/// Says what begins now.
pub(crate) fn step(what: impl Display) {
    println!("==> {what}");
}

/// A detail of the current step.
pub(crate) fn note(what: impl Display) {
    println!("    {what}");
}

/// Runs a command with its output shown; an exit code other than zero is an error. Says how long it took.
pub(crate) fn execute(what: &str, command: &mut Command) -> Result<()> {
    step(what);
    let start = Instant::now();
    let status = command.status().map_err(|error| cannot_run(command, &error))?;
    if !status.success() {
        return Err(format!("{what}: `{}` ended with {status}", shown(command)).into());
    }
    note(format_args!("done in {:.1} s", start.elapsed().as_secs_f64()));
    Ok(())
}

/// A command's standard output; an exit code other than zero is an error that carries its standard error.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output().map_err(|error| cannot_run(command, &error))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        return Err(format!("`{}` ended with {}: {}", shown(command), output.status, error.trim()).into());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command of this name is on the PATH.
pub(crate) fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // Administrators' commands are not on everybody's PATH, and still there for root.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|directory| directory.join(program).is_file())
}

fn cannot_run(command: &Command, error: &std::io::Error) -> String {
    format!("cannot run `{}`: {error}", command.get_program().to_string_lossy())
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
