//! The configuration that Envoy carries to the module: types, parsing and every validation.
//!
//! Envoy hands an extension of the module its configuration as JSON. The producer of that JSON (`xds-server`, or a
//! person who writes a static bootstrap) and its consumer (`filter`) share the types of this crate, so a configuration
//! that passes here before a push is one that the module accepts:
//!
//! | extension | kind | type |
//! |---|---|---|
//! | `tunnel` | bootstrap extension | [`TunnelConfig`] |
//! | `nexodus.egress` | network filter | [`EgressConfig`] |
//! | `nexodus.ingress` | network filter | [`IngressConfig`] |
//! | `nexodus.udp_egress` | UDP listener filter | [`UdpEgressConfig`] |
//! | `nexodus.udp_ingress` | UDP listener filter | [`UdpIngressConfig`] |
//! | `nexodus.deadline` | network filter | [`DeadlineConfig`] |
//! | `nexodus.connect` | transport socket | [`ConnectConfig`] |
//! | `nexodus.health` | health checker | [`HealthConfig`] |
//!
//! There are two steps. `from_json` and `validate` are pure. [`NetworkConfig::load`], [`EgressConfig::load_peers`] and
//! [`WgQuick::load`] read the files that a configuration names, because keys stand in files only: never in the JSON,
//! which Envoy shows in its `/config_dump`.
//!
//! Errors and warnings are written for the person who wrote the configuration: they name the input, the reason and
//! the remedy. They never contain a private or preshared key.

mod destination;
mod endpoint;
mod error;
mod filters;
mod json;
mod key;
mod limits;
mod network;
mod secret_file;
mod tunnel;
mod udp;
mod value;
mod warnings;
pub mod wg_quick;

pub use destination::Destination;
pub use endpoint::{Endpoint, is_host_name};
pub use error::{ConfigError, LoadError, Problem};
pub use filters::{ConnectConfig, DeadlineConfig, EgressConfig, HealthConfig, IngressConfig, Protocol};
pub use key::{PresharedKey, PrivateKey, PublicKey, RandomError};
pub use limits::{
    Limits, MAX_ADDRESSES, MAX_ALLOWED_IPS, MAX_FILE_BYTES, MAX_JSON_BYTES, MAX_NETWORKS, MAX_PEERS,
    MAX_SOCKET_PATH_BYTES,
};
pub use network::{LoadedPeers, Network, Peer};
pub use secret_file::FileError;
pub use tunnel::{NetworkConfig, PeerConfig, TunnelConfig};
pub use udp::{
    MAX_NAME_ADDRESSES, MAX_UDP_DESTINATIONS, MAX_UDP_RELAYS, UdpDestination, UdpEgressConfig,
    UdpIngressConfig, UdpRelay, UdpRoute,
};
pub use wg_quick::WgQuick;

/// The name of the network when a configuration names none.
pub const DEFAULT_NETWORK: &str = "default";

/// The MTU of a tunnel when a configuration names none and the ways to the peers carry it: 1,500 less 80 bytes of IPv6, UDP
/// and WireGuard.
pub const DEFAULT_MTU: u16 = 1420;
