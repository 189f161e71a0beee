//! The wg-quick file: what it may say, what is wrong with it, and that no input ends the process.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Write as _;

use envoy_config::{
    Endpoint, MAX_ADDRESSES, MAX_ALLOWED_IPS, MAX_PEERS, Peer, PresharedKey, PrivateKey, PublicKey, WgQuick,
};
use ipnet::IpNet;
use proptest::prelude::*;

const PRIVATE: &str = "WKsIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Gs=";
const PEER: &str = "3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08=";
const INTERFACE: &str =
    "[Interface]\nPrivateKey = WKsIfmJKikt54X+Lg4AO5m87sSkmGLb9HC+LJ/+I4Gs=\nAddress = 100.64.0.1/24\n";

fn nets(texts: &[&str]) -> Vec<IpNet> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

/// `text` after an `[Interface]` of three lines.
fn with_interface(text: &str) -> Result<WgQuick, String> {
    WgQuick::parse(&format!("{INTERFACE}{text}")).map_err(|error| error.to_string())
}

#[test]
fn a_file_as_people_write_it() {
    let text = format!(
        "\u{feff}# node 1\r\n[interface]\r\n  privatekey={PRIVATE}\r\nADDRESS = 100.64.0.1/24 , fd00::1 # two\r\n\
         Address = 100.65.0.1\r\nListenPort = 51820\r\nMTU=1380\r\n\r\n[PEER]\r\nPublicKey = {PEER}\r\n\
         PresharedKey = {PRIVATE}\r\nAllowedIPs = 100.64.0.2/32, ::/0\r\nallowedips = 10.0.0.0/8\r\n\
         Endpoint = vpn.example.com:51820\r\nPersistentKeepalive = 25\r\n"
    );
    let wg = WgQuick::parse(&text).unwrap();
    assert_eq!(wg.private_key, PRIVATE.parse().unwrap());
    assert_eq!(wg.addresses, nets(&["100.64.0.1/24", "fd00::1/128", "100.65.0.1/32"]));
    assert_eq!((wg.listen_port, wg.mtu), (Some(51820), Some(1380)));
    let peer = Peer {
        public_key: PEER.parse().unwrap(),
        preshared_key: Some(PRIVATE.parse().unwrap()),
        endpoint: Some(Endpoint::Host { host: "vpn.example.com".to_owned(), port: 51820 }),
        allowed_ips: nets(&["100.64.0.2/32", "::/0", "10.0.0.0/8"]),
        persistent_keepalive: Some(25),
    };
    assert_eq!(wg.peers, [peer]);
    assert_eq!(wg.warnings, [""; 0]);
}

#[test]
fn values_that_mean_none() {
    let zero = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=";
    let wg = with_interface(&format!(
        "ListenPort = 0\n[Peer]\nPublicKey = {PEER}\nPresharedKey = {zero}\nAllowedIPs =\nPersistentKeepalive = OFF"
    ))
    .unwrap();
    let peer = &wg.peers[0];
    assert_eq!((wg.listen_port, wg.mtu), (None, None));
    assert_eq!((&peer.preshared_key, &peer.endpoint, peer.persistent_keepalive), (&None, &None, None));
    assert_eq!(peer.allowed_ips, []);
}

#[test]
fn endpoints() {
    let host = |host: &str, port| Some(Endpoint::Host { host: host.to_owned(), port });
    let address = |text: &str| Some(Endpoint::Address(text.parse().unwrap()));
    let good = [
        ("192.0.2.1:51820", address("192.0.2.1:51820")),
        ("[2001:db8::1]:1", address("[2001:db8::1]:1")),
        ("vpn.example.com.:65535", host("vpn.example.com.", 65535)),
        ("node_1:1", host("node_1", 1)),
    ];
    for (text, endpoint) in good {
        let wg = with_interface(&format!("[Peer]\nPublicKey = {PEER}\nEndpoint = {text}")).unwrap();
        assert_eq!(wg.peers[0].endpoint, endpoint, "{text}");
        assert_eq!(wg.peers[0].endpoint.as_ref().unwrap().to_string(), text);
    }
    let bad = [
        ("", "\"\" has no port"),
        ("192.0.2.1", "\"192.0.2.1\" has no port"),
        ("192.0.2.1:", "\"\" is not a port"),
        ("192.0.2.1:0", "\"192.0.2.1:0\" has port 0"),
        ("192.0.2.1:65536", "\"65536\" is not a port"),
        ("192.0.2:1", "\"192.0.2:1\" is neither an IPv4 address nor a host name"),
        ("0.0.0.0:1", "\"0.0.0.0:1\" is not the address of one host"),
        ("fd00::1", "\"fd00::1\" is an IPv6 address without brackets"),
        ("fd00::1:51820", "\"fd00::1:51820\" is an IPv6 address without brackets"),
        ("[fd00::1]", "\"[fd00::1]\" is not [IPv6 address]:port"),
        ("[fd00::x]:1", "\"[fd00::x]:1\" is not [IPv6 address]:port"),
        ("ho st:1", "\"ho st:1\" is not a host name"),
        ("-a:1", "\"-a:1\" is not a host name"),
        ("a..b:1", "\"a..b:1\" is not a host name"),
    ];
    for (text, reason) in bad {
        let error = with_interface(&format!("[Peer]\nPublicKey = {PEER}\nEndpoint = {text}")).unwrap_err();
        assert!(error.starts_with(&format!("line 6: Endpoint: {reason}")), "{text}: {error}");
    }
}

#[test]
fn each_error_names_its_line() {
    let file = |text: &str| WgQuick::parse(text).map_err(|error| error.to_string());
    let key = format!("PrivateKey = {PRIVATE}");
    let cases = [
        (file(""), "line 1: the section [Interface] has no PrivateKey: add a line `PrivateKey = "),
        (file("\n[Interface]\nAddress = 10.0.0.1"), "line 2: the section [Interface] has no PrivateKey"),
        (
            file("[Interface]\nDNS = 1.1.1.1\nPrivatKey = x\nAddres = 10.0.0.1"),
            "line 1: the section [Interface] has no PrivateKey: add a line `PrivateKey = (made with `nexctl genkey`)` \
             (line 3: \"PrivatKey\" is not a key of this section)",
        ),
        (
            file(&format!("[Interface]\n{key}")),
            "line 1: the section [Interface] has no Address: add a line `Address = 100.64.0.1/32`",
        ),
        (file(&format!("[Interface]\n{key}\nAddress =")), "line 1: the section [Interface] has no Address"),
        (file(&key), "line 1: stands before the first section"),
        (file("[Interface\n"), "line 1: is neither `[Interface]`, `[Peer]` nor `Key = value`"),
        (file("[Interface]\nPrivateKey"), "line 2: is neither"),
        (file("[Wireguard]"), "line 1: \"Wireguard\" is not a section of a wg-quick file"),
        (
            file("[Interface]\nPrivateKey = abc"),
            "line 2: PrivateKey: has 3 characters; a WireGuard key has 44",
        ),
        (with_interface(&key), "line 4: PrivateKey is given twice (first in line 2)"),
        (with_interface("Address = 10.0.0.1/33"), "line 4: Address: \"10.0.0.1/33\" is neither an address"),
        (
            with_interface("Address = 10.0.0.1, 224.0.0.1"),
            "line 4: Address: 224.0.0.1 is not an address that one host",
        ),
        (
            with_interface("ListenPort = 65536"),
            "line 4: ListenPort: \"65536\" is not a port from 0 (any) to 65535",
        ),
        (with_interface("MTU = big"), "line 4: MTU: \"big\" is not a number of bytes"),
        (with_interface("MTU = 1279"), "line 4: MTU: is 1279, give 1280 to 65455"),
        (with_interface("MTU = 1279\nAddress = fd00::1"), "line 4: MTU: is 1279, give 1280 to 65455"),
        (with_interface("[Peer]\n"), "line 4: the section [Peer] has no PublicKey"),
        (
            with_interface("[Peer]\nPubKey = x\n"),
            "line 4: the section [Peer] has no PublicKey: add a line `PublicKey = (the other node's, from \
             `nexctl pubkey`)` (line 5: \"PubKey\" is not a key of this section)",
        ),
        (with_interface("[Peer]\nPublicKey = x"), "line 5: PublicKey: has 1 characters"),
        (with_interface("[Peer]\nPresharedKey = x"), "line 5: PresharedKey: has 1 characters"),
        (with_interface("[Peer]\nAllowedIPs = 10.0.0.0/8, 10"), "line 5: AllowedIPs: \"10\" is neither"),
        (
            with_interface("[Peer]\nPersistentKeepalive = 65536"),
            "line 5: PersistentKeepalive: \"65536\" is not `off` or a number",
        ),
        (
            with_interface(&format!("[Peer]\nPublicKey={PEER}\n[Peer]\nPublicKey={PEER}")),
            "line 7: PublicKey: peer 3p7bfXt9wbTTW2HC7OQ1Nz+DQ8hbeGdNrfx+FG+IK08= appears twice (first at line 5)",
        ),
    ];
    for (result, text) in cases {
        let error = result.unwrap_err();
        assert!(error.starts_with(text), "{error}");
        assert!(!error.contains('\n'), "one line: {error}");
    }
}

#[test]
fn what_has_no_meaning_here_is_ignored_with_a_warning() {
    let wg = with_interface(&format!(
        "DNS = 1.1.1.1\nPostUp = iptables -A\nTable = off\nSaveConfig = true\nFwMark = 1\nColour = red\n\
         [Peer]\nPublicKey = {PEER}\nAllowedIPs = 10.1.2.3/8\nPrivateKey = {PRIVATE}"
    ))
    .unwrap();
    let host = "is ignored: it configures the host, which a userspace network leaves alone";
    assert_eq!(
        wg.warnings,
        [
            format!("line 4: \"DNS\" {host}"),
            format!("line 5: \"PostUp\" {host}"),
            format!("line 6: \"Table\" {host}"),
            format!("line 7: \"SaveConfig\" {host}"),
            format!("line 8: \"FwMark\" {host}"),
            "line 9: \"Colour\" is ignored: it is not a key of this section".to_owned(),
            "line 12: allowed IP 10.1.2.3/8 has host bits set and is taken as 10.0.0.0/8".to_owned(),
            "line 13: \"PrivateKey\" is ignored: it is not a key of this section".to_owned(),
        ]
    );
    assert_eq!(wg.peers[0].allowed_ips, nets(&["10.0.0.0/8"]));
}

#[test]
fn every_list_is_bounded() {
    let addresses = |count| with_interface(&"Address = 10.0.0.1\n".repeat(count));
    assert!(addresses(MAX_ADDRESSES - 1).is_ok());
    assert_eq!(
        addresses(MAX_ADDRESSES).unwrap_err(),
        "line 67: Address: has 65 entries, at most 64 are allowed"
    );

    let nets = |count| {
        with_interface(&format!("[Peer]\nPublicKey = {PEER}\nAllowedIPs = {}", "10.0.0.1,".repeat(count)))
    };
    assert!(nets(MAX_ALLOWED_IPS).is_ok());
    assert!(nets(MAX_ALLOWED_IPS + 1).unwrap_err().starts_with("line 6: AllowedIPs: has 4097 entries"));

    let error = with_interface(&"[Peer]\n".repeat(MAX_PEERS + 1)).unwrap_err();
    assert!(error.starts_with("line 10004: [Peer]: has 10001 peers, at most 10000"), "{error}");

    let wg = with_interface(&"DNS = 1.1.1.1\n".repeat(60)).unwrap();
    assert_eq!(wg.warnings.len(), 51);
    assert_eq!(wg.warnings[50], "10 more warnings are left out");
}

/// The file that says what `wg` says.
fn render(wg: &WgQuick) -> String {
    let list = |nets: &[IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
    let base64 = |psk: &PresharedKey| PublicKey::from_bytes(*psk.as_bytes()).to_string();
    let mut text = format!(
        "[Interface]\nPrivateKey = {}\nAddress = {}\n",
        *wg.private_key.to_base64(),
        list(&wg.addresses)
    );
    let mut line = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            writeln!(text, "{key} = {value}").unwrap();
        }
    };
    line("ListenPort", wg.listen_port.map(|port| port.to_string()));
    line("MTU", wg.mtu.map(|mtu| mtu.to_string()));
    for peer in &wg.peers {
        line("[Peer]\nPublicKey", Some(peer.public_key.to_string()));
        line("PresharedKey", peer.preshared_key.as_ref().map(base64));
        line("Endpoint", peer.endpoint.as_ref().map(ToString::to_string));
        line("AllowedIPs", Some(list(&peer.allowed_ips)));
        line("PersistentKeepalive", peer.persistent_keepalive.map(|seconds| seconds.to_string()));
    }
    text
}

prop_compose! {
    fn a_net()(v6: bool, bits: u128, length: u8) -> IpNet {
        // No multicast, loopback or mapped address comes out of these two prefixes.
        let (address, width) = if v6 {
            (std::net::Ipv6Addr::from(0xfd << 120 | bits >> 8).into(), 129)
        } else {
            let [.., a, b, c] = bits.to_be_bytes();
            (std::net::Ipv4Addr::new(100, a, b, c).into(), 33)
        };
        IpNet::new(address, length % width).unwrap()
    }
}

fn an_endpoint() -> impl Strategy<Value = Endpoint> {
    let host = ("[a-z]([a-z0-9-]{0,20}[a-z0-9])?(\\.[a-z]{1,9}){0,3}", 1..=u16::MAX);
    prop_oneof![
        (a_net(), 1..=u16::MAX).prop_map(|(net, port)| Endpoint::Address((net.addr(), port).into())),
        host.prop_map(|(host, port)| Endpoint::Host { host, port }),
    ]
}

prop_compose! {
    fn a_peer()(
        key in any::<[u8; 32]>(),
        psk in any::<Option<[u8; 32]>>(),
        endpoint in proptest::option::of(an_endpoint()),
        allowed_ips in proptest::collection::vec(a_net(), 0..5),
        persistent_keepalive in proptest::option::of(1..=u16::MAX),
    ) -> Peer {
        Peer {
            public_key: PublicKey::from_bytes(key),
            preshared_key: psk.map(PresharedKey::from_bytes),
            endpoint,
            allowed_ips: allowed_ips.iter().map(IpNet::trunc).collect(),
            persistent_keepalive,
        }
    }
}

prop_compose! {
    fn a_file()(
        key in any::<[u8; 32]>(),
        addresses in proptest::collection::vec(a_net(), 1..5),
        listen_port in proptest::option::of(1..=u16::MAX),
        mtu in proptest::option::of(1280..=65455_u16),
        peers in proptest::collection::vec(a_peer(), 0..5),
    ) -> WgQuick {
        let private_key = PrivateKey::from_bytes(key);
        WgQuick { private_key, addresses, listen_port, mtu, peers, warnings: Vec::new() }
    }
}

proptest! {
    #[test]
    fn what_is_written_is_read(wg in a_file()) {
        prop_assert_eq!(WgQuick::parse(&render(&wg)).unwrap(), wg);
    }

    #[test]
    fn no_text_ends_the_process(text: String) {
        let _ = WgQuick::parse(&text);
    }

    /// Texts that get past the first line of the parser.
    #[test]
    fn no_likely_text_ends_the_process(lines in proptest::collection::vec(
        prop_oneof![
            Just("[Interface]".to_owned()),
            Just("[Peer]".to_owned()),
            Just(format!("PrivateKey={PRIVATE}")),
            Just(format!("PublicKey={PEER}")),
            "(Address|AllowedIPs|Endpoint|MTU|ListenPort|PersistentKeepalive|PresharedKey|DNS)[ =]{0,2}[0-9a-f:.,/\\[\\] ]{0,20}",
            "\\PC{0,20}",
        ], 0..20)) {
        let _ = WgQuick::parse(&lines.join("\n"));
    }

    /// A file with one byte changed is refused or read, and never ends the process.
    #[test]
    fn no_damage_ends_the_process(wg in a_file(), at: prop::sample::Index, byte: u8) {
        let mut text = render(&wg).into_bytes();
        let at = at.index(text.len());
        text[at] = byte;
        let _ = WgQuick::parse(&String::from_utf8_lossy(&text));
    }
}
