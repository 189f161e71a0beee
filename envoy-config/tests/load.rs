//! Loading a network from files: the checks of their modes, and what comes out.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};

use envoy_config::{
    EgressConfig, Endpoint, Limits, LoadError, MAX_FILE_BYTES, Network, NetworkConfig, PeerConfig, PublicKey,
    WgQuick,
};
use tempfile::TempDir;

const PRIVATE: &str = "WKsIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Gs=";
const OWN: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const OTHER: &str = "hSDwCYkwp1R0i33ctD73Wg2/Og0mOBr066SpjqqbTmo=";

fn file(dir: &TempDir, name: &str, mode: u32, content: &str) -> PathBuf {
    let path = dir.path().join(name);
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn inline(key: &Path) -> NetworkConfig {
    NetworkConfig {
        name: "default".to_owned(),
        wg_config_file: None,
        private_key_file: Some(key.to_owned()),
        addresses: vec!["100.64.0.1/24".parse().unwrap()],
        listen_port: None,
        mtu: None,
        peers: Vec::new(),
        limits: Limits::default(),
    }
}

fn peer(key: &str, allowed_ips: &[&str]) -> PeerConfig {
    PeerConfig {
        public_key: key.parse().unwrap(),
        preshared_key_file: None,
        endpoint: None,
        allowed_ips: allowed_ips.iter().map(|net| net.parse().unwrap()).collect(),
        persistent_keepalive: Some(0),
    }
}

fn refusal(config: &NetworkConfig) -> String {
    config.load().unwrap_err().to_string()
}

#[test]
fn an_inline_identity() {
    let dir = tempfile::tempdir().unwrap();
    let key = file(&dir, "key", 0o600, &format!("{PRIVATE}\n"));
    let psk = file(&dir, "psk", 0o400, PRIVATE);
    let mut other = peer(OTHER, &["100.64.0.2/32"]);
    other.preshared_key_file = Some(psk);
    other.endpoint = Some("192.0.2.1:51820".parse().unwrap());
    let config = NetworkConfig { peers: vec![other], listen_port: Some(0), ..inline(&key) };
    let network = config.load().unwrap();
    assert_eq!(network.public_key, OWN.parse().unwrap());
    assert_eq!((network.mtu, network.listen_port), (None, None));
    assert_eq!(network.peers[0].preshared_key, Some(PRIVATE.parse().unwrap()));
    assert_eq!(network.peers[0].endpoint, Some(Endpoint::Address("192.0.2.1:51820".parse().unwrap())));
    assert_eq!(network.peers[0].persistent_keepalive, None);
    assert_eq!(network.warnings, [""; 0]);
}

#[test]
fn a_wg_quick_file_and_what_overrides_it() {
    let dir = tempfile::tempdir().unwrap();
    let text = format!(
        "[Interface]\nPrivateKey={PRIVATE}\nAddress=100.64.0.1/24,fd00::1\nListenPort=51820\nMTU=1380\nDNS=1.1.1.1\n\
         [Peer]\nPublicKey={OTHER}\nEndpoint=vpn.example.com:51820\n"
    );
    let path = file(&dir, "wg0.conf", 0o600, &text);
    let config = NetworkConfig::from_wg_quick("default", &path);
    let load = |listen_port, mtu| NetworkConfig { listen_port, mtu, ..config.clone() }.load();
    let ports = |network: Network| (network.listen_port, network.mtu);

    let network = load(None, None).unwrap();
    assert!(
        matches!(&network.peers[0].endpoint, Some(Endpoint::Host { host, .. }) if host == "vpn.example.com")
    );
    assert_eq!(network.warnings.len(), 1);
    assert!(network.warnings[0].starts_with(&format!("{}: line 6: \"DNS\" is ignored", path.display())));
    assert_eq!(ports(network), (Some(51820), Some(1380)));
    assert_eq!(ports(load(Some(1), Some(9000)).unwrap()), (Some(1), Some(9000)));
    assert_eq!(ports(load(Some(0), None).unwrap()), (None, Some(1380)), "0 asks for any port");
    assert_eq!(
        load(None, Some(1000)).unwrap_err().to_string(),
        "mtu: is 1000, give 1280 to 65455 (1420 fits most networks; 1280 is the least with IPv6 addresses)"
    );
}

#[test]
fn a_file_that_others_may_read_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for mode in [0o640, 0o604, 0o660, 0o644, 0o601] {
        let path = file(&dir, "key", mode, PRIVATE);
        let expected = format!(
            "{}: has mode {mode:04o}, and a file with keys is for its owner alone: `chmod 600 {}`",
            path.display(),
            path.display()
        );
        assert_eq!(refusal(&inline(&path)), expected);
        assert_eq!(WgQuick::load(&path).unwrap_err().to_string(), expected);
    }
    for mode in [0o600, 0o400, 0o700] {
        assert!(inline(&file(&dir, &format!("key{mode}"), mode, PRIVATE)).load().is_ok(), "{mode:o}");
    }
}

#[test]
fn a_file_of_another_user_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "key", 0o600, PRIVATE);
    if chown(&path, Some(12345), None).is_err() {
        println!("skipped: only root can give a file away");
        return;
    }
    let error = refusal(&inline(&path));
    assert!(error.ends_with(&format!(
        "is owned by user 12345, neither by this process's user 0 nor by root: `chown 0 {}`",
        path.display()
    )));
}

#[test]
fn what_is_not_a_file_of_the_right_size_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    assert!(
        refusal(&inline(dir.path())).ends_with("is not a regular file: name the file that holds the key")
    );
    assert!(refusal(&inline(&dir.path().join("none"))).contains("No such file"));

    let large = file(&dir, "large", 0o600, &"#".repeat(1025));
    assert!(refusal(&inline(&large)).contains("has more than 1024 bytes"));
    let large = file(&dir, "large.conf", 0o600, &"#".repeat(MAX_FILE_BYTES + 1));
    assert!(WgQuick::load(&large).unwrap_err().to_string().contains("has more than 1048576 bytes"));
    // As large as it may be, it is read.
    let full = file(&dir, "full.conf", 0o600, &"#".repeat(MAX_FILE_BYTES));
    assert!(matches!(WgQuick::load(&full), Err(LoadError::WgQuick { .. })));

    // A device is endless, and Envoy would wait for a pipe's writer for ever.
    assert!(refusal(&inline(Path::new("/dev/zero"))).contains("is not a regular file"));
    let pipe = dir.path().join("pipe");
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(refusal(&inline(&pipe)).contains("is not a regular file"));
}

#[test]
fn a_link_is_followed_to_the_file_that_is_checked() {
    let dir = tempfile::tempdir().unwrap();
    let path = file(&dir, "key", 0o600, PRIVATE);
    let link = dir.path().join("link");
    symlink(&path, &link).unwrap();
    assert!(inline(&link).load().is_ok());
    file(&dir, "key", 0o644, PRIVATE);
    assert!(refusal(&inline(&link)).contains("has mode 0644"));
}

#[test]
fn a_file_with_something_else_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let key = file(&dir, "key", 0o600, "secret");
    let expected = format!("{}: the key has 6 characters; a WireGuard key has 44", key.display());
    assert!(refusal(&inline(&key)).starts_with(&expected));
    let wg = file(&dir, "wg0.conf", 0o600, "[Interface]\nPrivateKey = x\n");
    let error = refusal(&NetworkConfig::from_wg_quick("default", &wg));
    assert!(error.starts_with(&format!("{}: line 2: PrivateKey: has 1 characters", wg.display())), "{error}");
    let binary = dir.path().join("binary");
    fs::write(&binary, [0xff]).unwrap();
    fs::set_permissions(&binary, fs::Permissions::from_mode(0o600)).unwrap();
    assert!(refusal(&inline(&binary)).ends_with("is not UTF-8 text"));
}

#[test]
fn a_network_belongs_to_the_last_peer_that_names_it() {
    let third = PublicKey::from_bytes([3; 32]);
    let peers = vec![
        peer(OTHER, &["10.0.0.0/8", "10.0.0.0/8", "fd00::2/128"]),
        peer(&third.to_string(), &["10.1.2.3/8", "100.64.0.3/32", "100.64.0.3/32"]),
    ];
    let config = EgressConfig {
        network: "default".to_owned(),
        peers: Some(peers),
        udp_relays: Vec::new(),
        udp_routes: Vec::new(),
    };
    let loaded = config.load_peers().unwrap().unwrap();
    let nets = |index: usize| -> Vec<_> {
        loaded.peers[index].allowed_ips.iter().map(ToString::to_string).collect()
    };
    assert_eq!(nets(0), ["fd00::2/128"]);
    assert_eq!(nets(1), ["10.0.0.0/8", "100.64.0.3/32"]);
    assert_eq!(
        loaded.warnings,
        [
            format!("peer {third}: allowed IP 10.1.2.3/8 has host bits set and is taken as 10.0.0.0/8"),
            format!("allowed IP 10.0.0.0/8 of peer {OTHER} goes to peer {third}"),
        ]
    );
    assert_eq!(EgressConfig { peers: None, ..config }.load_peers().unwrap(), None);
}

#[test]
fn this_node_is_not_its_own_peer() {
    let dir = tempfile::tempdir().unwrap();
    let key = file(&dir, "key", 0o600, PRIVATE);
    let config = NetworkConfig { peers: vec![peer(OWN, &[]), peer(OTHER, &[])], ..inline(&key) };
    let network = config.load().unwrap();
    assert_eq!(network.peers.len(), 1);
    assert_eq!(network.warnings, [format!("peer {OWN} is this node itself and is ignored")]);
}
