//! `nexodus.udp_egress` and `nexodus.udp_ingress`: UDP listener filters in front of Envoy's `udp_proxy`.
//!
//! `udp_proxy` speaks to sockets only, so the network thread owns loopback sockets: for egress one for each overlay
//! destination (`driver::udp_egress`), for ingress one for each caller (`driver::udp_ingress`). The filters tell it
//! which, for as long as their listeners live.

use crate::network::{self, Network};
use envoy_config::{UdpEgressConfig, UdpIngressConfig};
use envoy_proxy_dynamic_modules_rust_sdk::abi::envoy_dynamic_module_type_on_udp_listener_filter_status as Status;
use envoy_proxy_dynamic_modules_rust_sdk::*;
use std::net::SocketAddr;
use std::sync::Arc;

pub(crate) struct UdpEgressFilterConfig {
    network: Arc<Network>,
    relays: Vec<SocketAddr>,
    generation: u64,
}

impl UdpEgressFilterConfig {
    /// Parses the configuration; the newest to name a relay says what it stands for.
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = UdpEgressConfig::from_json(config)?;
        let network = Network::find(&config.network)?;
        let generation = network::unique();
        network.set_udp_relays(&config.relays, generation);
        let relays = config.relays.iter().map(|relay| relay.relay).collect();
        Ok(Self { network, relays, generation })
    }
}

impl Drop for UdpEgressFilterConfig {
    fn drop(&mut self) {
        self.network.remove_udp_relays(&self.relays, self.generation);
    }
}

impl<ELF: EnvoyUdpListenerFilter> UdpListenerFilterConfig<ELF> for UdpEgressFilterConfig {
    fn new_udp_listener_filter(&self, _envoy: &mut ELF) -> Box<dyn UdpListenerFilter<ELF>> {
        Box::new(Pass)
    }
}

/// What a client sends goes on to `udp_proxy`.
struct Pass;

impl<ELF: EnvoyUdpListenerFilter> UdpListenerFilter<ELF> for Pass {}

pub(crate) struct UdpIngressFilterConfig {
    network: Arc<Network>,
    port: u16,
    generation: u64,
}

impl UdpIngressFilterConfig {
    /// Parses the configuration and makes its port a listening one in the overlay.
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = UdpIngressConfig::from_json(config)?;
        let network = Network::find(&config.network)?;
        let generation = network::unique();
        network.set_udp_listener(&config, generation);
        Ok(Self { network, port: config.port, generation })
    }
}

impl Drop for UdpIngressFilterConfig {
    fn drop(&mut self) {
        self.network.remove_udp_listener(self.port, self.generation);
    }
}

impl<ELF: EnvoyUdpListenerFilter> UdpListenerFilterConfig<ELF> for UdpIngressFilterConfig {
    fn new_udp_listener_filter(&self, _envoy: &mut ELF) -> Box<dyn UdpListenerFilter<ELF>> {
        Box::new(OverlayOnly { network: self.network.clone() })
    }
}

/// Any local process can send to a loopback listener; only what came out of the overlay goes on.
struct OverlayOnly {
    network: Arc<Network>,
}

impl<ELF: EnvoyUdpListenerFilter> UdpListenerFilter<ELF> for OverlayOnly {
    fn on_data(&mut self, envoy: &mut ELF) -> Status {
        let peer = envoy.get_peer_address().and_then(|(address, port)| {
            Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
        });
        if peer.is_some_and(|peer| self.network.is_udp_source(peer)) {
            Status::Continue
        } else {
            self.network.count_foreign_datagram();
            Status::StopIteration
        }
    }
}
