//! Every rule of the JSON configurations, with the text that a person reads.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use envoy_config::{
    ConnectConfig, DeadlineConfig, EgressConfig, HealthConfig, IngressConfig, Limits, MAX_ADDRESSES,
    MAX_ALLOWED_IPS, MAX_JSON_BYTES, MAX_NETWORKS, MAX_PEERS, NetworkConfig, PeerConfig, Protocol, PublicKey,
    TunnelConfig,
};
use serde_json::{Value, json};

const KEY: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";

fn peer(change: &Value) -> Value {
    with(json!({"public_key": KEY, "endpoint": "192.0.2.1:51820", "allowed_ips": ["100.64.0.2/32"]}), change)
}

fn network(change: &Value) -> Value {
    with(json!({"private_key_file": "/etc/nexodus/key", "addresses": ["100.64.0.1/32"]}), change)
}

/// `base` with the fields of `change`; null removes one.
fn with(mut base: Value, change: &Value) -> Value {
    for (field, value) in change.as_object().unwrap() {
        let fields = base.as_object_mut().unwrap();
        if value.is_null() {
            fields.remove(field);
        } else {
            fields.insert(field.clone(), value.clone());
        }
    }
    base
}

fn tunnel(json: &Value) -> Result<TunnelConfig, String> {
    TunnelConfig::from_json(json.to_string().as_bytes()).map_err(|error| error.to_string())
}

fn refusal(network: &Value) -> String {
    tunnel(&json!({ "networks": [network] })).unwrap_err()
}

#[test]
fn the_full_tunnel_configuration_is_read_and_written_alike() {
    let json = json!({"networks": [{
        "name": "default",
        "private_key_file": "/etc/nexodus/key",
        "addresses": ["100.64.0.1/24", "fd00::1/128"],
        "listen_port": 51820,
        "mtu": 1420,
        "peers": [{
            "public_key": KEY,
            "preshared_key_file": "/etc/nexodus/psk",
            "endpoint": "[2001:db8::1]:51820",
            "allowed_ips": ["100.64.0.2/32", "fd00::2/128"],
            "persistent_keepalive": 25,
        }],
        "limits": {"max_flows": 100, "buffer_bytes": 1_073_741_824, "max_udp_flows": 50, "udp_idle_ms": 2_000, "threads": 4},
    }]});
    let config = tunnel(&json).unwrap();
    assert_eq!(config.networks[0].peers[0].endpoint, Some("[2001:db8::1]:51820".parse().unwrap()));
    assert_eq!(serde_json::to_value(&config).unwrap(), json);
}

#[test]
fn what_may_be_left_out_has_a_default() {
    let config = tunnel(&json!({"networks": [{"wg_config_file": "/etc/nexodus/wg0.conf"}]})).unwrap();
    assert_eq!(config.networks, [NetworkConfig::from_wg_quick("default", "/etc/nexodus/wg0.conf")]);
    assert_eq!(config.networks[0].limits, Limits::default());

    let config = EgressConfig::from_json(b"").unwrap();
    assert_eq!(
        config,
        EgressConfig {
            network: "default".to_owned(),
            peers: None,
            udp_relays: Vec::new(),
            udp_routes: Vec::new()
        }
    );
    let connect = ConnectConfig { network: "default".to_owned() };
    assert_eq!(ConnectConfig::from_json(b" ").unwrap(), connect);
    let deadline = DeadlineConfig { network: "default".to_owned(), limit_ms: 10_000 };
    assert_eq!(DeadlineConfig::from_json(b"{}").unwrap(), deadline);
}

#[test]
fn a_large_number_may_be_text_as_envoy_makes_it_from_yaml() {
    for bytes in [json!(1_u64 << 40), json!("1099511627776")] {
        let config =
            tunnel(&json!({"networks": [network(&json!({"limits": {"buffer_bytes": bytes}}))]})).unwrap();
        assert_eq!(config.networks[0].limits.buffer_bytes, 1 << 40);
    }
}

#[test]
fn an_address_without_a_length_is_one_address() {
    let config =
        tunnel(&json!({"networks": [network(&json!({"addresses": ["100.64.0.1", "fd00::1"]}))]})).unwrap();
    let addresses: Vec<_> = config.networks[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["100.64.0.1/32", "fd00::1/128"]);
}

#[test]
fn each_rule_of_a_network() {
    let cases = [
        (json!({"private_key_file": null}), "networks[0].name: has no identity: name a wg-quick file in"),
        (json!({"name": ""}), "networks[0].name: \"\" is not a network name: 1 to 63 letters"),
        (json!({"name": "a/b"}), "networks[0].name: \"a/b\" is not a network name"),
        (
            json!({"name": "a".repeat(64)}),
            "networks[0].name: (hidden, looks like a key) is not a network name",
        ),
        (json!({"nmae": "x"}), "networks[0].nmae: unknown field `nmae`, expected one of `name`"),
        (json!({"addresses": null}), "networks[0].addresses: give at least one overlay address"),
        (
            json!({"addresses": ["100.64.0.1/33"]}),
            "networks[0].addresses[0]: \"100.64.0.1/33\" is neither an address",
        ),
        (
            json!({"addresses": ["0.0.0.0"]}),
            "networks[0].addresses[0]: 0.0.0.0 is not an address that one host",
        ),
        (json!({"addresses": ["fd00::1", "ff02::1"]}), "networks[0].addresses[1]: ff02::1 is not an address"),
        (json!({"addresses": ["255.255.255.255"]}), "networks[0].addresses[0]: 255.255.255.255 is not"),
        (json!({"addresses": ["127.0.0.1"]}), "networks[0].addresses[0]: 127.0.0.1 is not"),
        (json!({"addresses": ["::ffff:1.2.3.4"]}), "networks[0].addresses[0]: ::ffff:1.2.3.4 is not"),
        (
            json!({"addresses": vec!["100.64.0.1"; MAX_ADDRESSES + 1]}),
            "networks[0].addresses: has 65 addresses, at most 64",
        ),
        (
            json!({"listen_port": 65536}),
            "networks[0].listen_port: invalid value: integer `65536`, expected u16",
        ),
        (json!({"mtu": 1279}), "networks[0].mtu: is 1279, give 1280 to 65455"),
        (json!({"mtu": 65456}), "networks[0].mtu: is 65456, give 1280 to 65455"),
        (json!({"mtu": 1279, "addresses": ["fd00::1"]}), "networks[0].mtu: is 1279, give 1280 to 65455"),
        (json!({"wg_config_file": "/wg0.conf"}), "networks[0].wg_config_file: excludes `private_key_file`"),
        (
            json!({"wg_config_file": "/wg0.conf", "private_key_file": null}),
            "networks[0].wg_config_file: excludes `addresses`",
        ),
        (
            json!({"wg_config_file": "/wg0.conf", "private_key_file": null, "addresses": null, "peers": [peer(&json!({}))]}),
            "networks[0].wg_config_file: excludes `peers`",
        ),
        (json!({"private_key_file": ""}), "networks[0].private_key_file: \"\" is not the path of a file"),
        (json!({"limits": {"max_flows": 0}}), "networks[0].limits.max_flows: is 0, give 1 to 1048576"),
        (
            json!({"limits": {"max_udp_flows": 0}}),
            "networks[0].limits.max_udp_flows: is 0, give 1 to 1048576",
        ),
        (json!({"limits": {"threads": 65}}), "networks[0].limits.threads: is 65, give 1 to 64"),
        (
            json!({"limits": {"udp_idle_ms": 99}}),
            "networks[0].limits.udp_idle_ms: is 99, give 100 to 3600000",
        ),
        (
            json!({"limits": {"buffer_bytes": 1000}}),
            "networks[0].limits.buffer_bytes: is 1000, give 1048576 to",
        ),
        (
            json!({"limits": {"buffer_bytes": "1 GiB"}}),
            "networks[0].limits.buffer_bytes: invalid value: string \"1 GiB\", expected a whole number",
        ),
        (json!({"limits": {"flows": 1}}), "networks[0].limits.flows: unknown field `flows`"),
    ];
    for (change, text) in cases {
        let error = refusal(&network(&change));
        assert!(error.starts_with(text), "{change}: {error}");
    }
}

#[test]
fn each_rule_of_a_peer() {
    let cases = [
        (json!({"public_key": null}), "networks[0].peers[0]: missing field `public_key`"),
        (
            json!({"public_key": &KEY[1..]}),
            "networks[0].peers[0].public_key: has 43 characters; a WireGuard key has 44",
        ),
        (
            json!({"endpoint": "vpn.example.com:51820"}),
            "networks[0].peers[0].endpoint: \"vpn.example.com:51820\" is a host name; here only IP:port",
        ),
        (json!({"endpoint": "192.0.2.1"}), "networks[0].peers[0].endpoint: \"192.0.2.1\" has no port"),
        (json!({"endpoint": "192.0.2.1:0"}), "networks[0].peers[0].endpoint: \"192.0.2.1:0\" has port 0"),
        (
            json!({"endpoint": "[::]:1"}),
            "networks[0].peers[0].endpoint: \"[::]:1\" is not the address of one host",
        ),
        (
            json!({"allowed_ips": ["100.64.0.2/32", "x"]}),
            "networks[0].peers[0].allowed_ips[1]: \"x\" is neither",
        ),
        (
            json!({"allowed_ips": vec!["100.64.0.2"; MAX_ALLOWED_IPS + 1]}),
            "networks[0].peers[0].allowed_ips: has 4097 allowed IPs",
        ),
        (json!({"persistent_keepalive": 65536}), "networks[0].peers[0].persistent_keepalive: invalid value"),
        (
            json!({"preshared_key_file": KEY}),
            "networks[0].peers[0].preshared_key_file: holds a key, and wants the path",
        ),
    ];
    for (change, text) in cases {
        let error = refusal(&network(&json!({"peers": [peer(&change)]})));
        assert!(error.starts_with(text), "{change}: {error}");
        let egress = json!({"network": "default", "peers": [peer(&change)]}).to_string();
        let error = EgressConfig::from_json(egress.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with(text.trim_start_matches("networks[0].")), "{change}: {error}");
    }
    let error = refusal(&network(&json!({"peers": [peer(&json!({})), peer(&json!({}))]})));
    assert_eq!(
        error,
        format!(
            "networks[0].peers[1].public_key: peer {KEY} appears twice (first at peers[0]): merge the two"
        )
    );
}

#[test]
fn each_rule_among_networks() {
    let wg = |name: &str| json!({"name": name, "wg_config_file": "/wg0.conf", "listen_port": 51820});
    let cases = [
        (vec![], "networks: give at least one network"),
        (vec![wg("a"), wg("a")], "networks[1].name: network \"a\" appears twice (first at networks[0])"),
        (vec![wg("a"), wg("b")], "networks[1].listen_port: port 51820 is taken already by networks[0]"),
        ((0..=MAX_NETWORKS).map(|i| wg(&i.to_string())).collect(), "networks: has 65 networks, at most 64"),
    ];
    for (networks, text) in cases {
        let error = tunnel(&json!({ "networks": networks })).unwrap_err();
        assert!(error.starts_with(text), "{error}");
    }
    let any_port = |name: &str| with(wg(name), &json!({"listen_port": 0}));
    assert!(tunnel(&json!({"networks": [any_port("a"), any_port("b")]})).is_ok());
}

#[test]
fn the_number_of_peers_and_the_size_are_bounded() {
    let peers = |count: u32| {
        let peer = |number: u32| {
            let mut key = [1; 32];
            key[..4].copy_from_slice(&number.to_be_bytes());
            PeerConfig {
                public_key: PublicKey::from_bytes(key),
                preshared_key_file: None,
                endpoint: None,
                allowed_ips: Vec::new(),
                persistent_keepalive: None,
            }
        };
        EgressConfig {
            network: "default".to_owned(),
            peers: Some((0..count).map(peer).collect()),
            udp_relays: Vec::new(),
            udp_routes: Vec::new(),
        }
    };
    let limit = u32::try_from(MAX_PEERS).unwrap();
    assert!(peers(limit).validate().is_ok());
    let error = peers(limit + 1).validate().unwrap_err();
    assert_eq!(error.to_string(), "peers: has 10001 peers, at most 10000 are allowed");

    let error = EgressConfig::from_json(&vec![b' '; MAX_JSON_BYTES + 1]).unwrap_err();
    assert!(error.to_string().starts_with("the configuration has 8388609 bytes, at most 8388608"), "{error}");
}

#[test]
fn a_key_in_the_json_is_told_where_it_belongs() {
    let cases = [
        (
            network(&json!({"private_key": KEY})),
            "networks[0].private_key: keys do not belong",
            "`private_key_file`",
        ),
        (
            network(&json!({"PrivateKey": KEY})),
            "networks[0].PrivateKey: keys do not belong",
            "`private_key_file`",
        ),
        (
            network(&json!({"peers": [peer(&json!({"preshared_key": KEY}))]})),
            "networks[0].peers[0].preshared_key: keys do not belong",
            "`preshared_key_file`",
        ),
    ];
    for (json, start, remedy) in cases {
        let error = refusal(&json);
        assert!(error.starts_with(start) && error.ends_with(remedy), "{error}");
    }
}

#[test]
fn each_rule_of_ingress() {
    let good = json!({"network": "default", "protocol": "tcp", "port": 443, "socket": "/run/nexodus/i.sock"});
    let parse = |change: &Value| IngressConfig::from_json(with(good.clone(), change).to_string().as_bytes());
    let config = parse(&json!({})).unwrap();
    assert_eq!((config.protocol, config.port), (Protocol::Tcp, 443));
    assert_eq!(serde_json::to_value(&config).unwrap(), good);

    let long = format!("/{}", "a".repeat(107));
    let cases = [
        (json!({"network": "a b"}), "network: \"a b\" is not a network name".to_owned()),
        (json!({"protocol": "udp"}), "protocol: is udp, and a network filter carries only tcp".to_owned()),
        (json!({"protocol": "sctp"}), "protocol: unknown variant `sctp`, expected `tcp` or `udp`".to_owned()),
        (json!({"port": 0}), "port: \"0\" is not a port: give a number from 1 to 65535".to_owned()),
        (json!({"port": null}), ".: missing field `port`".to_owned()),
        (json!({"address": "::"}), "address: :: is not an address that one host can have".to_owned()),
        (json!({"address": "100.64.0"}), "address: invalid IP address syntax".to_owned()),
        (json!({"socket": "run/i.sock"}), "socket: run/i.sock is not an absolute path".to_owned()),
        (
            json!({"socket": long}),
            format!("socket: {long} has 108 bytes, a Unix socket's path has at most 107"),
        ),
    ];
    for (change, text) in cases {
        let error = parse(&change).unwrap_err().to_string();
        assert!(error.starts_with(&text), "{change}: {error}");
    }
    assert!(parse(&json!({"socket": long[..107]})).is_ok());
    assert_eq!(parse(&json!({"address": "fd00::1"})).unwrap().address, Some("fd00::1".parse().unwrap()));
}

#[test]
fn a_health_check_names_its_network() {
    assert_eq!(HealthConfig::from_json(b"").unwrap().network, "default");
    let error = HealthConfig::from_json(b"{\"network\":\"a b\"}").unwrap_err().to_string();
    assert!(error.starts_with("network: \"a b\" is not a network name"), "{error}");
    let error = HealthConfig::from_json(b"{\"interval\":1}").unwrap_err().to_string();
    assert!(error.starts_with("interval: unknown field `interval`, expected `network`"), "{error}");
}

#[test]
fn a_deadline_is_up_to_an_hour() {
    let parse = |limit: u64| {
        let json = json!({ "limit_ms": limit }).to_string();
        DeadlineConfig::from_json(json.as_bytes()).map_err(|error| error.to_string())
    };
    assert_eq!(parse(3_600_000).unwrap().limit_ms, 3_600_000);
    for limit in [0, 3_600_001] {
        let error = parse(limit).unwrap_err();
        assert!(error.starts_with(&format!("limit_ms: is {limit}, give 1 to 3600000")), "{error}");
    }
}

#[test]
fn what_is_no_json_object_is_refused() {
    for json in ["{", "[1", "nul", "\u{0}", "[]", "1", "[[]]"] {
        let error = TunnelConfig::from_json(json.as_bytes()).unwrap_err().to_string();
        assert!(error.starts_with("the configuration is not a JSON object: "), "{error}");
        assert!(ConnectConfig::from_json(json.as_bytes()).is_err());
    }
    assert_eq!(TunnelConfig::from_json(b"{}").unwrap_err().to_string(), ".: missing field `networks`");
    let error = ConnectConfig::from_json(b"{\"x\":1}").unwrap_err().to_string();
    assert_eq!(error, "x: unknown field `x`, expected `network`");
}
