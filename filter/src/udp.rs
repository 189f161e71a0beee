//! The UDP listener filters.

mod egress;
mod ingress;

use envoy_proxy_dynamic_modules_rust_sdk::EnvoyUdpListenerFilter;
use std::net::{SocketAddr, SocketAddrV6};

pub(crate) use egress::UdpEgressFilterConfig;
pub(crate) use ingress::UdpIngressFilterConfig;

/// Where the datagram came from.
fn peer(envoy: &impl EnvoyUdpListenerFilter) -> Option<SocketAddr> {
    socket_address(envoy.get_peer_address()?)
}

/// Which address of the host it came to. That is what answers come from, so a link-local one needs its interface, which is that
/// of the peer; Envoy does not say it.
fn local(envoy: &impl EnvoyUdpListenerFilter, peer: SocketAddr) -> Option<SocketAddr> {
    let mut local = socket_address(envoy.get_local_address()?)?;
    if let (SocketAddr::V6(local), SocketAddr::V6(peer)) = (&mut local, peer)
        && local.ip().is_unicast_link_local()
    {
        local.set_scope_id(peer.scope_id());
    }
    Some(local)
}

/// As Envoy writes it: `fe80::1%2` is an address at the interface with the number 2.
fn socket_address((address, port): (String, u32)) -> Option<SocketAddr> {
    let port = u16::try_from(port).ok()?;
    match address.split_once('%') {
        None => Some(SocketAddr::new(address.parse().ok()?, port)),
        Some((address, scope)) => {
            Some(SocketAddrV6::new(address.parse().ok()?, port, 0, scope.parse().ok()?).into())
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_as_envoy_writes_them() {
        for (address, expected) in
            [("192.0.2.1", "192.0.2.1:7"), ("2001:db8::1", "[2001:db8::1]:7"), ("fe80::1%2", "[fe80::1%2]:7")]
        {
            assert_eq!(socket_address((address.to_owned(), 7)).unwrap().to_string(), expected);
        }
        for (address, port) in [("", 7), ("/run/socket", 7), ("fe80::1%eth0", 7), ("192.0.2.1", 65_536)] {
            assert_eq!(socket_address((address.to_owned(), port)), None, "{address} {port}");
        }
    }
}
