//! The control socket: upstream's JSON-RPC on a Unix socket that only its owner can open.
//!
//! [`rpc`] is the pure part, bytes to requests and replies to bytes; [`server`] and [`client`] are its two ends;
//! [`socket`] makes a socket without ever taking one away from a living process.

pub mod client;
pub mod peers;
pub mod rpc;
pub mod server;
pub mod socket;

/// What can be asked. Upstream's methods that this release does not have are [`Method::Unsupported`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// `Status: Running` and what else there is to say.
    Status,
    /// The version that a client compares with its own.
    Version,
    /// The first own IPv4 address in the overlay, or nothing.
    GetTunnelIPv4,
    /// The first own IPv6 address in the overlay, or nothing.
    GetTunnelIPv6,
    /// All active rules, each as the flag that gives it.
    ProxyList,
    /// Adds an ingress rule.
    ProxyAddIngress,
    /// Adds an egress rule.
    ProxyAddEgress,
    /// Removes an ingress rule.
    ProxyRemoveIngress,
    /// Removes an egress rule.
    ProxyRemoveEgress,
    /// [`peers::PeerList`] as JSON.
    ListPeers,
    /// [`peers::PingAnswer`] as JSON: the peers' IPv4 addresses.
    ConnectivityV4,
    /// [`peers::PingAnswer`] as JSON: the peers' IPv6 addresses.
    ConnectivityV6,
    /// [`peers::PingAnswer`] as JSON, for a [`peers::PingRequest`]. Not upstream's.
    Ping,
    /// Makes nexd and Envoy say more.
    SetDebugOn,
    /// Makes them say what they were started to say.
    SetDebugOff,
    /// `on` or `off`.
    GetDebug,
    /// A method that upstream has and this release has not.
    Unsupported(&'static str),
}

/// Upstream's remaining methods.
const UNSUPPORTED: [&str; 3] = ["EnableExitNodeClient", "DisableExitNodeClient", "ListExitNodes"];

impl Method {
    /// Looks up a name such as `NexdCtl.ProxyList`. The errors are those of Go's `net/rpc`.
    ///
    /// # Errors
    /// The text for the caller.
    pub fn parse(name: &str) -> Result<Self, String> {
        let Some((service, method)) = name.rsplit_once('.') else {
            return Err(format!("rpc: service/method request ill-formed: {name}"));
        };
        if service != "NexdCtl" {
            return Err(format!("rpc: can't find service {name}"));
        }
        let supported = [
            Self::Status,
            Self::Version,
            Self::GetTunnelIPv4,
            Self::GetTunnelIPv6,
            Self::ProxyList,
            Self::ProxyAddIngress,
            Self::ProxyAddEgress,
            Self::ProxyRemoveIngress,
            Self::ProxyRemoveEgress,
            Self::ListPeers,
            Self::ConnectivityV4,
            Self::ConnectivityV6,
            Self::Ping,
            Self::SetDebugOn,
            Self::SetDebugOff,
            Self::GetDebug,
        ];
        let unsupported = UNSUPPORTED.map(Self::Unsupported);
        supported
            .into_iter()
            .chain(unsupported)
            .find(|known| known.as_str() == method)
            .ok_or_else(|| format!("rpc: can't find method {name}"))
    }

    /// The name without the service.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "Status",
            Self::Version => "Version",
            Self::GetTunnelIPv4 => "GetTunnelIPv4",
            Self::GetTunnelIPv6 => "GetTunnelIPv6",
            Self::ProxyList => "ProxyList",
            Self::ProxyAddIngress => "ProxyAddIngress",
            Self::ProxyAddEgress => "ProxyAddEgress",
            Self::ProxyRemoveIngress => "ProxyRemoveIngress",
            Self::ProxyRemoveEgress => "ProxyRemoveEgress",
            Self::ListPeers => "ListPeers",
            Self::ConnectivityV4 => "ConnectivityV4",
            Self::ConnectivityV6 => "ConnectivityV6",
            Self::Ping => "Ping",
            Self::SetDebugOn => "SetDebugOn",
            Self::SetDebugOff => "SetDebugOff",
            Self::GetDebug => "GetDebug",
            Self::Unsupported(name) => name,
        }
    }
}
