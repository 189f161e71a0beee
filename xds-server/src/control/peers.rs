//! What the methods about peers answer: JSON with upstream's names, and behind them fields of our own, which upstream's
//! nexctl ignores.

use std::{collections::BTreeMap, net::IpAddr};

use serde::{Deserialize, Serialize};

/// The answer to `ListPeers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerList {
    /// Upstream: a healthy relay is among the peers. A wg-quick file knows no relays.
    #[serde(rename = "relay-present", default)]
    pub relay_present: bool,
    /// Upstream: this node's NAT makes a relay necessary.
    #[serde(rename = "relay-required", default)]
    pub relay_required: bool,
    /// By public key.
    pub peers: BTreeMap<String, Peer>,
}

/// A WireGuard peer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Peer {
    /// Base64.
    pub public_key: String,
    /// Where its datagrams go now; empty when unknown.
    pub endpoint: String,
    /// Networks in CIDR notation.
    #[serde(rename = "AllowedIPs")]
    pub allowed_ips: Vec<String>,
    /// Unix seconds of the newest handshake as text; `0` before the first one.
    pub latest_handshake: String,
    /// Bytes of datagrams sent to it.
    pub tx: u64,
    /// Bytes of authenticated datagrams from it.
    pub rx: u64,
    /// The newest handshake is younger than [`HEALTHY`].
    #[serde(default)]
    pub healthy: bool,
    /// Seconds between keepalives, 0 for none. Not in upstream's answer.
    #[serde(default)]
    pub persistent_keepalive: u16,
}

/// The answer to `ConnectivityV4`, `ConnectivityV6` and `Ping`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingAnswer {
    /// As in [`PeerList`].
    #[serde(rename = "relay-present", default)]
    pub relay_present: bool,
    /// As in [`PeerList`].
    #[serde(rename = "relay-required", default)]
    pub relay_required: bool,
    /// By overlay address.
    pub peers: BTreeMap<String, PingResult>,
    /// Public keys of peers that were not asked: none of their allowed IPs is a single address. Not in upstream's answer.
    #[serde(default)]
    pub unnamed: Vec<String>,
}

/// What became of the echo requests to one address.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingResult {
    /// The overlay address.
    pub wg_ip: String,
    /// An answer came in time.
    pub is_reachable: bool,
    /// Upstream: the device's name. Here: the peer's public key.
    pub hostname: String,
    /// Such as `1.23ms`; `-` without an answer.
    #[serde(rename = "Latency")]
    pub latency: String,
    /// Upstream: how the peers found each other. Here: `wg-config`.
    pub method: String,
    /// Why it is not reachable. Not in upstream's answer.
    #[serde(default)]
    pub reason: Option<String>,
}

/// The argument of `Ping`, as JSON. Upstream has no such method.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PingRequest {
    /// Overlay addresses; none stands for every peer's.
    #[serde(default)]
    pub addresses: Vec<IpAddr>,
    /// Every peer's IPv6 address, not its IPv4 address.
    #[serde(default)]
    pub ipv6: bool,
    /// How long an answer may take; upstream's 1200 without it.
    #[serde(default)]
    pub timeout_ms: Option<u64>,
}

/// Seconds after a handshake within which a peer counts as healthy: WireGuard refuses a session of 180 s, and upstream
/// gives the next handshake 30 s. A peer without keepalive and without traffic has no handshakes and is not healthy.
pub const HEALTHY: u64 = 180 + 30;

impl Peer {
    /// Seconds since the newest handshake, if there was one.
    #[must_use]
    pub fn handshake_age(&self, now: u64) -> Option<u64> {
        match self.latest_handshake.parse() {
            Ok(0) | Err(_) => None,
            Ok(at) => Some(now.saturating_sub(at)),
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]

    use super::*;

    /// As upstream's nexd writes it (`internal/nexodus/ctlpeers.go`, `dump.go`).
    const UPSTREAM: &str = r#"{"relay-present":true,"relay-required":false,"peers":{"k":{"PublicKey":"k",
        "Endpoint":"192.0.2.1:51820","AllowedIPs":["100.64.0.2/32"],"LatestHandshake":"1700000000","Tx":1,"Rx":2,"Healthy":true}}}"#;

    #[test]
    fn upstreams_answer_is_understood_and_its_names_are_kept() {
        let list: PeerList = serde_json::from_str(UPSTREAM).unwrap();
        let peer = &list.peers["k"];
        assert_eq!((peer.tx, peer.rx, peer.healthy, list.relay_present), (1, 2, true, true));
        assert_eq!(peer.handshake_age(1_700_000_010), Some(10));
        let ours = serde_json::to_value(&list).unwrap();
        let mut expected: serde_json::Value = serde_json::from_str(UPSTREAM).unwrap();
        expected["peers"]["k"]["PersistentKeepalive"] = 0.into();
        assert_eq!(ours, expected);
    }

    #[test]
    fn no_handshake_has_no_age() {
        for text in ["0", "", "never"] {
            let peer = Peer { latest_handshake: text.to_owned(), ..Peer::default() };
            assert_eq!(peer.handshake_age(1_700_000_000), None, "{text}");
        }
        // A clock that was set back.
        let peer = Peer { latest_handshake: "20".to_owned(), ..Peer::default() };
        assert_eq!(peer.handshake_age(10), Some(0));
    }
}
