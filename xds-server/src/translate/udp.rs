//! UDP rules.
//!
//! The listener of an egress rule ends in the module's filter `nexodus.udp_egress`: there is no cluster, and the destinations
//! are in the network's configuration (`udp_routes`). That of an ingress rule has `udp_proxy`, which speaks to sockets only, so
//! it is on a loopback address where it meets the module.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use envoy_config::{Destination, UdpDestination, UdpEgressConfig, UdpIngressConfig, UdpRelay, UdpRoute};
use envoy_types::{
    pb::{
        envoy::{
            config::{
                core::v3::{
                    Address, SocketAddress, SocketOption, UdpSocketConfig, address,
                    socket_address::{PortSpecifier, Protocol as SocketProtocol},
                    socket_option::{SocketState, Value},
                },
                listener::v3::{Listener, ListenerFilter, UdpListenerConfig, listener_filter::ConfigType},
            },
            extensions::filters::udp::udp_proxy::v3::{
                Route, UdpProxyConfig, udp_proxy_config::RouteSpecifier,
            },
        },
        google::protobuf::{Any, BoolValue, UInt64Value},
        xds::{
            core::v3::TypedExtensionConfig,
            r#type::matcher::v3::{
                Matcher,
                matcher::{OnMatch, on_match},
            },
        },
    },
    util::pack_any,
};

use super::{Settings, TranslateError, duration, listener::local_address, module};
use crate::{
    names::{ResolvedNames, lookup::OverlayServer},
    rules::{Direction, Protocol, Rule, RuleKey, RuleSet},
};

/// Ports of the loopback addresses: below those that the kernel gives out by itself.
const PORTS: std::ops::Range<u16> = 16_384..32_768;

/// Envoy's default would drop datagrams above 1,500 bytes.
const MAX_DATAGRAM: u64 = 65_535;

/// The loopback addresses of a node.
///
/// They follow from what they stand for, so that a change of the rules leaves the others where they are. The address is
/// the node's own: several nodes on a host do not meet. The port is no egress rule's, and not WireGuard's: those
/// are bound at every address. So an egress rule with the port of an ingress listener moves that one; of 16,384 ports that is rare.
pub(super) struct Loopback {
    dns: Vec<OverlayServer>,
    listeners: BTreeMap<RuleKey, SocketAddr>,
}

impl Loopback {
    pub(super) fn new(rules: &RuleSet, settings: &Settings) -> Self {
        let [high, low, ..] = hash(&(&settings.runtime_dir, &settings.network)).to_be_bytes();
        // Not 127.0.0.1, where everything else is.
        let address = Ipv4Addr::new(127, high.max(1), low, 1);
        let mut taken: BTreeSet<u16> = settings.listen_port.into_iter().collect();
        let place = |taken: &mut BTreeSet<u16>, what: u64| {
            let size = u64::from(PORTS.end - PORTS.start);
            let first = u16::try_from(what % size).unwrap_or(0);
            let ports = (PORTS.start + first..PORTS.end).chain(PORTS.start..PORTS.start + first);
            // Fewer are asked for than there are: a node has at most 10,000 rules.
            let port = ports.into_iter().find(|port| taken.insert(*port)).unwrap_or(PORTS.start);
            SocketAddr::new(address.into(), port)
        };
        // First, so that no rule moves them: who asks the servers does not know the rules.
        let dns = settings.overlay_dns.iter().map(|server| OverlayServer {
            server: *server,
            relay: place(&mut taken, hash(&("egress", &Destination::from(*server)))),
        });
        let dns = dns.collect();
        let by_key = rules.by_key();
        let keys = || by_key.iter().map(|(key, _)| *key).filter(|key| key.protocol == Protocol::Udp);
        taken.extend(keys().filter(|key| is_route(*key)).map(|key| key.port));
        let listener = |key: RuleKey| (key, place(&mut taken, hash(&("ingress", key.port, key.bind))));
        let listeners = keys().filter(|key| !is_route(*key)).map(listener).collect();
        Self { dns, listeners }
    }

    /// What stands for the DNS servers of the settings.
    pub(super) fn relays(&self) -> Vec<UdpRelay> {
        let relay = |dns: &OverlayServer| UdpRelay {
            relay: dns.relay,
            destination: dns.server.into(),
            addresses: None,
        };
        self.dns.iter().map(relay).collect()
    }

    /// The DNS servers of the settings.
    pub(super) fn dns(&self) -> impl Iterator<Item = OverlayServer> {
        self.dns.iter().copied()
    }

    /// The listener of a rule key. It does not depend on the destinations, see [`super`].
    pub(super) fn listener(&self, key: RuleKey, settings: &Settings) -> Result<Listener, TranslateError> {
        let name = key.to_string();
        let invalid = |reason| TranslateError::Invalid { name: name.clone(), reason };
        let (address, listener_filters) = match (key.direction, self.listeners.get(&key)) {
            (Direction::Ingress, Some(address)) => {
                let config = UdpIngressConfig {
                    network: settings.network.clone(),
                    port: key.port,
                    address: key.bind,
                    listener: *address,
                };
                config.validate().map_err(invalid)?;
                let filter = module::udp_listener_filter("nexodus.udp_ingress", &config);
                let filters = vec![
                    listener_filter("nexodus.udp_ingress", pack_any(filter)),
                    listener_filter(
                        "envoy.filters.udp_listener.udp_proxy",
                        pack_any(udp_proxy(&name, settings.udp_idle_timeout)),
                    ),
                ];
                (Address { address: Some(socket_address(*address)) }, filters)
            }
            _ => {
                let config = UdpEgressConfig { network: settings.network.clone(), route: name.clone() };
                config.validate().map_err(invalid)?;
                let filter = module::udp_listener_filter("nexodus.udp_egress", &config);
                let filters = vec![listener_filter("nexodus.udp_egress", pack_any(filter))];
                (udp(local_address(key, settings)), filters)
            }
        };
        Ok(Listener {
            socket_options: vec![receive_buffer()],
            stat_prefix: name.clone(),
            name,
            address: Some(address),
            // Each worker has a socket of its own, and the kernel spreads the clients over them; the module has one to answer by.
            enable_reuse_port: Some(BoolValue { value: true }),
            udp_listener_config: Some(UdpListenerConfig {
                downstream_socket_config: Some(large_datagrams(true)),
                ..Default::default()
            }),
            listener_filters,
            ..Default::default()
        })
    }
}

fn udp_proxy(name: &str, idle_timeout: Duration) -> UdpProxyConfig {
    UdpProxyConfig {
        stat_prefix: name.to_owned(),
        route_specifier: Some(RouteSpecifier::Matcher(always(name))),
        idle_timeout: Some(duration(idle_timeout)),
        upstream_socket_config: Some(large_datagrams(false)),
        ..Default::default()
    }
}

/// Room for what comes while a worker does something else: the kernel's default is 2 ms of 400 Mbit/s. The kernel gives as much of
/// it as `net.core.rmem_max` allows.
fn receive_buffer() -> SocketOption {
    // Linux's numbers: SOL_SOCKET and SO_RCVBUF.
    SocketOption {
        description: "receive buffer".to_owned(),
        level: 1,
        name: 8,
        state: SocketState::StatePrebind as i32,
        value: Some(Value::IntValue(4 << 20)),
        ..Default::default()
    }
}

/// `udp_proxy` chooses its cluster by a matcher.
fn always(cluster: &str) -> Matcher {
    let action = TypedExtensionConfig {
        name: "route".to_owned(),
        typed_config: Some(pack_any(Route { cluster: cluster.to_owned() })),
    };
    let on_match = OnMatch { on_match: Some(on_match::OnMatch::Action(action)), ..Default::default() };
    Matcher { on_no_match: Some(Box::new(on_match)), matcher_type: None }
}

/// A listener has to take datagrams apart that the kernel has put together (`prefer_gro`): Envoy has it do so on every UDP
/// listener, and what a sender gave to its kernel in one piece would go on as one large datagram. The sockets towards a
/// destination do not have it, and lose less so.
fn large_datagrams(prefer_gro: bool) -> UdpSocketConfig {
    UdpSocketConfig {
        max_rx_datagram_size: Some(UInt64Value { value: MAX_DATAGRAM }),
        prefer_gro: Some(BoolValue { value: prefer_gro }),
    }
}

fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(ConfigType::TypedConfig(config)),
        ..Default::default()
    }
}

/// The address of a UDP rule's listener.
pub(super) fn socket_address(address: SocketAddr) -> address::Address {
    of_protocol(SocketProtocol::Udp, address)
}

/// The same for TCP.
pub(super) fn tcp_address(address: SocketAddr) -> address::Address {
    of_protocol(SocketProtocol::Tcp, address)
}

fn of_protocol(protocol: SocketProtocol, address: SocketAddr) -> address::Address {
    address::Address::SocketAddress(SocketAddress {
        protocol: protocol as i32,
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
        ..Default::default()
    })
}

fn udp(mut address: Address) -> Address {
    if let Some(address::Address::SocketAddress(socket)) = &mut address.address {
        socket.protocol = SocketProtocol::Udp as i32;
    }
    address
}

/// Where the clients of egress rules get to. The addresses of a name are here: so a flow keeps its address when the name
/// changes, and its rule does not.
pub(super) fn routes(rules: &RuleSet, names: &ResolvedNames) -> Vec<UdpRoute> {
    let by_key = rules.by_key();
    let route = |(key, rules): &(RuleKey, Vec<&Rule>)| UdpRoute {
        name: key.to_string(),
        destinations: rules.iter().map(|rule| destination(rule, names)).collect(),
    };
    by_key.iter().filter(|(key, _)| is_route(*key)).map(route).collect()
}

/// Whether the rules of this key are a route of the network.
pub(super) fn is_route(key: RuleKey) -> bool {
    (key.protocol, key.direction) == (Protocol::Udp, Direction::Egress)
}

fn destination(rule: &Rule, names: &ResolvedNames) -> UdpDestination {
    let (host, port) = (&rule.host, rule.destination_port);
    let (destination, addresses) = match host.parse::<IpAddr>() {
        Ok(address) => (SocketAddr::new(address.to_canonical(), port).into(), None),
        Err(_) => (Destination::Name { host: host.clone(), port }, Some(names.of(host).to_vec())),
    };
    UdpDestination { destination, addresses, weight: rule.options.weight.unwrap_or(1) }
}

/// The same in every process of one build; a change with the next build costs nothing but idle flows.
fn hash(what: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
