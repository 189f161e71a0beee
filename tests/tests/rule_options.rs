//! What the options of a rule do, between two real nodes.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use e2e::{
    Identity, Node, Products, Server, connect, echo, eventually, free_port, free_ports, http, http_get,
    ipv6_loopback, need, products, read_end, silent_udp_socket, within,
};

const OTHER_LOOPBACK: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);

/// Whether a connection is answered with RST.
fn refuses(address: impl Into<IpAddr>, port: u16) -> bool {
    TcpStream::connect(SocketAddr::new(address.into(), port))
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Answers datagrams with this name, until the test ends.
fn udp_server(name: &'static str) -> SocketAddr {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let address = socket.local_addr().expect("bound");
    thread::spawn(move || {
        let mut buffer = [0; 100];
        while let Ok((_, client)) = socket.recv_from(&mut buffer) {
            // The client may be gone.
            let _ = socket.send_to(name.as_bytes(), client);
        }
    });
    address
}

/// The answer to a datagram, or the error that ICMP brings.
fn ask(address: impl Into<IpAddr>, port: u16) -> std::io::Result<String> {
    let to = SocketAddr::new(address.into(), port);
    let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(Duration::from_secs(5)))?;
    socket.connect(to)?;
    socket.send(b"?")?;
    let mut buffer = [0; 100];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}

/// A node without peers that reaches its own ingress rules through the overlay.
fn circle(products: &Products, identity: &Identity, ingress: &[String], egress: &[String]) -> Node<'static> {
    let node = Node::with(products, identity).flag("--concurrency=1").expect_complaint("nexd::changes");
    let node = ingress.iter().fold(node, |node, rule| node.ingress(rule.clone()));
    egress.iter().fold(node, |node, rule| node.egress(rule.clone())).start()
}

#[test]
fn an_egress_rule_listens_on_the_address_it_names_alone() {
    let products = need!(products());
    let servers = [Server::local(http("first")), Server::local(http("second"))];
    let identity = Identity::new(1);
    let (port, udp_port) = (free_port(), free_port());
    let v4 = identity.v4;
    let node = circle(
        &products,
        &identity,
        &[
            format!("tcp:81:{}", servers[0].address()),
            format!("tcp:82:{}", servers[1].address()),
            format!("udp:81:{}", udp_server("datagram")),
        ],
        &[
            format!("tcp:{port}:{v4}:81,bind=127.0.0.1"),
            format!("tcp:{port}:{v4}:82,bind={OTHER_LOOPBACK}"),
            format!("udp:{udp_port}:{v4}:81,bind={OTHER_LOOPBACK}"),
        ],
    );
    assert_eq!(http_get((Ipv4Addr::LOCALHOST, port)).expect("a page"), "first");
    assert_eq!(http_get((OTHER_LOOPBACK, port)).expect("a page"), "second");
    assert!(refuses(Ipv4Addr::new(127, 0, 0, 3), port));
    if ipv6_loopback().is_ok() {
        assert!(refuses(Ipv6Addr::LOCALHOST, port));
    }
    assert_eq!(ask(OTHER_LOOPBACK, udp_port).expect("an answer"), "datagram");
    assert_eq!(
        ask(Ipv4Addr::LOCALHOST, udp_port).expect_err("no listener").kind(),
        ErrorKind::ConnectionRefused
    );

    let first = format!("tcp:{port}:{v4}:81,bind=127.0.0.1");
    node.nexctl_ok(&["proxy", "remove", "--egress", &first]);
    eventually("the port to be closed", || refuses(Ipv4Addr::LOCALHOST, port));
    assert_eq!(http_get((OTHER_LOOPBACK, port)).expect("the other rule's page"), "second");
}

#[test]
fn an_ingress_rule_listens_on_the_overlay_address_it_names_alone() {
    let products = need!(products());
    let servers = ["one address", "all addresses", "before all"].map(|page| Server::local(http(page)));
    let [one, two] = Identity::several();
    let (v4, v6) = (one.v4, one.v6);
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("tcp:81:{},bind={v4}", servers[0].address()))
        .ingress(format!("tcp:82:{}", servers[1].address()))
        .ingress(format!("tcp:82:{},bind={v6}", servers[2].address()))
        .ingress(format!("udp:81:{},bind={v6}", udp_server("one")))
        .ingress(format!("udp:82:{}", udp_server("all")))
        .ingress(format!("udp:82:{},bind={v4}", udp_server("before all")))
        .build();
    ingress.launch();
    let [tcp81v4, tcp81v6, tcp82v4, tcp82v6]: [u16; 4] = free_ports();
    let [udp81v4, udp81v6, udp82v4, udp82v6]: [u16; 4] = free_ports();
    let egress = Node::with(&products, &two).peer(&one);
    let rules = [
        ("tcp", tcp81v4, tcp81v6, 81),
        ("tcp", tcp82v4, tcp82v6, 82),
        ("udp", udp81v4, udp81v6, 81),
        ("udp", udp82v4, udp82v6, 82),
    ];
    let egress = rules.into_iter().fold(egress, |node, (protocol, port4, port6, to)| {
        node.egress(format!("{protocol}:{port4}:{v4}:{to}")).egress(format!("{protocol}:{port6}:[{v6}]:{to}"))
    });
    let egress = egress.start();
    ingress.wait_ready();

    assert_eq!(http_get(tcp81v4).expect("a page"), "one address");
    http_get(tcp81v6).expect_err("the port is closed there");
    let refusal = egress.access_log(&format!("egress/tcp/{tcp81v6}"), 1);
    assert!(refusal[0].contains("refused"), "not by RST: {}", refusal[0]);
    assert_eq!(http_get(tcp82v4).expect("a page"), "all addresses");
    assert_eq!(http_get(tcp82v6).expect("a page"), "before all");

    let local = Ipv4Addr::LOCALHOST;
    assert_eq!(ask(local, udp81v6).expect("an answer"), "one");
    ask(local, udp81v4).expect_err("the port is closed there");
    assert_eq!(ask(local, udp82v6).expect("an answer"), "all");
    assert_eq!(ask(local, udp82v4).expect("an answer"), "before all");
    let status = egress.admin().get("/nexodus/status").expect("a page");
    assert!(status.contains("\"udp_unreachable\": 1"), "no ICMP for the closed port: {status}");
}

#[test]
fn a_bind_address_that_cannot_be_is_refused_with_a_remedy() {
    let products = need!(products());
    let identity = Identity::new(1);
    let (v4, v6) = (identity.v4, identity.v6);
    let port = free_port();
    let node = circle(&products, &identity, &[], &[format!("tcp:{port}:{v4}:81")]);
    let free = free_port();
    for (direction, rule, reason) in [
        (
            "--ingress",
            "tcp:80:127.0.0.1:80,bind=127.0.0.1".to_owned(),
            format!("which has {v4}, {v6}: name one of these"),
        ),
        (
            "--egress",
            format!("tcp:{free}:{v4}:80,bind=192.0.2.1"),
            format!("TCP port {free} at 192.0.2.1: this host has no such address"),
        ),
        (
            "--egress",
            format!("tcp:{port}:{v4}:80,bind=127.0.0.1"),
            format!("egress/tcp/{port}@127.0.0.1 and egress/tcp/{port} cannot both be"),
        ),
    ] {
        let (status, _, error) = node.nexctl(&["proxy", "add", direction, &rule]);
        assert!(!status.success() && error.contains(&reason), "{rule}: no {reason:?} in: {error}");
    }
    assert_eq!(node.nexctl_ok(&["proxy", "list"]), format!("--egress tcp:{port}:{v4}:81\n"));
}

#[test]
fn weights_share_the_connections_and_change_without_cutting_them() {
    let products = need!(products());
    let servers = [Server::local(http("light")), Server::local(http("heavy")), Server::local(echo)];
    let identity = Identity::new(1);
    let v4 = identity.v4;
    let (port, echo_port) = (free_port(), free_port());
    let ingress: Vec<String> =
        servers.iter().zip(81..).map(|(server, port)| format!("tcp:{port}:{}", server.address())).collect();
    let light = format!("tcp:{port}:{v4}:81");
    let heavy = format!("tcp:{port}:{v4}:82");
    // The connection that must live goes to a port of its own kind: two destinations, one of which comes and goes.
    let stays = format!("tcp:{echo_port}:{v4}:83,weight=1000");
    let goes = format!("tcp:{echo_port}:{v4}:84");
    let node = circle(
        &products,
        &identity,
        &ingress,
        &[light, format!("{heavy},weight=3"), stays.clone(), goes.clone()],
    );
    let count = || (0..40).filter(|_| http_get(port).expect("a page") == "heavy").count();
    // One worker, so the rotation is exact but for where it begins.
    let found = count();
    assert!((29..=31).contains(&found), "{found} of 40 with a weight of 3 to 1");

    let mut live = connect((Ipv4Addr::LOCALHOST, echo_port)).expect("a connection");
    let mut exchange = |text: &[u8]| {
        live.write_all(text).expect("written");
        let mut answer = vec![0; text.len()];
        live.read_exact(&mut answer).expect("an answer");
        assert_eq!(answer, text);
    };
    exchange(b"before");
    node.nexctl_ok(&["proxy", "remove", "--egress", &heavy]);
    node.nexctl_ok(&["proxy", "add", "--egress", &heavy]);
    node.nexctl_ok(&["proxy", "remove", "--egress", &stays]);
    exchange(b"its destination is gone");
    node.nexctl_ok(&["proxy", "add", "--egress", &stays.replace("1000", "2")]);
    exchange(b"after");
    let found = count();
    assert!((19..=21).contains(&found), "{found} of 40 with equal weights");
    let list = node.nexctl_ok(&["proxy", "list"]);
    assert!(list.contains(&format!("--egress tcp:{echo_port}:{v4}:83,weight=2\n")), "{list}");
}

#[test]
fn a_connect_timeout_counts_for_its_port_alone() {
    let products = need!(products());
    let [own, mut absent] = Identity::several();
    let silence = silent_udp_socket();
    absent.endpoint = silence.local_addr().expect("bound");
    let [quick, slow] = free_ports();
    let node = Node::with(&products, &own)
        .peer(&absent)
        .flag("--connect-timeout=5s")
        .egress(format!("tcp:{quick}:{}:80,connect-timeout=300ms", absent.v4))
        .egress(format!("tcp:{slow}:{}:80", absent.v4))
        .start();
    let given_up_after = |port| {
        let start = Instant::now();
        let mut client = connect((Ipv4Addr::LOCALHOST, port)).expect("Envoy accepts");
        let _ = read_end(&mut client);
        start.elapsed()
    };
    let (quick_took, slow_took) = thread::scope(|scope| {
        let slow = scope.spawn(|| given_up_after(slow));
        (given_up_after(quick), slow.join().expect("a client"))
    });
    let ms = Duration::from_millis;
    assert!((ms(250)..ms(4500)).contains(&quick_took), "300 ms took {quick_took:?}\n{}", node.log());
    // Without the flag a single destination is tried for ten seconds.
    assert!((ms(4500)..ms(9500)).contains(&slow_took), "5 s took {slow_took:?}\n{}", node.log());
}

#[test]
fn a_udp_port_that_envoy_drains_at_another_address_is_said_to_be_free_soon() {
    let products = need!(products());
    let identity = Identity::new(1);
    let port = free_port();
    let rule = format!("udp:{port}:{}:53", identity.v4);
    let node = Node::with(&products, &identity).expect_complaint("").start();
    let bound = format!("{rule},bind=127.0.0.1");
    // On a machine that stands still for as long as Envoy drains it is free already.
    let refusal = (0..5).find_map(|_| {
        within(Duration::from_secs(20), "the port", || {
            node.nexctl(&["proxy", "add", "--egress", &rule]).0.success().then_some(())
        });
        node.nexctl_ok(&["proxy", "remove", "--egress", &rule]);
        let (status, _, error) = node.nexctl(&["proxy", "add", "--egress", &bound]);
        if status.success() {
            node.nexctl_ok(&["proxy", "remove", "--egress", &bound]);
            return None;
        }
        Some(error)
    });
    let error = refusal.expect("a port that Envoy drains at another address");
    assert!(error.contains("Envoy") && error.contains("try again in"), "{error}");
    assert!(!error.contains("stop the process"), "{error}");
    within(Duration::from_secs(20), "the port", || {
        node.nexctl(&["proxy", "add", "--egress", &bound]).0.success().then_some(())
    });
}
