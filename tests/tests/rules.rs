//! What rules promise, between two real nodes: the TCP cases of upstream's integration tests, and some it lacks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, TcpListener};

use e2e::{
    Identity, Node, Server, Tunnel, as_nobody, eventually, free_port, free_ports, http, http_get,
    ipv6_loopback, need, products,
};

#[test]
fn an_http_request_travels_through_egress_and_ingress() {
    let products = need!(products());
    let server = Server::local(http("It works!"));
    let tunnel = Tunnel::to(&products, server.address());
    assert_eq!(http_get(tunnel.port).expect("a page"), "It works!");

    // Both access logs tell the rule and the overlay address at the other end.
    let egress = tunnel.two.access_log(&tunnel.egress_listener(), 1);
    assert!(egress[0].contains("100.64.0.1:8080"), "no overlay destination in: {}", egress[0]);
    let ingress = tunnel.one.access_log(&tunnel.ingress_listener(), 1);
    assert!(ingress[0].contains("100.64.0.2:"), "no overlay source in: {}", ingress[0]);
    assert!(ingress[0].contains("100.64.0.1:8080"), "no overlay destination in: {}", ingress[0]);
}

#[test]
fn several_rules_join_every_combination_of_address_families() {
    let products = need!(products());
    need!(ipv6_loopback());
    let over_v4 = Server::local(http("server on 127.0.0.1"));
    let over_v6 =
        Server::on(TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port"), http("server on ::1"));
    let [one, two] = Identity::several();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("tcp:8080:127.0.0.1:{}", over_v4.port()))
        .ingress(format!("tcp:8081:[::1]:{}", over_v6.port()))
        .build();
    ingress.launch();

    // Overlay v4 and v6, to the server on v4 and the one on v6.
    let ports: [u16; 4] = free_ports();
    let egress = Node::with(&products, &two)
        .peer(&one)
        .egress(format!("tcp:{}:{}:8080", ports[0], one.v4))
        .egress(format!("tcp:{}:{}:8081", ports[1], one.v4))
        .egress(format!("tcp:{}:[{}]:8080", ports[2], one.v6))
        .egress(format!("tcp:{}:[{}]:8081", ports[3], one.v6))
        .start();
    ingress.wait_ready();

    for client in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        for (port, page) in
            ports.into_iter().zip(["server on 127.0.0.1", "server on ::1"].into_iter().cycle())
        {
            let got = http_get((client, port));
            assert_eq!(
                got.as_deref().ok(),
                Some(page),
                "from {client} to port {port}: {got:?}\n{}",
                egress.log()
            );
        }
    }
}

#[test]
fn a_node_can_have_both_directions_at_once() {
    let products = need!(products());
    let servers = [Server::local(http("page of node one")), Server::local(http("page of node two"))];
    let [one, two] = Identity::several();
    let ports: [u16; 2] = free_ports();
    let node = |own: &Identity, peer: &Identity, server: &Server, port: u16| {
        let node = Node::with(&products, own).peer(peer);
        node.ingress(format!("tcp:80:{}", server.address()))
            .egress(format!("tcp:{port}:{}:80", peer.v4))
            .build()
    };
    let mut nodes = [node(&one, &two, &servers[0], ports[0]), node(&two, &one, &servers[1], ports[1])];
    nodes.iter_mut().for_each(Node::launch);
    nodes.iter_mut().for_each(Node::wait_ready);

    std::thread::scope(|scope| {
        for (port, page) in [(ports[0], "page of node two"), (ports[1], "page of node one")] {
            scope.spawn(move || {
                for _ in 0..20 {
                    assert_eq!(http_get(port).expect("a page"), page);
                }
            });
        }
    });
}

#[test]
fn destinations_of_one_port_share_its_connections() {
    let products = need!(products());
    let servers = [Server::local(http("first")), Server::local(http("second"))];
    let [one, two] = Identity::several();
    let port = free_port();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("tcp:8080:{}", servers[0].address()))
        .ingress(format!("tcp:8081:{}", servers[1].address()))
        .build();
    ingress.launch();
    let _egress = Node::with(&products, &two)
        .peer(&one)
        .egress(format!("tcp:{port}:{}:8080", one.v4))
        .egress(format!("tcp:{port}:{}:8081", one.v4))
        .start();
    ingress.wait_ready();

    let pages: Vec<_> = (0..20).map(|_| http_get(port).expect("a page")).collect();
    for page in ["first", "second"] {
        // Two worker threads rotate each on its own, so the halves need not be exact.
        assert!(pages.iter().filter(|got| *got == page).count() >= 4, "hardly any {page:?} in {pages:?}");
    }
}

#[test]
fn a_node_reaches_its_own_ingress_address_through_its_own_egress() {
    let products = need!(products());
    let server = Server::local(http("in a circle"));
    let identity = Identity::new(1);
    let [port_v4, port_v6] = free_ports();
    let _node = Node::with(&products, &identity)
        .ingress(format!("tcp:8080:{}", server.address()))
        .egress(format!("tcp:{port_v4}:{}:8080", identity.v4))
        .egress(format!("tcp:{port_v6}:[{}]:8080", identity.v6))
        .start();
    for port in [port_v4, port_v6] {
        assert_eq!(http_get(port).expect("a page"), "in a circle");
    }
}

#[test]
fn two_nodes_need_no_privileges() {
    let products = need!(products());
    let nobody = need!(as_nobody(&products));
    let server = Server::local(http("no root anywhere"));
    let [one, two] = Identity::several();
    let port = free_port();
    let ingress = Node::with(&products, &one).peer(&two).ingress(format!("tcp:80:{}", server.address()));
    let egress = Node::with(&products, &two).peer(&one).egress(format!("tcp:{port}:{}:80", one.v4));
    let mut nodes = [ingress, egress].map(|node| node.through(nobody.clone()).build());
    nodes.iter_mut().for_each(Node::launch);
    nodes.iter_mut().for_each(Node::wait_ready);
    assert_eq!(http_get(port).expect("a page"), "no root anywhere");
}

#[test]
fn a_preshared_key_in_the_wg_quick_file_is_used() {
    let products = need!(products());
    let server = Server::local(http("secret"));
    let [one, two] = Identity::several();
    // Any 32 bytes will do: another private key, for one.
    let shared = format!("PresharedKey = {}\n", Identity::new(9).private_key);
    let port = free_port();
    let mut ingress = Node::with(&products, &one)
        .peer_section(two.peer_section() + &shared)
        .ingress(format!("tcp:8080:{}", server.address()))
        .build();
    ingress.launch();
    let egress = |section: String| {
        Node::with(&products, &two)
            .peer_section(section)
            .egress(format!("tcp:{port}:{}:8080", one.v4))
            .start()
    };
    let with_key = egress(one.peer_section() + &shared);
    ingress.wait_ready();
    assert_eq!(http_get(port).expect("a page"), "secret");
    drop(with_key);

    let _without_key = egress(one.peer_section());
    http_get(port).expect_err("no handshake without the preshared key");
    eventually("the failure in the access log", || {
        _without_key.log().contains(&format!("egress/tcp/{port}"))
    });
}
