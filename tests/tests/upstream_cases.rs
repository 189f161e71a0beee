//! Upstream's integration cases that no other file has, as upstream runs them: against the kernel behind another
//! WireGuard, with the programs of its tests.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket};

use e2e::{
    Identity, Namespace, Node, Server, UdpClient, UdpServer, WgPeer, free_port, http, namespaces, need,
    products, run_ok,
};

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// `node1` of upstream's tests runs kernel WireGuard: `far`. `node2` is ours: `near`.
struct World {
    _peer: WgPeer,
    near: Namespace,
    far: Namespace,
    own: Identity,
    peer: Identity,
}

impl World {
    fn new() -> World {
        let (near, far) = Namespace::pair();
        let [own, peer] = Identity::several();
        let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
        let wireguard = WgPeer::start(&far, &peer, &[&own]);
        World { _peer: wireguard, near, far, own, peer }
    }

    /// This node's overlay addresses.
    fn overlay(&self) -> [IpAddr; 2] {
        [self.own.v4.into(), self.own.v6.into()]
    }
}

fn curl(namespace: &Namespace, host: IpAddr, port: u16) -> String {
    let host = if host.is_ipv6() { format!("[{host}]") } else { host.to_string() };
    let url = format!("http://{host}:{port}/");
    run_ok(namespace.command("curl").args([
        "--silent",
        "--show-error",
        "--fail",
        "--globoff",
        "--max-time",
        "20",
        &url,
    ]))
}

/// TestProxyIngressMultipleRules and TestProxyIngressUDP: two rules of each protocol, one to 127.0.0.1 and one to ::1, each
/// asked over both overlay addresses.
#[test]
fn ingress_rules_join_every_combination_of_address_families() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let local = LOOPBACK.map(|address| {
        let listener = world.near.run(|| TcpListener::bind((address, 8080))).expect("a port");
        let socket = world.near.run(|| UdpSocket::bind((address, 4242))).expect("a port");
        let name = if address.is_ipv4() { "over IPv4" } else { "over IPv6" };
        (Server::on(listener, http(name)), UdpServer::echo_on(socket, name), name)
    });
    let _node = Node::with(&products, &world.own)
        .peer(&world.peer)
        .within(&world.near)
        .ingress("tcp:8080:127.0.0.1:8080")
        .ingress("tcp:8081:[::1]:8080")
        .ingress("udp:4242:127.0.0.1:4242")
        .ingress("udp:4243:[::1]:4242")
        .start();
    for overlay in world.overlay() {
        for ((_, _, name), (tcp, udp)) in local.iter().zip([(8080, 4242), (8081, 4243)]) {
            assert_eq!(curl(&world.far, overlay, tcp), *name, "{overlay} port {tcp}");
            let pong = world.far.run(|| UdpClient::of((overlay, udp))).ask_text(b"").expect("a pong");
            assert_eq!(pong, *name, "{overlay} port {udp}");
        }
    }
}

/// TestProxyIngressAndEgress: both directions in one node at the same time, with different bodies.
#[test]
fn both_directions_work_at_once() {
    let products = need!(products());
    need!(namespaces());
    let world = World::new();
    let far = world.far.run(|| TcpListener::bind((Ipv6Addr::UNSPECIFIED, 8080))).expect("a port");
    let near = world.near.run(|| TcpListener::bind((Ipv4Addr::LOCALHOST, 8080))).expect("a port");
    let _servers = [Server::on(far, http("node1")), Server::on(near, http("node2"))];
    let port = free_port();
    let _node = Node::with(&products, &world.own)
        .peer(&world.peer)
        .within(&world.near)
        .egress(format!("tcp:{port}:{}:8080", world.peer.v4))
        .ingress("tcp:80:127.0.0.1:8080")
        .start();
    std::thread::scope(|scope| {
        scope.spawn(|| (0..5).for_each(|_| assert_eq!(curl(&world.near, LOOPBACK[0], port), "node1")));
        for overlay in world.overlay() {
            let far = &world.far;
            scope.spawn(move || (0..5).for_each(|_| assert_eq!(curl(far, overlay, 80), "node2")));
        }
    });
}
