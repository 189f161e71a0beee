//! How UDP flows begin and end, and what does not become one.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use e2e::{
    Identity, Namespace, Node, NodeBuilder, Products, UdpClient, UdpServer, WgPeer, eventually, free_port,
    free_ports, namespaces, need, products, within,
};

/// A shortened idle timeout, and gaps below and above it, by seconds in which the machine may stand still. Three of the short
/// ones are longer than the timeout.
const IDLE: &str = "--udp-idle-timeout=6s";
const SHORT_GAP: Duration = Duration::from_millis(2500);
const LONG_GAP: Duration = Duration::from_secs(9);

/// Two nodes that know each other, the first with an ingress rule for UDP port 53, the second with an egress rule to it.
struct Pair {
    ingress: Node<'static>,
    egress: Node<'static>,
    port: u16,
    /// Of the first node, in the overlay.
    address: Ipv4Addr,
}

impl Pair {
    fn to(products: &Products, server: SocketAddr, [of_ingress, of_egress]: [&[&str]; 2]) -> Pair {
        let [one, two] = Identity::several();
        let port = free_port();
        let ingress = Node::with(products, &one).peer(&two).ingress(format!("udp:53:{server}"));
        let egress = Node::with(products, &two).peer(&one).egress(format!("udp:{port}:{}:53", one.v4));
        let (mut ingress, mut egress) =
            (with_flags(ingress, of_ingress).build(), with_flags(egress, of_egress).build());
        ingress.launch();
        egress.start();
        ingress.wait_ready();
        Pair { ingress, egress, port, address: one.v4 }
    }

    fn egress_rule(&self) -> String {
        format!("udp:{}:{}:53", self.port, self.address)
    }

    fn client(&self) -> UdpClient {
        UdpClient::of((Ipv4Addr::LOCALHOST, self.port))
    }
}

fn with_flags<'a>(node: NodeBuilder<'a>, flags: &[&str]) -> NodeBuilder<'a> {
    flags.iter().fold(node, |node, flag| node.flag(*flag))
}

/// Sends now and then until the number is reached: the page shows the network thread's last turn.
#[track_caller]
fn reaches(node: &Node<'_>, name: &str, expected: u64, mut stir: impl FnMut()) {
    within(Duration::from_secs(10), &format!("{name} to be {expected}"), || {
        stir();
        (node.number(name) >= expected).then_some(())
    });
}

#[test]
fn a_flow_lives_through_gaps_and_ends_by_the_idle_timeout() {
    let products = need!(products());
    let server = UdpServer::mirror();
    let pair = Pair::to(&products, server.address(), [&[IDLE], &[IDLE]]);
    let client = pair.client();
    let first = client.ask_text(b"?").expect("an answer");
    for _ in 0..3 {
        sleep(SHORT_GAP);
        assert_eq!(client.ask_text(b"?").expect("an answer"), first, "a new flow after {SHORT_GAP:?}");
    }
    // The other direction counts too: only the server speaks for longer than the timeout.
    let envoy: SocketAddr = first.parse().expect("an address");
    for _ in 0..3 {
        sleep(SHORT_GAP);
        server.send_to(b"are you there", envoy);
        assert_eq!(client.receive().expect("a datagram"), b"are you there");
    }
    assert_eq!(client.ask_text(b"?").expect("an answer"), first, "a new flow although the server spoke");
    for node in [&pair.ingress, &pair.egress] {
        assert_eq!(node.number("udp_idle"), 0);
    }

    sleep(LONG_GAP);
    assert_ne!(client.ask_text(b"?").expect("an answer"), first, "the same flow after {LONG_GAP:?}");
    for node in [&pair.ingress, &pair.egress] {
        reaches(node, "udp_idle", 1, || drop(client.ask(b"?")));
        reaches(node, "udp_flows", 1, || drop(client.ask(b"?")));
    }
}

#[test]
fn past_the_bound_new_flows_are_refused_and_counted_and_old_ones_live() {
    let products = need!(products());
    let (bound, free) = (["--udp-idle-timeout=8s", "--max-udp-flows=3"], ["--udp-idle-timeout=8s"]);
    for (side, flags) in [("ingress", [&bound[..], &free]), ("egress", [&free, &bound])] {
        let server = UdpServer::echo("");
        let pair = Pair::to(&products, server.address(), flags);
        let node = if side == "ingress" { &pair.ingress } else { &pair.egress };
        // Those that are to be served have more patience than those that are not.
        let patience = |client| Duration::from_millis(if client < 3 { 5000 } else { 400 });
        let clients: Vec<_> = (0..5).map(|client| pair.client().patience(patience(client))).collect();
        let served = |client: &UdpClient| client.ask(b"x").is_ok();
        let first: Vec<bool> = clients.iter().map(served).collect();
        assert_eq!(first, [true, true, true, false, false], "{side}");
        assert_eq!(clients.iter().map(served).collect::<Vec<_>>(), first, "{side}: who was in is out");
        reaches(node, "refused_too_many_udp_flows", 4, || drop(clients[0].ask(b"x")));
        assert_eq!(node.number("udp_flows"), 3, "{side}");
        // Room comes back with the end of the others.
        within(Duration::from_secs(20), "room for a new flow", || served(&clients[4]).then_some(()));
    }
}

#[test]
fn a_closed_port_ends_the_flow_and_its_client_gets_through_when_it_opens() {
    let products = need!(products());
    let server = UdpServer::echo("there");
    let [one, two] = Identity::several();
    let port = free_port();
    let mut ingress = Node::with(&products, &one).peer(&two).build();
    ingress.launch();
    let egress = Node::with(&products, &two).peer(&one).egress(format!("udp:{port}:[{}]:53", one.v6)).start();
    ingress.wait_ready();
    let client = UdpClient::of((Ipv4Addr::LOCALHOST, port)).patience(Duration::from_millis(200));
    // ICMP ends the flow; each of the client's datagrams begins another one.
    reaches(&egress, "udp_unreachable", 2, || drop(client.ask(b"?")));
    reaches(&ingress, "unreachable_sent", 2, || drop(client.ask(b"?")));
    eventually("no flow to be left", || {
        let _ = client.ask(b"?");
        egress.number("udp_flows") == 0
    });
    ingress.nexctl_ok(&["proxy", "add", "--ingress", &format!("udp:53:{}", server.address())]);
    within(Duration::from_secs(10), "the server", || {
        client.ask_text(b"").ok().filter(|answer| answer == "there")
    });
}

#[test]
fn a_dead_local_destination_is_reached_by_its_old_client_when_it_comes_back() {
    let products = need!(products());
    // Not one that the kernel gives to others: the server comes to it later.
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
    let pair = Pair::to(&products, address, [&[], &[]]);
    let client = pair.client().patience(Duration::from_millis(200));
    for _ in 0..5 {
        client.ask(b"?").expect_err("nobody is there");
    }
    let _server = UdpServer::echo_on(UdpSocket::bind(address).expect("a free port"), "back");
    within(Duration::from_secs(10), "the server", || {
        client.ask_text(b"").ok().filter(|answer| answer == "back")
    });
}

#[test]
fn a_busy_client_goes_past_envoy_and_a_calm_one_does_not() {
    let products = need!(products());
    let server = UdpServer::mirror();
    let pair = Pair::to(&products, server.address(), [&[IDLE], &[IDLE]]);
    let rule = pair.egress_rule();
    let clients = [pair.client(), pair.client()];
    let ask = |client: &UdpClient| client.ask_text(b"?").expect("an answer");
    let before = clients.each_ref().map(ask);
    let [busy, calm] = clients.map(|client| client.patience(Duration::from_millis(500)));
    within(Duration::from_secs(10), "a socket of its own", || {
        for _ in 0..200 {
            busy.send(b"of many").expect("sent");
        }
        // A slow machine may lose some of them.
        while busy.receive().is_ok() {}
        // Now and then, so that its flow lives on.
        let _ = calm.ask(b"?");
        (pair.egress.number("udp_direct") == 1).then_some(())
    });
    // What comes late to either is of the same flow.
    while busy.receive().is_ok() || calm.receive().is_ok() {}
    let [busy, calm] = [busy, calm].map(|client| client.patience(Duration::from_secs(5)));
    assert_eq!([ask(&busy), ask(&calm)], before);
    assert_eq!(pair.egress.number("udp_flows"), 2);

    // With the flow the socket ends, and Envoy has the client again.
    sleep(LONG_GAP);
    assert_ne!(ask(&busy), before[0]);
    reaches(&pair.egress, "udp_idle", 2, || drop(calm.ask(b"?")));
    eventually("no socket of its own", || {
        let _ = calm.ask(b"?");
        pair.egress.number("udp_direct") == 0
    });
    // With the rule everything ends.
    pair.egress.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
    for client in [busy, calm].map(|client| client.patience(Duration::from_millis(500))) {
        eventually("the port to be closed", || {
            client.ask(b"?").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
        });
    }
}

#[test]
fn a_removed_rule_ends_the_flow_of_a_busy_client() {
    let products = need!(products());
    let server = UdpServer::mirror();
    let pair = Pair::to(&products, server.address(), [&[], &[]]);
    let client = pair.client().patience(Duration::from_millis(200));
    within(Duration::from_secs(10), "a socket of its own", || {
        for _ in 0..200 {
            client.send(b"of many").expect("sent");
        }
        while client.receive().is_ok() {}
        (pair.egress.number("udp_direct") == 1).then_some(())
    });
    pair.egress.nexctl_ok(&["proxy", "remove", "--egress", &pair.egress_rule()]);
    eventually("the port to be closed", || {
        client.ask(b"?").is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    });
    assert_eq!((pair.egress.number("udp_direct"), pair.egress.number("udp_flows")), (0, 0));
}

/// The address of a listener.
fn listener(node: &Node, name: &str) -> SocketAddr {
    let listeners = node.admin().get("/listeners").expect("Envoy answers");
    let address = listeners.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix("::"));
    address.expect("the listener's address").parse().expect("an address")
}

#[test]
fn a_foreign_process_gets_nothing_through_the_ingress_listener_on_loopback() {
    let products = need!(products());
    let server = UdpServer::echo("private ");
    let identity = Identity::new(1);
    let node = Node::with(&products, &identity).ingress(format!("udp:53:{}", server.address())).start();
    let listener = listener(&node, "ingress/udp/53");
    assert!(listener.ip().is_loopback(), "{listener} can be reached by other hosts");
    let stranger = UdpClient::of(listener).patience(Duration::from_millis(300));
    stranger.ask(b"let me in").expect_err("a stranger got an answer");
    // The numbers are those of the network thread's last turn: have it take one.
    eventually("the count of foreign datagrams", || {
        stranger.send(b"still not").expect("a datagram on its way");
        node.admin().stat("dynamicmodulescustom.nexodus.default.udp_foreign") > 0
    });
}

/// Envoy binds the port of an egress rule at every address, also at the one where ingress listeners meet the module.
#[test]
fn an_egress_rule_may_have_the_port_of_an_ingress_rules_listener() {
    let products = need!(products());
    let server = UdpServer::echo("got ");
    let identity = Identity::new(1);
    let ingress = || Node::with(&products, &identity).ingress(format!("udp:5301:{}", server.address()));
    let taken = listener(&ingress().start(), "ingress/udp/5301").port();
    let node = ingress().egress(format!("udp:{taken}:{}:5301", identity.v4)).start();
    assert_ne!(listener(&node, "ingress/udp/5301").port(), taken);
    let client = UdpClient::of((Ipv4Addr::LOCALHOST, taken));
    assert_eq!(client.ask_text(b"hello").expect("an answer"), "got hello");
}

#[test]
fn flows_to_the_kernel_behind_wireguard_go_keep_their_port_and_hear_its_icmp() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let _peer = WgPeer::start(&far, &peer, &[&own]);
    let _mirror = UdpServer::mirror_on(far.run(|| UdpSocket::bind(("::", 4242))).expect("a port"));
    let [port, closed_v4, closed_v6] = free_ports();
    let node = Node::with(&products, &own)
        .peer(&peer)
        .within(&near)
        .flag(IDLE)
        .egress(format!("udp:{port}:{}:4242", peer.v4))
        .egress(format!("udp:{closed_v4}:{}:4243", peer.v4))
        .egress(format!("udp:{closed_v6}:[{}]:4243", peer.v6))
        .start();
    let client = |port| near.run(|| UdpClient::of((Ipv4Addr::LOCALHOST, port)));

    // What the server sees is the overlay's source address and port.
    let gaps = client(port);
    let first = gaps.ask_text(b"?").expect("an answer");
    assert!(first.contains(&own.v4.to_string()), "the source is {first}");
    sleep(SHORT_GAP);
    assert_eq!(gaps.ask_text(b"?").expect("an answer"), first, "a new flow after {SHORT_GAP:?}");
    sleep(LONG_GAP);
    assert_ne!(gaps.ask_text(b"?").expect("an answer"), first, "the same flow after {LONG_GAP:?}");

    for (closed, to) in [(closed_v4, IpAddr::from(peer.v4)), (closed_v6, peer.v6.into())] {
        let client = client(closed).patience(Duration::from_millis(200));
        let before = node.number("udp_unreachable");
        reaches(&node, "udp_unreachable", before + 1, || drop(client.ask(b"?")));
        let late = UdpServer::echo_on(far.run(|| UdpSocket::bind((to, 4243))).expect("a port"), "late");
        within(Duration::from_secs(10), "the server", || {
            client.ask_text(b"").ok().filter(|answer| answer == "late")
        });
        drop(late);
    }
}
