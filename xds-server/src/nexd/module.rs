//! What the module tells of itself on Envoy's admin interface. Pure.

use ipnet::IpNet;
use serde::Deserialize;

use crate::control::peers::{HEALTHY, Peer, PeerList};

/// The page of [`Status`].
pub const STATUS_PATH: &str = "/nexodus/status";

/// Bytes of a handshake initiation (WireGuard paper, section 5.4.2). It is repeated after 5 s.
const INITIATION: u64 = 148;

/// The module's networks. `nexd proxy` has one.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Status {
    /// Each with its peers.
    pub networks: Vec<Network>,
}

/// A WireGuard interface of the module.
#[derive(Clone, Debug, Deserialize)]
pub struct Network {
    /// As in the bootstrap.
    pub name: String,
    /// Why it does not run.
    #[serde(default)]
    pub failure: Option<String>,
    /// What hinders some of its peers.
    #[serde(default)]
    pub unresolved: Vec<String>,
    /// Everybody it knows.
    #[serde(default)]
    pub peers: Vec<NetworkPeer>,
}

/// A peer as the module knows it.
#[derive(Clone, Debug, Deserialize)]
pub struct NetworkPeer {
    /// Base64.
    pub public_key: String,
    /// Where its datagrams go now.
    pub endpoint: Option<String>,
    /// In CIDR notation.
    pub allowed_ips: Vec<String>,
    /// Unix seconds.
    pub latest_handshake: Option<u64>,
    /// Of UDP datagrams.
    pub transmitted_bytes: u64,
    /// Of authenticated UDP datagrams.
    pub received_bytes: u64,
    /// Seconds; 0 for none.
    #[serde(default)]
    pub persistent_keepalive: u16,
}

impl Status {
    /// All peers, as the control socket shows them at this Unix time.
    #[must_use]
    pub fn peer_list(self, now: u64) -> PeerList {
        let peers = self.networks.into_iter().flat_map(|network| network.peers);
        let peers = peers.map(|peer| (peer.public_key.clone(), peer.shown(now)));
        PeerList { peers: peers.collect(), ..PeerList::default() }
    }

    /// A line for each network that does not run, and for each peer of the others whose endpoint is not found, or that does
    /// not answer there.
    #[must_use]
    pub fn failures(&self) -> String {
        let lines = |network: &Network| match &network.failure {
            Some(failure) => format!("Network {} is not running: {failure}\n", network.name),
            None => {
                let unresolved = network.unresolved.iter().map(|what| format!("{what}; it is tried again\n"));
                let silent = network.peers.iter().filter_map(NetworkPeer::silence);
                unresolved.chain(silent.map(|silence| format!("{silence}\n"))).collect()
            }
        };
        self.networks.iter().map(lines).collect()
    }
}

impl NetworkPeer {
    /// The allowed IPs.
    pub fn nets(&self) -> impl Iterator<Item = IpNet> {
        self.allowed_ips.iter().filter_map(|net| net.parse().ok())
    }

    /// What may be wrong with a peer that was called more than once, and has never answered.
    #[must_use]
    pub fn silence(&self) -> Option<String> {
        let called = self.latest_handshake.is_none() && self.transmitted_bytes > INITIATION;
        self.endpoint.as_ref().filter(|_| called).map(|endpoint| {
            format!(
                "Peer {} at {endpoint} has never answered: check both public keys, the endpoint, and firewalls",
                self.public_key
            )
        })
    }

    fn shown(self, now: u64) -> Peer {
        let healthy = self.latest_handshake.is_some_and(|at| now.saturating_sub(at) < HEALTHY);
        Peer {
            public_key: self.public_key,
            endpoint: self.endpoint.unwrap_or_default(),
            allowed_ips: self.allowed_ips,
            latest_handshake: self.latest_handshake.unwrap_or_default().to_string(),
            tx: self.transmitted_bytes,
            rx: self.received_bytes,
            healthy,
            persistent_keepalive: self.persistent_keepalive,
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    const STATUS: &str = r#"{"networks": [{"name": "default", "running": true, "failure": null, "peers": [
        {"public_key": "a", "endpoint": "192.0.2.1:1", "allowed_ips": ["100.64.0.2/32"], "latest_handshake": 1000,
         "transmitted_bytes": 5, "received_bytes": 6, "persistent_keepalive": 20},
        {"public_key": "b", "endpoint": null, "allowed_ips": [], "latest_handshake": null,
         "transmitted_bytes": 0, "received_bytes": 0, "persistent_keepalive": 0},
        {"public_key": "called", "endpoint": "192.0.2.2:1", "allowed_ips": [], "latest_handshake": null,
         "transmitted_bytes": 148, "received_bytes": 0},
        {"public_key": "silent", "endpoint": "192.0.2.3:1", "allowed_ips": [], "latest_handshake": null,
         "transmitted_bytes": 296, "received_bytes": 0}]},
        {"name": "second", "failure": "no port"}, {"name": "third", "unresolved": ["endpoint h:1 of peer c cannot be resolved"]}]}"#;

    fn status() -> Status {
        serde_json::from_str(STATUS).unwrap()
    }

    #[test]
    fn peers_are_shown_in_upstreams_form() {
        let list = status().peer_list(1209);
        let Peer { endpoint, latest_handshake, tx, rx, healthy, persistent_keepalive, .. } = &list.peers["a"];
        assert_eq!((endpoint.as_str(), latest_handshake.as_str()), ("192.0.2.1:1", "1000"));
        assert_eq!((*tx, *rx, *healthy, *persistent_keepalive), (5, 6, true, 20));
        assert!(!status().peer_list(1210).peers["a"].healthy);
        let silent = &list.peers["b"];
        assert_eq!((silent.endpoint.as_str(), silent.latest_handshake.as_str()), ("", "0"));
        assert!(!silent.healthy);
    }

    #[test]
    fn a_network_that_does_not_run_says_why() {
        assert_eq!(
            status().failures(),
            "Peer silent at 192.0.2.3:1 has never answered: check both public keys, the endpoint, and firewalls\n\
             Network second is not running: no port\nendpoint h:1 of peer c cannot be resolved; it is tried again\n"
        );
    }
}
