//! UDP rules, between two real nodes and against the kernel's UDP behind wireguard-go.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV6, UdpSocket};
use std::thread::sleep;
use std::time::Duration;

use e2e::{
    Identity, MAX_DATAGRAM, Missing, Namespace, Node, UdpClient, UdpServer, WgPeer, eventually, free_port,
    free_ports, ipv6_loopback, namespaces, need, products, within,
};
use quinn_udp::{Transmit, UdpSocketState};

#[test]
fn datagrams_travel_in_every_combination_of_address_families() {
    let products = need!(products());
    need!(ipv6_loopback());
    let over_v4 = UdpServer::echo("v4 ");
    let over_v6 = UdpServer::echo_on(UdpSocket::bind((Ipv6Addr::LOCALHOST, 0)).expect("a port"), "v6 ");
    let [one, two] = Identity::several();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("udp:4242:127.0.0.1:{}", over_v4.port()))
        .ingress(format!("udp:4243:[::1]:{}", over_v6.port()))
        .build();
    ingress.launch();
    let ports: [u16; 4] = free_ports();
    let _egress = Node::with(&products, &two)
        .peer(&one)
        .egress(format!("udp:{}:{}:4242", ports[0], one.v4))
        .egress(format!("udp:{}:{}:4243", ports[1], one.v4))
        .egress(format!("udp:{}:[{}]:4242", ports[2], one.v6))
        .egress(format!("udp:{}:[{}]:4243", ports[3], one.v6))
        .start();
    ingress.wait_ready();
    for client in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
        for (port, name) in ports.into_iter().zip(["v4 ", "v6 "].into_iter().cycle()) {
            let answer = UdpClient::of((client, port)).ask_text(b"ping").expect("a pong");
            assert_eq!(answer, format!("{name}ping"), "from {client} to {port}");
        }
    }
}

#[test]
fn a_datagram_of_any_size_arrives_whole_and_its_flow_keeps_its_source() {
    let products = need!(products());
    let server = UdpServer::echo("");
    let [one, two] = Identity::several();
    let mut ingress =
        Node::with(&products, &one).peer(&two).ingress(format!("udp:53:{}", server.address())).build();
    ingress.launch();
    let [port] = free_ports();
    let egress = Node::with(&products, &two).peer(&one).egress(format!("udp:{port}:{}:53", one.v4)).start();
    ingress.wait_ready();

    let client = UdpClient::of((Ipv4Addr::LOCALHOST, port));
    for size in [1, 0, 1392, 1393, 1472, 9000, MAX_DATAGRAM] {
        let payload: Vec<u8> = (0..size).map(|at| u8::try_from(at % 251).expect("small")).collect();
        let answer = client.ask(&payload).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        assert!(answer == payload, "{size} bytes became {}", answer.len());
    }
    eventually("one flow for one client", || egress.number("udp_flows_connected") == 1);
}

/// Programs that send much, such as those that speak QUIC, give the kernel many datagrams at once (GSO). So does the module.
#[test]
fn datagrams_that_are_sent_together_arrive_one_by_one() {
    const COUNT: usize = 40;
    let products = need!(products());
    let server = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    server.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let target = server.local_addr().expect("bound");
    let [one, two] = Identity::several();
    let mut ingress = Node::with(&products, &one).peer(&two).ingress(format!("udp:42:{target}")).build();
    ingress.launch();
    let [port] = free_ports();
    let _egress = Node::with(&products, &two).peer(&one).egress(format!("udp:{port}:{}:42", one.v4)).start();
    ingress.wait_ready();

    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let state = UdpSocketState::new((&client).into()).expect("a socket");
    // Blocking reads and writes suit a test; quinn-udp made the socket another one.
    client.set_nonblocking(false).expect("a blocking socket");
    let send = |contents: &[u8], size| {
        let destination = (Ipv4Addr::LOCALHOST, port).into();
        let segment_size = (contents.len() > size).then_some(size);
        let transmit = Transmit { destination, ecn: None, contents, segment_size, src_ip: None };
        state.try_send((&client).into(), &transmit).expect("sent");
    };
    let mut buffer = vec![0; MAX_DATAGRAM];
    // The handshake is over, and there is a flow.
    send(b"first", 5);
    assert_eq!(server.recv(&mut buffer).expect("a datagram"), 5);
    for size in [100, 1200, 1372] {
        let sent: Vec<Vec<u8>> = (1..=COUNT).map(|n| vec![u8::try_from(n).expect("small"); size]).collect();
        send(&sent.concat(), size);
        for expected in &sent {
            let length = server.recv(&mut buffer).expect("a datagram");
            assert!(buffer[..length] == **expected, "{length} bytes for {size}");
        }
    }
}

#[test]
fn several_destinations_take_turns_and_a_dead_one_recovers() {
    let products = need!(products());
    let first = UdpServer::echo("first");
    // Not one that the kernel gives to others: it comes back.
    let second = UdpSocket::bind((Ipv4Addr::LOCALHOST, free_port())).expect("a free port");
    let second = UdpServer::echo_on(second, "second");
    let [one, two] = Identity::several();
    let mut ingress = Node::with(&products, &one)
        .peer(&two)
        .ingress(format!("udp:42:{}", first.address()))
        .ingress(format!("udp:42:{}", second.address()))
        .build();
    ingress.launch();
    let [port] = free_ports();
    let _egress = Node::with(&products, &two).peer(&one).egress(format!("udp:{port}:{}:42", one.v4)).start();
    ingress.wait_ready();

    let ask = || UdpClient::of((Ipv4Addr::LOCALHOST, port)).ask_text(b"");
    let answers: Vec<String> = (0..10).map(|_| ask().expect("an answer")).collect();
    for name in ["first", "second"] {
        let count = answers.iter().filter(|answer| *answer == name).count();
        assert!(count >= 3, "{name} answered {count} of 10");
    }

    // Gone, and back on the same port: new clients reach it again.
    let address = second.address();
    drop(second);
    let _back = UdpServer::echo_on(UdpSocket::bind(address).expect("its port again"), "back");
    let ask = || UdpClient::of((Ipv4Addr::LOCALHOST, port)).patience(Duration::from_secs(1)).ask_text(b"");
    eventually("the destination that came back", || ask().is_ok_and(|name| name == "back"));
}

#[test]
fn datagrams_go_to_and_come_from_the_kernel_behind_wireguard_go() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let [own, peer] = Identity::several();
    let (own, peer) = (own.at(Namespace::NEAR), peer.at(Namespace::FAR));
    let _peer = WgPeer::start(&far, &peer, &[&own]);
    let _far = UdpServer::echo_on(far.run(|| UdpSocket::bind(("::", 4242))).expect("a port"), "far ");
    let local = near.run(|| UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))).expect("a port");
    let local = UdpServer::echo_on(local, "near ");
    let ports: [u16; 2] = free_ports();
    let _node = Node::with(&products, &own)
        .peer(&peer)
        .within(&near)
        .egress(format!("udp:{}:{}:4242", ports[0], peer.v4))
        .egress(format!("udp:{}:[{}]:4242", ports[1], peer.v6))
        .ingress(format!("udp:53:{}", local.address()))
        .start();
    let ask = |from: &Namespace, to: (IpAddr, u16), payload: &[u8]| {
        from.run(|| UdpClient::of(to))
            .ask(payload)
            .unwrap_or_else(|error| panic!("{} bytes to {to:?}: {error}", payload.len()))
    };
    // Over the tunnel's MTU the kernel and the netstack put each other's fragments together.
    for size in [5, 0, 1400, 4000, 40_000, MAX_DATAGRAM] {
        let payload = vec![7; size];
        for port in ports {
            for client in [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)] {
                let answer = ask(&near, (client, port), &payload);
                let expected = (size + 4).min(MAX_DATAGRAM);
                assert!(
                    answer.starts_with(b"far ") && answer.len() == expected,
                    "{} bytes back",
                    answer.len()
                );
            }
        }
        for to in [IpAddr::from(own.v4), IpAddr::from(own.v6)] {
            let answer = ask(&far, (to, 53), &payload);
            let expected = (size + 5).min(MAX_DATAGRAM);
            assert!(answer.starts_with(b"near ") && answer.len() == expected, "{} bytes back", answer.len());
        }
    }
    // A port without a rule.
    let refused = far.run(|| UdpClient::of((own.v4, 54))).ask(b"anybody?").expect_err("nobody is there");
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused, "{refused}");
}

/// The cable between the namespaces has an MTU of 1,500 bytes, like a LAN.
#[test]
fn datagrams_longer_than_the_lans_mtu_go_to_and_come_from_other_hosts() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let own = Identity::new(1).at(Namespace::NEAR);
    let server = UdpServer::echo_on(far.run(|| UdpSocket::bind((Namespace::FAR, 4242))).expect("a port"), "");
    let [port] = free_ports();
    let _node = Node::with(&products, &own)
        .within(&near)
        .ingress(format!("udp:53:{}", server.address()))
        .egress(format!("udp:{port}:{}:53", own.v4))
        .start();
    let client = far.run(|| UdpClient::of((Namespace::NEAR, port)));
    for size in [1472, 1473, 4000, MAX_DATAGRAM] {
        let payload = vec![7; size];
        let answer = client.ask(&payload).unwrap_or_else(|error| panic!("{size} bytes: {error}"));
        assert!(answer == payload, "{size} bytes became {}", answer.len());
    }
}

/// The number of the interface with a link-local address in a namespace, and that address. It may be used once the link was asked
/// whether somebody else has it.
fn link_local(namespace: &Namespace) -> Option<(u32, Ipv6Addr)> {
    // proc(5): the address in hexadecimal, the interface, the length of the prefix, the scope (20: link), flags (80: permanent, and
    // not tentative any more), the interface's name.
    let addresses = namespace.run(|| std::fs::read_to_string("/proc/thread-self/net/if_inet6"));
    addresses.expect("a list of addresses").lines().find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let [address, interface, _, "20", "80", _] = fields[..] else { return None };
        let address = u128::from_str_radix(address, 16).expect("an address");
        Some((u32::from_str_radix(interface, 16).expect("a number"), address.into()))
    })
}

#[test]
fn a_client_at_a_link_local_address_is_answered_also_when_it_is_busy() {
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let own = Identity::new(1).at(Namespace::NEAR);
    let server = UdpServer::mirror_on(near.run(|| UdpSocket::bind(("127.0.0.1", 0))).expect("a port"));
    let [port] = free_ports();
    let node = Node::with(&products, &own)
        .within(&near)
        .ingress(format!("udp:53:{}", server.address()))
        .egress(format!("udp:{port}:{}:53", own.v4))
        .start();
    // They come some seconds after the link, if IPv6 is there at all.
    let links = (0..100).find_map(|_| {
        let links = link_local(&near).zip(link_local(&far));
        if links.is_none() {
            sleep(Duration::from_millis(100));
        }
        links
    });
    let missing = || Missing("link-local addresses in namespaces".to_owned());
    let ((_, address), (interface, _)) = need!(links.ok_or_else(missing));
    let node_address = SocketAddrV6::new(address, port, 0, interface);
    let client = far.run(|| UdpClient::of(node_address));
    let before = client.ask_text(b"?").expect("an answer");
    let client = client.patience(Duration::from_millis(500));
    within(Duration::from_secs(10), "a socket of its own", || {
        for _ in 0..200 {
            client.send(b"of many").expect("sent");
        }
        while client.receive().is_ok() {}
        (node.number("udp_direct") == 1).then_some(())
    });
    let client = client.patience(Duration::from_secs(10));
    assert_eq!(client.ask_text(b"?").expect("an answer"), before);
}

/// Whatever sends what comes back together in one piece has to cope with everything between runs of one size.
#[test]
fn answers_that_come_together_keep_their_order_and_their_sizes() {
    const SIZES: [usize; 12] = [1372, 1372, 1372, 100, 100, 0, 1452, 1452, 1453, 4000, 1200, 1];
    let products = need!(products());
    need!(namespaces());
    let (near, far) = Namespace::pair();
    let own = Identity::new(1).at(Namespace::NEAR);
    let server = far.run(|| UdpSocket::bind((Namespace::FAR, 4242))).expect("a port");
    let [port] = free_ports();
    let _node = Node::with(&products, &own)
        .within(&near)
        .ingress(format!("udp:53:{}:4242", Namespace::FAR))
        .egress(format!("udp:{port}:{}:53", own.v4))
        .start();
    let client_of = |namespace: &Namespace, any: IpAddr, node: IpAddr| {
        let socket = namespace.run(|| UdpSocket::bind((any, 0))).expect("a port");
        socket.connect((node, port)).expect("a route");
        socket
    };
    let (any_v4, any_v6) = (Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into());
    let clients = [
        client_of(&far, any_v4, Namespace::NEAR.into()),
        client_of(&near, any_v4, Ipv4Addr::LOCALHOST.into()),
        client_of(&near, any_v6, Ipv6Addr::LOCALHOST.into()),
    ];
    let limit = Some(Duration::from_secs(10));
    server.set_read_timeout(limit).expect("a timeout");
    let mut buffer = vec![0; MAX_DATAGRAM];
    for client in &clients {
        client.set_read_timeout(limit).expect("a timeout");
        client.send(b"all").expect("sent");
        let (_, from) = server.recv_from(&mut buffer).expect("a question");
        let answers: Vec<Vec<u8>> = (1_u8..).zip(SIZES.repeat(3)).map(|(n, size)| vec![n; size]).collect();
        for answer in &answers {
            server.send_to(answer, from).expect("sent");
        }
        for expected in &answers {
            let length = client.recv(&mut buffer).expect("an answer");
            assert!(buffer[..length] == **expected, "{length} bytes instead of {}", expected.len());
        }
    }
}
