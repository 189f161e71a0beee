//! How often the process under test enters the kernel for a megabyte, by perf's counters of tracepoints.
//!
//! strace would stop the process at every call, and what it sends in one call depends on how long it was stopped.

use std::process::{Command, Stdio};
use std::time::Duration;

use super::bulk::{self, Direction};
use super::samples::Figure;
use super::world::World;
use crate::Result;

/// What has a figure of its own.
const NAMED: [&str; 10] =
    ["sendmsg", "sendmmsg", "recvmsg", "recvmmsg", "read", "readv", "write", "writev", "epoll_wait", "futex"];

pub(super) fn measure(world: &World, direction: Direction, time: Duration) -> Result<Vec<Figure>> {
    let (bytes, counts) =
        bulk::load(world, &[world.target], direction, 1, time, || count(world.process, time))?;
    let name = |what: &str| format!("syscalls_{}_{what}", direction.name());
    let per_megabyte = |count: u64| count as f64 / (bytes as f64 / 1e6);
    let figures = counts.into_iter().filter(|(_, count)| *count > 0);
    Ok(figures.map(|(what, count)| Figure::new(name(&what), "/MB", per_megabyte(count))).collect())
}

fn count(process: u32, time: Duration) -> Result<Vec<(String, u64)>> {
    let mut command = Command::new("perf");
    command.args(["stat", "--field-separator", ",", "--pid", &process.to_string()]);
    for name in NAMED {
        command.args(["--event", &format!("syscalls:sys_enter_{name}")]);
    }
    command.args(["--event", "raw_syscalls:sys_enter", "--", "sleep", &time.as_secs_f64().to_string()]);
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("perf: {error}"))?;
    // perf writes its counters where its messages go.
    let text = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(format!("perf stat ended with {}: {text}", output.status).into());
    }
    // "1234,,syscalls:sys_enter_sendmsg,2001234567,100.00,,"
    let line = |line: &str| {
        let mut fields = line.split(',');
        let (count, event) = (fields.next()?.parse().ok()?, fields.nth(1)?);
        let name = event.rsplit_once("sys_enter")?.1.trim_start_matches('_');
        Some((if name.is_empty() { "all".to_owned() } else { name.to_owned() }, count))
    };
    let counts: Vec<_> = text.lines().filter_map(line).collect();
    if counts.is_empty() { Err(format!("perf counted nothing: {text}").into()) } else { Ok(counts) }
}
