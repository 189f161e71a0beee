//! `nexodus.udp_egress`: the terminal UDP listener filter of egress rules. What clients send goes to the network thread,
//! which has the flows, and answers by a socket of its own (`driver::datagrams`): Envoy has no way for a filter to answer
//! when no datagram is coming in.

use super::{local, peer};
use crate::network::{Client, Entrance, Network};
use envoy_config::UdpEgressConfig;
use envoy_proxy_dynamic_modules_rust_sdk::abi::envoy_dynamic_module_type_on_udp_listener_filter_status as Status;
use envoy_proxy_dynamic_modules_rust_sdk::*;
use std::sync::Arc;

pub(crate) struct UdpEgressFilterConfig {
    network: Arc<Network>,
    route: Arc<str>,
}

impl UdpEgressFilterConfig {
    /// Parses the configuration. A route that is not there may come later.
    pub(crate) fn new(config: &[u8]) -> Result<Self, Box<dyn std::error::Error>> {
        let config = UdpEgressConfig::from_json(config)?;
        let (network, route) = (Network::find(&config.network)?, config.route.into());
        network.open_udp_entrance(&route);
        Ok(Self { network, route })
    }
}

/// With the last listener, the flows of its clients end.
impl Drop for UdpEgressFilterConfig {
    fn drop(&mut self) {
        self.network.close_udp_entrance(&self.route);
    }
}

impl<ELF: EnvoyUdpListenerFilter> UdpListenerFilterConfig<ELF> for UdpEgressFilterConfig {
    fn new_udp_listener_filter(&self, _envoy: &mut ELF) -> Box<dyn UdpListenerFilter<ELF>> {
        Box::new(IntoTheOverlay { network: self.network.clone(), route: self.route.clone() })
    }
}

struct IntoTheOverlay {
    network: Arc<Network>,
    route: Arc<str>,
}

impl<ELF: EnvoyUdpListenerFilter> UdpListenerFilter<ELF> for IntoTheOverlay {
    fn on_data(&mut self, envoy: &mut ELF) -> Status {
        // Both are there: Envoy's UDP listeners are on IP addresses.
        if let Some(address) = peer(envoy)
            && let Some(local) = local(envoy, address)
        {
            let entrance = Entrance::Route { name: self.route.clone(), local };
            let (chunks, _) = envoy.get_datagram_data();
            self.network.datagram(Client { entrance, address }, chunks.iter().map(|chunk| chunk.as_slice()));
        }
        Status::StopIteration
    }
}
