//! What the figures were measured on, and with.

use std::fs;
use std::process::Command;

use serde_json::{Value, json};

use crate::Result;

/// The oldest wireguard-go that carries many packets per system call. Debian's package 0.0.20231211 says this of itself.
const WITH_OFFLOADS: &str = "v0.0.20230223";

/// Refuses a wireguard-go that would be the limit of every figure.
pub(super) fn check_peers() -> Result<()> {
    let version = wireguard_go();
    if version.as_str() < WITH_OFFLOADS {
        return Err(format!(
            "wireguard-go in PATH is {version:?}, which has no offloads; `cargo xtask bench node` brings one that has"
        )
        .into());
    }
    Ok(())
}

/// Processor, kernel, memory, versions.
pub(super) fn description() -> Value {
    let cpu = first_line("/proc/cpuinfo", "model name");
    let memory = first_line("/proc/meminfo", "MemTotal");
    json!({
        "processor": cpu.trim_start_matches([':', ' ', '\t']),
        "processors": std::thread::available_parallelism().map_or(0, usize::from),
        "memory": memory.trim_start_matches([':', ' ', '\t']),
        "kernel": read("/proc/sys/kernel/osrelease").trim(),
        "wireguard-go": wireguard_go(),
        // Which packages the peers came in, if they came by `cargo xtask bench`.
        "peers": std::env::var("BENCH_PEERS").unwrap_or_default(),
    })
}

/// The commit that is measured, with `+` if there are changes beside it.
pub(super) fn commit() -> String {
    let git = |arguments: &[&str]| -> Option<String> {
        let output = Command::new("git").args(arguments).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    // What is measured now changes the results, which are no part of what is measured.
    let clean = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!/bench/results"]);
    commit + if clean.is_some_and(|changes| changes.is_empty()) { "" } else { "+" }
}

/// `v0.0.20230223`
fn wireguard_go() -> String {
    let output = Command::new("wireguard-go").arg("--version").output();
    let text = output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
    text.split_whitespace().nth(1).unwrap_or_default().to_owned()
}

fn first_line(path: &str, name: &str) -> String {
    read(path).lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().to_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}
