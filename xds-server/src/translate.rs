//! Rules to Envoy resources.

use std::{path::PathBuf, time::Duration};

use crate::{
    rules::{RuleKey, RuleSet},
    snapshot::{ResourceName, ResourceType, Snapshot},
};

/// What the resources depend on besides the rules.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The WireGuard network's name, which is part of the internal listener's: `tunnel/<network>`.
    pub network: String,
    /// The directory of the sockets between the module and Envoy's ingress listeners.
    pub runtime_dir: PathBuf,
    /// How long Envoy waits for one attempt to reach one destination.
    pub connect_timeout: Duration,
    /// Where Envoy writes one line for each connection.
    pub access_log: AccessLog,
    /// Egress listeners bind `[::]` and accept IPv4 there too; without, `0.0.0.0`, for a host that has no IPv6.
    pub ipv6: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            network: "default".to_owned(),
            runtime_dir: PathBuf::from("/run/nexd"),
            connect_timeout: Duration::from_secs(5),
            access_log: AccessLog::Stdout,
            ipv6: true,
        }
    }
}

/// Where the access log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AccessLog {
    /// Nowhere.
    Off,
    /// Envoy's standard output.
    #[default]
    Stdout,
    /// Envoy's standard error.
    Stderr,
    /// A file, as Envoy sees the path.
    File(PathBuf),
}

/// Turns rules into resources.
///
/// # Errors
/// [`TranslateError`] names the rule or setting that cannot be carried.
pub fn translate(_rules: &RuleSet, _settings: &Settings) -> Result<Snapshot, TranslateError> {
    Ok(Snapshot::default())
}

/// The resources that carry the rules of one key: what to wait for with [`crate::ads::Ads::applied`].
#[must_use]
pub fn resource_names(key: RuleKey) -> Vec<ResourceName> {
    [ResourceType::Cluster, ResourceType::Endpoints, ResourceType::Listener]
        .map(|kind| ResourceName { kind, name: key.to_string() })
        .to_vec()
}

/// Why rules cannot become resources.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslateError {
    /// The configuration of the module is not valid.
    #[error("{name}: {reason}")]
    Invalid {
        /// The listener or cluster.
        name: String,
        /// What is wrong.
        reason: String,
    },
}
