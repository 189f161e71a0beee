//! The way to DNS servers in the overlay: for the process that looks names up, not for users.
//!
//! A server has one loopback address and port. Over UDP it is a relay of the network (`udp_relays`); over
//! TCP, for answers that do not fit into a datagram, a listener of Envoy's whose one destination is the server.

use std::{net::SocketAddr, time::Duration};

use envoy_types::{
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    Cluster,
                    cluster::{ClusterDiscoveryType, DiscoveryType},
                },
                core::v3::Address,
                endpoint::v3::{ClusterLoadAssignment, LocalityLbEndpoints},
                listener::v3::{FilterChain, Listener},
            },
            extensions::filters::network::tcp_proxy::v3::{TcpProxy, tcp_proxy::ClusterSpecifier},
        },
        google::protobuf::BoolValue,
    },
    util::pack_any,
};

use super::{Settings, cluster, duration, listener, udp};

/// More than a lookup takes.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// What listener and cluster are called; the name of no rule key.
pub(super) fn name(server: SocketAddr) -> String {
    format!("dns/{server}")
}

pub(super) fn listener(server: SocketAddr, relay: SocketAddr) -> Listener {
    let name = name(server);
    let proxy = TcpProxy {
        stat_prefix: name.clone(),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.clone())),
        ..Default::default()
    };
    let filters = vec![listener::static_filter("envoy.filters.network.tcp_proxy", pack_any(proxy))];
    Listener {
        stat_prefix: name.clone(),
        name,
        address: Some(Address { address: Some(udp::tcp_address(relay)) }),
        enable_reuse_port: Some(BoolValue { value: false }),
        filter_chains: vec![FilterChain { filters, ..Default::default() }],
        ..Default::default()
    }
}

pub(super) fn cluster(server: SocketAddr, settings: &Settings) -> Cluster {
    let name = name(server);
    let endpoints = vec![cluster::egress_endpoint(server, settings)];
    Cluster {
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static as i32)),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.clone(),
            endpoints: vec![LocalityLbEndpoints { lb_endpoints: endpoints, ..Default::default() }],
            ..Default::default()
        }),
        transport_socket: Some(cluster::through_the_tunnel(settings)),
        name,
        ..Default::default()
    }
}
