//! Clusters and their endpoints.

use std::{
    collections::{HashMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use envoy_config::ConnectConfig;
use envoy_types::{
    pb::{
        envoy::{
            config::{
                cluster::v3::{
                    CircuitBreakers, Cluster, OutlierDetection, UpstreamConnectionOptions,
                    circuit_breakers::Thresholds,
                    cluster::{
                        ClusterDiscoveryType, CommonLbConfig, CustomClusterType, DiscoveryType,
                        EdsClusterConfig, LbPolicy,
                    },
                },
                core::v3::{
                    Address, EnvoyInternalAddress, Metadata, SocketAddress, TransportSocket,
                    TypedExtensionConfig, address,
                    envoy_internal_address::AddressNameSpecifier,
                    socket_address::{self, PortSpecifier},
                    transport_socket::ConfigType,
                },
                endpoint::v3::{
                    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
                    lb_endpoint::HostIdentifier,
                },
            },
            extensions::{
                clusters::{
                    common::dns::v3::DnsLookupFamily,
                    dns::v3::{DnsCluster, dns_cluster::RefreshRate},
                },
                network::dns_resolver::cares::v3::CaresDnsResolverConfig,
                transport_sockets::internal_upstream::v3::{
                    InternalUpstreamTransport, internal_upstream_transport::MetadataValueSource,
                },
            },
            r#type::{
                metadata::v3::{
                    MetadataKind,
                    metadata_kind::{self, Kind},
                },
                v3::Percent,
            },
        },
        google::protobuf::{self, Struct, UInt64Value, value},
    },
    util::pack_any,
};

use super::{BUFFER_BYTES, Settings, ads, duration, health::health_checks, module, tcp_keepalive, uint32};
use crate::{
    names::ResolvedNames,
    rules::{Direction, Protocol, Rule, RuleKey, health_check},
};

/// Envoy's default is 1,024, which a busy rule reaches without a word in any log.
const MAX_CONNECTIONS: u32 = 65_536;

/// The metadata of an egress endpoint under which the module finds the destination.
const METADATA: &str = "nexodus";

pub(super) fn cluster(key: RuleKey, rules: &[&Rule], names: &ResolvedNames, settings: &Settings) -> Cluster {
    let mut cluster = Cluster {
        name: key.to_string(),
        connect_timeout: Some(duration(settings.attempt(rules))),
        lb_policy: LbPolicy::RoundRobin as i32,
        per_connection_buffer_limit_bytes: uint32(BUFFER_BYTES),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                max_connections: uint32(MAX_CONNECTIONS),
                max_pending_requests: uint32(MAX_CONNECTIONS),
                max_requests: uint32(MAX_CONNECTIONS),
                ..Default::default()
            }],
            ..Default::default()
        }),
        outlier_detection: Some(outlier_detection()),
        common_lb_config: Some(CommonLbConfig {
            // When every host is ejected, say so instead of trying hosts that are known to fail.
            healthy_panic_threshold: Some(Percent { value: 0.0 }),
            // Envoy gathers changes of health for a second before its workers see them; a dead host would be tried all
            // that time.
            update_merge_window: Some(protobuf::Duration::default()),
            ..Default::default()
        }),
        // Otherwise connections to one host that are being made at the same time are interchangeable: one failure fails
        // every client that waits for any of them, and an attempt that a client has given up serves another one.
        connection_pool_per_downstream_connection: true,
        health_checks: health_checks(key, rules, settings),
        // Otherwise a destination whose rule is gone stays for as long as it passes its checks.
        ignore_health_on_host_removal: health_check(rules).is_some(),
        ..Default::default()
    };
    if resolves(key, rules) {
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::ClusterType(strict_dns()));
        cluster.load_assignment = Some(load_assignment(key, rules, names, settings));
    } else {
        cluster.cluster_discovery_type = Some(ClusterDiscoveryType::Type(DiscoveryType::Eds as i32));
        cluster.eds_cluster_config = Some(EdsClusterConfig { eds_config: Some(ads()), ..Default::default() });
    }
    match key.direction {
        // Datagrams: nothing connects, and nothing can be judged by it.
        _ if key.protocol == Protocol::Udp => cluster.outlier_detection = None,
        Direction::Egress => cluster.transport_socket = Some(through_the_tunnel(settings)),
        Direction::Ingress => {
            cluster.upstream_connection_options = Some(UpstreamConnectionOptions {
                tcp_keepalive: Some(tcp_keepalive()),
                ..Default::default()
            });
        }
    }
    cluster
}

/// The endpoints of a cluster that does not resolve names itself.
pub(super) fn endpoints(
    key: RuleKey,
    rules: &[&Rule],
    names: &ResolvedNames,
    settings: &Settings,
) -> Option<ClusterLoadAssignment> {
    (!resolves(key, rules)).then(|| load_assignment(key, rules, names, settings))
}

/// Whether Envoy resolves the names of this cluster: on the ingress side, when not every destination is an address.
fn resolves(key: RuleKey, rules: &[&Rule]) -> bool {
    key.direction == Direction::Ingress && !rules.iter().all(|rule| is_address(&rule.host))
}

/// An IP address. It may have a zone, which Envoy accepts when there is such an interface.
pub(super) fn is_address(host: &str) -> bool {
    match host.split_once('%') {
        Some((address, _zone)) => address.parse::<std::net::Ipv6Addr>().is_ok(),
        None => host.parse::<IpAddr>().is_ok(),
    }
}

fn load_assignment(
    key: RuleKey,
    rules: &[&Rule],
    names: &ResolvedNames,
    settings: &Settings,
) -> ClusterLoadAssignment {
    // Two names may have an address in common; Envoy takes each endpoint once.
    let mut seen = HashSet::new();
    let endpoints = rules.iter().flat_map(|rule| {
        let endpoints: Vec<_> = match key.direction {
            Direction::Egress => names
                .addresses(rule)
                .into_iter()
                .map(|address| SocketAddr::new(address, rule.destination_port))
                .filter(|address| seen.insert(*address))
                .map(|address| egress_endpoint(address, settings))
                .collect(),
            Direction::Ingress => vec![ingress_endpoint(rule)],
        };
        // One without a weight counts 1.
        let weight = rule.options.weight.and_then(uint32);
        endpoints.into_iter().map(move |endpoint| LbEndpoint { load_balancing_weight: weight, ..endpoint })
    });
    ClusterLoadAssignment {
        cluster_name: key.to_string(),
        endpoints: vec![LocalityLbEndpoints { lb_endpoints: endpoints.collect(), ..Default::default() }],
        ..Default::default()
    }
}

/// Every address of every name is a host. Names are looked up again as their records expire.
fn strict_dns() -> CustomClusterType {
    // Envoy's own limits, 5 s and four tries, would hold back every other change for 20 s and more while no name server
    // answers: a new cluster is part of the configuration once its names are looked up, found or not.
    let resolver = CaresDnsResolverConfig {
        query_timeout_seconds: Some(UInt64Value { value: 2 }),
        query_tries: uint32(2),
        ..Default::default()
    };
    let dns = DnsCluster {
        // Both families: `localhost` is two hosts, and outlier detection finds the one that answers.
        dns_lookup_family: DnsLookupFamily::All as i32,
        respect_dns_ttl: true,
        dns_min_refresh_rate: Some(duration(Duration::from_secs(1))),
        dns_failure_refresh_rate: Some(RefreshRate {
            base_interval: Some(duration(Duration::from_secs(1))),
            max_interval: Some(duration(Duration::from_secs(10))),
        }),
        typed_dns_resolver_config: Some(TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(pack_any(resolver)),
        }),
        ..Default::default()
    };
    CustomClusterType { name: "envoy.cluster.dns".to_owned(), typed_config: Some(pack_any(dns)) }
}

fn ingress_endpoint(rule: &Rule) -> LbEndpoint {
    let protocol = match rule.protocol {
        Protocol::Tcp => socket_address::Protocol::Tcp,
        Protocol::Udp => socket_address::Protocol::Udp,
    };
    endpoint(address::Address::SocketAddress(SocketAddress {
        protocol: protocol as i32,
        // `::ffff:192.0.2.1` is an IPv4 address, whose IPv6 form no socket of IPv6 alone reaches.
        address: rule
            .host
            .parse::<IpAddr>()
            .map_or_else(|_| rule.host.clone(), |ip| ip.to_canonical().to_string()),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(rule.destination_port))),
        ..Default::default()
    }))
}

/// One internal listener serves every egress rule, so the endpoint says where to: in its id, which makes endpoints
/// differ and shows in `%UPSTREAM_HOST%`, and in its metadata, which reaches the module.
pub(super) fn egress_endpoint(destination: SocketAddr, settings: &Settings) -> LbEndpoint {
    let mut endpoint = endpoint(address::Address::EnvoyInternalAddress(EnvoyInternalAddress {
        address_name_specifier: Some(AddressNameSpecifier::ServerListenerName(settings.tunnel_name())),
        endpoint_id: destination.to_string(),
    }));
    let destination = protobuf::Value { kind: Some(value::Kind::StringValue(destination.to_string())) };
    // Maps with one entry: the bytes are the same in every translation.
    let fields = Struct { fields: HashMap::from([("destination".to_owned(), destination)]) };
    endpoint.metadata = Some(Metadata {
        filter_metadata: HashMap::from([(METADATA.to_owned(), fields)]),
        ..Default::default()
    });
    endpoint
}

fn endpoint(address: address::Address) -> LbEndpoint {
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address { address: Some(address) }),
            ..Default::default()
        })),
        ..Default::default()
    }
}

/// Envoy's end of the user-space connection to the internal listener. `nexodus.connect` inside it reports the
/// connection as connected when the overlay is, and not as soon as Envoy's two ends have met.
pub(super) fn through_the_tunnel(settings: &Settings) -> TransportSocket {
    let config = ConnectConfig { network: settings.network.clone() };
    let inner = module::transport_socket("nexodus.connect", &config);
    let outer = InternalUpstreamTransport {
        passthrough_metadata: vec![MetadataValueSource {
            kind: Some(MetadataKind { kind: Some(Kind::Host(metadata_kind::Host {})) }),
            name: METADATA.to_owned(),
        }],
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.dynamic_modules".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack_any(inner))),
        }),
    };
    TransportSocket {
        name: "envoy.transport_sockets.internal_upstream".to_owned(),
        config_type: Some(ConfigType::TypedConfig(pack_any(outer))),
    }
}

/// A host that could not be reached is left out for 5 s, then for longer, up to 30 s, while there is another one.
///
/// The same for every number of hosts, because a cluster that changes is made anew. Envoy ejects a host when
/// `100 * (ejected + 1) / hosts <= max_ejection_percent`: with 99, all hosts but one can be ejected (of more than 100
/// hosts, 99 in a hundred), and a single host never.
fn outlier_detection() -> OutlierDetection {
    OutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: uint32(1),
        enforcing_consecutive_local_origin_failure: uint32(100),
        base_ejection_time: Some(duration(Duration::from_secs(5))),
        max_ejection_time: Some(duration(Duration::from_secs(30))),
        max_ejection_percent: uint32(99),
        always_eject_one_host: Some(protobuf::BoolValue { value: false }),
        // Failures to connect are the only thing a TCP proxy can judge; statistics over many connections would eject a
        // host that answers.
        enforcing_local_origin_success_rate: uint32(0),
        enforcing_success_rate: uint32(0),
        enforcing_consecutive_5xx: uint32(0),
        ..Default::default()
    }
}
