use std::os::unix::ffi::OsStringExt as _;

use envoy_types::pb::envoy::config::{
    core::v3::{SocketAddress, address::Address, socket_address::PortSpecifier},
    listener::v3::Listener,
};
use prost::Message as _;

use super::*;
use crate::rules::{Direction, Rule, Source};

fn rules(rules: &[(Direction, &str)]) -> RuleSet {
    let mut set = RuleSet::new();
    for (direction, rule) in rules {
        set.add(*direction, rule.parse().unwrap(), Source::Flag).unwrap();
    }
    set
}

/// The names of the resources that differ between two snapshots.
fn changed(before: &Snapshot, after: &Snapshot) -> Vec<String> {
    let mut names = Vec::new();
    for kind in ResourceType::ALL {
        for (one, other) in [(before, after), (after, before)] {
            names.extend(
                one.resources(kind)
                    .filter(|r| other.get(kind, r.name()) != Some(r))
                    .map(|r| ResourceName::new(kind, r.name()).to_string()),
            );
        }
    }
    names.sort();
    names.dedup();
    names
}

#[test]
fn the_same_input_gives_the_same_bytes() {
    let rules = rules(&[
        (Direction::Egress, "tcp:80:100.64.0.2:80"),
        (Direction::Ingress, "tcp:80:127.0.0.1:80"),
        (Direction::Ingress, "tcp:80:localhost:80"),
    ]);
    let first = translate(&rules, &ResolvedNames::default(), &Settings::default()).unwrap();
    for _ in 0..20 {
        assert_eq!(
            changed(&first, &translate(&rules, &ResolvedNames::default(), &Settings::default()).unwrap()),
            [""; 0]
        );
    }
}

#[test]
fn more_destinations_leave_the_listener_and_the_cluster_as_they_are() {
    for (direction, name) in [(Direction::Egress, "egress/tcp/80"), (Direction::Ingress, "ingress/tcp/80")] {
        let destinations: Vec<_> =
            (1..=150).map(|n| (direction, format!("tcp:80:100.64.0.{n}:80"))).collect();
        let snapshot = |n: usize| {
            let some: Vec<_> = destinations[..n].iter().map(|(d, text)| (*d, text.as_str())).collect();
            translate(&rules(&some), &ResolvedNames::default(), &Settings::default()).unwrap()
        };
        let endpoints = format!("endpoints {name}");
        let tcp_proxy = format!("extension configuration {name}");
        // The fewest are tried for as long as a client waits.
        assert_eq!(changed(&snapshot(2), &snapshot(3)), std::slice::from_ref(&endpoints));
        assert_eq!(changed(&snapshot(3), &snapshot(4)), [endpoints.clone(), tcp_proxy]);
        assert_eq!(changed(&snapshot(62), &snapshot(150)), [endpoints]);
    }
}

#[test]
fn a_weight_is_a_matter_of_the_endpoints_and_a_timeout_of_the_cluster() {
    for (direction, name) in [(Direction::Egress, "egress/tcp/80"), (Direction::Ingress, "ingress/tcp/80")] {
        let snapshot = |options: &str| {
            let second = format!("tcp:80:100.64.0.2:80{options}");
            let rules = rules(&[(direction, "tcp:80:100.64.0.1:80"), (direction, &second)]);
            translate(&rules, &ResolvedNames::default(), &Settings::default()).unwrap()
        };
        let plain = snapshot("");
        assert_eq!(changed(&plain, &snapshot(",weight=3")), [format!("endpoints {name}")]);
        assert_eq!(changed(&plain, &snapshot(",connect-timeout=3s")), [format!("cluster {name}")]);
        assert_eq!(changed(&plain, &snapshot(",connect-timeout=10s")), [format!("cluster {name}")]);
        // Longer than a client waits for all attempts: then the listener's deadline is longer too.
        let longer = [format!("cluster {name}"), format!("listener {name}")];
        assert_eq!(changed(&plain, &snapshot(",connect-timeout=11s")), longer);
    }
}

#[test]
fn a_health_check_is_as_short_as_its_interval_and_an_attempt_and_never_long() {
    use envoy_types::pb::envoy::config::cluster::v3::Cluster;
    use prost::Message as _;
    for direction in [Direction::Egress, Direction::Ingress] {
        for (options, expected) in [
            ("health-check=2s", 2),
            ("health-check=60m", 2),
            ("health-check=1s", 1),
            ("health-check=60s,connect-timeout=3s", 3),
            ("health-check=60s,connect-timeout=60s", 5),
        ] {
            let rules = rules(&[(direction, &format!("tcp:80:100.64.0.1:80,{options}"))]);
            let snapshot = translate(&rules, &ResolvedNames::default(), &Settings::default()).unwrap();
            let cluster = snapshot.resources(ResourceType::Cluster).next().unwrap();
            let cluster = Cluster::decode(cluster.body().value.as_slice()).unwrap();
            let timeout = cluster.health_checks[0].timeout.unwrap();
            assert_eq!((timeout.seconds, timeout.nanos), (expected, 0), "{options}");
            assert!(cluster.ignore_health_on_host_removal);
        }
    }
}

#[test]
fn other_rules_leave_a_rule_as_it_is() {
    let one = [(Direction::Egress, "tcp:80:100.64.0.2:80")];
    let two = [(Direction::Ingress, "tcp:80:127.0.0.1:80"), one[0]];
    let snapshot = |some: &[(Direction, &str)]| {
        translate(&rules(some), &ResolvedNames::default(), &Settings::default()).unwrap()
    };
    let key = RuleKey::of(Direction::Ingress, &two[0].1.parse::<Rule>().unwrap());
    let mut expected: Vec<_> =
        resource_names(key, &Settings::default()).iter().map(ToString::to_string).collect();
    expected.sort();
    assert_eq!(changed(&snapshot(&one), &snapshot(&two)), expected);
}

#[test]
fn a_udp_destination_is_a_matter_of_the_network() {
    let one = [(Direction::Egress, "udp:53:100.64.0.2:53")];
    let two = [one[0], (Direction::Egress, "udp:53:[fd00::2]:53")];
    let snapshot = |some: &[(Direction, &str)]| {
        translate(&rules(some), &ResolvedNames::default(), &Settings::default()).unwrap()
    };
    assert_eq!(
        changed(&snapshot(&one), &snapshot(&two)),
        ["extension configuration tunnel/default"],
        "the listener, and with it its flows, stays"
    );
    let ingress = [one[0], (Direction::Ingress, "udp:53:127.0.0.1:53")];
    assert_eq!(
        changed(&snapshot(&one), &snapshot(&ingress)),
        ["cluster ingress/udp/53", "endpoints ingress/udp/53", "listener ingress/udp/53"]
    );
}

fn names(names: &[(&str, &[&str])]) -> ResolvedNames {
    let parsed = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect();
    names.iter().map(|(name, texts)| (*name, parsed(texts))).collect()
}

/// The destinations of a rule key's endpoints.
fn endpoints(snapshot: &Snapshot, key: &str) -> Vec<String> {
    use envoy_types::pb::envoy::config::{
        core::v3::address::Address,
        endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier},
    };
    let body = snapshot.get(ResourceType::Endpoints, key).unwrap().body();
    let assignment = ClusterLoadAssignment::decode(body.value.as_slice()).unwrap();
    let hosts = assignment.endpoints.into_iter().flat_map(|locality| locality.lb_endpoints);
    let address = |host: HostIdentifier| match host {
        HostIdentifier::Endpoint(endpoint) => endpoint.address?.address,
        HostIdentifier::EndpointName(_) => None,
    };
    let shown = |address| match address {
        Address::EnvoyInternalAddress(internal) => internal.endpoint_id,
        other => format!("{other:?}"),
    };
    hosts.filter_map(|host| host.host_identifier.and_then(address)).map(shown).collect()
}

#[test]
fn a_name_that_moves_is_a_matter_of_the_endpoints() {
    let rules = rules(&[
        (Direction::Egress, "tcp:80:db.example:80"),
        (Direction::Egress, "tcp:80:100.64.0.1:80"),
        (Direction::Egress, "tcp:80:also.example:80"),
        (Direction::Egress, "udp:53:db.example:53"),
        (Direction::Egress, "udp:53:100.64.0.1:53"),
    ]);
    let snapshot = |db: &[&str], also: &[&str]| {
        let names = names(&[("db.example", db), ("also.example", also)]);
        translate(&rules, &names, &Settings::default()).unwrap()
    };
    let unresolved = translate(&rules, &ResolvedNames::default(), &Settings::default()).unwrap();
    assert_eq!(endpoints(&unresolved, "egress/tcp/80"), ["100.64.0.1:80"]);
    let before = snapshot(&["100.64.0.2", "fd00::2"], &["100.64.0.2", "100.64.0.3"]);
    assert_eq!(
        endpoints(&before, "egress/tcp/80"),
        ["100.64.0.2:80", "[fd00::2]:80", "100.64.0.1:80", "100.64.0.3:80"],
        "an address that two names have is one endpoint"
    );
    let after = snapshot(&["100.64.0.4", "fd00::2"], &["100.64.0.2", "100.64.0.3"]);
    assert_eq!(
        changed(&before, &after),
        ["endpoints egress/tcp/80", "extension configuration tunnel/default"]
    );
    let fewer = snapshot(&[], &["100.64.0.2", "100.64.0.3"]);
    let mut expected = vec!["endpoints egress/tcp/80".to_owned()];
    expected
        .extend(["egress/tcp/80", "tunnel/default"].map(|name| format!("extension configuration {name}")));
    assert_eq!(changed(&before, &fewer), expected);
}

#[test]
fn the_destinations_of_udp_rules_are_routes_with_addresses_and_weights() {
    let rules = rules(&[
        (Direction::Egress, "udp:53:db.example:53"),
        (Direction::Egress, "udp:53:[::ffff:100.64.0.1]:54,weight=3"),
        (Direction::Egress, "udp:54:new.example:53"),
        (Direction::Ingress, "udp:53:127.0.0.1:53"),
    ]);
    let routes = udp::routes(&rules, &names(&[("db.example", &["100.64.0.2", "fd00::2"])]));
    assert_eq!(
        serde_json::to_value(routes).unwrap(),
        serde_json::json!([
            {"name": "egress/udp/53", "destinations": [
                {"destination": "db.example:53", "addresses": ["100.64.0.2", "fd00::2"], "weight": 1},
                {"destination": "100.64.0.1:54", "weight": 3},
            ]},
            {"name": "egress/udp/54", "destinations": [
                {"destination": "new.example:53", "addresses": [], "weight": 1},
            ]},
        ])
    );
}

#[test]
fn the_way_to_a_dns_server_in_the_overlay_does_not_depend_on_the_rules() {
    let server = "100.64.0.9:53".parse().unwrap();
    let settings = Settings { overlay_dns: vec![server], ..Settings::default() };
    let [way] = overlay_dns(&settings)[..] else { unreachable!("one server") };
    assert_eq!((way.server, way.relay.ip().is_loopback()), (server, true));
    // Many others, one of them at that very port.
    let texts: Vec<_> = (1..2000).map(|n| format!("udp:{n}:127.0.0.1:53")).collect();
    let mut all: Vec<_> = texts.iter().map(|text| (Direction::Ingress, text.as_str())).collect();
    let same_port = format!("udp:{}:100.64.0.9:53", way.relay.port());
    all.push((Direction::Egress, &same_port));
    let loopback = udp::Loopback::new(&rules(&all), &settings);
    assert_eq!(loopback.dns().collect::<Vec<_>>(), [way]);
    let [relay] = &loopback.relays()[..] else { unreachable!("one server") };
    assert_eq!((relay.relay, &relay.destination), (way.relay, &server.into()));
}

/// The loopback addresses of the ingress listeners.
fn ingress_listeners(some: &[(Direction, &str)], settings: &Settings) -> Vec<SocketAddr> {
    let snapshot = translate(&rules(some), &ResolvedNames::default(), settings).unwrap();
    let listeners =
        snapshot.resources(ResourceType::Listener).filter(|l| l.name().starts_with("ingress/udp"));
    let address = |address| {
        let Address::SocketAddress(SocketAddress { address, port_specifier, .. }) = address else {
            return None;
        };
        let Some(PortSpecifier::PortValue(port)) = port_specifier else { return None };
        Some(SocketAddr::new(address.parse().ok()?, port.try_into().ok()?))
    };
    let addresses = listeners.map(|listener| {
        let listener = Listener::decode(listener.body().value.as_slice()).unwrap();
        address(listener.address.unwrap().address.unwrap()).unwrap()
    });
    addresses.collect()
}

/// Envoy binds such a port at every address.
#[test]
fn no_loopback_address_has_the_port_of_an_egress_rule_or_of_wireguard() {
    let settings = Settings::default();
    let port = |some: &[(Direction, &str)]| ingress_listeners(some, &settings)[0].port();
    let one = (Direction::Ingress, "udp:53:127.0.0.1:53");
    let before = port(&[one]);
    // The port comes with a rule, be it before or behind the one whose listener is there.
    let other = format!("udp:{before}:100.64.0.3:53");
    for all in [[one, (Direction::Egress, &other)], [(Direction::Egress, &other), one]] {
        assert_ne!(port(&all), before);
    }
    // WireGuard's is bound at every address too.
    let settings = Settings { listen_port: Some(before), ..settings.clone() };
    assert_ne!(ingress_listeners(&[one], &settings)[0].port(), before);
    // TCP is no obstacle.
    let tcp = format!("tcp:{before}:100.64.0.3:53");
    assert_eq!(port(&[one, (Direction::Egress, tcp.as_str())]), before);
}

#[test]
fn every_udp_ingress_listener_has_a_loopback_address_of_its_own_and_nodes_do_not_share_them() {
    let texts: Vec<_> = (1..=2000).map(|port| format!("udp:{port}:127.0.0.1:53")).collect();
    let all: Vec<_> = texts.iter().map(|text| (Direction::Ingress, text.as_str())).collect();
    let listeners = |dir: &str| {
        let settings = Settings { runtime_dir: PathBuf::from(dir), ..Settings::default() };
        ingress_listeners(&all, &settings)
    };
    let mut addresses = listeners("/run/a");
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 2000);
    assert!(addresses.iter().all(|address| address.ip().is_loopback()));
    assert!(listeners("/run/b").iter().all(|listener| !addresses.contains(listener)));
}

#[test]
fn an_ipv4_address_in_its_ipv6_form_is_an_ipv4_address() {
    let rules = rules(&[
        (Direction::Egress, "tcp:80:[::ffff:100.64.0.2]:80"),
        (Direction::Ingress, "tcp:80:[::ffff:127.0.0.1]:80"),
    ]);
    let snapshot = translate(&rules, &ResolvedNames::default(), &Settings::default()).unwrap();
    assert_eq!(endpoints(&snapshot, "egress/tcp/80"), ["100.64.0.2:80"]);
    let ingress = endpoints(&snapshot, "ingress/tcp/80");
    assert!(ingress[0].contains("\"127.0.0.1\"") && !ingress[0].contains("ffff"), "{ingress:?}");
}

#[test]
fn a_zone_is_part_of_an_address() {
    for (host, address) in [
        ("127.0.0.1", true),
        ("::1", true),
        ("fe80::1%eth0", true),
        ("127.0.0.1%eth0", false),
        ("fe80::1%eth0%eth1", true),
        ("localhost", false),
        ("999.1.1.1", false),
        ("127.0.0.01", false),
        ("%", false),
    ] {
        assert_eq!(cluster::is_address(host), address, "{host}");
    }
}

#[test]
fn what_the_module_would_refuse_is_refused_here() {
    let ingress = rules(&[(Direction::Ingress, "tcp:65535:127.0.0.1:80")]);
    let error = |settings: Settings| {
        translate(&ingress, &ResolvedNames::default(), &settings).unwrap_err().to_string()
    };
    let with_dir = |runtime_dir: PathBuf| Settings { runtime_dir, ..Settings::default() };

    let long = error(with_dir(PathBuf::from(format!("/{}", "d".repeat(90)))));
    assert!(long.starts_with("ingress/tcp/65535: socket"), "{long}");
    let relative = error(with_dir(PathBuf::from("run")));
    assert!(relative.starts_with("ingress/tcp/65535: socket"), "{relative}");
    let not_utf8 = error(with_dir(PathBuf::from(std::ffi::OsString::from_vec(b"/run/\xff".to_vec()))));
    assert!(not_utf8.starts_with("not a UTF-8 path: /run/"), "{not_utf8}");
    let no_time = error(Settings { connect_timeout: Some(Duration::ZERO), ..Settings::default() });
    assert_eq!(no_time, "the connect timeout must be more than 0");
    let no_idle_time = error(Settings { udp_idle_timeout: Duration::ZERO, ..Settings::default() });
    assert_eq!(no_idle_time, "the UDP idle timeout must be more than 0");
    let too_long =
        error(Settings { connect_timeout: Some(Duration::from_secs(3601)), ..Settings::default() });
    assert!(too_long.starts_with("ingress/tcp/65535: limit_ms"), "{too_long}");
    let network = error(Settings { network: "a b".to_owned(), ..Settings::default() });
    assert!(network.starts_with("tunnel/a b: network"), "{network}");
}

#[test]
fn what_depends_on_the_number_of_destinations_says_so() {
    let room = |rules_of: &[(Direction, &str)], name: &str| {
        let snapshot = translate(&rules(rules_of), &ResolvedNames::default(), &Settings::default()).unwrap();
        snapshot.get(ResourceType::ExtensionConfig, name).unwrap().room()
    };
    let (one, two) =
        ((Direction::Egress, "tcp:80:100.64.0.2:80"), (Direction::Egress, "tcp:80:100.64.0.3:80"));
    assert_eq!(room(&[one], "egress/tcp/80"), 5);
    assert_eq!(room(&[(Direction::Egress, "tcp:80:100.64.0.2:80,connect-timeout=2s")], "egress/tcp/80"), 1);
    let [three, four] =
        ["tcp:80:100.64.0.4:80", "tcp:80:100.64.0.5:80"].map(|rule| (Direction::Egress, rule));
    assert_eq!(room(&[one, two, three, four], "egress/tcp/80"), 6);
    // A name that Envoy looks up may have many addresses, of which one answers.
    assert_eq!(room(&[(Direction::Ingress, "tcp:80:a-name:80")], "ingress/tcp/80"), 10);
    let (one, two) =
        ((Direction::Egress, "udp:53:100.64.0.2:53"), (Direction::Egress, "udp:53:100.64.0.3:53"));
    assert_eq!(room(&[one], "tunnel/default"), 1);
    assert_eq!(room(&[one, two], "tunnel/default"), 2);
}
