//! What a process has used: processor time, wake-ups, memory.

use std::fs;
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

/// `utime` and `stime` of proc(5)'s `stat`.
fn cpu(process: u32) -> Result<Duration> {
    let path = format!("/proc/{process}/stat");
    let stat = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
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

    #[test]
    fn work_and_sleep_are_seen() -> Result<()> {
        let meter = Meter::start(std::process::id())?;
        while meter.read()?.cpu < Duration::from_millis(50) {
            std::hint::spin_loop();
        }
        let before = meter.read()?.wake_ups;
        for _ in 0..20 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let usage = meter.read()?;
        assert!(usage.wake_ups >= before + 20, "{usage:?}");
        assert!(usage.time >= Duration::from_millis(70), "{usage:?}");
        Ok(())
    }
}
