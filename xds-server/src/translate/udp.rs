//! UDP rules: listeners with `udp_proxy`, and the loopback addresses at which it meets the module.
//!
//! `udp_proxy` speaks to sockets only. So each overlay destination of an egress rule has a loopback address, whose
//! socket the module owns (`udp_relays` of the network's configuration), and each ingress listener is on one.

use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{DefaultHasher, Hasher as _},
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Duration,
};

use envoy_config::{Destination, UdpIngressConfig, UdpRelay};
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
/// the node's own: several nodes on a host do not meet. The port is no egress rule's: Envoy binds that one at every address,
/// and the module could not open its socket. So a rule with the port of another destination's relay moves that relay, and
/// its flows begin anew; of 16,384 ports that is rare.
pub(super) struct Loopback {
    address: Ipv4Addr,
    relays: BTreeMap<Destination, SocketAddr>,
    dns: Vec<OverlayServer>,
    listeners: BTreeMap<RuleKey, SocketAddr>,
}

impl Loopback {
    pub(super) fn new(rules: &RuleSet, settings: &Settings) -> Self {
        let [high, low, ..] = hash(&(&settings.runtime_dir, &settings.network)).to_be_bytes();
        // Not 127.0.0.1, where everything else is.
        let address = Ipv4Addr::new(127, high.max(1), low, 1);
        let mut taken = BTreeSet::new();
        let place = |taken: &mut BTreeSet<u16>, what: u64| {
            let size = u64::from(PORTS.end - PORTS.start);
            let first = u16::try_from(what % size).unwrap_or(0);
            let ports = (PORTS.start + first..PORTS.end).chain(PORTS.start..PORTS.start + first);
            // Fewer are asked for than there are: the module takes at most `MAX_UDP_RELAYS`, and nobody has so many rules.
            let port = ports.into_iter().find(|port| taken.insert(*port)).unwrap_or(PORTS.start);
            SocketAddr::new(address.into(), port)
        };
        let mut relays = BTreeMap::new();
        let mut listeners = BTreeMap::new();
        // First, so that no rule moves them: who asks the servers does not know the rules.
        let dns = settings.overlay_dns.iter().map(|server| {
            let destination = Destination::from(*server);
            let what = hash(&("egress", &destination));
            OverlayServer {
                server: *server,
                relay: *relays.entry(destination).or_insert_with(|| place(&mut taken, what)),
            }
        });
        let dns = dns.collect();
        let is_egress = |key: &RuleKey| (key.protocol, key.direction) == (Protocol::Udp, Direction::Egress);
        taken.extend(rules.by_key().into_iter().map(|(key, _)| key).filter(is_egress).map(|key| key.port));
        for (key, rules) in rules.by_key() {
            match (key.protocol, key.direction) {
                (Protocol::Tcp, _) => {}
                (Protocol::Udp, Direction::Ingress) => {
                    listeners.insert(key, place(&mut taken, hash(&("ingress", key.port, key.bind))));
                }
                // Rules with different ports share the relay of a destination.
                (Protocol::Udp, Direction::Egress) => {
                    for destination in rules.iter().map(|rule| destination(rule)) {
                        let what = hash(&("egress", &destination));
                        relays.entry(destination).or_insert_with(|| place(&mut taken, what));
                    }
                }
            }
        }
        Self { address, relays, dns, listeners }
    }

    /// What the module has to know. The relay of a name is one for all its addresses, which flows take in turn: so a flow
    /// keeps its address when the name changes, where Envoy would end it with its endpoint.
    pub(super) fn relays(&self, names: &ResolvedNames) -> Vec<UdpRelay> {
        let relay = |(destination, relay): (&Destination, &SocketAddr)| UdpRelay {
            relay: *relay,
            destination: destination.clone(),
            addresses: match destination {
                Destination::Address(_) => None,
                Destination::Name { host, .. } => Some(names.of(host).to_vec()),
            },
        };
        self.relays.iter().map(relay).collect()
    }

    /// The DNS servers of the settings.
    pub(super) fn dns(&self) -> impl Iterator<Item = OverlayServer> {
        self.dns.iter().copied()
    }

    /// The address that stands for the destination of an egress rule.
    pub(super) fn relay(&self, rule: &Rule) -> SocketAddr {
        let relay = self.relays.get(&destination(rule));
        relay.copied().unwrap_or(SocketAddr::new(self.address.into(), PORTS.start))
    }

    /// The listener of a rule key. It does not depend on the destinations, see [`super`].
    pub(super) fn listener(&self, key: RuleKey, settings: &Settings) -> Result<Listener, TranslateError> {
        let name = key.to_string();
        let mut listener_filters = Vec::new();
        let address = match (key.direction, self.listeners.get(&key)) {
            (Direction::Ingress, Some(address)) => {
                let config = UdpIngressConfig {
                    network: settings.network.clone(),
                    port: key.port,
                    address: key.bind,
                    listener: *address,
                };
                config.validate().map_err(|reason| TranslateError::Invalid { name: name.clone(), reason })?;
                let filter = module::udp_listener_filter("nexodus.udp_ingress", &config);
                listener_filters.push(listener_filter("nexodus.udp_ingress", pack_any(filter)));
                Address { address: Some(socket_address(*address)) }
            }
            _ => udp(local_address(key, settings)),
        };
        listener_filters.push(listener_filter(
            "envoy.filters.udp_listener.udp_proxy",
            pack_any(udp_proxy(&name, settings.udp_idle_timeout)),
        ));
        let is_v6 = match (key.direction, key.bind) {
            (Direction::Ingress, _) => false,
            (Direction::Egress, Some(address)) => address.is_ipv6(),
            (Direction::Egress, None) => settings.ipv6,
        };
        Ok(Listener {
            socket_options: may_be_fragmented(is_v6).into_iter().chain([receive_buffer()]).collect(),
            stat_prefix: name.clone(),
            name,
            address: Some(address),
            // Each worker has a socket of its own, and the kernel spreads the clients over them.
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

/// Envoy forbids the fragmentation of what its UDP listeners send (`IP_PMTUDISC_DO`), which QUIC wants: an answer that is
/// larger than the MTU of the way to its client would be lost. This is the kernel's own default again.
fn may_be_fragmented(is_v6: bool) -> Vec<SocketOption> {
    // Linux's numbers: IPPROTO_IP and IP_MTU_DISCOVER, IPPROTO_IPV6 and IPV6_MTU_DISCOVER, IP_PMTUDISC_WANT.
    const OPTIONS: [(i64, i64); 2] = [(0, 10), (41, 23)];
    const WANT: i64 = 1;
    // A socket for IPv6 carries IPv4 too.
    let options = if is_v6 { &OPTIONS[..] } else { &OPTIONS[..1] };
    let option = |&(level, name): &(i64, i64)| SocketOption {
        description: "allow fragmentation".to_owned(),
        level,
        name,
        state: SocketState::StateBound as i32,
        value: Some(Value::IntValue(WANT)),
        ..Default::default()
    };
    options.iter().map(option).collect()
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

/// An address as the endpoint or listener of a UDP rule.
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

fn destination(rule: &Rule) -> Destination {
    let (host, port) = (&rule.host, rule.destination_port);
    match host.parse::<IpAddr>() {
        Ok(address) => SocketAddr::new(address.to_canonical(), port).into(),
        Err(_) => Destination::Name { host: host.clone(), port },
    }
}

/// The same in every process of one build; a change with the next build costs nothing but idle flows.
fn hash(what: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    what.hash(&mut hasher);
    hasher.finish()
}
