//! Links that carry less in one piece than an Ethernet, as in many container networks and behind DSL.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener};
use std::time::{Duration, Instant};

use e2e::{
    Identity, Namespace, Node, Products, Server, connect, free_port, namespaces, need, products, receive,
    run_ok, send,
};
use serde_json::Value;

const AMOUNT: u64 = 16 << 20;

/// Where only repeated segments arrive, one for each retransmission timeout, a tenth of it takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// What the cable carries in one piece.
const CABLE: u16 = 1400;

const V4: [IpAddr; 2] = [IpAddr::V4(Namespace::NEAR), IpAddr::V4(Namespace::FAR)];
const V6: [IpAddr; 2] = [
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xcab, 1, 0, 0, 0, 0, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xcab, 1, 0, 0, 0, 0, 2)),
];

/// A transfer in each direction between two of our nodes with these addresses on such a cable. What is in the tunnel then, and how
/// many packets the near one's kernel fragmented.
fn transfer(products: &Products, line: &str, addresses: [IpAddr; 2]) -> (u64, u64) {
    let (near, far) = Namespace::pair();
    for (namespace, address) in [&near, &far].into_iter().zip(addresses) {
        run_ok(namespace.command("ip").args(["link", "set", "cable", "mtu", &CABLE.to_string()]));
        if address.is_ipv6() {
            let address = format!("{address}/64");
            run_ok(namespace.command("ip").args(["address", "add", &address, "dev", "cable", "nodad"]));
        }
    }
    let [here, there] = Identity::several();
    let (here, there) = (here.at(addresses[0]), there.at(addresses[1]));
    let listen = || far.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let (sinks, sources) = (listen(), listen());
    let address = |listener: &TcpListener| listener.local_addr().expect("bound");
    let [up, down] = [free_port(), free_port()];
    let mut other = Node::with(products, &there)
        .peer(&here)
        .interface_line(line)
        .within(&far)
        .ingress(format!("tcp:81:{}", address(&sinks)))
        .ingress(format!("tcp:82:{}", address(&sources)))
        .expect_complaint("do not fit the way")
        .build();
    let mut node = Node::with(products, &here)
        .peer(&there)
        .interface_line(line)
        .within(&near)
        .egress(format!("tcp:{up}:{}:81", there.v4))
        .egress(format!("tcp:{down}:{}:82", there.v4))
        .expect_complaint("do not fit the way")
        .build();
    let _sink = Server::on(sinks, |mut stream| {
        assert_eq!(receive(&stream, 1).expect("no damage"), AMOUNT);
        stream.write_all(b"k").expect("an answer");
    });
    let _source = Server::on(sources, |stream| send(&stream, 2, AMOUNT).expect("sent"));
    other.launch();
    node.start();
    other.wait_ready();

    let connect = |port: u16| near.run(|| connect((Ipv4Addr::LOCALHOST, port))).expect("a connection");
    let start = Instant::now();
    let mut stream = connect(up);
    send(&stream, 1, AMOUNT).expect("sent");
    stream.shutdown(Shutdown::Write).expect("open");
    stream.read_exact(&mut [0]).expect("an answer");
    assert_eq!(receive(connect(down), 2).expect("no damage"), AMOUNT);
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());

    let page = node.admin().get("/nexodus/status").expect("Envoy answers");
    let status: Value = serde_json::from_str(&page).expect("JSON");
    let mtu = status["networks"][0]["mtu"].as_u64().expect("a number");
    (mtu, fragments(&near))
}

/// The packets that a namespace's kernel has cut into fragments, of both families.
fn fragments(namespace: &Namespace) -> u64 {
    let (v4, v6) = ("/proc/net/snmp", "/proc/net/snmp6");
    let text = run_ok(namespace.command("cat").args([v4, v6]));
    let mut ip = text.lines().filter_map(|line| line.strip_prefix("Ip: ")).map(str::split_whitespace);
    let (names, values) = (ip.next().expect("names"), ip.next().expect("values"));
    let of_v4 = names.zip(values).find(|(name, _)| *name == "FragOKs").map(|(_, value)| value);
    let of_v6 = text.lines().find_map(|line| line.strip_prefix("Ip6FragOKs")).map(str::trim);
    let number = |text: Option<&str>| text.and_then(|text| text.parse::<u64>().ok()).expect("a number");
    number(of_v4) + number(of_v6)
}

#[test]
fn what_is_too_large_for_ipv4_is_fragmented() {
    let products = need!(products());
    need!(namespaces());
    let (mtu, fragments) = transfer(&products, "MTU = 1420", V4);
    assert!(mtu == 1420 && fragments > 10_000, "{mtu}, {fragments}");
}

#[test]
fn what_is_too_large_for_ipv6_is_fragmented() {
    let products = need!(products());
    need!(namespaces());
    let (mtu, fragments) = transfer(&products, "MTU = 1420", V6);
    assert!(mtu == 1420 && fragments > 10_000, "{mtu}, {fragments}");
}

#[test]
fn without_an_mtu_in_the_configuration_everything_fits() {
    let products = need!(products());
    need!(namespaces());
    for addresses in [V4, V6] {
        assert_eq!(transfer(&products, "", addresses), (u64::from(CABLE) - 80, 0));
    }
}
