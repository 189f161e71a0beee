//! A running Envoy.

use std::{
    io::{self, Write as _},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, ExitStatus, Stdio},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, getppid, kill_process, set_parent_process_death_signal};
use tokio::{
    io::AsyncReadExt as _,
    process::{Child, ChildStderr},
    task::JoinHandle,
};

use super::{EnvoyCommand, EnvoyError};
use crate::nexd::log_line::{Lines, Message, Severity, Tail, parse};

/// The first argument of a nexd that is to become Envoy; see [`exec`].
pub(crate) const EXEC: &str = "__exec";

/// The rest of what Envoy says is read this long after its end; a child of its own could hold the pipe open.
const STDERR_LIMIT: Duration = Duration::from_millis(500);

/// A running Envoy. Killed when dropped.
#[derive(Debug)]
pub struct Envoy {
    child: Child,
    started: Instant,
    output: Arc<Output>,
    reader: Option<JoinHandle<()>>,
}

/// What is known about Envoy's messages.
#[derive(Debug, Default)]
struct Output {
    tail: Mutex<Tail>,
    /// It was asked to end: that it then warns of its end is nothing for the log.
    ending: AtomicBool,
}

impl Envoy {
    /// Starts it.
    ///
    /// # Errors
    /// [`EnvoyError::Spawn`].
    pub fn spawn(command: &EnvoyCommand) -> Result<Self, EnvoyError> {
        let mut process = Command::new("/proc/self/exe");
        process
            .arg0("nexd")
            .arg(EXEC)
            .arg(std::process::id().to_string())
            .arg(&command.binary)
            .args(command.arguments())
            .env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", &command.module_dir)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            // Ctrl-C goes to nexd alone, which then lets connections end.
            .process_group(0);
        let mut process = tokio::process::Command::from(process);
        let mut child = process.kill_on_drop(true).spawn().map_err(|error| EnvoyError::Spawn { error })?;
        let output = Arc::<Output>::default();
        let reader = child.stderr.take().map(|stderr| tokio::spawn(forward(stderr, Arc::clone(&output))));
        Ok(Self { child, started: Instant::now(), output, reader })
    }

    /// How long it has been running.
    #[must_use]
    pub fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Waits for its end. Can be dropped and called again.
    ///
    /// # Errors
    /// The system's.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        let status = self.child.wait().await?;
        if let Some(reader) = self.reader.take() {
            // What it said last is the cause.
            let _ = tokio::time::timeout(STDERR_LIMIT, reader).await;
        }
        Ok(status)
    }

    /// What it said when it broke.
    #[must_use]
    pub fn last_words(&self) -> Option<String> {
        self.output.tail().last_words().map(str::to_owned)
    }

    /// What most likely kept it from starting.
    #[must_use]
    pub fn cause(&self) -> Option<String> {
        self.output.tail().cause().map(str::to_owned)
    }

    /// Asks it to end (SIGTERM).
    pub fn terminate(&self) {
        self.output.ending.store(true, Ordering::Relaxed);
        let pid = self.child.id().and_then(|id| Pid::from_raw(id.cast_signed()));
        // None or an error: it has ended already.
        let _ = pid.map(|pid| kill_process(pid, Signal::TERM));
    }

    /// Ends it (SIGKILL) and waits until it is gone.
    ///
    /// # Errors
    /// The system's.
    pub async fn kill(&mut self) -> io::Result<()> {
        self.child.kill().await
    }
}

/// Envoy's messages become nexd's; other lines pass as they are.
async fn forward(mut stderr: ChildStderr, output: Arc<Output>) {
    let mut lines = Lines::default();
    let mut buffer = vec![0; 16 << 10];
    loop {
        let (found, end) = match stderr.read(&mut buffer).await {
            Ok(0) | Err(_) => (lines.finish().into_iter().collect(), true),
            Ok(length) => (lines.push(&buffer[..length]), false),
        };
        for line in found {
            output.show(&line);
        }
        if end {
            return;
        }
    }
}

impl Output {
    fn tail(&self) -> MutexGuard<'_, Tail> {
        self.tail.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn show(&self, line: &str) {
        let Some(Message { severity, logger, text }) = parse(line) else {
            print(line);
            // What is not in Envoy's form comes from below it (the loader, an assertion) or is an access log.
            return self.tail().push(Severity::Info, line);
        };
        self.tail().push(severity, &text);
        let quiet = severity == Severity::Warning && self.ending.load(Ordering::Relaxed);
        // The level of a tracing event is fixed where it stands.
        match if quiet { Severity::Debug } else { severity } {
            Severity::Trace => tracing::trace!(target: "envoy", "[{logger}] {text}"),
            Severity::Debug => tracing::debug!(target: "envoy", "[{logger}] {text}"),
            Severity::Info => tracing::info!(target: "envoy", "[{logger}] {text}"),
            Severity::Warning => tracing::warn!(target: "envoy", "[{logger}] {text}"),
            Severity::Error | Severity::Critical => tracing::error!(target: "envoy", "[{logger}] {text}"),
        }
    }
}

/// Becomes Envoy, after asking the kernel to end it with its parent: an Envoy that outlived a killed nexd would keep
/// its ports. This needs a process between fork and exec that is still ours, which is why nexd starts itself.
pub(crate) fn exec(arguments: &[std::ffi::OsString]) -> ExitCode {
    let [parent, binary, rest @ ..] = arguments else { return ExitCode::from(127) };
    if let Err(error) = set_parent_process_death_signal(Some(Signal::KILL)) {
        print(&format!("[warning][nexd] Envoy will outlive a killed nexd: {error}"));
    }
    // The parent may have ended before the kernel knew what we want.
    let is_parent = |pid: Pid| parent.to_str() == Some(pid.as_raw_nonzero().to_string().as_str());
    if !getppid().is_some_and(is_parent) {
        return ExitCode::from(127);
    }
    let error = Command::new(binary).args(rest).exec();
    print(&format!("[critical][nexd] {}: {error}", binary.display()));
    ExitCode::from(127)
}

/// Unlike `eprintln!` this does not panic when nobody listens any more.
fn print(line: &str) {
    let _ = writeln!(io::stderr(), "{line}");
}
