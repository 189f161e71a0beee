//! Wherever a person puts a key by mistake, no error, warning or debug output repeats it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use envoy_config::{ConnectConfig, EgressConfig, IngressConfig, NetworkConfig, TunnelConfig, WgQuick};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Long enough to be a key, and found nowhere else.
const MARKER: &str = "MarkerMarkerMarkerMarkerMarkerMarkerMarkerE=";
const WG: &str = "[Interface]\nPrivateKey = MarkerMarkerMarkerMarkerMarkerMarkerMarkerE=\nAddress = 100.64.0.1\nListenPort = 1\n\
    MTU = 1420\nDNS = 1.1.1.1\n[Peer]\nPublicKey = 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=\n\
    PresharedKey = MarkerMarkerMarkerMarkerMarkerMarkerMarkerE=\nEndpoint = a:1\nAllowedIPs = 10.0.0.0/8\nPersistentKeepalive = 1\n";

/// Eight characters of a key would be a leak already.
fn assert_hidden(output: &str) {
    assert!(!output.contains("MarkerMa"), "{output}");
}

fn show<T: std::fmt::Debug, E: std::fmt::Debug + std::fmt::Display>(result: &Result<T, E>) -> String {
    match result {
        Ok(value) => format!("{value:?} {value:#?}"),
        Err(error) => format!("{error} {error:?} {error:#?}"),
    }
}

#[test]
fn a_good_file_with_keys() {
    let wg = WgQuick::parse(WG).unwrap();
    assert_hidden(&show(&Ok::<_, String>(&wg)));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("wg0.conf");
    fs::write(&path, WG).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let network = NetworkConfig::from_wg_quick("default", &path).load();
    assert!(network.is_ok());
    assert_hidden(&show(&network));
    // The same file as if it held one key.
    let config = NetworkConfig {
        wg_config_file: None,
        private_key_file: Some(path),
        addresses: vec!["10.0.0.1/32".parse().unwrap()],
        ..NetworkConfig::from_wg_quick("default", "")
    };
    assert_hidden(&show(&config.load()));
}

#[test]
fn a_key_instead_of_each_value_of_a_file() {
    for (index, line) in WG.lines().enumerate() {
        let key = line.split('=').next().unwrap();
        let cases = [
            format!("{key}= {MARKER}"),
            format!("{key}= {}", &MARKER[..43]),
            format!("{key}= {MARKER}{MARKER}"),
            format!("{key}= {MARKER} {MARKER}"),
            format!("{key}= {line}, {MARKER}/32"),
            format!("{key}= {MARKER}:51820"),
            format!("{key}= [{MARKER}]:51820"),
            format!("{MARKER}{line}"),
            MARKER.to_owned(),
            MARKER[..43].to_owned(),
            format!("[{MARKER}]"),
            format!("[{line}"),
        ];
        for case in cases {
            let mut lines: Vec<&str> = WG.lines().collect();
            lines[index] = &case;
            match WgQuick::parse(&lines.join("\n")) {
                // Nobody can tell a private key from a public one.
                Ok(wg) if line.starts_with("PublicKey") => assert_hidden(&wg.warnings.join("\n")),
                result => assert_hidden(&show(&result)),
            }
        }
    }
}

#[test]
fn a_key_instead_of_each_value_and_name_of_the_json() {
    let tunnel = json!({"networks": [{
        "name": "default", "private_key_file": "/key", "addresses": ["100.64.0.1/24"], "listen_port": 51820,
        "mtu": 1420, "limits": {"max_flows": 100},
        "peers": [{
            "public_key": "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=", "preshared_key_file": "/psk",
            "endpoint": "192.0.2.1:1", "allowed_ips": ["100.64.0.2/32"], "persistent_keepalive": 25,
        }],
    }]});
    let ingress = json!({"network": "default", "protocol": "tcp", "port": 443, "socket": "/i.sock"});
    for config in [tunnel, ingress] {
        for pointer in pointers(&config, "") {
            for key in [json!(MARKER), json!(&MARKER[..43]), json!({ MARKER: MARKER }), json!([MARKER])] {
                let mut config = config.clone();
                *config.pointer_mut(&pointer).unwrap() = key;
                assert_refused_hidden(&config);
            }
            let mut config = config.clone();
            if let Some(fields) = config.pointer_mut(&pointer).unwrap().as_object_mut() {
                for name in [MARKER, "private_key", "psk"] {
                    fields.insert(name.to_owned(), json!(MARKER));
                }
                assert_refused_hidden(&config);
            }
        }
    }
}

/// A public key is no secret, so the one case in which a marker is accepted is not looked at.
fn assert_refused_hidden(config: &Value) {
    let json = config.to_string();
    let json = json.as_bytes();
    let errors = [
        TunnelConfig::from_json(json).err(),
        EgressConfig::from_json(json).err(),
        IngressConfig::from_json(json).err(),
        ConnectConfig::from_json(json).err(),
    ];
    for error in errors.into_iter().flatten() {
        assert_hidden(&format!("{error} {error:?}"));
    }
}

fn pointers(value: &Value, path: &str) -> Vec<String> {
    let children: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, value)| (index.to_string(), value)).collect()
        }
        _ => Vec::new(),
    };
    let below = children.into_iter().flat_map(|(name, value)| pointers(value, &format!("{path}/{name}")));
    std::iter::once(path.to_owned()).chain(below).collect()
}

proptest! {
    /// A file with something cut out or put in, as happens when it is edited by hand.
    #[test]
    fn a_damaged_file(at: prop::sample::Index, cut in 0_usize..12, put in "[\\PC\n]{0,6}") {
        let start = at.index(WG.len());
        let text = format!("{}{put}{}", &WG[..start], &WG[(start + cut).min(WG.len())..]);
        let output = show(&WgQuick::parse(&text));
        // Where the cut leaves less than a key, what remains may be shown.
        prop_assert!(!output.contains(&MARKER[..32]), "{}", output);
    }
}
