//! How the destinations of a port share its connections and flows.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use e2e::{
    Identity, Namespace, Node, Server, UdpClient, UdpServer, WgPeer, free_port, free_ports, http, http_get,
    ipv6_loopback, namespaces, need, products,
};

/// Two programs, each with a TCP and a UDP port on every address of a namespace or of this host.
struct Programs {
    _running: Vec<(Server, UdpServer)>,
    ports: Ports,
}

/// Where they are reached, in the order of their names.
#[derive(Default)]
struct Ports {
    tcp: Vec<u16>,
    udp: Vec<u16>,
}

const PROGRAMS: [&str; 2] = ["first", "second"];

impl Programs {
    /// Sockets are made by `open`, in whatever namespace that is.
    fn new(open: impl Fn() -> (TcpListener, UdpSocket)) -> Programs {
        let mut ports = Ports::default();
        let start = |name| {
            let (listener, socket) = open();
            let (tcp, udp) = (Server::on(listener, http(name)), UdpServer::echo_on(socket, name));
            ports.tcp.push(tcp.port());
            ports.udp.push(udp.port());
            (tcp, udp)
        };
        Programs { _running: PROGRAMS.map(start).into(), ports }
    }
}

fn everywhere() -> (TcpListener, UdpSocket) {
    let any = (Ipv6Addr::UNSPECIFIED, 0);
    (TcpListener::bind(any).expect("a port"), UdpSocket::bind(any).expect("a port"))
}

/// The four rules of each protocol: two programs at an IPv4 and an IPv6 address.
fn rules(port: [u16; 2], at: &Ports, v4: IpAddr, v6: IpAddr) -> Vec<String> {
    let mut rules = vec![];
    for (protocol, port, programs) in [("tcp", port[0], &at.tcp), ("udp", port[1], &at.udp)] {
        for program in programs {
            for address in [v4, v6] {
                rules.push(format!("{protocol}:{port}:{}", SocketAddr::new(address, *program)));
            }
        }
    }
    rules
}

/// Upstream's assertion: of ten answers, over IPv4 and then over IPv6, each of the two programs gave three or more.
#[track_caller]
fn shared_fairly(what: &str, clients: [IpAddr; 2], ask: impl Fn(IpAddr) -> String) {
    let mut counts = BTreeMap::new();
    for client in clients {
        (0..5).for_each(|_| *counts.entry(ask(client)).or_insert(0) += 1);
    }
    let names: Vec<&str> = counts.keys().map(String::as_str).collect();
    assert_eq!(names, PROGRAMS, "{what}: {counts:?}");
    assert!(counts.values().all(|count| *count >= 3), "{what}: {counts:?}");
}

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

fn page(client: IpAddr, port: u16) -> String {
    http_get((client, port)).unwrap_or_else(|error| panic!("{client} port {port}: {error}"))
}

fn pong(client: IpAddr, port: u16) -> String {
    UdpClient::of((client, port))
        .ask_text(b"")
        .unwrap_or_else(|error| panic!("{client} port {port}: {error}"))
}

/// Upstream's TestProxyLoadBalancer, Egress.
#[test]
fn upstreams_egress_load_balancer_case_against_wireguard_go() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let _peer = WgPeer::start(&far, &peer, &[&own]);
    let programs = Programs::new(|| far.run(everywhere));
    let node = Node::with(&products, &own).peer(&peer).within(&near);
    let rules = rules([80, 42], &programs.ports, peer.v4.into(), peer.v6.into());
    let _node = rules.into_iter().fold(node, |node, rule| node.egress(rule)).start();
    shared_fairly("tcp", LOOPBACK, |client| near.run(|| page(client, 80)));
    shared_fairly("udp", LOOPBACK, |client| near.run(|| pong(client, 42)));
}

/// Upstream's TestProxyLoadBalancer, Ingress.
#[test]
fn upstreams_ingress_load_balancer_case_against_wireguard_go() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let _peer = WgPeer::start(&far, &peer, &[&own]);
    let programs = Programs::new(|| near.run(everywhere));
    let node = Node::with(&products, &own).peer(&peer).within(&near);
    let rules = rules([80, 42], &programs.ports, LOOPBACK[0], LOOPBACK[1]);
    let _node = rules.into_iter().fold(node, |node, rule| node.ingress(rule)).start();
    let overlay = [IpAddr::from(own.v4), own.v6.into()];
    shared_fairly("tcp", overlay, |client| far.run(|| page(client, 80)));
    shared_fairly("udp", overlay, |client| far.run(|| pong(client, 42)));
}

/// Both cases at once, between two nodes of ours: the one offers the programs at two ports, the other shares them out.
#[test]
fn upstreams_load_balancer_cases_between_two_nodes() {
    let products = need!(products());
    need!(ipv6_loopback());
    let programs = Programs::new(everywhere);
    let [one, two] = Identity::several();
    let [tcp, udp, all_tcp, all_udp]: [u16; 4] = free_ports();
    // Overlay ports 80 and 42 are shared here; 8001 and so on lead to one program each.
    let mut ingress = Node::with(&products, &one).peer(&two);
    for rule in rules([80, 42], &programs.ports, LOOPBACK[0], LOOPBACK[1]) {
        ingress = ingress.ingress(rule);
    }
    let mut egress = Node::with(&products, &two)
        .peer(&one)
        .egress(format!("tcp:{all_tcp}:{}:80", one.v4))
        .egress(format!("udp:{all_udp}:[{}]:42", one.v6));
    let mut offered = Ports::default();
    for (number, (tcp, udp)) in (8001..).zip(programs.ports.tcp.iter().zip(&programs.ports.udp)) {
        ingress = ingress
            .ingress(format!("tcp:{number}:127.0.0.1:{tcp}"))
            .ingress(format!("udp:{number}:127.0.0.1:{udp}"));
        offered.tcp.push(number);
        offered.udp.push(number);
    }
    for rule in rules([tcp, udp], &offered, one.v4.into(), one.v6.into()) {
        egress = egress.egress(rule);
    }
    let mut ingress = ingress.build();
    ingress.launch();
    let _egress = egress.start();
    ingress.wait_ready();
    shared_fairly("egress tcp", LOOPBACK, |client| page(client, tcp));
    shared_fairly("egress udp", LOOPBACK, |client| pong(client, udp));
    shared_fairly("ingress tcp", LOOPBACK, |client| page(client, all_tcp));
    shared_fairly("ingress udp", LOOPBACK, |client| pong(client, all_udp));
}

/// Three programs behind an egress port and behind an ingress port, for TCP and UDP, in a node that reaches itself.
struct Circle {
    node: Node<'static>,
    _tcp: [Server; 3],
    _udp: [UdpServer; 3],
    /// A port for each way: egress and ingress TCP, egress and ingress UDP.
    ports: [u16; 4],
}

const NAMES: [&str; 3] = ["a", "b", "c"];

impl Circle {
    fn new(products: &e2e::Products, workers: u16, weights: [u32; 3]) -> Circle {
        let identity = Identity::new(1);
        let v4 = identity.v4;
        let tcp = NAMES.map(|name| Server::local(http(name)));
        let udp = NAMES.map(UdpServer::echo);
        let ports: [u16; 4] = free_ports();
        let mut node = Node::with(products, &identity)
            .flag(format!("--concurrency={workers}"))
            .egress(format!("tcp:{}:{v4}:80", ports[1]))
            .egress(format!("udp:{}:{v4}:42", ports[3]));
        for (index, weight) in weights.into_iter().enumerate() {
            let [to_tcp, to_udp] = [tcp[index].address(), udp[index].address()];
            node = node
                .ingress(format!("tcp:80:{to_tcp},weight={weight}"))
                .ingress(format!("udp:42:{to_udp},weight={weight}"))
                .ingress(format!("tcp:{}:{to_tcp}", 8001 + index))
                .ingress(format!("udp:{}:{to_udp}", 8001 + index))
                .egress(format!("tcp:{}:{v4}:{},weight={weight}", ports[0], 8001 + index))
                .egress(format!("udp:{}:{v4}:{},weight={weight}", ports[2], 8001 + index));
        }
        Circle { node: node.start(), _tcp: tcp, _udp: udp, ports }
    }

    /// Who answers, request after request, over each of the four ways.
    fn answers(&self, count: usize) -> [(&'static str, Vec<String>); 4] {
        let local = LOOPBACK[0];
        let [egress_tcp, ingress_tcp, egress_udp, ingress_udp] = self.ports;
        let tcp = |port| (0..count).map(|_| page(local, port)).collect();
        let udp = |port| {
            // All at once, so that each has a port of its own: one that comes again has its flow, and where that goes, still.
            let clients: Vec<_> = (0..count).map(|_| UdpClient::of((local, port))).collect();
            clients.iter().map(|client| client.ask_text(b"").expect("an answer")).collect()
        };
        [
            ("egress tcp", tcp(egress_tcp)),
            ("ingress tcp", tcp(ingress_tcp)),
            ("egress udp", udp(egress_udp)),
            ("ingress udp", udp(ingress_udp)),
        ]
    }
}

#[test]
fn with_one_worker_each_destination_has_its_turn_exactly() {
    let products = need!(products());
    let circle = Circle::new(&products, 1, [1, 1, 1]);
    for (way, answers) in circle.answers(12) {
        // It begins anywhere; from there, any three in a row are all three.
        for turn in answers.windows(3) {
            let mut turn = turn.to_vec();
            turn.sort_unstable();
            assert_eq!(turn, NAMES, "{way}: {answers:?}");
        }
    }
    drop(circle.node);
}

#[test]
fn with_several_workers_the_shares_are_even() {
    let products = need!(products());
    const WORKERS: u16 = 3;
    let circle = Circle::new(&products, WORKERS, [1, 1, 1]);
    for (way, answers) in circle.answers(90) {
        for name in NAMES {
            let count = answers.iter().filter(|answer| *answer == name).count();
            // Each worker rotates by itself, so each may be one off.
            let off = count.abs_diff(30);
            assert!(off <= usize::from(WORKERS), "{way}: {name} answered {count} of 90");
        }
    }
}

#[test]
fn weights_count_in_every_direction_and_protocol() {
    let products = need!(products());
    let circle = Circle::new(&products, 1, [1, 3, 1]);
    for (way, answers) in circle.answers(40) {
        for (name, expected) in NAMES.into_iter().zip([8, 24, 8]) {
            let count = answers.iter().filter(|answer| *answer == name).count();
            assert!(count.abs_diff(expected) <= 2, "{way}: {name} answered {count} of 40, not {expected}");
        }
    }
}

/// The destination of a flow is chosen once: its client's later datagrams go where the first one went.
#[test]
fn a_flow_keeps_its_destination() {
    let products = need!(products());
    let identity = Identity::new(1);
    let servers = NAMES.map(UdpServer::echo);
    let port = free_port();
    let node = Node::with(&products, &identity).egress(format!("udp:{port}:{}:42", identity.v4));
    let _node = servers
        .iter()
        .fold(node, |node, server| node.ingress(format!("udp:42:{}", server.address())))
        .start();
    let clients: Vec<_> = (0..6).map(|_| UdpClient::of((Ipv4Addr::LOCALHOST, port))).collect();
    let round =
        || -> Vec<String> { clients.iter().map(|client| client.ask_text(b"").expect("an answer")).collect() };
    let first = round();
    for _ in 0..5 {
        assert_eq!(round(), first);
    }
}
