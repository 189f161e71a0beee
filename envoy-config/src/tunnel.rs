//! The configuration of the bootstrap extension `tunnel`: networks, their identities and peers.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::limits::{MAX_ADDRESSES, MAX_ALLOWED_IPS, MAX_NETWORKS, MAX_PEERS};
use crate::value::{self, Shown};
use crate::{ConfigError, DEFAULT_NETWORK, Limits, Problem, PublicKey, json};

/// The configuration of the bootstrap extension `tunnel`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TunnelConfig {
    /// The networks, at least one.
    pub networks: Vec<NetworkConfig>,
}

/// One network: a WireGuard interface, with either a wg-quick file or an inline identity.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkConfig {
    /// The name: 1 to 63 letters, digits, `-` and `_`. It names the internal listener, `tunnel/<name>`.
    #[serde(default = "default_network")]
    pub name: String,
    /// A wg-quick file with identity and peers. Excludes `private_key_file`, `addresses` and `peers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wg_config_file: Option<PathBuf>,
    /// A file with the private key as 44 characters of base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub private_key_file: Option<PathBuf>,
    /// The node's own overlay addresses.
    #[serde(default, deserialize_with = "value::nets", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpNet>,
    /// The UDP port; 0 is any free one. Overrides the wg-quick file's when given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub listen_port: Option<u16>,
    /// Bytes in a packet inside the tunnel: 1,280 to 65,455. Overrides the wg-quick
    /// file's when given. Without either it is what fits the ways to the peers, 1,420 at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    /// The peers; more, or others, may follow by xDS in an [`EgressConfig`](crate::EgressConfig).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub peers: Vec<PeerConfig>,
    /// What the network may use at most.
    #[serde(default)]
    pub limits: Limits,
}

/// A peer, as the JSON has it: keys that are secret stand in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeerConfig {
    /// Who the peer is.
    pub public_key: PublicKey,
    /// A file with the preshared key as 44 characters of base64.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub preshared_key_file: Option<PathBuf>,
    /// Where the peer is reached. Without it the peer has to come first.
    #[serde(default, deserialize_with = "value::endpoint_in_json", skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<SocketAddr>,
    /// The overlay addresses that are routed to the peer and accepted from it.
    #[serde(default, deserialize_with = "value::nets", skip_serializing_if = "Vec::is_empty")]
    pub allowed_ips: Vec<IpNet>,
    /// Seconds between keepalives; 0 is off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub persistent_keepalive: Option<u16>,
}

impl TunnelConfig {
    /// Parses and validates; reads no files.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule that needs no file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if self.networks.is_empty() {
            return Err(ConfigError::rule("networks", Problem::NoNetwork));
        }
        at_most("networks", "networks", self.networks.len(), MAX_NETWORKS)?;
        let mut names = HashMap::new();
        let mut ports = HashMap::new();
        for (index, network) in self.networks.iter().enumerate() {
            let path = format!("networks[{index}]");
            network.validate_at(&format!("{path}."))?;
            if let Some(first) = names.insert(&network.name, path.clone()) {
                let value = Shown::new(&network.name);
                return Err(ConfigError::rule(path + ".name", Problem::DuplicateNetwork { value, first }));
            }
            let Some(port) = network.listen_port.filter(|port| *port != 0) else { continue };
            if let Some(first) = ports.insert(port, path.clone()) {
                let problem = Problem::DuplicateListenPort { port, first };
                return Err(ConfigError::rule(path + ".listen_port", problem));
            }
        }
        Ok(())
    }
}

impl NetworkConfig {
    /// A network of this name whose identity and peers stand in a wg-quick file.
    #[must_use]
    pub fn from_wg_quick(name: impl Into<String>, file: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            wg_config_file: Some(file.into()),
            private_key_file: None,
            addresses: Vec::new(),
            listen_port: None,
            mtu: None,
            peers: Vec::new(),
            limits: Limits::default(),
        }
    }

    /// Checks every rule that needs no file.
    pub fn validate(&self) -> Result<(), ConfigError> {
        self.validate_at("")
    }

    fn validate_at(&self, path: &str) -> Result<(), ConfigError> {
        let at = |field: &str| {
            let field = format!("{path}{field}");
            move |problem| ConfigError::rule(field, problem)
        };
        value::network_name(&self.name).map_err(at("name"))?;
        match (&self.wg_config_file, &self.private_key_file) {
            (Some(file), _) => {
                value::key_path(file).map_err(at("wg_config_file"))?;
                let given = [
                    ("private_key_file", self.private_key_file.is_some()),
                    ("addresses", !self.addresses.is_empty()),
                    ("peers", !self.peers.is_empty()),
                ];
                if let Some((other, _)) = given.into_iter().find(|(_, given)| *given) {
                    return Err(at("wg_config_file")(Problem::Exclusive { other }));
                }
                value::mtu(self.mtu).map_err(at("mtu"))?;
            }
            (None, Some(file)) => {
                value::key_path(file).map_err(at("private_key_file"))?;
                self.validate_addresses(path)?;
                value::mtu(self.mtu).map_err(at("mtu"))?;
            }
            (None, None) => return Err(at("name")(Problem::NoIdentity)),
        }
        self.limits.check().map_err(|(field, problem)| at(&format!("limits.{field}"))(problem))?;
        validate_peers(&self.peers, path)
    }

    fn validate_addresses(&self, path: &str) -> Result<(), ConfigError> {
        let path = format!("{path}addresses");
        if self.addresses.is_empty() {
            return Err(ConfigError::rule(path, Problem::NoAddress));
        }
        at_most(&path, "addresses", self.addresses.len(), MAX_ADDRESSES)?;
        for (index, address) in self.addresses.iter().enumerate() {
            value::overlay_address(*address)
                .map_err(|problem| ConfigError::rule(format!("{path}[{index}]"), problem))?;
        }
        Ok(())
    }
}

/// Checks a list of peers, the field `peers` of the object at `path`.
pub(crate) fn validate_peers(peers: &[PeerConfig], path: &str) -> Result<(), ConfigError> {
    at_most(&format!("{path}peers"), "peers", peers.len(), MAX_PEERS)?;
    let mut seen = HashMap::with_capacity(peers.len());
    for (index, peer) in peers.iter().enumerate() {
        let path = format!("{path}peers[{index}]");
        let at = |field: &str, problem| Err(ConfigError::rule(format!("{path}.{field}"), problem));
        if let Some(first) = seen.insert(peer.public_key, index) {
            let (public_key, first) = (peer.public_key, format!("peers[{first}]"));
            return at("public_key", Problem::DuplicatePeer { public_key, first });
        }
        if let Some(Err(problem)) = peer.preshared_key_file.as_deref().map(value::key_path) {
            return at("preshared_key_file", problem);
        }
        if let Some(Err(problem)) = peer.endpoint.map(value::endpoint_address) {
            return at("endpoint", problem);
        }
        at_most(&format!("{path}.allowed_ips"), "allowed IPs", peer.allowed_ips.len(), MAX_ALLOWED_IPS)?;
    }
    Ok(())
}

fn at_most(path: &str, what: &'static str, found: usize, limit: usize) -> Result<(), ConfigError> {
    if found <= limit {
        Ok(())
    } else {
        Err(ConfigError::rule(path, Problem::TooMany { what, found, limit }))
    }
}

pub(crate) fn default_network() -> String {
    DEFAULT_NETWORK.to_owned()
}
