//! The configurations of the filters and of the transport socket.

use std::net::IpAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::tunnel::{default_network, validate_peers};
use crate::udp::{UdpRelay, UdpRoute, check_relays, check_routes};
use crate::{ConfigError, LoadError, LoadedPeers, PeerConfig, Problem, json, network, value};

/// The configuration of the network filter `nexodus.egress`, the last in the internal listener `tunnel/<network>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EgressConfig {
    /// The network that carries the connections.
    #[serde(default = "default_network")]
    pub network: String,
    /// The network's peers from now on; absent means those it has. An empty list removes them all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peers: Option<Vec<PeerConfig>>,
    /// Where the clients of UDP listeners with `nexodus.udp_egress` get to. They are here, and not in that filter, so that a
    /// changed list of destinations leaves the listener and its flows alone.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub udp_routes: Vec<UdpRoute>,
    /// Loopback addresses that stand for overlay destinations: for `udp_proxy` and local programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub udp_relays: Vec<UdpRelay>,
}

impl EgressConfig {
    /// Parses and validates; reads no files.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule that needs no file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_network(&self.network)?;
        check_routes(&self.udp_routes)?;
        check_relays(&self.udp_relays)?;
        validate_peers(self.peers.as_deref().unwrap_or_default(), "")
    }

    /// Reads the preshared keys' files. `None` when the configuration has no list of peers.
    pub fn load_peers(&self) -> Result<Option<LoadedPeers>, LoadError> {
        self.validate()?;
        self.peers.as_deref().map(network::load_peers).transpose()
    }
}

/// The configuration of the network filter `nexodus.ingress`: what its listener stands for in the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IngressConfig {
    /// The network whose port this is.
    #[serde(default = "default_network")]
    pub network: String,
    /// The transport protocol; a network filter carries only [`Protocol::Tcp`].
    pub protocol: Protocol,
    /// The overlay port to listen on.
    pub port: u16,
    /// The one overlay address of this node to listen on; absent means all. A listener for one address comes before one for
    /// all of the same port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The Unix socket of the Envoy listener that the filter is in. Connections arrive there with a PROXY protocol
    /// v2 header.
    pub socket: PathBuf,
}

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl IngressConfig {
    /// Parses and validates.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_network(&self.network)?;
        if self.protocol != Protocol::Tcp {
            return Err(ConfigError::rule("protocol", Problem::Udp));
        }
        if self.port == 0 {
            let value = value::Shown::new("0");
            return Err(ConfigError::rule("port", Problem::Port { value }));
        }
        check_address(self.address)?;
        value::socket_path(&self.socket).map_err(|problem| ConfigError::rule("socket", problem))
    }
}

/// The configuration of the health checker `nexodus.health`, of clusters whose endpoints are in the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthConfig {
    /// The network that the checks go through.
    #[serde(default = "default_network")]
    pub network: String,
}

impl HealthConfig {
    /// Parses and validates.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_network(&self.network)
    }
}

/// The configuration of the transport socket `nexodus.connect`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConnectConfig {
    /// The network that counts failed attempts.
    #[serde(default = "default_network")]
    pub network: String,
}

impl ConnectConfig {
    /// Parses and validates.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        check_network(&config.network)?;
        Ok(config)
    }
}

/// The configuration of the network filter `nexodus.deadline`, before `tcp_proxy`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeadlineConfig {
    /// The network that counts the connections that were closed.
    #[serde(default = "default_network")]
    pub network: String,
    /// How long a connection may wait for a destination over all attempts, in milliseconds: 1 to 3,600,000, an hour.
    #[serde(default = "default_limit_ms")]
    pub limit_ms: u64,
}

const MAX_LIMIT_MS: u64 = 3_600_000;

const fn default_limit_ms() -> u64 {
    10_000
}

impl DeadlineConfig {
    /// Parses and validates.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_network(&self.network)?;
        if (1..=MAX_LIMIT_MS).contains(&self.limit_ms) {
            return Ok(());
        }
        let value = usize::try_from(self.limit_ms).unwrap_or(usize::MAX);
        let maximum = usize::try_from(MAX_LIMIT_MS).unwrap_or(usize::MAX);
        Err(ConfigError::rule("limit_ms", Problem::Limit { value, minimum: 1, maximum }))
    }
}

/// Whether a node can have this address; none is all of its own.
pub(crate) fn check_address(address: Option<IpAddr>) -> Result<(), ConfigError> {
    let bad = |address: IpAddr| address.is_unspecified() || address.is_multicast();
    match address.filter(|address| bad(*address)) {
        Some(address) => Err(ConfigError::rule("address", Problem::Address { address })),
        None => Ok(()),
    }
}

pub(crate) fn check_network(name: &str) -> Result<(), ConfigError> {
    value::network_name(name).map_err(|problem| ConfigError::rule("network", problem))
}
