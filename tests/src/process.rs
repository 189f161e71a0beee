//! Processes that end with their owner.

use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::within;

/// How long a process may take to end after SIGTERM before it is killed.
const END_LIMIT: Duration = Duration::from_secs(20);

/// A running process whose output goes to a file.
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; its output is appended to `log`.
    ///
    /// The kernel ends it with SIGKILL when the calling thread ends, so that a killed test leaves nothing behind: start it
    /// from the thread that owns it.
    pub fn start(name: &str, command: &Command, log: &Path) -> Process {
        let out = OpenOptions::new().create(true).append(true).open(log).expect("a log file");
        let mut wrapped = under(&["setpriv", "--pdeathsig=KILL", "--"], command);
        wrapped.stdin(Stdio::null()).stdout(out.try_clone().expect("a second handle")).stderr(out);
        let child = wrapped.spawn().unwrap_or_else(|error| panic!("cannot start {name}: {error}"));
        Process { name: name.to_owned(), child, log: log.to_owned() }
    }

    /// Its process id. It stays this process's id until the process was waited for.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Everything it has written so far.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("waiting for an own child works")
    }

    /// Sends a signal, unless it has ended.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none() {
            let id = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
            kill_process(id, signal).expect("an own child can be signalled");
        }
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it still runs after the limit.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let what = format!("{} to end", self.name);
        within(limit, &what, || self.ended())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.signal(Signal::TERM);
        let deadline = Instant::now() + END_LIMIT;
        while self.ended().is_none() {
            if Instant::now() > deadline {
                eprintln!("{} did not end on SIGTERM within {END_LIMIT:?}", self.name);
                self.signal(Signal::KILL);
                self.child.wait().expect("waiting for an own child works");
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail = log.lines().rev().take(60).collect::<Vec<_>>();
            eprintln!("---- the end of {}'s log", self.name);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
            eprintln!("----");
        }
    }
}

/// Runs a command to its end and returns its status, standard output and standard error.
///
/// # Panics
/// When it cannot be started, or still runs after 30 seconds (it gets no standard input).
#[track_caller]
pub fn run(command: &mut Command) -> (ExitStatus, String, String) {
    // `timeout` keeps the limit: the standard library cannot wait for a child with one.
    let mut wrapped = under(&["timeout", "--kill-after=1", "30"], command);
    let output = wrapped
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("cannot run {command:?}: {error}"));
    assert_ne!(output.status.code(), Some(124), "still running after 30 s: {command:?}");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status, text(&output.stdout), text(&output.stderr))
}

/// The standard output of a command that must succeed.
///
/// # Panics
/// When it fails.
#[track_caller]
pub fn run_ok(command: &mut Command) -> String {
    let (status, out, error) = run(command);
    assert!(status.success(), "{command:?} ended with {status}\n{out}{error}");
    out
}

/// The same command, started by a program that replaces itself by it or waits for it.
pub(crate) fn under(prefix: &[impl AsRef<std::ffi::OsStr>], command: &Command) -> Command {
    let mut wrapped = Command::new(&prefix[0]);
    wrapped.args(&prefix[1..]).arg(command.get_program()).args(command.get_args());
    for (key, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(key, value),
            None => wrapped.env_remove(key),
        };
    }
    if let Some(directory) = command.get_current_dir() {
        wrapped.current_dir(directory);
    }
    wrapped
}

/// A process's resident memory in KiB.
///
/// # Panics
/// When there is no such process.
#[track_caller]
pub fn memory_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a running process");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim_end_matches("kB").trim().parse().expect("a number")
}
