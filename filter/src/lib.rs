//! `libnexodus.so`: Nexodus proxying as an Envoy dynamic module.
//!
//! | extension | kind | what it does |
//! |---|---|---|
//! | `tunnel` | bootstrap extension | owns the networks: one thread each, with its WireGuard socket and netstack |
//! | `nexodus.egress` | terminal network filter | ends an internal connection in a TCP flow of the overlay |
//! | `nexodus.connect` | upstream transport socket | reports "connected" to Envoy only when the overlay handshake is done |
//! | `nexodus.deadline` | network filter | closes a connection for which no destination is found in time |
//! | `nexodus.ingress` | network filter | ties a connection that came out of the overlay to its flow, so that resets travel |
//! | `nexodus.health` | health checker | opens a connection in the overlay to each endpoint, without a client |
//! | `nexodus.udp_egress` | terminal UDP listener filter | takes datagrams into UDP flows of the overlay |
//! | `nexodus.udp_ingress` | UDP listener filter | lets only datagrams out of the overlay through to `udp_proxy` |
//!
//! This crate is the only one that touches Envoy, threads, sockets and clocks; [`nexodus_netstack`] and
//! [`envoy_config`] are pure.

mod admin;
mod connect;
mod deadline;
mod driver;
mod egress;
mod failures;
mod flow;
mod greeting;
mod health;
mod ingress;
mod names;
mod network;
mod pings;
mod status;
mod tunnel;
mod udp;

use envoy_proxy_dynamic_modules_rust_sdk::health_checker::HealthCheckerConfig;
use envoy_proxy_dynamic_modules_rust_sdk::*;

declare_all_init_functions!(
    program_init,
    bootstrap: new_bootstrap_extension_config,
    network: new_network_filter_config,
    transport_socket: new_transport_socket_factory_config,
    udp_listener: new_udp_listener_filter_config,
    health_checker: new_health_checker_config,
);

fn program_init() -> bool {
    true
}

fn new_bootstrap_extension_config(
    envoy: &mut dyn EnvoyBootstrapExtensionConfig,
    name: &str,
    config: &[u8],
) -> Option<Box<dyn BootstrapExtensionConfig>> {
    match name {
        "tunnel" => Some(Box::new(accepted(name, tunnel::TunnelExtensionConfig::new(envoy, config))?)),
        _ => unknown("bootstrap extension", name, "tunnel"),
    }
}

fn new_network_filter_config<EC: EnvoyNetworkFilterConfig, ENF: EnvoyNetworkFilter>(
    _envoy: &mut EC,
    name: &str,
    config: &[u8],
) -> Option<Box<dyn NetworkFilterConfig<ENF>>> {
    match name {
        "nexodus.egress" => Some(Box::new(accepted(name, egress::EgressFilterConfig::new(config))?)),
        "nexodus.ingress" => Some(Box::new(accepted(name, ingress::IngressFilterConfig::new(config))?)),
        "nexodus.deadline" => Some(Box::new(accepted(name, deadline::DeadlineFilterConfig::new(config))?)),
        _ => unknown("network filter", name, "nexodus.egress, nexodus.ingress, nexodus.deadline"),
    }
}

fn new_transport_socket_factory_config<ETS: EnvoyTransportSocket>(
    name: &str,
    config: &[u8],
    _is_upstream: bool,
) -> Option<Box<dyn TransportSocketFactoryConfig<ETS>>> {
    match name {
        "nexodus.connect" => Some(Box::new(accepted(name, connect::ConnectFactory::new(config))?)),
        _ => unknown("transport socket", name, "nexodus.connect"),
    }
}

fn new_udp_listener_filter_config<EC: EnvoyUdpListenerFilterConfig, ELF: EnvoyUdpListenerFilter>(
    _envoy: &mut EC,
    name: &str,
    config: &[u8],
) -> Option<Box<dyn UdpListenerFilterConfig<ELF>>> {
    match name {
        "nexodus.udp_ingress" => Some(Box::new(accepted(name, udp::UdpIngressFilterConfig::new(config))?)),
        "nexodus.udp_egress" => Some(Box::new(accepted(name, udp::UdpEgressFilterConfig::new(config))?)),
        _ => unknown("UDP listener filter", name, "nexodus.udp_ingress, nexodus.udp_egress"),
    }
}

fn new_health_checker_config(name: &str, config: &[u8]) -> Option<Box<dyn HealthCheckerConfig>> {
    match name {
        "nexodus.health" => Some(Box::new(accepted(name, health::HealthChecker::new(config))?)),
        _ => unknown("health checker", name, "nexodus.health"),
    }
}

/// Envoy's own message for a refused configuration carries no reason, so the reason goes to its log.
fn accepted<T>(name: &str, config: Result<T, impl std::fmt::Display>) -> Option<T> {
    config.inspect_err(|error| envoy_log_error!("{}: configuration refused: {}", name, error)).ok()
}

fn unknown<T: ?Sized>(kind: &str, name: &str, known: &str) -> Option<Box<T>> {
    envoy_log_error!("{} {:?} is not part of libnexodus; known: {}", kind, name, known);
    None
}
