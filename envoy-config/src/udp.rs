//! UDP: where the clients of listeners get to, and the loopback addresses that Envoy's `udp_proxy` and the module meet at.

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use crate::filters::{check_address, check_network};
use crate::tunnel::default_network;
use crate::{ConfigError, Destination, Problem, json, value};

/// Relays of a network, at most: each is a socket.
pub const MAX_UDP_RELAYS: usize = 4096;

/// Destinations of all UDP routes of a network, at most.
pub const MAX_UDP_DESTINATIONS: usize = 16_384;

/// Addresses of a destination that is a name, at most.
pub const MAX_NAME_ADDRESSES: usize = 64;

const MAX_ROUTE_NAME: usize = 255;
const MAX_WEIGHT: u32 = 1_000_000;

/// Overlay destinations for the clients of UDP listeners with the filter `nexodus.udp_egress`, by a name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpRoute {
    /// What the filters say: 1 to 255 bytes.
    pub name: String,
    /// New flows take them in turn. None: datagrams are refused.
    pub destinations: Vec<UdpDestination>,
}

/// One destination of a [`UdpRoute`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpDestination {
    /// The overlay destination.
    pub destination: Destination,
    /// See [`UdpRelay::addresses`]; with an empty list, the other destinations get the flows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<IpAddr>>,
    /// How many new flows it gets of those for the whole route, beside the weights of the others: 1 to 1,000,000.
    #[serde(default = "default_weight")]
    pub weight: u32,
}

const fn default_weight() -> u32 {
    1
}

/// Checks the routes of a network.
pub(crate) fn check_routes(routes: &[UdpRoute]) -> Result<(), ConfigError> {
    let found = routes.iter().map(|route| route.destinations.len()).sum();
    let found = std::cmp::max(found, routes.len());
    if found > MAX_UDP_DESTINATIONS {
        let problem = Problem::TooMany { what: "destinations", found, limit: MAX_UDP_DESTINATIONS };
        return Err(ConfigError::rule("udp_routes", problem));
    }
    let mut seen = HashSet::new();
    for (index, route) in routes.iter().enumerate() {
        let at = |field: &str| format!("udp_routes[{index}].{field}");
        check_route_name(&route.name).map_err(|problem| ConfigError::rule(at("name"), problem))?;
        if !seen.insert(&route.name) {
            let problem = Problem::RepeatedRoute { name: value::Shown::new(&route.name) };
            return Err(ConfigError::rule(at("name"), problem));
        }
        for (index, to) in route.destinations.iter().enumerate() {
            let at = |field: &str| at(&format!("destinations[{index}].{field}"));
            check_destination(&to.destination, to.addresses.as_deref())
                .map_err(|(field, problem)| ConfigError::rule(at(field), problem))?;
            if !(1..=MAX_WEIGHT).contains(&to.weight) {
                let (value, maximum) = (to.weight as usize, MAX_WEIGHT as usize);
                let problem = Problem::Limit { value, minimum: 1, maximum };
                return Err(ConfigError::rule(at("weight"), problem));
            }
        }
    }
    Ok(())
}

fn check_route_name(name: &str) -> Result<(), Problem> {
    let bytes = name.len();
    let fits = (1..=MAX_ROUTE_NAME).contains(&bytes);
    if fits { Ok(()) } else { Err(Problem::RouteName { bytes, limit: MAX_ROUTE_NAME }) }
}

fn check_destination(
    destination: &Destination,
    addresses: Option<&[IpAddr]>,
) -> Result<(), (&'static str, Problem)> {
    port(destination.port()).map_err(|problem| ("destination", problem))?;
    match (destination, addresses) {
        (Destination::Address(address), Some(_)) => {
            Err(("addresses", Problem::AddressesOfAddress { address: *address }))
        }
        (_, Some(addresses)) if addresses.len() > MAX_NAME_ADDRESSES => {
            let (found, limit) = (addresses.len(), MAX_NAME_ADDRESSES);
            Err(("addresses", Problem::TooMany { what: "addresses", found, limit }))
        }
        _ => Ok(()),
    }
}

/// The configuration of the UDP listener filter `nexodus.udp_egress`, the last one of its listener: its datagrams go into the
/// overlay.
///
/// The listener has to have `enable_reuse_port`: answers leave by a socket of the module's at the same port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpEgressConfig {
    /// The network that carries the datagrams.
    #[serde(default = "default_network")]
    pub network: String,
    /// The [`UdpRoute`] of that network; one that is not there (yet) refuses datagrams.
    pub route: String,
}

impl UdpEgressConfig {
    /// Parses and validates.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_network(&self.network)?;
        check_route_name(&self.route).map_err(|problem| ConfigError::rule("route", problem))
    }
}

/// A loopback address and the overlay destination that it stands for, for programs of this host and as an endpoint for
/// `udp_proxy`. The module owns the socket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpRelay {
    /// The loopback address and port.
    pub relay: SocketAddr,
    /// The overlay destination.
    pub destination: Destination,
    /// What a destination that is a name stands for at present: new flows take turns, those there are keep theirs. With an
    /// empty list, datagrams are refused; without a list, the module looks the name up for each new flow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub addresses: Option<Vec<IpAddr>>,
}

impl UdpRelay {
    fn validate(&self) -> Result<(), (&'static str, Problem)> {
        loopback(self.relay).map_err(|problem| ("relay", problem))?;
        check_destination(&self.destination, self.addresses.as_deref())
    }
}

/// Checks the relays of a network.
pub(crate) fn check_relays(relays: &[UdpRelay]) -> Result<(), ConfigError> {
    if relays.len() > MAX_UDP_RELAYS {
        let problem = Problem::TooMany { what: "relays", found: relays.len(), limit: MAX_UDP_RELAYS };
        return Err(ConfigError::rule("udp_relays", problem));
    }
    let mut seen = HashSet::new();
    for (index, relay) in relays.iter().enumerate() {
        let at = |field: &str| format!("udp_relays[{index}].{field}");
        relay.validate().map_err(|(field, problem)| ConfigError::rule(at(field), problem))?;
        if !seen.insert(relay.relay) {
            let problem = Problem::RepeatedRelay { relay: relay.relay };
            return Err(ConfigError::rule(at("relay"), problem));
        }
    }
    Ok(())
}

/// The configuration of the UDP listener filter `nexodus.udp_ingress`: what its listener, on a loopback address, stands
/// for in the overlay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UdpIngressConfig {
    /// The network whose port this is.
    #[serde(default = "default_network")]
    pub network: String,
    /// The overlay UDP port to listen on.
    pub port: u16,
    /// The one overlay address of this node to listen on; absent means all. A listener for one address comes before one for
    /// all of the same port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// The loopback address of the Envoy listener that the filter is in.
    pub listener: SocketAddr,
}

impl UdpIngressConfig {
    /// Parses and validates.
    pub fn from_json(json: &[u8]) -> Result<Self, ConfigError> {
        let config: Self = json::parse(json)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every rule.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check_network(&self.network)?;
        port(self.port).map_err(|problem| ConfigError::rule("port", problem))?;
        check_address(self.address)?;
        loopback(self.listener).map_err(|problem| ConfigError::rule("listener", problem))
    }
}

/// Anything else would be reachable by other hosts.
fn loopback(address: SocketAddr) -> Result<(), Problem> {
    if address.ip().is_loopback() { port(address.port()) } else { Err(Problem::NotLoopback { address }) }
}

fn port(port: u16) -> Result<(), Problem> {
    if port == 0 { Err(Problem::Port { value: value::Shown::new("0") }) } else { Ok(()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use crate::EgressConfig;
    use serde_json::json;

    fn egress(relays: &serde_json::Value) -> Result<EgressConfig, String> {
        let json = json!({ "udp_relays": relays }).to_string();
        EgressConfig::from_json(json.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn relays_are_loopback_addresses_each_of_its_own() {
        let good = json!([{"relay": "127.7.0.1:40000", "destination": "100.64.0.2:53"}, {"relay": "[::1]:40000", "destination": "[fd00::2]:53"}]);
        assert_eq!(egress(&good).unwrap().udp_relays.len(), 2);
        let name = json!([{"relay": "127.7.0.1:1", "destination": "db.example:53", "addresses": ["100.64.0.2", "fd00::2"]}]);
        assert_eq!(serde_json::to_value(egress(&name).unwrap().udp_relays).unwrap(), name);
        for (relays, expected) in [
            (
                json!([{"relay": "10.0.0.1:4", "destination": "100.64.0.2:53"}]),
                "udp_relays[0].relay: 10.0.0.1:4 is not a loopback address",
            ),
            (json!([{"relay": "127.0.0.1:0", "destination": "100.64.0.2:53"}]), "udp_relays[0].relay: "),
            (json!([{"relay": "127.0.0.1:4", "destination": "100.64.0.2:0"}]), "udp_relays[0].destination: "),
            (
                json!([{"relay": "127.0.0.1:4", "destination": "100.64.0.2:1"}, {"relay": "127.0.0.1:4", "destination": "100.64.0.3:1"}]),
                "udp_relays[1].relay: 127.0.0.1:4 stands for another destination already",
            ),
            (
                json!([{"relay": "127.0.0.1:4", "destination": "100.64.0.2:1", "addresses": ["100.64.0.2"]}]),
                "udp_relays[0].addresses: are for a destination that is a name",
            ),
            (
                json!([{"relay": "127.0.0.1:4", "destination": "db:1", "addresses": vec!["fd00::1"; 65]}]),
                "udp_relays[0].addresses: has 65 addresses, at most 64",
            ),
        ] {
            let error = egress(&relays).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let many: Vec<_> = (0..=MAX_UDP_RELAYS)
            .map(|i| json!({"relay": format!("127.0.{}.{}:1", i / 250, i % 250), "destination": "100.64.0.2:53"}))
            .collect();
        assert!(egress(&json!(many)).unwrap_err().contains("at most 4096"));
    }

    #[test]
    fn routes_have_names_of_their_own_and_destinations_with_weights() {
        let routes = |routes: serde_json::Value| {
            let json = json!({ "udp_routes": routes }).to_string();
            EgressConfig::from_json(json.as_bytes()).map_err(|error| error.to_string())
        };
        let good = json!([
            {"name": "dns", "destinations": [{"destination": "100.64.0.2:53", "weight": 1}]},
            {"name": "several", "destinations": [
                {"destination": "db:53", "addresses": ["fd00::2"], "weight": 3}, {"destination": "[fd00::3]:53", "weight": 1}]},
            {"name": "nothing", "destinations": []},
        ]);
        assert_eq!(serde_json::to_value(routes(good.clone()).unwrap().udp_routes).unwrap(), good);
        let plain = json!([{"name": "dns", "destinations": [{"destination": "100.64.0.2:53"}]}]);
        assert_eq!(routes(plain).unwrap().udp_routes[0].destinations[0].weight, 1);
        let to = |to: serde_json::Value| json!([{"name": "dns", "destinations": [to]}]);
        for (bad, expected) in [
            (json!([{"name": "", "destinations": []}]), "udp_routes[0].name: has 0 bytes, give 1 to 255"),
            (
                json!([{"name": "dns", "destinations": []}, {"name": "dns", "destinations": []}]),
                "udp_routes[1].name: \"dns\" is the name of another route already",
            ),
            (to(json!({"destination": "100.64.0.2:0"})), "udp_routes[0].destinations[0].destination: "),
            (
                to(json!({"destination": "100.64.0.2:53", "addresses": []})),
                "udp_routes[0].destinations[0].addresses: are for a destination that is a name",
            ),
            (
                to(json!({"destination": "100.64.0.2:53", "weight": 0})),
                "udp_routes[0].destinations[0].weight: is 0, give 1 to 1000000",
            ),
            (
                json!([{"name": "dns", "destinations": vec![json!({"destination": "100.64.0.2:53"}); 16_385]}]),
                "udp_routes: has 16385 destinations, at most 16384",
            ),
        ] {
            let error = routes(bad).unwrap_err();
            assert!(error.starts_with(expected), "{error}");
        }
        let route = |name: &str| UdpEgressConfig::from_json(json!({ "route": name }).to_string().as_bytes());
        assert_eq!(route("dns").unwrap().network, "default");
        assert!(route(&"n".repeat(256)).unwrap_err().to_string().starts_with("route: has 256 bytes"));
    }

    #[test]
    fn a_listener_is_on_a_loopback_address() {
        let parse = |listener: &str| {
            UdpIngressConfig::from_json(json!({"port": 53, "listener": listener}).to_string().as_bytes())
        };
        assert_eq!(parse("127.0.0.1:40000").unwrap().network, "default");
        assert!(
            parse("0.0.0.0:40000")
                .unwrap_err()
                .to_string()
                .starts_with("listener: 0.0.0.0:40000 is not a loopback")
        );
    }
}
