//! The UDP listener filters.

mod egress;
mod ingress;

use envoy_proxy_dynamic_modules_rust_sdk::EnvoyUdpListenerFilter;
use std::net::SocketAddr;

pub(crate) use egress::UdpEgressFilterConfig;
pub(crate) use ingress::UdpIngressFilterConfig;

/// Where the datagram came from.
fn peer(envoy: &impl EnvoyUdpListenerFilter) -> Option<SocketAddr> {
    socket_address(envoy.get_peer_address()?)
}

fn socket_address((address, port): (String, u32)) -> Option<SocketAddr> {
    Some(SocketAddr::new(address.parse().ok()?, u16::try_from(port).ok()?))
}
