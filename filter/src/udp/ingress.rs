//! `nexodus.udp_ingress`: the UDP listener filter in front of `udp_proxy` in listeners for the overlay's callers.
//!
//! `udp_proxy` speaks to sockets only, so the network thread has loopback sockets (`driver::datagrams`). This filter tells
//! it which port of the overlay its listener stands for, and lets nobody else in.

use super::peer;
use crate::network::{self, Network};
use envoy_config::UdpIngressConfig;
use envoy_proxy_dynamic_modules_rust_sdk::abi::envoy_dynamic_module_type_on_udp_listener_filter_status as Status;
use envoy_proxy_dynamic_modules_rust_sdk::*;
use nexodus_netstack::Local;
use std::sync::Arc;

pub(crate) struct UdpIngressFilterConfig {
    network: Arc<Network>,
    local: Local,
    generation: u64,
}

impl UdpIngressFilterConfig {
    /// Parses the configuration and makes its port a listening one in the overlay.
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = UdpIngressConfig::from_json(config)?;
        let network = Network::find(&config.network)?;
        let generation = network::unique();
        let local = network.local(config.address, config.port)?;
        network.set_udp_listener(local, config.listener, generation);
        Ok(Self { network, local, generation })
    }
}

impl Drop for UdpIngressFilterConfig {
    fn drop(&mut self) {
        self.network.remove_udp_listener(self.local, self.generation);
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
        if peer(envoy).is_some_and(|peer| self.network.is_udp_source(peer)) {
            Status::Continue
        } else {
            self.network.count_foreign_datagram();
            Status::StopIteration
        }
    }
}
