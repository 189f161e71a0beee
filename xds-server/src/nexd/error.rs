//! Why nexd does not start, and the exit codes that tell it to scripts.

use std::{io, path::PathBuf, process::ExitCode};

use envoy_config::LoadError;

use super::{activation::ActivationError, envoy::EnvoyError, ports::PortError, runtime_dir::RuntimeDirError};
use crate::{
    ads::ServeError, control::socket::BindError, rules::Direction, rules_file::RulesFileError,
    state::StateError, translate::TranslateError,
};

/// The exit codes besides 0; `nexd --help` lists them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Something that should not happen.
    Internal = 1,
    /// Flags, a rule in a flag, or the rules file. clap uses the same.
    Usage = 2,
    /// The WireGuard configuration, or the key.
    WireGuard = 3,
    /// State directory, state file, runtime directory, control socket.
    State = 4,
    /// A port is in use, or not permitted.
    Port = 5,
    /// Envoy is not there, or of another version.
    Envoy = 6,
    /// The module is not there.
    Module = 7,
    /// Envoy ended, or was not ready in time, at the first start.
    EnvoyFailed = 8,
    /// Another nexd has the directory or the socket.
    AlreadyRunning = 9,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why nexd does not start. Each is one line with a remedy.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A flag of upstream's that needs a control plane.
    #[error(
        "{flag} needs a Nexodus control plane, which this release does not speak to: configure key and peers with --wg-config FILE"
    )]
    ControlPlane {
        /// The flag.
        flag: &'static str,
    },
    /// No identity.
    #[error(
        "no WireGuard configuration: there is no control plane in this release, name a wg-quick file with --wg-config FILE (or NEXD_WG_CONFIG)"
    )]
    NoWgConfig,
    /// A flag is missing for a user without a home directory.
    #[error("HOME is not set: name {flag}")]
    NoHome {
        /// The flag.
        flag: &'static str,
    },
    /// A rule given by flag.
    #[error("Failed to add {direction} proxy rule ({text}): {reason}")]
    Rule {
        /// Ingress or egress.
        direction: Direction,
        /// The rule as given.
        text: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The access log.
    #[error(
        "--access-log {}: {error}; name a file that this user can write, in a directory that is there, or `stdout`, `stderr` or `off`",
        path.display()
    )]
    AccessLog {
        /// The file.
        path: PathBuf,
        /// The system's reason.
        error: io::Error,
    },
    /// The rules file, or a rule in it.
    #[error("{0}")]
    RulesFile(#[from] RulesFileError),
    /// The rules cannot become a configuration of Envoy.
    #[error("{0}")]
    Translate(#[from] TranslateError),
    /// The WireGuard configuration.
    #[error("{0}")]
    WireGuard(#[from] LoadError),
    /// The state directory.
    #[error("{0}")]
    State(#[from] StateError),
    /// The runtime directory.
    #[error("{0}")]
    RuntimeDir(#[from] RuntimeDirError),
    /// The control socket, or the one to Envoy.
    #[error("{0}")]
    Socket(#[from] BindError),
    /// A port.
    #[error("{0}")]
    Port(#[from] PortError),
    /// Envoy, or the module.
    #[error("{0}")]
    Envoy(#[from] EnvoyError),
    /// Envoy runs and does not do what it should.
    #[error("Envoy does not start: {0}")]
    Activation(#[from] ActivationError),
    /// The ADS server ended.
    #[error("{0}")]
    Ads(#[from] ServeError),
    /// A file or system call that nothing above covers.
    #[error("{what}: {error}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's reason.
        error: io::Error,
    },
}

impl StartError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |error| Self::Io { what, error }
    }

    /// The exit code.
    #[must_use]
    pub fn exit(&self) -> Exit {
        match self {
            Self::ControlPlane { .. } | Self::NoWgConfig | Self::NoHome { .. } => Exit::Usage,
            Self::Rule { .. } | Self::RulesFile(_) | Self::Translate(_) => Exit::Usage,
            Self::AccessLog { .. } => Exit::Usage,
            Self::WireGuard(_) => Exit::WireGuard,
            Self::State(StateError::InUse { .. }) => Exit::AlreadyRunning,
            Self::RuntimeDir(RuntimeDirError::InUse { .. }) => Exit::AlreadyRunning,
            Self::Socket(BindError::Live { .. }) => Exit::AlreadyRunning,
            Self::State(_) | Self::RuntimeDir(_) | Self::Socket(_) => Exit::State,
            Self::Port(_) => Exit::Port,
            Self::Envoy(EnvoyError::NoModule { .. }) => Exit::Module,
            Self::Envoy(EnvoyError::Ended { .. } | EnvoyError::Spawn { .. }) => Exit::EnvoyFailed,
            Self::Envoy(_) => Exit::Envoy,
            Self::Activation(error) if error.is_port_conflict() => Exit::Port,
            Self::Activation(_) => Exit::EnvoyFailed,
            Self::Ads(_) | Self::Io { .. } => Exit::Internal,
        }
    }
}

/// A path that a flag or its default gives.
pub(crate) fn required(path: Option<PathBuf>, flag: &'static str) -> Result<PathBuf, StartError> {
    path.ok_or(StartError::NoHome { flag })
}
