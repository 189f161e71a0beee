//! The Envoy binary and the module: found, checked, started.

mod process;

use std::{
    ffi::{OsStr, OsString},
    io,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use rustix::fs::Access;

pub use self::process::Envoy;
pub(crate) use self::process::{EXEC, exec};
use super::{debug::Debug, log_line::LOG_FORMAT, paths};

/// The module is built for this one's ABI.
const VERSION: &str = "1.40";

const MODULE: &str = "libnexodus.so";

/// `envoy --version` takes some 50 ms.
const VERSION_LIMIT: Duration = Duration::from_secs(20);

/// Why Envoy cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    /// Not in PATH.
    #[error("Envoy: no `{name}` in PATH: name an Envoy {VERSION} with --envoy PATH or ENVOY_BIN")]
    NotInPath {
        /// What was looked for.
        name: String,
    },
    /// Not where a flag says.
    #[error("Envoy: {}: {error}: name an Envoy {VERSION} with --envoy PATH or ENVOY_BIN", path.display())]
    NotExecutable {
        /// The binary.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// Another version, or no Envoy at all.
    #[error("Envoy: {} is {found}, and {VERSION}.x is needed: name one with --envoy PATH or ENVOY_BIN", path.display())]
    Version {
        /// The binary.
        path: PathBuf,
        /// What it says it is.
        found: String,
    },
    /// The module is not there.
    #[error("{MODULE} is not in {directories}: name its directory with --module-dir DIR or NEXD_MODULE_DIR")]
    NoModule {
        /// Where it was looked for.
        directories: String,
    },
    /// The system does not start it.
    #[error("Envoy: {error}")]
    Spawn {
        /// The system's reason.
        error: io::Error,
    },
    /// It ended before it was ready.
    #[error("Envoy does not start: {cause} ({status})")]
    Ended {
        /// How.
        status: ExitStatus,
        /// The last important thing it said.
        cause: String,
    },
}

/// How Envoy is run, every time it is.
#[derive(Clone, Debug)]
pub struct EnvoyCommand {
    /// The binary.
    pub binary: PathBuf,
    /// Where the module is.
    pub module_dir: PathBuf,
    /// The configuration.
    pub bootstrap: PathBuf,
    /// How long a removed listener's connections go on.
    pub drain_time: Duration,
    /// How much it says.
    pub debug: Debug,
    /// Worker threads.
    pub concurrency: u16,
}

impl EnvoyCommand {
    /// Envoy's arguments.
    #[must_use]
    pub fn arguments(&self) -> Vec<OsString> {
        // Whole seconds only; a removed rule's connections get at least one.
        let drain_seconds = self.drain_time.as_millis().div_ceil(1000).max(1).to_string();
        let mut arguments = vec![OsString::from("-c"), self.bootstrap.clone().into()];
        let fixed = [
            // Two nodes on one host share no hot restart domain.
            "--disable-hot-restart",
            "--drain-strategy",
            "immediate",
            "--drain-time-s",
            &drain_seconds,
            "--log-level",
            self.debug.envoy_level().as_str(),
            "--log-format",
            LOG_FORMAT,
            // An access log that appears after ten seconds, Envoy's default, looks like one that does not appear.
            "--file-flush-interval-msec",
            "500",
        ];
        arguments.extend(fixed.map(OsString::from));
        arguments.extend(["--concurrency".into(), self.concurrency.to_string().into()]);
        arguments
    }
}

/// The binary that a flag names, or `envoy` in PATH.
///
/// # Errors
/// [`EnvoyError::NotInPath`], [`EnvoyError::NotExecutable`].
pub fn find_binary(named: Option<&Path>, search_path: Option<&OsStr>) -> Result<PathBuf, EnvoyError> {
    let name = named.unwrap_or(Path::new("envoy"));
    if name.components().count() > 1 || name.is_absolute() {
        return match check_executable(name) {
            Ok(()) => std::path::absolute(name)
                .map_err(|error| EnvoyError::NotExecutable { path: name.to_owned(), error }),
            Err(error) => Err(EnvoyError::NotExecutable { path: name.to_owned(), error }),
        };
    }
    std::env::split_paths(search_path.unwrap_or_default())
        .map(|directory| directory.join(name))
        .find(|candidate| check_executable(candidate).is_ok())
        .ok_or_else(|| EnvoyError::NotInPath { name: name.display().to_string() })
}

/// Asks a binary for its version.
///
/// # Errors
/// [`EnvoyError::NotExecutable`], [`EnvoyError::Version`].
pub async fn check_version(binary: &Path) -> Result<(), EnvoyError> {
    let not_executable = |error| EnvoyError::NotExecutable { path: binary.to_owned(), error };
    let run = tokio::process::Command::new(binary)
        .arg("--version")
        .stdin(std::process::Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(VERSION_LIMIT, run)
        .await
        .map_err(|_| not_executable(io::Error::other("does not answer to --version")))?
        .map_err(not_executable)?;
    let text = String::from_utf8_lossy(&output.stdout);
    match parse_version(&text) {
        Some(version) if version.split('.').take(2).eq(VERSION.split('.')) => Ok(()),
        Some(version) => {
            Err(EnvoyError::Version { path: binary.to_owned(), found: format!("Envoy {version}") })
        }
        None => Err(EnvoyError::Version { path: binary.to_owned(), found: "not an Envoy".to_owned() }),
    }
}

/// The directory of the module: the one named, or the first of the usual ones that has it.
///
/// # Errors
/// [`EnvoyError::NoModule`].
pub fn find_module(named: Option<&Path>, executable: &Path) -> Result<PathBuf, EnvoyError> {
    let directories = match named {
        Some(directory) => vec![directory.to_owned()],
        None => paths::module_dirs(executable),
    };
    let found = directories.iter().find(|directory| directory.join(MODULE).is_file());
    let absolute = found.and_then(|directory| std::path::absolute(directory).ok());
    absolute.ok_or_else(|| {
        let names: Vec<_> = directories.iter().map(|directory| directory.display().to_string()).collect();
        EnvoyError::NoModule { directories: names.join(" or ") }
    })
}

/// Whether the binary carries rights of its own, so that a port which nexd cannot bind may be open to Envoy.
#[must_use]
pub fn has_capabilities(binary: &Path) -> bool {
    let mut value = [0_u8; 64];
    rustix::fs::getxattr(binary, "security.capability", &mut value).is_ok_and(|length| length > 0)
}

/// `<path>  version: <commit>/1.40.0/Clean/RELEASE/BoringSSL`: the part that is a version.
fn parse_version(text: &str) -> Option<&str> {
    let (_, build) = text.split_once("version: ")?;
    let is_version = |part: &&str| {
        let number = part.split('-').next().unwrap_or_default();
        number.split('.').count() == 3 && number.split('.').all(|digits| digits.parse::<u16>().is_ok())
    };
    build.trim().split('/').find(is_version)
}

fn check_executable(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    Ok(rustix::fs::access(path, Access::EXEC_OK)?)
}

#[cfg(test)]
mod tests;
