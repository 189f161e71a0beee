//! What continuous integration checks besides the tests.

use std::process::Command;

use crate::run::{execute, exists, note, output, step};
use crate::{Result, test, workspace};

/// Crates that must stay pure, and what must never come into them: a runtime, a poller, a socket.
const PURE: &[&str] = &["nexodus-netstack", "envoy-config"];
const IMPURE: &[&str] = &["tokio", "mio", "socket2", "quinn-udp", "async-std", "smol"];

/// Format, lints, dependency rules, documentation; then the tests unless told otherwise.
pub(crate) fn run(checks_only: bool) -> Result<()> {
    run_cargo("format", &["fmt", "--all", "--check"], &[])?;
    run_cargo("lints", &["clippy", "--workspace", "--all-targets", "--locked", "--", "-D", "warnings"], &[])?;
    purity()?;
    run_cargo(
        "documentation",
        &["doc", "--workspace", "--no-deps", "--locked"],
        &[("RUSTDOCFLAGS", "-D warnings")],
    )?;
    if exists("cargo-deny") {
        run_cargo("licenses and advisories", &["deny", "check"], &[])?;
    } else {
        step("licenses and advisories");
        note("skipped: cargo-deny is not installed");
    }
    if checks_only { Ok(()) } else { test::run(&[]) }
}

fn purity() -> Result<()> {
    step("pure crates");
    for package in PURE {
        let mut tree = workspace::cargo()?;
        tree.args([
            "tree",
            "--locked",
            "--package",
            package,
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--format",
            "{p}",
        ]);
        let tree = output(&mut tree)?;
        let names = tree.lines().filter_map(|line| line.split_whitespace().next());
        if let Some(name) = names.into_iter().find(|name| IMPURE.contains(name)) {
            return Err(format!(
                "{package} must not depend on {name}: it takes time, randomness and packets as arguments"
            )
            .into());
        }
        note(format_args!("{package}: none of {}", IMPURE.join(", ")));
    }
    Ok(())
}

fn run_cargo(what: &str, arguments: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let mut cargo: Command = workspace::cargo()?;
    execute(what, cargo.args(arguments).envs(variables.iter().copied()))
}
