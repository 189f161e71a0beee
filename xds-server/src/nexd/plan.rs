//! What is to be run: the command line and the files it names, checked. Nothing is started here, and nothing is changed.

use std::{
    fs::{self, OpenOptions},
    io,
    net::IpAddr,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use envoy_config::{DEFAULT_NETWORK, Limits, NetworkConfig, TunnelConfig};
use rustix::{fs::OFlags, io::Errno};

use super::{
    cli::Arguments,
    error::{StartError, required},
    paths::Environment,
    runtime_dir,
};
use crate::{
    argv::split_values,
    names::ResolvedNames,
    rules::{Direction, Entry, RuleKey, RuleSet, Source},
    rules_file::{RulesFile, RulesFileError},
    translate::{AccessLog, Settings, host_has_ipv6, translate},
};

/// A checked command line.
#[derive(Debug)]
pub struct Plan {
    /// The rules given by flags, and those of the rules file.
    pub rules: RuleSet,
    /// The rules file, when named.
    pub rules_file: Option<RulesFile>,
    /// The tunnel, as the module gets it.
    pub tunnel: TunnelConfig,
    /// This node's overlay addresses.
    pub addresses: Vec<IpAddr>,
    /// The WireGuard port; none for any.
    pub listen_port: Option<u16>,
    /// What the resources depend on.
    pub settings: Settings,
    /// `state.json` is in it.
    pub state_dir: PathBuf,
    /// The control socket.
    pub socket: PathBuf,
    /// How Envoy is run.
    pub envoy: EnvoyOptions,
    /// What a person should know about the configuration.
    pub warnings: Vec<String>,
}

/// How Envoy is run.
#[derive(Clone, Debug)]
pub struct EnvoyOptions {
    /// The binary, when named.
    pub binary: Option<PathBuf>,
    /// The directory of the module, when named.
    pub module_dir: Option<PathBuf>,
    /// Worker threads.
    pub concurrency: u16,
    /// How long connections may go on.
    pub drain_time: Duration,
}

impl Plan {
    /// Checks everything that can be checked without starting anything: key, WireGuard configuration, rules.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn new(arguments: Arguments, environment: &Environment) -> Result<Self, StartError> {
        if let Some(flag) = arguments.control_plane.given() {
            return Err(StartError::ControlPlane { flag });
        }
        let wg_config = absolute(arguments.wg_config.ok_or(StartError::NoWgConfig)?)?;
        let mut network = NetworkConfig::from_wg_quick(DEFAULT_NETWORK, wg_config);
        network.listen_port = arguments.listen_port;
        network.limits = Limits {
            max_udp_flows: arguments.max_udp_flows,
            udp_idle_ms: usize::try_from(arguments.udp_idle_timeout.as_millis()).unwrap_or(usize::MAX),
            threads: arguments.tunnel_threads,
            ..Limits::default()
        };
        // The keys are needed by the module only; here they are checked and forgotten.
        let loaded = network.load()?;
        let addresses: Vec<IpAddr> = loaded.addresses.iter().map(|net| net.addr()).collect();
        let rules = rules(addresses.clone(), &arguments.egress, &arguments.ingress)?;
        let (rules, rules_file) = match arguments.rules {
            Some(path) => {
                let path = absolute(path)?;
                let (file, in_file) = RulesFile::open(&path)?;
                let rules =
                    rules.with_file(&in_file).map_err(|error| RulesFileError::content(&path, error))?;
                (rules, Some(file))
            }
            None => (rules, None),
        };

        let state_dir = absolute(required(arguments.state_dir.or(environment.state_dir()), "--state-dir")?)?;
        let socket = absolute(required(arguments.unix_socket.or(environment.socket()), "--unix-socket")?)?;
        let runtime_dir =
            absolute(arguments.runtime_dir.unwrap_or_else(|| environment.runtime_dir(&state_dir)))?;
        runtime_dir::check_length(&runtime_dir)?;

        let access_log = match arguments.access_log {
            AccessLog::File(path) => {
                let path = absolute(path)?;
                try_to_append(&path).map_err(|error| StartError::AccessLog { path: path.clone(), error })?;
                AccessLog::File(path)
            }
            other => other,
        };
        let settings = Settings {
            network: loaded.name.clone(),
            runtime_dir,
            connect_timeout: arguments.connect_timeout,
            udp_idle_timeout: arguments.udp_idle_timeout,
            access_log,
            overlay_dns: arguments.overlay_dns,
            listen_port: loaded.listen_port,
            ipv6: host_has_ipv6(),
            ..Settings::default()
        };
        for Entry { direction, rule, .. } in rules.iter() {
            runtime_dir::check_socket(&settings, RuleKey::of(*direction, rule)).map_err(|error| {
                StartError::Rule { direction: *direction, text: rule.to_string(), reason: error.to_string() }
            })?;
        }
        translate(&rules, &ResolvedNames::default(), &settings)?;
        Ok(Self {
            rules,
            rules_file,
            tunnel: TunnelConfig { networks: vec![network] },
            addresses,
            listen_port: loaded.listen_port,
            settings,
            state_dir,
            socket,
            envoy: EnvoyOptions {
                binary: arguments.envoy,
                module_dir: arguments.module_dir,
                concurrency: arguments.concurrency.unwrap_or_else(cpus),
                drain_time: arguments.drain_time,
            },
            warnings: loaded.warnings,
        })
    }
}

/// CPUs that this process may use: its affinity and its control group's quota count, so that a container on a large host gets
/// no more threads than it has use for.
fn cpus() -> u16 {
    std::thread::available_parallelism().map_or(1, |cpus| u16::try_from(cpus.get()).unwrap_or(u16::MAX))
}

/// The rules of the flags, egress before ingress as upstream adds them.
fn rules(addresses: Vec<IpAddr>, egress: &[String], ingress: &[String]) -> Result<RuleSet, StartError> {
    let mut rules = RuleSet::of_node(addresses);
    for (direction, values) in [(Direction::Egress, egress), (Direction::Ingress, ingress)] {
        for text in split_values(values) {
            let failed = |reason| StartError::Rule { direction, text: text.clone(), reason };
            let rule = text.parse().map_err(|error: crate::rules::RuleError| failed(error.to_string()))?;
            rules.add(direction, rule, Source::Flag).map_err(|error| failed(error.to_string()))?;
        }
    }
    Ok(rules)
}

/// Whether lines can be appended to a file. One that is not there yet is not there afterwards either.
fn try_to_append(path: &Path) -> io::Result<()> {
    let open = |new: bool| {
        let mut options = OpenOptions::new();
        // A pipe that nobody reads is not waited for.
        options.append(true).create_new(new).custom_flags(OFlags::NONBLOCK.bits().cast_signed()).open(path)
    };
    match open(false) {
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match open(true) {
                Ok(_) => fs::remove_file(path),
                // A link to what is not there: Envoy makes that.
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
                Err(error) => Err(error),
            }
        }
        // Such a pipe, or a socket, as standard error may be here and not in Envoy.
        Err(error) if error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Envoy gets these paths too, and has its own idea of a working directory.
fn absolute(path: PathBuf) -> Result<PathBuf, StartError> {
    std::path::absolute(&path).map_err(StartError::io(format!("path {}", path.display())))
}
