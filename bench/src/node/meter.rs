//! What a process has used: processor time, wake-ups, memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::Result;

/// What a process had used at one moment.
pub(super) struct Meter {
    process: u32,
    at: Instant,
    cpu: Duration,
    wake_ups: u64,
}

/// What it used from then on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) time: Duration,
    /// User and system time of all its threads, those that ended included.
    pub(super) cpu: Duration,
    /// How often its present threads slept until something happened.
    pub(super) wake_ups: u64,
}

impl Meter {
    pub(super) fn start(process: u32) -> Result<Self> {
        Ok(Self { process, at: Instant::now(), cpu: cpu(process)?, wake_ups: wake_ups(process)? })
    }

    pub(super) fn read(&self) -> Result<Usage> {
        Ok(Usage {
            time: self.at.elapsed(),
            cpu: cpu(self.process)?.saturating_sub(self.cpu),
            wake_ups: wake_ups(self.process)?.saturating_sub(self.wake_ups),
        })
    }
}

/// User and system time of each thread whose name begins so, by its id.
pub(super) fn thread_times(process: u32, name: &str) -> Result<BTreeMap<u32, Duration>> {
    let mut times = BTreeMap::new();
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        let task = task?;
        if fs::read_to_string(task.path().join("comm"))?.starts_with(name)
            && let Some(id) = task.file_name().to_str().and_then(|id| id.parse().ok())
        {
            times.insert(id, times_in(&task.path().join("stat"))?);
        }
    }
    Ok(times)
}

fn cpu(process: u32) -> Result<Duration> {
    times_in(Path::new(&format!("/proc/{process}/stat")))
}

/// `utime` and `stime` of proc(5)'s `stat`.
fn times_in(path: &Path) -> Result<Duration> {
    let path = path.display();
    let stat = fs::read_to_string(path.to_string()).map_err(|error| format!("{path}: {error}"))?;
    // The name may hold spaces and parentheses; what follows it begins with field 3.
    let fields = stat.rsplit_once(')').map(|(_, rest)| rest).unwrap_or_default();
    let mut ticks = fields.split_whitespace().skip(11).take(2).map(str::parse::<u64>);
    let (Some(Ok(user)), Some(Ok(system))) = (ticks.next(), ticks.next()) else {
        return Err(format!("{path}: no times in {stat:?}").into());
    };
    Ok(Duration::from_secs_f64((user + system) as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// Voluntary context switches of all threads.
fn wake_ups(process: u32) -> Result<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{process}/task"))? {
        // A thread may end while the list is read.
        let Ok(status) = fs::read_to_string(task?.path().join("status")) else { continue };
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        sum += line.ok_or("no voluntary_ctxt_switches")?.trim().parse::<u64>()?;
    }
    Ok(sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    // A process of its own: threads of other tests end while this one runs, and take their numbers with them.
    #[test]
    fn work_and_sleep_are_seen() -> Result<()> {
        let mut child = std::process::Command::new("sh")
            .args([
                "-c",
                "read go; i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done; while read line; do :; done",
            ])
            .stdin(std::process::Stdio::piped())
            .spawn()?;
        let mut lines = child.stdin.take().ok_or("no input")?;
        let meter = Meter::start(child.id())?;
        std::io::Write::write_all(&mut lines, b"go\n")?;
        while meter.read()?.cpu < Duration::from_millis(50) {
            assert!(meter.read()?.time < Duration::from_secs(60), "no work is seen");
            std::thread::sleep(Duration::from_millis(1));
        }
        let before = meter.read()?.wake_ups;
        // It may have work left, and take two lines at once, and then sleeps once less.
        let mut usage = meter.read()?;
        while usage.wake_ups < before + 20 && usage.time < Duration::from_secs(60) {
            std::io::Write::write_all(&mut lines, b"wake up\n")?;
            // No pipe is full within a minute.
            std::thread::sleep(Duration::from_millis(10));
            usage = meter.read()?;
        }
        assert!(usage.wake_ups >= before + 20, "{usage:?}");
        // 50 ms of work, as two clocks count it that may each be 10 ms ahead, and 20 sleeps of 10 ms.
        assert!(usage.time >= Duration::from_millis(230), "{usage:?}");
        drop(lines);
        child.wait()?;
        Ok(())
    }
}
