//! Envoy by itself, for configurations that need no nexd.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::admin::Admin;
use crate::log::complaints;
use crate::needs::Products;
use crate::process::{Process, run};
use crate::wait::within;

/// A running Envoy with the module.
pub struct Envoy {
    process: Option<Process>,
    admin: Admin,
    expected: Vec<String>,
    _directory: TempDir,
}

impl Envoy {
    /// Starts Envoy with a configuration file whose admin interface is on the given Unix socket, and waits until it is live.
    ///
    /// # Panics
    /// When it ends, or is not live within 20 seconds.
    pub fn start(products: &Products, configuration: &Path, admin: PathBuf) -> Envoy {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut command = command(products, configuration);
        command.args(["--drain-time-s", "1", "--drain-strategy", "immediate"]);
        let process = Process::start("Envoy", &command, &directory.path().join("log"));
        let mut envoy = Envoy {
            process: Some(process),
            admin: Admin::new(admin),
            expected: vec![],
            _directory: directory,
        };
        within(Duration::from_secs(20), "Envoy to be live", || {
            let process = envoy.process.as_mut().expect("running");
            assert!(process.ended().is_none(), "Envoy ended:\n{}", process.log());
            envoy.admin.get("/ready").filter(|ready| ready.contains("LIVE")).map(|_| ())
        });
        envoy
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.process.as_ref().expect("running").id()
    }

    /// Its admin interface.
    pub fn admin(&self) -> &Admin {
        &self.admin
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        self.process.as_ref().expect("running").log()
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        let process = self.process.take().expect("ended once");
        let log = process.log();
        drop(process);
        if !std::thread::panicking() {
            assert_eq!(complaints(&log, &self.expected), [""; 0], "Envoy complained");
        }
    }
}

/// Checks a configuration file with `envoy --mode validate`.
///
/// # Errors
/// What Envoy said.
pub fn validate(products: &Products, configuration: &Path) -> Result<(), String> {
    let (status, out, error) = run(command(products, configuration).args(["--mode", "validate"]));
    if status.success() { Ok(()) } else { Err(out + &error) }
}

fn command(products: &Products, configuration: &Path) -> Command {
    let mut command = Command::new(&products.envoy);
    command.args([
        "--disable-hot-restart",
        "--concurrency",
        "2",
        "--log-level",
        "warning",
        "--file-flush-interval-msec",
        "100",
        "--config-path",
    ]);
    command.arg(configuration).env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", &products.directory);
    command
}
